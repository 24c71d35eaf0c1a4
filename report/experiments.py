"""Train with one thing changed at a time, and write what each change does to the accuracy.

    python report/experiments.py                 all runs that report/experiments.csv does not hold
    python report/experiments.py --only loss     the settings of one factor

A setting starts from BASELINE and changes what its line in FACTORS says. Each setting has its own
search for the learning rate, with seed 0. Then all seeds train at the best rate of this search.
A row of the CSV file is one training; `search` says that it belongs to a search. A row is written
when its training ends, so a series that was stopped goes on where it was. Accuracies are in
percent of the 8,000 validation rows. `corrected` is balanced, after the class-prior correction;
`augmented` adds test-time augmentation. A training that diverged has no accuracies.
"""
import argparse
import os
import sys
import time

import numpy as np
import pandas as pd

HOME = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(HOME)
sys.path[:0] = [PROJECT, os.path.join(PROJECT, 'leaderboard')]

from checkpoint import replacing                                                      # noqa: E402
from fast_conv2d import Conv2d                                                        # noqa: E402
from layer import (_Layer, Augment, BatchNorm, Dropout, Flatten, FullyConnected,      # noqa: E402
                   MaxPool2d, PixelScaling, ReLU, Reshape, Sigmoid, SoftmaxWithLoss,
                   SquaredError, Tanh)
from network import (Network, character_network, one_cycle, read_train, score,        # noqa: E402
                     split_rows)
# COPIES is for facts.py
from train import COPIES, NETWORKS, predict_ways                                  # noqa: E402, F401

COLUMNS = ['factor', 'setting', 'seed', 'epochs', 'lr', 'weight_decay', 'search', 'validation',
           'balanced', 'corrected', 'augmented', 'cpu_seconds', 'wall_seconds']
ACCURACIES = ('validation', 'balanced', 'corrected', 'augmented')
# What the text of a cell is; float where nothing is said
KINDS = {'factor': str, 'setting': str, 'seed': int, 'epochs': int, 'epoch': int,
         'search': {'True': True, 'False': False}.__getitem__}


# The settings -------------------------------------------------------------------------------------

class LeakyReLU(_Layer):
    """h(a) = a where a > 0, else 0.01 a."""

    def forward(self, input):
        self.slope = np.where(input > 0, input.dtype.type(1), input.dtype.type(0.01))
        return self.slope * input

    def backward(self, output_grad):
        return output_grad * self.slope


def fully_connected(rng, hidden=(512, 256), activation=ReLU, mean=0.0, std=1.0, norm=False,
                    template_weights=False, dropout=0.0, augment=None, loss=None):
    """784 pixels, hidden layers, 47 classes."""
    layers = [PixelScaling(mean, std)]
    if augment:
        layers += [Augment(rng=rng, **augment)]
    inputs = 784
    for outputs in hidden:
        layers += [FullyConnected(inputs, outputs, rng)]
        layers += [BatchNorm(outputs), activation()] if norm else [activation()]
        layers += [Dropout(dropout, rng)] if dropout else []
        inputs = outputs
    layers += [FullyConnected(inputs, 47, rng)]
    if template_weights:       # as in the lab's template: np.random.randn(...) * 0.01
        for layer in layers:
            if isinstance(layer, FullyConnected):
                layer.weight[...] = 0.01 * rng.standard_normal(layer.weight.shape)
    return Network(layers, loss)


def convolutional(rng, norm=False):
    """Three convolutions with pooling, 128 hidden units, 47 classes."""
    layers = [PixelScaling(), Reshape(28, 28, 1)]
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [Conv2d(inputs, outputs, rng=rng), MaxPool2d()]
        layers += [BatchNorm(outputs), ReLU()] if norm else [ReLU()]
    layers += [Flatten(), FullyConnected(4 * 4 * 64, 128, rng)]
    layers += [BatchNorm(128), ReLU()] if norm else [ReLU()]
    return Network(layers + [FullyConnected(128, 47, rng)])


def notebook_network(rng, augment=0, dropout=0.1, loss=None):
    """The convolutional network that the notebook trains."""
    settings = dict(NETWORKS['notebook'], dropout=dropout, augment=augment)
    net = character_network(rng, Conv2d=Conv2d, **settings)
    if loss is not None:
        net.loss = loss
    return net


