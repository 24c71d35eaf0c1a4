"""data/csv_files.py: whole files or none, whatever happens while they are written."""
import errno
import itertools
import os
import time

import pytest

import data_files
from data_files import read_folder
import checkpoint
import csv_files
import stand_in

MADE = csv_files.FILES + (csv_files.MARKER,)


def make_data(folder, seed, force=True):
    stand_in.make_stand_in(str(folder), 30, 20, seed=seed, force=force)
    return read_folder(folder)


def fail_from(call, real, code):
    """`real`, except that its call of that number and all later ones fail as the system does."""
    count = itertools.count(1)

    def function(*arguments, **options):
        if next(count) >= call:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)
    return function


@pytest.mark.parametrize('place, name, call', [
    (os, 'makedirs', 1), (checkpoint, 'open', 1), (checkpoint, 'open', 4),
    (csv_files, 'csv_text', 2), (os, 'fsync', 1), (os, 'replace', 1)])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_where_one_file_cannot_be_written_all_stay(tmp_path, monkeypatch, place, name, call, code):
    before = make_data(tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(time, 'sleep', lambda seconds: None)
        patch.setattr(place, name, fail_from(call, getattr(place, name, open), code), raising=False)
        with pytest.raises(OSError) as error:
            make_data(tmp_path, 1)
    data_files.check_message(error.value, os.strerror(code))
    assert str(error.value).count('nothing was written') <= 1, f'{error.value}: says it twice'
    assert read_folder(tmp_path) == before


@pytest.mark.parametrize('call', [2, 3, 4])
def test_what_breaks_off_at_the_end_leaves_no_unmarked_stand_in(tmp_path, monkeypatch, call):
    monkeypatch.setattr(os, 'replace', fail_from(call, os.replace, errno.ENOSPC))
    with pytest.raises(OSError):
        make_data(tmp_path, 0)
    done = set(os.listdir(str(tmp_path)))
    assert csv_files.MARKER in done and done <= set(MADE) and len(done) == call - 1
    for name in done - {csv_files.MARKER}:
        assert csv_files.is_stand_in(str(tmp_path / name)), f'{name} is not marked'


@pytest.mark.parametrize('name, wanted', [(name, 'not a stand-in') for name in csv_files.FILES]
                         + [('dlad-lab1.zip', 'unpack')])
def test_real_files_are_kept_and_force_is_not_advised(tmp_path, name, wanted):
    (tmp_path / name).write_bytes(b'precious')
    with pytest.raises(OSError) as error:
        make_data(tmp_path, 0, force=False)
    data_files.check_message(error.value, name, wanted)
    assert '--force' not in str(error.value), f'{error.value}: it advises to lose a real file'
    assert read_folder(tmp_path) == {name: b'precious'}
    assert set(make_data(tmp_path, 0)) == {name} | set(MADE), 'force does not help'
