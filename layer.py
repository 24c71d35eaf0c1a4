"""The layers of a neural network, forward and backward, in plain NumPy.

`forward` turns an input into an output. `backward` takes output_grad = dE/d(output), where E is
the loss. It sets the gradients of the layer's weights and returns input_grad = dE/d(input). The
handout writes a for a weighted sum, z = h(a) for an activation and delta for dE/da.

    N rows of a batch     D input features     M output features     K classes
    H height, W width     C input channels     O output channels     k side of a kernel

Features are (N, D), images (N, H, W, C). A layer computes in the wider dtype of its input and its
weights: float32 in training, float64 in a gradient check. No layer changes its arguments.
"""
import numpy as np

__all__ = ['_Layer', 'softmax', 'target_rows', 'windows']      # and each layer: see _Layer


class _Layer(object):
    """The base class. `forward` of a new layer keeps what its `backward` needs.

    A layer with weights lists them in `parameter_names`. `backward` sets weight_grad for weight.
    """

    parameter_names = ()      # the arrays that SGD trains
    decayed_names = ()        # those of them that weight decay shrinks
    state_names = ()          # arrays that are saved, but not trained by SGD
    training = True           # False in evaluation mode, see Network.train
    needs_input_grad = True   # False: no layer before it is trained, so backward may return None

    def forward(self, input):
        """Return the output for a batch `input` (N, ...)."""
        raise NotImplementedError(f'{type(self).__name__} has no forward')

    def backward(self, output_grad):
        """Set the gradients of the parameters. Return dE/d(input), given dE/d(output)."""
        raise NotImplementedError(f'{type(self).__name__} has no backward')

    def __init_subclass__(cls):      # `from layer import *` gives a layer that you add here, too
        if cls.__module__ == __name__:
            __all__.append(cls.__name__)

    def __repr__(self):
        """The call that makes the layer, with the arguments that are numbers."""
        numbers = [f'{value:g}' for value in vars(self).values() if type(value) in (int, float)]
        return f'{type(self).__name__}({", ".join(numbers)})'


class FullyConnected(_Layer):
    """a_j = sum_i w_ji x_i + w_j0: every output is a weighted sum of all inputs, plus a bias.

    weight (D, M) holds w_ji in weight[i, j]. bias (1, M) holds w_j0 in bias[0, j].
    """

    parameter_names = ('weight', 'bias')
    decayed_names = ('weight',)

    def __init__(self, in_features, out_features, rng=None):
        self.in_features = in_features
        self.out_features = out_features
        self.weight = he_normal(rng, (in_features, out_features), in_features)
        self.bias = np.zeros((1, out_features), np.float32)

    def forward(self, input):
        """(N, D) -> (N, M)."""
        self.input = input
        return input @ self.weight + self.bias                      # a = x w + w_0

    def backward(self, output_grad):
        """(N, M) -> (N, D). output_grad is the handout's delta."""
        self.weight_grad = self.input.T @ output_grad               # dE/dw_ji = sum_n x_ni delta_nj
        self.bias_grad = output_grad.sum(axis=0, keepdims=True)     # dE/dw_j0 = sum_n delta_nj
        if self.needs_input_grad:
            return output_grad @ self.weight.T                      # dE/dx_ni = sum_j w_ji delta_nj


class ReLU(_Layer):
    """z = h(a) = max(0, a), element by element. h'(a) = 1 where a > 0, else 0.

    In the handout's delta_j = h'(a_j) sum_k w_kj delta_k, FullyConnected.backward of the next layer
    returns the sum. ReLU.backward multiplies it by h'(a_j).
    """

    def forward(self, input):
        self.input = input
        return np.maximum(input, 0)

    def backward(self, output_grad):
        return output_grad * (self.input > 0)                       # dE/da = h'(a) dE/dz


