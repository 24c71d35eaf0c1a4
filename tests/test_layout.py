"""The layout of the repository: who imports whom, how long the files are, what stands where."""
import ast
import glob
import os
import re
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

LAYER_LINES = 680
NETWORK_LINES = 813
REPORT_LINES = 975
COLUMNS = 100
FUNCTION_LINES = 40

TOP = {'Lab1_studentid.ipynb', 'network.py', 'layer.py', 'data', 'tests', 'requirements.txt',
       'README.md', 'Lab1_report_studentid.pdf', 'report', 'leaderboard', 'DLAD-test-predict.csv'}
FOLDERS = ('data', 'leaderboard', 'report', 'tests')

NETWORK_IMPORTS = {'layer', 'numpy', 'collections', 'contextlib', 'copy', 'io', 'os', 'time',
                   'warnings', 'zipfile'}


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


ALL_FILES = python_files('', *FOLDERS)
every_file = pytest.mark.parametrize('name', ALL_FILES)


def imported(source):
    """The names of all modules that a source imports, without what follows a dot."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split('.')[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            names.add((node.module or '').split('.')[0])
    return names


def modules(*folders):
    """The names under which the Python files of these folders are imported."""
    return {os.path.basename(name)[:-len('.py')] for name in python_files(*folders)}


# Who imports whom ---------------------------------------------------------------------------------

def test_layer_imports_numpy_alone():
    assert imported(read('layer.py')) == {'numpy'}


def test_network_imports_little():
    more = imported(read('network.py')) - NETWORK_IMPORTS
    assert not more, f'network.py imports {sorted(more)}, expected at most {NETWORK_IMPORTS}'


@pytest.mark.parametrize('folder, others', [
    ('', ('data', 'leaderboard', 'report', 'tests')), ('data', ('leaderboard', 'report', 'tests')),
    ('leaderboard', ('report', 'tests'))], ids=['the two files', 'data', 'leaderboard'])
def test_no_file_imports_one_that_is_further_out(folder, others):
    forbidden = modules(*others) - modules(folder) - {'layer', 'network', 'checkpoint'}
    for name in python_files(folder):
        found = sorted(imported(read(name)) & forbidden)
        assert not found, f'{name} imports {found}, which is in one of the folders {others}'


def test_the_search_for_imports_finds_them():
    source = 'import os.path, ast as a\nfrom io import open\ndef f():\n    import json\n'
    assert imported(source) == {'os', 'ast', 'io', 'json'}


# How the files read -------------------------------------------------------------------------------

@every_file
def test_lines_are_narrow(name):
    wide = [number for number, line in enumerate(read(name).splitlines(), 1)
            if len(line) > COLUMNS]
    assert not wide, f'{name}: the lines {wide} have more than {COLUMNS} columns'


@pytest.mark.parametrize('name, budget', [('layer.py', LAYER_LINES),
                                          ('network.py', NETWORK_LINES)])
def test_the_two_files_are_short(name, budget):
    lines = len(read(name).splitlines())
    assert lines <= budget, f'{name} has {lines} lines, expected at most {budget}'


def test_the_programs_of_the_report_are_short():
    lines = {name: len(read(name).splitlines()) for name in python_files('report')}
    total = sum(lines.values())
    assert total <= REPORT_LINES, f'got {total} lines, expected at most {REPORT_LINES}: {lines}'


def functions(source):
    """[(name, first line, last line, node)] of all functions and methods of a source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            inside = [getattr(part, 'end_lineno', None) or getattr(part, 'lineno', 0)
                      for part in ast.walk(node)]
            found.append((node.name, node.lineno, max(inside), node))
    return found


@pytest.mark.parametrize('name', ['layer.py', 'network.py'])
def test_functions_fit_on_a_screen(name):
    for function, first, last, _ in functions(read(name)):
        lines = last - first + 1
        assert lines <= FUNCTION_LINES, (
            f'{name}: {function} has {lines} lines, expected at most {FUNCTION_LINES}')


@pytest.mark.parametrize('name', ['layer.py', 'network.py'])
def test_no_function_stands_in_another(name):
    for function, _, _, node in functions(read(name)):
        nested = [part.name for part in ast.walk(node)
                  if isinstance(part, ast.FunctionDef) and part is not node]
        assert not nested, f'{name}: {nested} stand in {function}'


def test_back_propagation_is_at_the_top_of_network():
    lasts = {name: last for name, _, last, _ in reversed(functions(read('network.py')))}
    for name in ('forward', 'backward', 'update'):
        assert lasts[name] <= 120, f'{name} ends in line {lasts[name]}, expected at most 120'
    top = '\n'.join(read('network.py').splitlines()[:120])
    for word in ('open(', 'thread', 'argv', 'argparse', 'verbose', 'checkpoint', 'print('):
        assert word not in top.lower(), f'network.py has {word!r} in its first 120 lines'


def text_of(node):
    """The text of a string in the source, or None."""
    value = getattr(node, 'value', None) or getattr(node, 's', None)      # Python 3.6: s
    return value if isinstance(value, str) else None


