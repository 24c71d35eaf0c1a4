"""The checker itself: it passes what is right, and catches every one of a list of typical mistakes, saying where."""
import numpy as np
import pytest

from gradient_check import check_gradients, compare, numeric_gradient
from layer import BatchNorm, Conv2d, FullyConnected, MaxPool2d, ReLU, SoftmaxWithLoss, Tanh


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape)


def broken(base, *arguments, **methods):
    """A layer of a subclass of `base` in which the methods are replaced by the mistaken ones."""
    return type('Broken' + base.__name__, (base,), methods)(*arguments)


def after(base, change):
    """backward as in `base`, followed by change(layer, input_grad) -> the wrong input gradient."""
    return lambda self, *output_grad: change(self, base.backward(self, *output_grad))


def setting(base, name, wrong):
    """backward as in `base`, but with wrong(its gradient) in the attribute `name`."""
    return after(base, lambda self, grad: (setattr(self, name, wrong(getattr(self, name))), grad)[1])


def one_element(grad):
    """A copy with one of its elements, the last but one, half a per mille too great."""
    grad = grad.copy()
    grad.flat[-2] *= 1.0005
    return grad


def batch_norm_without_mean(self, output_grad):
    centred, inverse_std, scale = self._recall(output_grad)[:3]
    BatchNorm.backward(self, output_grad)
    return scale * (output_grad - centred * inverse_std * (self.weight_grad * 1.0 / len(output_grad)))


def max_pool_everywhere(self, output_grad):
    """The gradient to all four corners of a square instead of the greatest."""
    return output_grad.repeat(2, axis=1).repeat(2, axis=2)


def summed_loss(self, input, target):
    predict, loss = SoftmaxWithLoss.forward(self, input, target)
    return predict, loss * len(input)


LABELS = np.array([0, 2, 1, 2])
MISTAKES = [     # name, broken layer, input, target, the argument that must be named
    ('relu_no_mask', broken(ReLU, backward=lambda self, grad: grad), normal(3, 4), None, 'input'),
    ('tanh_of_input', broken(Tanh, backward=lambda self, grad: grad * (1 - self._recall(grad)[0])),
     normal(3, 4), None, 'input'),
    ('fc_weight_transposed', broken(FullyConnected, 3, 3, backward=setting(
        FullyConnected, 'weight_grad', np.transpose)), normal(4, 3), None, 'weight'),
    ('fc_averaged_twice', broken(FullyConnected, 3, 2, backward=setting(
        FullyConnected, 'weight_grad', lambda grad: grad / 4)), normal(4, 3), None, 'weight'),
    ('fc_bias_shape', broken(FullyConnected, 3, 2, backward=setting(FullyConnected, 'bias_grad', np.ravel)),
     normal(4, 3), None, 'bias'),
    ('fc_bias_mean', broken(FullyConnected, 3, 2, backward=setting(
        FullyConnected, 'bias_grad', lambda grad: grad / 4)), normal(4, 3), None, 'bias'),
    ('fc_no_weight_grad', broken(FullyConnected, 3, 2, backward=setting(
        FullyConnected, 'weight_grad', lambda grad: None)), normal(4, 3), None, 'weight'),
    ('fc_one_element', broken(FullyConnected, 3, 2, backward=setting(FullyConnected, 'weight_grad', one_element)),
     normal(4, 3), None, 'weight'),
    ('fc_nan', broken(FullyConnected, 3, 2, backward=after(FullyConnected, lambda self, grad: grad * np.nan)),
     normal(4, 3), None, 'input'),
    ('batch_norm_no_mean', broken(BatchNorm, 3, backward=batch_norm_without_mean), normal(5, 3), None, 'input'),
    ('conv_not_turned', broken(Conv2d, 1, 1, backward=after(Conv2d, lambda self, grad: grad[:, ::-1, ::-1])),
     normal(2, 3, 4, 1), None, 'input'),
    ('conv_weight_turned', broken(Conv2d, 1, 1, backward=setting(
        Conv2d, 'weight_grad', lambda grad: grad[::-1, ::-1])), normal(2, 3, 4, 1), None, 'weight'),
    ('max_pool_everywhere', broken(MaxPool2d, backward=max_pool_everywhere), normal(1, 4, 4, 1), None, 'input'),
    ('loss_summed', broken(SoftmaxWithLoss, forward=summed_loss), normal(4, 3), LABELS, 'input'),
    ('gradient_summed', broken(SoftmaxWithLoss, backward=after(SoftmaxWithLoss, lambda self, grad: grad * 4)),
     normal(4, 3), LABELS, 'input'),
    ('smoothing_forgotten', broken(SoftmaxWithLoss, 0.1, backward=lambda self: (
        self._memory[1][0] - np.eye(3)[LABELS]) / 4), normal(4, 3), LABELS, 'input'),
]


@pytest.mark.parametrize('layer, input, target, argument', [row[1:] for row in MISTAKES],
                         ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_caught(layer, input, target, argument):
    check_gradients(type(layer).__bases__[0](*constructor_arguments(layer)), input, target)     # the right layer passes
    with pytest.raises(AssertionError, match=r'%s_grad.*got .*expected ' % argument) as caught:
        check_gradients(layer, input, target)
    assert str(caught.value).startswith('%r: ' % layer)


def constructor_arguments(layer):
    names = ('in_features', 'out_features', 'features', 'in_channels', 'out_channels', 'label_smoothing')
    return [vars(layer)[name] for name in names if name in vars(layer)]


def test_the_message_names_layer_argument_index_values_and_error():
    layer = broken(FullyConnected, 3, 2, backward=setting(FullyConnected, 'weight_grad', one_element))
    with pytest.raises(AssertionError) as caught:
        check_gradients(layer, normal(4, 3))
    message = str(caught.value)
    assert message.startswith('BrokenFullyConnected(3, 2): weight_grad[2, 0]: got '), message
    assert 'relative error 5.0e-04 (1 of 6 elements wrong)' in message, message


def test_numeric_gradient_is_exact_for_a_square_and_restores_the_array():
    array = normal(2, 3)
    before = array.copy()
    gradient = numeric_gradient(lambda: (array ** 2).sum(), array)
    assert np.allclose(gradient, 2 * before, rtol=1e-9, atol=1e-9) and (array == before).all()


@pytest.mark.parametrize('got, expected, passes', [
    ([1.0], [1 + 5e-7], True), ([1.0], [1 + 2e-6], False), ([0.0], [0.0], True), ([0.0], [1e-3], False),
    ([100.0, 1.00001], [100.0, 1.0], False), ([np.inf], [1.0], False), ([[1.0]], [1.0], False), (None, [1.0], False)])
def test_compare(got, expected, passes):
    try:
        compare('it', got if got is None else np.array(got), np.array(expected))
    except AssertionError as error:
        assert not passes and str(error).startswith('it')
    else:
        assert passes, 'compare let %s pass for %s' % (got, expected)


def test_the_layer_given_is_not_touched():
    layer, input = BatchNorm(3), normal(4, 3)
    before = input.copy()
    check_gradients(layer, input)
    assert layer.weight.dtype == np.float32 and layer.weight_grad is None and (input == before).all()
    assert not layer.running_mean.any()
