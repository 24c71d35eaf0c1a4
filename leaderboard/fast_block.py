"""Conv2d, MaxPool2d, BatchNorm and ReLU as one block, with fewer passes through memory.

    layers = fuse(layers)      # a list of layers, in which blocks take the place of such runs

A pass through an array larger than the cache takes as long as several sums in the cache. So the
block takes these short cuts. Each gives the numbers of the plain layers.

- Images are (H, W, N, O) in memory. BatchNorm works on rows (H * W, N * O), a pixel of all images.
  NumPy takes far longer for many short rows, (N * H * W, O). The arrays are the block's own, so it
  changes them in place.
- A few images go through the convolution and the maximum while they are in the cache.
- In evaluation nothing is kept for `backward`.
"""
import numpy as np

import fast_conv2d
from layer import BatchNorm, MaxPool2d, ReLU, _Layer

RUNS = ((fast_conv2d.Conv2d, MaxPool2d, BatchNorm, ReLU), (fast_conv2d.Conv2d, BatchNorm, ReLU))


def fuse(layers):
    """-> a list of the layers, in which a Block stands for each run of layers as in RUNS."""
    fused = []
    while layers:
        length = run_length(layers)
        fused.append(Block(layers[:length]) if length else layers[0])
        layers = layers[max(1, length):]
    return fused


def run_length(layers):
    """How many layers at the start of the list a Block can compute, 0 if it cannot."""
    for run in RUNS:
        if tuple(type(layer) for layer in layers[:len(run)]) == run:
            return len(run) if layers[0].is_fast() and layers[0].bias is None else 0
    return 0


class Block(_Layer):
    """The layers of a run. They keep their parameters and get their gradients.

    Each `backward` needs a new forward in training: it changes in place what forward kept.
    """

    kept = None      # what backward needs

    def __init__(self, layers):
        self.layers = layers
        self.conv = layers[0]
        self.norm = layers[-2]
        self.pools = type(layers[1]) is MaxPool2d

    def forward(self, input):
        """(N, H, W, C) -> (N, H, W, O), with half the sides if the run has a MaxPool2d."""
        norm = self.norm
        in_training = self.training and norm.training
        self.weight = self.conv.weight      # Network.backward sees that the block has weights
        input = input.astype(np.result_type(input, self.weight), copy=False)
        images = input.transpose(1, 2, 0, 3)      # (H, W, N, C), as in memory
        values = fast_conv2d.empty_values(images, self.weight) if in_training else None
        shape = images.shape[:3] + (norm.features,)
        parts = fast_conv2d.correlate_parts(images, self.weight, values)
        if self.pools:
            sums, winners = pool_parts(parts, shape, images.dtype, in_training)
        else:
            sums, winners = fast_conv2d.join_parts(parts, shape, images.dtype), None
        mean, var = norm.running_mean, norm.running_var
        if in_training:
            count = sums.size // norm.features
            mean = channel_sums(sums) / count
            change(sums, np.subtract, mean)
            var = channel_products(sums, sums) / count
            norm.update_running(mean, var, count)
            mean = 0      # of what is now in sums
        std = np.sqrt(var + norm.eps)
        scale = norm.weight / std
        output = np.empty_like(sums) if in_training else sums
        scale_shift_relu(sums, scale, norm.bias - scale * mean, output)
        self.kept = (shape, values, winners, sums, std, output) if in_training else None
        return output.transpose(2, 0, 1, 3)

    def backward(self, output_grad):
        """dE/d(output) -> dE/d(input). Set the gradients of the layers."""
        if self.kept is None:
            raise RuntimeError(f'{self} needs a forward in training before each backward')
        shape, values, winners, sums, std, output = self.kept
        self.kept = None
        norm = self.norm
        count = sums.size // norm.features
        grad = np.multiply(output_grad.transpose(1, 2, 0, 3), output > 0, order='C')
        norm.bias_grad = channel_sums(grad)
        norm.weight_grad = channel_products(grad, sums) / std      # sum of grad * xhat
        # dE/da = scale * (grad - mean of grad - xhat * mean of grad * xhat)
        scale = norm.weight / std
        change(grad, np.multiply, scale)
        change(sums, np.multiply, -scale * norm.weight_grad / (std * count))
        change(sums, np.subtract, scale * norm.bias_grad / count)
        sums += grad
        if self.pools:
            sums = unpool(sums, winners, shape)
        self.conv.weight_grad, input_grad = fast_conv2d.correlate_backward(
            values, sums.transpose(2, 0, 1, 3), self.weight, self.needs_input_grad)
        return input_grad

    def __repr__(self):
        return ' + '.join(map(repr, self.layers))


