"""Every layer of layer.py: its gradients on random shapes, what it must never do, and answers known by hand."""
import copy
import itertools

import numpy as np
import pytest

import layer as layer_module
from gradient_check import check_gradients, reseed
from layer import (Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, LeakyReLU, MaxPool2d, PixelScaling,
                   ReLU, Reshape, Sigmoid, SoftmaxWithLoss, SquaredError, Tanh, _toom_cook, _values, softmax)


def generator(seed=0):
    return np.random.default_rng(seed)


def normal(*shape, seed=1, dtype=np.float64):
    return generator(seed).standard_normal(shape).astype(dtype)


def batch_norm(features):
    """A BatchNorm whose parameters and running statistics are not those of a new one."""
    layer, rng = BatchNorm(features), generator(5)
    for name in layer.parameter_names + layer.state_names:
        setattr(layer, name, rng.uniform(0.5, 2, (1, features)).astype(np.float32))
    return layer


LAYERS = [     # name, axes of the input (a letter: a random length; a digit: itself), the layer for an input's shape
    ('FullyConnected', 'ND', lambda shape: FullyConnected(shape[-1], 3)),
    ('ReLU', 'ND', lambda shape: ReLU()),
    ('ReLU of images', 'NHWC', lambda shape: ReLU()),
    ('LeakyReLU', 'ND', lambda shape: LeakyReLU(0.1)),
    ('Sigmoid', 'ND', lambda shape: Sigmoid()),
    ('Tanh', 'NHWC', lambda shape: Tanh()),
    ('PixelScaling', 'ND', lambda shape: PixelScaling(0.2, 0.3)),
    ('Reshape', 'ND', lambda shape: Reshape(1, shape[1])),
    ('Flatten', 'NHWC', lambda shape: Flatten()),
    ('Dropout', 'ND', lambda shape: Dropout(0.4)),
    ('Dropout of images', 'NHWC', lambda shape: Dropout(0.4)),
    ('BatchNorm', 'BD', lambda shape: batch_norm(shape[-1])),
    ('BatchNorm of images', 'BHWC', lambda shape: batch_norm(shape[-1])),
    ('Conv2d 1x1', 'NHWC', lambda shape: Conv2d(shape[-1], 2, 1)),
    ('Conv2d 3x3', 'NHWC', lambda shape: Conv2d(shape[-1], 3, 3)),
    ('Conv2d 5x5', 'NHWC', lambda shape: Conv2d(shape[-1], 2, 5)),
    ('Conv2d 7x7', 'NHWC', lambda shape: Conv2d(shape[-1], 2, 7)),
    ('Conv2d without bias', 'NHWC', lambda shape: Conv2d(shape[-1], 2, bias=False)),
    ('MaxPool2d', 'NSTC', lambda shape: MaxPool2d()),
    ('MaxPool2d with ceil_mode', 'NHWC', lambda shape: MaxPool2d(ceil_mode=True)),
    ('Augment of rows', 'N9', lambda shape: Augment(20, 0.2, 0.1, 1, 0.3)),
    ('Augment of images', 'NSS1', lambda shape: Augment(20, 0.2, 0.1, 1)),
]
LOSSES = [SoftmaxWithLoss(), SoftmaxWithLoss(label_smoothing=0.1), SquaredError()]
every_layer = pytest.mark.parametrize('axes, make', [row[1:] for row in LAYERS], ids=[row[0] for row in LAYERS])
every_loss = pytest.mark.parametrize('loss', LOSSES, ids=repr)
both_modes = pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])


def random_case(axes, make, seed, training=True):
    """A layer and the shape of its input: seed 0 has one row, a BatchNorm's axis B always three or more."""
    np.random.seed(seed)
    length = {letter: np.random.randint({'B': 3, 'S': 2, 'T': 2}.get(letter, 1), 7) for letter in sorted(set(axes))}
    length.update({'N': 1} if seed == 0 else {})
    shape = tuple(int(letter) if letter.isdigit() else length[letter] for letter in axes)
    layer = make(shape)
    layer.training = training
    return layer, shape


# What holds for every layer -------------------------------------------------------------------------------------------

@every_layer
@both_modes
@pytest.mark.parametrize('seed', range(4))
def test_gradients(axes, make, training, seed):
    layer, shape = random_case(axes, make, seed, training)
    check_gradients(layer, normal(*shape, seed=seed), seed=seed)


