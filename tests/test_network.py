"""Network: forward, backward, update, known answers, silent mistakes, modes, predictions, scores"""
import copy
import pickle

import numpy as np
import pandas as pd
import pytest

import network
from gradient_check import check_network, compare
from layer import (Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, MaxPool2d,
                   PixelScaling, ReLU, Reshape, Sigmoid, SoftmaxWithLoss, SquaredError, Tanh,
                   _Layer)
from network import Network
from small_networks import (CLASSES, FEATURES, check_equal, check_refused, convert, copies, differ,
                            every_network, gradients, make_cnn, make_mlp, make_random, make_rows,
                            make_step, normal)

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 784))
LABELS = np.arange(8) * 5


# Forward, backward, update ------------------------------------------------------------------------

def test_the_default_network_is_the_labs():
    net = Network()
    assert [type(layer) for layer in net.layers] == [PixelScaling] + [FullyConnected, ReLU] * 2 + [
        FullyConnected]
    weights = [array.shape for name, array in net.arrays().items() if name.endswith('weight')]
    assert weights == [(784, 512), (512, 256), (256, 47)] and type(net.loss) is SoftmaxWithLoss
    before = copies(net)
    make_step(net, PIXELS, LABELS, 0.1)
    for name, grad in gradients(net).items():
        assert grad.any(), f'{name}: no gradient'
        np.testing.assert_allclose(net.arrays()[name], before[name] - 0.1 * grad, atol=1e-7)
    net.layers[5].weight *= 0
    net.layers[5].bias *= 0
    assert abs(net.forward(PIXELS, LABELS)[1] - np.log(47)) < 1e-6


@pytest.mark.parametrize('net, target', [
    (make_mlp(), make_rows(5)[1]), (make_cnn(), make_rows(5)[1]), (make_random(), make_rows(5)[1]),
    (make_mlp(loss=SoftmaxWithLoss(0.1)), np.tile([0.1, 0.2, 0.3, 0.4], (5, 1))),
    (make_mlp(loss=SquaredError()), normal(5, CLASSES) * 9)],
    ids=['mlp', 'cnn', 'random', 'mixed targets', 'real targets'])
def test_gradients_of_whole_networks(net, target):
    check_network(net, make_rows(5)[0], target)


def test_backward_stops_at_the_first_trained_layer_also_of_another_network():
    """Augment and PixelScaling have no backward. A layer may have been the first one before."""
    other = make_mlp()
    make_step(other, *make_rows(5))
    net = Network([Augment(), PixelScaling()] + other.layers, input_shape=FEATURES)
    make_step(net, *make_rows(5))
    assert [layer.needs_input_grad for layer in net.layers[2:]] == [False, True, True]
    check_network(Network([FullyConnected(3, FEATURES), ReLU()] + other.layers), normal(5, 3),
                  np.arange(5) % CLASSES)
    net.layers[3:] = [PixelScaling(), net.layers[4]]      # without backward, but it is needed
    net.layers[3].in_features = 5
    net.forward(*make_rows(5))
    check_refused(NotImplementedError, net.backward, 'PixelScaling')


RECURRENCES = [(0, False, 0), (0, False, 0.1), (0.9, False, 0), (0.9, True, 0), (0.9, False, 0.1),
               (0.5, True, 0.1)]


@pytest.mark.parametrize('momentum, nesterov, decay', RECURRENCES)
def test_update_against_its_recurrence(momentum, nesterov, decay):
    net = Network([FullyConnected(6, 16), Reshape(4, 4, 1), Conv2d(1, 2), BatchNorm(2), Flatten(),
                   FullyConnected(32, 3)])
    convert(net, np.float64)
    net.layers[0].weight = np.asfortranarray(net.layers[0].weight)
    expected = copies(net)
    velocity = {}
    for step in range(4):
        lr = 0.1 / (step + 1)
        for seed, (name, layer, attribute) in enumerate(net.parameters()):
            w = expected[name]
            g = normal(*w.shape, seed=[step, seed])
            setattr(layer, attribute + '_grad', g.copy())
            if name in ('0.FullyConnected.weight', '2.Conv2d.weight', '5.FullyConnected.weight'):
                g = g + decay * w
            v = velocity[name] = momentum * velocity.get(name, 0) + g
            expected[name] = w - lr * (g + momentum * v if nesterov else v)
        grads = copy.deepcopy(gradients(net))
        net.update(lr, momentum=momentum, nesterov=nesterov, weight_decay=decay)
        check_equal(gradients(net), grads, 'update changed the gradients')
        for name, array in net.arrays().items():
            compare(f'step {step}, {name}', array, expected[name], 1e-12)


