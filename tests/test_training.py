"""Training and Network.fit: epochs, best weights, averages, going on, and what stops a training."""
import copy
import inspect
import re

import numpy as np
import pandas as pd
import pytest

import network
from layer import BatchNorm, FullyConnected, SquaredError, _Layer
from network import Network, Training
from small_networks import (CLASSES, FEATURES, check_equal, check_refused, convert, differ,
                            make_mlp, make_random, make_rows, wave)
from test_network import wave_network

SGD = {'batch_size': 16, 'lr': 0.05, 'momentum': 0.9, 'weight_decay': 1e-3}


def train(net, epochs=4, stop_after=None, **changes):
    """Train on small data -> the weights after each epoch, and the error that ended it or None."""
    settings = dict(SGD, train=make_rows(50), validation=make_rows(30, 2), epochs=epochs)
    settings.update(changes)
    weights = []

    def keep_weights(record):
        weights.append(net.copy_arrays())
        if record['epoch'] == stop_after:
            raise KeyboardInterrupt()

    try:
        net.fit(on_epoch=keep_weights, verbose=False, **settings)
    except (FloatingPointError, KeyboardInterrupt) as error:
        return weights, error
    return weights, None


def falling_off(done):
    """A schedule that learns in the first half of a training, and takes too long steps after it."""
    return 1 if done < 0.5 else 200


def accuracies(net):
    return [record['validation']['balanced_accuracy'] for record in net.history]


def without_seconds(history):
    return [{key: value for key, value in record.items() if key != 'seconds'}
            for record in history]


# One epoch ----------------------------------------------------------------------------------------

class RowSpy(_Layer):
    """Passes everything on, and keeps the first number of each row of each batch."""

    in_features = FEATURES

    def __init__(self):
        self.batches = []

    def forward(self, input):
        self.batches.append(input[:, 0].astype(int).tolist())
        return input

    def backward(self, output_grad):
        return output_grad


def numbered_rows(count):
    """Rows whose first number is the row's number."""
    rows, label = make_rows(count)
    rows[:, 0] = np.arange(count)
    return rows, label


def orders(seed, epochs=1, rows=13, batch_size=5):
    """The batches of row numbers that a training sees."""
    spy = RowSpy()
    net = Network([spy] + make_mlp().layers)
    net.fit(numbered_rows(rows), None, epochs, batch_size, 0.01, seed=seed, verbose=False)
    return spy.batches


def test_an_epoch_sees_every_row_once_in_a_random_order():
    first = orders(seed=3)
    assert [len(batch) for batch in first] == [5, 5, 3]
    rows = sum(first, [])
    assert sorted(rows) == list(range(13)) and rows != list(range(13))
    assert orders(seed=3) == first != orders(seed=4)


def test_each_epoch_has_an_order_of_its_own():
    batches = orders(seed=0, epochs=3, batch_size=13)
    assert len(batches) == 3 and batches[0] != batches[1] != batches[2] != batches[0]


def test_a_last_single_row_joins_the_batch_before_it():
    assert [len(batch) for batch in orders(0, rows=9, batch_size=4)] == [4, 5]
    net = Network([FullyConnected(FEATURES, 5), BatchNorm(5), FullyConnected(5, CLASSES)])
    check_refused(ValueError, lambda: net.fit(make_rows(1), None, 1, 4, 0.1),
                  'BatchNorm', 'got 1 row')


