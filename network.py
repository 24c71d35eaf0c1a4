"""A network of the layers in layer.py: back propagation, SGD, training, and the lab's files.

    net = Network()                                  # the lab's network
    predict, loss = net.forward(pixels, label)       # (N, 784), (N,) -> (N, 47), the mean loss
    net.backward()                                   # every layer's weight_grad and bias_grad
    net.update(0.1)                                  # w <- w - 0.1 dE/dw
"""
import collections
import contextlib
import copy
import io
import os
import time
import warnings
import zipfile

import numpy as np

from layer import (_Layer, Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, Loss,
                   MaxPool2d, PixelScaling, ReLU, Reshape, SoftmaxWithLoss)


class Network(object):
    """A sequential network: layers in a row, and a loss at the end.

    Network() is the lab's network, 784-512-256-47 with ReLU. `net.act1 = Sigmoid()` exchanges a
    layer. Network([layer, ...], loss) takes any layers. `input_shape` is the shape of a row. Its
    default is in_features of the first layer, if it has them, else 784. ValueError if a layer does
    not fit the one before.

    The first layer divides the pixels 0..255 by 255, so a learning rate near 0.1 fits. The
    handout's 6e-4 is for pixels that are not divided, and for initial weights of 0.01 N(0, 1).
    """

    names = ()      # the names of the layers, e.g. fc1 for net.fc1

    def __init__(self, layers=None, loss=None, rng=None, input_shape=None):
        if layers is None:
            scale = PixelScaling()
            fc1 = FullyConnected(28 * 28, 512, rng)
            act1 = ReLU()
            fc2 = FullyConnected(512, 256, rng)
            act2 = ReLU()
            fc3 = FullyConnected(256, 47, rng)
            layers = [scale, fc1, act1, fc2, act2, fc3]
            self.names = ('scale', 'fc1', 'act1', 'fc2', 'act2', 'fc3')
        self.layers = check_layers(layers)
        self.loss = SoftmaxWithLoss() if loss is None else loss
        if input_shape is None:
            input_shape = getattr(self.layers[0], 'in_features', 28 * 28)
        self.input_shape = tuple(np.atleast_1d(input_shape).tolist())
        self.velocity = {}      # v of momentum: {name of a parameter: array}
        self.shapes()           # refuses layers that do not fit

    def forward(self, input, target):
        """Rows (N, ...) and targets (N,) or (N, K) -> predictions (N, K) and the mean loss."""
        self.loss.cache = None      # if this batch is refused, backward must be refused, too
        check_batch(input, target)
        for layer in self.layers:
            input = layer.forward(input)
        return self.loss.forward(input, target)

    def backward(self):
        """Set the weight_grad and bias_grad of every layer, for the loss of the last forward."""
        grad = self.loss.backward()
        first = self.first_trained_layer()
        for index in range(len(self.layers) - 1, first - 1, -1):
            layer = self.layers[index]
            layer.needs_input_grad = index > first      # no layer before `first` is trained
            grad = layer.backward(grad)

    def update(self, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        """Take a step of SGD, as torch.optim.SGD does (nesterov: after Sutskever et al. 2013).

        Only the weights of FullyConnected and Conv2d decay. The step is g without momentum, v with
        it, and g + mu v with nesterov.
        """
        lr, momentum, weight_decay = check_rates(lr, momentum, nesterov, weight_decay)
        for name, layer, attribute in self.parameters():
            weight = getattr(layer, attribute)
            grad = getattr(layer, attribute + '_grad')
            if grad is None:
                raise RuntimeError(f'call backward before update: {name} has no gradient yet')
            if weight_decay and attribute in layer.decayed_names:
                grad = grad + weight_decay * weight                 # g <- g + lambda w
            step = grad
            if momentum:
                velocity = self.velocity.setdefault(name, np.zeros_like(weight))
                velocity *= momentum                                # v <- mu v + g
                velocity += grad
                step = (grad + momentum * velocity) if nesterov else velocity
            weight -= lr * step                                     # w <- w - lr step

    def parameters(self):
        """Yield (name, layer, attribute) for each array that SGD trains."""
        for index, layer in enumerate(self.layers):
            for attribute in layer.parameter_names:
                yield f'{index}.{type(layer).__name__}.{attribute}', layer, attribute

    def first_trained_layer(self):
        """The index of the first layer with parameters. len(layers) if there is none."""
        for index, layer in enumerate(self.layers):
            if layer.parameter_names:
                return index
        return len(self.layers)

    # Prediction -----------------------------------------------------------------------------------

    def train(self, mode=True):
        """Set training mode: Dropout and Augment act, BatchNorm uses the batch's statistics."""
        if not isinstance(mode, (bool, np.bool_)):
            raise TypeError('net.train(mode) sets the mode, True or False; net.fit trains')
        for layer in self.layers:
            layer.training = mode

    def eval(self):
        """Set evaluation mode: the prediction of a row depends on that row alone."""
        self.train(False)

    @contextlib.contextmanager
    def evaluation(self):
        """Evaluation mode for a `with` block. After it, modes and generators are as before.

        The caches are then empty, so `backward` is refused.
        """
        before = [(layer, layer.training, getattr(layer, 'rng', None)) for layer in self.layers]
        self.eval()
        try:
            yield
        finally:
            self.loss.cache = None
            for layer, training, rng in before:
                layer.training = training
                layer.cache = None
                if rng is not None:
                    layer.rng = rng

    def predict(self, input, batch_size=256):
        """Rows (N, ...) -> predictions (N, K), e.g. probabilities, in evaluation mode. N may be 0.

        ValueError, naming the row, if a prediction is not finite.
        """
        with self.evaluation():
            return self.predict_rows(input, batch_size)

    def predict_augmented(self, input, copies=8, batch_size=256):
        """Test-time augmentation: the mean prediction (N, K) over `copies` copies of each row.

        The first copy is the row itself. The Augment layers change the others as in training.
        Their random numbers depend on the number of the copy and on batch_size.
        """
        check_count('copies', copies)
        augments = [layer for layer in self.layers if isinstance(layer, Augment)]
        if not augments:
            return self.predict(input, batch_size)
        with self.evaluation():
            total = self.predict_rows(input, batch_size)
            for layer in augments:
                layer.training = True
            for number in range(1, copies):
                self.reseed([number])
                total += self.predict_rows(input, batch_size)
        return total / copies

    def predict_rows(self, input, batch_size):
        """Predict batch by batch, in the present mode."""
        check_batch(input)
        check_count('batch_size', batch_size)
        input = np.asarray(input)
        starts = range(0, max(1, len(input)), batch_size)
        parts = [self.predict_batch(input[start:start + batch_size]) for start in starts]
        predict = np.concatenate(parts)
        finite = np.isfinite(predict).all(axis=1)
        if not finite.all():
            raise ValueError(f'predict: row {finite.argmin()} has a prediction that is not finite: '
                             'look for inf and nan in the input and in the weights')
        return predict

    def predict_batch(self, input):
        """Predict one batch in the present mode."""
        for layer in self.layers:
            input = layer.forward(input)
        return self.loss.predict(input)

    def evaluate(self, data, label, batch_size=256):
        """Rows (N, ...) and labels (N,) -> their Score in evaluation mode."""
        data, label = check_pair((data, label))
        predicted = np.zeros_like(label)
        total_loss = 0.0
        with self.evaluation():
            for rows in batches(np.arange(len(data)), batch_size):
                predict, loss = self.forward(data[rows], label[rows])
                check_finite(f'evaluation, rows {rows[0]} to {rows[-1]}: the loss', loss)
                predicted[rows] = predict.argmax(axis=1)
                total_loss += loss * len(rows)
        return score(predicted, label, total_loss / len(label))

    def reseed(self, seed):
        """Give a new generator, seeded by a list of integers, to each layer that has one."""
        for index, layer in enumerate(self.layers):
            if hasattr(layer, 'rng'):
                layer.rng = np.random.default_rng([*seed, 0, index])      # 0: the first copy

    # Training and saving --------------------------------------------------------------------------

    def fit(self, train, validation, epochs, batch_size, lr, on_epoch=None, on_batch=None,
            verbose=True, **settings):
        """Train, keep the weights of the best epoch, and return the history: see Training.

        A second call goes on from the present weights, with a new history, and the schedule starts
        again. on_epoch(record) is called after each epoch, on_batch(part of the epoch) after each
        step. With `verbose`, each epoch prints a line.
        """
        training = Training(self, train, validation, epochs, batch_size, lr, **settings)
        self.history = training.history
        training.run(on_epoch, on_batch, verbose)
        return training.history

    def arrays(self):
        """{name: array} of all parameters and states: the arrays themselves, no copies."""
        named = {name: getattr(layer, attribute) for name, layer, attribute in self.parameters()}
        for index, layer in enumerate(self.layers):
            for attribute in layer.state_names:
                named[f'{index}.{type(layer).__name__}.{attribute}'] = getattr(layer, attribute)
        return named

    def copy_arrays(self):
        """{name: copy} of all parameters and states."""
        return {name: array.copy() for name, array in self.arrays().items()}

    def set_arrays(self, arrays, origin='the arrays'):
        """Copy arrays by name into the network. ValueError, with nothing changed, if one is wrong.

        `origin` names in the error where the arrays come from.
        """
        own = self.arrays()
        check_arrays(arrays, own, origin)
        for name, array in own.items():
            array[...] = arrays[name]

    def save(self, path, dtype=None):
        """Write all parameters and states to an .npz file, as `dtype` if given, e.g. float16."""
        arrays = self.arrays()
        write_npz(path, {name: arrays[name].astype(dtype or arrays[name].dtype) for name in arrays})

    def load(self, path):
        """Read what `save` wrote. ValueError, with nothing changed, for another network's file."""
        self.set_arrays(read_npz(path), path)

    # Names and shapes -----------------------------------------------------------------------------

    def __getattr__(self, name):
        """net.fc1 is the layer of that name in `layers`."""
        if name in self.names:
            return self.layers[self.names.index(name)]
        hint = 'its layers have no names: write net.layers[index]'
        if self.names:
            hint = f'its named layers are {", ".join(self.names)}'
        raise AttributeError(f'the network has no attribute {name!r}, {hint}')

    def __setattr__(self, name, value):
        """net.act1 = Sigmoid() exchanges the layer in `layers`. ValueError if it does not fit."""
        if name == 'loss':
            check_loss(value)
        elif isinstance(value, _Layer) and name not in self.names and 'layers' in vars(self):
            raise ValueError(f'no layer of this network has the name {name}: write '
                             'net.layers[index] = ...')
        if name not in self.names:
            object.__setattr__(self, name, value)
            return
        layers = list(self.layers)
        layers[self.names.index(name)] = value
        self.shapes(check_layers(layers))
        self.layers[:] = layers
        self.velocity = {}      # momentum starts again

    def shapes(self, layers=None):
        """[output shape of each layer, without N]. ValueError, naming a layer that does not fit."""
        shape = self.input_shape
        shapes = []
        for index, layer in enumerate(self.layers if layers is None else layers):
            try:
                shape = layer.output_shape(shape)
            except ValueError as error:
                raise ValueError(f'layer {index}: {error}')
            shapes.append(shape)
        return shapes

    def __repr__(self):
        lines = []
        total = 0
        for index, (layer, shape) in enumerate(zip(self.layers, self.shapes())):
            count = sum(getattr(layer, name).size for name in layer.parameter_names)
            total += count
            shape = 'x'.join(map(str, shape))
            lines.append(f'{index:3}  {layer!r:<50} {shape:<12} {count or "":>9}')
        return '\n'.join(lines + [f'     {self.loss!r:<50} {"":<12} {total:>9} parameters'])


class Training(object):
    """Epochs of SGD on a network. The weights of the best epoch are kept.

    train and validation are pairs (data, label). The best epoch has the best balanced validation
    accuracy. Without validation (None), the last epoch counts as the best. Each epoch shuffles the
    rows. A step takes batch_size rows at the rate lr * schedule(part of the training done, 0..1).
    With ema_decay d > 0, an exponential moving average of the weights is validated and kept:
    average <- d average + (1 - d) w, where d grows to its value (after Polyak, Juditsky 1992).
    `sgd` are the other arguments of Network.update. (seed, epoch) determines the random numbers of
    an epoch.
    """

    def __init__(self, net, train, validation, epochs, batch_size, lr, schedule=None, seed=0,
                 ema_decay=0.0, **sgd):
        self.net = net
        self.train = check_pair(train)
        self.validation = None if validation is None else check_pair(validation)
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule
        self.seed = seed
        self.ema_decay = ema_decay
        if not 0 <= ema_decay < 1:
            raise ValueError(f'ema_decay is {ema_decay}, expected at least 0 and less than 1')
        self.sgd = sgd
        self.history = []      # a record of each epoch
        self.steps = 0         # batches so far
        self.last = net.copy_arrays()
        self.best = None
        self.average = net.copy_arrays() if ema_decay else None
        net.velocity = {}

    def run(self, on_epoch=None, on_batch=None, verbose=True):
        """Train to the last epoch, then put the best weights in place.

        FloatingPointError, naming the epoch, if a loss or a weight is not finite. This error and
        Ctrl-C, too, leave the best weights so far in place.
        """
        try:
            while len(self.history) < self.epochs:
                self.run_epoch(on_batch)
                if verbose:
                    print(epoch_line(self.history[-1]), flush=True)
                if on_epoch:
                    on_epoch(self.history[-1])
        except FloatingPointError as error:
            self.net.set_arrays(self.last)      # in the first epoch there are no best ones
            raise FloatingPointError(f'epoch {len(self.history) + 1}: {error}')
        finally:
            if self.best:
                self.net.set_arrays(self.best)

    def run_epoch(self, on_batch=None):
        """Train one epoch, validate, and keep the weights if they are the best so far."""
        started = time.time()
        epoch = len(self.history) + 1
        self.net.reseed([self.seed, epoch])
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train[0]))
        trained = self.train_rows(order, on_batch)
        weights = self.net.copy_arrays()
        for name, array in weights.items():
            check_finite(f'after the last batch {name}', array)
        self.net.set_arrays(self.average or weights)
        validated = self.net.evaluate(*self.validation) if self.validation else None
        if self.is_best(validated):
            self.best = self.net.copy_arrays()
        self.net.set_arrays(weights)
        self.last = weights
        self.history.append({'epoch': epoch, 'epochs': self.epochs,
                             'seconds': time.time() - started, 'train': trained._asdict(),
                             'validation': validated._asdict() if validated else None})

    def train_rows(self, order, on_batch):
        """Take a step for each batch of rows in `order`. -> the Score of the training rows."""
        data, label = self.train
        predicted = np.zeros_like(label)
        total_loss = 0.0
        done = 0
        self.net.train()
        for rows in batches(order, self.batch_size):
            predict, loss = self.net.forward(data[rows], label[rows])
            check_finite(f'batch {done // self.batch_size + 1}: the loss', loss)
            self.net.backward()
            self.net.update(self.rate(done / len(order)), **self.sgd)
            self.update_average()
            predicted[rows] = predict.argmax(axis=1)
            total_loss += loss * len(rows)
            done += len(rows)
            if on_batch:
                on_batch(done / len(order))
        return score(predicted, label, total_loss / len(label))

    def rate(self, part_of_epoch):
        """The learning rate of the next step."""
        if self.schedule is None:
            return self.lr
        return self.lr * self.schedule((len(self.history) + part_of_epoch) / self.epochs)

    def update_average(self):
        """Move the average of the weights towards the present ones."""
        self.steps += 1
        if self.average:
            share = 1 - min(self.ema_decay, self.steps / (self.steps + 10))
            for name, array in self.net.arrays().items():
                self.average[name] += share * (array - self.average[name])

    def is_best(self, validated):
        """True if the balanced validation accuracy is better than in all epochs before."""
        if validated is None:
            return True
        before = [record['validation']['balanced_accuracy'] for record in self.history]
        return not before or validated.balanced_accuracy > max(before)

    def state(self):
        """A copy of all that the next epoch depends on, for a checkpoint."""
        return copy.deepcopy({'history': self.history, 'steps': self.steps, 'last': self.last,
                              'best': self.best, 'average': self.average,
                              'velocity': self.net.velocity})

    def restore(self, state):
        """Go on from what `state` returned, with the same bits. ValueError if it does not fit."""
        state = copy.deepcopy(state)      # the training changes its arrays in place
        self.net.set_arrays(state['last'], 'the weights of the checkpoint')
        self.last = state['last']
        self.history[:] = state['history']
        self.steps = state['steps']
        self.best = state['best']
        self.average = state['average']
        self.net.velocity = state['velocity']


