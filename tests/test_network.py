"""Network: forward, backward, update; its names, modes, predictions and scores; what it refuses."""
import copy
import pickle

import numpy as np
import pandas as pd
import pytest

import network
from gradient_check import check_network, compare
from layer import (Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, Loss, MaxPool2d,
                   PixelScaling, ReLU, Reshape, Sigmoid, SoftmaxWithLoss, SquaredError, Tanh,
                   _Layer)
from network import Network
from small_networks import (CLASSES, FEATURES, check_equal, check_refused, convert, differ,
                            every_network, gradients, make_cnn, make_mlp, make_random, make_rows,
                            make_step, normal, wave)

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 784))
LABELS = np.arange(8) * 5


# Forward, backward, update ------------------------------------------------------------------------

def test_the_default_network_uses_its_named_layers():
    net = Network()
    names = ['scale', 'fc1', 'act1', 'fc2', 'act2', 'fc3']
    kinds = [PixelScaling, FullyConnected, ReLU, FullyConnected, ReLU, FullyConnected]
    for index, (name, kind) in enumerate(zip(names, kinds)):
        assert getattr(net, name) is net.layers[index], f'{name} is not layer {index}'
        assert type(net.layers[index]) is kind, f'layer {index} is {net.layers[index]!r}'
    assert [net.fc1.weight.shape, net.fc2.weight.shape] == [(784, 512), (512, 256)]
    assert isinstance(net.loss, SoftmaxWithLoss) and net.fc3.weight.shape == (256, 47)
    before = net.copy_arrays()
    make_step(net, PIXELS, LABELS, 0.1)
    for index, layer in ((1, net.fc1), (3, net.fc2), (5, net.fc3)):
        assert layer.weight_grad.any() and layer.bias_grad.any(), f'layer {index}: no gradient'
        for name in ('weight', 'bias'):
            old = before[f'{index}.FullyConnected.{name}']
            expected = old - 0.1 * getattr(layer, name + '_grad')
            np.testing.assert_allclose(getattr(layer, name), expected, atol=1e-7)
    net.fc3.weight[...] = 0
    net.fc3.bias[...] = 0
    assert abs(net.forward(PIXELS, LABELS)[1] - np.log(47)) < 1e-6


def test_the_generator_determines_the_default_network():
    first = Network(rng=np.random.default_rng(1)).copy_arrays()
    check_equal(Network(rng=np.random.default_rng(1)).arrays(), first)
    assert differ(Network(rng=np.random.default_rng(2)).arrays(), first)


@every_network
@pytest.mark.parametrize('rows', [2, 7])
def test_gradients_of_whole_networks(make, rows):
    check_network(make(), *make_rows(rows))


def test_gradients_with_label_smoothing_and_mixed_targets():
    target = np.tile([0.1, 0.2, 0.3, 0.4], (5, 1))
    check_network(make_mlp(loss=SoftmaxWithLoss(0.1)), normal(5, FEATURES), target)


def test_gradients_where_a_layer_was_first_in_another_network():
    other = make_mlp()
    make_step(other, *make_rows(5))
    layers = [FullyConnected(3, FEATURES), ReLU()] + other.layers
    check_network(Network(layers), normal(5, 3), np.arange(5) % CLASSES)


class NoBackward(_Layer):
    """A layer without parameters, whose backward must not be called."""

    in_features = FEATURES

    def forward(self, input):
        return input

    def backward(self, output_grad):
        raise AssertionError('backward was called for a layer before the first trained one')


def test_backward_stops_at_the_first_trained_layer():
    net = Network([NoBackward()] + make_mlp().layers)
    make_step(net, *make_rows(5))
    needed = [layer.needs_input_grad for layer in net.layers[1:]]
    assert needed == [False, True, True], 'only the first trained layer needs no input gradient'
    assert net.first_trained_layer() == 1
    untrained = Network([NoBackward(), ReLU()])
    assert untrained.first_trained_layer() == 2
    untrained.forward(*make_rows(5))
    untrained.backward()
    untrained.update(0.1)


def test_a_second_network_of_the_same_layers_leaves_the_first_as_it_was():
    net = make_mlp()
    grads = []
    for _ in range(2):
        net.forward(*make_rows(8))
        net.backward()
        grads.append(net.layers[0].weight_grad)
        other = Network(net.layers[1:], input_shape=5)
        make_step(other, normal(8, 5).astype(np.float32), make_rows(8)[1], lr=0)
        net.layers[0].weight_grad = None
    np.testing.assert_array_equal(*grads)


@pytest.mark.parametrize('loss', [SoftmaxWithLoss(), SquaredError()], ids=repr)
def test_a_returned_prediction_may_be_changed_before_backward(loss):
    net = Network([FullyConnected(FEATURES, CLASSES, np.random.default_rng(0)), Sigmoid()], loss)
    grads = []
    for change in (False, True):
        predict, _ = net.forward(*make_rows(8))
        if change:
            predict[:] = 0
        net.backward()
        grads.append(net.layers[0].weight_grad)
    np.testing.assert_array_equal(*grads)


@every_network
def test_a_step_does_not_change_rows_and_targets(make):
    rows, label = make_rows(8)
    one_hot = np.eye(CLASSES, dtype=np.float32)[label]
    before = rows.copy(), one_hot.copy()
    make_step(make(), rows, one_hot)
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(one_hot, before[1])


RECURRENCES = [(0, False, 0), (0, False, 0.1), (0.9, False, 0), (0.9, True, 0), (0.9, False, 0.1),
               (0.5, True, 0.1)]


