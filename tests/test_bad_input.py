"""What goes wrong with files and numbers is told in one sentence, harms no file, and nothing in a file is executed."""
import ast
import errno
import glob
import gzip
import importlib.util
import io
import itertools
import os
import re
import time
import tracemalloc
import warnings
import zipfile

import nbformat
import numpy as np
import pytest

import network
from layer import BatchNorm, Dropout, FullyConnected, ReLU
from network import Network

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
spec = importlib.util.spec_from_file_location('prepare', os.path.join(ROOT, 'data', 'prepare.py'))
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)

pytestmark = pytest.mark.filterwarnings('error')


def write(path, content):
    with open(str(path), 'wb') as file:
        file.write(content)
    return str(path)


def refusal(kinds, call, *wanted):
    """The error's text, after a check that `call` raises it as one sentence of a bearable length with all `wanted`."""
    with pytest.raises(kinds) as caught, warnings.catch_warnings():
        if kinds is FloatingPointError:
            warnings.simplefilter('ignore', RuntimeWarning)      # NumPy's own, about each overflow on the way
        got = call()
        pytest.fail('accepted, got %r; expected a refusal with %s' % (got, ', '.join(wanted)), pytrace=False)
    text = str(caught.value)
    assert '\n' not in text and '. ' not in text and len(text) < 400, 'expected one sentence, got %r' % text
    for part in wanted:
        assert part in text, 'expected %r in the message, got %r' % (part, text)
    return text


# CSV files ------------------------------------------------------------------------------------------------------------