# What is refused: each function raises an error of one sentence -----------------------------------

def check_layers(layers):
    """The layers as a list. TypeError or ValueError, naming one that cannot be in a network."""
    layers = list(layers)
    if not layers:
        raise ValueError('a network needs at least one layer')
    for index, layer in enumerate(layers):
        kind = type(layer).__name__
        if isinstance(layer, type):
            kind = layer.__name__
            raise TypeError(f'layer {index} is the class {kind}: write {kind}(...)')
        if isinstance(layer, Loss):
            raise TypeError(f'layer {index} is a loss: write Network(layers, {layer!r})')
        if not hasattr(layer, 'parameter_names') or not hasattr(layer, 'backward'):
            raise TypeError(f'layer {index} is a {kind}: derive its class from _Layer')
        if any(layer is other for other in layers[:index]):
            raise ValueError(f'layer {index} is in the network twice: a layer remembers one input '
                             'only, make a second one')
        check_parameter_names(layer)
    return layers


def check_parameter_names(layer):
    """ValueError if the layer has a parameter that it does not list, or one that is no array."""
    names = layer.parameter_names
    if not isinstance(names, tuple):
        raise ValueError(f'{layer!r}: parameter_names is {names!r}, expected a tuple such as '
                         "('weight', 'bias')")
    for name, value in vars(layer).items():
        has_grad = hasattr(layer, f'{name}_grad') and name not in ('input', 'output')
        if has_grad and value is not None and name not in names:
            raise ValueError(f'{layer!r} has the parameter {name}, but SGD would not train it: '
                             f"add '{name}' to parameter_names")
    for name in names:
        array = getattr(layer, name, None)
        if not isinstance(array, np.ndarray) or array.dtype.kind != 'f':
            kind = getattr(array, 'dtype', type(array).__name__)
            raise ValueError(f'{layer!r}: the parameter {name} is {kind}, expected an array of '
                             f'floats: write self.{name} = np.array(..., np.float32)')


