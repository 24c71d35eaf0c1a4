"""Training and Network.fit: epochs, best weights, averages, and what stops a training."""
import copy
import itertools

import numpy as np
import pandas as pd
import pytest

import network
from layer import BatchNorm, FullyConnected, SquaredError
from network import Network, Training
from small_networks import (CLASSES, FEATURES, check_equal, check_refused, convert, copies, differ,
                            make_mlp, make_random, make_rows)


def train(net, epochs=4, stop_after=None, **changes):
    """Train on small data -> the weights after each epoch, and the error that ended it or None."""
    settings = {'train': make_rows(50), 'validation': make_rows(30, 2), 'batch_size': 16,
                'lr': 0.05, 'momentum': 0.9, 'weight_decay': 1e-3, 'epochs': epochs}
    settings.update(changes)
    weights = []

    def keep_weights(record):
        weights.append(copies(net))
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


# One epoch ----------------------------------------------------------------------------------------

def orders(seed, epochs=1, rows=13, batch_size=5):
    """The batches of row numbers that a training sees: the first number of each row."""
    net = make_mlp()
    data, label = make_rows(rows)
    data[:, 0] = np.arange(rows)
    seen = []
    forward = net.forward
    net.forward = lambda input, target: seen.append(input[:, 0].tolist()) or forward(input, target)
    net.fit((data, label), None, epochs, batch_size, 0.01, seed=seed, verbose=False)
    return seen


def test_an_epoch_sees_every_row_once_in_a_random_order_of_its_own():
    first = orders(seed=3)
    assert [len(batch) for batch in first] == [5, 5, 3]
    rows = sum(first, [])
    assert sorted(rows) == list(range(13)) and rows != list(range(13))
    assert orders(seed=3) == first != orders(seed=4)
    batches = orders(seed=0, epochs=3, batch_size=13)
    assert len(batches) == 3 and batches[0] != batches[1] != batches[2] != batches[0]
    assert [len(batch) for batch in orders(0, rows=9, batch_size=4)] == [4, 5]


