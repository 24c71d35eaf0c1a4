"""report/hand_in.py: what the zip holds, and that each check refuses what is wrong, in a sentence.

The project is a tiny one. Its notebook is run by nbclient, as the real one.
"""
import json
import os
import shutil
import sys
import zipfile

import nbformat
import numpy as np
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'report'))

import hand_in                            # noqa: E402
from network import write_submission      # noqa: E402

SOURCE = """import numpy as np
import network as model

EPOCH = 9
test_data = model.read_csv('data/test.csv', 784)
model.write_submission('DLAD-test-predict.csv', np.arange(len(test_data)))
print(f'{len(test_data)} predictions of the network "of {EPOCH} epochs".')"""
PRINTED = '10 predictions of the network "of 9 epochs".\n'
ROWS = 10


def printed(text):
    return [nbformat.v4.new_output('stream', name='stdout', text=text)]


def notebook(*sources, minor=4, ids=False, kernel=None, **changes):
    """The bytes of a notebook whose cells were executed in order; `changes` are of the first."""
    cells = [nbformat.v4.new_code_cell(source, execution_count=number)
             for number, source in enumerate(sources, 1)]
    cells[0].update(changes)
    title = nbformat.v4.new_markdown_cell('A title: $f:\\mathbb{R}$, and/or')
    result = nbformat.v4.new_notebook(cells=[title] + cells)
    result.nbformat_minor = minor
    for number, cell in enumerate(result.cells):
        cell.pop('id', None)
        if ids:
            cell['id'] = f'cell-{number}'
    if kernel:
        result.metadata.kernelspec = {'name': kernel, 'display_name': kernel}
    return nbformat.v4.writes(result).encode('utf-8')


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder as a student's: the notebook, the two sources, the submission, and data/.

    The command runs in another folder, `out`.
    """
    (tmp_path / 'out').mkdir()
    monkeypatch.chdir(str(tmp_path / 'out'))
    folder = tmp_path / 'project'
    (folder / 'data').mkdir(parents=True)
    for name in ('layer.py', 'network.py'):
        shutil.copy(os.path.join(ROOT, name), str(folder))
    (folder / 'Lab1_studentid.ipynb').write_bytes(notebook(SOURCE, outputs=printed(PRINTED)))
    write_submission(str(folder / 'DLAD-test-predict.csv'), np.arange(ROWS))
    (folder / 'data' / 'test.csv').write_text(('0,' * 783 + '0\n') * ROWS)
    (folder / 'data' / 'train.csv').write_text(('0,' * 784 + '0\n') * ROWS)
    (folder / 'own.pdf').write_bytes(b'%PDF of the student')
    return folder


def run(project, student='311551001'):
    hand_in.main([student, '--report', str(project / 'own.pdf')], project)


def content_of(project, student='311551001'):
    with zipfile.ZipFile(str(project.parent / 'out' / f'Lab1_{student}.zip')) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def refusal(command, *arguments, **options):
    """The one sentence with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        command(*arguments, **options)
    complaint = stop.value.code
    assert complaint.startswith('hand_in.py: ') and '\n' not in complaint, complaint
    return complaint


# What is packed -----------------------------------------------------------------------------------

def test_the_zip_holds_the_four_files_as_they_are(project, capsys):
    run(project)
    output = capsys.readouterr()
    content = content_of(project)
    sources = {'Lab1_311551001.ipynb': 'Lab1_studentid.ipynb', 'layer.py': 'layer.py',
               'network.py': 'network.py', 'Lab1_report_311551001.pdf': 'own.pdf'}
    assert set(content) == set(sources)
    for name, source in sources.items():
        assert content[name] == (project / source).read_bytes(), f'{name} was changed'
    assert output.err == ''
    for expected in ('1 of 3: checking Lab1_studentid.ipynb', '2 of 3', '3 of 3',
                     'submission was predicted by the network "of 9 epochs".',
                     'The four files alone write the same DLAD-test-predict.csv.', 'Wrote '):
        assert expected in output.out, f'no {expected!r} in\n{output.out}'


def test_the_same_files_give_the_same_zip():
    files = {'b': b'2' * 1000, 'a': b'1'}
    assert hand_in.pack(files) == hand_in.pack(dict(reversed(list(files.items()))))


def test_the_students_own_notebook_goes_before_the_repositorys(project):
    own = notebook(SOURCE + '\n# my own', outputs=printed(PRINTED))
    (project / 'Lab1_b08901234.ipynb').write_bytes(own)
    run(project, student='b08901234')
    assert content_of(project, 'b08901234')['Lab1_b08901234.ipynb'] == own


def test_another_submission_than_that_of_the_four_files_is_noted(project, capsys):
    labels = np.arange(ROWS)
    labels[3:5] = 40
    write_submission(str(project / 'DLAD-test-predict.csv'), labels)
    run(project)
    expected = ('Note: the four files alone predict 2 of 10 rows otherwise than '
                'DLAD-test-predict.csv, by the network "of 9 epochs". A few rows are the rounding')
    assert expected in capsys.readouterr().out