@pytest.mark.parametrize('arguments', [
    (-0.1,), (0.1, -0.9), (0.1, 0.9, True, -1e-4), (0.1, 0, True), ('0.1',), (None,)], ids=str)
def test_rates_that_cannot_be_are_refused_and_change_nothing(arguments):
    net = make_mlp()
    before = copies(net)
    make_step(net, *make_rows(8), lr=0)
    check_refused((ValueError, TypeError), lambda: net.update(*arguments))
    check_equal(net.arrays(), before)


def test_calls_in_the_wrong_order_are_refused():
    net = make_random()
    check_refused(AttributeError, lambda: net.update(0.1), 'FullyConnected', 'weight_grad')
    check_refused(RuntimeError, net.backward, 'forward')
    rows, label = make_rows(8)
    for input, target in ((rows, label[:7]), (normal(8, 5), label), (rows, label + 1)):
        net.forward(rows, label)
        check_refused(ValueError, lambda: net.forward(input, target))
        check_refused(RuntimeError, net.backward, 'forward')


# Known answers of others --------------------------------------------------------------------------

def cs231n_deep_losses(normalised):
    """The losses of CS231n's FullyConnectedNet for reg = 0 and 3.14, from its random numbers."""
    np.random.seed(231)
    rows = np.random.randn(2, 15)
    label = np.random.randint(10, size=2)
    losses = []
    for reg in (0, 3.14):
        layers = []
        for inputs, outputs in ((15, 20), (20, 30), (30, 10)):
            layers += [FullyConnected(inputs, outputs, np.random.default_rng(0))]
            layers[-1].weight = 5e-2 * np.random.randn(inputs, outputs)
            layers += [BatchNorm(outputs)] * normalised + [ReLU()]
        net = Network(layers[:-1 - normalised])
        squares = [(layer.weight ** 2).sum() for layer in net.layers if layer.decayed_names]
        losses.append(net.forward(rows, label)[1] + 0.5 * reg * sum(squares))
    return losses


@pytest.mark.parametrize('normalised, expected', [
    (False, [2.3004790897684924, 7.052114776533016]),
    (True, [2.2611955101340957, 6.996533220108303])], ids=['plain', 'batch norm'])
def test_the_losses_that_cs231n_prints_for_a_deep_network(normalised, expected):
    """Stanford CS231n, assignment 2, FullyConnectedNets.ipynb and BatchNormalization.ipynb."""
    np.testing.assert_allclose(cs231n_deep_losses(normalised), expected, rtol=1e-12)


def test_the_losses_that_cs231n_prints_for_two_layers():
    """Assignment 1 (2 before 2024), TwoLayerNet: with regularisation, and without it."""
    net = Network([FullyConnected(5, 50), ReLU(), FullyConnected(50, 7)])
    first, _, last = net.layers
    first.weight = np.linspace(-0.7, 0.3, 250).reshape(5, 50)
    first.bias = np.linspace(-0.1, 0.9, 50).reshape(1, 50)
    last.weight = np.linspace(-0.3, 0.4, 350).reshape(50, 7)
    last.bias = np.linspace(-0.9, 0.1, 7).reshape(1, 7)
    rows = np.linspace(-5.5, 4.5, 15).reshape(5, 3).T
    loss = net.forward(rows, np.array([0, 5, 1]))[1]
    assert abs(loss - 3.4702243556) < 1e-10
    squares = (first.weight ** 2).sum() + (last.weight ** 2).sum()
    assert abs(loss + 0.5 * squares - 26.5948426952) < 1e-10


class ZeroLogit(_Layer):
    """(N, 1) -> (N, 2) with a 0 first: then softmax is the logistic function of the other."""

    def forward(self, input):
        return np.column_stack([0 * input, input])

    def backward(self, output_grad):
        return output_grad[:, 1:]