class SoftmaxWithLoss(_Layer):
    """y_k = exp(a_k) / sum_j exp(a_j) and the mean cross-entropy E = -1/N sum_n,k t_nk ln y_nk.

    label_smoothing eps replaces the target t_k by (1 - eps) t_k + eps / K, as in PyTorch's
    CrossEntropyLoss (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """

    def __init__(self, label_smoothing=0.0):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'label_smoothing is {label_smoothing}, expected 0 <= ... < 1')
        self.label_smoothing = label_smoothing

    def forward(self, input, target):
        """Logits (N, K), labels (N,) or one-hot (N, K) -> predict (N, K) and the mean loss."""
        target = target_rows(target, input.shape).astype(input.dtype)
        if not (target >= 0).all() or not (abs(target.sum(axis=1) - 1) < 1e-4).all():
            raise ValueError('expected targets that sum to 1 in each row, such as one-hot rows')
        self.target = (1 - self.label_smoothing) * target + self.label_smoothing / input.shape[1]
        self.predicted, log_predicted = softmax(input)
        terms = self.target * np.where(self.target > 0, log_predicted, 0)      # 0 ln 0 = 0
        loss = -np.sum(terms) / len(input)                          # E = -1/N sum t ln y
        return self.predicted.copy(), float(loss)

    def backward(self):
        """-> dE/da (N, K)."""
        return (self.predicted - self.target) / len(self.target)    # delta_nk = (y - t) / N

    def predict(self, input):
        """Logits (N, K) -> probabilities (N, K)."""
        return softmax(input)[0]


def softmax(logits):
    """Logits (N, K) -> y (N, K) and ln y (N, K), with y_k = exp(a_k) / sum_j exp(a_j).

    y is the same for a - max a, which cannot overflow. ln y is computed from a: y may round to 0.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponential = np.exp(shifted)
    total = exponential.sum(axis=1, keepdims=True)
    return exponential / total, shifted - np.log(total)


def target_rows(target, shape):
    """Labels (N,) -> one-hot rows of that shape, (N, K). Rows (N, K) stay. Else ValueError."""
    rows = np.asarray(target)
    right = True
    if rows.ndim == 1:
        rows = rows[:, np.newaxis] == np.arange(shape[1])
        right = rows.any(axis=1).all()
    if not right or rows.shape != shape:
        raise ValueError(f'got targets of shape {np.shape(target)}, expected labels '
                         f'0..{shape[1] - 1} for {shape[0]} rows, or rows of shape {shape}')
    return rows


def he_normal(rng, shape, fan_in):
    """Draw float32 weights of variance 2 / fan_in (He et al. 2015, arXiv:1502.01852, eq. 10)."""
    rng = random_generator(rng)
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def random_generator(rng):
    """Return `rng`. For None, return a new generator that np.random.seed determines."""
    if rng is None:
        rng = np.random.default_rng(np.random.randint(2 ** 31))
    return rng


# More activations, and the loss of the handout's derivation ---------------------------------------

class Sigmoid(_Layer):
    """h(a) = 1 / (1 + exp(-a)). h'(a) = h(a) (1 - h(a))."""

    def forward(self, input):
        self.output = 0.5 * np.tanh(0.5 * input) + 0.5      # the same function, but no overflow
        return self.output

    def backward(self, output_grad):
        return output_grad * self.output * (1 - self.output)


class Tanh(_Layer):
    """h(a) = tanh(a). h'(a) = 1 - h(a)^2."""

    def forward(self, input):
        self.output = np.tanh(input)
        return self.output

    def backward(self, output_grad):
        return output_grad * (1 - self.output ** 2)


class SquaredError(_Layer):
    """E = 1/N sum_n 1/2 sum_k (y_nk - t_nk)^2 with y_k = a_k: the handout's loss, averaged."""

    def forward(self, input, target):
        """Outputs (N, K), labels (N,) or any rows (N, K) -> predict (N, K) and the mean loss."""
        target = target_rows(target, input.shape).astype(np.result_type(input, 1.0))
        self.difference = input - target
        loss = 0.5 * np.sum(self.difference ** 2) / len(input)
        return input.copy(), float(loss)

    def backward(self):
        return self.difference / len(self.difference)               # delta_nk = (y - t) / N

    def predict(self, input):
        return input                                                # y_k = a_k


# For images ---------------------------------------------------------------------------------------

