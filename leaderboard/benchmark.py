#!/usr/bin/env python3
"""How fast is the framework? It times an epoch, and prediction, beside PyTorch and scikit-learn.

    python leaderboard/benchmark.py                   some minutes on two cores
    python leaderboard/benchmark.py --only large      some networks of it, only printed

The sides get the same network, weights and rows:

    ours            network.Network with the layers of layer.py
    ours, fast      the same numbers by ParallelNetwork and the fast convolution of this folder
    PyTorch         eager mode on the CPU with all cores, images channels-last
    scikit-learn    MLPClassifier.partial_fit, for the networks that it knows

An epoch takes random uint8 rows in a new order, scales them, and makes a step of SGD with momentum
for each batch. Before the timing, the losses of ours and of PyTorch must be equal. The sides take
turns, so that a slow moment of the machine meets all of them. A ratio is of two times of one turn.
A side whose package is missing is left out. benchmark.csv holds the seconds of each turn, for
92,000 rows.
"""
import argparse
import contextlib
import importlib
import os
import platform
import sys
import time

import numpy as np
import pandas as pd

HOME = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HOME)]

import fast_conv2d                                                              # noqa: E402
from checkpoint import write_csv                                                # noqa: E402
from layer import Conv2d, Dropout, FullyConnected, PixelScaling, ReLU           # noqa: E402
from network import (CHARACTER_TRAINING, Network, Training,                     # noqa: E402
                     character_network)
from parallel import ParallelNetwork, blas_kernels, blas_threads                # noqa: E402
from torch_training import TorchNetwork                                         # noqa: E402
from train import NETWORKS                                                      # noqa: E402

CORES = os.cpu_count() or 1
EPOCH = 92000                # the lab's 100,000 training rows without 8,000 for validation
LEARNING_RATE, MOMENTUM = 0.01, 0.9
LEAST_ROWS = 256             # of a side
KEYS = ['network', 'measurement', 'side']


# The networks -------------------------------------------------------------------------------------

def fully_connected(sizes):
    """The network of fully connected layers of these sizes, with ReLU between them."""
    rng = np.random.default_rng(0)
    layers = [PixelScaling()]
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [FullyConnected(inputs, outputs, rng), ReLU()]
    return Network(layers[:-1])


MLPS = {'784-60-47': (784, 60, 47), 'baseline': (784, 512, 256, 47),
        '1024x3': (784, 1024, 1024, 1024, 47)}
CNNS = ['notebook', 'large']      # of train.py, without what draws random numbers
NAMES = [*MLPS, *CNNS]


def make_networks(name):
    """-> the plain network of that name, and the fast one with the same weights or None."""
    if name in MLPS:
        return fully_connected(MLPS[name]), None
    nets = []
    for kind, convolution in ((Network, Conv2d), (ParallelNetwork, fast_conv2d.Conv2d)):
        settings = dict(NETWORKS[name], augment=0)
        layers = character_network(Conv2d=convolution, **settings).layers
        nets.append(kind([each for each in layers if not isinstance(each, Dropout)]))
    return nets


# The machine --------------------------------------------------------------------------------------

def optional(name):
    """The module of that name, None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def about():
    """Two lines that say to what the numbers belong."""
    versions = [f'Python {platform.python_version()}', f'NumPy {np.__version__}']
    for name, title in (('torch', 'PyTorch'), ('sklearn', 'scikit-learn')):
        module = optional(name)
        versions.append(f'{title} {module.__version__ if module else "missing"}')
    return [', '.join(versions),
            f"{CORES} cores, {processor()}. Kernels of NumPy's BLAS: {blas_kernels()}"]


def processor():
    """The name of the processor, as far as the system tells it."""
    with contextlib.suppress(OSError), open('/proc/cpuinfo') as file:
        for line in file:
            if line.startswith('model name'):
                return line.split(':')[1].strip()
    return platform.machine()


def random_rows(count):
    """Random rows, which take as long as others: pixels (N, 784) uint8 and labels (N,)."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 784), dtype=np.uint8), rng.integers(0, 47, count)


# The sides ----------------------------------------------------------------------------------------

def epochs_of(net, rows, batch):
    """A function(count) that trains an epoch of so many of the rows in a new order."""
    training = Training(net, rows, None, 1, batch, LEARNING_RATE, momentum=MOMENTUM)
    rng = np.random.default_rng(0)
    return lambda count: training.train_rows(rng.permutation(count), None)


