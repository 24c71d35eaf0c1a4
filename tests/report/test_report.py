"""The report: its numbers by known answers, its figures, its pages, and what it refuses."""
import datetime
import json
import os
import re
import shutil
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REPORT = os.path.join(ROOT, 'report')
sys.path.insert(0, REPORT)

import build                                                                  # noqa: E402
import experiments                                                            # noqa: E402
import facts                                                                  # noqa: E402
import figures                                                                # noqa: E402
from network import character_network, fingerprint, split_rows               # noqa: E402

OWN = [name for name in ('report.typ', 'experiments.csv')
       if not build.is_repositorys(os.path.join(REPORT, name))]
of_the_repository = pytest.mark.skipif(bool(OWN), reason=f'{OWN} are your own')
needs_typst = pytest.mark.skipif(not build.typst, reason=build.MISSING)
DATE = datetime.datetime(2022, 10, 6, tzinfo=datetime.timezone.utc)


def run_row(key, seed, balanced, lr=0.1, search=False, **values):
    row = dict(dict.fromkeys(experiments.COLUMNS, 0.0), factor=key[0], setting=key[1], seed=seed,
               epochs=6, lr=lr, search=search, validation=balanced + 2, balanced=balanced,
               corrected=balanced + 1, augmented=np.nan, cpu_seconds=15.2)
    return dict(row, **values)


def table_of(settings):
    """{(factor, setting): balanced accuracies of the seeds 0, 1, ...} -> the runs."""
    rows = [run_row(key, seed, balanced) for key, values in settings.items()
            for seed, balanced in enumerate(values)]
    return pd.DataFrame(rows, columns=experiments.COLUMNS)


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.setattr(facts, 'PREDICTIONS', facts.PREDICTIONS[:1])
    return table_of({
        experiments.FIRST: (84.0, 84.4, 84.8),
        ('loss', 'a clear gain'): (85.01, 85.41, 85.79),
        ('loss', 'a clear loss'): (83.0, 83.41, 83.79),
        ('input', 'seeds that do not agree'): (84.1, 84.3, 84.9),
        ('input', 'a spread too large'): (84.1, 85.4, 87.0),
        experiments.SMALL: (88.0, 88.4, 88.8)})


def effects(runs):
    return facts.effects(facts.by_setting(runs))


# The numbers --------------------------------------------------------------------------------------

@pytest.mark.parametrize('setting, expected', [
    ('a clear gain', (84.4, 85.4, 1.0, 0.03, 1)), ('a clear loss', (84.4, 83.4, -1.0, 0.02, -1)),
    ('seeds that do not agree', (84.4, 84.43, 0.03, 0.29, 0)),
    ('a spread too large', (84.4, 85.5, 1.1, 2.62, 0)),
    ('784-512-256-47, ReLU', (84.4, 84.4, 0.0, 0.0, 0))])
def test_differences_are_paired_by_seed(runs, setting, expected):
    row = next(row for row in effects(runs) if row['setting'] == setting)
    got = tuple(row[name] for name in ('before', 'after', 'difference', 'margin', 'shown'))
    assert got == pytest.approx(expected, abs=0.006), f'{setting}: got {got}, expected {expected}'


def test_only_the_last_finished_run_of_each_seed_counts(runs):
    key = ('loss', 'a clear gain')
    more = [run_row(key, 2, 90.0), run_row(key, 3, np.nan), run_row(('loss', 'new'), 0, np.nan),
            run_row(key, 4, 91.0, corrected=np.nan), run_row(key, 0, 99.0, lr=0.3, search=True),
            run_row(('loss', 'other seeds'), 9, 99.0)]
    found = effects(pd.concat([runs, pd.DataFrame(more)]))
    row = next(row for row in found if row['setting'] == 'a clear gain')
    assert (row['after'], row['lr']) == (round((85.01 + 85.41 + 90.0) / 3, 2), 0.1), f'got {row}'
    assert not {'new', 'other seeds'} & {row['setting'] for row in found}


def test_a_single_seed_shows_nothing_and_twenty_are_compared():
    row = facts.compare(pd.Series([90.0], [0]), pd.Series([80.0, 81.0], [0, 1]))
    assert row == {'before': 80.0, 'after': 90.0, 'difference': 10.0, 'margin': None, 'shown': 0}
    many = pd.Series(range(20))
    assert facts.compare(many + 1.0, many)['shown'] == 1