@pytest.mark.parametrize('momentum, nesterov, decay', RECURRENCES)
def test_update_against_its_recurrence(momentum, nesterov, decay):
    net = Network([FullyConnected(6, 16), Reshape(4, 4, 1), Conv2d(1, 2), BatchNorm(2), Flatten(),
                   FullyConnected(32, 3)])
    convert(net, np.float64)
    expected = net.copy_arrays()
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
        grads = {name: grad.copy() for name, grad in gradients(net).items()}
        net.update(lr, momentum=momentum, nesterov=nesterov, weight_decay=decay)
        check_equal(gradients(net), grads, 'update changed the gradients')
        for name, array in net.arrays().items():
            compare(f'step {step}, {name}', array, expected[name], 1e-12)


@pytest.mark.parametrize('momentum, nesterov, decay', RECURRENCES)
def test_update_against_pytorch(momentum, nesterov, decay):
    torch = pytest.importorskip('torch')
    net = convert(Network([FullyConnected(6, 5), ReLU(), FullyConnected(5, 3)]), np.float64)
    twins = {name: torch.tensor(array.copy(), requires_grad=True)
             for name, array in net.arrays().items()}
    decayed = [twin for name, twin in twins.items() if name.endswith('weight')]
    others = [twin for name, twin in twins.items() if name.endswith('bias')]
    groups = [{'params': decayed, 'weight_decay': decay}, {'params': others}]
    optimiser = torch.optim.SGD(groups, lr=0.1, momentum=momentum, nesterov=nesterov)
    for step in range(4):
        net.forward(normal(7, 6, seed=step), np.arange(7) % 3)
        net.backward()
        for name, grad in gradients(net).items():
            twins[name].grad = torch.tensor(grad)
        optimiser.step()
        net.update(0.1, momentum=momentum, nesterov=nesterov, weight_decay=decay)
        for name, array in net.arrays().items():
            compare(f'step {step}, {name}', array, twins[name].detach().numpy(), 1e-13)


def wave_network():
    """A float64 network whose weights are the same in every version of NumPy."""
    net = convert(Network([FullyConnected(6, 5), BatchNorm(5), ReLU(), FullyConnected(5, 4)]),
                  np.float64)
    net.layers[0].weight[...] = wave(6, 5)
    net.layers[3].weight[...] = wave(5, 4)
    return net


def test_steps_with_momentum_and_decay_give_the_recorded_losses():
    net = wave_network()
    losses = [make_step(net, wave(12, 6), np.arange(12) % 4, momentum=0.9, nesterov=True,
                        weight_decay=0.01) for _ in range(4)]
    expected = [1.9730047455240804, 1.8112985093623497, 1.6513274013991974, 1.5049779873056461]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


def test_update_reaches_a_transposed_weight():
    net = make_mlp()
    net.layers[0].weight = before = normal(5, FEATURES).T
    net.forward(*make_rows(8))
    net.backward()
    expected = before - 0.5 * net.layers[0].weight_grad
    net.update(0.5)
    np.testing.assert_allclose(net.layers[0].weight, expected, rtol=1e-6)


def test_update_without_a_gradient_is_refused():
    check_refused(RuntimeError, lambda: make_mlp().update(0.1), 'call backward before update',
                  '0.FullyConnected.weight')


@pytest.mark.parametrize('arguments, kind, wanted', [
    (('0.1',), TypeError, "lr is '0.1'"), ((None,), TypeError, 'lr is None'),
    ((-0.1,), ValueError, 'lr is -0.1'), ((np.nan,), ValueError, 'lr is nan'),
    ((0.1, -0.9), ValueError, 'momentum is -0.9'), ((0.1, '0.9'), TypeError, 'momentum is'),
    ((0.1, np.nan), ValueError, 'momentum is nan'),
    ((0.1, 0.9, True, -1e-4), ValueError, 'weight_decay is -0.0001'),
    ((0.1, 0.9, True, [1]), TypeError, 'weight_decay is [1]'),
    ((0.1, 0, True), ValueError, 'nesterov needs a momentum')], ids=str)
def test_rates_that_cannot_be_are_refused(arguments, kind, wanted):
    net = make_mlp()
    net.forward(*make_rows(8))
    net.backward()
    before = net.copy_arrays()
    check_refused(kind, lambda: net.update(*arguments), wanted)
    check_equal(net.arrays(), before, 'the refused update changed the network')


@pytest.mark.parametrize('lr', [0, 1, np.float32(0.5), np.int64(1)], ids=repr)
def test_rates_may_be_any_kind_of_number(lr):
    net = make_mlp()
    before = net.copy_arrays()
    make_step(net, *make_rows(8), lr=lr)
    assert differ(net.arrays(), before) == (lr > 0)


def test_backward_before_forward_is_refused():
    check_refused(RuntimeError, make_mlp().backward, 'backward needs a forward before it')


@pytest.mark.parametrize('between', [
    lambda net: net.predict(make_rows(8)[0]), lambda net: net.evaluate(*make_rows(8)),
    lambda net: net.predict_augmented(make_rows(8)[0])], ids=['predict', 'evaluate', 'augmented'])
def test_backward_is_refused_after(between):
    net = make_random()
    net.forward(*make_rows(8))
    between(net)
    check_refused(RuntimeError, net.backward, 'no predict or evaluate in between')
    check_refused(RuntimeError, lambda: net.layers[0].backward(normal(8, 16)), 'in between')


@pytest.mark.parametrize('rows, target', [
    (make_rows(8)[0], np.full(8, 9)), (make_rows(8)[0], np.zeros(7, int)),
    (make_rows(8)[0][0], np.zeros(1, int)), (normal(8, 5), np.zeros(8, int)),
    (np.zeros((8, FEATURES), int), np.zeros(8, int))],
    ids=['label', 'fewer labels', 'one row', 'features', 'dtype'])