def pixel_rows(rows, columns, seed=0):
    """Rows (N, columns) that have numbers of one, two and three digits; the first is a label 0..46."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (rows, columns)) * rng.integers(0, 2, (rows, columns))
    values[:, 0] %= 47
    return values.astype(np.uint8)


def lines_of(values):
    return [','.join(map(str, row)).encode() for row in values.tolist()]


def text_of(lines, end=b'\n'):
    return b''.join(line + end for line in lines)


def with_line(lines, index, new):
    return lines[:index] + [new] + lines[index + 1:]


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('train.csv', content)
    return file.getvalue()


FOUND, WIDTH = 'line %d: got %d fields', 'expected %d integers 0..255 with commas between'
# name: (lines, number of columns) -> (the file's content, what the message must have); {c} is the number of columns
WHOLE_FILE_FAULTS = {
    'empty': lambda lines, c: (b'', ['is empty']),
    'blank lines only': lambda lines, c: (b'\n\r\n\n', ['is empty']),
    'byte order mark only': lambda lines, c: (b'\xef\xbb\xbf', ['is empty']),
    'zip': lambda lines, c: (zipped(text_of(lines)), ['line 1', 'zip', 'unpack']),
    'gzip': lambda lines, c: (gzip.compress(text_of(lines)), ['line 1', 'gzip', 'unpack']),
    'web page': lambda lines, c: (b'<!DOCTYPE html>\n<html>Sign in, please</html>\n', ['line 1', 'web page']),
    'indented web page': lambda lines, c: (b'  \n <html>Sign in</html>\n', ['line 2', 'got 1 fields']),
    'bytes': lambda lines, c: (bytes(range(256)) * 40, ['line 1']),
    'UTF-16': lambda lines, c: (text_of(lines).decode().encode('utf-16'), ['line 1']),
    'semicolons': lambda lines, c: (text_of(lines).replace(b',', b';'), [FOUND % (1, 1)]),
    'tabs': lambda lines, c: (text_of(lines).replace(b',', b'\t'), [FOUND % (1, 1)]),
    'old line ends': lambda lines, c: (text_of(lines, b'\r'), [FOUND % (1, len(lines) * (c - 1) + 1)]),
    'one long number': lambda lines, c: (b'1' * 6000, [FOUND % (1, 1)]),
    'the other file': lambda lines, c: (text_of(lines_of(pixel_rows(6, 1569 - c))), [FOUND % (1, 1569 - c), 'swapped']),
    'a column too few': lambda lines, c: (text_of(lines_of(pixel_rows(6, c - 1))), [FOUND % (1, c - 1), 'swapped']),
    'a column too many': lambda lines, c: (text_of(lines_of(pixel_rows(6, c + 1))), [FOUND % (1, c + 1), 'index']),
    'an index column': lambda lines, c: (text_of([b'%d,' % i + line for i, line in enumerate(lines)]),
                                         [FOUND % (1, c + 1), 'index']),
    'trailing commas': lambda lines, c: (text_of(lines, b',\n'), [FOUND % (1, c + 1), 'comma']),
    'header of names': lambda lines, c: (text_of([b','.join([b'label'] * c)] + lines), ['line 1', 'header']),
    'header in quotes': lambda lines, c: (text_of([b','.join([b'"p 1"'] * c)] + lines), ['line 1', 'header']),
    'header of numbers': lambda lines, c: (text_of([b','.join(b'%d' % i for i in range(c))] + lines),
                                           ["line 1: field 257 is '256'", 'header']),
    'header and index': lambda lines, c: (text_of([b','.join([b''] + [b'%d' % i for i in range(c)])] + lines),
                                          [FOUND % (1, c + 1), 'header']),
    'cut in the last line': lambda lines, c: (text_of(lines)[:-900], ['line 6: got', 'breaks off']),
    'cut after the first number': lambda lines, c: (text_of(lines[:5]) + b'12', [FOUND % (6, 1), 'breaks off']),
    'two rows in one line': lambda lines, c: (text_of([lines[0] + b',' + lines[1]] + lines[2:]), [FOUND % (1, 2 * c)]),
    'a row in two lines': lambda lines, c: (text_of(lines[:2]) + lines[2].replace(b',', b'\n', 1) + b'\n',
                                            [FOUND % (3, 1)]),
}
both_files = pytest.mark.parametrize('columns', [785, 784], ids=['train', 'test'])


@both_files
@pytest.mark.parametrize('fault', sorted(WHOLE_FILE_FAULTS))
def test_a_csv_file_that_is_wrong_as_a_whole(tmp_path, fault, columns):
    content, wanted = WHOLE_FILE_FAULTS[fault](lines_of(pixel_rows(6, columns)), columns)
    path = write(tmp_path / 'some.csv', content)
    expected = '%d integers' % columns if 'is empty' in wanted else WIDTH % columns
    refusal(ValueError, lambda: network.read_csv(path, columns), path, expected, *wanted)


ROWS = 60
FILE = {columns: lines_of(pixel_rows(ROWS, columns)) for columns in (784, 785)}


@pytest.fixture(scope='module', autouse=True)
def small_blocks():
    """Short files of several blocks, as long ones are."""
    before, network.CSV_BLOCK = network.CSV_BLOCK, 2 ** 16
    yield before
    network.CSV_BLOCK = before


@pytest.fixture(scope='module')
def block_start(tmp_path_factory, small_blocks):
    """{number of columns: index of the second block's first line}, as files are read in blocks of lines."""
    parse, result, folder = network._parse, {}, tmp_path_factory.mktemp('blocks')
    for columns, lines in FILE.items():
        blocks = []
        network._parse = lambda text, columns: blocks.append(text) or parse(text, columns)
        try:
            network.read_csv(write(folder / 'some.csv', text_of(lines)), columns)
        finally:
            network._parse = parse
        assert len(blocks) > 1, 'the whole file is one block: it is to be longer'
        result[columns] = blocks[0].count(b'\n')
    return result


# name: (line, number of columns) -> (the line made bad, what the message must have after the line's number)
ROW_FAULTS = {
    'too long': lambda line, c: (line + b',7', 'got %d fields' % (c + 1)),
    'too short': lambda line, c: (line.rsplit(b',', 1)[0], 'got %d fields' % (c - 1)),
    'cut': lambda line, c: (line[:20].rstrip(b','), 'got %d fields' % (line[:20].rstrip(b',').count(b',') + 1)),
    'gap': lambda line, c: (line.replace(b',', b',,', 1).rsplit(b',', 1)[0], "field 2 is ''"),
    '256': lambda line, c: (line.rsplit(b',', 1)[0] + b',256', "field %d is '256'" % c),
    '300': lambda line, c: (b'300,' + line.split(b',', 1)[1], "field 1 is '300'"),
    'negative': lambda line, c: (b'-1,' + line.split(b',', 1)[1], "field 1 is '-1'"),
    'float': lambda line, c: (line.rsplit(b',', 1)[0] + b',1.0', "field %d is '1.0'" % c),
    'exponent': lambda line, c: (b'1e1,' + line.split(b',', 1)[1], "field 1 is '1e1'"),
    'nan': lambda line, c: (b'nan,' + line.split(b',', 1)[1], "field 1 is 'nan'"),
    'text': lambda line, c: (line.rsplit(b',', 1)[0] + b',seven', "field %d is 'seven'" % c),
    'two words': lambda line, c: (b'1 2,' + line.split(b',', 1)[1], "field 1 is '1 2'"),
    'null byte': lambda line, c: (line + b'\0', "field %d is '" % c)}


@pytest.mark.parametrize('place', ['first', 'second', 'last of a block', 'first of a block', 'last'])
@pytest.mark.parametrize('fault', sorted(ROW_FAULTS))
def test_one_bad_row_is_named_wherever_it_stands(tmp_path, block_start, fault, place):
    for columns, lines in FILE.items():
        start = block_start[columns]
        index = {'first': 0, 'second': 1, 'last of a block': start - 1, 'first of a block': start,
                 'last': ROWS - 1}[place]
        bad, wanted = ROW_FAULTS[fault](lines[index], columns)
        path = write(tmp_path / 'some.csv', text_of(with_line(lines, index, bad)))
        refusal(ValueError, lambda: network.read_csv(path, columns),
                '%s, line %d: %s' % (path, index + 1, wanted), WIDTH % columns)


HARMLESS = {
    'as it should be': text_of, 'Windows line ends': lambda lines: text_of(lines, b'\r\n'),
    'no last line end': lambda lines: text_of(lines)[:-1],
    'Windows, no last line end': lambda lines: text_of(lines, b'\r\n')[:-2],
    'byte order mark': lambda lines: b'\xef\xbb\xbf' + text_of(lines),
    'blank last lines': lambda lines: text_of(lines) + b'\n\r\n',
    'blank lines between': lambda lines: text_of(lines[:50] + [b''] + lines[50:]),
    'spaces': lambda lines: text_of(lines).replace(b',', b', '),
    'quotes': lambda lines: text_of(b'"' + line.replace(b',', b'","') + b'"' for line in lines),
    'leading zeros': lambda lines: text_of(with_line(lines, 3, re.sub(br'\b(\d)\b', br'00\1', lines[3])))}


@both_files
@pytest.mark.parametrize('variant', sorted(HARMLESS))
def test_harmless_variants_give_the_same_rows(tmp_path, variant, columns):
    rows = network.read_csv(write(tmp_path / 'some.csv', HARMLESS[variant](FILE[columns])), columns)
    assert rows.dtype == np.uint8 and rows.flags.c_contiguous and rows.flags.writeable
    np.testing.assert_array_equal(rows, pixel_rows(ROWS, columns))


NUMBER = re.compile(br'[ \t\r"]*0*(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])[ \t\r"]*')


def judged(content, columns):
    """By the book, a number at a time: the rows, or the line number of the first bad one; None if there are no rows."""
    rows = []
    content = content[3:] if content.startswith(b'\xef\xbb\xbf') else content
    for number, line in enumerate(content.split(b'\n'), 1):
        if line.strip():
            fields = [NUMBER.fullmatch(field) for field in line.split(b',')]
            if len(fields) != columns or None in fields:
                return number
            rows.append([int(field.group(1)) for field in fields])
    return rows or None


def mutated(content, rng):
    """Bytes replaced, lost, added, doubled or moved, once or twice."""
    for _ in range(rng.integers(1, 3)):
        start, stop = sorted(rng.integers(0, len(content) + 1, 2))
        piece = bytes([rng.choice([rng.integers(256), rng.choice(list(b'0123456789,,,\n\n\r" -.'))])])
        before, after = content[:start], content[start:]
        content = [lambda: before + piece + after[1:], lambda: before + piece + after, lambda: before + after[1:],
                   lambda: before, lambda: after, lambda: content[:stop] + after, lambda: before + content[stop:],
                   lambda: re.sub(br'\d', b'%d' % rng.integers(10), content, count=stop)][rng.integers(8)]()
    return content


@pytest.mark.parametrize('seed', range(40))
def test_mutated_csv_files_are_read_right_or_refused_at_the_right_line(tmp_path, seed):
    rng, columns = np.random.default_rng(seed), 5
    good = text_of(lines_of(pixel_rows(8, columns, seed)), [b'\n', b'\r\n'][seed % 2])
    outcomes = set()
    for content in [good] + [mutated(good, rng) for _ in range(30)]:
        path, expected = write(tmp_path / 'some.csv', content), judged(content, columns)
        outcomes.add(type(expected))
        if isinstance(expected, list):
            assert network.read_csv(path, columns).tolist() == expected, content
        else:
            wanted = 'is empty' if expected is None else ', line %d: ' % expected
            refusal(ValueError, lambda: network.read_csv(path, columns), path, wanted)
    assert outcomes >= {list, int}, 'the mutations were to leave some files whole and break others, got %s' % outcomes


def test_good_files_are_read_the_quick_way_with_little_memory(tmp_path, monkeypatch, small_blocks):
    """Not line by line, and with hardly more memory than the result and a few blocks take."""
    monkeypatch.setattr(network, 'CSV_BLOCK', small_blocks)
    monkeypatch.setattr(network, '_row', lambda *arguments: pytest.fail('a good line was read the slow way'))
    columns, repeats = 785, 80
    for end in (b'\n', b'\r\n'):
        path = write(tmp_path / 'train.csv', text_of(FILE[columns], end) * repeats)
        started = time.process_time()
        rows = network.read_csv(path, columns)
        seconds = time.process_time() - started
        assert rows.shape == (ROWS * repeats, columns) and np.array_equal(rows[-ROWS:], pixel_rows(ROWS, columns))
        assert seconds < 1.5, '%d rows took %.2f s of processor time, expected 0.1 to 0.3' % (len(rows), seconds)
    monkeypatch.setattr(network, 'CSV_BLOCK', 2 ** 16)
    tracemalloc.start()
    rows = network.read_csv(path, columns)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * rows.nbytes + 5e6, '%.1f MB at most for a result of %.1f MB' % (peak / 1e6, rows.nbytes / 1e6)


def test_a_missing_csv_file_and_a_folder_in_its_place(tmp_path):
    for read in (network.read_train, lambda path: network.read_csv(path, 784)):
        refusal(FileNotFoundError, lambda: read(str(tmp_path / 'train.csv')), 'train.csv is missing', 'data/prepare.py')
        refusal(OSError, lambda: read(str(tmp_path)), str(tmp_path))


LABELS = np.arange(94) % 47
LABEL_FAULTS = {'47': (np.where(np.arange(94) == 60, 47, LABELS), ['row 61 has the label 47', 'not the data']),
                '255': (np.where(np.arange(94) == 93, 255, LABELS), ['row 94 has the label 255', 'not the data']),
                'counted from 1': (LABELS + 1, ['row 47 has the label 47', 'count from 1, subtract 1']),
                'of 62 classes': (np.arange(94) % 62, ['row 48 has the label 47', 'not the data']),
                '-1': (np.where(np.arange(94) == 5, -1, LABELS), ["line 6: field 1 is '-1'"]),
                '1000': (np.where(np.arange(94) == 5, 1000, LABELS), ["line 6: field 1 is '1000'"])}


@pytest.mark.parametrize('fault', sorted(LABEL_FAULTS))
def test_labels_are_checked_where_they_are_read(tmp_path, fault):
    labels, wanted = LABEL_FAULTS[fault]
    pixels = pixel_rows(94, 785).astype(int)[:, 1:]
    path = write(tmp_path / 'train.csv', text_of(lines_of(np.column_stack([labels, pixels]))))
    refusal(ValueError, lambda: network.read_train(path), path, *wanted)


def test_read_train_gives_pixels_and_labels(tmp_path):
    values = pixel_rows(94, 785)
    pixels, label = network.read_train(write(tmp_path / 'train.csv', text_of(lines_of(values))))
    assert pixels.dtype == np.uint8 and label.dtype == int and label.max() <= 46
    assert np.array_equal(pixels, values[:, 1:]) and np.array_equal(label, values[:, 0])


@pytest.mark.parametrize('count, kept', [(0, 8000), (1, 1), (7999, 8000), (8000, 8000), (100, -1), (100, 0)])
def test_too_few_rows_for_the_validation(count, kept):
    refusal(ValueError, lambda: network.split_rows(count, kept, 0), '%d of %d rows' % (kept, count), 'keep fewer')


# Weights and checkpoints ----------------------------------------------------------------------------------------------

def data(rows=24, seed=1):
    """Rows (N, 6) float32 and labels 0..3."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 6)).astype(np.float32), rng.integers(0, 4, rows)


def small_net(seed=0, shards=1):
    rng = np.random.default_rng(seed)
    return Network([FullyConnected(6, 5, rng), BatchNorm(5), ReLU(), Dropout(0.3, rng), FullyConnected(5, 4, rng)],
                   shards=shards)


def fit(net, path, epochs=2, **changes):
    settings = dict(batch_size=8, lr=0.05, momentum=0.9, ema_decay=0.9, checkpoint=path)
    settings.update(changes)
    net.fit(data(), data(12, 2), epochs, **settings)


def arrays_of(net):
    return {name: array.copy() for name, array in net.arrays().items()}


def same(first, second):
    return sorted(first) == sorted(second) and all(np.array_equal(first[name], second[name]) for name in first)


# What reads the file back into a network; a checkpoint of the whole training leaves nothing to train
KINDS = {'weights': (lambda net, path: net.save(path), lambda net, path: net.load(path)), 'checkpoint': (fit, fit)}
both_kinds = pytest.mark.parametrize('kind', sorted(KINDS))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """{kind: (the file's content, the network's arrays after reading it)}."""
    result = {}
    for kind, (make, read) in KINDS.items():
        path, net = str(tmp_path_factory.mktemp('saved') / 'file.npz'), small_net()
        make(net, path)
        result[kind] = (prepare.read_file(path), arrays_of(net))
    return result


def read_back(kind, content, path):
    """-> the arrays of a network that read the content; ValueError only with that network as it was."""
    net = small_net(seed=1)
    before = arrays_of(net)
    write(path, content)
    try:
        KINDS[kind][1](net, str(path))
    except Exception:
        assert same(arrays_of(net), before), 'the file was refused, but the network has changed'
        assert prepare.read_file(str(path)) == content, 'the file was refused, but it has changed'
        raise
    return arrays_of(net)


@both_kinds
@pytest.mark.parametrize('part', range(20))
def test_truncated_at_any_place_is_refused(tmp_path, saved, kind, part):
    content = saved[kind][0][:len(saved[kind][0]) * part // 20 - (part == 10)]
    refusal(ValueError, lambda: read_back(kind, content, tmp_path / 'file.npz'), 'file.npz is not a whole .npz file')


@both_kinds
@pytest.mark.parametrize('seed', range(20))
def test_flipped_bytes_are_noticed_or_do_not_matter(tmp_path, saved, kind, seed):
    content, expected = saved[kind]
    rng = np.random.default_rng(seed)
    for _ in range(10):
        place, bits = rng.integers(len(content)), rng.integers(1, 256)
        damaged = content[:place] + bytes([content[place] ^ bits]) + content[place + 1:]
        try:
            got = read_back(kind, damaged, tmp_path / 'file.npz')
        except ValueError:
            refusal(ValueError, lambda: read_back(kind, damaged, tmp_path / 'file.npz'), 'file.npz')
        else:
            assert same(got, expected), 'byte %d flipped by %d went unnoticed and changed an array' % (place, bits)


def test_a_header_that_claims_less_is_noticed(tmp_path, saved):
    """One bit of an array's header, '5' to '1' in the shape: the numbers that are then read fit no checksum."""
    content = saved['checkpoint'][0]
    places = [match.start() + 4 for match in re.finditer(br'\(1, 5\)', content)]
    assert len(places) >= 12, 'expected such an array among the last, average and best ones and the velocities'
    for place in places:
        damaged = content[:place] + b'1' + content[place + 1:]
        refusal(ValueError, lambda: read_back('checkpoint', damaged, tmp_path / 'file.npz'), 'file.npz', 'checksum')


class Executed(object):
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


W = '0.FullyConnected.weight'
CHANGES = {'missing': lambda array: None, 'transposed': lambda array: array.T,
           'longer': lambda array: np.vstack([array, array]),
           'scalar': lambda array: np.float32(1), 'integers': lambda array: array.astype(int),
           'complex': lambda array: array.astype(complex), 'text': lambda array: array.astype(str),
           'records': lambda array: np.zeros(array.shape, [('a', 'f4')])}


@pytest.mark.parametrize('part', ['last', 'average', 'best', 'velocity'])
@pytest.mark.parametrize('change', sorted(CHANGES))
def test_a_checkpoint_with_an_array_that_does_not_fit_is_refused(tmp_path, saved, part, change):
    with np.load(io.BytesIO(saved['checkpoint'][0])) as file:
        arrays = dict(file.items())
    array = CHANGES[change](arrays.pop('%s %s' % (part, W)))
    if array is not None:
        arrays['%s %s' % (part, W)] = array
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    refusal(ValueError, lambda: read_back('checkpoint', buffer.getvalue(), tmp_path / 'file.npz'), 'file.npz', W)


@both_kinds
@pytest.mark.parametrize('place', ['about', W, 'last ' + W, 'more'])
def test_pickled_objects_are_refused_unopened(tmp_path, saved, kind, place):
    trap, buffer = str(tmp_path / 'executed'), io.BytesIO()
    with np.load(io.BytesIO(saved[kind][0])) as file:
        np.savez(buffer, **dict(file.items(), **{place: np.array([Executed(trap)], object)}))
    text = refusal(ValueError, lambda: read_back(kind, buffer.getvalue(), tmp_path / 'file.npz'), 'file.npz')
    assert not os.path.exists(trap), 'the pickled object was executed'
    assert 'allow_pickle=True' not in text, 'the message suggests to trust the file: %r' % text


# Numbers --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('shards', [1, 2])
@pytest.mark.parametrize('lr', [np.nan, np.inf, 1e30, -1e30])
@pytest.mark.parametrize('sgd', [
    {}, {'momentum': 0.9, 'nesterov': True}, {'weight_decay': 0.1}, {'ema_decay': 0.9}], ids=repr)
def test_a_hopeless_learning_rate_is_told(lr, sgd, shards):
    net = small_net(shards=shards)
    refusal(FloatingPointError, lambda: net.fit(data(), data(12, 2), 3, 8, lr, **sgd), 'epoch ', 'lower the learning')


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_told(value):
    rows, label = data()
    rows[5, 2] = value
    refusal(FloatingPointError, lambda: small_net().evaluate(rows, label, 4), 'batch 2', 'inf and nan in the input')
    refusal(FloatingPointError, lambda: small_net().fit((rows, label), None, 1, 8, 0.1), 'epoch 1', 'inf and nan')


@pytest.mark.parametrize('predicted', [
    [0, 47], [-1, 0], [0.5, 1], [np.nan, 1], [np.inf, 1], ['A', '7'], [None, 1], 3, [[1, 2], [3, 4]], np.eye(2)],
    ids=lambda value: ' '.join(str(value).split()))
def test_predictions_that_are_no_labels_are_not_written(tmp_path, predicted):
    path = write(tmp_path / 'submission.csv', b'the old file')
    refusal(ValueError, lambda: network.write_submission(path, predicted), path, 'labels 0..46', 'argmax')
    assert prepare.read_file(path) == b'the old file' and os.listdir(str(tmp_path)) == ['submission.csv']


# Disks that are full or closed ----------------------------------------------------------------------------------------

WRITERS = {'weights': lambda path: small_net().save(path),
           'submission': lambda path: network.write_submission(path, [1, 2] * 999),
           'checkpoint': lambda path: fit(small_net(), path, epochs=3)}
every_writer = pytest.mark.parametrize('writer', sorted(WRITERS))


def raising(code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))
    return fail