SOURCES = {
    'format 4.5': notebook(SOURCE, minor=5, ids=True),
    'format 4.9': notebook(SOURCE, minor=9, ids=True),
    'format 4.4 with ids': notebook(SOURCE, minor=4, ids=True),
    'format 4.5 without ids': notebook(SOURCE, minor=5),
    'the kernel of another program': notebook(SOURCE, kernel='.venv (Python 3.8)'),
    'a byte order mark': b'\xef\xbb\xbf' + notebook(SOURCE),
    'an empty last cell': notebook(SOURCE, '').replace(
        b'"execution_count": 2', b'"execution_count": null'),
    'an empty first cell': notebook('', SOURCE).replace(
        b'"execution_count": 1', b'"execution_count": null').replace(
        b'"execution_count": 2', b'"execution_count": 1')}


@pytest.mark.parametrize('name', sorted(SOURCES))
def test_notebooks_of_other_programs_are_read(name):
    hand_in.check_notebook(SOURCES[name], name)


def test_a_notebook_with_ids_and_an_unknown_kernel_runs_with_this_python(project, monkeypatch):
    kernel = project / 'kernels' / 'python3'
    kernel.mkdir(parents=True)
    other = {'argv': ['no-python', '{connection_file}'], 'display_name': '3', 'language': 'python'}
    (kernel / 'kernel.json').write_text(json.dumps(other))
    monkeypatch.setenv('JUPYTER_PATH', str(project))
    source = notebook(f"import sys; assert sys.executable == {sys.executable!r}", SOURCE,
                      ids=True, kernel='.venv (Python 3.8)')
    files = {'n.ipynb': source}
    for name in ('layer.py', 'network.py'):
        files[name] = (project / name).read_bytes()
    cells = nbformat.v4.reads(source.decode('utf-8'))
    written = hand_in.rehearse(hand_in.pack(files), cells, project)
    assert hand_in.check_submission(written, ROWS) == [str(row) for row in range(ROWS)]


# What is refused ----------------------------------------------------------------------------------

def write_notebook(*sources, **changes):
    return lambda folder: (folder / 'Lab1_studentid.ipynb').write_bytes(
        notebook(*(sources or (SOURCE,)), **changes))


def write_lines(*lines):
    return lambda folder: (folder / 'DLAD-test-predict.csv').write_text('\n'.join(lines))


def write_stand_in(folder):
    size = os.path.getsize(str(folder / 'data' / 'train.csv'))
    (folder / 'data' / 'stand-in.txt').write_text(f'train.csv {size} bytes\n')


LINES = [f'{row},{row}' for row in range(ROWS)]
HEADER = 'Id,Category'
FIRST_LINE = 'DLAD-test-predict.csv: the first line is not Id,Category'
HTML = nbformat.v4.new_output('display_data', data={
    'text/html': '<a href="file:///home/me/x">x</a>', 'image/png': ''})
