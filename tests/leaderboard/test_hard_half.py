"""HardHalf takes the rows that it says, and else trains as Training."""
import numpy as np
import pytest

from hard_half import HardHalf
from network import Training, one_cycle
from small_networks import check_equal, copies, make_mlp, make_rows

SETTINGS = {'batch_size': 10, 'lr': 0.1, 'seed': 3}


class Recorder(HardHalf):
    """It keeps the rows of each epoch, the probabilities before it, and the rates of all steps.

    After a step, `right` must hold what the network has just predicted.
    """

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.taken = []
        self.rates = []

    def train_rows(self, order, on_batch):
        self.taken.append((self.right.copy(), []))
        return super().train_rows(order, on_batch)

    def step(self, rows, lr):
        self.taken[-1][1].extend(rows)
        self.rates.append(lr)
        predict, loss = super().step(rows, lr)
        expected = [row[label] for row, label in zip(predict, self.train[1][rows])]
        np.testing.assert_array_equal(self.right[rows], expected)
        return predict, loss


def test_the_middle_epochs_take_the_half_with_the_least_probabilities():
    training = Recorder(make_mlp(), make_rows(41), make_rows(12, 2), epochs=5, **SETTINGS)
    training.run(verbose=False)
    assert [len(rows) for _, rows in training.taken] == [41, 21, 21, 21, 41]
    for right, rows in training.taken[1:4]:
        left_out = np.setdiff1d(np.arange(41), rows)
        assert right[rows].max() <= right[left_out].min() and len(set(rows)) == 21
    assert len({tuple(sorted(rows)) for _, rows in training.taken[1:4]}) > 1


@pytest.mark.parametrize('epochs, full', [(1, 1), (2, 1), (3, 1), (6, 1), (12, 2), (13, 2)])
def test_the_schedule_counts_rows(epochs, full):
    training = Recorder(make_mlp(), make_rows(58), make_rows(12, 2), epochs=epochs,
                        schedule=lambda done: done, **dict(SETTINGS, batch_size=1, lr=1e-9))
    training.run(verbose=False)
    halves = max(0, epochs - 2 * full)
    sizes = [58] * min(full, epochs) + [30] * halves + [58] * min(full, epochs - full)
    assert [len(rows) for _, rows in training.taken] == sizes
    expected = np.arange(sum(sizes)) / sum(sizes)
    np.testing.assert_allclose(np.divide(training.rates, 1e-9), expected, atol=0.01)


def test_the_weights_of_the_last_epoch_are_kept():
    training = HardHalf(make_mlp(), make_rows(41), make_rows(12, 5), epochs=8, **SETTINGS)
    lasts = []
    training.run(lambda record: lasts.append(copies(training.net)), verbose=False)
    check_equal(training.net.arrays(), lasts[-1])
    accuracies = [record['validation']['balanced_accuracy'] for record in training.history]
    assert max(accuracies) > accuracies[-1], 'the best epoch should be another one'


def test_two_epochs_are_those_of_training():
    nets = [make_mlp(), make_mlp()]
    for kind, net in zip((HardHalf, Training), nets):
        kind(net, make_rows(41), None, epochs=2, schedule=one_cycle, momentum=0.9, ema_decay=0.9,
             **SETTINGS).run(verbose=False)
    check_equal(nets[0].arrays(), nets[1].arrays())


@pytest.mark.parametrize('count', [2, 3, 20])
def test_equal_probabilities_leave_enough_rows(count):
    rows, label = make_rows(count)
    training = Recorder(make_mlp(), (0 * rows, 0 * label), None, epochs=3,
                        **dict(SETTINGS, lr=0.0))
    training.run(verbose=False)
    assert len(set(training.right)) == 1
    assert [len(rows) for _, rows in training.taken] == [count, count // 2 + 1, count]
