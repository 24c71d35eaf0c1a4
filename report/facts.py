"""Compute every number of the report and draw its figures: facts.json and figures/*.svg.

    python report/facts.py          one to two minutes on one core

It reads report/experiments.csv, data/train.csv, and in leaderboard/ the weights, the curve and
minutes.csv.
report.typ takes all its numbers from facts.json. They are rounded here, at the end.
"""
import argparse
import json
import math
import pathlib
import sys

import numpy as np
import pandas as pd

PROJECT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT / name) for name in ('', 'tests', 'report', 'leaderboard')]

import fast_conv2d                                                                  # noqa: E402
import figures                                                                      # noqa: E402
from checkpoint import read_npz, replacing                                          # noqa: E402
from experiments import (BASELINE, COLUMNS, COPIES, FIRST, REFERENCES, SMALL,       # noqa: E402
                         predict_ways, read_table)
from gradient_check import STEP, TOLERANCE, in_float64, numeric_gradient            # noqa: E402
from layer import BatchNorm, Conv2d, Flatten, FullyConnected, MaxPool2d, ReLU       # noqa: E402
from network import (CHARACTER_TRAINING, CLASS_NAMES, Network, character_network,   # noqa: E402
                     even_class_counts, fingerprint, read_train, score, split_rows)
from parallel import ParallelNetwork                                                # noqa: E402

TEST_ROWS = 12800
LIMITS = ('rotation', 'scale', 'shear', 'shift', 'elastic')      # of Augment
ALIKE = ('0O', '1IL', '9gq', 'fF', '5S', '2Z')          # characters that have the same shape
# 97.5 % of Student's t distribution lie below these, for 1, 2, 3, ... degrees of freedom
T_QUANTILE = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
              2.160, 2.145, 2.131, 2.120, 2.110)
# Changes of the prediction alone: factor, setting, the runs, the column with and without it
PREDICTIONS = [
    ('class-prior correction', 'baseline', FIRST, 'corrected', 'balanced'),
    ('class-prior correction', 'notebook', SMALL, 'corrected', 'balanced'),
    ('test-time augmentation', 'baseline, augmented training', ('augmentation', 'gentle'),
     'augmented', 'corrected')]
CURVE = ['epoch', 'seconds', 'train_loss', 'train_accuracy', 'validation_loss',
         'validation_accuracy']


# The experiments ----------------------------------------------------------------------------------

def by_setting(runs):
    """{(factor, setting): its runs by seed}, the last one of each seed.

    Runs of the search for the rate, and those without accuracies, are left out. ValueError if the
    baseline or the notebook's network has no run.
    """
    measured = runs[['validation', 'balanced', 'corrected']].notnull().all(axis=1)
    runs = runs[measured & ~runs.search.astype(bool)]
    runs = runs.drop_duplicates(['factor', 'setting', 'seed'], keep='last')
    groups = runs.groupby(['factor', 'setting'], sort=False)
    found = {key: own.set_index('seed') for key, own in groups}
    for factor, setting in (FIRST, SMALL):
        if (factor, setting) not in found:
            raise ValueError(f'experiments.csv has no run of {factor}: {setting}: run '
                             'report/experiments.py')
    return found


def compare(after, before):
    """Accuracies by seed after and before a change -> the facts of the difference.

    `margin` is half of the 95 % interval of Student's t for the paired differences. `shown` is 1
    for a gain and -1 for a loss that is greater than the margin, else 0. None if no seed has both.
    """
    change = (after - before).dropna()
    if not len(change):
        return None
    result = {'before': round(float(before[change.index].mean()), 2),
              'after': round(float(after[change.index].mean()), 2), 'margin': None, 'shown': 0}
    result['difference'] = round(float(change.mean()), 2)
    if len(change) > 1:
        error = float(change.std()) / math.sqrt(len(change))
        margin = T_QUANTILE[min(len(change), len(T_QUANTILE) + 1) - 2] * error
        result['margin'] = round(margin, 2)
        if abs(change.mean()) > margin:
            result['shown'] = int(np.sign(change.mean()))
    return result


def copies_effect(trainings):
    """The facts of test-time augmentation, in all trainings of `large` in minutes.csv."""
    own = trainings[trainings.network == 'large']
    gain = own.augmented - own.corrected
    return dict(compare(own.augmented, own.corrected), factor='test-time augmentation',
                setting='large', lr=CHARACTER_TRAINING['lr'], trainings=len(own),
                standard_error=round(float(gain.std()) / math.sqrt(len(own)), 2),
                positive=int((gain > 0).sum()))


