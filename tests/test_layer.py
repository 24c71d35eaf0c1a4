"""Every layer of layer.py: its gradients, what no layer may do, and answers known by hand."""
import sys
import types

import numpy as np
import pytest

import layer
from gradient_check import check_gradients, compare, reseed
from layer import (_Layer, Augment, BatchNorm, Conv2d, Crop, Dropout, Flatten, FullyConnected,
                   MaxPool2d, PixelScaling, ReLU, Reshape, Sigmoid, SoftmaxWithLoss, SquaredError,
                   Tanh, softmax)
from small_networks import check_refused, normal


def generator(seed=0):
    return np.random.default_rng(seed)


# A row of LAYERS gives a layer all the tests of this part -----------------------------------------

def features(rng, rows):
    """The shape of `rows` rows of one to six features."""
    return (rows, rng.integers(1, 7))


def images(rng, rows):
    """The shape of `rows` images, each side one to six pixels, of one to three channels."""
    return (rows, rng.integers(1, 7), rng.integers(1, 7), rng.integers(1, 4))


def framed(rng, rows):
    """The shape of `rows` such images with a border of two pixels."""
    return tuple(np.add(images(rng, rows), (0, 4, 4, 0)))


def several(shape_of):
    """The same with two more rows, for BatchNorm: the variance of a batch needs them."""
    return lambda rng, rows: shape_of(rng, rows + 2)


def batch_norm(count):
    """A BatchNorm whose parameters and running statistics are not those of a new one."""
    layer = BatchNorm(count)
    for name in layer.parameter_names + layer.state_names:
        setattr(layer, name, generator(5).uniform(0.5, 2, (1, count)).astype(np.float32))
    return layer


LAYERS = [     # a name, a function for the shape of its input, the layer for an input of that shape
    ('FullyConnected', features, lambda shape: FullyConnected(shape[1], 3)),
    ('ReLU', features, lambda shape: ReLU()),
    ('Sigmoid', features, lambda shape: Sigmoid()),
    ('Tanh', images, lambda shape: Tanh()),
    ('Reshape', features, lambda shape: Reshape(1, shape[1])),
    ('Flatten', images, lambda shape: Flatten()),
    ('Crop', framed, lambda shape: Crop(2)),
    ('Dropout', images, lambda shape: Dropout(0.4)),
    ('BatchNorm', several(features), lambda shape: batch_norm(shape[1])),
    ('BatchNorm of images', several(images), lambda shape: batch_norm(shape[3])),
    ('Conv2d 1x1', images, lambda shape: Conv2d(shape[3], 2, 1)),
    ('Conv2d 3x3', images, lambda shape: Conv2d(shape[3], 3, 3)),
    ('Conv2d 5x5', images, lambda shape: Conv2d(shape[3], 2, 5)),
    ('Conv2d without bias', images, lambda shape: Conv2d(shape[3], 2, bias=False)),
    ('MaxPool2d', images, lambda shape: MaxPool2d()),
]
LOSSES = [SoftmaxWithLoss(), SoftmaxWithLoss(0.1), SquaredError()]
every_layer = pytest.mark.parametrize('name, shape_of, make', LAYERS,
                                      ids=[row[0] for row in LAYERS])
every_loss = pytest.mark.parametrize('loss', LOSSES, ids=repr)
both_modes = pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
both_dtypes = pytest.mark.parametrize('dtype', [np.float32, np.float64])


def case(shape_of, make, rows, training=True):
    """A layer of LAYERS in training or evaluation mode, and the shape of its input."""
    np.random.seed(rows)
    shape = tuple(int(length) for length in shape_of(generator(rows), rows))
    layer = make(shape)
    for attribute in layer.parameter_names:      # 0 and 1, as in a new layer, hide faults
        getattr(layer, attribute)[...] += generator(rows).uniform(0.1, 0.3)
    layer.training = training
    return layer, shape


def results(layer, input, seed=1):
    """{name: array} of the output and of all gradients, for a random output gradient."""
    reseed([layer], 7)
    output = layer.forward(input)
    input_grad = layer.backward(normal(*output.shape, seed=seed, dtype=output.dtype))
    grads = {name: getattr(layer, name + '_grad') for name in layer.parameter_names}
    return dict(grads, output=output, input=input_grad)


