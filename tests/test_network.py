"""Network: gradients as a whole, SGD, shards, prediction, training that stops and goes on, and all files it touches."""
import copy
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest

import network
from gradient_check import check_network, compare
from layer import (Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, MaxPool2d, PixelScaling, ReLU, Reshape,
                   Sigmoid, SoftmaxWithLoss, SquaredError, _Layer)
from network import Network

CLASSES, FEATURES = 4, 6
both_shards = pytest.mark.parametrize('shards', [1, 2])


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def mlp(shards=1, seed=0, loss=None):
    rng = np.random.default_rng(seed)
    return Network([FullyConnected(FEATURES, 5, rng), ReLU(), FullyConnected(5, CLASSES, rng)], loss, shards)


def cnn(shards=1, seed=0):
    """A few features spread out to a 4 x 4 image, and convolutions on it."""
    rng = np.random.default_rng(seed)
    return Network([FullyConnected(FEATURES, 16, rng), Reshape(4, 4, 1), Conv2d(1, 3, 3, rng), ReLU(), MaxPool2d(),
                    Conv2d(3, 2, 1, rng), Flatten(), FullyConnected(8, CLASSES, rng)], shards=shards)


def everything(shards=1, seed=0):
    """What draws random numbers and what keeps statistics, too."""
    rng = np.random.default_rng(seed)
    return Network([FullyConnected(FEATURES, 16, rng), Augment(10, 0.1, 0.1, 0.5, 0.2, rng), Reshape(4, 4, 1),
                    Conv2d(1, 3, 3, rng), BatchNorm(3), ReLU(), MaxPool2d(), Flatten(), Dropout(0.3, rng),
                    FullyConnected(12, CLASSES, rng)], shards=shards)


every_net = pytest.mark.parametrize('make', [mlp, cnn, everything])


def data(rows, seed=1):
    """Rows (N, FEATURES) float32 and labels that a network can learn."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, rows)
    input = np.eye(CLASSES, FEATURES)[label] * 2 + rng.standard_normal((rows, FEATURES)) * 0.7
    return input.astype(np.float32), label


def astype(net, dtype):
    for layer in net.layers:
        layer.astype(dtype)
    return net


def snapshot(net):
    return {name: array.copy() for name, array in net.arrays().items()}


def same(first, second):
    return sorted(first) == sorted(second) and all(np.array_equal(first[name], second[name]) for name in first)


def gradients(net):
    return {name: getattr(net.layers[index], attribute + '_grad')
            for name, index, attribute in net._named('parameter_names')}


# Forward, backward, update --------------------------------------------------------------------------------------------

@both_shards
def test_the_default_layers_are_reachable_by_name_and_are_the_ones_used(shards):
    net = Network(shards=shards)
    pixels, label = np.random.randint(0, 256, (6, 784)), np.arange(6) * 9
    net.forward(pixels, label)
    net.backward()
    before = snapshot(net)
    net.update(0.1)
    for index, name in ((1, 'fc1'), (2, 'act1'), (3, 'fc2'), (4, 'act2'), (5, 'fc3')):
        assert getattr(net, name) is net.layers[index], name
    for index, layer in ((1, net.fc1), (3, net.fc2), (5, net.fc3)):
        old = before['%d.FullyConnected.weight' % index]
        assert layer.weight_grad.any() and np.allclose(layer.weight, old - 0.1 * layer.weight_grad, atol=1e-7)
    net.fc3.weight[...], net.fc3.bias[...] = 0, 0
    assert abs(net.forward(pixels, label)[1] - np.log(47)) < 1e-6
    assert isinstance(net.act1, ReLU) and isinstance(net.loss, SoftmaxWithLoss)


@every_net
@pytest.mark.parametrize('shards, rows', [(1, 5), (2, 8), (2, 7), (3, 10)])
def test_gradients_of_whole_networks(make, shards, rows):
    check_network(make(shards), *data(rows))


def test_gradients_with_label_smoothing_and_mixed_targets():
    check_network(mlp(2, loss=SoftmaxWithLoss(0.1)), normal(5, FEATURES), np.tile([0.1, 0.2, 0.3, 0.4], (5, 1)))


def test_gradients_where_a_layer_stood_first_in_another_network():
    first = mlp()
    check_network(Network([FullyConnected(3, FEATURES), ReLU()] + first.layers), normal(5, 3), np.arange(5) % CLASSES)


@pytest.mark.parametrize('make', [mlp, cnn])
@pytest.mark.parametrize('rows', [1, 2, 3, 9, 10])
def test_shards_do_not_change_the_numbers(make, rows):
    input, label = normal(rows, FEATURES), np.arange(rows) % CLASSES
    whole, cut = astype(make(1), np.float64), astype(make(3), np.float64)
    (predict, loss), (predict_cut, loss_cut) = whole.forward(input, label), cut.forward(input, label)
    whole.backward()
    cut.backward()
    assert abs(loss - loss_cut) < 1e-12
    compare('predict', predict_cut, predict, 1e-12)
    for name, grad in gradients(whole).items():
        compare(name, gradients(cut)[name], grad, 1e-11)


def test_shards_are_bit_identical_between_runs():
    """Without a seed for the epoch, too: no two threads may draw from one generator."""
    runs = []
    for _ in range(8):
        net = everything(2)
        for _ in range(3):
            net.forward(*data(41))
            net.backward()
            net.update(0.1)
        runs.append(snapshot(net))
    assert all(same(run, runs[0]) for run in runs[1:])


def test_each_shard_draws_random_numbers_of_its_own():
    net = Network([FullyConnected(3, 50), Dropout(0.5)], shards=2)
    net.layers[0].weight[...], net.layers[0].bias[...] = 0, 1
    for _ in range(2):
        predict, _ = net.forward(np.zeros((4, 3), np.float32), np.zeros(4, int))
        assert not np.array_equal(predict[:2], predict[2:])
        net._reseed([0])
    net = Network([FullyConnected(3, 5), Dropout(0.5), Dropout(0.5)], shards=2)
    net._reseed([0])
    draws = [layer.rng.random() for layers, _ in net._chains for layer in layers if hasattr(layer, 'rng')]
    assert len(set(draws)) == 4, draws


@pytest.mark.parametrize('shards, rows', [(1, 7), (2, 8), (2, 7), (3, 11), (1, 2), (1, 3)])
def test_running_statistics_with_shards(shards, rows):
    """Each part gives its own statistics; the running ones are their mean, weighted by the parts' rows."""
    # Fewer than two rows a shard would have no variance: they are not cut
    net = astype(Network([BatchNorm(784), FullyConnected(784, 2)], shards=4 if rows < 4 else shards), np.float64)
    mean, var = 0, 1
    for step in range(3):
        input = normal(rows, 784, seed=step)
        net.forward(input, np.zeros(rows, int))
        parts = np.array_split(input, shards)
        mean = 0.9 * mean + 0.1 * sum(len(part) * part.mean(axis=0) for part in parts) / rows
        var = 0.9 * var + 0.1 * sum(len(part) * part.var(axis=0, ddof=1) for part in parts) / rows
    np.testing.assert_allclose(net.layers[0].running_mean, [mean], atol=1e-12)
    np.testing.assert_allclose(net.layers[0].running_var, [var], atol=1e-12)


