"""The benchmark on a few rows: it runs, compares equal work, and refuses other. Its times mean nothing here."""
import os
import platform
import re

import numpy as np
import pandas as pd
import pytest

import benchmark


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Few rows everywhere, one thread, and a folder of its own for what is written by default."""
    for name, value in (('CORES', 1), ('CSV_ROWS', 100), ('SCALING_ROWS', (100, 200)), ('EPOCHS', 2),
                        ('EPOCH_ROWS', 100), ('HOME', str(tmp_path))):
        monkeypatch.setattr(benchmark, name, value)


def run(tmp_path, *arguments):
    """Run the benchmark with one turn of 256 rows -> (the lines above its CSV, its rows)."""
    path = tmp_path / 'table.csv'
    benchmark.main(['--rows', '256', '--repeats', '1', '--csv', str(path)] + list(arguments))
    lines = [line for line in path.read_text().splitlines() if line.startswith('#')]
    return lines, pd.read_csv(str(path), comment='#')


def test_table_and_figure(tmp_path, capsys):
    figure = tmp_path / 'figure.png'
    lines, rows = run(tmp_path, '--figure', str(figure), '--only', '784-60-47', 'cnn', 'csv', 'labels', 'predict',
                      'augment', 'scaling')
    assert figure.stat().st_size > 10000
    assert np.__version__ in lines[0] and '1 cores' in lines[1]
    printed = capsys.readouterr().out
    for place in (benchmark.__file__, str(tmp_path), os.path.expanduser('~')):
        assert place not in printed
    assert not re.search(r'\b%s\b' % re.escape(platform.node() or 'no name'), printed)
    assert list(rows.columns) == list(benchmark.Row._fields)
    ours = rows[rows.side == 'ours']
    assert set(ours.part) == {'784-60-47', 'cnn', 'csv', 'predict', 'augment', 'scaling'}
    assert (ours.seconds > 0).all() and np.allclose(ours.seconds * ours.rows_per_second, benchmark.EPOCH, rtol=1e-4)
    assert (rows.side[rows.part == 'cnn'].str.startswith('sgemm')).sum() == 1
    epochs = rows[rows.measurement.str.startswith('epoch')]
    assert list(epochs.measurement) == ['epoch 1 of 2, default', 'epoch 2 of 2, default']
    assert len(rows[rows.part == 'scaling']) == 4 and epochs.peak_MB.max() < 1.05 * epochs.peak_MB.min()


def test_missing_frameworks_are_reported(tmp_path, monkeypatch, capsys):
    optional = benchmark.optional
    monkeypatch.setattr(benchmark, 'optional', lambda name: None if name in ('torch', 'sklearn') else optional(name))
    lines, rows = run(tmp_path, '--only', '784-60-47', 'memory')
    assert 'PyTorch missing, scikit-learn missing' in lines[0] and ', PyTorch missing. Kernels' in lines[1]
    kernels = lines[1].split(': ')[-1].strip()
    assert (kernels != 'unknown') == bool(benchmark.blas_threads_in_force()), 'kernels: got %r' % kernels
    missing = rows[rows.seconds.isna()]
    assert list(missing.side) == ['PyTorch', 'scikit-learn'] * 2 + ['PyTorch']
    assert capsys.readouterr().out.count(' missing\n') == 1 + 5      # one line above the table, five in it
    assert rows.peak_MB[(rows.part == 'memory') & (rows.side == 'ours')].between(20, 2000).all()


def test_only_the_whole_is_written_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, 'PARTS', {'labels': benchmark.measure_labels})
    benchmark.main(['--rows', '256', '--repeats', '1', '--only', 'labels'])
    assert not (tmp_path / 'report').exists()
    benchmark.main(['--rows', '256', '--repeats', '1'])
    assert sorted(os.listdir(str(tmp_path / 'report'))) == ['benchmark.csv', 'benchmark.png']


def test_ratio_is_the_median_of_the_turns():
    row = benchmark.make_row('part', 'measurement', 'PyTorch', 10, times=[1.0, 2.0, 4.0], reference=[3.0, 2.0, 2.0])
    assert (row.ratio, row.ratio_least, row.ratio_greatest) == (1.0, 0.5, 3.0)
    assert (row.seconds, row.seconds_least, row.seconds_greatest) == (2.0 * 92000, 92000, 4.0 * 92000)


def test_matrix_products_have_the_shapes_of_the_network(monkeypatch):
    shapes = []
    monkeypatch.setattr(np, 'matmul', lambda left, right, out: shapes.append((left.shape, right.shape, out.shape)))
    benchmark.matrix_products(benchmark.fully_connected(784, 60, 47), batch=100, threads=1)(110)
    expected = [[((rows, 784), (784, 60), (rows, 60)), ((784, rows), (rows, 60), (784, 60)),
                 ((rows, 60), (60, 47), (rows, 47)), ((60, rows), (rows, 47), (60, 47)),
                 ((rows, 47), (47, 60), (rows, 60))] for rows in (100, 10)]
    assert shapes == expected[0] + expected[1]
    del shapes[:]
    benchmark.matrix_products(benchmark.convolutional(), batch=2, threads=1)(2)
    assert ((2 * 14 * 14, 9 * 64), (9 * 64, 32), (2 * 14 * 14, 32)) in shapes and len(shapes) == 5 * 3 - 1


@pytest.mark.parametrize('name', list(benchmark.NETS))
def test_the_same_work_is_compared(name):
    pytest.importorskip('torch')
    make, batches = benchmark.NETS[name]
    net, (pixels, label) = make(), benchmark.random_rows(batches[0])
    benchmark.check_same_loss(net, benchmark.TorchSide(net), pixels, label)


@pytest.mark.parametrize('step, setting, value', [(1, 'lr', 0.02), (2, 'momentum', 0.0), (1, 'maximize', True)])
def test_other_work_is_refused(step, setting, value):
    pytest.importorskip('torch')
    net, (pixels, label) = benchmark.fully_connected(784, 60, 47), benchmark.random_rows(32)
    torch_side = benchmark.TorchSide(net)
    torch_side.optimizer.param_groups[0][setting] = value
    with pytest.raises(SystemExit, match='after %d steps of SGD our loss' % step):
        benchmark.check_same_loss(net, torch_side, pixels, label)


@pytest.mark.parametrize('index', [2, 15])      # the first convolution, the first layer behind Flatten
def test_weights_in_another_order_are_refused(index):
    pytest.importorskip('torch')
    net, (pixels, label) = benchmark.convolutional(), benchmark.random_rows(32)
    torch_side = benchmark.TorchSide(net)
    net.layers[index].weight[...] = net.layers[index].weight[::-1].copy()
    with pytest.raises(SystemExit, match='after 0 steps of SGD our loss'):
        benchmark.check_same_loss(net, torch_side, pixels, label)
