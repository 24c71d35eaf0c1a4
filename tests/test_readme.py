"""The README: its examples print what it says, its links and commands exist, its layer works."""
import doctest
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, 'leaderboard'), os.path.join(ROOT, 'report')]

from figures import notebook_pictures      # noqa: E402
from minutes import summary      # noqa: E402

PAGES = ['README.md', 'data/README.md', 'leaderboard/README.md']
every_page = pytest.mark.parametrize('page', PAGES)


def read(name):
    """The text of a file of the repository."""
    with open(os.path.join(ROOT, name), encoding='utf-8') as file:
        return file.read()


def blocks(text, language):
    """The code blocks of a language in a Markdown text."""
    return re.findall(rf'^```{language}\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


def test_the_examples_print_what_the_readme_says():
    failed, tried = doctest.testfile(os.path.join(ROOT, 'README.md'), module_relative=False,
                                     encoding='utf-8')
    assert tried >= 8 and not failed, f'{failed} of {tried} examples failed'


@every_page
def test_links_lead_to_files(page):
    links = re.findall(r'\]\(([^)#]+)', read(page))
    folder = os.path.dirname(os.path.join(ROOT, page))
    missing = [link for link in links if '://' not in link
               and not os.path.exists(os.path.join(folder, link))]
    assert not missing, f'{page} links to {missing}, which are not there'


@every_page
def test_commands_and_tests_that_are_named_exist(page):
    names = re.findall(r'\b((?:data|leaderboard|report|tests)/\w+\.(?:py|txt|typ|csv|npz))\b',
                       read(page))
    made = {'data/train.csv', 'data/test.csv', 'data/test_labels.csv'}
    missing = [name for name in names
               if name not in made and not os.path.exists(os.path.join(ROOT, name))]
    assert not missing, f'{page} names {missing}, which are not there'


@every_page
def test_no_place_is_left_empty(page):
    assert '@@' not in read(page) and 'TODO' not in read(page)


def test_the_first_lines_hold_what_the_readme_says():
    found = dict(re.findall(r'\[(layer\.py|network\.py)\]\(\w+\.py\), lines 1 to (\d+)',
                            read('README.md')))
    expected = {'layer.py': ['class _Layer', 'class FullyConnected', 'class ReLU',
                             'class SoftmaxWithLoss'],
                'network.py': ['class Network', 'def forward', 'def backward', 'def update']}
    assert sorted(found) == sorted(expected), found
    for name, parts in expected.items():
        top = read(name).splitlines()[:int(found[name])]
        for part in parts:
            lines = [number for number, line in enumerate(top) if line.strip().startswith(part)]
            assert lines, f'{name}: {part} does not stand in the lines 1 to {found[name]}'
        after = read(name).splitlines()[int(found[name])]
        assert after == '' or re.match(r' {0,4}(#|class|def|@|\S)', after), (
            f'{name}: line {int(found[name]) + 1} is in the middle of a function: {after!r}')


def test_the_layer_of_the_readme_passes_the_tests_of_layers(tmp_path):
    """Put the class and the line where the README says, and run the command that it names."""
    text = read('README.md')
    example = next(block for block in blocks(text, 'python') if 'class Swish' in block)
    lines = [line[4:] for line in example.splitlines() if line.startswith(('>>>', '...'))]
    start = next(number for number, line in enumerate(lines) if line.startswith('class Swish'))
    source = [line for line in lines[start:] if line.startswith(('class', ' '))]
    row = next(block for block in blocks(text, 'python') if block.startswith("    ('Swish'"))
    for name in ('conftest.py', 'gradient_check.py', 'test_layer.py', 'small_networks.py'):
        os.makedirs(str(tmp_path / 'tests'), exist_ok=True)
        shutil.copy(os.path.join(ROOT, 'tests', name), str(tmp_path / 'tests' / name))
    tests, count = re.subn(r'^(LAYERS = \[.*\n)', lambda match: match.group(1) + row,
                           read('tests/test_layer.py'), flags=re.MULTILINE)
    assert count == 1, 'tests/test_layer.py: expected one line that starts with LAYERS = ['
    (tmp_path / 'tests' / 'test_layer.py').write_text(tests, encoding='utf-8')
    layer = read('layer.py') + '\n\n' + '\n'.join(source) + '\n'
    (tmp_path / 'layer.py').write_text(layer, encoding='utf-8')
    shutil.copy(os.path.join(ROOT, 'network.py'), str(tmp_path))
    command = re.search(r'python (-m pytest -q tests/test_layer.py -k Swish)', text).group(1)
    process = subprocess.Popen([sys.executable] + command.split(), cwd=str(tmp_path),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    passed = int(re.search(r'(\d+) passed', output).group(1))
    assert passed >= 3, f'expected several tests of the new layer, got {output}'


def stated_accuracy(values):
    """Accuracies of the seeds -> their mean and range, as a README writes them."""
    if len(values) == 1:
        return f'{values.mean():.1f} % (one seed)'
    return f'{values.mean():.1f} % ({values.min():.1f} to {values.max():.1f})'


def test_the_results_are_those_of_the_experiments():
    """Mean, least and greatest of the seeds, as the table says; one number for one network."""
    runs = pd.read_csv(os.path.join(ROOT, 'report', 'experiments.csv'))
    trainings = pd.read_csv(os.path.join(ROOT, 'leaderboard', 'minutes.csv'))
    text = read('README.md')
    for setting in ('784-512-256-47, ReLU', 'small network of the notebook'):
        corrected = runs[(runs.setting == setting) & ~runs.search].corrected
        assert len(corrected) == 3, f'{setting}: {len(corrected)} seeds'
        assert f'| {stated_accuracy(corrected)} |' in text, f'{setting}: {list(corrected)}'
    ours = trainings[trainings.side == 'ours']
    for size in ('small', 'medium', 'large'):
        augmented = ours[ours['size'] == size].augmented
        assert f'| {stated_accuracy(augmented)} |' in text, f'README.md: {size}: {list(augmented)}'


def test_the_table_of_the_minutes_is_that_of_the_trainings():
    """A line for each size: minutes, then accuracy, of ours and of PyTorch."""
    folder = os.path.join(ROOT, 'leaderboard')
    results = pd.read_csv(os.path.join(folder, 'minutes.csv'))
    seconds = pd.read_csv(os.path.join(folder, 'minutes-seconds.csv'), comment='#')
    text = read('leaderboard/README.md')
    table = summary(results, seconds)
    assert set(zip(table['size'], table.side)) == set(zip(results['size'], results.side))
    for row in table.itertuples():
        line = re.search(rf'^\| `{row.size}` \|.*$', text, re.MULTILINE).group()
        runs = results[(results['size'] == row.size) & (results.side == row.side)]
        where = f'{row.size}, {row.side}'
        assert f'| {row.minutes:.1f} |' in line, f'{where}: {row.minutes:.2f} minutes, {line}'
        assert f'| {stated_accuracy(runs.augmented)} |' in line, f'{where}: {line}'


def test_the_pictures_are_those_of_the_notebook():
    shown = re.findall(r'\(report/(\w+)\.png\)', read('README.md'))
    pictures = notebook_pictures(os.path.join(ROOT, 'Lab1_studentid.ipynb'))
    assert sorted(shown) == sorted(pictures) == ['characters', 'diagram']
    for name, content in pictures.items():
        with open(os.path.join(ROOT, 'report', f'{name}.png'), 'rb') as file:
            assert file.read() == content, f'report/{name}.png: run python -m report.figures'
