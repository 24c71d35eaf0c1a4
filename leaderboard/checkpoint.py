"""A checkpoint: a file from which a training goes on where it was stopped, to the same bits.

    checkpoint = Checkpoint('training.npz', training)     # training is a network.Training
    checkpoint.load()                                     # if the file is there
    training.run(on_epoch=checkpoint.save)                # writes the file after each epoch

The file holds what Training.state() returns, and a fingerprint that says which training it is.
"""
import contextlib
import json
import os
import time
import zlib

import numpy as np

from network import check_arrays, read_npz, write_npz

PARTS = ('last', 'best', 'average', 'velocity')     # the parts of Training.state() with arrays


class Checkpoint(object):
    """The file of one training.

    It is an .npz file. The array 'last 0.FullyConnected.weight' is that array in the part 'last'.
    The array 'about' is a JSON text: the fingerprint, the history and the number of steps.
    """

    def __init__(self, path, training):
        self.path = path
        self.training = training
        self.fingerprint = fingerprint(training)

    def save(self, record=None):
        """Write the state. On an error the file stays as it was. `record` is not used."""
        state = self.training.state()
        about = {'fingerprint': self.fingerprint, 'history': state['history'],
                 'steps': state['steps']}
        parts = {part: state[part] or {} for part in PARTS}
        arrays = flat(parts)
        arrays['about'] = np.array(json.dumps(about))
        write_npz(self.path, arrays)

    def load(self):
        """Restore the state, if the file is there.

        ValueError, with nothing changed, if the file is damaged, is not a checkpoint, or is the
        checkpoint of another training.
        """
        if not os.path.exists(self.path):
            return
        arrays = read_npz(self.path)
        found, history, steps = read_about(arrays.pop('about', ''), self.path)
        check_fingerprint(found, self.fingerprint, self.path)
        check_arrays(arrays, self.expected_arrays(), self.path)
        state = {'history': history, 'steps': steps}
        for part in PARTS:
            state[part] = {}
        for key, array in arrays.items():
            part, name = key.split(' ', 1)
            state[part][name] = array
        self.training.restore(state)

    def expected_arrays(self):
        """{name: array} with the names and shapes of the arrays that the file must hold."""
        net = self.training.net
        own = net.arrays()
        parts = {'last': own, 'best': own}
        if self.training.ema_decay:
            parts['average'] = own
        if self.training.sgd.get('momentum'):
            parts['velocity'] = {name: own[name] for name, _, _ in net.parameters()}
        return flat(parts)


def flat(parts):
    """{part: {name: array}} -> {'part name': array}."""
    arrays = {}
    for part, named in parts.items():
        for name, array in named.items():
            arrays[f'{part} {name}'] = array
    return arrays


def read_about(text, path):
    """The array 'about' of a checkpoint -> fingerprint, history, steps. ValueError if it is not."""
    try:
        about = json.loads(str(text))
        return dict(about['fingerprint']), list(about['history']), int(about['steps'])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f'{path} is not a checkpoint: move it away, or name another checkpoint '
                         'file') from None


def fingerprint(training):
    """All that the bits of a training depend on: {field: text, number or list}."""
    net = training.net
    fields = {}
    fields['network'] = repr(net)
    fields['classes'] = class_names([net] + net.layers)
    fields['parts'] = getattr(net, 'parts', 1)      # of a batch, see ParallelNetwork
    fields['epochs'] = int(training.epochs)
    fields['batch_size'] = int(training.batch_size)
    fields['lr'] = float(training.lr)
    fields['schedule'] = schedule_values(training.schedule)
    fields['seed'] = int(training.seed)
    fields['ema_decay'] = float(training.ema_decay)
    for name, value in training.sgd.items():
        fields[name] = float(value)
    fields['training data'] = checksum(training.train)
    fields['validation data'] = checksum(training.validation)
    return fields


def class_names(objects):
    """The module and class of each object. The fast layers print like the plain ones."""
    return [f'{type(each).__module__}.{type(each).__name__}' for each in objects]


def schedule_values(schedule, count=16):
    """The schedule at `count` points of the training, as a function has no name of its own."""
    if schedule is None:
        return []
    return [float(schedule(index / count)) for index in range(count)]


def checksum(pair):
    """(data, label) or None -> a text with the shape, the dtype and the checksums.

    The dtype of the labels does not count: it changes nothing in a training.
    """
    if pair is None:
        return 'none'
    data, label = pair
    data_sum = zlib.crc32(np.ascontiguousarray(data))
    label_sum = zlib.crc32(np.ascontiguousarray(label, dtype=np.int64))
    return f'{data.shape} {data.dtype} {data_sum:08x} {label_sum:08x}'


def check_fingerprint(found, expected, path):
    """ValueError, naming the fields that differ, if a checkpoint is of another training."""
    names = sorted(set(found) | set(expected))
    different = [name for name in names if found.get(name) != expected.get(name)]
    if different:
        raise ValueError(f'{path} is the checkpoint of another training, which differs in '
                         f'{", ".join(different)}: move it away, or name another checkpoint file')


@contextlib.contextmanager
def replacing(path):
    """Open a binary file that takes the place of `path` when it is complete.

    After an error, the file at `path` is as it was. A symbolic link is followed.
    """
    path = os.path.realpath(path)
    beside = f'{path}.{os.getpid()}.part'
    try:
        with open(beside, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace_file(beside, path)
    except OSError as error:
        if error.filename not in (None, beside):      # of another file, and said already
            raise
        remedy = 'free space there or choose another folder'
        if isinstance(error, PermissionError):
            remedy = 'close the program that has it open, or choose another folder'
        if isinstance(error, FileNotFoundError):
            remedy = 'make the folder, or choose another folder'
        raise OSError(error.errno, f'{error.strerror}: nothing was written, {remedy}', path)
    finally:
        if os.path.lexists(beside):
            os.remove(beside)


def replace_file(source, target, tries=20):
    """os.replace, tried for two seconds: on Windows another program may have `target` open."""
    for _ in range(tries):
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(0.1)
    return os.replace(source, target)