SEEDS = (0, 1, 2)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
BASELINE = {'make': fully_connected, 'epochs': 6, 'batch_size': 128, 'lr': 0.1,
            'schedule': one_cycle, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 5e-4,
            'ema_decay': 0.0}
CONVOLUTIONAL = {'make': convolutional}
NOTEBOOK = {'make': notebook_network, 'ema_decay': 0.99}
GENTLE = {'rotation': 8, 'scale': 0.08, 'shear': 0.1, 'shift': 1, 'elastic': 0.5}

# factor -> {setting: what it changes of BASELINE}, in the order of the runs. The search for the
# learning rate starts at 'lr'.
FACTORS = {
    'baseline': {'784-512-256-47, ReLU': {}},
    'input': {
        'raw pixels, weights 0.01 N(0, 1)':
            {'std': 1 / 255, 'template_weights': True, 'lr': 3e-3},
        'raw pixels, He weights': {'std': 1 / 255, 'lr': 3e-3},
        'scaled pixels, weights 0.01 N(0, 1)': {'template_weights': True},
        'standardised pixels': {'mean': 0.1727, 'std': 0.3313}},
    'activation': {
        'Sigmoid, no weight decay': {'activation': Sigmoid, 'weight_decay': 0.0, 'lr': 1.0},
        'Sigmoid': {'activation': Sigmoid, 'lr': 0.3},
        'Tanh': {'activation': Tanh},
        'LeakyReLU': {'activation': LeakyReLU}},
    'loss': {
        'squared error, no weight decay': {'loss': SquaredError(), 'weight_decay': 0.0, 'lr': 0.3},
        'squared error': {'loss': SquaredError(), 'lr': 0.3},
        'label smoothing 0.1': {'loss': SoftmaxWithLoss(0.1)},
        'notebook, no smoothing': dict(NOTEBOOK, loss=SoftmaxWithLoss())},
    'convolution': {'notebook': NOTEBOOK, '16-32-64 channels': CONVOLUTIONAL},
    'hidden layers': {
        '60': {'hidden': (60,)},
        '1024-512': {'hidden': (1024, 512)},
        '512-512-256-256': {'hidden': (512, 512, 256, 256)}},
    'batch norm': {
        'after each sum': {'norm': True},
        'after each convolution': dict(CONVOLUTIONAL, norm=True)},
    'epochs': {'15': {'epochs': 15}},
    'momentum': {
        'none': {'momentum': 0.0, 'nesterov': False, 'lr': 1.0},
        '0.9, not Nesterov': {'nesterov': False}},
    'schedule': {'constant': {'schedule': None, 'lr': 0.03}},
    'batch size': {'32': {'batch_size': 32}, '512': {'batch_size': 512, 'lr': 0.3}},
    'weight decay': {'0': {'weight_decay': 0.0}, '0.002': {'weight_decay': 2e-3}},
    'dropout': {'0.1': {'dropout': 0.1}, '0.3': {'dropout': 0.3},
                'notebook, none': dict(NOTEBOOK, dropout=0.0)},
    'averaging of the weights': {'0.99': {'ema_decay': 0.99},
                                 'notebook, none': dict(NOTEBOOK, ema_decay=0.0)},
    'augmentation': {'gentle': {'augment': GENTLE}, 'notebook': dict(NOTEBOOK, augment=2)},
}
FIRST = ('baseline', '784-512-256-47, ReLU')
SMALL = ('convolution', 'notebook')
# What a setting is compared with, where that is not the baseline
REFERENCES = {
    ('batch norm', 'after each convolution'): ('convolution', '16-32-64 channels'),
    ('loss', 'notebook, no smoothing'): SMALL,
    ('dropout', 'notebook, none'): SMALL,
    ('averaging of the weights', 'notebook, none'): SMALL,
    ('augmentation', 'notebook'): SMALL,
}


# The runs -----------------------------------------------------------------------------------------

