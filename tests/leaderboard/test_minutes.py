"""leaderboard/minutes.py: its trainings, how they go on, the seconds of an epoch, the figure."""
import numpy as np
import pandas as pd
import pytest

import benchmark
import minutes
import network
import torch_training
from small_networks import check_refused, read_bytes

ROWS = 120
ACCURACIES = {'balanced': 80.0, 'corrected': 81.0, 'augmented': 82.0}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with few rows and all classes; a small network in place of `small`, one epoch."""
    rng = np.random.default_rng(0)
    table = np.column_stack([np.arange(ROWS) % 47, rng.integers(0, 256, (ROWS, 784))])
    pd.DataFrame(table).to_csv(str(tmp_path / 'train.csv'), header=False, index=False)
    monkeypatch.setattr(minutes, 'VALIDATION', 30)
    monkeypatch.setattr(benchmark, 'EPOCH', ROWS - 30)
    monkeypatch.setattr(benchmark, 'CORES', 1)
    monkeypatch.setitem(minutes.NETWORKS, 'small', {'stages': ((2,), (2,), (2,)), 'hidden': 4})
    monkeypatch.setitem(minutes.SETTINGS, 'small', {'epochs': 1})
    return tmp_path


def run(folder, command, *arguments):
    minutes.main([command, '--only', 'small', '--data', str(folder),
                  '--results', str(folder / 'minutes.csv'), *arguments])


@pytest.fixture
def trained(monkeypatch):
    """Replace the trainings by nothing, and note which ones were asked for."""
    calls = []

    class Nothing(object):
        epochs = 3
        net = None

        def run(self, verbose):
            pass

    def make_training(size, side, seed, train, validation):
        calls.append((size, side, seed))
        return Nothing()
    monkeypatch.setattr(minutes, 'make_training', make_training)
    monkeypatch.setattr(minutes.Series, 'accuracies', lambda self, net: ACCURACIES)
    return calls


def test_one_training_by_our_framework(data):
    run(data, 'train', '--seeds', '3', '--sides', 'ours')
    row, = pd.read_csv(str(data / 'minutes.csv')).to_dict('records')
    assert list(row) == minutes.COLUMNS
    pixels, label = network.read_train(str(data / 'train.csv'))
    chosen, kept = network.split_rows(ROWS, 30, 0)
    training = minutes.make_training('small', 'ours', 3, (pixels[chosen], label[chosen]),
                                     (pixels[kept], label[kept]))
    training.run(verbose=False)
    copies = training.net.predict_augmented(pixels[kept], minutes.COPIES)
    predicted = network.correct_class_prior(copies, label[chosen]).argmax(axis=1)
    expected = network.score(predicted, label[kept]).balanced_accuracy
    assert row['augmented'] == pytest.approx(expected, abs=0.006)
    assert (row['size'], row['side'], row['seed'], row['epochs']) == ('small', 'ours', 3, 1)


def test_one_training_by_pytorch(data):
    pytest.importorskip('torch')
    run(data, 'train', '--seeds', '0', '--sides', 'PyTorch')
    row, = pd.read_csv(str(data / 'minutes.csv')).to_dict('records')
    assert row['side'] == 'PyTorch' and 0 <= row['augmented'] <= 100


def test_a_series_goes_on_where_it_was(data, trained):
    run(data, 'train', '--seeds', '0', '1', '--sides', 'ours')
    before = read_bytes(data / 'minutes.csv')
    run(data, 'train', '--seeds', '0', '1', '--sides', 'ours')
    assert trained == [('small', 'ours', 0), ('small', 'ours', 1)]
    assert read_bytes(data / 'minutes.csv') == before
    run(data, 'train', '--seeds', '2', '--sides', 'ours')
    assert trained[2:] == [('small', 'ours', 2)]
    assert list(pd.read_csv(str(data / 'minutes.csv')).seed) == [0, 1, 2]


def test_without_pytorch_its_side_is_left_out(data, trained, monkeypatch):
    monkeypatch.setattr(torch_training, 'torch', None)
    run(data, 'train', '--seeds', '0')
    assert trained == [('small', 'ours', 0)]


def test_a_file_with_other_columns_is_refused(data):
    (data / 'minutes.csv').write_text('size,seed\nsmall,0\n')
    text = check_refused(ValueError, lambda: run(data, 'train'), 'minutes.csv', '--results')
    assert 'expected size, side' in text
    assert (data / 'minutes.csv').read_text() == 'size,seed\nsmall,0\n'


def test_the_seconds_of_an_epoch(data):
    run(data, 'time', '--rows', '90', '--repeats', '1')
    found = pd.read_csv(str(data / 'minutes-seconds.csv'), comment='#')
    sides = ['ours', 'PyTorch'] if torch_training.torch else ['ours']
    assert list(found.side) == sides
    assert (found.seconds > 0).all()


def test_other_sizes_keep_their_seconds(data):
    old = benchmark.Row('large', 'large', 'ours', 9200, 90.5, 90.0, 91.0, None, None, None)
    benchmark.write_csv(str(data / 'minutes-seconds.csv'), benchmark.about(), [old])
    for _ in range(2):
        run(data, 'time', '--rows', '90', '--repeats', '1')
        found = pd.read_csv(str(data / 'minutes-seconds.csv'), comment='#')
        assert list(found.seconds[found.part == 'large']) == [90.5]
        assert (found.part == 'small').sum() == (2 if torch_training.torch else 1)


def test_times_of_another_machine_are_not_mixed(data):
    old = benchmark.Row('large', 'large', 'ours', 9200, 90.5, 90.0, 91.0, None, None, None)
    benchmark.write_csv(str(data / 'minutes-seconds.csv'), ['NumPy 1', 'a machine'], [old])
    before = read_bytes(data / 'minutes-seconds.csv')
    check_refused(ValueError, lambda: run(data, 'time', '--rows', '90', '--repeats', '1'),
                  'minutes-seconds.csv', 'NumPy 1 / a machine', 'measure all sizes')
    assert read_bytes(data / 'minutes-seconds.csv') == before


def test_a_timed_epoch_takes_its_rows_and_their_share_of_the_validation(monkeypatch):
    class Noted(object):
        def run_epoch(self):
            self.rows = len(self.train[0]), len(self.validation[0])
    training = Noted()
    train, validation = [np.zeros(92000)] * 2, [np.zeros(8000)] * 2
    minutes.run_part(training, train, validation, 9200)
    assert training.rows == (9200, 800)


def test_the_table_and_the_figure(tmp_path, capsys):
    runs = [dict(ACCURACIES, size=size, side=side, seed=seed, epochs=epochs,
                 augmented=accuracy + seed)
            for size, epochs, accuracy in (('baseline', 6, 85.0), ('small', 10, 88.0),
                                           ('medium', 20, 90.0))
            for side in minutes.SIDES for seed in range(3)]
    minutes.write_table(str(tmp_path / 'minutes.csv'), pd.DataFrame(runs))
    times = (('ours', 30.0), ('PyTorch', 45.0))
    rows = [benchmark.Row(size, size, side, 9200, seconds, seconds, seconds, None, None, None)
            for size in ('baseline', 'small') for side, seconds in times]
    benchmark.write_csv(str(tmp_path / 'minutes-seconds.csv'), ['a machine'], rows)
    run(tmp_path, 'draw')
    table = minutes.summary(*[pd.read_csv(str(tmp_path / name), comment='#')
                              for name in ('minutes.csv', 'minutes-seconds.csv')])
    assert list(table['size']) == ['baseline', 'baseline', 'small', 'small', 'medium', 'medium']
    assert list(table.minutes) == [3.0, 4.5, 5.0, 7.5, 10.0, 15.0]
    assert list(table['mean']) == [86.0, 86.0, 89.0, 89.0, 91.0, 91.0]
    assert list(table.least) == [85.0, 85.0, 88.0, 88.0, 90.0, 90.0]
    assert list(table.greatest) == [87.0, 87.0, 90.0, 90.0, 92.0, 92.0]
    assert '89.0' in capsys.readouterr().out
    assert (tmp_path / 'minutes.png').stat().st_size > 10000


def test_every_size_has_its_network_and_its_training():
    assert set(minutes.SIZES) - {'baseline'} <= set(minutes.NETWORKS)
    assert set(minutes.SIZES) <= set(minutes.SETTINGS)


def test_a_size_that_is_not_timed_has_the_channels_of_the_one_that_is():
    for size, timed in minutes.TIMED_AS.items():
        shapes = [minutes.make_network(name, 0).shapes() for name in (size, timed)]
        assert shapes[0] == shapes[1], f'{size} is not timed, but differs from {timed}'


@pytest.mark.parametrize('sizes', [['small', 'medium'], ['medium']], ids=' and '.join)
def test_the_epoch_of_two_sizes_is_timed_once(data, sizes):
    minutes.main(['time', '--only'] + sizes + ['--rows', '90', '--repeats', '1', '--data',
                  str(data), '--results', str(data / 'minutes.csv')])
    found = pd.read_csv(str(data / 'minutes-seconds.csv'), comment='#')
    sides = ['ours', 'PyTorch'] if torch_training.torch else ['ours']
    assert list(zip(found.part, found.side)) == [('small', side) for side in sides]
