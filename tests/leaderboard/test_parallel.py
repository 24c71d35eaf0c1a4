"""ParallelNetwork gives the numbers of the plain Network, with its batch cut into parts."""
import copy
import gc
import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import fast_conv2d
import network
import parallel
import workshop
from layer import (BatchNorm, Dropout, FullyConnected, PixelScaling, ReLU, Sigmoid,
                   SquaredError)
from parallel import ParallelNetwork
from small_networks import (CLASSES, FEATURES, check_equal, convert, every_network, gradients,
                            make_mlp, make_random, make_rows, make_step, normal)

on_linux = pytest.mark.skipif(sys.platform != 'linux', reason='there are no helpers')


def cut(net, parts=2):
    """A ParallelNetwork of copies of the layers of `net`."""
    layers = copy.deepcopy(net.layers)
    return ParallelNetwork(layers, copy.deepcopy(net.loss), input_shape=net.input_shape,
                           parts=parts)


def with_dropout(**settings):
    """A ParallelNetwork that predicts 0 where it drops."""
    layers = [FullyConnected(FEATURES, CLASSES), Dropout(0.5)]
    return ParallelNetwork(layers, SquaredError(), **settings)


def train(net, epochs=2, **settings):
    """Train on a few rows -> the arrays of the trained network."""
    settings = dict({'batch_size': 10, 'lr': 0.05, 'momentum': 0.9}, **settings)
    net.fit(make_rows(41), make_rows(20, 2), epochs, verbose=False, **settings)
    return copy.deepcopy(net.arrays())


# The same numbers ---------------------------------------------------------------------------------

@pytest.mark.parametrize('loss', [None, SquaredError()], ids=repr)
@pytest.mark.parametrize('parts, rows', [(2, 3), (2, 9), (3, 10), (4, 7)])
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


@on_linux
@pytest.mark.parametrize('parts, rows', [(2, 8), (2, 7), (3, 6)])
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


@on_linux
def test_a_part_has_two_rows_or_more_and_a_network_one_part_or_more():
    net = cut(make_mlp(), parts=3)
    counts = [net.part_count(np.zeros((rows, FEATURES))) for rows in range(9)]
    assert counts == [1, 1, 1, 1, 2, 2, 3, 3, 3]
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
    rows = make_rows(41)
    np.testing.assert_allclose(net.evaluate(*rows), plain.evaluate(*rows), rtol=1e-10)


@every_network
def test_the_same_seed_gives_the_same_bits(make):
    expected = train(cut(make(), 3), seed=5, ema_decay=0.9)
    check_equal(train(cut(make(), 3), seed=5, ema_decay=0.9), expected)
    check_equal(train(cut(make(), 1)), train(make()), 'one part and the plain network')


# Random numbers -----------------------------------------------------------------------------------

def test_each_part_of_each_batch_draws_random_numbers_of_its_own():
    net = with_dropout(parts=3)
    net.layers[0].bias += 1
    masks = [net.forward(np.zeros((24, FEATURES)), np.zeros(24, int))[0] == 0 for _ in range(2)]
    assert len({part.tobytes() for mask in masks for part in np.split(mask, 3)}) == 6, masks


def test_predict_augmented_is_random_by_the_copy_alone():
    net, input = cut(workshop.make_random()), workshop.make_images(9)[0]
    first = net.predict_augmented(input, copies=3)
    np.testing.assert_array_equal(net.predict_augmented(input, copies=3), first)
    assert not np.array_equal(net.predict(input), first)


@pytest.mark.parametrize('method', ['evaluate', 'predict', 'predict_augmented'])
def test_an_evaluation_leaves_all_as_it_was(method):
    """Before the first forward, when there are no helpers, and before backward; also in blocks."""
    nets = [cut(workshop.make_random(Conv2d=fast_conv2d.Conv2d)) for _ in range(2)]
    rows = workshop.make_images(7, seed=3)[:2 if method == 'evaluate' else 1]
    getattr(nets[0], method)(*rows)
    for net in nets:
        net.forward(*workshop.make_images(10))
    getattr(nets[0], method)(*rows)
    for net in nets:
        net.backward()
        net.update(0.1)
        make_step(net, *workshop.make_images(41))
    check_equal(nets[0].arrays(), nets[1].arrays())
    assert all(layer.training for layer in nets[0].layers)


