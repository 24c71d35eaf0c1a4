"""Every layer of layer.py: its gradients, what no layer may do, and answers known by hand."""
import numpy as np
import pytest

import layer
from gradient_check import check_gradients, compare, reseed
from layer import (_Layer, Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, LeakyReLU,
                   Loss, MaxPool2d, PixelScaling, ReLU, Reshape, Sigmoid, SoftmaxWithLoss,
                   SquaredError, Tanh, softmax, windows)


def generator(seed=0):
    return np.random.default_rng(seed)


def normal(*shape, seed=1, dtype=np.float64):
    return generator(seed).standard_normal(shape).astype(dtype)


# A row of LAYERS gives a layer all the tests of this part -----------------------------------------

def features(rng, rows):
    """The shape of `rows` rows of one to six features."""
    return (rows, rng.integers(1, 7))


def images(rng, rows):
    """The shape of `rows` images, each side one to six pixels, of one to three channels."""
    return (rows, rng.integers(1, 7), rng.integers(1, 7), rng.integers(1, 4))


def several_features(rng, rows):
    """The same with two more rows, for BatchNorm: the variance of a batch needs them."""
    return features(rng, rows + 2)


def several_images(rng, rows):
    return images(rng, rows + 2)


def square_rows(rng, rows):
    """The shape of square images as rows of pixels."""
    return (rows, rng.integers(2, 5) ** 2)


def square_images(rng, rows):
    side = rng.integers(2, 5)
    return (rows, side, side, 1)


def batch_norm(count):
    """A BatchNorm whose parameters and running statistics are not those of a new one."""
    layer = BatchNorm(count)
    for name in layer.parameter_names + layer.state_names:
        setattr(layer, name, generator(5).uniform(0.5, 2, (1, count)).astype(np.float32))
    return layer


class HandoutActivation(_Layer):
    """a / (1 + exp(-a)), written as in the handout: no method of _Layer helps."""

    def forward(self, input):
        self.x = input
        self.s = 1 / (1 + np.exp(-input))
        return self.x * self.s

    def backward(self, output_grad):
        return output_grad * self.s * (1 + self.x * (1 - self.s))


class HandoutLinear(_Layer):
    """The handout's FullyConnected, with its weights in float64."""

    parameter_names = ('weight', 'bias')

    def __init__(self, in_features, out_features):
        self.weight = np.random.randn(in_features, out_features) * 0.01
        self.bias = np.zeros((1, out_features))

    def forward(self, input):
        self.input = input
        return np.dot(input, self.weight) + self.bias

    def backward(self, output_grad):
        self.weight_grad = np.dot(self.input.T, output_grad)
        self.bias_grad = np.sum(output_grad, axis=0, keepdims=True)
        self.input_grad = np.dot(output_grad, self.weight.T)
        return self.input_grad

    def output_shape(self, input_shape):
        return (self.weight.shape[1],)


LAYERS = [     # a name, a function for the shape of its input, the layer for an input of that shape
    ('FullyConnected', features, lambda shape: FullyConnected(shape[1], 3)),
    ('ReLU', features, lambda shape: ReLU()),
    ('ReLU of images', images, lambda shape: ReLU()),
    ('LeakyReLU', features, lambda shape: LeakyReLU(0.1)),
    ('Sigmoid', features, lambda shape: Sigmoid()),
    ('Tanh', images, lambda shape: Tanh()),
    ('PixelScaling', features, lambda shape: PixelScaling(0.2, 0.3)),
    ('Reshape', features, lambda shape: Reshape(1, shape[1])),
    ('Flatten', images, lambda shape: Flatten()),
    ('Dropout', features, lambda shape: Dropout(0.4)),
    ('Dropout of images', images, lambda shape: Dropout(0.4)),
    ('BatchNorm', several_features, lambda shape: batch_norm(shape[1])),
    ('BatchNorm of images', several_images, lambda shape: batch_norm(shape[3])),
    ('Conv2d 1x1', images, lambda shape: Conv2d(shape[3], 2, 1)),
    ('Conv2d 3x3', images, lambda shape: Conv2d(shape[3], 3, 3)),
    ('Conv2d 5x5', images, lambda shape: Conv2d(shape[3], 2, 5)),
    ('Conv2d 7x7', images, lambda shape: Conv2d(shape[3], 2, 7)),
    ('Conv2d without bias', images, lambda shape: Conv2d(shape[3], 2, bias=False)),
    ('MaxPool2d', images, lambda shape: MaxPool2d()),
    ('Augment of rows', square_rows, lambda shape: Augment(20, 0.2, 0.1, 1, 0.3)),
    ('Augment of images', square_images, lambda shape: Augment(20, 0.2, 0.1, 1)),
    ('activation as in the handout', features, lambda shape: HandoutActivation()),
    ('FullyConnected as in the handout', features, lambda shape: HandoutLinear(shape[1], 3)),
]
LOSSES = [SoftmaxWithLoss(), SoftmaxWithLoss(label_smoothing=0.1), SquaredError()]
names = [name for name, shape_of, make in LAYERS]
cases = [(shape_of, make) for name, shape_of, make in LAYERS]
every_layer = pytest.mark.parametrize('shape_of, make', cases, ids=names)
every_loss = pytest.mark.parametrize('loss', LOSSES, ids=repr)
both_modes = pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
both_dtypes = pytest.mark.parametrize('dtype', [np.float32, np.float64])


