"""The notebook: its cells run on a small stand-in, in this process, and what they refuse.

tests/report/ runs it in a kernel, too.
"""
import glob
import json
import os
import re
import shutil
import sys

import IPython.display
import matplotlib.pyplot
import numpy as np
import PIL.Image
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path += [os.path.join(ROOT, name) for name in ('report', 'leaderboard', 'data')]

from build import is_repositorys      # noqa: E402
from stand_in import normalise_character      # noqa: E402

# A smaller stand-in and shorter trainings than the reader's
SMALLER = [(r'^EPOCH = \d+', 'EPOCH = 1'), ("'20000'", "'1500'"), ("'2560'", "'130'")]


def read_cells(kind):
    """The sources of the notebook's cells of this kind."""
    with open(os.path.join(ROOT, 'Lab1_studentid.ipynb'), encoding='utf-8') as file:
        cells = json.load(file)['cells']
    return [''.join(cell['source']) for cell in cells if cell['cell_type'] == kind]


def smaller(sources):
    """The sources of the code cells with a smaller stand-in and shorter trainings."""
    for pattern, new in SMALLER:
        sources = [re.sub(pattern, new, source, flags=re.M) for source in sources]
    return sources


CELLS = smaller(read_cells('code'))
OWN = not is_repositorys(os.path.join(ROOT, 'Lab1_studentid.ipynb'))


def cell(marker):
    """The only cell that has this text."""
    found = [source for source in CELLS if marker in source]
    assert len(found) == 1, f'{marker!r} stands in {len(found)} cells, expected one'
    return found[0]


class Display(object):
    """What display() returns; it can be updated."""

    def __init__(self, *things, display_id=False):
        self.update(*things)

    def update(self, *things):
        print(*(getattr(thing, 'data', thing) for thing in things))


class Session(object):
    """The names that the cells have defined, as in a kernel."""

    def __init__(self):
        self.names = {'__name__': 'notebook'}

    def run(self, *sources, **settings):
        """Run cells in their order; before that, set names."""
        self.names.update(settings)
        for source in sources:
            source = re.sub(r'^%.*', '', source, flags=re.M)      # a command of Jupyter's
            exec(compile(source, source.split('\n')[0], 'exec'), self.names)

    def refusal(self, *sources, **settings):
        """The one sentence with which the cells end."""
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            self.run(*sources, **settings)
        text = str(error.value)
        assert '\n' not in text, text
        return text


def copy_hand_in(folder):
    """Fill `folder` with the two files that are handed in, and data/ as it is cloned."""
    (folder / 'data').mkdir(parents=True)
    for name in ('layer.py', 'network.py'):
        shutil.copy(os.path.join(ROOT, name), str(folder))
    for path in glob.glob(os.path.join(glob.escape(ROOT), 'data', '*.py')):
        shutil.copy(path, str(folder / 'data'))
    (folder / 'leaderboard').mkdir()      # data/ writes its files with what stands there
    shutil.copy(os.path.join(ROOT, 'leaderboard', 'checkpoint.py'), str(folder / 'leaderboard'))


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """A session in which all cells have run in a folder with an awkward name, and that folder."""
    folder = tmp_path_factory.mktemp('notebook') / 'Lab 1 [\u00fc]'
    copy_hand_in(folder)
    (folder / 'DLAD-test-predict.csv').write_text('not touched')
    home, path, environment = os.getcwd(), list(sys.path), dict(os.environ)
    IPython.display.display, display = Display, IPython.display.display
    matplotlib.use('Agg')
    os.chdir(str(folder))
    session = Session()
    for source in CELLS:
        session.run(source)
        matplotlib.pyplot.close('all')
    yield session, folder
    os.chdir(home)
    sys.path[:] = path
    IPython.display.display = display
    os.environ.update(environment)


@pytest.fixture(autouse=True)
def figures():
    """Close all figures after a test."""
    yield
    matplotlib.pyplot.close('all')