def test_backward_of_a_forward_in_evaluation_is_refused_and_of_one_before_it_right():
    nets = [cut(make_mlp()), make_mlp()]
    for net in nets:
        net.forward(*make_rows(8))
    with nets[0].evaluation():
        nets[0].backward()
        nets[1].backward()
        for name, grad in gradients(nets[1]).items():
            np.testing.assert_allclose(gradients(nets[0])[name], grad, atol=1e-6, err_msg=name)
        nets[0].forward(*make_rows(8, seed=3))
        with pytest.raises(RuntimeError, match='forward'):
            nets[0].backward()


# Settings, exchanged layers, copies ---------------------------------------------------------------

def test_settings_and_modes_hold_for_every_part():
    net = with_dropout()
    for mode, p in ((True, 0.5), (False, 0.5), (True, 0.0), (True, 0.5)):
        net.train(mode)
        net.layers[1].p = p
        dropped = net.forward(*make_rows(8))[0] == 0
        assert dropped[:4].any() == dropped[4:].any() == (mode and p > 0), (mode, p)
    net = cut(make_random(), 3)
    train(net)
    before = copy.deepcopy(net.arrays())
    net.train(False)
    plain = network.Network(net.layers, net.loss, input_shape=net.input_shape)
    found = [each.forward(*make_rows(41))[0] for each in (net, plain)]
    np.testing.assert_allclose(*found, rtol=1e-4)
    check_equal(net.arrays(), before, 'running statistics in evaluation')


def test_exchanged_layers_losses_and_weights_are_used_by_every_part():
    plain = make_mlp()
    net = cut(make_mlp())
    for change in range(5):
        net.forward(*make_rows(8))
        for each in (plain, net):
            if change == 1:
                each.layers[1] = Sigmoid()
            elif change == 2:
                each.loss = SquaredError()
            elif change == 3:
                each.set_arrays(make_mlp(seed=3).arrays())
                each.layers[0].weight = each.layers[0].weight * 2      # another array
            elif change == 4:
                convert(each, np.float64)
        losses = [make_step(each, *make_rows(8), momentum=0.9) for each in (plain, net)]
        assert abs(losses[0] - losses[1]) < 1e-5, f'change {change}: {losses}'
        np.testing.assert_allclose(*[each.predict(make_rows(8)[0]) for each in (plain, net)],
                                   rtol=1e-4, err_msg=f'change {change}')


def test_a_copy_makes_helpers_of_its_own():
    net = cut(make_mlp())
    make_step(net, *make_rows(8))
    twin = copy.deepcopy(net)
    losses = [make_step(each, *make_rows(8)) for each in (net, twin, twin, net)]
    assert losses[0] == losses[1] and losses[2] == losses[3]


# Refused ------------------------------------------------------------------------------------------

def test_backward_is_refused_before_forward_and_after_a_refused_one():
    net = cut(make_mlp())
    with pytest.raises(RuntimeError, match='forward'):
        net.backward()
    net.forward(*make_rows(8))
    with pytest.raises(ValueError, match='labels 0..3'):
        net.forward(make_rows(8)[0], np.full(8, 9))
    with pytest.raises(RuntimeError, match='forward'):
        net.backward()


@pytest.mark.parametrize('row', [1, 6])
def test_an_error_of_any_part_is_raised_here_and_the_next_batch_is_right(row):
    layers = [PixelScaling(), FullyConnected(FEATURES, CLASSES)]
    net = ParallelNetwork(layers, input_shape=FEATURES)
    right, label = np.zeros((9, FEATURES)), np.zeros(9, int)
    wrong = right.copy()
    wrong[row] = 255
    for _ in range(2):
        expected = net.forward(right, label)[1]
        with pytest.raises(ValueError, match='^got floats'):
            net.forward(wrong, label)
        with pytest.raises(RuntimeError, match='forward'):
            net.backward()
        with pytest.raises(ValueError, match='^got floats'):
            net.predict(wrong)
        assert net.forward(right, label)[1] == expected


# Processes ----------------------------------------------------------------------------------------

def helper_of(net):
    """The process of the helper."""
    before = set(multiprocessing.active_children())
    net.forward(*make_rows(8))
    helper, = set(multiprocessing.active_children()) - before
    return helper


