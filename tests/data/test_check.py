"""data/check.py: each fault of a CSV file gets its line and the right remedy; good files pass."""
import os
import subprocess
import sys

import numpy as np
import pytest

import data_files
import check
import network

rng = np.random.default_rng(4)
VALUES = rng.integers(0, 256, (94, 785))
VALUES[:, 0] = rng.permutation(94) % 47
VALUES[:, -1] = 0                           # a pixel in the corner is paper


def text_of(values, separator=',', end='\n'):
    lines = [separator.join([str(value) for value in row]) for row in values]
    return (end.join(lines) + end).encode()


def with_field(line, field, text):
    """The good train.csv with another text in one field; line and field count from 1."""
    lines = text_of(VALUES).split(b'\n')
    fields = lines[line - 1].split(b',')
    fields[field - 1] = text
    lines[line - 1] = b','.join(fields)
    return b'\n'.join(lines)


def names(form, count=785, first=0):
    return ','.join([form.format(first + index) for index in range(count)]).encode() + b'\n'


TRAIN = text_of(VALUES)
TEST = text_of(VALUES[:, 1:])
INDEXED = text_of(np.c_[np.arange(94), VALUES])
SCALED = text_of(np.char.mod('%.18e', VALUES / 255))       # as np.savetxt writes it
# (content of train.csv, what the message says)
TRAIN_FAULTS = [
    (b'', 'empty|download'), (b'\n\r\n \n', 'empty|download'), (b'PK\x03\x04', '(zip)|unpack'),
    (b'\x1f\x8b\x08', '(gzip)|unpack'), (b'BZh9', '(bzip2)|unpack'),
    (b'\xfd7zXZ\x00', '(xz)|unpack'), (b'7z\xbc\xaf', '(7z)|unpack'), (b'Rar!', '(rar)|unpack'),
    (b'PK\x03\x04[Content_Types].xml', 'Excel|as CSV'), (b'\n <!DOCTYPE>', 'web page|sign in'),
    (text_of(VALUES, ';'), 'semicolons|comma'), (text_of(VALUES, '\t'), 'tabs|comma'),
    (TRAIN.decode().encode('utf-16'), 'UTF-16|UTF-8'),
    (TRAIN.decode().encode('utf-16-le'), 'UTF-16|UTF-8'),
    (text_of(VALUES, end='\r'), 'old Mac|line ends'),
    (with_field(3, 5, b'0.5'), "line 3:|field 5 is '0.5'|multiply by 255"),
    (SCALED, 'line 1:|multiply by 255'),
    (text_of(np.char.mod('%.18e', VALUES)), "line 1:|fmt='%d'"),
    (with_field(2, 7, b'3.0'), "line 2:|'3.0'|fmt='%d'"),
    (with_field(2, 7, b'256'), "line 2:|field 7 is '256'|not the data"),
    (with_field(2, 7, b'-1'), "line 2:|field 7 is '-1'|not the data"),
    (with_field(9, 3, b''), "line 9:|field 3 is ''|again"),
    (with_field(9, 3, b' 12'), 'line 9:|delete the blanks'),
    (with_field(1, 2, b'"12"'), 'line 1:|delete the quote marks'),
    (with_field(5, 2, b'\xe9'), "line 5:|field 2 is '\\xe9'|again"),
    (with_field(7, 4, b'\0\0'), 'line 7:|NUL|download'),
    (names('pixel{}') + TRAIN, 'line 1 is a header|delete'),
    (names('{}') + TRAIN, 'line 1 is a header|delete'),
    (names('"{}"', first=1) + TRAIN, 'line 1 is a header|delete'),
    (b'label,' + names('{}', 784) + TRAIN, 'line 1 is a header|delete'),
    (b',' + names('{}') + INDEXED, 'header and|first column|index=False'),
    (INDEXED, 'first column counts|delete'),
    (TRAIN.replace(b'\n', b',\n'), 'delete the last comma'),
    (TEST, '784 numbers|label column|swapped'),
    (TRAIN + b'1,2,3\n', 'line 95:|3 numbers, expected 785'),
    (b'0,' * 40000, 'line 1:|a line end is missing'),
    (TRAIN[:-900], 'line 94:|breaks off|download'),
    (with_field(4, 1, b'q'), 'line 4:|letter q|0..46'),
    (text_of(VALUES + np.eye(1, 785, dtype=int)), '1..47|subtract 1'),
    (text_of(np.c_[np.arange(94) % 47 * 2, VALUES[:, 1:]]), 'line 47:|label is 92|0..46'),
    (text_of(np.c_[np.arange(94) % 10, VALUES[:, 1:]]), '37 of the 47 classes|label 10'),
    (text_of(np.c_[1 + np.arange(94) % 26, VALUES[:, 1:]]), '21 of the 47 classes|label 0'),
    (text_of(np.roll(VALUES, -1, axis=1) * (np.arange(785) > 27)), 'last column|move'),
]
TEST_FAULTS = [
    (b'version https://git-lfs.github.com/spec/v1\nsize 5\n', 'LFS|git lfs pull'),
    (text_of(VALUES[:, 1:], ' '), 'blanks|comma'), (TRAIN, '785 numbers|label column|swapped'),
    (text_of(np.c_[np.arange(1, 95), VALUES[:, 1:]]), 'first column counts|delete')]