def check_loss(loss):
    """TypeError unless `loss` is a loss object."""
    if isinstance(loss, type) or not hasattr(loss, 'predict'):
        raise TypeError(f'the loss is {loss!r}, expected an object with forward, backward and '
                        'predict, such as SoftmaxWithLoss()')


def check_batch(input, target=None):
    """ValueError unless `input` holds rows, as many as there are targets."""
    if np.ndim(input) < 2:
        raise ValueError(f'got an input of shape {np.shape(input)}, expected rows (N, ...): pass '
                         'one row as data[i:i+1], and put the input before the target')
    if target is not None and (np.ndim(target) == 0 or len(target) != len(input)):
        raise ValueError(f'got {len(input)} rows of input and targets of shape '
                         f'{np.shape(target)}, expected one target for each row')


def check_count(name, count):
    """ValueError unless `count` is at least 1."""
    if count < 1:
        raise ValueError(f'{name} is {count}, expected 1 or more')


def check_rates(lr, momentum, nesterov, weight_decay):
    """lr, momentum and weight_decay as floats. TypeError or ValueError if one cannot be used."""
    for name, value in (('lr', lr), ('momentum', momentum), ('weight_decay', weight_decay)):
        if not isinstance(value, (int, float, np.number)):
            raise TypeError(f'{name} is {value!r}, expected a number')
        if not value >= 0:
            raise ValueError(f'{name} is {value}, expected 0 or more')
    if nesterov and momentum == 0:
        raise ValueError('nesterov needs a momentum above 0')
    return float(lr), float(momentum), float(weight_decay)