def case(shape_of, make, rows, training=True):
    """A layer of LAYERS in training or evaluation mode, and the shape of its input."""
    np.random.seed(rows)
    shape = tuple(int(length) for length in shape_of(generator(rows), rows))
    layer = make(shape)
    layer.training = training
    return layer, shape


def gradients(layer):
    """{name: gradient} of the layer's parameters."""
    return {name: getattr(layer, name + '_grad') for name in layer.parameter_names}


@every_layer
@both_modes
@pytest.mark.parametrize('rows', [1, 2, 3, 6])
def test_gradients(shape_of, make, training, rows):
    layer, shape = case(shape_of, make, rows, training)
    check_gradients(layer, normal(*shape, seed=rows), seed=rows)


@every_layer
@both_modes
@both_dtypes
def test_no_argument_changes_and_shape_and_dtype_are_kept(shape_of, make, training, dtype):
    layer, shape = case(shape_of, make, 3, training)
    layer.astype(dtype)
    input = normal(*shape, dtype=dtype)
    input_before = input.copy()
    output = layer.forward(input)
    output_before = output.copy()
    output_grad = normal(*output.shape, dtype=dtype)
    grad_before = output_grad.copy()
    input_grad = layer.backward(output_grad)
    assert np.array_equal(input, input_before), 'forward or backward changed the input'
    assert np.array_equal(output, output_before), 'backward changed what forward had returned'
    assert np.array_equal(output_grad, grad_before), 'backward changed output_grad'
    assert output.shape == shape[:1] + layer.output_shape(shape[1:]), 'output_shape is wrong'
    assert input_grad.shape == shape
    assert output.dtype == input_grad.dtype == dtype
    for name in layer.parameter_names + layer.state_names:
        assert getattr(layer, name).dtype == dtype, name
    for name, gradient in gradients(layer).items():
        assert gradient.dtype == dtype and gradient.shape == getattr(layer, name).shape, name


@every_layer
def test_a_second_step_does_not_depend_on_the_first(shape_of, make):
    """Gradients do not add up from call to call, and backward twice gives the same twice."""
    layer, shape = case(shape_of, make, 3)
    input = normal(*shape)
    results = []
    for step in range(2):
        reseed([layer], 7)
        output = layer.forward(input)
        for repeat in range(2):
            input_grad = layer.backward(normal(*output.shape))
            results.append(dict(gradients(layer), output=output, input=input_grad))
        layer.forward(normal(*shape, seed=2))
    for later in results[1:]:
        for name, array in results[0].items():
            assert np.array_equal(later[name], array), name


@every_layer
def test_the_order_in_memory_does_not_matter(shape_of, make):
    layer, shape = case(shape_of, make, 2)
    results = []
    for order in ('C', 'F'):
        reseed([layer], 7)
        output = layer.forward(np.array(normal(*shape), order=order))
        input_grad = layer.backward(np.array(normal(*output.shape), order=order))
        results.append(dict(gradients(layer), output=output, input=input_grad))
    for name, array in results[0].items():
        np.testing.assert_allclose(results[1][name], array, 1e-12, 1e-12, err_msg=name)


@every_layer
def test_no_rows_give_no_rows(shape_of, make):
    """In evaluation: predict takes any number of rows."""
    layer, shape = case(shape_of, make, 2, training=False)
    output = layer.forward(np.zeros((0,) + shape[1:], np.float32))
    assert output.shape == (0,) + layer.output_shape(shape[1:])


@every_layer
def test_backward_refuses_what_does_not_fit_the_last_forward(shape_of, make):
    layer, shape = case(shape_of, make, 3)
    output = layer.forward(normal(*shape))
    if layer.cache is None:
        pytest.skip('the layer does not call remember and recall, as in the handout')
    for wrong in (normal(len(output) + 1, *output.shape[1:]), normal(*output.shape, 1), 1.0):
        with pytest.raises(ValueError, match='output_grad has the shape .* the shape of the last '):
            layer.backward(wrong)
    layer.cache = None      # as after predict
    with pytest.raises(RuntimeError, match='backward needs a forward before it, and no predict'):
        layer.backward(output)


def test_a_layer_without_forward_and_backward_says_so():
    for call in (_Layer().forward, _Layer().backward):
        with pytest.raises(NotImplementedError):
            call(normal(2, 2))


def test_an_error_of_backward_names_layer_and_shapes():
    layer = FullyConnected(4, 3)
    layer.forward(normal(2, 4))
    with pytest.raises(ValueError, match=(
            r'^FullyConnected\(4, 3\): output_grad has the shape \(3, 3\), expected \(2, 3\), ')):
        layer.backward(normal(3, 3))


@every_loss
def test_a_loss_refuses_backward_before_forward(loss):
    with pytest.raises(RuntimeError, match='backward needs a forward before it'):
        type(loss)().backward()


# What holds for every loss ------------------------------------------------------------------------

def one_hot(rows):
    return np.eye(5)[np.arange(rows) % 5]


def labels(rows):
    return np.arange(rows) % 5


def small_labels(rows):
    return labels(rows).astype(np.uint8)


def mixed_rows(rows):
    return np.tile([0.3, 0, 0.5, 0.2, 0], (rows, 1))


every_target = pytest.mark.parametrize('target_of', [one_hot, labels, small_labels, mixed_rows])


@every_loss
@every_target
@pytest.mark.parametrize('rows', [1, 7])
def test_loss_gradients(loss, target_of, rows):
    check_gradients(loss, normal(rows, 5), target_of(rows))


