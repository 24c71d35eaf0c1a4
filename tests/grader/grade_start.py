"""Write layer.py and network.py with blanks: the lab for whoever has no handout.

Each blank raises NotImplementedError with the number of its task in grade.py.
"""
import os

LAYER = '''"""The layers of a small neural network. Fill in the blanks, task 1 to task 9.

`forward` computes an output from an input. `backward` is given dE/d(output), where E is the loss,
and returns dE/d(input). A layer with weights also keeps the gradients of its weights.

    N rows of a batch     D input features     M output features     K classes

A blank is a line with NotImplementedError. Write your code in its place. What backward needs to
know of forward has to be kept, e.g. as self.input. No method changes an array that it is given.
"""
import numpy as np


class _Layer(object):
    def forward(self, *input):
        """Compute the output. Each layer has its own."""
        raise NotImplementedError

    def backward(self, *output_grad):
        """Compute dE/d(input) from dE/d(output). Each layer has its own."""
        raise NotImplementedError


class FullyConnected(_Layer):
    """Every output is a weighted sum of all inputs, plus a bias.

    weight (D, M) holds w_ji in weight[i, j]. bias (1, M) holds w_j0 in bias[0, j].
    """

    def __init__(self, in_features, out_features):
        self.weight = np.random.randn(in_features, out_features) * np.sqrt(2 / in_features)
        self.bias = np.zeros((1, out_features))
        self.weight_grad = None
        self.bias_grad = None

    def forward(self, input):
        """(N, D) -> (N, M).

        Task 1:    a_nj = sum_i x_ni w_ji + w_j0
        """
        raise NotImplementedError('task 1: FullyConnected.forward')

    def backward(self, output_grad):
        """(N, M) -> (N, D). Here output_grad is delta_nj = dE/da_nj.

        Task 2:    dE/dw_ji = sum_n x_ni delta_nj     self.weight_grad (D, M)
        Task 3:    dE/dw_j0 = sum_n delta_nj          self.bias_grad (1, M)
        Task 4:    dE/dx_ni = sum_j delta_nj w_ji     the result (N, D)
        """
        raise NotImplementedError('task 2: self.weight_grad in FullyConnected.backward')
        raise NotImplementedError('task 3: self.bias_grad in FullyConnected.backward')
        raise NotImplementedError('task 4: the result of FullyConnected.backward')


class ReLU(_Layer):
    """h(a) = max(0, a), element by element. Its derivative is 1 where a > 0, else 0."""

    def forward(self, input):
        """An array of any shape -> an array of the same shape.

        Task 5:    z = h(a) = max(0, a)
        """
        raise NotImplementedError('task 5: ReLU.forward')

    def backward(self, output_grad):
        """dE/dz -> dE/da, of the same shape.

        Task 6:    dE/da = h'(a) dE/dz
        """
        raise NotImplementedError('task 6: ReLU.backward')


def softmax(logits):
    """Logits a (N, K) -> probabilities y (N, K). Each row sums to 1.

    Task 7:    y_nk = exp(a_nk) / sum_j exp(a_nj)

    exp(1000) is inf. But softmax does not change when a number is added to all logits of a row.
    """
    raise NotImplementedError('task 7: softmax')


class SoftmaxWithLoss(_Layer):
    """Softmax, and the mean cross-entropy of its probabilities."""

    def forward(self, input, target):
        """Logits (N, K) and one-hot rows t (N, K) -> probabilities (N, K) and the loss, a number.

        Task 8:    E = -1/N sum_n sum_k t_nk ln y_nk

        y can round to 0, and ln 0 is -inf.
        """
        predict = softmax(input)
        raise NotImplementedError('task 8: the loss in SoftmaxWithLoss.forward')

    def backward(self):
        """-> dE/da (N, K), for the batch of the last forward.

        Task 9:    dE/da_nk = (y_nk - t_nk) / N
        """
        raise NotImplementedError('task 9: SoftmaxWithLoss.backward')
'''

NETWORK = '''"""A network of two layers with weights. Fill in the blanks, task 10 to task 12."""
from layer import *


class Network(object):
    def __init__(self):
        self.fc1 = FullyConnected(784, 60)
        self.act1 = ReLU()
        self.fc2 = FullyConnected(60, 47)
        self.loss = SoftmaxWithLoss()

    def forward(self, input, target):
        """Rows (N, 784) and one-hot rows (N, 47) -> probabilities (N, 47) and the loss.

        Task 10:   the output of each layer is the input of the next one.
        """
        raise NotImplementedError('task 10: Network.forward')

    def backward(self):
        """Set the gradients of all weights and biases.

        Task 11:   from the loss to the first layer, each layer's dE/d(input) is the dE/d(output)
        of the layer before it.
        """
        raise NotImplementedError('task 11: Network.backward')

    def update(self, lr):
        """Take a step of gradient descent with the learning rate lr.

        Task 12:   w <- w - lr dE/dw, for each weight and each bias
        """
        raise NotImplementedError('task 12: Network.update')
'''


def write(folder):
    """Write the two files into a new folder -> what to do next. FileExistsError if it exists."""
    os.makedirs(folder)
    for name, text in (('layer.py', LAYER), ('network.py', NETWORK)):
        with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
            file.write(text)
    return (f'Wrote {os.path.join(folder, "layer.py")} and network.py. Open layer.py, fill in '
            f'task 1, and run:\n\n    python tests/grade.py {folder}')
