"""The gradient check itself: right layers pass, and each mistake of a list is caught and named."""
import numpy as np
import pytest

from gradient_check import check_gradients, check_network, compare, numeric_gradient
from layer import (_Layer, BatchNorm, Conv2d, Dropout, FullyConnected, MaxPool2d,
                   PixelScaling, ReLU, SoftmaxWithLoss, Tanh)
from network import Network
from small_networks import check_equal, check_refused, copies, normal

ROWS = normal(4, 3)
IMAGES = normal(2, 4, 4, 1)
LABELS = np.array([0, 2, 1, 2])


# Mistakes -----------------------------------------------------------------------------------------

def wrong(layer, backward):
    """The layer with a backward that calls backward(layer, the right backward, output_grad)."""
    right = type(layer).backward
    name = f'Wrong{type(layer).__name__}'
    members = {'backward': lambda self, *grads: backward(self, lambda: right(self, *grads), *grads)}
    layer.__class__ = type(name, (type(layer),), members)
    return layer


def after(layer, **changes):
    """The layer whose gradients {name: function} change after the right backward."""
    def backward(self, right, *grads):
        named = {'input_grad': right()}
        for name, change in changes.items():
            if name != 'input_grad':
                setattr(self, name, change(getattr(self, name)))
        return changes.get('input_grad', np.array)(named['input_grad'])
    return wrong(layer, backward)


def one_element_wrong(grad):
    """Make one element, the last but one, half a per mille too great."""
    grad = grad.copy()
    grad.flat[-2] *= 1.0005
    return grad


def overwrite_input(layer, right, output_grad):
    input_grad = right()
    layer.input[...] = 0
    return input_grad


def overwrite_output_grad(layer, right, output_grad):
    output_grad[layer.input < 0] = 0
    return output_grad


class InPlaceReLU(ReLU):
    def forward(self, input):
        input[input < 0] = 0
        return super().forward(input)


class SummedLoss(SoftmaxWithLoss):
    def forward(self, input, target):
        predict, loss = super().forward(input, target)
        return predict, loss * len(input)


class LossChangesItsTarget(SoftmaxWithLoss):
    def forward(self, input, target):
        result = super().forward(input, target)
        target[0] = 1
        return result


def mean_forgotten(layer, right, output_grad):
    return right() + layer.weight / layer.std * output_grad.mean(axis=0)


def smoothing_forgotten(loss, right):
    plain = np.eye(3)[loss.target.argmax(axis=1)]
    return (loss.predicted - plain) / len(plain)


MISTAKES = [     # the layer, its input, and what the message names
    (wrong(ReLU(), lambda self, right, grad: grad * (grad > 0)), ROWS, 'input_grad'),
    (wrong(ReLU(), lambda self, right, grad: None), ROWS, 'None'),
    (wrong(ReLU(), overwrite_input), ROWS, 'changed input'),
    (wrong(ReLU(), overwrite_output_grad), ROWS, 'changed output_grad'),
    (InPlaceReLU(), ROWS, 'changed input'),
    (wrong(Tanh(), lambda self, right, grad: grad * (1 - self.output)), ROWS, 'input_grad'),
    (after(FullyConnected(3, 3), weight_grad=np.transpose), ROWS, 'weight_grad'),
    (after(FullyConnected(3, 3), weight_grad=lambda grad: grad / 4), ROWS, 'weight_grad'),
    (after(FullyConnected(3, 3), weight_grad=lambda grad: None), ROWS, 'None'),
    (after(FullyConnected(3, 3), weight_grad=one_element_wrong), ROWS, 'weight_grad[2, 1]: got'),
    (after(FullyConnected(3, 3), weight_grad=one_element_wrong), ROWS, '5.0e-04 (1 of 9'),
    (after(FullyConnected(3, 3), bias_grad=lambda grad: grad / 4), ROWS, 'bias_grad'),
    (after(FullyConnected(3, 3), bias_grad=np.ravel), ROWS, '(3,)'),
    (after(FullyConnected(3, 3), input_grad=lambda grad: grad * np.nan), ROWS, 'input_grad'),
    (wrong(BatchNorm(3), mean_forgotten), ROWS, 'input_grad'),
    (after(Conv2d(1, 1), input_grad=lambda grad: grad[:, ::-1, ::-1]), IMAGES, 'input_grad'),
    (after(Conv2d(1, 1), weight_grad=lambda grad: grad[::-1, ::-1]), IMAGES, 'weight_grad'),
    (wrong(MaxPool2d(), lambda self, right, grad: grad.repeat(2, 1).repeat(2, 2)), IMAGES,
     'input_grad'),
    (SummedLoss(), ROWS, 'input_grad'),
    (after(SoftmaxWithLoss(), input_grad=lambda grad: grad * len(grad)), ROWS, 'input_grad'),
    (wrong(SoftmaxWithLoss(0.1), smoothing_forgotten), ROWS, 'input_grad'),
    (LossChangesItsTarget(), ROWS, 'changed target'),
]


@pytest.mark.parametrize('layer, input, message', MISTAKES,
                         ids=[f'{row[0]!r} {row[2]}' for row in MISTAKES])
