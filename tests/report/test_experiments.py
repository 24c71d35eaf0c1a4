"""report/experiments.py: its search for the learning rate, how it goes on, and one training."""
import os
import sys

import numpy as np
import pandas as pd
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, 'report'))

import build                                                                         # noqa: E402
import experiments                                                                   # noqa: E402
from network import correct_class_prior, score                                       # noqa: E402

SETTINGS = dict(experiments.BASELINE, lr=0.1)
KNOWN = [(factor, setting) for factor in experiments.FACTORS
         for setting in experiments.FACTORS[factor]]


@pytest.fixture
def trainings(monkeypatch):
    """Replace the training: its accuracy depends on the rate alone, and it notes its calls."""
    calls = []
    accuracy = {0.03: 80.0, 0.1: 81.0, 0.3: 84.0, 1.0: 83.0, 3.0: np.nan}

    def train_once(train, validation, seed, lr, **settings):
        calls.append((seed, lr))
        row = dict.fromkeys(('validation', 'balanced', 'corrected'), accuracy[lr])
        return dict(row, augmented=np.nan, cpu_seconds=1.0, wall_seconds=1.0)

    monkeypatch.setattr(experiments, 'train_once', train_once)
    return calls


def make_series(path):
    return experiments.Series(str(path), np.zeros((9000, 784), np.uint8), np.zeros(9000, int))


def test_the_search_ends_when_both_neighbours_of_the_best_rate_are_tried(trainings, tmp_path):
    path = tmp_path / 'runs.csv'
    assert make_series(path).find_rate('f', 's', SETTINGS) == 0.3
    assert trainings == [(0, 0.1), (0, 0.03), (0, 0.3), (0, 1.0)]
    rate = make_series(path).find_rate('f', 'from above', dict(SETTINGS, lr=1.0))
    assert rate == 0.3, 'the rate 3 diverges: it is never the best'
    row = pd.read_csv(str(path)).query('lr == 3.0')
    assert len(row) == 1 and row.balanced.isnull().all(), f'got {row.to_dict("records")}'


@pytest.mark.parametrize('setting', ['s', '0.1', '0', 'NA', "commas, 'quotes' and ~"])
def test_a_series_goes_on_where_it_was(trainings, tmp_path, setting):
    path = tmp_path / 'runs.csv'
    for seeds in ((0, 1), (0, 1), (0, 1, 2)):
        series = make_series(path)      # reads what the one before has written
        rate = series.find_rate('f', setting, SETTINGS)
        for seed in seeds:
            series.run('f', setting, seed, dict(SETTINGS, lr=rate), search=False)
    expected = [(0, 0.1), (0, 0.03), (0, 0.3), (0, 1.0), (1, 0.3), (2, 0.3)]
    assert trainings == expected, f'trained (seed, rate) {trainings}, expected {expected}'
    for changes in ({'epochs': 9}, {'weight_decay': 0.0}, {}):      # the first two are other runs
        series.run('f', setting, 1, dict(SETTINGS, lr=0.3, **changes), search=False)
    assert len(trainings) == len(expected) + 2
    final = pd.read_csv(str(path)).query('not search')
    assert list(final.seed) == [0, 1, 2, 1, 1] and set(final.balanced) == {84.0}


@pytest.mark.parametrize('factor, setting', KNOWN)
def test_every_setting_makes_a_network_that_trains_a_step(factor, setting):
    settings = dict(experiments.BASELINE, **experiments.FACTORS[factor][setting])
    assert settings['lr'] in experiments.RATES
    rng = np.random.default_rng(0)
    data = rng.integers(2, 256, (20, 784)).astype(np.uint8)
    label = rng.integers(0, 47, 20)
    settings.update(epochs=1, batch_size=4)
    row = experiments.train_once((data[:12], label[:12]), (data[12:], label[12:]), 0, **settings)
    assert np.isfinite(row['corrected']), f'got {row}'
    assert np.isfinite(row['augmented']) == ('augment' in settings), f'got {row}'


def test_a_row_holds_the_accuracies_of_the_network_that_fit_leaves():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, 600)
    data = (rng.integers(0, 60, (600, 784)) + 30 * label[:, np.newaxis]).astype(np.uint8)
    train, validation = (data[:500], label[:500]), (data[500:], label[500:])
    row = experiments.train_once(train, validation, 3, **dict(SETTINGS, hidden=(20,)))
    net = experiments.fully_connected(np.random.default_rng(3), hidden=(20,))
    net.fit(train, validation, 6, 128, 0.1, schedule=experiments.one_cycle, seed=3, momentum=0.9,
            nesterov=True, weight_decay=5e-4, verbose=False)
    predict = net.predict(validation[0])
    plain = score(predict.argmax(axis=1), validation[1])
    corrected = correct_class_prior(predict, train[1]).argmax(axis=1)
    expected = [plain.accuracy, plain.balanced_accuracy,
                score(corrected, validation[1]).balanced_accuracy]
    got = [row['validation'], row['balanced'], row['corrected']]
    assert got == pytest.approx(expected, abs=1e-3), f'got {got}, expected {expected}'
    assert plain.accuracy > 30, 'the network of the test has learnt nothing'


@pytest.mark.filterwarnings('ignore:overflow', 'ignore:invalid value')
def test_a_training_that_diverges_gives_a_row_without_accuracies():
    pair = (np.full((40, 784), 255, np.uint8), np.arange(40) % 47)
    settings = dict(SETTINGS, lr=1e10, loss=experiments.SquaredError(), hidden=(5,))
    row = experiments.train_once(pair, pair, 0, **settings)
    assert np.isnan(row['balanced']) and np.isnan(row['corrected']) and row['cpu_seconds'] >= 0


HEADER = ','.join(experiments.COLUMNS)
ROW = 'f,s,0,6,0.1,0.0005,False,86,85,86,,9,9'


@pytest.mark.parametrize('text, expected', [
    ('', 'No columns to parse'), ('factor,setting,seed\nf,s,1\n', 'it needs the columns factor, '),
    (HEADER.replace(',', ';'), 'it needs the columns'), (f'{HEADER}\nf,s', "line 2: seed is ''"),
    (f'{HEADER}\n{ROW}\n{ROW.replace("0.1", "?")}', "runs.csv, line 3: lr is '\\?'"),
    (f'{HEADER}\n{ROW.replace("False", "")}', "line 2: search is ''")])
def test_a_table_of_another_form_is_refused_and_kept(tmp_path, text, expected):
    path = tmp_path / 'runs.csv'
    path.write_text(text)
    with pytest.raises(ValueError, match=expected):
        make_series(path)
    assert path.read_text() == text


RUNS = os.path.join(ROOT, 'report', 'experiments.csv')


@pytest.mark.skipif(not build.is_repositorys(RUNS), reason='these runs are your own')
def test_the_repositorys_table_holds_runs_of_this_program():
    rows = experiments.read_table(RUNS, experiments.COLUMNS).to_dict('records')
    unknown = {(row['factor'], row['setting']) for row in rows} - set(KNOWN)
    unknown |= {key for pair in experiments.REFERENCES.items() for key in pair} - set(KNOWN)
    assert not unknown, f'experiments.py has no {sorted(unknown)}'
