"""A training that is stopped goes on from its checkpoint, and ends with the same bits.

`kill -9` leaves a process no time to tidy up. To kill at the same moments on every machine, a child
process counts its calls of functions, Python's and C's, and kills itself at a chosen one. This file
is also the script that does so. It prints, as JSON, which files each kill left:

    python test_checkpoint.py FOLDER SEED
"""
import collections
import errno
import functools
import hashlib
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

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'leaderboard')]

import network      # noqa: E402
from checkpoint import Checkpoint      # noqa: E402
from fast_conv2d import Conv2d      # noqa: E402
from layer import (Augment, BatchNorm, Dropout, Flatten, FullyConnected,      # noqa: E402
                   MaxPool2d, ReLU, Reshape)
from network import Network, Training, one_cycle      # noqa: E402
from parallel import ParallelNetwork, blas_controller      # noqa: E402

EPOCHS = 5
SETTINGS = {'epochs': EPOCHS, 'batch_size': 12, 'lr': 0.05, 'schedule': one_cycle,
            'ema_decay': 0.9, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 1e-3}


def data(rows, seed):
    """Rows (N, 6) float32 and labels 0..3."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 6)).astype(np.float32), rng.integers(0, 4, rows)


TRAIN = data(48, 1)
VALIDATION = data(30, 2)


def make_net(seed=0, Network=ParallelNetwork):
    """A small network with everything that is random or has a state."""
    rng = np.random.default_rng(seed)
    return Network([
        FullyConnected(6, 16, rng), Augment(10, 0.1, 0.1, 0.5, 0.2, rng), Reshape(4, 4, 1),
        Conv2d(1, 3, 3, rng), BatchNorm(3), ReLU(), MaxPool2d(), Flatten(), Dropout(0.3, rng),
        FullyConnected(12, 4, rng)])


def make_training(net, train=TRAIN, validation=VALIDATION, **changes):
    return Training(net, train, validation, **dict(SETTINGS, **changes))


def train(training, path=None, on_epoch=None):
    """Go on from the checkpoint at `path` if it is there; save it after each epoch."""
    def after_epoch(record):
        if checkpoint:
            checkpoint.save()
        if on_epoch:
            on_epoch(record)

    checkpoint = Checkpoint(path, training) if path else None
    if checkpoint:
        checkpoint.load()
    training.run(after_epoch, verbose=False)


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
    training.net.save(os.path.join(folder, 'weights.npz'))


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


def read_bytes(path):
    with open(path, 'rb') as file:
        return file.read()


def digests(folder):
    """{name: digest} of the files in a folder."""
    return {name: hashlib.sha256(read_bytes(os.path.join(folder, name))).hexdigest()
            for name in sorted(os.listdir(folder))}


def kill_and_resume(folder, seed):
    """Kill and resume, until the training ends. Every third kill hits while it is written."""
    rng = np.random.default_rng(seed)
    copies = os.path.join(folder, 'copies')
    undisturbed = os.path.join(folder, 'undisturbed')
    killed = os.path.join(folder, 'killed')
    for path in (copies, undisturbed, killed):
        os.mkdir(path)
    blas_controller()       # once, so that its import is not among the calls of each child
    _, calls = run_in_child(undisturbed, os.path.join(copies, 'epoch'))
    _, calls_to_resume = run_in_child(undisturbed)      # it has ended, so this only resumes
    calls_of_an_epoch = (calls - calls_to_resume) // EPOCHS
    rounds = []
    for number in range(24):
        moment = int(rng.integers(calls_to_resume + 2 * calls_of_an_epoch))
        writing = number % 3 == 2
        if writing:
            moment = int(rng.integers(12))
        if number == 23:
            moment = None       # so that the training ends
        was_killed, _ = run_in_child(killed, moment=moment, writing=writing)
        rounds.append({'killed': was_killed, 'files': digests(killed)})
        if not was_killed:
            break
    return {'rounds': rounds, 'undisturbed': digests(undisturbed),
            'epochs': [digest for _, digest in sorted(digests(copies).items())]}


if __name__ == '__main__':
    print(json.dumps(kill_and_resume(sys.argv[1], int(sys.argv[2]))))
    sys.exit()


# Killed, interrupted, resumed ---------------------------------------------------------------------

import pytest      # noqa: E402


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork and kill -9')
def test_a_killed_training_resumes_and_ends_with_the_same_bits(tmp_path):
    process = subprocess.Popen([sys.executable, os.path.abspath(__file__), str(tmp_path), '0'],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    report = json.loads(output.decode())
    epochs = report['epochs']
    weights = report['undisturbed']['weights.npz']
    assert len(set(epochs)) == EPOCHS
    assert len(report['rounds']) > 8, f'{len(report["rounds"]) - 1} kills, expected eight or more'
    reached = 0
    while_writing = 0
    parts = []
    for number, left in enumerate(report['rounds']):
        files = left['files']
        before = parts
        parts = sorted(set(files) - {'checkpoint.npz', 'weights.npz'})
        assert all(name.endswith('.part') for name in parts), f'kill {number} left {parts}'
        assert len(set(parts) - set(before)) <= 1, f'kill {number} left {parts}, before {before}'
        while_writing += len(parts) > len(before)
        checkpoint = files.get('checkpoint.npz')
        if checkpoint is None:
            assert reached == 0, f'kill {number} removed the checkpoint'
            continue
        assert checkpoint in epochs, f'kill {number} damaged the checkpoint'
        now = 1 + epochs.index(checkpoint)
        assert now >= reached, f'kill {number} took the checkpoint from epoch {reached} to {now}'
        reached = now
        assert files.get('weights.npz', weights) == weights, f'kill {number}: other weights'
    kills = len(report['rounds']) - 1
    assert 0 < while_writing < kills, f'{while_writing} of {kills} kills while a file was written'
    assert reached == EPOCHS, f'the training stopped at epoch {reached} of {EPOCHS}'
    assert 'weights.npz' in report['rounds'][-1]['files'], 'the training did not end'


def same(first, second):
    """Whether two {name: array} hold the same bits."""
    return sorted(first) == sorted(second) and all(
        np.array_equal(first[name], second[name]) for name in first)


def without_seconds(history):
    return [{name: value for name, value in record.items() if name != 'seconds'}
            for record in history]


def stop_after(epoch):
    """An on_epoch that stops the training after that epoch, as Ctrl-C does."""
    def stop(record):
        if record['epoch'] == epoch:
            raise KeyboardInterrupt()
    return stop


def train_until(epoch, path, **changes):
    with pytest.raises(KeyboardInterrupt):
        train(make_training(make_net(), **changes), path, stop_after(epoch))


@pytest.mark.parametrize('Network', [Network, ParallelNetwork])
@pytest.mark.parametrize('changes', [{}, {'ema_decay': 0.0}, {'momentum': 0.0, 'nesterov': False},
                                     {'validation': None}], ids=repr)
def test_interrupted_and_resumed_gives_the_same_bits(tmp_path, Network, changes):
    undisturbed = make_training(make_net(0, Network), epochs=4, **changes)
    train(undisturbed)
    for stop in (1, 3):
        path = str(tmp_path / f'{stop}.npz')
        with pytest.raises(KeyboardInterrupt):
            first = make_training(make_net(0, Network), epochs=4, **changes)
            train(first, path, stop_after(stop))
        resumed = make_training(make_net(9, Network), epochs=4, **changes)
        train(resumed, path)
        assert same(resumed.net.arrays(), undisturbed.net.arrays()), f'stopped after {stop}'
        assert without_seconds(resumed.history) == without_seconds(undisturbed.history)
        assert resumed.steps == undisturbed.steps
        ended = make_training(make_net(8, Network), epochs=4, **changes)
        train(ended, path, stop_after(1))       # nothing is left to train, so nothing stops it
        assert same(ended.net.arrays(), undisturbed.net.arrays())
    assert sorted(os.listdir(str(tmp_path))) == ['1.npz', '3.npz']


def test_labels_of_another_integer_dtype_resume(tmp_path):
    path = str(tmp_path / 'file.npz')
    undisturbed = make_training(make_net())
    train(undisturbed)
    train_until(2, path)
    rows, label = TRAIN
    resumed = make_training(make_net(), train=(rows, label.astype(np.uint8)))
    train(resumed, path)
    assert same(resumed.net.arrays(), undisturbed.net.arrays())


def other_labels():
    label = TRAIN[1].copy()
    label[7] = (label[7] + 1) % 4
    return TRAIN[0], label


def with_plain_conv2d():
    net = make_net()
    kernel = network.Conv2d(1, 3, 3)
    return ParallelNetwork(net.layers[:3] + [kernel] + net.layers[4:])


def three_parts(layers):
    return ParallelNetwork(layers, parts=3)


def with_a_pause(done):
    """one_cycle, but for a part in the middle."""
    return 0.0 if 0.4 < done < 0.6 else one_cycle(done)


OTHERS = [('lr', {'lr': 0.06}), ('seed', {'seed': 1}), ('epochs', {'epochs': 4}),
          ('batch_size', {'batch_size': 13}), ('momentum', {'momentum': 0.8}),
          ('weight_decay', {'weight_decay': 0}), ('nesterov', {'nesterov': False}),
          ('ema_decay', {'ema_decay': 0.8}), ('schedule', {'schedule': None}),
          ('schedule', {'schedule': with_a_pause}),
          ('schedule', {'schedule': functools.partial(one_cycle, warm_up=0.3)}),
          ('training data', {'train': data(47, 1)}), ('training data', {'train': data(48, 3)}),
          ('training data', {'train': other_labels()}),
          ('training data', {'train': (TRAIN[0].astype(np.float64), TRAIN[1])}),
          ('validation data', {'validation': data(30, 3)}),
          ('validation data', {'validation': None})]
OTHER_NETS = [('classes, parts', functools.partial(make_net, 0, Network)),
              ('classes', with_plain_conv2d),
              ('parts', functools.partial(make_net, 0, three_parts)),
              ('classes, network', lambda: ParallelNetwork([FullyConnected(6, 4)]))]


@pytest.mark.parametrize('number', range(len(OTHERS + OTHER_NETS)))
def test_a_checkpoint_of_another_training_is_refused(tmp_path, number):
    path = str(tmp_path / 'file.npz')
    train_until(1, path)
    content = read_bytes(path)
    field, change = (OTHERS + OTHER_NETS)[number]
    net = make_net(5)
    if callable(change):
        net, change = change(), {}
    training = make_training(net, **change)
    before = net.copy_arrays()
    expected = f'file.npz is the checkpoint of another training, which differs in {field}: move it'
    with pytest.raises(ValueError, match=expected) as caught:
        Checkpoint(path, training).load()
    assert '\n' not in str(caught.value)
    assert same(net.arrays(), before) and training.history == []
    assert read_bytes(path) == content, 'the file was refused, but it has changed'


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


def load(content, tmp_path):
    """Load this content -> the state. When it is refused, nothing has changed."""
    path = tmp_path / 'file.npz'
    path.write_bytes(content)
    training = make_training(make_net(1))
    before = training.net.copy_arrays()
    try:
        Checkpoint(str(path), training).load()
    except Exception:
        assert same(training.net.arrays(), before), 'refused, but the network has changed'
        assert training.history == [], 'refused, but the history has changed'
        assert path.read_bytes() == content, 'refused, but the file has changed'
        raise
    return training.state()


def refusal(error, call, *parts):
    """The text of the error that call() raises: one sentence with these parts."""
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    for part in parts:
        assert part in text, f'got {text!r}, expected {part!r} in it'
    assert '\n' not in text and len(text) < 400, f'expected one sentence, got {text!r}'
    return text


def changed(content, **changes):
    """The content with arrays changed by name: change(array) -> the new array, or None."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file.items())
    for name, change in changes.items():
        arrays[name] = change(arrays.get(name))
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()