class Series(object):
    """The rows of a CSV file, and the trainings that add to them."""

    def __init__(self, path, data, label):
        self.path = path
        self.rows = read_table(path, COLUMNS).to_dict('records') if os.path.exists(path) else []
        train, validation = split_rows(len(data), 8000, 0)
        self.train = (data[train], label[train])
        self.validation = (data[validation], label[validation])

    def find_rate(self, factor, setting, settings):
        """Train with seed 0, until both neighbours of the best learning rate were tried, too."""
        wanted = [RATES.index(settings['lr'])]
        tried = {}
        while wanted:
            for index in wanted:
                row = self.run(factor, setting, 0, dict(settings, lr=RATES[index]), search=True)
                tried[index] = -1.0 if np.isnan(row['balanced']) else row['balanced']
            best = max(tried, key=tried.get)
            wanted = [index for index in (best - 1, best + 1)
                      if index not in tried and 0 <= index < len(RATES)]
        return RATES[best]

    def run(self, factor, setting, seed, settings, search):
        """Return the row of one training. Train, and add the row, only if it is not there yet."""
        key = {'factor': factor, 'setting': setting, 'seed': seed, 'epochs': settings['epochs'],
               'lr': settings['lr'], 'weight_decay': settings['weight_decay']}
        same = [row for row in self.rows if key.items() <= row.items()]
        if same:      # what the search has trained counts as this seed's run, too
            row = dict(same[0], search=search)
        else:
            trained = train_once(self.train, self.validation, seed, **settings)
            row = dict(key, search=search, **trained)
        if search not in [other['search'] for other in same]:
            self.rows.append(row)
            print(row, flush=True)
            text = pd.DataFrame(self.rows, columns=COLUMNS).to_csv(index=False)
            with replacing(self.path) as file:
                file.write(text.encode('utf-8'))
        return row


def read_table(path, columns):
    """Read columns of a CSV file -> a table. FileNotFoundError, or ValueError if one is wrong.

    Only an accuracy may be empty.
    """
    try:
        texts = pd.read_csv(path, usecols=columns, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise ValueError(f'{path}: {error}: it needs the columns {", ".join(columns)}')
    table = {name: [] for name in columns}
    for line, row in enumerate(texts.to_dict('records'), 2):
        for name, text in row.items():
            kind = accuracy if name in ACCURACIES else KINDS.get(name, float)
            try:
                table[name].append(kind(text))
            except (ValueError, KeyError):
                raise ValueError(f'{path}, line {line}: {name} is {text!r}')
    return pd.DataFrame(table)


def accuracy(text):
    """The text of a cell -> its number, nan if it is empty."""
    return float(text or 'nan')


def train_once(train, validation, seed, make, **settings):
    """One training -> its columns of the CSV file. `settings` are those of `fit` and of `make`."""
    fit = {name: settings.pop(name) for name in BASELINE if name in settings}
    net = make(np.random.default_rng(seed), **settings)
    row = dict.fromkeys(ACCURACIES, np.nan)
    cpu, wall = time.process_time(), time.time()
    try:
        net.fit(train, validation, seed=seed, verbose=False, **fit)
        data, label = validation
        ways = predict_ways(net, data, train[1])
        scores = {way: score(ways[way].argmax(axis=1), label) for way in ways}
        row['validation'] = round(scores['plain'].accuracy, 3)
        row['balanced'] = round(scores.pop('plain').balanced_accuracy, 3)
        for way in scores:
            row[way] = round(scores[way].balanced_accuracy, 3)
    except FloatingPointError:
        pass      # it diverged: the row stays empty
    row['cpu_seconds'] = round(time.process_time() - cpu, 1)
    row['wall_seconds'] = round(time.time() - wall, 1)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', nargs='+', choices=sorted(FACTORS), metavar='FACTOR')
    factors = parser.parse_args().only or FACTORS
    data, label = read_train(os.path.join(PROJECT, 'data', 'train.csv'))
    series = Series(os.path.join(HOME, 'experiments.csv'), data, label)
    for factor in factors:
        for setting, changes in FACTORS[factor].items():
            settings = dict(BASELINE, **changes)
            settings['lr'] = series.find_rate(factor, setting, settings)
            for seed in SEEDS:
                series.run(factor, setting, seed, settings, search=False)


if __name__ == '__main__':
    main()
