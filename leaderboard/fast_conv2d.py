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
        tiles = Tiles(height, width, rows, channels, weight.shape[3])
        shape = (VALUES, VALUES, tiles.count * rows, channels)
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

class Tiles(object):
    """How images (H, W, N, channels) are cut into tiles, and the images into a few at a time."""

    def __init__(self, height, width, rows, channels, outputs):
        self.down = (height + TILE - 1) // TILE           # tiles in a column
        self.across = (width + TILE - 1) // TILE          # tiles in a row
        self.count = self.down * self.across              # tiles of an image
        self.full_height = TILE * self.down               # the sides with whole tiles
        self.full_width = TILE * self.across
        kernel_size = VALUES * VALUES * channels * outputs
        image_size = VALUES * VALUES * self.count * (channels + outputs)
        step = max(1, max(CACHED, kernel_size // 2) // image_size)
        self.parts = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def values(self, part):
        """The slice of the tiles of some images among all tiles."""
        return slice(part.start * self.count, part.stop * self.count)


def correlate_tiles(images, weight, values):
    """correlate_parts by Toom and Cook. The values are V, (8, 8, N * tiles, C)."""
    height, width, rows, channels = images.shape
    tiles = Tiles(height, width, rows, channels, weight.shape[3])
    A, B, G = toom_cook(images.dtype)
    U = both_axes(G, weight)
    for part in tiles.parts:
        V = None if values is None else values[:, :, tiles.values(part)]
        V = pixels_to_values(B.T, images[:, :, part], 1, tiles, V)
        output = values_to_pixels(A.T, V @ U, tiles)
        yield part, np.ascontiguousarray(output[:height, :width])


def tiles_backward(V, grad, weight, needs_input_grad):
    """Gradients of correlate_tiles: every step transposed."""
    height, width, rows, outputs = grad.shape
    channels = V.shape[3]
    tiles = Tiles(height, width, rows, channels, outputs)
    A, B, G = toom_cook(grad.dtype)
    products_grad = np.empty(V.shape[:3] + (outputs,), grad.dtype)
    if needs_input_grad:
        U_turned = both_axes(G, np.ascontiguousarray(weight.transpose(0, 1, 3, 2)))
        images_grad = np.empty((height, width, rows, channels), grad.dtype)
    for part in tiles.parts:
        grad_part = products_grad[:, :, tiles.values(part)]
        pixels_to_values(A, grad[:, :, part], 0, tiles, grad_part)
        if needs_input_grad:
            V_grad = grad_part @ U_turned
            padded = values_to_pixels(B, V_grad, tiles)
            images_grad[:, :, part] = padded[1:1 + height, 1:1 + width]
    U_grad = V.transpose(0, 1, 3, 2) @ products_grad
    weight_grad = both_axes(G.T, U_grad)
    return weight_grad, images_grad if needs_input_grad else None


def pixels_to_values(matrix, images, border, tiles, values=None):
    """Apply `matrix` (8, p) to both axes of each tile of p x p pixels.

    Images (H, W, n, C) -> (8, 8, tiles * n, C), into `values` if given. `border` pixels of zero are
    put around the images; tiles with a border overlap.
    """
    height, width, rows, channels = images.shape
    side = matrix.shape[1]
    shape = (tiles.full_height + 2 * border, tiles.full_width + 2 * border, rows, channels)
    if images.shape != shape:
        padded = np.empty(shape, images.dtype)
        padded[:border], padded[border + height:] = 0, 0
        padded[:, :border], padded[:, border + width:] = 0, 0
        padded[border:border + height, border:border + width] = images
        images = padded
    if values is None:
        values = np.empty((VALUES, VALUES, tiles.count * rows, channels), images.dtype)
    images = images.reshape(shape[:2] + (rows * channels,))
    strips = overlapping(images.transpose(1, 0, 2), tiles.down, side)      # (width, down, side, nC)
    columns = (matrix @ strips).transpose(1, 2, 0, 3)                      # (down, 8, width, nC)
    pixels = overlapping(columns, tiles.across, side)                      # (.., across, side, nC)
    places = values.reshape(VALUES, VALUES, tiles.down, tiles.across, rows * channels)
    np.matmul(matrix, pixels, out=places.transpose(2, 0, 3, 1, 4))
    return values


def overlapping(array, count, side):
    """A view (..., pixels, M) -> (..., count, side, M): tiles along the last axis but one."""
    strides = array.strides[:-2] + (TILE * array.strides[-2],) + array.strides[-2:]
    return np.lib.stride_tricks.as_strided(
        array, array.shape[:-2] + (count, side) + array.shape[-1:], strides)


def values_to_pixels(matrix, values, tiles):
    """Apply `matrix` (p, 8) to both axes of each tile of 8 x 8 values, and add tiles that overlap.

    (8, 8, tiles * n, C) -> (height, width, n, C): p = 6 gives the tiles' outputs, p = 8 their
    pixels with a border of 1 around the image.
    """
    side = len(matrix)
    border = side - TILE      # pixels that a tile shares with the next one
    channels = values.shape[3]
    rows = values.shape[2] // tiles.count
    values = values.reshape(VALUES, VALUES, tiles.down, tiles.across, rows * channels)
    values = values.transpose(2, 0, 3, 1, 4)
    shape = (tiles.full_height + border, tiles.full_width + border, rows, channels)
    columns = np.empty((tiles.down, VALUES, shape[1], rows * channels), values.dtype)
    for j in range(tiles.across):
        add_tile(matrix, values[:, :, j], columns[:, :, TILE * j:TILE * j + side], j > 0)
    columns = columns.reshape(tiles.down, VALUES, -1)
    pixels = np.empty((shape[0], columns.shape[2]), values.dtype)
    for i in range(tiles.down):
        add_tile(matrix, columns[i], pixels[TILE * i:TILE * i + side], i > 0)
    return pixels.reshape(shape)


def add_tile(matrix, values, place, has_neighbour):
    """place <- matrix @ values, added to what the tile before has in the pixels that they share."""
    border = len(matrix) - TILE if has_neighbour else 0
    before = place[..., :border, :].copy()
    np.matmul(matrix, values, out=place)
    place[..., :border, :] += before


def both_axes(matrix, array):
    """matrix (p, q) and an array (q, q, ...) -> (p, p, ...): the matrix applied to both axes."""
    p, q = matrix.shape
    first = (matrix @ array.reshape(q, -1)).reshape(p, q, -1)
    return np.matmul(matrix, first).reshape((p, p) + array.shape[2:])


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
