"""Stopped at any moment, training and data preparation leave whole files, and training ends with the same bits.

`kill -9` leaves a process no time to tidy up. So that its moments are the same on every machine, a child process counts
its calls of functions, Python's and C's, and kills itself at a chosen one. This file is also the script that does so:

    python test_kill.py JOB FOLDER SEED        prints what each kill left, as JSON, for the tests below to judge
"""
import collections
import contextlib
import hashlib
import importlib.util
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import network      # noqa: E402
from layer import (Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, MaxPool2d, ReLU,      # noqa: E402
                   Reshape)

spec = importlib.util.spec_from_file_location('prepare', os.path.join(ROOT, 'data', 'prepare.py'))
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)

EPOCHS, NAMES = 10, sorted(prepare.FILES)


# The script -----------------------------------------------------------------------------------------------------------

def data(rows, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 6)).astype(np.float32), rng.integers(0, 4, rows)


def train(folder, copies=None):
    """A small training with all that is random or has a memory; if wanted, a copy of each epoch's checkpoint."""
    network.time.time = lambda: 0.0      # the records hold the seconds of each epoch: nothing else may differ
    rng, checkpoint = np.random.default_rng(0), os.path.join(folder, 'checkpoint.npz')
    net = network.Network([
        FullyConnected(6, 16, rng), Augment(10, 0.1, 0.1, 0.5, 0.2, rng), Reshape(4, 4, 1), Conv2d(1, 3, 3, rng),
        BatchNorm(3), ReLU(), MaxPool2d(), Flatten(), Dropout(0.3, rng), FullyConnected(12, 4, rng)], shards=2)
    net.fit(data(60, 1), data(30, 2), EPOCHS, 12, 0.05, network.one_cycle, ema_decay=0.9, checkpoint=checkpoint,
            momentum=0.9, nesterov=True, weight_decay=1e-3,
            on_epoch=copies and (lambda record: shutil.copy(checkpoint, '%s-%02d' % (copies, record['epoch']))))
    net.save(os.path.join(folder, 'weights.npz'))


def make_data(folder, seed=1):
    prepare.make_stand_in(folder, 40, 20, seed=seed, force=True)