@pytest.mark.parametrize('part', range(20))
def test_truncated_at_any_place_is_refused(tmp_path, saved, part):
    content = saved[:len(saved) * part // 20]
    refusal(ValueError, lambda: load(content, tmp_path), 'file.npz is not a whole .npz file')


def test_flipped_bytes_are_noticed_or_do_not_matter(tmp_path, saved):
    expected = load(saved, tmp_path)
    rng = np.random.default_rng(0)
    noticed = 0
    for _ in range(150):
        place = rng.integers(len(saved))
        damaged = bytearray(saved)
        damaged[place] ^= int(rng.integers(1, 256))
        try:
            got = load(bytes(damaged), tmp_path)
        except ValueError as error:
            assert 'file.npz' in str(error) and '\n' not in str(error), error
            noticed += 1
            continue
        for part in ('last', 'best', 'average', 'velocity'):
            assert same(got[part], expected[part]), f'byte {place}, flipped, changed {part}'
        assert got['history'] == expected['history'] and got['steps'] == expected['steps']
    assert noticed > 75, f'{noticed} of 150 flipped bytes were noticed'


def test_a_header_that_claims_less_is_noticed(tmp_path, saved):
    """A 6 in the shape of an array becomes a 5: what is then read fits no checksum."""
    places = [match.start() + 1 for match in re.finditer(br'\(6, 16\)', saved)]
    assert len(places) == 4, 'expected one array in last, best, average and velocity'
    for place in places:
        damaged = saved[:place] + b'5' + saved[place + 1:]
        refusal(ValueError, lambda: load(damaged, tmp_path), 'file.npz is not a whole .npz file')


WEIGHT = '0.FullyConnected.weight'
CHANGES = collections.OrderedDict([
    ('missing', lambda array: None), ('transposed', lambda array: array.T),
    ('longer', lambda array: np.vstack([array, array])), ('scalar', lambda array: np.float32(1)),
    ('integers', lambda array: array.astype(int)), ('complex', lambda array: array.astype(complex)),
    ('text', lambda array: array.astype(str)),
    ('records', lambda array: np.zeros(array.shape, [('a', 'f4')]))])


@pytest.mark.parametrize('part', ['last', 'best', 'average', 'velocity'])
@pytest.mark.parametrize('change', sorted(CHANGES))
def test_a_checkpoint_with_an_array_that_does_not_fit_is_refused(tmp_path, saved, part, change):
    content = changed(saved, **{f'{part} {WEIGHT}': CHANGES[change]})
    refusal(ValueError, lambda: load(content, tmp_path), 'file.npz', f'{part} {WEIGHT}')


def test_an_array_too_many_is_refused(tmp_path, saved):
    for name in ('more', 'last more'):
        content = changed(saved, **{name: lambda array: np.zeros(3)})
        refusal(ValueError, lambda: load(content, tmp_path), 'file.npz', name)


def as_text(change):
    """A change of the array 'about', which is a JSON text."""
    def apply(array):
        about = json.loads(str(array))
        return np.array(json.dumps(change(about)))
    return apply


NO_CHECKPOINTS = {
    'no about': lambda array: None, 'no JSON': lambda array: np.array('weights'),
    'a number': lambda array: np.zeros(3), 'a list': as_text(lambda about: [about]),
    'no fingerprint': as_text(lambda about: {'history': [], 'steps': 0}),
    'no steps': as_text(lambda about: dict(about, steps=None)),
    'no history': as_text(lambda about: dict(about, history=3)),
    'a text as fingerprint': as_text(lambda about: dict(about, fingerprint='mine'))}


@pytest.mark.parametrize('fault', sorted(NO_CHECKPOINTS))
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path, saved, fault):
    content = changed(saved, about=NO_CHECKPOINTS[fault])
    refusal(ValueError, lambda: load(content, tmp_path), 'file.npz is not a checkpoint')


