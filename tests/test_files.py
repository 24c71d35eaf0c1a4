"""The lab's files and the weights: what is read, what is refused, and that no file is harmed."""
import errno
import gzip
import io
import os
import re
import tracemalloc
import zipfile

import numpy as np
import pytest

import network
from small_networks import (FEATURES, check_equal, check_refused, differ, make_cnn, make_mlp,
                            make_random, make_rows, read_bytes, write_bytes)

pytestmark = pytest.mark.filterwarnings('error')


# CSV files ----------------------------------------------------------------------------------------

def pixel_rows(rows, columns, seed=0):
    """Rows (N, columns) of numbers of one, two and three digits; the first is a label 0..46."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (rows, columns)) * rng.integers(0, 2, (rows, columns))
    values[:, 0] %= 47
    return values.astype(np.uint8)


def lines_of(values):
    return [','.join(map(str, row)).encode() for row in values.tolist()]


def text_of(lines, end=b'\n'):
    return b''.join(line + end for line in lines)


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('train.csv', content)
    return file.getvalue()


WIDTH = 784
LINES = lines_of(pixel_rows(6, WIDTH))
GOOD = text_of(LINES)
HEADER = b','.join(b'%d' % number for number in range(WIDTH))

# name: (the content of a file, what the message must have)
WHOLE_FILE_FAULTS = {
    'empty': (b'', 'is empty'), 'blank lines only': (b'\n\r\n\n', 'is empty'),
    'byte order mark only': (b'\xef\xbb\xbf', 'is empty'),
    'zip': (zipped(GOOD), 'line 1: got '), 'gzip': (gzip.compress(GOOD), 'line 1: got '),
    'web page': (b'<!DOCTYPE html>\n<html>Sign in</html>\n',
                 "line 1: got 1 numbers, the line starts with '<!DOCTYPE html>'"),
    'bytes': (bytes(range(256)) * 40, 'line 1: got '),
    'UTF-16': (GOOD.decode().encode('utf-16'), 'line 1: got '),
    'semicolons': (GOOD.replace(b',', b';'), 'line 1: got '),
    'tabs': (GOOD.replace(b',', b'\t'), 'line 1: got '),
    'old line ends': (text_of(LINES, b'\r'), 'line 1: got '),
    'one long number': (b'1' * 6000, 'line 1: got 1 numbers'),
    'a column too few': (text_of(lines_of(pixel_rows(6, WIDTH - 1))), 'line 1: got 783 numbers'),
    'a label column': (text_of(lines_of(pixel_rows(6, WIDTH + 1))), 'line 1: got 785 numbers'),
    'commas at the ends': (text_of(LINES, b',\n'), 'line 1: got 785 numbers'),
    'header of names': (b','.join([b'pixel'] * WIDTH) + b'\n' + GOOD, "line 1: got 'pixel'"),
    'header of numbers': (HEADER + b'\n' + GOOD, "line 1: got '256'"),
    'quotes': (GOOD.replace(b',', b'","', 1), 'line 1: got '),
    'spaces': (GOOD.replace(b',', b', '), "line 1: got ' "),
    'cut in the last line': (GOOD[:-900], 'line 6: got '),
    'cut after the first number': (GOOD + b'12', 'line 7: got 1 numbers'),
    'two rows in one line': (GOOD.replace(b'\n', b',', 1), 'line 1: got 1568 numbers'),
    'a row in two lines': (GOOD.replace(b',', b'\n', 1), 'line 1: got 1 numbers'),
    'blank lines before it': (b'\n\n' + GOOD + b'\n7\n', 'line 10: got 1 numbers')}


@pytest.mark.parametrize('fault', sorted(WHOLE_FILE_FAULTS))
@pytest.mark.parametrize('place', ['with check.py', 'alone'])
def test_a_csv_file_that_is_wrong_as_a_whole(tmp_path, monkeypatch, fault, place):
    monkeypatch.chdir(str(tmp_path))
    content, wanted = WHOLE_FILE_FAULTS[fault]
    write_bytes('some.csv', content)
    if place == 'with check.py':
        os.mkdir('data')
        write_bytes('data/check.py', b'')
    remedy = 'copy or download it again'
    if place == 'with check.py' and 'is empty' not in wanted:
        remedy = 'run "python data/check.py some.csv"'
    check_refused(ValueError, lambda: network.read_csv('some.csv', WIDTH), 'some.csv', wanted,
                  '784 integers 0..255', remedy)


# name: a line of 784 numbers -> that line made bad, and what the message must have
ROW_FAULTS = {
    'too long': lambda line: (line + b',7', 'got 785 numbers'),
    'too short': lambda line: (line.rsplit(b',', 1)[0], 'got 783 numbers'),
    'gap': lambda line: (b'1,,' + line.split(b',', 2)[2], "got ''"),
    'gap at the start': lambda line: (b',' + line.split(b',', 1)[1], "got ''"),
    'gap at the end': lambda line: (line.rsplit(b',', 1)[0] + b',', "got ''"),
    '256': lambda line: (line.rsplit(b',', 1)[0] + b',256', "got '256'"),
    '300': lambda line: (b'300,' + line.split(b',', 1)[1], "got '300'"),
    '70000': lambda line: (b'70000,' + line.split(b',', 1)[1], "got '70000'"),
    'twenty-one digits': lambda line: (b'9' * 21 + b',' + line.split(b',', 1)[1],
                                       "got '" + 20 * '9' + "'"),
    '2 to the 64': lambda line: (b'18446744073709551616,' + line.split(b',', 1)[1],
                                 "got '18446744073709551616'"),
    'negative': lambda line: (b'-1,' + line.split(b',', 1)[1], "got '-1'"),
    'float': lambda line: (line.rsplit(b',', 1)[0] + b',1.0', "got '1.0'"),
    'exponent': lambda line: (b'1e1,' + line.split(b',', 1)[1], "got '1e1'"),
    'hexadecimal': lambda line: (b'0x10,' + line.split(b',', 1)[1], "got '0x10'"),
    '5000 digits': lambda line: (b'1' * 5000 + b',' + line.split(b',', 1)[1], "got '111"),
    'nan': lambda line: (b'nan,' + line.split(b',', 1)[1], "got 'nan'"),
    'text': lambda line: (b'1,seven,' + line.split(b',', 2)[2], "got 'seven'"),
    'long text': lambda line: (b'x' * 50 + b',' + line.split(b',', 1)[1], "got '" + 20 * 'x' + "'"),
    'two words': lambda line: (b'1 2,' + line.split(b',', 1)[1], "got '1 2'"),
    'no ASCII': lambda line: (b'\xe9,' + line.split(b',', 1)[1], "got '\\xe9'"),
    'null byte': lambda line: (line + b'\0', "\\x00'")}


@pytest.mark.parametrize('index', [0, 1, 5], ids=['first', 'second', 'last'])
@pytest.mark.parametrize('fault', sorted(ROW_FAULTS))
def test_the_first_bad_line_is_named(tmp_path, fault, index):
    bad, wanted = ROW_FAULTS[fault](LINES[index])
    lines = LINES[:index] + [bad] + LINES[index + 1:]
    path = write_bytes(tmp_path / 'some.csv', text_of(lines))
    check_refused(ValueError, lambda: network.read_csv(path, WIDTH),
                  f'{path}, line {index + 1}: ', wanted, 'expected 784 integers 0..255')


HARMLESS = {
    'as it should be': GOOD, 'Windows line ends': text_of(LINES, b'\r\n'),
    'no last line end': GOOD[:-1], 'Windows, no last line end': text_of(LINES, b'\r\n')[:-2],
    'byte order mark': b'\xef\xbb\xbf' + GOOD, 'blank last lines': GOOD + b'\n\r\n',
    'blank lines between': text_of(LINES[:3] + [b'', b'\r'] + LINES[3:]),
    'spaces at the ends': text_of(b' ' + line + b' \t' for line in LINES),
    'leading zeros': re.sub(br'\b(\d)\b', br'00\1', GOOD)}


@pytest.mark.parametrize('variant', sorted(HARMLESS))
def test_harmless_variants_give_the_same_rows(tmp_path, variant):
    path = write_bytes(tmp_path / 'some.csv', HARMLESS[variant])
    rows = network.read_csv(path, WIDTH)
    assert rows.dtype == np.uint8 and rows.flags.c_contiguous and rows.flags.writeable
    np.testing.assert_array_equal(rows, pixel_rows(6, WIDTH))


def test_a_file_of_one_column(tmp_path):
    path = write_bytes(tmp_path / 'labels.csv', b'3\n46\n0\n')
    assert network.read_csv(path, 1).tolist() == [[3], [46], [0]]


def judge(content, columns):
    """The rows of a CSV file, number by number, or the number of its first bad line.

    None if there are no rows.
    """
    rows = []
    for number, line in enumerate(content.split(b'\n'), 1):
        line = line.strip(b'\xef\xbb\xbf \t\r\n')
        if line:
            fields = line.split(b',')
            if len(fields) != columns or not all(re.match(br'\d+\Z', one) for one in fields):
                return number
            row = [int(field) for field in fields]
            if max(row) > 255:
                return number
            rows.append(row)
    return rows or None


def mutate(content, rng):
    """Replace, lose, add, double or move bytes, once or twice."""
    for _ in range(rng.integers(1, 3)):
        start, stop = sorted(rng.integers(0, len(content) + 1, 2))
        common = rng.choice(list(b'0123456789,,,\n\n\r" -.'))
        piece = bytes([rng.choice([rng.integers(256), common])])
        before, after = content[:start], content[start:]
        digits = re.sub(br'\d', b'%d' % rng.integers(10), content, count=stop)
        choices = [before + piece + after[1:], before + piece + after, before + after[1:], before,
                   after, content[:stop] + after, before + content[stop:], digits]
        content = choices[rng.integers(len(choices))]
    return content


@pytest.mark.parametrize('seed', range(40))
def test_mutated_files_are_read_right_or_refused_at_the_right_line(tmp_path, seed):
    rng = np.random.default_rng(seed)
    good = text_of(lines_of(pixel_rows(8, 5, seed)), [b'\n', b'\r\n'][seed % 2])
    outcomes = set()
    for content in [good] + [mutate(good, rng) for _ in range(30)]:
        path = write_bytes(tmp_path / 'some.csv', content)
        expected = judge(content, 5)
        outcomes.add(type(expected))
        if isinstance(expected, list):
            assert network.read_csv(path, 5).tolist() == expected, content
        else:
            wanted = 'is empty' if expected is None else f', line {expected}: '
            check_refused(ValueError, lambda: network.read_csv(path, 5), path, wanted)
    assert outcomes >= {list, int}, f'expected good files and bad ones, got {outcomes}'


@pytest.mark.parametrize('end', [b'\n', b'\r\n', b'\r'], ids=['Unix', 'Windows', 'one line'])
def test_reading_takes_little_memory(tmp_path, end):
    path = write_bytes(tmp_path / 'train.csv', text_of(LINES, end) * 400)
    tracemalloc.start()
    try:
        size = network.read_csv(path, WIDTH).nbytes
    except ValueError:
        size = os.path.getsize(path)      # one line, without line ends: it is all in memory
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * size + 1e6, f'{peak / 1e6:.1f} MB at most, for {size / 1e6:.1f} MB'


@pytest.mark.parametrize('place', ['with prepare.py', 'alone'])
def test_a_missing_csv_file_and_a_folder_in_its_place(tmp_path, monkeypatch, place):
    monkeypatch.chdir(str(tmp_path))
    os.mkdir('data')
    if place == 'with prepare.py':
        write_bytes('data/prepare.py', b'')
    for read in (network.read_train, lambda path: network.read_csv(path, 784)):
        text = check_refused(FileNotFoundError, lambda: read('data/train.csv'),
                             'data/train.csv is missing: copy it there')
        assert ('or make it with data/prepare.py' in text) == (place == 'with prepare.py')
        check_refused(OSError, lambda: read('data'), 'data')


# The training file --------------------------------------------------------------------------------

def train_file(folder, labels, label_column=0):
    """A training file with these labels -> its path."""
    pixels = pixel_rows(len(labels), 785)[:, 1:].astype(int)
    rows = np.insert(pixels, label_column, labels, axis=1)
    return write_bytes(folder / 'train.csv', text_of(lines_of(rows)))


ALL_LABELS = np.arange(94) % 47


def test_read_train_gives_pixels_and_labels(tmp_path):
    pixels, label = network.read_train(train_file(tmp_path, ALL_LABELS))
    assert pixels.dtype == np.uint8 and label.dtype == int
    np.testing.assert_array_equal(pixels, pixel_rows(94, 785)[:, 1:])
    np.testing.assert_array_equal(label, ALL_LABELS)


LABEL_FAULTS = {
    '47': (np.where(np.arange(94) == 60, 47, ALL_LABELS), ['row 61 has the label 47', 'the data']),
    '255': (np.where(np.arange(94) == 93, 255, ALL_LABELS), ['row 94 has the label 255']),
    'counted from 1': (ALL_LABELS + 1, ['row 47 has the label 47', 'subtract 1 from each']),
    'of 62 classes': (np.arange(94) % 62, ['row 48 has the label 47', 'expected 0..46']),
    '-1': (np.where(np.arange(94) == 5, -1, ALL_LABELS), ["line 6: got '-1'"]),
    '1000': (np.where(np.arange(94) == 5, 1000, ALL_LABELS), ["line 6: got '1000'"])}


@pytest.mark.parametrize('fault', sorted(LABEL_FAULTS))
def test_labels_are_checked_where_they_are_read(tmp_path, fault):
    labels, wanted = LABEL_FAULTS[fault]
    path = train_file(tmp_path, labels)
    check_refused(ValueError, lambda: network.read_train(path), path, *wanted)


def test_a_label_column_at_the_end_is_refused(tmp_path):
    labels = np.arange(94) % 47
    rows = np.column_stack([np.zeros((94, 8), int), pixel_rows(94, 776), labels])
    path = write_bytes(tmp_path / 'train.csv', text_of(lines_of(rows)))
    check_refused(ValueError, lambda: network.read_train(path), path, 'last column',
                  'move that column to the front')


def test_an_image_that_ends_in_few_different_pixels_is_read(tmp_path):
    rows = np.column_stack([ALL_LABELS, pixel_rows(94, 784)])
    rows[:, -1] = np.arange(94) % 5
    path = write_bytes(tmp_path / 'train.csv', text_of(lines_of(rows)))
    np.testing.assert_array_equal(network.read_train(path)[1], ALL_LABELS)


@pytest.mark.parametrize('labels, wanted', [
    (1 + np.arange(94) % 26, f'21 of the 47 classes, the labels {[0, *range(27, 47)]}'),
    (np.arange(94) % 10, f'37 of the 47 classes, the labels {list(range(10, 47))}'),
    (np.arange(46), '1 of the 47 classes, the labels [46]'),
    (np.arange(42), '5 of the 47 classes, the labels [42, 43, 44, 45, 46]')],
    ids=['letters', 'digits', 'one', 'five'])
def test_a_class_without_rows_is_told(tmp_path, labels, wanted):
    path = train_file(tmp_path, labels)
    with pytest.warns(UserWarning) as caught:
        network.read_train(path)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1 and wanted in messages[0] and path in messages[0], messages
    assert caught[0].filename == __file__, 'the warning must name the line that reads the file'
    check_refused(ValueError, lambda: network.refuse_missing_classes(labels, path), path, wanted)


def test_labels_of_all_classes_are_not_refused():
    network.refuse_missing_classes(np.arange(47), 'train.csv')


# The submission -----------------------------------------------------------------------------------

@pytest.mark.parametrize('dtype', [int, np.uint8, float])
def test_write_submission_writes_exactly_these_bytes(tmp_path, dtype):
    network.write_submission(str(tmp_path / 'submission.csv'), np.array([3, 46, 0], dtype))
    assert read_bytes(tmp_path / 'submission.csv') == b'Id,Category\n0,3\n1,46\n2,0\n'
    assert os.listdir(str(tmp_path)) == ['submission.csv']


@pytest.mark.parametrize('predicted', [
    [0, 47], [-1, 0], [0.5, 1], [np.nan, 1], [np.inf, 1], ['A', '7'], [None, 1], 3,
    [[1, 2], [3, 4]], np.eye(2)], ids=lambda value: ' '.join(str(value).split()))
def test_predictions_that_are_no_labels_are_not_written(tmp_path, predicted):
    path = write_bytes(tmp_path / 'submission.csv', b'the old file')
    check_refused(ValueError, lambda: network.write_submission(path, predicted), path,
                  'was not written', 'labels 0..46', 'argmax')
    check_only(path, b'the old file')


# Weights ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('dtype', [None, np.float16, np.float64])
def test_save_and_load(tmp_path, dtype):
    path, again = str(tmp_path / 'net.npz'), str(tmp_path / 'again.npz')
    net, loaded = make_random(), make_random(seed=1)
    rows, label = make_rows(20)
    net.forward(rows, label)
    net.save(path, dtype)
    net.save(again, dtype)
    loaded.load(path)
    assert read_bytes(path) == read_bytes(again)
    with np.load(path) as file:
        assert {array.dtype for array in file.values()} == {np.dtype(dtype or np.float32)}
    for name, array in net.arrays().items():
        expected = array.astype(dtype or np.float32).astype(np.float32)
        assert loaded.arrays()[name].dtype == np.float32
        np.testing.assert_array_equal(loaded.arrays()[name], expected, name)
    if dtype is not np.float16:
        np.testing.assert_array_equal(net.predict(rows), loaded.predict(rows))


def test_npz_files_of_other_arrays(tmp_path):
    path = str(tmp_path / 'some.npz')
    arrays = {'a': np.arange(6).reshape(2, 3), 'b c': np.array('text'), 'd': np.zeros(0)}
    network.write_npz(path, arrays)
    got = network.read_npz(path)
    check_equal(got, arrays)
    assert got['a'].dtype == arrays['a'].dtype and str(got['b c']) == 'text'


def load_other(content, path):
    """Load the content into another network, which must stay as it is where the file is refused.

    Returns the arrays of the network.
    """
    net = make_random(seed=1)
    before = net.copy_arrays()
    write_bytes(path, content)
    try:
        net.load(str(path))
    except Exception:
        check_equal(net.arrays(), before, 'the file was refused, but the network changed')
        if read_bytes(path) != content:
            raise AssertionError('the file was refused, but it changed')
        raise
    return net.arrays()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """The content of a good file, and the arrays in it."""
    path = tmp_path_factory.mktemp('saved') / 'file.npz'
    net = make_random()
    net.forward(*make_rows(20))
    net.save(str(path))
    return read_bytes(path), net.copy_arrays()


@pytest.mark.parametrize('part', range(20))
def test_a_truncated_file_is_refused(tmp_path, saved, part):
    length = len(saved[0]) * part // 20 if part else len(saved[0]) - 1
    check_refused(ValueError, lambda: load_other(saved[0][:length], tmp_path / 'file.npz'),
                  'file.npz is not a whole .npz file')


@pytest.mark.parametrize('content', [b'', b'\x00garbage' * 99, b'<html>', GOOD, zipped(GOOD)],
                         ids=['empty', 'garbage', 'web page', 'CSV', 'another zip'])
def test_another_file_is_refused(tmp_path, content):
    check_refused(ValueError, lambda: load_other(content, tmp_path / 'file.npz'), 'file.npz')


@pytest.mark.parametrize('seed', range(20))
def test_a_changed_byte_is_noticed_or_does_not_matter(tmp_path, saved, seed):
    content, expected = saved
    rng = np.random.default_rng(seed)
    for _ in range(10):
        place, bits = rng.integers(len(content)), rng.integers(1, 256)
        damaged = content[:place] + bytes([content[place] ^ bits]) + content[place + 1:]
        try:
            got = load_other(damaged, tmp_path / 'file.npz')
        except ValueError:
            check_refused(ValueError, lambda: load_other(damaged, tmp_path / 'file.npz'),
                          'file.npz')
        else:
            check_equal(got, expected, f'byte {place} changed by {bits}')


def test_a_changed_number_is_noticed(tmp_path, saved):
    content = saved[0]
    starts = [match.start() for match in re.finditer(b'\x93NUMPY', content)]
    assert len(starts) == len(saved[1])
    for start in starts:
        place = start + 128 + 2      # behind the header of 128 bytes
        damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]
        check_refused(ValueError, lambda: load_other(damaged, tmp_path / 'file.npz'), 'file.npz')


def test_a_header_that_claims_fewer_numbers_is_noticed(tmp_path, saved):
    """NumPy alone reads the first numbers of the array, and does not compare the checksum."""
    content = saved[0]
    place = content.index(b'(1, 16)') + 5
    damaged = content[:place] + b'1' + content[place + 1:]
    check_refused(ValueError, lambda: load_other(damaged, tmp_path / 'file.npz'), 'file.npz')


class Executed(object):
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


WEIGHT = '0.FullyConnected.weight'
CHANGES = {'missing': lambda array: None, 'transposed': lambda array: array.T,
           'longer': lambda array: np.vstack([array, array]),
           'scalar': lambda array: np.float32(1), 'integers': lambda array: array.astype(int),
           'complex': lambda array: array.astype(complex),
           'text': lambda array: array.astype(str),
           'records': lambda array: np.zeros(array.shape, [('a', 'f4')])}


def packed(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize('change', sorted(CHANGES))
def test_an_array_that_does_not_fit_is_refused(tmp_path, saved, change):
    arrays = dict(saved[1])
    array = CHANGES[change](arrays.pop(WEIGHT))
    if array is not None:
        arrays[WEIGHT] = array
    check_refused(ValueError, lambda: load_other(packed(arrays), tmp_path / 'file.npz'),
                  'file.npz', WEIGHT)


def test_the_last_array_that_does_not_fit_leaves_the_first_as_they_were(tmp_path, saved):
    arrays = dict(saved[1], **{'4.BatchNorm.running_var': np.ones((1, 4))})
    check_refused(ValueError, lambda: load_other(packed(arrays), tmp_path / 'file.npz'),
                  'file.npz', '4.BatchNorm.running_var', '(1, 4)', 'expected floats (1, 3)')


def test_an_array_too_many_and_another_network_are_refused(tmp_path, saved):
    arrays = dict(saved[1], more=np.zeros(3))
    check_refused(ValueError, lambda: load_other(packed(arrays), tmp_path / 'file.npz'),
                  'file.npz is of another network', "0 arrays are missing", "['more']")
    others = make_cnn().arrays()
    check_refused(ValueError, lambda: load_other(packed(others), tmp_path / 'file.npz'),
                  'file.npz is of another network')


def test_a_plain_array_and_a_missing_file_are_refused(tmp_path):
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    check_refused(ValueError, lambda: load_other(file.getvalue(), tmp_path / 'file.npz'),
                  'file.npz')
    net = make_mlp()
    check_refused(FileNotFoundError, lambda: net.load(str(tmp_path / 'nowhere.npz')), 'nowhere.npz')


@pytest.mark.parametrize('place', [WEIGHT, '4.BatchNorm.bias', 'more'])
def test_pickled_objects_are_refused_unopened(tmp_path, saved, place):
    trap = str(tmp_path / 'executed')
    content = packed(dict(saved[1], **{place: np.array([Executed(trap)], object)}))
    text = check_refused(ValueError, lambda: load_other(content, tmp_path / 'file.npz'),
                         'file.npz')
    assert not os.path.exists(trap), 'the pickled object was executed'
    assert 'allow_pickle=True' not in text, f'the message says to trust the file: {text!r}'


# Disks that are full or closed --------------------------------------------------------------------

WRITERS = {'weights': lambda path: make_mlp().save(path),
           'submission': lambda path: network.write_submission(path, [1, 2] * 999)}
every_writer = pytest.mark.parametrize('writer', sorted(WRITERS))


def failing(code):
    """A function that fails as the system does."""
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))
    return fail


def check_only(path, content):
    """AssertionError unless the file has this content and is the only one in its folder."""
    got = os.listdir(os.path.dirname(path))
    if got != [os.path.basename(path)]:
        raise AssertionError(f'files in the folder: got {got}, expected the old one alone')
    if read_bytes(path) != content:
        raise AssertionError(f'{path} is not the old file any more')


@every_writer
@pytest.mark.parametrize('place, name', [(os, 'replace'), (os, 'fsync'), (network, 'open')],
                         ids=['replace', 'fsync', 'open'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOENT],
                         ids=errno.errorcode.get)
def test_a_write_that_fails_leaves_the_old_file_and_names_it(tmp_path, monkeypatch, writer, place,
                                                             name, code):
    path = write_bytes(tmp_path / 'file', b'the old file')
    remedy = {errno.EACCES: 'close the program that has it open',
              errno.ENOENT: 'make the folder'}.get(code, 'free space there')
    with monkeypatch.context() as patch:
        patch.setattr(network.time, 'sleep', lambda seconds: None)
        patch.setattr(place, name, failing(code), raising=False)
        check_refused(OSError, lambda: WRITERS[writer](path), path, os.strerror(code),
                      'nothing was written', remedy, 'choose another folder')
    check_only(path, b'the old file')


@every_writer
@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs the device that is always full')
def test_a_disk_that_is_really_full(tmp_path, writer):
    path = write_bytes(tmp_path / 'file', b'the old file')
    os.symlink('/dev/full', f'{path}.{os.getpid()}.part')      # the new file is first written here
    check_refused(OSError, lambda: WRITERS[writer](path), path, os.strerror(errno.ENOSPC))
    check_only(path, b'the old file')


@every_writer
@pytest.mark.parametrize('limit', [0, 1, 100, 500])
def test_a_file_that_may_not_grow(tmp_path, writer, limit):
    resource = pytest.importorskip('resource')
    path = write_bytes(tmp_path / 'file', b'the old file')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        check_refused(OSError, lambda: WRITERS[writer](path), path, os.strerror(errno.EFBIG))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check_only(path, b'the old file')


@every_writer
def test_a_write_into_a_missing_folder_names_it(tmp_path, writer):
    path = str(tmp_path / 'nowhere' / 'file')
    check_refused(OSError, lambda: WRITERS[writer](path), path, 'nothing was written')


@every_writer
def test_ctrl_c_while_writing_leaves_the_old_file(tmp_path, monkeypatch, writer):
    path = write_bytes(tmp_path / 'file', b'the old file')

    def interrupt(*arguments):
        raise KeyboardInterrupt()

    monkeypatch.setattr(os, 'fsync', interrupt)
    with pytest.raises(KeyboardInterrupt):
        WRITERS[writer](path)
    check_only(path, b'the old file')


def replace_that_fails(monkeypatch, times):
    """os.replace refuses so often; the waits take no time. Returns the list of the waits."""
    waits, calls, replace = [], [], os.replace

    def fail_first(source, target):
        calls.append(target)
        if len(calls) <= times:
            raise PermissionError(errno.EACCES, 'Permission denied', source)
        replace(source, target)

    monkeypatch.setattr(os, 'replace', fail_first)
    monkeypatch.setattr(network.time, 'sleep', waits.append)
    return waits


@every_writer
@pytest.mark.parametrize('times', [1, 20])
def test_a_lock_that_passes_is_waited_for(tmp_path, monkeypatch, writer, times):
    path = write_bytes(tmp_path / 'file', b'the old file')
    waits = replace_that_fails(monkeypatch, times)
    WRITERS[writer](path)
    assert read_bytes(path) != b'the old file' and os.listdir(str(tmp_path)) == ['file']
    assert len(waits) == times and sum(waits) <= 2.01


@every_writer
def test_a_lock_that_stays_is_told(tmp_path, monkeypatch, writer):
    path = write_bytes(tmp_path / 'file', b'the old file')
    waits = replace_that_fails(monkeypatch, 1000)
    check_refused(PermissionError, lambda: WRITERS[writer](path), path,
                  'close the program that has it open, or choose another folder')
    assert 1.5 < sum(waits) < 2.5, f'waited {sum(waits):.1f} s, expected about 2 s'
    check_only(path, b'the old file')


@every_writer
def test_a_symbolic_link_is_written_through(tmp_path, writer):
    folders = tmp_path / 'real', tmp_path / 'links'
    for folder in folders:
        folder.mkdir()
    real = write_bytes(folders[0] / 'file', b'the old file')
    link = str(folders[1] / 'link')
    try:
        os.symlink(real, link)
    except OSError:
        pytest.skip('this system lets no one make symbolic links')
    WRITERS[writer](link)
    assert os.path.islink(link) and read_bytes(real) == read_bytes(link) != b'the old file'
    assert [os.listdir(str(folder)) for folder in folders] == [['file'], ['link']]


def test_a_file_is_written_whole_before_it_takes_its_place(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / 'file', b'the old file')
    seen, synced, fsync = [], [], os.fsync
    replace = os.replace

    def look(source, target):
        seen.append((read_bytes(source), read_bytes(target)))
        assert synced, 'the new file must be on the disk before it takes the place'
        replace(source, target)

    monkeypatch.setattr(os, 'replace', look)
    monkeypatch.setattr(os, 'fsync', lambda number: synced.append(fsync(number)))
    network.write_submission(path, [7])
    assert seen == [(b'Id,Category\n0,7\n', b'the old file')]
    assert read_bytes(path) == b'Id,Category\n0,7\n'


def test_loaded_weights_can_be_trained(tmp_path):
    path = str(tmp_path / 'net.npz')
    make_mlp().save(path)
    net = make_mlp(seed=1)
    net.load(path)
    before = net.copy_arrays()
    net.forward(*make_rows(8))
    net.backward()
    net.update(0.1)
    assert differ(net.arrays(), before) and net.layers[0].weight.shape == (FEATURES, 5)


def test_a_submission_of_no_rows_is_refused(tmp_path):
    path = str(tmp_path / 'submission.csv')
    check_refused(ValueError, lambda: network.write_submission(path, np.array([], int)),
                  'was not written', '(0,)')
    assert not os.path.exists(path)
