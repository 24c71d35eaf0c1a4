"""leaderboard/minutes.py: its trainings, how they go on, the figure."""
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
SIDES = ['ours', 'PyTorch'] if torch_training.torch else ['ours']


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with few rows and all classes; a small `large`, of one and of two epochs."""
    pixels, label = lab_rows(ROWS)
    write_table(tmp_path / 'train.csv', np.column_stack([label, pixels]))
    for module, name, value in ((minutes, 'VALIDATION', 30), (benchmark, 'CORES', 1),
                                (minutes, 'RUNS', [('baseline', 1), ('large', 1), ('large', 2)]),
                                (torch_training.os, 'cpu_count', lambda: 1)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setitem(train.NETWORKS, 'large', train.NETWORKS['tiny'])
    return tmp_path


def run(folder, command, *arguments):
    minutes.main([command, '--data', str(folder), '--results', str(folder / 'minutes.csv'),
                  *arguments])
    return pd.read_csv(str(folder / 'minutes.csv'), comment='#')


def test_time_and_accuracies_are_those_of_one_training_after_its_last_epoch(data):
    rows = run(data, 'train', '--seeds', '3', '--only', 'large').query('epochs == 2')
    assert list(rows.side) == SIDES and list(rows.columns) == minutes.COLUMNS
    assert (rows.minutes >= 0).all() and set(rows.seed) == {3}
    pixels, label = network.read_train(str(data / 'train.csv'))
    chosen, kept = network.split_rows(ROWS, 30, 0)
    net = train.make_network('large', 3)
    train_rows = (pixels[chosen], label[chosen])
    train.make_training('large', net, train_rows, None, epochs=2, seed=3).run(verbose=False)
    copies = net.predict_augmented(pixels[kept], train.COPIES)
    predicted = network.correct_class_prior(copies, label[chosen]).argmax(axis=1)
    expected = network.score(predicted, label[kept]).balanced_accuracy
    assert rows.augmented.iloc[0] == pytest.approx(expected, abs=0.006)


def test_a_series_goes_on_where_it_was(data, monkeypatch):
    """Without PyTorch its side is left out. Times of other machines are not mixed."""
    monkeypatch.setattr(torch_training, 'torch', None)
    first = run(data, 'train', '--seeds', '0')
    assert list(zip(first.network, first.epochs)) == minutes.RUNS
    content = (data / 'minutes.csv').read_bytes()
    run(data, 'train', '--seeds', '0')
    assert (data / 'minutes.csv').read_bytes() == content
    second = run(data, 'train', '--seeds', '0', '1', '--only', 'baseline')
    pd.testing.assert_frame_equal(second[:3], first)
    assert list(second.seed) == [0, 0, 0, 1]
    for change in ((b' cores', b' cores, another machine'), (b'network,', b'size,')):
        (data / 'minutes.csv').write_bytes(content.replace(*change))
        with pytest.raises(ValueError, match='minutes.csv is of another machine'):
            run(data, 'train')


def test_the_table_and_the_figure(data, capsys):
    runs = [{'network': name, 'epochs': epochs, 'side': side, 'seed': seed,
             'minutes': epochs * factor + seed, 'balanced': 0, 'corrected': 0,
             'augmented': accuracy + seed}
            for name, epochs, accuracy in (('baseline', 1, 85.0), ('large', 1, 88.0),
                                           ('large', 2, 90.0))
            for side, factor, seeds in (('ours', 10, 3), ('PyTorch', 20, 2))
            for seed in range(seeds)]
    checkpoint.write_csv(str(data / 'minutes.csv'), pd.DataFrame(runs), ['a machine'])
    table = minutes.summary(run(data, 'draw'))
    ours = table[table.side == 'ours']
    assert list(zip(ours.network, ours.epochs)) == minutes.RUNS
    assert list(ours.minutes) == [11, 11, 21] and list(ours.seeds) == [3, 3, 3]
    for name, offset in (('least', 0), ('mean', 1), ('greatest', 2)):
        assert list(ours[name] - offset) == [85, 88, 90]
    assert '89.0' in capsys.readouterr().out
    assert (data / 'minutes.png').stat().st_size > 10000


def test_every_run_has_its_network_and_its_settings():
    for name, _ in minutes.RUNS:
        assert train.make_network(name, 0).shapes()[-1] == (47,) and name in train.TRAININGS
