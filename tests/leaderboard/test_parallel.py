"""ParallelNetwork gives the numbers of the plain Network, with its batch cut into parts."""
import copy
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import parallel
from layer import BatchNorm, Dropout, FullyConnected, ReLU, Sigmoid, SquaredError
from network import Network, character_network
from parallel import ParallelNetwork
from small_networks import (CLASSES, FEATURES, check_equal, convert, differ, every_network,
                            gradients, make_mlp, make_random, make_rows, make_step, normal)

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def cut(net, parts=2):
    """A ParallelNetwork of copies of the layers of `net`."""
    layers = copy.deepcopy(net.layers)
    return ParallelNetwork(layers, copy.deepcopy(net.loss), input_shape=net.input_shape,
                           parts=parts)


def train(net, epochs, **settings):
    """Train on a few rows -> the arrays of the trained network."""
    settings = dict({'batch_size': 10, 'lr': 0.05, 'momentum': 0.9}, **settings)
    net.fit(make_rows(41), make_rows(20, seed=2), epochs, verbose=False, **settings)
    return net.copy_arrays()


# The same numbers ---------------------------------------------------------------------------------

@pytest.mark.parametrize('parts, rows', [(1, 8), (2, 1), (2, 2), (2, 3), (2, 9), (3, 10), (4, 10)])
def test_predictions_loss_and_gradients_are_those_of_the_plain_network(parts, rows):
    plain = convert(make_mlp(), np.float64)
    parallel_net = cut(plain, parts)
    input, label = normal(rows, FEATURES), np.arange(rows) % CLASSES
    predict, loss = plain.forward(input, label)
    got, got_loss = parallel_net.forward(input, label)
    np.testing.assert_allclose(got, predict, rtol=1e-12)
    assert abs(got_loss - loss) < 1e-12, f'loss {got_loss}, expected {loss}'
    plain.backward()
    parallel_net.backward()
    expected = gradients(plain)
    for name, grad in gradients(parallel_net).items():
        np.testing.assert_allclose(grad, expected[name], rtol=0, atol=1e-12, err_msg=name)


def test_one_hot_targets_and_another_loss():
    plain = convert(make_mlp(loss=SquaredError()), np.float64)
    parallel_net = cut(plain)
    input, target = normal(7, FEATURES), np.eye(CLASSES)[np.arange(7) % CLASSES]
    assert abs(plain.forward(input, target)[1] - parallel_net.forward(input, target)[1]) < 1e-12


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


@pytest.mark.parametrize('rows', [2, 3])
def test_a_batch_too_small_for_two_rows_a_part_is_cut_into_fewer(rows):
    plain = make_random()
    assert np.isfinite(make_step(cut(plain, parts=4), *make_rows(rows)))


def test_a_part_has_two_rows_or_more():
    net = cut(make_mlp(), parts=3)
    counts = [net.part_count(np.zeros((rows, FEATURES))) for rows in range(9)]
    assert counts == [1, 1, 1, 1, 2, 2, 3, 3, 3]


@every_network
def test_predict_and_evaluate_are_those_of_the_plain_network(make):
    plain = convert(make(), np.float64)
    parallel_net = cut(plain, 3)
    for rows in (0, 1, 2, 300):
        input = normal(rows, FEATURES)
        np.testing.assert_allclose(parallel_net.predict(input), plain.predict(input), rtol=1e-10)
    rows = normal(25, FEATURES), np.arange(25) % CLASSES
    np.testing.assert_allclose(parallel_net.evaluate(*rows), plain.evaluate(*rows), rtol=1e-10)


@every_network
def test_the_same_seed_gives_the_same_bits(make):
    first = train(cut(make(), 3), 2, seed=5, ema_decay=0.9)
    check_equal(train(cut(make(), 3), 2, seed=5, ema_decay=0.9), first)


@pytest.mark.parametrize('cores', [1, 3])
def test_the_numbers_do_not_depend_on_the_number_of_cores(monkeypatch, cores):
    expected = train(cut(make_random(), 3), 2)
    monkeypatch.setattr(os, 'cpu_count', lambda: cores)
    check_equal(train(cut(make_random(), 3), 2), expected)


def test_unseeded_steps_give_the_same_bits_too():
    """No two threads may draw from one generator, whose order would be that of the threads."""
    runs = []
    for _ in range(8):
        net = cut(make_random())
        for _ in range(3):
            make_step(net, *make_rows(41))
        runs.append(net.copy_arrays())
    for run in runs[1:]:
        check_equal(run, runs[0])