def test_weights_in_place_of_a_checkpoint_are_refused(tmp_path):
    make_net().save(str(tmp_path / 'weights.npz'))
    content = read_bytes(str(tmp_path / 'weights.npz'))
    refusal(ValueError, lambda: load(content, tmp_path), 'file.npz is not a checkpoint')


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
    text = refusal(ValueError, lambda: load(content, tmp_path), 'file.npz')
    assert not os.path.exists(trap), 'the pickled object was executed'
    assert 'allow_pickle=True' not in text, f'the message suggests to trust the file: {text!r}'


# Disks that are full or closed --------------------------------------------------------------------

@pytest.fixture
def stopped(tmp_path):
    """A training after its third epoch, with the checkpoint of its second, which was copied."""
    path = str(tmp_path / 'file.npz')
    train_until(2, path)
    training = make_training(make_net())
    Checkpoint(path, training).load()
    training.run_epoch()
    return training, path, read_bytes(path)


def check_refused_write(stopped, code):
    """Saving is refused with the system's reason; the old file is whole, and alone."""
    training, path, content = stopped
    refusal(OSError, Checkpoint(path, training).save, path, os.strerror(code))
    files = os.listdir(os.path.dirname(path))
    assert files == ['file.npz'], f'got the files {files}, expected the old one alone'
    assert read_bytes(path) == content, 'the old checkpoint has changed'