TARGETS = {'one-hot': lambda rows: np.eye(5)[np.arange(rows) % 5], 'labels': lambda rows: np.arange(rows) % 5,
           'uint8 labels': lambda rows: np.arange(rows, dtype=np.uint8) % 5,
           'mixed': lambda rows: np.tile([0.3, 0, 0.5, 0.2, 0], (rows, 1))}


@every_loss
@pytest.mark.parametrize('kind', sorted(TARGETS))
@pytest.mark.parametrize('rows', [1, 7])
def test_loss_gradients(loss, kind, rows):
    check_gradients(loss, normal(rows, 5), TARGETS[kind](rows))


@every_layer
@both_modes
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_arguments_unchanged_dtype_kept_and_shape_announced(axes, make, training, dtype):
    layer, shape = random_case(axes, make, 3, training)
    stored = [getattr(layer, name).dtype for name in layer.parameter_names + layer.state_names]
    input = normal(*shape, dtype=dtype)
    before = input.tobytes()
    output = layer.forward(input)
    assert output.dtype == dtype and output.shape == (shape[0],) + layer.output_shape(shape[1:])
    output_grad = normal(*output.shape, dtype=dtype)
    grad_before, output_before = output_grad.tobytes(), output.tobytes()
    input_grad = layer.backward(output_grad)
    assert input_grad.dtype == dtype and input_grad.shape == shape
    assert input.tobytes() == before, 'forward or backward changed the input'
    assert output_grad.tobytes() == grad_before, 'backward changed the output gradient'
    assert output.tobytes() == output_before, 'backward changed the output that forward had returned'
    for name in layer.parameter_names:
        grad = getattr(layer, name + '_grad')
        assert grad.shape == getattr(layer, name).shape and grad.dtype == dtype, name
    assert [getattr(layer, name).dtype for name in layer.parameter_names + layer.state_names] == stored
    assert layer.backward(output_grad).tobytes() == input_grad.tobytes(), 'a second backward gives something else'


@every_loss
@pytest.mark.parametrize('kind', sorted(TARGETS))
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_loss_arguments_unchanged_and_dtype_kept(loss, kind, dtype):
    input, target = normal(6, 5, dtype=dtype), TARGETS[kind](6)
    before = input.tobytes(), target.tobytes()
    predict, value = loss.forward(input, target)
    predict_before = predict.tobytes()
    input_grad = loss.backward()
    assert (input.tobytes(), target.tobytes()) == before and predict.tobytes() == predict_before
    assert predict.dtype == input_grad.dtype == dtype and isinstance(value, float)
    assert np.array_equal(predict, loss.predict(input))


@every_layer
def test_memory_layout_does_not_matter(axes, make):
    layer, shape = random_case(axes, make, 2)
    numbers = []
    for order in 'CF':
        reseed([layer], 7)
        output = layer.forward(np.array(normal(*shape), order=order))
        input_grad = layer.backward(np.array(normal(*output.shape), order=order))
        numbers.append([output, input_grad] + [getattr(layer, name + '_grad') for name in layer.parameter_names])
    for c_order, fortran_order in zip(*numbers):
        np.testing.assert_allclose(fortran_order, c_order, rtol=1e-12, atol=1e-12)


@every_layer
def test_backward_before_forward_and_a_wrong_output_grad_are_refused(axes, make):
    layer, shape = random_case(axes, make, 3)
    name = type(layer).__name__
    with pytest.raises(RuntimeError, match='%s.backward was called before forward' % name):
        layer.backward(normal(*shape))
    for loss in (SoftmaxWithLoss(), SquaredError()):
        with pytest.raises(RuntimeError, match='%s.backward was called before forward' % type(loss).__name__):
            loss.backward()
    output = layer.forward(normal(*shape))
    with pytest.raises(ValueError, match=r'%s.backward got an output_grad of shape \(\d.*expected \(\d' % name):
        layer.backward(normal(len(output) + 1, *output.shape[1:]))


@pytest.mark.parametrize('layer', LOSSES + [BatchNorm(3, momentum=0.5), BatchNorm(3, eps=0.001)] + [
    random_case(*row[1:], seed=3)[0] for row in LAYERS], ids=repr)
def test_repr_is_how_to_make_the_layer(layer):
    def settings(layer):
        return {name: value for name, value in vars(layer).items()
                if isinstance(value, (int, float, str, tuple)) and name not in ('training', '_memory')}

    again = eval(repr(layer), vars(layer_module))
    assert type(again) is type(layer) and settings(again) == settings(layer)


