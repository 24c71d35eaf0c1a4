"""The convolution of layer.py with a fifth of its multiplications, by the method of Toom and Cook.

    Conv2d(16, 32)      takes the place of layer.Conv2d(16, 32): same weights, same gradients

The plain layer multiplies 9 numbers for each output and channel. In one dimension, 6 outputs

    a_y = w_0 z_y + w_1 z_{y+1} + w_2 z_{y+2}        for y = 0..5

cost 18 multiplications. Toom and Cook need 8:

    1. B' z      8 sums of the 8 pixels z, each with constant factors
    2. G w       8 such sums of the 3 weights; multiply each with the one of z
    3. A'        the 6 outputs, as such sums of the 8 products:        a = A'((G w) * (B' z))

The images are cut into tiles of 6 x 6 outputs. Steps 1 and 3 are done along both axes: first down
the columns, then along the rows. So a tile costs 64 products in place of 324. Each product is
summed over the channels, which makes 64 matrix products of all tiles with all kernels.

    V = B' z B     (64, tiles, C)      U = G w G'     (64, C, O)      a = A' (V U) A

backward is the same three steps in reverse order, each transposed. In float32 all results are
about 1e-5 of the greatest value less exact than those of the plain layer.

Two more things make it fast. Images are held as (H, W, N, C) in memory, so that a sum of pixels is
a sum of long rows; outside, they are transposed views with the shape (N, H, W, C). And a few images
at a time go through all steps, while they are in the cache.

Toom 1963, Cook 1966. For networks: Lavin, Gray 2015 (arXiv:1509.09308).
"""
import functools

import numpy as np

import layer

TILE = 6            # outputs of a tile along each axis
VALUES = 8          # TILE + 3 - 1 pixels that they depend on, and the number of products
CACHED = 2 ** 19    # numbers that are worked on at a time

# 7 points and infinity. These round off less than whole numbers; see test_fast_conv2d.py
POINTS = np.array([0, 1 / 2, -1 / 2, 1, -1, 2, -2])


class Conv2d(layer.Conv2d):
    """layer.Conv2d, faster for kernels of 3 x 3 pixels and for images of one channel."""

    def forward(self, input):
        """(N, H, W, C) -> (N, H, W, O)."""
        if not self.is_fast():
            return super().forward(input)
        dtype = np.result_type(input, self.weight)
        weight = self.weight.astype(dtype, copy=False)
        images = input.astype(dtype, copy=False).transpose(1, 2, 0, 3)
        self.values = empty_values(images, weight)
        output = join_parts(correlate_parts(images, weight, self.values),
                            images.shape[:3] + weight.shape[3:], dtype)
        if self.bias is not None:
            output += self.bias
        return output.transpose(2, 0, 1, 3)

    def backward(self, output_grad):
        """(N, H, W, O) -> (N, H, W, C)."""
        if not self.is_fast():
            return super().backward(output_grad)
        if self.bias is not None:
            self.bias_grad = output_grad.reshape(-1, self.out_channels).sum(axis=0, keepdims=True)
        self.weight_grad, input_grad = correlate_backward(self.values, output_grad, self.weight,
                                                          self.needs_input_grad)
        return input_grad

    def is_fast(self):
        """True if this module computes it, False if layer.py does."""
        return self.kernel_size == 3 or self.in_channels == 1


def empty_values(images, weight):
    """-> an array for what the backward of images (H, W, N, C) needs: the values of step 1."""
    height, width, rows, channels = images.shape
    shape = weight.shape[:2] + (height, width, rows)
    if channels > 1:
        shape = (VALUES, VALUES, tile_count(images) * rows, channels)
    return np.empty(shape, images.dtype)


def correlate_parts(images, weight, values=None):
    """Images (H, W, N, C) -> yield (a slice of a few images, their outputs (H, W, n, O)).

    `values` of `empty_values` are filled, if given.
    """
    correlate = correlate_one_channel if images.shape[3] == 1 else correlate_tiles
    return correlate(images, weight, values)


def join_parts(parts, shape, dtype):
    """The (slice, outputs) of correlate_parts -> all outputs, (H, W, N, O)."""
    output = np.empty(shape, dtype)
    for part, output_part in parts:
        output[:, :, part] = output_part
    return output


