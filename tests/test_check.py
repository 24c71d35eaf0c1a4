"""data/check.py: each fault of a CSV file gets its line and the right remedy; good files pass."""
import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile

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


def zipped(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, TRAIN)
    return file.getvalue()


def names_line(quote=''):
    return ','.join([f'{quote}pixel{index}{quote}' for index in range(785)]).encode() + b'\n'


def numbers_line(count, first=0):
    return ','.join([str(first + index) for index in range(count)]).encode() + b'\n'


def with_index(values, first=0):
    return np.column_stack([np.arange(first, first + len(values)), values])


def labelled_from(labels):
    values = VALUES.copy()
    values[:, 0] = labels
    return text_of(values)


def saved(values):
    file = io.BytesIO()
    np.savetxt(file, values, delimiter=',')
    return file.getvalue()


TRAIN = text_of(VALUES)
TEST = text_of(VALUES[:, 1:])
FAULTS = {
    'empty': ('train.csv', b'', ['is empty', 'download']),
    'blank lines only': ('train.csv', b'\n\r\n \n', ['is empty', 'download']),
    'zip': ('train.csv', zipped('train.csv'), ['packed (zip)', 'unpack']),
    'gzip': ('train.csv', gzip.compress(TRAIN), ['packed (gzip)', 'unpack']),
    'bz2': ('train.csv', bz2.compress(TRAIN), ['packed (bzip2)', 'unpack']),
    'xz': ('train.csv', lzma.compress(TRAIN), ['packed (xz)', 'unpack']),
    'Excel': ('train.csv', zipped('[Content_Types].xml'), ['Excel', 'save the table as CSV']),
    'HTML': ('train.csv', b'\n <!DOCTYPE html><html>Sign in</html>\n', ['web page', 'sign in']),
    'Git LFS': ('test.csv', b'version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n',
                ['Git LFS pointer', 'git lfs pull']),
    'semicolons': ('train.csv', text_of(VALUES, ';'), ['semicolons', 'replace each by a comma']),
    'tabs': ('train.csv', text_of(VALUES, '\t'), ['tabs', 'replace each by a comma']),
    'blanks': ('test.csv', text_of(VALUES[:, 1:], ' '), ['blanks', 'replace each by a comma']),
    'UTF-16': ('train.csv', TRAIN.decode().encode('utf-16'), ['UTF-16', 'UTF-8']),
    'UTF-16 without a mark': ('train.csv', TRAIN.decode().encode('utf-16-le'), ['UTF-16', 'UTF-8']),
    'old Mac': ('train.csv', text_of(VALUES, end='\r'), ['old Mac', 'line ends']),
    'scaled': ('train.csv', with_field(3, 5, b'0.5'),
               ['line 3:', "field 5 is '0.5'", 'multiply by 255']),
    'scaled, small': ('train.csv', with_field(3, 5, b'1.2e-3'), ['line 3:', 'multiply by 255']),
    'decimal points': ('train.csv', with_field(2, 7, b'3.0'), ['line 2:', "'3.0'", "fmt='%d'"]),
    'np.savetxt': ('train.csv', saved(VALUES), ['line 1:', "fmt='%d'"]),
    'np.savetxt, scaled': ('train.csv', saved(VALUES / 255), ['line 1:', 'multiply by 255']),
    'too large': ('train.csv', with_field(2, 7, b'300'), ['line 2:', "field 7 is '300'", '0..255']),
    'negative': ('train.csv', with_field(2, 7, b'-1'), ['line 2:', "field 7 is '-1'", '0..255']),
    'blank field': ('train.csv', with_field(9, 3, b''), ['line 9:', "field 3 is ''"]),
    'NaN': ('train.csv', with_field(9, 3, b'nan'), ['line 9:', "field 3 is 'nan'"]),
    'blank in a number': ('train.csv', with_field(9, 3, b' 12'), ['line 9:', 'delete the blanks']),
    'quotes': ('train.csv', with_field(1, 2, b'"12"'), ['line 1:', 'delete the quote marks']),
    'not ASCII': ('train.csv', with_field(5, 2, b'\xe9'), ['line 5:', "field 2 is '\\xe9'"]),
    'NUL bytes': ('train.csv', with_field(7, 4, b'\0\0'), ['line 7:', 'NUL', 'download']),
    'header of names': ('train.csv', names_line() + TRAIN, ['line 1', 'header', 'delete']),
    'header 1x1': ('train.csv', b'label' + b',1x1' * 784 + b'\n' + TRAIN, ['header', 'delete']),
    'header in quotes': ('train.csv', names_line('"') + TRAIN, ['line 1', 'header', 'delete']),
    'header 0, 1, 2': ('train.csv', numbers_line(785) + TRAIN, ['line 1', 'header', 'delete']),
    'header 1, 2, 3': ('train.csv', numbers_line(785, 1) + TRAIN, ['line 1', 'header', 'delete']),
    'header label, 0': ('train.csv', b'label,' + numbers_line(784) + TRAIN, ['line 1', 'header']),
    'header of test.csv': ('test.csv', numbers_line(784) + TEST, ['line 1', 'header', 'delete']),
    'header and index': ('train.csv', b',' + numbers_line(785) + text_of(with_index(VALUES)),
                         ['header', 'first column', 'index=False', 'header=False']),
    'index': ('train.csv', text_of(with_index(VALUES)), ['first column counts', 'index=False']),
    'index of test.csv': ('test.csv', text_of(with_index(VALUES[:, 1:], 1)),
                          ['first column counts', 'delete this column']),
    'last comma': ('train.csv', TRAIN.replace(b'\n', b',\n'), ['comma', 'delete the last comma']),
    'test.csv with labels': ('test.csv', TRAIN, ['785 numbers', 'label column', 'swapped']),
    'train.csv without': ('train.csv', TEST, ['784 numbers', 'label column', 'swapped']),
    'short line': ('train.csv', TRAIN + b'1,2,3\n', ['line 95:', '3 numbers, expected 785']),
    'long line': ('train.csv', TRAIN + TRAIN[:TRAIN.index(b'\n')] + b',' + TRAIN, ['line 95:']),
    'no line ends': ('train.csv', b'0,' * 40000, ['line 1:', 'a line end is missing']),
    'breaks off': ('train.csv', TRAIN[:-900], ['line 94:', 'breaks off', 'download']),
    'breaks off at a comma': ('train.csv', TRAIN + b'1,2,', ['line 95:', 'breaks off']),
    'letters': ('train.csv', with_field(4, 1, b'q'), ['line 4:', 'letter q', '0..46']),
    'labels from 1': ('train.csv', labelled_from(VALUES[:, 0] + 1), ['1..47', 'subtract 1']),
    'labels of 62 classes': ('train.csv', labelled_from(np.arange(94) % 62),
                             ['line 62:', 'the label is 61', '0..46']),
    'digits only': ('train.csv', labelled_from(np.arange(94) % 10),
                    ['37 of the 47 classes', 'label 10', 'another data set']),
    'letters only': ('train.csv', labelled_from(1 + np.arange(94) % 26), ['21 of the 47 classes']),
    'labels last': ('train.csv', text_of(np.roll(VALUES, -1, axis=1) * (np.arange(785) > 27)),
                    ['last column', 'move this column']),
}
HARMLESS = {
    'good': TRAIN, 'Windows': text_of(VALUES, end='\r\n'), 'no last line end': TRAIN[:-1],
    'byte order mark': b'\xef\xbb\xbf' + TRAIN, 'blank lines': b'\n' + TRAIN + b'\r\n\n',
    'blank at the ends': b' ' + TRAIN.replace(b'\n', b' \n'), 'zeros': with_field(3, 5, b'007')}