def check_pair(pair):
    """(data, label) -> rows (N, ...) and integer labels (N,) as arrays. TypeError, ValueError."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f'got a {type(pair).__name__}, expected a pair: write '
                        'fit((data, label), (validation_data, validation_label), ...)')
    data, label = np.asarray(pair[0]), np.asarray(pair[1])
    if data.ndim < 2 or len(data) == 0:
        raise ValueError(f'got data of shape {data.shape}, expected rows (N, ...), at least one')
    if label.shape != (len(data),) or label.dtype.kind not in 'iu':
        hint = ': pass one_hot.argmax(axis=1)' if label.ndim == 2 else ''
        raise ValueError(f'got {len(data)} rows and labels of shape {label.shape} and dtype '
                         f'{label.dtype}, expected integer labels ({len(data)},){hint}')
    return data, label


def check_finite(name, value):
    """FloatingPointError unless every number of `value` is finite."""
    if not np.isfinite(value).all():
        raise FloatingPointError(f'{name} is not finite: lower the learning rate, or look for inf '
                                 'and nan in the input')


def check_arrays(arrays, expected, origin):
    """ValueError unless `arrays` has the names and the shapes of `expected`, and floats."""
    missing = sorted(set(expected) - set(arrays))
    others = sorted(set(arrays) - set(expected))
    if missing or others:
        raise ValueError(f'{origin} is of another network: {len(missing)} arrays are missing '
                         f'{missing[:1]}, {len(others)} are not known {others[:1]}')
    for name, array in expected.items():
        got = arrays[name]
        if got.shape != array.shape or got.dtype.kind != 'f':
            raise ValueError(f'{origin}: {name} has the shape {got.shape} and dtype {got.dtype}, '
                             f'expected floats {array.shape}')


# Batches, scores and schedules --------------------------------------------------------------------

# The mean loss, the percentage of right rows, and the mean of this percentage over the classes
Score = collections.namedtuple('Score', 'loss accuracy balanced_accuracy')


def score(predicted, label, loss=float('nan')):
    """Predicted and true labels (N,) -> their Score with this loss."""
    hit = predicted == label
    rows = np.bincount(label)
    hits = np.bincount(label, weights=hit)
    recall = hits[rows > 0] / rows[rows > 0]
    return Score(float(loss), 100 * float(hit.mean()), 100 * float(recall.mean()))


def batches(order, batch_size):
    """Cut row numbers (N,) into batches. A single last row joins the batch before: BatchNorm."""
    check_count('batch_size', batch_size)
    starts = list(range(0, len(order), batch_size))
    if len(order) - starts[-1] == 1 and batch_size > 1:
        starts.pop()
    return np.split(order, starts[1:])


def split_rows(count, validation_count, seed):
    """Shuffle 0..count-1 and cut it in two -> (training rows, validation rows)."""
    if not 0 < validation_count < count:
        raise ValueError(f'cannot keep {validation_count} of {count} rows for validation: keep one '
                         'or more, but not all')
    order = np.random.default_rng(seed).permutation(count)
    return order[:-validation_count], order[-validation_count:]


def one_cycle(done, warm_up=0.2):
    """The factor on the learning rate: up from 1/25 to 1 in the first fifth, then down to 0.

    Smith, Topin: Super-Convergence, 2017 (arXiv:1708.07120).
    """
    if done < warm_up:
        return 0.04 + 0.96 * done / warm_up
    return (1 - done) / (1 - warm_up)


def correct_class_prior(predict, label):
    """Class-prior correction of probabilities (N, K), for a test with equally frequent classes.

    `label` are the training labels. By Bayes' rule p(class | image) is proportional to
    p(image | class) p(class). So divide by p(class). A class without a row counts as one row.
    """
    count = np.bincount(label, minlength=predict.shape[1])
    prior = np.maximum(count, 1) / len(label)
    weighted = predict / prior.astype(predict.dtype)
    return weighted / weighted.sum(axis=1, keepdims=True)


def even_class_counts(predict, steps=50):
    """Probabilities (N, K) of a whole test -> (N, K) float64, if each class has N / K of the rows.

    Each class gets a factor, so that all classes have the same sum of probabilities (Sinkhorn,
    Knopp 1967). Label smoothing makes probabilities too even, so they are squared first.
    ValueError for fewer rows than classes.
    """
    if len(predict) < predict.shape[1]:
        raise ValueError(f'got {len(predict)} rows for {predict.shape[1]} classes, expected a '
                         'whole test: use correct_class_prior for a few rows')
    weighted = np.maximum(predict, 1e-30).astype(np.float64) ** 2      # no class sums to 0
    for _ in range(steps):
        weighted /= weighted.sum(axis=0)                        # a class sums to 1
        weighted /= weighted.sum(axis=1, keepdims=True)         # a row sums to 1
    return weighted


def epoch_line(record):
    """A record of Training.history -> the line that is printed after an epoch."""
    line = f'Epoch:{record["epoch"]:3}'
    for name, part in (('Train', record['train']), ('Val', record['validation'])):
        if part:
            line += f' |{name} Loss:{part["loss"]:8.4f} |{name} Acc:{part["accuracy"]:8.4f}'
    if record['validation']:
        line += f' |Balanced:{record["validation"]["balanced_accuracy"]:8.4f}'
    return line + f' |Time:{record["seconds"]:6.1f} s'


# The networks of images ---------------------------------------------------------------------------

def character_network(rng=None, stages=((32,), (96, 96), (192, 192)), hidden=256, dropout=0.3,
                      augment=1.5, Conv2d=Conv2d, Network=Network):
    """A convolutional network for rows of 784 pixels. The default is the leaderboard's.

    `stages` are the output channels of the convolutions. The last convolution of a stage is
    followed by MaxPool2d, which halves the sides: 28, 14, 7, 4. `augment` multiplies the limits of
    Augment; 0 leaves it out.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    layers = [PixelScaling()]
    if augment:
        layers += [Augment(rotation=5 * augment, scale=0.05 * augment, shear=0.06 * augment,
                           shift=0.6 * augment, elastic=0.3 * augment, rng=rng)]
    layers += [Reshape(28, 28, 1)]
    side, channels = 28, 1
    for stage in stages:
        for number, outputs in enumerate(stage, 1):
            layers += [Conv2d(channels, outputs, rng=rng, bias=False)]
            if number == len(stage):
                layers += [MaxPool2d()]
                side = (side + 1) // 2
            layers += [BatchNorm(outputs), ReLU()]
            channels = outputs
    layers += [Flatten(), Dropout(dropout, rng)]
    layers += [FullyConnected(side * side * channels, hidden, rng), BatchNorm(hidden), ReLU()]
    layers += [Dropout(dropout, rng), FullyConnected(hidden, 47, rng)]
    return Network(layers, SoftmaxWithLoss(label_smoothing=0.1))