@every_loss
@every_target
@both_dtypes
def test_a_loss_changes_no_argument_and_keeps_the_dtype(loss, target_of, dtype):
    input = normal(6, 5, dtype=dtype)
    target = target_of(6)
    input_before = input.copy()
    target_before = target.copy()
    predict, value = loss.forward(input, target)
    assert np.array_equal(predict, loss.predict(input))
    assert predict.dtype == dtype and type(value) is float
    predict[...] = 0      # what a caller does with the result is of no matter to backward
    input_grad = loss.backward()
    assert np.array_equal(input, input_before)
    assert np.array_equal(target, target_before)
    assert input_grad.dtype == dtype
    loss.forward(input, target)
    assert np.array_equal(loss.backward(), input_grad)


@every_loss
def test_labels_and_one_hot_rows_give_the_same_numbers(loss):
    label = np.array([4, 0, 2, 2])
    results = []
    for target in (label, label.tolist(), label.astype(np.uint8), np.eye(5, dtype=int)[label],
                   np.eye(5, dtype=np.float32)[label], np.eye(5, dtype=bool)[label]):
        predict, value = loss.forward(normal(4, 5), target)
        results.append((predict, value, loss.backward()))
    for predict, value, input_grad in results[1:]:
        assert value == results[0][1]
        assert np.array_equal(predict, results[0][0])
        assert np.array_equal(input_grad, results[0][2])


# What is refused ----------------------------------------------------------------------------------

REFUSED = [     # the call, the error, and what its message says
    (lambda: FullyConnected(4, 3).forward(normal(2, 5)),
     ValueError, r'^FullyConnected\(4, 3\) expects an input \(N, 4\), got \(N, 5\)$'),
    (lambda: FullyConnected(4, 3).forward(normal(4)),
     ValueError, r'expects an input \(N, 4\), got \(N\): pass one row as data\[i:i\+1\]$'),
    (lambda: FullyConnected(4, 3).forward(normal(2, 2, 2)), ValueError, r'got \(N, 2, 2\)$'),
    (lambda: FullyConnected(4, 3).forward(np.ones((2, 4), int)), TypeError,
     r'^FullyConnected\(4, 3\) got int64, expected an array of float32 or float64: for pixels '
     r'0\.\.255 put PixelScaling\(\) first$'),
    (lambda: FullyConnected(4, 3).forward(np.ones((2, 4), np.float16)), TypeError, 'got float16'),
    (lambda: FullyConnected(4, 3).forward([[1.0, 2, 3, 4]]), TypeError, 'got list, expected an'),
    (lambda: FullyConnected(4, 3).output_shape((2, 2, 1)), ValueError, r'got \(N, 2, 2, 1\)$'),
    (lambda: Conv2d(3, 2).forward(normal(2, 5, 5)), ValueError,
     r'^Conv2d\(3, 2, kernel_size=3\) expects an input \(N, H, W, 3\), got \(N, 5, 5\)$'),
    (lambda: Conv2d(3, 2).forward(normal(2, 5, 5, 4)), ValueError, r'got \(N, 5, 5, 4\)$'),
    (lambda: Conv2d(3, 2).forward(np.ones((2, 5, 5, 3), np.uint8)), TypeError, 'got uint8'),
    (lambda: MaxPool2d().forward(normal(2, 5)), ValueError,
     r'^MaxPool2d\(\) expects an input \(N, H, W, C\), got \(N, 5\)$'),
    (lambda: MaxPool2d().forward(np.ones((1, 2, 2, 1), int)), TypeError, 'MaxPool2d.*got int64'),
    (lambda: BatchNorm(3).forward(normal(4, 5)), ValueError,
     r'^BatchNorm\(3\) expects an input \(N, \.\.\., 3\), got \(N, 5\)$'),
    (lambda: BatchNorm(3).forward(normal(3)), ValueError, r'got \(N\): pass one row as data\[i'),
    (lambda: BatchNorm(3).forward(normal(1, 3)), ValueError,
     'BatchNorm.* got 1 row in training, expected two or more'),
    (lambda: BatchNorm(3).forward(normal(1, 1, 1, 3)), ValueError, 'got 1 row in training'),
    (lambda: BatchNorm(3).forward([[1.0, 2, 3]]), TypeError, 'BatchNorm.*got list'),
    (lambda: Reshape(2, 3).forward(normal(4, 5)), ValueError,
     r'^Reshape\(2, 3\) expects an input \(N, 6 numbers\), got \(N, 5\)$'),
    (lambda: Augment(9).forward(np.ones((2, 16), np.uint8)), TypeError, 'Augment.*got uint8'),
    (lambda: Augment(9).forward(normal(2, 4, 9, 1)), ValueError,
     r'Augment.* expects an input \(N, S\*S\) or \(N, S, S, 1\), got \(N, 4, 9, 1\)$'),
    (lambda: Augment(9).forward(normal(2, 15)), ValueError, r'Augment.*got \(N, 15\)$'),
    (lambda: Augment(9).output_shape((4, 4, 4)), ValueError, r'got \(N, 4, 4, 4\)$'),
    (lambda: PixelScaling().forward(np.array([[0, 256]])), ValueError,
     r'got 0\.\.256, expected pixels 0\.\.255$'),
    (lambda: PixelScaling().forward(np.array([[-1, 5]])), ValueError,
     r'^PixelScaling\(mean=0, std=1\) got -1\.\.5, expected pixels 0\.\.255$'),
    (lambda: PixelScaling().forward(np.array([[0.0, 255.0]])), ValueError,
     r'got floats up to 255, which look like unscaled pixels: give integers 0\.\.255, or divide '
     'by 255$'),
    (lambda: PixelScaling().forward([[0.0, 255.0]]), ValueError, 'got floats up to 255'),
    (lambda: Conv2d(1, 1, 2), ValueError, '^Conv2d got kernel_size=2, expected 1, 3, 5 or 7$'),
    (lambda: Dropout(1.0), ValueError, '^Dropout got p=1.0, expected at least 0 and less than 1$'),
    (lambda: Dropout(-0.1), ValueError, '^Dropout got p=-0.1'),
    (lambda: SoftmaxWithLoss(1.0), ValueError, '^label_smoothing is 1.0, expected at least 0 '),
    (lambda: SoftmaxWithLoss(-0.1), ValueError, '^label_smoothing is -0.1'),
    (lambda: FullyConnected(4, 3, 0), TypeError,
     r'^rng is 0, expected a generator such as np\.random\.default_rng\(0\)$'),
    (lambda: Conv2d(1, 1, rng=1), TypeError, '^rng is 1'),
    (lambda: Dropout(0.5, 0), TypeError, '^rng is 0'),
    (lambda: Augment(rng=np.random.RandomState(0)), TypeError, '^rng is RandomState'),
]
for loss in LOSSES[1:]:
    REFUSED += [
        (lambda loss=loss: loss.forward(normal(2, 3, 4), [0, 1]), ValueError,
         r'expects an input \(N, K\), got \(N, 3, 4\)$'),
        (lambda loss=loss: loss.forward(normal(3), 0), ValueError, r'pass one row as data\[i:i'),
        (lambda loss=loss: loss.forward(np.ones((2, 3), int), [0, 1]), TypeError, 'got int64'),
    ]
    for target, message in [
            ([0, -1, 2], r'^target: row 1 is -1, expected a label 0\.\.46 or a one-hot row, which'),
            ([0, 1, 47], r'^target: row 2 is 47, expected a label 0\.\.46'),
            ([0.0, 1.0, 2.0], r'^target has the shape \(3,\) and dtype float64, expected one-hot '
                              r'rows \(3, 47\) or integer labels \(3,\)$'),
            ([True, False, True], r'shape \(3,\) and dtype bool'),
            ([0, 1], r'^target has the shape \(2,\) and dtype int64'),
            ([[0], [1], [2]], r'^target has the shape \(3, 1\)'),
            (3, r'^target has the shape \(\)'),
            (np.ones((3, 46)) / 46, r'^target has the shape \(3, 46\)'),
            (np.zeros((3, 47)), r'^target: row 0 is \[0\.0, '),
            (np.eye(47)[:3] * 1.01, r'^target: row 0 is \[1\.01, '),
            (np.eye(47)[:3] * [[1], [1], [0.99]], r'^target: row 2 is \[0\.0, '),
            (np.eye(47)[:3] * 3 - 2 / 47, r'^target: row 0 is '),       # sums to 1, but negative
            (np.full((3, 47), np.nan), r'^target: row 0 is \[nan, ')]:
        REFUSED.append((lambda loss=loss, target=target: loss.forward(np.zeros((3, 47)), target),
                        ValueError, message))


