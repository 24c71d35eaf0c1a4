"""The convolution of layer.py by the method of Toom and Cook: fewer multiplications, same numbers.

    Conv2d(16, 32)      takes the place of layer.Conv2d(16, 32): same weights, same gradients

The plain layer multiplies k * k * C numbers for each output. Here the sum over v and c, along a row
of the image, stays a matrix product. The sum over u, down a column, is

    a_y = sum_u w_u z_{y+u}        for y = 0..m-1, with m = 10 - k

which costs m * k multiplications if it is written out. Toom and Cook need 9, in three steps:

    1. B' z      9 linear combinations of the column's 9 pixels (m + k - 1 = 9)
    2. G w       9 linear combinations of the kernel's k numbers, multiplied with those of 1.
    3. A'        the m outputs as linear combinations of the 9 products:   a = A'((G w) * (B' z))

For k = 3 that is 9 products in place of 21. Steps 1 and 3 are matrix products themselves, with
small constant matrices. In float32 the result is about 1e-5 of the greatest value less exact.
Toom 1963, Cook 1966. For networks: Lavin, Gray 2015 (arXiv:1509.09308).
"""
import functools

import numpy as np

import layer

POINTS = np.array([0, 1, -1, 2, -2, 0.5, -0.5, 0.75])
PRODUCTS = 9        # the 8 points, and "infinity"
BLOCK = 2 ** 20     # numbers that are worked on at a time, so that they stay in the cache


class Conv2d(layer.Conv2d):
    """layer.Conv2d with the sum down a column by Toom and Cook's method."""

    def forward(self, input):
        """(N, H, W, C) -> (N, H, W, O)."""
        self.check_input(input)
        output = correlate(input, self.weight)
        if self.bias is not None:
            output += self.bias
        self.remember(output, input)
        return output

    def backward(self, output_grad):
        """(N, H, W, O) -> (N, H, W, C)."""
        input = self.recall(output_grad)
        self.weight_grad = correlation_grad(input, output_grad, self.kernel_size)
        if self.bias is not None:
            self.bias_grad = output_grad.reshape(-1, self.out_channels).sum(axis=0, keepdims=True)
        if not self.needs_input_grad:
            return None
        turned = self.weight[::-1, ::-1].transpose(0, 1, 3, 2)
        return correlate(output_grad, turned)


def correlate(images, weight):
    """Images (N, H, W, C) and a kernel (k, k, C, O) -> (N, H, W, O): a = A'((G w) * (B' z))."""
    rows, height, width, channels = images.shape
    k, outputs = len(weight), weight.shape[3]
    A, _, G = toom_cook(k, images.dtype)
    m = A.shape[1]
    Gw = np.tensordot(G, weight, 1).reshape(PRODUCTS, k * channels, outputs)
    output = np.empty((rows, strip_count(height, m), m, width * outputs), images.dtype)
    for part, Bz in transformed_windows(images, k, outputs):
        products = (Bz @ Gw).reshape((PRODUCTS,) + output[part].shape[:2] + (width * outputs,))
        np.matmul(A.T, np.moveaxis(products, 0, 2), out=output[part])
    return output.reshape(rows, output.shape[1] * m, width, outputs)[:, :height]


def correlation_grad(images, output_grad, k):
    """Images (N, H, W, C) and dE/da (N, H, W, O) -> dE/dw (k, k, C, O)."""
    channels, outputs = images.shape[3], output_grad.shape[3]
    A, _, G = toom_cook(k, images.dtype)
    Gw_grad = np.zeros((PRODUCTS, k * channels, outputs), images.dtype)
    for part, Bz in transformed_windows(images, k, outputs):
        grad = strips(output_grad[part], A.shape[1], 0)
        products_grad = np.empty((PRODUCTS,) + grad.shape[:2] + grad.shape[3:], images.dtype)
        np.matmul(A, grad, out=np.moveaxis(products_grad, 0, 2))
        Gw_grad += Bz.transpose(0, 2, 1) @ products_grad.reshape(PRODUCTS, -1, outputs)
    return np.tensordot(G.T, Gw_grad, 1).reshape(k, k, channels, outputs)


def transformed_windows(images, k, outputs):
    """Yield (slice of the images, B' z of their windows (9, pixels of a strip's row, k * C)).

    A slice holds as many images as fit into BLOCK.
    """
    rows, height, width, channels = images.shape
    _, B, _ = toom_cook(k, images.dtype)
    m = PRODUCTS + 1 - k
    size = PRODUCTS * strip_count(height, m) * width * (k * channels + outputs)
    step = max(1, BLOCK // size)
    for start in range(0, rows, step):
        # (n, strips, 9, (W + k - 1) * C): the combinations of each column of each strip
        Bz = np.ascontiguousarray(B.T @ strips(images[start:start + step], m, k // 2))
        n, s, product, number = Bz.strides
        # The window of a pixel is the k pixels beside it: the same memory, read in steps of a pixel
        shape = (PRODUCTS,) + Bz.shape[:2] + (width, k * channels)
        strides = (product, n, s, channels * number, number)
        windows = np.ndarray(shape, Bz.dtype, Bz, strides=strides)
        yield slice(start, start + len(Bz)), windows.reshape(PRODUCTS, -1, k * channels)


def strips(images, m, border):
    """(n, H, W, C) -> (n, strips, m + 2 * border, (W + 2 * border) * C), with zeros around.

    Strips of m rows, and `border` rows above and below, which they share with their neighbours.
    """
    rows, height, width, channels = images.shape
    count = strip_count(height, m)
    padded = np.zeros((rows, count * m + 2 * border, width + 2 * border, channels), images.dtype)
    padded[:, border:border + height, border:border + width] = images
    n, y, x, c = padded.strides
    shape = (rows, count, m + 2 * border, padded.shape[2] * channels)
    return np.ndarray(shape, padded.dtype, padded, strides=(n, m * y, y, c))


def strip_count(height, m):
    """How many strips of m rows cover the height."""
    return (height + m - 1) // m


@functools.lru_cache(maxsize=None)
def toom_cook(k, dtype):
    """-> A (9, m), B (9, 9), G (9, k) with a = A'((G w) * (B' z)), for kernels of k numbers.

    The product of two polynomials with m and k coefficients has degree 8. It is determined by its
    values at 8 points and its leading coefficient, the "value at infinity". A and G evaluate the
    two polynomials, and B goes back to coefficients (Lagrange): s = B((A r) * (G w)). The sum of a
    convolution is the transpose of this map with respect to r.
    """
    m = PRODUCTS + 1 - k
    A = np.vstack([np.vander(POINTS, m, increasing=True), np.eye(m)[-1:]])
    G = np.vstack([np.vander(POINTS, k, increasing=True), np.eye(k)[-1:]])
    B = np.zeros((PRODUCTS, PRODUCTS))
    for index, point in enumerate(POINTS):
        others = np.delete(POINTS, index)
        B[:8, index] = np.poly(others)[::-1]      # prod (x - q) over the other points q
        G[index] /= np.prod(point - others)
    B[:, 8] = np.poly(POINTS)[::-1]
    return A.astype(dtype), B.astype(dtype), G.astype(dtype)