def test_backward_is_refused_after_a_refused_forward(rows, target):
    net = make_mlp()
    net.forward(*make_rows(8))
    with pytest.raises((ValueError, TypeError)):
        net.forward(rows, target)
    check_refused(RuntimeError, net.backward, 'backward needs a forward before it')


def test_overfits_twenty_rows():
    net = Network(rng=np.random.default_rng(0))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 784)).astype(np.uint8)
    label = rng.integers(0, 47, 20)
    for _ in range(30):
        make_step(net, pixels, label, 0.02, momentum=0.9)
    assert net.evaluate(pixels, label).accuracy == 100


# Names, layers and copies -------------------------------------------------------------------------

def test_a_named_layer_can_be_exchanged():
    net = Network(rng=np.random.default_rng(0))
    make_step(net, PIXELS, LABELS, momentum=0.9)
    net.act1 = Sigmoid()
    assert isinstance(net.layers[2], Sigmoid) and net.act1 is net.layers[2]
    hidden = net.fc1.forward(net.scale.forward(PIXELS))
    expected = net.fc2.forward(1 / (1 + np.exp(-hidden)))
    expected = net.fc3.forward(np.maximum(expected, 0))
    logits = np.log(net.predict(PIXELS))
    np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], atol=1e-4)


def test_an_exchanged_layer_has_no_memory_of_the_one_before():
    net = Network(rng=np.random.default_rng(0))
    make_step(net, PIXELS, LABELS, momentum=0.9)
    net.fc2 = FullyConnected(512, 256, np.random.default_rng(5))
    before = net.fc2.weight.copy()
    make_step(net, PIXELS, LABELS, momentum=0.9)
    expected = before - 0.1 * net.fc2.weight_grad
    np.testing.assert_allclose(net.fc2.weight, expected, rtol=1e-6)


@pytest.mark.parametrize('name, value, kind, wanted', [
    ('fc2', FullyConnected(3, 4), ValueError, 'FullyConnected(3, 4) expects an input (N, 3)'),
    ('fc2', FullyConnected(512, 100), ValueError, 'FullyConnected(256, 47) expects an input'),
    ('act1', Sigmoid, TypeError, 'is the class Sigmoid: write Sigmoid(...)'),
    ('act1', SoftmaxWithLoss(), TypeError, 'layer 2 is a loss'),
    ('act1', np.tanh, TypeError, 'layer 2 is a ufunc'), ('fc3', None, TypeError, 'NoneType'),
    ('loss', SoftmaxWithLoss, TypeError, 'SoftmaxWithLoss()'),
    ('loss', ReLU(), TypeError,
     'the loss is ReLU(), expected an object with forward, backward and predict'),
    ('loss', None, TypeError, 'the loss is None')],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__)
def test_a_layer_or_loss_that_does_not_fit_is_refused_and_nothing_changes(name, value, kind,
                                                                         wanted):
    net = Network()
    layers, loss = list(net.layers), net.loss
    check_refused(kind, lambda: setattr(net, name, value), wanted)
    assert all(now is old for now, old in zip(net.layers, layers)) and net.loss is loss


def test_the_same_layer_twice_is_refused():
    net = Network()
    wanted = 'layer 4 is in the network twice'
    check_refused(ValueError, lambda: setattr(net, 'act2', net.act1), wanted)
    check_refused(ValueError, lambda: Network(net.layers[:4] + [net.act1]), wanted)


def test_an_unknown_name_is_refused():
    check_refused(AttributeError, lambda: Network().fc4, "no attribute 'fc4'",
                  'its named layers are scale, fc1, act1, fc2, act2, fc3')
    check_refused(AttributeError, lambda: make_mlp().fc1, "no attribute 'fc1'",
                  'its layers have no names: write net.layers[index]')


def test_another_loss_may_be_set_later():
    net = make_mlp()
    rows, label = make_rows(20)
    expected = make_mlp(loss=SoftmaxWithLoss(0.5)).forward(rows, label)[1]
    assert net.forward(rows, label)[1] != expected
    net.loss = SoftmaxWithLoss(label_smoothing=0.5)
    assert net.forward(rows, label)[1] == expected


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
                         ids=['deepcopy', 'pickle'])
def test_a_network_can_be_copied(duplicate):
    for net in (make_random(), Network()):
        rows, label = make_rows(9) if net.names == () else (PIXELS, LABELS)
        make_step(net, rows, label, momentum=0.9)
        twin = duplicate(net)
        np.testing.assert_array_equal(twin.predict(rows), net.predict(rows))
        before = net.copy_arrays()
        make_step(twin, rows, label, momentum=0.9)
        check_equal(net.arrays(), before, 'a step of the copy changed the original')
        make_step(net, rows, label, momentum=0.9)
        check_equal(net.arrays(), twin.arrays(), 'the copy took another step')


def test_a_shallow_copy_shares_the_layers():
    net = Network()
    twin = copy.copy(net)
    assert twin.fc1 is net.fc1
    np.testing.assert_array_equal(twin.predict(PIXELS), net.predict(PIXELS))


class InputFirst(_Layer):
    """a = g x in the handout's own style, with a parameter of any name."""

    in_features = FEATURES

    def __init__(self, parameter='weight'):
        setattr(self, parameter, np.ones((1, FEATURES), np.float32))
        setattr(self, parameter + '_grad', None)

    def forward(self, input):
        self.x = input
        return input * self.weight

    def backward(self, output_grad):
        self.weight_grad = (output_grad * self.x).sum(axis=0, keepdims=True)
        return output_grad * self.weight


