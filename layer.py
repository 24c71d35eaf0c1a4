"""The layers of a neural network, forward and backward, in plain NumPy.

`forward` turns an input into an output. `backward` takes dE/d(output), where E is the loss. It
sets the gradients of the layer's own weights and returns dE/d(input). network.py calls `forward`
from the first layer to the last, and `backward` from the last layer to the first.

The handout writes a for a weighted sum, z = h(a) for an activation and delta for dE/da.
Here `output_grad` is dE/d(output), and `input_grad` is dE/d(input).

    N rows of a batch     D input features     M output features     K classes
    H height, W width     C input channels     O output channels     k side of a kernel

Features are (N, D). Images are channels-last, (N, H, W, C). A layer computes in the wider dtype of
its input and its weights: float32 in training, float64 in a gradient check.
No layer changes its arguments.
"""
import numpy as np

# `from layer import *` gives _Layer, too, for layers of one's own
__all__ = ['_Layer', 'FullyConnected', 'ReLU', 'Loss', 'SoftmaxWithLoss', 'LeakyReLU', 'Sigmoid',
           'Tanh', 'SquaredError', 'PixelScaling', 'Reshape', 'Flatten', 'Dropout', 'BatchNorm',
           'Conv2d', 'MaxPool2d', 'Augment', 'softmax', 'windows']


class _Layer(object):
    """The base class of all layers. A new layer needs `forward` and `backward`, and no more.

    A layer with weights also lists their names in `parameter_names`, and `backward` sets
    `weight_grad` for `weight`. A layer that changes the shape of a row also needs `output_shape`.
    """

    parameter_names = ()      # the arrays that SGD trains
    decayed_names = ()        # those of them that weight decay shrinks
    state_names = ()          # arrays that are saved, but not trained by SGD
    training = True           # False in evaluation mode, see Network.eval
    needs_input_grad = True   # False: no layer before this one is trained, so backward may skip it
    cache = weight_grad = bias_grad = None

    def forward(self, input):
        """Return the output for a batch `input` (N, ...)."""
        raise NotImplementedError

    def backward(self, output_grad):
        """Set the gradients of the parameters. Return dE/d(input), given dE/d(output)."""
        raise NotImplementedError

    def output_shape(self, input_shape):
        """The shape of one input row -> that of one output row. ValueError if it does not fit."""
        return input_shape

    def astype(self, dtype):
        """Convert the parameters and the state to `dtype`, and return the layer."""
        for name in self.parameter_names + self.state_names:
            setattr(self, name, getattr(self, name).astype(dtype))
        return self

    def remember(self, output, *cache):
        """Keep what `backward` needs, and the shape of the output."""
        self.cache = (np.shape(output), cache)

    def recall(self, output_grad=None):
        """Return what `forward` kept. RuntimeError before forward, ValueError for a wrong shape."""
        if self.cache is None:
            raise RuntimeError(f'{self!r}: backward needs a forward before it, and no predict or '
                               'evaluate in between')
        shape, cache = self.cache
        if output_grad is not None and np.shape(output_grad) != shape:
            raise ValueError(f'{self!r}: output_grad has the shape {np.shape(output_grad)}, '
                             f'expected {shape}, the shape of the last output')
        return cache[0] if len(cache) == 1 else cache

    def check_input(self, input):
        """TypeError or ValueError unless `input` is an array of floats of the right shape."""
        dtype = getattr(input, 'dtype', type(input).__name__)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f'{self!r} got {dtype}, expected an array of float32 or float64: '
                            'for pixels 0..255 put PixelScaling() first')
        self.output_shape(input.shape[1:])

    def refuse_shape(self, input_shape, expected):
        """Raise the ValueError for rows of shape `input_shape`."""
        got = ', '.join(['N', *map(str, input_shape)])
        hint = '' if input_shape else ': pass one row as data[i:i+1]'
        raise ValueError(f'{self!r} expects an input (N, {expected}), got ({got}){hint}')

    def __repr__(self):
        return f'{type(self).__name__}()'


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
        self.check_input(input)
        output = input @ self.weight + self.bias                    # a = x w + w_0
        self.remember(output, input)
        return output

    def backward(self, output_grad):
        """(N, M) -> (N, D). output_grad is the handout's delta."""
        input = self.recall(output_grad)
        self.weight_grad = input.T @ output_grad                    # dE/dw_ji = sum_n x_i delta_j
        self.bias_grad = output_grad.sum(axis=0, keepdims=True)     # dE/dw_j0 = sum_n delta_j
        if not self.needs_input_grad:
            return None
        return output_grad @ self.weight.T                          # dE/dx_i = sum_j w_ji delta_j

    def output_shape(self, input_shape):
        if input_shape != (self.in_features,):
            self.refuse_shape(input_shape, self.in_features)
        return (self.out_features,)

    def __repr__(self):
        return f'FullyConnected({self.in_features}, {self.out_features})'


