"""Small networks, rows and comparisons that several test files use."""
import copy
import warnings

import numpy as np
import pytest

from layer import (Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, MaxPool2d, ReLU,
                   Reshape)
from network import Network

CLASSES = 4
FEATURES = 9      # also the pixels of an image of 3 x 3


def make_mlp(seed=0, loss=None):
    rng = np.random.default_rng(seed)
    layers = [FullyConnected(FEATURES, 5, rng), ReLU(), FullyConnected(5, CLASSES, rng)]
    return Network(layers, loss)


def make_cnn(seed=0):
    """The features become a 4 x 4 image, and convolutions see that image."""
    rng = np.random.default_rng(seed)
    return Network([FullyConnected(FEATURES, 16, rng), Reshape(4, 4, 1), Conv2d(1, 3, 3, rng),
                    ReLU(), MaxPool2d(), Conv2d(3, 2, 1, rng), Flatten(),
                    FullyConnected(8, CLASSES, rng)])


def make_random(seed=0):
    """A network whose layers also draw random numbers and keep running statistics."""
    rng = np.random.default_rng(seed)
    layers = [Augment(5, 0.05, 0.05, 0.3, 0.1, rng), FullyConnected(FEATURES, 16, rng),
              Reshape(4, 4, 1), Conv2d(1, 3, 3, rng), BatchNorm(3), ReLU(), MaxPool2d(), Flatten(),
              Dropout(0.3, rng), FullyConnected(12, CLASSES, rng)]
    return Network(layers, input_shape=FEATURES)


every_network = pytest.mark.parametrize('make', [make_mlp, make_cnn, make_random])


def make_rows(count, seed=1):
    """Rows (N, FEATURES) float32 and labels (N,) that a network can learn."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, count)
    rows = np.eye(CLASSES, FEATURES)[label] * 2 + rng.standard_normal((count, FEATURES)) * 0.7
    return rows.astype(np.float32), label


def normal(*shape, seed=1, dtype=np.float64):
    """Normally distributed numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def convert(net, dtype):
    """Convert all layers of a network, in place, and return it."""
    for layer in net.layers:
        for name in layer.parameter_names + layer.state_names:
            setattr(layer, name, getattr(layer, name).astype(dtype))
    return net


def copies(net):
    """{name: copy} of the parameters and states of a network."""
    return copy.deepcopy(net.arrays())


def make_step(net, rows, label, lr=0.1, **sgd):
    """Take one step of SGD, and return the loss before it."""
    loss = net.forward(rows, label)[1]
    net.backward()
    net.update(lr, **sgd)
    return loss


def gradients(net):
    """{name: gradient} of all parameters."""
    return {name: getattr(layer, attribute + '_grad')
            for name, layer, attribute in net.parameters()}


def check_equal(got, expected, what='the arrays'):
    """AssertionError, naming the array, unless two dicts hold the same arrays, bit for bit."""
    if sorted(got) != sorted(expected):
        raise AssertionError(f'{what}: got the names {sorted(got)}, expected {sorted(expected)}')
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], f'{what}: {name}')


def differ(first, second):
    """True if two dicts with the same names hold different arrays."""
    return any(not np.array_equal(first[name], second[name]) for name in first)


def check_refused(kinds, call, *wanted):
    """Check that `call` raises one of `kinds`, with all texts `wanted` in the message.

    Returns the message.
    """
    with pytest.raises(kinds) as caught, warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)      # NumPy's own, of each overflow
        got = call()
        pytest.fail(f'accepted with the result {got!r}, expected an error', pytrace=False)
    text = str(caught.value)
    for part in wanted:
        if part not in text:
            raise AssertionError(f'expected {part!r} in the message, got {text!r}')
    return text


def read_bytes(path):
    """The content of a file."""
    with open(str(path), 'rb') as file:
        return file.read()


def write_bytes(path, content):
    """Write a file, and return its path as a string."""
    with open(str(path), 'wb') as file:
        file.write(content)
    return str(path)