def test_a_step_of_sgd_that_scikit_learn_works_out():
    """test_fit in sklearn/neural_network/tests/test_mlp.py, with alpha = 0.1 for weight decay."""
    net = Network([FullyConnected(3, 2), Sigmoid(), FullyConnected(2, 1), ZeroLogit()])
    first, hidden, last, _ = net.layers
    first.weight = np.array([[0.1, 0.2], [0.3, 0.1], [0.5, 0]])
    first.bias = np.array([[0.1, 0.1]])
    last.weight = np.array([[0.1], [0.2]])
    last.bias = np.array([[1.0]])
    rows = np.array([[0.6, 0.8, 0.7]])
    predict, _ = net.forward(rows, np.array([0]))
    np.testing.assert_allclose(hidden.output, [[0.679178699175393, 0.574442516811659]], 1e-14)
    assert abs(predict[0, 1] - 0.7654329236196236) < 1e-4      # of rounded hidden units
    net.backward()
    net.update(0.1, weight_decay=0.1)
    np.testing.assert_allclose(
        first.weight, [[0.098, 0.195756], [0.2956664, 0.096008], [0.4939998, -0.002244]], atol=1e-3)
    np.testing.assert_allclose(last.weight, [[0.04706], [0.154089]], atol=1e-4)
    np.testing.assert_allclose(first.bias, [[0.098333, 0.09626]], atol=1e-5)
    np.testing.assert_allclose(last.bias, [[0.9235]], atol=1e-4)
    assert abs(net.predict(rows)[0, 1] - 0.739) < 1e-3


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('activation, make', [('relu', ReLU), ('tanh', Tanh)])
@pytest.mark.parametrize('momentum, nesterov', [(0, False), (0.9, False), (0.9, True)])
def test_six_epochs_beside_scikit_learns_classifier(activation, make, momentum, nesterov):
    """Its penalty alpha is divided by the rows of a batch. A rate of 1e-300 leaves its start."""
    neural_network = pytest.importorskip('sklearn.neural_network')
    rows, label = normal(60, FEATURES), np.arange(60) % CLASSES
    rows[:, 0] += label
    settings = {'hidden_layer_sizes': (8,), 'activation': activation, 'solver': 'sgd',
                'alpha': 0.2, 'batch_size': 20, 'momentum': momentum, 'tol': 0,
                'nesterovs_momentum': nesterov, 'shuffle': False, 'random_state': 1}
    start, end = [neural_network.MLPClassifier(learning_rate_init=lr, max_iter=epochs, **settings)
                  for lr, epochs in ((1e-300, 1), (0.1, 6))]
    start.fit(rows, label)
    end.fit(rows, label)
    net = Network([FullyConnected(FEATURES, 8), make(), FullyConnected(8, CLASSES)])
    trained = [layer for layer in net.layers if layer.parameter_names]
    for layer, weight, bias in zip(trained, start.coefs_, start.intercepts_):
        layer.weight = weight.copy()
        layer.bias = bias.reshape(1, -1).copy()
    losses = []
    for _ in range(6):
        for begin in (0, 20, 40):
            penalty = sum((layer.weight ** 2).sum() for layer in trained) * 0.5 * 0.2 / 20
            batch = slice(begin, begin + 20)
            losses.append(penalty + make_step(net, rows[batch], label[batch], momentum=momentum,
                                              nesterov=nesterov, weight_decay=0.2 / 20))
    np.testing.assert_allclose(np.reshape(losses, (6, 3)).mean(axis=1), end.loss_curve_, 1e-9)
    for layer, weight, bias in zip(trained, end.coefs_, end.intercepts_):
        np.testing.assert_allclose(layer.weight, weight, 1e-9, 1e-12)
        np.testing.assert_allclose(layer.bias, [bias], 1e-9, 1e-12)


# Mistakes that would give a wrong number in silence: refused, or right ----------------------------

def calls(net, rows, label):
    """Everything that takes rows and labels."""
    return [lambda: net.forward(rows, label), lambda: net.evaluate(rows, label),
            lambda: net.fit((rows, label), None, 1, 4, 0.1, verbose=False),
            lambda: net.fit((PIXELS, LABELS), (rows, label), 1, 4, 0.1, verbose=False)]


def labels_out_of_range():
    net = Network()
    before = copies(net)
    for label in (LABELS - 1, LABELS + 12, LABELS[:7], np.append(LABELS, 1), LABELS + 0.5, 3,
                  np.eye(47)[LABELS][:, :46], LABELS[:, np.newaxis]):
        for call in calls(net, PIXELS, label):
            check_refused((ValueError, TypeError), call)
    for call in calls(net, LABELS, PIXELS) + [lambda: net.predict(PIXELS[0])]:      # exchanged
        check_refused((ValueError, TypeError), call)
    check_equal(net.arrays(), before)


def pixels_that_were_not_divided():
    net = Network()
    pixels = PIXELS.astype(np.float32)
    for call in calls(net, pixels, LABELS) + [lambda: net.predict(pixels)]:
        check_refused(ValueError, call, 'divide')
    divided = (pixels / 255).astype(np.float32)
    np.testing.assert_allclose(net.predict(divided), net.predict(PIXELS), rtol=1e-5)


class Unlisted(_Layer):
    """x * gamma. The gradient is there, but parameter_names is forgotten."""

    gamma = np.ones((1, FEATURES), np.float32)

    def forward(self, input):
        self.input = input
        return input * self.gamma

    def backward(self, output_grad):
        self.input_grad = output_grad * self.gamma
        self.gamma_grad = (output_grad * self.input).sum(axis=0, keepdims=True)
        return self.input_grad