def run(arguments, capsys):
    """The exit code and the lines that were printed on stdout."""
    code = check.main([str(argument) for argument in arguments])
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize('content, wanted', TRAIN_FAULTS + TEST_FAULTS)
def test_a_fault_is_named_with_its_remedy(tmp_path, capsys, content, wanted):
    path = tmp_path / ('test.csv' if (content, wanted) in TEST_FAULTS else 'train.csv')
    path.write_bytes(content)
    code, [message] = run([path], capsys)
    data_files.check_message(message, f'{path.name}: ', *wanted.split('|'))
    assert code == 1


@pytest.mark.parametrize('content', [
    TRAIN, text_of(VALUES, end='\r\n'), TRAIN[:-1], b'\xef\xbb\xbf' + TRAIN,
    b'\n' + TRAIN + b'\r\n\n', with_field(3, 5, b'%03d' % VALUES[2, 4])])
def test_harmless_variants_pass_here_and_are_read(tmp_path, capsys, content):
    path = tmp_path / 'train.csv'
    path.write_bytes(content)
    code, [message] = run([path], capsys)
    data_files.check_message(message, '94 rows of 785', '47 classes')
    assert code == 0
    pixels, label = network.read_train(str(path))
    np.testing.assert_array_equal(np.column_stack([label, pixels]), VALUES)


def test_the_name_says_which_columns_a_file_must_have(tmp_path, capsys, monkeypatch):
    contents = {'test.csv': TEST, 'train.csv': TRAIN, 'other.csv': TRAIN, 'another.csv': TEST,
                'test_labels.csv': text_of(VALUES[:, :1])}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    code, lines = run([tmp_path / name for name in list(contents) + ['none.csv']], capsys)
    assert code == 1 and len(lines) == 6
    for line, name, columns in zip(lines, contents, (784, 785, 785, 784, 1)):
        data_files.check_message(line, f'{name}: 94 rows of {columns} integers')
    data_files.check_message(lines[5], 'none.csv: it is missing', 'prepare.py')
    monkeypatch.setattr(check, '__file__', str(tmp_path / 'check.py'))
    code, lines = run([], capsys)
    assert (code, [line.split(':')[0] for line in lines]) == (0, ['train.csv', 'test.csv'])


def test_the_script_runs_where_only_ascii_can_be_shown(tmp_path):
    path = tmp_path / 'train-\xe4.csv'
    path.write_bytes(with_field(5, 2, b'\xe9'))
    process = subprocess.Popen([sys.executable, check.__file__, str(path)], stdout=subprocess.PIPE,
                               env=dict(os.environ, PYTHONIOENCODING='ascii:strict'))
    output = process.communicate()[0].decode('ascii')
    assert process.returncode == 1 and check.main(['--help']) == 0 and check.main(['--fix']) == 2
    data_files.check_message(output, 'train-\\xe4.csv: line 5: ', "'\\xe9'")


# The competition's files are there, but packed or under other names -------------------------------

def make_files(folder, files):
    for name in files.split('|'):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')


@pytest.mark.parametrize('files, missing, remedy', [     # the first file is the one to be named
    ('dlad-lab1.zip', 'train.csv', 'unpack'), ('lab.tar.gz', 'train.csv', 'unpack'),
    ('train.csv.zip|test.csv', 'train.csv', 'unpack'),
    ('test.csv.gz|train.csv', 'test.csv', 'unpack'),
    ('dlad-lab1/train.csv|dlad-lab1.zip', 'train.csv', 'move'),
    ('train.csv/train.csv|train.csv.zip|test.csv', 'train.csv', 'move'),
    ('train (1).csv|test.csv', 'train.csv', 'rename'),
    ('Test - Copy.CSV.txt|train.csv', 'test.csv', 'rename')])
def test_misplaced_files_are_named_with_what_to_do(tmp_path, capsys, files, missing, remedy):
    folder = tmp_path / '[my] data'
    make_files(folder, files)
    wanted = (missing, os.path.join(str(folder), *files.split('|')[0].split('/')), remedy)
    with pytest.raises(FileNotFoundError) as error:
        check.refuse_misplaced(str(folder))
    data_files.check_message(error.value, *wanted)
    code, [message] = run([folder / missing], capsys)
    data_files.check_message(message, *wanted)
    assert code == 1


@pytest.mark.parametrize('files', [
    'train.csv|test.csv|all.zip|train (1).csv|old/train.csv', 'old/a.zip|old/test_labels.csv',
    'emnist-balanced-train-images-idx3-ubyte.gz|test_labels.csv|trainer.csv|my-train.csv|train.py',
    'train.csv.4711.part|train.zip.part|train.csv.crdownload'])
def test_other_files_are_not_taken_for_the_competitions(tmp_path, files):
    make_files(tmp_path, files)
    check.refuse_misplaced(str(tmp_path))