def test_a_network_of_one_part_gives_the_bits_of_the_plain_network():
    check_equal(train(cut(make_random(), 1), 2), train(make_random(), 2))


# Random numbers -----------------------------------------------------------------------------------

def test_each_replica_draws_its_own_random_numbers():
    net = ParallelNetwork([FullyConnected(3, 50), Dropout(0.5)], SquaredError())
    net.layers[0].weight[...] = 0
    net.layers[0].bias[...] = 1
    for seeded in (False, True):
        if seeded:
            net.reseed([0])
        predict, _ = net.forward(np.zeros((4, 3), np.float32), np.zeros((4, 50)) + 0.02)
        assert not np.array_equal(predict[:2], predict[2:]), f'seeded: {seeded}'


def test_every_layer_of_every_replica_gets_another_seed():
    net = ParallelNetwork([FullyConnected(3, 5), Dropout(0.5), Dropout(0.5)], parts=3)
    net.reseed([0])
    draws = [layer.rng.random() for replica in net.replicas for layer in replica.layers[1:]]
    assert len(set(draws)) == 6, draws


def test_predict_augmented_leaves_the_generators_of_all_replicas_as_they_were():
    nets = [cut(make_random()), cut(make_random())]
    nets[0].predict_augmented(make_rows(9)[0], copies=3)
    for net in nets:
        for _ in range(3):
            make_step(net, *make_rows(10))
    check_equal(nets[0].arrays(), nets[1].arrays())


def test_predict_augmented_is_random_by_the_copy_alone():
    net = cut(make_random())
    input = make_rows(9)[0]
    first = net.predict_augmented(input, copies=3)
    np.testing.assert_array_equal(net.predict_augmented(input, copies=3), first)
    assert not np.array_equal(net.predict(input), first)


# Settings, exchanged layers, copies ---------------------------------------------------------------

def test_a_setting_changed_later_holds_for_every_part():
    net = ParallelNetwork([FullyConnected(FEATURES, CLASSES), Dropout(0.5)], SquaredError())
    net.layers[1].p = 0.0
    predict, _ = net.forward(*make_rows(8))
    assert (predict != 0).all(), f'a part still drops: {predict}'


def test_training_and_evaluation_mode_hold_for_every_part():
    net = ParallelNetwork([FullyConnected(FEATURES, CLASSES), Dropout(0.5)], SquaredError())
    net.eval()
    assert (net.forward(*make_rows(8))[0] != 0).all()
    net.train()
    dropped = net.forward(*make_rows(8))[0] == 0
    assert dropped[:4].any() and dropped[4:].any()


def test_a_layer_exchanged_by_name_is_used_by_every_part():
    nets = [Network(rng=np.random.default_rng(0)), ParallelNetwork(rng=np.random.default_rng(0))]
    pixels = np.random.default_rng(1).integers(0, 256, (8, 784), dtype=np.uint8)
    for net in nets:
        net.forward(pixels, np.arange(8))
        net.act1 = Sigmoid()
        net.loss = SquaredError()
    expected = nets[0].forward(pixels, np.arange(8))
    predict, loss = nets[1].forward(pixels, np.arange(8))
    np.testing.assert_allclose(predict, expected[0], rtol=1e-4, atol=1e-6)
    assert abs(loss - expected[1]) < 1e-4


def test_a_layer_exchanged_in_the_list_is_used_by_every_part():
    plain = make_mlp()
    net = cut(plain)
    net.forward(*make_rows(8))
    plain.layers[1] = net.layers[1] = Sigmoid()
    np.testing.assert_allclose(net.forward(*make_rows(8))[0], plain.forward(*make_rows(8))[0],
                               rtol=1e-5)


def test_weights_set_later_are_used_by_every_part():
    plain = make_mlp(seed=3)
    net = cut(make_mlp())
    net.set_arrays(plain.arrays())
    input = make_rows(8)[0]
    np.testing.assert_allclose(net.predict(input), plain.predict(input), rtol=1e-5)
    for layer in plain.layers + net.layers:
        for name in layer.parameter_names:
            setattr(layer, name, getattr(layer, name) * 2)      # other arrays
    np.testing.assert_allclose(net.predict(input), plain.predict(input), rtol=1e-5)


