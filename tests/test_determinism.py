"""The same seed gives the same bytes: in another process, with other hashes of text, on one core or more.

This file is also the script that the processes run: python test_determinism.py JOB SEED CORES, in a folder with data.
"""
import hashlib
import os
import subprocess
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import network      # noqa: E402


# The script -----------------------------------------------------------------------------------------------------------

def leaderboard(seed):
    """The command that trains the convolutional network, in two shards, and predicts with several views."""
    sys.argv[1:] = '--data . --validation 10 --epochs 2 --checkpoint checkpoint.npz --seed'.split() + [str(seed)]
    network.main()


def baseline(seed):
    """What the notebook does: the fully connected network, seeded by NumPy's old generator."""
    np.random.seed(seed)
    rows = network.read_csv('train.csv', 785)
    parts = network.split_rows(len(rows), 10, seed)
    train, validation = ((rows[part, 1:], rows[part, 0].astype(int)) for part in parts)
    net = network.Network()
    net.fit(train, validation, 2, 16, 0.1, network.one_cycle, seed, checkpoint='checkpoint.npz', momentum=0.9,
            nesterov=True)
    network.write_submission('DLAD-test-predict.csv', net.predict(network.read_csv('test.csv', 784)).argmax(axis=1))


if __name__ == '__main__':
    job, seed, cores = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    network.time.time = lambda: 0.0      # the records hold the seconds of each epoch: nothing else may differ
    os.cpu_count = lambda: cores
    {'leaderboard': leaderboard, 'baseline': baseline}[job](seed)
    sys.exit()


# The tests ------------------------------------------------------------------------------------------------------------

import pytest      # noqa: E402

FILES = ['checkpoint.npz', 'DLAD-test-predict.csv']


def run(folder, job, threads, seed, cores, hash_seed):
    """-> {file: digest} of what a process of its own wrote."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (('train.csv', (60, 785)), ('test.csv', (40, 784))):
        np.savetxt(str(folder / name), rng.integers(0, 47, shape), '%d', delimiter=',')
    process = subprocess.Popen([sys.executable, os.path.abspath(__file__), job, str(seed), str(cores)], cwd=str(folder),
                               env=dict(os.environ, PYTHONHASHSEED=str(hash_seed), OPENBLAS_NUM_THREADS=str(threads)),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


@pytest.mark.parametrize('job, threads', [('leaderboard', 1), ('baseline', 1), ('baseline', 2)])
def test_the_same_seed_gives_the_same_bytes_in_every_process(tmp_path, job, threads):
    first = run(tmp_path / 'first', job, threads, seed=0, cores=2, hash_seed=0)
    for name, cores, hash_seed in (('again', 2, 0), ('one core, other hashes', 1, 1), ('more cores', 64, 2)):
        got = run(tmp_path / name, job, threads, 0, cores, hash_seed)
        different = [file for file in FILES if got[file] != first[file]]
        assert not different, '%s: other bytes in %s, expected those of the first run' % (name, different)
    other = run(tmp_path / 'other seed', job, threads, 1, 2, 0)
    equal = [file for file in FILES if other[file] == first[file]]
    assert not equal, 'seeds 0 and 1 gave the same bytes in %s' % equal