CHARACTER_TRAINING = {'epochs': 20, 'batch_size': 128, 'lr': 0.1, 'schedule': one_cycle,
                      'ema_decay': 0.999, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 5e-4}


# The lab's files ----------------------------------------------------------------------------------

CLASS_NAMES = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt'     # EMNIST Balanced's 47 labels


def read_csv(path, columns):
    """Read a CSV file of integers 0..255 without a header line: (N, columns) uint8.

    Blank lines and the byte order mark that Excel writes are skipped. FileNotFoundError, or
    ValueError that names the first wrong line.
    """
    rows = bytearray()
    try:
        with open(path, 'rb') as file:
            for number, line in enumerate(file, 1):
                line = line.strip(b'\xef\xbb\xbf \t\r\n')
                if line:
                    rows += parse_line(line, columns)
    except FileNotFoundError:
        makes = ', or make it with data/prepare.py' if os.path.exists('data/prepare.py') else ''
        raise FileNotFoundError(f'{path} is missing: copy it there{makes}') from None
    except ValueError as error:
        remedy = 'delete a header line, unpack a packed file, or copy or download it again'
        if os.path.exists('data/check.py'):
            remedy = f'run "python data/check.py {path}", which says what to do'
        raise ValueError(f'{path}, line {number}: {error}, expected {columns} integers 0..255 with '
                         f'commas between: {remedy}') from None
    if not rows:
        raise ValueError(f'{path} is empty, expected lines of {columns} integers 0..255: copy or '
                         'download it again')
    return np.frombuffer(rows, dtype=np.uint8).reshape(-1, columns)


