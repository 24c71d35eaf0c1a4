"""ParallelNetwork gives the numbers of the plain Network, with its batch cut into parts."""
import copy
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

import parallel
from layer import BatchNorm, Dropout, FullyConnected, PixelScaling, ReLU, Sigmoid, SquaredError
from parallel import ParallelNetwork
from small_networks import (CLASSES, FEATURES, check_equal, convert, gradients, make_cnn, make_mlp,
                            make_rows, make_step, normal)
from workshop import make_images, make_random

every_network = pytest.mark.parametrize('make', [make_mlp, make_cnn, make_random])


def cut(net, parts=2):
    """A ParallelNetwork of copies of the layers of `net`."""
    layers = copy.deepcopy(net.layers)
    return ParallelNetwork(layers, copy.deepcopy(net.loss), input_shape=net.input_shape,
                           parts=parts)


def with_dropout(count=1, **settings):
    """A ParallelNetwork that predicts 0 where it drops."""
    layers = [FullyConnected(FEATURES, CLASSES)] + [Dropout(0.5) for _ in range(count)]
    return ParallelNetwork(layers, SquaredError(), **settings)


def rows_of(net, count=41, seed=1):
    """Rows and labels that fit."""
    make = make_rows if net.input_shape == (FEATURES,) else make_images
    return make(count, seed)


def train(net, epochs=2, **settings):
    """Train on a few rows -> the arrays of the trained network."""
    settings = dict({'batch_size': 10, 'lr': 0.05, 'momentum': 0.9}, **settings)
    net.fit(rows_of(net), rows_of(net, 20, 2), epochs, verbose=False, **settings)
    return copy.deepcopy(net.arrays())


# The same numbers ---------------------------------------------------------------------------------