@pytest.fixture
def session(executed):
    """The session, in its folder; what a test changes is put back."""
    if OWN:
        pytest.skip('the notebook is your own')
    session, folder = executed
    os.chdir(str(folder))
    before = dict(session.names)
    contents = {name: dict(before[name]) for name in ('networks', 'taken')}
    yield session
    os.chdir(str(folder))
    session.names.clear()
    session.names.update(before)
    for name, content in contents.items():
        before[name].clear()
        before[name].update(content)


def read_bytes(path):
    """The content of a file."""
    with open(path, 'rb') as file:
        return file.read()


def check_submission(name='stand-in-predict.csv', rows=130):
    lines = read_bytes(name).decode('ascii').replace('\r\n', '\n').split('\n')
    assert lines[0] == 'Id,Category' and lines[-1] == '' and len(lines) == rows + 2, lines[:2]
    for row, line in enumerate(lines[1:-1]):
        number, label = line.split(',')
        assert number == str(row) and label.isdigit() and int(label) < 47, f'line {row + 2}: {line}'


# Run All ------------------------------------------------------------------------------------------

def test_every_cell_runs_in_order_and_after_all_that_follow_it(executed, capsys):
    session, folder = executed
    check_submission()
    assert (folder / 'DLAD-test-predict.csv').read_text() == 'not touched'
    before = {name: dict(row) for name, row in session.names['networks'].items()}
    assert OWN or sorted(before) == ['baseline', 'notebook']
    if OWN:
        return
    first = read_bytes('stand-in-predict.csv')
    measure = [source for source in CELLS if source.startswith('add_network')]
    for source in CELLS[::-1]:
        session.run(source)
        matplotlib.pyplot.close('all')
        if 'networks = {}' in source:
            session.run(*measure)      # the table is empty after the split
    for name, row in session.names['networks'].items():      # the same weights
        assert row['corrected'] == before[name]['corrected'], name
    session.run(*CELLS[:CELLS.index(cell('train_rows, val_rows ='))])      # the data are there
    printed = capsys.readouterr().out
    assert printed.count('STAND-IN DATA') >= 10 and 'of "large" take no part' in printed
    assert 'Do not upload it' in printed and 'Stand-in test accuracy' in printed
    assert read_bytes('stand-in-predict.csv') == first, 'the same seed gave another submission'


@pytest.mark.parametrize('old', [b'', b'\xef\xbb\xbfId,Category\n0,1\n', b'Id;Category\n0;1\n',
                                 b'<<<<<<< HEAD\n', 'Id,Category'.encode('utf-16'),
                                 b'Id,Category\n1,1.0\n'])
def test_the_submission_is_always_written_in_its_exact_form(session, old):
    right = read_bytes('stand-in-predict.csv')
    with open('stand-in-predict.csv', 'wb') as file:
        file.write(old)
    session.run(cell('write_submission'))
    assert read_bytes('stand-in-predict.csv') == right


@pytest.mark.parametrize('environment', [
    {'MPLBACKEND': 'Agg'}, {'MPLBACKEND': 'module://backend_interagg', 'PYTHONSAFEPATH': '1'}])
def test_a_kernel_of_another_environment_shows_figures(environment, tmp_path, monkeypatch):
    nbformat = pytest.importorskip('nbformat')
    nbclient = pytest.importorskip('nbclient')
    copy_hand_in(tmp_path / 'run')
    for name, value in dict(environment, JUPYTER_PREFER_ENV_PATH='1').items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv('OPENBLAS_NUM_THREADS', raising=False)
    end = CELLS.index(cell('plt.rcdefaults()'))
    sources = ['import numpy'] + CELLS[:end + 1] + ['plt.plot([1, 2]);']
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, kernel_name='python3', resources={
        'metadata': {'path': str(tmp_path / 'run')}}).execute()
    assert 'image/png' in notebook.cells[-1].outputs[-1]['data']
    assert 'keeps its own number of threads' in notebook.cells[1].outputs[0]['text']


# What is refused ----------------------------------------------------------------------------------

@pytest.mark.parametrize('setting', [
    'EPOCH = 1.5', 'EPOCH = 0', 'Batch_size = 128.0', 'Batch_size = -1', 'SEED = None', 'SEED = -1',
    'val_image_num = 0.1', "Learning_rate = 'x'"])
