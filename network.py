"""A network of the layers in layer.py: forward, backward, SGD, training, prediction, and the files it reads and writes.

    net = Network()                                  # the lab's network of FullyConnected and ReLU layers
    predict, loss = net.forward(pixels, label)       # (N, 784) and (N,) -> probabilities (N, 47), the mean loss
    net.backward()                                   # every layer's weight_grad and bias_grad
    net.update(0.1)                                  # w <- w - 0.1 dE/dw
"""
import collections
import contextlib
import copy
import ctypes
import glob
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from layer import FullyConnected, PixelScaling, ReLU, SoftmaxWithLoss

CLASS_NAMES = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt'     # EMNIST Balanced's order of the 47 labels

# Mean loss of a row; percentage of rows predicted right; mean over the classes of that percentage
Score = collections.namedtuple('Score', 'loss accuracy balanced_accuracy')


class Network(object):
    """Layers in a row with a loss at the end.

    Network() is the lab's own network, 784-512-256-47 with ReLU, its layers reachable as fc1, act1, fc2, act2, fc3, loss.
    Network([layer, ...], loss) chains any layers; ValueError if an output does not fit the next layer's input.

    With shards > 1 each batch is cut into that many parts, which run at the same time, each in a thread with one BLAS
    thread and with its own copies of the layers' memories; their gradients are added in a fixed order. The numbers do
    not depend on how many cores there are, but BatchNorm then normalises each part by itself.
    """

    def __init__(self, layers=None, loss=None, shards=1, rng=None):
        if layers is None:
            self.scale = PixelScaling()
            self.fc1 = FullyConnected(28 * 28, 512, rng)
            self.act1 = ReLU()
            self.fc2 = FullyConnected(512, 256, rng)
            self.act2 = ReLU()
            self.fc3 = FullyConnected(256, 47, rng)
            layers = [self.scale, self.fc1, self.act1, self.fc2, self.act2, self.fc3]
        self.layers = list(layers)
        self.loss = loss or SoftmaxWithLoss()
        self.shards = shards
        self.velocity = {}      # SGD's memory, by the parameter's name
        self.history = []       # one record an epoch, see fit
        self._shapes()          # refuses layers that do not fit
        self._chains = [(self.layers, self.loss)] + [
            ([copy.copy(layer) for layer in self.layers], copy.copy(self.loss)) for _ in range(shards - 1)]
        self._pool = ThreadPoolExecutor(min(shards, os.cpu_count() or 1)) if shards > 1 else None
        for layers, _ in self._chains:
            for layer in layers:     # dE/d(input) is wanted only behind the first layer that is trained
                layer.needs_input_grad = False
                if layer.parameter_names:
                    break

    # Forward, backward, update ---------------------------------------------------------------------------------------

    def forward(self, input, target):
        """Rows (N, ...) and targets, labels (N,) or one-hot (N, K) -> (predict (N, K), mean loss)."""
        if len(input) != len(target):
            raise ValueError('forward got %d rows of input and %d targets' % (len(input), len(target)))

        def run(layers, loss, input, target):
            for layer in layers:
                input = layer.forward(input)
            return loss.forward(input, target)

        results = self._run(run, input, target)
        for name, index, attribute in self._named('state_names'):
            if self.layers[index].training:
                self._gather(index, attribute)
        predict = results[0][0] if len(results) == 1 else np.concatenate([predict for predict, _ in results])
        return predict, sum(share * loss for share, (_, loss) in zip(self._shares, results))

    def backward(self):
        """The gradients of the last forward's mean loss, into every layer's weight_grad and bias_grad."""
        def run(layers, loss):
            delta = loss.backward()
            for layer in reversed(layers):
                delta = layer.backward(delta)
                if not layer.needs_input_grad:
                    break

        self._run(run)
        for name, index, attribute in self._named('parameter_names'):
            self._gather(index, attribute + '_grad')

    def update(self, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        """One step of SGD, with torch.optim.SGD's definitions (Sutskever et al. 2013 for momentum and Nesterov).

        Weight decay shrinks the weights of FullyConnected and Conv2d, not biases nor BatchNorm's parameters.
        """
        for name, index, attribute in self._named('parameter_names'):
            layer = self.layers[index]
            weight, grad = getattr(layer, attribute), getattr(layer, attribute + '_grad')
            if grad is None:
                raise RuntimeError('update was called before backward: %s has no gradient yet' % name)
            if momentum and name not in self.velocity:
                self.velocity[name] = np.zeros_like(weight)
            arrays = [array.reshape(-1) for array in (weight, grad, self.velocity.get(name, grad))]
            decay = weight_decay if attribute in layer.decayed_names else 0.0
            # A piece at a time, so that it stays in the cache from line to line of sgd_step: twice as fast
            for start in range(0, weight.size, 2 ** 16):
                sgd_step(*[array[start:start + 2 ** 16] for array in arrays], lr=float(lr), momentum=momentum,
                         nesterov=nesterov, weight_decay=decay)

    def _run(self, function, *arrays):
        """[function(layers, loss, part of each array)] for the shards, side by side; no arrays: for the last forward's."""
        if arrays:
            shards = max(1, min(self.shards, len(arrays[0]) // 2))     # two rows each at least, for BatchNorm's variance
            self._shares = [len(part) / float(max(1, len(arrays[0]))) for part in np.array_split(arrays[0], shards)]
            for layers, _ in self._chains[1:shards]:
                for layer, twin in zip(self.layers, layers):
                    for name in layer.parameter_names + layer.state_names + ('training',):
                        setattr(twin, name, getattr(layer, name))
        shards = len(self._shares)
        if shards == 1:
            return [function(self.layers, self.loss, *arrays)]
        parts = [np.array_split(array, shards) for array in arrays]
        with blas_threads(1):
            futures = [self._pool.submit(function, *(self._chains[i] + tuple(part[i] for part in parts)))
                       for i in range(shards)]
            return [future.result() for future in futures]

    def _gather(self, index, attribute):
        """Set a layer's attribute to the shards' mean of it, weighted by their shares of the rows, in a fixed order."""
        if len(self._shares) > 1:
            total = 0
            for share, (layers, _) in zip(self._shares, self._chains):
                part = getattr(layers[index], attribute)
                total = total + part * part.dtype.type(share)
            setattr(self.layers[index], attribute, total)

    def _named(self, kind):
        """Yield (name, index of the layer, attribute) for the 'parameter_names' or the 'state_names' of all layers."""
        for index, layer in enumerate(self.layers):
            for attribute in getattr(layer, kind):
                yield '%d.%s.%s' % (index, type(layer).__name__, attribute), index, attribute

    # Training and prediction -----------------------------------------------------------------------------------------

    def train(self, mode=True):
        """Training mode: Dropout and Augment act, BatchNorm uses the batch's statistics. A new network is in it."""
        for layer in self.layers:
            layer.training = mode

    def eval(self):
        """Evaluation mode: every row's prediction depends on that row alone."""
        self.train(False)

    @contextlib.contextmanager
    def _evaluation(self):
        """Evaluation mode for a while; what the layers remembered is gone after it, so that backward is refused."""
        modes = [layer.training for layer in self.layers]
        self.eval()
        try:
            yield
        finally:
            for layer, mode in zip(self.layers, modes):
                layer.training = mode
            for layers, loss in self._chains:
                for layer in layers + [loss]:
                    layer._memory = None

    def predict(self, input, batch_size=500):
        """Rows (N, ...) -> predictions (N, K) of the loss, e.g. probabilities, in evaluation mode; any N, also 0."""
        def run(layers, loss, input):
            for layer in layers:
                input = layer.forward(input)
            return loss.predict(input)

        with self._evaluation():
            return np.concatenate([predict for start in range(0, max(1, len(input)), batch_size)
                                   for predict in self._run(run, input[start:start + batch_size])])

    def evaluate(self, data, label, batch_size=500):
        """Rows (N, ...) and labels (N,) -> Score in evaluation mode."""
        with self._evaluation():
            return self._epoch(data, label, np.arange(len(data)), batch_size)

    def train_epoch(self, data, label, batch_size, lr, rng, **sgd):
        """One pass over all rows in an order drawn from `rng`, one step of SGD a batch -> Score in training mode.

        lr is a number, or a function of the part of the epoch that is done, 0..1. `sgd`: the other arguments of update.
        FloatingPointError when the loss is not finite.
        """
        def step(done):
            self.backward()
            self.update(lr(done) if callable(lr) else lr, **sgd)

        self.train()
        return self._epoch(data, label, rng.permutation(len(data)), batch_size, step)

    def _epoch(self, data, label, order, batch_size, after_forward=lambda done: None):
        """Forward over the rows in `order`, a batch at a time, the last one as small as it falls -> Score."""
        total_loss, predicted = 0.0, []
        for start in range(0, len(order), batch_size):
            rows = order[start:start + batch_size]
            predict, loss = self.forward(data[rows], label[rows])
            if not np.isfinite(loss):
                raise FloatingPointError('the loss is %s in batch %d: lower the learning rate, or look for inf and nan '
                                         'in the input' % (loss, start // batch_size + 1))
            after_forward(start / float(len(order)))
            total_loss += loss * len(rows)
            predicted.append(predict.argmax(axis=1))
        return score(total_loss / len(order), np.concatenate(predicted), label[order])

    def fit(self, train, validation, epochs, batch_size, lr, schedule=None, seed=0, checkpoint=None,
            on_epoch=None, **sgd):
        """Train for `epochs` epochs and keep the weights of the epoch with the best balanced validation accuracy.

        train and validation are (data, label) pairs; without validation (None) the last epoch's weights stay.
        schedule(part of the training that is done, 0..1) is the factor on lr, 1 where it is None.
        Every random number of an epoch comes from (seed, epoch). With a `checkpoint` path everything is saved there after
        each epoch; where that file exists already the training goes on from it, and ends with the same bits.
        on_epoch(record) is called after each epoch; the records are in self.history. When training ends early, by an
        exception or Ctrl-C, the best weights so far are put in place before the exception goes on.
        """
        settings = '%r, %d rows, %d epochs of batches of %d, lr %r %s, seed %r, %r' % (
            self, len(train[0]), epochs, batch_size, lr, getattr(schedule, '__name__', ''), seed, sorted(sgd.items()))
        self.history, self.velocity, best = [], {}, {}
        if checkpoint and os.path.exists(checkpoint):
            best = self._resume(checkpoint, settings)
        try:
            for epoch in range(len(self.history) + 1, epochs + 1):
                started = time.time()
                self._reseed([seed, epoch])
                rate = lambda done: lr * (schedule((epoch - 1 + done) / epochs) if schedule else 1)
                try:
                    training = self.train_epoch(*train, batch_size=batch_size, lr=rate,
                                                rng=np.random.default_rng([seed, epoch]), **sgd)
                except FloatingPointError as error:
                    raise FloatingPointError('epoch %d: %s' % (epoch, error))
                validated = self.evaluate(*validation) if validation else training
                if not validation or validated.balanced_accuracy > max(
                        [record['validation']['balanced_accuracy'] for record in self.history] or [-1]):
                    best = {name: array.copy() for name, array in self.arrays().items()}
                self.history.append({'epoch': epoch, 'epochs': epochs, 'seconds': time.time() - started,
                                     'train': training._asdict(), 'validation': validated._asdict()})
                if checkpoint:
                    self._checkpoint(checkpoint, settings, best)
                if on_epoch:
                    on_epoch(self.history[-1])
        finally:
            if best:
                self._set(best, 'the best weights')

    def _reseed(self, seed):
        """New generators for all layers that draw random numbers, each with numbers of its own."""
        for shard, (layers, _) in enumerate(self._chains):
            for index, layer in enumerate(layers):
                if hasattr(layer, 'rng'):
                    layer.rng = np.random.default_rng(list(seed) + [shard, index])

    # Files -----------------------------------------------------------------------------------------------------------

    def arrays(self):
        """{name: array} of all parameters and states, the arrays themselves."""
        return collections.OrderedDict((name, getattr(self.layers[index], attribute)) for kind in (
            'parameter_names', 'state_names') for name, index, attribute in self._named(kind))

    def _set(self, arrays, origin):
        """Copy arrays by name into the network's own; ValueError, with nothing changed, unless all of them fit."""
        own = self.arrays()
        if set(arrays) != set(own):
            raise ValueError('%s is of another network: it lacks %s and has %s besides' % (
                origin, sorted(set(own) - set(arrays)) or 'nothing', sorted(set(arrays) - set(own)) or 'nothing'))
        for name, array in own.items():
            if arrays[name].shape != array.shape or arrays[name].dtype.kind != 'f':
                raise ValueError('%s: %s is %s of shape %s, expected floats of shape %s' % (
                    origin, name, arrays[name].dtype, arrays[name].shape, array.shape))
        for name, array in own.items():
            array[...] = arrays[name]

    def save(self, path, dtype=None):
        """Write all parameters and states to `path` as .npz, without pickle; as `dtype`, e.g. float16, where given."""
        with replacing(path) as file:
            np.savez(file, **{name: array.astype(dtype or array.dtype) for name, array in self.arrays().items()})

    def load(self, path):
        """Read what `save` wrote; ValueError, with nothing changed, where the file is not of this network."""
        self._set(read_npz(path), path)

    def _checkpoint(self, path, settings, best):
        about = json.dumps({'settings': settings, 'history': self.history})
        arrays = {'about': np.array(about)}
        for kind, values in (('last', self.arrays()), ('best', best), ('velocity', self.velocity)):
            arrays.update(('%s %s' % (kind, name), array) for name, array in values.items())
        with replacing(path) as file:
            np.savez(file, **arrays)

    def _resume(self, path, settings):
        """Put a checkpoint's weights, velocities and history in place; return the best weights so far."""
        arrays = read_npz(path)
        about = json.loads(str(arrays.pop('about', '{}')))
        if about.get('settings') != settings:
            raise ValueError('%s is the checkpoint of another training: move it away to start anew; it holds %s, '
                             'expected %s' % (path, about.get('settings'), settings))
        kinds = collections.defaultdict(dict)
        for name, array in arrays.items():
            kind, name = name.split(' ', 1)
            kinds[kind][name] = array
        self._set(kinds['last'], path)
        self.velocity, self.history = kinds['velocity'], about['history']
        return kinds['best']

    def _shapes(self):
        """[the output's shape of each layer, without N]; ValueError, naming the layer, where two do not fit."""
        shape, shapes = (getattr(self.layers[0], 'in_features', 28 * 28),), []
        for index, layer in enumerate(self.layers):
            try:
                shape = layer.output_shape(shape)
            except ValueError as error:
                raise ValueError('layer %d: %s' % (index, error))
            shapes.append(shape)
        return shapes

    def __repr__(self):
        lines = []
        for index, (layer, shape) in enumerate(zip(self.layers, self._shapes())):
            count = sum(getattr(layer, name).size for name in layer.parameter_names)
            lines.append('%3d  %-50r %-18s %9s' % (index, layer, 'x'.join(map(str, shape)), count or ''))
        total = sum(getattr(self.layers[index], name).size for _, index, name in self._named('parameter_names'))
        lines.append('     %-50r %-18s %9d parameters' % (self.loss, '', total))
        return '\n'.join(lines)


def sgd_step(weight, grad, velocity, lr, momentum, nesterov, weight_decay):
    """One step of SGD on a piece of a parameter (n,), in place; velocity (n,) is used where momentum is not 0."""
    if weight_decay:
        grad = grad + weight_decay * weight                          # g <- g + lambda w
    if momentum:
        velocity *= momentum                                         # v <- mu v + g
        velocity += grad
        grad = grad + momentum * velocity if nesterov else velocity
    weight -= lr * grad                                              # w <- w - lr v,  Nesterov: w - lr (g + mu v)


def score(loss, predicted, label):
    """The Score of predicted labels (N,) against the true ones (N,)."""
    hit = predicted == label
    rows = np.bincount(label)
    recalls = np.bincount(label, weights=hit)[rows > 0] / rows[rows > 0]
    return Score(float(loss), 100 * float(hit.mean()), 100 * float(recalls.mean()))


def one_cycle(done, warm_up=0.2):
    """Factor on the learning rate: up from 1/25 to 1 in the first part of the training, down to 0 in the rest, straight.

    After Smith, Topin: Super-Convergence, 2017 (arXiv:1708.07120).
    """
    return 0.04 + 0.96 * done / warm_up if done < warm_up else (1 - done) / (1 - warm_up)


@contextlib.contextmanager
def blas_threads(count):
    """Hold NumPy's OpenBLAS to `count` threads for a while. It works on the library that is loaded already.

    Where NumPy brings another BLAS (conda's MKL, macOS's Accelerate) nothing happens: set MKL_NUM_THREADS=1 or
    VECLIB_MAXIMUM_THREADS=1 before NumPy is imported if shards > 1 is to be fast there; the numbers stay right.
    """
    before = _openblas('get_num_threads')() if _openblas('get_num_threads') else None
    if before:
        _openblas('set_num_threads')(count)
    try:
        yield
    finally:
        if before:
            _openblas('set_num_threads')(before)


def _openblas(name, found={}):
    """OpenBLAS's function of that name, from the library in NumPy's own package; None where there is none."""
    if name not in found:
        found[name] = None
        home = os.path.dirname(np.__file__)
        for path in glob.glob(os.path.join(home, '.libs', '*openblas*')) + glob.glob(home + '.libs/*openblas*'):
            library = ctypes.CDLL(path)
            for symbol in ('scipy_openblas_%s64_', 'openblas_%s64_', 'openblas_%s'):
                found[name] = found[name] or getattr(library, symbol % name, None)
    return found[name]


@contextlib.contextmanager
def replacing(path):
    """A binary file beside `path` that takes its place, whole, when all is written; on an error `path` stays as it was."""
    beside = '%s.%d.part' % (path, os.getpid())
    try:
        with open(beside, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def read_npz(path):
    """{name: array} of an .npz file; ValueError in one sentence where it is not one. Pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except Exception as error:      # zipfile, zlib and NumPy raise a dozen kinds for a damaged file
        raise ValueError('%s is not a whole .npz file of arrays: %s' % (path, error))


def read_csv(path, columns):
    """The rows of a CSV file without header: (N, columns) uint8. ValueError naming the file and what is wrong with it."""
    try:
        rows = pd.read_csv(path, header=None, dtype=np.uint8).values
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise ValueError('%s: expected rows of %d integers 0..255 with commas between and no header: %s' % (
            path, columns, error))
    if rows.shape[1] != columns:
        raise ValueError('%s: got %d columns, expected %d' % (path, rows.shape[1], columns))
    return np.ascontiguousarray(rows)


def write_submission(path, predicted):
    """Write predicted labels (N,) in the competition's format: the header Id,Category, then 0,label and so on."""
    text = pd.DataFrame({'Category': np.asarray(predicted).astype(int)}).to_csv(index=True, index_label='Id')
    with replacing(path) as file:
        file.write(text.encode('ascii'))
