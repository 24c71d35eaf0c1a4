"""The READMEs of the repository: what they name exists, and their numbers are those measured."""
import glob
import os
import re
import sys

import pandas as pd
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(ROOT, 'report'))

import build      # noqa: E402
import benchmark      # noqa: E402
import minutes      # noqa: E402

RUNS = os.path.join(ROOT, 'report', 'experiments.csv')
PAGES = [os.path.relpath(path, ROOT) for name in ('README.md', '*/README.md')
         for path in sorted(glob.glob(os.path.join(ROOT, name)))]
MADE = {'data/train.csv', 'data/test.csv', 'data/test_labels.csv'}


def read(page):
    with open(os.path.join(ROOT, page), encoding='utf-8') as file:
        return file.read()


@pytest.mark.parametrize('page', PAGES)
def test_links_and_files_that_are_named_exist_and_no_place_is_left_empty(page):
    text = read(page)
    folder = os.path.dirname(os.path.join(ROOT, page))
    paths = [os.path.join(folder, link) for link in re.findall(r'\]\(([^)#]+)', text)
             if '://' not in link]
    names = re.findall(r'\b((?:data|leaderboard|report|tests)/[\w/]+\.(?:py|txt|typ|csv|npz))\b',
                       text)
    paths += [os.path.join(ROOT, name) for name in set(names) - MADE]
    missing = [path for path in paths if not os.path.exists(path)]
    assert not missing, f'{page} names {missing}, which are not there'
    assert '@@' not in text and 'TODO' not in text


def stated(values):
    """Accuracies of the seeds -> their mean and range, as a README writes them."""
    return f'{values.mean():.1f} % ({values.min():.1f} to {values.max():.1f})'


@pytest.fixture
def trainings():
    return pd.read_csv(os.path.join(ROOT, 'leaderboard', 'minutes.csv'), comment='#')


@pytest.mark.skipif(not build.is_repositorys(RUNS), reason='these runs are your own')
def test_the_results_are_those_of_the_trainings(trainings):
    runs = pd.read_csv(RUNS)
    runs = runs[~runs.search]
    measured = {stated(part.corrected) for _, part in runs.groupby(['factor', 'setting'])}
    groups = trainings.groupby(['network', 'epochs', 'side'])
    measured |= {stated(part.augmented) for _, part in groups}
    found = re.findall(r'\| (\d+\.\d % \([^)]*\)) \|$', read('README.md'), re.MULTILINE)
    assert len(found) >= 3 and set(found) <= measured, set(found) - measured


def test_the_ratios_are_those_of_the_benchmark():
    times = pd.read_csv(os.path.join(ROOT, 'leaderboard', 'benchmark.csv'), comment='#')
    table = benchmark.summary(times)
    measured = {f'{median:.1f} | {ratio:.2f} ({least:.2f} to {greatest:.2f})'
                for median, _, _, ratio, least, greatest in table.values}
    found = re.findall(r'\| ([\d.]+ \| [\d.]+ \([^)]*\)) \|$', read('leaderboard/README.md'),
                       re.MULTILINE)
    assert len(found) == 7 and set(found) <= measured, set(found) - measured


def test_the_table_of_the_minutes_is_that_of_the_trainings(trainings):
    """A line for each network and number of epochs: minutes, then accuracy, of both sides."""
    known = set(minutes.RUNS)
    assert set(zip(trainings.network, trainings.epochs)) == known, 'minutes.py does not know all'
    key = ['network', 'epochs', 'side']
    for row in minutes.summary(trainings).itertuples():
        line = re.search(rf'^\| `{row.network}` \|.*\| {row.epochs} \|.*$',
                         read('leaderboard/README.md'), re.MULTILINE).group()
        runs = trainings[(trainings[key] == [row.network, row.epochs, row.side]).all(axis=1)]
        accuracy = stated(runs.augmented) if len(runs) > 1 else f'{row.mean:.1f} %'
        for text in (f'| {row.minutes:.1f} |', f'| {accuracy} |'):
            assert text in line, f'{row.network}, {row.side}: expected {text} in {line}'
