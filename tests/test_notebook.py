"""The notebook, executed as a reader would, on a small stand-in: first without any data, then as it is handed in."""
import csv
import os
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NOTEBOOK = 'Lab1_studentid.ipynb'
# Smaller than the reader's, so that it is quick
CHANGES = [('EPOCH = ', 'EPOCH = 2    # not '), ('val_image_num = ', 'val_image_num = 300    # not '),
           ("'data', 20000, 2560", "'data', 1500, 130")]


def read_notebook():
    return nbformat.read(os.path.join(ROOT, NOTEBOOK), as_version=4)


def printed_by(notebook):
    """What all cells of an executed notebook printed."""
    return ''.join(output.get('text', '') for cell in notebook.cells if cell.cell_type == 'code'
                   for output in cell.outputs)


def execute(folder, *changes):
    """Run the notebook in `folder` -> what all its cells printed."""
    notebook = read_notebook()
    for cell in notebook.cells:
        for old, new in CHANGES + list(changes):
            cell.source = cell.source.replace(old, new)
    NotebookClient(notebook, timeout=300, resources={'metadata': {'path': str(folder)}}).execute()
    return printed_by(notebook)


@pytest.fixture
def hand_in(tmp_path):
    """A folder with the files that are handed in, and data/ as it is cloned: no CSV files."""
    folder = tmp_path / 'hand_in'
    folder.mkdir()
    for name in (NOTEBOOK, 'layer.py', 'network.py'):
        shutil.copy(os.path.join(ROOT, name), str(folder))
    (folder / 'data').mkdir()
    shutil.copy(os.path.join(ROOT, 'data', 'prepare.py'), str(folder / 'data'))
    return folder


def check_submission(folder):
    with open(str(folder / 'DLAD-test-predict.csv'), newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['Id', 'Category'], 'header: got %s' % rows[0]
    assert [row[0] for row in rows[1:]] == [str(i) for i in range(130)], 'Ids: expected 0..129'
    assert all(0 <= int(row[1]) < 47 for row in rows[1:]), 'categories: expected integers 0..46'


def test_runs_without_data_and_then_with_nothing_but_the_csv_files(hand_in):
    printed = execute(hand_in)
    assert 'data/train.csv is missing: a stand-in drawn from fonts takes its place' in printed
    assert printed.count('Epoch:') == 2, 'epoch lines: got %d, expected 2 in\n%s' % (printed.count('Epoch:'), printed)
    check_submission(hand_in)

    with open(str(hand_in / 'DLAD-test-predict.csv'), 'rb') as file:
        first = file.read()
    os.remove(str(hand_in / 'DLAD-test-predict.csv'))
    os.remove(str(hand_in / 'data' / 'prepare.py'))
    printed = execute(hand_in)
    assert 'stand-in' not in printed
    with open(str(hand_in / 'DLAD-test-predict.csv'), 'rb') as file:
        assert file.read() == first, 'the same data and seed gave another submission'


def test_trains_the_larger_network_or_takes_its_weights(hand_in):
    printed = execute(hand_in, ('TRAIN_FINAL = False', 'TRAIN_FINAL = True'),
                      ('SEED = 0\n', "SEED = 0\nmodel.CHARACTER_TRAINING['epochs'] = 1\n"))
    assert printed.count('Epoch:') == 3 and 'stands in for the larger network' not in printed, printed
    assert os.path.exists(str(hand_in / 'training.npz'))
    shutil.copytree(os.path.join(ROOT, 'report'), str(hand_in / 'report'))
    printed = execute(hand_in)
    assert printed.count('Epoch:') == 2 and 'stands in for the larger network' not in printed, printed
    assert 'Trained on all rows it agrees with the network above on' in printed, printed
    check_submission(hand_in)


def test_committed_notebook_was_executed_in_order_without_errors():
    counts = []
    for cell in read_notebook().cells:
        if cell.cell_type == 'code':
            counts.append(cell.execution_count)
            assert all(output.output_type != 'error' for output in cell.outputs), cell.source
            assert not any(output.get('name') == 'stderr' for output in cell.outputs), cell.source
    assert counts == list(range(1, len(counts) + 1)), 'execution counts: got %s' % counts


def test_cells_stay_short():
    for cell in read_notebook().cells:
        lines = [line for line in cell.source.split('\n') if line.strip()]
        assert cell.cell_type != 'code' or len(lines) <= 15, '%d lines in\n%s' % (len(lines), cell.source)
