"""The facts of the lab's report: read from the CSV files of the experiments, or measured on the validation rows."""
import collections
import os
import sys

import numpy as np
import pandas as pd

HOME = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HOME, os.path.dirname(HOME), os.path.join(os.path.dirname(HOME), 'tests')]

from experiments import BASELINE, COLUMNS      # noqa: E402
from gradient_check import numeric_gradient      # noqa: E402
from layer import FullyConnected, ReLU      # noqa: E402
from network import (CHARACTER_VIEWS, CLASS_NAMES, Network, balance, blas_threads, character_network, history_table,
                     read_train, score, split_rows)      # noqa: E402

ALIKE = ('0O', '1IL', '9gq', 'fF', '5S', '2Z')      # characters of one shape
NAMES = ('factor', 'setting', 'trial')      # the columns that are not numbers
CURVE_COLUMNS = ['epoch', 'seconds', 'train_loss', 'train_accuracy', 'validation_loss', 'validation_accuracy',
                 'validation_balanced']

# A setting of the experiments: its balanced accuracy over the seeds, and the change from the baseline's. clear: +1 or
# -1 where every run is above or below every run of the baseline, else 0; None where a single seed shows no spread
Effect = collections.namedtuple('Effect', 'factor setting parameters seconds validation mean low high change clear')
# curve, final: the learning curves of the baseline and the final network; label: of the training rows; predicted and
# scores: of the validation rows, by the final network; trials: what was tried for it, a table;
# all_rows: whether it was trained once more, on all rows
Facts = collections.namedtuple('Facts', 'effects seeds curve final filters label validation predicted scores '
                                        'parameters gradient_error trials all_rows')


def read_table(path, columns):
    """A CSV file with these columns, all but names finite numbers; ValueError in one sentence where it is not one."""
    try:
        table = pd.read_csv(path, dtype={name: str for name in NAMES}, keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError('%s is not a CSV file: %s' % (path, error))
    lacking = [column for column in columns if column not in table]
    if lacking or not len(table):
        raise ValueError('%s lacks %s' % (path, 'the columns ' + ', '.join(lacking) if lacking else 'rows'))
    for column in columns:
        if column not in NAMES and not (
                table[column].dtype.kind in 'if' and np.isfinite(table[column]).all()):
            raise ValueError('%s: a value of the column %s is not a number' % (path, column))
    return table


def read_effects(path):
    """The experiments -> ([Effect, the baseline's first], seeds of the baseline)."""
    runs = read_table(path, COLUMNS)
    baseline = runs.balanced[runs.factor == 'baseline']
    if not len(baseline):
        raise ValueError('%s has no run of the factor baseline, with which the others are compared' % path)
    effects = []
    for (factor, setting), group in runs.groupby(['factor', 'setting'], sort=False):
        clear = int(group.balanced.min() > baseline.max()) - int(group.balanced.max() < baseline.min())
        effects.append(Effect(
            factor, setting, int(group.parameters.iloc[0]), group.seconds.mean(), group.validation.mean(),
            group.balanced.mean(), group.balanced.min(), group.balanced.max(), group.balanced.mean() - baseline.mean(),
            clear if min(len(group), len(baseline)) > 1 else None))
    return sorted(effects, key=lambda effect: effect.factor != 'baseline'), len(baseline)


def gradient_error():
    """The greatest difference between back propagation and central differences, for a small network in float64."""
    rng, errors = np.random.default_rng(0), []
    net = Network([FullyConnected(6, 5, rng), ReLU(), FullyConnected(5, 4, rng)])
    data, label = rng.standard_normal((7, 6)), np.arange(7) % 4
    for layer in net.layers:
        layer.astype(np.float64)
    net.forward(data, label)
    net.backward()
    for layer in net.layers:
        for name in layer.parameter_names:
            grad = numeric_gradient(lambda: net.forward(data, label)[1], getattr(layer, name))
            errors.append(np.abs(grad - getattr(layer, name + '_grad')).max())
    return max(errors)


def gather(experiments, weights, data, validation_rows):
    """Read the inputs, train the baseline once more for its curves and filters, predict with the final network."""
    curve = os.path.splitext(weights)[0] + '.csv'
    for path, source in ((experiments, 'report/experiments.py'), (weights, 'network.py'), (curve, 'network.py')):
        if not os.path.exists(path):
            raise ValueError('%s is missing: make it with %s' % (path, source))
    effects, seeds = read_effects(experiments)
    final, net = read_table(curve, CURVE_COLUMNS), character_network()
    net.load(weights)
    data, label = read_train(os.path.join(data, 'train.csv'))
    training, validation = [(data[part], label[part]) for part in split_rows(len(data), validation_rows, 0)]
    settings = dict(BASELINE)
    baseline = settings.pop('make')(np.random.default_rng(1))
    with blas_threads(1):      # the same bits whatever else the machine does
        baseline.fit(training, validation, seed=1, **settings)
    plain, several = net.predict(validation[0]), net.predict(validation[0], views=CHARACTER_VIEWS)
    scores = collections.OrderedDict()
    for name, predict in (('as it is', plain), ('for even classes', balance(plain, training[1])),
                          ('for even classes, %d views' % CHARACTER_VIEWS, balance(several, training[1]))):
        scores[name] = score(0, predict.argmax(axis=1), validation[1])
    found, best = scores['as it is'].balanced_accuracy, final.validation_balanced.max()
    if abs(found - best) > 1:
        raise ValueError('%s gives a balanced validation accuracy of %.2f %%, but the best epoch of %s has %.2f %%: '
                         'they are not of one training' % (weights, found, curve, best))
    filters = next(layer for layer in baseline.layers if layer.parameter_names).weight.T
    strongest = np.argsort(-np.linalg.norm(filters, axis=1), kind='stable')[:28]
    return Facts(effects, seeds, history_table(baseline.history), final, filters[strongest], training[1], validation,
                 predict.argmax(axis=1), scores, sum(getattr(layer, name).size for layer in net.layers
                                                     for name in layer.parameter_names), gradient_error(),
                 read_table(os.path.join(HOME, 'trials.csv'), ['trial', 'epochs', 'validation', 'balanced']),
                 os.path.exists(os.path.splitext(weights)[0] + '_all_rows.npz'))


def confusion(facts):
    """(47, 47): of the validation rows of a true class (row), the percentage predicted as each class (column)."""
    counts = np.zeros((47, 47))
    np.add.at(counts, (facts.validation[1], facts.predicted), 1)
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def confused_pairs(facts, count=6):
    """[(one, other), ...] of the classes that are most often taken for each other, the greatest sum of shares first."""
    shares = confusion(facts)
    both = np.triu(shares + shares.T, 1)
    return [divmod(int(place), 47) for place in np.argsort(-both, axis=None, kind='stable')[:count]]


def merged(label):
    """Labels with the characters of one shape made one class."""
    classes = np.arange(47)
    for group in ALIKE:
        members = [CLASS_NAMES.index(name) for name in group]
        classes[members] = members[0]
    return classes[label]