class Listed(InputFirst):
    parameter_names = ('weight',)


class ListedAsText(InputFirst):
    parameter_names = 'weight'


class ListedAsList(InputFirst):
    parameter_names = ['weight']


def test_a_layer_in_the_style_of_the_handout_is_trained():
    net = Network([Listed()] + make_mlp().layers)
    make_step(net, *make_rows(8))
    assert (net.layers[0].weight != 1).all()
    check_network(Network([FullyConnected(4, FEATURES), Listed()] + make_mlp().layers),
                  normal(5, 4), np.arange(5) % CLASSES)


@pytest.mark.parametrize('layer, wanted', [
    (InputFirst(), ['has the parameter weight', "add 'weight' to parameter_names"]),
    (InputFirst('gamma'), ['the parameter gamma', "add 'gamma' to parameter_names"]),
    (ListedAsText(), ["parameter_names is 'weight'", 'expected a tuple']),
    (ListedAsList(), ["parameter_names is ['weight']", 'expected a tuple'])],
    ids=['weight', 'gamma', 'text', 'list'])
def test_a_parameter_that_would_not_be_trained_is_refused(layer, wanted):
    check_refused(ValueError, lambda: Network([layer] + make_mlp().layers), type(layer).__name__,
                  *wanted)


def test_a_layer_that_keeps_input_and_input_grad_is_accepted():
    layer = ReLU()
    layer.input = layer.output = layer.input_grad = layer.output_grad = np.zeros(3)
    Network([layer])


class Duck(object):
    """Has forward and backward, but is no _Layer."""

    def forward(self, input):
        return input

    def backward(self, output_grad):
        return output_grad


@pytest.mark.parametrize('layers, kind, wanted', [
    ([], ValueError, 'at least one layer'),
    ([FullyConnected(6, 5), ReLU], TypeError, 'layer 1 is the class ReLU: write ReLU(...)'),
    ([FullyConnected(6, 5), SoftmaxWithLoss()], TypeError,
     'layer 1 is a loss: write Network(layers, SoftmaxWithLoss())'),
    ([FullyConnected(6, 5), np.tanh], TypeError, 'layer 1 is a ufunc: derive its class'),
    ([FullyConnected(6, 5), Duck()], TypeError, 'layer 1 is a Duck'),
    ([FullyConnected(6, 5), FullyConnected(4, 3)], ValueError,
     'layer 1: FullyConnected(4, 3) expects an input (N, 4), got (N, 5)'),
    ([FullyConnected(6, 5), ReLU(), BatchNorm(4)], ValueError,
     'layer 2: BatchNorm(4) expects an input (N, ..., 4), got (N, 5)'),
    ([PixelScaling(), Reshape(28, 28, 1), Conv2d(3, 4)], ValueError,
     'got (N, 28, 28, 1)')],
    ids=['none', 'class', 'loss', 'function', 'no layer', 'features', 'batch norm', 'channels'])
def test_layers_that_cannot_be_a_network_are_refused(layers, kind, wanted):
    check_refused(kind, lambda: Network(layers), wanted)


def test_layers_may_come_in_any_sequence():
    layers = make_mlp().layers
    nets = [Network(layers), Network(tuple(layers)), Network(layer for layer in layers)]
    assert all(net.layers == layers and net.layers is not layers for net in nets)


def test_a_loss_class_is_refused():
    check_refused(TypeError, lambda: make_mlp(loss=SoftmaxWithLoss), 'SoftmaxWithLoss()')


def test_the_shape_of_a_row_is_assumed_or_given():
    assert Network([PixelScaling(), FullyConnected(784, 3)]).input_shape == (784,)
    assert Network([FullyConnected(64, 3)]).input_shape == (64,)
    net = Network([PixelScaling(), FullyConnected(64, 3)], input_shape=(64,))
    assert net.predict(np.zeros((2, 64))).shape == (2, 3)
    images = Network([Conv2d(3, 2), Flatten(), FullyConnected(32, 3)], input_shape=(4, 4, 3))
    assert images.input_shape == (4, 4, 3) and images.shapes() == [(4, 4, 2), (32,), (3,)]
    for shape in (64, [64], np.array([64])):
        assert Network([FullyConnected(64, 3)], input_shape=shape).input_shape == (64,)
    check_refused(ValueError, lambda: Network([PixelScaling(), FullyConnected(64, 3)]),
                  'layer 1: FullyConnected(64, 3) expects an input (N, 64), got (N, 784)')


def test_repr_shows_layers_shapes_and_parameters():
    expected = ['0 PixelScaling(mean=0, std=1) 784', '1 FullyConnected(784, 512) 512 401920',
                '2 ReLU() 512', '3 FullyConnected(512, 256) 256 131328', '4 ReLU() 256',
                '5 FullyConnected(256, 47) 47 12079', 'SoftmaxWithLoss() 545327 parameters']
    lines = repr(Network()).splitlines()
    assert [line.split() for line in lines] == [line.split() for line in expected]
    assert '4x4x3' in repr(make_cnn()) and '2x2x2' in repr(make_cnn())


# What a person may do wrong with rows -------------------------------------------------------------

def calls_with_rows(net, rows, label):
    """The calls that take rows and labels."""
    return [lambda: net.forward(rows, label), lambda: net.evaluate(rows, label),
            lambda: net.fit((rows, label), None, 1, 4, 0.1, verbose=False)]


