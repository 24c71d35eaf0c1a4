"""The report: its sentences against the numbers, its pages against the paper, what it refuses. All on tiny inputs."""
import datetime
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'report'))

import experiments as experiments_module      # noqa: E402
import facts as facts_module      # noqa: E402
import layout      # noqa: E402
import typeset      # noqa: E402
from experiments import FACTORS      # noqa: E402
from matplotlib import rc_context      # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg      # noqa: E402
from network import character_network, replacing, split_rows      # noqa: E402

EXPERIMENTS = [     # factor, setting, balanced accuracy of the seeds
    ('baseline', '784-512-256-47, ReLU', (84.0, 84.2, 84.4)),
    ('loss', 'cross-entropy, smoothing 0.1', (84.1, 84.3, 84.2)),
    ('loss', 'squared error', (81.0, 81.5, 82.15)),
    ('network', '784-60-47', (85.5, 85.6, 85.7)),
    ('batch size', '32', (84.5, 84.9, 85.0)),
    ('a factor of its own', 'of which nothing is known', (90.01, 90.02, 90.03))]


def write_csv(path, table):
    table.to_csv(str(path), index=False)


def experiments():
    return pd.DataFrame([
        {'factor': factor, 'setting': setting, 'seed': seed, 'parameters': 545327, 'epochs': 6, 'seconds': 12.0,
         'train': 90.0, 'validation': 86.04, 'balanced': balanced}
        for factor, setting, values in EXPERIMENTS for seed, balanced in enumerate(values, 1)])


@pytest.fixture(scope='session')
def inputs(tmp_path_factory):
    """A folder of data/*.csv with three rows a class, experiments.csv, and the weights of a network not yet trained."""
    folder, rng = tmp_path_factory.mktemp('inputs'), np.random.default_rng(0)
    (folder / 'data').mkdir()
    label = np.arange(3 * 47) % 47
    pixels = rng.integers(0, 256, (len(label), 784)) * (rng.random((len(label), 784)) < 0.2)
    np.savetxt(str(folder / 'data' / 'train.csv'), np.column_stack([label, pixels]), '%d', ',')
    np.savetxt(str(folder / 'data' / 'test.csv'), pixels[:10], '%d', ',')
    write_csv(folder / 'experiments.csv', experiments())
    net = character_network()
    net.save(str(folder / 'net.npz'), np.float16)
    kept = split_rows(len(label), 47, 0)[1]
    result = net.evaluate(pixels[kept].astype(np.uint8), label[kept])
    write_csv(folder / 'net.csv', pd.DataFrame([
        {'epoch': epoch, 'seconds': 60.0, 'train_loss': 4.0, 'train_accuracy': 2.5, 'validation_loss': 3.9,
         'validation_accuracy': result.accuracy - 1, 'validation_balanced': result.balanced_accuracy - 0.01 * epoch}
        for epoch in (1, 2, 3)]))
    return folder


def arguments(folder):
    return ['--experiments', str(folder / 'experiments.csv'), '--weights', str(folder / 'net.npz'),
            '--data', str(folder / 'data'), '--validation', '47', '--date', '2022-10-06']


@pytest.fixture(scope='module')
def facts(inputs):
    return facts_module.gather(str(inputs / 'experiments.csv'), str(inputs / 'net.npz'), str(inputs / 'data'), 47)


@pytest.fixture(scope='module')
def pdf(facts, tmp_path_factory):
    """The bytes of the report."""
    path = tmp_path_factory.mktemp('pdf') / 'report.pdf'
    typeset.typeset(facts, str(path), "O'Student", '311551001', datetime.date(2022, 10, 6))
    assert [name.name for name in path.parent.iterdir()] == ['report.pdf']
    return path.read_bytes()


def text_of(blocks):
    """All that a reader reads, cells of tables with spaces between."""
    lines = []
    for block in blocks:
        lines.append(block.caption if hasattr(block, 'caption') else block.text)
        lines += [' '.join(row) for row in getattr(block, 'rows', []) if row]
    return '\n'.join(lines)


