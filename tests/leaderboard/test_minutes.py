"""leaderboard/minutes.py: its trainings, how they go on, the seconds of an epoch, the figure."""
import types

import numpy as np
import pandas as pd
import pytest

import benchmark
import checkpoint
import minutes
import network
import torch_training
import train
from workshop import lab_rows, write_table

ROWS = 120
ACCURACIES = {'balanced': 80.0, 'corrected': 81.0, 'augmented': 82.0}
SIDES = ['ours', 'PyTorch'] if torch_training.torch else ['ours']


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with few rows and all classes; a small network in place of `small`, one epoch."""
    pixels, label = lab_rows(ROWS)
    write_table(tmp_path / 'train.csv', np.column_stack([label, pixels]))
    monkeypatch.setattr(minutes, 'VALIDATION', 30)
    monkeypatch.setattr(benchmark, 'EPOCH', ROWS - 30)
    monkeypatch.setattr(benchmark, 'CORES', 1)
    monkeypatch.setattr(torch_training.os, 'cpu_count', lambda: 1)
    monkeypatch.setitem(minutes.NETWORKS, 'small', {'stages': ((2,), (2,), (2,)), 'hidden': 4})
    monkeypatch.setitem(minutes.SETTINGS, 'small', {'epochs': 1})
    return tmp_path


def run(folder, command, *arguments, only=('small',)):
    minutes.main([command, '--only', *only, '--data', str(folder),
                  '--results', str(folder / 'minutes.csv'), *arguments])


def time(folder, only=('small',)):
    """Measure -> the table of seconds."""
    run(folder, 'time', '--rows', '90', '--repeats', '1', only=only)
    return pd.read_csv(str(folder / 'minutes-seconds.csv'), comment='#')


def test_one_training_by_each_side(data):
    run(data, 'train', '--seeds', '3')
    rows = pd.read_csv(str(data / 'minutes.csv')).to_dict('records')
    assert [row['side'] for row in rows] == SIDES
    assert all(0 <= row['augmented'] <= 100 for row in rows)
    assert list(rows[0]) == minutes.COLUMNS
    pixels, label = network.read_train(str(data / 'train.csv'))
    chosen, kept = network.split_rows(ROWS, 30, 0)
    training = minutes.make_training('small', 'ours', 3, (pixels[chosen], label[chosen]),
                                     (pixels[kept], label[kept]))
    training.run(verbose=False)
    copies = training.net.predict_augmented(pixels[kept], train.COPIES)
    predicted = network.correct_class_prior(copies, label[chosen]).argmax(axis=1)
    expected = network.score(predicted, label[kept]).balanced_accuracy
    assert rows[0]['augmented'] == pytest.approx(expected, abs=0.006)
    assert (rows[0]['size'], rows[0]['seed'], rows[0]['epochs']) == ('small', 3, 1)


def test_a_series_goes_on_where_it_was(data, monkeypatch):
    """Without PyTorch its side is left out."""
    calls = []

    def make_training(size, side, seed, train, validation):
        calls.append((size, side, seed))
        return types.SimpleNamespace(epochs=3, net=None, run=lambda verbose: None)
    monkeypatch.setattr(minutes, 'make_training', make_training)
    monkeypatch.setattr(minutes.Series, 'accuracies', lambda self, net: ACCURACIES)
    monkeypatch.setattr(torch_training, 'torch', None)
    contents = []
    for seeds in ('01', '01', '2'):
        run(data, 'train', '--seeds', *seeds)
        contents.append((data / 'minutes.csv').read_bytes())
    assert calls == [('small', 'ours', seed) for seed in range(3)]
    assert contents[0] == contents[1]
    assert list(pd.read_csv(str(data / 'minutes.csv')).seed) == [0, 1, 2]
    (data / 'minutes.csv').write_text('size,seed\nsmall,0\n')
    with pytest.raises(ValueError, match='minutes.csv has the columns'):
        run(data, 'train')


@pytest.mark.parametrize('only', [['small'], ['medium', 'small']], ids=' and '.join)
def test_each_network_is_timed_once_and_others_keep_their_seconds(data, only):
    assert list(time(data, only).side) == SIDES
    found = time(data)
    assert list(zip(found.part, found.side)) == [('small', side) for side in SIDES]
    assert (found.seconds > 0).all()
    old = benchmark.Row('large', 'large', 'ours', 9200, 90.5, 90.0, 91.0, None, None, None)
    path = data / 'minutes-seconds.csv'
    checkpoint.write_csv(str(path), pd.DataFrame([old]), benchmark.about())
    found = time(data)
    assert list(found.seconds[found.part == 'large']) == [90.5]
    assert (found.part == 'small').sum() == len(SIDES)
    checkpoint.write_csv(str(path), pd.DataFrame([old]), ['NumPy 1', 'a machine'])
    before = path.read_bytes()
    with pytest.raises(ValueError, match='of another machine'):
        time(data)
    assert path.read_bytes() == before


def test_the_table_and_the_figure(tmp_path, capsys):
    runs = [dict(ACCURACIES, size=size, side=side, seed=seed, epochs=epochs,
                 augmented=accuracy + seed)
            for size, epochs, accuracy in (('baseline', 6, 85.0), ('small', 10, 88.0),
                                           ('medium', 20, 90.0))
            for side in minutes.SIDES for seed in range(3)]
    checkpoint.write_csv(str(tmp_path / 'minutes.csv'), pd.DataFrame(runs))
    rows = [benchmark.Row(size, size, side, 9200, seconds, seconds, seconds, None, None, None)
            for size in ('baseline', 'small') for side, seconds in (('ours', 30.0),
                                                                    ('PyTorch', 45.0))]
    checkpoint.write_csv(str(tmp_path / 'minutes-seconds.csv'), pd.DataFrame(rows), ['a machine'])
    run(tmp_path, 'draw')
    table = minutes.summary(*[pd.read_csv(str(tmp_path / name), comment='#')
                              for name in ('minutes.csv', 'minutes-seconds.csv')])
    assert list(table['size']) == ['baseline', 'baseline', 'small', 'small', 'medium', 'medium']
    assert list(table.minutes) == [3.0, 4.5, 5.0, 7.5, 10.0, 15.0]
    for name, offset in (('least', 0), ('mean', 1), ('greatest', 2)):
        assert list(table[name] - offset) == [85, 85, 88, 88, 90, 90]
    assert '89.0' in capsys.readouterr().out
    assert (tmp_path / 'minutes.png').stat().st_size > 10000


def test_every_size_has_its_network_and_its_training():
    assert set(minutes.SIZES) - {'baseline'} <= set(minutes.NETWORKS)
    assert set(minutes.SIZES) <= set(minutes.SETTINGS)
    for size, timed in minutes.TIMED_AS.items():
        shapes = [minutes.make_network(name, 0).shapes() for name in (size, timed)]
        assert shapes[0] == shapes[1], f'{size} is not timed, but differs from {timed}'