@every_layer
@both_modes
@pytest.mark.parametrize('rows', [1, 2, 6])
def test_gradients(name, shape_of, make, training, rows):
    layer, shape = case(shape_of, make, rows, training)
    check_gradients(layer, normal(*shape, seed=rows), seed=rows)


@every_layer
@both_modes
@both_dtypes
@pytest.mark.parametrize('weight_dtype', [np.float32, np.float64])
def test_no_argument_changes_and_the_wider_dtype_wins(name, shape_of, make, training, dtype,
                                                      weight_dtype):
    layer, shape = case(shape_of, make, 3, training)
    arrays = layer.parameter_names + layer.state_names
    for array in arrays:
        setattr(layer, array, getattr(layer, array).astype(weight_dtype))
    expected = np.result_type(dtype, weight_dtype) if arrays else dtype
    input = normal(*shape, dtype=dtype)
    input_before = input.copy()
    output = layer.forward(input)
    output_before = output.copy()
    output_grad = normal(*output.shape, dtype=expected)
    grad_before = output_grad.copy()
    input_grad = layer.backward(output_grad)
    assert np.array_equal(input, input_before), 'forward or backward changed the input'
    assert np.array_equal(output, output_before), 'backward changed what forward had returned'
    assert np.array_equal(output_grad, grad_before), 'backward changed output_grad'
    assert input_grad.shape == shape
    assert output.dtype == input_grad.dtype == expected
    for array in layer.parameter_names:
        gradient = getattr(layer, array + '_grad')
        assert gradient.shape == getattr(layer, array).shape, array
        assert gradient.dtype == expected, array


@every_layer
def test_a_step_depends_neither_on_earlier_ones_nor_on_the_order_in_memory(name, shape_of, make):
    """Gradients do not add up from call to call, and backward twice gives the same twice."""
    layer, shape = case(shape_of, make, 3)
    input = normal(*shape)
    first = results(layer, input)
    layer.backward(normal(*first['output'].shape))
    for array in layer.parameter_names:
        assert np.array_equal(getattr(layer, array + '_grad'), first[array]), array
    layer.forward(normal(*shape, seed=2))
    again = results(layer, input)
    columns = results(layer, np.asfortranarray(input))
    layer.needs_input_grad = False      # then backward may return nothing
    skipped = dict(results(layer, input), input=first['input'])
    for array, expected in first.items():
        assert np.array_equal(again[array], expected), array
        assert np.array_equal(skipped[array], expected), array
        np.testing.assert_allclose(columns[array], expected, 1e-12, 1e-12, err_msg=array)


@every_layer
def test_no_rows_give_no_rows_and_a_row_alone_gives_what_it_gives_in_a_batch(name, shape_of, make):
    """In evaluation: predict takes any number of rows."""
    layer, shape = case(shape_of, make, 3, training=False)
    input = normal(*shape)
    output = layer.forward(input)
    assert layer.forward(input[:0]).shape == (0,) + output.shape[1:]
    np.testing.assert_allclose(layer.forward(input[1:2]), output[1:2], 1e-12, 1e-12)


@pytest.mark.parametrize('layer, shape', [
    (PixelScaling(0.2, 0.3), (3, 7)), (Augment(20, 0.2, 0.1, 1, 0.3), (3, 16)),
    (Augment(20, 0.2, 0.1, 1), (0, 4, 4, 1))], ids=str)
@both_modes
@both_dtypes
def test_the_layers_before_all_weights_change_no_argument(layer, shape, training, dtype):
    layer.training = training
    input = normal(*shape, dtype=dtype)
    before = input.copy()
    output = layer.forward(input)
    assert np.array_equal(input, before)
    assert output.shape == shape and output.dtype == dtype


# What holds for every loss ------------------------------------------------------------------------

def one_hot(rows):
    return np.eye(5)[np.arange(rows) % 5]


def labels(rows):
    return np.arange(rows) % 5


def mixed_rows(rows):
    return np.tile([0.3, 0, 0.5, 0.2, 0], (rows, 1))


every_target = pytest.mark.parametrize('target_of', [one_hot, labels, mixed_rows])


@every_loss
@every_target
@pytest.mark.parametrize('rows', [1, 7])
def test_loss_gradients(loss, target_of, rows):
    check_gradients(loss, normal(rows, 5), target_of(rows))


