"""The lab's files and the weights: what is read, what is refused, and that no file is harmed."""
import gzip
import io
import os
import re
import zipfile

import numpy as np
import pytest

import network
from small_networks import (check_equal, check_refused, copies, make_cnn, make_mlp, make_random,
                            make_rows, read_bytes, write_bytes)

WIDTH = 784

# Whoever is refused a file may leave it open until the error is forgotten
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


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


LINES = lines_of(pixel_rows(6, WIDTH))
GOOD = text_of(LINES)


def with_number(number):
    """The good file, the last number of its second line replaced."""
    return text_of(LINES[:1] + [LINES[1].rsplit(b',', 1)[0] + b',' + number] + LINES[2:])


# CSV files ----------------------------------------------------------------------------------------

WRONG = {
    'empty': b'', 'blank lines only': b'\n\r\n\n', 'gzip': gzip.compress(GOOD),
    'web page': b'<!DOCTYPE html>\n<html>Sign in</html>\n', 'bytes': bytes(range(256)) * 40,
    'UTF-16': GOOD.decode().encode('utf-16'), 'semicolons': GOOD.replace(b',', b';'),
    'tabs': GOOD.replace(b',', b'\t'), 'one long number': b'1' * 6000,
    'a column too few': text_of(lines_of(pixel_rows(6, WIDTH - 1))),
    'a label column': text_of(lines_of(pixel_rows(6, WIDTH + 1))),
    'commas at the ends': text_of(LINES, b',\n'),
    'header of names': b','.join([b'pixel'] * WIDTH) + b'\n' + GOOD,
    'header of numbers': b','.join(b'%d' % number for number in range(WIDTH)) + b'\n' + GOOD,
    'cut in the last line': GOOD[:-900], 'cut after the first number': GOOD + b'12',
    'two rows in one line': GOOD.replace(b'\n', b',', 1),
    'a row in two lines': GOOD.replace(b',', b'\n', 1),
    'a longer line': GOOD.replace(b'\n', b',7\n', 3)}
for wrong_number in (b'', b'256', b'300', b'70000', b'9' * 21, b'-1', b'1.5', b'0x10', b'nan',
                     b'seven', b'1 2', b'\xe9', b'4294967303', b'18446744073709551617'):
    WRONG[wrong_number.decode('latin1')] = with_number(wrong_number)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('fault', list(WRONG))
def test_a_csv_file_that_is_wrong_is_refused_and_named(tmp_path, fault):
    path = write_bytes(tmp_path / 'some.csv', WRONG[fault])
    check_refused(ValueError, lambda: network.read_csv(path, WIDTH), path, '784', 'data/check.py')


@pytest.mark.parametrize('content', [
    GOOD, text_of(LINES, b'\r\n'), GOOD[:-1], b'\xef\xbb\xbf' + GOOD,
    text_of(LINES[:3] + [b'', b'\r'] + LINES[3:] + [b'\r']), re.sub(br'\b(\d)\b', br'00\1', GOOD)],
    ids=['right', 'Windows', 'no last line end', 'byte order mark', 'blank lines', 'zeros'])
def test_harmless_variants_give_the_same_rows(tmp_path, content):
    path = write_bytes(tmp_path / 'some.csv', content)
    rows = network.read_csv(path, WIDTH)
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows, pixel_rows(6, WIDTH))


def test_a_file_of_several_parts_is_read_and_its_last_line_is_checked(tmp_path):
    path = write_bytes(tmp_path / 'labels.csv', b'3\n46\n' * 12000)
    assert network.read_csv(path, 1).tolist() == [[3], [46]] * 12000
    write_bytes(path, b'3\n46\n' * 12000 + b'256\n')
    check_refused(ValueError, lambda: network.read_csv(path, 1), '256')


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / 'train.csv')
    for call in (network.read_train, make_mlp().load):
        check_refused(FileNotFoundError, lambda: call(path), path)


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


LABEL_FAULTS = {     # labels, their column, what the message has
    'one of 47': (np.where(np.arange(94) == 60, 47, ALL_LABELS), 0, '47'),
    'counted from 1': (ALL_LABELS + 1, 0, '47'), 'of 62 classes': (np.arange(94) % 62, 0, '61'),
    'without a class': (np.arange(94) % 46, 0, '[46]'), 'digits': (np.arange(94) % 10, 0, '10'),
    'letters': (1 + np.arange(94) % 26, 0, '[0'), 'negative': (ALL_LABELS - 1, 0, '-1'),
    'in the last column': (ALL_LABELS, 784, 'labels')}


@pytest.mark.parametrize('fault', sorted(LABEL_FAULTS))
def test_labels_are_checked_where_they_are_read(tmp_path, fault):
    labels, column, wanted = LABEL_FAULTS[fault]
    path = train_file(tmp_path, labels, column)
    check_refused(ValueError, lambda: network.read_train(path), path, wanted)