def test_a_mistake_is_caught_and_named(layer, input, message):
    target = LABELS if isinstance(layer, SoftmaxWithLoss) else None
    check_refused(AssertionError, lambda: check_gradients(layer, input, target), repr(layer),
                  message)


@pytest.mark.parametrize('input', [
    np.zeros((3, 12)), np.arange(-18, 18).reshape(3, 12), np.full((3, 12), 7, np.uint8),
    np.full((3, 12), 255), np.random.default_rng(0).integers(0, 256, (3, 12)), normal(3, 12)],
    ids=['zeros', 'integers', 'constant', 'white', 'pixels 0..255', 'normal'])
def test_a_right_layer_passes_whatever_its_input_is(input):
    for layer in (FullyConnected(12, 47), ReLU(), Dropout(0.5)):
        check_gradients(layer, input)
    check_gradients(MaxPool2d(), input.reshape(3, 3, 4, 1))
    check_gradients(FullyConnected(784, 2), np.resize(input, (3, 784)))
    for seed in range(8):
        check_gradients(BatchNorm(12), input, seed=seed)


class UnlistedWeight(_Layer):
    """input * gain in the handout's style: parameter_names is forgotten."""

    def __init__(self):
        self.gain = np.ones(3)

    def forward(self, input):
        self.input = input
        return input * self.gain

    def backward(self, output_grad):
        self.gain_grad = np.array([1, 2, 12345])      # wrong on purpose
        return output_grad * self.gain


def test_a_parameter_that_is_not_listed_is_refused():
    check_refused(ValueError, lambda: check_gradients(UnlistedWeight(), ROWS), 'gain_grad')


def test_the_layer_and_the_input_stay_as_they_are():
    layer = BatchNorm(3)
    layer.needs_input_grad = False      # the check sets it on its copy alone
    before = dict(vars(layer))
    input = ROWS.copy()
    check_gradients(layer, input)
    assert sorted(vars(layer)) == sorted(before)
    assert all(getattr(layer, name) is value for name, value in before.items())
    assert not layer.running_mean.any()
    assert np.array_equal(input, ROWS)


def test_numeric_gradient_is_exact_for_squares_and_restores_the_array():
    array = normal(2, 3) * 100
    before = array.copy()
    gradient = numeric_gradient(lambda: np.sum(array ** 2), array)
    np.testing.assert_allclose(gradient, 2 * before, rtol=1e-7)
    assert np.array_equal(array, before)


@pytest.mark.parametrize('got, expected, passes', [
    ([1.0], [1 + 5e-7], True), ([1.0], [1 + 2e-6], False), ([0.0], [0.0], True),
    ([0.0], [1e-3], False),
    ([5e-11], [0.0], True), ([2e-10], [0.0], False),                     # 5e-11 / 1e-4 = 5e-7
    ([100.0, 1e-7], [100.0, 0.0], True), ([100.0, 2e-6], [100.0, 0.0], False),
    ([100.0, 1.00001], [100.0, 1.0], False), ([np.inf], [1.0], False), ([np.nan], [1.0], False),
    ([1.0], [np.nan], False), ([[1.0]], [1.0], False), (None, [1.0], False), (2.0, 2.0, True),
    (2.0, 3.0, False), ([], [], True)], ids=str)
def test_compare(got, expected, passes):
    if passes:
        compare('it', got, expected)
    else:
        check_refused(AssertionError, lambda: compare('it', got, expected), 'it')


@pytest.mark.parametrize('got, end', [
    (4 * ROWS, r'It is 4 times the right one, in every element\.$'), (None, 'nothing has been'),
    (-ROWS, 'It is minus the right one'), (ROWS.sum(axis=0), r'\(3,\), expected the shape'),
    (np.where(ROWS > 0, ROWS, 0), 'a mask is taken from the wrong array'),
    (ROWS ** 2, r'elements wrong\)\.$')])
def test_compare_ends_with_the_likely_mistake(got, end):
    with pytest.raises(AssertionError, match=end):
        compare('it', got, ROWS)


def small_network(last):
    return Network([FullyConnected(3, 3), ReLU(), Dropout(0.3), last], SoftmaxWithLoss())


def test_a_network_passes_and_stays_as_it_is():
    net = small_network(FullyConnected(3, 3))
    before = copies(net)
    check_network(net, ROWS, LABELS)
    check_equal(net.arrays(), before)
    assert {array.dtype for array in net.arrays().values()} == {np.dtype(np.float32)}
    assert not hasattr(net.layers[0], 'weight_grad')


def test_a_network_takes_the_pixels_that_forward_takes():
    net = Network([PixelScaling(), FullyConnected(5, 4), ReLU(), FullyConnected(4, 3)],
                  input_shape=5)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5)).astype(np.uint8)
    check_network(net, pixels, LABELS)
    check_network(net, (pixels / 255).astype(np.float32), LABELS)


def test_a_mistake_in_a_network_is_caught_and_named():
    net = small_network(after(FullyConnected(3, 3), bias_grad=lambda grad: grad / 4))
    check_refused(AssertionError, lambda: check_network(net, ROWS, LABELS),
                  '3.WrongFullyConnected.bias_grad')