@pytest.mark.parametrize('momentum, nesterov, decay', [
    (0, False, 0), (0, False, 0.1), (0.9, False, 0), (0.9, True, 0), (0.9, False, 0.1), (0.5, True, 0.1)])
def test_update_against_its_recurrence(momentum, nesterov, decay):
    """Large parameters are updated piece by piece, so one of them is large."""
    net = astype(Network([FullyConnected(300, 260), BatchNorm(260), FullyConnected(260, 3)]), np.float64)
    expected, velocity = snapshot(net), {}
    for step in range(4):
        lr = 0.1 / (step + 1)
        for seed, (name, index, attribute) in enumerate(net._named('parameter_names')):
            w = expected[name]
            g = normal(*w.shape, seed=[step, seed])
            setattr(net.layers[index], attribute + '_grad', g)
            if 'FullyConnected.weight' in name:
                g = g + decay * w
            v = velocity[name] = momentum * velocity.get(name, 0) + g
            expected[name] = w - lr * (g + momentum * v if nesterov else v)
        net.update(lr, momentum=momentum, nesterov=nesterov, weight_decay=decay)
        for name, array in net.arrays().items():
            compare('step %d, %s' % (step, name), array, expected[name], 1e-12)


def test_update_reaches_a_weight_that_is_a_transposed_view():
    net = mlp()
    net.layers[0].weight = before = normal(5, FEATURES).T
    net.forward(*data(8))
    net.backward()
    expected = before - 0.5 * net.layers[0].weight_grad
    net.update(0.5)
    np.testing.assert_allclose(net.layers[0].weight, expected, rtol=1e-6)


@both_shards
def test_backward_before_forward_and_update_before_backward_are_refused(shards):
    net = mlp(shards)
    with pytest.raises(RuntimeError, match='backward was called before forward'):
        net.backward()
    with pytest.raises(RuntimeError, match='update was called before backward: 0.FullyConnected.weight'):
        net.update(0.1)


@both_shards
def test_backward_is_refused_after_a_refused_forward(shards):
    net = mlp(shards)
    net.forward(*data(8))
    with pytest.raises(ValueError, match='label 9'):
        net.forward(data(8, 2)[0], np.full(8, 9))
    with pytest.raises(RuntimeError, match='backward was called before forward'):
        net.backward()


def test_a_second_network_of_the_same_layers_leaves_the_first_as_it_was():
    net, grads = mlp(), []
    for _ in range(2):
        net.forward(*data(8))
        net.backward()
        grads.append(net.layers[0].weight_grad)
        other = Network(net.layers[1:], input_shape=5)      # starts where nothing before it is trained
        other.forward(normal(8, 5), data(8)[1])
        other.backward()
        net.layers[0].weight_grad = None
    np.testing.assert_array_equal(*grads)


