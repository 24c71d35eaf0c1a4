"""The README: its examples print what it says, and what it invites to breaks no test."""
import doctest
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# In the copy, what is slow and reads nothing that is changed there. The rest of the command runs.
SLOW = ['--ignore=tests/leaderboard', '--ignore=tests/data', '--ignore=tests/test_grade.py',
        '--ignore=tests/test_mine.py', '--ignore=tests/test_determinism.py',
        '--ignore=tests/test_readme.py',            # this test
        '--ignore=tests/report/test_hand_in.py',    # packs folders of its own
        '--deselect=tests/test_notebook.py::test_a_kernel_of_another_environment_shows_figures']


def read(path):
    """The text of a file."""
    with open(str(path), encoding='utf-8') as file:
        return file.read()


README = read(os.path.join(ROOT, 'README.md'))


def test_the_examples_print_what_the_readme_says():
    failed, tried = doctest.testfile(os.path.join(ROOT, 'README.md'), module_relative=False,
                                     encoding='utf-8')
    assert tried >= 8 and not failed, f'{failed} of {tried} examples failed'


def edit(path, pattern, text):
    """Replace what the pattern finds first, in a copied file."""
    changed, count = re.subn(pattern, lambda match: text, read(path), count=1, flags=re.MULTILINE)
    path.write_text(changed, encoding='utf-8')
    return count


def pytest_in(folder, command, *arguments):
    """Run a command of the README -> what it printed. AssertionError if a test fails."""
    arguments = [sys.executable] + command.split()[1:] + ['-p', 'no:cacheprovider', *arguments]
    process = subprocess.Popen(arguments, cwd=str(folder), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    output = process.communicate()[0].decode('utf-8', 'replace')
    assert process.returncode == 0, output[-5000:]
    return output


def test_a_layer_a_network_and_sentences_of_ones_own_break_no_test(tmp_path):
    """Put the README's class and line where it says, change the rest, run the README's commands."""
    folder = tmp_path / 'copy'
    shutil.copytree(ROOT, str(folder), ignore=shutil.ignore_patterns(
        '.*', '__pycache__', 'train.csv', 'test.csv', 'test_labels.csv'))
    found = re.search(r'^>>> (class \w+\(_Layer\):\n(?:\.\.\. .*\n)+)', README, re.MULTILINE)
    source = re.sub(r'^\.\.\. ', '', found.group(1), flags=re.MULTILINE)
    with open(str(folder / 'layer.py'), 'a', encoding='utf-8') as file:
        file.write(f'\n\n{source}')
    row = re.search(r"^    \('\w+', .*\),\n", README, re.MULTILINE).group()
    assert edit(folder / 'tests' / 'test_layer.py', r'^LAYERS = \[.*\n', 'LAYERS = [\n' + row)
    # A notebook without these words, or a report, is one's own already
    edit(folder / 'Lab1_studentid.ipynb', r'hidden=\d+', 'hidden=96')
    report = folder / 'report' / 'report.typ'
    if report.exists():
        report.write_text(read(report).replace('We ', 'Today we '), encoding='utf-8')

    for_a_layer = re.search(r'`\S*(python -m pytest [^`]*-k \w+)`', README).group(1)
    passed = re.search(r'(\d+) passed', pytest_in(folder, for_a_layer)).group(1)
    assert int(passed) >= 3, f'{passed} tests of the new layer, expected several'
    for_all = re.search(r'(python -m pytest [^\n`]*tests)$', README, re.MULTILINE).group(1)
    pytest_in(folder, for_all, *SLOW)
