"""A training that is stopped goes on from its checkpoint, and ends with the same bits."""
import copy
import errno
import functools
import io
import itertools
import json
import os
import re
import signal
import sys
import traceback

import numpy as np
import pytest

import checkpoint
import fast_conv2d
import network
from checkpoint import Checkpoint
from network import Network, Training, one_cycle
from parallel import ParallelNetwork
from small_networks import check_equal
from workshop import make_images, make_random

EPOCHS = 5
SETTINGS = {'epochs': EPOCHS, 'batch_size': 12, 'lr': 0.05, 'schedule': one_cycle,
            'ema_decay': 0.9, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 1e-3}
TRAIN = make_images(48, 1)
VALIDATION = make_images(30, 2)

make_net = functools.partial(make_random, Network=ParallelNetwork, Conv2d=fast_conv2d.Conv2d)


def make_training(net, train=TRAIN, validation=VALIDATION, **changes):
    return Training(net, train, validation, **dict(SETTINGS, **changes))


def train(training, path=None, on_epoch=None):
    """Go on from the checkpoint at `path` if it is there; save it after each epoch."""
    def after_epoch(record):
        if path:
            kept.save(record)
        if on_epoch:
            on_epoch(record)

    kept = Checkpoint(path, training) if path else None
    if path:
        kept.load()
    training.run(after_epoch, verbose=False)


# Killed, interrupted, resumed ---------------------------------------------------------------------

