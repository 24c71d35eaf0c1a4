"""A Block gives the numbers of the plain layers whose place it takes."""
import copy

import numpy as np
import pytest

import fast_conv2d
from fast_block import Block, fuse
from gradient_check import check_gradients
from layer import BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, MaxPool2d, ReLU, _Layer
from network import Network, character_network
from parallel import ParallelNetwork
from small_networks import check_equal

ORDERS = pytest.mark.parametrize('order', ['pool first', 'pool last', 'no pool'])


def random(*shape, seed=1):
    """Normal random numbers."""
    return np.random.default_rng(seed).standard_normal(shape)


def make_run(order, channels=3, dtype=np.float64, seed=0, conv=fast_conv2d.Conv2d):
    """The layers of a run. BatchNorm's weights are of both signs."""
    rng = np.random.default_rng(seed)
    norm = BatchNorm(5)
    norm.weight[...] = rng.standard_normal((1, 5))
    norm.bias[...] = rng.standard_normal((1, 5))
    norm.running_mean[...] = rng.standard_normal((1, 5))
    layers = [conv(channels, 5, rng=rng, bias=False), norm, ReLU()]
    if order == 'pool first':
        layers.insert(1, MaxPool2d())
    if order == 'pool last':
        layers.append(MaxPool2d())
    for each in layers:
        each.astype(dtype)
    return layers


def set_training(layers, training):
    """Set the mode of the layers."""
    for each in layers:
        each.training = training


def results(layers, images, grad_seed=2):
    """{name: array} of all that forward and backward of the layers give, and of their states."""
    output = images
    for each in layers:
        output = each.forward(output)
    grad = random(*output.shape, seed=grad_seed).astype(images.dtype)
    for each in reversed(layers):
        grad = each.backward(grad)
    found = {'output': output.copy(), 'input_grad': grad}
    for each in layers[0].layers if isinstance(layers[0], Block) else layers:
        for name in each.parameter_names + each.state_names:
            found[f'{each!r}.{name}'] = getattr(each, name).copy()
        for name in each.parameter_names:
            found[f'{each!r}.{name}_grad'] = getattr(each, name + '_grad')
    return found


def assert_close(got, expected, tolerance):
    """All arrays are equal to a part of their greatest number."""
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        if array is None:
            assert got[name] is None, f'{name}: got an array, expected None'
            continue
        assert got[name].shape == array.shape and got[name].dtype == array.dtype, (
            f'{name}: got {got[name].shape} {got[name].dtype}, expected {array.shape}')
        error = abs(got[name] - array).max()
        greatest = max(abs(array).max(), 1e-3)      # below it is nothing but rounding
        assert error <= tolerance * greatest, (
            f'{name} differs by {error}, its greatest number is {greatest}')


@ORDERS
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shape', [(4, 8, 8, 3), (5, 7, 9, 3), (6, 1, 1, 3), (3, 14, 15, 1)],
                         ids=str)
def test_float64_equals_the_plain_layers(order, training, shape):
    plain = make_run(order, shape[3], conv=Conv2d)
    block, = fuse(make_run(order, shape[3]))
    set_training(plain + block.layers, training)
    images = random(*shape) + 1
    assert_close(results([block], images), results(plain, images), 1e-12)


@ORDERS
@pytest.mark.parametrize('training', [True, False])
def test_float32_equals_the_plain_layers_to_5e_5(order, training):
    plain = make_run(order, 16, np.float32, conv=Conv2d)
    block, = fuse(make_run(order, 16, np.float32))
    set_training(plain + block.layers, training)
    images = random(4, 14, 14, 16).astype(np.float32)
    assert_close(results([block], images), results(plain, images), 5e-5)


@ORDERS
def test_a_second_batch_and_a_change_of_mode(order):
    plain = make_run(order, conv=Conv2d)
    block, = fuse(make_run(order))
    for seed, training in enumerate((True, False, True)):
        set_training(plain + block.layers, training)
        images = random(4, 6, 6, 3, seed=seed)
        assert_close(results([block], images, seed), results(plain, images, seed), 1e-12)


