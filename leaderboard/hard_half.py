"""A Training that leaves out, for most of the time, the rows that the network has already learned.

    training = HardHalf(net, train, validation, **settings)      # in the place of network.Training

Between its first and its last epoch, each epoch takes only the half of the rows to whose labels the
network gave the least probabilities, when it was last trained on them. So it takes half the time.
Jiang et al. 2019 (arXiv:1910.00762) call this selective back propagation with stale losses.
"""
import numpy as np

from network import Training


class HardHalf(Training):
    """`right` (N,) holds the probability of each row's label at the last step with that row."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.right = np.zeros(len(self.train[1]), np.float32)

    def train_rows(self, order, on_batch):
        """As in Training, for the hard half of the rows in all epochs but the first and last."""
        if 0 < len(self.history) < self.epochs - 1:
            hard = np.zeros(len(self.right), bool)
            hard[np.argsort(self.right, kind='stable')[:len(hard) // 2 + 1]] = True
            order = order[hard[order]]
        return super().train_rows(order, on_batch)

    def step(self, rows, lr):
        """As in Training."""
        predict, loss = super().step(rows, lr)
        self.right[rows] = predict[np.arange(len(rows)), self.train[1][rows]]
        return predict, loss
