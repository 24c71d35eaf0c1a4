"""What the tests of leaderboard/ share: a network with all that is random, and comparisons."""
import numpy as np

import layer
import network
from layer import (Augment, BatchNorm, Dropout, Flatten, FullyConnected, MaxPool2d,
                   PixelScaling, ReLU, Reshape, Tanh)

CLASSES = 4
PIXELS = 16


def make_random(seed=0, Network=network.Network, Conv2d=layer.Conv2d):
    """A network for images of 4 x 4 pixels. Its layers draw numbers and keep statistics."""
    rng = np.random.default_rng(seed)
    return Network([
        PixelScaling(), Augment(10, 0.1, 0.1, 0.5, 0.2, rng), Reshape(4, 4, 1),
        Conv2d(1, 3, rng=rng, bias=False), BatchNorm(3), ReLU(), MaxPool2d(), Flatten(),
        Dropout(0.3, rng), Tanh(), FullyConnected(12, CLASSES, rng)], input_shape=PIXELS)


def make_images(count, seed=1):
    """Images (N, PIXELS) float32 and labels (N,)."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, PIXELS)).astype(np.float32)
    return rows, rng.integers(0, CLASSES, count)


def lab_rows(count, seed=0):
    """Rows of the lab: pixels (N, 784) uint8 and labels (N,), all 47 of them if N allows it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 784), dtype=np.uint8)
    return pixels, np.arange(count) % 47


def results(layers, images, seed=2):
    """{name: array} of all that forward and backward give, and of what the layers then hold.

    `layers` may be one Block, whose layers are named like the plain ones.
    """
    output = images
    for each in layers:
        output = each.forward(output)
    grad = np.random.default_rng(seed).standard_normal(output.shape).astype(output.dtype)
    found = {'output': output.copy()}
    for each in reversed(layers):
        grad = each.backward(grad)
    found['input_grad'] = grad
    for number, each in enumerate(getattr(layers[0], 'layers', layers)):
        for name in each.parameter_names + each.state_names:
            found[f'{number}.{name}'] = getattr(each, name).copy()
        for name in each.parameter_names:
            found[f'{number}.{name}_grad'] = getattr(each, name + '_grad')
    return found


def assert_close(got, expected, tolerance):
    """All arrays have the same dtype, and numbers equal to a part of the greatest one."""
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        if array is None:
            assert got[name] is None, f'{name}: got an array, expected None'
            continue
        kind, wanted = [(each.shape, each.dtype) for each in (got[name], array)]
        assert kind == wanted, f'{name}: got {kind}, expected {wanted}'
        error = abs(got[name] - array).max(initial=0)
        greatest = max(abs(array).max(initial=0), 1e-3)      # below it is nothing but rounding
        assert error <= tolerance * greatest, (
            f'{name} differs by {error}, its greatest number is {greatest}')


def write_table(path, rows):
    """Write a CSV file of integers."""
    np.savetxt(str(path), rows, '%d', delimiter=',')