@pytest.mark.parametrize('call, error, message', REFUSED, ids=[row[2] for row in REFUSED])
def test_what_is_wrong_is_refused_in_one_sentence(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert type(caught.value) is error
    assert '\n' not in str(caught.value)
    assert 'astype' not in str(caught.value)


@every_loss
def test_a_loss_refuses_a_batch_without_rows(loss):
    for target in ([], np.zeros(0, int), np.zeros((0, 3))):
        with pytest.raises(ValueError, match='no rows'):
            loss.forward(normal(0, 3), target)


def test_targets_that_sum_to_1_up_to_rounding_are_taken():
    target = np.full((2, 47), 1 / 47, np.float32)
    predict, value = SoftmaxWithLoss().forward(np.zeros((2, 47)), target)
    assert abs(value - np.log(47)) < 1e-6


# Names --------------------------------------------------------------------------------------------

def test_import_star_gives_the_base_class_and_every_layer():
    names = {}
    exec('from layer import *', names)
    for layer in (_Layer, Loss, FullyConnected, ReLU, SoftmaxWithLoss, LeakyReLU, Sigmoid, Tanh,
                  SquaredError, PixelScaling, Reshape, Flatten, Dropout, BatchNorm, Conv2d,
                  MaxPool2d, Augment):
        assert names.get(layer.__name__) is layer


@pytest.mark.parametrize('text', [
    'FullyConnected(4, 3)', 'ReLU()', 'LeakyReLU(0.01)', 'LeakyReLU(0.2)', 'Sigmoid()', 'Tanh()',
    'PixelScaling(mean=0, std=1)', 'PixelScaling(mean=0.2, std=0.3)', 'Reshape(2, 3)',
    'Reshape(6,)', 'Flatten()', 'Dropout(0.5)', 'Dropout(0.2)', 'BatchNorm(3)',
    'Conv2d(2, 3, kernel_size=3)', 'Conv2d(2, 3, kernel_size=5, bias=False)', 'MaxPool2d()',
    'Augment(rotation=10, scale=0.1, shear=0.12, shift=1.2, elastic=0.6)', 'SoftmaxWithLoss()',
    'SoftmaxWithLoss(label_smoothing=0.1)', 'SquaredError()'])
def test_a_layer_prints_as_the_call_that_makes_it(text):
    assert repr(eval(text, vars(layer))) == text


@pytest.mark.parametrize('layer, text', [
    (LeakyReLU(), 'LeakyReLU(0.01)'), (PixelScaling(), 'PixelScaling(mean=0, std=1)'),
    (Dropout(), 'Dropout(0.5)'), (Conv2d(2, 3), 'Conv2d(2, 3, kernel_size=3)'),
    (Augment(), 'Augment(rotation=0, scale=0, shear=0, shift=0, elastic=0)'),
    (SoftmaxWithLoss(), 'SoftmaxWithLoss()'), (SoftmaxWithLoss(0), 'SoftmaxWithLoss()')])
def test_defaults(layer, text):
    assert repr(layer) == text


@pytest.mark.parametrize('layer, parameters, decayed, states', [
    (FullyConnected(4, 3), ('weight', 'bias'), ('weight',), ()),
    (Conv2d(4, 3), ('weight', 'bias'), ('weight',), ()),
    (Conv2d(4, 3, bias=False), ('weight',), ('weight',), ()),
    (BatchNorm(4), ('weight', 'bias'), (), ('running_mean', 'running_var')),
    (ReLU(), (), (), ())], ids=repr)
def test_the_names_of_the_arrays(layer, parameters, decayed, states):
    """SGD, weight decay and save go by these names."""
    assert layer.parameter_names == parameters
    assert layer.decayed_names == decayed
    assert layer.state_names == states
    assert layer.training is True and layer.needs_input_grad is True and layer.cache is None
    assert layer.weight_grad is None and layer.bias_grad is None
    for name in parameters + states:
        assert getattr(layer, name).dtype == np.float32, name


@pytest.mark.parametrize('layer, shape', [
    (FullyConnected(4, 3), (5, 4)), (Conv2d(4, 3), (2, 5, 5, 4))], ids=repr)
def test_backward_may_skip_the_input_gradient(layer, shape):
    output_grad = normal(*layer.forward(normal(*shape)).shape)
    assert layer.backward(output_grad).shape == shape
    expected = gradients(layer)
    layer.needs_input_grad = False
    assert layer.backward(output_grad) is None
    for name, gradient in gradients(layer).items():
        assert np.array_equal(gradient, expected[name]), name


def test_astype_converts_parameters_and_state_and_returns_the_layer():
    layer = BatchNorm(3)
    assert layer.astype(np.float64) is layer
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        assert getattr(layer, name).dtype == np.float64, name


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
    (LeakyReLU(), [-0.02, -0.01, 0, 3], [0.01, 0.01, 0.01, 1]),
    (LeakyReLU(0.5), [-1, -0.5, 0, 3], [0.5, 0.5, 0.5, 1]),
    (Sigmoid(), [0.1192029220, 0.2689414214, 0.5, 0.9525741268],
     [0.1049935854, 0.1966119332, 0.25, 0.0451766597]),
    (Tanh(), [-0.9640275801, -0.7615941560, 0, 0.9950547537],
     [0.0706508249, 0.4199743416, 1, 0.0098660372])], ids=repr)