def a_parameter_that_is_not_listed():
    net = Network([FullyConnected(3, FEATURES), Unlisted()] + make_mlp().layers)
    net.forward(normal(8, 3), make_rows(8)[1])
    net.backward()
    before = copies(net)
    check_refused(ValueError, lambda: net.update(0.1), 'Unlisted', 'gamma_grad')
    check_equal(net.arrays(), before)
    net.layers[1].parameter_names = ('gamma',)
    make_step(net, normal(8, 3).astype(np.float32), make_rows(8)[1])
    assert (net.layers[1].gamma != 1).all()
    check_network(net, normal(5, 3), np.arange(5) % CLASSES)


def backward_after_something_else():
    rows, label = make_rows(8)
    for between in (lambda net: net.predict(make_rows(30)[0]), lambda net: net.shapes(),
                    lambda net: net.evaluate(*make_rows(30)), lambda net: repr(net),
                    lambda net: net.predict_augmented(make_rows(30)[0], 3),
                    lambda net: check_refused(ValueError, lambda: net.predict(normal(8, 5)))):
        nets = make_random(), make_random()
        for net in nets:
            net.forward(rows, label)
        between(nets[1])
        for net in nets:
            net.backward()
        check_equal(gradients(nets[1]), gradients(nets[0]))


def numbers_that_are_not_finite():
    for value in (np.nan, np.inf):
        rows, label = make_rows(700)
        rows[601, 3] = rows[650, 3] = value
        check_refused(ValueError, lambda: make_mlp().predict(rows), 'row 601')
        check_refused(FloatingPointError, lambda: make_mlp().evaluate(rows, label), '512 to 699')
        check_refused(FloatingPointError, lambda: make_mlp().fit((rows, label), None, 1, 9, 0.1))
    net = make_mlp(loss=SquaredError())
    net.layers[-1].bias[0, 2] = np.nan      # in one column
    check_refused(ValueError, lambda: net.predict(make_rows(3)[0]), 'row 0')


def batch_norm_of_one_row():
    net = Network([BatchNorm(FEATURES), FullyConnected(FEATURES, CLASSES)], input_shape=FEATURES)
    check_refused(ValueError, lambda: net.forward(*make_rows(1)), 'BatchNorm', 'one row')
    assert np.isfinite(net.predict(make_rows(1)[0])).all()


def a_refused_batch_that_moves_the_running_statistics():
    net = make_random()
    before = copies(net)
    rows, label = make_rows(8)
    for wrong_rows, wrong in ((rows, label + 1), (rows, label[:7]), (normal(8, 5), label)):
        check_refused(ValueError, lambda: net.forward(wrong_rows, wrong))
    check_equal(net.arrays(), before)
    net.forward(rows, label)
    assert differ(net.arrays(), before)


def the_same_layer_twice():
    net = make_mlp()
    check_refused(ValueError, lambda: Network(net.layers + [net.layers[1]]), 'layer 3', 'ReLU')
    net.layers[1:] = [net.layers[1], FullyConnected(5, CLASSES), net.layers[1]]
    for call in (lambda: net.forward(*make_rows(8)), lambda: net.evaluate(*make_rows(8)),
                 lambda: net.fit(make_rows(8), None, 1, 4, 0.1)):
        check_refused(ValueError, call, 'layer 3', 'ReLU')


def a_layer_under_a_name_of_its_own():
    net = Network()
    check_refused(AttributeError, lambda: setattr(net, 'act1', Sigmoid()), 'act1')
    assert not hasattr(net, 'act1') and type(net.layers[2]) is ReLU
    net.layers[2] = Sigmoid()
    hidden = net.layers[1].forward(net.layers[0].forward(PIXELS))
    rest = Network(net.layers[3:])
    np.testing.assert_allclose(net.predict(PIXELS), rest.predict(1 / (1 + np.exp(-hidden))), 1e-4)
    net = make_mlp()
    net.loss = SoftmaxWithLoss(0.5)
    other = make_mlp(loss=SoftmaxWithLoss(0.5))
    assert net.forward(*make_rows(9))[1] == other.forward(*make_rows(9))[1]


def a_new_layer_with_the_momentum_of_the_old_one():
    net = make_mlp()
    for _ in range(2):
        make_step(net, *make_rows(8), momentum=0.9)
    net.layers[2] = FullyConnected(5, CLASSES, np.random.default_rng(5))
    net.layers.insert(2, FullyConnected(5, 5, np.random.default_rng(5)))
    before = copies(net)
    velocity = net.velocity[net.layers[0], 'weight'].copy()
    make_step(net, *make_rows(8), momentum=0.9)
    for index in (2, 3):
        expected = before[f'{index}.FullyConnected.weight'] - 0.1 * net.layers[index].weight_grad
        np.testing.assert_allclose(net.layers[index].weight, expected, rtol=1e-5)
    step = net.layers[0].weight_grad + 0.9 * velocity      # the layer that stayed keeps its own
    np.testing.assert_allclose(net.layers[0].weight, before['0.FullyConnected.weight'] - 0.1 * step,
                               rtol=1e-5)


