"""The zip that is handed in: what is in it, and that each check fails where its subject is broken; on tiny inputs."""
import os
import shutil
import sys
import zipfile

import nbformat
import numpy as np
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'report'))

import hand_in      # noqa: E402
from network import write_submission      # noqa: E402
from test_report import arguments, inputs      # noqa: E402, F401

SOURCE = """import numpy as np
import network as model

EPOCH = 9
assert EPOCH == 1, 'only --quick runs this notebook'
test_data = model.read_csv('data/test.csv', 784)
model.write_submission('DLAD-test-predict.csv', np.arange(len(test_data)))"""


def notebook(*sources, **changes):
    """The bytes of a notebook whose cells were executed in order; `changes`: of the first one's attributes."""
    new = nbformat.v4
    cells = [new.new_code_cell(source, execution_count=number) for number, source in enumerate(sources, 1)]
    cells[0].update(changes)
    result = new.new_notebook(cells=[new.new_markdown_cell('A title: $f:\\mathbb{R}$, and/or')] + cells)
    for cell in result.cells:
        cell.pop('id', None)      # as in the lab's notebook, format 4.4
    result.nbformat_minor = 4
    return nbformat.writes(result).encode('utf-8')


def printed(text):
    return [nbformat.v4.new_output('stream', name='stdout', text=text)]


@pytest.fixture
def project(tmp_path, inputs):      # noqa: F811
    """A folder as a student's: the notebook, the two sources, the submission, and data/."""
    folder = tmp_path / 'project'
    shutil.copytree(str(inputs), str(folder))
    for name in ('layer.py', 'network.py'):
        shutil.copy(os.path.join(ROOT, name), str(folder))
    (folder / 'Lab1_studentid.ipynb').write_bytes(notebook(SOURCE))
    write_submission(str(folder / 'DLAD-test-predict.csv'), np.arange(10))
    (tmp_path / 'out').mkdir()
    return folder


@pytest.fixture
def report(monkeypatch):
    """The report takes a moment: most tests do with a file in its place."""
    def build(options, student, output):
        with open(output, 'w') as file:
            file.write('report of %s' % student)

    monkeypatch.setattr(hand_in.typeset, 'build', build)


def run(project, student='311551001', *options):
    return hand_in.main([student, '--quick', '--project', str(project), '--output', str(project.parent / 'out')]
                        + arguments(project) + list(options))


def test_the_zip_holds_the_four_files(project, capsys):
    assert run(project, '311551001', '--name', 'A. Student') == 0
    path = project.parent / 'out' / 'Lab1_311551001.zip'
    assert capsys.readouterr() == ('Wrote %s\n' % path, '')
    assert [file.name for file in path.parent.iterdir()] == ['Lab1_311551001.zip']
    with zipfile.ZipFile(str(path)) as archive:
        assert archive.testzip() is None
        content = {name: archive.read(name) for name in archive.namelist()}
        assert all(about.date_time == (1980, 1, 1, 0, 0, 0) for about in archive.infolist())
    assert sorted(content) == ['Lab1_311551001.ipynb', 'Lab1_report_311551001.pdf', 'layer.py', 'network.py']
    for name, source in (('Lab1_311551001.ipynb', 'Lab1_studentid.ipynb'), ('layer.py', 'layer.py'),
                         ('network.py', 'network.py')):
        assert content[name] == (project / source).read_bytes(), '%s was changed' % name
    assert content['Lab1_report_311551001.pdf'].startswith(b'%PDF') and b'A. Student, 311551001' in content[
        'Lab1_report_311551001.pdf']


def test_the_same_files_give_the_same_zip():
    files = {'b': b'2' * 1000, 'a': b'1'}
    assert hand_in.pack(files) == hand_in.pack(dict(reversed(list(files.items()))))


def wrong_notebook(*sources, **changes):
    return lambda folder: (folder / 'Lab1_studentid.ipynb').write_bytes(notebook(*(sources or (SOURCE,)), **changes))


def submission(text):
    return lambda folder: (folder / 'DLAD-test-predict.csv').write_text(text)


