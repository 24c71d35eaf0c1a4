"""The fast convolution gives the numbers of the plain one, in layer.py."""
import copy

import numpy as np
import pytest

import fast_conv2d
import layer
from gradient_check import check_gradients

KERNELS = pytest.mark.parametrize('k', [1, 3, 5, 7])
# One pixel, odd sides, sides below and above a strip of 10 - k rows, many images, and none
SHAPES = [(2, 1, 1, 3), (3, 5, 8, 2), (2, 9, 4, 1), (2, 14, 15, 3), (40, 21, 14, 30), (0, 6, 5, 4)]


def random(*shape, seed=1):
    """Normal random numbers."""
    return np.random.default_rng(seed).standard_normal(shape)


def pair(channels, outputs, k, dtype, bias=True):
    """The plain and the fast layer with the same weights."""
    plain = layer.Conv2d(channels, outputs, k, np.random.default_rng(0), bias).astype(dtype)
    fast = fast_conv2d.Conv2d(channels, outputs, k, np.random.default_rng(0), bias).astype(dtype)
    if bias:
        plain.bias[...] = fast.bias[...] = random(1, outputs)
    return plain, fast


def assert_same(plain, fast, images, grad, tolerance):
    """Every result of the fast layer equals the plain one, relative to the greatest number."""
    results = [[conv.forward(images), conv.backward(grad), conv.weight_grad, conv.bias_grad]
               for conv in (plain, fast)]
    for name, expected, got in zip(('output', 'input_grad', 'weight_grad', 'bias_grad'), *results):
        if expected is None:
            assert got is None, f'{name}: got an array, expected None'
            continue
        assert got.shape == expected.shape and got.dtype == expected.dtype, (
            f'{name}: got {got.shape} {got.dtype}, expected {expected.shape} {expected.dtype}')
        error = abs(got - expected).max(initial=0)
        scale = abs(expected).max(initial=0)
        assert error <= tolerance * scale, (
            f'{fast!r}, images {images.shape}: {name} differs by {error} where the greatest '
            f'number is {scale}, expected at most {tolerance} of it')


@KERNELS
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('bias', [True, False])
def test_float64_equals_plain_to_1e_12(k, shape, bias):
    plain, fast = pair(shape[3], 3, k, np.float64, bias)
    assert_same(plain, fast, random(*shape), random(*shape[:3], 3, seed=2), 1e-12)


@KERNELS
def test_float32_equals_plain_to_5e_5(k):
    plain, fast = pair(16, 12, k, np.float32)
    images = random(4, 14, 14, 16).astype(np.float32)
    assert_same(plain, fast, images, random(4, 14, 14, 12, seed=2).astype(np.float32), 5e-5)


@KERNELS
def test_strided_and_transposed_arrays(k):
    plain, fast = pair(4, 3, k, np.float64)
    images = random(4, 8, 10, 5).transpose(3, 2, 1, 0)[:, ::2]
    grad = random(3, 8, 5, 10, seed=2).transpose(3, 2, 1, 0)[::2, ::-1]
    assert_same(plain, fast, images, grad, 1e-12)


@KERNELS
def test_gradients(k):
    check_gradients(fast_conv2d.Conv2d(2, 3, k, np.random.default_rng(0)), random(2, 4, 5, 2))


def test_arguments_are_not_changed():
    _, fast = pair(3, 2, 3, np.float64)
    images, grad = random(2, 7, 6, 3), random(2, 7, 6, 2)
    before = copy.deepcopy([images, grad, fast.weight, fast.bias])
    output = fast.forward(images)
    kept = output.copy()
    fast.backward(grad)
    for array, old in zip([images, grad, fast.weight, fast.bias, output], before + [kept]):
        np.testing.assert_array_equal(array, old)


def test_no_input_gradient_where_it_is_not_needed():
    plain, fast = pair(3, 2, 3, np.float64)
    plain.needs_input_grad = fast.needs_input_grad = False
    assert_same(plain, fast, random(2, 7, 6, 3), random(2, 7, 6, 2), 1e-12)


def test_name_and_arrays_are_those_of_the_plain_layer():
    plain, fast = pair(3, 2, 3, np.float32)
    assert repr(fast) == repr(plain) and type(fast).__name__ == type(plain).__name__
    for name in ('parameter_names', 'decayed_names', 'state_names'):
        assert getattr(fast, name) == getattr(plain, name)


@pytest.mark.parametrize('images, error', [(random(2, 5, 5, 4), ValueError),
                                           (np.ones((2, 5, 5, 3), np.uint8), TypeError)])
def test_input_that_does_not_fit_is_refused(images, error):
    with pytest.raises(error, match='Conv2d'):
        fast_conv2d.Conv2d(3, 2).forward(images)


def test_backward_needs_a_forward_and_its_shape():
    _, fast = pair(3, 2, 3, np.float64)
    with pytest.raises(RuntimeError, match='forward'):
        fast.backward(random(2, 5, 5, 2))
    fast.forward(random(2, 5, 5, 3))
    with pytest.raises(ValueError, match='output_grad'):
        fast.backward(random(2, 5, 4, 2))


def test_toom_cook_against_the_sum_down_a_column():
    A, B, G = fast_conv2d.toom_cook(np.float64)
    column, kernel = random(9), random(3, seed=2)
    expected = [kernel @ column[y:y + 3] for y in range(7)]
    np.testing.assert_allclose(A.T @ ((G @ kernel) * (B.T @ column)), expected, atol=1e-12)


def test_float32_of_many_channels_equals_plain_to_1e_4():
    plain, fast = pair(192, 16, 3, np.float32)
    images = random(4, 7, 7, 192).astype(np.float32)
    assert_same(plain, fast, images, random(4, 7, 7, 16, seed=2).astype(np.float32), 1e-4)


@pytest.mark.parametrize('cached', [1, 10 ** 9])
def test_images_a_few_at_a_time_give_the_numbers_of_all_at_once(monkeypatch, cached):
    plain, fast = pair(3, 2, 3, np.float64)
    monkeypatch.setattr(fast_conv2d, 'CACHED', cached)
    assert_same(plain, fast, random(9, 14, 14, 3), random(9, 14, 14, 2, seed=2), 1e-12)


@KERNELS
@pytest.mark.parametrize('channels, outputs', [(1, 3), (3, 1), (1, 1)])
def test_one_channel(k, channels, outputs):
    plain = layer.Conv2d(channels, outputs, k, np.random.default_rng(0)).astype(np.float64)
    fast = fast_conv2d.Conv2d(channels, outputs, k, np.random.default_rng(0)).astype(np.float64)
    assert_same(plain, fast, random(5, 8, 9, channels), random(5, 8, 9, outputs, seed=2), 1e-12)
