"""A training that is stopped goes on from its checkpoint, and ends with the same bits.

`kill -9` leaves a process no time to tidy up. To kill at the same moments on every machine, a child
process counts its calls of functions, Python's and C's, and kills itself at a chosen one. This file
is also the script that does so. It prints, as JSON, which files each kill left:

    python test_checkpoint.py FOLDER SEED
"""
import copy
import errno
import functools
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
import zlib

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'leaderboard')]

import checkpoint      # noqa: E402
import fast_conv2d      # noqa: E402
import network      # noqa: E402
from checkpoint import Checkpoint      # noqa: E402
from network import Network, Training, one_cycle      # noqa: E402
from parallel import ParallelNetwork, blas_controller      # noqa: E402
from workshop import make_images, make_random, same      # noqa: E402

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


def read_bytes(path):
    with open(str(path), 'rb') as file:
        return file.read()


# The script ---------------------------------------------------------------------------------------

def train_in(folder, copies=None):
    """Train with a checkpoint in `folder`, then save the weights; copy each epoch's checkpoint."""
    def copy(record):
        if copies:
            shutil.copy(path, f'{copies}-{record["epoch"]:02}')

    network.time.time = lambda: 0.0      # the history holds the seconds of each epoch
    path = os.path.join(folder, 'checkpoint.npz')
    training = make_training(make_net())
    train(training, path, copy)
    checkpoint.write_npz(os.path.join(folder, 'weights.npz'), training.net.arrays())