def parse_line(line, columns):
    """A line of integers 0..255 -> bytes, one for each. ValueError that says what is wrong."""
    not_digits = line.translate(None, b'0123456789')
    if not_digits == b',' * (columns - 1) and not line.endswith(b','):
        try:
            values = np.fromstring(line, dtype=np.uint64, sep=',')
            if len(values) == columns and values.max() <= 255:
                return values.astype(np.uint8).tobytes()
        except (ValueError, DeprecationWarning):      # a number is missing; NumPy < 2.3 only warns
            pass
    if line.count(b',') != columns - 1:
        start = line[:20].decode('latin-1')
        raise ValueError(f'got {line.count(b",") + 1} numbers, the line starts with {start!a}')
    for field in line.split(b','):
        if not field.isdigit() or float(field) > 255:
            raise ValueError(f'got {field[:20].decode("latin-1")!a}')


def read_train(path):
    """Read train.csv: its pixels (N, 784) uint8 and its labels (N,) int, 0..46.

    Raises what read_csv raises, and ValueError for a label outside 0..46. Warns if a class has no
    row.
    """
    rows = read_csv(path, 1 + 28 * 28)
    label = rows[:, 0].astype(int)
    last = rows[:, -1]
    if last.max() < len(CLASS_NAMES) and len(np.unique(last)) > len(np.unique(label)):
        raise ValueError(f'{path}: the labels seem to be in the last column, expected them in the '
                         'first: move that column to the front')
    wrong = label >= len(CLASS_NAMES)
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(f'{path}: row {row + 1} has the label {label[row]}, expected 0..46: '
                         'subtract 1 from each if they count from 1, or use the data of this lab')
    try:
        refuse_missing_classes(label, path)
    except ValueError as error:
        warnings.warn(str(error), stacklevel=2)
    return rows[:, 1:], label