def labels_of_a_dtype_that_cannot_hold_the_predictions():
    net = Network([FullyConnected(FEATURES, 300)])
    net.layers[0].weight[...] = 0
    net.layers[0].bias[0, 256 + 7] = 50
    rows, label = normal(6, FEATURES), np.full(6, 7, np.uint8)
    assert net.evaluate(rows, label).accuracy == 0
    history = net.fit((rows, label), (rows, label), 1, 3, 1e-9, verbose=False)
    assert history[0]['train']['accuracy'] == history[0]['validation']['accuracy'] == 0
    assert net.evaluate(rows, np.full(6, 263)).accuracy == 100


def a_parameter_that_is_not_listed_in_the_first_layer():
    net = Network([Unlisted()] + make_mlp().layers, input_shape=FEATURES)
    check_refused(ValueError, lambda: make_step(net, *make_rows(8)), 'gamma_grad')


def rows_that_are_not_one_hot():
    for target in (np.zeros((8, CLASSES)), np.full((8, CLASSES), 0.25)):
        for call in calls(make_mlp(), make_rows(8)[0], target)[1:3]:
            check_refused(ValueError, call)


def a_negative_probability():
    check_refused(ValueError, lambda: SoftmaxWithLoss().forward(np.zeros((1, 2)), [[2, -1]]))


def no_augmented_copies():
    net, (rows, _) = make_random(), make_rows(8)
    for number in (0, -1):
        np.testing.assert_array_equal(net.predict_augmented(rows, number), net.predict(rows))


def a_class_in_place_of_a_layer():
    check_refused(AttributeError, lambda: setattr(Network(), 'act1', Sigmoid), 'act1')


def no_validation_rows():
    assert [len(rows) for rows in network.split_rows(20, 0, 3)] == [20, 0]


def integers_in_place_of_outputs():
    assert SquaredError().forward(np.array([[1, 2]]), [[1.5, 2]])[1] == 0.125


SILENT = [labels_out_of_range, pixels_that_were_not_divided, a_parameter_that_is_not_listed,
          backward_after_something_else, numbers_that_are_not_finite, the_same_layer_twice,
          a_refused_batch_that_moves_the_running_statistics, batch_norm_of_one_row,
          a_layer_under_a_name_of_its_own, a_new_layer_with_the_momentum_of_the_old_one,
          labels_of_a_dtype_that_cannot_hold_the_predictions, a_negative_probability,
          a_parameter_that_is_not_listed_in_the_first_layer, rows_that_are_not_one_hot,
          no_augmented_copies, a_class_in_place_of_a_layer, no_validation_rows,
          integers_in_place_of_outputs]


@pytest.mark.parametrize('check', SILENT)
def test_a_mistake_without_a_message_is_refused_or_harmless(check):
    """Files with labels in the last column or without a class: test_files.py."""
    check()


# Construction, copies -----------------------------------------------------------------------------

MISFITS = [     # layers, the rows' shape, the index of the first that does not fit
    ([FullyConnected(6, 5), FullyConnected(4, 3)], None, 1),
    ([FullyConnected(6, 5), ReLU(), BatchNorm(4)], None, 2),
    ([FullyConnected(6, 5), Conv2d(1, 2)], None, 1), ([FullyConnected(6, 5), MaxPool2d()], None, 1),
    ([FullyConnected(6, 5), Augment()], None, 1), ([FullyConnected(6, 5), Reshape(4)], None, 1),
    ([PixelScaling(), Reshape(28, 28, 1), Conv2d(3, 4)], None, 2),
    ([PixelScaling(), FullyConnected(64, 3)], None, 1), ([Reshape(28, 28)], 64, 0),
    ([Conv2d(3, 2), BatchNorm(2), Flatten(), FullyConnected(31, 3)], (4, 4, 3), 3),
    ([FullyConnected(6, 5), ReLU], None, 1), ([FullyConnected(6, 5), np.tanh], None, 1),
    ([FullyConnected(6, 5), SoftmaxWithLoss()], None, 1), ([FullyConnected(6, 5), None], None, 1)]


@pytest.mark.parametrize('layers, shape, index', MISFITS, ids=[str(row[0]) for row in MISFITS])
def test_a_layer_that_does_not_fit_is_named_when_the_network_is_made_and_later(layers, shape,
                                                                              index):
    wanted = f'layer {index}', getattr(layers[index], '__name__', repr(layers[index]))
    check_refused(ValueError, lambda: Network(layers, input_shape=shape), *wanted)
    if isinstance(layers[0], FullyConnected):
        net = Network(layers[:1])
        net.layers[1:] = layers[1:]
        for call in (lambda: net.forward(normal(2, 6), [0, 0]), lambda: repr(net),
                     lambda: net.fit((normal(2, 6), [0, 0]), None, 1, 2, 0.1)):
            check_refused(ValueError, call, *wanted)