def old_formats(source):
    """The lines of a source that format a string by % or by .format."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            if text_of(node.left) is not None or isinstance(node.left, ast.JoinedStr):
                lines.append(node.lineno)
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', None) == 'format':
            if text_of(node.func.value) is not None:
                lines.append(node.lineno)
    return lines


@every_file
def test_strings_are_formatted_as_f_strings(name):
    lines = old_formats(read(name))
    assert not lines, f'{name}: write the strings of the lines {lines} as f-strings'


def test_the_search_for_formats_finds_them():
    source = 'a = "%d" % 3\nb = "{}".format(4)\nc = 7 % 4\nd = f"{a}"\ne = a % 2'
    assert old_formats(source) == [1, 2]


# What stands where --------------------------------------------------------------------------------

def tracked():
    """The names of the files in git. Skips the test where this is no copy with a history."""
    if not os.path.exists(os.path.join(ROOT, '.git')):
        pytest.skip('no git history here')
    process = subprocess.Popen(['git', 'ls-files', '-z'], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    output, error = process.communicate()
    if process.returncode:
        pytest.skip(f'git says {error.decode()}')
    return output.decode('utf-8').strip('\0').split('\0')


def test_the_top_folder_holds_what_is_handed_in_and_little_more():
    top = {name.split('/')[0] for name in tracked()}
    found = {name for name in top if not name.startswith('.')}
    assert found == TOP, f'too many: {sorted(found - TOP)}, missing: {sorted(TOP - found)}'


def test_no_data_and_no_compiled_file_is_in_git():
    wrong = [name for name in tracked()
             if re.match(r'data/.*\.(csv|gz|zip)$|.*\.(pyc|part)$', name)]
    assert not wrong, f'these files do not belong into git: {wrong}'


def test_the_hand_in_needs_five_packages():
    lines = [line.split('#')[0].strip() for line in read('requirements.txt').splitlines()]
    names = {re.match(r'[A-Za-z0-9_-]+', line).group().lower() for line in lines if line}
    assert names == {'numpy', 'pandas', 'matplotlib', 'jupyter', 'pytest'}


# Nothing is executed that a file says -------------------------------------------------------------

UNPICKLERS = {'pickle', 'cPickle', '_pickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}
CALLS = {'eval', 'exec', 'compile', '__import__', 'builtins.eval', 'builtins.exec', 'os.system',
         'os.popen', 'subprocess.getoutput', 'pd.read_pickle', 'pandas.read_pickle'}
SWITCHES = {'shell', 'allow_pickle'}


def dangerous_imports(node):
    """What an import statement imports that unpickles or executes text."""
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.Import):
        return [name for name in names if name.split('.')[0] in UNPICKLERS]
    if (node.module or '').split('.')[0] in UNPICKLERS:
        return [node.module]
    return [name for name in names if f'{node.module}.{name}' in CALLS]


def dangerous_calls(node):
    """The name of a called function that executes text, and switches that are not plainly off."""
    owner = getattr(getattr(node.func, 'value', None), 'id', None)
    method = getattr(node.func, 'attr', None)
    name = getattr(node.func, 'id', None) or f'{owner}.{method}'
    found = [name] if name in CALLS else []
    for keyword in node.keywords:
        off = getattr(keyword.value, 'value', None) is False
        if keyword.arg in SWITCHES and not off:
            found.append(keyword.arg)
    return found


def dangers(source):
    """[(line, what)] that unpickles, or executes text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found += [(node.lineno, name) for name in dangerous_imports(node)]
        if isinstance(node, ast.Call):
            found += [(node.lineno, name) for name in dangerous_calls(node)]
    return found


@pytest.mark.parametrize('name', python_files('', 'data', 'leaderboard', 'report'))
def test_our_sources_neither_unpickle_nor_execute_text(name):
    assert not dangers(read(name)), name


def test_the_notebook_neither_unpickles_nor_executes_text():
    nbformat = pytest.importorskip('nbformat')
    notebook = nbformat.read(os.path.join(ROOT, 'Lab1_studentid.ipynb'), as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == 'code']
    assert len(cells) > 10
    for number, source in enumerate(cells):
        assert not dangers(source), f'code cell {number}'


@pytest.mark.parametrize('source', [
    'import pickle', 'import os, pickle as p', 'from pickle import loads',
    'from joblib.memory import Memory', 'eval("1")', 'x = [exec(line) for line in lines]',
    'import os\nos.system("ls")', 'from os import system', 'run("ls", shell=True)',
    'run("ls", shell=1)', 'np.load(path, allow_pickle=True)', 'pd.read_pickle(path)',
    'np.load(path, allow_pickle=trusted)', 'builtins.eval("1")',
    'def f():\n    return __import__("pickle")'])
def test_the_search_for_dangers_finds_them(source):
    assert dangers(source), f'nothing was found in {source!r}'


def test_the_search_for_dangers_finds_nothing_harmless():
    assert not dangers('import os\nnet.eval()\nre.compile("a")\nrun(shell=False)\n'
                       'np.load(path, allow_pickle=False)')
