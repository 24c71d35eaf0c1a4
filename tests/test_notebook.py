"""The notebook: run as a reader would, on a small stand-in, and the outputs that are committed."""
import copy
import csv
import glob
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NOTEBOOK = 'Lab1_studentid.ipynb'
os.environ['JUPYTER_PREFER_ENV_PATH'] = '1'      # this Python's kernel, not another one of the user
# A smaller stand-in and shorter trainings than the reader's
SMALLER = [(r'^EPOCH = \d+', 'EPOCH = 1'), ("'20000'", "'1500'"), ("'2560'", "'130'")]


def read_notebook():
    return nbformat.read(os.path.join(ROOT, NOTEBOOK), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def smaller_notebook(*changes):
    """The notebook with its settings made smaller, and with (old, new) replaced."""
    notebook = read_notebook()
    for pattern, new in SMALLER:
        found = 0
        for cell in notebook.cells:
            cell.source, count = re.subn(pattern, new, cell.source, flags=re.MULTILINE)
            found += count
        assert found == 1, f'{pattern} stands {found} times in the notebook, expected once'
    for old, new in changes:
        found = sum(old in cell.source for cell in code_cells(notebook))
        assert found == 1, f"{old} stands in {found} cells, expected one"
        for cell in code_cells(notebook):
            cell.source = cell.source.replace(old, new)
    return notebook


def execute(notebook, folder):
    """Run a notebook in `folder` -> what its cells printed and displayed, as text."""
    resources = {'metadata': {'path': str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name='python3', resources=resources).execute()
    return printed_by(notebook)


def printed_by(notebook):
    """What the cells of an executed notebook printed and displayed as text."""
    texts = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get('data', {})
            texts.append(output.get('text', data.get('text/markdown', data.get('text/plain', ''))))
    return '\n'.join(texts)


def copy_hand_in(folder):
    """Fill `folder` with the files that are handed in, and data/ as it is cloned."""
    (folder / 'data').mkdir(parents=True)
    for name in (NOTEBOOK, 'layer.py', 'network.py'):
        shutil.copy(os.path.join(ROOT, name), str(folder))
    for path in glob.glob(os.path.join(glob.escape(ROOT), 'data', '*.py')):
        shutil.copy(path, str(folder / 'data'))
    (folder / 'leaderboard').mkdir()        # data/ writes its files with what stands there
    shutil.copy(os.path.join(ROOT, 'leaderboard', 'checkpoint.py'), str(folder / 'leaderboard'))


@pytest.fixture
def hand_in(tmp_path):
    """A folder with an awkward name that holds the files of copy_hand_in."""
    folder = tmp_path / 'Lab 1 [\u00fc]'
    copy_hand_in(folder)
    return folder


def check_submission(folder, name='stand-in-predict.csv'):
    with open(str(folder / name), newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['Id', 'Category'], f'header: got {rows[0]}'
    assert [row[0] for row in rows[1:]] == [str(i) for i in range(130)], 'Ids: expected 0..129'
    assert all(0 <= int(row[1]) < 47 for row in rows[1:]), 'categories: expected 0..46'


def test_every_cell_runs_again_in_order_and_alone(hand_in):
    notebook = smaller_notebook()
    first = code_cells(notebook)
    # After Run All: every cell once more in order, then each after all the cells that follow it
    again = copy.deepcopy(first)
    backwards = copy.deepcopy(first)[::-1]
    notebook.cells = first + again + backwards
    execute(notebook, hand_in)
    check_submission(hand_in)
    for cell, second, third in zip(first, again, reversed(backwards)):
        if 'add_network(' in cell.source and 'print(' in cell.source:      # the same weights
            numbers = [re.findall(r'\d+\.\d+ %', printed_by(nbformat.v4.new_notebook(cells=[one])))
                       for one in (cell, second, third)]
            assert numbers[0] == numbers[1] == numbers[2], f'{cell.source}\ngave {numbers}'


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """A folder in which the notebook was run once, and what it printed. Not to be changed."""
    folder = tmp_path_factory.mktemp('executed') / 'run'
    copy_hand_in(folder)
    (folder / 'DLAD-test-predict.csv').write_text('not touched')
    return folder, execute(smaller_notebook(), folder)


def test_stand_in_is_said_everywhere_and_the_real_submission_is_left_alone(executed, tmp_path):
    folder = tmp_path / 'second'
    shutil.copytree(str(executed[0]), str(folder))
    submission = folder / 'stand-in-predict.csv'
    first = submission.read_text()
    submission.write_text(first.replace('\n7,', '\n7,4', 1))      # one row of 130 is no rounding
    for printed in (executed[1], execute(smaller_notebook(), folder)):      # the second finds files
        assert printed.count('STAND-IN DATA') >= 5, f'said too seldom in\n{printed}'
        assert 'weights take no part' in printed
        assert 'Do not upload it' in printed and 'Stand-in test accuracy' in printed
    check_submission(folder)
    assert submission.read_text() == first
    assert (folder / 'DLAD-test-predict.csv').read_text() == 'not touched'


def test_other_files_than_the_stand_in_are_not_called_one(executed, tmp_path):
    folder = tmp_path / 'other'
    shutil.copytree(str(executed[0]), str(folder))
    os.remove(str(folder / 'DLAD-test-predict.csv'))
    for name in ('train.csv', 'test.csv'):
        with open(str(folder / 'data' / name), 'ab') as file:
            file.write(b'\n')      # another size than the marker says
    printed = execute(smaller_notebook(), folder)
    assert 'STAND-IN' not in printed and 'trained by this notebook' in printed
    check_submission(folder, 'DLAD-test-predict.csv')
    same = (folder / 'DLAD-test-predict.csv').read_bytes()
    assert same == (executed[0] / 'stand-in-predict.csv').read_bytes(), 'the same seed and rows'


def test_any_network_may_be_the_baseline_and_the_weights_may_be_switched_off(executed, tmp_path):
    folder = tmp_path / 'own'
    shutil.copytree(str(executed[0]), str(folder))
    (folder / 'leaderboard' / 'character_network.npz').write_text('not read')
    own = ('baseline = model.Network(rng=np.random.default_rng(SEED))',
           'baseline = model.Network([model.PixelScaling(), FullyConnected(784, 20), Tanh(), '
           'FullyConnected(20, 47)], SquaredError())')
    switch = ('LEADERBOARD_WEIGHTS = True', 'LEADERBOARD_WEIGHTS = False')
    printed = execute(smaller_notebook(own, switch), folder)
    assert 'weights take no part' in printed, printed
    check_submission(folder)


def test_leaderboard_weights_take_part_where_they_are(executed, tmp_path):
    folder = tmp_path / 'weights'
    shutil.copytree(str(executed[0]), str(folder))
    shutil.rmtree(str(folder / 'leaderboard'))
    shutil.copytree(os.path.join(ROOT, 'leaderboard'), str(folder / 'leaderboard'))
    whole_split = ('same_split = SEED == 0 and len(validation[0]) == 8000 and not stand_in',
                   'same_split = True')
    printed = execute(smaller_notebook(whole_split), folder)
    assert re.search(r'^leaderboard +1409039', printed, re.MULTILINE), printed


@pytest.mark.parametrize('missing, message', [
    (['network.py'], 'network.py is not in'),
    (['data'], 'train.csv is missing'),
])
def test_what_is_missing_is_said_in_one_sentence(hand_in, missing, message):
    for name in missing:
        path = str(hand_in / name)
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    with pytest.raises(CellExecutionError) as error:
        execute(smaller_notebook(), hand_in)
    assert 'FileNotFoundError' in str(error.value) and message in str(error.value)


def test_test_csv_alone_is_not_replaced(hand_in):
    (hand_in / 'data' / 'test.csv').write_text('0,0\n')
    with pytest.raises(CellExecutionError) as error:
        execute(smaller_notebook(), hand_in)
    assert 'unpack the zip' in str(error.value) and '--force' not in str(error.value)
    assert (hand_in / 'data' / 'test.csv').read_text() == '0,0\n'


def test_it_runs_as_a_script(hand_in):
    nbformat.write(smaller_notebook(), str(hand_in / 'small.ipynb'))
    convert = ['-m', 'nbconvert', '--to', 'script', '--log-level', 'ERROR', 'small.ipynb']
    subprocess.check_call([sys.executable] + convert, cwd=str(hand_in))
    environment = dict(os.environ, MPLBACKEND='agg', PYTHONIOENCODING='utf-8')
    subprocess.check_output([sys.executable, 'small.py'], cwd=str(hand_in), env=environment,
                            stderr=subprocess.STDOUT)
    check_submission(hand_in)


# The committed notebook ---------------------------------------------------------------------------

def test_committed_notebook_was_executed_in_order_without_errors():
    counts = []
    for cell in code_cells(read_notebook()):
        counts.append(cell.execution_count)
        for output in cell.outputs:
            assert output.output_type != 'error', cell.source
            assert output.get('name') != 'stderr', f'{cell.source}\n{output}'
    assert counts == list(range(1, len(counts) + 1)), f'execution counts: got {counts}'


def test_committed_outputs_are_those_of_real_data_and_name_no_folder():
    printed = printed_by(read_notebook())
    assert '(100000, 784)' in printed and 'STAND-IN' not in printed
    assert not re.search(r'/home/|/work/|/tmp/|/root/|/Users/|[A-Z]:\\', printed)


def test_cells_are_short():
    for cell in code_cells(read_notebook()):
        lines = cell.source.split('\n')
        assert len(lines) <= 15, f'{len(lines)} lines in\n{cell.source}'
        assert max(len(line) for line in lines) <= 100, cell.source


def test_sources_are_those_of_the_committed_code():
    """The notebook prints the source of some methods: they must not have changed since."""
    with open(os.path.join(ROOT, 'layer.py'), encoding='utf-8') as file:
        source = file.read()
    methods = re.findall(r'^    def \w+\(self.*?(?=\n\n|\n$)', printed_by(read_notebook()),
                         re.MULTILINE | re.DOTALL)
    assert len(methods) == 5, f'{len(methods)} methods are printed'
    for method in methods:
        assert method.rstrip() in source, f'layer.py no longer has\n{method}'