def test_training_is_the_loop_written_out():
    rows, label = make_rows(13)
    net, expected = make_mlp(), make_mlp()
    sgd = {'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.01}
    net.fit((rows, label), None, 2, 5, 0.1, schedule=lambda done: 1 - done, seed=3, verbose=False,
            **sgd)
    for epoch in (1, 2):
        order = np.random.default_rng([3, epoch]).permutation(13)
        hits, total = 0, 0.0
        for start in (0, 5, 10):
            batch = order[start:start + 5]
            predict, loss = expected.forward(rows[batch], label[batch])
            expected.backward()
            done = (epoch - 1 + start / 13) / 2
            expected.update(0.1 * (1 - done), **sgd)
            hits += (predict.argmax(axis=1) == label[batch]).sum()
            total += loss * len(batch)
        record = net.history[epoch - 1]
        assert record['train']['accuracy'] == pytest.approx(100 * hits / 13)
        assert record['train']['loss'] == pytest.approx(total / 13)
        assert record['epoch'] == epoch and record['epochs'] == 2 and 0 <= record['seconds'] < 60
    check_equal(net.arrays(), expected.arrays())
    assert differ(net.arrays(), make_mlp().arrays())


@pytest.mark.parametrize('ema_decay, validation_losses', [
    (0.0, [1.4363842705575254, 1.3673166273616146, 1.3628523360251246]),
    (0.9, [1.4579756680101534, 1.3679485824776487, 1.3665540273595569])])
def test_a_training_gives_the_recorded_losses(ema_decay, validation_losses):
    net = wave_network()
    train_rows = wave(27, 6), np.arange(27) % 4
    validation_rows = wave(12, 6) + 0.1, np.arange(12) % 4
    net.fit(train_rows, validation_rows, 3, 5, 0.1, schedule=network.one_cycle, seed=7,
            ema_decay=ema_decay, momentum=0.9, nesterov=True, weight_decay=0.01, verbose=False)
    got = [record['train']['loss'] for record in net.history]
    expected = [1.9302117845265732, 1.4357344103640288, 1.420202534663083]
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    got = [record['validation']['loss'] for record in net.history]
    np.testing.assert_allclose(got, validation_losses, rtol=1e-9)


def test_the_random_numbers_of_an_epoch_come_from_seed_and_epoch():
    nets = [make_random() for _ in range(3)]
    nets[1].forward(*make_rows(9))      # draws random numbers before the training
    for net, seed in zip(nets, (0, 0, 1)):
        net.layers[4].running_mean[...] = 0
        net.layers[4].running_var[...] = 1
        train(net, 2, seed=seed)
    check_equal(nets[1].arrays(), nets[0].arrays())
    assert differ(nets[2].arrays(), nets[0].arrays())


def test_training_sets_training_mode():
    net = make_random()
    net.eval()
    train(net, 1)
    expected = make_random()
    train(expected, 1)
    check_equal(net.arrays(), expected.arrays())


# Best weights -------------------------------------------------------------------------------------

@pytest.mark.parametrize('stop_after', [None, 1, 2, 3, 4, 5])
@pytest.mark.parametrize('make', [make_mlp, make_random])
def test_the_best_epoch_is_kept_also_when_interrupted(make, stop_after):
    net = convert(make(), np.float64)      # in float32 long steps enlarge the errors of rounding
    weights, error = train(net, 6, stop_after, schedule=falling_off)
    assert len(weights) == (stop_after or 6)
    assert isinstance(error, KeyboardInterrupt if stop_after else type(None))
    assert [record['epoch'] for record in net.history] == list(range(1, len(weights) + 1))
    best = int(np.argmax(accuracies(net)))
    check_equal(net.arrays(), weights[best], f'expected the weights of epoch {best + 1}')
    score = net.evaluate(*make_rows(30, 2))
    assert score._asdict() == net.history[best]['validation']
    if stop_after is None:
        assert accuracies(net)[-1] < max(accuracies(net)) - 10, 'the last epoch must be worse'
        assert differ(net.arrays(), weights[-1])


@pytest.mark.parametrize('at_step', [1, 6, 13])
def test_ctrl_c_within_an_epoch_keeps_the_best_weights_so_far(at_step):
    net = make_mlp()
    weights, steps = [], []

    def interrupt(part):
        steps.append(part)
        if len(steps) == at_step:
            raise KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        net.fit(make_rows(50), make_rows(30, 2), 4, 16, 0.05, on_batch=interrupt, verbose=False,
                on_epoch=lambda record: weights.append(net.copy_arrays()))
    assert len(net.history) == len(weights) == (at_step - 1) // 4
    if weights:
        check_equal(net.arrays(), weights[int(np.argmax(accuracies(net)))])


def test_without_validation_the_last_epoch_is_kept():
    net = make_mlp()
    weights, _ = train(net, 3, validation=None, schedule=falling_off)
    check_equal(net.arrays(), weights[-1])
    assert [record['validation'] for record in net.history] == [None, None, None]


def test_of_equal_epochs_the_first_is_kept(monkeypatch):
    net = make_mlp()
    monkeypatch.setattr(net, 'evaluate', lambda *pair: network.Score(1.0, 50.0, 50.0))
    weights, _ = train(net, 3)
    check_equal(net.arrays(), weights[0])
    assert differ(weights[0], weights[1])


def test_the_balanced_accuracy_decides(monkeypatch):
    net = make_mlp()
    scores = iter([network.Score(3.0, 10.0, 20.0), network.Score(2.0, 5.0, 30.0),
                   network.Score(1.0, 90.0, 25.0)])
    monkeypatch.setattr(net, 'evaluate', lambda *pair: next(scores))
    weights, _ = train(net, 3)
    check_equal(net.arrays(), weights[1])


# The average of the weights -----------------------------------------------------------------------

@pytest.mark.parametrize('rows', [50, 49, 16])
@pytest.mark.parametrize('decay', [0.9, 0.15])
def test_the_average_is_taken_over_every_step(rows, decay):
    """49 rows in batches of 16 are three steps: the last single row joins the third batch."""
    net = convert(make_random(), np.float64)
    expected = net.copy_arrays()
    steps = []

    def average(part):
        steps.append(part)
        share = 1 - min(decay, len(steps) / (len(steps) + 10))
        for name, array in net.arrays().items():
            expected[name] = expected[name] + share * (array - expected[name])

    training = Training(net, make_rows(rows), make_rows(30, 2), 3, 16, 0.05, ema_decay=decay)
    validated = []
    net.evaluate = lambda *pair: validated.append(net.copy_arrays()) or Network.evaluate(net, *pair)
    training.run(on_batch=average, verbose=False)
    batches = {50: 4, 49: 3, 16: 1}[rows]
    assert training.steps == len(steps) == 3 * batches
    for name, array in training.average.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-12, atol=1e-15, err_msg=name)
    check_equal(validated[-1], training.average, 'the average must be validated')
    best = int(np.argmax([record['validation']['balanced_accuracy']
                          for record in training.history]))
    check_equal(net.arrays(), validated[best], 'the average must be kept')