@pytest.mark.parametrize('loss', [None, SquaredError()], ids=repr)
@pytest.mark.parametrize('parts, rows', [(1, 8), (2, 1), (2, 2), (2, 3), (2, 9), (3, 10), (4, 10)])
def test_predictions_loss_and_gradients_are_those_of_the_plain_network(parts, rows, loss):
    plain = convert(make_mlp(loss=loss), np.float64)
    net = cut(plain, parts)
    input, label = normal(rows, FEATURES), np.arange(rows) % CLASSES
    for target in (label, np.eye(CLASSES)[label]):
        predict, expected_loss = plain.forward(input, target)
        got, loss = net.forward(input, target)
        np.testing.assert_allclose(got, predict, rtol=1e-12)
        assert abs(loss - expected_loss) < 1e-12, f'loss {loss}, expected {expected_loss}'
        plain.backward()
        net.backward()
        expected = gradients(plain)
        for name, grad in gradients(net).items():
            np.testing.assert_allclose(grad, expected[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize('parts, rows', [(1, 7), (2, 8), (2, 7), (3, 11)])
def test_running_statistics_are_the_mean_of_the_parts(parts, rows):
    net = ParallelNetwork([BatchNorm(FEATURES), FullyConnected(FEATURES, 2)],
                          input_shape=FEATURES, parts=parts)
    convert(net, np.float64)
    mean, var = 0, 1
    for step in range(3):
        input = normal(rows, FEATURES, seed=step)
        net.forward(input, np.zeros(rows, int))
        pieces = np.array_split(input, parts)
        mean = 0.9 * mean + 0.1 * sum(len(part) * part.mean(axis=0) for part in pieces) / rows
        var = 0.9 * var + 0.1 * sum(len(part) * part.var(axis=0, ddof=1) for part in pieces) / rows
    np.testing.assert_allclose(net.layers[0].running_mean, [mean], atol=1e-12)
    np.testing.assert_allclose(net.layers[0].running_var, [var], atol=1e-12)


def test_a_part_has_two_rows_or_more_and_a_network_one_part_or_more():
    net = cut(make_mlp(), parts=3)
    counts = [net.part_count(np.zeros((rows, FEATURES))) for rows in range(9)]
    assert counts == [1, 1, 1, 1, 2, 2, 3, 3, 3]
    for rows in (2, 3):
        assert np.isfinite(make_step(cut(make_random(), parts=4), *make_images(rows)))
    for parts in (0, 1.5, '2'):
        with pytest.raises(ValueError, match='parts'):
            ParallelNetwork(parts=parts)


@every_network
def test_predict_and_evaluate_are_those_of_the_plain_network(make):
    plain = convert(make(), np.float64)
    net = cut(plain, 3)
    for count in (0, 1, 2, 300):
        input = normal(count, *plain.input_shape)
        np.testing.assert_allclose(net.predict(input), plain.predict(input), rtol=1e-10)
    rows = rows_of(plain)
    np.testing.assert_allclose(net.evaluate(*rows), plain.evaluate(*rows), rtol=1e-10)


@every_network
@pytest.mark.parametrize('cores', [1, 3])
def test_the_same_seed_gives_the_same_bits_on_any_number_of_cores(make, monkeypatch, cores):
    expected = train(cut(make(), 3), seed=5, ema_decay=0.9)
    monkeypatch.setattr(os, 'cpu_count', lambda: cores)
    check_equal(train(cut(make(), 3), seed=5, ema_decay=0.9), expected)
    check_equal(train(cut(make(), 1)), train(make()), 'one part and the plain network')


# Random numbers -----------------------------------------------------------------------------------

@pytest.mark.parametrize('seeded', [True, False])
def test_each_layer_of_each_replica_draws_its_own_random_numbers(seeded):
    net = with_dropout(2, parts=3)
    if seeded:
        net.reseed([0])
    draws = [layer.rng.random() for replica in net.replicas for layer in replica.layers[1:]]
    assert len(set(draws)) == 6, draws


def test_predict_augmented_is_random_by_the_copy_alone_and_leaves_all_as_it_was():
    nets = [cut(make_random()), cut(make_random())]
    input = make_images(9)[0]
    first = nets[0].predict_augmented(input, copies=3)
    np.testing.assert_array_equal(nets[0].predict_augmented(input, copies=3), first)
    assert not np.array_equal(nets[0].predict(input), first)
    for net in nets:      # unseeded, but no two threads draw from one generator
        for _ in range(3):
            make_step(net, *make_images(41))
    check_equal(nets[0].arrays(), nets[1].arrays())


@pytest.mark.parametrize('method', ['evaluate', 'predict', 'predict_augmented'])
def test_an_evaluation_between_forward_and_backward_changes_no_gradient(method):
    nets = [cut(make_random()), cut(make_random())]
    for net in nets:
        net.forward(*make_images(10))
    rows = make_images(7, seed=3)
    getattr(nets[0], method)(*rows[:2 if method == 'evaluate' else 1])
    for net in nets:
        net.backward()
    check_equal(gradients(nets[0]), gradients(nets[1]))
    assert all(layer.training for layer in nets[0].layers)


# Settings, exchanged layers, copies ---------------------------------------------------------------

def test_settings_and_modes_hold_for_every_part():
    net = with_dropout()
    dropped = net.forward(*make_rows(8))[0] == 0
    assert dropped[:4].any() and dropped[4:].any()
    net.train(False)
    assert (net.forward(*make_rows(8))[0] != 0).all()
    net.train()
    net.layers[1].p = 0.0
    assert (net.forward(*make_rows(8))[0] != 0).all()
    net = cut(make_random(), 3)
    train(net)
    before = copy.deepcopy(net.arrays())
    net.train(False)
    net.forward(*make_images(41))
    check_equal(net.arrays(), before, 'running statistics in evaluation')


def test_exchanged_layers_losses_and_weights_are_used_by_every_part():
    plain = make_mlp()
    net = cut(make_mlp())
    for change in range(4):
        net.forward(*make_rows(8))
        for each in (plain, net):
            if change == 1:
                each.layers[1] = Sigmoid()
            elif change == 2:
                each.loss = SquaredError()
            elif change == 3:
                each.set_arrays(make_mlp(seed=3).arrays())
                each.layers[0].weight = each.layers[0].weight * 2      # another array
        losses = [make_step(each, *make_rows(8), momentum=0.9) for each in (plain, net)]
        assert abs(losses[0] - losses[1]) < 1e-5, f'change {change}: {losses}'
        np.testing.assert_allclose(*[each.predict(make_rows(8)[0]) for each in (plain, net)],
                                   rtol=1e-4, err_msg=f'change {change}')


# Refused ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('row', [None, 0, 7])
def test_backward_is_refused_before_forward_and_after_a_refused_one(row):
    net = cut(make_mlp())
    if row is not None:
        net.forward(*make_rows(8))
        label = np.zeros(8, int)
        label[row] = 9
        with pytest.raises(ValueError, match='labels 0..3'):
            net.forward(make_rows(8)[0], label)
    with pytest.raises(RuntimeError, match='forward'):
        net.backward()


def test_the_error_names_the_rows_of_the_batch():
    net = ParallelNetwork([PixelScaling(), FullyConnected(FEATURES, CLASSES)],
                          input_shape=FEATURES)
    for row, start in ((6, 'rows 5 to 8 of the batch: got floats'), (1, 'got floats')):
        input = np.zeros((9, FEATURES))
        input[row] = 255
        with pytest.raises(ValueError, match=f'^{start}'):
            net.forward(input, np.zeros(9, int))
        with pytest.raises(RuntimeError, match='forward'):
            net.backward()


# Threads ------------------------------------------------------------------------------------------

class Spied(ReLU):
    """A ReLU that calls a function before its forward."""

    def __init__(self):
        self.spy = lambda: None

    def forward(self, input):
        self.spy()
        return super().forward(input)


@pytest.mark.skipif(os.name != 'posix', reason='another process cannot send this one Ctrl-C')
def test_after_ctrl_c_no_thread_goes_on_to_change_the_layers(request):
    def ctrl_c():
        started.append(threading.get_ident())
        time.sleep(0.2)      # until the main thread waits for both
        if started[0] == threading.get_ident():
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        ended.append(threading.get_ident())

    started, ended = [], []
    net = ParallelNetwork([FullyConnected(FEATURES, CLASSES), Spied()])
    net.layers[1].spy = ctrl_c
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        net.forward(*make_rows(8))
    assert len(started) == len(ended) > 0
    with pytest.raises(RuntimeError, match='forward'):
        net.backward()


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system cannot fork')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')      # Python's, of threads and fork
def test_a_forked_child_does_not_hang():
    net = cut(make_mlp())
    make_step(net, *make_rows(8))
    child = os.fork()
    if not child:
        signal.alarm(60)      # kills a child that hangs
        try:
            make_step(net, *make_rows(8))
            os._exit(0)
        finally:
            os._exit(1)
    make_step(net, *make_rows(8))
    assert os.waitpid(child, 0)[1] == 0, 'the child hangs or fails'


def test_one_blas_thread_while_the_parts_run_and_as_many_as_before_after_them():
    threadpoolctl = pytest.importorskip('threadpoolctl')

    def threads():
        found = parallel.blas_controller().info()      # NumPy's, not those of other packages
        return [library['num_threads'] for library in found if library['user_api'] == 'blas']

    seen = []
    net = ParallelNetwork([FullyConnected(FEATURES, CLASSES), Spied()])
    net.layers[1].spy = lambda: seen.append(threads())
    with threadpoolctl.threadpool_limits(2, 'blas'):
        before = threads()
        net.forward(*make_rows(8))
        assert threads() == before
    assert len(seen) == 2 and all(set(counts) <= {1} for counts in seen), seen


def test_without_threadpoolctl_a_sentence_is_said_once_and_the_numbers_are_the_same(monkeypatch,
                                                                                   capsys):
    expected = train(cut(make_random()), 1)
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, 'threadpoolctl', None)      # as if it were not installed
    parallel.blas_controller.cache_clear()
    try:
        check_equal(train(cut(make_random()), 1), expected)
    finally:
        parallel.blas_controller.cache_clear()
    said = capsys.readouterr().err
    assert said.count('threadpoolctl is not installed') == said.count('\n') == 1, said
