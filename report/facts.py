"""Compute every number of the report and draw its figures: facts.json and figures/*.svg.

    python report/facts.py          about four minutes on one core

It reads report/experiments.csv, the weights and the curve in leaderboard/, and data/train.csv.
report.typ takes all its numbers from facts.json. Numbers are rounded here, so that what is printed
adds up: a difference is the difference of the two printed accuracies.
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

import experiments                                                                  # noqa: E402
import figures                                                                      # noqa: E402
from gradient_check import STEP, TOLERANCE, numeric_gradient                        # noqa: E402
from layer import BatchNorm, Conv2d, Flatten, FullyConnected, MaxPool2d, ReLU       # noqa: E402
from network import (CHARACTER_TRAINING, CLASS_NAMES, Network, character_network,   # noqa: E402
                     correct_class_prior, read_train, replacing, score, split_rows)

COPIES = 8                                              # of each image in test-time augmentation
ALIKE = ('0O', '1IL', '9gq', 'fF', '5S', '2Z')          # characters that have the same shape
# 97.5 % of Student's t distribution lie below these, for 1, 2, 3, ... degrees of freedom
T_QUANTILE = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
# Changes of the prediction alone: factor, setting, the runs, the column with and without it
PREDICTIONS = [
    ('class-prior correction', 'baseline', experiments.FIRST, 'corrected', 'balanced'),
    ('class-prior correction', 'small network', experiments.SMALL, 'corrected', 'balanced'),
    ('test-time augmentation', '8 copies, augmented training', ('augmentation', 'gentle'),
     'augmented', 'corrected')]


def read_table(path, columns, made_by):
    """Read a CSV file -> a table. FileNotFoundError or ValueError in one sentence if it is bad."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path} is missing: make it with {made_by}')
    try:
        table = pd.read_csv(path, dtype={'factor': str, 'setting': str}, keep_default_na=False,
                            na_values=[''])
    except ValueError as error:
        raise ValueError(f'{path} is not a CSV file ({error}): make it again with {made_by}')
    for name in columns:
        if name not in table or not len(table):
            raise ValueError(f'{path} has no column {name}, or no rows: make it again with '
                             f'{made_by}')
        if name not in ('factor', 'setting') and table[name].dtype.kind not in 'ifb':
            raise ValueError(f'{path}: the column {name} holds {table[name].iloc[0]!r}, expected '
                             f'numbers: make it again with {made_by}')
    return table


# The experiments ----------------------------------------------------------------------------------

def by_setting(runs):
    """{(factor, setting): its runs by seed}, the last one of each seed.

    Runs of the search for the rate and trainings that diverged are left out.
    """
    runs = runs[~runs.search & runs.balanced.notnull()]
    runs = runs.drop_duplicates(['factor', 'setting', 'seed'], keep='last')
    groups = runs.groupby(['factor', 'setting'], sort=False)
    return {key: own.set_index('seed') for key, own in groups}


def compare(after, before):
    """Accuracies by seed after and before a change -> the facts of the difference.

    `margin` is half of the 95 % interval of Student's t for the paired differences. `shown` is 1
    for a gain and -1 for a loss that is greater than the margin, with all seeds agreeing, else 0.
    """
    change = (after - before).dropna()
    mean = float(change.mean())
    result = {'before': round(float(before[change.index].mean()), 2),
              'after': round(float(after[change.index].mean()), 2), 'margin': None, 'shown': 0}
    result['difference'] = round(result['after'] - result['before'], 2)
    if len(change) > 1:
        quantile = T_QUANTILE[min(len(change), len(T_QUANTILE) + 1) - 2]
        margin = quantile * float(change.std()) / math.sqrt(len(change))
        result['margin'] = round(margin, 2)
        if abs(mean) > margin and len(set(np.sign(change))) == 1:
            result['shown'] = int(np.sign(mean))
    return result


def effects(runs):
    """The facts of every setting, each compared with what it changes, in the file's order."""
    found = by_setting(runs)
    result = []
    for key, own in found.items():
        reference = found.get(experiments.REFERENCES.get(key, experiments.FIRST))
        if reference is not None and own.index.isin(reference.index).any():
            result.append(dict(compare(own.balanced, reference.balanced), factor=key[0],
                               setting=key[1], lr=float(own.lr.iloc[0])))
    for factor, setting, key, after, before in PREDICTIONS:
        if key in found:
            own = found[key]
            result.append(dict(compare(own[after], own[before]), factor=factor, setting=setting,
                               lr=float(own.lr.iloc[0])))
    return result