def refuse_missing_classes(label, path):
    """ValueError that names the classes without a row among the labels (N,)."""
    missing = np.setdiff1d(np.arange(len(CLASS_NAMES)), label)
    if missing.size:
        raise ValueError(f'{path} has no row of {missing.size} of the 47 classes, the labels '
                         f'{missing.tolist()}: use the whole train.csv of this lab')


def write_submission(path, predicted):
    """Write predicted labels (N,) as Kaggle wants them: the header Id,Category, then 0,label ..."""
    predicted = np.asarray(predicted)
    right = np.isin(predicted, np.arange(len(CLASS_NAMES)))
    if predicted.ndim != 1 or not predicted.size or not right.all():
        raise ValueError(f'{path} was not written: got {predicted.dtype} {predicted.shape}, '
                         'expected labels 0..46 (N,), as predict(...).argmax(axis=1) gives')
    lines = [f'{row},{label}\n' for row, label in enumerate(predicted.astype(int))]
    with replacing(path) as file:
        file.write(('Id,Category\n' + ''.join(lines)).encode('ascii'))


@contextlib.contextmanager
def replacing(path):
    """Open a binary file that takes the place of `path` when it is complete.

    After an error, the file at `path` is as it was. A symbolic link is followed.
    """
    path = os.path.realpath(path)
    beside = f'{path}.{os.getpid()}.part'
    try:
        with open(beside, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace_file(beside, path)
    except OSError as error:
        remedy = 'free space there or choose another folder'
        if isinstance(error, PermissionError):
            remedy = 'close the program that has it open, or choose another folder'
        if isinstance(error, FileNotFoundError):
            remedy = 'make the folder, or choose another folder'
        raise OSError(error.errno, f'{error.strerror}: nothing was written, {remedy}', path)
    finally:
        if os.path.lexists(beside):
            os.remove(beside)


def replace_file(source, target, tries=20):
    """os.replace, tried for two seconds: on Windows another program may have `target` open."""
    for _ in range(tries):
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(0.1)
    return os.replace(source, target)


def write_npz(path, arrays):
    """Write {name: array} to an .npz file, without pickle."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    with replacing(path) as file:
        file.write(packed.getbuffer())


def read_npz(path):
    """Read {name: array} from an .npz file. ValueError if it is damaged or holds objects."""
    with open(path, 'rb') as stream:
        try:
            if zipfile.ZipFile(stream).testzip():      # NumPy alone skips some checksums
                raise ValueError('a checksum does not fit')
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except Exception as error:      # a damaged file raises a dozen kinds of errors
            raise ValueError(f'{path} is not a whole .npz file of arrays '
                             f'({type(error).__name__}): fetch it again, or train again')