@pytest.mark.parametrize('layer', [FullyConnected(4, 3), Conv2d(2, 3)], ids=repr)
def test_without_need_no_input_gradient_but_the_same_parameter_gradients(layer):
    input, lazy = normal(2, 4) if isinstance(layer, FullyConnected) else normal(2, 3, 3, 2), copy.deepcopy(layer)
    lazy.needs_input_grad = False
    output_grad = normal(*layer.forward(input).shape)
    lazy.forward(input)
    assert layer.backward(output_grad) is not None and lazy.backward(output_grad) is None
    assert np.array_equal(layer.weight_grad, lazy.weight_grad) and np.array_equal(layer.bias_grad, lazy.bias_grad)


REFUSED = [     # call, what the message must say; a TypeError where that is about float32, else a ValueError
    (lambda: FullyConnected(4, 3).forward(normal(2, 5)), r'FullyConnected\(4, 3\) expects 4 features.*\(N, 5\)'),
    (lambda: FullyConnected(4, 3).forward(normal(4)), r'FullyConnected\(4, 3\) expects 4 features.*\(N\)'),
    (lambda: FullyConnected(4, 3).forward(np.ones((2, 4), int)), 'FullyConnected.*int64.*float32 or float64'),
    (lambda: FullyConnected(4, 3).forward([[1.0, 2, 3, 4]]), 'FullyConnected.*list.*float32 or float64'),
    (lambda: Conv2d(3, 2).forward(normal(2, 5, 5)), r'Conv2d.* expects images \(N, H, W, 3\).*\(N, 5, 5\)'),
    (lambda: Conv2d(3, 2).forward(normal(2, 5, 5, 4)), r'Conv2d.* expects images \(N, H, W, 3\).*\(N, 5, 5, 4\)'),
    (lambda: Conv2d(3, 2).forward(np.ones((2, 5, 5, 3), np.uint8)), 'Conv2d.*uint8.*float32 or float64'),
    (lambda: MaxPool2d().forward(normal(2, 5)), r'MaxPool2d\(\) expects images \(N, H, W, C\).*\(N, 5\)'),
    (lambda: BatchNorm(3).forward(normal(4, 5)), r'BatchNorm\(3\) expects 3 features.*\(N, 5\)'),
    (lambda: BatchNorm(3).forward(normal(1, 3)), 'BatchNorm.*got 1 row in training'),
    (lambda: Reshape(2, 3).forward(normal(4, 5)), r'Reshape\(2, 3\).*\(N, 5\)'),
    (lambda: PixelScaling().forward(np.array([[0, 256]])), r'PixelScaling.*0 to 256, expected 0\.\.255'),
    (lambda: PixelScaling().forward(np.array([[-1, 5]])), r'PixelScaling.*-1 to 5, expected 0\.\.255'),
    (lambda: SoftmaxWithLoss().forward(normal(2, 3, 4), [0, 1]), r'SoftmaxWithLoss.* rows \(N, K\).*\(N, 3, 4\)'),
    (lambda: SoftmaxWithLoss().forward(np.ones((2, 3), int), [0, 1]), 'SoftmaxWithLoss.*int64.*float32 or'),
    (lambda: SoftmaxWithLoss().forward(normal(0, 3), []), 'SoftmaxWithLoss.*no rows'),
    (lambda: SquaredError().forward(normal(0, 3), np.ones((0, 3))), 'SquaredError.*no rows'),
    (lambda: Augment(rotation=5).forward(np.ones((2, 16), np.uint8)), 'Augment.*uint8.*float32 or float64'),
    (lambda: Augment(rotation=5).forward(normal(2, 4, 9, 1)), r'Augment.*square images.*\(N, 4, 9, 1\)'),
    (lambda: Augment(rotation=5).output_shape((4, 4, 4)), r'Augment.*square images.*\(N, 4, 4, 4\)'),
    (lambda: FullyConnected(4, 3).output_shape((5,)), r'FullyConnected\(4, 3\) expects 4 features.*\(N, 5\)'),
    (lambda: FullyConnected(4, 3).output_shape((2, 2, 1)), r'FullyConnected\(4, 3\) expects.*\(N, 2, 2, 1\)'),
    (lambda: Conv2d(3, 2).output_shape((5, 5, 1)), r'Conv2d\(3, 2, kernel.*\(N, H, W, 3\).*\(N, 5, 5, 1\)'),
    (lambda: MaxPool2d().output_shape((784,)), r'MaxPool2d\(\) expects images.*\(N, 784\)'),
    (lambda: MaxPool2d().output_shape((1, 6, 2)), r'MaxPool2d\(\) expects.*one whole square.*\(N, 1, 6, 2\)'),
    (lambda: BatchNorm(3).forward([[1.0, 2, 3]]), 'BatchNorm.*list.*float32 or float64'),
    (lambda: BatchNorm(3).output_shape((4,)), r'BatchNorm\(3\) expects 3 features.*\(N, 4\)'),
    (lambda: Reshape(2, 2).output_shape((5,)), r'Reshape\(2, 2\).*\(N, 5\)'),
    (lambda: Conv2d(1, 1, 2), 'kernel_size=2.*1, 3, 5 or 7'),
    (lambda: Dropout(1.0), 'p=1.0.*0 <= p < 1'),
    (lambda: Dropout(-0.1), 'p=-0.1.*0 <= p < 1'),
    (lambda: SoftmaxWithLoss(1.0), 'label_smoothing is 1.0'),
]
TARGETS_REFUSED = [
    ([0, -1, 2], r'row 1 has the label -1, expected 0\.\.46'), ([0, 1, 47], r'row 2 has the label 47, expected 0\.'),
    ([0.0, 1.0, 2.0], 'float64'), ([0, 1], r'shape \(2,\)'), ([[0], [1], [2]], r'shape \(3, 1\)'),
    (np.ones((3, 46)) / 46, r'\(3, 46\)'), (np.zeros((3, 47)), 'row 0 sums to 0'),
    (np.eye(47)[:3] * 2, 'row 0 sums to 2'), (np.eye(47)[:3] * 3 - 2 / 47.0, 'least entry is -0.04'),
    (np.full((3, 47), np.nan), 'row 0 sums to nan')]
