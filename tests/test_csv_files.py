"""data/csv_files.py: whole files or none, whatever happens while they are written."""
import errno
import itertools
import os
import signal

import pytest

import data_files
from data_files import read_folder
import csv_files
import stand_in

MADE = csv_files.FILES + (csv_files.MARKER,)


def make_data(folder, seed, force=True):
    stand_in.make_stand_in(str(folder), 30, 20, seed=seed, force=force)
    return read_folder(folder)


def failing(code):
    """A function that fails as the system does."""
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))
    return fail


@pytest.mark.parametrize('place, name, call', [
    (csv_files, 'open', 1), (csv_files, 'open', 3), (csv_files, 'csv_text', 2), (os, 'replace', 1),
    (os, 'makedirs', 1)], ids=['first open', 'third open', 'second block', 'replace', 'makedirs'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EACCES],
                         ids=errno.errorcode.get)
def test_files_that_cannot_be_written(tmp_path, monkeypatch, place, name, call, code):
    """The call of that number fails; the files that were there stay, and nothing else."""
    before = make_data(tmp_path, 0)
    real = getattr(place, name, open)
    count = itertools.count(1)

    def fail_later(*arguments, **options):
        return (failing(code) if next(count) == call else real)(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(csv_files, 'PATIENCE', -1)
        patch.setattr(place, name, fail_later, raising=False)
        with pytest.raises(OSError) as error:
            make_data(tmp_path, 1)
    data_files.check_message(str(error.value), str(tmp_path), os.strerror(code))
    got = read_folder(tmp_path)
    assert got == before, f'got the files {sorted(got)}, expected the old ones, whole'


def test_errors_and_interrupts_leave_nothing_behind(tmp_path):
    def interrupted(*report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stand_in.make_stand_in(str(tmp_path), 20, 20, report=interrupted)
    data_files.check_folder(tmp_path, [])
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(OSError) as error:
        stand_in.make_stand_in(str(tmp_path / 'file' / 'folder'), 20, 20)
    data_files.check_message(str(error.value), 'cannot write to', 'file', 'choose another folder')


def test_a_file_that_another_program_has_open_is_waited_for(tmp_path, monkeypatch):
    """Windows refuses to replace an open file; here the system refuses twice."""
    real = os.replace
    count = itertools.count(1)

    def busy_twice(source, target):
        return (failing(errno.EACCES) if next(count) <= 2 else real)(source, target)

    monkeypatch.setattr(os, 'replace', busy_twice)
    make_data(tmp_path, 0)
    data_files.check_folder(tmp_path, MADE)


def test_a_file_that_stays_open_is_named(tmp_path, monkeypatch):
    before = make_data(tmp_path, 0)
    monkeypatch.setattr(csv_files, 'PATIENCE', 0.2)
    monkeypatch.setattr(os, 'replace', failing(errno.EACCES))
    with pytest.raises(OSError) as error:
        make_data(tmp_path, 1)
    data_files.check_message(str(error.value), csv_files.MARKER, 'close the program')
    assert read_folder(tmp_path) == before, 'the old files have changed'


@pytest.mark.skipif(os.name == 'nt', reason='symbolic links need a privilege on Windows')
def test_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'train.csv').symlink_to(tmp_path / 'disk' / 'large.csv')
    make_data(tmp_path / 'data', 0)
    assert (tmp_path / 'data' / 'train.csv').is_symlink(), 'the link was replaced by a file'
    data_files.check_folder(tmp_path / 'disk', ['large.csv'])
    assert len(data_files.read_table(tmp_path / 'disk', 'large.csv')) == 30


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork and kill -9')
@pytest.mark.parametrize('name, call', [('csv_text', 1), ('csv_text', 2), ('csv_text', 3),
                                        ('replace', 1), ('replace', 3), ('replace', 4)])
def test_a_killed_run_leaves_whole_files_and_can_be_run_again(tmp_path, name, call):
    """A child process kills itself, as kill -9 does, at the call of that number."""
    old = make_data(tmp_path / 'data', 0)
    new = make_data(tmp_path / 'new', 1)
    child = os.fork()
    if not child:
        real = getattr(csv_files, name)
        count = itertools.count(1)

        def die(*arguments):
            if next(count) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        setattr(csv_files, name, die)
        make_data(tmp_path / 'data', 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f'the child ended with status {status}, expected it killed'
    got = read_folder(tmp_path / 'data')
    for file in MADE:
        assert got[file] in (old[file], new[file]), f'{file} is neither the old nor the new file'
    extra = [file for file in got if file not in MADE and not file.endswith('.part')]
    assert not extra, f'got files {extra}, expected no more than drafts with the ending .part'
    got = make_data(tmp_path / 'data', 1)
    for file in MADE:
        assert got[file] == new[file], f'{file} differs after running again'


# Files that are there already ---------------------------------------------------------------------

@pytest.mark.parametrize('name', csv_files.FILES)
def test_a_real_file_is_kept_and_force_is_not_advised(tmp_path, name):
    (tmp_path / name).write_bytes(b'precious')
    with pytest.raises(FileExistsError) as error:
        make_data(tmp_path, 0, force=False)
    data_files.check_message(str(error.value), name, 'not a stand-in', 'unpack its zip')
    assert '--force' not in str(error.value), f'{error.value}: it advises to lose a real file'
    assert read_folder(tmp_path) == {name: b'precious'}, f'{name} was touched'


def test_where_train_csv_is_still_packed_the_advice_is_to_unpack_it(tmp_path):
    (tmp_path / 'test.csv').write_bytes(b'precious')
    (tmp_path / 'train.csv.zip').write_bytes(b'PK')
    with pytest.raises(FileExistsError) as error:
        make_data(tmp_path, 0, force=False)
    data_files.check_message(str(error.value), 'test.csv', 'unpack train.csv.zip')
    assert '--force' not in str(error.value), f'{error.value}: it advises to lose a real file'


def test_a_stand_in_is_kept_unless_forced(tmp_path):
    before = make_data(tmp_path, 0)
    with pytest.raises(FileExistsError) as error:
        make_data(tmp_path, 1, force=False)
    data_files.check_message(str(error.value), 'train.csv', 'is a stand-in', '--force')
    assert read_folder(tmp_path) == before, 'the old files have changed'
    assert make_data(tmp_path, 1) != before, '--force has replaced nothing'
    data_files.check_folder(tmp_path, MADE)