@pytest.mark.skipif(os.name != 'posix', reason='another process cannot send this one Ctrl-C')
def test_after_ctrl_c_no_thread_goes_on_to_change_the_layers():
    class Slow(ReLU):
        def forward(self, input):
            if threading.current_thread() is not threading.main_thread():
                started.append(threading.current_thread())
                time.sleep(0.3)      # until the main thread waits for both
                if started[0] is threading.current_thread():
                    os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)
                ended.append(1)
            return super(Slow, self).forward(input)

    started, ended = [], []
    net = Network([FullyConnected(FEATURES, CLASSES), Slow()], shards=2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            net.forward(*data(8))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(ended) == len(started) == 2, '%d of %d threads still run' % (len(started) - len(ended), len(started))


@both_shards
def test_a_network_can_be_copied(shards):
    net = everything(shards)
    train(net, 1)
    twin = copy.deepcopy(net)
    np.testing.assert_array_equal(twin.predict(data(9)[0]), net.predict(data(9)[0]))
    before = snapshot(net)
    train(twin, 1)
    assert same(snapshot(net), before) and not same(snapshot(twin), before)


def test_a_setting_changed_later_holds_for_every_shard():
    net = Network([FullyConnected(FEATURES, CLASSES), Dropout(0.5)], SquaredError(), shards=2)
    net.layers[1].p = 0.0
    predict, _ = net.forward(*data(8))
    assert (predict != 0).all(), 'a shard still drops: %s' % predict


@both_shards
def test_backward_gives_up_what_forward_kept(shards):
    net = everything(shards)
    net.forward(*data(8))
    net.backward()
    kept = [repr(layer) for layers, _ in net._chains for layer in layers if layer.needs_input_grad and layer._memory]
    assert not kept, 'after backward these still keep what forward left: %s' % kept
    with pytest.raises(RuntimeError, match='backward was called before forward'):
        net.backward()
    net.forward(*data(8))
    net.backward()


@pytest.mark.parametrize('layers, message', [
    ([FullyConnected(6, 5), FullyConnected(4, 3)], r'layer 1: FullyConnected\(4, 3\) expects 4.*\(N, 5\)'),
    ([PixelScaling(), Reshape(28, 28, 1), Conv2d(3, 4)], r'layer 2: Conv2d\(3, 4.*\(N, 28, 28, 1\)'),
    ([FullyConnected(6, 5), ReLU(), BatchNorm(4)], r'layer 2: BatchNorm\(4\).*\(N, 5\)')], ids=repr)
def test_layers_that_do_not_fit_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        Network(layers)


@both_shards
def test_inputs_that_do_not_fit_are_refused(shards):
    net = mlp(shards)
    with pytest.raises(ValueError, match='8 rows of input and 7 targets'):
        net.forward(data(8)[0], data(7)[1])
    with pytest.raises(ValueError, match=r'FullyConnected\(6, 5\) expects 6 features.*\(N, 5\)'):
        net.forward(normal(8, 5), data(8)[1])


def test_the_first_layers_input_shape_is_assumed_or_given():
    net = Network([PixelScaling(), FullyConnected(64, 3)], input_shape=(64,))
    assert net.predict(np.zeros((2, 64))).shape == (2, 3)
    assert Network([Conv2d(3, 2), Flatten(), FullyConnected(32, 3)], input_shape=(4, 4, 3)).input_shape == (4, 4, 3)
    for shape in (64, [64], np.array([64])):
        assert Network([FullyConnected(64, 3)], input_shape=shape).input_shape == (64,)
    with pytest.raises(ValueError, match=r'layer 1: FullyConnected\(64, 3\) expects 64 features.*\(N, 784\)'):
        Network([PixelScaling(), FullyConnected(64, 3)])
    with pytest.raises(ValueError, match='at least one layer'):
        Network([])


def test_repr_shows_layers_shapes_and_parameters():
    lines = repr(Network()).splitlines()
    for line, words in zip(lines, ['0 PixelScaling(mean=0, std=1) 784', '1 FullyConnected(784, 512) 512 401920',
                                   '2 ReLU() 512', '3 FullyConnected(512, 256) 256 131328', '4 ReLU() 256',
                                   '5 FullyConnected(256, 47) 47 12079', 'SoftmaxWithLoss() 545327 parameters']):
        assert line.split() == words.split()
    assert '4x4x3' in repr(cnn()) and '2x2x2' in repr(cnn())


# Prediction -----------------------------------------------------------------------------------------------------------

@every_net
@both_shards
@pytest.mark.parametrize('rows', [0, 1, 4, 13])
def test_predict_any_number_of_rows(make, shards, rows):
    net = astype(make(shards), np.float64)      # in float32 a product's rounding differs with its rows and the processor
    net.forward(data(20)[0].astype(np.float64), data(20)[1])      # running statistics other than the first
    input, before = data(rows)[0].astype(np.float64), snapshot(net)
    predict = net.predict(input, batch_size=5)
    assert predict.shape == (rows, CLASSES) and same(before, snapshot(net))
    np.testing.assert_allclose(net.predict(input, batch_size=500), predict, atol=1e-9)
    net.eval()
    for row in range(rows):
        expected, _ = net.forward(input[row:row + 1], np.zeros(1, int))
        np.testing.assert_allclose(predict[row:row + 1], expected, atol=1e-9, err_msg='row %d' % row)


@both_shards
def test_predicting_from_views_does_not_touch_the_generators_of_the_training(shards):
    nets = everything(shards), everything(shards)
    nets[1].predict(data(8)[0], views=3)
    losses = [net.forward(*data(8))[1] for net in nets]
    assert losses[0] == losses[1], 'the loss of the next batch is %r, after predict %r' % tuple(losses)


@pytest.mark.parametrize('loss', [SoftmaxWithLoss(), SquaredError()], ids=repr)
def test_what_predict_returned_may_be_changed_before_backward(loss):
    net, grads = Network([FullyConnected(FEATURES, CLASSES, np.random.default_rng(0)), Sigmoid()], loss), []
    for change in (False, True):
        predict, _ = net.forward(*data(8))
        if change:
            predict[:] = 0
        net.backward()
        grads.append(net.layers[0].weight_grad)
    np.testing.assert_array_equal(*grads)


@both_shards
def test_predict_leaves_every_mode_as_it_was_and_backward_is_refused_after_it(shards):
    net = everything(shards)
    modes = [index % 3 == 0 for index in range(len(net.layers))]
    for layer, mode in zip(net.layers, modes):
        layer.training = mode
    net.forward(*data(8))
    net.predict(data(8)[0])
    with pytest.raises(RuntimeError, match='backward was called before forward'):
        net.backward()
    with pytest.raises(ValueError, match='FullyConnected'):
        net.predict(normal(8, FEATURES + 1))
    net.evaluate(*data(8))
    assert [layer.training for layer in net.layers] == modes
    net.eval()
    assert not any(layer.training for layer in net.layers)
    net.train()
    assert all(layer.training for layer in net.layers)


@both_shards
@every_net
def test_evaluate_against_a_count_by_hand(make, shards):
    net = make(shards)
    input, label = data(23)
    input, label = input[label != 2], label[label != 2]      # a class without rows does not count
    assert len(label) % 6, 'the last batch is to be a partial one'
    predict = net.predict(input)
    hits = [int(predict[row].argmax() == label[row]) for row in range(len(label))]
    recalls = [np.mean([hit for hit, one in zip(hits, label) if one == k]) for k in (0, 1, 3)]
    score = net.evaluate(input, label, batch_size=6)
    loss = -np.mean([np.log(predict[row, label[row]]) for row in range(len(label))])
    np.testing.assert_allclose(score, [loss, 100 * np.mean(hits), 100 * np.mean(recalls)], rtol=1e-6)
    assert score._fields == ('loss', 'accuracy', 'balanced_accuracy')


@both_shards
def test_views_are_the_mean_over_augmented_images_and_nothing_else_is_random(shards):
    net, (input, _) = everything(shards), data(9)
    net.layers[-1].weight *= 5
    before, plain = snapshot(net), net.predict(input)
    second = 2 * net.predict(input, views=2) - plain      # the second view by itself
    assert np.allclose(second.sum(axis=1), 1, atol=1e-5) and not np.allclose(second, plain, atol=1e-3)
    assert np.array_equal(net.predict(input, views=3), net.predict(input, views=3))
    assert net.predict(input[:0], views=2).shape == (0, CLASSES)
    assert same(before, snapshot(net)) and all(layer.training for layer in net.layers)
    still = mlp(shards)
    np.testing.assert_allclose(still.predict(input, views=3), still.predict(input), rtol=1e-6)


# Training -------------------------------------------------------------------------------------------------------------

class Spy(_Layer):
    """Passes everything on, and keeps the first number of each row of each batch."""

    in_features = FEATURES

    def __init__(self):
        self.batches = []

    def forward(self, input):
        self.batches.append(input[:, 0].astype(int).tolist())
        return self._remember(input)


def test_an_epoch_sees_every_row_once_in_a_random_order():
    input, label = data(13)
    input[:, 0] = np.arange(13)
    orders, rates = [], []
    for seed in (3, 3, 4):
        spy = Spy()
        net = Network([spy] + mlp().layers)
        net.eval()
        net.train_epoch(input, label, 5, lambda done: rates.append(done) or 0.01, np.random.default_rng(seed))
        assert [len(batch) for batch in spy.batches] == [5, 5, 3] and net.layers[0].training
        orders.append(sum(spy.batches, []))
        assert sorted(orders[-1]) == list(range(13))
    assert orders[0] == orders[1] != orders[2] and orders[0] != list(range(13)), orders
    np.testing.assert_allclose(rates, [0, 5 / 13.0, 10 / 13.0] * 3)


def test_a_last_single_row_goes_with_the_batch_before_it():
    net, steps = Network([FullyConnected(FEATURES, 5), BatchNorm(5), FullyConnected(5, CLASSES)]), []
    settings = {'batch_size': 4, 'lr': 0.1, 'rng': np.random.default_rng(0), 'after_step': lambda: steps.append(1)}
    net.train_epoch(*data(9), **settings)
    assert len(steps) == 2, '9 rows in batches of 4 took %d steps, expected 2, of 4 and 5 rows' % len(steps)
    with pytest.raises(ValueError, match='BatchNorm.*got 1 row'):
        net.train_epoch(*data(1), **settings)
    with pytest.raises(ValueError, match='there are no rows'):
        net.train_epoch(*data(0), **settings)
    with pytest.raises(ValueError, match='there are no rows'):
        net.evaluate(*data(0))
    with pytest.raises(ValueError, match='batch_size is 0, expected 1 or more'):
        net.evaluate(*data(9), batch_size=0)


@pytest.mark.parametrize('label', [data(49)[1], data(51)[1], data(50)[1].astype(float), np.eye(CLASSES)[data(50)[1]]],
                         ids=['fewer', 'more', 'floats', 'one-hot'])
def test_labels_that_do_not_belong_to_the_rows_are_refused_before_training(label):
    net, rows = mlp(), data(50)[0]
    before = snapshot(net)
    for call in (lambda: net.evaluate(rows, label), lambda: train(net, train=(rows, label)),
                 lambda: train(net, validation=(rows, label))):
        with pytest.raises(ValueError, match=r'got 50 rows and labels of shape .*, expected integer labels .*\(50,'):
            call()
    assert same(snapshot(net), before)


def test_rows_of_a_table_belong_to_labels_by_place_not_by_index():
    input, label = data(50)
    order = np.random.default_rng(0).permutation(50)
    table = pd.DataFrame(input).assign(label=label).iloc[order]
    expected = mlp().evaluate(input[order], label[order])
    assert mlp().evaluate(table.drop(columns='label'), table.label) == expected


def test_each_epoch_of_fit_has_its_own_order():
    spy, (input, label) = Spy(), data(13)
    input[:, 0] = np.arange(13)
    Network([spy] + mlp().layers).fit((input, label), None, 2, 13, 0.01)
    assert spy.batches[0] != spy.batches[1]


def test_an_epoch_steps_with_the_rate_and_the_settings_given():
    input, label = data(13)
    net, expected, rng = mlp(), mlp(), np.random.default_rng(3)
    sgd = {'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.01}
    net.train_epoch(input, label, 5, lambda done: 0.1 * (1 - done), np.random.default_rng(3), **sgd)
    order = rng.permutation(13)
    for start in (0, 5, 10):
        rows = order[start:start + 5]
        expected.forward(input[rows], label[rows])
        expected.backward()
        expected.update(0.1 * (1 - start / 13.0), **sgd)
    assert same(snapshot(net), snapshot(expected)) and not same(snapshot(net), snapshot(mlp()))


def test_overfits_twenty_rows():
    net, rng = Network(), np.random.default_rng(0)
    pixels, label = rng.integers(0, 256, (20, 784)).astype(np.uint8), rng.integers(0, 47, 20)
    for _ in range(30):
        net.forward(pixels, label)
        net.backward()
        net.update(0.02, momentum=0.9)
    assert net.evaluate(pixels, label).accuracy == 100


SGD = {'batch_size': 16, 'lr': 0.05, 'momentum': 0.9, 'weight_decay': 1e-3}


def train(net, epochs=4, **changes):
    """fit on small data; -> (weights after each epoch, the exception that ended it or None)."""
    weights, stop_after = [], changes.pop('stop_after', None)

    def on_epoch(record):
        weights.append(snapshot(net))
        if record['epoch'] == stop_after:
            raise KeyboardInterrupt()

    try:
        net.fit(**dict(dict(SGD, train=data(50), validation=data(30, 2), epochs=epochs, on_epoch=on_epoch), **changes))
    except (FloatingPointError, KeyboardInterrupt) as error:
        return weights, error
    return weights, None


def falling_off(done):
    """A schedule that learns in the first half of a training, and unlearns in the second."""
    return 1 if done < 0.5 else -3


def best_of(weights, net):
    """The weights of the first epoch that has the best balanced accuracy."""
    return weights[int(np.argmax([record['validation']['balanced_accuracy'] for record in net.history]))]


@both_shards
@pytest.mark.parametrize('stop_after', [None, 4])
def test_fit_keeps_the_best_epoch_also_when_interrupted(shards, stop_after):
    net = everything(shards)
    weights, error = train(net, 5, schedule=falling_off, stop_after=stop_after)
    assert len(weights) == (stop_after or 5) and isinstance(error, KeyboardInterrupt if stop_after else type(None))
    assert same(snapshot(net), best_of(weights, net)) and not same(snapshot(net), weights[-1])
    score = net.evaluate(*data(30, 2))
    assert score.balanced_accuracy == max(record['validation']['balanced_accuracy'] for record in net.history)
    assert score.balanced_accuracy > net.history[-1]['validation']['balanced_accuracy'] + 10
    assert [record['epoch'] for record in net.history] == list(range(1, len(weights) + 1))


def test_fit_without_validation_keeps_the_last_epoch_and_of_equals_the_first():
    net = mlp()
    weights, _ = train(net, 3, validation=None, schedule=falling_off)
    assert same(snapshot(net), weights[-1])
    net.evaluate = lambda *validation: network.Score(1.0, 50.0, 50.0)
    weights, _ = train(net, 3)
    assert same(snapshot(net), weights[0]) and not same(weights[0], weights[1])


@both_shards
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_divergence_names_epoch_and_batch_and_keeps_the_best_weights(shards):
    net = mlp(shards)
    weights, error = train(net, 3, schedule=lambda done: 1 if done < 0.5 else 1e30)
    assert isinstance(error, FloatingPointError), error
    assert re.match(r'epoch 2: the loss is (nan|inf) in batch 4: lower the learning rate', str(error)), error
    assert len(weights) == 1 and same(snapshot(net), weights[0])


@both_shards
@pytest.mark.parametrize('value, loss', [(np.nan, None), (np.inf, None), (1e25, SquaredError())], ids=repr)
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_inputs_that_give_no_finite_loss_are_noticed(shards, value, loss):
    input, label = data(50)
    input[7] = value
    _, error = train(mlp(shards, loss=loss), train=(input, label))
    assert isinstance(error, FloatingPointError), error
    assert re.match(r'epoch 1: the loss is (nan|inf) in batch [1-4]:', str(error)), error
    _, error = train(mlp(shards, loss=loss), validation=(input, label), lr=1e-9)
    assert isinstance(error, FloatingPointError) and 'the loss is' in str(error), error


def test_ema_validates_and_keeps_the_average_of_all_steps():
    net, decay, expected, steps = mlp(), 0.9, snapshot(mlp()), []
    update = net.update

    def update_and_average(*args, **kwargs):
        update(*args, **kwargs)
        steps.append(None)
        share = 1 - min(decay, len(steps) / (len(steps) + 10.0))
        for name, array in net.arrays().items():
            expected[name] = expected[name] + share * (array - expected[name])

    net.update = update_and_average
    weights, _ = train(net, epochs=3, ema_decay=decay, validation=None)
    assert len(steps) == 3 * 4
    for name, array in net.arrays().items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-7, err_msg=name)
        assert not np.array_equal(array, weights[-1][name]), '%s: kept the last weights, expected their average' % name


@both_shards
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_a_first_epoch_that_diverges_leaves_the_weights_before_it(shards):
    net = mlp(shards)
    before = snapshot(net)
    _, error = train(net, 3, schedule=lambda done: 1e30)
    assert isinstance(error, FloatingPointError) and same(snapshot(net), before), error


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_predictions_that_are_not_finite_are_refused(value):
    rows = data(700)[0].astype(np.float32)
    rows[601, 3] = value
    with pytest.raises(ValueError, match='predict: row 601 gives nan: look for inf and nan in the input'):
        mlp().predict(rows)


def test_weights_that_are_not_finite_after_the_last_batch_are_refused():
    net = mlp()
    update = net.update

    def update_and_spoil(*args, **kwargs):
        update(*args, **kwargs)
        net.layers[-1].weight[0, 0] = np.inf

    net.update = update_and_spoil
    _, error = train(net, validation=None, batch_size=50)
    assert 'epoch 1: a weight is not finite after the last batch' in str(error)


def test_a_validation_loss_that_is_not_finite_names_the_epoch():
    rows, label = data(30, 2)
    rows = rows.astype(np.float32)
    rows[3, 0] = np.nan
    _, error = train(mlp(), validation=(rows, label))
    assert 'epoch 1: the loss is nan' in str(error)


@both_shards
def test_another_loss_may_be_set_later(shards):
    net = mlp(shards=shards)
    rows, label = data(20)
    net.forward(rows, label)
    net.loss = SoftmaxWithLoss(label_smoothing=0.5)
    smoothed = net.forward(rows, label)[1]
    single = mlp()
    single.loss = SoftmaxWithLoss(label_smoothing=0.5)
    np.testing.assert_allclose(smoothed, single.forward(rows, label)[1], rtol=1e-6)


def test_the_same_layer_twice_is_refused():
    layer = ReLU()
    with pytest.raises(ValueError, match='a layer stands in the network twice'):
        Network([layer, FullyConnected(784, 3), layer])


def without_seconds(history):
    return [{key: value for key, value in record.items() if key != 'seconds'} for record in history]


@both_shards
@pytest.mark.parametrize('ema_decay', [0.0, 0.9])
@pytest.mark.parametrize('stop_after', [1, 3])
def test_interrupted_and_resumed_is_bit_identical_to_undisturbed(tmp_path, shards, stop_after, ema_decay):
    train_averaged = functools.partial(train, ema_decay=ema_decay)
    path = str(tmp_path / 'checkpoint.npz')
    undisturbed, resumed = everything(shards), everything(shards, seed=9)
    expected, _ = train_averaged(undisturbed)
    assert isinstance(train_averaged(everything(shards), checkpoint=path, stop_after=stop_after)[1], KeyboardInterrupt)
    weights, _ = train_averaged(resumed, checkpoint=path)
    assert len(weights) == 4 - stop_after and all(map(same, weights, expected[stop_after:]))
    assert same(snapshot(resumed), snapshot(undisturbed))
    assert without_seconds(resumed.history) == without_seconds(undisturbed.history)
    again = everything(shards, seed=8)
    assert train_averaged(again, checkpoint=path) == ([], None) and same(snapshot(again), snapshot(undisturbed))
    assert sorted(os.listdir(str(tmp_path))) == ['checkpoint.npz']


@pytest.mark.parametrize('changes', [{'lr': 0.06}, {'seed': 1}, {'epochs': 5}, {'batch_size': 15}, {'momentum': 0.8},
                                     {'weight_decay': 0}, {'nesterov': True}, {'ema_decay': 0.9},
                                     {'schedule': falling_off},
                                     {'schedule': lambda done: 1.5 - done}, {'schedule': None},
                                     {'train': data(49)}, {'train': data(50, 3)}, {'validation': data(30, 3)},
                                     {'validation': None}, {'net': cnn},
                                     {'net': functools.partial(mlp, 2)}], ids=repr)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, changes):
    path = str(tmp_path / 'checkpoint.npz')
    settings = {'epochs': 4, 'schedule': lambda done: 1 - done}
    train(mlp(), checkpoint=path, stop_after=2, **settings)
    changes = dict(changes)
    net, name = changes.pop('net', mlp)(seed=5), ''.join(changes)
    net.history = ['of before']
    before = snapshot(net)
    with pytest.raises(ValueError, match='checkpoint.npz is the checkpoint of another training, which differs in .*%s'
                       % {'train': 'data', 'validation': 'data'}.get(name, name)) as caught:
        train(net, checkpoint=path, **dict(settings, **changes))
    assert same(snapshot(net), before) and net.history == ['of before'] and '\n' not in str(caught.value)


