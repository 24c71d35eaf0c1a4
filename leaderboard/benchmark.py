#!/usr/bin/env python3
"""How fast is the framework? It times one epoch, prediction, and reading the data, beside others.

    python leaderboard/benchmark.py                   some minutes on two cores
    python leaderboard/benchmark.py --only cnn csv    some parts of it

The sides of a comparison get the same network, weights and rows:

    ours            network.Network with the layers of layer.py
    ours, fast      the same numbers by ParallelNetwork and the fast convolution of this folder
    PyTorch         eager mode on the CPU with all cores, images channels-last
    scikit-learn    MLPClassifier.partial_fit, for the networks that it knows
    products        only the matrix products of forward and backward, in float32, over whole windows
                    for a convolution: the limit, if all else took no time

An epoch takes uint8 rows in a new random order, scales them, and makes a step of SGD with momentum
for each batch. Before the timing, the first three losses of ours and of PyTorch must be equal.
The sides take turns, so that a slow moment of the machine meets all of them. A ratio is of two
times of one turn. Install torch and scikit-learn for their sides; a missing side is left out.
"""
import argparse
import collections
import contextlib
import importlib
import os
import platform
import sys
import tempfile
import time

import numpy as np
import pandas as pd

HOME = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HOME)
sys.path[:0] = [ROOT]

import fast_conv2d                                                              # noqa: E402
import layer                                                                    # noqa: E402
from layer import (BatchNorm, Conv2d, Dropout, Flatten, FullyConnected,         # noqa: E402
                   MaxPool2d, PixelScaling, ReLU, Reshape, SoftmaxWithLoss)
from network import (Network, Training, character_network, read_csv,            # noqa: E402
                     read_train)
from parallel import ParallelNetwork, blas_controller                           # noqa: E402
from torch_training import torch_model                                          # noqa: E402

CORES = os.cpu_count() or 1
EPOCH = 92000                # the lab's 100,000 training rows without 8,000 for validation
LEARNING_RATE, MOMENTUM = 0.01, 0.9
PREDICT_BATCH = 256
CSV_ROWS = 10000

# A line of the table. Seconds are for 92,000 rows, extrapolated from `rows`. The ratio is this
# side's time over the time of the side that the part compares with, e.g. PyTorch.
Row = collections.namedtuple('Row', 'part measurement side rows seconds seconds_least '
                                    'seconds_greatest ratio ratio_least ratio_greatest')

# A side: its name, a function(rows) that works through so many rows, and the share of rows it gets
Side = collections.namedtuple('Side', 'name work share')


# The networks -------------------------------------------------------------------------------------

def fully_connected(sizes):
    """The network of fully connected layers of these sizes, with ReLU between them."""
    rng = np.random.default_rng(0)
    layers = [PixelScaling()]
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [FullyConnected(inputs, outputs, rng), ReLU()]
    return Network(layers[:-1])


def cnn(Conv2d=Conv2d, Network=Network):
    """The small convolutional network, in the usual order of its layers."""
    rng = np.random.default_rng(0)
    layers = [PixelScaling(), Reshape(28, 28, 1)]
    for channels, outputs in ((1, 32), (32, 64), (64, 128)):
        layers += [Conv2d(channels, outputs, rng=rng, bias=False), BatchNorm(outputs), ReLU(),
                   MaxPool2d()]
    layers += [Flatten(), FullyConnected(4 * 4 * 128, 256, rng), BatchNorm(256), ReLU(),
               FullyConnected(256, 47, rng)]
    return Network(layers)


def wide(Conv2d=Conv2d, Network=Network):
    """Five convolutions, as in the network for the leaderboard. Nothing draws random numbers.

    The channels are fixed here, so that old and new times are those of one network.
    """
    net = character_network(stages=((48,), (96, 96), (192, 192)), augment=0, Conv2d=Conv2d)
    layers = [each for each in net.layers if not isinstance(each, Dropout)]
    return Network(layers, SoftmaxWithLoss())


MLPS = {'784-60-47': (784, 60, 47), 'default': (784, 512, 256, 47),
        '1024x3': (784, 1024, 1024, 1024, 47)}
CNNS = {'cnn': cnn, 'wide': wide}


def make_networks(name):
    """-> the plain network of that name, and the fast one with the same weights or None."""
    if name in MLPS:
        return fully_connected(MLPS[name]), None
    plain = CNNS[name]()
    fast = CNNS[name](fast_conv2d.Conv2d, ParallelNetwork)
    fast.set_arrays(plain.arrays())
    return plain, fast