class PixelScaling(_Layer):
    """Integer pixels 0..255 -> float32 (pixel / 255 - mean) / std. Floats pass unchanged."""

    def __init__(self, mean=0.0, std=1.0):
        self.mean = float(mean)
        self.std = float(std)

    def forward(self, input):
        """(N, ...) integers or floats -> (N, ...) floats. ValueError for pixels out of range."""
        least, greatest = input.min(initial=0), input.max(initial=0)
        if input.dtype.kind not in 'iu':
            if greatest > 20:
                raise ValueError(f'got floats up to {greatest:g}: divide pixels 0..255 by 255')
            return input
        if least < 0 or greatest > 255 or greatest == 1:
            raise ValueError(f'got integers {least}..{greatest}, expected pixels up to 255')
        return (input.astype(np.float32) / 255 - self.mean) / self.std


class Reshape(_Layer):
    """(N, ...) -> (N,) + shape, e.g. Reshape(28, 28, 1) for rows of 784 pixels."""

    def __init__(self, *shape):
        self.shape = shape

    def forward(self, input):
        self.input_shape = input.shape
        return input.reshape((len(input),) + self.shape)

    def backward(self, output_grad):
        return output_grad.reshape(self.input_shape)

    def __repr__(self):
        return f'{type(self).__name__}{self.shape}'


class Flatten(Reshape):
    """(N, ...) -> (N, D)."""

    def forward(self, input):
        self.input_shape = input.shape
        return input.reshape(len(input), np.prod(input.shape[1:], dtype=int))


class Crop(_Layer):
    """Cut off the border: (N, H, W, C) -> (N, H - 2 border, W - 2 border, C)."""

    def __init__(self, border):
        self.border = border

    def forward(self, input):
        height, width = input.shape[1:3]
        return input[:, self.border:height - self.border, self.border:width - self.border]

    def backward(self, output_grad):
        sides = (self.border, self.border)
        return np.pad(output_grad, ((0, 0), sides, sides, (0, 0)), mode='constant')


class Dropout(_Layer):
    """In training, set each element to zero with probability p and divide the others by 1 - p.

    The division keeps the expected value (Srivastava et al., JMLR 15, 2014).
    """

    def __init__(self, p=0.5, rng=None):
        if not 0 <= p < 1:
            raise ValueError(f'Dropout got p={p}, expected 0 <= p < 1')
        self.p = p
        self.rng = random_generator(rng)

    def forward(self, input):
        self.scale = np.ones(1, input.dtype)
        if self.training:
            kept = self.rng.random(input.shape, dtype=np.float32) >= self.p
            self.scale = kept.astype(input.dtype) / (1 - self.p)
        return input * self.scale

    def backward(self, output_grad):
        return output_grad * self.scale


class BatchNorm(_Layer):
    """y = weight * xhat + bias with xhat = (x - mean) / sqrt(var + eps), for each feature.

    mean and var are those of the batch in training, and running means of them (var: unbiased) in
    evaluation: running = (1 - momentum) * running + momentum * batch. Features are the last axis:
    in images (N, H, W, C) every pixel counts as a row. weight, bias and running_* are (1, D).
    Ioffe, Szegedy 2015 (arXiv:1502.03167), algorithm 1 and section 3.
    """

    parameter_names = ('weight', 'bias')
    state_names = ('running_mean', 'running_var')

    def __init__(self, features, momentum=0.1, eps=1e-5):
        self.features = features
        self.momentum = momentum
        self.eps = eps
        self.weight = np.ones((1, features), np.float32)
        self.bias = np.zeros((1, features), np.float32)
        self.running_mean = np.zeros((1, features), np.float32)
        self.running_var = np.ones((1, features), np.float32)

    def forward(self, input):
        """(N, ..., D) -> (N, ..., D). ValueError for one row in training: it has no variance."""
        if input.shape[-1] != self.features:
            raise ValueError(f'{self} got an input {input.shape}')
        rows = input.reshape(-1, self.features)
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean = rows.mean(axis=0, keepdims=True)
            var = rows.var(axis=0, keepdims=True)
            self.update_running(mean, var, len(rows))
        self.by_batch = self.training
        self.std = np.sqrt(var + self.eps)
        self.xhat = (rows - mean) / self.std
        output = self.weight * self.xhat + self.bias
        return output.reshape(input.shape)

    def backward(self, output_grad):
        grad = output_grad.reshape(-1, self.features)
        self.bias_grad = grad.sum(axis=0, keepdims=True)
        self.weight_grad = (grad * self.xhat).sum(axis=0, keepdims=True)
        if self.by_batch:      # mean and var depend on every row: subtract these two paths
            grad = grad - self.bias_grad / len(grad) - self.xhat * self.weight_grad / len(grad)
        input_grad = self.weight / self.std * grad
        return input_grad.reshape(output_grad.shape)

    def update_running(self, mean, var, count):
        """Move the running mean and variance towards those of a batch of `count` rows."""
        if count < 2:
            raise ValueError(f'{self} got one row in training, expected two or more')
        unbiased = var * (count / (count - 1))
        kept = 1 - self.momentum
        self.running_mean = kept * self.running_mean + self.momentum * mean
        self.running_var = kept * self.running_var + self.momentum * unbiased


