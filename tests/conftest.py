"""For every test: one BLAS thread, the folders of the sources, and seeded random numbers.

A warning that a file of this repository causes is an error.
"""
import os
import sys

for name in ('OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'OMP_NUM_THREADS'):
    os.environ.setdefault(name, '1')      # before NumPy is imported, which reads it

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)
sys.path[:0] = [TESTS, os.path.join(TESTS, 'grader'), ROOT, os.path.join(ROOT, 'leaderboard')]

import glob            # noqa: E402

import numpy as np     # noqa: E402
import pytest          # noqa: E402


def pytest_addoption(parser):
    parser.addoption('--mine', metavar='FOLDER', help='a layer.py and network.py for test_mine.py')


def pytest_configure(config):
    patterns = ('*.py', '*/*.py', 'tests/*/*.py')
    for path in [path for name in patterns for path in glob.glob(os.path.join(ROOT, name))]:
        module = os.path.splitext(os.path.basename(path))[0]
        config.addinivalue_line('filterwarnings', f'error:::{module}$')


@pytest.fixture(autouse=True)
def seeded():
    """Start each test from the same random numbers, also for layers without a generator."""
    np.random.seed(0)
