"""Compute every number of the report and draw its figures: facts.json and figures/*.svg.

    python report/facts.py          about three minutes on one core

It reads report/experiments.csv, the weights and the curve in leaderboard/, and data/train.csv.
report.typ takes all its numbers from facts.json, so that none is typed twice.
"""
import argparse
import json
import math
import os
import sys

import numpy as np
import pandas as pd

HOME = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(HOME)
sys.path[:0] = [PROJECT, os.path.join(PROJECT, 'tests'), HOME]

import figures                                                                      # noqa: E402
from gradient_check import STEP, TOLERANCE, numeric_gradient                        # noqa: E402
from layer import BatchNorm, Conv2d, Flatten, FullyConnected, MaxPool2d, ReLU       # noqa: E402
from network import (CHARACTER_TRAINING, CLASS_NAMES, Network, character_network,   # noqa: E402
                     correct_class_prior, read_npz, read_train, replacing, score, split_rows)

VALIDATION_ROWS = 8000
COPIES = 8                                              # of each image in test-time augmentation
ALIKE = ('0O', '1IL', '9gq', 'fF', '5S', '2Z')          # characters that have the same shape
LEVEL = 95                                              # of the intervals, in percent
T_QUANTILE = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45)      # Student's, two-sided, 1..6 degrees
NUMBERS = ['seed', 'epochs', 'lr', 'weight_decay', 'validation', 'balanced', 'corrected',
           'cpu_seconds', 'wall_seconds']


def read_table(path, columns, made_by):
    """Read a CSV file. FileNotFoundError or ValueError, in one sentence, if it lacks a column."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path} is missing: make it with {made_by}')
    try:
        table = pd.read_csv(path, dtype={'factor': str, 'setting': str}, keep_default_na=False,
                            na_values={name: [''] for name in columns})
    except ValueError as error:
        raise ValueError(f'{path} is not a CSV file: {error}; make it again with {made_by}')
    for name in columns:
        if name not in table:
            raise ValueError(f'{path} has no column {name}: make it again with {made_by}')
        if table[name].dtype.kind not in 'ifb':
            raise ValueError(f'{path}: the column {name} holds {table[name].iloc[0]!r}, expected '
                             f'numbers: make it again with {made_by}')
    if table.empty:
        raise ValueError(f'{path} has no rows: make it again with {made_by}')
    return table


# The experiments ----------------------------------------------------------------------------------

def read_runs(path):
    """experiments.csv -> a table with a row for each run."""
    runs = read_table(path, NUMBERS, 'report/experiments.py')
    for name in ('factor', 'setting'):
        if name not in runs:
            raise ValueError(f'{path} has no column {name}')
    if not (runs.factor == 'baseline').any():
        raise ValueError(f'{path} has no run of the factor baseline, which all others are '
                         'compared with: run report/experiments.py')
    runs['search'] = runs.search.astype(str) == 'True'
    return runs


def paired(values, reference):
    """Two series of accuracies by seed -> (their mean difference, half its interval), or None.

    The interval is Student's at LEVEL percent for the differences of the same seeds. Without two
    common seeds there is none.
    """
    difference = (values - reference).dropna()
    count = len(difference)
    if count < 2:
        return None
    half = T_QUANTILE[min(count - 1, len(T_QUANTILE)) - 1] * difference.std() / math.sqrt(count)
    return float(difference.mean()), float(half)


def effect(runs, baseline):
    """The runs of one setting, and the baseline's balanced accuracy by seed -> their facts."""
    final = runs[~runs.search]
    first = final.iloc[0]
    values = final.set_index('seed').balanced
    rates = runs.lr.unique()
    result = {'factor': first.factor, 'setting': first.setting, 'epochs': int(first.epochs),
              'lr': float(first.lr), 'weight_decay': float(first.weight_decay),
              'rates': sorted(map(float, rates)), 'seeds': len(values),
              'cpu_seconds': round(final.cpu_seconds.mean())}
    for name in ('validation', 'balanced', 'corrected'):
        result[name] = round(final[name].mean(), 2)
        result['least_' + name] = round(final[name].min(), 2)
        result['greatest_' + name] = round(final[name].max(), 2)
    return dict(result, **difference(paired(values, baseline)))


def difference(pair):
    """A mean difference and half its interval -> the facts that the report prints of them."""
    if pair is None:
        return {'difference': None, 'half': None, 'shown': 0}
    mean, half = pair
    shown = 0
    if abs(mean) > half:
        shown = 1 if mean > 0 else -1
    return {'difference': round(mean, 2), 'half': round(half, 2), 'shown': shown}