class Conv2d(_Layer):
    """a[y, x, o] = sum_u,v,c w[u, v, c, o] z[y + u - k//2, x + v - k//2, c] + b[o].

    u, v = 0..k-1, k odd. z is zero outside the image ("same" padding, stride 1). weight (k, k, C,
    O), bias (1, O). bias=False leaves out b: BatchNorm would subtract it again. LeCun et al. 1989.
    """

    decayed_names = ('weight',)

    def __init__(self, in_channels, out_channels, kernel_size=3, rng=None, bias=True):
        if kernel_size % 2 == 0:
            raise ValueError(f'Conv2d got kernel_size={kernel_size}, expected an odd number')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.weight = he_normal(rng, shape, kernel_size * kernel_size * in_channels)
        self.bias = None
        self.parameter_names = ('weight',)
        if bias:
            self.bias = np.zeros((1, out_channels), np.float32)
            self.parameter_names = ('weight', 'bias')

    def forward(self, input):
        """(N, H, W, C) -> (N, H, W, O)."""
        self.windows = windows(input, self.kernel_size)             # (N*H*W, k*k*C)
        kernel = self.weight.reshape(-1, self.out_channels)         # (k*k*C, O)
        output = self.windows @ kernel                              # sum over u, v, c
        if self.bias is not None:
            output += self.bias
        return output.reshape(input.shape[:3] + (self.out_channels,))

    def backward(self, output_grad):
        """(N, H, W, O) -> (N, H, W, C)."""
        grad = output_grad.reshape(-1, self.out_channels)           # (N*H*W, O)
        kernel_grad = self.windows.T @ grad                         # sum over all pixels
        self.weight_grad = kernel_grad.reshape(self.weight.shape)
        if self.bias is not None:
            self.bias_grad = grad.sum(axis=0, keepdims=True)
        if not self.needs_input_grad:
            return None
        # dE/dz is also a convolution: of output_grad, with the kernel turned by 180 degrees
        turned = self.weight[::-1, ::-1].transpose(0, 1, 3, 2)
        kernel = turned.reshape(-1, self.in_channels)               # (k*k*O, C)
        input_grad = windows(output_grad, self.kernel_size) @ kernel
        return input_grad.reshape(output_grad.shape[:3] + (self.in_channels,))