def correlate_backward(values, output_grad, weight, needs_input_grad=True):
    """-> dE/dw (k, k, C, O) and dE/dz (N, H, W, C), or None where it is not needed."""
    grad = output_grad.transpose(1, 2, 0, 3)
    backward = one_channel_backward if weight.shape[2] == 1 else tiles_backward
    weight_grad, input_grad = backward(values, grad, weight, needs_input_grad)
    return weight_grad, input_grad.transpose(2, 0, 1, 3) if needs_input_grad else None


# One channel: the plain sum --------------------------------------------------------------------

def correlate_one_channel(images, weight, values):
    """correlate_parts for (H, W, N, 1). The values are the shifted images, (k, k, H, W, N)."""
    height, width, rows, _ = images.shape
    k, outputs = len(weight), weight.shape[3]
    step = max(1, CACHED // (height * width * outputs))
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        count = part.stop - part.start
        padded = np.zeros((height + k - 1, width + k - 1, count), images.dtype)
        padded[k // 2:k // 2 + height, k // 2:k // 2 + width] = images[:, :, part, 0]
        shifted = np.empty((k, k, height, width, count), images.dtype)
        for u in range(k):
            for v in range(k):
                shifted[u, v] = padded[u:u + height, v:v + width]
        if values is not None:
            values[..., part] = shifted
        output = shifted.reshape(k * k, -1).T @ weight.reshape(k * k, outputs)
        yield part, output.reshape(height, width, count, outputs)


def one_channel_backward(shifted, grad, weight, needs_input_grad):
    """Gradients of correlate_one_channel."""
    height, width, rows, outputs = grad.shape
    k = len(weight)
    grad = grad.reshape(-1, outputs)
    weight_grad = (shifted.reshape(k * k, -1) @ grad).reshape(weight.shape)
    if not needs_input_grad:
        return weight_grad, None
    shifted_grad = (weight.reshape(k * k, -1) @ grad.T).reshape(k, k, height, width, rows)
    padded = np.zeros((height + k - 1, width + k - 1, rows), grad.dtype)
    for u in range(k):
        for v in range(k):
            padded[u:u + height, v:v + width] += shifted_grad[u, v]
    inner = padded[k // 2:k // 2 + height, k // 2:k // 2 + width]
    return weight_grad, inner[:, :, :, np.newaxis]


# Toom and Cook ------------------------------------------------------------------------------------

def tile_pixels(size, side=TILE):
    """-> for each tile along an axis, which pixels of the image it has, and which of its own.

    A tile has `side` pixels: TILE, and a border around them. What is outside the image is left out.
    """
    border = (side - TILE) // 2
    found = []
    for start in range(-border, size - border, TILE):
        pixels = slice(max(0, start), min(size, start + side))
        found.append((pixels, slice(pixels.start - start, pixels.stop - start)))
    return found


def tile_count(images):
    """How many tiles one of the images (H, W, N, C) has."""
    return len(tile_pixels(images.shape[0])) * len(tile_pixels(images.shape[1]))


def image_parts(images, weight):
    """-> for a few images at a time, the slice of the images and that of their tiles."""
    count = tile_count(images)
    channels, outputs = weight.shape[2:]
    kernel_size = VALUES * VALUES * channels * outputs
    image_size = VALUES * VALUES * count * (channels + outputs)
    step = max(1, max(CACHED, kernel_size // 2) // image_size)
    return [(slice(start, start + step), slice(start * count, (start + step) * count))
            for start in range(0, images.shape[2], step)]


def correlate_tiles(images, weight, values):
    """correlate_parts by Toom and Cook. The values are V, (8, 8, tiles * N, C)."""
    A, B, G = toom_cook(images.dtype)
    U = both_axes(G, weight)
    for part, tiles in image_parts(images, weight):
        few = images[:, :, part]
        V = empty_values(few, weight) if values is None else values[:, :, tiles]
        pixels_to_values(B.T, few, V)
        output = np.empty(few.shape[:3] + weight.shape[3:], images.dtype)
        values_to_pixels(A.T, V @ U, output)
        yield part, output


def tiles_backward(V, grad, weight, needs_input_grad):
    """Gradients of correlate_tiles: every step transposed."""
    A, B, G = toom_cook(grad.dtype)
    products_grad = np.empty(V.shape[:3] + grad.shape[3:], grad.dtype)
    input_grad = None
    if needs_input_grad:
        U_turned = both_axes(G, np.ascontiguousarray(weight.transpose(0, 1, 3, 2)))
        input_grad = np.empty(grad.shape[:3] + V.shape[3:], grad.dtype)
    for part, tiles in image_parts(grad, weight):
        grad_part = products_grad[:, :, tiles]
        pixels_to_values(A, grad[:, :, part], grad_part)
        if needs_input_grad:
            values_to_pixels(B, grad_part @ U_turned, input_grad[:, :, part])
    U_grad = V.transpose(0, 1, 3, 2) @ products_grad
    return both_axes(G.T, U_grad), input_grad


def pixels_to_values(matrix, images, values):
    """Apply `matrix` (8, p) to both axes of each tile of p x p pixels. Outside the image is 0.

    Images (H, W, n, C) -> values (8, 8, tiles * n, C), an array that is filled.
    """
    height, width, rows, channels = images.shape
    side = matrix.shape[1]
    down, across = tile_pixels(height, side), tile_pixels(width, side)
    images = images.reshape(height, width, rows * channels)
    columns = np.empty((len(down), VALUES) + images.shape[1:], images.dtype)
    for i, (pixels, inner) in enumerate(down):
        np.matmul(matrix[:, inner], images[pixels].transpose(1, 0, 2),
                  out=columns[i].transpose(1, 0, 2))
    values = values.reshape(VALUES, VALUES, len(down), len(across), rows * channels)
    for j, (pixels, inner) in enumerate(across):
        np.matmul(matrix[:, inner], columns[:, :, pixels],
                  out=values[:, :, :, j].transpose(2, 0, 1, 3))


def values_to_pixels(matrix, values, images):
    """The transpose of pixels_to_values, matrix (p, 8): tiles are added where they overlap."""
    height, width, rows, channels = images.shape
    side = len(matrix)
    down, across = tile_pixels(height, side), tile_pixels(width, side)
    images = images.reshape(height, width, rows * channels)
    values = values.reshape(VALUES, VALUES, len(down), len(across), rows * channels)
    columns = np.empty((len(down), VALUES) + images.shape[1:], images.dtype)
    for j, (pixels, inner) in enumerate(across):
        add_tile(matrix[inner], values[:, :, :, j].transpose(2, 0, 1, 3), columns[:, :, pixels],
                 side - TILE if j > 0 else 0)
    for i, (pixels, inner) in enumerate(down):
        add_tile(matrix[inner], columns[i].transpose(1, 0, 2), images[pixels].transpose(1, 0, 2),
                 side - TILE if i > 0 else 0)


def add_tile(matrix, values, place, shared):
    """place <- matrix @ values, added to what the tile before has in the `shared` first pixels."""
    before = place[..., :shared, :].copy()
    np.matmul(matrix, values, out=place)
    place[..., :shared, :] += before


def both_axes(matrix, array):
    """matrix (p, q) and an array (q, q, ...) -> (p, p, ...): the matrix applied to both axes."""
    p, q = matrix.shape
    columns = array.reshape(q, q, -1).transpose(1, 0, 2)
    rows = (matrix @ columns).transpose(1, 0, 2)
    return (matrix @ rows).reshape((p, p) + array.shape[2:])


@functools.lru_cache(maxsize=None)
def toom_cook(dtype):
    """-> A (8, 6), B (8, 8), G (8, 3) with a = A'((G w) * (B' z)).

    The product of two polynomials with 6 and 3 coefficients has degree 7. It is determined by its
    values at 7 points and its leading coefficient, the "value at infinity". A and G evaluate the
    two polynomials there, and B goes back to coefficients (Lagrange): s = B((A r) * (G w)). The sum
    of a convolution is the transpose of this map with respect to r.
    """
    A = np.vstack([np.vander(POINTS, TILE, increasing=True), np.eye(TILE)[-1:]])
    G = np.vstack([np.vander(POINTS, 3, increasing=True), np.eye(3)[-1:]])
    B = np.zeros((VALUES, VALUES))
    for index, point in enumerate(POINTS):
        others = np.delete(POINTS, index)
        B[:-1, index] = np.poly(others)[::-1]      # prod (x - q) over the other points q
        G[index] /= np.prod(point - others)
    B[:, -1] = np.poly(POINTS)[::-1]
    return A.astype(dtype), B.astype(dtype), G.astype(dtype)