@pytest.mark.parametrize('layers, loss, kinds', [
    ([], None, IndexError), ([FullyConnected(6, 5)], SoftmaxWithLoss, ValueError),
    ([Reshape(28, 28, 1), Conv2d(1, 2)], None, ValueError)], ids=['none', 'class', 'images'])
def test_other_networks_that_cannot_be_are_refused(layers, loss, kinds):
    check_refused(kinds, lambda: Network(layers, loss))


def test_the_shape_of_a_row_is_assumed_or_given():
    assert Network([PixelScaling(), FullyConnected(784, 3)]).input_shape == (784,)
    for shape in (None, 64, [64], np.array([64])):
        assert Network([FullyConnected(64, 3)], input_shape=shape).input_shape == (64,)
    images = (Conv2d(3, 2), Flatten(), FullyConnected(32, 3))
    net = Network((layer for layer in images), input_shape=(4, 4, 3))
    assert net.input_shape == (4, 4, 3) and net.shapes() == [(4, 4, 2), (32,), (3,)]


def test_repr_shows_layers_shapes_and_parameters():
    lines = [line.split() for line in repr(Network()).splitlines()]
    assert lines[:2] == [['0', 'PixelScaling(0,', '1)', '784'],
                         ['1', 'FullyConnected(784,', '512)', '512']]
    assert len(lines) == 7 and lines[-1] == ['SoftmaxWithLoss(0)', '545327', 'parameters']
    assert '4x4x3' in repr(make_cnn()) and '2x2x2' in repr(make_cnn())


def test_a_copy_of_a_network_takes_the_same_steps_and_leaves_the_original():
    net = make_random()
    make_step(net, *make_rows(9), momentum=0.9)
    before = copies(net)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        make_step(twin, *make_rows(9), momentum=0.9)
        check_equal(net.arrays(), before, 'a step of the copy changed the original')
    make_step(net, *make_rows(9), momentum=0.9)
    check_equal(net.arrays(), twin.arrays(), 'the copy took another step')


# Modes and prediction -----------------------------------------------------------------------------

@every_network
@pytest.mark.parametrize('rows', [0, 1, 4, 13])
def test_predict_any_number_of_rows(make, rows):
    # In float64, as in float32 the rounding of a product depends on its number of rows
    net = convert(make(), np.float64)
    net.forward(normal(20, FEATURES), make_rows(20)[1])
    input = normal(rows, FEATURES)
    before = copies(net)
    predict = net.predict(input, batch_size=5)
    assert predict.shape == (rows, CLASSES)
    check_equal(net.arrays(), before, 'predict changed the network')
    np.testing.assert_allclose(net.predict(input.tolist() if rows else input, 500), predict,
                               atol=1e-9)
    np.testing.assert_array_equal(net.predict(pd.DataFrame(input), 5), predict)
    net.train(False)
    for row in range(rows):
        expected, _ = net.forward(input[row:row + 1], np.zeros(1, int))
        np.testing.assert_allclose(predict[row:row + 1], expected, atol=1e-9, err_msg=f'row {row}')


def test_predict_and_evaluate_take_batches():
    net = make_mlp()
    rows, label = make_rows(600)
    seen = []
    forward = net.layers[0].forward
    net.layers[0].forward = lambda input: seen.append(len(input)) or forward(input)
    net.predict(rows)
    net.evaluate(rows, label)
    net.predict(rows[:7], 3)
    net.predict_augmented(rows[:7], batch_size=4)
    assert [count for count in seen if count > 1] == [256, 256, 88, 256, 256, 88, 3, 3, 4, 3]
    for call in (lambda: net.predict(rows, 0), lambda: net.evaluate(rows, label, 0)):
        check_refused(ValueError, call)


def test_predicting_leaves_modes_and_random_numbers_as_they_were():
    net, twin = make_random(), make_random()
    net.train(False)
    modes = [False] * 4 + [True] + [False] * 5
    net.layers[4].training = True
    net.predict(make_rows(8)[0])
    net.predict_augmented(make_rows(8)[0], 3)
    net.evaluate(*make_rows(8))
    check_refused(ValueError, lambda: net.predict(normal(8, FEATURES + 1)))
    assert [layer.training for layer in net.layers] == modes
    net.train()
    assert net.forward(*make_rows(8))[1] == twin.forward(*make_rows(8))[1]