def test_with_an_average_the_training_goes_on_from_the_weights_themselves():
    plain, averaged = make_mlp(), make_mlp()
    plain_weights, _ = train(plain, 3, validation=None)
    averaged_weights, _ = train(averaged, 3, validation=None, ema_decay=0.9)
    for expected, got in zip(plain_weights, averaged_weights):
        check_equal(got, expected)
    assert differ(averaged.arrays(), plain.arrays()), 'the average must be kept'
    losses = [[record['train'] for record in net.history] for net in (plain, averaged)]
    assert losses[0] == losses[1]


# Stopped and resumed ------------------------------------------------------------------------------

@pytest.mark.parametrize('ema_decay', [0.0, 0.9])
@pytest.mark.parametrize('stop_after', [1, 3])
@pytest.mark.parametrize('make', [make_mlp, make_random])
def test_resumed_is_bit_identical_to_undisturbed(make, stop_after, ema_decay):
    settings = dict(SGD, train=make_rows(50), validation=make_rows(30, 2), epochs=4,
                    schedule=network.one_cycle, ema_decay=ema_decay, nesterov=True)
    states = []
    undisturbed = Training(make(), **settings)
    undisturbed.run(lambda record: states.append(undisturbed.state()), verbose=False)
    assert all(differ(states[0]['last'], state['last']) for state in states[1:])
    for _ in range(2):      # the first resumed training must not change the state
        resumed = Training(make(seed=9), **settings)
        resumed.restore(states[stop_after - 1])
        assert len(resumed.history) == stop_after
        resumed.run(verbose=False)
        check_equal(resumed.net.arrays(), undisturbed.net.arrays(), 'the weights')
        for part in ('last', 'best', 'average', 'velocity'):
            check_equal(resumed.state()[part] or {}, undisturbed.state()[part] or {}, part)
        assert without_seconds(resumed.history) == without_seconds(undisturbed.history)
        assert resumed.steps == undisturbed.steps == 16