# What it says ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('expected', [
    'baseline classifies 86.0% of the validation rows correctly after 6 epochs (balanced over the classes: 84.2%)',
    'baseline: 784-512-256-47, ReLU 545,327 0.2 86.04 84.20',
    'loss cross-entropy, smoothing 0.1 84.20 +0.00', 'squared error 81.55 \N{MINUS SIGN}2.65',
    '*cross-entropy, smoothing 0.1*: +0.00, overlaps',
    '*squared error*: \N{MINUS SIGN}2.65 (it also pushes back',
    '*784-60-47*: +1.40.', '*32*: +0.60 (the same epochs have four times as many steps).',
    '**A factor of its own.** *of which nothing is known*: +5.82.',
    '**Clearly worse** than the baseline (Table 2): loss (*squared error*).',
    '**Not shown to help,** as their runs overlap those of the baseline: loss (*cross-entropy, smoothing 0.1*).',
    'Of 47 validation rows', 'of the final network (3 epochs)', 'epoch 1 of 3', 'about 0 of 5 would still'])
def test_numbers_of_the_csv_files_are_in_the_text(facts, expected):
    text = text_of(typeset.content(facts))
    assert expected in text, 'expected %r in\n%s' % (expected, text)


def test_scores_of_the_final_network_are_in_the_table(facts):
    rows = typeset.networks_table(facts).rows
    for (name, result), row in zip(facts.scores.items(), rows[-3:]):
        assert row[0].endswith(name) and row[-2:] == ['%.2f' % result.accuracy, '%.2f' % result.balanced_accuracy]
    assert rows[-3][1:3] == ['{:,}'.format(facts.parameters), '3.0']


def test_what_the_report_names_is_what_the_experiments_do():
    known = {(factor, setting) for factor, settings in FACTORS.items() for setting in settings}
    unknown = {key[:2] for key in typeset.REASONS} | set(typeset.NETWORKS)
    assert unknown <= known, 'the experiments have no %s' % sorted(unknown - known)
    runs = pd.read_csv(os.path.join(ROOT, 'report', 'experiments.csv'), dtype=str)
    assert set(zip(runs.factor, runs.setting)) == known, 'report/experiments.csv is not what experiments.py writes'


def test_a_series_goes_on_where_it_was(tmp_path, monkeypatch):
    runs = []

    def run(seed, training, validation, **settings):
        runs.append((seed, settings['batch_size']))
        return {'seed': seed, 'parameters': 1, 'epochs': 6, 'seconds': 1.0, 'train': 9.0, 'validation': 8.0,
                'balanced': 7.0}

    monkeypatch.setattr(experiments_module, 'run', run)
    monkeypatch.setattr(experiments_module, 'read_train', lambda path: (np.zeros(9000), np.zeros(9000)))
    for seeds, expected in ([1, 2], [(1, 32), (1, 512), (2, 32), (2, 512)]), ([1, 2], []), ([3], [(3, 32), (3, 512)]):
        monkeypatch.setattr(sys, 'argv', ['experiments.py', '--results', str(tmp_path / 'r.csv'), '--only',
                                          'batch size', '--seeds'] + list(map(str, seeds)))
        del runs[:]
        experiments_module.main()
        assert runs == expected


def test_factors_that_were_not_tried_are_left_out(facts):
    text = text_of(typeset.content(facts))
    assert '**Dropout.**' not in text and '**Batch norm.**' not in text and 'nan' not in text


@pytest.mark.parametrize('values, expected', [
    ((84.3, 84.9), 0), ((84.41, 84.9), 1), ((84.4, 84.9), 0), ((80.0, 83.99), -1), ((80.0, 84.0), 0), ((95.0,), None)])