REFUSED += [(lambda loss=loss, target=target: loss.forward(np.zeros((3, 47)), np.array(target)),
             'target: .*' + message)
            for target, message in TARGETS_REFUSED for loss in (SoftmaxWithLoss(), SquaredError())]


@pytest.mark.parametrize('call, message', REFUSED, ids=[row[1] for row in REFUSED])
def test_what_is_wrong_is_refused_in_one_sentence(call, message):
    with pytest.raises(TypeError if 'float32' in message else ValueError, match=message) as caught:
        call()
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 200, caught.value


# Known answers --------------------------------------------------------------------------------------------------------

def test_fully_connected_by_hand():
    layer = FullyConnected(2, 3)
    layer.weight, layer.bias = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[10.0, 20, 30]])
    assert layer.forward(np.array([[1.0, 2], [0, -1]])).tolist() == [[19, 32, 45], [6, 15, 24]]
    assert layer.backward(np.array([[1.0, 0, 2], [0, 1, 0]])).tolist() == [[7, 16], [2, 5]]
    assert layer.weight_grad.tolist() == [[1, 0, 2], [2, -1, 4]] and layer.bias_grad.tolist() == [[1, 1, 2]]


@pytest.mark.parametrize('layer, output, gradient', [
    (ReLU(), [0, 0, 0, 3], [0, 0, 0, 1]), (LeakyReLU(0.5), [-1, -0.5, 0, 3], [0.5, 0.5, 0.5, 1]),
    (Sigmoid(), [0.1192029220, 0.2689414214, 0.5, 0.9525741268], [0.1049935854, 0.1966119332, 0.25, 0.0451766597]),
    (Tanh(), [-0.9640275801, -0.7615941560, 0, 0.9950547537], [0.0706508249, 0.4199743416, 1, 0.0098660372])], ids=repr)
def test_activations_by_hand(layer, output, gradient):
    np.testing.assert_allclose(layer.forward(np.array([[-2.0, -1, 0, 3]])), [output], atol=1e-9)
    np.testing.assert_allclose(layer.backward(np.ones((1, 4))), [gradient], atol=1e-9)


def test_activations_do_not_overflow():
    with np.errstate(all='raise', under='ignore'):
        for layer in (Sigmoid(), Tanh(), ReLU()):
            assert np.isfinite(layer.forward(np.array([[-1e4, 1e4]]))).all()
            assert np.isfinite(layer.backward(np.ones((1, 2)))).all()