def test_a_finished_training_that_is_restored_has_the_best_weights():
    settings = dict(SGD, train=make_rows(50), validation=make_rows(30, 2), epochs=4,
                    schedule=falling_off)
    finished = Training(convert(make_mlp(), np.float64), **settings)
    finished.run(verbose=False)
    again = Training(convert(make_mlp(seed=9), np.float64), **settings)
    again.restore(finished.state())
    again.run(verbose=False)
    check_equal(again.net.arrays(), finished.net.arrays())
    assert differ(finished.net.arrays(), finished.last)


def test_a_state_of_another_network_is_refused_and_changes_nothing():
    state = Training(make_random(), make_rows(50), None, 1, 16, 0.1).state()
    training = Training(make_mlp(), make_rows(50), None, 1, 16, 0.1)
    before = training.net.copy_arrays()
    check_refused(ValueError, lambda: training.restore(state),
                  'the weights of the checkpoint is of another network')
    check_equal(training.net.arrays(), before)


# fit ----------------------------------------------------------------------------------------------

def test_fit_is_a_training():
    net, expected = make_random(), make_random()
    settings = {'schedule': network.one_cycle, 'seed': 5, 'ema_decay': 0.5, 'momentum': 0.9}
    history = net.fit(make_rows(50), make_rows(30, 2), 2, 16, 0.1, verbose=False, **settings)
    training = Training(expected, make_rows(50), make_rows(30, 2), 2, 16, 0.1, **settings)
    training.run(verbose=False)
    check_equal(net.arrays(), expected.arrays())
    assert net.history is history
    assert without_seconds(history) == without_seconds(training.history)


def test_fit_again_goes_on_with_a_new_history():
    net, expected = make_mlp(), make_mlp()
    rates = []
    update = net.update
    net.update = lambda lr, **sgd: rates.append(lr) or update(lr, **sgd)
    first = net.fit(make_rows(50), None, 2, 16, 0.05, schedule=lambda done: 1 - done,
                    momentum=0.9, verbose=False)
    between = net.copy_arrays()
    second = net.fit(make_rows(50), None, 2, 16, 0.05, schedule=lambda done: 1 - done,
                     momentum=0.9, verbose=False)
    assert [len(first), len(second)] == [2, 2] and net.history is second
    assert rates[:8] == rates[8:] and rates[0] == 0.05, 'the schedule must start again'
    expected.set_arrays(between)      # a new training of these weights: no old velocity
    expected.fit(make_rows(50), None, 2, 16, 0.05, schedule=lambda done: 1 - done, momentum=0.9,
                 verbose=False)
    check_equal(net.arrays(), expected.arrays())


def test_fit_prints_a_line_for_each_epoch_unless_told_otherwise(capsys):
    net = make_mlp()
    net.fit(make_rows(50), make_rows(30, 2), 2, 16, 0.1)
    expected = [network.epoch_line(record) for record in net.history]
    assert capsys.readouterr().out.splitlines() == expected and len(expected) == 2
    net.fit(make_rows(50), make_rows(30, 2), 2, 16, 0.1, verbose=False)
    Training(net, make_rows(50), None, 1, 16, 0.1).run(verbose=False)
    assert capsys.readouterr().out == ''
    Training(net, make_rows(50), None, 1, 16, 0.1).run()
    assert capsys.readouterr().out.startswith('Epoch:  1 |Train Loss:')