def test_activations_by_hand(layer, output, gradient):
    input = np.array([[-2.0, -1, 0, 3]])
    np.testing.assert_allclose(layer.forward(input), [output], atol=1e-9)
    np.testing.assert_allclose(layer.backward(np.ones((1, 4))), [gradient], atol=1e-9)


@pytest.mark.parametrize('layer', [ReLU(), LeakyReLU(), Sigmoid(), Tanh()], ids=repr)
def test_activations_do_not_overflow(layer):
    with np.errstate(all='raise', under='ignore'):
        assert np.isfinite(layer.forward(np.array([[-1e4, 1e4]]))).all()
        assert np.isfinite(layer.backward(np.ones((1, 2)))).all()


def test_zero_logits_lose_ln_47():
    predict, loss = SoftmaxWithLoss().forward(np.zeros((5, 47)), np.arange(5))
    assert abs(loss - np.log(47)) < 1e-12
    np.testing.assert_allclose(predict, 1 / 47)


@both_dtypes
def test_softmax_of_large_logits_does_not_overflow(dtype):
    loss = SoftmaxWithLoss()
    logits = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], dtype)
    with np.errstate(all='raise', under='ignore'):
        predict, value = loss.forward(logits, np.array([1, 2]))
        input_grad = loss.backward()
    assert abs(value - (2e4 + np.log(3)) / 2) < 1e-3
    np.testing.assert_allclose(predict, [[1, 0, 0], [1 / 3] * 3], atol=1e-6)
    np.testing.assert_allclose(input_grad, [[0.5, -0.5, 0], [1 / 6, 1 / 6, -1 / 3]], atol=1e-6)
    assert softmax(logits)[1][0].tolist() == [0, -2e4, -1e4]


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


def test_squared_error_by_hand():
    loss = SquaredError()
    predict, value = loss.forward(np.array([[1.0, 2], [0, 0]]), np.array([0, 1]))
    assert predict.tolist() == [[1, 2], [0, 0]]
    assert value == 0.5 * (4 + 1) / 2
    assert loss.backward().tolist() == [[0, 1], [0, -0.5]]