def test_zero_logits_lose_ln_47():
    predict, loss = SoftmaxWithLoss().forward(np.zeros((5, 47)), np.arange(5))
    assert abs(loss - np.log(47)) < 1e-12 and np.allclose(predict, 1 / 47.0)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_softmax_is_stable_for_large_logits(dtype):
    loss, logits = SoftmaxWithLoss(), np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], dtype)
    with np.errstate(all='raise', under='ignore'):
        predict, value = loss.forward(logits, np.array([1, 2]))
        assert abs(value - (2e4 + np.log(3)) / 2) < 1e-3 and np.allclose(predict, [[1, 0, 0], [1 / 3.0] * 3])
        assert np.allclose(loss.backward(), [[0.5, -0.5, 0], [1 / 6.0, 1 / 6.0, -1 / 3.0]], atol=1e-6)
    assert np.allclose(softmax(logits)[1][0], [0, -2e4, -1e4])


def test_one_hot_and_integer_labels_give_identical_numbers():
    for loss in LOSSES:
        numbers = [(loss.forward(normal(4, 5), target), loss.backward()) for target in (
            np.array([4, 0, 2, 2]), np.eye(5, dtype=np.float32)[[4, 0, 2, 2]], np.array([4, 0, 2, 2], np.uint8))]
        for (predict, value), gradient in numbers[1:]:
            assert value == numbers[0][0][1] and np.array_equal(predict, numbers[0][0][0])
            assert np.array_equal(gradient, numbers[0][1])


def test_label_smoothing_by_hand():
    logits, label, epsilon = normal(3, 4), np.array([1, 3, 0]), 0.2
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = np.where(np.arange(4) == label[:, np.newaxis], 1 - epsilon + epsilon / 4, epsilon / 4)
    loss = SoftmaxWithLoss(label_smoothing=epsilon)
    predict, value = loss.forward(logits, label)
    assert abs(value + (target * np.log(probability)).sum() / 3) < 1e-12 and np.allclose(predict, probability)
    assert np.allclose(loss.backward(), (probability - target) / 3)


def test_squared_error_by_hand():
    loss = SquaredError()
    assert loss.forward(np.array([[1.0, 2], [0, 0]]), np.array([0, 1]))[1] == 0.5 * (4 + 1) / 2
    assert loss.backward().tolist() == [[0, 1], [0, -0.5]]


def test_pixel_scaling():
    pixels = np.array([[0, 51, 255]])
    for dtype in (np.uint8, np.int16, np.int64):
        output = PixelScaling().forward(pixels.astype(dtype))
        assert output.dtype == np.float32 and np.allclose(output, [[0, 0.2, 1]])
    assert np.allclose(PixelScaling(0.2, 0.4).forward(pixels), [[-0.5, 0, 2]], atol=1e-6)
    assert PixelScaling().forward(normal(2, 3)).dtype == np.float64


def naive_convolution(input, weight, bias):
    """The definition, one output place after another: places outside the image are zero."""
    (rows, height, width, _), k = input.shape, len(weight)
    output = np.zeros((rows, height, width, weight.shape[3])) + bias[0]
    for y in range(height):
        for x in range(width):
            for u in range(k):
                for v in range(k):
                    row, column = y + u - k // 2, x + v - k // 2
                    if 0 <= row < height and 0 <= column < width:
                        output[:, y, x] += input[:, row, column] @ weight[u, v]
    return output


@pytest.mark.parametrize('rows, height, width, channels, k', [
    (1, 1, 1, 1, 1), (2, 4, 5, 3, 3), (2, 5, 4, 2, 5), (1, 2, 7, 1, 5), (3, 6, 6, 4, 1), (20, 12, 12, 12, 3),
    (2, 7, 3, 2, 3), (2, 15, 4, 2, 3), (1, 10, 2, 1, 1), (2, 11, 6, 2, 5), (2, 8, 9, 2, 7)])
def test_convolution_against_its_definition(rows, height, width, channels, k):
    layer, input = Conv2d(channels, 3, k).astype(np.float64), normal(rows, height, width, channels)
    layer.bias = normal(1, 3)
    np.testing.assert_allclose(layer.forward(input), naive_convolution(input, layer.weight, layer.bias), atol=1e-12)


@pytest.mark.parametrize('k', [1, 3, 5, 7])
def test_toom_and_cook_s_sum_is_the_sum(k):
    A, B, G = _toom_cook(k, np.dtype(float))
    assert A.shape == (9, 10 - k) and B.shape == (9, 9) and G.shape == (9, k)
    z, w = normal(9), normal(k, seed=1)
    np.testing.assert_allclose(A.T @ ((G @ w) * (B.T @ z)), np.correlate(z, w, 'valid'), atol=1e-12)