def test_evaluate_against_a_count_by_hand():
    net = make_random()
    rows, label = make_rows(23)
    predict = net.predict(rows)
    hits = predict.argmax(axis=1) == label
    loss = -np.log(predict[np.arange(23), label]).mean()
    expected = [loss, 100 * hits.mean(), 100 * np.mean([hits[label == k].mean() for k in range(4)])]
    for target in (label, np.eye(CLASSES)[label], pd.Series(label, index=label)):
        score = net.evaluate(pd.DataFrame(rows), target, batch_size=6)
        np.testing.assert_allclose(score, expected, rtol=1e-6)
    assert score._fields == ('loss', 'accuracy', 'balanced_accuracy')


def test_augmented_prediction_is_the_mean_over_augmented_copies():
    net = make_random()
    rows, _ = make_rows(9)
    net.layers[-1].weight *= 5
    before = copies(net)
    mean = net.predict_augmented(rows, copies=3, batch_size=5)
    expected = net.predict(rows)
    for copy_number in (1, 2):      # the same by hand
        twin = copy.deepcopy(net)
        twin.train(False)
        twin.layers[0].training = True
        twin.reseed([copy_number])
        changed = np.concatenate([twin.predict_batch(rows[:5]), twin.predict_batch(rows[5:])])
        assert not np.allclose(changed, net.predict(rows), atol=1e-3), 'the copy is the row itself'
        expected = expected + changed
    np.testing.assert_allclose(mean, expected / 3, rtol=1e-5)
    check_equal(net.arrays(), before, 'predict_augmented changed the network')
    np.testing.assert_array_equal(net.predict_augmented(rows), net.predict_augmented(rows, 8))
    np.testing.assert_array_equal(net.predict_augmented(rows, copies=1), net.predict(rows))
    assert net.predict_augmented(rows[:0], copies=2).shape == (0, CLASSES)


def test_reseed_gives_every_layer_numbers_of_its_own():
    net = make_random()
    numbers = []
    for seed in ([0, 1], [0, 2], [1, 1], [0], [0, 1]):
        net.reseed(seed)
        numbers.append([layer.rng.random() for layer in net.layers if hasattr(layer, 'rng')])
    assert numbers[0] == numbers[-1]
    assert len(set(sum(numbers, []))) == 8, f'some numbers were drawn twice: {numbers}'


def test_arrays_are_the_parameters_and_states_themselves_and_set_arrays_copies():
    net = make_random()
    names = [f'{layer}.{name}' for layer in ('1.FullyConnected', '3.Conv2d', '4.BatchNorm',
                                             '9.FullyConnected') for name in ('weight', 'bias')]
    states = ['4.BatchNorm.running_mean', '4.BatchNorm.running_var']
    assert [name for name, _, _ in net.parameters()] == names
    assert sorted(net.arrays()) == sorted(names + states)
    weight = net.layers[1].weight
    assert net.arrays()[names[0]] is weight
    arrays = copies(make_random(seed=1))
    net.set_arrays(arrays)
    check_equal(net.arrays(), arrays)
    assert net.layers[1].weight is weight, 'set_arrays must write into the array that is there'
    arrays[names[0]][...] = 0
    assert weight.any(), 'set_arrays must not keep the arrays that it got'


# Scores, schedules, small helpers -----------------------------------------------------------------

def test_score_by_hand():
    """Class 1 has no row: it does not count."""
    label = np.array([0, 0, 0, 0, 2, 2])
    score = network.score(np.array([0, 0, 0, 1, 2, 0]), label, 1.5)
    np.testing.assert_allclose(score, [1.5, 100 * 4 / 6, 100 * (3 / 4 + 1 / 2) / 2])
    assert np.isnan(network.score(label, label).loss)


@pytest.mark.parametrize('rows, batch_size, expected', [
    (12, 5, [5, 5, 2]), (11, 5, [5, 6]), (10, 5, [5, 5]), (5, 5, [5]), (4, 5, [4]), (1, 5, [1]),
    (3, 1, [1, 1, 1]), (3, 2, [3]), (7, 100, [7])])
def test_batches(rows, batch_size, expected):
    order = np.random.default_rng(0).permutation(rows)
    parts = network.batches(order, batch_size)
    assert [len(part) for part in parts] == expected
    np.testing.assert_array_equal(np.concatenate(parts), order)


def test_split_rows_and_one_cycle():
    train, validation = network.split_rows(20, 6, 3)
    assert len(train) == 14 and sorted(np.concatenate([train, validation])) == list(range(20))
    assert np.array_equal(validation, network.split_rows(20, 6, 3)[1])
    assert not np.array_equal(validation, network.split_rows(20, 6, 4)[1])
    rates = [network.one_cycle(done) for done in (0, 0.1, 0.2, 0.6, 1)]
    np.testing.assert_allclose(rates, [0.04, 0.52, 1, 0.5, 0], atol=1e-12)


