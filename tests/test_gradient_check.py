"""The gradient check itself: right layers pass, and each mistake of a list is caught and named."""
import numpy as np
import pytest

from gradient_check import check_gradients, check_network, compare, numeric_gradient
from layer import (_Layer, Augment, BatchNorm, Conv2d, Dropout, FullyConnected, LeakyReLU,
                   MaxPool2d, ReLU, SoftmaxWithLoss, Tanh)
from network import Network


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape)


def one_element_wrong(grad):
    """Make one element, the last but one, half a per mille too great."""
    grad = grad.copy()
    grad.flat[-2] *= 1.0005
    return grad


# Mistakes: each class has one ---------------------------------------------------------------------

class ReLUWithoutMask(ReLU):
    def backward(self, output_grad):
        return output_grad


class ReLUOfOutputGrad(ReLU):
    def backward(self, output_grad):
        return output_grad * (output_grad > 0)


class ReLUReturnsNothing(ReLU):
    def backward(self, output_grad):
        super().backward(output_grad)


class ReLUChangesItsInput(_Layer):
    def forward(self, input):
        input[input < 0] = 0
        self.mask = input > 0
        return input

    def backward(self, output_grad):
        return output_grad * self.mask


class ReLUChangesItsInputInBackward(ReLU):
    def forward(self, input):
        self.input = input
        return super().forward(input)

    def backward(self, output_grad):
        input_grad = super().backward(output_grad)
        self.input[...] = 0
        return input_grad


class ReLUChangesOutputGrad(ReLU):
    def forward(self, input):
        self.mask = input > 0
        return super().forward(input)

    def backward(self, output_grad):
        output_grad[~self.mask] = 0
        return output_grad


class TanhOfInput(Tanh):
    def forward(self, input):
        self.input = input
        return super().forward(input)

    def backward(self, output_grad):
        return output_grad * (1 - self.input ** 2)


class LeakyReLUWithoutSlope(LeakyReLU):
    def backward(self, output_grad):
        return output_grad * (self.recall(output_grad) > 0)


class FullyConnectedWith(FullyConnected):
    """FullyConnected(3, 3) whose gradient `name` is change(the right one)."""

    def __init__(self, name, change):
        super().__init__(3, 3)
        self.name = name
        self.change = change

    def backward(self, output_grad):
        input_grad = super().backward(output_grad)
        if self.name == 'input_grad':
            return self.change(input_grad)
        setattr(self, self.name, self.change(getattr(self, self.name)))
        return input_grad


class BatchNormWithoutMean(BatchNorm):
    def backward(self, output_grad):
        mean = output_grad.mean(axis=0)
        return super().backward(output_grad) + self.weight / self.recall()[1] * mean


class Conv2dTurnedInput(Conv2d):
    def backward(self, output_grad):
        return super().backward(output_grad)[:, ::-1, ::-1]


class Conv2dTurnedWeight(Conv2d):
    def backward(self, output_grad):
        input_grad = super().backward(output_grad)
        self.weight_grad = self.weight_grad[::-1, ::-1]
        return input_grad


class MaxPool2dToAll(MaxPool2d):
    def backward(self, output_grad):
        return output_grad.repeat(2, axis=1).repeat(2, axis=2)


class SummedLoss(SoftmaxWithLoss):
    def forward(self, input, target):
        predict, loss = super().forward(input, target)
        return predict, loss * len(input)


class SummedGradient(SoftmaxWithLoss):
    def backward(self):
        input_grad = super().backward()
        return input_grad * len(input_grad)


class SmoothingForgotten(SoftmaxWithLoss):
    def forward(self, input, target):
        self.plain = SoftmaxWithLoss()
        self.plain.forward(input, target)
        return super().forward(input, target)

    def backward(self):
        return self.plain.backward()


class LossChangesItsTarget(SoftmaxWithLoss):
    def forward(self, input, target):
        result = super().forward(input, target)
        target[0] = 1
        return result