AGAIN = 'run the notebook again'
ERROR = nbformat.v4.new_output('error', ename='ValueError', evalue='no', traceback=[])
BROKEN = [     # what is done to the project, what the sentence says is wrong and what to do
    (lambda folder: (folder / 'network.py').unlink(), 'network.py is missing: fetch it again'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').unlink(), 'Lab1_studentid.ipynb is missing'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').write_text('{"cells": '), 'not a notebook'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').write_text('[]'), 'in Jupyter and save it'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').write_bytes(b'\xff'), 'not a notebook'),
    (write_notebook(execution_count=None), 'code cell 1 has the number None: ' + AGAIN),
    (write_notebook(SOURCE, '1', execution_count=2), 'code cell 1 has the number 2'),
    (write_notebook(outputs=[ERROR]), 'code cell 1 ended with an error: correct it, and'),
    (write_notebook("open('/home/me/data.csv')"), 'has the absolute path /home/me, which'),
    (write_notebook(outputs=printed('in /root/.venv/lib')), 'the absolute path /root/.venv'),
    (write_notebook(outputs=printed('C:\\Users\\me')), 'the absolute path C:\\Users'),
    (write_notebook(outputs=[HTML]), 'the absolute path /home/me'),
    (write_notebook('open("/Users/me")'), 'the absolute path /Users/me'),
    (write_notebook('%cd /root/lab'), 'the absolute path /root/lab'),
    (write_notebook("p = 'C:\\\\data'"), 'the absolute path C:\\\\data'),
    (write_notebook("p = 'D:/lab/x.csv'"), 'the absolute path D:/lab'),
    (write_notebook("p = r'c:\\lab\\x.csv'"), 'the absolute path c:\\lab'),
    (write_notebook("p = '/kaggle/input'"), 'the absolute path /kaggle/input'),
    (write_notebook("p = '/opt/conda'"), 'the absolute path /opt/conda'),
    (write_notebook("p = '/workspace/lab'"), 'the absolute path /workspace/lab'),
    (write_notebook("p = '/Volumes/usb'"), 'the absolute path /Volumes/usb'),
    (lambda folder: (folder / 'DLAD-test-predict.csv').unlink(), 'DLAD-test-predict.csv is missin'),
    (write_lines('Id,Label', *LINES), f'{FIRST_LINE}: {AGAIN}'),
    (write_lines(''), FIRST_LINE),
    (write_lines(HEADER, *LINES[:9]), 'has 9 predictions, expected 10, the rows of test.csv'),
    (write_lines(HEADER, *LINES, '10,0'), 'has 11 predictions, expected 10'),
    (write_lines(HEADER, '1,0', *LINES[1:]), 'line 2 is 1,0, expected 0 and a label 0..46'),
    (write_lines(HEADER, '0,3.0', *LINES[1:]), 'line 2 is 0,3.0'),
    (write_lines(HEADER, '0, 3', *LINES[1:]), 'line 2 is 0,'),
    (write_lines(HEADER, *LINES[:9], '9,47'), 'line 11 is 9,47, expected 9'),
    (write_lines(HEADER, *LINES[:9], '9,-1'), 'line 11 is 9,-1'),
    (write_lines(HEADER, *LINES[:9], '9'), 'line 11 is 9, expected'),
    (lambda folder: (folder / 'DLAD-test-predict.csv').write_bytes(
        b'\xef\xbb\xbf' + '\n'.join([HEADER] + LINES).encode()), FIRST_LINE),
    (lambda folder: (folder / 'DLAD-test-predict.csv').write_bytes(b'Id,Category\n\xe9'),
     'line 2 is'),
    (lambda folder: (folder / 'data' / 'test.csv').unlink(), 'test.csv is missing: copy the compe'),
    (lambda folder: (folder / 'data' / 'train.csv').unlink(), 'train.csv is missing: copy the'),
    (write_stand_in, "train.csv is a stand-in: put the competition's train.csv and test.csv"),
    (lambda folder: (folder / 'own.pdf').unlink(), 'own.pdf is missing'),
    (lambda folder: (folder / 'own.pdf').write_bytes(b'PK word'), 'own.pdf is no PDF file: export'),
    (write_notebook(SOURCE.replace('network', 'helper')), 'do not run (ModuleNotFoundError: No'),
    (write_notebook(SOURCE.replace('np.arange(', 'np.ones(3 + ')), 'four files alone has 13'),
    (write_notebook('1'), 'the four files by themselves wrote no DLAD-test-predict.csv')]


@pytest.mark.parametrize('damage, expected', BROKEN, ids=[row[1] for row in BROKEN])
def test_each_check_refuses_in_one_sentence_and_nothing_is_written(project, damage, expected):
    damage(project)
    complaint = refusal(run, project)
    assert expected in complaint, f'got {complaint}, expected {expected!r}'
    assert not list((project.parent / 'out').iterdir())


@pytest.mark.parametrize('student', ['', 'studentid', '311 551', '../1', '\u0661', '1\n'])
def test_other_ids_are_refused(project, student):
    complaint = refusal(run, project, student=student)
    assert 'expected your own: letters, digits, - and _ only' in complaint


def test_without_typst_a_sentence_names_the_package_and_the_other_way(project, monkeypatch):
    monkeypatch.setattr(hand_in.build, 'typst', None)
    complaint = refusal(hand_in.main, ['311551001'], project)
    assert hand_in.build.MISSING in complaint and 'with --report' in complaint


def test_the_report_is_built_with_the_students_name_id_and_date(project, monkeypatch):
    def arguments(name, student, date):
        return f'{name}, {student}, {date:%Y-%m-%d}'.encode('ascii')

    monkeypatch.setattr(hand_in.build, 'typst', 'is here')
    monkeypatch.setattr(hand_in.build, 'build', arguments)
    options = ['--name', 'A. Student', '--date', '2022-10-06']
    hand_in.main(['311551001'] + options, project)
    got = content_of(project)['Lab1_report_311551001.pdf']
    assert got == b'A. Student, 311551001, 2022-10-06', f'got {got}'


# What passes --------------------------------------------------------------------------------------

def test_texts_that_only_look_like_paths_pass():
    source = notebook("'data/train.csv', 'a/home/b', '~/home/x', '../tmp/x', 1 /tmp, '%d:\\n'",
                      outputs=printed('https://x.org/home/page A: \\n'))
    hand_in.check_notebook(source, 'n')


def test_blank_lines_at_the_end_of_a_submission_pass():
    text = '\n'.join([HEADER] + LINES + ['', '', ''])
    assert len(hand_in.check_submission(text.encode('ascii'), ROWS)) == ROWS


def test_progress_is_shown(project, monkeypatch, capsys):
    monkeypatch.setattr(hand_in, 'PAUSE', -1)
    run(project)
    assert '  cell 2 of 2, ' in capsys.readouterr().out


def test_the_name_of_the_network_is_printed_in_letters_that_every_terminal_shows():
    cells = nbformat.v4.reads(notebook(SOURCE, outputs=printed(
        'predictions of the network "\u738b".')).decode('utf-8'))
    assert hand_in.predicted_by(cells) == 'the network "?"'
    assert hand_in.predicted_by(nbformat.v4.new_notebook()) == 'a network without a name'
