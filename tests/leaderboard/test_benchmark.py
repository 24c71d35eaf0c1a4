"""The benchmark on a few rows: it runs, compares equal work, and refuses other work."""
import os

import numpy as np
import pandas as pd
import pytest

import benchmark
import torch_training
from small_networks import check_equal


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Few rows, one thread, no data, and a folder of its own for what is written by default."""
    for name, value in (('CORES', 1), ('HOME', str(tmp_path))):
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(torch_training.os, 'cpu_count', lambda: 1)


def run(tmp_path, *names):
    """Run parts of the benchmark with one turn of 256 rows -> its comment lines, and its rows."""
    output = str(tmp_path / 'table.csv')
    benchmark.main(['--rows', '256', '--repeats', '1', '--output', output, '--only', *names])
    with open(output) as file:
        lines = [line for line in file if line.startswith('#')]
    return lines, pd.read_csv(output, comment='#')


@pytest.mark.parametrize('missing', [False, True])
def test_the_table_also_without_the_other_frameworks(tmp_path, capsys, monkeypatch, missing):
    if missing:
        monkeypatch.setattr(benchmark, 'optional', lambda name: None)
    monkeypatch.setitem(benchmark.NETWORKS, 'large', benchmark.NETWORKS['tiny'])
    lines, rows = run(tmp_path, '784-60-47', 'large')
    assert np.__version__ in lines[0] and '1 cores' in lines[1]
    printed = capsys.readouterr().out
    for text in (str(tmp_path), os.path.dirname(benchmark.__file__), os.path.expanduser('~')):
        assert text not in printed
    assert set(rows.network) == {'784-60-47', 'large'} and (rows.seconds > 0).all()
    assert {'ours', 'ours, fast'} <= set(rows[rows.network == 'large'].side)
    assert set(rows.measurement) == {'epoch', 'prediction'}
    assert benchmark.summary(rows).notna().all(axis=None) == ('PyTorch' in set(rows.side))
    if missing:
        assert 'PyTorch missing, scikit-learn missing' in lines[0]
        assert set(rows.side) == {'ours', 'ours, fast'}


def test_ratio_is_the_median_of_the_turns_and_each_side_gets_its_rows(monkeypatch):
    clock = iter(np.cumsum([0, 10.0, 0, 20, 0, 10, 0, 10, 0, 10, 0, 40]))
    monkeypatch.setattr(benchmark.time, 'perf_counter', lambda: next(clock))
    monkeypatch.setattr(benchmark.time, 'sleep', lambda seconds: None)
    counts = []
    sides = {'ours': (counts.append, 1000), 'PyTorch': (counts.append, 500)}
    turns = [('net', 'epoch') + turn for turn in benchmark.take_turns(sides, 3)]
    assert counts == [1000, 500] * 4
    table = benchmark.summary(pd.DataFrame(turns, columns=benchmark.KEYS + ['turn', 'seconds']))
    ours, theirs = [table.loc[('net', 'epoch', side)] for side in sides]
    assert list(ours.ratio) == [0.25, 0.125, 0.5] and set(theirs.ratio) == {1}
    assert [ours.seconds['median'], theirs.seconds['median']] == [10 * 92, 20 * 184]


@pytest.mark.parametrize('name', [*benchmark.MLPS, *benchmark.CNNS])
def test_the_same_work_is_compared(name):
    pytest.importorskip('torch')
    pixels, label = benchmark.random_rows(32)
    plain, fast = benchmark.make_networks(name)
    net = fast or plain
    check_equal(net.arrays(), plain.arrays())
    benchmark.check_same_loss(net, torch_training.TorchNetwork(net), pixels, label)


def test_other_work_is_refused():
    """Weights in another order behind Flatten."""
    pytest.importorskip('torch')
    net = benchmark.make_networks('notebook')[0]
    theirs = torch_training.TorchNetwork(net)
    net.layers[16].weight[...] = net.layers[16].weight[::-1].copy()
    with pytest.raises(SystemExit, match='our loss'):
        benchmark.check_same_loss(net, theirs, *benchmark.random_rows(32))