def windows(images, k):
    """Images (N, H, W, C) -> (N*H*W, k*k*C): the k x k pixels around each pixel. Outside is 0."""
    count, height, width, channels = images.shape
    border = (k // 2, k // 2)
    padded = np.pad(images, ((0, 0), border, border, (0, 0)), mode='constant')
    # The window of pixel [n, y, x] starts at padded[n, y, x], so nothing is copied before reshape
    image, row, pixel, channel = padded.strides
    overlapping = np.lib.stride_tricks.as_strided(
        padded, (count, height, width, k, k, channels), (image, row, pixel, row, pixel, channel))
    return overlapping.reshape(count * height * width, k * k * channels)


class MaxPool2d(_Layer):
    """The greatest pixel of each 2 x 2 square: (N, H, W, C) -> (N, (H+1)//2, (W+1)//2, C).

    The border cuts the last square of an odd side (PyTorch: ceil_mode=True). The greatest pixel
    gets the gradient: of equal ones the left one, then the upper one.
    """

    def forward(self, input):
        self.input_shape = input.shape
        count, height, width, channels = input.shape
        # An odd side gets a copy of its last row or column, which loses every tie
        even = np.pad(input, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')
        top = even[:, 0::2]
        bottom = even[:, 1::2]
        higher = np.maximum(top, bottom)
        left = higher[:, :, 0::2]
        right = higher[:, :, 1::2]
        self.top_wins = top >= bottom
        self.left_wins = left >= right
        return np.maximum(left, right)

    def backward(self, output_grad):
        count, down, across, channels = self.top_wins.shape
        higher_grad = np.empty(self.top_wins.shape, output_grad.dtype)
        higher_grad[:, :, 0::2] = output_grad * self.left_wins
        higher_grad[:, :, 1::2] = output_grad * ~self.left_wins
        even_grad = np.empty((count, 2 * down, across, channels), output_grad.dtype)
        even_grad[:, 0::2] = higher_grad * self.top_wins
        even_grad[:, 1::2] = higher_grad * ~self.top_wins
        height, width = self.input_shape[1:3]
        return even_grad[:, :height, :width]


class Augment(_Layer):
    """In training, rotate, scale, shear, shift and bend every image at random.

    rotation (degrees), scale, shear (fractions) and shift (pixels) are limits: a number is drawn
    uniformly from -limit..limit for each image, and for each axis except for rotation. elastic is
    the standard deviation, in pixels, of displacements drawn at 4 x 4 points and interpolated
    (after Simard, Steinkraus, Platt 2003). Outside the image the border pixels are repeated. Takes
    (N, S*S) or (N, S, S, 1). It stands before all weights, so it has no backward.
    """

    def __init__(self, rotation=0.0, scale=0.0, shear=0.0, shift=0.0, elastic=0.0, rng=None):
        self.rotation = rotation
        self.scale = scale
        self.shear = shear
        self.shift = shift
        self.elastic = elastic
        self.rng = random_generator(rng)

    def forward(self, input):
        size = int(np.prod(input.shape[1:]) ** 0.5)
        if input.shape[1:] not in ((size * size,), (size, size, 1)):
            raise ValueError(f'got {input.shape}, expected (N, S*S) or (N, S, S, 1)')
        if not self.training:
            return input
        pixels = input.ravel()
        places = self.random_places(len(input), size)
        y, x = np.clip(places, 0, size - 1.001)      # a next pixel exists
        top = y.astype(np.int32)
        left = x.astype(np.int32)
        down = y - top                               # how far it is towards the next pixel
        right = x - left
        first_pixel = np.arange(len(input), dtype=np.int32) * size * size
        place = first_pixel[:, np.newaxis] + top * size + left
        # Bilinear interpolation between the four pixels around (y, x)
        output = pixels.take(place) * ((1 - down) * (1 - right))
        output += pixels.take(place + 1) * ((1 - down) * right)
        output += pixels.take(place + size) * (down * (1 - right))
        output += pixels.take(place + size + 1) * (down * right)
        return output.astype(input.dtype, copy=False).reshape(input.shape)

    def random_places(self, count, size):
        """Draw the places where the output pixels are read: y and x in pixels, (2, N, S*S)."""
        angle = np.deg2rad(self.uniform(self.rotation, count))
        cos = np.cos(angle)
        sin = np.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        stretch = np.eye(2) * (1 + self.uniform(self.scale, count, 2, 1))
        stretch = stretch + (1 - np.eye(2)) * self.uniform(self.shear, count, 2, 1)
        matrix = np.einsum('ijn,njk->nik', turn, stretch).astype(np.float32)      # (N, 2, 2)
        centre = (size - 1) / 2
        grid = np.indices((size, size), dtype=np.float32)
        grid = grid.reshape(2, -1) - np.float32(centre)
        middle = centre + self.uniform(self.shift, count, 2, 1)
        places = matrix @ grid + middle.astype(np.float32)                        # (N, 2, S*S)
        if self.elastic:
            # Linear interpolation from 4 points to S pixels is a product with a matrix (S, 4)
            point = np.linspace(0, 3, size)[:, np.newaxis]
            ramp = np.maximum(0, 1 - abs(point - np.arange(4)))
            ramp = ramp.astype(np.float32)
            bend = self.rng.standard_normal((count, 2, 4, 4), dtype=np.float32)
            bend *= np.float32(self.elastic)
            places += (ramp @ bend @ ramp.T).reshape(places.shape)
        return places.transpose(1, 0, 2)

    def uniform(self, limit, *shape):
        """Draw numbers from -limit..limit."""
        return self.rng.uniform(-limit, limit, shape)