def test_the_names_of_the_classes():
    names = network.CLASS_NAMES
    assert len(names) == len(set(names)) == 47
    assert [names[label] for label in (0, 9, 10, 35, 36, 46)] == list('09AZat')


# The submission -----------------------------------------------------------------------------------

@pytest.mark.parametrize('dtype', [int, np.uint8, list])
def test_write_submission_writes_exactly_these_numbers(tmp_path, dtype):
    path = write_bytes(tmp_path / 'submission.csv', b'the old file')
    predicted = [3, 46, 0] if dtype is list else np.array([3, 46, 0], dtype)
    network.write_submission(path, predicted)
    assert read_bytes(path).replace(b'\r', b'') == b'Id,Category\n0,3\n1,46\n2,0\n'
    assert os.listdir(str(tmp_path)) == ['submission.csv']


@pytest.mark.parametrize('predicted', [
    [0, 47], [-1, 0], [0.5, 1], [1.0, 2.0], [np.nan, 1], ['A', '7'], [None, 1], 3, [True, False],
    [[1, 2], [3, 4]], np.eye(2), []], ids=str)
def test_predictions_that_are_no_labels_are_not_written(tmp_path, predicted):
    path = write_bytes(tmp_path / 'submission.csv', b'the old file')
    check_refused(Exception, lambda: network.write_submission(path, predicted))
    assert read_bytes(path) == b'the old file'


def test_a_write_that_stops_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / 'submission.csv', b'the old file')

    def fail(source, target):
        assert read_bytes(source).replace(b'\r', b'') == b'Id,Category\n0,7\n'
        assert read_bytes(target) == b'the old file'
        raise KeyboardInterrupt()

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(KeyboardInterrupt):
        network.write_submission(path, [7])
    assert read_bytes(path) == b'the old file'


# Weights ------------------------------------------------------------------------------------------

def test_save_and_load(tmp_path):
    path = str(tmp_path / 'weights')      # no name is completed
    net, loaded = make_random(), make_random(seed=1)
    rows, label = make_rows(20)
    net.fit((rows, label), make_rows(9, 2), 1, 5, 0.1, verbose=False)
    net.save(path)
    assert os.listdir(str(tmp_path)) == ['weights']
    loaded.held_back = {'something'}
    loaded.load(path)
    check_equal(loaded.arrays(), net.arrays())
    assert {array.dtype for array in loaded.arrays().values()} == {np.dtype(np.float32)}
    assert loaded.held_back == net.held_back and len(net.held_back) == 1
    loaded.fit((rows, label), None, 1, 5, 0.1, verbose=False)
    make_random().save(path)      # no training: nothing was held back
    loaded.load(path)
    assert loaded.held_back == set()
    loaded.load(write_bytes(path, packed(make_random().arrays())))      # an older file
    assert loaded.held_back == set()


def packed(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


class Executed(object):
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


WEIGHT = '1.FullyConnected.weight'
OTHERS = {     # name: the arrays of the network -> the content of another file
    'another network': lambda arrays: packed(make_cnn().arrays()),
    'fewer arrays': lambda arrays: packed(dict(list(arrays.items())[1:])),
    'an array too many': lambda arrays: packed(dict(arrays, more=np.zeros(3))),
    'transposed': lambda arrays: packed(dict(arrays, **{WEIGHT: arrays[WEIGHT].T})),
    'one number': lambda arrays: packed(dict(arrays, **{WEIGHT: np.float32(1)})),
    'the last is longer': lambda arrays: packed(dict(
        arrays, **{'4.BatchNorm.running_var': np.ones((1, 4))})),
    'empty': lambda arrays: b'', 'garbage': lambda arrays: b'\x00garbage' * 99,
    'cut': lambda arrays: packed(arrays)[:-30], 'half': lambda arrays: packed(arrays)[:3000],
    'CSV': lambda arrays: GOOD}


@pytest.mark.parametrize('other', sorted(OTHERS))
def test_a_file_of_another_network_or_of_no_network_is_refused_and_changes_nothing(tmp_path, other):
    net = make_random(seed=1)
    before = copies(net)
    path = write_bytes(tmp_path / 'file.npz', OTHERS[other](make_random().arrays()))
    message = check_refused((ValueError, EOFError, OSError, zipfile.BadZipFile),
                            lambda: net.load(path))
    assert other in ('empty', 'garbage', 'cut', 'half', 'CSV') or path in message
    check_equal(net.arrays(), before)


@pytest.mark.parametrize('place', [WEIGHT, 'more', 'held_back'])
def test_pickled_objects_are_refused_unopened(tmp_path, place):
    trap = str(tmp_path / 'executed')
    content = packed(dict(make_random().arrays(), **{place: np.array([Executed(trap)], object)}))
    path = write_bytes(tmp_path / 'file.npz', content)
    check_refused(ValueError, lambda: make_random().load(path))
    assert not os.path.exists(trap), 'the pickled object was executed'