@pytest.mark.parametrize('layer, fan_in', [
    (FullyConnected(400, 300, generator()), 400), (Conv2d(32, 64, 3, generator()), 288)], ids=repr)
def test_he_initialisation(layer, fan_in):
    assert abs(layer.weight.var() * fan_in / 2 - 1) < 0.03
    assert abs(layer.weight.mean()) < 2e-3
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    assert layer.bias.shape == (1, layer.weight.shape[-1])
    assert not layer.bias.any()


def draw_weight(rng):
    return FullyConnected(5, 4, rng).weight


def draw_kernel(rng):
    return Conv2d(2, 3, 3, rng).weight


def draw_dropout(rng):
    return Dropout(0.5, rng).forward(normal(4, 9))


def draw_augment(rng):
    return Augment(9, rng=rng).forward(spots(2, 12))


every_draw = pytest.mark.parametrize('draw', [
    draw_weight, draw_kernel, draw_dropout, draw_augment])


@every_draw
def test_a_generator_decides_the_random_numbers(draw):
    rng = generator(1)
    first = draw(rng)
    assert np.array_equal(first, draw(generator(1)))
    assert not np.array_equal(first, draw(generator(2)))
    assert not np.array_equal(first, draw(rng)), 'the generator did not go on'


@every_draw
def test_without_a_generator_np_random_seed_decides(draw):
    numbers = []
    for seed in (0, 0, 1):
        np.random.seed(seed)      # as in the handout
        numbers.append((draw(None), draw(None)))
    assert np.array_equal(numbers[0][0], numbers[1][0])
    assert np.array_equal(numbers[0][1], numbers[1][1])
    assert not np.array_equal(numbers[0][0], numbers[0][1])
    assert not np.array_equal(numbers[0][0], numbers[2][0])
    assert len({draw(None).tobytes() for layer in range(20)}) == 20, 'two layers drew the same'


# Known answers: the layers for images -------------------------------------------------------------

@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.int64])
def test_pixel_scaling_of_integers(dtype):
    pixels = np.array([[0, 51, 255]], dtype)
    output = PixelScaling().forward(pixels)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, [[0, 0.2, 1]], atol=1e-6)
    np.testing.assert_allclose(PixelScaling(0.2, 0.4).forward(pixels), [[-0.5, 0, 2]], atol=1e-6)


@both_dtypes
def test_pixel_scaling_passes_floats_up_to_20_unchanged(dtype):
    """Pixels that were divided by 255 or standardised before."""
    input = np.array([[-3, 0, 20]], dtype)
    output = PixelScaling(0.2, 0.4).forward(input)
    assert output.dtype == dtype and np.array_equal(output, input)
    with pytest.raises(ValueError, match='got floats up to 20.5'):
        PixelScaling().forward(np.array([[0, 20.5]], dtype))


def test_flatten_and_reshape_keep_the_order():
    image = np.arange(24.0).reshape(2, 2, 3, 2)
    flat = Flatten().forward(image)
    assert flat.tolist() == np.arange(24.0).reshape(2, 12).tolist()
    assert np.array_equal(Reshape(2, 3, 2).forward(flat), image)
    assert Reshape(3, 4).output_shape((2, 3, 2)) == (3, 4)
    assert Flatten().output_shape((2, 3, 2)) == (12,)


def test_windows_by_hand():
    image = np.arange(1.0, 7).reshape(1, 2, 3, 1)      # 1 2 3 above 4 5 6
    rows = windows(image, 3)
    assert rows.shape == (6, 9)
    assert rows[0].tolist() == [0, 0, 0, 0, 1, 2, 0, 4, 5]
    assert rows[4].tolist() == [1, 2, 3, 4, 5, 6, 0, 0, 0]
    assert np.array_equal(windows(normal(2, 3, 4, 5), 1), normal(2, 3, 4, 5).reshape(24, 5))


def convolution_by_definition(input, weight, bias):
    """The sum of Conv2d's docstring, pixel after pixel."""
    rows, height, width, channels = input.shape
    k = len(weight)
    output = np.zeros((rows, height, width, weight.shape[3])) + bias[0]
    for y in range(height):
        for x in range(width):
            for u in range(k):
                for v in range(k):
                    row = y + u - k // 2
                    column = x + v - k // 2
                    if 0 <= row < height and 0 <= column < width:
                        output[:, y, x] += input[:, row, column] @ weight[u, v]
    return output


@pytest.mark.parametrize('rows, height, width, channels, k', [
    (1, 1, 1, 1, 1), (2, 4, 5, 3, 3), (2, 5, 4, 2, 5), (1, 2, 7, 1, 5), (3, 6, 6, 4, 1),
    (2, 8, 9, 2, 7), (2, 3, 2, 2, 7)])
def test_convolution_against_its_definition(rows, height, width, channels, k):
    layer = Conv2d(channels, 3, k).astype(np.float64)
    layer.bias = normal(1, 3)
    input = normal(rows, height, width, channels)
    expected = convolution_by_definition(input, layer.weight, layer.bias)
    compare('output', layer.forward(input), expected, 1e-12)
    layer.bias = None
    compare('without bias', layer.forward(input), expected - normal(1, 3), 1e-10)


