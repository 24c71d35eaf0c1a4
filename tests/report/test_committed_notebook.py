"""The notebook as it is committed: its outputs. Your own run of it is not looked at here."""
import json
import os
import re
import sys
import zlib

import pandas as pd
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REPORT = os.path.join(ROOT, 'report')
sys.path.insert(0, REPORT)

from figures import notebook_pictures      # noqa: E402

NOTEBOOK = os.path.join(ROOT, 'Lab1_studentid.ipynb')
with open(NOTEBOOK, 'rb') as file:
    CONTENT = file.read()
with open(os.path.join(REPORT, 'repository.json')) as file:
    OWN = json.load(file)['executed notebook'] != zlib.crc32(CONTENT)
pytestmark = pytest.mark.skipif(OWN, reason='this run of the notebook is your own')
CELLS = [cell for cell in json.loads(CONTENT.decode('utf-8'))['cells']
         if cell['cell_type'] == 'code']


def printed(cell):
    """What a cell printed or displayed as text."""
    texts = []
    for output in cell['outputs']:
        data = output.get('data', {})
        texts += output.get('text', data.get('text/markdown', data.get('text/plain', [])))
    return ''.join(texts)


PRINTED = '\n'.join(map(printed, CELLS))


def test_it_was_executed_in_order_without_errors():
    assert [cell['execution_count'] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    for cell in CELLS:
        for output in cell['outputs']:
            assert output['output_type'] != 'error', cell['source']
            assert output.get('name') != 'stderr', f'{cell["source"]}\n{output}'


def test_its_outputs_are_those_of_real_data_and_name_no_folder():
    assert '(100000, 784)' in PRINTED and 'STAND-IN' not in PRINTED
    assert not re.search(r'/home/|/work/|/tmp/|/root/|/Users/|[A-Z]:\\', PRINTED)


def test_its_cells_are_short():
    for cell in CELLS:
        lines = ''.join(cell['source']).split('\n')
        assert len(lines) <= 15, f'{len(lines)} lines in\n{cell["source"]}'
        assert max(len(line) for line in lines) <= 100, cell['source']


def test_it_shows_the_methods_of_the_code():
    with open(os.path.join(ROOT, 'layer.py'), encoding='utf-8') as file:
        source = file.read()
    methods = re.findall(r'^    def \w+\(self.*?(?=\n\n|\n$)', PRINTED, re.MULTILINE | re.DOTALL)
    assert len(methods) == 5, f'{len(methods)} methods are printed'
    for method in methods:
        assert method.rstrip() in source, f'layer.py no longer has\n{method}'


def test_its_figure_of_the_experiments_has_all_runs():
    runs = pd.read_csv(os.path.join(REPORT, 'experiments.csv'))
    runs = runs[~runs.search & runs.balanced.notnull()]
    settings = len(runs.groupby(['factor', 'setting']))
    assert f'{len(runs)} runs of {settings} settings' in PRINTED, 'run the notebook again'


def test_the_submission_is_the_one_that_it_wrote():
    written = pd.read_csv(os.path.join(ROOT, 'DLAD-test-predict.csv'))
    said = re.search(r'holds (\d+) predictions .* Checksum: (\d+)', PRINTED).groups()
    assert said == (str(len(written)), str((written.Id * written.Category).sum()))


def test_the_pictures_of_the_readme_are_its_own():
    with open(os.path.join(ROOT, 'README.md'), encoding='utf-8') as file:
        shown = re.findall(r'\(report/(\w+)\.png\)', file.read())
    pictures = notebook_pictures(NOTEBOOK)
    for name in shown:
        with open(os.path.join(REPORT, f'{name}.png'), 'rb') as file:
            assert file.read() == pictures[name], f'report/{name}.png: run report/figures.py'
    assert 'characters' in shown