def run_in_child(folder, copies=None, moment=None, writing=False):
    """train_in in a child that dies at its call number `moment` -> (was it killed, its calls).

    With `writing`, only the calls count during which the checkpoint is half written.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        calls = itertools.count()
        half_written = os.path.join(folder, f'checkpoint.npz.{os.getpid()}.part')

        def count(frame, event, argument):
            if writing and not os.path.exists(half_written):
                return
            if next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(count)
            train_in(folder, copies)
            sys.setprofile(None)
            os.write(writer, str(next(calls)).encode())
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


def digests(folder):
    """{name: digest} of the files in a folder."""
    return {name: zlib.crc32(read_bytes(os.path.join(folder, name)))
            for name in sorted(os.listdir(folder))}


def kill_and_resume(folder, seed):
    """Kill and resume, until the training ends. Every third kill hits while it is written."""
    rng = np.random.default_rng(seed)
    copies, undisturbed, killed = [os.path.join(folder, name) for name in 'abc']
    for path in (copies, undisturbed, killed):
        os.mkdir(path)
    blas_controller()       # once, so that its import is not among the calls of each child
    _, calls = run_in_child(undisturbed, os.path.join(copies, 'epoch'))
    _, calls_to_resume = run_in_child(undisturbed)      # it has ended, so this only resumes
    calls_of_an_epoch = (calls - calls_to_resume) // EPOCHS
    rounds = []
    was_killed = True
    while was_killed:
        writing = len(rounds) % 3 == 2
        moment = int(rng.integers(12 if writing else calls_to_resume + 2 * calls_of_an_epoch))
        moment = moment if len(rounds) < 23 else None       # so that the training ends
        was_killed, _ = run_in_child(killed, moment=moment, writing=writing)
        rounds.append(digests(killed))
    return {'rounds': rounds, 'undisturbed': digests(undisturbed),
            'epochs': [digest for _, digest in sorted(digests(copies).items())]}


if __name__ == '__main__':
    print(json.dumps(kill_and_resume(sys.argv[1], int(sys.argv[2]))))
    sys.exit()


# Killed, interrupted, resumed ---------------------------------------------------------------------

import pytest      # noqa: E402


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork and kill -9')
def test_a_killed_training_resumes_and_ends_with_the_same_bits(tmp_path):
    output = subprocess.check_output([sys.executable, os.path.abspath(__file__), str(tmp_path),
                                      '0'])
    report = json.loads(output.decode())
    epochs, rounds = report['epochs'], report['rounds']
    weights = report['undisturbed']['weights.npz']
    kills = len(rounds) - 1
    assert len(set(epochs)) == EPOCHS and kills >= 8, f'{kills} kills, expected eight or more'
    reached = while_writing = 0
    parts = set()
    for number, files in enumerate(rounds):
        before, parts = parts, set(files) - {'checkpoint.npz', 'weights.npz'}
        assert all(name.endswith('.part') for name in parts), f'kill {number} left {parts}'
        assert len(parts - before) <= 1, f'kill {number} left {parts}, before {before}'
        while_writing += len(parts) > len(before)
        if reached or 'checkpoint.npz' in files:
            assert files.get('checkpoint.npz') in epochs, f'kill {number} damaged the checkpoint'
            now = 1 + epochs.index(files['checkpoint.npz'])
            assert now >= reached, f'kill {number}: back from epoch {reached} to {now}'
            reached = now
        assert files.get('weights.npz', weights) == weights, f'kill {number}: other weights'
    assert 0 < while_writing < kills, f'{while_writing} of {kills} kills while a file was written'
    assert reached == EPOCHS and 'weights.npz' in rounds[-1], 'the training did not end'


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
            assert same(resumed.net.arrays(), undisturbed.net.arrays()), f'stopped after {stop}'
            assert without_seconds(resumed.history) == without_seconds(undisturbed.history)
            assert resumed.steps == undisturbed.steps
    assert sorted(os.listdir(str(tmp_path))) == ['1.npz', '3.npz']


def other_label():
    label = TRAIN[1].copy()
    label[7] = (label[7] + 1) % 4
    return TRAIN[0], label


def jump_at(place):
    """A schedule with a jump."""
    return {'schedule': lambda done: 1.0 if done < place else 0.1}


def other_layer(index, **changes):
    """{} and a function that makes the network with a layer of other settings."""
    def make():
        net = make_net(5)
        each = net.layers[index] if index is not None else net.loss
        for name, value in changes.items():
            assert getattr(each, name) != value
            setattr(each, name, value)
        return net
    return {}, make


def plain_conv2d():
    return make_net(5, Conv2d=network.Conv2d)


OTHERS = [('lr', {'lr': 0.06}), ('seed', {'seed': 1}), ('epochs', {'epochs': 4}),
          ('batch_size', {'batch_size': 13}), ('momentum', {'momentum': 0.8}),
          ('weight_decay', {'weight_decay': 0}), ('nesterov', {'nesterov': False}),
          ('ema_decay', {'ema_decay': 0.8}), ('schedule', {'schedule': None}),
          ('schedule', {'schedule': functools.partial(one_cycle, warm_up=0.3)}),
          ('training data', {'train': make_images(47, 1)}),
          ('training data', {'train': make_images(48, 3)}),
          ('training data', {'train': other_label()}),
          ('training data', {'train': (TRAIN[0].astype(np.float64), TRAIN[1])}),
          ('validation data', {'validation': make_images(30, 3)}),
          ('validation data', {'validation': None}),
          ('classes, parts', {}, functools.partial(make_net, Network=Network)),
          ('classes', {}, plain_conv2d),
          ('parts', {}, functools.partial(make_net, Network=functools.partial(ParallelNetwork,
                                                                              parts=3))),
          ('settings', *other_layer(4, momentum=0.2)), ('settings', *other_layer(4, eps=1e-4)),
          ('settings', *other_layer(8, p=0.3 + 1e-9)),
          ('settings', *other_layer(9, slope=0.01 + 1e-9)),
          ('settings', *other_layer(9, slope=np.float64(0.01 + 1e-9))),
          ('settings', *other_layer(None, label_smoothing=1e-9))]


def check_another(path, field, net, changes):
    """The checkpoint at `path` is refused for another training, and nothing has changed."""
    content = read_bytes(path)
    training = make_training(net, **changes)
    before = copy.deepcopy(net.arrays())
    with pytest.raises(ValueError, match=f'file.npz .* another training.* {field}.*: '):
        Checkpoint(path, training).load()
    assert same(net.arrays(), before) and training.history == []
    assert read_bytes(path) == content, 'the file was refused, but it has changed'


@pytest.mark.parametrize('number', range(len(OTHERS)))
def test_a_checkpoint_of_another_training_is_refused(tmp_path, saved, number):
    field, changes, make = (OTHERS[number] + (make_net,))[:3]
    path = tmp_path / 'file.npz'
    path.write_bytes(saved)
    check_another(str(path), field, make(), changes)


@pytest.mark.parametrize('first, second', [(0.70, 0.74), (0.74, 0.76), (0.02, 0.07)])
def test_a_schedule_whose_jump_moved_is_another(tmp_path, first, second):
    path = str(tmp_path / 'file.npz')
    train_until(1, path, **jump_at(first))
    check_another(path, 'schedule', make_net(), jump_at(second))


def test_without_a_file_a_training_starts_at_its_first_epoch(tmp_path):
    training = make_training(make_net())
    Checkpoint(str(tmp_path / 'file.npz'), training).load()
    assert training.history == [] and os.listdir(str(tmp_path)) == []


# Damaged files ------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """The content of a checkpoint after two epochs."""
    path = str(tmp_path_factory.mktemp('saved') / 'file.npz')
    train_until(2, path)
    return read_bytes(path)


def arrays_of(training):
    return checkpoint.flat({'last': training.net.arrays(), 'best': training.best,
                            'average': training.average})


def load_and_save(content, tmp_path):
    """Load this content, and save what it gave -> that content. Refused, it changes nothing."""
    path = tmp_path / 'file.npz'
    path.write_bytes(content)
    training = make_training(make_net(1))
    before = copy.deepcopy(arrays_of(training))
    try:
        Checkpoint(str(path), training).load()
    except ValueError as error:
        assert 'file.npz' in str(error) and '\n' not in str(error), error
        assert 'allow_pickle' not in str(error), f'it suggests to trust the file: {error}'
        assert same(arrays_of(training), before), 'refused, but the arrays have changed'
        assert training.history == [] and training.steps == 0 and training.net.velocity == {}
        assert path.read_bytes() == content, 'refused, but the file has changed'
        raise
    Checkpoint(str(path), training).save()
    return path.read_bytes()


def changed(content, **changes):
    """The content with arrays changed by name: change(array) -> the new array, or None."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file.items())
    for name, change in changes.items():
        arrays[name] = change(arrays.get(name))
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()