@pytest.mark.parametrize('fault', sorted(FAULTS))
def test_a_fault_is_named_with_its_remedy(tmp_path, capsys, fault):
    name, content, wanted = FAULTS[fault]
    (tmp_path / name).write_bytes(content)
    code = check.main([str(tmp_path / name)])
    message = capsys.readouterr().out
    assert code == 1, f'{fault}: got exit code {code}, expected 1; {message}'
    data_files.check_message(message, f'{name}: ', *wanted)


@pytest.mark.parametrize('fault', sorted(FAULTS))
def test_what_is_a_fault_here_is_not_read_in_silence(tmp_path, fault):
    name, content, _ = FAULTS[fault]
    path = tmp_path / name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises((ValueError, UserWarning)) as error:
            if name == 'train.csv':
                network.read_train(str(path))
            else:
                network.read_csv(str(path), 784)
    data_files.check_message(str(error.value), name)


@pytest.mark.parametrize('variant', sorted(HARMLESS))
def test_harmless_variants_pass_here_and_are_read(tmp_path, capsys, variant):
    path = tmp_path / 'train.csv'
    path.write_bytes(HARMLESS[variant])
    code = check.main([str(path)])
    message = capsys.readouterr().out
    assert code == 0, f'{variant}: got exit code {code}, expected 0; {message}'
    assert message == 'train.csv: 94 rows of 785 integers, labels 0..46, 47 classes\n', message
    rows = network.read_csv(str(path), 785)
    assert rows.shape == (94, 785), f'{variant}: read_csv gave the shape {rows.shape}'