def test_convolution_of_kernel_1_is_a_fully_connected_layer_at_every_pixel():
    convolution = Conv2d(4, 3, 1)
    connected = FullyConnected(4, 3)
    connected.weight = convolution.weight[0, 0]
    input = normal(2, 3, 5, 4)
    output_grad = normal(2, 3, 5, 3)
    output = connected.forward(input.reshape(-1, 4))
    input_grad = connected.backward(output_grad.reshape(-1, 3))
    compare('output', convolution.forward(input), output.reshape(2, 3, 5, 3))
    compare('input_grad', convolution.backward(output_grad), input_grad.reshape(input.shape))
    compare('weight_grad', convolution.weight_grad[0, 0], connected.weight_grad)
    compare('bias_grad', convolution.bias_grad, connected.bias_grad)


@pytest.mark.parametrize('square, place', [
    ([[1, 1], [1, 1]], (0, 0)), ([[0, 2], [2, 2]], (1, 0)), ([[0, 1], [3, 3]], (1, 0)),
    ([[0, 1], [2, 3]], (1, 1)), ([[2, 1], [2, 1]], (0, 0)), ([[0, 0], [-1, 0]], (0, 0)),
    ([[1, 2], [2, 1]], (1, 0))], ids=str)
def test_max_pool_gives_the_gradient_to_the_first_of_equal_pixels(square, place):
    """In a column to the upper pixel, of two columns to the left one."""
    layer = MaxPool2d()
    output = layer.forward(np.array(square, float).reshape(1, 2, 2, 1))
    assert output.item() == np.max(square)
    expected = np.zeros((2, 2))
    expected[place] = 5
    input_grad = layer.backward(np.full((1, 1, 1, 1), 5.0))
    assert input_grad[0, :, :, 0].tolist() == expected.tolist()


def test_max_pool_keeps_the_last_pixels_of_odd_sides():
    layer = MaxPool2d()
    image = np.arange(-15.0, 0).reshape(1, 3, 5, 1)      # less than any zeros around it
    assert layer.forward(image)[0, :, :, 0].tolist() == [[-9, -7, -6], [-4, -2, -1]]
    input_grad = layer.backward(np.arange(1.0, 7).reshape(1, 2, 3, 1))
    assert input_grad[0, :, :, 0].tolist() == [[0] * 5, [0, 1, 0, 2, 3], [0, 4, 0, 5, 6]]


@pytest.mark.parametrize('shape', [(50, 3), (5, 4, 2, 3)], ids=['features', 'images'])
def test_batch_norm_normalises_and_keeps_running_statistics(shape):
    layer = BatchNorm(3).astype(np.float64)
    axes = tuple(range(len(shape) - 1))
    mean = np.zeros(3)
    var = np.ones(3)
    for step in range(4):
        input = normal(*shape, seed=step) * [1, 5, 0.2] + [0, 7, -3]
        output = layer.forward(input)
        batch_var = input.var(axis=axes)
        np.testing.assert_allclose(output.mean(axis=axes), 0, atol=1e-12)
        np.testing.assert_allclose(output.var(axis=axes), batch_var / (batch_var + 1e-5))
        rows = input.size // 3
        mean = 0.9 * mean + 0.1 * input.mean(axis=axes)
        var = 0.9 * var + 0.1 * batch_var * rows / (rows - 1)
        np.testing.assert_allclose(layer.running_mean, [mean], atol=1e-12)
        np.testing.assert_allclose(layer.running_var, [var], atol=1e-12)
    layer.training = False
    layer.weight = np.array([[1.0, 2, 3]])
    layer.bias = np.array([[4.0, 5, 6]])
    expected = (input - mean) / np.sqrt(var + 1e-5) * [1, 2, 3] + [4, 5, 6]
    np.testing.assert_allclose(layer.forward(input), expected, atol=1e-12)
    np.testing.assert_allclose(layer.forward(input[:1]), expected[:1], atol=1e-12)
    np.testing.assert_allclose(layer.running_mean, [mean], atol=1e-12)      # as it was


def test_batch_norm_takes_two_rows_and_learns_nothing_from_a_refused_one():
    layer = BatchNorm(2)
    with pytest.raises(ValueError, match='got 1 row'):
        layer.forward(normal(1, 2))
    assert not layer.running_mean.any()
    compare('output', layer.forward(np.array([[0.0, 3], [2, 1]])), [[-1, 1], [1, -1]], 1e-4)


def test_batch_norm_of_a_constant_feature_is_finite():
    layer = BatchNorm(2)
    assert not layer.forward(np.full((4, 2), 3, np.float32)).any()
    assert np.isfinite(layer.backward(normal(4, 2, dtype=np.float32))).all()


@pytest.mark.parametrize('p', [0, 0.2, 0.5, 0.9])
def test_dropout_zeroes_a_part_and_keeps_the_expected_value(p):
    layer = Dropout(p, generator())
    ones = np.ones((200, 500), np.float32)
    output = layer.forward(ones)
    values = [0, 1 / (1 - p)] if p else [1]
    np.testing.assert_allclose(np.unique(output), values, rtol=1e-6)
    assert abs(np.mean(output == 0) - p) < 0.01
    assert np.array_equal(layer.backward(ones), output)      # the gradient takes the same way
    if p:
        assert not np.array_equal(layer.forward(ones), output), 'the same draw twice'
    layer.training = False
    assert np.array_equal(layer.forward(ones), ones)
    assert np.array_equal(layer.backward(ones), ones)


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
    ({'rotation': 90}, lambda y, x: (-x, y)),
    ({'rotation': 30}, lambda y, x: (np.sqrt(0.75) * y - x / 2, np.sqrt(0.75) * x + y / 2)),
    ({'scale': 0.2, 'shear': 0.3}, lambda y, x: (1.2 * y + 0.3 * x, 0.9 * x - 0.15 * y)),
    ({'rotation': 90, 'shift': 2}, lambda y, x: (-x + 2, y - 1)),
    ({'rotation': 90, 'scale': 0.2}, lambda y, x: (-0.9 * x, 1.2 * y)),
]


