#!/usr/bin/env python3
"""Train networks by our framework and by PyTorch: accuracy against minutes.

    python leaderboard/minutes.py train      every training that minutes.csv does not hold
    python leaderboard/minutes.py draw       the table and the figure minutes.png

A row of minutes.csv is one training. It holds the minutes of Training.run and the accuracies of the
weights after the last epoch, both of the same run: leave the machine alone. It is written when the
training ends, so a series that was stopped goes on with the next one. After a change of train.py or
on another machine, move the file away. Accuracies are balanced, in percent of 8,000 rows that were
held back. `corrected` is after the class-prior correction, `augmented` also with 8 copies of each
row, 7 of them augmented, if the network has Augment.
"""
import argparse
import itertools
import os
import sys
import time

import numpy as np
import pandas as pd

HOME = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HOME)
sys.path[:0] = [ROOT, HOME]

import torch_training                                                           # noqa: E402
from benchmark import CORES, about                                              # noqa: E402
from checkpoint import write_csv                                                # noqa: E402
from network import Training, read_train, score, split_rows                     # noqa: E402
from parallel import blas_threads                                               # noqa: E402
from train import make_network, predict_ways, settings_of                       # noqa: E402

COLUMNS = ['network', 'epochs', 'side', 'seed', 'minutes', 'balanced', 'corrected', 'augmented']
OURS, PYTORCH = SIDES = ('ours', 'PyTorch')
SEEDS = (0, 1, 2)
# The networks of train.py, with their epochs
RUNS = [('baseline', 6), ('notebook', 6), ('large', 4), ('large', 6), ('large', 12)]
VALIDATION = 8000


class Series(object):
    """The rows of minutes.csv, and the trainings that add to them."""

    def __init__(self, path, pixels, label):
        self.path = path
        self.rows = read_rows(path)
        train, validation = split_rows(len(pixels), VALIDATION, 0)
        self.train = (pixels[train], label[train].astype(np.int64))
        self.validation = (pixels[validation], label[validation].astype(np.int64))

    def run(self, network, epochs, side, seed):
        """Train, and add the row to the file, unless it is there already."""
        row = {'network': network, 'epochs': epochs, 'side': side, 'seed': seed}
        if any(row.items() <= other.items() for other in self.rows):
            return
        net = make_network(network, seed)
        if side == PYTORCH:
            net = torch_training.TorchNetwork(net)
        settings = dict(settings_of(network), epochs=epochs, seed=seed)
        training = Training(net, self.train, None, **settings)
        started = time.perf_counter()
        with blas_threads(CORES):
            training.run(verbose=False)
        row['minutes'] = round((time.perf_counter() - started) / 60, 2)
        ways = predict_ways(net, self.validation[0], self.train[1])
        for name, way in (('balanced', 'plain'), ('corrected', 'corrected'),
                          ('augmented', 'augmented')):
            predict = ways.get(way, ways['corrected'])      # a network without Augment
            found = score(predict.argmax(axis=1), self.validation[1])
            row[name] = round(found.balanced_accuracy, 3)
        self.rows.append(row)
        print(', '.join(f'{name} {row[name]}' for name in COLUMNS), flush=True)
        write_csv(self.path, pd.DataFrame(self.rows, columns=COLUMNS), about())


def read_rows(path):
    """The rows of minutes.csv as dicts, none if it is missing.

    ValueError for other columns, and for times of another machine or of other versions.
    """
    if not os.path.exists(path):
        return []
    with open(path) as file:
        found = [line[2:].rstrip() for line in file if line.startswith('# ')]
    table = pd.read_csv(path, comment='#')
    if found != about() or list(table.columns) != COLUMNS:
        raise ValueError(f'{path} is of another machine, of other versions or of another program: '
                         'give another file as --results')
    return table.to_dict('records')


def summary(rows):
    """-> a line for each network, epochs and side: means, and the least and greatest accuracy.

    `ratio` is our mean time over PyTorch's, of the seeds that both have trained.
    """
    lines = []
    for (network, epochs), side in itertools.product(RUNS, SIDES):
        runs = rows[(rows.network == network) & (rows.epochs == epochs)].set_index('seed')
        own, theirs = [runs[runs.side == one] for one in (side, PYTORCH)]
        if len(own):
            both = own.index.intersection(theirs.index)
            lines.append({'network': network, 'epochs': epochs, 'side': side, 'seeds': len(own),
                          'minutes': own.minutes.mean(), 'mean': own.augmented.mean(),
                          'least': own.augmented.min(), 'greatest': own.augmented.max(),
                          'ratio': own.minutes[both].mean() / theirs.minutes[both].mean()})
    return pd.DataFrame(lines)


def draw(table, path):
    """Accuracy against minutes: a point for each line of the summary, with its range."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    plt.rcdefaults()
    plt.rcParams['font.size'] = 12
    figure, axes = plt.subplots(figsize=(8, 4.4), constrained_layout=True)
    styles = {OURS: ('#0072B2', 'o', 'this framework, NumPy'), PYTORCH: ('#D55E00', 's', PYTORCH)}
    for side, (color, marker, label) in styles.items():
        lines = table[table.side == side]
        error = [lines['mean'] - lines.least, lines.greatest - lines['mean']]
        axes.errorbar(lines.minutes, lines['mean'], error, color=color, fmt=marker, capsize=4,
                      label=label)
    for line in table[table.side == OURS].itertuples():
        axes.annotate(f'{line.network}, {line.epochs}', (line.minutes, line.mean), (-8, 4),
                      textcoords='offset points', ha='right', va='bottom')
    axes.set_xscale('log')
    axes.minorticks_off()
    axes.set_xticks([0.2, 0.5, 1, 2, 5, 10])
    axes.xaxis.set_major_formatter('{x:g}')
    axes.set_xlabel('minutes of training on two cores (at a point: network, epochs)')
    axes.set_ylabel('balanced accuracy in %')
    axes.grid(alpha=0.4)
    axes.margins(0.2, 0.12)
    axes.legend(loc='lower right')
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments=None):
    """Train, or draw."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('command', choices=['train', 'draw'])
    names = list(dict.fromkeys(network for network, _ in RUNS))
    parser.add_argument('--only', nargs='+', choices=names, metavar='NETWORK', default=names,
                        help='of ' + ', '.join(names))
    parser.add_argument('--epochs', type=int, nargs='+', metavar='N', help='only these epochs')
    parser.add_argument('--sides', nargs='+', choices=SIDES, metavar='SIDE', default=SIDES,
                        help='of ' + ', '.join(SIDES))
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS, metavar='N')
    parser.add_argument('--data', default=os.path.join(ROOT, 'data'), metavar='FOLDER')
    parser.add_argument('--results', default=os.path.join(HOME, 'minutes.csv'), metavar='FILE')
    options = parser.parse_args(arguments)
    if options.command == 'draw':
        table = summary(pd.read_csv(options.results, comment='#'))
        print(table.round(2).to_string(index=False))
        draw(table, os.path.splitext(options.results)[0] + '.png')
        return
    series = Series(options.results, *read_train(os.path.join(options.data, 'train.csv')))
    for seed, (network, epochs), side in itertools.product(options.seeds, RUNS, options.sides):
        wanted = network in options.only and epochs in (options.epochs or [epochs])
        if wanted and (side == OURS or torch_training.torch):      # without PyTorch, only ours
            series.run(network, epochs, side, seed)


if __name__ == '__main__':
    main()