@every_loss
@both_dtypes
@pytest.mark.parametrize('rows', [one_hot, mixed_rows])
def test_a_loss_changes_no_argument_and_keeps_the_dtype(loss, dtype, rows):
    """Labels, one-hot rows of every dtype and lists of them give the same numbers."""
    input = normal(6, 5, dtype=dtype)
    targets = [rows(6)]
    if rows is one_hot:
        targets += [labels(6), labels(6).tolist(), labels(6).astype(np.uint8), one_hot(6).tolist()]
        targets += [one_hot(6).astype(kind) for kind in (np.float32, int, bool)]
    predict, value = loss.forward(input, targets[0])
    expected = predict.copy()
    predict[...] = 0      # what a caller does with the result is of no matter to backward
    input_grad = loss.backward()
    assert expected.dtype == input_grad.dtype == dtype and type(value) is float
    assert np.array_equal(loss.predict(input), expected)
    for target in targets:
        predict, other_value = loss.forward(input, target)
        assert other_value == value
        assert np.array_equal(predict, expected)
        assert np.array_equal(loss.backward(), input_grad)
    assert np.array_equal(input, normal(6, 5, dtype=dtype))
    assert np.array_equal(targets[0], rows(6))


@every_loss
@pytest.mark.parametrize('target', [
    [0, -1, 2], [0, 1, 5], [0, 1, 0.5], [0, 1], [[0], [1], [2]], 3, np.eye(5)[:3, :4],
    np.eye(5)[:2]], ids=str)
def test_targets_that_do_not_fit_are_refused(loss, target):
    check_refused(ValueError, lambda: loss.forward(np.zeros((3, 5)), target), 'labels 0..4')


@pytest.mark.parametrize('target', [np.zeros((3, 5)), np.eye(5)[:3] * 1.01, np.full((3, 5), np.nan),
                                    np.eye(5)[:3] * [[1], [1], [0.99]]], ids=str)
def test_softmax_refuses_rows_that_do_not_sum_to_1(target):
    check_refused(ValueError, lambda: SoftmaxWithLoss().forward(np.zeros((3, 5)), target), 'sum')
    rounded = np.full((2, 47), 1 / 47, np.float32)
    assert abs(SoftmaxWithLoss().forward(np.zeros((2, 47)), rounded)[1] - np.log(47)) < 1e-6


# What is refused, names ---------------------------------------------------------------------------

@pytest.mark.parametrize('call, word', [
    (lambda: BatchNorm(3).forward(normal(4, 5)), 'BatchNorm'),
    (lambda: BatchNorm(3).forward(normal(4, 1)), 'BatchNorm'),
    (lambda: BatchNorm(3).forward(normal(1, 3)), 'one row'),
    (lambda: BatchNorm(3).forward(normal(1, 1, 1, 3)), 'one row'),
    (lambda: Augment(9).forward(normal(2, 4, 9, 1)), 'S*S'),
    (lambda: Augment(9).forward(normal(2, 4, 4, 4)), 'S*S'),
    (lambda: Augment(9).forward(normal(2, 15)), 'S*S'),
    (lambda: PixelScaling().forward(np.array([[0, 256]])), '0..256'),
    (lambda: PixelScaling().forward(np.array([[-1, 5]])), '-1..5'),
    (lambda: PixelScaling().forward(np.array([[0, 1]], np.uint8)), '0..1'),
    (lambda: PixelScaling().forward(np.array([[0.0, 20.5]])), 'divide'),
    (lambda: Conv2d(1, 1, 2), 'kernel_size'), (lambda: Dropout(1.0), 'p='),
    (lambda: Dropout(-0.1), 'p='), (lambda: SoftmaxWithLoss(1.0), 'label_smoothing'),
    (lambda: SoftmaxWithLoss(-0.1), 'label_smoothing')], ids=lambda value: str(value)[:20])
def test_what_would_give_a_wrong_number_is_refused(call, word):
    check_refused(ValueError, call, word)


def test_a_layer_without_forward_and_backward_says_so():
    for call in (_Layer().forward, _Layer().backward, PixelScaling().backward, Augment().backward):
        check_refused(NotImplementedError, lambda: call(normal(2, 2)), 'has no')