def test_a_difference_is_clear_only_beyond_every_run(tmp_path, values, expected):
    table = experiments()
    row = table.iloc[0]
    for seed, balanced in enumerate(values, 1):
        table = pd.concat([table, pd.DataFrame([dict(row, factor='f', setting='s', seed=seed, balanced=balanced)])])
    write_csv(tmp_path / 'experiments.csv', table)
    effects, seeds = facts_module.read_effects(str(tmp_path / 'experiments.csv'))
    assert seeds == 3 and effects[0].factor == 'baseline' and effects[-1].setting == 's'
    assert effects[-1].clear == expected, 'clear: got %s, expected %s' % (effects[-1].clear, expected)


def test_tables_figures_equations_and_sources_are_referred_to(facts):
    blocks = typeset.content(facts)
    text = text_of([block for block in blocks if not hasattr(block, 'caption')])
    captions = [block.caption for block in blocks if hasattr(block, 'caption')]
    for kind in ('Table', 'Figure'):
        numbers = re.findall(r'\*\*%s (\d)' % kind, ' '.join(captions))
        assert numbers == [str(number + 1) for number in range(len(numbers))], captions
    assert re.findall(r'Figures? (\d)', text) and all('[%d]' % (number + 1) in text.split('Sources')[0]
                                                      for number in range(len(typeset.SOURCES)))


def test_confusions():
    label = np.array([0, 0, 0, 24, 24, 10])
    fake = typeset.argparse.Namespace(validation=(None, label), predicted=np.array([0, 24, 24, 0, 24, 10]))
    shares = facts_module.confusion(fake)
    assert shares[0, 24] == pytest.approx(200 / 3.0) and shares[24, 0] == 50 and shares[10, 10] == 100
    assert facts_module.confused_pairs(fake, 1) == [(0, 24)]
    assert list(facts_module.merged(np.array([24, 18, 21, 10]))) == [0, 1, 1, 10]


def test_the_gradient_check_finds_rounding_only():
    assert facts_module.gradient_error() < 1e-8


# How it looks ---------------------------------------------------------------------------------------------------------

def test_pages_paper_and_fonts(pdf):
    pages = re.findall(br'/Type /Page\b', pdf)
    assert 4 <= len(pages) <= 6, '%d pages' % len(pages)
    boxes = re.findall(br'/MediaBox \[([^\]]*)\]', pdf)
    assert boxes and all(np.allclose(list(map(float, box.split())), [0, 0, 595.28, 841.89], atol=0.01) for box in boxes)
    assert b'/FontFile2' in pdf and not re.search(br'/Subtype\s*/Type3', pdf), 'a font is not embedded as TrueType'
    assert pdf.startswith(b'%PDF') and pdf.rstrip().endswith(b'%%EOF') and b'D:20221006' in pdf


def test_the_same_inputs_give_the_same_bytes(pdf, inputs, tmp_path):
    command = [sys.executable, os.path.join(ROOT, 'report', 'typeset.py'), '--name', "O'Student", '--id', '311551001',
               '--output', str(tmp_path / 'again.pdf')] + arguments(inputs)
    environment = dict(os.environ, PYTHONHASHSEED='7', TZ='Asia/Taipei')
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.returncode == 0 and process.stderr == b'', process.stderr.decode()
    assert (tmp_path / 'again.pdf').read_bytes() == pdf


def test_nothing_reaches_beyond_the_margins(facts):
    with rc_context(layout.STYLE):
        document = layout.Document('foot')
        document.title('title', 'subtitle', 'A name that is too long for its line ' * 5)
        for block in typeset.content(facts):
            document.add(block)
        assert not document.waiting
        for number, page in enumerate(document.pages, 1):
            page.set_dpi(720)      # ten dots a point, so that rounding to dots says nothing
            renderer = FigureCanvasAgg(page).get_renderer()
            for text in page.texts:
                left, bottom, right, top = np.array(text.get_window_extent(renderer).extents) / 10
                assert (layout.LEFT - 2 <= left and right <= layout.LEFT + layout.WIDTH + 2
                        and layout.BOTTOM - 4 <= bottom and top <= layout.PAGE[1] - layout.TOP + 4), (
                            'page %d: %r reaches from %d, %d to %d, %d' % (
                                number, text.get_text(), left, bottom, right, top))


