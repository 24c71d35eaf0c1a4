"""Train with one thing changed at a time, and write what each change does to the accuracy.

    python report/experiments.py                 all runs that report/experiments.csv does not hold
    python report/experiments.py --only loss     the settings of one factor

A setting starts from BASELINE and changes what its line in FACTORS says. Each setting has its own
search for the learning rate, with seed 0. Then all seeds train at the best rate of this search.
A row of the CSV file is one training; `search` says that it belongs to a search. A row is written
when its training ends, so a series that was stopped goes on where it was. Accuracies are in
percent of the 8,000 validation rows. `corrected` is the balanced accuracy after the class-prior
correction; `augmented` adds test-time augmentation, for a network with Augment. A training that
diverged has no accuracies. cpu_seconds depends less than wall_seconds on the machine's other work.
The convolutions are those of leaderboard/fast_conv2d.py: the numbers of the plain ones up to
rounding, in half the time.
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

from fast_conv2d import Conv2d                                                        # noqa: E402
from layer import (Augment, BatchNorm, Dropout, Flatten, FullyConnected,              # noqa: E402
                   LeakyReLU, MaxPool2d, PixelScaling, ReLU, Reshape, Sigmoid, SoftmaxWithLoss,
                   SquaredError, Tanh)
from network import (Network, character_network, correct_class_prior, one_cycle,      # noqa: E402
                     read_train, replacing, score, split_rows)

COLUMNS = ['factor', 'setting', 'seed', 'epochs', 'lr', 'weight_decay', 'search', 'validation',
           'balanced', 'corrected', 'augmented', 'cpu_seconds', 'wall_seconds']


# The settings -------------------------------------------------------------------------------------

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


def notebook_network(rng, augment=False):
    """The convolutional network that the notebook trains."""
    return character_network(rng, stages=((16,), (32,), (64,)), hidden=128, dropout=0.1,
                             augment=augment, Conv2d=Conv2d)


SEEDS = (0, 1, 2)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
BASELINE = {'make': fully_connected, 'epochs': 6, 'batch_size': 128, 'lr': 0.1,
            'schedule': one_cycle, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 5e-4}
CONVOLUTIONAL = {'make': convolutional}
NOTEBOOK = {'make': notebook_network, 'ema_decay': 0.99, 'search': False}
GENTLE = {'rotation': 8, 'scale': 0.08, 'shear': 0.1, 'shift': 1, 'elastic': 0.5}

# factor -> {setting: what it changes of BASELINE}, in the order of the runs. The search for the
# learning rate starts at 'lr'. 'search': False takes this rate, and searches no other.
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
        'label smoothing 0.1': {'loss': SoftmaxWithLoss(0.1)}},
    'convolution': {
        'small network of the notebook': NOTEBOOK,
        '16-32-64 channels': CONVOLUTIONAL},
    'hidden layers': {
        '60': {'hidden': (60,)},
        '1024-512': {'hidden': (1024, 512)},
        '512-512-256-256': {'hidden': (512, 512, 256, 256)}},
    'batch norm': {
        'after each sum': {'norm': True},
        'after each convolution': dict(CONVOLUTIONAL, norm=True, search=False)},
    'epochs': {
        '15': {'epochs': 15},
        'small network, 12': dict(NOTEBOOK, epochs=12)},
    'momentum': {
        'none': {'momentum': 0.0, 'nesterov': False, 'lr': 1.0},
        '0.9, not Nesterov': {'nesterov': False}},
    'schedule': {'constant': {'schedule': None, 'lr': 0.03}},
    'batch size': {'32': {'batch_size': 32}, '512': {'batch_size': 512, 'lr': 0.3}},
    'weight decay': {'0': {'weight_decay': 0.0}, '0.002': {'weight_decay': 2e-3}},
    'dropout': {'0.1': {'dropout': 0.1}, '0.3': {'dropout': 0.3}},
    'averaging of the weights': {'0.99': {'ema_decay': 0.99}},
    'augmentation': {
        'gentle': {'augment': GENTLE},
        'small network': dict(NOTEBOOK, augment=True),
        'small network, 12 epochs': dict(NOTEBOOK, augment=True, epochs=12)},
}
FIRST = ('baseline', '784-512-256-47, ReLU')
SMALL = ('convolution', 'small network of the notebook')
# What a setting is compared with, where that is not the baseline
REFERENCES = {
    ('batch norm', 'after each convolution'): ('convolution', '16-32-64 channels'),
    ('epochs', 'small network, 12'): SMALL,
    ('augmentation', 'small network'): SMALL,
    ('augmentation', 'small network, 12 epochs'): ('epochs', 'small network, 12'),
}


# The runs -----------------------------------------------------------------------------------------

class Series(object):
    """The rows of a CSV file, and the trainings that add to them."""

    def __init__(self, path, data, label):
        self.path = path
        self.rows = read_rows(path) if os.path.exists(path) else []
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
        for row in same:
            if row['search'] == search:
                return row
        if same:      # the search trained it, and that run counts as this seed's
            row = dict(same[0], search=search)
        else:
            row = dict(key, search=search)
            row.update(train_once(self.train, self.validation, seed, **settings))
        self.rows.append(row)
        print(', '.join(f'{name} {row[name]}' for name in COLUMNS), flush=True)
        text = pd.DataFrame(self.rows, columns=COLUMNS).to_csv(index=False)
        with replacing(self.path) as file:
            file.write(text.encode('utf-8'))
        return row


def read_rows(path):
    """Read the rows of a CSV file. ValueError if it is not one of this program's."""
    table = pd.read_csv(path, dtype={'factor': str, 'setting': str}, keep_default_na=False,
                        na_values=[''], converters={'lr': float, 'weight_decay': float})
    if list(table.columns) != COLUMNS:
        raise ValueError(f'{path} has the columns {", ".join(table.columns)}, expected '
                         f'{", ".join(COLUMNS)}: give another file as --results')
    return table.to_dict('records')