def test_import_star_gives_every_layer_also_one_that_a_student_adds(monkeypatch):
    with open(layer.__file__) as file:
        source = file.read()
    own = types.ModuleType('own_layer')
    exec(source + '\n\nclass Swish(_Layer):\n    pass\n', vars(own))
    monkeypatch.setitem(sys.modules, 'own_layer', own)
    names = {}
    exec('from own_layer import *', names)
    missing = [name for name, value in vars(own).items()
               if isinstance(value, type) and name not in names]
    assert {'Swish', '_Layer', 'softmax'} <= set(names) and not missing, missing


@pytest.mark.parametrize('layer, text', [
    (FullyConnected(4, 3), 'FullyConnected(4, 3)'), (ReLU(), 'ReLU()'), (Tanh(), 'Tanh()'),
    (Crop(2), 'Crop(2)'), (PixelScaling(), 'PixelScaling(0, 1)'),
    (PixelScaling(0.2, 0.3), 'PixelScaling(0.2, 0.3)'), (Reshape(2, 3), 'Reshape(2, 3)'),
    (Flatten(), 'Flatten()'),
    (Dropout(), 'Dropout(0.5)'), (Conv2d(2, 4), 'Conv2d(2, 4, 3)'), (MaxPool2d(), 'MaxPool2d()'),
    (Conv2d(2, 4, 5), 'Conv2d(2, 4, 5)'), (BatchNorm(4), 'BatchNorm(4, 0.1, 1e-05)'),
    (BatchNorm(3, 0.2, 0.001), 'BatchNorm(3, 0.2, 0.001)'), (Augment(), 'Augment(0, 0, 0, 0, 0)'),
    (Augment(10, 0.1, 0.12, 1.2, 0.6), 'Augment(10, 0.1, 0.12, 1.2, 0.6)'),
    (SoftmaxWithLoss(), 'SoftmaxWithLoss(0)'), (SoftmaxWithLoss(0.1), 'SoftmaxWithLoss(0.1)')])
def test_a_layer_prints_as_the_call_that_makes_it(layer, text):
    layer.training = False
    assert repr(layer) == text


# Known answers: the handout's layers --------------------------------------------------------------

def test_fully_connected_by_hand():
    layer = FullyConnected(2, 3)
    layer.weight = np.array([[1.0, 2, 3], [4, 5, 6]])
    layer.bias = np.array([[10.0, 20, 30]])
    output = layer.forward(np.array([[1.0, 2], [0, -1]]))
    assert output.tolist() == [[19, 32, 45], [6, 15, 24]]
    assert layer.backward(np.array([[1.0, 0, 2], [0, 1, 0]])).tolist() == [[7, 16], [2, 5]]
    assert layer.weight_grad.tolist() == [[1, 0, 2], [2, -1, 4]]
    assert layer.bias_grad.tolist() == [[1, 1, 2]]


@pytest.mark.parametrize('layer, output, gradient', [
    (ReLU(), [0, 0, 0, 3], [0, 0, 0, 1]),
    (Sigmoid(), [0.1192029220, 0.2689414214, 0.5, 0.9525741268],
     [0.1049935854, 0.1966119332, 0.25, 0.0451766597]),
    (Tanh(), [-0.9640275801, -0.7615941560, 0, 0.9950547537],
     [0.0706508249, 0.4199743416, 1, 0.0098660372])], ids=repr)
def test_activations_by_hand(layer, output, gradient):
    np.testing.assert_allclose(layer.forward(np.array([[-2.0, -1, 0, 3]])), [output], atol=1e-9)
    np.testing.assert_allclose(layer.backward(np.ones((1, 4))), [gradient], atol=1e-9)
    with np.errstate(all='raise', under='ignore'):      # nothing overflows
        assert np.isfinite(layer.forward(np.array([[-1e4, 1e4]]))).all()
        assert np.isfinite(layer.backward(np.ones((1, 2)))).all()