def test_one_row_instead_of_a_batch_is_refused():
    net = Network()
    wanted = 'pass one row as data[i:i+1]'
    check_refused(ValueError, lambda: net.forward(PIXELS[0], LABELS[0]), '(784,)', wanted)
    check_refused(ValueError, lambda: net.predict(PIXELS[0]), '(784,)', wanted)
    check_refused(ValueError, lambda: net.predict_augmented(PIXELS[0]), wanted)
    check_refused(ValueError, lambda: net.forward(PIXELS[:1], LABELS[0]), 'expected one target')
    for call in calls_with_rows(net, PIXELS[0], LABELS[0])[1:]:
        check_refused(ValueError, call, '(784,)', 'expected rows (N, ...)')


def test_rows_and_labels_in_the_wrong_order_are_refused():
    net = Network()
    check_refused(ValueError, lambda: net.forward(LABELS, PIXELS), 'put the input before')
    for call in calls_with_rows(net, LABELS, PIXELS)[1:]:
        check_refused(ValueError, call, 'data of shape (8,)', 'expected rows (N, ...)')


@pytest.mark.parametrize('label', [LABELS[:7], np.arange(9), LABELS.astype(float),
                                   np.eye(47)[LABELS], np.eye(47, dtype=int)[LABELS], 3],
                         ids=['fewer', 'more', 'floats', 'one-hot', 'integer one-hot', 'one'])
def test_labels_that_do_not_belong_to_the_rows_are_refused(label):
    net = Network()
    before = net.copy_arrays()
    hint = 'pass one_hot.argmax(axis=1)' if np.ndim(label) == 2 else 'expected integer labels (8,)'
    for call in calls_with_rows(net, PIXELS, label)[1:]:
        check_refused(ValueError, call, 'got 8 rows and labels of shape', hint)
    check_refused(ValueError, lambda: net.fit((PIXELS, LABELS), (PIXELS, label), 1, 4, 0.1), hint)
    check_equal(net.arrays(), before)


def test_a_hint_about_one_hot_stands_where_it_helps_alone():
    with pytest.raises(ValueError) as caught:
        Network().evaluate(PIXELS, LABELS[:7])
    assert 'one_hot' not in str(caught.value)


def test_forward_names_both_numbers_of_rows():
    check_refused(ValueError, lambda: Network().forward(PIXELS, LABELS[:7]),
                  'got 8 rows of input and targets of shape (7,)')


def test_forward_takes_labels_and_one_hot_rows():
    net = Network()
    expected = net.forward(PIXELS, LABELS)[1]
    for target in (np.eye(47, dtype=np.float32)[LABELS], LABELS.tolist(), pd.Series(LABELS)):
        assert abs(net.forward(PIXELS, target)[1] - expected) < 1e-6


@pytest.mark.parametrize('call', ['forward', 'evaluate', 'fit', 'predict'])
def test_float_pixels_that_were_not_scaled_are_refused(call):
    net = Network()
    pixels = PIXELS.astype(np.float32)
    calls = dict(zip(('forward', 'evaluate', 'fit'), calls_with_rows(net, pixels, LABELS)),
                 predict=lambda: net.predict(pixels))
    check_refused(ValueError, calls[call], 'unscaled pixels', 'divide by 255')


def test_scaled_float_pixels_give_what_integers_give():
    net = Network()
    np.testing.assert_allclose(net.predict((PIXELS / 255).astype(np.float32)), net.predict(PIXELS),
                               rtol=1e-5)


def test_rows_may_be_a_table_or_a_list():
    net = Network()
    expected = net.predict(PIXELS)
    np.testing.assert_array_equal(net.predict(pd.DataFrame(PIXELS)), expected)
    np.testing.assert_array_equal(net.predict(PIXELS.tolist()), expected)
    score = net.evaluate(PIXELS, LABELS)
    assert net.evaluate(pd.DataFrame(PIXELS), pd.Series(LABELS)) == score
    assert net.evaluate(PIXELS.tolist(), LABELS.tolist()) == score
    assert net.forward(pd.DataFrame(PIXELS), LABELS)[1] == net.forward(PIXELS.tolist(), LABELS)[1]


def test_rows_of_a_table_belong_to_labels_by_place_not_by_index():
    rows, label = make_rows(50)
    order = np.random.default_rng(0).permutation(50)
    table = pd.DataFrame(rows).assign(label=label).iloc[order]
    expected = make_mlp().evaluate(rows[order], label[order])
    assert make_mlp().evaluate(table.drop(columns='label'), table.label) == expected


@pytest.mark.parametrize('batch_size', [0, -4])
def test_a_batch_size_below_one_is_refused(batch_size):
    net = make_random()
    rows, label = make_rows(8)
    for call in (lambda: net.predict(rows, batch_size),
                 lambda: net.evaluate(rows, label, batch_size),
                 lambda: net.predict_augmented(rows, 2, batch_size),
                 lambda: net.fit((rows, label), None, 1, batch_size, 0.1)):
        check_refused(ValueError, call, f'batch_size is {batch_size}, expected 1 or more')
    assert all(layer.training for layer in net.layers)


@pytest.mark.parametrize('make', [make_mlp, make_random])
def test_less_than_one_augmented_copy_is_refused(make):
    for copies in (0, -1):
        check_refused(ValueError, lambda: make().predict_augmented(make_rows(8)[0], copies),
                      f'copies is {copies}, expected 1 or more')


# Modes and prediction -----------------------------------------------------------------------------