# The machine --------------------------------------------------------------------------------------

def optional(name):
    """The module of that name, None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def blas_threads(count):
    """A context in which NumPy's BLAS has so many threads, if threadpoolctl is installed."""
    controller = blas_controller()
    if controller is None:
        return contextlib.ExitStack()
    return controller.limit(limits=count, user_api='blas')


def about():
    """Two lines that say to what the numbers belong."""
    controller = blas_controller()
    found = controller.info() if controller else []
    libraries = [each for each in found if each['user_api'] == 'blas']
    kernels = libraries[0].get('architecture', 'unknown') if libraries else 'unknown'
    versions = [f'Python {platform.python_version()}', f'NumPy {np.__version__}']
    for name, title in (('torch', 'PyTorch'), ('sklearn', 'scikit-learn')):
        module = optional(name)
        versions.append(f'{title} {module.__version__ if module else "missing"}')
    return [', '.join(versions),
            f"{CORES} cores, {processor()}. Kernels of NumPy's BLAS: {kernels}"]


def processor():
    """The name of the processor, as far as the system tells it."""
    try:
        with open('/proc/cpuinfo') as file:
            names = [line.split(':')[1].strip() for line in file if line.startswith('model name')]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def load_rows(count):
    """The first rows of data/train.csv, else random ones: (N, 784) uint8 and labels (N,)."""
    path = os.path.join(ROOT, 'data', 'train.csv')
    if os.path.exists(path):
        pixels, label = read_train(path)
        if len(pixels) >= count:
            return np.ascontiguousarray(pixels[:count]), label[:count].astype(np.int64)
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 784), dtype=np.uint8), rng.integers(0, 47, count)


# The sides ----------------------------------------------------------------------------------------

def our_training(net, pixels, label, batch):
    """A function(rows) that trains an epoch, with Training's loop over batches."""
    def epoch(rows):
        training = Training(net, (pixels[:rows], label[:rows]), None, 1, batch, LEARNING_RATE,
                            momentum=MOMENTUM)
        training.train_rows(np.random.default_rng(0).permutation(rows), None)
    return epoch


class TorchSide(object):
    """PyTorch's network with the layers and the weights of ours, and its SGD."""

    def __init__(self, net):
        self.torch = importlib.import_module('torch')
        self.torch.set_num_threads(CORES)
        self.model = torch_model(net).to(memory_format=self.torch.channels_last)
        self.optimizer = self.torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE,
                                              momentum=MOMENTUM)

    def logits(self, pixels):
        return self.model(pixels.float().div_(255))

    def loss(self, pixels, label):
        return self.torch.nn.functional.cross_entropy(self.logits(pixels), label)

    def step(self, loss):
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def training(self, pixels, label, batch):
        pixels, label = self.torch.from_numpy(pixels), self.torch.from_numpy(label)

        def epoch(rows):
            self.model.train()
            for chosen in self.torch.randperm(rows).split(batch):
                self.step(self.loss(pixels[chosen], label[chosen]))
        return epoch

    def prediction(self, pixels):
        pixels = self.torch.from_numpy(pixels)

        def predict(rows):
            self.model.eval()
            with self.torch.inference_mode():
                for part in pixels[:rows].split(PREDICT_BATCH):
                    self.logits(part).softmax(1)
        return predict


def check_same_loss(net, torch_side, pixels, label):
    """SystemExit unless three losses, before and after two steps, are PyTorch's to a thousandth.

    For a ParallelNetwork, PyTorch's loss is the mean over the same parts of the batch.
    """
    parts = getattr(net, 'parts', 1)
    shares = [len(part) / len(pixels) for part in np.array_split(pixels, parts)]
    torch_pixels = torch_side.torch.from_numpy(pixels).tensor_split(parts)
    torch_label = torch_side.torch.from_numpy(label).tensor_split(parts)
    for step in range(3):
        ours = net.forward(pixels, label)[1]
        net.backward()
        net.update(LEARNING_RATE, momentum=MOMENTUM)
        loss = 0
        for share, part, part_label in zip(shares, torch_pixels, torch_label):
            loss = loss + share * torch_side.loss(part, part_label)
        torch_side.step(loss)
        theirs = loss.item()
        if not abs(ours - theirs) <= 1e-3 * abs(theirs):
            raise SystemExit(f'the benchmark stops: after {step} steps our loss is {ours:.6f} and '
                             f"PyTorch's is {theirs:.6f}, so they do not do the same work\n{net!r}")


