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

FEW_ROWS = ['--train-rows', '40', '--test-rows', '20']


def run(capsys, *arguments):
    """The exit code, and what was printed on stdout and stderr."""
    code = prepare.main([str(argument) for argument in arguments])
    return (code,) + tuple(capsys.readouterr())


def start(folder, *arguments, **options):
    """The command as a process that makes a stand-in in the folder."""
    command = [sys.executable, prepare.__file__, 'stand-in', '--folder', str(folder)]
    return subprocess.Popen(command + list(arguments), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize('fault, wanted', [
    ('--train-rows=0', 'not 0'), ('--test-rows=-3', 'not -3'), ('--seed=-1', 'not -1'),
    ('test.csv', 'not a stand-in')])
@pytest.mark.parametrize('way', [['stand-in'], ['idx', '.'], ['download']])
def test_bad_requests_are_refused_first(tmp_path, monkeypatch, capsys, way, fault, wanted):
    monkeypatch.setattr(prepare, 'download', lambda *arguments, **options: pytest.fail('too late'))
    options = [fault] if fault.startswith('--') else []
    if not options:
        (tmp_path / fault).write_bytes(b'precious')
    before = read_folder(tmp_path)
    code, _, message = run(capsys, *way, '--folder', tmp_path, *options)
    data_files.check_message(message, 'prepare.py: ', wanted)
    assert code == 2 and read_folder(tmp_path) == before


def test_stand_in_command(tmp_path, capsys):
    arguments = ['stand-in', '--folder', tmp_path] + FEW_ROWS
    code, text, _ = run(capsys, *arguments)
    assert code == 0 and str(tmp_path) in text
    data_files.check_folder(tmp_path, csv_files.FILES + (csv_files.MARKER,))
    before = read_folder(tmp_path)
    code, _, message = run(capsys, *arguments)
    data_files.check_message(message, 'train.csv', '--force')
    assert code == 2 and read_folder(tmp_path) == before
    code, _, _ = run(capsys, *arguments, '--force', '--seed', '1')
    assert code == 0 and read_folder(tmp_path) != before


def test_download_command_converts_what_it_fetched_as_idx_does(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, 'download',
                        lambda folder, url, report: test_official.write_idx(folder))
    a, b = tmp_path / 'a', tmp_path / 'b'
    assert run(capsys, 'download', '--folder', a, *FEW_ROWS)[0] == 0
    assert run(capsys, 'idx', a, '--folder', b, *FEW_ROWS)[0] == 0
    data_files.check_folder(b, csv_files.FILES)
    data_files.check_folder(a, csv_files.FILES + (official.IMAGES_NAME, official.LABELS_NAME))
    assert read_folder(b).items() <= read_folder(a).items()


def test_progress_tells_the_time_left(capsys):
    progress = prepare.Progress()
    progress.started -= 30
    progress.shown -= 30
    progress('rows of train.csv', 1000, 4000)
    progress('rows of train.csv', 1001, 4000)       # too soon to be shown
    data_files.check_message(capsys.readouterr().err, '1,000 of 4,000 rows of train.csv', '90 s')


@pytest.mark.skipif(os.name == 'nt', reason='POSIX signals')
def test_a_polite_kill_leaves_nothing_behind(tmp_path):
    process = start(tmp_path)
    deadline = time.monotonic() + 60
    while not os.listdir(str(tmp_path)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    message = process.communicate()[1]
    assert process.returncode == 130 and b'interrupted' in message, message
    data_files.check_folder(tmp_path, [])


def test_the_command_runs_from_any_folder_in_a_poor_environment(tmp_path):
    """As the notebook calls it: only ASCII can be shown, and Python adds no folder to its path."""
    environment = dict(os.environ, PYTHONIOENCODING='ascii:strict', PYTHONSAFEPATH='1')
    process = start(tmp_path / 'd\xe4ta', *FEW_ROWS, cwd=str(tmp_path), env=environment)
    output, message = process.communicate()
    assert process.returncode == 0 and b'd\\xe4ta' in output, message
    assert read_table(tmp_path / 'd\xe4ta', 'train.csv').shape == (40, 785)