ROWS = normal(4, 3)
IMAGES = normal(2, 4, 4, 1)
LABELS = np.array([0, 2, 1, 2])
MISTAKES = [     # the layer, its input, its target, and what the message names
    (ReLUWithoutMask(), ROWS, None, 'input_grad'),
    (ReLUOfOutputGrad(), ROWS, None, 'input_grad'),
    (ReLUReturnsNothing(), ROWS, None, r'input_grad: got None, expected the shape \(4, 3\)'),
    (ReLUChangesItsInput(), ROWS, None, 'changed input in place'),
    (ReLUChangesItsInputInBackward(), ROWS, None, 'changed input in place'),
    (ReLUChangesOutputGrad(), ROWS, None, 'changed output_grad in place'),
    (TanhOfInput(), ROWS, None, 'input_grad'),
    (LeakyReLUWithoutSlope(), ROWS, None, 'input_grad'),
    (FullyConnectedWith('weight_grad', np.transpose), ROWS, None, 'weight_grad'),
    (FullyConnectedWith('weight_grad', lambda grad: grad / 4), ROWS, None, 'weight_grad'),
    (FullyConnectedWith('weight_grad', lambda grad: None), ROWS, None, 'weight_grad: got None'),
    (FullyConnectedWith('weight_grad', one_element_wrong), ROWS, None, r'weight_grad\[2, 1\]'),
    (FullyConnectedWith('bias_grad', lambda grad: grad / 4), ROWS, None, 'bias_grad'),
    (FullyConnectedWith('bias_grad', np.ravel), ROWS, None, r'bias_grad: got the shape \(3,\)'),
    (FullyConnectedWith('input_grad', lambda grad: grad * np.nan), ROWS, None, 'input_grad'),
    (BatchNormWithoutMean(3), ROWS, None, 'input_grad'),
    (Conv2dTurnedInput(1, 1), IMAGES, None, 'input_grad'),
    (Conv2dTurnedWeight(1, 1), IMAGES, None, 'weight_grad'),
    (MaxPool2dToAll(), IMAGES, None, 'input_grad'),
    (SummedLoss(), ROWS, LABELS, 'input_grad'),
    (SummedGradient(), ROWS, LABELS, 'input_grad'),
    (SmoothingForgotten(0.1), ROWS, LABELS, 'input_grad'),
    (LossChangesItsTarget(), ROWS, LABELS, 'changed target in place'),
]
IDS = [f'{type(layer).__name__}-{message}' for layer, input, target, message in MISTAKES]


@pytest.mark.parametrize('layer, input, target, message', MISTAKES, ids=IDS)
def test_a_mistake_is_caught_and_named(layer, input, target, message):
    with pytest.raises(AssertionError, match=message) as caught:
        check_gradients(layer, input, target)
    assert str(caught.value).startswith(f'{layer!r}: ')
    assert '\n' not in str(caught.value)


RIGHT = [
    (ReLU(), ROWS, None), (Tanh(), ROWS, None), (LeakyReLU(), ROWS, None),
    (FullyConnectedWith('weight_grad', np.copy), ROWS, None), (BatchNorm(3), ROWS, None),
    (Conv2d(1, 1), IMAGES, None), (MaxPool2d(), IMAGES, None), (SoftmaxWithLoss(), ROWS, LABELS),
    (SoftmaxWithLoss(0.1), ROWS, LABELS), (Dropout(0.5), ROWS, None),
    (Augment(rotation=9), IMAGES, None)]


@pytest.mark.parametrize('layer, input, target', RIGHT, ids=[repr(row[0]) for row in RIGHT])
def test_the_right_layers_pass(layer, input, target):
    check_gradients(layer, input, target)


def test_the_message_names_layer_array_index_values_and_error():
    layer = FullyConnectedWith('weight_grad', one_element_wrong)
    with pytest.raises(AssertionError) as caught:
        check_gradients(layer, ROWS)
    message = str(caught.value)
    assert message.startswith('FullyConnected(3, 3): weight_grad[2, 1]: got '), message
    assert message.endswith('relative error 5.0e-04 (1 of 9 elements wrong)'), message


@pytest.mark.parametrize('input', [
    np.zeros((3, 4)), np.arange(-6, 6).reshape(3, 4), np.full((3, 4), 7, np.uint8)],
    ids=['zeros', 'integers', 'uint8'])
def test_zeros_integers_and_equal_pixels_give_no_false_alarm(input):
    check_gradients(ReLU(), input)
    check_gradients(MaxPool2d(), input.reshape(1, 3, 4, 1))