@both_shards
def test_the_same_seed_gives_the_same_bytes(tmp_path, shards):
    files = []
    for seed in (0, 0, 1):
        net = everything(shards)
        train(net, 2, seed=seed)
        files.append(str(tmp_path / ('%d.npz' % len(files))))
        net.save(files[-1])
    contents = [open_bytes(file) for file in files]
    assert contents[0] == contents[1] != contents[2]


def test_small_helpers():
    np.testing.assert_allclose([network.one_cycle(done) for done in (0, 0.1, 0.2, 0.6, 1)], [0.04, 0.52, 1, 0.5, 0])
    rows = network.split_rows(20, 6, 3)
    assert [len(part) for part in rows] == [14, 6] and sorted(np.concatenate(rows)) == list(range(20))
    assert np.array_equal(rows[1], network.split_rows(20, 6, 3)[1])
    assert not np.array_equal(rows[1], network.split_rows(20, 6, 4)[1])
    # Class 1 was three times as frequent in training as class 0: its probability counts a third
    np.testing.assert_allclose(network.balance(np.array([[0.4, 0.6], [0.2, 0.8]]), np.array([0, 1, 1, 1])),
                               [[2 / 3.0, 1 / 3.0], [3 / 7.0, 4 / 7.0]])
    for count in (0, 20, 21):
        with pytest.raises(ValueError, match='%d of 20 rows' % count):
            network.split_rows(20, count, 3)
    score = {'loss': 1.48833, 'accuracy': 49.72, 'balanced_accuracy': 50}
    line = network.epoch_line({'epoch': 3, 'train': score, 'validation': score, 'seconds': 1})
    assert line.split('|')[:5] == ['Epoch:  3 ', 'Train Loss:  1.4883 ', 'Train Acc: 49.7200 ', 'Val Loss:  1.4883 ',
                                   'Val Acc: 49.7200 '], line


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch):
    calls = []
    library = type('Library', (), {'mallopt': staticmethod(lambda *arguments: calls.append(arguments))})
    monkeypatch.setattr(network.ctypes, 'CDLL', lambda name: library)
    network.keep_freed_memory()
    assert calls == ([(-1, 2 ** 31 - 1), (-3, 2 ** 25)] if os.name == 'posix' else [])      # M_TRIM_, M_MMAP_THRESHOLD
    monkeypatch.setattr(network.ctypes, 'CDLL', lambda name: object())      # a C library without mallopt
    network.keep_freed_memory()