def old_file(writer, path):
    """A good file at `path`; a checkpoint stopped after its first epoch, so that there is more to write."""
    def stop(record):
        raise KeyboardInterrupt()

    if writer == 'checkpoint':
        with pytest.raises(KeyboardInterrupt):
            fit(small_net(), path, epochs=3, on_epoch=stop)
    else:
        WRITERS[writer](path)
    return prepare.read_file(path)


def check_only(path, content):
    """The file at `path` has this content and is the only one in its folder."""
    got = os.listdir(os.path.dirname(path))
    assert got == [os.path.basename(path)], 'files in the folder: got %s, expected the old one alone' % got
    assert prepare.read_file(path) == content, '%s is not the old file any more' % path


@every_writer
@pytest.mark.parametrize('place, name', [(os, 'replace'), (os, 'fsync'), (network, 'open')],
                         ids=['replace', 'fsync', 'open'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_a_write_that_fails_leaves_the_old_file_and_names_it(tmp_path, monkeypatch, writer, place, name, code):
    path = str(tmp_path / 'file')
    content, read = old_file(writer, path), open

    def open_to_read_only(path, mode):
        return read(path, mode) if mode == 'rb' else raising(code)()

    with monkeypatch.context() as patch:
        patch.setattr(place, name, open_to_read_only if name == 'open' else raising(code), raising=False)
        refusal(OSError, lambda: WRITERS[writer](path), path, os.strerror(code), 'nothing was written')
    check_only(path, content)


@every_writer
@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs the device that is always full')
def test_a_disk_that_is_really_full(tmp_path, writer):
    path = str(tmp_path / 'file')
    content = old_file(writer, path)
    os.symlink('/dev/full', '%s.%d.part' % (path, os.getpid()))      # where the new file is written first
    refusal(OSError, lambda: WRITERS[writer](path), path, os.strerror(errno.ENOSPC))
    check_only(path, content)


@every_writer
@pytest.mark.parametrize('limit', [0, 1, 100, 1000])
def test_a_file_that_may_not_grow(tmp_path, writer, limit):
    resource = pytest.importorskip('resource')
    path = str(tmp_path / 'file')
    content, limits = old_file(writer, path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        refusal(OSError, lambda: WRITERS[writer](path), path, os.strerror(errno.EFBIG))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check_only(path, content)


def test_a_training_that_met_a_full_disk_goes_on_when_there_is_space_again(tmp_path, monkeypatch):
    path, undisturbed, net = str(tmp_path / 'file'), small_net(), small_net(seed=1)
    fit(undisturbed, None, epochs=3)
    old_file('checkpoint', path)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', raising(errno.ENOSPC))
        refusal(OSError, lambda: fit(small_net(), path, epochs=3), path)
    fit(net, path, epochs=3)
    assert same(arrays_of(net), arrays_of(undisturbed)), 'expected the bits of an undisturbed training'


def make_data(folder, seed):
    prepare.make_stand_in(folder, 30, 20, seed=seed, force=True)
    return {name: prepare.read_file(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}


@pytest.mark.parametrize('place, name, calls', [
    (prepare, 'open', 1), (prepare, 'open', 3), (os, 'replace', 1), (os, 'makedirs', 1),
    (prepare.tempfile, 'mkdtemp', 1)], ids=['first open', 'third open', 'replace', 'makedirs', 'mkdtemp'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_prepared_data_that_cannot_be_written(tmp_path, monkeypatch, place, name, calls, code):
    """The call of that number fails; the files that were there stay."""
    folder, count, real = str(tmp_path), itertools.count(1), getattr(place, name, open)
    before = make_data(folder, 0)

    def fail_later(*arguments, **options):
        return (raising(code) if next(count) == calls else real)(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, fail_later, raising=False)
        refusal(OSError, lambda: make_data(folder, 1), folder, os.strerror(code), 'free space')
    got = {name: prepare.read_file(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}
    assert got == before, 'got the files %s, expected the old ones, whole' % sorted(got)


# Nothing is executed that a file says ---------------------------------------------------------------------------------

MODULES = {'pickle', 'cPickle', '_pickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}
CALLS = {'eval', 'exec', 'compile', '__import__', 'builtins.eval', 'builtins.exec', 'os.system', 'os.popen',
         'subprocess.getoutput', 'pd.read_pickle', 'pandas.read_pickle'}
SWITCHES = {'shell', 'allow_pickle'}


def dangers(source):
    """[(line, what)] of imports that unpickle, and calls that execute text or may unpickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        found += [(node.lineno, 'import ' + name) for name in names if name.split('.')[0] in MODULES]
        if isinstance(node, ast.ImportFrom):
            found += [(node.lineno, 'import ' + node.module)] if (node.module or '').split('.')[0] in MODULES else []
            found += [(node.lineno, name) for name in names if '%s.%s' % (node.module, name) in CALLS]
        if isinstance(node, ast.Call):
            owner = getattr(getattr(node.func, 'value', None), 'id', None)
            name = getattr(node.func, 'id', None) or '%s.%s' % (owner, getattr(node.func, 'attr', None))
            found += [(node.lineno, name)] if name in CALLS else []
            found += [(node.lineno, keyword.arg) for keyword in node.keywords      # not plainly False: may be True
                      if keyword.arg in SWITCHES and getattr(keyword.value, 'value', None) is not False]
    return found


def sources():
    """{name: Python source} of what is run on a reader's machine."""
    paths = [os.path.join(ROOT, name) for name in ('layer.py', 'network.py', os.path.join('data', 'prepare.py'))]
    result = {os.path.relpath(path, ROOT): prepare.read_file(path).decode('utf-8')
              for path in paths + sorted(glob.glob(os.path.join(ROOT, 'report', '*.py')))}
    for path in sorted(glob.glob(os.path.join(ROOT, '*.ipynb'))):
        cells = nbformat.read(path, as_version=4).cells
        result.update(('%s, cell %d' % (os.path.basename(path), number), cell.source)
                      for number, cell in enumerate(cells) if cell.cell_type == 'code')
    assert len(result) > 15, 'found no more sources than %s' % sorted(result)
    return result


def test_our_sources_neither_unpickle_nor_execute_text():
    found = ['%s, line %d: %s' % (name, line, what)
             for name, source in sources().items() for line, what in dangers(source)]
    assert not found, found


@pytest.mark.parametrize('source', [
    'import pickle', 'import os, pickle as p', 'from pickle import loads', 'from joblib.memory import Memory',
    'eval("1")', 'x = [exec(line) for line in lines]', 'import os\nos.system("ls")', 'from os import system',
    'run("ls", shell=True)', 'run("ls", shell=1)', 'np.load(path, allow_pickle=True)', 'pd.read_pickle(path)',
    'np.load(path, allow_pickle=trusted)', 'builtins.eval("1")', 'def f():\n    return __import__("pickle")'])
def test_the_search_for_dangers_finds_them(source):
    assert dangers(source), 'nothing was found in %r' % source


def test_the_search_for_dangers_finds_nothing_harmless():
    assert not dangers('import os\nnet.eval()\nre.compile("a")\nnp.load(path, allow_pickle=False)\nrun(shell=False)')