def test_a_loaded_checkpoint_is_saved_again_as_the_same_bytes(tmp_path, saved):
    assert load_and_save(saved, tmp_path) == saved


def test_truncated_at_any_place_is_refused(tmp_path, saved):
    for length in range(0, len(saved), len(saved) // 20):
        with pytest.raises(ValueError, match='not a whole .npz file'):
            load_and_save(saved[:length], tmp_path)


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


def test_a_header_that_claims_less_is_noticed(tmp_path, saved):
    """A 2 in the shape of an array becomes a 1: what is then read fits no checksum."""
    places = [match.start() + 2 for match in re.finditer(br'\(12, 4\)', saved)]
    assert len(places) == 4, 'expected one array in last, best, average and velocity'
    for place in places:
        with pytest.raises(ValueError, match='not a whole .npz file'):
            load_and_save(saved[:place] + b'1' + saved[place + 1:], tmp_path)


WEIGHT = '10.FullyConnected.weight'
CHANGES = {'missing': lambda array: None, 'transposed': lambda array: array.T,
           'longer': lambda array: np.vstack([array, array]),
           'scalar': lambda array: np.float32(1), 'integers': lambda array: array.astype(int),
           'complex': lambda array: array.astype(complex), 'text': lambda array: array.astype(str),
           'records': lambda array: np.zeros(array.shape, [('a', 'f4')])}


@pytest.mark.parametrize('part', ['last', 'best', 'average', 'velocity'])
@pytest.mark.parametrize('change', sorted(CHANGES))
def test_a_checkpoint_with_an_array_that_does_not_fit_is_refused(tmp_path, saved, part, change):
    name = f'{part} {WEIGHT}'
    with pytest.raises(ValueError, match=name):
        load_and_save(changed(saved, **{name: CHANGES[change]}), tmp_path)


def as_text(change):
    """A change of the array 'about', which is a JSON text."""
    return lambda array: np.array(json.dumps(change(json.loads(str(array)))))


@pytest.mark.parametrize('name, change', [
    ('more', lambda array: np.zeros(3)), ('last more', lambda array: np.zeros(3)),
    ('about', lambda array: None),
    ('about', lambda array: np.array('weights')), ('about', lambda array: np.zeros(3)),
    ('about', as_text(lambda about: [about])),
    ('about', as_text(lambda about: {'history': [], 'steps': 0})),
    ('about', as_text(lambda about: dict(about, steps=None))),
    ('about', as_text(lambda about: dict(about, history=3))),
    ('about', as_text(lambda about: dict(about, fingerprint='mine')))])
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path, saved, name, change):
    with pytest.raises(ValueError, match='not a checkpoint' if name == 'about' else name):
        load_and_save(changed(saved, **{name: change}), tmp_path)