def train_once(train, validation, seed, make, epochs, batch_size, lr, schedule, momentum, nesterov,
               weight_decay, ema_decay=0.0, **network):
    """One training -> its columns of the CSV file. `network` are the arguments of `make`."""
    net = make(np.random.default_rng(seed), **network)
    cpu, wall = time.process_time(), time.time()
    accuracy = dict.fromkeys(['validation', 'balanced', 'corrected', 'augmented'], np.nan)
    try:
        net.fit(train, validation, epochs, batch_size, lr, schedule=schedule, seed=seed,
                ema_decay=ema_decay, momentum=momentum, nesterov=nesterov,
                weight_decay=weight_decay, verbose=False)
        accuracy.update(accuracies(net, train[1], *validation))
    except FloatingPointError:
        pass      # it diverged: the row stays empty
    seconds = {'cpu_seconds': round(time.process_time() - cpu, 1),
               'wall_seconds': round(time.time() - wall, 1)}
    return dict(accuracy, **seconds)


def accuracies(net, train_label, data, label):
    """The accuracies of a network on the validation rows, in percent."""
    predict = net.predict(data)
    plain = score(predict.argmax(axis=1), label)
    corrected = correct_class_prior(predict, train_label)
    result = {'validation': plain.accuracy, 'balanced': plain.balanced_accuracy,
              'corrected': score(corrected.argmax(axis=1), label).balanced_accuracy}
    if any(isinstance(layer, Augment) for layer in net.layers):
        augmented = correct_class_prior(net.predict_augmented(data), train_label)
        result['augmented'] = score(augmented.argmax(axis=1), label).balanced_accuracy
    return {name: round(value, 3) for name, value in result.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', nargs='+', choices=sorted(FACTORS), metavar='FACTOR')
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--data', default=os.path.join(PROJECT, 'data'))
    parser.add_argument('--results', default=os.path.join(HOME, 'experiments.csv'))
    options = parser.parse_args()
    series = Series(options.results, *read_train(os.path.join(options.data, 'train.csv')))
    for factor in options.only or FACTORS:
        for setting, changes in FACTORS[factor].items():
            settings = dict(BASELINE, **changes)
            if settings.pop('search', True):
                settings['lr'] = series.find_rate(factor, setting, settings)
            for seed in options.seeds:
                series.run(factor, setting, seed, settings, search=False)


if __name__ == '__main__':
    main()