def effects(found):
    """The facts of every setting, each compared with what it changes, in the file's order."""
    rows = [(*key, key, REFERENCES.get(key, FIRST), 'balanced', 'balanced') for key in found]
    rows += [(factor, setting, key, key, after, before)
             for factor, setting, key, after, before in PREDICTIONS]
    result = []
    for factor, setting, key, reference, after, before in rows:
        if key in found and reference in found:
            change = compare(found[key][after], found[reference][before])
            if change:
                lr = found[key].lr.iloc[0]
                result.append(dict(change, factor=factor, setting=setting, lr=lr))
    return result


def network_facts(own):
    """The accuracies and the time of one setting's runs, mean over the seeds."""
    result = {'seeds': len(own), 'epochs': int(own.epochs.iloc[0]),
              'weight_decay': own.weight_decay.iloc[0], 'seconds': round(own.cpu_seconds.mean())}
    for name in ('validation', 'balanced', 'corrected'):
        result[name] = round(own[name].mean(), 2)
    return result


def ranking(effects, count=7):
    """The greatest gains that the runs show: the best setting of each factor, with its label.

    Without the notebook's network, which changes many things at once.
    """
    gains = [row for row in effects if row['shown'] > 0]
    best = {}
    for row in sorted(gains, key=lambda row: -row['difference']):
        if (row['factor'], row['setting']) != SMALL:
            label = f'{row["factor"]}: {row["setting"]}'
            best.setdefault(row['factor'], dict(row, label=label))
    return list(best.values())[:count]


# The submitted network ----------------------------------------------------------------------------

