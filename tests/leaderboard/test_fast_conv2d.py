"""The fast convolution gives the numbers of the plain one, in layer.py."""
import copy

import numpy as np
import pytest

import fast_conv2d
import layer
from small_networks import normal
from workshop import assert_close, results

KERNELS = pytest.mark.parametrize('k', [1, 3, 5, 7])
FLOATS = [(np.float32, np.float32), (np.float64, np.float64), (np.float32, np.float64),
          (np.float64, np.float32)]
# One pixel, odd sides, sides below and above a tile, many images, one channel, and no image
SHAPES = [(2, 1, 1, 3), (3, 5, 8, 2), (2, 9, 4, 1), (2, 14, 15, 3), (40, 21, 14, 30), (0, 6, 5, 4)]


def pair(channels, outputs, k=3, dtype=np.float64, bias=True):
    """The plain and the fast layer with the same weights."""
    made = []
    for kind in (layer.Conv2d, fast_conv2d.Conv2d):
        conv = kind(channels, outputs, k, np.random.default_rng(0), bias)
        conv.weight = conv.weight.astype(dtype)
        if bias:
            conv.bias = normal(1, outputs).astype(dtype)
        made.append(conv)
    return made


def check(plain, fast, images, tolerance):
    """All results of the fast layer are those of the plain one."""
    assert_close(results([fast], images), results([plain], images), tolerance)


@KERNELS
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('outputs, bias', [(3, True), (1, False)])
def test_float64_equals_plain_to_1e_12(k, shape, outputs, bias):
    check(*pair(shape[3], outputs, k, bias=bias), normal(*shape), 1e-12)


@pytest.mark.parametrize('weights, images', FLOATS)
@pytest.mark.parametrize('channels', [1, 16, 192])
def test_computes_in_the_wider_dtype_of_images_and_weights(weights, images, channels):
    tolerance = 1e-4 if weights == images == np.float32 else 1e-12
    rows = normal(4, 14, 15, channels).astype(images)
    check(*pair(channels, 12, dtype=weights), rows, tolerance)


@KERNELS
def test_strided_and_transposed_arrays(k):
    check(*pair(4, 3, k), normal(4, 8, 10, 5).transpose(3, 2, 1, 0)[::-1, ::2], 1e-12)


def test_arguments_and_output_are_not_changed():
    _, fast = pair(3, 2)
    images, grad = normal(2, 7, 6, 3), normal(2, 7, 6, 2)
    arrays = [images, grad, fast.weight, fast.bias, fast.forward(images)]
    before = copy.deepcopy(arrays)
    fast.backward(grad)
    for array, old in zip(arrays, before):
        np.testing.assert_array_equal(array, old)


def test_no_input_gradient_where_it_is_not_needed_and_the_same_name():
    plain, fast = pair(3, 2)
    assert repr(fast) == repr(plain) and fast.decayed_names == plain.decayed_names
    plain.needs_input_grad = fast.needs_input_grad = False
    check(plain, fast, normal(2, 7, 6, 3), 1e-12)


@KERNELS
@pytest.mark.parametrize('channels, got', [(3, 4), (3, 1), (1, 3)])
def test_images_of_other_channels_are_refused(k, channels, got):
    with pytest.raises(ValueError):
        fast_conv2d.Conv2d(channels, 6, k).forward(normal(2, 5, 5, got))


@pytest.mark.parametrize('cached', [1, 10 ** 9])
@pytest.mark.parametrize('channels', [1, 3])
def test_images_a_few_at_a_time_give_the_numbers_of_all_at_once(monkeypatch, cached, channels):
    monkeypatch.setattr(fast_conv2d, 'CACHED', cached)
    check(*pair(channels, 2), normal(9, 14, 14, channels), 1e-12)


def test_toom_cook_against_the_sum_down_a_column():
    A, B, G = fast_conv2d.toom_cook(np.float64)
    column, kernel = normal(len(A)), normal(3, seed=2)
    expected = [kernel @ column[y:y + 3] for y in range(A.shape[1])]
    np.testing.assert_allclose(A.T @ ((G @ kernel) * (B.T @ column)), expected, atol=1e-12)
