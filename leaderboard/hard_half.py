"""A Training that leaves out, for most of the time, the rows that the network has already learned.

    training = HardHalf(net, train, validation, **settings)      # in the place of network.Training

The first and the last sixth of the epochs, at least one each, take all rows. Each of the others
takes only the half of the rows to whose labels the network gave the least probabilities, when it
was last trained on them. So it takes half the time. The schedule of the learning rate counts rows,
not epochs. Jiang et al. 2019 (arXiv:1910.00762) call this selective back propagation with stale
losses.
"""
import numpy as np

from network import Training


class HardHalf(Training):
    """`right` (N,) holds the probability of each row's label at the last step with that row.

    The weights after the last epoch are kept. To choose an epoch by validation would favour the
    validation rows.
    """

    def __init__(self, net, train, validation, epochs, *arguments, **settings):
        super().__init__(net, train, validation, epochs, *arguments, **settings)
        self.right = np.zeros(len(self.train[1]), np.float32)
        whole = max(1, epochs // 6)
        self.shares = [1 if min(epoch, epochs - 1 - epoch) < whole else 0.5
                       for epoch in range(epochs)]      # of the rows
        rows = np.cumsum([0] + self.shares)
        schedule = self.schedule
        self.schedule = lambda done: schedule(
            np.interp(done * epochs, range(epochs + 1), rows / rows[-1]))

    def train_rows(self, order, on_batch):
        """As in Training, in the middle epochs for the hard half of the rows."""
        if self.shares[len(self.history)] < 1:
            hard = np.zeros(len(self.right), bool)
            half = len(hard) // 2 + 1      # two or more, for BatchNorm
            hard[np.argsort(self.right, kind='stable')[:half]] = True
            order = order[hard[order]]
        return super().train_rows(order, on_batch)

    def step(self, rows, lr):
        """As in Training."""
        predict, loss = super().step(rows, lr)
        self.right[rows] = predict[np.arange(len(rows)), self.train[1][rows]]
        return predict, loss

    def is_best(self, validated):
        """True, so the last epoch is kept."""
        return True
