"""The same seed gives the same bytes: in another process, and with another order of hashes.

This file is also the script of these processes, in a folder with data.
"""
import os
import subprocess
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import network      # noqa: E402


def train_and_predict(net, predict, seed, **settings):
    """Train on the folder's data; write the weights and the submission."""
    rows = network.read_csv('train.csv', 785)
    train, validation = network.split_rows(len(rows), 10, seed)
    label = rows[:, 0].astype(int)
    net.fit((rows[train, 1:], label[train]), (rows[validation, 1:], label[validation]), 2, 16, 0.1,
            schedule=network.one_cycle, seed=seed, momentum=0.9, nesterov=True, **settings)
    net.save(f'{predict.__name__}-{seed}.npz')
    probabilities = predict(network.read_csv('test.csv', 784))
    corrected = network.correct_class_prior(probabilities, label)
    network.write_submission(f'{predict.__name__}-{seed}.csv', corrected.argmax(axis=1))


if __name__ == '__main__':
    for seed in (0, 1):
        np.random.seed(seed)      # alone, as in the handout
        lab = network.Network()
        train_and_predict(lab, lab.predict, seed)
        small = network.character_network(np.random.default_rng(seed), ((4,), (4, 6)), 16)
        train_and_predict(small, small.predict_augmented, seed, ema_decay=0.9, weight_decay=5e-4)
    sys.exit()


def run(folder, hash_seed):
    """Train in a process of its own -> {name of a file: the content that it wrote}."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (('train.csv', (60, 785)), ('test.csv', (40, 784))):
        np.savetxt(str(folder / name), rng.integers(0, 47, shape), '%d', delimiter=',')
    environment = dict(os.environ, PYTHONHASHSEED=str(hash_seed), OPENBLAS_NUM_THREADS='2')
    process = subprocess.Popen([sys.executable, os.path.abspath(__file__)], cwd=str(folder),
                               env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()
    return {path.name: path.read_bytes() for path in folder.glob('predict*')}


def test_the_same_seed_gives_the_same_bytes_in_every_process(tmp_path):
    first = run(tmp_path / 'first', hash_seed=0)
    again = run(tmp_path / 'again', hash_seed=1)
    assert len(first) == len(again) == 8
    for name, content in first.items():
        assert again[name] == content, f'the same seed gave another {name}'
        other = name.replace('-0.', '-1.')
        assert other == name or first[other] != content, f'two seeds gave the same {name}'
