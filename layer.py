"""The layers of a neural network, each with its forward and its backward pass written out in NumPy.

A layer turns an input into an output (`forward`), and the gradient of the loss with respect to its output into
the gradient with respect to its input (`backward`), leaving the gradients of its own parameters in `weight_grad`
and `bias_grad` on the way. That is all that back propagation needs: `network.py` calls the layers in order for
the loss, and in reverse order for the gradients.

One letter has one meaning throughout, and the number of rows comes first:

    N rows of a batch     D input features     M output features     K classes
    H height, W width     C input channels     O output channels     k side of a kernel

Features are `(N, D)`; images are channels-last, `(N, H, W, C)`. A layer computes in the dtype of its input:
float32 when training, float64 when its gradients are checked. It never changes its arguments.

In the lab's notation E is the loss, a a weighted sum, z = h(a) an activation and delta = dE/da, so `output_grad`
is dE/d(output) and `input_grad` is dE/d(input).
"""
import functools

import numpy as np


class _Layer(object):
    """What every layer is: `parameter_names` says what SGD trains, `state_names` what else is saved."""

    parameter_names = ()      # attributes trained by SGD; each has its gradient in the attribute NAME_grad
    state_names = ()          # attributes that training sets in another way, e.g. running statistics
    decayed_names = ()        # the parameters that weight decay shrinks
    augments = False          # True: varies its input at random in training; predict can average such views
    training = True           # False: evaluation mode, see Network.eval
    needs_input_grad = True   # False: nothing before this layer is trained, so dE/d(input) is not computed
    arguments = '()'          # what follows the name where the layer is printed, {0.NAME} for an attribute
    _memory = weight_grad = bias_grad = None

    def forward(self, input):
        """Return the output for `input`, and remember what `backward` needs, which may be the output itself."""
        raise NotImplementedError

    def backward(self, output_grad):
        """Return dE/d(input) from dE/d(output); set the gradients of the layer's parameters."""
        raise NotImplementedError

    def output_shape(self, input_shape):
        """The output's shape without N for an input's shape without N; ValueError where the two do not fit."""
        return input_shape

    def astype(self, dtype):
        """Convert parameters and state to `dtype` in place, and return the layer (float64 for gradient checks)."""
        for name in self.parameter_names + self.state_names:
            setattr(self, name, getattr(self, name).astype(dtype))
        return self

    def _remember(self, output, *values):
        """Keep `values` for `backward`, and return `output`."""
        self._memory = (np.shape(output), values)
        return output

    def _recall(self, output_grad):
        """The values kept by the last `forward`, after a check that `output_grad` belongs to its output."""
        if self._memory is None:
            raise RuntimeError('%s.backward was called before forward, or twice after it in a network: it needs what '
                               'forward keeps' % type(self).__name__)
        shape, values = self._memory
        if np.shape(output_grad) != shape:
            raise ValueError('%s.backward got an output_grad of shape %s, expected %s, the shape of the last output'
                             % (type(self).__name__, np.shape(output_grad), shape))
        return values

    def _check(self, input):
        """Raise unless `input` is a float array, of a shape that `output_shape` takes."""
        self.output_shape(np.shape(input)[1:])
        if getattr(input, 'dtype', None) not in (np.float32, np.float64):
            raise TypeError('%s.forward got %s, expected an array of float32 or float64: '
                            'put PixelScaling() first, or convert with astype'
                            % (type(self).__name__, getattr(input, 'dtype', type(input).__name__)))

    def _refuse(self, input_shape, expected):
        raise ValueError('%r expects %s, got an input of shape (%s)' % (
            self, expected, ', '.join(['N'] + list(map(str, input_shape)))))

    def __repr__(self):
        return type(self).__name__ + self.arguments.format(self)


def _generator(rng):
    """`rng`, or where it is None a new generator that np.random.seed fixes, as the lab's template does."""
    return np.random.default_rng(np.random.randint(2 ** 31)) if rng is None else rng


def _he_normal(rng, shape, fan_in):
    """Weights of variance 2 / fan_in, which keeps the signal's variance through ReLU layers.

    He, Zhang, Ren, Sun: Delving Deep into Rectifiers, 2015 (arXiv:1502.01852), equation 10.
    """
    return (_generator(rng).standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)


