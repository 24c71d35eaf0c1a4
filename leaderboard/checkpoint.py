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

    def arrays(self):
        """{'part name': array} of all that the next epoch depends on: the arrays themselves."""
        training = self.training
        parts = {'last': training.net.arrays(), 'best': training.best,
                 'average': training.average, 'velocity': {}}
        if training.sgd.get('momentum'):
            for name, layer, attribute in training.net.parameters():
                zeros = np.zeros_like(getattr(layer, attribute))      # before the first step
                own = training.net.velocity.setdefault((layer, attribute), zeros)
                parts['velocity'][name] = own
        return {f'{part} {name}': parts[part][name] for part in parts for name in parts[part]}

    def save(self, record=None):
        """Write the state after an epoch. On an error the file stays. `record` is not used."""
        about = {'fingerprint': self.fingerprint, 'history': self.training.history,
                 'steps': self.training.steps}
        write_npz(self.path, dict(self.arrays(), about=np.array(json.dumps(about))))

    def load(self):
        """Restore the state, if the file is there.

        ValueError, with nothing changed, if the file is damaged, is not a checkpoint, or is the
        checkpoint of another training.
        """
        if not os.path.exists(self.path):
            return
        arrays = read_npz(self.path)
        try:
            about = json.loads(str(arrays.pop('about', '')))
            found, history = dict(about['fingerprint']), list(about['history'])
            steps = int(about['steps'])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f'{self.path} is not a checkpoint: move it away, or name another '
                             'checkpoint file') from None
        check_same(self.path, 'training', found, self.fingerprint)
        own = self.arrays()
        check_same(self.path, 'network', kinds(arrays), kinds(own))
        for name, array in own.items():
            array[...] = arrays[name]
        self.training.history[:] = history
        self.training.steps = steps


def kinds(arrays):
    """{name: array} -> {name: shape and dtype}."""
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def check_same(path, what, found, expected):
    """ValueError, naming what differs, if the dicts differ: the checkpoint is of another one."""
    names = sorted(set(found) | set(expected))
    different = [name for name in names if found.get(name) != expected.get(name)]
    if different:
        raise ValueError(f'{path} is the checkpoint of another {what}, which differs in '
                         f'{", ".join(different[:5])}: move it away, or name another checkpoint '
                         'file')


def fingerprint(training):
    """All that the bits of a training depend on: {field: text, number or list}."""
    net = training.net
    kinds = [type(each) for each in [net, net.loss] + net.layers]      # the fast print like plain
    rates = [training.schedule(step / 10000) for step in range(10000)]
    fields = {'network': repr(net), 'classes': [f'{kind.__module__}.{kind.__name__}'
                                                for kind in kinds],
              'settings': [settings(layer) for layer in net.layers + [net.loss]],
              'parts': getattr(net, 'parts', 1),      # of a batch, see ParallelNetwork
              'schedule': zlib.crc32(np.array(rates, float)),
              'training data': checksum(training.train),
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


def checksum(pair):
    """(data, label) or None -> a text with the shape, the dtype and the checksums."""
    if pair is None:
        return 'none'
    data, label = pair
    data_sum = zlib.crc32(np.ascontiguousarray(data))
    label_sum = zlib.crc32(np.ascontiguousarray(label, dtype=np.int64))
    return f'{data.shape} {data.dtype} {data_sum:08x} {label_sum:08x}'


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
        os.replace(beside, path)
    except OSError as error:
        if error.filename not in (None, beside):      # of another file, and said already
            raise
        raise OSError(error.errno, f'{error.strerror}: nothing was written, free space there, '
                                   'close what has it open, or choose another folder', path)
    finally:
        if os.path.lexists(beside):
            os.remove(beside)


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