@every_network
@pytest.mark.parametrize('rows', [0, 1, 4, 13])
def test_predict_any_number_of_rows(make, rows):
    # In float64, as in float32 the rounding of a product depends on its number of rows
    net = convert(make(), np.float64)
    net.forward(make_rows(20)[0].astype(np.float64), make_rows(20)[1])
    input = make_rows(rows)[0].astype(np.float64)
    before = net.copy_arrays()
    predict = net.predict(input, batch_size=5)
    assert predict.shape == (rows, CLASSES)
    check_equal(net.arrays(), before, 'predict changed the network')
    np.testing.assert_allclose(net.predict(input, batch_size=500), predict, atol=1e-9)
    net.eval()
    for row in range(rows):
        expected, _ = net.forward(input[row:row + 1], np.zeros(1, int))
        np.testing.assert_allclose(predict[row:row + 1], expected, atol=1e-9, err_msg=f'row {row}')


class BatchSpy(_Layer):
    """Passes everything on, and keeps the number of rows of each batch."""

    in_features = FEATURES

    def __init__(self):
        self.rows = []

    def forward(self, input):
        self.rows.append(len(input))
        return input

    def backward(self, output_grad):
        return output_grad


def test_predict_and_evaluate_take_batches():
    spy = BatchSpy()
    net = Network([spy] + make_mlp().layers)
    rows, label = make_rows(600)
    net.predict(rows)
    net.evaluate(rows, label)
    net.predict(rows[:7], 3)
    net.predict_augmented(rows[:7], batch_size=4)
    assert spy.rows == [256, 256, 88, 256, 256, 88, 3, 3, 1, 4, 3]


def test_train_and_eval_set_the_mode_of_every_layer():
    net = make_random()
    net.eval()
    assert not any(layer.training for layer in net.layers)
    net.train()
    assert all(layer.training for layer in net.layers)
    net.train(False)
    assert not any(layer.training for layer in net.layers)


@pytest.mark.parametrize('mode', [PIXELS, (PIXELS, LABELS), 'yes', None],
                         ids=['rows', 'pair', 'text', 'None'])
def test_train_with_anything_but_a_mode_is_refused(mode):
    net = make_random()
    check_refused(TypeError, lambda: net.train(mode), 'net.fit trains')
    assert all(layer.training is True for layer in net.layers)


def test_predict_leaves_every_mode_and_generator_as_it_was():
    net = make_random()
    modes = [index % 3 == 0 for index in range(len(net.layers))]
    for layer, mode in zip(net.layers, modes):
        layer.training = mode
    drawn = [layer.rng for layer in net.layers if hasattr(layer, 'rng')]
    rows, label = make_rows(8)
    net.predict(rows)
    net.predict_augmented(rows, 3)
    net.evaluate(rows, label)
    check_refused(ValueError, lambda: net.predict(normal(8, FEATURES + 1)), 'FullyConnected')
    with pytest.raises(KeyError), net.evaluation():
        assert not any(layer.training for layer in net.layers)
        raise KeyError()
    assert [layer.training for layer in net.layers] == modes
    after = [layer.rng for layer in net.layers if hasattr(layer, 'rng')]
    assert all(one is other for one, other in zip(after, drawn)) and len(after) == 2


def test_predicting_does_not_touch_the_random_numbers_of_the_training():
    nets = make_random(), make_random()
    nets[1].predict_augmented(make_rows(8)[0], copies=3)
    nets[1].evaluate(*make_rows(8))
    losses = [net.forward(*make_rows(8))[1] for net in nets]
    assert losses[0] == losses[1], f'after predict the loss is {losses[1]}, expected {losses[0]}'


@every_network
def test_evaluate_against_a_count_by_hand(make):
    net = make()
    rows, label = make_rows(23)
    rows = rows[label != 2]
    label = label[label != 2]      # a class without rows does not count
    assert len(label) % 6 > 1, 'the last batch must be a partial one'
    predict = net.predict(rows)
    hits = [int(predict[row].argmax() == label[row]) for row in range(len(label))]
    recalls = [np.mean([hit for hit, one in zip(hits, label) if one == k]) for k in (0, 1, 3)]
    loss = -np.mean([np.log(predict[row, label[row]]) for row in range(len(label))])
    score = net.evaluate(rows, label, batch_size=6)
    np.testing.assert_allclose(score, [loss, 100 * np.mean(hits), 100 * np.mean(recalls)],
                               rtol=1e-6)
    assert score._fields == ('loss', 'accuracy', 'balanced_accuracy')


def test_augmented_prediction_is_the_mean_over_augmented_copies():
    net = make_random()
    rows, _ = make_rows(9)
    net.layers[-1].weight *= 5
    before = net.copy_arrays()
    mean = net.predict_augmented(rows, copies=3, batch_size=5)
    expected = net.predict(rows)
    for copy_number in (1, 2):      # the same by hand
        twin = copy.deepcopy(net)
        twin.eval()
        twin.layers[1].training = True
        twin.reseed([copy_number])
        parts = [twin.predict_batch(rows[:5]), twin.predict_batch(rows[5:])]
        changed = np.concatenate(parts)
        assert not np.allclose(changed, net.predict(rows), atol=1e-3), 'the copy is the row itself'
        expected = expected + changed
    np.testing.assert_allclose(mean, expected / 3, rtol=1e-5)
    assert np.array_equal(net.predict_augmented(rows, 3, 5), mean)
    check_equal(net.arrays(), before, 'predict_augmented changed the network')
    assert all(layer.training for layer in net.layers)


def test_augmented_prediction_of_any_network_and_any_number_of_rows():
    net = make_random()
    rows, _ = make_rows(9)
    assert net.predict_augmented(rows[:0], copies=2).shape == (0, CLASSES)
    np.testing.assert_array_equal(net.predict_augmented(rows, copies=1), net.predict(rows))
    still = make_mlp()
    np.testing.assert_array_equal(still.predict_augmented(rows), still.predict(rows))


