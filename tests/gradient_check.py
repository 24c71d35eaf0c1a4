"""Compare the gradients that a layer computes with central differences, in float64.

A layer has many outputs y, but a derivative needs one number E. So the check draws random numbers
r and takes E = sum(r * y), for which dE/dy = r. A loss returns its own E. Every element w of the
input and of each parameter moves up and down by a small step e, and by 2e:

    dE/dw = (8 (E(w + e) - E(w - e)) - (E(w + 2e) - E(w - 2e))) / (12 e) + O(e^4)

The second difference removes the e^2 term of the first, which is large where E bends much, as in
batch norm of almost equal rows. The differences are taken before the sum: this rounds less.

    check_gradients(FullyConnected(3, 2), np.random.randn(4, 3))                  # says nothing
    check_gradients(SoftmaxWithLoss(), np.random.randn(2, 3), np.array([0, 2]))   # with targets
"""
import copy

import numpy as np

import mistakes
from network import check_parameters

STEP = 1e-5           # e: with a smaller one, the rounding of E adds a larger error
TOLERANCE = 1e-6      # the greatest relative error that passes


def check_gradients(layer, input, target=None, seed=0):
    """Compare the gradients of a layer, or of a loss with its `target`, with central differences.

    `input` holds any numbers (N, ...). The check adds 0.1 to 0.2 to each of them, because many
    numbers are 0 or equal, where ReLU and MaxPool2d have no derivative. It works on a float64 copy
    of the layer. A layer with random numbers draws the same ones in every forward.

    AssertionError, naming layer, array and index, if a gradient is wrong, or if the layer changes
    one of its arguments. ValueError if `parameter_names` does not list a parameter.
    """
    layer = in_float64(copy.deepcopy(layer))
    layer.needs_input_grad = True
    rng = np.random.default_rng([seed, 1])
    input = np.asarray(input) + rng.uniform(0.1, 0.2, np.shape(input))
    given = {'input': input}
    if target is not None:
        given['target'] = np.array(target)
    before = copy.deepcopy(given)

    reseed([layer], seed)
    output = layer.forward(*given.values())
    grads = {}
    if target is None:
        grads = {'output_grad': rng.standard_normal(output.shape)}
    grads_before = copy.deepcopy(grads)
    input_grad = copy.deepcopy(layer.backward(*grads.values()))
    check_unchanged(layer, given, before)
    check_unchanged(layer, grads, grads_before)
    check_parameters(layer)

    def energy():
        reseed([layer], seed)
        output = layer.forward(*given.values())
        return output[1] if target is not None else output * grads['output_grad']

    analytic = {'input': input_grad}
    arrays = {'input': input}
    for name in layer.parameter_names:
        analytic[name] = copy.deepcopy(getattr(layer, f'{name}_grad', None))
        arrays[name] = getattr(layer, name)
    for name, array in arrays.items():
        compare(f'{layer!r}: {name}_grad', analytic[name], numeric_gradient(energy, array),
                rows=len(input))


def check_network(net, input, target, seed=0):
    """Compare the gradient of every parameter of a network, in the same way. `net` stays as it is.

    `input` and `target` are those of Network.forward.
    """
    net = copy.deepcopy(net)
    for layer in net.layers:
        in_float64(layer)
    input = np.asarray(input)
    if input.dtype.kind == 'f':
        input = input.astype(np.float64)

    def energy():
        net.reseed([seed])
        return net.forward(input, target)[1]

    energy()
    net.backward()
    for name, layer, attribute in net.parameters():
        got = getattr(layer, f'{attribute}_grad')
        numeric = numeric_gradient(energy, getattr(layer, attribute))
        compare(f'{name}_grad', got, numeric, rows=len(input))


def in_float64(layer):
    """Convert the parameters and the state of a layer, in place, and return it."""
    for name in layer.parameter_names + layer.state_names:
        setattr(layer, name, getattr(layer, name).astype(np.float64))
    return layer


def reseed(layers, seed):
    """Give each layer that draws random numbers a new generator."""
    for layer in layers:
        if hasattr(layer, 'rng'):
            layer.rng = np.random.default_rng(seed)


def numeric_gradient(energy, array):
    """Return dE/d(array) by central differences. energy() reads `array` -> E, or its summands.

    `array` is float64, because float32 rounds the steps away. It is restored at the end. Large
    numbers, such as pixels 0..255, round E more and get a larger step.
    """
    step = STEP * np.sqrt(max(1, np.abs(array).max(initial=0)))
    gradient = np.empty(array.shape)
    for index in np.ndindex(*array.shape):
        near = difference(energy, array, index, step)
        far = difference(energy, array, index, 2 * step)
        gradient[index] = np.sum(8 * near - far) / (12 * step)
    return gradient


def difference(energy, array, index, step):
    """E(w + step) - E(w - step), where w is array[index]."""
    value = array[index]
    array[index] = value + step
    above = energy()
    array[index] = value - step
    below = energy()
    array[index] = value
    return above - below


def check_unchanged(layer, arrays, before):
    """AssertionError unless each array {name: array} is equal to the one `before`."""
    for name, array in arrays.items():
        if not np.array_equal(array, before[name]):
            changed = int(np.sum(array != before[name]))
            raise AssertionError(f'{layer!r}: forward or backward changed {name} in place '
                                 f'({changed} of {array.size} elements): work on a copy')


def compare(name, got, expected, tolerance=TOLERANCE, rows=None):
    """AssertionError, naming the worst element, unless two arrays agree in shape and in numbers.

    The message ends with the likely mistake, if one fits.

    error = |got - expected| / max(|got|, |expected|, 0.01 * largest, 1e-4), and `largest` is the
    greatest |expected|. The last two terms are for small elements, of which rounding is a large
    part.
    """
    if got is None or np.shape(got) != np.shape(expected):
        found = 'None' if got is None else f'the shape {np.shape(got)}'
        raise AssertionError(f'{name}: got {found}, expected the shape {np.shape(expected)}. '
                             f'{mistakes.hint(got, expected, rows)}'.rstrip())
    got = np.asarray(got)
    expected = np.asarray(expected)
    if expected.size == 0:
        return
    floor = max(0.01 * np.abs(expected).max(), 1e-4)
    scale = np.maximum(np.maximum(np.abs(got), np.abs(expected)), floor)
    with np.errstate(invalid='ignore'):
        error = np.abs(got - expected) / scale
    error = np.where(np.isfinite(error), error, np.inf)
    wrong = int(np.sum(error > tolerance))
    if wrong:
        worst = np.unravel_index(error.argmax(), error.shape)
        index = [int(i) for i in worst]
        place = index if index else ''
        raise AssertionError(f'{name}{place}: got {got[worst]:.10g}, expected '
                             f'{expected[worst]:.10g}, relative error {error[worst]:.1e} '
                             f'({wrong} of {error.size} elements wrong). '
                             f'{mistakes.hint(got, expected, rows)}'.rstrip())