@both_dtypes
def test_softmax_by_hand_also_of_large_logits(dtype):
    loss = SoftmaxWithLoss()
    assert abs(loss.forward(np.zeros((5, 47)), np.arange(5))[1] - np.log(47)) < 1e-12
    logits = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], dtype)
    with np.errstate(all='raise', under='ignore'):
        predict, value = loss.forward(logits, np.array([1, 2]))
        input_grad = loss.backward()
    assert abs(value - (2e4 + np.log(3)) / 2) < 1e-3
    np.testing.assert_allclose(predict, [[1, 0, 0], [1 / 3] * 3], atol=1e-6)
    np.testing.assert_allclose(input_grad, [[0.5, -0.5, 0], [1 / 6, 1 / 6, -1 / 3]], atol=1e-6)
    assert softmax(logits)[1][0].tolist() == [0, -2e4, -1e4]


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('label, expected', [(0, np.log(2)), (1, np.inf)])
def test_the_loss_where_a_logit_is_minus_infinity(label, expected):
    """ln y is -inf there: it counts if that class is the right one, and not at all if it is not."""
    loss = SoftmaxWithLoss()
    predict, value = loss.forward(np.array([[3.0, -np.inf, 3.0]]), np.array([label]))
    assert predict.tolist() == [[0.5, 0, 0.5]]
    assert value == pytest.approx(expected)
    assert loss.backward().tolist() == (predict - np.eye(3)[[label]]).tolist()


def test_label_smoothing_by_hand():
    logits = normal(3, 4)
    label = np.array([1, 3, 0])
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = np.full((3, 4), 0.2 / 4)
    target[np.arange(3), label] = 0.8 + 0.2 / 4
    loss = SoftmaxWithLoss(label_smoothing=0.2)
    predict, value = loss.forward(logits, label)
    assert abs(value + np.sum(target * np.log(probability)) / 3) < 1e-12
    np.testing.assert_allclose(predict, probability)
    np.testing.assert_allclose(loss.backward(), (probability - target) / 3)


@pytest.mark.parametrize('target, error', [
    ([0, 1], [[0, 2], [0, -1]]), ([[1.5, -2], [0, 300]], [[-0.5, 4], [0, -300]])])
def test_squared_error_by_hand_with_labels_and_with_real_numbers(target, error):
    loss = SquaredError()
    predict, value = loss.forward(np.array([[1.0, 2], [0, 0]]), target)
    assert predict.tolist() == loss.predict(predict).tolist() == [[1, 2], [0, 0]]
    assert value == 0.5 * np.sum(np.square(error)) / 2
    assert loss.backward().tolist() == (np.array(error) / 2).tolist()


@pytest.mark.parametrize('layer, fan_in', [
    (FullyConnected(400, 300, generator()), 400), (Conv2d(32, 64, 3, generator()), 288)], ids=repr)
def test_he_initialisation(layer, fan_in):
    assert abs(layer.weight.var() * fan_in / 2 - 1) < 0.03
    assert abs(layer.weight.mean()) < 2e-3
    assert layer.bias.shape == (1, layer.weight.shape[-1]) and not layer.bias.any()
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    output = layer.forward(np.ones((1, 400) if layer.weight.ndim == 2 else (1, 2, 2, 32)))
    layer.needs_input_grad = False
    assert layer.backward(output) is None


@pytest.mark.parametrize('draw', [
    lambda rng: FullyConnected(5, 4, rng).weight, lambda rng: Conv2d(2, 3, 3, rng).weight,
    lambda rng: Dropout(0.5, rng).forward(normal(4, 9)),
    lambda rng: Augment(9, rng=rng).forward(spots(2, 12))], ids=['dense', 'conv', 'drop', 'move'])
def test_a_generator_or_np_random_seed_decides_the_random_numbers(draw):
    rng = generator(1)
    first = draw(rng)
    assert np.array_equal(first, draw(generator(1)))
    assert not np.array_equal(first, draw(generator(2)))
    assert not np.array_equal(first, draw(rng)), 'the generator did not go on'
    numbers = []
    for seed in (0, 0, 1):
        np.random.seed(seed)      # as in the handout
        numbers.append((draw(None), draw(None)))
    assert np.array_equal(numbers[0], numbers[1])
    assert not np.array_equal(numbers[0][0], numbers[0][1])
    assert not np.array_equal(numbers[0][0], numbers[2][0])
    assert len({draw(None).tobytes() for layer in range(20)}) == 20, 'two layers drew the same'


# Known answers: the layers for images -------------------------------------------------------------