def effects(runs):
    """All settings' facts, in the order of the file."""
    baseline = runs[(runs.factor == 'baseline') & ~runs.search].set_index('seed').balanced
    groups = runs.groupby(['factor', 'setting'], sort=False)
    return [effect(group, baseline) for _, group in groups if not group.search.all()]


def correction(runs):
    """What class-prior correction brings to the baseline's balanced accuracy."""
    baseline = runs[(runs.factor == 'baseline') & ~runs.search].set_index('seed')
    return difference(paired(baseline.corrected, baseline.balanced))


def ranking(found, corrected, count=7):
    """The gains that the runs show, the greatest first: the best setting of each factor."""
    rows = [dict(corrected, factor='class-prior correction', setting='of the baseline')]
    rows += [row for row in found if row['factor'] not in ('baseline', 'final network')]
    rows = [row for row in rows if row['shown'] > 0]
    rows.sort(key=lambda row: -row['difference'])
    best = {}
    for row in rows:
        best.setdefault(row['factor'], row)
    return list(best.values())[:count]


# The final network --------------------------------------------------------------------------------

def alike(label):
    """Labels (N,) with the characters of one shape made one class."""
    classes = np.arange(len(CLASS_NAMES))
    for group in ALIKE:
        members = [CLASS_NAMES.index(name) for name in group]
        classes[members] = members[0]
    return classes[label]


def confusion(label, predicted):
    """Labels (N,) -> how many rows of a true class (row) are read as each class (column)."""
    counts = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), int)
    np.add.at(counts, (label, predicted), 1)
    return counts