def in_child(job, *arguments, moment=None, writing=None):
    """Run job(*arguments) in a child that dies at its call number `moment` -> (was it killed, its calls if not).

    With `writing`, a folder, only the calls count during which a half-written file is in it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        calls = itertools.count()

        def count(frame, event, argument):
            half_written = writing and any(name.endswith('.part') for name in os.listdir(writing))
            if (half_written or not writing) and next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(count)
            job(*arguments)
            sys.setprofile(None)
            os.write(writer, b'%d' % next(calls))
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    with open(reader, 'rb') as pipe:
        calls = pipe.read()
    status = os.waitpid(child, 0)[1]
    if status not in (0, signal.SIGKILL):
        sys.exit('the child process failed')
    return status == signal.SIGKILL, int(calls or 0)


def files(folder):
    """{name: digest} of the files in a folder; None for a folder in it."""
    paths = [(name, os.path.join(folder, name)) for name in sorted(os.listdir(folder))]
    return collections.OrderedDict((name, None if os.path.isdir(path) else hashlib.sha256(
        prepare.read_file(path)).hexdigest()) for name, path in paths)


def killed_trainings(folder, rng):
    """Kill and resume, until the training ends."""
    paths = copies, undisturbed, killed = [os.path.join(folder, name) for name in ('copies', 'undisturbed', 'killed')]
    for path in paths:
        os.mkdir(path)
    _, calls = in_child(train, undisturbed, os.path.join(copies, 'epoch'))
    _, calls_to_resume = in_child(train, undisturbed)      # it has ended: nothing but resuming is left to do
    most = calls_to_resume + 2 * (calls - calls_to_resume) // EPOCHS      # two epochs, so that there are many kills
    rounds = []
    for number in range(100):      # every second while it writes; the last is left alone, so that the training ends
        moment = int(rng.integers(12 if number % 2 else most)) if number < 99 else None
        was_killed, _ = in_child(train, killed, moment=moment, writing=killed if number % 2 else None)
        rounds.append({'killed': was_killed, 'files': files(killed)})
        if not was_killed:
            break
    return {'rounds': rounds, 'undisturbed': files(undisturbed), 'epochs': list(files(copies).values())}


def killed_preparations(folder, rng):
    """Kill a preparation once in a folder of old files and once in an empty one; half of the kills near its end."""
    prepare.distance_maps()      # once, for all children
    old, new = os.path.join(folder, 'old'), os.path.join(folder, 'new')
    make_data(old, 0)
    _, calls = in_child(make_data, new)
    rounds = []
    for moment in itertools.chain(rng.integers(calls, size=12), calls - rng.integers(1, 150, size=16)):
        for before in (old, None):
            place = os.path.join(folder, 'killed-%d' % len(rounds))
            shutil.copytree(old, place) if before else os.mkdir(place)
            was_killed, _ = in_child(make_data, place, moment=int(moment))
            rounds.append({'killed': was_killed, 'before': files(before) if before else {}, 'files': files(place)})
    return {'rounds': rounds, 'new': files(new)}


if __name__ == '__main__':
    JOBS = {'train': killed_trainings, 'prepare': killed_preparations}
    print(json.dumps(JOBS[sys.argv[1]](sys.argv[2], np.random.default_rng(int(sys.argv[3])))))
    sys.exit()


# The tests ------------------------------------------------------------------------------------------------------------

import matplotlib                                                    # noqa: E402
import pytest                                                        # noqa: E402

from test_notebook import CHANGES, check_submission, read_notebook   # noqa: E402

needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork and kill -9')


def run(job, folder, seed):
    process = subprocess.Popen([sys.executable, os.path.abspath(__file__), job, str(folder), str(seed)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(output.decode())


@needs_fork
def test_a_killed_training_resumes_and_ends_with_the_same_bits(tmp_path):
    report = run('train', tmp_path, 0)
    rounds, epochs = report['rounds'], report['epochs']
    assert len(set(epochs)) == EPOCHS and len(rounds) > 12, '%d kills, expected a dozen' % (len(rounds) - 1)
    reached, parts = 0, 0
    for number, left in enumerate(rounds):
        other = [name for name in left['files'] if name not in ('checkpoint.npz', 'weights.npz')]
        parts, more = len(other), len(other) - parts
        assert all(name.endswith('.part') for name in other) and more <= 1, 'kill %d left %s' % (number, other)
        checkpoint = left['files'].get('checkpoint.npz')
        assert checkpoint in epochs or (not reached and checkpoint is None), 'kill %d damaged it' % number
        now = 1 + epochs.index(checkpoint) if checkpoint else 0
        assert now >= reached, 'kill %d took the checkpoint from epoch %d back to %d' % (number, reached, now)
        reached = now
        weights = left['files'].get('weights.npz', report['undisturbed']['weights.npz'])
        assert weights == report['undisturbed']['weights.npz'], 'kill %d left weights other than the best' % number
    assert 0 < parts < len(rounds) - 1, '%d of %d kills while writing, expected some' % (parts, len(rounds) - 1)
    assert reached == EPOCHS and 'weights.npz' in rounds[-1]['files'], 'the training has not ended'


@needs_fork
def test_a_killed_preparation_leaves_old_or_new_files(tmp_path):
    report = run('prepare', tmp_path, 0)
    kills = [left for left in report['rounds'] if left['killed']]
    assert len(kills) >= 24, '%d kills, expected two dozen' % len(kills)
    outcomes = set()
    for number, left in enumerate(kills):
        other = [name for name in left['files'] if name not in NAMES]
        tidy = len(other) <= 1 and ''.join(other).startswith('unfinished-' if other else '')
        assert tidy, 'kill %d left %s besides the data' % (number, other)
        for name in NAMES:
            old, new = left['before'].get(name), report['new'][name]
            got = left['files'].get(name)
            assert got in (old, new), 'kill %d: %s is neither the old nor the new file' % (number, name)
            outcomes.add('new' if got == new else 'old')
    assert outcomes == {'old', 'new'}, 'expected kills before and after the files took their places, got %s' % outcomes


# Interrupted by hand --------------------------------------------------------------------------------------------------

class Display(object):
    """Stands in for what IPython's display returns outside of a notebook."""

    def update(self, figure):
        pass


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    """A folder with a small stand-in for the lab's data."""
    folder = tmp_path_factory.mktemp('lab')
    prepare.make_stand_in(str(folder / 'data'), 1500, 130)
    return folder


@pytest.mark.parametrize('steps, epochs', [(3, 0), (12, 1)], ids=['in the first epoch', 'in the second epoch'])
def test_the_notebook_goes_on_with_the_best_weights_when_training_is_interrupted(lab, monkeypatch, steps, epochs):
    """Ctrl-C at that step of SGD; with 1200 rows in batches of 128 an epoch has ten."""
    fit, best = network.Network.fit, {}

    def interrupted(self, *arguments, **options):
        update, count, on_epoch = self.update, itertools.count(1), options.pop('on_epoch')

        def stopping(*arguments, **options):
            if next(count) == steps:
                raise KeyboardInterrupt()
            update(*arguments, **options)

        def keep(record):
            on_epoch(record)
            best.update((name, array.copy()) for name, array in self.arrays().items())

        self.update = stopping
        try:
            fit(self, *arguments, on_epoch=keep, **options)
        finally:
            self.update = update

    monkeypatch.chdir(str(lab))
    monkeypatch.setattr(network.Network, 'fit', interrupted)
    monkeypatch.setattr('IPython.display.display', lambda *arguments, **options: Display())
    matplotlib.use('Agg')
    printed, cells = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        for number, cell in enumerate(read_notebook().cells):
            if cell.cell_type == 'code':
                for old, new in CHANGES:
                    cell.source = cell.source.replace(old, new)
                exec(compile(cell.source, 'cell %d' % number, 'exec'), cells)
    matplotlib.pyplot.close('all')
    net = cells['net']
    assert 'Interrupted after %d epochs.' % epochs in printed.getvalue(), printed.getvalue()
    assert len(net.history) == epochs
    for name, array in best.items():
        assert np.array_equal(net.arrays()[name], array), '%s is not as it was after the best epoch' % name
    check_submission(lab)
    os.remove(str(lab / 'DLAD-test-predict.csv'))