class FullyConnected(_Layer):
    """a_j = sum_i w_ji x_i + w_j0: every output is a weighted sum of all inputs, plus a bias.

    weight (D, M) with weight[i, j] = w_ji, He initialisation; bias (1, M) with bias[0, j] = w_j0, zero at first.
    """

    parameter_names = ('weight', 'bias')
    decayed_names = ('weight',)
    arguments = '({0.in_features}, {0.out_features})'

    def __init__(self, in_features, out_features, rng=None):
        self.in_features, self.out_features = in_features, out_features
        self.weight = _he_normal(rng, (in_features, out_features), in_features)
        self.bias = np.zeros((1, out_features), np.float32)

    def forward(self, input):
        """(N, D) -> (N, M)."""
        self._check(input)
        output = input @ self.weight.astype(input.dtype, copy=False)      # a = x w
        output += self.bias.astype(input.dtype, copy=False)               #       + w_0
        return self._remember(output, input)

    def backward(self, output_grad):
        """(N, M) -> (N, D), None where it is not needed."""
        input, = self._recall(output_grad)
        self.weight_grad = input.T @ output_grad                          # dE/dw_ji = sum_n x_ni delta_nj
        self.bias_grad = _column_sums(output_grad)                        # dE/dw_j0 = sum_n delta_nj
        if self.needs_input_grad:
            return output_grad @ self.weight.T.astype(output_grad.dtype, copy=False)   # dE/dx_i = sum_j w_ji delta_j

    def output_shape(self, input_shape):
        if input_shape != (self.in_features,):
            self._refuse(input_shape, '%d features' % self.in_features)
        return (self.out_features,)


# Activations: z = h(a), element by element, so dE/da = h'(a) dE/dz. Any shape.

class ReLU(_Layer):
    """h(a) = max(0, a), h'(a) = 1 where a > 0, else 0."""

    def forward(self, input):
        self._check(input)
        return self._remember(np.maximum(input, 0), input > 0)

    def backward(self, output_grad):
        positive, = self._recall(output_grad)
        return output_grad * positive


class LeakyReLU(_Layer):
    """h(a) = a where a > 0, else slope * a; h'(a) = 1 where a > 0, else slope."""

    arguments = '({0.slope:g})'

    def __init__(self, slope=0.01):
        self.slope = slope

    def forward(self, input):
        self._check(input)
        return self._remember(np.where(input > 0, input, input.dtype.type(self.slope) * input), input)

    def backward(self, output_grad):
        input, = self._recall(output_grad)
        return np.where(input > 0, output_grad, output_grad.dtype.type(self.slope) * output_grad)


class Sigmoid(_Layer):
    """h(a) = 1 / (1 + exp(-a)), h'(a) = h(a) (1 - h(a))."""

    def forward(self, input):
        self._check(input)
        output = 0.5 * np.tanh(0.5 * input) + 0.5        # the same function, but it cannot overflow
        return self._remember(output, output)

    def backward(self, output_grad):
        output, = self._recall(output_grad)
        return output_grad * output * (1 - output)


class Tanh(_Layer):
    """h(a) = tanh(a), h'(a) = 1 - h(a)^2."""

    def forward(self, input):
        self._check(input)
        output = np.tanh(input)
        return self._remember(output, output)

    def backward(self, output_grad):
        output, = self._recall(output_grad)
        return output_grad * (1 - output ** 2)


