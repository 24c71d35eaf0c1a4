"""The layout of the repository: who imports whom, and what stands where. Style is .ruff.toml's."""
import ast
import glob
import os
import re
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

TOP = {'Lab1_studentid.ipynb', 'network.py', 'layer.py', 'data', 'tests', 'requirements.txt',
       'README.md', 'Lab1_report_studentid.pdf', 'report', 'leaderboard', 'DLAD-test-predict.csv'}
NETWORK_IMPORTS = {'layer', 'numpy', 'pandas', 'collections', 'contextlib', 'copy', 'os', 'time',
                   'zlib'}


def read(name):
    """The text of a file of the repository."""
    with open(os.path.join(ROOT, name), encoding='utf-8') as file:
        return file.read()


def python_files(*folders):
    """The names of the Python files in these folders; '' is the repository's own folder."""
    names = []
    for folder in folders:
        paths = sorted(glob.glob(os.path.join(glob.escape(ROOT), folder, '*.py')))
        names += [os.path.relpath(path, ROOT).replace(os.sep, '/') for path in paths]
    return names


def imported(source):
    """The names of all modules that a source imports, without what follows a dot."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split('.')[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            names.add((node.module or '').split('.')[0])
    return names


def test_the_two_files_import_little():
    assert imported(read('layer.py')) == {'numpy'}
    more = imported(read('network.py')) - NETWORK_IMPORTS
    assert not more, f'network.py imports {sorted(more)}, expected at most {NETWORK_IMPORTS}'


@pytest.mark.parametrize('folder, others', [('data', ['leaderboard', 'report']),
                                            ('leaderboard', ['report'])])
def test_no_file_imports_one_that_is_further_out(folder, others):
    others = python_files('tests', 'tests/*', *others)
    # data/ writes whole files as checkpoint.py does
    forbidden = {os.path.basename(name)[:-len('.py')] for name in others} - {'checkpoint'}
    for name in python_files(folder):
        found = sorted(imported(read(name)) & forbidden)
        assert not found, f'{name} imports {found}'


def test_the_lesson_starts_at_once():
    lines = read('layer.py').splitlines()
    assert '# a = x w' in '\n'.join(lines[:70])
    for name in ('FullyConnected', 'ReLU', 'SoftmaxWithLoss'):
        assert f'class {name}(' in '\n'.join(lines[:130])


@pytest.mark.skipif(not os.path.exists(os.path.join(ROOT, '.git')), reason='no git history here')
def test_git_holds_what_is_handed_in_and_little_more():
    try:
        output = subprocess.check_output(['git', 'ls-files', '-z'], cwd=ROOT)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f'git says {error}')
    names = output.decode('utf-8').strip('\0').split('\0')
    top = {name.split('/')[0] for name in names if not name.startswith('.')}
    assert top == TOP, f'too many: {sorted(top - TOP)}, missing: {sorted(TOP - top)}'
    wrong = [name for name in names if re.match(r'data/.*\.(csv|gz|zip)$|.*\.(pyc|part)$', name)]
    assert not wrong, f'these files do not belong into git: {wrong}'


def test_the_hand_in_needs_five_packages():
    names = set(re.findall(r'^[A-Za-z0-9_-]+', read('requirements.txt'), re.MULTILINE))
    assert names == {'numpy', 'pandas', 'matplotlib', 'jupyter', 'pytest'}


def test_nothing_is_unpickled():
    """Of np.load, ruff says nothing."""
    for name in python_files('', 'data', 'leaderboard', 'report') + ['Lab1_studentid.ipynb']:
        assert not re.search(r'allow_pickle\s*=\s*(?!False)', read(name)), name