def train_in_child(folder, moment=None, writing=False, on_epoch=None):
    """Train in a child that kills itself at its call number `moment` -> its calls, None if killed.

    `kill -9` leaves a process no time to tidy up. To kill at the same moments on every machine, the
    child counts its calls of functions, Python's and C's. With `writing`, only those count during
    which the checkpoint is half written. At the end the child writes the weights.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        calls = itertools.count()
        half_written = str(folder / f'file.npz.{os.getpid()}.part')

        def count(frame, event, argument):
            if (not writing or os.path.exists(half_written)) and next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            network.time.time = lambda: 0.0      # the history holds the seconds of each epoch
            sys.setprofile(count)
            training = make_training(make_net())
            train(training, str(folder / 'file.npz'), on_epoch)
            checkpoint.write_npz(str(folder / 'weights.npz'), training.net.arrays())
            sys.setprofile(None)
            os.write(writer, str(next(calls)).encode())
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    with open(reader, 'rb') as pipe:
        calls = pipe.read()
    assert os.waitpid(child, 0)[1] == (0 if calls else signal.SIGKILL), 'the child failed'
    return int(calls) if calls else None


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork and kill -9')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')      # Python's, of threads and fork
def test_a_killed_training_resumes_and_ends_with_the_same_bits(tmp_path):
    def keep(record):
        (tmp_path / f'{record["epoch"]}.npz').write_bytes((whole / 'file.npz').read_bytes())

    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    whole.mkdir()
    killed.mkdir()
    calls = train_in_child(whole, on_epoch=keep)
    calls_to_resume = train_in_child(whole)      # it has ended, so this only resumes
    calls_of_an_epoch = (calls - calls_to_resume) // EPOCHS
    states = [None] + [(tmp_path / f'{epoch + 1}.npz').read_bytes() for epoch in range(EPOCHS)]
    rng = np.random.default_rng(0)
    reached = kills = while_writing = 0
    ended = None
    while not ended:
        writing = kills % 3 == 2
        moment = int(rng.integers(12 if writing else calls_to_resume + 2 * calls_of_an_epoch))
        before = len(os.listdir(str(killed)))
        ended = train_in_child(killed, moment if kills < 23 else None, writing)
        kills += 1
        files = {path.name: path.read_bytes() for path in killed.iterdir()}
        parts = [name for name in files if name not in ('file.npz', 'weights.npz')]
        assert all(name.endswith('.part') for name in parts) and len(files) <= before + 2
        while_writing += writing and not ended
        assert files.get('file.npz') in states[reached:], f'kill {kills}: damaged or an older one'
        reached = states.index(files.get('file.npz'))
    assert kills > 8 and while_writing > 2 and reached == EPOCHS
    assert files['weights.npz'] == (whole / 'weights.npz').read_bytes()


def stop_after(epoch):
    """An on_epoch that stops the training after that epoch, as Ctrl-C does."""
    def stop(record):
        if record['epoch'] == epoch:
            raise KeyboardInterrupt()
    return stop


def train_until(epoch, path, make=make_net, **changes):
    with pytest.raises(KeyboardInterrupt):
        train(make_training(make(), **changes), path, stop_after(epoch))


def without_seconds(history):
    return [dict(record, seconds=0) for record in history]


@pytest.mark.parametrize('kind', [Network, ParallelNetwork])
@pytest.mark.parametrize('changes', [{}, {'ema_decay': 0.0}, {'momentum': 0.0, 'nesterov': False},
                                     {'validation': None}], ids=repr)
def test_interrupted_and_resumed_gives_the_same_bits(tmp_path, kind, changes):
    make = functools.partial(make_net, Network=kind)
    undisturbed = make_training(make(), epochs=4, **changes)
    train(undisturbed)
    for stop in (1, 3):
        path = str(tmp_path / f'{stop}.npz')
        train_until(stop, path, make, epochs=4, **changes)
        for on_epoch in (None, stop_after(1)):      # then nothing is left, so nothing stops it
            rows, label = TRAIN
            resumed = make_training(make(seed=9), (rows, label.astype(np.uint8)), epochs=4,
                                    **changes)
            train(resumed, path, on_epoch)
            check_equal(resumed.net.arrays(), undisturbed.net.arrays(), f'stopped after {stop}')
            assert without_seconds(resumed.history) == without_seconds(undisturbed.history)
            assert resumed.steps == undisturbed.steps
    assert sorted(os.listdir(str(tmp_path))) == ['1.npz', '3.npz']


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """The content of a checkpoint after two epochs."""
    path = tmp_path_factory.mktemp('saved') / 'file.npz'
    train_until(2, str(path))
    return path.read_bytes()


def load_and_save(content, tmp_path, net=None, **changes):
    """Load this content, and save what it gave -> that content. Refused, it changes nothing."""
    path = tmp_path / 'file.npz'
    path.write_bytes(content)
    training = make_training(net or make_net(1), **changes)
    kept = Checkpoint(str(path), training)
    before = copy.deepcopy(kept.arrays())
    try:
        kept.load()
    except ValueError as error:
        assert 'file.npz' in str(error) and '\n' not in str(error), error
        assert 'allow_pickle' not in str(error), f'it suggests to trust the file: {error}'
        check_equal(kept.arrays(), before, 'refused, but changed')
        assert training.history == [] and training.steps == 0
        assert path.read_bytes() == content, 'refused, but the file has changed'
        raise
    kept.save()
    return path.read_bytes()


def other_label():
    label = TRAIN[1].copy()
    label[7] = (label[7] + 1) % 4
    return TRAIN[0], label


def other(part, **changes):
    """{} and a function that makes the network with other attributes of a part of it."""
    def make():
        net = make_net(5)
        for name, value in changes.items():
            assert getattr(part(net), name) != value
            setattr(part(net), name, value)
        return net
    return {}, make


def norm(net):
    return net.layers[4]


def dropout(net):
    return net.layers[8]


OTHERS = [('lr', {'lr': 0.06}), ('seed', {'seed': 1}), ('epochs', {'epochs': 4}),
          ('batch_size', {'batch_size': 13}), ('momentum', {'momentum': 0.8}),
          ('weight_decay', {'weight_decay': 0}), ('nesterov', {'nesterov': False}),
          ('ema_decay', {'ema_decay': 0.8}), ('schedule', {'schedule': None}),
          ('schedule', {'schedule': lambda done: 0.0 if 0.5 < done < 0.51 else one_cycle(done)}),
          ('training data', {'train': make_images(47, 1)}),
          ('training data', {'train': make_images(48, 3)}),
          ('training data', {'train': other_label()}),
          ('training data', {'train': (TRAIN[0].astype(np.float64), TRAIN[1])}),
          ('validation data', {'validation': make_images(30, 3)}),
          ('validation data', {'validation': None}),
          ('classes, parts' if sys.platform == 'linux' else 'classes', {},
           functools.partial(make_net, Network=Network)),
          ('classes', {}, functools.partial(make_net, Conv2d=network.Conv2d)),
          ('parts', *other(lambda net: net, parts=3)),
          ('settings', *other(norm, momentum=0.2)), ('settings', *other(norm, eps=1e-4)),
          ('settings', *other(dropout, p=0.3 + 1e-9)),
          ('settings', *other(dropout, p=np.float32(0.3 + 1e-7))),
          ('settings', *other(lambda net: net.loss, label_smoothing=1e-9))]


@pytest.mark.parametrize('number', range(len(OTHERS)))
def test_a_checkpoint_of_another_training_is_refused(tmp_path, saved, number):
    field, changes, make = (OTHERS[number] + (make_net,))[:3]
    with pytest.raises(ValueError, match=f'another training.* {field}.*: '):
        load_and_save(saved, tmp_path, make(), **changes)


# Damaged files ----------------------------------------------------------------------------------

def test_a_loaded_checkpoint_is_saved_as_the_same_bytes_and_a_damaged_one_refused(tmp_path, saved):
    """Truncated anywhere, or weights."""
    assert load_and_save(saved, tmp_path) == saved
    make_net().save(str(tmp_path / 'file.npz'))
    damaged = [saved[:length] for length in range(0, len(saved), len(saved) // 20)]
    for content in damaged + [(tmp_path / 'file.npz').read_bytes()]:
        with pytest.raises(ValueError, match='not a whole .npz file|not a checkpoint'):
            load_and_save(content, tmp_path)


def test_a_shape_that_claims_less_is_noticed(tmp_path):
    """NumPy alone would read fewer numbers, and not the checksum behind them."""
    path = tmp_path / 'file.npz'
    checkpoint.write_npz(str(path), {'a': np.zeros((5000, 3))})
    path.write_bytes(path.read_bytes().replace(b'(5000, 3)', b'(4000, 3)'))
    with pytest.raises(ValueError, match='not a whole .npz file'):
        checkpoint.read_npz(str(path))


def test_flipped_bytes_are_noticed_or_do_not_matter(tmp_path, saved):
    rng = np.random.default_rng(0)
    noticed = 0
    for _ in range(150):
        damaged = bytearray(saved)
        damaged[rng.integers(len(saved))] ^= int(rng.integers(1, 256))
        try:
            assert load_and_save(bytes(damaged), tmp_path) == saved
        except ValueError:
            noticed += 1
    assert noticed > 75, f'{noticed} of 150 flipped bytes were noticed'


class Executed(object):
    """Unpickling this creates a file."""

    def __reduce__(self):
        return open, ('executed', 'w')


def as_text(change):
    """A change of the array 'about', which is a JSON text."""
    return lambda array: np.array(json.dumps(change(json.loads(str(array)))))


WEIGHT = '10.FullyConnected.weight'
EXECUTED = np.array([Executed()], object)
CHANGES = {'missing': lambda array: None, 'transposed': lambda array: array.T,
           'longer': lambda array: np.vstack([array, array]),
           'scalar': lambda array: np.float32(1), 'integers': lambda array: array.astype(int),
           'complex': lambda array: array.astype(complex), 'text': lambda array: array.astype(str),
           'records': lambda array: np.zeros(array.shape, [('a', 'f4')])}
WRONG = [(f'{part} {WEIGHT}', change, f'{part} {WEIGHT}')
         for part in ('last', 'best', 'average', 'velocity') for change in CHANGES.values()]
WRONG += [(name, lambda array: np.zeros(3), name) for name in ('more', 'last more')]
WRONG += [('about', change, 'not a checkpoint') for change in (
    lambda array: None, lambda array: np.array('weights'), lambda array: np.zeros(3),
    as_text(lambda about: [about]), as_text(lambda about: {'history': [], 'steps': 0}),
    as_text(lambda about: dict(about, steps=None)), as_text(lambda about: dict(about, history=3)),
    as_text(lambda about: dict(about, fingerprint='mine')))]
WRONG += [(name, lambda array: EXECUTED, 'not a whole .npz file')
          for name in ('about', f'last {WEIGHT}', 'more')]


@pytest.mark.parametrize('number', range(len(WRONG)))
def test_arrays_that_do_not_fit_are_refused_and_objects_unopened(tmp_path, saved, number,
                                                                 monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    name, change, telling = WRONG[number]
    with np.load(io.BytesIO(saved)) as file:
        arrays = dict(file.items())
    arrays[name] = change(arrays.get(name))
    buffer = io.BytesIO()
    np.savez(buffer, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=telling):
        load_and_save(buffer.getvalue(), tmp_path)
    assert os.listdir(str(tmp_path)) == ['file.npz'], 'a pickled object was executed'


# Disks that are full or closed --------------------------------------------------------------------

def failing(code):
    """A function of the system that fails."""
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))
    return fail


@pytest.mark.parametrize('fault, code', [
    ('replace', errno.EIO), ('fsync', errno.ENOSPC), ('open', errno.EROFS), ('full', errno.ENOSPC)])
def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, saved, monkeypatch, fault, code):
    path = tmp_path / 'file.npz'
    path.write_bytes(saved)
    training = make_training(make_net())
    kept = Checkpoint(str(path), training)
    kept.load()
    training.run_epoch()
    if fault == 'full':
        if not os.path.exists('/dev/full'):
            pytest.skip('needs the device that is always full')
        os.symlink('/dev/full', f'{path}.{os.getpid()}.part')      # where the file is written
    else:
        owner = checkpoint if fault == 'open' else os
        monkeypatch.setattr(owner, fault, failing(code), raising=False)
    with pytest.raises(OSError, match=re.escape(os.strerror(code)) + '.*free space') as caught:
        kept.save()
    assert str(path) in str(caught.value) and caught.value.errno == code
    assert os.listdir(str(tmp_path)) == ['file.npz'] and path.read_bytes() == saved