def test_the_ranking_holds_the_best_gain_of_each_factor_that_the_runs_show(runs):
    labels = [row['label'] for row in facts.ranking(effects(runs))]
    expected = ['loss: a clear gain', 'class-prior correction: baseline']
    assert labels == expected, f'got {labels}, expected {expected}'


def test_confusions_by_known_answer():
    counts = np.zeros((47, 47), int)
    counts[0, [0, 24]] = 6, 4          # 0 read as 0 and as O
    counts[24, [0, 24]] = 5, 5
    counts[10, [10, 11]] = 9, 1        # A read as A and as B
    assert facts.confused_pairs(counts) == [(0, 24), (10, 11)]
    found = facts.confusion(counts, size=3)
    assert found == {'classes': ['0', 'O', 'A'], 'counts': [[6, 4, 0], [5, 5, 0], [0, 0, 9]],
                     'others': [0, 0, 1], 'rows': [10, 10, 10]}, f'got {found}'
    label, predicted = np.array([0, 24, 1, 18, 10]), np.array([24, 24, 21, 10, 10])
    found = facts.mistakes(label, predicted)      # 0 as O, O, 1 as L, I as A, A
    assert (found['wrong'], found['alike'], found['merged_accuracy']) == (3, 2, 80.0), f'{found}'
    assert found['alike_percent'] == 67 and found['groups'][1] == '1/I/L'


def test_even_subsets_by_known_answer():
    """Class 1 is guessed for all rows of class 0, too; even counts give them back."""
    label = np.repeat(np.arange(47), 3)
    predict = np.full((len(label), 47), 1e-9)
    predict[np.arange(len(label)), label] = 0.8
    predict[label == 0, :2] = 0.45, 0.55
    found = facts.even_subsets(predict, label, 6, subsets=3)
    assert found == {'rows': 6, 'corrected': round(100 * 46 / 47, 2), 'counts': 100.0,
                     'no_square': 100.0, 'gain': round(100 / 47, 2), 'square': 0.0}


def test_the_effect_of_copies_and_the_expected_accuracy_by_known_answer():
    table = pd.DataFrame({'network': ['large', 'large', 'large', 'baseline'], 'side': 'ours',
                          'balanced': 88.0, 'corrected': 90.0,
                          'augmented': [90.1, 90.3, 90.2, 99.0]})
    found = facts.copies_effect(table)
    assert (found['difference'], found['standard_error'], found['trainings'], found['positive'],
            found['shown']) == (0.2, 0.06, 3, 3, 0), found      # 0.2 < 4.303 * 0.058
    found = facts.expected_on_test(table[:3], {'gain': 0.03}, 8000)
    assert (found['expected'], found['least'], found['greatest']) == (90.23, 90.1, 90.3)
    rows = 0.902 * 0.098 * (1 / 8000 + 1 / 12800) * 1e4
    assert found['standard_error'] == round((rows + 0.1 ** 2) ** 0.5, 2)


def test_the_gradient_check_of_the_report_finds_rounding_only():
    assert 0 < facts.gradient_error() < 1e-8
    for value, bound in ((1e-5, [1, -5]), (8.2e-11, [9, -11]), (9.2e-11, [1, -10])):
        assert facts.power_of_ten(value) == bound, value


# facts.py as a command ----------------------------------------------------------------------------

RUNS = os.path.join('report', 'experiments.csv')
WEIGHTS = os.path.join('leaderboard', 'character_network.npz')
CURVE = os.path.join('leaderboard', 'character_network.csv')


