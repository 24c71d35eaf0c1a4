"""Write the lab's CSV files: train.csv, test.csv and test_labels.csv.

The format is the lab's: no header line, integers with commas between, one image a row. A row of
train.csv is the label 0..46, then 784 pixels 0..255. A row of test.csv is 784 pixels. A row of
test_labels.csv is the label of the same row of test.csv. As in EMNIST's own files, each 28x28 image
is stored transposed.
"""
import contextlib
import glob
import os
import time

import numpy as np

CHARACTERS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt'  # the position is the label
FILES = ('train.csv', 'test.csv', 'test_labels.csv')
MARKER = 'stand-in.txt'             # lies beside a stand-in and says which files belong to it
SIDE = 28                           # pixels along an edge of an image
TRAIN_ROWS = 100000                 # the lab's sizes; together they are all of
TEST_ROWS = 12800                   # EMNIST Balanced's training images
BLOCK = 1000                        # rows drawn or written at a time
PATIENCE = 2.0                      # seconds to wait for a file that another program has open
NUMBERS = [str(number) for number in range(256)]    # to look a text up is faster than to format it


def no_report(task, done, total):
    """Stand in for a progress display: show nothing."""


# ---------------------------------------------------------------- refusals before the work

def check_request(folder, train_rows, test_rows, seed, force):
    """Raise ValueError or FileExistsError, before any long work, for what cannot be done."""
    for name, rows in (('train', train_rows), ('test', test_rows)):
        if rows < 1:
            raise ValueError(f'the number of {name} rows must be 1 or more, not {rows}')
    if seed < 0:
        raise ValueError(f'the seed must be 0 or more, not {seed}')
    for name in FILES:
        if os.path.lexists(os.path.join(folder, name)) and not force:
            raise FileExistsError(f'{name} already exists in {folder}: {advice(folder, name)}')


def advice(folder, name):
    """Say what to do about a file that is there already. Never advise to overwrite real data."""
    if is_stand_in(os.path.join(folder, name)):
        return 'it is a stand-in; choose another folder, or replace it with --force (force=True)'
    archives = glob.glob(os.path.join(glob.escape(folder), '*.zip'))
    if archives and not os.path.lexists(os.path.join(folder, 'train.csv')):
        return f'it is not a stand-in; for train.csv, unpack {os.path.basename(archives[0])} there'
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


# ---------------------------------------------------------------- writing

def write_dataset(folder, train, test, report, origin=None):
    """Write FILES into `folder`; on any error the files that were there stay as they were.

    train, test: (labels (N,), an iterator of blocks of pixels (up to BLOCK, 784)), all uint8.
    origin: for a stand-in, how it was made. Then the marker is written, too; else it is removed.
    """
    train_labels, train_pixels = train
    test_labels, test_pixels = test
    with finished_files(folder, (MARKER,) + FILES) as drafts:
        write_csv(drafts['train.csv'], 'train.csv', len(train_labels),
                  labelled_blocks(train_labels, train_pixels), report)
        write_csv(drafts['test.csv'], 'test.csv', len(test_labels), test_pixels, report)
        write_csv(drafts['test_labels.csv'], 'test_labels.csv', len(test_labels),
                  blocks_of(test_labels[:, None]), report)
        if origin:
            write_marker(drafts, origin)
    if not origin and os.path.lexists(os.path.join(folder, MARKER)):
        os.remove(os.path.join(folder, MARKER))


def labelled_blocks(labels, pixels):
    """Put the labels (N,) before the pixels: yield blocks (up to BLOCK, 785)."""
    for block_labels, block in zip(blocks_of(labels), pixels):
        yield np.hstack([block_labels[:, None], block])


def blocks_of(values):
    """Cut an array into pieces of BLOCK rows; the last may be shorter."""
    return [values[start:start + BLOCK] for start in range(0, len(values), BLOCK)]


def write_csv(path, name, rows, blocks, report):
    """Write blocks of uint8 rows to `path`, and report under the file's final name."""
    done = 0
    with open(path, 'wb') as file:
        for block in blocks:
            file.write(csv_text(block))
            done += len(block)
            report(f'rows of {name}', done, rows)


def csv_text(rows):
    """Turn uint8 rows (N, columns) into the bytes of N lines of numbers with commas between."""
    lines = []
    for row in rows:
        lines.append(','.join([NUMBERS[value] for value in row.tobytes()]))
    return ('\n'.join(lines) + '\n').encode('ascii')


def write_marker(drafts, origin):
    """Write the stand-in's marker: what the files are, and the size of each."""
    lines = ['These files are a stand-in. They show printed characters drawn from fonts.',
             'They are not EMNIST and not handwriting. Do not hand in predictions for them.',
             f'Made with: {origin}']
    for name in FILES:
        lines.append(f'{name} {os.path.getsize(drafts[name])} bytes')
    with open(drafts[MARKER], 'w', encoding='ascii', newline='\n') as file:
        file.write('\n'.join(lines) + '\n')


@contextlib.contextmanager
def finished_files(folder, names):
    """Give a draft's path for each name. On success each draft becomes its file; else all go.

    A file under its final name is always whole. A symbolic link stays: its target is written.
    """
    with writing_to(folder):
        os.makedirs(folder, exist_ok=True)
        targets = {name: os.path.realpath(os.path.join(folder, name)) for name in names}
        drafts = {name: f'{targets[name]}.{os.getpid()}.part' for name in names}
        try:
            yield drafts
            for name in names:
                if os.path.lexists(drafts[name]):
                    replace(drafts[name], targets[name])
        finally:
            for draft in drafts.values():
                if os.path.lexists(draft):
                    os.remove(draft)


def replace(draft, target):
    """Rename `draft` to `target`. Windows refuses that while `target` is open: wait a moment."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            os.replace(draft, target)
            return
        except PermissionError as error:
            if time.monotonic() > deadline:
                raise OSError(f'{target} cannot be replaced ({error.strerror}): close the program '
                              f'that has it open, then run this again') from error
        time.sleep(0.1)


@contextlib.contextmanager
def writing_to(folder):
    """Turn the system's short error about a full disk or a read-only folder into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno is None:         # not the system's error, but a sentence of ours
            raise
        raise OSError(f'cannot write to {folder} ({error.strerror}): free space there or choose '
                      f'another folder') from error