# Images are (H, W, N, O) here, and (1, O) has a number for each channel ---------------------------

def channel_sums(images):
    """The sum over all pixels, (1, O), as a matrix product with ones."""
    rows = pixel_rows(images)
    sums = np.ones((1, len(rows)), rows.dtype) @ rows
    return sums.reshape(-1, images.shape[3]).sum(axis=0, keepdims=True)


def channel_products(first, second):
    """The sum over all pixels of the products of two arrays, (1, O)."""
    sums = np.einsum('rd,rd->d', pixel_rows(first), pixel_rows(second))
    return sums.reshape(-1, first.shape[3]).sum(axis=0, keepdims=True)


def change(images, function, vector):
    """images <- function(images, vector) in place."""
    rows = pixel_rows(images)
    function(rows, np.tile(vector, images.shape[2]), out=rows)


def scale_shift_relu(images, scale, shift, output):
    """output <- max(0, scale * images + shift)."""
    rows = pixel_rows(output)
    np.multiply(pixel_rows(images), np.tile(scale, images.shape[2]), out=rows)
    rows += np.tile(shift, images.shape[2])
    np.maximum(rows, np.zeros_like(rows[:1]), out=rows)      # faster than with the number 0


def pixel_rows(images):
    """(H, W, N, O) -> (H * W, N * O), in the same memory."""
    height, width, rows, channels = images.shape
    return images.reshape(height * width, rows * channels)


def pool_parts(parts, shape, dtype, in_training):
    """MaxPool2d.forward for the (slice, images) of correlate_parts, while they are in the cache.

    -> the greatest of each 2 x 2 square, and in training which of its pixels won. An odd side gets
    a copy of its last row or column, which loses every tie.
    """
    height, width, rows, channels = shape
    down, across = (height + 1) // 2, (width + 1) // 2
    top_wins = np.empty((down, 2 * across, rows, channels), bool)
    left_wins = np.empty((down, across, rows, channels), bool)
    pooled = np.empty(left_wins.shape, dtype)
    for part, images in parts:
        if height % 2 or width % 2:
            images = np.pad(images, ((0, height % 2), (0, width % 2), (0, 0), (0, 0)), mode='edge')
        top, bottom = images[0::2], images[1::2]
        higher = np.maximum(top, bottom)
        left, right = higher[:, 0::2], higher[:, 1::2]
        np.maximum(left, right, out=pooled[:, :, part])
        if in_training:
            np.greater_equal(top, bottom, out=top_wins[:, :, part])
            np.greater_equal(left, right, out=left_wins[:, :, part])
    return pooled, (top_wins, left_wins)


def unpool(grad, winners, shape):
    """MaxPool2d.backward: give the gradient to the pixels that won -> images of that shape."""
    top_wins, left_wins = winners
    higher_grad = np.empty(top_wins.shape, grad.dtype)
    left, right = higher_grad[:, 0::2], higher_grad[:, 1::2]
    np.multiply(grad, left_wins, out=left)
    np.subtract(grad, left, out=right)            # exact, because one of the two is 0
    images_grad = np.empty((2 * len(top_wins),) + top_wins.shape[1:], grad.dtype)
    top, bottom = images_grad[0::2], images_grad[1::2]
    np.multiply(higher_grad, top_wins, out=top)
    np.subtract(higher_grad, top, out=bottom)
    return images_grad[:shape[0], :shape[1]]