def softmax(logits):
    """(N, K) -> (y, ln y), y_k = exp(a_k) / sum_j exp(a_j); stable for logits of any size.

    softmax(a) = softmax(a - max a), whose exponentials cannot overflow; ln y is not taken of y, which may round to 0.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponential = np.exp(shifted)
    total = exponential.sum(axis=1, keepdims=True)
    return exponential / total, shifted - np.log(total)


class _Loss(_Layer):
    """What every loss is: `forward` takes targets, too, and returns (predict, loss); `backward` starts from dE/dE."""

    def output_shape(self, input_shape):
        if len(input_shape) != 1:
            self._refuse(input_shape, 'rows (N, K)')
        return input_shape

    def _targets(self, input, target):
        """The targets for an input (N, K) as probabilities (N, K), from one-hot rows (N, K) or integer labels (N,)."""
        self._check(input)
        (rows, classes), target = input.shape, np.asarray(target)
        if not rows:
            raise ValueError('%s.forward got a batch of no rows' % type(self).__name__)
        if target.shape == (rows,) and np.issubdtype(target.dtype, np.integer):
            wrong = np.flatnonzero((target < 0) | (target >= classes))
            if wrong.size:
                raise ValueError('target: row %d has the label %d, expected 0..%d' % (
                    wrong[0], target[wrong[0]], classes - 1))
            return np.eye(classes, dtype=input.dtype)[target]
        if target.shape != input.shape:
            raise ValueError('target: got shape %s and dtype %s, expected one-hot rows %s or integer labels (%d,)' % (
                target.shape, target.dtype, input.shape, rows))
        matrix = target.astype(input.dtype)
        right = (abs(matrix.sum(axis=1) - 1) <= 1e-4) & (matrix.min(axis=1) >= 0)      # NaN is not right
        if not right.all():
            row = matrix[right.argmin()]
            raise ValueError('target: row %d sums to %g, its least entry is %g; expected a one-hot row' % (
                right.argmin(), row.sum(), row.min()))
        return matrix


class SoftmaxWithLoss(_Loss):
    """Softmax y_k = exp(a_k) / sum_j exp(a_j), and the mean cross-entropy E = -1/N sum_n sum_k t_nk ln y_nk.

    With `label_smoothing` epsilon the target is (1 - epsilon) t_k + epsilon / K, as in PyTorch's CrossEntropyLoss
    (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """

    def __init__(self, label_smoothing=0.0):
        if not 0 <= label_smoothing < 1:
            raise ValueError('label_smoothing is %r, expected 0 <= label_smoothing < 1' % label_smoothing)
        self.label_smoothing = float(label_smoothing)
        self.arguments = '(label_smoothing=%g)' % label_smoothing if label_smoothing else '()'

    def forward(self, input, target):
        """Logits (N, K) and targets, one-hot (N, K) or integer labels (N,) -> (predict (N, K), the mean loss).

        Raises ValueError for targets that do not fit: shape, a label outside 0..K-1, rows that do not sum to 1.
        """
        target = self._targets(input, target)
        rows, classes = input.shape
        if self.label_smoothing:
            target = (1 - self.label_smoothing) * target + self.label_smoothing / classes
        predict, log_predict = softmax(input)
        loss = -np.sum(target * log_predict) / rows                       # E = -1/N sum_n sum_k t_nk ln y_nk
        self._remember(loss, predict, target)
        return predict.copy(), float(loss)

    def backward(self):
        """-> dE/da (N, K) of the mean loss that `forward` returned."""
        predict, target = self._recall(1.0)                               # dE/dE = 1
        return (predict - target) / predict.dtype.type(len(predict))      # delta_nk = (y_nk - t_nk) / N

    @staticmethod
    def predict(input):
        """Logits (N, K) -> probabilities (N, K)."""
        return softmax(input)[0]


class SquaredError(_Loss):
    """E = 1/N sum_n 1/2 sum_k (y_nk - t_nk)^2 with y_k = a_k, the lab's own derivation, as a mean over the batch."""

    def forward(self, input, target):
        """Outputs (N, K) and targets as for SoftmaxWithLoss -> (predict (N, K), the mean loss)."""
        difference = input - self._targets(input, target)
        loss = 0.5 * np.sum(difference ** 2) / len(input)
        self._remember(loss, difference)
        return input.copy(), float(loss)

    @staticmethod
    def predict(input):
        """The outputs themselves: y_k = a_k."""
        return input

    def backward(self):
        """-> dE/da (N, K)."""
        difference, = self._recall(1.0)                                   # dE/dE = 1
        return difference / difference.dtype.type(len(difference))        # delta_nk = (y_nk - t_nk) / N


class PixelScaling(_Layer):
    """Integer pixels 0..255 -> float32 (pixel / 255 - mean) / std; floats pass as they are."""

    arguments = '(mean={0.mean:g}, std={0.std:g})'

    def __init__(self, mean=0.0, std=1.0):
        self.mean, self.std = mean, std

    def forward(self, input):
        """(N, ...) integers or floats -> (N, ...) floats. ValueError for integers outside 0..255."""
        input = np.asarray(input)
        if not np.issubdtype(input.dtype, np.integer):
            return self._remember(input)
        if input.dtype != np.uint8 and input.size and (input.min() < 0 or input.max() > 255):
            raise ValueError('PixelScaling.forward got pixels from %d to %d, expected 0..255' % (
                input.min(), input.max()))
        output = np.multiply(input, np.float32(1 / (255 * self.std)), dtype=np.float32)
        output -= np.float32(self.mean / self.std)
        return self._remember(output)

    def backward(self, output_grad):
        self._recall(output_grad)
        return output_grad      # for the floats that passed as they are


class Reshape(_Layer):
    """(N, ...) -> (N,) + shape, e.g. Reshape(28, 28, 1) for rows of 784 pixels."""

    arguments = '{0.shape}'

    def __init__(self, *shape):
        self.shape = shape

    def forward(self, input):
        return self._remember(input.reshape((len(input),) + self.output_shape(input.shape[1:])), input.shape)

    def backward(self, output_grad):
        input_shape, = self._recall(output_grad)
        return output_grad.reshape(input_shape)

    def output_shape(self, input_shape):
        if int(np.prod(input_shape)) != int(np.prod(self.shape)):
            self._refuse(input_shape, '%d numbers a row' % np.prod(self.shape))
        return self.shape


class Flatten(Reshape):
    """(N, ...) -> (N, D)."""

    def output_shape(self, input_shape):
        return (int(np.prod(input_shape)),)


class Dropout(_Layer):
    """In training each element is zeroed with probability p and the others are divided by 1 - p; else nothing happens.

    Srivastava et al.: Dropout, JMLR 15 (2014). The division keeps the expected value, so evaluation needs no scaling.
    """

    arguments = '({0.p:g})'

    def __init__(self, p=0.5, rng=None):
        if not 0 <= p < 1:
            raise ValueError('Dropout got p=%r, expected 0 <= p < 1' % p)
        self.p, self.rng = p, _generator(rng)

    def forward(self, input):
        self._check(input)
        if not self.training:
            return self._remember(input, None)
        mask = self.rng.random(input.shape, dtype=np.float32) >= self.p
        scaled_mask = mask * input.dtype.type(1 / (1 - self.p))
        return self._remember(input * scaled_mask, scaled_mask)

    def backward(self, output_grad):
        scaled_mask, = self._recall(output_grad)
        return output_grad if scaled_mask is None else output_grad * scaled_mask


class BatchNorm(_Layer):
    """y = weight * (x - mean) / sqrt(var + eps) + bias, for each feature, with the batch's own mean and variance.

    Works on the last axis: (N, D) features, or (N, H, W, C) feature maps, whose N*H*W positions are R rows like any.
    In evaluation the running mean and variance take the batch's place, updated in training as in PyTorch:
    running = (1 - momentum) * running + momentum * batch, the variance divided by R - 1 for it.
    weight, bias, running_mean, running_var: (1, D). Ioffe, Szegedy 2015 (arXiv:1502.03167), algorithm 1 and section 3.
    """

    parameter_names = ('weight', 'bias')
    state_names = ('running_mean', 'running_var')

    def __init__(self, features, momentum=0.1, eps=1e-5):
        self.features, self.momentum, self.eps = features, float(momentum), float(eps)
        self.arguments = '(%d%s)' % (features, '' if (momentum, eps) == (0.1, 1e-5) else
                                     ', momentum=%g, eps=%g' % (momentum, eps))
        self.weight, self.bias = np.ones((1, features), np.float32), np.zeros((1, features), np.float32)
        self.running_mean, self.running_var = np.zeros((1, features), np.float32), np.ones((1, features), np.float32)

    def forward(self, input):
        self._check(input)
        rows, count = _long_rows(input), input.size // self.features          # count is R
        mean, var = [state.astype(input.dtype, copy=False) for state in (self.running_mean, self.running_var)]
        if self.training:
            if count < 2:
                raise ValueError('BatchNorm.forward got %d row in training: a variance needs two' % count)
            mean = _gather(_column_sums(rows), self.features) / count
        centred = rows - _spread(mean, rows)
        if self.training:
            var = _gather(np.einsum('rd,rd->d', centred, centred), self.features) / count
            for name, batch in (('running_mean', mean), ('running_var', var * (count / (count - 1.0)))):
                running = getattr(self, name)
                setattr(self, name, ((1 - self.momentum) * running + self.momentum * batch).astype(running.dtype))
        inverse_std = 1 / np.sqrt(var + self.eps)
        output = centred * _spread(inverse_std * self.weight, rows)
        output += _spread(self.bias, rows)
        return self._remember(output.reshape(input.shape), centred, inverse_std, self.training)

    def backward(self, output_grad):
        centred, inverse_std, training = self._recall(output_grad)
        delta, count = _long_rows(output_grad), output_grad.size // self.features
        # sum_r delta_r, and sum_r delta_r xhat_r with xhat = centred / std
        self.bias_grad = _gather(_column_sums(delta), self.features)
        self.weight_grad = _gather(np.einsum('rd,rd->d', delta, centred), self.features) * inverse_std
        scale = _spread(inverse_std * self.weight, delta)
        if not training:
            return (delta * scale).reshape(output_grad.shape)
        # dE/dx = weight / std * (delta - mean(delta) - xhat * mean(delta * xhat))
        input_grad = centred * _spread(-self.weight_grad * inverse_std / count, delta)
        input_grad += delta
        input_grad -= _spread(self.bias_grad / count, delta)
        input_grad *= scale
        return input_grad.reshape(output_grad.shape)

    def output_shape(self, input_shape):
        if input_shape[-1:] != (self.features,):
            self._refuse(input_shape, '%d features on the last axis' % self.features)
        return input_shape


def _long_rows(array):
    """(N, H, W, C) -> (N * H, W * C); (N, D) as it is. NumPy works through a few long rows faster than many short ones.

    A training step of the convolutional network of tests/benchmark.py takes 0.96 of the time.
    """
    return array.reshape(-1, array.shape[-2] * array.shape[-1]) if array.ndim > 2 else array


def _spread(vector, rows):
    """(1, C) -> the same numbers for each pixel of a long row, (1, W * C), in the dtype of the rows."""
    return np.tile(vector.astype(rows.dtype, copy=False), rows.shape[1] // vector.shape[1])


def _gather(sums, features):
    """The sums of the columns of long rows, W * C numbers -> the sum for each feature, (1, C)."""
    return sums.reshape(-1, features).sum(axis=0, keepdims=True)


def _column_sums(rows):
    """sum_r rows[r, d]: (R, D) -> (1, D). On many short rows twice as fast as sum(axis=0)."""
    return np.ones((1, len(rows)), rows.dtype) @ rows


class Conv2d(_Layer):
    """a[y, x, o] = sum_u,v,c w[u, v, c, o] z[y + u - k//2, x + v - k//2, c] + b[o]: the same k x k window of weights
    at every place of the image, zeros outside it ("same" padding, stride 1), as LeCun et al. 1989.

    weight (k, k, C, O), He initialisation with fan_in k*k*C; bias (1, O). k is 1, 3, 5 or 7. bias=False leaves b out,
    e.g. before BatchNorm, which subtracts it again with the mean.
    """

    decayed_names = ('weight',)

    def __init__(self, in_channels, out_channels, kernel_size=3, rng=None, bias=True):
        if kernel_size not in (1, 3, 5, 7):
            raise ValueError('Conv2d got kernel_size=%r, expected 1, 3, 5 or 7' % (kernel_size,))
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.weight = _he_normal(rng, shape, kernel_size * kernel_size * in_channels)
        self.bias = np.zeros((1, out_channels), np.float32) if bias else None
        self.parameter_names = ('weight', 'bias') if bias else ('weight',)
        self.arguments = '(%d, %d, kernel_size=%d%s)' % (in_channels, out_channels, kernel_size,
                                                         '' if bias else ', bias=False')

    def forward(self, input):
        """(N, H, W, C) -> (N, H, W, O)."""
        self._check(input)
        output = _correlate(input, self.weight)
        if self.bias is not None:
            output += self.bias.astype(input.dtype, copy=False)
        return self._remember(output, input)

    def backward(self, output_grad):
        """(N, H, W, O) -> (N, H, W, C), None where it is not needed."""
        input, = self._recall(output_grad)
        self.weight_grad = _correlation_grad(input, output_grad, self.kernel_size)
        if self.bias is not None:
            self.bias_grad = _column_sums(output_grad.reshape(-1, self.out_channels))
        if self.needs_input_grad:
            # What place p gave to place p + d comes back from p + d to p: the same sum with the window turned round
            return _correlate(output_grad, self.weight[::-1, ::-1].transpose(0, 1, 3, 2))

    def output_shape(self, input_shape):
        if len(input_shape) != 3 or input_shape[2] != self.in_channels:
            self._refuse(input_shape, 'images (N, H, W, %d)' % self.in_channels)
        return input_shape[:2] + (self.out_channels,)


# How Conv2d's sum is computed: v and c by matrix products, whose rows are the k pixels side by side, (k*C,); u, down a
# column, by _toom_cook: strips of m rows of output cost 9 multiplications instead of m*k. For k = 3 that makes
# the layer 1.3 to 1.7 times as fast as products over whole windows, and every value about 1e-5 of the greatest less
# exact in float32.

def _correlate(images, weight):
    """(N, H, W, C) images, (k, k, C, O) weights -> (N, H, W, O): a = A'((G w) * (B'z))."""
    (rows, height, width, _), (k, _, _, outputs) = images.shape, weight.shape
    A, _, G = _toom_cook(k, images.dtype)
    matrices = np.tensordot(G, weight.astype(images.dtype, copy=False), 1).reshape(9, -1, outputs)
    m = A.shape[1]
    output = np.empty((rows, -(-height // m), m, width * outputs), images.dtype)
    for part, values in _values(images, k, outputs):
        products = (values @ matrices).reshape((9,) + output[part].shape[:2] + (-1,))
        np.matmul(A.T, np.moveaxis(products, 0, 2), out=output[part])
    return output.reshape(rows, output.shape[1] * output.shape[2], width, outputs)[:, :height]


def _correlation_grad(images, output_grad, k):
    """dE/dw (k, k, C, O) for (N, H, W, C) images and dE/da (N, H, W, O)."""
    channels, outputs = images.shape[3], output_grad.shape[3]
    A, _, G = _toom_cook(k, images.dtype)
    product_grad = np.zeros((9, k * channels, outputs), images.dtype)
    for part, values in _values(images, k, outputs):
        strips = _strips(output_grad[part], A.shape[1], 0)
        delta = np.empty((9,) + strips.shape[:2] + strips.shape[3:], images.dtype)
        np.matmul(A, strips, out=np.moveaxis(delta, 0, 2))
        # dE/d(G w) = sum (B'z) (A delta)
        product_grad += values.transpose(0, 2, 1) @ delta.reshape(9, -1, outputs)
    return np.tensordot(G.T, product_grad, 1).reshape(k, k, channels, outputs)      # dE/dw = G' dE/d(G w)


def _values(images, k, outputs):
    """Yield (slice of images, B'z of their windows (9, places, k*C)), so many images that it takes 4 MB in float32."""
    rows, height, width, channels = images.shape
    A, B, _ = _toom_cook(k, images.dtype)
    m = A.shape[1]
    step = max(1, 2 ** 20 // (9 * -(-height // m) * width * (k * channels + outputs)))
    for start in range(0, rows, step):
        strips = _strips(images[start:start + step], m, k // 2)
        values = np.ascontiguousarray(B.T @ strips)                     # (n, strips, 9, (W + k - 1) * C)
        n, s, i, c = values.strides
        shape = (9,) + values.shape[:2] + (width, k * channels)
        windows = np.ndarray(shape, values.dtype, values, 0, (i, n, s, channels * c, c))
        yield slice(start, start + len(strips)), windows.reshape(9, -1, k * channels)


def _strips(images, m, border):
    """(n, H, W, C) -> (n, strips, m + 2 * border, (W + 2 * border) * C), a view of the zero-padded images."""
    rows, height, width, channels = images.shape
    strips = -(-height // m)
    if not border and strips * m == height:
        return images.reshape(rows, strips, m, -1)
    padded = np.zeros((rows, strips * m + 2 * border, width + 2 * border, channels), images.dtype)
    padded[:, border:border + height, border:border + width] = images
    n, y, x, c = padded.strides
    return np.ndarray((rows, strips, m + 2 * border, padded.shape[2] * channels), padded.dtype, padded, 0,
                      (n, m * y, y, c))


@functools.lru_cache(maxsize=None)
def _toom_cook(k, dtype):
    """-> A (9, m), B (9, 9), G (9, k) with a = A'((G w) * (B'z)) for a_y = sum_u w_u z_{y+u}, m = 10 - k outputs.

    A polynomial of degree 8 is determined by its values at 8 points and its leading coefficient, its "value at
    infinity". To multiply polynomials of m and k coefficients, take both to values (A, G), multiply those, and go back
    to coefficients (Lagrange, B): s = B((A r) * (G w)), 9 multiplications instead of m k. The sum above is this map's
    transpose with respect to r. Toom 1963, Cook 1966; for networks Lavin, Gray 2015 (arXiv:1509.09308).
    """
    points = np.array([0, 1, -1, 2, -2, 0.5, -0.5, 0.75])
    others = [np.delete(points, i) for i in range(8)]
    B = np.zeros((9, 9))
    B[:8, :8] = np.transpose([np.poly(rest)[::-1] for rest in others])      # prod (x - q), q the other points
    B[:, 8] = np.poly(points)[::-1]
    A, G = [np.vstack([np.vander(points, size, increasing=True), np.eye(size)[-1:]]) for size in (10 - k, k)]
    G[:8] /= np.array([[np.prod(p - rest)] for p, rest in zip(points, others)])
    return A.astype(dtype), B.astype(dtype), G.astype(dtype)


class MaxPool2d(_Layer):
    """The greatest of each 2 x 2 square; the gradient goes to where it stood, to the first place column
    by column if there are several.

    (N, H, W, C) -> (N, H//2, W//2, C): the last row or column of an odd side is left out, as in PyTorch; with
    ceil_mode it is kept, as a square cut off by the border. First the greater of two neighbours in a column is taken,
    then the greater of two such in neighbouring columns.
    """

    def __init__(self, ceil_mode=False):
        self.ceil_mode, self.arguments = ceil_mode, '(ceil_mode=True)' if ceil_mode else '()'

    def forward(self, input):
        self._check(input)
        shape = input.shape
        if self.ceil_mode:      # a border pixel's copy is never the first to be greatest, so it gets no gradient
            input = np.pad(input, ((0, 0), (0, shape[1] % 2), (0, shape[2] % 2), (0, 0)), mode='edge')
        top, bottom = self._pairs(input, 1)
        greater = np.maximum(top, bottom)
        left, right = self._pairs(greater, 2)
        return self._remember(np.maximum(left, right), shape, input.shape, top >= bottom, left >= right)

    def backward(self, output_grad):
        shape, padded_shape, top_wins, left_wins = self._recall(output_grad)
        greater_grad = self._share(output_grad, left_wins, padded_shape[2], 2)
        input_grad = self._share(greater_grad, top_wins, padded_shape[1], 1)
        return input_grad[:, :shape[1], :shape[2]]

    def _share(self, grad, first_wins, length, axis):
        """Each pair's gradient to the one that was greater, along an axis of `length`; 0 for one left over."""
        result = np.empty(grad.shape[:axis] + (length,) + grad.shape[axis + 1:], grad.dtype)
        result[(slice(None),) * axis + (slice(length // 2 * 2, None),)] = 0
        first, second = self._pairs(result, axis)
        np.multiply(grad, first_wins, out=first)
        np.subtract(grad, first, out=second)      # exact: the first got all of it or nothing
        return result

    @staticmethod
    def _pairs(images, axis):
        """The first and the second of each two neighbours along an axis, as views."""
        end = images.shape[axis] // 2 * 2
        before = (slice(None),) * axis
        return images[before + (slice(0, end, 2),)], images[before + (slice(1, end, 2),)]

    def output_shape(self, input_shape):
        if len(input_shape) != 3 or min(input_shape[:2]) < 2 - self.ceil_mode:
            self._refuse(input_shape, 'images (N, H, W, C) with at least one whole square')
        return tuple((side + self.ceil_mode) // 2 for side in input_shape[:2]) + input_shape[2:]


class Augment(_Layer):
    """In training every image is turned, scaled, sheared, shifted and bent at random; in evaluation nothing happens.

    rotation in degrees, scale and shear as fractions, shift in pixels: each drawn evenly from -range..range, scale and
    shear for each axis. elastic in pixels: the standard deviation of a smooth random displacement, given at 4 x 4
    points and interpolated between them, after Simard et al.: Best Practices for Convolutional Neural Networks, 2003.

    Takes (N, S*S) or (N, S, S, 1) with blank borders: a place outside the image reads as the border pixel
    nearest to it, to a thousandth.
    """

    augments = True
    arguments = ('(rotation={0.rotation:g}, scale={0.scale:g}, shear={0.shear:g}, shift={0.shift:g}, '
                 'elastic={0.elastic:g})')

    def __init__(self, rotation=0.0, scale=0.0, shear=0.0, shift=0.0, elastic=0.0, rng=None):
        self.rotation, self.scale, self.shear, self.shift, self.elastic = rotation, scale, shear, shift, elastic
        self.rng = _generator(rng)

    def forward(self, input):
        self._check(input)
        size = self._side(input.shape[1:])
        if not self.training:
            return self._remember(input, None)
        y, x = np.clip(_random_places(self, len(input), size), 0, size - 1.001)     # read each pixel from place (y, x)
        top, left = y.astype(np.int32), x.astype(np.int32)
        down, right = y - top, x - left            # how far towards the next pixel, in float64: float32 - int32
        index = top * size + left + (np.arange(len(input), dtype=np.int32) * size * size)[:, np.newaxis]
        corners = [(index, (1 - down) * (1 - right)), (index + 1, (1 - down) * right),
                   (index + size, down * (1 - right)), (index + size + 1, down * right)]
        pixels = input.ravel()
        output = sum(pixels.take(place) * weight for place, weight in corners)     # bilinear interpolation
        return self._remember(output.astype(input.dtype, copy=False).reshape(input.shape), corners)

    def backward(self, output_grad):
        corners, = self._recall(output_grad)
        if corners is None:
            return output_grad
        input_grad = sum(np.bincount(place.ravel(), (weight * output_grad.reshape(weight.shape)).ravel(),
                                     output_grad.size) for place, weight in corners)
        return input_grad.astype(output_grad.dtype).reshape(output_grad.shape)

    def _side(self, input_shape):
        """S for images (S*S,) or (S, S, 1); ValueError for others."""
        size = int(round(np.sqrt(np.prod(input_shape))))
        if tuple(input_shape) not in ((size * size,), (size, size, 1)):
            self._refuse(input_shape, 'square images of one channel')
        return size

    def output_shape(self, input_shape):
        self._side(input_shape)
        return input_shape


def _random_places(augment, rows, size):
    """Where an Augment layer reads the pixels of its output, at random, in pixels: (2, rows, size*size), y and x."""
    def evenly(limit, *shape):
        return augment.rng.uniform(-limit, limit, (rows,) + shape)

    angle = np.deg2rad(evenly(augment.rotation))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])     # (2, 2, rows)
    stretch = np.eye(2) * (1 + evenly(augment.scale, 2, 1)) + (1 - np.eye(2)) * evenly(augment.shear, 2, 1)
    matrix = np.einsum('ijn,njk->nik', turn, stretch).astype(np.float32)
    centre = (size - 1) / 2.0
    grid = np.indices((size, size), dtype=np.float32).reshape(2, -1) - np.float32(centre)
    places = matrix @ grid + (centre + evenly(augment.shift, 2, 1)).astype(np.float32)        # (rows, 2, size*size)
    if augment.elastic:
        # Linear interpolation from 4 points to `size` pixels is a matrix (size, 4); apply it along both axes
        ramp = np.maximum(0, 1 - abs(np.linspace(0, 3, size)[:, np.newaxis] - np.arange(4))).astype(np.float32)
        bend = augment.rng.standard_normal((rows, 2, 4, 4), dtype=np.float32) * np.float32(augment.elastic)
        places += (ramp @ bend @ ramp.T).reshape(places.shape)
    return places.transpose(1, 0, 2)