@pytest.mark.parametrize('k', [1, 3, 5, 7])
def test_convolution_in_float32_is_exact_to_a_few_thousandths_of_a_percent(k):
    layer, input, output_grad = Conv2d(16, 16, k), normal(4, 14, 14, 16), normal(4, 14, 14, 16, seed=2)
    results = []
    for dtype in (np.float32, np.float64):
        layer.astype(dtype)
        output = layer.forward(input.astype(dtype))
        results.append((output, layer.backward(output_grad.astype(dtype)), layer.weight_grad, layer.bias_grad))
    for single, double in zip(*results):
        assert single.dtype == np.float32
        assert abs(single - double).max() < 5e-5 * abs(double).max()


@pytest.mark.parametrize('k', [1, 3, 5, 7])
@pytest.mark.parametrize('height', [18, 14, 5])
def test_convolution_of_images_that_lie_anyhow_in_memory_and_of_none(k, height):
    layer, images, output_grad = Conv2d(4, 3, k), normal(5, height, 6, 4), normal(5, height, 6, 3, seed=2)
    expected = layer.forward(images), layer.backward(output_grad), layer.weight_grad

    def laid_out(array, axes):
        return np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes))

    for axes in itertools.permutations(range(4)):
        got = layer.forward(laid_out(images, axes)), layer.backward(laid_out(output_grad, axes)), layer.weight_grad
        for part, a, b in zip(('output', 'input_grad', 'weight_grad'), got, expected):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9, err_msg='%s, axes in memory %s' % (part, axes))
    assert layer.forward(images[:0]).shape == (0, height, 6, 3)
    assert layer.backward(output_grad[:0]).shape == (0, height, 6, 4) and not layer.weight_grad.any()


@pytest.mark.parametrize('state', [np.float32, np.float64])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_batch_norm_in_evaluation_computes_in_the_inputs_dtype(dtype, state):
    layer, input = BatchNorm(3).astype(state), normal(5, 3).astype(dtype)
    layer.running_mean[:], layer.running_var[:], layer.training = 0.3, 0.7, False
    output = layer.forward(input)
    grads = [output, layer.backward(input), layer.weight_grad, layer.bias_grad]
    assert [array.dtype for array in grads] == [dtype] * 4
    mean, var = layer.running_mean.astype(float), layer.running_var.astype(float)
    expected = (input.astype(float) - mean) / np.sqrt(var + layer.eps)
    np.testing.assert_allclose(output, expected, rtol=1e-5 if dtype is np.float32 else 1e-12)


def test_convolution_gradients_of_a_large_batch_are_those_of_its_images():
    """A large batch is worked off in blocks: their gradients must add up."""
    layer, input, output_grad = Conv2d(30, 2), normal(40, 21, 14, 30), normal(40, 21, 14, 2, seed=2)
    assert len(list(_values(input, 3, 2))) > 1
    layer.forward(input)
    input_grad, weight_grad, bias_grad = layer.backward(output_grad), layer.weight_grad, layer.bias_grad
    for i in range(40):
        layer.forward(input[i:i + 1])
        np.testing.assert_allclose(layer.backward(output_grad[i:i + 1]), input_grad[i:i + 1], atol=1e-12)
        weight_grad, bias_grad = weight_grad - layer.weight_grad, bias_grad - layer.bias_grad
    assert abs(weight_grad).max() < 1e-10 and abs(bias_grad).max() < 1e-10


def test_convolution_of_kernel_1_is_a_fully_connected_layer_at_every_place():
    convolution, connected, input = Conv2d(4, 3, 1), FullyConnected(4, 3), normal(2, 3, 5, 4)
    connected.weight, output_grad = convolution.weight[0, 0], normal(2, 3, 5, 3)
    assert np.allclose(convolution.forward(input).reshape(-1, 3), connected.forward(input.reshape(-1, 4)))
    assert np.allclose(convolution.backward(output_grad).reshape(-1, 4), connected.backward(output_grad.reshape(-1, 3)))
    assert np.allclose(convolution.weight_grad[0, 0], connected.weight_grad)
    assert np.allclose(convolution.bias_grad, connected.bias_grad)


@pytest.mark.parametrize('square, place', [
    ([[1, 1], [1, 1]], (0, 0)), ([[0, 2], [2, 2]], (1, 0)), ([[0, 1], [3, 3]], (1, 0)), ([[0, 1], [2, 3]], (1, 1)),
    ([[2, 1], [2, 1]], (0, 0)), ([[0, 0], [-1, 0]], (0, 0)), ([[1, 2], [2, 1]], (1, 0))])
