"""A Block gives the numbers of the plain layers whose place it takes."""
import copy

import numpy as np
import pytest

import fast_conv2d
from fast_block import Block, fuse
from layer import BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, MaxPool2d, ReLU
from network import Network, character_network
from parallel import ParallelNetwork
from small_networks import convert, gradients, make_step, normal
from workshop import assert_close, results

ORDERS = pytest.mark.parametrize('order', ['pool', 'no pool'])


def make_run(order, channels=3, dtype=np.float64, conv=fast_conv2d.Conv2d):
    """The layers of a run. BatchNorm's weights are of both signs."""
    layers = [conv(channels, 5, rng=np.random.default_rng(0), bias=False), BatchNorm(5), ReLU()]
    layers[0].weight = layers[0].weight.astype(dtype)
    for seed, name in enumerate(('weight', 'bias', 'running_mean', 'running_var')):
        setattr(layers[1], name, normal(1, 5, seed=seed).astype(dtype))
    layers[1].running_var = abs(layers[1].running_var)
    if order == 'pool':
        layers.insert(1, MaxPool2d())
    return layers


def pair(order, channels=3, dtype=np.float64):
    """The plain layers of a run, and the Block."""
    block, = fuse(make_run(order, channels, dtype))
    return make_run(order, channels, dtype, Conv2d), block


def set_training(layers, training):
    for each in layers:
        each.training = training


def check(plain, block, images, tolerance=1e-12, seed=2):
    """All results of the block are those of the plain layers."""
    assert_close(results([block], images, seed), results(plain, images, seed), tolerance)


@ORDERS
@pytest.mark.parametrize('shape', [(4, 8, 8, 3), (5, 7, 9, 3), (6, 1, 1, 3), (3, 14, 15, 1)],
                         ids=str)
@pytest.mark.parametrize('weights, images, tolerance', [
    ('f8', 'f8', 1e-12), ('f8', 'f4', 1e-12), ('f4', 'f4', 5e-5)])
def test_equals_the_plain_layers_in_training_and_evaluation(order, shape, weights, images,
                                                            tolerance):
    plain, block = pair(order, shape[3], weights)
    for seed in range(2):
        set_training(plain + block.layers, True)
        rows = (normal(*shape, seed=seed) + 1).astype(images)
        check(plain, block, rows, tolerance, seed)
        set_training(plain + block.layers, False)
        check_evaluation(plain, block, rows, tolerance)


def check_evaluation(plain, block, images, tolerance=1e-12):
    """The output is that of the plain layers, and backward is refused."""
    output = images
    for each in plain:
        output = each.forward(output)
    assert_close({'output': block.forward(images)}, {'output': output}, tolerance)
    with pytest.raises(RuntimeError, match='forward in training'):
        block.backward(output)


@ORDERS
def test_arguments_and_output_are_not_changed(order):
    _, block = pair(order)
    images = normal(4, 6, 6, 3)
    output = block.forward(images)
    grad = normal(*output.shape)
    arrays = [images, output, grad, block.conv.weight, block.norm.weight, block.norm.bias]
    before = copy.deepcopy(arrays)
    block.backward(grad)
    for array, old in zip(arrays, before):
        np.testing.assert_array_equal(array, old)


@ORDERS
def test_no_row_and_no_input_gradient_where_it_is_not_needed(order):
    plain, block = pair(order)
    block.needs_input_grad = plain[0].needs_input_grad = False
    check(plain, block, normal(4, 6, 6, 3))
    set_training(plain + block.layers, False)
    check_evaluation(plain, block, np.zeros((0, 6, 6, 3)))


@ORDERS
def test_what_cannot_be_computed_is_refused(order):
    _, block = pair(order)
    output = block.forward(normal(4, 6, 6, 3))
    block.backward(output)
    with pytest.raises(RuntimeError):      # what forward kept was changed in place
        block.backward(output)
    with pytest.raises(ValueError):
        block.forward(normal(4, 6, 6, 4))
    with pytest.raises(ValueError, match='two or more'):
        block.forward(normal(1, 1, 1, 3))


# Which layers are fused ---------------------------------------------------------------------------

def test_fuse_keeps_the_order_and_what_it_cannot_compute():
    first, none = make_run('pool'), make_run('no pool')
    others = [MaxPool2d(), Flatten(), Dropout(0.3), FullyConnected(3, 2), BatchNorm(2), ReLU()]
    fused = fuse(first + none + others)
    assert [each.layers for each in fused[:2]] == [first, none]
    assert fused[2:] == others


@pytest.mark.parametrize('place, other', [
    (0, Conv2d(3, 5, bias=False)), (0, fast_conv2d.Conv2d(3, 5)),
    (0, fast_conv2d.Conv2d(3, 5, 5, bias=False)), (2, MaxPool2d()), (2, None),
    (1, type('MyNorm', (BatchNorm,), {})(5))], ids=repr)
def test_other_runs_are_not_fused(place, other):
    layers = make_run('no pool')
    layers[place:place + 1] = [other] if other else []
    assert fuse(layers) == layers


# In a network -------------------------------------------------------------------------------------

def make_network(Network, Conv2d, augment=0, **settings):
    """A small convolutional network in float64 with negative BatchNorm weights."""
    net = character_network(np.random.default_rng(0), ((3,), (4, 5), (4,)), 8, 0.0, augment, Conv2d,
                            lambda layers, loss: Network(layers, loss, **settings))
    for each in net.layers:
        if isinstance(each, BatchNorm):
            each.weight[0, ::2] *= -1
    return convert(net, np.float64)


@pytest.mark.parametrize('augment', [0, 1])
def test_steps_of_a_network_of_one_part_are_those_of_the_plain_network(augment):
    plain = make_network(Network, Conv2d, augment)
    fast = make_network(ParallelNetwork, fast_conv2d.Conv2d, augment, parts=1)
    input = abs(normal(6, *plain.input_shape))
    for step in range(3):
        losses = []
        for net in (plain, fast):
            net.reseed([step])
            losses.append(make_step(net, input, np.arange(6) % 4, 0.05, momentum=0.9,
                                    nesterov=True, weight_decay=1e-3))
        assert abs(losses[0] - losses[1]) < 1e-9, f'step {step}: losses {losses}'
    assert_close(fast.arrays(), plain.arrays(), 1e-8)
    for method in ('predict', 'predict_augmented'):
        found = [getattr(net, method)(input) for net in (fast, plain)]
        np.testing.assert_allclose(*found, rtol=1e-7)


def test_two_parts_with_blocks_are_two_plain_networks_side_by_side():
    fast = make_network(ParallelNetwork, fast_conv2d.Conv2d)
    plain = make_network(ParallelNetwork, Conv2d)
    for net in (plain, fast):
        net.forward(abs(normal(8, 784)), np.arange(8))
        net.backward()
    assert [type(each) for each in fast.replica.layers].count(Block) == 4
    assert not any(isinstance(each, Block) for each in fast.layers)
    expected = gradients(plain)
    for name, grad in gradients(fast).items():
        np.testing.assert_allclose(grad, expected[name], rtol=0, atol=1e-10, err_msg=name)
    assert_close(fast.arrays(), plain.arrays(), 1e-12)