def sklearn_training(net, pixels, label, batch):
    """A function(rows): one call of partial_fit is an epoch. alpha=0 means no weight decay."""
    hidden = [each.out_features for each in net.layers if isinstance(each, FullyConnected)][:-1]
    model = importlib.import_module('sklearn.neural_network').MLPClassifier(
        hidden, solver='sgd', alpha=0, batch_size=batch, learning_rate_init=LEARNING_RATE,
        momentum=MOMENTUM, nesterovs_momentum=False, random_state=0)

    def epoch(rows):
        scaled = pixels[:rows].astype(np.float32) / 255
        model.partial_fit(scaled, label[:rows], classes=np.arange(47))
    return epoch


def matrix_products(net, batch):
    """A function(rows) of the matrix products alone.

    A layer with weights (..., C, O) has R rows or pixels, and a kernel of t = 1 or k * k pixels:
    forward (R, tC) @ (tC, O), weight gradient (tC, R) @ (R, O), input gradient (R, tO) @ (tO, C).
    """
    rng = np.random.default_rng(0)
    pairs = []
    for each, shape in zip(net.layers, net.shapes()):
        if isinstance(each, (FullyConnected, layer.Conv2d)):
            channels, outputs = each.weight.shape[-2:]
            taps = each.weight.size // (channels * outputs)
            count = batch * int(np.prod(shape[:-1]))
            input = rng.random((count, taps * channels), dtype=np.float32)
            grad = rng.random((count, outputs), dtype=np.float32)
            weight = rng.random((taps * channels, outputs), dtype=np.float32)
            if pairs:      # no layer before the first is trained
                turned = rng.random((taps * outputs, channels), dtype=np.float32)
                pairs.append((rng.random((count, taps * outputs), dtype=np.float32), turned))
            pairs += [(input, weight), (input.T, grad)]

    def epoch(rows):
        for _ in range(rows // batch):
            for left, right in pairs:
                left @ right
    return epoch


# Measuring ----------------------------------------------------------------------------------------

def compare(part, measurement, sides, rows, repeats, reference):
    """Let the sides take turns -> a Row for each; ratios are to the side named `reference`."""
    counts = {side.name: max(PREDICT_BATCH, int(rows * side.share)) for side in sides}
    for side in sides:
        side.work(min(1000, counts[side.name]))
    times = {side.name: [] for side in sides}
    for _ in range(repeats):
        for side in sides:
            time.sleep(0.05)      # the threads of the side before stop spinning
            started = time.perf_counter()
            side.work(counts[side.name])
            seconds = time.perf_counter() - started
            times[side.name].append(seconds / counts[side.name])
    found = []
    for side in sides:
        ratios = []
        if reference in times and side.name != reference:
            ratios = np.divide(times[side.name], times[reference])
        seconds = np.multiply(times[side.name], EPOCH)
        found.append(Row(part, measurement, side.name, counts[side.name], *spread(seconds),
                         *spread(ratios)))
    return found


def spread(numbers):
    """-> median, least and greatest number. None for each if there is no number."""
    if len(numbers) == 0:
        return [None, None, None]
    return [float(np.median(numbers)), float(np.min(numbers)), float(np.max(numbers))]


def measure_training(name, rows, repeats):
    """An epoch of our network beside the others, for each batch size."""
    for batch in (100, 256) if name in MLPS else (128,):
        pixels, label = load_rows(rows)
        plain, fast = make_networks(name)
        products = matrix_products(plain, batch)
        # The plain convolution takes long, so it gets few rows
        sides = [Side('ours', our_training(plain, pixels, label, batch), 0.1 if fast else 1)]
        if fast:
            sides.append(Side('ours, fast', our_training(fast, pixels, label, batch), 1))
        if optional('torch'):
            for net in make_networks(name):
                if net is not None:
                    check_same_loss(net, TorchSide(net), pixels[:batch], label[:batch])
            work = TorchSide(plain).training(pixels, label, batch)
            sides.append(Side('PyTorch', work, 1))
        if optional('sklearn') and not fast:
            sides.append(Side('scikit-learn', sklearn_training(plain, pixels, label, batch), 1))
        sides.append(Side('products', products, 1))
        yield from compare(name, f'{name}, batch {batch}', sides, rows, repeats, 'PyTorch')


def measure_predict(rows, repeats):
    """Probabilities for rows of pixels, in batches of PREDICT_BATCH."""
    pixels, _ = load_rows(rows)
    for name in ('default', 'cnn', 'wide'):
        plain, fast = make_networks(name)
        net = fast or plain

        def predict(rows):
            net.predict(pixels[:rows], batch_size=PREDICT_BATCH)
        sides = [Side('ours, fast' if fast else 'ours', predict, 1)]
        if optional('torch'):
            sides.append(Side('PyTorch', TorchSide(net).prediction(pixels), 1))
        yield from compare('predict', f'predict, {name}', sides, rows, repeats, 'PyTorch')


def measure_csv(rows, repeats):
    """network.read_csv beside np.loadtxt, which the lab's template uses."""
    pixels, label = load_rows(CSV_ROWS)
    table = np.column_stack([label, pixels])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'rows.csv')
        pd.DataFrame(table).to_csv(path, header=False, index=False)

        def ours(rows):
            read_csv(path, 785)

        def loadtxt(rows):
            np.loadtxt(path, delimiter=',', dtype='int')
        sides = [Side('ours', ours, 1), Side('np.loadtxt', loadtxt, 1)]
        yield from compare('csv', 'read CSV', sides, CSV_ROWS, repeats, 'np.loadtxt')