def test_max_pool_gives_the_gradient_to_the_first_of_the_greatest_column_by_column(square, place):
    layer, expected = MaxPool2d(), np.zeros((2, 2))
    expected[place] = 5
    output = layer.forward(np.array(square, float).reshape(1, 2, 2, 1))
    assert output.item() == np.max(square)
    assert layer.backward(np.full((1, 1, 1, 1), 5.0))[0, :, :, 0].tolist() == expected.tolist()


def test_max_pool_leaves_out_the_last_of_an_odd_side():
    layer, image = MaxPool2d(), np.arange(15.0).reshape(1, 3, 5, 1)
    assert layer.forward(image)[0, :, :, 0].tolist() == [[6, 8]]
    input_grad = layer.backward(np.array([1.0, 2]).reshape(1, 1, 2, 1))
    assert input_grad[0, :, :, 0].tolist() == [[0] * 5, [0, 1, 0, 2, 0], [0] * 5]


def test_max_pool_with_ceil_mode_keeps_the_last_of_an_odd_side():
    layer, image = MaxPool2d(ceil_mode=True), np.arange(-15.0, 0).reshape(1, 3, 5, 1)     # less than any zeros outside
    assert layer.forward(image)[0, :, :, 0].tolist() == [[-9, -7, -6], [-4, -2, -1]]
    input_grad = layer.backward(np.arange(1.0, 7).reshape(1, 2, 3, 1))
    assert input_grad[0, :, :, 0].tolist() == [[0] * 5, [0, 1, 0, 2, 3], [0, 4, 0, 5, 6]]


@pytest.mark.parametrize('shape', [(50, 3), (5, 4, 2, 3)])
def test_batch_norm_normalises_and_keeps_running_statistics(shape):
    layer = BatchNorm(3, momentum=0.3).astype(np.float64)
    axes, mean, var = tuple(range(len(shape) - 1)), np.zeros(3), np.ones(3)
    for step in range(4):
        input = normal(*shape, seed=step) * [1, 5, 0.2] + [0, 7, -3]
        output, rows = layer.forward(input), input.size // 3
        np.testing.assert_allclose(output.mean(axis=axes), 0, atol=1e-12)
        batch_var = input.var(axis=axes)
        np.testing.assert_allclose(output.var(axis=axes), batch_var / (batch_var + 1e-5), atol=1e-9)
        mean = 0.7 * mean + 0.3 * input.mean(axis=axes)
        var = 0.7 * var + 0.3 * batch_var * rows / (rows - 1)
        np.testing.assert_allclose(layer.running_mean, [mean], atol=1e-12)
        np.testing.assert_allclose(layer.running_var, [var], atol=1e-12)
    layer.training, layer.weight, layer.bias = False, np.array([[1.0, 2, 3]]), np.array([[4.0, 5, 6]])
    expected = (input - mean) / np.sqrt(var + 1e-5) * [1, 2, 3] + [4, 5, 6]
    np.testing.assert_allclose(layer.forward(input), expected, atol=1e-12)
    np.testing.assert_allclose(layer.forward(input[:1]), expected[:1], atol=1e-12)     # a single row will do
    np.testing.assert_allclose(layer.running_mean, [mean], atol=1e-12)                 # and nothing is learnt


def test_batch_norm_of_a_constant_feature_is_finite():
    layer = BatchNorm(2)
    assert np.array_equal(layer.forward(np.full((4, 2), 3, np.float32)), np.zeros((4, 2)))
    assert np.isfinite(layer.backward(normal(4, 2, dtype=np.float32))).all()


@pytest.mark.parametrize('p', [0, 0.2, 0.5, 0.9])
def test_dropout_keeps_scale_and_expectation(p):
    layer, ones = Dropout(p, generator()), np.ones((200, 500), np.float32)
    output = layer.forward(ones)
    np.testing.assert_allclose(np.unique(output), [0, 1 / (1 - p)] if p else [1], rtol=1e-6)
    assert abs(output.mean() - 1) < 0.03 and abs((output == 0).mean() - p) < 0.01
    assert np.array_equal(layer.backward(ones), output)              # the gradient passes where the input has passed
    assert not p or not np.array_equal(layer.forward(ones), output)  # a new draw each time
    layer.training = False
    assert np.array_equal(layer.forward(ones), ones) and np.array_equal(layer.backward(ones), ones)


