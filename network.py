"""A network of the layers in layer.py: forward, backward, SGD, training, prediction, and the files it reads and writes.

    net = Network()                                  # the lab's network of FullyConnected and ReLU layers
    predict, loss = net.forward(pixels, label)       # (N, 784) and (N,) -> probabilities (N, 47), the mean loss
    net.backward()                                   # every layer's weight_grad and bias_grad
    net.update(0.1)                                  # w <- w - 0.1 dE/dw
"""
import argparse
import collections
import concurrent.futures
import contextlib
import copy
import ctypes
import functools
import glob
import io
import json
import os
import re
import sys
import time
import zlib

import numpy as np
import pandas as pd

from layer import (Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, MaxPool2d, PixelScaling, ReLU, Reshape,
                   SoftmaxWithLoss)

CLASS_NAMES = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt'     # EMNIST Balanced's order of the 47 labels

CSV_BLOCK = 2 ** 22     # bytes of a CSV file that are parsed at a time, so that memory stays small

# Mean loss of a row; percentage of rows predicted right; mean over the classes of that percentage
Score = collections.namedtuple('Score', 'loss accuracy balanced_accuracy')


class Network(object):
    """Layers in a row with a loss at the end.

    Network() is the lab's own network, 784-512-256-47 with ReLU; its layers are fc1, act1, fc2, act2, fc3 and loss,
    which are other names for the elements of `layers`: to exchange a layer, make a new network.
    Network([layer, ...], loss) chains any layers; ValueError if an output does not fit the next layer's input. The
    first layer gets rows of 784 numbers, or of its in_features, or what `input_shape` says, e.g. (28, 28, 1).

    With shards > 1 each batch is cut into that many parts, which run at the same time, each in a thread with one BLAS
    thread and with its own copies of the layers' memories; their gradients are added in a fixed order. The numbers do
    not depend on how many cores there are, but BatchNorm then normalises each part by itself.
    """

    def __init__(self, layers=None, loss=None, shards=1, rng=None, input_shape=None):
        if layers is None:
            self.scale = PixelScaling()
            self.fc1 = FullyConnected(28 * 28, 512, rng)
            self.act1 = ReLU()
            self.fc2 = FullyConnected(512, 256, rng)
            self.act2 = ReLU()
            self.fc3 = FullyConnected(256, 47, rng)
            layers = [self.scale, self.fc1, self.act1, self.fc2, self.act2, self.fc3]
        self.layers = list(layers)
        if not self.layers:
            raise ValueError('a network needs at least one layer')
        if len(set(map(id, self.layers))) < len(self.layers):
            raise ValueError('a layer stands in the network twice: it can remember the input of one place only')
        self.loss = loss or SoftmaxWithLoss()
        self.input_shape = (getattr(self.layers[0], 'in_features', 28 * 28),) if input_shape is None else tuple(
            np.ravel(input_shape).tolist())
        self.shards = shards
        self.velocity = {}      # SGD's memory, by the parameter's name
        self._shares = [1.0]    # the part of the last batch's rows that each shard got
        self.history = []       # one record an epoch, see fit
        self.shapes()          # refuses layers that do not fit
        self._chains = [(self.layers, self.loss)] + [
            ([copy.copy(layer) for layer in self.layers], copy.copy(self.loss)) for _ in range(shards - 1)]
        if shards > 1:
            keep_freed_memory()
        for layers, _ in self._chains[1:]:
            for layer in layers:
                if hasattr(layer, 'rng'):      # no two threads may draw from one generator
                    layer.rng = np.random.default_rng(layer.rng.integers(2 ** 31))

    # Forward, backward, update ---------------------------------------------------------------------------------------

    def forward(self, input, target):
        """Rows (N, ...) and targets, labels (N,) or one-hot (N, K) -> (predict (N, K), mean loss)."""
        if len(input) != len(target):
            raise ValueError('forward got %d rows of input and %d targets' % (len(input), len(target)))

        def run(layers, loss, share, input, target):
            loss._memory = None      # should a layer refuse its input, backward must not go on with the batch before
            for layer in layers:
                input = layer.forward(input)
            predict, value = loss.forward(input, target)
            return predict, share * value

        predicts, losses = zip(*self._run(run, input, target))
        for name, index, attribute in self._named('state_names'):
            if self.layers[index].training:
                self._add(index, attribute, self._shares)
        return predicts[0] if len(predicts) == 1 else np.concatenate(predicts), sum(losses)

    def backward(self):
        """The gradients of the last forward's mean loss, into every layer's weight_grad and bias_grad.

        Once for each forward: what the layers kept for it is given up on the way.
        """
        def run(layers, loss, share):
            delta = loss.backward()
            delta *= delta.dtype.type(share)      # so that the shards' gradients need only be added
            first = min([index for index, layer in enumerate(layers) if layer.parameter_names] or [len(layers)])
            for index in range(len(layers) - 1, first - 1, -1):
                layers[index].needs_input_grad = index > first      # nothing before the first is trained
                delta = layers[index].backward(delta)
                layers[index]._memory = None      # room for what comes: 0.94 of the time of the benchmark's cnn
            for layer in layers + [loss]:
                layer._memory = None

        self._run(run)
        for name, index, attribute in self._named('parameter_names'):
            self._add(index, attribute + '_grad')

    def update(self, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        """One step of SGD, with torch.optim.SGD's definitions (Sutskever et al. 2013 for momentum and Nesterov).

        Weight decay shrinks the weights of FullyConnected and Conv2d, not biases nor BatchNorm's parameters; decaying
        the biases too made no difference beyond the spread of the seeds (report/experiments.csv).
        """
        for name, index, attribute in self._named('parameter_names'):
            layer = self.layers[index]
            weight, grad = np.ascontiguousarray(getattr(layer, attribute)), getattr(layer, attribute + '_grad')
            if grad is None:
                raise RuntimeError('update was called before backward: %s has no gradient yet' % name)
            setattr(layer, attribute, weight)      # the same array, unless it was a transposed view
            if momentum and name not in self.velocity:
                self.velocity[name] = np.zeros_like(weight)
            arrays = [array.reshape(-1) for array in (weight, grad, self.velocity.get(name, grad))]
            decay = weight_decay if attribute in layer.decayed_names else 0.0
            # A piece at a time, so that it stays in the cache from line to line of sgd_step: twice as fast
            for start in range(0, weight.size, 2 ** 16):
                sgd_step(*[array[start:start + 2 ** 16] for array in arrays], lr=float(lr), momentum=float(momentum),
                         nesterov=nesterov, weight_decay=float(decay))

    def _run(self, function, *arrays):
        """[function(layers, loss, share of the rows, part of each array)] for each shard, side by side.

        Without arrays for the shards of the last batch.
        """
        if arrays:
            shards = max(1, min(self.shards, len(arrays[0]) // 2))     # BatchNorm needs two rows
            self._shares = [len(part) / float(max(1, len(arrays[0]))) for part in np.array_split(arrays[0], shards)]
            self._chains = [(layers, copy.copy(self.loss) if shard else self.loss)
                            for shard, (layers, _) in enumerate(self._chains)]
            for layers, _ in self._chains[1:shards]:
                for layer, twin in zip(self.layers, layers):
                    vars(twin).update((name, value) for name, value in vars(layer).items()
                                      if name not in ('_memory', 'rng'))
        shards = len(self._shares)
        if shards == 1:
            return [function(self.layers, self.loss, 1.0, *arrays)]
        parts = [np.array_split(array, shards) for array in arrays]
        pool, futures = _threads(min(self.shards, os.cpu_count() or 1)), []
        with blas_threads(1):
            try:
                for i, share in enumerate(self._shares):
                    futures.append(pool.submit(function, *(self._chains[i] + (share,) + tuple(p[i] for p in parts))))
                return [future.result() for future in futures]
            finally:      # also when one raises, or at Ctrl-C: none may go on to change the layers
                concurrent.futures.wait(futures)

    def _add(self, index, attribute, factors=None):
        """Set a layer's attribute to the sum of the shards' arrays, times `factors` if given, in a fixed order."""
        if len(self._shares) > 1:
            arrays = [getattr(layers[index], attribute) for layers, _ in self._chains[:len(self._shares)]]
            if factors:
                arrays = [array * array.dtype.type(factor) for array, factor in zip(arrays, factors)]
            for array in arrays[1:]:
                arrays[0] += array
            setattr(self.layers[index], attribute, arrays[0])

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
        before = [(layer, layer.training, getattr(layer, 'rng', None)) for layers, loss in self._chains
                  for layer in layers + [loss]]
        self.eval()
        try:
            yield
        finally:
            for layer, training, rng in before:
                layer.training, layer._memory = training, None
                if rng is not None:
                    layer.rng = rng

    def predict(self, input, batch_size=256, views=1):
        """Rows (N, ...) -> predictions (N, K) of the loss, e.g. probabilities, in evaluation mode; any N, also 0.

        With views > 1 the mean over that many views of each row: the row itself, and as Augment varies it in training,
        with random numbers that depend on nothing but the view, batch_size and shards.
        ValueError, naming the row, where a prediction is not finite.
        """
        def run(layers, loss, share, input):
            for layer in layers:
                input = layer.forward(input)
            return loss.predict(input)

        total, views = 0, views if any(layer.augments for layer in self.layers) else 1
        for view in range(views):
            with self._evaluation():
                if view:
                    self._reseed([view])
                    for layer in self.layers:
                        layer.training = layer.augments
                total = total + np.concatenate([predict for start in range(0, max(1, len(input)), batch_size)
                                                for predict in self._run(run, input[start:start + batch_size])])
        wrong = np.flatnonzero(~np.isfinite(total).all(axis=tuple(range(1, total.ndim))))
        if wrong.size:
            raise ValueError('predict: row %d gives %s: look for inf and nan in the input and the weights' % (
                wrong[0], total[wrong[0]].max()))
        return total / views

    def evaluate(self, data, label, batch_size=256):
        """Rows (N, ...) and labels (N,) -> Score in evaluation mode."""
        with self._evaluation():
            return self._epoch(data, label, np.arange(len(data)), batch_size)

    def train_epoch(self, data, label, batch_size, lr, rng, after_step=None, **sgd):
        """One pass over all rows in an order drawn from `rng`, one step of SGD a batch -> Score in training mode.

        lr is a number, or a function of the part of the epoch that is done, 0..1. `sgd`: the other arguments of update.
        after_step() is called after each step. FloatingPointError when the loss is not finite.
        """
        def step(done):
            self.backward()
            self.update(lr(done) if callable(lr) else lr, **sgd)
            if after_step:
                after_step()

        self.train()
        return self._epoch(data, label, rng.permutation(len(data)), batch_size, step)

    def _epoch(self, data, label, order, batch_size, after_forward=lambda done: None):
        """Forward over the rows in `order`, a batch at a time, the last one as small as it falls -> Score.

        A last single row goes with the batch before it: BatchNorm needs two in training.
        """
        data, label = labelled(data, label)
        if batch_size < 1:
            raise ValueError('batch_size is %r, expected 1 or more' % batch_size)
        total_loss, predicted, starts = 0.0, [], list(range(0, len(order), batch_size))
        if len(order) - starts[-1] == 1 and len(starts) > 1 and batch_size > 1:
            starts.pop()
        for start, end in zip(starts, starts[1:] + [len(order)]):
            rows = order[start:end]
            predict, loss = self.forward(data[rows], label[rows])
            if not np.isfinite(loss):
                raise FloatingPointError('the loss is %s in batch %d: lower the learning rate, or look for inf and nan '
                                         'in the input' % (loss, start // batch_size + 1))
            after_forward(start / float(len(order)))
            total_loss += loss * len(rows)
            predicted.append(predict.argmax(axis=1))
        return score(total_loss / len(order), np.concatenate(predicted), label[order])

    def fit(self, train, validation, epochs, batch_size, lr, schedule=None, seed=0, ema_decay=0.0, checkpoint=None,
            on_epoch=None, **sgd):
        """Train for `epochs` epochs and keep the weights of the epoch with the best balanced validation accuracy.

        train and validation are (data, label) pairs; without validation (None) the last epoch's weights stay.
        schedule(part of the training that is done, 0..1) is the factor on lr, 1 where it is None.
        With ema_decay d > 0 the weights that are validated and kept are an exponential moving average over the steps,
        average <- d average + (1 - d) w (Polyak, Juditsky 1992; d grows to its value as the average fills).
        Every random number of an epoch comes from (seed, epoch). With a `checkpoint` path everything is saved there
        after each epoch; where that file exists the training goes on from it, and ends with the same bits.
        on_epoch(record) is called after each epoch; the records are in self.history. When training ends early, by
        an exception or Ctrl-C, the best weights so far are put in place before the exception goes on; when the first
        epoch diverges, those before it.
        """
        train, validation = labelled(*train), validation and labelled(*validation)
        best, steps, settings = {}, 0, None
        average = self._copies() if ema_decay else {}
        if checkpoint:      # as JSON gives it back
            settings = json.loads(json.dumps(dict(
                sgd, network=repr(self), shards=self.shards, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed,
                schedule=[schedule(part / 8.0) for part in range(8) if schedule], ema_decay=ema_decay,
                data=[zlib.crc32(np.ascontiguousarray(array)) for array in train + (validation or ())]), default=float))
        if checkpoint and os.path.exists(checkpoint):
            average, best = self._resume(checkpoint, settings)
        else:
            self.history, self.velocity = [], {}
        last = self._copies()

        def accumulate():
            nonlocal steps
            steps += 1
            share = 1 - min(ema_decay, steps / (steps + 10.0))
            for name, array in self.arrays().items():
                average[name] += share * (array - average[name])

        try:
            for epoch in range(len(self.history) + 1, epochs + 1):
                started, steps = time.time(), (epoch - 1) * -(-len(train[0]) // batch_size)
                self._reseed([seed, epoch])
                try:
                    training = self.train_epoch(
                        *train, batch_size=batch_size, rng=np.random.default_rng([seed, epoch]),
                        lr=lambda done: lr * (schedule((epoch - 1 + done) / epochs) if schedule else 1),
                        after_step=accumulate if ema_decay else None, **sgd)
                    if not all(np.isfinite(array).all() for array in self.arrays().values()):
                        raise FloatingPointError('a weight is not finite after the last batch: lower the learning rate')
                    trained = self._copies()
                    self._set(average or trained, 'the average')
                    validated = self.evaluate(*validation)._asdict() if validation else None
                except FloatingPointError as error:
                    self._set(last, 'the weights before this epoch')
                    raise FloatingPointError('epoch %d: %s' % (epoch, error))
                if not validation or validated['balanced_accuracy'] > max(
                        [record['validation']['balanced_accuracy'] for record in self.history] or [-1]):
                    best = self._copies()
                last = trained
                self._set(last, 'the last weights')
                self.history.append({'epoch': epoch, 'epochs': epochs, 'seconds': time.time() - started,
                                     'train': training._asdict(), 'validation': validated})
                if checkpoint:
                    self._checkpoint(checkpoint, settings, average, best)
                if on_epoch:
                    on_epoch(self.history[-1])
        finally:
            if best:
                self._set(best, 'the best weights')

    def _reseed(self, seed):
        """New generators for all layers that draw random numbers, one for each layer and shard."""
        for shard, (layers, _) in enumerate(self._chains):
            for index, layer in enumerate(layers):
                if hasattr(layer, 'rng'):
                    layer.rng = np.random.default_rng(list(seed) + [shard, index])

    # Files -----------------------------------------------------------------------------------------------------------

    def arrays(self):
        """{name: array} of all parameters and states, the arrays themselves."""
        return {name: getattr(self.layers[index], attribute) for kind in ('parameter_names', 'state_names')
                for name, index, attribute in self._named(kind)}

    def _copies(self):
        return {name: array.copy() for name, array in self.arrays().items()}

    def _check(self, arrays, origin, own):
        """ValueError unless `arrays` has the names, shapes and kinds of `own`, which are this network's."""
        lacking, others = sorted(set(own) - set(arrays)), sorted(set(arrays) - set(own))
        if lacking or others:
            raise ValueError('%s is of another network, or a checkpoint: it lacks %d of %d arrays %s and has %d others '
                             '%s' % (origin, len(lacking), len(own), lacking[:1], len(others), others[:1]))
        for name, array in own.items():
            if arrays[name].shape != array.shape or arrays[name].dtype.kind != 'f':
                raise ValueError('%s: %s is %s of shape %s, expected floats of shape %s' % (
                    origin, name, arrays[name].dtype, arrays[name].shape, array.shape))

    def _set(self, arrays, origin):
        """Copy arrays by name into the network's own; ValueError, with nothing changed, unless all of them fit."""
        own = self.arrays()
        self._check(arrays, origin, own)
        for name, array in own.items():
            array[...] = arrays[name]

    def save(self, path, dtype=None):
        """Write all parameters and states to `path` as .npz, without pickle; as `dtype`, e.g. float16, where given."""
        write_npz(path, {name: array.astype(dtype or array.dtype) for name, array in self.arrays().items()})

    def load(self, path):
        """Read what `save` wrote; ValueError, with nothing changed, where the file is not of this network."""
        self._set(read_npz(path), path)

    def _checkpoint(self, path, settings, average, best):
        about = json.dumps({'settings': settings, 'history': self.history})
        arrays = {'about': np.array(about)}
        for kind, values in (('last', self.arrays()), ('average', average), ('best', best),
                             ('velocity', self.velocity)):
            arrays.update(('%s %s' % (kind, name), array) for name, array in values.items())
        write_npz(path, arrays)

    def _resume(self, path, settings):
        """Put a checkpoint's weights, velocities and history in place; return the average's and the best weights."""
        arrays = read_npz(path)
        about = json.loads(str(arrays.pop('about', '{}')))
        held = about.get('settings') or {}
        if held != settings:
            raise ValueError('%s is the checkpoint of another training, which differs in %s: move it away to start '
                             'anew' % (path, ', '.join(sorted(name for name in set(held) | set(settings)
                                                              if held.get(name) != settings.get(name)))))
        kinds = collections.defaultdict(dict)
        for name, array in arrays.items():
            kind, name = name.split(' ', 1)
            kinds[kind][name] = array
        own, trained = self.arrays(), [name for name, _, _ in self._named('parameter_names')]
        for kind, names in (('average', own), ('best', own), ('velocity', trained)):
            if kinds[kind]:
                self._check(kinds[kind], '%s, %s' % (path, kind), {name: own[name] for name in names})
        self._set(kinds['last'], path)
        self.velocity, self.history = kinds['velocity'], about['history']
        return kinds['average'], kinds['best']

    def shapes(self):
        """[the output's shape of each layer, without N]; ValueError, naming the layer, where two do not fit."""
        shape, shapes = self.input_shape, []
        for index, layer in enumerate(self.layers):
            try:
                shape = layer.output_shape(shape)
            except ValueError as error:
                raise ValueError('layer %d: %s' % (index, error))
            shapes.append(shape)
        return shapes

    def __repr__(self):
        lines = []
        for index, (layer, shape) in enumerate(zip(self.layers, self.shapes())):
            count = sum(getattr(layer, name).size for name in layer.parameter_names)
            lines.append('%3d  %-50r %-18s %9s' % (index, layer, 'x'.join(map(str, shape)), count or ''))
        total = sum(getattr(self.layers[index], name).size for _, index, name in self._named('parameter_names'))
        lines.append('     %-50r %-18s %9d parameters' % (self.loss, '', total))
        return '\n'.join(lines)


@functools.lru_cache(maxsize=None)
def _threads(count):
    """The threads that work for all networks with shards."""
    return concurrent.futures.ThreadPoolExecutor(count)


def labelled(data, label):
    """The rows (N, ...) and their integer labels (N,) as arrays; ValueError where they do not belong together."""
    data, label = np.asarray(data), np.asarray(label)
    if not len(data):
        raise ValueError('there are no rows to train on or to evaluate')
    if label.shape != (len(data),) or label.dtype.kind not in 'iu':
        raise ValueError('got %d rows and labels of shape %s and dtype %s, expected integer labels of shape (%d,)' % (
            len(data), label.shape, label.dtype, len(data)))
    return data, label


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
    """Factor on the learning rate: from 1/25 up to 1 in the first part of the training, then straight down to 0.

    After Smith, Topin: Super-Convergence, 2017 (arXiv:1708.07120).
    """
    return 0.04 + 0.96 * done / warm_up if done < warm_up else (1 - done) / (1 - warm_up)


def balance(predict, label):
    """Predictions (N, K) of a network trained on classes as frequent as in `label`, for classes that are all alike.

    Bayes: p(class | image) is proportional to p(image | class) p(class), so divide by the training's p(class).
    """
    frequency = np.bincount(label, minlength=predict.shape[1]) / float(len(label))
    weighted = predict / np.maximum(frequency, 1.0 / len(label)).astype(predict.dtype)
    return weighted / weighted.sum(axis=1, keepdims=True)


def epoch_line(record):
    """An epoch's record as the line that the lab prints after each epoch, with the balanced accuracy and the time."""
    train, validation = record['train'], record['validation']
    line = 'Epoch:%3d |Train Loss:%8.4f |Train Acc:%8.4f' % (record['epoch'], train['loss'], train['accuracy'])
    if validation:
        line += ' |Val Loss:%8.4f |Val Acc:%8.4f |Balanced:%8.4f' % (
            validation['loss'], validation['accuracy'], validation['balanced_accuracy'])
    return line + ' |Time:%6.1f s' % record['seconds']


def history_table(history):
    """The records of fit as a table, a row an epoch: epoch, seconds, train_loss, ..., validation_balanced."""
    rows = [dict([('epoch', record['epoch']), ('seconds', round(record['seconds'], 1))] + [
        ('%s_%s' % (part, name.split('_')[0]), round(value, 4)) for part in ('train', 'validation')
        for name, value in sorted((record[part] or {}).items())]) for record in history]
    columns = ['epoch', 'seconds'] + ['%s_%s' % (part, name.split('_')[0]) for part in ('train', 'validation')
                                      for name in sorted(Score._fields)]
    return pd.DataFrame(rows, columns=None if history else columns)      # none yet: an empty table


def split_rows(count, validation_count, seed):
    """0..count-1 shuffled and cut in two -> (train rows, validation rows); no row is in both."""
    if not 0 < validation_count < count:
        raise ValueError('cannot keep %d of %d rows for validation: keep fewer, at least one' % (
            validation_count, count))
    order = np.random.default_rng(seed).permutation(count)
    return order[:-validation_count], order[-validation_count:]


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


@functools.lru_cache(maxsize=None)
def _openblas(name):
    """OpenBLAS's function of that name, from the library in NumPy's own package; None where there is none."""
    home = os.path.dirname(np.__file__)
    for path in sum((glob.glob(home + place) for place in ('/.libs/*openblas*', '.libs/*openblas*',
                                                           '/.dylibs/*openblas*')), []):
        for symbol in ('scipy_openblas_%s64_', 'openblas_%s64_', 'openblas_%s'):
            if hasattr(ctypes.CDLL(path), symbol % name):
                return getattr(ctypes.CDLL(path), symbol % name)


def keep_freed_memory():
    """Tell the C library to keep the memory of freed arrays for the next ones; glibc only, elsewhere nothing happens.

    Else it returns what is freed to the system, and every batch gets its arrays back page by page, for which threads
    wait on each other: the convolutional network of tests/benchmark.py then takes 1.2 times as long.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if os.name == 'posix' else None
    if mallopt:
        mallopt(-1, 2 ** 31 - 1)      # M_TRIM_THRESHOLD, bytes at the end of the heap
        mallopt(-3, 2 ** 25)          # M_MMAP_THRESHOLD, bytes from which an array gets pages of its own


@contextlib.contextmanager
def replacing(path):
    """A binary file beside `path` that takes its place when all is written; on an error `path` stays as it was."""
    beside = '%s.%d.part' % (path, os.getpid())
    try:
        with open(beside, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, '%s: nothing was written, free space there or choose another folder' %
                      error.strerror, path)
    finally:
        if os.path.lexists(beside):
            os.remove(beside)


def write_npz(path, arrays):
    """Write {name: array} to `path`, packed in memory first: zipfile cannot clean up after itself on a full disk."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    with replacing(path) as file:
        file.write(packed.getbuffer())


def read_npz(path):
    """{name: array} of an .npz file; ValueError in one sentence where it is not one. Pickled objects are refused."""
    with open(path, 'rb') as stream:
        try:
            with np.load(stream, allow_pickle=False) as file:
                damaged = file.zip.testzip()      # NumPy alone reads what a damaged header claims, unchecked
                if damaged:
                    raise ValueError('the checksum of %s does not fit' % damaged)
                return {name: file[name] for name in file.files}
        except Exception as error:      # zipfile, zlib and NumPy raise a dozen kinds for a damaged file
            raise ValueError('%s is not a whole .npz file of arrays (%s): fetch it again, or train anew' % (
                path, re.split(r'[.:]?\s*\n|[.:] ', str(error))[0] or type(error).__name__))


def read_csv(path, columns):
    """The rows of a CSV file of integers 0..255, no header: (N, columns) uint8. ValueError names the first bad line."""
    rows, number = bytearray(), 1
    try:
        file = open(path, 'rb')
    except FileNotFoundError:
        raise FileNotFoundError('%s is missing: copy it there, or make it with data/prepare.py' % path)
    with file:
        if file.read(3) != b'\xef\xbb\xbf':      # the byte order mark that some programs write
            file.seek(0)
        for lines in iter(lambda: file.readlines(CSV_BLOCK), []):
            block = _parse(b''.join(lines), columns)
            if block is None:
                block = b''.join(_row(line, columns, '%s, line %d' % (path, number + index))
                                 for index, line in enumerate(lines) if line.strip())
            rows += block
            number += len(lines)
    if not rows:
        raise ValueError('%s is empty, expected rows of %d integers: copy or download it again' % (path, columns))
    return np.frombuffer(rows, np.uint8).reshape(-1, columns)


def _parse(text, columns):
    """Whole lines of integers 0..255 -> the integers, as bytes; None where anything else is in them."""
    text = text.replace(b'\r\n', b'\n')
    if text.translate(None, b'0123456789,\n'):      # pandas would read 3.0 as 3, and take more for line ends
        return None
    try:
        block = pd.read_csv(io.BytesIO(text), header=None, dtype=np.int64).values
    except (ValueError, OverflowError):      # pandas' own errors are ValueErrors
        return None
    # pandas before 1.2 may drop the end of a line that is too long, so the commas are counted
    if block.shape[1] != columns or text.count(b',') != len(block) * (columns - 1) or block.max() > 255:
        return None
    return block.astype(np.uint8).tobytes()


def _row(line, columns, place):
    """One line, perhaps with spaces or quotes -> its integers, as bytes; ValueError tells the fault and what to do."""
    got = [field.strip(b' \t\r\n"') for field in line.split(b',')]
    wrong = [index for index, field in enumerate(got) if not (
        field.isdigit() and int(field.lstrip(b'0')[:4] or b'0') < 256)]
    if len(got) == columns and not wrong:
        return bytes(map(int, got))
    fault = 'got %d fields' % len(got) if len(got) != columns else 'field %d is %r' % (
        wrong[0] + 1, got[wrong[0]][:20].decode('latin-1'))
    first = place.endswith(' line 1')
    remedy = next(text for holds, text in (
        (first and line.startswith((b'PK', b'\x1f\x8b')), 'it is a zip or gzip file, unpack it'),
        (first and line.lstrip().startswith(b'<'), 'it is a web page, download the file again while signed in'),
        (first and re.match(br'"?[A-Za-z]|,0,1,|0,1,2,3,', line), 'delete the header line'),
        (abs(len(got) - columns) == 1, 'train.csv and test.csv may be swapped, or an index or a comma added'),
        (not line.endswith(b'\n'), 'the file breaks off here, copy or download it again'),
        (True, 'copy or download the file again')) if holds)
    raise ValueError('%s: %s, expected %d integers 0..255 with commas between: %s' % (place, fault, columns, remedy))


def read_train(path):
    """train.csv -> its pixels (N, 784) uint8 and labels (N,), checked to be 0..46. ValueError as of read_csv."""
    rows = read_csv(path, 1 + 28 * 28)
    label = rows[:, 0].astype(int)
    wrong = np.flatnonzero(label >= len(CLASS_NAMES))
    if wrong.size:
        raise ValueError('%s: row %d has the label %d, expected 0..%d: %s' % (
            path, wrong[0] + 1, label[wrong[0]], len(CLASS_NAMES) - 1, 'its labels count from 1, subtract 1 from each'
            if label.min() == 1 and label.max() == len(CLASS_NAMES) else 'it is not the data of this lab'))
    return rows[:, 1:], label


def write_submission(path, predicted):
    """Write predicted labels (N,) in the competition's format: the header Id,Category, then 0,label and so on."""
    predicted = np.asarray(predicted)
    if predicted.ndim != 1 or not np.isin(predicted, np.arange(len(CLASS_NAMES))).all():
        raise ValueError('%s was not written: got predictions of shape %s and dtype %s, expected labels 0..%d of shape '
                         '(N,), as predict(...).argmax(axis=1) gives' % (
                             path, predicted.shape, predicted.dtype, len(CLASS_NAMES) - 1))
    lines = ['Id,Category'] + ['%d,%d' % row for row in enumerate(predicted)] + ['']
    with replacing(path) as file:
        file.write('\n'.join(lines).encode('ascii'))


# The network for the leaderboard --------------------------------------------------------------------------------------

def character_network(rng=None):
    """Five convolutions and two fully connected layers, for the rows of 784 pixels; 1.4 million parameters."""
    rng = np.random.default_rng(0) if rng is None else rng

    def convolution(inputs, outputs, *pool):
        return [Conv2d(inputs, outputs, rng=rng, bias=False)] + list(pool) + [BatchNorm(outputs), ReLU()]

    layers = [PixelScaling(), Augment(rotation=10, scale=0.1, shear=0.12, shift=1.2, elastic=0.6, rng=rng),
              Reshape(28, 28, 1)]
    layers += convolution(1, 48, MaxPool2d())                              # 28 x 28 -> 14 x 14
    layers += convolution(48, 96) + convolution(96, 96, MaxPool2d())       # 14 x 14 -> 7 x 7
    layers += convolution(96, 192) + convolution(192, 192, MaxPool2d(ceil_mode=True))     # 7 x 7 -> 4 x 4
    layers += [Flatten(), Dropout(0.3, rng), FullyConnected(4 * 4 * 192, 256, rng), BatchNorm(256), ReLU(),
               Dropout(0.3, rng), FullyConnected(256, 47, rng)]
    return Network(layers, SoftmaxWithLoss(label_smoothing=0.1), shards=2)


CHARACTER_TRAINING = {'epochs': 24, 'batch_size': 128, 'lr': 0.1, 'schedule': one_cycle, 'ema_decay': 0.999,
                      'momentum': 0.9, 'nesterov': True, 'weight_decay': 5e-4}
CHARACTER_VIEWS = 8


def main():
    """Train the network for the leaderboard from scratch, or go on where it was stopped, and write the submission."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--data', default='data', help='folder of train.csv and test.csv (default: data)')
    parser.add_argument('--validation', type=int, default=8000, metavar='ROWS',
                        help='rows kept for validation, 0 to train on all (default: 8000)')
    parser.add_argument('--epochs', type=int, default=CHARACTER_TRAINING['epochs'], help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='default: 0')
    parser.add_argument('--checkpoint', default='training.npz', help='saved every epoch (default: training.npz)')
    parser.add_argument('--weights', default='character_network.npz', help='default: character_network.npz')
    parser.add_argument('--submission', default='DLAD-test-predict.csv', help='default: DLAD-test-predict.csv')
    options = parser.parse_args()
    for path in (options.checkpoint, options.weights, options.submission):
        if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise FileNotFoundError('%s cannot be written: make its folder first' % path)

    data, label = read_train(os.path.join(options.data, 'train.csv'))
    test = read_csv(os.path.join(options.data, 'test.csv'), 784)
    train, validation = (data, label), None
    if options.validation:
        chosen, kept = split_rows(len(data), options.validation, 0)
        train, validation = (data[chosen], label[chosen]), (data[kept], label[kept])
    net = character_network(np.random.default_rng(options.seed))
    print(net, flush=True)

    def on_epoch(record):
        left = (record['epochs'] - record['epoch']) * record['seconds'] / 60
        print('%s |%4.0f min left' % (epoch_line(record), left), flush=True)

    net.fit(train, validation, seed=options.seed, checkpoint=options.checkpoint, on_epoch=on_epoch,
            **dict(CHARACTER_TRAINING, epochs=options.epochs))
    net.save(options.weights, np.float16)
    net.load(options.weights)       # what is predicted with is what was saved
    with replacing(os.path.splitext(options.weights)[0] + '.csv') as file:
        file.write(history_table(net.history).to_csv(index=False).encode('ascii'))
    if validation:
        predict = balance(net.predict(validation[0], views=CHARACTER_VIEWS), train[1])
        print('Validation with %d views and even classes: %.2f %%, balanced %.2f %%' % (
            (CHARACTER_VIEWS,) + score(0, predict.argmax(axis=1), validation[1])[1:]))
    write_submission(options.submission, balance(net.predict(test, views=CHARACTER_VIEWS), train[1]).argmax(axis=1))
    print('Wrote %s and %s' % (options.weights, options.submission))


if __name__ == '__main__':
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit('network.py: %s' % error)