def network_facts(runs, key):
    """The accuracies and the time of one setting, mean over the seeds."""
    own = by_setting(runs).get(key)
    if own is None:
        raise ValueError(f'experiments.csv has no run of {key[0]}: {key[1]}: run '
                         'report/experiments.py')
    result = {'seeds': len(own), 'epochs': int(own.epochs.iloc[0]),
              'weight_decay': float(own.weight_decay.iloc[0]),
              'seconds': round(own.cpu_seconds.mean())}
    for name in ('validation', 'balanced', 'corrected'):
        result[name] = round(float(own[name].mean()), 2)
    return result


def ranking(effects, count=7):
    """The greatest gains that the runs show: the best setting of each factor, with its label.

    Without the notebook's network, which changes many things at once.
    """
    gains = [row for row in effects if row['shown'] > 0]
    gains = [row for row in gains if (row['factor'], row['setting']) != experiments.SMALL]
    gains.sort(key=lambda row: -row['difference'])
    best = {}
    for row in gains:
        best.setdefault(row['factor'], dict(row, label=f'{row["factor"]}: {row["setting"]}'))
    return list(best.values())[:count]


# The submitted network ----------------------------------------------------------------------------

def submitted_network(weights, data, label, training, validation):
    """The facts of the network, and the labels that it predicts for the validation rows.

    Its scores are those of the plain prediction, after class-prior correction, and after
    correction of the mean over augmented copies. The last one makes the submission.
    """
    net = character_network()
    net.load(weights)
    true, prior = label[validation], label[training]
    plain = net.predict(data[validation])
    copies = net.predict_augmented(data[validation], COPIES)
    facts = {}
    for name, predict in (('plain', plain), ('corrected', correct_class_prior(plain, prior)),
                          ('augmented', correct_class_prior(copies, prior))):
        predicted = predict.argmax(axis=1)
        found = score(predicted, true)
        facts[name] = {'accuracy': round(found.accuracy, 2),
                       'balanced': round(found.balanced_accuracy, 2)}
    share = found.balanced_accuracy / 100
    sample = training[:len(validation)]
    facts.update({
        'parameters': sum(getattr(layer, name).size for _, layer, name in net.parameters()),
        'channels': [layer.out_channels for layer in net.layers if isinstance(layer, Conv2d)],
        'hidden': net.layers[-1].in_features, 'dropout': net.layers[-2].p,
        'smoothing': net.loss.label_smoothing, 'copies': COPIES,
        'standard_error': round(100 * math.sqrt(share * (1 - share) / len(true)), 2),
        'training_accuracy': round(net.evaluate(data[sample], label[sample]).accuracy, 2)})
    return facts, predicted


def alike(label):
    """Labels (N,) with the characters of one shape made one class."""
    classes = np.arange(len(CLASS_NAMES))
    for group in ALIKE:
        members = [CLASS_NAMES.index(name) for name in group]
        classes[members] = members[0]
    return classes[label]


def mistakes(label, predicted):
    """How many validation rows are wrong, and how many of them within a group of one shape."""
    wrong = int((predicted != label).sum())
    across = int((alike(predicted) != alike(label)).sum())
    return {'wrong': wrong, 'alike': wrong - across, 'groups': ['/'.join(name) for name in ALIKE],
            'alike_percent': round(100 * (wrong - across) / max(1, wrong)),
            'merged_accuracy': round(100 * (1 - across / len(label)), 1)}