def test_eight_copies_are_the_default():
    net = make_random()
    rows, _ = make_rows(9)
    np.testing.assert_array_equal(net.predict_augmented(rows), net.predict_augmented(rows, 8))
    assert not np.array_equal(net.predict_augmented(rows), net.predict_augmented(rows, 7))


def test_the_returned_prediction_may_be_changed():
    net = Network([FullyConnected(FEATURES, CLASSES)], SquaredError())
    rows, _ = make_rows(9)
    expected = net.predict(rows)
    net.predict(rows)[:] = 0
    np.testing.assert_array_equal(net.predict(rows), expected)


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_predictions_that_are_not_finite_name_the_row(value):
    rows, label = make_rows(700)
    rows[601, 3] = value
    rows[650, 3] = value
    check_refused(ValueError, lambda: make_mlp().predict(rows), 'predict: row 601',
                  'inf and nan in the input')
    check_refused(FloatingPointError, lambda: make_mlp().evaluate(rows, label),
                  'evaluation, rows 512 to 699: the loss is not finite',
                  'inf and nan in the input')


def test_a_prediction_with_one_number_that_is_not_finite_is_refused():
    net = make_mlp(loss=SquaredError())
    net.layers[-1].bias[0, 2] = np.nan
    check_refused(ValueError, lambda: net.predict(make_rows(3)[0]), 'predict: row 0')


def test_no_rows_to_evaluate_are_refused():
    check_refused(ValueError, lambda: make_mlp().evaluate(*make_rows(0)), 'at least one')


# Random numbers, arrays ---------------------------------------------------------------------------

def draws(net, seed):
    net.reseed(seed)
    return [layer.rng.random() for layer in net.layers if hasattr(layer, 'rng')]


def test_reseed_gives_every_layer_numbers_of_its_own():
    net = make_random()
    first = draws(net, [0, 1])
    assert len(first) == 2 and first == draws(net, [0, 1])
    others = [draws(net, seed) for seed in ([0, 2], [1, 1], [0])]
    numbers = first + sum(others, [])
    assert len(set(numbers)) == 8, f'some numbers were drawn twice: {numbers}'


def test_arrays_are_the_parameters_and_states_themselves():
    net = make_random()
    names = ['0.FullyConnected.weight', '0.FullyConnected.bias', '3.Conv2d.weight',
             '3.Conv2d.bias', '4.BatchNorm.weight', '4.BatchNorm.bias', '9.FullyConnected.weight',
             '9.FullyConnected.bias', '4.BatchNorm.running_mean', '4.BatchNorm.running_var']
    assert list(net.arrays()) == names
    assert net.arrays()[names[0]] is net.layers[0].weight
    assert net.arrays()[names[-1]] is net.layers[4].running_var
    assert [name for name, _, _ in net.parameters()] == names[:8]
    copies = net.copy_arrays()
    check_equal(copies, net.arrays())
    assert copies[names[0]] is not net.layers[0].weight
    net.layers[0].weight += 1
    assert differ(copies, net.arrays())


def test_set_arrays_copies_into_the_network():
    net = make_random()
    weight = net.layers[0].weight
    arrays = make_random(seed=1).copy_arrays()
    net.set_arrays(arrays)
    check_equal(net.arrays(), arrays)
    assert net.layers[0].weight is weight, 'set_arrays must write into the array that is there'
    arrays['0.FullyConnected.weight'][...] = 0
    assert weight.any(), 'set_arrays must not keep the arrays that it got'


# Scores, schedules, small helpers -----------------------------------------------------------------

def test_score_by_hand():
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


def test_split_rows():
    train, validation = network.split_rows(20, 6, 3)
    assert len(train) == 14 and len(validation) == 6
    assert sorted(np.concatenate([train, validation])) == list(range(20))
    again = network.split_rows(20, 6, 3)
    assert np.array_equal(train, again[0]) and np.array_equal(validation, again[1])
    assert not np.array_equal(validation, network.split_rows(20, 6, 4)[1])
    assert [len(part) for part in network.split_rows(20, 19, 0)] == [1, 19]
    for count in (-1, 0, 20, 21):
        check_refused(ValueError, lambda: network.split_rows(20, count, 3), f'{count} of 20 rows')


def test_one_cycle():
    rates = [network.one_cycle(done) for done in (0, 0.1, 0.2, 0.6, 1)]
    np.testing.assert_allclose(rates, [0.04, 0.52, 1, 0.5, 0], atol=1e-12)
    np.testing.assert_allclose([network.one_cycle(done, 0.5) for done in (0, 0.25, 0.75)],
                               [0.04, 0.52, 0.5])


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
    """The factors are found here by another way: bisection on the odds of two classes."""
    predict = np.random.default_rng(0).dirichlet([3, 1], 40).astype(np.float32)
    before = predict.copy()
    weighted = network.even_class_counts(predict)
    np.testing.assert_array_equal(predict, before)
    assert weighted.dtype == np.float64
    np.testing.assert_allclose(weighted.sum(axis=0), [20, 20], rtol=1e-6)
    np.testing.assert_allclose(weighted.sum(axis=1), 1)
    squares = predict.astype(np.float64) ** 2
    low, high = 1e-6, 1e6
    for _ in range(200):
        factor = np.sqrt(low * high)
        share = factor * squares[:, 1] / (squares[:, 0] + factor * squares[:, 1])
        low, high = (factor, high) if share.sum() < 20 else (low, factor)
    np.testing.assert_allclose(weighted[:, 1], share, rtol=1e-6)
    assert (weighted.argmax(axis=1) != predict.argmax(axis=1)).sum() > 3


