"""One BLAS thread, so that the tests run alike beside other work; the sources are found in the parent folder.

A warning that one of our own files causes is an error.
"""
import os
import sys

for name in ('OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'OMP_NUM_THREADS'):
    os.environ.setdefault(name, '1')      # read when NumPy is imported, so set before it is

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

import numpy as np     # noqa: E402
import pytest          # noqa: E402


def pytest_configure(config):
    for module in ('layer', 'network', 'prepare', 'experiments', 'facts', 'layout', 'typeset', 'hand_in', 'benchmark'):
        config.addinivalue_line('filterwarnings', 'error:::' + module)


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in every run of a test, also from layers that were given no generator."""
    np.random.seed(0)
