#!/usr/bin/env python3
"""Train the network for the leaderboard, and write the submission.

    python leaderboard/train.py                     keeps 8000 rows for validation
    python leaderboard/train.py --validation 0      trains on all rows

It saves a checkpoint after each epoch. The same command, started again, goes on from there, and
ends with the same bits. README.md beside this file says more.
"""
import argparse
import os
import sys

import numpy as np
import pandas as pd

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'data')]

from check import refuse_misplaced      # noqa: E402
from checkpoint import Checkpoint, write_csv, write_npz      # noqa: E402
from csv_files import is_stand_in      # noqa: E402
from fast_conv2d import Conv2d      # noqa: E402
from layer import (Augment, BatchNorm, Dropout, FullyConnected, PixelScaling,      # noqa: E402
                   ReLU, SoftmaxWithLoss)
from network import (CHARACTER_TRAINING, CLASS_NAMES, Network, Training,      # noqa: E402
                     character_network, check_finite, correct_class_prior, even_class_counts,
                     read_csv, read_train, score, split_rows, write_submission)
from parallel import ParallelNetwork, blas_kernels      # noqa: E402

COPIES = 8      # of each row, for test-time augmentation

# --network NAME: the layers that character_network makes, and what differs from CHARACTER_TRAINING
NETWORKS = {
    'tiny': {'stages': ((2,), (2,), (2,)), 'hidden': 8},        # to try the command
    'notebook': {'stages': ((16,), (32,), (64,)), 'hidden': 128, 'dropout': 0.1, 'augment': 0},
    'large': {},
}
TRAININGS = {
    'tiny': {'epochs': 1},
    'baseline': {'epochs': 6, 'batch_size': 128, 'lr': 0.3, 'ema_decay': 0.0},      # Network()
    'notebook': {'epochs': 6, 'batch_size': 128, 'lr': 0.1, 'ema_decay': 0.99},
    'connected': {'epochs': 30},
    'large': {},
}


def make_network(name, seed):
    """The network of that name, with its first weights."""
    rng = np.random.default_rng(seed)
    if name == 'baseline':
        return Network(rng=rng)
    if name == 'connected':
        return connected(rng)
    return character_network(rng, Conv2d=Conv2d, Network=ParallelNetwork, **NETWORKS[name])


def connected(rng):
    """784-1024-1024-47, fully connected. Its images are changed more strongly than for `large`."""
    layers = [PixelScaling(), Augment(rotation=8, scale=0.08, shear=0.1, shift=1, elastic=0.5,
                                      rng=rng)]
    for inputs in (28 * 28, 1024):
        layers += [FullyConnected(inputs, 1024, rng), BatchNorm(1024), ReLU(), Dropout(0.1, rng)]
    layers += [FullyConnected(1024, len(CLASS_NAMES), rng)]
    return ParallelNetwork(layers, SoftmaxWithLoss(label_smoothing=0.1))


def make_training(name, net, train, validation, **changes):
    """A new training of the network of that name, or of its copy in PyTorch."""
    settings = dict(CHARACTER_TRAINING, **TRAININGS[name])
    return Training(net, train, validation, **dict(settings, **changes))


# What is printed ----------------------------------------------------------------------------------

def say(text, stream=None):
    """Print in ASCII, which every terminal can show, whatever the names of files are."""
    text = text.encode('ascii', 'backslashreplace').decode('ascii')
    print(text, file=stream or sys.stdout, flush=True)


def predict_ways(net, data, train_label):
    """-> {way of prediction: probabilities (N, 47)} of a network for rows (N, 784).

    'augmented' is the mean over augmented copies, then corrected; only for a network with Augment.
    """
    ways = {'plain': net.predict(data)}
    ways['corrected'] = correct_class_prior(ways['plain'], train_label)
    if any(isinstance(layer, Augment) for layer in net.layers):
        augmented = net.predict_augmented(data, COPIES)
        ways['augmented'] = correct_class_prior(augmented, train_label)
    return ways


# The command --------------------------------------------------------------------------------------

def read_options(arguments):
    """The command line's arguments -> options. Wrong usage ends with exit code 2."""
    parser = argparse.ArgumentParser(
        description='Train the network for the leaderboard, or go on from its checkpoint, and '
                    'write the submission.',
        epilog='Exit code: 0 done, 1 refused or failed (the reason on stderr), 2 wrong usage, '
               '130 stopped by Ctrl-C.')
    parser.add_argument('--data', default='data', metavar='FOLDER',
                        help='folder of train.csv and test.csv (default: %(default)s)')
    parser.add_argument('--validation', type=int, default=8000, metavar='ROWS',
                        help='rows kept for validation, 0 to train on all (default: %(default)s)')
    parser.add_argument('--network', choices=list(TRAININGS), default='large', metavar='NAME',
                        help=', '.join(TRAININGS) + '; tiny only tries the command '
                             '(default: %(default)s)')
    parser.add_argument('--epochs', type=int, metavar='N', help='default: as the network needs')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='default: %(default)s')
    parser.add_argument('--checkpoint', default='training.npz', metavar='FILE',
                        help='saved after each epoch (default: %(default)s)')
    parser.add_argument('--weights', default='character_network.npz', metavar='FILE',
                        help='the curve goes beside it as .csv (default: %(default)s)')
    parser.add_argument('--submission', default='DLAD-test-predict.csv', metavar='FILE',
                        help='default: %(default)s')
    options = parser.parse_args(arguments)
    too_few = options.epochs is not None and options.epochs < 1
    if too_few or options.validation < 0 or options.seed < 0:
        parser.error('--epochs must be 1 or more, --validation and --seed 0 or more')
    options.curve = os.path.splitext(options.weights)[0] + '.csv'
    return options