def test_even_class_counts_of_a_class_that_is_never_predicted():
    predict = np.zeros((6, 3), np.float32)
    predict[:3, 0] = 1
    predict[3:, 1] = 1
    weighted = network.even_class_counts(predict)
    assert np.isfinite(weighted).all()
    np.testing.assert_allclose(weighted.sum(axis=1), 1)


def test_even_class_counts_of_a_few_rows_are_refused():
    check_refused(ValueError, lambda: network.even_class_counts(np.full((2, 3), 1 / 3)),
                  'got 2 rows for 3 classes', 'correct_class_prior')


def test_epoch_line():
    score = {'loss': 1.48833, 'accuracy': 49.72, 'balanced_accuracy': 50}
    record = {'epoch': 3, 'epochs': 5, 'seconds': 1.25, 'train': score, 'validation': score}
    assert network.epoch_line(record) == (
        'Epoch:  3 |Train Loss:  1.4883 |Train Acc: 49.7200 |Val Loss:  1.4883 |Val Acc: 49.7200 '
        '|Balanced: 50.0000 |Time:   1.2 s')
    record['validation'] = None
    assert network.epoch_line(record) == (
        'Epoch:  3 |Train Loss:  1.4883 |Train Acc: 49.7200 |Time:   1.2 s')


# The networks of images ---------------------------------------------------------------------------

def test_the_character_network_is_the_leaderboards():
    kinds = [type(layer).__name__ for layer in network.character_network().layers]
    one, two = ['Conv2d', 'BatchNorm', 'ReLU'], ['Conv2d', 'MaxPool2d', 'BatchNorm', 'ReLU']
    last = ['Dropout', 'FullyConnected', 'BatchNorm', 'ReLU', 'Dropout', 'FullyConnected']
    expected = ['PixelScaling', 'Augment', 'Reshape'] + two + one + two + one + two + ['Flatten']
    assert kinds == expected + last
    lines = [line.split() for line in repr(network.character_network()).splitlines()]
    augment = 'Augment(rotation=7.5, scale=0.075, shear=0.09, shift=0.9, elastic=0.45) 784'
    assert ' '.join(lines[1][1:]) == augment
    convolutions = [line[-2:] for line in lines if line[1].startswith('Conv2d')]
    assert convolutions == [['28x28x32', '288'], ['14x14x96', '27648'], ['14x14x96', '82944'],
                            ['7x7x192', '165888'], ['7x7x192', '331776']]
    assert [' '.join(line) for line in lines[-6:]] == [
        '23 FullyConnected(3072, 256) 256 786688', '24 BatchNorm(256) 256 512', '25 ReLU() 256',
        '26 Dropout(0.3) 256', '27 FullyConnected(256, 47) 47 12079',
        'SoftmaxWithLoss(label_smoothing=0.1) 1409039 parameters']


def test_a_small_character_network_learns_and_takes_other_classes():
    class OtherConv2d(Conv2d):
        pass

    class OtherNetwork(Network):
        pass

    net = network.character_network(np.random.default_rng(0), ((4,), (6,)), 16, 0, False,
                                    OtherConv2d, OtherNetwork)
    kinds = [type(layer) for layer in net.layers]
    assert type(net) is OtherNetwork and kinds.count(OtherConv2d) == 2 and Augment not in kinds
    assert [layer.p for layer in net.layers if isinstance(layer, Dropout)] == [0, 0]
    assert net.shapes()[-5] == (16,) and kinds.count(MaxPool2d) == 2
    assert len(net.layers[-5].weight) == 7 * 7 * 6
    losses = [make_step(net, PIXELS, LABELS, 0.1, momentum=0.9) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0], f'the loss did not fall: {losses}'


def test_the_generator_determines_the_character_network():
    stages = ((2,), (3,))
    first = network.character_network(np.random.default_rng(0), stages).copy_arrays()
    check_equal(network.character_network(stages=stages).arrays(), first)
    other = network.character_network(np.random.default_rng(1), stages)
    assert differ(other.arrays(), first)


def test_the_training_of_the_character_network():
    assert network.CHARACTER_TRAINING == {
        'epochs': 20, 'batch_size': 128, 'lr': 0.1, 'schedule': network.one_cycle,
        'ema_decay': 0.999, 'momentum': 0.9, 'nesterov': True, 'weight_decay': 5e-4}
    settings = dict(network.CHARACTER_TRAINING, epochs=1, batch_size=8)
    net = network.character_network(stages=((2,),), hidden=8)
    history = net.fit((PIXELS, LABELS), None, verbose=False, **settings)
    assert len(history) == 1


def test_a_loss_of_ones_own_works():
    class Half(Loss):
        """Half of the squared error's half."""

        def forward(self, input, target):
            self.difference = input - self.target_rows(input, target)
            self.remember(0.0)
            return input, float(0.25 * (self.difference ** 2).sum() / len(input))

        def backward(self):
            self.recall()
            return 0.5 * self.difference / len(self.difference)

        def predict(self, input):
            return input

    layers = [FullyConnected(FEATURES, CLASSES), Tanh()]
    check_network(Network(layers, Half()), *make_rows(5))


def test_a_layer_under_an_unknown_name_is_refused():
    net = Network([FullyConnected(4, 3)], input_shape=4)
    check_refused(ValueError, lambda: setattr(net, 'act1', ReLU()), 'act1', 'net.layers[index]')
    assert len(net.layers) == 1 and 'act1' not in vars(net)