PARTS = {'predict': measure_predict, 'csv': measure_csv}
NAMES = [*MLPS, *CNNS, *PARTS]


def measure(name, rows, repeats):
    """Yield the Rows of a part."""
    if name in PARTS:
        return PARTS[name](rows, repeats)
    return measure_training(name, rows, repeats)


# Table and figure ---------------------------------------------------------------------------------

def table_line(row):
    """A Row as a line of the printed table."""
    line = f'{row.measurement:26} {row.side:13} {row.rows:7} rows {row.seconds:9.2f} s'
    if row.ratio is not None:
        line += f'   ratio {row.ratio:5.2f} ({row.ratio_least:.2f} to {row.ratio_greatest:.2f})'
    return line


def write_csv(path, lines, rows):
    """The rows as CSV, below `lines` as comments."""
    with open(path, 'w') as file:
        for line in lines:
            file.write(f'# {line}\n')
        table = pd.DataFrame(rows, columns=Row._fields)
        table.to_csv(file, index=False, float_format='%.6g')


def draw(path, lines, rows):
    """A bar for each comparison: the median of our time over PyTorch's, with its range."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    shown = [row for row in rows if row.side == 'ours, fast' and row.ratio]
    shown += [row for row in rows if row.side == 'ours' and row.ratio and row.part in MLPS]
    shown += [row for row in rows if row.measurement == 'predict, default' and row.ratio]
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for place, row in enumerate(shown):
        error = [[row.ratio - row.ratio_least], [row.ratio_greatest - row.ratio]]
        axes.barh(place, row.ratio, xerr=error, color='#0072B2', capsize=3)
    axes.set_yticks(range(len(shown)))
    axes.set_yticklabels([f'{row.measurement}: {row.ratio:.2f}' for row in shown])
    axes.axvline(1, color='#D55E00', linestyle='--')
    axes.set_xlabel("our time / PyTorch's time (dashed line: equal)")
    axes.invert_yaxis()
    figure.text(0.01, 0.01, '\n'.join(lines), fontsize=7, color='0.35')
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description='Time the framework beside others.')
    parser.add_argument('--rows', type=int, default=6000, help='rows of an epoch (default: 6000)')
    parser.add_argument('--repeats', type=int, default=5, help='turns of the sides (default: 5)')
    parser.add_argument('--only', nargs='+', choices=NAMES, metavar='NAME',
                        help='of ' + ', '.join(NAMES))
    parser.add_argument('--output', help='the start of the names of the files .csv and .png '
                                         '(default: benchmark in this folder; --only: none)')
    options = parser.parse_args(arguments)
    if options.rows < PREDICT_BATCH or options.repeats < 1:
        parser.error(f'--rows must be {PREDICT_BATCH} or more, --repeats 1 or more')
    lines = about()
    print('\n'.join(lines + [f'Seconds are for {EPOCH} rows', '']))
    rows = []
    with blas_threads(CORES):
        for name in options.only or NAMES:
            for row in measure(name, options.rows, options.repeats):
                rows.append(row)
                print(table_line(row), flush=True)
    output = options.output
    if output is None and not options.only:      # a part does not take the place of the whole
        output = os.path.join(HOME, 'benchmark')
    if output:
        write_csv(output + '.csv', lines, rows)
        draw(output + '.png', lines, rows)


if __name__ == '__main__':
    main()