@pytest.mark.parametrize('name', ['replace', 'fsync', 'open'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_a_write_that_fails_leaves_the_old_checkpoint(stopped, monkeypatch, name, code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(network if name == 'open' else os, name, fail, raising=False)
    check_refused_write(stopped, code)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs the device that is always full')
def test_a_disk_that_is_really_full(stopped):
    os.symlink('/dev/full', f'{stopped[1]}.{os.getpid()}.part')      # where the file is written
    check_refused_write(stopped, errno.ENOSPC)


@pytest.mark.parametrize('limit', [0, 1000])
def test_a_file_that_may_not_grow(stopped, limit):
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        check_refused_write(stopped, errno.EFBIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_training_that_met_a_full_disk_goes_on_when_there_is_space_again(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = str(tmp_path / 'file.npz')
    undisturbed = make_training(make_net())
    train(undisturbed)
    train_until(2, path)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        refusal(OSError, lambda: train(make_training(make_net()), path), path, 'free space there')
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
    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', locked)
        patch.setattr(network.time, 'sleep', lambda seconds: None)
        train(make_training(make_net()), path)
    assert next(calls) == EPOCHS + 4, 'expected a replacement an epoch, and three repetitions'
    training = make_training(make_net())
    Checkpoint(path, training).load()
    assert len(training.history) == EPOCHS
