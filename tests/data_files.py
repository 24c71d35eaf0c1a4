"""What the tests of data/ share: they find its modules, read files and judge messages."""
import os
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.path.join(ROOT, 'data')
if DATA not in sys.path:
    sys.path.append(DATA)


def read_bytes(path):
    """All bytes of a file."""
    with open(str(path), 'rb') as file:
        return file.read()


def read_folder(folder):
    """{file name: content} of a folder."""
    names = os.listdir(str(folder))
    return {name: read_bytes(os.path.join(str(folder), name)) for name in names}


def read_table(folder, name):
    """The integers of a CSV file, (N, columns)."""
    return np.loadtxt(os.path.join(str(folder), name), delimiter=',', dtype=int, ndmin=2)


def check_message(message, *wanted):
    """The message is one line that holds each wanted text."""
    for text in wanted:
        assert text in message, f'message {message!r}: expected it to mention {text!r}'
    assert '\n' not in message.strip(), f'message {message!r}: expected one line'


def check_folder(folder, expected):
    """The folder holds exactly the expected names."""
    found = sorted(os.listdir(str(folder)))
    assert found == sorted(expected), f'files in {folder}: got {found}, expected {sorted(expected)}'
