"""A checkpoint: a file from which a training goes on where it was stopped, to the same bits.

    checkpoint = Checkpoint('training.npz', training)     # training is a network.Training
    checkpoint.load()                                     # if the file is there
    training.run(on_epoch=checkpoint.save)                # writes the file after each epoch

The file holds all that the next epoch depends on, and a fingerprint that says which training it is.
Files are written whole or not at all, and read without pickle.
"""
import contextlib
import io
import json
import os
import time
import zipfile
import zlib

import numpy as np


class Checkpoint(object):
    """The file of one training.

    It is an .npz file. The array 'last 0.FullyConnected.weight' is that array of the network after
    the last epoch. 'best', 'average' and 'velocity' are the other parts. The array 'about' is a
    JSON text: the fingerprint, the history and the number of steps.
    """

    def __init__(self, path, training):
        self.path = path
        self.training = training
        self.fingerprint = fingerprint(training)

    def save(self, record=None):
        """Write the state after an epoch. On an error the file stays. `record` is not used."""
        training = self.training
        about = {'fingerprint': self.fingerprint, 'history': training.history,
                 'steps': training.steps}
        own = training.net.velocity
        velocity = {name: own[layer, attribute] for name, layer, attribute
                    in training.net.parameters() if (layer, attribute) in own}
        arrays = flat({'last': training.net.arrays(), 'best': training.best,
                       'average': training.average, 'velocity': velocity})
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
        parts = {'last': {}, 'best': {}, 'average': {}, 'velocity': {}}
        for key, array in arrays.items():
            part, name = key.split(' ', 1)
            parts[part][name] = array
        training = self.training
        training.net.set_arrays(parts['last'])
        training.history[:], training.steps = history, steps
        training.best, training.average = parts['best'], parts['average']
        for name, layer, attribute in training.net.parameters():
            if name in parts['velocity']:
                training.net.velocity[layer, attribute] = parts['velocity'][name]

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
    return {f'{part} {name}': parts[part][name] for part in parts for name in parts[part]}


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
    kinds = [type(each) for each in [net, net.loss] + net.layers]      # the fast print like plain
    fields = {'network': repr(net), 'classes': [f'{kind.__module__}.{kind.__name__}'
                                                for kind in kinds],
              'settings': [settings(layer) for layer in net.layers + [net.loss]],
              'parts': getattr(net, 'parts', 1),      # of a batch, see ParallelNetwork
              'schedule': schedule_checksum(training), 'training data': checksum(training.train),
              'validation data': checksum(training.validation)}
    for name in ('epochs', 'batch_size', 'lr', 'seed', 'ema_decay'):
        fields[name] = float(getattr(training, name))
    for name, value in training.sgd.items():
        fields[name] = float(value)
    return fields


def settings(layer):
    """{name: number} of the settings of a layer, e.g. p of Dropout, momentum of BatchNorm."""
    return {name: float(value) for name, value in vars(layer).items()
            if isinstance(value, (int, float, np.number)) and not isinstance(value, bool)}


def schedule_checksum(training):
    """A checksum of the learning rate at each step. A schedule is a function without a name."""
    rows = len(training.train[0])
    factors = []
    for epoch in range(training.epochs):
        for start in range(0, rows, training.batch_size):      # as in Training.train_rows
            factors.append(training.schedule((epoch + start / rows) / training.epochs))
    return zlib.crc32(np.array(factors, float).tobytes())


def checksum(pair):
    """(data, label) or None -> a text with the shape, the dtype and the checksums."""
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


def check_arrays(arrays, expected, origin):
    """ValueError unless `arrays` has the names and the shapes of `expected`, and floats."""
    different = set(arrays) ^ set(expected)
    different |= {name for name in set(arrays) & set(expected)
                  if arrays[name].shape != expected[name].shape or arrays[name].dtype.kind != 'f'}
    if different:
        raise ValueError(f'{origin} is of another network, which differs in {min(different)}')


# Whole files --------------------------------------------------------------------------------------

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
        remedies = {PermissionError: 'close the program that has it open',
                    FileNotFoundError: 'make the folder'}
        remedy = remedies.get(type(error), 'free space there') + ' or choose another folder'
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


def write_csv(path, table, comments=()):
    """Write a table as a CSV file, below lines of comment."""
    text = ''.join(f'# {line}\n' for line in comments)
    text += table.to_csv(index=False, float_format='%.6g').replace('\r\n', '\n')
    with replacing(path) as file:
        file.write(text.encode('ascii'))


def write_npz(path, arrays):
    """Write {name: array} to an .npz file, without pickle."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    with replacing(path) as file:
        file.write(packed.getbuffer())


def read_npz(path):
    """Read {name: array} from an .npz file. ValueError if it is damaged or holds objects."""
    with open(path, 'rb') as stream:
        try:
            if zipfile.ZipFile(stream).testzip():      # NumPy alone skips some checksums
                raise ValueError('a checksum does not fit')
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except Exception as error:      # a damaged file raises a dozen kinds of errors
            raise ValueError(f'{path} is not a whole .npz file of arrays '
                             f'({type(error).__name__}): fetch it again, or train again')
