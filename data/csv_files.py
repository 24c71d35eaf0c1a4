"""Write the lab's CSV files: train.csv, test.csv and test_labels.csv.

The format is the lab's: no header line, integers with commas between, one image a row. A row of
train.csv is the label 0..46, then 784 pixels 0..255. A row of test.csv is 784 pixels. A row of
test_labels.csv is the label of the same row of test.csv. As in EMNIST's own files, each 28x28 image
is stored transposed.
"""
import contextlib
import os
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'leaderboard')]

from checkpoint import replacing      # noqa: E402

CHARACTERS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt'  # the position is the label
FILES = ('train.csv', 'test.csv', 'test_labels.csv')
MARKER = 'stand-in.txt'             # lies beside a stand-in and says which files belong to it
SIDE = 28                           # pixels along an edge of an image
TRAIN_ROWS = 100000                 # the lab's sizes; together they are all of
TEST_ROWS = 12800                   # EMNIST Balanced's training images
BLOCK = 1000                        # rows drawn or written at a time
NUMBERS = [str(number) for number in range(256)]    # to look a text up is faster than to format it


def no_report(task, done, total):
    """Stand in for a progress display: show nothing."""


def check_request(folder, train_rows, test_rows, seed, force):
    """Raise ValueError or FileExistsError, before any long work, for what cannot be done."""
    for name, rows in (('train', train_rows), ('test', test_rows)):
        if rows < 1:
            raise ValueError(f'the number of {name} rows must be 1 or more, not {rows}')
    if seed < 0:
        raise ValueError(f'the seed must be 0 or more, not {seed}')
    for name in FILES:
        path = os.path.join(folder, name)
        if os.path.lexists(path) and not force:
            raise FileExistsError(f'{path} already exists, {advice(path)}')


def advice(path):
    """Say what to do about a file that is there already. Never advise to overwrite real data."""
    if is_stand_in(path):
        return 'it is a stand-in: choose another folder, or replace it with --force (force=True)'
    return ("it is not a stand-in, so it is kept: if you want the competition's files, unpack its "
            'zip there, else choose another folder')


def is_stand_in(path):
    """Tell whether `path` is a stand-in: the marker beside it names the file with its size."""
    marker = os.path.join(os.path.dirname(path), MARKER)
    if not (os.path.exists(marker) and os.path.exists(path)):
        return False
    with open(marker, encoding='ascii', errors='replace') as file:
        lines = file.read().splitlines()
    return f'{os.path.basename(path)} {os.path.getsize(path)} bytes' in lines


def write_dataset(folder, train, test, report, origin=None):
    """Write FILES into `folder`; on any error the files that were there stay as they were.

    train, test: (labels (N,), an iterator of blocks of pixels (up to BLOCK, 784)), all uint8.
    origin: for a stand-in, how it was made. Then the marker is written, too; else it is removed.
    """
    train_labels, train_pixels = train
    test_labels, test_pixels = test
    os.makedirs(folder, exist_ok=True)
    marker = os.path.join(folder, MARKER)
    with contextlib.ExitStack() as stack:
        files = {}
        for name in FILES:
            files[name] = stack.enter_context(replacing(os.path.join(folder, name)))
        write_rows(files, 'train.csv', train_labels, labelled_blocks(train_labels, train_pixels),
                   report)
        write_rows(files, 'test.csv', test_labels, test_pixels, report)
        write_rows(files, 'test_labels.csv', test_labels, blocks_of(test_labels[:, None]), report)
        if origin:      # the marker is opened last, so it is the first to take its place
            file = stack.enter_context(replacing(marker))
            file.write(marker_text(origin, files).encode('ascii'))
    if not origin and os.path.lexists(marker):
        os.remove(marker)


def labelled_blocks(labels, pixels):
    """Put the labels (N,) before the pixels: yield blocks (up to BLOCK, 785)."""
    for block_labels, block in zip(blocks_of(labels), pixels):
        yield np.hstack([block_labels[:, None], block])


def blocks_of(values):
    """Cut an array into pieces of BLOCK rows; the last may be shorter."""
    return [values[start:start + BLOCK] for start in range(0, len(values), BLOCK)]


def write_rows(files, name, labels, blocks, report):
    """Write blocks of uint8 rows, one row for each label, to the open file of this name."""
    done = 0
    for block in blocks:
        files[name].write(csv_text(block))
        done += len(block)
        report(f'rows of {name}', done, len(labels))


def csv_text(rows):
    """Turn uint8 rows (N, columns) into the bytes of N lines of numbers with commas between."""
    lines = []
    for row in rows:
        lines.append(','.join([NUMBERS[value] for value in row.tobytes()]))
    return ('\n'.join(lines) + '\n').encode('ascii')


def marker_text(origin, files):
    """Say what the files of a stand-in are, and how large each is."""
    lines = ['These files are a stand-in. They show printed characters drawn from fonts.',
             'They are not EMNIST and not handwriting. Do not hand in predictions for them.',
             f'Made with: {origin}']
    for name, file in files.items():
        lines.append(f'{name} {file.tell()} bytes')
    return '\n'.join(lines) + '\n'
