#!/usr/bin/env python3
"""Train networks of several sizes, by our framework and by PyTorch: accuracy against minutes.

    python leaderboard/minutes.py train      every training that minutes.csv does not hold
    python leaderboard/minutes.py time       the seconds of an epoch: leave the machine alone
    python leaderboard/minutes.py draw       the table and the figure minutes.png

A row of minutes.csv is one training, written when it ends: a series that was stopped goes on with
the next one. After a change of train.py, delete the rows of its old settings. The row of `large`,
ours, seed 0, is that of the committed weights. Accuracies are balanced, in percent of the 8,000
validation rows. `corrected` is after the class-prior correction, `augmented` also with 8 copies of
each row, 7 of them augmented, if the network has Augment. The minutes of the figure come from
minutes-seconds.csv: ours and PyTorch take turns with a part of an epoch and of its validation. So
other work beside the trainings does not change them. `time` replaces the rows of the sizes that it
measures.
"""
import argparse
import functools
import itertools
import os
import sys

import numpy as np
import pandas as pd

HOME = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HOME)
sys.path[:0] = [ROOT, HOME]

import benchmark                                                                # noqa: E402
import torch_training                                                           # noqa: E402
from checkpoint import write_csv                                                # noqa: E402
from fast_conv2d import Conv2d                                                  # noqa: E402
from network import (CHARACTER_TRAINING, Network, Training, character_network,  # noqa: E402
                     read_train, score, split_rows)
from parallel import ParallelNetwork, blas_threads                              # noqa: E402
from train import NETWORKS, TRAININGS, predict_ways                             # noqa: E402

COLUMNS = ['size', 'side', 'seed', 'epochs', 'balanced', 'corrected', 'augmented']
OURS, PYTORCH = SIDES = ('ours', 'PyTorch')
SEEDS = (0, 1, 2)
SIZES = ('baseline', 'notebook', 'small', 'medium', 'large')
# The same channels, more epochs: an epoch takes as long, so it is not timed again.
TIMED_AS = {'medium': 'small'}
VALIDATION = 8000
# What differs from CHARACTER_TRAINING. The baseline, network.Network(), is as in the notebook.
SETTINGS = dict(TRAININGS, baseline={'epochs': 6, 'lr': 0.3, 'ema_decay': 0.0})


# The trainings ------------------------------------------------------------------------------------

def make_network(size, seed):
    """The network of that size, with its first weights."""
    rng = np.random.default_rng(seed)
    if size == 'baseline':
        return Network(rng=rng)
    return character_network(rng, Conv2d=Conv2d, Network=ParallelNetwork, **NETWORKS[size])


def make_training(size, side, seed, train, validation):
    """The training of that size, by our framework or by PyTorch."""
    settings = dict(CHARACTER_TRAINING, seed=seed, **SETTINGS[size])
    net = make_network(size, seed)
    if side == PYTORCH:
        net = torch_training.TorchNetwork(net)
    return Training(net, train, validation, **settings)


class Series(object):
    """The rows of minutes.csv, and the trainings that add to them."""

    def __init__(self, path, pixels, label):
        self.path = path
        self.rows = read_rows(path)
        train, validation = split_rows(len(pixels), VALIDATION, 0)
        self.train = (pixels[train], label[train].astype(np.int64))
        self.validation = (pixels[validation], label[validation].astype(np.int64))

    def run(self, size, side, seed):
        """Train, and add the row to the file, unless it is there already."""
        key = {'size': size, 'side': side, 'seed': seed}
        if any(key.items() <= row.items() for row in self.rows):
            return
        training = make_training(size, side, seed, self.train, self.validation)
        training.run(verbose=False)
        row = dict(key, epochs=training.epochs)
        row.update(self.accuracies(training.net))
        self.rows.append(row)
        print(', '.join(f'{name} {row[name]}' for name in COLUMNS), flush=True)
        write_csv(self.path, pd.DataFrame(self.rows, columns=COLUMNS))

    def accuracies(self, net):
        """The columns of balanced accuracy, in percent, of a Network or a TorchNetwork."""
        pixels, label = self.validation
        ways = predict_ways(net, pixels, self.train[1])
        ways.setdefault('augmented', ways['corrected'])      # a network without Augment
        found = {}
        for name, way in (('balanced', 'plain'), ('corrected', 'corrected'),
                          ('augmented', 'augmented')):
            predicted = ways[way].argmax(axis=1)
            found[name] = round(score(predicted, label).balanced_accuracy, 3)
        return found


def read_rows(path):
    """The rows of minutes.csv as dicts, none if it is missing. ValueError for another file."""
    if not os.path.exists(path):
        return []
    table = pd.read_csv(path)
    if list(table.columns) != COLUMNS:
        raise ValueError(f'{path} has the columns {", ".join(table.columns)}, expected '
                         f'{", ".join(COLUMNS)}: give another file as --results')
    return table.to_dict('records')


# The time of an epoch -----------------------------------------------------------------------------

def run_part(training, train, validation, rows):
    """Train one epoch of so many rows, and validate its share of the validation rows."""
    part = rows * VALIDATION // benchmark.EPOCH
    training.train = [array[:rows] for array in train]
    training.validation = [array[:part] for array in validation]
    training.run_epoch()