def test_blas_threads_are_set_and_restored():
    threads = network._openblas('get_num_threads')
    if threads is None:
        pytest.skip("NumPy's own OpenBLAS was not found: its number of threads cannot be set here")
    before = threads()
    with network.blas_threads(before + 1):
        assert threads() == before + 1
        with pytest.raises(KeyError), network.blas_threads(before):
            assert threads() == before
            raise KeyError()
        assert threads() == before + 1
    assert threads() == before


# Files ----------------------------------------------------------------------------------------------------------------

def open_bytes(path):
    with open(path, 'rb') as file:
        return file.read()


@pytest.mark.parametrize('dtype', [None, np.float16, np.float64])
def test_save_and_load(tmp_path, dtype):
    path, again = str(tmp_path / 'net.npz'), str(tmp_path / 'again.npz')
    net, loaded = everything(), everything(seed=1)
    net.forward(*data(20))
    net.save(path, dtype)
    net.save(again, dtype)
    loaded.load(path)
    assert open_bytes(path) == open_bytes(again)
    for name, array in net.arrays().items():
        assert loaded.arrays()[name].dtype == np.float32
        assert np.array_equal(loaded.arrays()[name], array.astype(dtype or np.float32).astype(np.float32)), name
    if dtype is not np.float16:
        assert np.array_equal(net.predict(data(9)[0]), loaded.predict(data(9)[0]))