def check_paths(options):
    """Refuse, before any long work, files that cannot be written or overwrite each other."""
    paths = [options.checkpoint, options.weights, options.curve, options.submission]
    for path in paths:
        if os.path.isdir(path) or not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise OSError(f'{path} cannot be written: expected a file in a folder that exists')
    if len(set(map(os.path.realpath, paths))) < len(paths):
        raise ValueError(f'two of the files {", ".join(paths)} are the same: choose other names')


def refuse_stand_in(options):
    """Refuse to write predictions for the stand-in under the name of the submission."""
    paths = [os.path.join(options.data, name) for name in ('train.csv', 'test.csv')]
    if any(map(is_stand_in, paths)) and 'DLAD' in os.path.basename(options.submission):
        raise ValueError(f'{options.data} holds the stand-in, not the data of the competition: '
                         'name another file as --submission, and do not hand it in')


def read_data(folder):
    """Read train.csv and test.csv -> pixels (N, 784), labels (N,), test pixels (M, 784).

    ValueError if the test has fewer rows than classes.
    """
    pixels, label = read_train(os.path.join(folder, 'train.csv'))
    path = os.path.join(folder, 'test.csv')
    test = read_csv(path, pixels.shape[1])
    if len(test) < len(CLASS_NAMES):
        raise ValueError(f'{path} has {len(test)} rows, expected at least {len(CLASS_NAMES)}, as '
                         'the predictions are corrected for equally many rows of each class: use '
                         'the whole test.csv of this lab')
    return pixels, label, test


def wanted_training(options, pixels, label):
    """The training that the options ask for, at the first epoch."""
    train = (pixels, label)
    validation = None
    if options.validation > len(pixels) - 2:      # BatchNorm needs two rows
        raise ValueError(f'--validation {options.validation} leaves fewer than two of the '
                         f'{len(pixels)} rows to train on')
    if options.validation:
        chosen, kept = split_rows(len(pixels), options.validation, 0)
        train = (pixels[chosen], label[chosen])
        validation = (pixels[kept], label[kept])
    changes = {'seed': options.seed}
    if options.epochs:
        changes['epochs'] = options.epochs
    net = make_network(options.network, options.seed)
    return make_training(options.network, net, train, validation, **changes)


def save_weights(net, path):
    """Write the weights as float16. FloatingPointError if one is too large for it."""
    with np.errstate(over='ignore'):      # check_finite says more
        arrays = {name: array.astype(np.float16) for name, array in net.arrays().items()}
    for name, array in arrays.items():
        check_finite(f'{name} as float16', array)
    write_npz(path, dict(arrays, held_back=np.array(sorted(net.held_back))))


def run(options):
    """Train to the end, then write weights, curve and submission."""
    refuse_misplaced(options.data)
    refuse_stand_in(options)
    check_paths(options)
    pixels, label, test = read_data(options.data)
    training = wanted_training(options, pixels, label)
    say(f'{training.net!r}\nBLAS: {blas_kernels()}, {os.cpu_count()} cores')

    checkpoint = Checkpoint(options.checkpoint, training)
    checkpoint.load()
    if training.history:
        say(f'{options.checkpoint}: {len(training.history)} of {training.epochs} epochs are done')
    training.run(checkpoint.save)
    save_weights(training.net, options.weights)
    training.net.load(options.weights)      # what predicts is what was saved
    curve = pd.json_normalize(training.history, sep='_')
    # Without validation its column is empty
    write_csv(options.curve, curve.dropna(axis=1, how='all').round(4))
    say(f'Predicting, with {COPIES} augmented copies of each row')
    if training.validation:
        data, true = training.validation
        predict = training.net.predict_augmented(data, COPIES)
        predicted = correct_class_prior(predict, training.train[1]).argmax(axis=1)
        say('Validation, with class-prior correction: balanced '
            f'{score(predicted, true).balanced_accuracy:.2f} %')
    predict = training.net.predict_augmented(test, COPIES)
    predicted = even_class_counts(predict).argmax(axis=1)
    write_submission(options.submission, predicted)
    say(f'Wrote {options.weights}, {options.curve} and {options.submission}')


def main(arguments=None):
    """Run the command line; return its exit code."""
    options = read_options(arguments)
    try:
        run(options)
        return 0
    except KeyboardInterrupt:
        code = 130
        message = 'stopped before the first epoch was done; the same command starts again'
        if os.path.exists(options.checkpoint):
            message = f'stopped; the same command goes on from {options.checkpoint}'
    except (ValueError, OSError, FloatingPointError) as error:
        code = 1
        message = str(error)
    say(f'train.py: {message}', sys.stderr)
    return code


if __name__ == '__main__':
    sys.exit(main())
