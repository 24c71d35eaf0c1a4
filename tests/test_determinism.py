"""The same seed gives the same bytes: in another process, and with another order of hashes.

This file is also the script of these processes, in a folder with data:
python test_determinism.py JOB SEED
"""
import os
import subprocess
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import network      # noqa: E402


# The script ---------------------------------------------------------------------------------------

def train_and_predict(net, predict, seed, **settings):
    """Train on the folder's data; write the weights and the submission."""
    rows = network.read_csv('train.csv', 785)
    train, validation = network.split_rows(len(rows), 10, seed)
    label = rows[:, 0].astype(int)
    net.fit((rows[train, 1:], label[train]), (rows[validation, 1:], label[validation]), 2, 16, 0.1,
            schedule=network.one_cycle, seed=seed, momentum=0.9, nesterov=True, **settings)
    net.save('weights.npz')
    probabilities = predict(network.read_csv('test.csv', 784))
    corrected = network.correct_class_prior(probabilities, label)
    network.write_submission('DLAD-test-predict.csv', corrected.argmax(axis=1))


def fully_connected(seed):
    """The lab's network, with np.random.seed alone, as in the handout."""
    np.random.seed(seed)
    net = network.Network()
    train_and_predict(net, net.predict, seed)


def convolutional(seed):
    """A small network with augmentation, dropout, batch norm and an average of the weights."""
    net = network.character_network(np.random.default_rng(seed), stages=((4,), (4, 6)), hidden=16)
    train_and_predict(net, net.predict_augmented, seed, ema_decay=0.9, weight_decay=5e-4)


if __name__ == '__main__':
    jobs = {'fully_connected': fully_connected, 'convolutional': convolutional}
    jobs[sys.argv[1]](int(sys.argv[2]))
    sys.exit()


# The tests ----------------------------------------------------------------------------------------

import pytest      # noqa: E402

FILES = ['weights.npz', 'DLAD-test-predict.csv']


def run(folder, job, seed, threads, hash_seed):
    """Run a job in a process of its own -> {file: the content that it wrote}."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (('train.csv', (60, 785)), ('test.csv', (40, 784))):
        np.savetxt(str(folder / name), rng.integers(0, 47, shape), '%d', delimiter=',')
    environment = dict(os.environ, PYTHONHASHSEED=str(hash_seed),
                       OPENBLAS_NUM_THREADS=str(threads))
    process = subprocess.Popen([sys.executable, os.path.abspath(__file__), job, str(seed)],
                               cwd=str(folder), env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize('job, threads', [('fully_connected', 1), ('fully_connected', 2),
                                          ('convolutional', 1)])
def test_the_same_seed_gives_the_same_bytes_in_every_process(tmp_path, job, threads):
    first = run(tmp_path / 'first', job, seed=0, threads=threads, hash_seed=0)
    again = run(tmp_path / 'again', job, seed=0, threads=threads, hash_seed=1)
    different = [name for name in FILES if again[name] != first[name]]
    assert not different, f'the same seed gave other bytes in {different}'
    other = run(tmp_path / 'other', job, seed=1, threads=threads, hash_seed=0)
    equal = [name for name in FILES if other[name] == first[name]]
    assert not equal, f'seeds 0 and 1 gave the same bytes in {equal}'