def blobs(rows=30, size=12):
    """Images of a smooth spot with blank borders, (rows, size*size) float32."""
    y, x = np.indices((size, size)) - (size - 1) / 2.0
    spot = np.maximum(0, 1 - (y ** 2 + 2 * x ** 2 + x * y) / 9.0)
    return np.tile(spot.ravel(), (rows, 1)).astype(np.float32)


class AlwaysTheGreatest(object):
    """In the place of a generator: what is drawn from -limit..limit is always limit."""

    def uniform(self, low, high, shape):
        return np.full(shape, high)


@pytest.mark.parametrize('settings, change', [
    ({}, lambda image: image),
    ({'shift': 1}, lambda image: np.roll(image, (-1, -1), (1, 2))),                  # read one pixel further on
    ({'rotation': 90}, lambda image: np.rot90(image, -1, (1, 2)))], ids=repr)
def test_augment_moves_the_image_as_it_says(settings, change):
    image = np.zeros((2, 11, 11), np.float32)
    image[:, 3:8, 4:6] = normal(2, 5, 2)
    if not settings:
        image = normal(2, 11, 11, dtype=np.float32)      # the identity holds up to the border
    output = Augment(rng=AlwaysTheGreatest(), **settings).forward(image.reshape(2, 121)).reshape(2, 11, 11)
    np.testing.assert_allclose(output, change(image), atol=5e-3)


def test_augment_shifts_in_all_directions_alike():
    images = blobs(400)
    y, x = np.indices((12, 12)).reshape(2, -1) - 5.5
    output = Augment(shift=1.5, rng=generator()).forward(images)
    for axis in (y, x):
        centre = (output * axis).sum(axis=1) / output.sum(axis=1)
        assert abs(centre.mean()) < 0.15 and -1.6 < centre.min() < -1.3 and 1.3 < centre.max() < 1.6


@pytest.mark.parametrize('settings', [
    {'rotation': 30}, {'scale': 0.2}, {'shear': 0.3}, {'shift': 1.5}, {'elastic': 0.7},
    {'rotation': 15, 'scale': 0.1, 'shear': 0.1, 'shift': 1, 'elastic': 0.5}], ids=repr)
def test_augment_is_seeded_keeps_intensity_and_rests_in_evaluation(settings):
    images = blobs()
    first, again, other = [Augment(rng=generator(seed), **settings).forward(images) for seed in (1, 1, 2)]
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert abs(first - images).max(axis=1).min() > 1e-3, 'an image came out as it went in'
    assert abs(first[0] - first[1]).max() > 1e-3, 'two images were moved alike'
    assert 0.85 < first.mean() / images.mean() < 1.15 and first.min() >= 0 and first.max() <= images.max()
    layer = Augment(rng=generator(), **settings)
    layer.training = False
    assert np.array_equal(layer.forward(images), images) and np.array_equal(layer.backward(images), images)


@pytest.mark.parametrize('layer, fan_in', [(FullyConnected(400, 300), 400), (Conv2d(32, 64, 3), 288)], ids=repr)
def test_he_initialisation(layer, fan_in):
    assert abs(layer.weight.var() * fan_in / 2 - 1) < 0.03 and abs(layer.weight.mean()) < 2e-3
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    assert layer.bias.shape == (1, layer.weight.shape[-1]) and not layer.bias.any()


RANDOM = [lambda rng: FullyConnected(5, 4, rng).weight, lambda rng: Conv2d(2, 3, 3, rng).weight,
          lambda rng: Dropout(0.5, rng).forward(normal(4, 9)), lambda rng: Augment(9, rng=rng).forward(blobs())]


@pytest.mark.parametrize('draw', RANDOM)
def test_the_same_seed_gives_the_same_numbers(draw):
    assert np.array_equal(draw(generator(1)), draw(generator(1)))
    assert not np.array_equal(draw(generator(1)), draw(generator(2)))
    numbers = []
    for seed in (0, 0, 1):
        np.random.seed(seed)          # as the handout does
        numbers += [draw(None), draw(None)]
    assert np.array_equal(numbers[0], numbers[2]) and np.array_equal(numbers[1], numbers[3])
    assert not np.array_equal(numbers[0], numbers[4]) and not np.array_equal(numbers[0], numbers[1])


@pytest.mark.parametrize('layer', [ReLU(), LeakyReLU(), Sigmoid(), Tanh(), Dropout(0.3)], ids=repr)
def test_elementwise_layers_refuse_integers(layer):
    with pytest.raises(TypeError, match='got int64, expected an array of float32 or float64'):
        layer.forward(np.ones((2, 3), np.int64))