def check_same_loss(net, theirs, pixels, label):
    """SystemExit unless our loss and PyTorch's are equal to a thousandth: the same work."""
    net.parts = 1      # of a ParallelNetwork: PyTorch's BatchNorm sees the whole batch
    our_loss, loss = [each.forward(pixels, label)[1] for each in (net, theirs)]
    if not abs(our_loss - loss) <= 1e-3 * abs(loss):
        raise SystemExit(f'the benchmark stops: our loss is {our_loss:.6f}, PyTorch\'s is '
                         f'{loss:.6f}, so they do not do the same work\n{net!r}')


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


# Measuring ----------------------------------------------------------------------------------------

def take_turns(sides, repeats):
    """{side: (function(rows), rows)} -> a list of (side, turn, seconds for 92,000 rows)."""
    for work, rows in sides.values():
        work(min(1000, rows))
    found = []
    for turn in range(repeats):
        for side, (work, rows) in sides.items():
            time.sleep(0.05)      # the threads of the side before stop spinning
            started = time.perf_counter()
            work(rows)
            seconds = time.perf_counter() - started
            found.append((side, turn, seconds * EPOCH / rows))
    return found


def measure(name, rows, repeats):
    """-> a table with the seconds of each turn: epochs of a network, then predictions."""
    batch = 100 if name in MLPS else CHARACTER_TRAINING['batch_size']
    pixels, label = random_rows(rows)
    plain, fast = make_networks(name)
    best, best_net = ('ours, fast', fast) if fast else ('ours', plain)
    # The plain convolution takes long, so it gets few rows
    few = max(LEAST_ROWS, rows // 10) if fast else rows
    epochs = {'ours': (epochs_of(plain, (pixels, label), batch), few),
              best: (epochs_of(best_net, (pixels, label), batch), rows)}
    predictions = {best: (lambda count: best_net.predict(pixels[:count]), rows)}
    if optional('torch'):
        for net in make_networks(name):
            if net is not None:
                check_same_loss(net, TorchNetwork(net), pixels[:batch], label[:batch])
        theirs = TorchNetwork(make_networks(name)[0])
        epochs['PyTorch'] = (epochs_of(theirs, (pixels, label), batch), rows)
        predictions['PyTorch'] = (lambda count: theirs.predict(pixels[:count]), rows)
    if optional('sklearn') and not fast:
        epochs['scikit-learn'] = (sklearn_training(plain, pixels, label, batch), rows)
    times = [(name, measurement) + turn
             for measurement, sides in (('epoch', epochs), ('prediction', predictions))
             for turn in take_turns(sides, repeats)]
    return pd.DataFrame(times, columns=KEYS + ['turn', 'seconds'])


def summary(times):
    """Medians, least and greatest seconds, and the same of the ratios to PyTorch's, by turn."""
    place = KEYS[:2] + ['turn']
    theirs = times[times.side == 'PyTorch'].set_index(place).seconds
    times = times.join(theirs.rename('theirs'), on=place)
    times['ratio'] = times.seconds / times.theirs
    groups = times.groupby(KEYS, sort=False)
    return groups[['seconds', 'ratio']].agg(['median', 'min', 'max'])


def main(arguments=None):
    parser = argparse.ArgumentParser(description='Time the framework beside others.')
    parser.add_argument('--rows', type=int, default=6000, help='rows of an epoch (default: 6000)')
    parser.add_argument('--repeats', type=int, default=5, help='turns of the sides (default: 5)')
    parser.add_argument('--only', nargs='+', choices=NAMES, metavar='NAME',
                        help='of ' + ', '.join(NAMES))
    parser.add_argument('--output', metavar='FILE',
                        help='default: benchmark.csv in this folder, none with --only')
    options = parser.parse_args(arguments)
    if options.rows < LEAST_ROWS or options.repeats < 1:
        parser.error(f'--rows must be {LEAST_ROWS} or more, --repeats 1 or more')
    print('\n'.join(about() + [f'Seconds are for {EPOCH} rows']))
    tables = []
    with blas_threads(CORES):
        for name in options.only or NAMES:
            tables.append(measure(name, options.rows, options.repeats))
            print(summary(tables[-1]).round(2).to_string(), flush=True)
    output = options.output or (not options.only and os.path.join(HOME, 'benchmark.csv'))
    if output:      # a part does not take the place of the whole
        write_csv(output, pd.concat(tables), about())


if __name__ == '__main__':
    main()
