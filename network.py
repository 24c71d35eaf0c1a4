"""A network of the layers in layer.py: back propagation, SGD, training, and the lab's files.

    net = Network()                                  # the lab's network
    predict, loss = net.forward(pixels, label)       # (N, 784), (N,) -> (N, 47), the mean loss
    net.backward()                                   # every layer's weight_grad and bias_grad
    net.update(0.1)                                  # w <- w - 0.1 dE/dw
"""
import collections
import contextlib
import copy
import os
import time
import zlib

import numpy as np
import pandas as pd

from layer import (_Layer, Augment, BatchNorm, Conv2d, Crop, Dropout, Flatten, FullyConnected,
                   MaxPool2d, PixelScaling, ReLU, Reshape, SoftmaxWithLoss, target_rows)


class Network(object):
    """A sequential network: layers in a row, and a loss at the end.

    Network() is the lab's network, 784-512-256-47 with ReLU. Network([layer, ...], loss) takes any
    layers, for inputs (N,) + input_shape. `net.layers[2] = Sigmoid()` exchanges one.
    """

    def __init__(self, layers=None, loss=None, rng=None, input_shape=None):
        if layers is None:
            layers = [PixelScaling(), FullyConnected(28 * 28, 512, rng), ReLU(),
                      FullyConnected(512, 256, rng), ReLU(), FullyConnected(256, 47, rng)]
        self.layers = list(layers)
        self.loss = SoftmaxWithLoss() if loss is None else loss
        in_features = getattr(self.layers[0], 'in_features', 28 * 28)
        self.input_shape = tuple(np.atleast_1d(input_shape or in_features))
        self.velocity = {}           # v of momentum: {(layer, name of the parameter): array}
        self.held_back = set()       # fingerprints of the rows that its trainings did not see
        self.is_forward_done = False
        self.shapes()                # refuses layers that do not fit

    def forward(self, input, target):
        """Rows (N, ...) and targets (N,) or (N, K) -> predictions (N, K) and the mean loss."""
        self.is_forward_done = False
        target = target_rows(target, (len(input),) + self.shapes()[-1])
        for layer in self.layers:
            input = layer.forward(input)
        predict, loss = self.loss.forward(input, target)
        self.is_forward_done = True
        return predict, loss

    def backward(self):
        """Set the weight_grad and bias_grad of every layer, for the loss of the last forward."""
        if not self.is_forward_done:
            raise RuntimeError('backward needs a whole forward before it')
        grad = self.loss.backward()
        for index, layer in reversed(list(enumerate(self.layers))):
            before = [value for other in self.layers[:index] for value in vars(other).values()]
            layer.needs_input_grad = any(isinstance(value, np.ndarray) for value in before)
            grad = layer.backward(grad)
            if not layer.needs_input_grad:      # no array before, so no weights
                break

    def update(self, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        """Take a step of SGD, as torch.optim.SGD does (nesterov: after Sutskever et al. 2013).

        The step is g without momentum, v with it, g + mu v with nesterov. Only weights decay.
        """
        if min(lr, momentum, weight_decay) < 0 or (nesterov and not momentum):
            raise ValueError('expected lr, momentum, weight_decay >= 0, and nesterov with momentum')
        for layer in self.layers:
            check_parameters(layer)
        for _, layer, attribute in self.parameters():
            weight = getattr(layer, attribute)
            grad = getattr(layer, attribute + '_grad').reshape(weight.shape)
            if weight_decay and attribute in layer.decayed_names:
                grad = grad + weight_decay * weight                 # g <- g + lambda w
            step = grad
            if momentum:
                velocity = self.velocity.setdefault((layer, attribute), np.zeros_like(weight))
                velocity *= momentum                                # v <- mu v + g
                velocity += grad
                step = (grad + momentum * velocity) if nesterov else velocity
            weight[...] -= lr * step                                # w <- w - lr step

    def parameters(self):
        """Yield (name, layer, attribute) for each array that SGD trains."""
        for index, layer in enumerate(self.layers):
            for attribute in layer.parameter_names:
                yield f'{index}.{type(layer).__name__}.{attribute}', layer, attribute

    def train(self, mode=True):
        """Set training mode, or with False evaluation mode, where no row depends on the others."""
        for layer in self.layers:
            layer.training = mode

    @contextlib.contextmanager
    def evaluation(self):
        """Evaluation mode for a `with` block. Then all is as before, also what forward had kept."""
        before = [(each, dict(vars(each))) for each in [self, self.loss] + self.layers]
        self.train(False)
        try:
            yield
        finally:
            for each, attributes in before:
                each.__dict__ = attributes

    def predict(self, input, batch_size=256):
        """Rows (N, ...) -> predictions (N, K). ValueError, naming the row, if one is not finite."""
        with self.evaluation():
            return self.predict_rows(input, batch_size)

    def predict_augmented(self, input, copies=8, batch_size=256):
        """The mean prediction (N, K) of each row and of copies - 1 augmented copies of it."""
        if not any(isinstance(layer, Augment) for layer in self.layers):
            return self.predict(input, batch_size)
        with self.evaluation():
            total = self.predict_rows(input, batch_size)
            for layer in self.layers:
                layer.training = isinstance(layer, Augment)
            for number in range(1, copies):
                self.reseed([number])
                total += self.predict_rows(input, batch_size)
        return total / max(1, copies)

    def predict_rows(self, input, batch_size):
        """Predict batch by batch, in the present mode."""
        input = np.asarray(input)
        starts = range(0, max(1, len(input)), batch_size)
        parts = [self.predict_batch(input[start:start + batch_size]) for start in starts]
        predict = np.concatenate(parts)
        finite = np.isfinite(predict).all(axis=1)
        if not finite.all():
            raise ValueError(f'the prediction of row {finite.argmin()} is not finite')
        return predict

    def predict_batch(self, input):
        """Predict one batch in the present mode."""
        for layer in self.layers:
            input = layer.forward(input)
        return self.loss.predict(input)

    def evaluate(self, data, label, batch_size=256):
        """Rows (N, ...) and labels (N,) -> their Score in evaluation mode."""
        data, label = self.labelled(data, label)
        predicted = np.zeros_like(label)
        total_loss = 0.0
        with self.evaluation():
            for rows in batches(np.arange(len(data)), batch_size):
                predict, loss = self.forward(data[rows], label[rows])
                check_finite(f'evaluation, rows {rows[0]} to {rows[-1]}: the loss', loss)
                predicted[rows] = predict.argmax(axis=1)
                total_loss += loss * len(rows)
        return score(predicted, label, total_loss / len(label))

    def labelled(self, data, label):
        """Rows, and labels or one-hot rows -> rows and labels (N,) as arrays. Else ValueError."""
        one_hot = target_rows(label, (len(data),) + self.shapes()[-1])
        if (one_hot.max(axis=1) != 1).any() or (one_hot.sum(axis=1) != 1).any():
            raise ValueError('expected labels or one-hot rows')
        return np.asarray(data), one_hot.argmax(axis=1)

    def reseed(self, seed):
        """Give a new generator, seeded by a list of integers, to each layer that has one."""
        for index, layer in enumerate(self.layers):
            if hasattr(layer, 'rng'):
                layer.rng = np.random.default_rng([*seed, 0, index])

    def fit(self, train, validation, epochs, batch_size, lr, on_epoch=None, on_batch=None,
            verbose=True, **settings):
        """Train, keep the weights of the best epoch, and return the history: see Training.

        Two calls of 3 epochs are not one of 6: history, momentum, schedule and best start again.
        on_epoch(record) and on_batch(part of the epoch) are called after an epoch and a batch.
        """
        training = Training(self, train, validation, epochs, batch_size, lr, **settings)
        self.history = training.history
        training.run(on_epoch, on_batch, verbose)
        return training.history

    def arrays(self):
        """{name: array} of all parameters and states: the arrays themselves, no copies."""
        named = {}
        for index, layer in enumerate(self.layers):
            for attribute in layer.parameter_names + layer.state_names:
                named[f'{index}.{type(layer).__name__}.{attribute}'] = getattr(layer, attribute)
        return named

    def set_arrays(self, arrays, origin='the arrays'):
        """Copy arrays by name into the network. ValueError if `origin` is of another network."""
        own = self.arrays()
        same = [name for name in own if np.shape(arrays.get(name)) == own[name].shape]
        if len(same) < max(len(own), len(arrays)):
            raise ValueError(f'{origin} is of another network, {len(same)} of its arrays fit')
        for name in own:
            own[name][...] = arrays[name]

    def save(self, path):
        """Write all parameters and states, and `held_back`, to an .npz file."""
        with open(path, 'wb') as file:
            np.savez(file, held_back=sorted(self.held_back), **self.arrays())

    def load(self, path):
        """Read what `save` wrote. ValueError, with nothing changed, for another network's file."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        held_back = arrays.pop('held_back', np.empty(0))
        self.set_arrays(arrays, path)
        self.held_back = set(held_back.tolist())

    def shapes(self):
        """[output shape of each layer, without N]. ValueError if a layer does not fit."""
        if self.layers == getattr(self, 'measured_layers', None):
            return self.measured_shapes
        for index, layer in enumerate(self.layers + [self.loss]):
            if not isinstance(layer, _Layer) or layer in self.layers[:index]:
                raise ValueError(f'layer {index} is {layer!r}, expected layer objects, each once')
        row = np.zeros((1,) + self.input_shape, np.float32)
        shapes = []
        with self.evaluation():
            for index, layer in enumerate(self.layers):
                try:
                    row = layer.forward(row)
                except Exception as error:
                    where = f'layer {index}, {layer!r}, input (N,) + {row.shape[1:]}'
                    raise ValueError(f'{where}: {error}') from error
                shapes.append(row.shape[1:])
        if len(shapes[-1]) != 1:
            raise ValueError(f'the loss got rows of shape {shapes[-1]}: add Flatten()')
        self.measured_layers = list(self.layers)
        self.measured_shapes = shapes
        return shapes

    def __setattr__(self, name, value):
        """Refuse net.act1 = Sigmoid(), which would change no layer."""
        if isinstance(value, (_Layer, type)) and name != 'loss' and 'layers' in vars(self):
            raise AttributeError(f'net.{name} is no layer of the network: write net.layers[index]')
        object.__setattr__(self, name, value)

    def __repr__(self):
        lines = []
        for index, (layer, shape) in enumerate(zip(self.layers, self.shapes())):
            lines.append(f'{index:3}  {layer!r:<45} {"x".join(map(str, shape))}')
        count = sum(getattr(layer, name).size for _, layer, name in self.parameters())
        return '\n'.join(lines + [f'     {self.loss!r:<45} {count} parameters'])


class Training(object):
    """Epochs of SGD on a network. The weights of the best epoch are kept.

    train and validation are pairs (data, label). The best epoch has the best balanced validation
    accuracy; without validation (None) it is the last. Each epoch shuffles the rows. A step takes
    batch_size rows at the rate lr * schedule(part of the training done). With ema_decay d > 0, an
    average of the weights is validated: average <- d average + (1 - d) w, where d grows to its
    value (Polyak, Juditsky 1992). (seed, epoch) decides the random numbers.
    """

    def __init__(self, net, train, validation, epochs, batch_size, lr, schedule=None, seed=0,
                 ema_decay=0.0, **sgd):      # sgd: of Network.update
        self.net = net
        self.train = net.labelled(*train)
        self.validation = net.labelled(*validation) if validation else None
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule or (lambda done: 1.0)
        self.seed = seed
        self.ema_decay = ema_decay
        self.sgd = sgd
        self.history = []      # a record of each epoch
        self.steps = 0         # batches so far
        self.best = copy.deepcopy(net.arrays())
        self.average = copy.deepcopy(net.arrays()) if ema_decay else {}
        net.velocity = {}
        net.held_back.add(fingerprint(*self.validation) if validation else 'no rows')

    def run(self, on_epoch=None, on_batch=None, verbose=True):
        """Train. At the end, or after an error, put the best weights so far in place."""
        try:
            while len(self.history) < self.epochs:
                self.run_epoch(on_batch)
                if verbose:
                    print(epoch_line(self.history[-1]), flush=True)
                if on_epoch:
                    on_epoch(self.history[-1])
        finally:
            self.net.set_arrays(self.best)

    def run_epoch(self, on_batch=None):
        """Train one epoch, validate, and keep the weights if they are the best so far."""
        started = time.time()
        epoch = len(self.history) + 1
        self.net.reseed([self.seed, epoch])
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train[0]))
        with np.errstate(over='ignore', invalid='ignore'):      # check_finite looks at the results
            trained = self.train_rows(order, on_batch)
        weights = copy.deepcopy(self.net.arrays())
        for name, array in weights.items():
            check_finite(f'epoch {epoch}, after the last batch: {name}', array)
        self.net.set_arrays(self.average or weights)      # the average, if there is one
        validated = self.net.evaluate(*self.validation)._asdict() if self.validation else None
        if self.is_best(validated):
            self.best = copy.deepcopy(self.net.arrays())
        self.net.set_arrays(weights)
        self.history.append({'epoch': epoch, 'epochs': self.epochs, 'train': trained._asdict(),
                             'validation': validated, 'seconds': time.time() - started})

    def train_rows(self, order, on_batch):
        """Take a step for each batch of rows in `order`. -> the Score of the training rows."""
        data, label = self.train
        predicted = np.zeros_like(label)
        total_loss = 0.0
        done = 0
        self.net.train()
        for rows in batches(order, self.batch_size):
            predict, loss = self.net.forward(data[rows], label[rows])
            check_finite(f'epoch {len(self.history) + 1}, row {done} on: the loss', loss)
            self.net.backward()
            done_in_all = (len(self.history) + done / len(order)) / self.epochs
            self.net.update(self.lr * float(self.schedule(done_in_all)), **self.sgd)
            self.update_average()
            predicted[rows] = predict.argmax(axis=1)
            total_loss += loss * len(rows)
            done += len(rows)
            if on_batch:
                on_batch(done / len(order))
        return score(predicted, label, total_loss / len(label))

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
        return validated['balanced_accuracy'] > max(before, default=-1)


def check_parameters(layer):
    """ValueError if a layer has the gradient of a parameter that it does not list."""
    known = layer.parameter_names + ('input', 'output', 'needs_input')
    for name in vars(layer):
        if name.endswith('_grad') and name[:-len('_grad')] not in known:
            raise ValueError(f'{layer!r} has {name}: complete its parameter_names')


def check_finite(name, value):
    """FloatingPointError unless every number of `value` is finite."""
    if not np.isfinite(value).all():
        raise FloatingPointError(f'{name} is not finite: lower the rate, or look at the input')


def fingerprint(data, label):
    """Rows (N, ...) and labels (N,) -> a text that tells them from other rows, in any order."""
    rows = np.column_stack([label, np.reshape(data, (len(data), -1))]).astype(np.float32)
    return f'{len(rows)} rows, {sum(zlib.crc32(row.tobytes()) for row in rows):x}'


Score = collections.namedtuple('Score', 'loss accuracy balanced_accuracy')


def score(predicted, label, loss=float('nan')):
    """Predicted, true labels (N,) -> Score: the loss, the % right, its mean over the classes."""
    hit = predicted == label
    rows = np.bincount(label)
    hits = np.bincount(label, weights=hit)
    recall = hits[rows > 0] / rows[rows > 0]
    return Score(float(loss), 100 * float(hit.mean()), 100 * float(recall.mean()))


def batches(order, batch_size):
    """Cut row numbers (N,) into batches. A single last row joins the one before, for BatchNorm."""
    starts = list(range(0, len(order), batch_size))
    if len(order) - starts[-1] == 1 and batch_size > 1:
        starts.pop()
    return np.split(order, starts[1:])


def split_rows(count, validation_count, seed):
    """Shuffle 0..count-1 and cut it in two -> (training rows, validation rows)."""
    order = np.random.default_rng(seed).permutation(count)
    return np.split(order, [max(0, count - validation_count)])


def one_cycle(done):
    """The factor on lr: up from 1/25, then down to 0 (Smith, Topin 2017, arXiv:1708.07120)."""
    return min(0.04 + 0.96 * done / 0.2, (1 - done) / 0.8)


def correct_class_prior(predict, label):
    """Class-prior correction of probabilities (N, K), for a test with equally frequent classes.

    By Bayes' rule p(class | image) is proportional to p(image | class) p(class). So divide by
    p(class), from the training labels (N,).
    """
    count = np.bincount(label, minlength=predict.shape[1])
    prior = np.maximum(count, 1) / len(label)      # a class without a row counts as one row
    weighted = predict / prior.astype(predict.dtype)
    return weighted / weighted.sum(axis=1, keepdims=True)


def even_class_counts(predict, steps=50):
    """Probabilities (N, K) of a whole test -> (N, K) float64, whose classes sum to N / K each.

    A factor for each class makes the sums of all classes equal (Sinkhorn, Knopp 1967). Label
    smoothing makes probabilities too even, so they are squared first.
    """
    if len(predict) < predict.shape[1]:
        raise ValueError(f'got {len(predict)} rows, fewer than classes: not a whole test')
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
            line += f' |Balanced:{part["balanced_accuracy"]:8.4f}'
    return line + f' |Time:{record["seconds"]:6.1f} s'


def character_network(rng=None, stages=((16,), (64, 64), (128, 128)), hidden=256, dropout=0.1,
                      augment=1.0, Conv2d=Conv2d, Network=Network):
    """A convolutional network for rows of 784 pixels. The default is the leaderboard's.

    `stages`: channels of the convolutions, MaxPool2d after the last of each. augment=0: none.
    """
    rng = rng or np.random.default_rng(0)
    layers = [PixelScaling()]
    if augment:
        layers += [Augment(rotation=5 * augment, scale=0.05 * augment, shear=0.06 * augment,
                           shift=0.6 * augment, elastic=0.3 * augment, rng=rng)]
    layers += [Reshape(28, 28, 1), Crop(2)]      # EMNIST's border of two pixels is empty
    side, channels = 24, 1
    for stage in stages:
        for outputs in stage:
            layers += [Conv2d(channels, outputs, rng=rng, bias=False), BatchNorm(outputs), ReLU()]
            channels = outputs
        layers.insert(-2, MaxPool2d())      # before BatchNorm, which then has a quarter of the work
        side = (side + 1) // 2
    layers += [Flatten(), Dropout(dropout, rng)]
    layers += [FullyConnected(side * side * channels, hidden, rng), BatchNorm(hidden), ReLU()]
    layers += [Dropout(dropout, rng), FullyConnected(hidden, 47, rng)]
    return Network(layers, SoftmaxWithLoss(label_smoothing=0.1))


CHARACTER_TRAINING = {'epochs': 12, 'batch_size': 256, 'lr': 0.2, 'schedule': one_cycle,
                      'ema_decay': 0.998, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 5e-4}


# The lab's files ----------------------------------------------------------------------------------

CLASS_NAMES = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt'     # in EMNIST Balanced's order


def read_csv(path, columns):
    """Read a CSV file of integers 0..255, no header: (N, columns) uint8. Else ValueError."""
    parts = []
    try:
        for table in pd.read_csv(path, header=None, dtype=np.int64, chunksize=10000):
            values = table.values
            if values.shape[1] != columns or values.min() < 0 or values.max() > 255:
                raise ValueError(f'got {values.shape[1]} columns, {values.min()}..{values.max()}')
            parts.append(values.astype(np.uint8))
    except (ValueError, OverflowError) as error:
        raise ValueError(f'{path}: expected lines of {columns} integers 0..255, no header line: '
                         f'{error} (data/check.py says more)') from error
    return np.concatenate(parts)


def read_train(path):
    """Read train.csv: pixels (N, 784) uint8, labels (N,) int, each of 0..46. Else ValueError."""
    rows = read_csv(path, 1 + 28 * 28)
    label = rows[:, 0].astype(int)
    missing = np.setdiff1d(np.arange(len(CLASS_NAMES)), label)
    if label.max() > 46 or missing.size:
        raise ValueError(f'{path}: expected all labels 0..46 in the first column, got up to '
                         f'{label.max()}, without {missing.tolist()}')
    return rows[:, 1:], label


def write_submission(path, predicted):
    """Write predicted labels (N,) as Kaggle wants them: the header Id,Category, then 0,label ..."""
    predicted = np.asarray(predicted)
    right = np.isin(predicted, range(len(CLASS_NAMES))).all()
    if not right or predicted.dtype.kind not in 'iu' or not predicted.size:
        raise ValueError(f'expected labels 0..46 (N,), got {predicted.dtype} {predicted.shape}')
    pd.DataFrame({'Category': predicted}).to_csv(f'{path}.part', index_label='Id')
    os.replace(f'{path}.part', path)