def test_settings_of_another_kind_are_refused_by_name(session, setting):
    name, value = setting.split(' = ')
    source = re.sub(rf'^{name} = \S+', setting, cell('EPOCH = 1'), flags=re.M)
    complaint = session.refusal(source)
    assert value in complaint and (name in complaint or 'float' in complaint), complaint


def test_other_whole_numbers_pass(session):
    for setting in ('SEED = 0', 'EPOCH = np.int64(2)', "Learning_rate = '0.1'"):
        name = setting.split(' = ')[0]
        session.run(re.sub(rf'^{name} = \S+', setting, cell('EPOCH = 1'), flags=re.M))


@pytest.mark.parametrize('settings', [{'val_image_num': 1}, {'SEED': 3, 'val_image_num': 47}])
def test_a_class_without_a_validation_row_is_named(session, settings):
    complaint = session.refusal(cell('val_rows_wanted ='), **settings)
    assert re.match('class . has no row in the training or in the validation rows: ', complaint)


@pytest.mark.parametrize('name', [
    'dlad-lab1.zip', 'train.csv', 'train.csv.zip', 'data/dlad-lab1.zip', 'data/train.csv.zip',
    'data/train.csv.gz', 'data/dlad-lab1/train.csv', 'data/train (1).csv', 'data/test.csv'])
def test_no_stand_in_is_drawn_beside_the_competitions_files(session, tmp_path, name):
    copy_hand_in(tmp_path / 'run')
    path = tmp_path / 'run' / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('0,0\n')
    os.chdir(str(tmp_path / 'run'))
    complaint = session.refusal(cell("'stand-in',"))
    assert 'unpack the zip' in complaint, complaint
    assert name in complaint.replace('\\\\', '/') or name == 'data/test.csv', complaint
    assert path.read_text() == '0,0\n' and not os.path.exists('data/train.csv')


def test_what_is_missing_is_said(session, tmp_path):
    os.chdir(str(tmp_path))
    assert 'network.py is not in' in session.refusal(CELLS[0])
    assert 'data/train.csv is missing' in session.refusal(cell("'stand-in',"))


# The networks -------------------------------------------------------------------------------------

def test_a_network_is_measured_on_the_rows_that_were_held_back_for_it(session):
    baseline = session.names['baseline']
    measure = cell("add_network('baseline'")
    for settings in ({'SEED': 1}, {'val_image_num': 300}):
        session.run(cell('val_rows_wanted ='), **settings)
        assert not session.names['networks'], 'what was measured on other rows stays in the table'
        assert 'run the cell of its training again' in session.refusal(measure)
        assert 'one of []' in session.refusal(cell('best = max('))
        session.run(cell('baseline = model.Network('), measure)
        assert list(session.names['networks']) == ['baseline']
        session.names['baseline'] = baseline


@pytest.mark.parametrize('held_back', [True, False])
def test_the_weights_of_the_leaderboard_take_part_only_with_their_rows(session, held_back, capsys):
    finished = session.names['notebook'] if held_back else session.names['model'].Network()
    paths = [f'leaderboard/character_network.{kind}' for kind in ('npz', 'csv')]
    for path in paths:
        with open(path, 'w') as file:
            file.write('seconds\n60\n')
    predict = session.names['model'].Network.predict
    session.names['model'].Network.predict_augmented, kept = (
        lambda net, rows, *more: predict(net, rows),
        session.names['model'].Network.predict_augmented)
    try:
        session.run(cell('finished = None'), load_large=lambda weights: finished)
    finally:
        session.names['model'].Network.predict_augmented = kept
        for path in paths:
            os.remove(path)
    assert ('large' in session.names['networks']) == held_back
    assert ('of "large" take no part' in capsys.readouterr().out) != held_back


