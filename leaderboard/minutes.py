#!/usr/bin/env python3
"""Train networks by our framework and by PyTorch: accuracy against minutes.

    python leaderboard/minutes.py train      every training that minutes.csv does not hold
    python leaderboard/minutes.py draw       the table and the figure minutes.png

A row of minutes.csv is one training. It holds the minutes of Training.run and the accuracies of the
weights after the last epoch, both of one run: let nothing else run meanwhile. It is written when
the training ends. So a series that was stopped goes on with the first training that is missing.
After a change of train.py or on another machine, move the file away. Accuracies are balanced, in
percent of 8,000 rows that were held back. `corrected` is after the class-prior correction,
`augmented` also with 8 copies of each row, 7 of them augmented, if the network has Augment.
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
from network import read_train, score, split_rows                               # noqa: E402
from parallel import blas_threads                                               # noqa: E402
from train import make_network, make_training, predict_ways                     # noqa: E402

COLUMNS = ['network', 'epochs', 'side', 'seed', 'minutes', 'balanced', 'corrected', 'augmented']
OURS, PYTORCH = SIDES = ('ours', 'PyTorch')
SEEDS = (0, 1, 2)
# The networks of train.py, with their epochs
RUNS = [('baseline', 6), ('connected', 30), ('notebook', 6), ('large', 4), ('large', 6),
        ('large', 12)]
VALIDATION = 8000


def run(key, train, validation):
    """Train (network, epochs, side, seed) -> a row of minutes.csv."""
    network, epochs, side, seed = key
    net = make_network(network, seed)
    if side == PYTORCH:
        net = torch_training.TorchNetwork(net)
    training = make_training(network, net, train, None, epochs=epochs, seed=seed)
    started = time.perf_counter()
    with blas_threads(CORES):
        training.run(verbose=False)
    seconds = time.perf_counter() - started
    ways = predict_ways(net, validation[0], train[1])
    ways.setdefault('augmented', ways['corrected'])      # a network without Augment
    # In the order of COLUMNS: balanced, corrected, augmented
    accuracies = [score(predict.argmax(axis=1), validation[1]).balanced_accuracy
                  for predict in ways.values()]
    return [*key, round(seconds / 60, 2), *np.round(accuracies, 3)]


def read_rows(path):
    """The table minutes.csv, empty if it is missing.

    ValueError for other columns, and for times of another machine or of other versions.
    """
    if not os.path.exists(path):
        return pd.DataFrame(columns=COLUMNS)
    with open(path) as file:
        found = [line[2:].rstrip() for line in file if line.startswith('# ')]
    table = pd.read_csv(path, comment='#')
    if found != about() or list(table.columns) != COLUMNS:
        raise ValueError(f'{path} is of another machine, of other versions or of another program: '
                         'give another file as --results')
    return table


def summary(rows):
    """-> a line for each network, epochs and side: means, and the least and greatest accuracy."""
    groups = rows.groupby(['network', 'epochs', 'side'], sort=False)
    table = groups.agg(seeds=('seed', 'size'), minutes=('minutes', 'mean'),
                       mean=('augmented', 'mean'), least=('augmented', 'min'),
                       greatest=('augmented', 'max'))
    return table.reset_index()


def draw(table, path):
    """Accuracy against minutes: a point for each line of the summary, with its range."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    plt.rcdefaults()
    plt.rcParams['font.size'] = 12
    figure, axes = plt.subplots(figsize=(8, 4.4), constrained_layout=True)
    styles = ((OURS, '#0072B2', 'o', 'this framework, NumPy'), (PYTORCH, '#D55E00', 's', PYTORCH))
    for side, color, marker, label in styles:
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
    pixels, label = read_train(os.path.join(options.data, 'train.csv'))
    train, validation = [(pixels[part], label[part])
                         for part in split_rows(len(pixels), VALIDATION, 0)]
    rows = read_rows(options.results).values.tolist()
    for seed, (network, epochs), side in itertools.product(options.seeds, RUNS, options.sides):
        key = [network, epochs, side, seed]
        wanted = network in options.only and (side == OURS or torch_training.torch)
        if wanted and key not in [row[:4] for row in rows]:
            rows.append(run(key, train, validation))
            print(*rows[-1], flush=True)
            write_csv(options.results, pd.DataFrame(rows, columns=COLUMNS), about())


if __name__ == '__main__':
    main()
