"""A Training that leaves out, for most of the time, the rows that the network has already learned.

    training = HardHalf(net, train, validation, **settings)      # in the place of network.Training

The first and the last sixth of the epochs take all rows. Each of the others takes only the half of
the rows to whose labels the network gave the least probabilities, when it was last trained on them,
so it takes half the time. The schedule of the learning rate counts rows, not epochs. Jiang et al.
2019 (arXiv:1910.00762) call this selective back propagation with stale losses.
"""
import numpy as np

from network import Training


class HardHalf(Training):
    """`right` (N,) holds the probability of each row's label at the last step with that row.

    The weights of the last epoch are kept: the best one by validation would know those rows.
    """

    def __init__(self, net, train, validation, epochs, *arguments, **settings):
        super().__init__(net, train, validation, epochs, *arguments, **settings)
        self.right = np.zeros(len(self.train[1]), np.float32)
        self.full = max(1, epochs // 6)      # epochs with all rows, at the start and at the end
        schedule = self.schedule
        self.schedule = lambda done: schedule(self.part_of_rows(done))

    def part_of_rows(self, done):
        """The part of the epochs that is done -> the part of the rows that is done."""
        middle = max(0, self.epochs - 2 * self.full)
        epochs = [0, self.full, self.full + middle, self.epochs]
        rows = [0, self.full, self.full + middle / 2, self.epochs - middle / 2]
        return np.interp(done, np.divide(epochs, self.epochs), np.divide(rows, rows[-1]))

    def train_rows(self, order, on_batch):
        """As in Training, for the hard half of the rows in the middle epochs."""
        if self.full <= len(self.history) < self.epochs - self.full:
            hard = np.zeros(len(self.right), bool)
            hard[np.argsort(self.right, kind='stable')[:len(hard) // 2 + 1]] = True
            order = order[hard[order]]
        return super().train_rows(order, on_batch)

    def is_best(self, validated):
        """True: see above."""
        return True

    def step(self, rows, lr):
        """As in Training."""
        predict, loss = super().step(rows, lr)
        self.right[rows] = predict[np.arange(len(rows)), self.train[1][rows]]
        return predict, loss
