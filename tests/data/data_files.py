"""What the tests of data/ share: they find its modules, read files and judge messages."""
import os
import pathlib
import sys

import numpy as np

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.path.join(os.path.dirname(TESTS), 'data')
sys.path.append(DATA)


def read_folder(folder):
    """{file name: content} of a folder."""
    return {path.name: path.read_bytes() for path in pathlib.Path(str(folder)).iterdir()}


def read_table(folder, name):
    """The integers of a CSV file, (N, columns)."""
    return np.loadtxt(os.path.join(str(folder), name), delimiter=',', dtype=int, ndmin=2)


def check_message(message, *wanted):
    """The message is one line that holds each wanted text."""
    message = str(message)
    for text in wanted:
        assert text in message, f'message {message!r}: expected it to mention {text!r}'
    assert '\n' not in message.strip(), f'message {message!r}: expected one line'


def check_folder(folder, expected):
    """The folder holds exactly the expected names."""
    assert sorted(os.listdir(str(folder))) == sorted(expected)