@ORDERS
def test_the_mode_at_forward_counts_in_backward(order):
    plain = make_run(order, conv=Conv2d)
    block, = fuse(make_run(order))
    images, grad = random(4, 6, 6, 3), None
    outputs = [images, block.forward(images)]
    for each in plain:
        outputs[0] = each.forward(outputs[0])
    set_training(plain + block.layers, False)
    grad = random(*outputs[1].shape)
    got = block.backward(grad)
    for each in reversed(plain):
        grad = each.backward(grad)
    np.testing.assert_allclose(got, grad, rtol=0, atol=1e-12)


@ORDERS
def test_no_row(order):
    block, = fuse(make_run(order))
    set_training(block.layers, False)
    assert block.forward(np.zeros((0, 6, 6, 3))).shape == (0,) + block.output_shape((6, 6, 3))


@ORDERS
def test_arguments_and_output_are_not_changed(order):
    block, = fuse(make_run(order))
    images = random(4, 6, 6, 3)
    output = block.forward(images)
    grad = random(*output.shape)
    arrays = [images, output, grad, block.conv.weight, block.norm.weight, block.norm.bias]
    before = copy.deepcopy(arrays)
    block.backward(grad)
    for array, old in zip(arrays, before):
        np.testing.assert_array_equal(array, old)


@ORDERS
def test_no_input_gradient_where_it_is_not_needed(order):
    block, = fuse(make_run(order))
    block.needs_input_grad = False
    output = block.forward(random(4, 6, 6, 3))
    assert block.backward(random(*output.shape)) is None
    assert block.conv.weight_grad.any()


@ORDERS
def test_backward_is_refused_before_forward_twice_and_for_another_shape(order):
    block, = fuse(make_run(order))
    output = block.forward(random(4, 6, 6, 3))
    with pytest.raises(ValueError, match='output_grad'):
        block.backward(output[:-1])
    block.backward(output)
    with pytest.raises(RuntimeError, match='backward needs a forward'):
        block.backward(output)


@ORDERS
def test_input_that_does_not_fit_is_refused(order):
    block, = fuse(make_run(order))
    with pytest.raises(ValueError, match=r'Conv2d.*\(N, 6, 6, 4\)'):
        block.forward(random(4, 6, 6, 4))
    with pytest.raises(TypeError, match='uint8'):
        block.forward(np.zeros((4, 6, 6, 3), np.uint8))
    with pytest.raises(ValueError, match='two or more'), np.errstate(all='ignore'):
        block.forward(random(1, 1, 1, 3))


class Parts(_Layer):
    """A Block as one layer with the parameters of the run, for the gradient check."""

    parameter_names = ('weight', 'scale', 'shift')

    def __init__(self, order):
        self.block, = fuse(make_run(order))
        self.weight = self.block.conv.weight
        self.scale = self.block.norm.weight
        self.shift = self.block.norm.bias

    def forward(self, input):
        self.block.conv.weight = self.weight
        self.block.norm.weight = self.scale
        self.block.norm.bias = self.shift
        return self.block.forward(input)

    def backward(self, output_grad):
        input_grad = self.block.backward(output_grad)
        self.weight_grad = self.block.conv.weight_grad
        self.scale_grad = self.block.norm.weight_grad
        self.shift_grad = self.block.norm.bias_grad
        return input_grad

    def output_shape(self, input_shape):
        return self.block.output_shape(input_shape)


@ORDERS
def test_gradients(order):
    check_gradients(Parts(order), random(3, 4, 3, 3))


# Which layers are fused ---------------------------------------------------------------------------

def test_fuse_keeps_the_order_and_what_it_cannot_compute():
    first, last, none = make_run('pool first'), make_run('pool last'), make_run('no pool')
    others = [Flatten(), Dropout(0.3), FullyConnected(3, 2), BatchNorm(2), ReLU()]
    fused = fuse(first + last + none + others)
    assert [each.layers for each in fused[:3]] == [first, last, none]
    assert fused[3:] == others


@pytest.mark.parametrize('change', ['plain', 'bias', 'kernel', 'subclass', 'another', 'short'])
def test_other_runs_are_not_fused(change):
    layers = make_run('no pool')
    if change == 'plain':
        layers[0] = Conv2d(3, 5, bias=False)
    elif change == 'bias':
        layers[0] = fast_conv2d.Conv2d(3, 5)
    elif change == 'kernel':
        layers[0] = fast_conv2d.Conv2d(3, 5, 5, bias=False)
    elif change == 'subclass':
        layers[1].__class__ = type('MyNorm', (BatchNorm,), {})
    elif change == 'another':
        layers[2] = MaxPool2d()
    else:
        del layers[2]
    assert fuse(layers) == layers


