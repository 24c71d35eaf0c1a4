"""Compares the gradients that a layer computes with central differences, in float64.

For a random output gradient r the layer's output y counts as the number E = sum(r * y), so that dE/dy = r; a loss
has its number E already. Each element w of the input and of every parameter is moved up and down by a small step h:

    dE/dw = (E(w + h) - E(w - h)) / 2h + O(h^2)

    check_gradients(FullyConnected(3, 2), np.random.randn(4, 3))                        # silent when all is right
    check_gradients(SoftmaxWithLoss(), np.random.randn(2, 3), np.array([0, 2]))         # a loss: with its target
"""
import copy

import numpy as np

STEP = 1e-5           # h: its square, the formula's error, is about as small as the rounding error of E divided by h
TOLERANCE = 1e-6      # the greatest relative error that passes


def check_gradients(layer, input, target=None, seed=0):
    """AssertionError, naming layer, argument and index, unless a layer's gradients are those of its output.

    Works on a float64 copy of the layer. A layer with random numbers draws the same ones in every forward.
    """
    layer, input = copy.deepcopy(layer).astype(np.float64), np.array(input, np.float64)

    def forward():
        reseed([layer], seed)
        return layer.forward(input) if target is None else layer.forward(input, target)

    if target is None:
        output_grad = np.random.default_rng([seed, 1]).standard_normal(forward().shape)     # unlike the caller's input
        input_grad = layer.backward(output_grad)
        energy = lambda: (forward() * output_grad).sum()
    else:
        forward()
        input_grad = layer.backward()
        energy = lambda: forward()[1]

    analytic = [('input', input, input_grad)] + [
        (name, getattr(layer, name), getattr(layer, name + '_grad')) for name in layer.parameter_names]
    for name, array, grad in analytic:
        compare('%r: %s_grad' % (layer, name), grad, numeric_gradient(energy, array))


def check_network(net, input, target, seed=0):
    """The same for every parameter of a whole network, converted to float64 in place."""
    for layer in net.layers:
        layer.astype(np.float64)
    input = np.array(input, np.float64)

    def energy():
        net._reseed([seed])
        return net.forward(input, target)[1]

    energy()
    net.backward()
    for index, layer in enumerate(net.layers):
        for name in layer.parameter_names:
            compare('layer %d, %r: %s_grad' % (index, layer, name), getattr(layer, name + '_grad'),
                    numeric_gradient(energy, getattr(layer, name)))


def reseed(layers, seed):
    """The same random numbers again for the layers that draw any."""
    for layer in layers:
        if hasattr(layer, 'rng'):
            layer.rng = np.random.default_rng(seed)


def numeric_gradient(energy, array):
    """dE/d(array) by central differences; energy() -> E reads `array`, which is changed and restored in place."""
    gradient = np.empty(array.shape)
    for index in np.ndindex(*array.shape):
        value = array[index]
        array[index] = value + STEP
        above = energy()
        array[index] = value - STEP
        below = energy()
        array[index] = value
        gradient[index] = (above - below) / (2 * STEP)
    return gradient


def compare(name, got, expected, tolerance=TOLERANCE):
    """AssertionError naming the worst element unless the arrays agree in shape and to `tolerance` everywhere.

    An error is relative to its own element, but to no less than a hundredth of the greatest one, whose rounding the
    differences share, and to no less than 1e-4, where nothing but rounding is left.
    """
    assert got is not None and np.shape(got) == np.shape(expected), '%s: got %s, expected an array of shape %s' % (
        name, 'None' if got is None else 'shape %s' % (np.shape(got),), np.shape(expected))
    got, expected = np.asarray(got), np.asarray(expected)
    if not expected.size:
        return
    floor = max(0.01 * np.abs(expected).max(), 1e-4)
    with np.errstate(invalid='ignore'):
        error = np.abs(got - expected) / np.maximum(np.maximum(np.abs(got), np.abs(expected)), floor)
    error = np.where(np.isfinite(error), error, np.inf)
    worst = np.unravel_index(error.argmax(), error.shape)
    assert error[worst] <= tolerance, (
        '%s%s: got %.10g, expected %.10g, relative error %.1e (%d of %d elements wrong)' % (
            name, [int(i) for i in worst], got[worst], expected[worst], error[worst],
            (error > tolerance).sum(), error.size))