@pytest.fixture(scope='session')
def inputs(tmp_path_factory):
    """A project with train.csv of three rows a class, runs, and weights that were not trained."""
    folder, rng = tmp_path_factory.mktemp('inputs'), np.random.default_rng(0)
    for name in ('data', 'leaderboard', 'report'):
        (folder / name).mkdir()
    label = np.arange(3 * 47) % 47
    pixels = rng.integers(0, 256, (len(label), 784)) * (rng.random((len(label), 784)) < 0.2)
    rows = np.column_stack([label, pixels])
    np.savetxt(str(folder / 'data' / 'train.csv'), rows, '%d', ',')
    keys = [(factor, setting) for factor in experiments.FACTORS
            for setting in experiments.FACTORS[factor]]
    table = table_of({key: (84.0, 84.3, 84.9) for key in keys})
    table.assign(augmented=table.corrected + 0.1).to_csv(str(folder / RUNS), index=False)
    net, (_, validation) = character_network(), split_rows(len(label), len(label) // 3, 0)
    net.held_back = {fingerprint(pixels[validation], label[validation])}
    net.save(str(folder / WEIGHTS))
    curve = {'epoch': [1, 2], 'seconds': [60.0, 62.0]}
    for part in ('train', 'validation'):
        curve.update({f'{part}_loss': [3.0, 2.5], f'{part}_accuracy': [10.0, 20.0]})
    pd.DataFrame(curve).to_csv(str(folder / CURVE), index=False)
    shutil.copy(os.path.join(ROOT, 'leaderboard', 'minutes.csv'), str(folder / 'leaderboard'))
    return folder


@pytest.fixture(scope='module')
def document(inputs, tmp_path_factory):
    """A folder with a whole document, made from the inputs."""
    if OWN:
        pytest.skip(f'{OWN} are your own')
    project = tmp_path_factory.mktemp('document') / 'project'
    shutil.copytree(str(inputs), str(project))
    facts.main([], project)
    folder = project / 'report'
    shutil.copy(os.path.join(REPORT, 'helpers.typ'), str(folder))
    with open(os.path.join(REPORT, 'report.typ'), encoding='utf-8') as file:
        lines = [line for line in file if not line.startswith('#claim(')]      # of other runs
    (folder / 'report.typ').write_bytes(''.join(lines).encode('utf-8'))
    return folder


def test_facts_of_the_submitted_network(document):
    with open(str(document / 'facts.json')) as file:
        found = json.load(file)
    rows = {'all': 141, 'training': 94, 'validation': 47, 'least_share': 0.0, 'greatest_share': 3.2}
    final = {name: found['large'][name] for name in ('epochs', 'channels', 'hidden')}
    assert found['rows'] == rows, f'got {found["rows"]}'
    assert final == {'epochs': 2, 'channels': [16, 64, 64, 128, 128], 'hidden': 256}
    wrong = 47 - round(47 * found['large']['augmented']['accuracy'] / 100)
    assert found['mistakes']['wrong'] == wrong, f'got {found["mistakes"]}, expected {wrong}'


def test_facts_draws_what_there_is_of_two_runs(inputs, tmp_path):
    shutil.copytree(str(inputs), str(tmp_path / 'inputs'))
    runs = table_of({experiments.FIRST: (84.0,), experiments.SMALL: (88.0,)})
    runs.to_csv(str(tmp_path / 'inputs' / RUNS), index=False)
    facts.main([], tmp_path / 'inputs')
    with open(str(tmp_path / 'inputs' / 'report' / 'facts.json')) as file:
        found = json.load(file)
    assert [row['margin'] for row in found['effects'][:-1]] == [None] * 4
    assert [row['factor'] for row in found['ranking']] == ['test-time augmentation']


def replace(name, **values):
    def change(folder):
        table = pd.read_csv(str(folder / name))
        table.assign(**values).to_csv(str(folder / name), index=False)
    return change


@pytest.mark.parametrize('damage, expected', [     # what is done to the folder, what is said
    (lambda folder: (folder / RUNS).unlink(), 'experiments.csv'),
    (lambda folder: (folder / RUNS).write_text(','.join(experiments.COLUMNS)), 'has no run of bas'),
    (replace(RUNS, factor='loss'), 'has no run of baseline'),
    (lambda folder: (folder / WEIGHTS).unlink(), 'character_network.npz'),
    (lambda folder: (folder / WEIGHTS).write_bytes(b'PK\3\4'), 'is not a whole .npz file'),
    (lambda folder: character_network().save(str(folder / WEIGHTS)), 'these 47 validation rows'),
    (lambda folder: (folder / CURVE).unlink(), 'character_network.csv'),
    (replace(CURVE, train_loss=''), "line 2: train_loss is ''"),
    (lambda folder: (folder / 'data' / 'train.csv').unlink(), 'train.csv')])
def test_facts_refuses_in_one_sentence_and_writes_nothing(inputs, tmp_path, damage, expected):
    folder = tmp_path / 'inputs'
    shutil.copytree(str(inputs), str(folder))
    damage(folder)
    with pytest.raises(SystemExit) as stop:
        facts.main([], folder)
    complaint = stop.value.code
    assert complaint.startswith('facts.py: ') and '\n' not in complaint, complaint
    assert expected in complaint, complaint
    assert not list((folder / 'report').glob('*.json'))


# The figures --------------------------------------------------------------------------------------

def test_figures_do_not_depend_on_the_users_matplotlibrc(tmp_path):
    curve = {f'{part}_{name}': [1.0, 2.0] for part in ('train', 'validation')
             for name in ('loss', 'accuracy')}
    drawn = []
    for hostile in ({}, {'text.usetex': True, 'figure.facecolor': 'black', 'font.size': 30,
                         'svg.fonttype': 'path', 'axes.prop_cycle': matplotlib.cycler(color='w')}):
        with matplotlib.rc_context(hostile):
            figures.ranking([{'label': 'a, $b$ & c', 'difference': 1.2, 'margin': 0.3}],
                            str(tmp_path / 'ranking.svg'))
            figures.curves(pd.DataFrame(dict(curve, epoch=[1, 2])), str(tmp_path / 'curves.svg'))
        drawn.append([path.read_bytes() for path in sorted(tmp_path.iterdir())])
    assert drawn[0] == drawn[1]
    for expected in ('Libertinus Serif', '+1.20', 'gain in balanced accuracy, in points'):
        assert expected.encode() in drawn[0][1], f'the figure has no {expected!r}'


# The document -------------------------------------------------------------------------------------

def texts(content):
    """All texts of a document's element, as Typst's query gives it, in their order."""
    if isinstance(content, list):
        return ''.join(map(texts, content))
    if not isinstance(content, dict):
        return ''
    if content.get('func') == 'space':
        return ' '
    found = content.get('text', '') if isinstance(content.get('text'), str) else ''
    return found + ''.join(texts(content[name]) for name in ('children', 'child', 'body')
                           if name in content)


def read_document(folder, selector, **inputs):
    found = build.typst.query(os.path.join(str(folder), 'report.typ'), selector,
                              root=str(folder), sys_inputs=inputs)
    return texts(json.loads(found))


def copy_of(document, tmp_path, *repositorys):
    """A copy of a document in which these files are the repository's own."""
    folder = tmp_path / 'document'
    shutil.copytree(str(document), str(folder))
    for name in repositorys:
        shutil.copy(os.path.join(REPORT, name), str(folder))
    return folder


@needs_typst
def test_the_same_name_id_and_date_give_the_same_bytes(document):
    first, second = [build.build('A. Student', '311551001', DATE, str(document)) for _ in range(2)]
    assert first == second and first.startswith(b'%PDF') and b'D:20221006' in first


@needs_typst
@pytest.mark.parametrize('name', [
    "O'Brien", 'A $x$ #b *c* _d_ @e', '"q" \\ `k` <l> [m] // n /* o */', '\u0141ukasz Nguy\u1ec5n'])
def test_a_name_comes_out_as_it_was_typed(document, name):
    text = read_document(document, 'par', name=name, id='311', date='6 October 2022', copied='')
    assert f'{name}, 311, 6 October 2022' in text, f'got {text[:200]}'
    assert 'own copy' not in text and 'own work' not in text
    build.build(name, '311', DATE, str(document))      # with a glyph for each character


@needs_typst
@pytest.mark.parametrize('repositorys', [
    [], ['experiments.csv'], ['report.typ'], ['report.typ', 'experiments.csv']])
def test_the_notice_stays_until_text_and_runs_are_others(
        document, tmp_path, monkeypatch, capsys, repositorys):
    """No id takes it away, and nobody's name stands over what the repository wrote."""
    folder = copy_of(document, tmp_path, *repositorys)
    inputs = {}
    monkeypatch.setattr(build.typst, 'compile',
                        lambda path, sys_inputs, **options: inputs.update(sys_inputs))
    build.build('A. Student', '311551001', DATE, str(folder))
    shutil.copy(os.path.join(REPORT, 'facts.json'), str(folder))      # which fits all claims
    text = read_document(folder, 'par', **inputs)
    assert ('has no name' in capsys.readouterr().out) == bool(repositorys)
    assert ('A. Student, 311551001' in text) == (not repositorys), text[:200]
    for sentence in ('No student hands it in', 'To hand them in as your own work'):
        assert (sentence in text) == bool(repositorys), sentence
    for name in repositorys:
        assert name in text
        with open(str(folder / name), 'rb') as file:
            content = file.read().replace(b'\n', b' \r\n')
        (folder / name).write_bytes(content)
        assert build.is_repositorys(folder / name), 'blanks and line ends do not count'


@needs_typst
def test_what_cannot_be_typeset_is_refused_in_a_sentence(document, tmp_path):
    folder = copy_of(document, tmp_path)
    with pytest.raises(ValueError, match='the text `"\U00013000"` could not be displayed'):
        build.build('A \U00013000', '311', DATE, str(folder))
    text = ('#import "helpers.typ": *\n#claim("loss", "label smoothing 0.1", 1)')
    (folder / 'report.typ').write_text(text)
    with pytest.raises(ValueError, match='the text and the runs do not agree about "loss: label'):
        build.build('', '311', DATE, str(folder))
    (folder / 'report.typ').write_text(text.replace('smoothing 0.1', 'smoothing 0.3'))
    with pytest.raises(ValueError, match='speaks of "loss: label smoothing 0.3", but experiments'):
        build.build('', '311', DATE, str(folder))
    (folder / 'facts.json').unlink()
    with pytest.raises(FileNotFoundError, match='facts.json'):
        build.build('', '311', DATE, str(folder))


def test_the_command_writes_a_pdf_with_the_id_in_its_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(build, 'PROJECT', str(tmp_path))
    with pytest.raises(SystemExit):
        build.main(['--date', '6.10.2022'])
    assert "argument --date: invalid day value: '6.10.2022'" in capsys.readouterr().err
    monkeypatch.setattr(build, 'typst', None)
    with pytest.raises(SystemExit) as stop:
        build.main([])
    assert stop.value.code == f'build.py: {build.MISSING}' and not list(tmp_path.iterdir())
    monkeypatch.setattr(build, 'build', lambda name, student, date: f'{student} {date}'.encode())
    build.main(['--id', '311', '--date', '2022-10-06'])
    content = (tmp_path / 'Lab1_report_311.pdf').read_bytes()
    assert content == b'311 2022-10-06 00:00:00+00:00'


# The repository's own report ----------------------------------------------------------------------

@of_the_repository
def test_the_facts_are_those_of_the_experiments():
    with open(os.path.join(REPORT, 'facts.json')) as file:
        committed = json.load(file)
    runs = facts.read_table(os.path.join(REPORT, 'experiments.csv'), experiments.COLUMNS)
    found = facts.by_setting(runs)
    trainings = pd.read_csv(os.path.join(ROOT, 'leaderboard', 'minutes.csv'), comment='#')
    for name, expected in (('effects', facts.effects(found) + [facts.copies_effect(trainings)]),
                           ('baseline', facts.network_facts(found[experiments.FIRST])),
                           ('notebook', facts.network_facts(found[experiments.SMALL]))):
        assert committed[name] == expected, f'{name} of facts.json is old: run report/facts.py'


@of_the_repository
@needs_typst
def test_the_document_has_the_numbers_of_its_facts_on_four_to_six_a4_pages():
    with open(os.path.join(REPORT, 'facts.json')) as file:
        found = json.load(file)
    text = read_document(REPORT, 'par').replace('\xa0', ' ')
    for number in (found['baseline']['corrected'], found['notebook']['corrected'],
                   found['large']['mean']['augmented'], found['mistakes']['merged_accuracy']):
        shown = f'{round(number + 1e-9, 1):.1f} %'
        assert shown in text, f'the report does not say {shown}'
    pages = build.typst.compile(os.path.join(REPORT, 'report.typ'), root=REPORT, format='svg')
    assert 4 <= len(pages) <= 6, f'{len(pages)} pages'
    for number, page in enumerate(pages, 1):
        width = float(re.search(rb'width="([\d.]+)', page).group(1))
        assert abs(width - 595.28) < 0.1, f'page {number} is {width} points wide, A4 is 595.28'


@of_the_repository
def test_the_pdf_is_made_of_the_files_beside_it():
    with open(os.path.join(ROOT, 'Lab1_report_studentid.pdf'), 'rb') as file:
        content = file.read()
    expected = build.fingerprint(REPORT)
    assert expected.encode('ascii') in content, f'no {expected}: run report/build.py'