def confused_pairs(counts):
    """All pairs of classes, those that are most often taken for each other first."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    both = np.triu(shares + shares.T, 1)
    order = np.argsort(-both, axis=None, kind='stable')
    return [divmod(int(place), len(counts)) for place in order if both.flat[place] > 0]


def confused_classes(counts, number=16):
    """The classes of the most confused pairs, each beside the one that it is confused with."""
    classes = []
    for one, other in confused_pairs(counts):
        for new, partner in ((one, other), (other, one)):
            if new not in classes and len(classes) < number:
                place = classes.index(partner) + 1 if partner in classes else len(classes)
                classes.insert(place, new)
    return classes


def final_network(weights, data, label, training, validation):
    """Predict with the submitted network -> (facts, the predicted labels of the validation rows).

    It is scored as it is, after class-prior correction, and on augmented copies after correction.
    """
    net = character_network()
    net.set_arrays(read_npz(weights), weights)
    rows, true = data[validation], label[validation]
    plain = net.predict(rows)
    copies = net.predict_augmented(rows, COPIES)
    result = {'parameters': sum(getattr(layer, name).size for _, layer, name in net.parameters())}
    for name, predict in (('plain', plain),
                          ('corrected', correct_class_prior(plain, label[training])),
                          ('augmented', correct_class_prior(copies, label[training]))):
        predicted = predict.argmax(axis=1)
        found = score(predicted, true)
        result[name] = {'accuracy': round(found.accuracy, 2),
                        'balanced': round(found.balanced_accuracy, 2)}
    sample = training[:len(validation)]
    result['training_accuracy'] = round(net.evaluate(data[sample], label[sample]).accuracy, 2)
    part = found.balanced_accuracy / 100
    result['standard_error'] = round(100 * math.sqrt(part * (1 - part) / len(true)), 2)
    return result, predicted


def mistakes(label, predicted):
    """How many validation rows are wrong, and how many of them within a group of one shape."""
    wrong = predicted != label
    within = wrong & (alike(predicted) == alike(label))
    right = alike(predicted) == alike(label)
    return {'wrong': int(wrong.sum()), 'alike': int(within.sum()),
            'groups': [', '.join(group) for group in ALIKE],
            'merged_accuracy': round(100 * float(right.mean()), 1)}


def read_curve(weights):
    """The learning curve beside the weights."""
    path = os.path.splitext(weights)[0] + '.csv'
    parts = ['loss', 'accuracy']
    columns = ['epoch', 'seconds'] + [f'{part}_{name}' for part in ('train', 'validation')
                                      for name in parts]
    return read_table(path, columns, 'leaderboard/train.py')


def gradient_error():
    """The greatest difference between back propagation and central differences in float64.

    For all weights of a small network with each kind of layer that has some, in training mode.
    """
    rng = np.random.default_rng(0)
    net = Network([Conv2d(1, 3, rng=rng), MaxPool2d(), BatchNorm(3), ReLU(), Flatten(),
                   FullyConnected(27, 5, rng)], input_shape=(5, 5, 1))
    data, label = rng.standard_normal((7, 5, 5, 1)), np.arange(7) % 5
    for layer in net.layers:
        layer.astype(np.float64)
    net.forward(data, label)
    net.backward()
    grads = [getattr(layer, name + '_grad') for _, layer, name in net.parameters()]
    errors = []
    for grad, (_, layer, name) in zip(grads, net.parameters()):
        numeric = numeric_gradient(lambda: net.forward(data, label)[1], getattr(layer, name))
        errors.append(abs(numeric - grad).max())
    return max(errors)


def power_of_ten(value):
    """8e-11 -> [8, -11], rounded up."""
    exponent = math.floor(math.log10(value))
    return [math.ceil(round(value / 10 ** exponent, 6)), exponent]


# All together -------------------------------------------------------------------------------------

def gather(experiments, weights, data_folder):
    """Read and measure all -> (facts, what the figures need beside them)."""
    runs = read_runs(experiments)
    curve = read_curve(weights)
    data, label = read_train(os.path.join(data_folder, 'train.csv'))
    training, validation = split_rows(len(data), min(VALIDATION_ROWS, len(data) // 3), 0)
    final, predicted = final_network(weights, data, label, training, validation)
    count = np.bincount(label[training], minlength=len(CLASS_NAMES))
    share = 100 * count / len(training)
    found = effects(runs)
    corrected = correction(runs)
    facts = {
        'rows': {'all': len(data), 'training': len(training), 'validation': len(validation),
                 'least_share': round(share.min(), 1), 'greatest_share': round(share.max(), 1)},
        'level': LEVEL,
        'effects': found,
        'correction': corrected,
        'ranking': ranking(found, corrected),
        'final': dict(final, epochs=len(curve), minutes=round(curve.seconds.sum() / 60),
                      lr=CHARACTER_TRAINING['lr'], copies=COPIES,
                      batch_size=CHARACTER_TRAINING['batch_size'],
                      ema_decay=CHARACTER_TRAINING['ema_decay'],
                      last_training_accuracy=round(curve.train_accuracy.iloc[-1], 2)),
        'mistakes': mistakes(label[validation], predicted),
        'gradient_check': {'step': power_of_ten(STEP), 'tolerance': power_of_ten(TOLERANCE),
                           'error': power_of_ten(gradient_error())}}
    return facts, (curve, data[validation], label[validation], predicted)


def write(facts, drawn, facts_path, folder):
    """Write facts.json and the figures."""
    curve, data, label, predicted = drawn
    counts = confusion(label, predicted)
    os.makedirs(folder, exist_ok=True)
    figures.ranking(facts['ranking'], os.path.join(folder, 'ranking.svg'))
    figures.curves(curve, os.path.join(folder, 'curves.svg'))
    figures.confusion(counts, confused_classes(counts), os.path.join(folder, 'confusion.svg'))
    figures.pairs(counts, confused_pairs(counts)[:6], data, label, predicted,
                  os.path.join(folder, 'pairs.svg'))
    with replacing(facts_path) as file:
        file.write((json.dumps(facts, indent=1) + '\n').encode('ascii'))


def main(arguments=None):
    """Compute the numbers and figures of the report. Exit code 2, in one sentence, if it cannot."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--experiments', default=os.path.join(HOME, 'experiments.csv'))
    parser.add_argument('--weights', help='of the submitted network; its curve is beside them',
                        default=os.path.join(PROJECT, 'leaderboard', 'character_network.npz'))
    parser.add_argument('--data', default=os.path.join(PROJECT, 'data'), metavar='FOLDER')
    parser.add_argument('--output', default=HOME, metavar='FOLDER')
    options = parser.parse_args(arguments)
    try:
        print('Predicting the validation rows, about three minutes on one core ...', flush=True)
        facts, drawn = gather(options.experiments, options.weights, options.data)
        path = os.path.join(options.output, 'facts.json')
        write(facts, drawn, path, os.path.join(options.output, 'figures'))
    except (ValueError, OSError) as error:
        print(f'facts.py: {error}', file=sys.stderr)
        return 2
    print(f'Wrote {path} and the figures beside it')
    return 0


if __name__ == '__main__':
    sys.exit(main())