def test_training_is_the_loop_written_out():
    rows, label = make_rows(13)
    net, expected = make_mlp(), make_mlp()
    sgd = {'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.01}
    parts, records = [], []
    # The schedule gives NumPy's float64, but the steps stay float32
    history = net.fit((rows, label), None, 2, 5, 0.1, schedule=lambda done: np.float64(1 - done),
                      seed=3, verbose=False, on_epoch=records.append, on_batch=parts.append, **sgd)
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
        record = history[epoch - 1]
        assert record['train']['accuracy'] == pytest.approx(100 * hits / 13)
        assert record['train']['loss'] == pytest.approx(total / 13)
        assert record['epoch'] == epoch and record['epochs'] == 2 and 0 <= record['seconds'] < 60
    check_equal(net.arrays(), expected.arrays())
    np.testing.assert_allclose(parts, [5 / 13, 10 / 13, 1] * 2)
    assert records == history == net.history


def test_seed_and_epoch_decide_the_random_numbers_and_the_form_of_the_rows_does_not_matter():
    nets = [make_random() for _ in range(3)]
    nets[1].train(False)      # fit sets training mode
    nets[1].layers[0].rng.random(7)
    rows, label = make_rows(50)
    pairs = [(rows, label), (pd.DataFrame(rows, index=label), np.eye(CLASSES)[label])]
    for net, pair, seed in zip(nets, pairs + pairs[:1], (0, 0, 1)):
        train(net, 2, seed=seed, train=pair)
    check_equal(nets[1].arrays(), nets[0].arrays())
    assert differ(nets[2].arrays(), nets[0].arrays())


def test_fit_prints_a_line_for_each_epoch_unless_told_otherwise(capsys):
    net = make_mlp()
    net.fit(make_rows(50), make_rows(30, 2), 2, 16, 0.1)
    expected = [network.epoch_line(record) for record in net.history]
    assert capsys.readouterr().out.splitlines() == expected and len(expected) == 2
    net.fit(make_rows(50), make_rows(30, 2), 2, 16, 0.1, verbose=False)
    assert capsys.readouterr().out == ''
    Training(net, make_rows(50), None, 1, 16, 0.1).run()
    assert 'Epoch' in capsys.readouterr().out


# Best weights -------------------------------------------------------------------------------------

@pytest.mark.parametrize('stop_after', [None, 1, 3, 5])
@pytest.mark.parametrize('make', [make_mlp, make_random])
def test_the_best_epoch_is_kept_also_when_interrupted(make, stop_after):
    net = convert(make(), np.float64)      # in float32 long steps enlarge the errors of rounding
    weights, error = train(net, 6, stop_after, schedule=falling_off)
    assert len(weights) == len(net.history) == (stop_after or 6)
    assert isinstance(error, KeyboardInterrupt if stop_after else type(None))
    best = int(np.argmax(accuracies(net)))
    check_equal(net.arrays(), weights[best], f'expected the weights of epoch {best + 1}')
    assert net.evaluate(*make_rows(30, 2))._asdict() == net.history[best]['validation']
    if stop_after is None:
        assert accuracies(net)[-1] < max(accuracies(net)) - 10, 'the last epoch must be worse'
        weights, _ = train(net, 3, validation=None, schedule=falling_off)
        check_equal(net.arrays(), weights[-1], 'without validation the last epoch is kept')
        assert [record['validation'] for record in net.history] == [None, None, None]


@pytest.mark.parametrize('at_step', [1, 6, 13])
@pytest.mark.parametrize('ema_decay', [0, 0.9])
def test_ctrl_c_within_an_epoch_keeps_the_best_weights_so_far(at_step, ema_decay):
    net = make_mlp()
    kept, steps = [copies(net)], []

    def interrupt(part):
        steps.append(part)
        if len(steps) == at_step:
            raise KeyboardInterrupt()

    training = copy.deepcopy(Training(net, make_rows(50), make_rows(30, 2), 4, 16, 0.05,
                                      ema_decay=ema_decay))
    net = training.net
    with pytest.raises(KeyboardInterrupt):
        training.run(on_batch=interrupt, verbose=False,
                     on_epoch=lambda record: kept.append(copy.deepcopy(training.best)))
    assert len(training.history) == len(kept) - 1 == (at_step - 1) // 4
    check_equal(net.arrays(), kept[-1])


@pytest.mark.parametrize('balanced, best', [([50, 50, 50], 0), ([20, 30, 25], 1), ([0, 0, 0], 0)])
def test_the_first_of_the_best_balanced_accuracies_decides(monkeypatch, balanced, best):
    net = make_mlp()
    scores = iter(network.Score(3 - epoch, 10 * epoch, float(accuracy))
                  for epoch, accuracy in enumerate(balanced))
    monkeypatch.setattr(net, 'evaluate', lambda *pair: next(scores))
    weights, _ = train(net, 3)
    check_equal(net.arrays(), weights[best])
    assert differ(weights[0], weights[1])


# The average of the weights -----------------------------------------------------------------------

@pytest.mark.parametrize('rows, batches', [(50, 4), (49, 3), (16, 1)])
@pytest.mark.parametrize('decay', [0.9, 0.15])
def test_the_average_is_taken_over_every_step_validated_and_kept(rows, batches, decay):
    """49 rows in batches of 16 are three steps: the last single row joins the third batch."""
    net = convert(make_random(), np.float64)
    expected = copies(net)
    steps = itertools.count(1)

    def average(part):
        step = next(steps)
        share = 1 - min(decay, step / (step + 10))
        for name, array in net.arrays().items():
            expected[name] = expected[name] + share * (array - expected[name])

    training = Training(net, make_rows(rows), make_rows(30, 2), 3, 16, 0.05, ema_decay=decay)
    validated = []
    net.evaluate = lambda *pair: validated.append(copies(net)) or Network.evaluate(net, *pair)
    training.run(on_batch=average, verbose=False)
    assert training.steps == next(steps) - 1 == 3 * batches
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


# fit ----------------------------------------------------------------------------------------------

def test_fit_is_a_training_and_fit_again_starts_schedule_momentum_and_history_again():
    """As Network.fit says: two calls of 2 epochs are not one of 4."""
    settings = {'train': make_rows(50), 'validation': make_rows(30, 2), 'epochs': 2,
                'batch_size': 16, 'lr': 0.1, 'schedule': network.one_cycle, 'seed': 5,
                'ema_decay': 0.5, 'momentum': 0.9}
    net, expected = make_random(), make_random()
    for _ in range(2):
        history = net.fit(verbose=False, **settings)
        expected.velocity = {}      # what a new training forgets
        training = Training(expected, **settings)
        training.run(verbose=False)
        check_equal(net.arrays(), expected.arrays())
        assert net.history is history and len(history) == 2
    once = make_random()
    once.fit(verbose=False, **dict(settings, epochs=4))
    assert differ(once.arrays(), net.arrays())
    before = copies(net)
    assert net.fit(verbose=False, **dict(settings, epochs=0)) == []
    check_equal(net.arrays(), before)


@pytest.mark.parametrize('changes', [
    {'train': make_rows(8)[0]}, {'train': None}, {'train': make_rows(8) * 2},
    {'validation': make_rows(8)[0]}, {'train': make_rows(0)}, {'train': make_rows(1)},
    {'validation': (make_rows(8)[0], make_rows(8)[1] + 1)},
    {'validation': (make_rows(8)[0], make_rows(7)[1])},
    {'train': (make_rows(8)[0], make_rows(8)[1] - 1)}, {'batch_size': 0}, {'lr': -0.1},
    {'momentum': -1}, {'weight_decay': -1}, {'epochs': '2'}, {'batch': 3}],
    ids=lambda changes: str(changes)[:40])
@pytest.mark.parametrize('ema_decay', [0, 0.9])
def test_what_cannot_be_trained_leaves_the_weights_as_they_were(changes, ema_decay):
    net = Network([FullyConnected(FEATURES, 5), BatchNorm(5), FullyConnected(5, CLASSES)])
    before = copies(net)
    check_refused((ValueError, TypeError, IndexError),
                  lambda: train(net, ema_decay=ema_decay, **changes))
    check_equal(net.arrays(), before)


# Divergence ---------------------------------------------------------------------------------------

@pytest.mark.parametrize('ema_decay', [0, 0.9])
@pytest.mark.parametrize('epochs', [0, 1, 2])
def test_divergence_names_the_epoch_and_keeps_the_best_weights(epochs, ema_decay):
    """The second epoch learns nothing any more, the one after `epochs` good ones diverges."""
    net = convert(make_random(), np.float64)
    start = copies(net)
    rates = {0: 1, 1: 60, epochs: 1e300}
    kept = []
    net.evaluate = lambda *pair: kept.append(copies(net)) or Network.evaluate(net, *pair)
    weights, error = train(net, 3, schedule=lambda done: rates[int(3 * done + 1e-9)],
                           ema_decay=ema_decay)
    assert isinstance(error, FloatingPointError), error
    assert str(error).startswith(f'epoch {epochs + 1}'), error
    assert len(weights) == len(net.history) == epochs
    check_equal(net.arrays(), kept[int(np.argmax(accuracies(net)))] if epochs else start)


@pytest.mark.parametrize('sgd', [{}, {'momentum': 0.9, 'nesterov': True}, {'weight_decay': 0.1},
                                 {'ema_decay': 0.9}], ids=str)
@pytest.mark.parametrize('lr', [np.inf, 1e30])
def test_a_hopeless_learning_rate_is_told_without_a_warning_of_numpy(lr, sgd, recwarn):
    net = make_random()
    with pytest.raises(FloatingPointError, match='rate'):
        net.fit(make_rows(24), make_rows(12, 2), 3, 8, lr, verbose=False, **sgd)
    assert not recwarn.list, [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize('value, loss', [(np.nan, None), (np.inf, None), (1e25, SquaredError())],
                         ids=['nan', 'inf', 'overflow'])
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_rows_that_give_no_finite_loss_are_noticed(value, loss):
    rows, label = make_rows(50)
    rows[7] = value
    for which, wanted in (('train', 'row'), ('validation', 'rows 0 to 49')):
        net = make_mlp(loss=loss)
        before = copies(net)
        _, error = train(net, lr=1e-9, **{which: (rows, label)})
        assert isinstance(error, FloatingPointError) and wanted in str(error), error
        if which == 'validation':
            check_equal(net.arrays(), before)


def test_weights_that_are_not_finite_after_the_last_batch_are_refused(monkeypatch):
    net = make_mlp()
    before = copies(net)
    monkeypatch.setattr(net, 'update', lambda *rates, **sgd: net.layers[2].weight.fill(np.inf))
    _, error = train(net, validation=None, batch_size=50)
    assert '2.FullyConnected.weight' in str(error), error
    check_equal(net.arrays(), before)


# Which rows a network was trained on --------------------------------------------------------------

def test_a_network_knows_which_rows_its_trainings_did_not_see():
    net = make_mlp()
    rows, label = make_rows(30, 2)
    net.fit(make_rows(50), (rows, label), 1, 16, 0.1, verbose=False)
    net.fit(make_rows(50), None, 1, 16, 0.1, verbose=False)
    order = np.random.default_rng(0).permutation(30)
    assert net.held_back == {network.fingerprint(rows[order], label[order]), 'no rows'}
    different = [network.fingerprint(rows[:29], label[:29]), network.fingerprint(-rows, label),
                 network.fingerprint(rows, label[::-1])]
    assert len(set(different) - net.held_back) == 3
    pixels = np.arange(24).reshape(2, 3, 4)
    expected = network.fingerprint(pixels.astype(np.uint8), np.array([1, 2], np.uint8))
    assert network.fingerprint(pixels.reshape(2, 12), np.array([1, 2])) == expected