class UnlistedWeight(_Layer):
    """input * gain in the handout's style: parameter_names is forgotten."""

    def __init__(self, name):
        self.name = name
        setattr(self, name, np.ones(3))

    def forward(self, input):
        self.input = input
        return input * getattr(self, self.name)

    def backward(self, output_grad):
        setattr(self, self.name + '_grad', np.array([1, 2, 12345]))      # wrong on purpose
        return output_grad * getattr(self, self.name)


@pytest.mark.parametrize('name', ['weight', 'bias', 'gain'])
def test_a_parameter_that_is_not_listed_is_refused(name):
    """For weight and bias before forward, for another name once backward has set its gradient."""
    with pytest.raises(ValueError, match=f'parameter {name}, but SGD would not train it'):
        check_gradients(UnlistedWeight(name), ROWS)


class NumberAsParameter(_Layer):
    """input * gain, and the gain is a number: update could not change it in place."""

    parameter_names = ('gain',)
    gain = 1.0


@pytest.mark.parametrize('use', [
    lambda layer: check_gradients(layer, ROWS), lambda layer: Network([layer], input_shape=3)],
    ids=['check_gradients', 'Network'])
def test_a_parameter_that_is_no_array_is_refused(use):
    layer = NumberAsParameter()
    for gain in (1.0, np.float64(1), np.ones((3, 3), int), None):
        layer.gain = gain
        with pytest.raises(ValueError, match='the parameter gain is .*, expected an array of flo'):
            use(layer)


def test_the_layer_and_the_input_stay_as_they_are():
    layer = BatchNorm(3)
    layer.needs_input_grad = False      # the check sets it on its copy alone
    input = ROWS.copy()
    check_gradients(layer, input)
    assert layer.needs_input_grad is False
    assert layer.weight.dtype == np.float32
    assert layer.weight_grad is None and layer.cache is None
    assert not layer.running_mean.any()
    assert np.array_equal(input, ROWS)


def test_numeric_gradient_is_exact_for_squares_and_restores_the_array():
    array = normal(2, 3)
    before = array.copy()
    gradient = numeric_gradient(lambda: np.sum(array ** 2), array)
    np.testing.assert_allclose(gradient, 2 * before, rtol=1e-9, atol=1e-9)
    assert np.array_equal(array, before)


@pytest.mark.parametrize('got, expected, passes', [
    ([1.0], [1 + 5e-7], True),
    ([1.0], [1 + 2e-6], False),
    ([0.0], [0.0], True),
    ([0.0], [1e-3], False),
    ([5e-11], [0.0], True),                      # 5e-11 / 1e-4 = 5e-7
    ([2e-10], [0.0], False),
    ([100.0, 1e-7], [100.0, 0.0], True),         # 1e-7 / (0.01 * 100) = 1e-7
    ([100.0, 2e-6], [100.0, 0.0], False),
    ([100.0, 1.00001], [100.0, 1.0], False),
    ([np.inf], [1.0], False),
    ([np.nan], [1.0], False),
    ([1.0], [np.nan], False),
    ([[1.0]], [1.0], False),
    (None, [1.0], False),
    (2.0, 2.0, True),
    (2.0, 3.0, False),
])
def test_compare(got, expected, passes):
    if passes:
        compare('it', got, expected)
        return
    with pytest.raises(AssertionError, match='^it'):
        compare('it', got, expected)


def small_network(last):
    return Network([FullyConnected(3, 3), ReLU(), Dropout(0.3), last], SoftmaxWithLoss())


def test_a_network_passes_and_stays_as_it_is():
    net = small_network(FullyConnected(3, 3))
    before = net.copy_arrays()
    check_network(net, ROWS, LABELS)
    for name, array in net.arrays().items():
        assert array.dtype == np.float32, name
        assert np.array_equal(array, before[name]), name
    assert net.layers[0].weight_grad is None


def test_a_mistake_in_a_network_is_caught_and_named():
    net = small_network(FullyConnectedWith('bias_grad', lambda grad: grad / 4))
    with pytest.raises(AssertionError, match=r'^3\.FullyConnectedWith\.bias_grad\[0, \d\]: got'):
        check_network(net, ROWS, LABELS)