def test_a_network_can_be_copied():
    net = cut(make_random())
    train(net, 1)
    twin = copy.deepcopy(net)
    input = make_rows(9)[0]
    np.testing.assert_array_equal(twin.predict(input), net.predict(input))
    before = net.copy_arrays()
    train(twin, 1)
    check_equal(net.arrays(), before)
    assert differ(twin.arrays(), before)


def test_character_network_takes_the_class():
    net = character_network(stages=((4,), (4,), (4,)), hidden=8, Network=ParallelNetwork)
    plain = character_network(stages=((4,), (4,), (4,)), hidden=8)
    check_equal(net.arrays(), plain.arrays())
    assert repr(net) == repr(plain)


# Refused ------------------------------------------------------------------------------------------

def test_backward_is_refused_before_forward_and_after_predict():
    net = cut(make_mlp())
    with pytest.raises(RuntimeError, match='forward'):
        net.backward()
    net.forward(*make_rows(8))
    net.predict(make_rows(8)[0])
    with pytest.raises(RuntimeError, match='forward'):
        net.backward()


@pytest.mark.parametrize('row', [0, 7])
def test_backward_is_refused_after_a_refused_forward(row):
    net = cut(make_mlp())
    net.forward(*make_rows(8))
    label = np.zeros(8, int)
    label[row] = 9
    with pytest.raises(ValueError, match='9'):
        net.forward(make_rows(8)[0], label)
    with pytest.raises(RuntimeError, match='forward'):
        net.backward()


def test_the_error_names_the_row_of_the_batch():
    label = np.zeros(9, int)
    label[6] = 9
    with pytest.raises(ValueError, match='rows 5 to 8 of the batch: target: row 1 is 9'):
        cut(make_mlp()).forward(make_rows(9)[0], label)
    label[1] = 9
    with pytest.raises(ValueError, match='^target: row 1 is 9'):
        cut(make_mlp()).forward(make_rows(9)[0], label)


@pytest.mark.parametrize('parts', [0, -1, 1.5, '2'])
def test_a_number_of_parts_that_cannot_be_is_refused(parts):
    with pytest.raises(ValueError, match='parts'):
        ParallelNetwork(parts=parts)


# Threads ------------------------------------------------------------------------------------------

class Slow(ReLU):
    """A ReLU that sends the process Ctrl-C while both parts of the batch are in it."""

    started = []
    ended = []

    def forward(self, input):
        if threading.current_thread() is not threading.main_thread():
            self.started.append(threading.current_thread())
            time.sleep(0.3)      # until the main thread waits for both
            if self.started[0] is threading.current_thread():
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            self.ended.append(threading.current_thread())
        return super().forward(input)


@pytest.mark.skipif(os.name != 'posix', reason='another process cannot send this one Ctrl-C')
def test_after_ctrl_c_no_thread_goes_on_to_change_the_layers():
    net = ParallelNetwork([FullyConnected(FEATURES, CLASSES), Slow()])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            net.forward(*make_rows(8))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(Slow.started) > 0
    running = len(Slow.started) - len(Slow.ended)
    assert running == 0, f'{running} of {len(Slow.started)} threads still run'


FORK = '''
import os, sys
sys.path[:0] = [{home!r}, os.path.join({home!r}, 'leaderboard')]
import numpy as np
from parallel import ParallelNetwork
net = ParallelNetwork(rng=np.random.default_rng(0))
pixels, label = np.zeros((8, 784), np.uint8), np.arange(8)
net.forward(pixels, label)
child = os.fork()
net.forward(pixels, label)
net.backward()
if child:
    sys.exit(os.waitpid(child, 0)[1] != 0)
'''


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system cannot fork')
def test_a_forked_child_does_not_hang():
    process = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', FORK.format(home=HOME)])
    try:
        assert process.wait(timeout=60) == 0
    except subprocess.TimeoutExpired:
        pytest.fail('the child or its parent hangs', pytrace=False)
    finally:
        process.kill()


def test_one_blas_thread_while_the_parts_run_and_as_many_as_before_after_them():
    threadpoolctl = pytest.importorskip('threadpoolctl')

    class Spy(ReLU):
        def forward(self, input):
            seen.append(threads())
            return super().forward(input)

    def threads():
        found = parallel.blas_controller().info()      # NumPy's, not those of other packages
        return [library['num_threads'] for library in found if library['user_api'] == 'blas']

    seen = []
    net = ParallelNetwork([FullyConnected(FEATURES, CLASSES), Spy()])
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
    assert said.count('threadpoolctl is not installed') == 1 and said.count('\n') == 1, said
