"""What changes the accuracy, and by how much: one factor varied at a time, over three seeds, on the lab's data.

    python report/experiments.py                 all that is not in report/experiments.csv yet
    python report/experiments.py --only loss     the settings of one factor

Every run starts from BASELINE and changes what its setting names. A row of the CSV is one run; it is written when the
run is done, so that a stopped series goes on where it was. Accuracies are in percent; seconds are the processor's, so
that other work on the machine does not count. The last setting is the network for the leaderboard, three quarters of
an hour on two cores for each seed: it saves a checkpoint every epoch, from which it goes on, and its seconds are the
clock's.
"""
import argparse
import os
import sys
import time

import numpy as np
import pandas as pd

HOME = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HOME))

from layer import (Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, LeakyReLU, MaxPool2d, PixelScaling,
                   ReLU, Reshape, Sigmoid, SoftmaxWithLoss, SquaredError, Tanh)      # noqa: E402
from network import (CHARACTER_TRAINING, CHARACTER_VIEWS, Network, balance, character_network, one_cycle, read_train,
                     replacing, score, split_rows)      # noqa: E402

SEEDS = (1, 2, 3)
COLUMNS = ['factor', 'setting', 'seed', 'parameters', 'epochs', 'seconds', 'train', 'validation', 'balanced']


def mlp(rng, hidden=(512, 256), activation=ReLU, scaling=(0.0, 1.0), template_weights=False, norm=False, dropout=0.0,
        augment=None, loss=None):
    """784 pixels, hidden layers of an activation, 47 classes."""
    layers = [PixelScaling(*scaling)]
    if augment:
        layers.append(Augment(rng=rng, **augment))
    sizes = (784,) + tuple(hidden)
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [FullyConnected(inputs, outputs, rng)] + ([BatchNorm(outputs)] if norm else []) + [activation()]
        layers += [Dropout(dropout, rng)] if dropout else []
    layers.append(FullyConnected(sizes[-1], 47, rng))
    if template_weights:       # the lab's template: np.random.randn(...) * 0.01
        for layer in layers:
            if 'weight' in layer.parameter_names:
                layer.weight[...] = rng.standard_normal(layer.weight.shape) * 0.01
    return Network(layers, loss or SoftmaxWithLoss())


def cnn(rng, norm=True, augment=None, loss=None):
    """Three convolutions of 16, 32 and 64 channels with pooling after each, then 128 units."""
    layers = [PixelScaling()] + ([Augment(rng=rng, **augment)] if augment else []) + [Reshape(28, 28, 1)]
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [Conv2d(inputs, outputs, rng=rng), MaxPool2d()] + ([BatchNorm(outputs)] if norm else []) + [ReLU()]
    layers += [Flatten(), FullyConnected(3 * 3 * 64, 128, rng)] + ([BatchNorm(128)] if norm else [])
    return Network(layers + [ReLU(), FullyConnected(128, 47, rng)], loss or SoftmaxWithLoss(), shards=2)


BASELINE = {'make': mlp, 'epochs': 6, 'batch_size': 128, 'lr': 0.1, 'schedule': one_cycle, 'momentum': 0.9,
            'nesterov': True, 'weight_decay': 5e-4}
GENTLE = {'rotation': 8, 'scale': 0.08, 'shear': 0.1, 'shift': 1, 'elastic': 0.5}
STRONG = {'rotation': 15, 'scale': 0.15, 'shear': 0.2, 'shift': 2, 'elastic': 1.0}
WIDE = {'hidden': (1024, 1024, 1024), 'norm': True, 'dropout': 0.2, 'augment': GENTLE, 'ema_decay': 0.999}