def test_the_callbacks_hear_of_every_step_and_epoch():
    parts, records = [], []
    net = make_mlp()
    history = net.fit(make_rows(13), None, 2, 5, 0.1, on_epoch=records.append,
                      on_batch=parts.append, verbose=False)
    np.testing.assert_allclose(parts, [5 / 13, 10 / 13, 1] * 2)
    assert records == history and len(records) == 2


def test_the_schedule_gets_the_part_of_the_training_that_is_done():
    seen, rates = [], []
    net = make_mlp()
    update = net.update
    net.update = lambda lr, **sgd: rates.append(lr) or update(lr, **sgd)
    net.fit(make_rows(13), None, 2, 5, 0.1, verbose=False,
            schedule=lambda done: seen.append(done) or 0.5)
    np.testing.assert_allclose(seen, [0, 5 / 26, 10 / 26, 13 / 26, 18 / 26, 23 / 26])
    assert rates == [0.05] * 6
    net.fit(make_rows(13), None, 1, 5, 0.1, verbose=False)
    assert rates[6:] == [0.1] * 3


def test_no_epochs_change_nothing():
    net = make_mlp()
    before = net.copy_arrays()
    assert net.fit(make_rows(50), make_rows(30, 2), 0, 16, 0.1) == []
    check_equal(net.arrays(), before)


def test_the_history_becomes_a_table():
    net = make_mlp()
    net.fit(make_rows(50), make_rows(30, 2), 2, 16, 0.1, verbose=False)
    table = pd.json_normalize(net.history, sep='_')
    assert sorted(table) == sorted(
        ['epoch', 'epochs', 'seconds', 'train_loss', 'train_accuracy', 'train_balanced_accuracy',
         'validation_loss', 'validation_accuracy', 'validation_balanced_accuracy'])
    assert table.validation_accuracy[1] == net.history[1]['validation']['accuracy']


@pytest.mark.parametrize('arguments', [(make_rows(8)[0], make_rows(8)[1]),
                                       (make_rows(8), make_rows(8)[0]), (make_rows(8) * 2, None),
                                       (None, None), (make_rows(8)[0], None)],
                         ids=['rows, labels', 'validation rows', 'four', 'None', 'rows'])
def test_anything_but_a_pair_is_refused(arguments):
    check_refused(TypeError, lambda: make_mlp().fit(*arguments, 1, 4, 0.1),
                  'expected a pair: write fit((data, label), (validation_data, validation_label)')


def test_fit_of_rows_and_labels_alone_says_what_is_missing():
    with pytest.raises(TypeError, match='epochs'):
        make_mlp().fit(*make_rows(8))


@pytest.mark.parametrize('arguments, wanted', [
    ({'lr': -0.1}, 'lr is -0.1'), ({'lr': np.nan}, 'lr is nan'),
    ({'momentum': -1}, 'momentum is -1'), ({'weight_decay': -1}, 'weight_decay is -1'),
    ({'batch_size': 0}, 'batch_size is 0')], ids=str)
def test_settings_that_cannot_be_change_nothing(arguments, wanted):
    net = make_mlp()
    before = net.copy_arrays()
    check_refused(ValueError, lambda: train(net, **arguments), wanted)
    check_equal(net.arrays(), before)


def test_fit_has_the_arguments_of_training():
    fit, training = (list(inspect.signature(call).parameters) for call in (Network.fit, Training))
    assert fit[1:6] == training[1:6] == ['train', 'validation', 'epochs', 'batch_size', 'lr']


def test_tables_are_trained_on_as_arrays_are():
    rows, label = make_rows(50)
    first, second = make_mlp(), make_mlp()
    train(first, 1)
    table = pd.DataFrame(rows, index=np.arange(50)[::-1])
    train(second, 1, train=(table, pd.Series(label)))
    check_equal(second.arrays(), first.arrays())


# Divergence ---------------------------------------------------------------------------------------