# In a network -------------------------------------------------------------------------------------

def make_network(Network, Conv2d, parts=None, pool_last=False):
    """A small convolutional network in float64 with negative BatchNorm weights."""
    rng = np.random.default_rng(0)
    settings = {} if parts is None else {'parts': parts}
    if pool_last:
        layers = []
        for channels, outputs in ((1, 4), (4, 5)):
            layers += [Conv2d(channels, outputs, rng=rng, bias=False), BatchNorm(outputs), ReLU()]
            layers += [MaxPool2d()]
        layers += [Flatten(), FullyConnected(3 * 3 * 5, 4, rng)]
        net = Network(layers, input_shape=(9, 10, 1), **settings)
    else:
        net = character_network(rng, ((3,), (4, 5), (4,)), 8, 0.0, False, Conv2d,
                                lambda layers, loss: Network(layers, loss, **settings))
    for each in net.layers:
        each.astype(np.float64)
        if isinstance(each, BatchNorm):
            each.weight[0, ::2] *= -1
    return net


@pytest.mark.parametrize('pool_last', [False, True])
def test_steps_of_a_network_of_one_part_are_those_of_the_plain_network(pool_last):
    plain = make_network(Network, Conv2d, pool_last=pool_last)
    fast = make_network(ParallelNetwork, fast_conv2d.Conv2d, 1, pool_last)
    shape = (6, 9, 10, 1) if pool_last else (6, 784)
    input = random(*shape)
    for step in range(3):
        losses = []
        for net in (plain, fast):
            losses.append(net.forward(input, np.arange(6) % 4)[1])
            net.backward()
            net.update(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
        assert abs(losses[0] - losses[1]) < 1e-9, f'step {step}: losses {losses}'
    assert_close(fast.arrays(), plain.arrays(), 1e-8)
    np.testing.assert_allclose(fast.predict(input), plain.predict(input), rtol=1e-7)


def test_one_part_draws_the_random_numbers_of_the_plain_network():
    losses = []
    for conv, kind, settings in ((Conv2d, Network, {}),
                                 (fast_conv2d.Conv2d, ParallelNetwork, {'parts': 1})):
        net = character_network(np.random.default_rng(0), ((3,), (4,), (4,)), 8, 0.5, True, conv,
                                lambda layers, loss: kind(layers, loss, **settings))
        net.reseed([3, 4])
        pixels = np.random.default_rng(1).integers(0, 256, (9, 784), dtype=np.uint8)
        losses.append(net.forward(pixels, np.arange(9))[1])
    assert abs(losses[0] - losses[1]) < 1e-4, losses


def test_parts_of_a_network_are_computed_by_blocks():
    net = make_network(ParallelNetwork, fast_conv2d.Conv2d, 2)
    for replica in net.replicas:
        assert [type(each) for each in replica.layers].count(Block) == 4
    assert not any(isinstance(each, Block) for each in net.layers)


def test_two_parts_are_two_plain_networks_side_by_side():
    fast = make_network(ParallelNetwork, fast_conv2d.Conv2d, 2)
    plain = make_network(ParallelNetwork, Conv2d, 2)
    input, label = random(8, 784), np.arange(8)
    for net in (plain, fast):
        net.forward(input, label)
        net.backward()
    for (name, first, attribute), (_, second, _) in zip(fast.parameters(), plain.parameters()):
        np.testing.assert_allclose(getattr(first, attribute + '_grad'),
                                   getattr(second, attribute + '_grad'), rtol=0, atol=1e-10,
                                   err_msg=name)
    assert_close(fast.arrays(), plain.arrays(), 1e-12)


def test_the_same_seed_gives_the_same_bits():
    arrays = []
    for _ in range(2):
        net = make_network(ParallelNetwork, fast_conv2d.Conv2d, 2)
        data = random(30, 784), np.arange(30)
        net.fit(data, None, epochs=2, batch_size=8, lr=0.01, verbose=False)
        arrays.append(net.copy_arrays())
    check_equal(*arrays)