def confused_pairs(counts):
    """All pairs of classes, those that are most often taken for each other first."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    both = np.triu(shares + shares.T, 1)
    order = np.argsort(-both, axis=None, kind='stable')
    return [divmod(int(place), len(counts)) for place in order if both.flat[place] > 0]


def confusion(counts, size=16):
    """Counts (47, 47) -> the facts of the most confused classes, each beside its partner."""
    classes = []
    for one, other in confused_pairs(counts):
        for new, partner in ((one, other), (other, one)):
            if new not in classes and len(classes) < size:
                place = classes.index(partner) + 1 if partner in classes else len(classes)
                classes.insert(place, new)
    shown = counts[classes][:, classes]
    rows = counts[classes].sum(axis=1)
    return {'classes': [CLASS_NAMES[index] for index in classes], 'counts': shown.tolist(),
            'others': (rows - shown.sum(axis=1)).tolist(), 'rows': rows.tolist()}


# All together -------------------------------------------------------------------------------------

def gradient_error():
    """The greatest difference between back propagation and central differences in float64.

    Over all weights of a small network in training mode, with each kind of layer that has weights.
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
    """8.2e-11 -> [9, -11]: rounded up, so that it is a bound."""
    exponent = math.floor(math.log10(value))
    return [math.ceil(round(value / 10 ** exponent, 6)), exponent]


def gather(runs_path, weights, data_folder, folder):
    """Read and measure all, write the figures into `folder`, and return the facts."""
    runs = read_table(runs_path, experiments.COLUMNS, 'report/experiments.py')
    curve_path = os.path.splitext(weights)[0] + '.csv'
    curve = read_table(curve_path, ['epoch', 'seconds', 'train_loss', 'train_accuracy',
                                    'validation_loss', 'validation_accuracy'],
                       'leaderboard/train.py')
    data, label = read_train(os.path.join(data_folder, 'train.csv'))
    training, validation = split_rows(len(data), min(8000, len(data) // 3), 0)
    share = 100 * np.bincount(label[training], minlength=len(CLASS_NAMES)) / len(training)
    found = effects(runs)
    facts = {
        'rows': {'all': len(data), 'training': len(training), 'validation': len(validation),
                 'least_share': round(share.min(), 1), 'greatest_share': round(share.max(), 1)},
        'baseline': network_facts(runs, experiments.FIRST),
        'small': network_facts(runs, experiments.SMALL),
        'settings': {name: experiments.BASELINE[name] for name in ('batch_size', 'momentum')},
        'effects': found, 'ranking': ranking(found),
        'gradient_check': {'step': power_of_ten(STEP), 'tolerance': power_of_ten(TOLERANCE),
                           'error': power_of_ten(gradient_error())}}
    final, predicted = submitted_network(weights, data, label, training, validation)
    final.update(epochs=len(curve), minutes=round(curve.seconds.sum() / 60))
    final.update((name, CHARACTER_TRAINING[name]) for name in ('batch_size', 'ema_decay'))
    data, label = data[validation], label[validation]
    counts = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), int)
    np.add.at(counts, (label, predicted), 1)
    facts.update(final=final, mistakes=mistakes(label, predicted), confusion=confusion(counts))
    os.makedirs(folder, exist_ok=True)
    figures.ranking(facts['ranking'], os.path.join(folder, 'ranking.svg'))
    figures.curves(curve, os.path.join(folder, 'curves.svg'))
    both_ways = [way for pair in confused_pairs(counts)[:6] for way in (pair, pair[::-1])]
    figures.pairs(both_ways, counts, data, label, predicted, os.path.join(folder, 'pairs.svg'))
    return facts


def main(arguments=None):
    """Compute the numbers and figures of the report. Exit code 2, in one sentence, if it cannot."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--experiments', default=os.path.join(HOME, 'experiments.csv'))
    parser.add_argument('--weights', help='of the submitted network; its curve is beside them',
                        default=os.path.join(PROJECT, 'leaderboard', 'character_network.npz'))
    parser.add_argument('--data', default=os.path.join(PROJECT, 'data'), metavar='FOLDER')
    parser.add_argument('--output', default=HOME, metavar='FOLDER')
    options = parser.parse_args(arguments)
    path = os.path.join(options.output, 'facts.json')
    print('Predicting the validation rows takes some minutes ...', flush=True)
    try:
        facts = gather(options.experiments, options.weights, options.data,
                       os.path.join(options.output, 'figures'))
        with replacing(path) as file:
            file.write((json.dumps(facts, indent=1, allow_nan=False) + '\n').encode('ascii'))
    except (ValueError, OSError) as error:
        print(f'facts.py: {error}', file=sys.stderr)
        return 2
    print(f'Wrote {path} and the figures beside it')
    return 0


if __name__ == '__main__':
    sys.exit(main())