@on_linux
def test_a_helper_ends_with_its_network_and_another_one_does_not_matter():
    net, other = cut(make_mlp()), cut(make_mlp(seed=3))
    first, second = helper_of(net), helper_of(other)
    del net
    gc.collect()
    first.join(20)
    assert not first.is_alive(), 'the helper runs on'
    make_step(other, *make_rows(8))
    assert second.is_alive()


@on_linux
def test_a_helper_that_was_killed_is_said_and_replaced():
    net = cut(make_mlp())
    helper = helper_of(net)
    os.kill(helper.pid, signal.SIGKILL)
    helper.join(20)
    with pytest.raises(ChildProcessError, match='a helper process has ended'):
        net.forward(*make_rows(8))
    make_step(net, *make_rows(8))


def interrupt(*arguments):
    raise KeyboardInterrupt()


def test_after_ctrl_c_the_next_batch_is_right():
    net = cut(make_mlp())
    expected = net.forward(*make_rows(8))[0]
    net.layers[1].forward = interrupt      # here alone: the helper does not see it, and replies
    with pytest.raises(KeyboardInterrupt):
        net.forward(*make_rows(8, seed=2))
    with pytest.raises(RuntimeError, match='forward'):
        net.backward()
    del net.layers[1].forward
    np.testing.assert_array_equal(net.forward(*make_rows(8))[0], expected)


def test_after_ctrl_c_while_a_layer_is_exchanged_the_next_batch_is_right(monkeypatch):
    plain, net = make_mlp(), cut(make_mlp(), 1)
    net.forward(*make_rows(8))
    plain.layers[1] = net.layers[1] = Sigmoid()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(parallel, 'fuse', interrupt)
        net.forward(*make_rows(8))
    assert abs(net.forward(*make_rows(8))[1] - plain.forward(*make_rows(8))[1]) < 1e-5


@on_linux
def test_a_program_that_ignores_sigterm_ends():
    code = ('import signal, sys; sys.path[:0] = sys.argv[1:]; import numpy as np\n'
            'from parallel import ParallelNetwork\n'
            'signal.signal(signal.SIGTERM, lambda *arguments: None)\n'
            'net = ParallelNetwork(); net.forward(np.zeros((8, 784)), np.arange(8)); print("done")')
    folders = [os.path.dirname(module.__file__) for module in (parallel, network)]
    process = subprocess.Popen([sys.executable, '-c', code] + folders, stdout=subprocess.PIPE)
    try:
        assert process.communicate(timeout=60)[0] == b'done\n' and process.returncode == 0
    finally:
        process.kill()


@on_linux
@pytest.mark.filterwarnings('ignore::DeprecationWarning')      # Python's, of threads and fork
def test_a_forked_child_and_this_process_do_not_share_helpers():
    net, plain = cut(make_mlp()), make_mlp()
    make_step(net, *make_rows(8))
    child = os.fork()
    if not child:
        net.set_arrays({name: 0 * array for name, array in net.arrays().items()})
    for _ in range(5):
        make_step(net, *make_rows(8, seed=7 if child else 8))
    if not child:
        os._exit(0)
    for seed in (1, 7, 7, 7, 7, 7):
        make_step(plain, *make_rows(8, seed=seed))
    assert os.waitpid(child, 0)[1] == 0, 'the child fails'
    for name, array in plain.arrays().items():
        np.testing.assert_allclose(net.arrays()[name], array, atol=1e-5, err_msg=name)


@on_linux
def test_freed_memory_is_kept_for_the_next_arrays():
    import resource
    cut(make_mlp()).forward(*make_rows(8))
    faults = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [np.ones(2 ** 18) for _ in range(50)]      # 2 MB each, in pages of 4 KB
        del arrays
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert max(faults[1:]) < 1000, faults


def test_one_blas_thread_while_the_parts_run_and_as_many_as_before_after_them():
    threadpoolctl = pytest.importorskip('threadpoolctl')

    def threads():
        found = parallel.blas_controller().info()      # NumPy's, not those of other packages
        return {library['num_threads'] for library in found if library['user_api'] == 'blas'}

    def forward(input):      # in the helper, too: what it raises is raised here
        assert threads() <= {1}
        return input

    net = ParallelNetwork([FullyConnected(FEATURES, CLASSES), ReLU()])
    net.layers[1].forward = forward
    with threadpoolctl.threadpool_limits(2, 'blas'):
        before = threads()
        net.forward(*make_rows(8))
        assert threads() == before


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