def test_weights_in_place_of_a_checkpoint_are_refused(tmp_path):
    make_net().save(str(tmp_path / 'weights.npz'))
    with pytest.raises(ValueError, match='not a checkpoint'):
        load_and_save(read_bytes(tmp_path / 'weights.npz'), tmp_path)


class Executed(object):
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.parametrize('place', ['about', 'last ' + WEIGHT, 'more'])
def test_pickled_objects_are_refused_unopened(tmp_path, saved, place):
    trap = str(tmp_path / 'executed')
    content = changed(saved, **{place: lambda array: np.array([Executed(trap)], object)})
    with pytest.raises(ValueError, match='not a whole .npz file'):
        load_and_save(content, tmp_path)
    assert not os.path.exists(trap), 'the pickled object was executed'


# Disks that are full or closed --------------------------------------------------------------------

@pytest.fixture
def stopped(tmp_path, saved):
    """A training after its third epoch, with the checkpoint of its second."""
    path = tmp_path / 'file.npz'
    path.write_bytes(saved)
    training = make_training(make_net())
    kept = Checkpoint(str(path), training)
    kept.load()
    training.run_epoch()
    return kept


def check_refused_write(kept, saved, code):
    """Saving is refused with the system's reason; the old file is whole, and alone."""
    with pytest.raises(OSError, match=re.escape(os.strerror(code))) as caught:
        kept.save()
    assert kept.path in str(caught.value) and caught.value.errno == code
    assert os.listdir(os.path.dirname(kept.path)) == ['file.npz']
    assert read_bytes(kept.path) == saved, 'the old checkpoint has changed'


def failing(code):
    """A function of the system that fails."""
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))
    return fail


@pytest.mark.parametrize('name', ['replace', 'fsync', 'open'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_a_write_that_fails_leaves_the_old_checkpoint(stopped, saved, monkeypatch, name, code):
    monkeypatch.setattr(checkpoint if name == 'open' else os, name, failing(code), raising=False)
    check_refused_write(stopped, saved, code)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs the device that is always full')
def test_a_disk_that_is_really_full(stopped, saved):
    os.symlink('/dev/full', f'{stopped.path}.{os.getpid()}.part')      # where the file is written
    check_refused_write(stopped, saved, errno.ENOSPC)


@pytest.mark.parametrize('limit', [0, 1000])
def test_a_file_that_may_not_grow(stopped, saved, limit):
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        check_refused_write(stopped, saved, errno.EFBIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_training_that_met_a_full_disk_goes_on_when_there_is_space_again(tmp_path, monkeypatch):
    path = str(tmp_path / 'file.npz')
    undisturbed = make_training(make_net())
    train(undisturbed)
    train_until(2, path)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', failing(errno.ENOSPC))
        with pytest.raises(OSError, match='free space there'):
            train(make_training(make_net()), path)
    resumed = make_training(make_net(1))
    train(resumed, path)
    assert same(resumed.net.arrays(), undisturbed.net.arrays())


def test_a_lock_that_passes_does_not_end_the_training(tmp_path, monkeypatch):
    """On Windows a virus scanner holds a file for a moment, and os.replace is then refused."""
    real = os.replace
    calls = itertools.count(1)

    def locked(source, target):
        if next(calls) in (1, 2, 5):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        real(source, target)

    path = str(tmp_path / 'file.npz')
    monkeypatch.setattr(os, 'replace', locked)
    monkeypatch.setattr(checkpoint.time, 'sleep', lambda seconds: None)
    train(make_training(make_net()), path)
    assert next(calls) == EPOCHS + 4, 'expected a replacement an epoch, and three repetitions'
    training = make_training(make_net())
    Checkpoint(path, training).load()
    assert len(training.history) == EPOCHS