@pytest.mark.parametrize('settings, place', PLACES, ids=[repr(row[0]) for row in PLACES])
def test_augment_reads_at_these_places(settings, place):
    layer = fixed_augment(FixedNumbers((1, -0.5)), **settings)
    y, x = place(*centred(7))
    expected = np.array([y, x]) + 3
    places = layer.random_places(2, 7)
    assert places.shape == (2, 2, 49) and places.dtype == np.float32
    for row in range(2):
        np.testing.assert_allclose(places[:, row], expected, atol=1e-5)


def test_elastic_moves_a_point_by_its_number_and_the_pixels_between_by_a_part():
    points = np.zeros((1, 2, 4, 4))
    points[0, 0, 1, 2] = 2      # y of the point at pixel (3, 6) of 10 x 10
    points[0, 1, 3, 0] = -1     # x of the point at pixel (9, 0)
    layer = fixed_augment(FixedNumbers(points=points), elastic=0.3)
    bend = layer.random_places(1, 10) - centred(10)[:, np.newaxis] - 4.5
    bend = bend.reshape(2, 10, 10)
    ramp = np.array([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    expected = np.zeros((2, 10, 10))
    expected[0, 1:6, 4:9] = 0.3 * 2 * np.outer(ramp, ramp)
    expected[1, 7:, :3] = 0.3 * -1 * np.outer(ramp[:3], ramp[2:])
    np.testing.assert_allclose(bend, expected, atol=1e-5)


def half_a_pixel_on(image, axis):
    return (image + np.roll(image, -1, axis)) / 2


MOVES = [
    ({}, lambda image: image),
    ({'shift': 1}, lambda image: np.roll(image, (-1, -1), (1, 2))),
    ({'shift': 0.5}, lambda image: half_a_pixel_on(half_a_pixel_on(image, 1), 2)),
    ({'rotation': 90}, lambda image: np.rot90(image, -1, (1, 2))),
]


@pytest.mark.parametrize('settings, change', MOVES, ids=[repr(row[0]) for row in MOVES])
def test_augment_moves_the_image_as_it_says(settings, change):
    image = np.zeros((2, 11, 11), np.float32)
    image[:, 3:8, 4:6] = normal(2, 5, 2)
    layer = fixed_augment(FixedNumbers(), **settings)
    output = layer.forward(image.reshape(2, 121)).reshape(2, 11, 11)
    np.testing.assert_allclose(output, change(image), atol=5e-3)


def test_augment_reads_the_nearest_border_pixel_outside_the_image():
    image = normal(1, 5, 5, 1)
    layer = fixed_augment(FixedNumbers((1, -1)), shift=20)      # far below, far to the left
    np.testing.assert_allclose(layer.forward(image), np.full((1, 5, 5, 1), image[0, 4, 0, 0]),
                               atol=5e-3)


def test_augment_without_limits_is_the_identity_up_to_the_border():
    image = normal(3, 8, 8, 1)
    np.testing.assert_allclose(Augment().forward(image), image, atol=5e-3)


def test_augment_shifts_by_up_to_the_limit_in_all_directions():
    image = spots(400, 12)
    output = Augment(shift=1.5, rng=generator()).forward(image)
    for axis in centred(12):
        centre = (output * axis).sum(axis=1) / output.sum(axis=1)
        assert abs(centre.mean()) < 0.15
        assert -1.6 < centre.min() < -1.3
        assert 1.3 < centre.max() < 1.6


EVERY_SETTING = [
    {'rotation': 30}, {'scale': 0.2}, {'shear': 0.3}, {'shift': 1.5}, {'elastic': 0.7},
    {'rotation': 15, 'scale': 0.1, 'shear': 0.1, 'shift': 1, 'elastic': 0.5}]


@pytest.mark.parametrize('settings', EVERY_SETTING, ids=repr)
def test_augment_changes_each_image_in_its_own_way_and_keeps_its_brightness(settings):
    image = spots(30, 12)
    output = Augment(rng=generator(), **settings).forward(image)
    assert abs(output - image).max(axis=1).min() > 1e-3, 'an image came out as it went in'
    assert abs(output[0] - output[1]).max() > 1e-3, 'two images were changed alike'
    assert 0.85 < output.mean() / image.mean() < 1.15
    assert output.min() >= 0 and output.max() <= image.max()


@pytest.mark.parametrize('settings', EVERY_SETTING, ids=repr)
def test_augment_changes_nothing_in_evaluation(settings):
    image = spots(3, 12)
    layer = Augment(rng=generator(), **settings)
    layer.training = False
    assert np.array_equal(layer.forward(image), image)
    assert np.array_equal(layer.backward(image), image)


def test_augment_draws_both_axes_of_every_image_by_themselves():
    """Over many images, the numbers of the two axes are not the same and not correlated."""
    layer = Augment(shift=1, rng=generator())
    centre = layer.random_places(1000, 3)[:, :, 4] - 1      # y and x of the middle pixel
    assert abs(np.corrcoef(centre)[0, 1]) < 0.1
    np.testing.assert_allclose(centre.std(axis=1), 1 / np.sqrt(3), atol=0.03)