def test_several_files_and_a_missing_one(tmp_path, capsys):
    (tmp_path / 'test.csv').write_bytes(TEST)
    (tmp_path / 'other.csv').write_bytes(TRAIN)
    (tmp_path / 'test_labels.csv').write_bytes(text_of(VALUES[:, :1]))
    names = ('test.csv', 'other.csv', 'train.csv', 'test_labels.csv')
    code = check.main([str(tmp_path / name) for name in names])
    lines = capsys.readouterr().out.splitlines()
    assert code == 1 and len(lines) == 4, f'got exit code {code} and {lines}, expected 1, 4 lines'
    assert lines[0] == 'test.csv: 94 rows of 784 integers', lines[0]
    assert lines[1].startswith('other.csv: 94 rows of 785'), lines[1]
    assert lines[2].startswith('train.csv: it is missing'), lines[2]
    assert lines[3].startswith('test_labels.csv: 94 rows of 1 integers, labels 0..46'), lines[3]


def test_without_arguments_the_files_beside_the_script_are_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check, '__file__', str(tmp_path / 'check.py'))
    (tmp_path / 'train.csv').write_bytes(TRAIN)
    (tmp_path / 'test.csv').write_bytes(TEST)
    assert check.main([]) == 0, 'expected exit code 0'
    got = [line.split(':')[0] for line in capsys.readouterr().out.splitlines()]
    assert got == ['train.csv', 'test.csv'], f'got lines about {got}'


def test_help_and_wrong_usage(capsys):
    for arguments, expected in ((['--help'], 0), (['--fix'], 2)):
        code = check.main(arguments)
        assert code == expected, f'{arguments}: got exit code {code}, expected {expected}'
        assert 'python check.py FILE' in capsys.readouterr().err, f'{arguments}: no usage was shown'


@pytest.mark.parametrize('end', ['\r', '\n', '; '])
def test_large_files_are_checked_quickly_in_little_memory(tmp_path, capsys, end):
    path = tmp_path / 'train.csv'
    path.write_bytes(text_of(VALUES, end=end) * 20)
    tracemalloc.start()
    check.main([str(path)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6, f'{peak / 1e6:.1f} MB for a file of {path.stat().st_size / 1e6:.1f} MB'
    started = time.process_time()
    check.main([str(path)])
    seconds = time.process_time() - started
    assert seconds < 1, f'1,880 lines took {seconds:.2f} s of processor time, expected about 0.05'


def test_the_script_runs_where_only_ascii_can_be_shown(tmp_path):
    path = tmp_path / 'train-\xe4.csv'
    path.write_bytes(with_field(5, 2, b'\xe9'))
    environment = dict(os.environ, PYTHONIOENCODING='ascii:strict')
    script = os.path.join(data_files.DATA, 'check.py')
    process = subprocess.Popen([sys.executable, script, str(path)], env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    assert process.returncode == 1, f'got exit code {process.returncode}; {errors.decode()}'
    assert b"line 5: field 2 is '\\xe9'" in output, output