def measure(size, series, rows, repeats):
    """The seconds of an epoch of 92,000 rows, ours and PyTorch's in turns -> benchmark.Rows."""
    sides = []
    for name in SIDES if torch_training.torch else (OURS,):
        training = make_training(size, name, 0, series.train, series.validation)
        training.epochs = repeats + 1      # with the turn before the timing
        work = functools.partial(run_part, training, series.train, series.validation)
        sides.append(benchmark.Side(name, work, 1))
    with blas_threads(benchmark.CORES):
        return benchmark.compare(size, size, sides, rows, repeats)


# The figure ---------------------------------------------------------------------------------------

def summary(results, seconds):
    """-> a table with a line for each size and side: minutes, and mean, least, greatest accuracy.

    An accuracy is `augmented` where the network has Augment, else the same as `corrected`.
    """
    lines = []
    for size, side in itertools.product(SIZES, SIDES):
        runs = results[(results['size'] == size) & (results.side == side)]
        timed = seconds[(seconds.part == TIMED_AS.get(size, size)) & (seconds.side == side)]
        if len(runs) and len(timed):
            epochs = runs.epochs.iloc[0]
            lines.append({'size': size, 'side': side, 'epochs': epochs,
                          'minutes': timed.seconds.iloc[0] * epochs / 60, 'seeds': len(runs),
                          'mean': runs.augmented.mean(), 'least': runs.augmented.min(),
                          'greatest': runs.augmented.max()})
    return pd.DataFrame(lines)


def draw(table, path):
    """Accuracy against minutes: a point for each line of the summary, with its range."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    plt.rcdefaults()
    plt.rcParams['font.size'] = 12
    figure, axes = plt.subplots(figsize=(8, 4.2), constrained_layout=True)
    styles = {OURS: ('#0072B2', 'o-', 'this framework, NumPy'),
              PYTORCH: ('#D55E00', 's--', PYTORCH)}
    for side, (color, style, label) in styles.items():
        lines = table[table.side == side]
        error = [lines['mean'] - lines.least, lines.greatest - lines['mean']]
        axes.errorbar(lines.minutes, lines['mean'], error, color=color, fmt=style, capsize=4,
                      label=label)
    for line in table[table.side == OURS].itertuples():
        axes.annotate(line.size, (line.minutes, line.mean), (-6, 12), textcoords='offset points',
                      ha='right')
    axes.set_xscale('log')
    axes.minorticks_off()
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50])
    axes.xaxis.set_major_formatter('{x:g}')
    axes.set_xlabel('minutes of training on two cores')
    axes.set_ylabel('balanced accuracy in %')
    axes.grid(alpha=0.4)
    axes.margins(0.15, 0.12)
    axes.legend(loc='lower right')
    figure.savefig(path, dpi=150)
    plt.close(figure)


# The command --------------------------------------------------------------------------------------

def read_options(arguments):
    """The command line's arguments -> options."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('command', choices=['train', 'time', 'draw'])
    parser.add_argument('--only', nargs='+', choices=SIZES, metavar='SIZE', default=SIZES,
                        help='of ' + ', '.join(SIZES))
    parser.add_argument('--sides', nargs='+', choices=SIDES, metavar='SIDE', default=SIDES,
                        help='only for train: of ' + ', '.join(SIDES))
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS, metavar='N',
                        help='only for train')
    parser.add_argument('--rows', type=int, default=6400, help='only for time: of an epoch')
    parser.add_argument('--repeats', type=int, default=3, help='only for time: turns of the sides')
    parser.add_argument('--data', default=os.path.join(ROOT, 'data'), metavar='FOLDER')
    parser.add_argument('--results', default=os.path.join(HOME, 'minutes.csv'), metavar='FILE')
    options = parser.parse_args(arguments)
    options.start = os.path.splitext(options.results)[0]
    return options


def time_all(options, series):
    """Measure an epoch of each size, and write the table of seconds."""
    path = options.start + '-seconds.csv'
    rows = []
    wanted = {TIMED_AS.get(size, size) for size in options.only}
    sizes = [size for size in SIZES if size in wanted]
    if os.path.exists(path):      # the sizes that are not measured now keep their rows
        table = pd.read_csv(path, comment='#')
        rows = list(table[~table.part.isin(sizes)].itertuples(index=False))
        if rows:
            refuse_other_machine(path)
    for size in sizes:
        for row in measure(size, series, options.rows, options.repeats):
            rows.append(row)
            print(benchmark.table_line(row), flush=True)
    write_csv(path, pd.DataFrame(rows, columns=benchmark.Row._fields), benchmark.about())


def refuse_other_machine(path):
    """ValueError if the times in the file are of another machine or other versions."""
    with open(path) as file:
        found = [line[2:].rstrip() for line in file if line.startswith('# ')]
    if found != benchmark.about():
        raise ValueError(f'{path} is of another machine or of other versions: measure all sizes, '
                         'or give another file as --results')


def main(arguments=None):
    """Train, measure, or draw."""
    options = read_options(arguments)
    if options.command == 'draw':
        results = pd.read_csv(options.results)
        table = summary(results, pd.read_csv(options.start + '-seconds.csv', comment='#'))
        print(table.round(2).to_string(index=False))
        draw(table, options.start + '.png')
        return
    series = Series(options.results, *read_train(os.path.join(options.data, 'train.csv')))
    if options.command == 'time':
        time_all(options, series)
        return
    runs = itertools.product(options.seeds, options.only, options.sides)
    for seed, size, side in runs:
        if side == OURS or torch_training.torch:      # PyTorch, if it is missing, is left out
            series.run(size, side, seed)


if __name__ == '__main__':
    main()
