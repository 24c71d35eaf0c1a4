"""The benchmark on a few rows: it runs, compares equal work, and refuses other work."""
import os
import platform
import re

import numpy as np
import pandas as pd
import pytest

import benchmark


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Few rows, one thread, no data, and a folder of its own for what is written by default."""
    monkeypatch.setattr(benchmark, 'CORES', 1)
    monkeypatch.setattr(benchmark, 'CSV_ROWS', 100)
    monkeypatch.setattr(benchmark, 'HOME', str(tmp_path))
    monkeypatch.setattr(benchmark, 'ROOT', str(tmp_path))


def run(tmp_path, *names):
    """Run parts of the benchmark with one turn of 256 rows -> its comment lines, and its rows."""
    output = str(tmp_path / 'table')
    benchmark.main(['--rows', '256', '--repeats', '1', '--output', output, '--only', *names])
    with open(output + '.csv') as file:
        lines = [line for line in file if line.startswith('#')]
    return lines, pd.read_csv(output + '.csv', comment='#')


def small_networks(monkeypatch):
    """Let the convolutional networks be small, so that the test is fast."""
    def make(Conv2d=benchmark.Conv2d, Network=benchmark.Network):
        net = benchmark.character_network(stages=((2,), (3, 3), (2,)), hidden=4, augment=False,
                                          Conv2d=Conv2d)
        layers = [each for each in net.layers if not isinstance(each, benchmark.Dropout)]
        return Network(layers)
    monkeypatch.setitem(benchmark.CNNS, 'wide', make)
    monkeypatch.setitem(benchmark.CNNS, 'cnn', make)


def test_table_and_figure(tmp_path, capsys, monkeypatch):
    small_networks(monkeypatch)
    lines, rows = run(tmp_path, '784-60-47', 'cnn', 'csv', 'predict')
    assert (tmp_path / 'table.png').stat().st_size > 10000
    assert np.__version__ in lines[0] and '1 cores' in lines[1]
    printed = capsys.readouterr().out
    for text in (str(tmp_path), os.path.dirname(benchmark.__file__), os.path.expanduser('~')):
        assert text not in printed
    assert not re.search(rf'\b{re.escape(platform.node() or "no name")}\b', printed)
    assert list(rows.columns) == list(benchmark.Row._fields)
    assert set(rows.part) == {'784-60-47', 'cnn', 'csv', 'predict'}
    assert (rows.seconds > 0).all()
    assert (rows.seconds_least <= rows.seconds).all()
    sides = set(rows[rows.part == 'cnn'].side)
    assert {'ours', 'ours, fast', 'products'} <= sides
    assert rows.ratio[(rows.part == 'csv') & (rows.side == 'ours')].notna().all()


def test_missing_frameworks_are_left_out(tmp_path, monkeypatch):
    optional = benchmark.optional
    monkeypatch.setattr(benchmark, 'optional',
                        lambda name: None if name in ('torch', 'sklearn') else optional(name))
    lines, rows = run(tmp_path, '784-60-47')
    assert 'PyTorch missing, scikit-learn missing' in lines[0]
    assert set(rows.side) == {'ours', 'products'}
    assert rows.ratio.isna().all()


def test_only_the_whole_is_written_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, 'NAMES', ['csv'])
    benchmark.main(['--rows', '256', '--repeats', '1', '--only', 'csv'])
    assert os.listdir(str(tmp_path)) == []
    benchmark.main(['--rows', '256', '--repeats', '1'])
    assert sorted(os.listdir(str(tmp_path))) == ['benchmark.csv', 'benchmark.png']


def test_ratio_is_the_median_of_the_turns(monkeypatch):
    clock = iter(np.cumsum([0, 10.0, 0, 20, 0, 10, 0, 10, 0, 10, 0, 40]))
    monkeypatch.setattr(benchmark.time, 'perf_counter', lambda: next(clock))
    monkeypatch.setattr(benchmark.time, 'sleep', lambda seconds: None)
    sides = [benchmark.Side('ours', lambda rows: None, 1), benchmark.Side('other', print, 1)]
    first, second = benchmark.compare('part', 'measurement', sides, 1000, 3, 'other')
    assert (first.ratio, first.ratio_least, first.ratio_greatest) == (0.5, 0.25, 1.0)
    assert second.ratio is None
    assert [first.seconds, second.seconds] == [10 * 92, 20 * 92]


def test_each_side_gets_its_share_of_the_rows():
    counts = []
    sides = [benchmark.Side('all', counts.append, 1), benchmark.Side('half', counts.append, 0.5),
             benchmark.Side('few', counts.append, 0.01)]
    rows = benchmark.compare('part', 'measurement', sides, 4000, 1, None)
    assert counts == [1000, 1000, 256, 4000, 2000, 256]
    assert [row.rows for row in rows] == [4000, 2000, 256]


def test_the_sides_have_the_same_weights():
    plain, fast = benchmark.make_networks('cnn')
    for name, array in plain.arrays().items():
        np.testing.assert_array_equal(fast.arrays()[name], array)


@pytest.mark.parametrize('name', ['784-60-47', 'default', '1024x3', 'cnn', 'wide'])
def test_the_same_work_is_compared(name):
    pytest.importorskip('torch')
    pixels, label = benchmark.load_rows(64)
    plain, fast = benchmark.make_networks(name)
    for net in (fast,) if name == 'wide' else (plain, fast):      # the plain one takes long
        if net is not None:
            benchmark.check_same_loss(net, benchmark.TorchSide(net), pixels, label)


@pytest.mark.parametrize('step, setting, value',
                         [(1, 'lr', 0.02), (2, 'momentum', 0.0), (1, 'maximize', True)])
def test_other_work_is_refused(step, setting, value):
    pytest.importorskip('torch')
    net, _ = benchmark.make_networks('784-60-47')
    torch_side = benchmark.TorchSide(net)
    torch_side.optimizer.param_groups[0][setting] = value
    with pytest.raises(SystemExit, match=f'after {step} steps our loss'):
        benchmark.check_same_loss(net, torch_side, *benchmark.load_rows(32))


@pytest.mark.parametrize('index', [2, 15])      # the first convolution, the layer behind Flatten
def test_weights_in_another_order_are_refused(index):
    pytest.importorskip('torch')
    net, _ = benchmark.make_networks('cnn')
    torch_side = benchmark.TorchSide(net)
    net.layers[index].weight[...] = net.layers[index].weight[::-1].copy()
    with pytest.raises(SystemExit, match='after 0 steps our loss'):
        benchmark.check_same_loss(net, torch_side, *benchmark.load_rows(32))


def test_matrix_products_have_the_shapes_of_the_network():
    shapes = []

    class Recorder(np.ndarray):
        def __matmul__(self, other):
            shapes.append((self.shape, other.shape))

    class Generator(object):
        def random(self, shape, dtype):
            return np.zeros(shape, dtype).view(Recorder)

    net, _ = benchmark.make_networks('784-60-47')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark.np.random, 'default_rng', lambda seed: Generator())
        epoch = benchmark.matrix_products(net, batch=100)
    epoch(250)
    expected = [((100, 784), (784, 60)), ((784, 100), (100, 60)), ((100, 47), (47, 60)),
                ((100, 60), (60, 47)), ((60, 100), (100, 47))]
    assert shapes == 2 * expected