@pytest.mark.parametrize('text', ['word ' * 100, 'a **bold** and (*italic*), $a_j$; ' * 20, 'x' * 200 + ' y', ''])
def test_wrap_keeps_all_words_within_the_width(text):
    lines = layout.wrap(text, 300, 10)
    words = [''.join(run[0] for run in word) for line in lines for word in line]
    assert words == re.sub(r'\*', '', text).split()
    for line in lines:
        width = sum(run[2] for word in line for run in word) + 2.5 * (len(line) - 1)
        assert width <= 300 or len(line) == 1


# What it refuses ------------------------------------------------------------------------------------------------------

def drop(column, name='experiments.csv'):
    return lambda folder: write_csv(folder / name, pd.read_csv(str(folder / name)).drop(columns=column))


def change(name, **values):
    return lambda folder: write_csv(folder / name, pd.read_csv(str(folder / name)).assign(**values))


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:5000])


def other_weights(folder):
    with replacing(str(folder / 'net.npz')) as file:
        np.savez(file, weight=np.zeros(3))


REFUSED = [     # what is done to the folder, what the sentence must name
    (lambda folder: (folder / 'experiments.csv').unlink(), 'experiments.csv is missing: make it with'),
    (drop('balanced'), 'lacks the columns balanced'), (change('experiments.csv', balanced='?'), 'the column balanced'),
    (change('experiments.csv', factor='loss'), 'no run of the factor baseline'),
    (lambda folder: (folder / 'experiments.csv').write_bytes(b''), 'experiments.csv is not a CSV file'),
    (lambda folder: (folder / 'experiments.csv').write_bytes(b'\xff\xfe\x00a,b\n'), 'experiments.csv'),
    (lambda folder: (folder / 'net.npz').unlink(), 'net.npz is missing: make it with'),
    (cut('net.npz'), 'net.npz'), (other_weights, 'of another network'),
    (lambda folder: (folder / 'net.csv').unlink(), 'net.csv is missing'),
    (drop('validation_balanced', 'net.csv'), 'lacks the columns validation_balanced'),
    (change('net.csv', validation_balanced=90.0), 'not of one training'),
    (lambda folder: (folder / 'data' / 'train.csv').unlink(), 'train.csv'), (cut('data/train.csv'), 'train.csv'),
    (lambda folder: (folder / 'data' / 'train.csv').write_text('99' + ',0' * 784 + '\n'), 'label 99')]


@pytest.mark.parametrize('damage, expected', REFUSED, ids=[row[1] for row in REFUSED])
def test_refuses_in_one_sentence_and_writes_nothing(inputs, tmp_path, capsys, damage, expected):
    folder = tmp_path / 'inputs'
    shutil.copytree(str(inputs), str(folder))
    damage(folder)
    (tmp_path / 'report').mkdir()
    assert typeset.main(['--output', str(tmp_path / 'report' / 'r.pdf')] + arguments(folder)) == 2
    printed, complaint = capsys.readouterr()
    complaint = complaint.split('Exception ignored')[0]      # NumPy 1.19 stumbles over a file that it could not open
    assert expected in complaint and len(complaint.strip().split('\n')) == 1 and not printed, complaint
    assert not list((tmp_path / 'report').iterdir())


def test_keeps_an_old_report_where_the_folder_cannot_be_written(facts, tmp_path):
    with pytest.raises(OSError):
        typeset.typeset(facts, str(tmp_path / 'no' / 'r.pdf'), 'name', '1', datetime.date(2022, 10, 6))
    (tmp_path / 'r.pdf').write_bytes(b'old')
    with pytest.raises(AttributeError):
        typeset.typeset(facts._replace(scores=None), str(tmp_path / 'r.pdf'), 'name', '1', datetime.date(2022, 10, 6))
    assert (tmp_path / 'r.pdf').read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 1