@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_divergence_names_epoch_and_batch_and_keeps_the_best_weights():
    net = make_mlp()
    weights, error = train(net, 3, schedule=lambda done: 1 if done < 0.5 else 1e30)
    assert isinstance(error, FloatingPointError), error
    wanted = r'epoch 2: batch 4: the loss is not finite: lower the learning rate'
    assert re.match(wanted, str(error)), error
    assert len(weights) == len(net.history) == 1
    check_equal(net.arrays(), weights[0])


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_divergence_after_a_worse_epoch_keeps_the_best_one():
    net = convert(make_random(), np.float64)

    def schedule(done):
        if done < 0.33:
            return 1
        return 60 if done < 0.66 else 1e300

    weights, error = train(net, 3, schedule=schedule)
    assert str(error).startswith('epoch 3: ') and 'is not finite' in str(error), error
    assert len(weights) == 2 and accuracies(net)[0] > accuracies(net)[1] + 10
    check_equal(net.arrays(), weights[0])


@pytest.mark.parametrize('ema_decay', [0, 0.9])
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_a_first_epoch_that_diverges_leaves_the_weights_before_it(ema_decay):
    net = make_mlp()
    before = net.copy_arrays()
    _, error = train(net, 3, schedule=lambda done: 1e30, ema_decay=ema_decay)
    assert isinstance(error, FloatingPointError), error
    check_equal(net.arrays(), before)


@pytest.mark.parametrize('sgd', [{}, {'momentum': 0.9, 'nesterov': True}, {'weight_decay': 0.1},
                                 {'ema_decay': 0.9}], ids=str)
@pytest.mark.parametrize('lr', [np.inf, 1e30])
def test_a_hopeless_learning_rate_is_told(lr, sgd):
    check_refused(FloatingPointError, lambda: make_random().fit(
        make_rows(24), make_rows(12, 2), 3, 8, lr, verbose=False, **sgd),
        'epoch 1: ', 'not finite', 'lower the learning rate')


@pytest.mark.parametrize('value, loss', [(np.nan, None), (np.inf, None), (1e25, SquaredError())],
                         ids=['nan', 'inf', 'overflow'])
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_rows_that_give_no_finite_loss_are_noticed(value, loss):
    rows, label = make_rows(50)
    rows[7] = value
    _, error = train(make_mlp(loss=loss), train=(rows, label))
    assert re.match(r'epoch 1: batch [1-4]: the loss is not finite', str(error)), error
    net = make_mlp(loss=loss)
    before = net.copy_arrays()
    _, error = train(net, validation=(rows, label), lr=1e-9)
    assert isinstance(error, FloatingPointError)
    wanted = 'epoch 1: evaluation, rows 0 to 49: the loss is not finite'
    assert str(error).startswith(wanted), error
    check_equal(net.arrays(), before)


def test_weights_that_are_not_finite_after_the_last_batch_are_refused():
    net = make_mlp()
    before = net.copy_arrays()
    update = net.update

    def update_and_spoil(*arguments, **settings):
        update(*arguments, **settings)
        net.layers[-1].weight[0, 0] = np.inf

    net.update = update_and_spoil
    _, error = train(net, validation=None, batch_size=50)
    wanted = 'epoch 1: after the last batch 2.FullyConnected.weight is not finite'
    assert str(error).startswith(wanted), error
    check_equal(net.arrays(), before)


def test_a_training_may_be_copied():
    training = Training(make_mlp(), make_rows(50), None, 2, 16, 0.1)
    twin = copy.deepcopy(training)
    training.run(verbose=False)
    twin.run(verbose=False)
    check_equal(twin.net.arrays(), training.net.arrays())


@pytest.mark.parametrize('ema_decay', [1.0, -0.1, float('nan')])
def test_averages_that_cannot_be_are_refused(ema_decay):
    net = Network([FullyConnected(4, 3)], input_shape=4)
    rows = np.zeros((2, 4), np.float32), np.array([0, 1])
    check_refused(ValueError, lambda: Training(net, rows, None, 1, 2, 0.1, ema_decay=ema_decay),
                  f'ema_decay is {ema_decay}')