@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.int64])
def test_pixel_scaling(dtype):
    """Integers are divided. Floats up to 20 were divided or standardised before: unchanged."""
    pixels = np.array([[0, 51, 255]], dtype)
    output = PixelScaling().forward(pixels)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, [[0, 0.2, 1]], atol=1e-6)
    np.testing.assert_allclose(PixelScaling(0.2, 0.4).forward(pixels), [[-0.5, 0, 2]], atol=1e-6)
    floats = np.array([[-3, 0, 20]], np.float32)
    assert np.array_equal(PixelScaling(0.2, 0.4).forward(floats), floats)
    assert not PixelScaling().forward(pixels * 0).any(), 'a blank image is an image'
    assert PixelScaling().forward(np.array([[0, 2]], dtype)).max() == np.float32(2 / 255)


def test_flatten_and_reshape_keep_the_order():
    image = np.arange(24.0).reshape(2, 2, 3, 2)
    flat = Flatten().forward(image)
    assert flat.tolist() == np.arange(24.0).reshape(2, 12).tolist()
    assert np.array_equal(Reshape(2, 3, 2).forward(flat), image)


def convolution_by_definition(input, weight, bias):
    """The sum of Conv2d's docstring, pixel after pixel."""
    rows, height, width, channels = input.shape
    k = len(weight)
    output = np.zeros((rows, height, width, weight.shape[3])) + bias[0]
    for y, x, u, v in np.ndindex(height, width, k, k):
        row = y + u - k // 2
        column = x + v - k // 2
        if 0 <= row < height and 0 <= column < width:
            output[:, y, x] += input[:, row, column] @ weight[u, v]
    return output


@pytest.mark.parametrize('rows, height, width, channels, k', [
    (1, 1, 1, 1, 1), (2, 4, 5, 3, 3), (2, 5, 4, 2, 5), (1, 2, 7, 1, 5), (3, 6, 6, 4, 1),
    (2, 8, 9, 2, 7), (2, 3, 2, 2, 7)])
def test_convolution_against_its_definition(rows, height, width, channels, k):
    layer = Conv2d(channels, 3, k)
    layer.weight = normal(k, k, channels, 3, seed=2)
    layer.bias = normal(1, 3)
    input = normal(rows, height, width, channels)
    expected = convolution_by_definition(input, layer.weight, layer.bias)
    compare('output', layer.forward(input), expected, 1e-10)
    layer.bias = None
    compare('without bias', layer.forward(input), expected - normal(1, 3), 1e-10)


@pytest.mark.parametrize('square, place', [
    ([[1, 1], [1, 1]], (0, 0)), ([[0, 2], [2, 2]], (1, 0)), ([[0, 1], [3, 3]], (1, 0)),
    ([[2, 1], [2, 1]], (0, 0)), ([[0, 0], [-1, 0]], (0, 0)), ([[1, 2], [2, 1]], (1, 0))], ids=str)