def test_class_prior_correction():
    # Class 1 was three times as frequent in training as class 0: its probability counts a third
    predict = np.array([[0.4, 0.6], [0.2, 0.8]], np.float32)
    label = np.array([0, 1, 1, 1])
    corrected = network.correct_class_prior(predict, label)
    np.testing.assert_allclose(corrected, [[2 / 3, 1 / 3], [3 / 7, 4 / 7]], rtol=1e-6)
    assert corrected.dtype == np.float32 and predict[0, 0] == np.float32(0.4)
    rare = network.correct_class_prior(np.full((1, 3), 1 / 3), label)      # no row of class 2
    np.testing.assert_allclose(rare, [[3 / 7, 1 / 7, 3 / 7]])


def test_even_class_counts():
    """The odds of two classes change by one factor, which makes the sums of both classes equal."""
    predict = np.random.default_rng(0).dirichlet([3, 1], 40).astype(np.float32)
    before = predict.copy()
    weighted = network.even_class_counts(predict)
    np.testing.assert_array_equal(predict, before)
    np.testing.assert_allclose(weighted.sum(axis=0), [20, 20], rtol=1e-6)
    np.testing.assert_allclose(weighted.sum(axis=1), 1)
    odds = weighted / predict.astype(np.float64) ** 2
    np.testing.assert_allclose(odds[:, 1] / odds[:, 0], odds[0, 1] / odds[0, 0], rtol=1e-9)
    never = np.eye(3)[[0, 0, 0, 1, 1, 1]]      # the third class is never predicted
    np.testing.assert_allclose(network.even_class_counts(never).sum(axis=1), 1)
    check_refused(ValueError, lambda: network.even_class_counts(np.full((2, 3), 1 / 3)), '2 rows')


def test_epoch_line():
    score = {'loss': 1.48833, 'accuracy': 49.72, 'balanced_accuracy': 50}
    record = {'epoch': 3, 'epochs': 5, 'seconds': 1.25, 'train': score, 'validation': score}
    line = network.epoch_line(record)
    for part in ('Epoch:  3', 'Train Loss:  1.4883', 'Train Acc: 49.7200', 'Val Loss:  1.4883'):
        assert part in line and '\n' not in line
    assert 'Val' not in network.epoch_line(dict(record, validation=None))


# The networks of images ---------------------------------------------------------------------------

def test_the_character_network_is_the_leaderboards():
    net = network.character_network()
    one, two = ['Conv2d', 'BatchNorm', 'ReLU'], ['Conv2d', 'MaxPool2d', 'BatchNorm', 'ReLU']
    last = ['Dropout', 'FullyConnected', 'BatchNorm', 'ReLU', 'Dropout', 'FullyConnected']
    assert [type(layer).__name__ for layer in net.layers] == (
        ['PixelScaling', 'Augment', 'Reshape', 'Crop'] + two + one + two + one + two + ['Flatten']
        + last)
    assert repr(net.layers[1]) == 'Augment(5, 0.05, 0.06, 0.6, 0.3)'
    shapes = [shape for layer, shape in zip(net.layers, net.shapes()) if isinstance(layer, Conv2d)]
    assert shapes == [(24, 24, 16), (12, 12, 64), (12, 12, 64), (6, 6, 128), (6, 6, 128)]
    assert net.layers[24].weight.shape == (1152, 256) and net.loss.label_smoothing == 0.1
    assert [layer.p for layer in net.layers if isinstance(layer, Dropout)] == [0.1, 0.1]
    assert '575967 parameters' in repr(net)
    twin = network.character_network(np.random.default_rng(0))
    np.testing.assert_array_equal(twin.layers[-1].weight, net.layers[-1].weight)


def test_a_small_character_network_learns_and_takes_other_classes():
    kinds = type('OtherConv2d', (Conv2d,), {}), type('OtherNetwork', (Network,), {})
    net = network.character_network(np.random.default_rng(0), ((4,), (6,)), 16, 0, False, *kinds)
    assert [type(layer) for layer in net.layers].count(kinds[0]) == 2 and type(net) is kinds[1]
    assert not isinstance(net.layers[1], Augment) and len(net.layers[-5].weight) == 6 * 6 * 6
    losses = [make_step(net, PIXELS, LABELS, 0.1, momentum=0.9) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0], f'the loss did not fall: {losses}'


def test_the_training_of_the_character_network():
    assert network.CHARACTER_TRAINING == {
        'epochs': 12, 'batch_size': 256, 'lr': 0.2, 'schedule': network.one_cycle,
        'ema_decay': 0.998, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 5e-4}