class Executed(object):
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


def damaged(path, change):
    """The file at `path`, which is a good one, made bad."""
    content = open_bytes(path)
    if isinstance(change, dict):
        with np.load(path) as file:
            arrays = dict(file.items())
        arrays.update(change)
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    else:
        with open(path, 'wb') as file:
            file.write(change(content))


def flipped(content):
    place = content.index(b'\x93NUMPY') + 200      # a byte of the first array's numbers
    return content[:place] + bytes([content[place] ^ 64]) + content[place + 1:]


W = '0.FullyConnected.weight'
DAMAGES = [('truncated to a third', lambda content: content[:len(content) // 3]),
           ('last byte missing', lambda content: content[:-1]), ('empty', lambda content: b''),
           ('garbage', lambda content: b'\x00garbage' * 99), ('text', lambda content: b'<html>'),
           ('one bit flipped', flipped), ('array missing', {W: None}), ('array too many', {'more': np.zeros(3)}),
           ('wrong shape', {W: np.zeros((FEATURES, 4))}), ('transposed', {W: np.zeros((5, FEATURES))}),
           ('integers', {W: np.zeros((FEATURES, 5), int)}), ('text array', {W: np.full((FEATURES, 5), 'a')})]


@pytest.mark.parametrize('change', [row[1] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_a_file_that_is_not_of_this_network_is_refused_and_changes_nothing(tmp_path, change):
    path, net = str(tmp_path / 'net.npz'), mlp(seed=1)
    mlp().save(path)
    damaged(path, change)
    before = snapshot(net)
    with pytest.raises(ValueError, match='net.npz') as caught:
        net.load(path)
    assert same(snapshot(net), before) and '\n' not in str(caught.value).strip(), caught.value


def test_another_network_a_plain_array_a_pickle_and_a_missing_file_are_refused(tmp_path):
    path, net, trap = str(tmp_path / 'net.npz'), mlp(), str(tmp_path / 'executed')
    before = snapshot(net)
    with open(path + '.npy', 'wb') as file:
        np.save(file, np.zeros(3))
    for write in (lambda: cnn().save(path), lambda: np.savez(path, **{W: np.array([Executed(trap)], object)}),
                  lambda: os.replace(path + '.npy', path)):
        write()
        with pytest.raises(ValueError, match='net.npz'):
            net.load(path)
    with pytest.raises(FileNotFoundError, match='nowhere.npz'):
        net.load(str(tmp_path / 'nowhere.npz'))
    assert not os.path.exists(trap) and same(snapshot(net), before)


def half_written(file, **arrays):
    file.write(b'half')
    raise OSError(28, 'No space left on device')


def refused(*arguments):
    raise PermissionError(13, 'Permission denied')


WRITERS = {'save': lambda path: mlp().save(path), 'submission': lambda path: network.write_submission(path, [1, 2]),
           'checkpoint': lambda path: mlp().fit(data(9), None, 1, 9, 0.1, checkpoint=path)}


@pytest.mark.parametrize('writer, module, function, fault', [
    (writer, module, function, fault) for writer in sorted(WRITERS) for module, function, fault in (
        (np, 'savez', half_written), (os, 'replace', refused), (os, 'fsync', refused))
    if (writer, function) != ('submission', 'savez')])
def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch, writer, module, function, fault):
    path = tmp_path / 'file'
    if writer != 'checkpoint':          # an old checkpoint would be resumed
        path.write_bytes(b'the old file')
    monkeypatch.setattr(module, function, fault)
    with pytest.raises(OSError, match='No space|denied'):
        WRITERS[writer](str(path))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([b'the old file'] if writer != 'checkpoint' else [])


@pytest.mark.parametrize('writer', sorted(WRITERS))
def test_a_write_into_a_missing_folder_says_so(tmp_path, writer):
    with pytest.raises(OSError, match='nowhere'):
        WRITERS[writer](str(tmp_path / 'nowhere' / 'file'))


GOOD = b'1,0,255,3\n2,7,8,9\n'
CSV_FAULTS = {
    'empty': b'', 'blank lines': b'\n\n', 'header': b'label,a,b,c\n' + GOOD, 'a column too few': b'1,2,3\n4,5,6\n',
    'a column too many': b'1,2,3,4,5\n6,7,8,9,10\n', 'html': b'<!DOCTYPE html>\n<html><body>Sign in, please</html>\n',
    'semicolons': b'1;2;3;4\n', 'zip': b'PK\x03\x04\x14\x00\xff\xfe\x00'}
CSV_FAULTS.update(('%s in row %d' % (name, 2 * rows + 1), GOOD * rows + row) for rows in (1, 5001) for name, row in {
    'too long': b'1,2,3,4,5\n', 'float': b'1,2,0.5,4\n', 'negative': b'1,-1,3,4\n', '256': b'1,2,256,4\n' + GOOD,
    '70000': b'1,2,70000,4\n', 'twenty digits': b'1,2,99999999999999999999,4\n', 'text': b'1,two,3,4\n',
    'hexadecimal': b'1,0x10,3,4\n', 'cut': b'1,2', 'nan': b'1,nan,3,4\n', 'a gap': b'1,,3,4\n'}.items())


@pytest.mark.parametrize('fault', sorted(CSV_FAULTS))
def test_read_csv_refuses_in_one_sentence(tmp_path, fault):
    path = tmp_path / 'train.csv'
    path.write_bytes(CSV_FAULTS[fault])
    with pytest.raises(ValueError, match='train.csv') as caught:
        print(network.read_csv(str(path), 4))
    assert '\n' not in str(caught.value).strip() and len(str(caught.value)) < 400, caught.value


def test_read_csv_of_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.csv'):
        network.read_csv(str(tmp_path / 'nowhere.csv'), 4)


@pytest.mark.parametrize('content', [
    GOOD, GOOD[:-1], b'\xef\xbb\xbf' + GOOD, GOOD.replace(b'\n', b'\r\n'), GOOD + b'\n', GOOD.replace(b'255', b'"255"')
], ids=['good', 'no last newline', 'byte order mark', 'CRLF', 'blank last line', 'quotes'])
def test_read_csv_reads_harmless_variants(tmp_path, content):
    path = tmp_path / 'train.csv'
    path.write_bytes(content)
    rows = network.read_csv(str(path), 4)
    assert rows.dtype == np.uint8 and rows.flags.c_contiguous and rows.tolist() == [[1, 0, 255, 3], [2, 7, 8, 9]]


@pytest.mark.parametrize('dtype', [int, np.uint8, float])
def test_write_submission_writes_exactly_these_bytes(tmp_path, dtype):
    network.write_submission(str(tmp_path / 'submission.csv'), np.array([3, 46, 0], dtype))
    assert open_bytes(str(tmp_path / 'submission.csv')) == b'Id,Category\n0,3\n1,46\n2,0\n'
    assert os.listdir(str(tmp_path)) == ['submission.csv']


def test_the_command_trains_writes_and_resumes(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name, shape in (('train.csv', (40, 785)), ('test.csv', (5, 784))):
        np.savetxt(str(tmp_path / name), rng.integers(0, 47, shape), '%d', delimiter=',')
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setattr('sys.argv', 'network.py --data . --validation 10 --epochs 1'.split())
    outputs, files = [], []
    for _ in range(2):      # the second time there is nothing left to train
        network.main()
        outputs.append([line for line in capsys.readouterr().out.splitlines() if line.startswith('Epoch:')])
        files.append([open_bytes(name) for name in ('DLAD-test-predict.csv', 'character_network.npz',
                                                     'character_network.csv')])
    assert [len(lines) for lines in outputs] == [1, 0] and files[0] == files[1]
    assert re.match(br'Id,Category\n(\d,\d+\n){5}$', files[0][0])
    assert files[0][2].startswith(b'epoch,seconds,train_accuracy,train_balanced,train_loss,validation_accuracy,')
    assert sorted(os.listdir('.')) == ['DLAD-test-predict.csv', 'character_network.csv', 'character_network.npz',
                                       'test.csv', 'train.csv', 'training.npz']


def test_the_command_says_in_one_line_what_is_missing_before_it_trains(tmp_path):
    for arguments, message in ((['--data', 'nowhere'], 'train.csv is missing: copy it there'),
                               (['--weights', 'no/w.npz'], 'no/w.npz cannot be written: make its folder first'),
                               (['--submission', 'no/s.csv'], 'no/s.csv cannot be written: make its folder first')):
        process = subprocess.run([sys.executable, network.__file__] + arguments, cwd=str(tmp_path),
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        complaint = process.stderr.decode()
        assert process.returncode == 1 and message in complaint and complaint.count('\n') == 1, complaint