def test_the_network_that_one_adds_is_submitted_under_its_own_name(session, capsys):
    add, net = session.names['add_network'], session.names['baseline']
    for name in ('large', 'baseline', 'notebook'):
        with pytest.raises(ValueError, match=f'the name {name} is taken'):
            add(name, net, 1, 'me')
    other = session.names['model'].Network()
    other.fit(session.names['training'], session.names['validation'], 1, 500, 1e-6, verbose=False)
    add('mine', other, 1, 'me')
    table = [cell('best = max('), cell('remark = ')]
    session.run(*table)
    assert session.names['chosen'] != 'mine' and 'not the best' not in capsys.readouterr().out
    session.run(*table, SUBMIT='mine')
    session.run(*CELLS[CELLS.index(table[1]) + 1:CELLS.index(cell('write_submission')) + 1])
    printed = capsys.readouterr().out
    assert 'predictions of the network "mine". Trained by me.' in printed
    assert 'It is not the best one' in printed
    session.names['SUBMIT'] = 'other'
    assert "SUBMIT is 'other', expected None or" in session.refusal(table[0])


def test_a_training_that_was_interrupted_at_once_takes_no_part(session, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    session.run(cell('baseline = model.Network('), cell("add_network('baseline'"),
                cell('best = max('), show_progress=interrupt)
    printed = capsys.readouterr().out
    assert 'Interrupted after 0 epochs.' in printed and 'baseline was not trained' in printed
    assert list(session.names['networks']) == ['notebook']


def test_a_training_that_diverges_ends_in_a_sentence_without_warnings(session):
    with pytest.raises(FloatingPointError):      # a warning would be another error
        session.names['train_live'](session.names['model'].Network(), 1e30)


HEADER = 'factor,setting,search,balanced\n'


@pytest.mark.parametrize('text, settings', [
    (HEADER, 0), (HEADER.replace(',', ';') + 'baseline;b;False;86\n', 0), ('a,b\n1,2\n', 0),
    (HEADER + 'baseline,b,False,86\n', 1), (HEADER + 'loss,b,False,86\nloss,c,,85\n', 1),
    (HEADER + 'loss,b,False,86\nloss,c,False,\nloss,d,True,3\ninput,"e, f",False,70\n', 2)])
def test_runs_of_ones_own_are_drawn_as_far_as_they_go(session, capsys, text, settings):
    os.makedirs('report', exist_ok=True)
    with open('report/experiments.csv', 'w') as file:
        file.write(text)
    session.run(cell("'report/experiments.csv'):"), cell("'The figure is left out"))
    printed = capsys.readouterr().out
    shutil.rmtree('report')
    expected = f'{settings} runs of {settings} settings' if settings else 'The figure is left out'
    assert expected in printed


# A wrong layer, and a character of one's own ------------------------------------------------------

def test_a_wrong_layer_and_its_likely_mistake_are_shown(session, capsys):
    shown = cell('from mistakes import hint')
    session.run(cell('class MeanGradient('), shown)
    assert 'its check and its hint are left out' in capsys.readouterr().out
    os.makedirs('tests', exist_ok=True)
    for name in ('mistakes.py', 'gradient_check.py'):
        shutil.copy(os.path.join(ROOT, 'tests', name), 'tests')
    session.run(shown)
    shutil.rmtree('tests')
    printed = capsys.readouterr().out
    assert 'MeanGradient(5, 3): weight_grad[' in printed and 'elements wrong' in printed
    assert 'likely mistake: It is 1/N = 1/4 of the right one, in every element.' in printed


def draw_seven(height, width):
    """A 7 of strokes: True where there is ink."""
    row, column = np.mgrid[:height, :width] / min(height, width)
    top = (abs(row - 0.2) < 0.05) & (abs(column - 0.5) < 0.25)
    stem = (abs(column - 0.95 + row) < 0.07) & (row > 0.2) & (row < 0.8)
    return top | stem


def save_picture(path, ink, mode, paper, pen):
    """Save ink as a picture of a mode of Pillow; paper and pen are brightnesses 0..1."""
    gray = np.where(ink, pen, paper)
    if mode == 'I;16':
        picture = PIL.Image.fromarray((65535 * gray).astype(np.uint16))
    elif mode in ('RGBA', 'LA'):      # transparent paper
        alpha = PIL.Image.fromarray(np.where(ink, 255, 0).astype(np.uint8))
        picture = PIL.Image.fromarray((255 * gray).astype(np.uint8)).convert(mode)
        picture.putalpha(alpha)
    else:
        picture = PIL.Image.fromarray((255 * gray).astype(np.uint8)).convert(mode)
    picture.save(path, 'JPEG' if mode == 'CMYK' else 'PNG')


@pytest.mark.parametrize('mode, paper, pen', [
    ('L', 1, 0), ('L', 0.6, 0.3), ('1', 1, 0), ('P', 1, 0), ('RGB', 0.9, 0.2), ('RGBA', 0.1, 0),
    ('LA', 0.5, 0.2), ('I;16', 0.8, 0.1)])
@pytest.mark.parametrize('height, width', [(28, 28), (90, 60), (400, 700)])
def test_a_picture_of_ones_own_is_normalised_as_the_stand_in_does(
        session, height, width, mode, paper, pen):
    ink = draw_seven(height, width)
    save_picture('my_character.png', ink, mode, paper, pen)
    picture = session.names['read_picture']('my_character.png')
    os.remove('my_character.png')
    assert picture.shape == (height, width)
    got = session.names['normalise'](picture).reshape(28, 28)
    expected = normalise_character(~ink)
    assert got.dtype == np.uint8 and got.max() == 255
    assert abs(got.astype(int) - expected).max() <= 1, 'not what data/stand_in.py gives'


@pytest.mark.parametrize('name', ['JPEG', 'PNG'])
def test_the_network_reads_a_character_of_ones_own(session, capsys, name):
    cells = CELLS[CELLS.index(cell('my_row, my_title')):]
    session.run(*cells[:3])
    assert 'a validation image, class' in capsys.readouterr().out
    noise = np.random.default_rng(0).normal(0, 6, (300, 400))      # a photo, darker to one side
    photo = np.where(draw_seven(300, 400), 40, 200) + noise + np.linspace(0, 30, 400)
    photo = np.repeat(np.clip(photo, 0, 255).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    PIL.Image.fromarray(photo).save('my_character.png', name)
    session.run(*cells[:3])
    os.remove('my_character.png')
    printed = capsys.readouterr().out
    assert len(re.findall(r'\d%', printed)) == 5 and 'my_character.png: ' in printed, printed
    same = normalise_character(~draw_seven(300, 400)).reshape(784).astype(int)
    assert abs(session.names['my_row'] - same).mean() < 3


def test_a_blank_picture_is_refused(session):
    save_picture('my_character.png', np.zeros((30, 30), bool), 'L', 1, 0)
    complaint = session.refusal(cell('my_row, my_title'))
    os.remove('my_character.png')
    assert 'is blank' in complaint


# The exercises ------------------------------------------------------------------------------------

def test_the_exercises_know_right_from_wrong(session, capsys):
    balanced = {0.01: 1, 0.1: 2, 1: 4, 10: 3}
    third = cell('check_answer(3')
    third = third[third.index('if len(balanced)'):]
    for number, source, right, wrong in (
            (1, cell('check_answer(1'), [0.09, 0.245, -0.335], [0.245, 0.09, -0.335]),
            (2, cell('check_answer(2'), 0.695, 0.69), (3, third, 1, 0.1)):
        answers = ((right, 'right'), (wrong, 'is not right yet'), ([1, 2], 'expected'))
        for answer, expected in answers:
            session.run(source.replace('answer = None', ''), answer=answer, balanced=balanced)
            printed = capsys.readouterr().out
            assert f'Exercise {number}: ' in printed and expected in printed, printed


def test_the_hidden_answers_are_right(session, capsys):
    texts = '\n'.join(read_cells('markdown'))
    square = cell('class Square(')
    line = re.search(r'so `(return .*?)`', texts).group(1)
    session.run(square.replace('return output_grad * self.x', line))
    example = re.search(r'```python\n(class TrainedSlope.*?)```', texts, re.DOTALL).group(1)
    answer = cell("'Exercise 5: put").replace('answer = None', 'answer = TrainedSlope()')
    session.run(example, answer)
    printed = capsys.readouterr().out
    assert printed.count(', right') == 2, printed