class ReLU(_Layer):
    """z = h(a) = max(0, a), element by element. h'(a) = 1 where a > 0, else 0.

    The handout's delta_j = h'(a_j) sum_k w_kj delta_k takes two layers: FullyConnected.backward of
    the layer above returns the sum, and ReLU.backward multiplies it by h'(a_j).
    """

    def forward(self, input):
        output = np.maximum(input, 0)
        self.remember(output, input)
        return output

    def backward(self, output_grad):
        input = self.recall(output_grad)
        return output_grad * (input > 0)                            # dE/da = h'(a) dE/dz


def softmax(logits):
    """Logits (N, K) -> y (N, K) and ln y (N, K), with y_k = exp(a_k) / sum_j exp(a_j).

    softmax(a) = softmax(a - max a), and exp(a - max a) cannot overflow. ln y is computed from a,
    because a small y rounds to 0.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponential = np.exp(shifted)
    total = exponential.sum(axis=1, keepdims=True)
    return exponential / total, shifted - np.log(total)


class Loss(_Layer):
    """The base class of all losses: `forward(input, target)`, `backward()`, `predict(input)`."""

    def output_shape(self, input_shape):
        if len(input_shape) != 1:
            self.refuse_shape(input_shape, 'K')
        return input_shape

    def target_rows(self, input, target):
        """Labels (N,) or one-hot rows (N, K) -> one-hot rows. ValueError that names a wrong one."""
        self.check_input(input)
        rows, classes = input.shape
        if rows == 0:
            raise ValueError(f'{self!r} got no rows, expected at least one')
        target = np.asarray(target)
        one_hot = target
        if target.shape == (rows,) and target.dtype.kind in 'iu':
            one_hot = target[:, np.newaxis] == np.arange(classes)      # a wrong label: zeros
        if one_hot.shape != input.shape:
            raise ValueError(f'target has the shape {target.shape} and dtype {target.dtype}, '
                             f'expected one-hot rows {input.shape} or integer labels ({rows},)')
        one_hot = one_hot.astype(input.dtype)
        right = (abs(one_hot.sum(axis=1) - 1) < 1e-4) & (one_hot.min(axis=1) >= 0)
        if not right.all():
            row = right.argmin()
            raise ValueError(f'target: row {row} is {target[row].tolist()}, expected a label '
                             f'0..{classes - 1} or a one-hot row, which sums to 1')
        return one_hot


class SoftmaxWithLoss(Loss):
    """y_k = exp(a_k) / sum_j exp(a_j) and the mean cross-entropy E = -1/N sum_n,k t_nk ln y_nk.

    label_smoothing eps replaces the target t_k by (1 - eps) t_k + eps / K, as in PyTorch's
    CrossEntropyLoss (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """

    def __init__(self, label_smoothing=0.0):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'label_smoothing is {label_smoothing!r}, expected at least 0 and '
                             'less than 1')
        self.label_smoothing = float(label_smoothing)

    def forward(self, input, target):
        """Logits (N, K), labels (N,) or one-hot (N, K) -> predict (N, K) and the mean loss."""
        target = self.target_rows(input, target)
        rows, classes = input.shape
        target = (1 - self.label_smoothing) * target + self.label_smoothing / classes
        predict, log_predict = softmax(input)
        loss = -np.sum(target * log_predict) / rows                    # E = -1/N sum t ln y
        self.remember(loss, predict, target)
        return predict.copy(), float(loss)

    def backward(self):
        """-> dE/da (N, K)."""
        predict, target = self.recall()
        return (predict - target) / len(predict)                       # delta_nk = (y - t) / N

    def predict(self, input):
        """Logits (N, K) -> probabilities (N, K)."""
        return softmax(input)[0]

    def __repr__(self):
        smoothing = f'label_smoothing={self.label_smoothing:g}' if self.label_smoothing else ''
        return f'SoftmaxWithLoss({smoothing})'


# Initial weights and random numbers ---------------------------------------------------------------

def he_normal(rng, shape, fan_in):
    """Draw float32 weights of variance 2 / fan_in, which keeps the variance through ReLU layers.

    He, Zhang, Ren, Sun: Delving Deep into Rectifiers, 2015 (arXiv:1502.01852), equation 10.
    """
    weight = random_generator(rng).standard_normal(shape) * np.sqrt(2 / fan_in)
    return weight.astype(np.float32)


def random_generator(rng):
    """Return `rng`. For None, return a new generator that np.random.seed determines."""
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f'rng is {rng!r}, expected a generator such as np.random.default_rng(0)')
    return rng or np.random.default_rng(np.random.randint(2 ** 31))


# More activations, and the loss of the handout's derivation ---------------------------------------

class LeakyReLU(_Layer):
    """h(a) = a where a > 0, else slope * a. h'(a) = 1 where a > 0, else slope."""

    def __init__(self, slope=0.01):
        self.slope = float(slope)

    def forward(self, input):
        output = np.where(input > 0, input, self.slope * input)
        self.remember(output, input)
        return output

    def backward(self, output_grad):
        input = self.recall(output_grad)
        return np.where(input > 0, output_grad, self.slope * output_grad)

    def __repr__(self):
        return f'LeakyReLU({self.slope:g})'


class Sigmoid(_Layer):
    """h(a) = 1 / (1 + exp(-a)). h'(a) = h(a) (1 - h(a))."""

    def forward(self, input):
        output = 0.5 * np.tanh(0.5 * input) + 0.5      # the same function, but it cannot overflow
        self.remember(output, output)
        return output

    def backward(self, output_grad):
        output = self.recall(output_grad)
        return output_grad * output * (1 - output)


class Tanh(_Layer):
    """h(a) = tanh(a). h'(a) = 1 - h(a)^2."""

    def forward(self, input):
        output = np.tanh(input)
        self.remember(output, output)
        return output

    def backward(self, output_grad):
        output = self.recall(output_grad)
        return output_grad * (1 - output ** 2)


class SquaredError(Loss):
    """E = 1/N sum_n 1/2 sum_k (y_nk - t_nk)^2 with y_k = a_k: the handout's loss, averaged."""

    def forward(self, input, target):
        """Outputs (N, K), labels (N,) or one-hot (N, K) -> predict (N, K) and the mean loss."""
        difference = input - self.target_rows(input, target)
        loss = 0.5 * np.sum(difference ** 2) / len(input)
        self.remember(loss, difference)
        return input.copy(), float(loss)

    def backward(self):
        """-> dE/da (N, K)."""
        difference = self.recall()
        return difference / len(difference)                            # delta_nk = (y - t) / N

    def predict(self, input):
        """Outputs (N, K) -> the same: y_k = a_k."""
        return input


# For images ---------------------------------------------------------------------------------------

class PixelScaling(_Layer):
    """Integer pixels 0..255 -> float32 (pixel / 255 - mean) / std. Floats pass unchanged."""

    def __init__(self, mean=0.0, std=1.0):
        self.mean = float(mean)
        self.std = float(std)

    def forward(self, input):
        """(N, ...) integers or floats -> (N, ...) floats. ValueError for pixels out of range."""
        output = np.asarray(input)
        self.check_range(output)
        if output.dtype.kind in 'iu':
            output = (output.astype(np.float32) / 255 - self.mean) / self.std
        self.remember(output)
        return output

    def backward(self, output_grad):
        self.recall(output_grad)
        return output_grad      # the gradient of floats, which pass unchanged

    def check_range(self, input):
        """ValueError for integers outside 0..255 and for floats that look like unscaled pixels."""
        least = input.min(initial=0)
        greatest = input.max(initial=0)
        if input.dtype.kind in 'iu' and (least < 0 or greatest > 255):
            raise ValueError(f'{self!r} got {least}..{greatest}, expected pixels 0..255')
        if input.dtype.kind == 'f' and greatest > 20:
            raise ValueError(f'{self!r} got floats up to {greatest:g}, which look like '
                             'unscaled pixels: give integers 0..255, or divide by 255')

    def __repr__(self):
        return f'PixelScaling(mean={self.mean:g}, std={self.std:g})'


class Reshape(_Layer):
    """(N, ...) -> (N,) + shape, e.g. Reshape(28, 28, 1) for rows of 784 pixels."""

    def __init__(self, *shape):
        self.shape = shape

    def forward(self, input):
        shape = self.output_shape(input.shape[1:])
        output = input.reshape((len(input),) + shape)
        self.remember(output, input.shape)
        return output

    def backward(self, output_grad):
        input_shape = self.recall(output_grad)
        return output_grad.reshape(input_shape)

    def output_shape(self, input_shape):
        if np.prod(input_shape) != np.prod(self.shape):
            self.refuse_shape(input_shape, f'{np.prod(self.shape)} numbers')
        return self.shape

    def __repr__(self):
        return f'Reshape{self.shape}'


class Flatten(Reshape):
    """(N, ...) -> (N, D)."""

    def output_shape(self, input_shape):
        return (int(np.prod(input_shape)),)

    def __repr__(self):
        return 'Flatten()'


class Dropout(_Layer):
    """In training, set each element to zero with probability p and divide the others by 1 - p.

    The division keeps the expected value. So in evaluation the input passes unchanged.
    Srivastava et al.: Dropout, JMLR 15 (2014).
    """

    def __init__(self, p=0.5, rng=None):
        if not 0 <= p < 1:
            raise ValueError(f'Dropout got p={p!r}, expected at least 0 and less than 1')
        self.p = float(p)
        self.rng = random_generator(rng)

    def forward(self, input):
        scale = 1.0
        if self.training:
            kept = self.rng.random(input.shape, dtype=np.float32) >= self.p
            scale = kept.astype(input.dtype) / (1 - self.p)
        output = input * scale
        self.remember(output, scale)
        return output

    def backward(self, output_grad):
        scale = self.recall(output_grad)
        return output_grad * scale

    def __repr__(self):
        return f'Dropout({self.p:g})'


class BatchNorm(_Layer):
    """y = weight * xhat + bias with xhat = (x - mean) / sqrt(var + eps), for each feature.

    Training takes mean and var of the batch. Evaluation takes running_mean and running_var, which
    training updates as PyTorch does: running = (1 - momentum) * running + momentum * batch.
    Features are the last axis: in images (N, H, W, C) every pixel counts as a row of C features.
    weight, bias, running_mean and running_var are (1, D).
    Ioffe, Szegedy 2015 (arXiv:1502.03167), algorithm 1 and section 3.
    """

    parameter_names = ('weight', 'bias')
    state_names = ('running_mean', 'running_var')

    momentum = 0.1
    eps = 1e-5

    def __init__(self, features):
        self.features = features
        self.weight = np.ones((1, features), np.float32)
        self.bias = np.zeros((1, features), np.float32)
        self.running_mean = np.zeros((1, features), np.float32)
        self.running_var = np.ones((1, features), np.float32)

    def forward(self, input):
        self.check_input(input)
        rows = input.reshape(-1, self.features)
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean = rows.mean(axis=0, keepdims=True)
            var = rows.var(axis=0, keepdims=True)
            self.update_running(mean, var, len(rows))
        std = np.sqrt(var + self.eps)
        xhat = (rows - mean) / std
        output = (self.weight * xhat + self.bias).reshape(input.shape)
        self.remember(output, xhat, std, self.training)
        return output

    def backward(self, output_grad):
        xhat, std, training = self.recall(output_grad)
        grad = output_grad.reshape(-1, self.features)
        self.bias_grad = grad.sum(axis=0, keepdims=True)
        self.weight_grad = (grad * xhat).sum(axis=0, keepdims=True)
        if training:      # mean and var depend on every row: subtract the gradient through them
            grad = grad - self.bias_grad / len(grad) - xhat * self.weight_grad / len(grad)
        return (self.weight / std * grad).reshape(output_grad.shape)

    def update_running(self, mean, var, count):
        """Move the running mean and variance towards those of a batch of `count` rows."""
        if count < 2:
            raise ValueError(f'{self!r} got {count} row in training, expected two or more: one '
                             'row has no variance')
        unbiased = var * (count / (count - 1))
        self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
        self.running_var = (1 - self.momentum) * self.running_var + self.momentum * unbiased

    def output_shape(self, input_shape):
        if input_shape[-1:] != (self.features,):
            self.refuse_shape(input_shape, f'..., {self.features}')
        return input_shape

    def __repr__(self):
        return f'BatchNorm({self.features})'


def windows(images, k):
    """Images (N, H, W, C) -> (N*H*W, k*k*C): the k x k pixels around each pixel as a row.

    Pixels outside the image are zero.
    """
    rows, height, width, channels = images.shape
    border = (k // 2, k // 2)
    padded = np.pad(images, ((0, 0), border, border, (0, 0)), mode='constant')
    # The window of pixel [n, y, x] starts at padded[n, y, x], so nothing is copied before reshape
    image, row, pixel, channel = padded.strides
    overlapping = np.lib.stride_tricks.as_strided(
        padded, (rows, height, width, k, k, channels), (image, row, pixel, row, pixel, channel))
    return overlapping.reshape(rows * height * width, k * k * channels)


class Conv2d(_Layer):
    """a[y, x, o] = sum_u,v,c w[u, v, c, o] z[y + u - k//2, x + v - k//2, c] + b[o].

    The same kernel w of k x k pixels, k odd, is applied at every pixel. z is zero outside the image
    ("same" padding, stride 1). weight (k, k, C, O), bias (1, O). bias=False leaves out b, e.g.
    before BatchNorm, which subtracts it again. LeCun et al. 1989.
    """

    decayed_names = ('weight',)

    def __init__(self, in_channels, out_channels, kernel_size=3, rng=None, bias=True):
        if kernel_size not in (1, 3, 5, 7):
            raise ValueError(f'Conv2d got kernel_size={kernel_size!r}, expected 1, 3, 5 or 7')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.weight = he_normal(rng, shape, kernel_size * kernel_size * in_channels)
        self.bias = np.zeros((1, out_channels), np.float32) if bias else None
        self.parameter_names = ('weight', 'bias') if bias else ('weight',)

    def forward(self, input):
        """(N, H, W, C) -> (N, H, W, O)."""
        self.check_input(input)
        rows = windows(input, self.kernel_size)                        # (N*H*W, k*k*C)
        output = rows @ self.weight.reshape(-1, self.out_channels)     # sum over u, v, c
        if self.bias is not None:
            output += self.bias
        output = output.reshape(input.shape[:3] + (self.out_channels,))
        self.remember(output, rows)
        return output

    def backward(self, output_grad):
        """(N, H, W, O) -> (N, H, W, C)."""
        rows = self.recall(output_grad)
        grad = output_grad.reshape(-1, self.out_channels)              # (N*H*W, O)
        self.weight_grad = (rows.T @ grad).reshape(self.weight.shape)  # dE/dw = sum over pixels
        if self.bias is not None:
            self.bias_grad = grad.sum(axis=0, keepdims=True)
        if not self.needs_input_grad:
            return None
        # dE/dz is also a convolution: of output_grad, with the kernel turned by 180 degrees
        turned = self.weight[::-1, ::-1].transpose(0, 1, 3, 2).reshape(-1, self.in_channels)
        input_grad = windows(output_grad, self.kernel_size) @ turned
        return input_grad.reshape(output_grad.shape[:3] + (self.in_channels,))

    def output_shape(self, input_shape):
        if len(input_shape) != 3 or input_shape[2] != self.in_channels:
            self.refuse_shape(input_shape, f'H, W, {self.in_channels}')
        return input_shape[:2] + (self.out_channels,)

    def __repr__(self):
        end = '' if self.bias is not None else ', bias=False'
        sizes = f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}'
        return f'Conv2d({sizes}{end})'


class MaxPool2d(_Layer):
    """The greatest pixel of each 2 x 2 square: (N, H, W, C) -> (N, (H+1)//2, (W+1)//2, C).

    The border cuts the last square of an odd side, as with PyTorch's ceil_mode=True. backward gives
    the gradient to the greatest pixel. Of equal pixels the left one wins, then the upper one.
    """

    def forward(self, input):
        self.check_input(input)
        even = self.even_sides(input)
        top, bottom = even[:, 0::2], even[:, 1::2]
        higher = np.maximum(top, bottom)
        left, right = higher[:, :, 0::2], higher[:, :, 1::2]
        output = np.maximum(left, right)
        self.remember(output, input.shape, top >= bottom, left >= right)
        return output

    def backward(self, output_grad):
        (rows, height, width, channels), top_wins, left_wins = self.recall(output_grad)
        higher_grad = np.empty(top_wins.shape, output_grad.dtype)
        higher_grad[:, :, 0::2] = output_grad * left_wins
        higher_grad[:, :, 1::2] = output_grad * ~left_wins
        even_shape = (rows, height + height % 2, width + width % 2, channels)
        even_grad = np.empty(even_shape, output_grad.dtype)
        even_grad[:, 0::2] = higher_grad * top_wins
        even_grad[:, 1::2] = higher_grad * ~top_wins
        return even_grad[:, :height, :width]

    def even_sides(self, images):
        """Repeat the last row or column of an odd side. The copies never win: see forward."""
        height, width = images.shape[1:3]
        if height % 2 == 0 and width % 2 == 0:
            return images
        return np.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')

    def output_shape(self, input_shape):
        if len(input_shape) != 3:
            self.refuse_shape(input_shape, 'H, W, C')
        height, width, channels = input_shape
        return ((height + 1) // 2, (width + 1) // 2, channels)


class Augment(_Layer):
    """In training, rotate, scale, shear, shift and bend every image at random.

    rotation (degrees), scale, shear (fractions) and shift (pixels) are limits: a number is drawn
    uniformly from -limit..limit for each image, and for each axis except for rotation. elastic is
    the standard deviation, in pixels, of displacements that are drawn at 4 x 4 points and
    interpolated between them (after Simard, Steinkraus, Platt: Best Practices for Convolutional
    Neural Networks Applied to Visual Document Analysis, 2003). Takes (N, S*S) or (N, S, S, 1).
    Outside the image the border pixels go on.
    """

    def __init__(self, rotation=0.0, scale=0.0, shear=0.0, shift=0.0, elastic=0.0, rng=None):
        self.rotation, self.scale, self.shear = rotation, scale, shear
        self.shift, self.elastic = shift, elastic
        self.rng = random_generator(rng)

    def forward(self, input):
        self.check_input(input)
        if not self.training:
            self.remember(input, None)
            return input
        corners = self.corners(len(input), self.side(input.shape[1:]))
        pixels = input.ravel()
        output = sum(pixels.take(place) * weight for place, weight in corners)
        output = output.astype(input.dtype, copy=False).reshape(input.shape)
        self.remember(output, corners)
        return output

    def backward(self, output_grad):
        corners = self.recall(output_grad)
        if corners is None:
            return output_grad
        input_grad = np.zeros(output_grad.size)
        for place, weight in corners:      # the pixels that were read get the gradient
            grad = weight * output_grad.reshape(weight.shape)
            input_grad += np.bincount(place.ravel(), grad.ravel(), output_grad.size)
        return input_grad.astype(output_grad.dtype).reshape(output_grad.shape)

    def corners(self, rows, size):
        """The four input pixels around the place where each output pixel is read.

        -> [(index into all pixels (N, S*S), weight (N, S*S)), ...] for bilinear interpolation.
        """
        y, x = np.clip(self.random_places(rows, size), 0, size - 1.001)      # place + 1 exists
        top, left = y.astype(np.int32), x.astype(np.int32)
        down, right = y - top, x - left      # how far towards the next pixel
        first_pixel = np.arange(rows, dtype=np.int32)[:, np.newaxis] * size * size
        place = first_pixel + top * size + left
        return [(place, (1 - down) * (1 - right)), (place + 1, (1 - down) * right),
                (place + size, down * (1 - right)), (place + size + 1, down * right)]

    def random_places(self, rows, size):
        """Draw the places where the output pixels are read: y and x in pixels, (2, N, S*S)."""
        angle = np.deg2rad(self.uniform(self.rotation, rows))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        stretch = np.eye(2) * (1 + self.uniform(self.scale, rows, 2, 1))
        stretch = stretch + (1 - np.eye(2)) * self.uniform(self.shear, rows, 2, 1)
        matrix = np.einsum('ijn,njk->nik', turn, stretch).astype(np.float32)      # (N, 2, 2)
        centre = (size - 1) / 2
        grid = np.indices((size, size), dtype=np.float32).reshape(2, -1) - np.float32(centre)
        middle = centre + self.uniform(self.shift, rows, 2, 1)
        places = matrix @ grid + middle.astype(np.float32)                        # (N, 2, S*S)
        if self.elastic:
            # Linear interpolation from 4 points to S pixels is a product with a matrix (S, 4)
            point = np.linspace(0, 3, size)[:, np.newaxis]
            ramp = np.maximum(0, 1 - abs(point - np.arange(4))).astype(np.float32)
            bend = self.rng.standard_normal((rows, 2, 4, 4), dtype=np.float32)
            bend = ramp @ (bend * np.float32(self.elastic)) @ ramp.T
            places += bend.reshape(places.shape)
        return places.transpose(1, 0, 2)

    def uniform(self, limit, *shape):
        """Draw numbers from -limit..limit."""
        return self.rng.uniform(-limit, limit, shape)

    def side(self, input_shape):
        """S, the side of images (S*S,) or (S, S, 1). ValueError for others."""
        size = int(round(np.sqrt(np.prod(input_shape))))
        if tuple(input_shape) not in ((size * size,), (size, size, 1)):
            self.refuse_shape(input_shape, 'S*S) or (N, S, S, 1')
        return size

    def output_shape(self, input_shape):
        self.side(input_shape)
        return input_shape

    def __repr__(self):
        return (f'Augment(rotation={self.rotation:g}, scale={self.scale:g}, '
                f'shear={self.shear:g}, shift={self.shift:g}, elastic={self.elastic:g})')