def test_max_pool_gives_the_gradient_to_the_left_and_then_the_upper_of_equal_pixels(square, place):
    layer = MaxPool2d()
    layer.forward(np.array(square, float).reshape(1, 2, 2, 1))
    expected = np.zeros((2, 2))
    expected[place] = 5
    assert np.array_equal(layer.backward(np.full((1, 1, 1, 1), 5.0))[0, :, :, 0], expected)


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (2, 4, 6, 3), (2, 5, 3, 2)])
def test_max_pool_against_its_definition(shape):
    """The last square of an odd side is cut. All pixels are less than any zeros around them."""
    layer = MaxPool2d()
    image = normal(*shape) - 10
    output = layer.forward(image)
    assert output.shape == (shape[0], (shape[1] + 1) // 2, (shape[2] + 1) // 2, shape[3])
    input_grad = layer.backward(output)
    expected = np.zeros(shape)
    for n, y, x, c in np.ndindex(*output.shape):
        square = image[n, 2 * y:2 * y + 2, 2 * x:2 * x + 2, c]
        assert output[n, y, x, c] == square.max()
        expected[n, 2 * y:2 * y + 2, 2 * x:2 * x + 2, c] = square * (square == square.max())
    assert np.array_equal(input_grad, expected)


@pytest.mark.parametrize('shape', [(50, 3), (5, 4, 2, 3), (2, 3)], ids=str)
@pytest.mark.parametrize('momentum, eps', [(0.1, 1e-5), (0.4, 0.1)])
def test_batch_norm_normalises_and_keeps_running_statistics(shape, momentum, eps):
    layer = BatchNorm(3, momentum, eps)
    axes = tuple(range(len(shape) - 1))
    mean = np.zeros(3)
    var = np.ones(3)
    for step in range(4):
        input = normal(*shape, seed=step) * [1, 5, 0.2] + [0, 7, -3]
        expected = (input - input.mean(axis=axes)) / np.sqrt(input.var(axis=axes) + eps)
        np.testing.assert_allclose(layer.forward(input), expected, atol=1e-7)
        rows = input.size // 3
        mean = (1 - momentum) * mean + momentum * input.mean(axis=axes)
        var = (1 - momentum) * var + momentum * input.var(axis=axes) * rows / (rows - 1)
        np.testing.assert_allclose(layer.running_mean, [mean], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(layer.running_var, [var], rtol=1e-6)
    layer.training = False
    layer.weight = np.array([[1.0, 2, 3]])
    layer.bias = np.array([[4.0, 5, 6]])
    expected = (input - mean) / np.sqrt(var + eps) * [1, 2, 3] + [4, 5, 6]
    np.testing.assert_allclose(layer.forward(input), expected, atol=1e-7)
    np.testing.assert_allclose(layer.running_mean, [mean], atol=1e-7)      # as it was


def test_batch_norm_of_a_constant_feature_is_finite_and_learns_nothing_from_a_refused_row():
    layer = BatchNorm(2)
    check_refused(ValueError, lambda: layer.forward(normal(1, 2)), 'one row')
    assert not layer.running_mean.any() and (layer.running_var == 1).all()
    assert not layer.forward(np.full((4, 2), 3, np.float32)).any()
    assert np.isfinite(layer.backward(normal(4, 2, dtype=np.float32))).all()


@pytest.mark.parametrize('p', [0, 0.2, 0.9])
def test_dropout_zeroes_a_part_and_keeps_the_expected_value(p):
    layer = Dropout(p, generator())
    ones = np.ones((200, 500), np.float32)
    output = layer.forward(ones)
    np.testing.assert_allclose(np.unique(output), [0, 1 / (1 - p)] if p else [1], rtol=1e-6)
    assert abs(np.mean(output == 0) - p) < 0.01
    assert np.array_equal(layer.backward(ones), output)      # the gradient takes the same way
    assert np.array_equal(layer.forward(ones), output) == (not p), 'the same draw twice'
    layer.training = False
    assert np.array_equal(layer.forward(ones), ones) and np.array_equal(layer.backward(ones), ones)


# Known answers: Augment ---------------------------------------------------------------------------

def spots(rows, size):
    """Images of a smooth spot with blank borders: (rows, size * size) float32."""
    y, x = np.indices((size, size)) - (size - 1) / 2
    spot = np.maximum(0, 1 - (y ** 2 + 2 * x ** 2 + x * y) / 9)
    return np.tile(spot.ravel(), (rows, 1)).astype(np.float32)


class FixedNumbers(object):
    """In the place of a generator: it draws part * limit, one part for each axis."""

    def __init__(self, parts=(1, 1), points=None):
        self.parts = parts
        self.points = points

    def uniform(self, low, high, shape):
        assert low == -high
        if len(shape) == 1:
            return np.full(shape, high)
        return np.broadcast_to(high * np.reshape(self.parts, (1, 2, 1)), shape)

    def standard_normal(self, shape, dtype):
        return np.broadcast_to(self.points, shape).astype(dtype)


def fixed_augment(numbers, **settings):
    layer = Augment(**settings)
    layer.rng = numbers
    return layer


def centred(size):
    """y and x of every pixel, (size * size,), counted from the centre of the image."""
    return np.indices((size, size)).reshape(2, -1) - (size - 1) / 2


PLACES = [     # the settings, and where y and x are read: the axes draw 1 and -1/2 times the limit
    ({}, lambda y, x: (y, x)),
    ({'shift': 2}, lambda y, x: (y + 2, x - 1)),
    ({'scale': 0.2}, lambda y, x: (1.2 * y, 0.9 * x)),
    ({'shear': 0.3}, lambda y, x: (y + 0.3 * x, x - 0.15 * y)),
    ({'rotation': 30}, lambda y, x: (np.sqrt(0.75) * y - x / 2, np.sqrt(0.75) * x + y / 2)),
    ({'scale': 0.2, 'shear': 0.3}, lambda y, x: (1.2 * y + 0.3 * x, 0.9 * x - 0.15 * y)),
    ({'rotation': 90, 'scale': 0.2, 'shift': 2}, lambda y, x: (-0.9 * x + 2, 1.2 * y - 1)),
]


@pytest.mark.parametrize('settings, place', PLACES, ids=[repr(row[0]) for row in PLACES])
def test_augment_reads_at_these_places(settings, place):
    layer = fixed_augment(FixedNumbers((1, -0.5)), **settings)
    expected = np.array(place(*centred(7))) + 3
    places = layer.random_places(2, 7)
    assert places.shape == (2, 2, 49) and places.dtype == np.float32
    for row in range(2):
        np.testing.assert_allclose(places[:, row], expected, atol=1e-5)


def test_elastic_moves_a_point_by_its_number_and_the_pixels_between_by_a_part():
    points = np.zeros((1, 2, 4, 4))
    points[0, :, 1, 2] = 2, 0      # y of the point at pixel (3, 6) of 10 x 10
    points[0, :, 3, 0] = 0, -1     # x of the point at pixel (9, 0)
    layer = fixed_augment(FixedNumbers(points=points), elastic=0.3)
    bend = layer.random_places(1, 10)[:, 0] - centred(10) - 4.5
    ramp = np.array([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    expected = np.zeros((2, 10, 10))
    expected[0, 1:6, 4:9] = 0.3 * 2 * np.outer(ramp, ramp)
    expected[1, 7:, :3] = 0.3 * -1 * np.outer(ramp[:3], ramp[2:])
    np.testing.assert_allclose(bend.reshape(2, 10, 10), expected, atol=1e-5)


def test_augment_interpolates_and_reads_border_pixels_outside_the_image():
    image = np.zeros((2, 11, 11), np.float32)
    image[:, 3:8, 4:6] = normal(2, 5, 2)
    rows = image.reshape(2, 121)
    moved = fixed_augment(FixedNumbers(), shift=1).forward(rows).reshape(image.shape)
    np.testing.assert_allclose(moved, np.roll(image, (-1, -1), (1, 2)), atol=5e-3)
    half = fixed_augment(FixedNumbers((1, 0)), shift=0.5).forward(rows).reshape(image.shape)
    np.testing.assert_allclose(half, (image + np.roll(image, -1, 1)) / 2, atol=5e-3)
    quarter = fixed_augment(FixedNumbers((0, 1)), shift=0.25).forward(rows).reshape(image.shape)
    np.testing.assert_allclose(quarter, 0.75 * image + 0.25 * np.roll(image, -1, 2), atol=5e-3)
    far = fixed_augment(FixedNumbers((1, -1)), shift=20)      # far below, far to the left
    image = normal(1, 5, 5, 1)
    np.testing.assert_allclose(far.forward(image) - image[0, 4, 0, 0], 0, atol=5e-3)


@pytest.mark.parametrize('settings', [
    {'rotation': 30}, {'scale': 0.2}, {'shear': 0.3}, {'shift': 1.5}, {'elastic': 0.7},
    {'rotation': 15, 'scale': 0.1, 'shear': 0.1, 'shift': 1, 'elastic': 0.5}], ids=repr)
def test_augment_changes_each_image_in_its_own_way_and_nothing_in_evaluation(settings):
    image = spots(30, 12)
    layer = Augment(rng=generator(), **settings)
    output = layer.forward(image)
    assert abs(output - image).max(axis=1).min() > 1e-3, 'an image came out as it went in'
    assert abs(output[0] - output[1]).max() > 1e-3, 'two images were changed alike'
    assert 0.85 < output.mean() / image.mean() < 1.15
    assert output.min() >= 0 and output.max() <= image.max()
    layer.training = False
    assert np.array_equal(layer.forward(image), image)
    numbers = layer.uniform(2, 1000, 2)      # up to the limit, for each axis by itself
    assert -2 <= numbers.min() < -1.98 and 1.98 < numbers.max() <= 2
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.1