# factor -> {setting: what it changes of BASELINE}
FACTORS = {
    'baseline': {'784-512-256-47, ReLU': {}},
    'loss': {'cross-entropy, smoothing 0.1': {'loss': lambda: SoftmaxWithLoss(0.1)},
             'squared error': {'loss': SquaredError}},
    'network': {'784-60-47': {'hidden': (60,)}, '784-256-128-47': {'hidden': (256, 128)},
                '784-1024-512-47': {'hidden': (1024, 512)}, '784-512-512-256-256-47': {'hidden': (512, 512, 256, 256)}},
    'activation': {'LeakyReLU': {'activation': LeakyReLU}, 'Tanh': {'activation': Tanh},
                   'Sigmoid': {'activation': Sigmoid}},
    'initial weights': {'0.01 N(0, 1), as in the template': {'template_weights': True}},
    'input': {'standardised': {'scaling': (0.1727, 0.3313)},
              'raw 0..255, lr 0.0001': {'scaling': (0.0, 1 / 255.0), 'lr': 1e-4}},
    'batch size': {'32': {'batch_size': 32}, '512': {'batch_size': 512}},
    'learning rate': {'0.01': {'lr': 0.01}, '0.03': {'lr': 0.03}, '0.3': {'lr': 0.3}},
    'epochs': {'15, as in the notebook': {'epochs': 15}},
    'schedule': {'constant 0.1': {'schedule': None}, 'constant 0.02': {'schedule': None, 'lr': 0.02}},
    'momentum': {'none': {'momentum': 0.0, 'nesterov': False}, 'none, lr 0.5': {
        'momentum': 0.0, 'nesterov': False, 'lr': 0.5}, '0.9, not Nesterov': {'nesterov': False}},
    'weight decay': {'0': {'weight_decay': 0.0}, '0.0001': {'weight_decay': 1e-4}, '0.002': {'weight_decay': 2e-3},
                     '0.0005, on biases too': {'decay_biases': True}},
    'batch norm': {'after each sum': {'norm': True}},
    'dropout': {'0.1': {'dropout': 0.1}, '0.3': {'dropout': 0.3}},
    'augmentation': {'gentle': {'augment': GENTLE}, 'strong': {'augment': STRONG}},
    'averaging': {'of the weights, 0.999': {'ema_decay': 0.999}},
    'prediction': {'for even classes': {'even_classes': True},
                   'for even classes, gentle augmentation, 8 views': {
                       'augment': GENTLE, 'even_classes': True, 'views': CHARACTER_VIEWS},
                   'mean of two networks': {'networks': 2}},
    'convolution': {'16-32-64 channels': {'make': cnn},
                    '16-32-64 channels, no batch norm': {'make': cnn, 'norm': False},
                    '16-32-64 channels, gentle augmentation': {'make': cnn, 'augment': GENTLE}},
    'best fully connected': {'784-1024-1024-1024-47, many aids, 30 epochs': dict(
        WIDE, epochs=30, loss=lambda: SoftmaxWithLoss(0.1), even_classes=True, views=CHARACTER_VIEWS)},
    'final network': {'character_network(), even classes, 8 views': dict(
        CHARACTER_TRAINING, make=lambda rng, loss: character_network(rng), even_classes=True, views=CHARACTER_VIEWS,
        checkpoint='training-%d.npz', seeds=(0, 1, 2))},      # seed 0: the network of report/character_network.npz
}


def run(seed, training, validation, make, even_classes=False, views=1, networks=1, decay_biases=False, loss=None,
        checkpoint=None, **settings):
    """One training, or that of several networks whose predictions are averaged -> {column: value}."""
    names = ('epochs', 'batch_size', 'lr', 'schedule', 'momentum', 'nesterov', 'weight_decay', 'ema_decay')
    fitting = {name: settings.pop(name) for name in names if name in settings}
    seconds, parameters, predict = 0.0, 0, 0
    for number in range(networks):
        own_seed = seed + 100 * number
        net = make(np.random.default_rng(own_seed), loss=loss() if loss else None, **settings)
        if decay_biases:
            for layer in net.layers:
                layer.decayed_names = layer.parameter_names
        started = time.process_time()
        net.fit(training, validation, seed=own_seed, checkpoint=checkpoint and checkpoint % own_seed, **fitting)
        seconds += (sum(record['seconds'] for record in net.history) if checkpoint else
                    time.process_time() - started)
        parameters += sum(getattr(layer, name).size for layer in net.layers for name in layer.parameter_names)
        predict = predict + net.predict(validation[0], views=views) / networks
    if even_classes:
        predict = balance(predict, training[1])
    result = score(0, predict.argmax(axis=1), validation[1])
    return {'seed': seed, 'parameters': parameters, 'epochs': fitting['epochs'], 'seconds': round(seconds, 1),
            'train': round(net.history[-1]['train']['accuracy'], 3), 'validation': round(result.accuracy, 3),
            'balanced': round(result.balanced_accuracy, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', nargs='+', choices=sorted(FACTORS), metavar='FACTOR', help=', '.join(sorted(FACTORS)))
    parser.add_argument('--seeds', type=int, nargs='+', help='default: 1 2 3, for the final network 0 1 2')
    parser.add_argument('--data', default=os.path.join(os.path.dirname(HOME), 'data'))
    parser.add_argument('--results', default=os.path.join(HOME, 'experiments.csv'))
    options = parser.parse_args()

    data, label = read_train(os.path.join(options.data, 'train.csv'))
    training, validation = [(data[part], label[part]) for part in split_rows(len(data), 8000, 0)]
    rows = []
    if os.path.exists(options.results):
        rows = pd.read_csv(options.results, dtype={'factor': str, 'setting': str},
                           keep_default_na=False).to_dict('records')
    for seed in options.seeds or range(4):
        for factor in options.only or FACTORS:
            for setting, changes in FACTORS[factor].items():
                settings = dict(BASELINE, **changes)
                seeds = settings.pop('seeds', SEEDS)
                if seed not in (options.seeds or seeds) or (factor, setting, seed) in (
                        (row['factor'], row['setting'], row['seed']) for row in rows):
                    continue
                try:
                    row = run(seed, training, validation, **settings)
                except FloatingPointError as error:
                    print('%s: %s, seed %d: %s' % (factor, setting, seed, error), flush=True)
                    continue
                row.update(factor=factor, setting=setting)
                print(', '.join('%s %s' % (column, row[column]) for column in COLUMNS), flush=True)
                rows.append(row)
                with replacing(options.results) as file:
                    file.write(pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False).encode('utf-8'))


if __name__ == '__main__':
    main()