LINES = ['%d,%d' % (row, row) for row in range(10)]
ERROR = nbformat.v4.new_output('error', ename='ValueError', evalue='no', traceback=[])
HTML = nbformat.v4.new_output('display_data', data={'text/html': '<a href="file:///home/me/x">x</a>', 'image/png': ''})
BROKEN = [     # what is done to the project, what the sentence must say
    (lambda folder: (folder / 'network.py').unlink(), 'network.py is missing'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').unlink(), 'Lab1_studentid.ipynb is missing'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').write_text('{"cells": '), 'is not a notebook'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').write_text('[]'), 'is not a notebook'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').write_bytes(b'\xff'), 'is not a notebook'),
    (wrong_notebook(execution_count=None), 'code cell 1 has the number None'),
    (wrong_notebook(SOURCE, '1', execution_count=2), 'code cell 1 has the number 2'),
    (wrong_notebook(outputs=[ERROR]), 'code cell 1 ended with ValueError'),
    (wrong_notebook("open('/home/me/data.csv')"), 'cell 2 has the absolute path /home/me'),
    (wrong_notebook(outputs=printed('in /root/.venv/lib')), 'the absolute path /root/.venv'),
    (wrong_notebook(outputs=printed('"/Users/me"')), 'the absolute path /Users/me'),
    (wrong_notebook(outputs=printed('C:\\Users\\me')), 'the absolute path C:\\Users'),
    (wrong_notebook("p = 'C:\\\\data'"), 'the absolute path C:\\\\data'),
    (wrong_notebook(outputs=[HTML]), 'the absolute path /home/me'),
    (lambda folder: (folder / 'DLAD-test-predict.csv').unlink(), 'DLAD-test-predict.csv is missing'),
    (submission('\n'.join(['Id,Label'] + LINES)), 'the first line is not Id,Category'),
    (submission(''), 'the first line is not Id,Category'),
    (submission('\n'.join(['Id,Category'] + LINES[:9])), 'has 9 predictions, expected 10'),
    (submission('\n'.join(['Id,Category'] + LINES + ['10,0'])), 'has 11 predictions, expected 10'),
    (submission('\n'.join(['Id,Category', '1,0'] + LINES[1:])), 'line 2 is 1,0, expected 0'),
    (submission('\n'.join(['Id,Category', '0,3.0'] + LINES[1:])), 'line 2 is 0,3.0'),
    (submission('\n'.join(['Id,Category'] + LINES[:9] + ['9,47'])), 'line 11 is 9,47'),
    (submission('\n'.join(['Id,Category'] + LINES[:9] + ['9,-1'])), 'line 11 is 9,-1'),
    (submission('\n'.join(['Id,Category'] + LINES[:9] + ['9'])), 'line 11 is 9, expected'),
    (lambda folder: (folder / 'DLAD-test-predict.csv').write_bytes(b'Id,Category\n\xe9'), 'is not a CSV file'),
    (lambda folder: (folder / 'data' / 'test.csv').unlink(), 'test.csv'),
    (lambda folder: (folder / 'data' / 'train.csv').unlink(), 'train.csv is missing'),
    (wrong_notebook(SOURCE.replace('network', 'helper')), 'by themselves do not run: ModuleNotFoundError'),
    (wrong_notebook(SOURCE.replace('np.arange(', 'np.ones(3 + ')), 'has 13 predictions, expected 10'),
    (wrong_notebook('1'), 'the notebook by itself wrote no DLAD-test-predict.csv'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').write_bytes(notebook(SOURCE).replace(
        b'"metadata": {},\n "nbformat"',
        b'"metadata": {"kernelspec": {"name": "conda-x", "display_name": "x"}},\n "nbformat"')),
     'do not run: No such kernel named conda-x')]


@pytest.mark.parametrize('damage, expected', BROKEN, ids=[row[1] for row in BROKEN])
def test_each_check_fails_in_one_sentence(project, report, capsys, damage, expected):
    damage(project)
    assert run(project) == 2
    out, complaint = capsys.readouterr()
    assert expected in complaint and len(complaint.strip().split('\n')) == 1 and not out, complaint
    assert not list((project.parent / 'out').iterdir())


@pytest.mark.parametrize('student', ['', 'studentid', '31155100x', '311 551', '../1', '\N{ARABIC-INDIC DIGIT ONE}',
                                     '1\n'])
def test_ids_are_digits(project, report, capsys, student):
    assert run(project, student) == 2
    assert 'expected digits only' in capsys.readouterr().err


def test_a_report_that_cannot_be_built_stops_it(project, capsys):
    (project / 'experiments.csv').unlink()
    assert run(project) == 2
    assert 'experiments.csv is missing' in capsys.readouterr().err and not list((project.parent / 'out').iterdir())


def test_the_folder_must_be_there(project, report, capsys):
    (project.parent / 'out').rmdir()
    assert run(project) == 2 and 'is not a folder' in capsys.readouterr().err


def test_paths_that_are_none_pass():
    hand_in.check_notebook(notebook("'data/train.csv', 'a/home/b', '~/home/x', '../tmp/x', 1 /tmp",
                                    outputs=printed('https://x.org/home/page A: \\n')))
