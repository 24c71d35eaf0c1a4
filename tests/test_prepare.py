"""data/prepare.py: the command's arguments, messages and exit codes."""
import os
import signal
import subprocess
import sys
import time

import pytest

import data_files
from data_files import read_folder, read_table
import csv_files
import official
import prepare
import test_official

SCRIPT = os.path.join(data_files.DATA, 'prepare.py')
FEW_ROWS = ['--train-rows', '40', '--test-rows', '20']


def run(arguments, capsys):
    """The exit code, and what was printed on stdout and stderr."""
    code = prepare.main(arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize('changes, wanted', [
    (['--train-rows=0'], 'train rows must be 1 or more, not 0'),
    (['--test-rows=-3'], 'test rows must be 1 or more, not -3'),
    (['--seed=-1'], 'seed must be 0 or more, not -1')])
@pytest.mark.parametrize('way', ['stand-in', 'idx', 'download'])
def test_bad_numbers_are_refused(tmp_path, capsys, way, changes, wanted):
    arguments = [way] + ([str(tmp_path)] if way == 'idx' else [])
    code, _, message = run(arguments + ['--folder', str(tmp_path)] + changes, capsys)
    assert code == 2, f'{arguments}: got exit code {code}, expected 2'
    data_files.check_message(message, wanted)
    data_files.check_folder(tmp_path, [])


def test_stand_in_command(tmp_path, capsys):
    arguments = ['stand-in', '--folder', str(tmp_path)] + FEW_ROWS
    code, text, _ = run(arguments, capsys)
    assert code == 0 and str(tmp_path) in text, f'got exit code {code} and {text!r}'
    before = read_folder(tmp_path)
    data_files.check_folder(tmp_path, csv_files.FILES + (csv_files.MARKER,))
    assert len(read_table(tmp_path, 'train.csv')) == 40
    code, _, message = run(arguments, capsys)
    assert code == 2, f'files are there: got exit code {code}, expected 2'
    data_files.check_message(message, 'train.csv', '--force')
    assert read_folder(tmp_path) == before, 'the old files have changed'
    code, _, _ = run(arguments + ['--force', '--seed', '1'], capsys)
    assert code == 0 and read_folder(tmp_path) != before, f'--force: got exit code {code}'


def test_idx_command(tmp_path, capsys):
    test_official.write_idx(tmp_path / 'idx')
    arguments = ['idx', str(tmp_path / 'idx'), '--folder', str(tmp_path / 'out')] + FEW_ROWS
    code, _, message = run(arguments, capsys)
    assert code == 0, f'got exit code {code} and {message!r}'
    data_files.check_folder(tmp_path / 'out', csv_files.FILES)


def test_idx_command_refuses_in_a_sentence(tmp_path, capsys):
    test_official.write_idx(tmp_path, labels=None)
    code, _, message = run(['idx', str(tmp_path), '--folder', str(tmp_path / 'out')], capsys)
    assert code == 2, f'got exit code {code}, expected 2'
    data_files.check_message(message, 'prepare.py: ', official.LABELS_NAME, 'is missing')


def test_download_command_converts_what_it_fetched(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, 'download',
                        lambda folder, url, report: test_official.write_idx(folder))
    code, _, message = run(['download', '--folder', str(tmp_path)] + FEW_ROWS, capsys)
    assert code == 0, f'got exit code {code} and {message!r}'
    fetched = (official.IMAGES_NAME, official.LABELS_NAME)
    data_files.check_folder(tmp_path, csv_files.FILES + fetched)


def test_nothing_is_downloaded_where_files_are_in_the_way(tmp_path, monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr(prepare, 'download', lambda *arguments, **options: fetched.append(1))
    (tmp_path / 'test.csv').write_bytes(b'precious')
    code, _, message = run(['download', '--folder', str(tmp_path)], capsys)
    assert code == 2 and not fetched, f'got exit code {code}, {len(fetched)} downloads'
    data_files.check_message(message, 'test.csv', 'not a stand-in')


@pytest.mark.parametrize('arguments, expected', [
    (['--help'], 0), (['idx', '--help'], 0), ([], 2), (['idx'], 2), (['stand-in', '--x'], 2)])
def test_help_and_usage(capsys, arguments, expected):
    with pytest.raises(SystemExit) as end:
        prepare.main(arguments)
    assert end.value.code == expected, f'got exit code {end.value.code}, expected {expected}'
    printed = capsys.readouterr()
    assert 'usage: ' in printed.out + printed.err, f'{arguments}: no usage was shown'


def test_progress_tells_the_time_left(capsys):
    progress = prepare.Progress()
    progress.started -= 30
    progress.shown -= 30
    progress('rows of train.csv', 1000, 4000)
    got = capsys.readouterr().err
    assert got.startswith('1,000 of 4,000 rows of train.csv, about 90 s left'), f'got {got!r}'


@pytest.mark.skipif(os.name == 'nt', reason='POSIX signals')
def test_a_polite_kill_leaves_nothing_behind(tmp_path):
    process = subprocess.Popen([sys.executable, SCRIPT, 'stand-in', '--folder', str(tmp_path)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not os.listdir(str(tmp_path)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate()
    assert process.returncode == 130, f'got exit code {process.returncode} and {message!r}'
    assert b'interrupted' in message, f'got {message!r}'
    data_files.check_folder(tmp_path, [])


def test_the_command_runs_from_any_folder_where_only_ascii_can_be_shown(tmp_path):
    """As the notebook calls it; the last line must not fail after the work is done."""
    folder = tmp_path / 'd\xe4ta'
    environment = dict(os.environ, PYTHONIOENCODING='ascii:strict')
    process = subprocess.Popen(
        [sys.executable, SCRIPT, 'stand-in', '--folder', str(folder)] + FEW_ROWS,
        cwd=str(tmp_path), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, message = process.communicate()
    assert process.returncode == 0, f'got exit code {process.returncode} and {message!r}'
    assert b'd\\xe4ta' in output, f'got {output!r}'
    assert read_table(folder, 'train.csv').shape == (40, 785)