def submitted_network(weights, data, label, training, validation):
    """The facts of the network, and the labels that it predicts for the validation rows.

    The labels are those after class-prior correction of the mean over augmented copies. The
    submission has even_class_counts in its place.
    """
    net = character_network(Conv2d=fast_conv2d.Conv2d, Network=ParallelNetwork)
    read_npz(weights)      # refuses a damaged file
    net.load(weights)
    if net.held_back != {fingerprint(data[validation], label[validation])}:
        raise ValueError(f'{weights} was not trained with these {len(validation)} validation rows '
                         'held back: train it with leaderboard/train.py')
    ways = predict_ways(net, data[validation], label[training])
    facts = {}
    for way in ways:
        labels = ways[way].argmax(axis=1)
        found = score(labels, label[validation])
        facts[way] = {'accuracy': round(found.accuracy, 2),
                      'balanced': round(found.balanced_accuracy, 2)}
    sample = training[:len(validation)]
    facts.update({
        'even': [even_subsets(ways['augmented'], label[validation], count, max(20, 4800 // count))
                 for count in (12, 24, 48, TEST_ROWS // len(CLASS_NAMES))],
        'parameters': sum(getattr(layer, name).size for _, layer, name in net.parameters()),
        'channels': [layer.out_channels for layer in net.layers if isinstance(layer, Conv2d)],
        'hidden': net.layers[-1].in_features, 'dropout': net.layers[-2].p,
        'smoothing': net.loss.label_smoothing, 'copies': COPIES,
        'augment': {name: round(getattr(net.layers[1], name), 3) for name in LIMITS},
        'training_accuracy': round(net.evaluate(data[sample], label[sample]).accuracy, 2)})
    return facts, labels


def expected_on_test(own, even, rows):
    """The mean of the seeds of `large`, and what is expected of it on the test, in percent.

    The standard error is that of the seeds and of both samples of rows.
    """
    means = {name: round(float(own[name].mean()), 2)
             for name in ('balanced', 'corrected', 'augmented')}
    share = own.augmented.mean() / 100
    variance = 1e4 * share * (1 - share) * (1 / rows + 1 / TEST_ROWS) + own.augmented.var()
    return dict(means, seeds=len(own), least=round(float(own.augmented.min()), 2),
                greatest=round(float(own.augmented.max()), 2),
                expected=round(float(own.augmented.mean()) + even['gain'], 2),
                standard_error=round(math.sqrt(variance), 2))


def even_subsets(predict, label, count, subsets=200):
    """The percentage that is right in samples with `count` rows of each class, on average.

    `corrected` is that of the predictions as they are, `counts` that with even class counts,
    `no_square` that without the square in it. Rows are drawn with replacement, so that a sample can
    be as large as the test. Then the three differ as they would there, but not by new rows.
    """
    rng = np.random.default_rng(0)
    rows_of = [np.flatnonzero(label == one) for one in np.unique(label)]
    right = np.zeros(3)
    for _ in range(subsets):
        rows = np.concatenate([rng.choice(own, count) for own in rows_of])
        ways = (predict[rows], even_class_counts(predict[rows]),
                even_class_counts(np.sqrt(predict[rows])))
        right += [(found.argmax(axis=1) == label[rows]).mean() for found in ways]
    names = ('corrected', 'counts', 'no_square')
    found = {name: float(share) for name, share in zip(names, 100 * right / subsets)}
    return dict({name: round(share, 2) for name, share in found.items()}, rows=count,
                gain=round(found['counts'] - found['corrected'], 2),
                square=round(found['counts'] - found['no_square'], 2))


def mistakes(label, predicted):
    """How many validation rows are wrong, and how many of them within a group of one shape."""
    shape = np.arange(len(CLASS_NAMES))      # the first class of the same shape
    for group in ALIKE:
        members = [CLASS_NAMES.index(name) for name in group]
        shape[members] = members[0]
    wrong = int((predicted != label).sum())
    across = int((shape[predicted] != shape[label]).sum())
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
    for layer in net.layers:
        in_float64(layer)
    batch = rng.standard_normal((7, 5, 5, 1)), np.arange(7) % 5
    net.forward(*batch)
    net.backward()
    errors = []
    for _, layer, name in net.parameters():
        numeric = numeric_gradient(lambda: net.forward(*batch)[1], getattr(layer, name))
        errors.append(abs(numeric - getattr(layer, f'{name}_grad')).max())
    return max(errors)


def power_of_ten(value):
    """8.2e-11 -> [9, -11], 9.2e-11 -> [1, -10]: rounded up, so that it is a bound."""
    exponent = math.floor(math.log10(value))
    digit = math.ceil(round(value / 10 ** exponent, 6))
    return [digit, exponent] if digit < 10 else [1, exponent + 1]


def gather(project):
    """Read and measure all, draw the figures into project/report/figures, and return the facts."""
    found = by_setting(read_table(project / 'report' / 'experiments.csv', COLUMNS))
    weights = project / 'leaderboard' / 'character_network.npz'
    curve = read_table(weights.with_suffix('.csv'), CURVE)
    data, label = read_train(project / 'data' / 'train.csv')
    training, validation = split_rows(len(data), min(8000, len(data) // 3), 0)
    share = 100 * np.bincount(label[training], minlength=len(CLASS_NAMES)) / len(training)
    trainings = pd.read_csv(project / 'leaderboard' / 'minutes.csv', comment='#')
    changes = effects(found) + [copies_effect(trainings)]
    facts = {
        'rows': {'all': len(data), 'training': len(training), 'validation': len(validation),
                 'least_share': round(share.min(), 1), 'greatest_share': round(share.max(), 1)},
        'baseline': network_facts(found[FIRST]), 'notebook': network_facts(found[SMALL]),
        'settings': {name: BASELINE[name] for name in ('batch_size', 'momentum')},
        'effects': changes, 'ranking': ranking(changes),
        'gradient_check': {'step': power_of_ten(STEP), 'tolerance': power_of_ten(TOLERANCE),
                           'error': power_of_ten(gradient_error())}}
    large, predicted = submitted_network(weights, data, label, training, validation)
    own = trainings[(trainings.network == 'large') & (trainings.side == 'ours')]
    own = own[own.epochs == CHARACTER_TRAINING['epochs']]
    large['mean'] = expected_on_test(own, large['even'][-1], len(validation))
    large.update(epochs=len(curve), minutes=round(own.minutes.mean(), 1))
    large.update((name, CHARACTER_TRAINING[name]) for name in ('batch_size', 'ema_decay', 'lr',
                                                            'momentum', 'weight_decay'))
    data, label = data[validation], label[validation]
    counts = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), int)
    np.add.at(counts, (label, predicted), 1)
    facts.update(large=large, mistakes=mistakes(label, predicted), confusion=confusion(counts))
    folder = project / 'report' / 'figures'
    folder.mkdir(exist_ok=True)
    figures.ranking(facts['ranking'], folder / 'ranking.svg')
    figures.curves(curve, folder / 'curves.svg')
    both_ways = []
    for pair in confused_pairs(counts)[:6]:
        both_ways += [pair, pair[::-1]]
    figures.pairs(both_ways, counts, data, label, predicted, folder / 'pairs.svg')
    return facts


def main(arguments=None, project=PROJECT):
    """Compute the report's numbers and figures. If it cannot be done, one sentence says why."""
    argparse.ArgumentParser(description=main.__doc__).parse_args(arguments)
    path = project / 'report' / 'facts.json'
    print('Predicting the validation rows takes some minutes ...', flush=True)
    try:
        facts = gather(project)
        with replacing(path) as file:
            file.write((json.dumps(facts, indent=1, allow_nan=False) + '\n').encode('ascii'))
    except (ValueError, OSError) as error:
        sys.exit(f'facts.py: {error}')
    print(f'Wrote {path} and the figures beside it')


if __name__ == '__main__':
    main()
