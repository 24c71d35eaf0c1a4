"""Questions to the layers and the loss of a hand-in, each asked alone.

A part is wrapped in an object that knows how it is made and fed: Dense, Activation, and two kinds
of losses, which answer to `ask`. The checks below do not know the student's names.
"""
import copy
import functools
import re

import numpy as np

import find_parts as find
import mistakes

SIZES = (5, 4)                          # inputs and outputs of a layer that is made for a check
ROWS_TRIED = (7, 10, 1, 32, 64, 100, 128, 50, 20, 16, 200, 256)
DENSE_NAME = r'full|connect|linear|dense|affine|^fc'
OTHER_NAME = r'drop|norm|pool|flat|reshape|scal|augment|loss|conv|optim'
ACTIVATION_NAME = r'relu|sigmoid|tanh|activ|elu$|swish|silu|softplus|mish'


RETURNS_NONE = 'forward returns None, expected the output: is a return missing?'


class NotFinished(Exception):
    """A part returns None, or says itself that it is not written yet."""


class Unfollowed(Exception):
    """The form of a hand-in that the grader cannot follow: what, and what to change."""


def normal(*shape, seed=3):
    """Normally distributed float64 numbers."""
    return np.random.RandomState(seed).standard_normal(shape)


def one_hot(labels, classes):
    """Labels (N,) -> (N, K) float32, as the handout makes them."""
    return np.eye(classes, dtype=np.float32)[labels]


def tolerance_of(*results):
    """The relative error that passes: more, if one of the results is float32."""
    single = any(np.asarray(result).dtype in (np.float32, np.float16) for result in results)
    return 1e-3 if single else 1e-6


class Layout(object):
    """How the rows of a batch lie in a student's arrays: (N, D), (D, N), (N, 1, D) or (D,)."""

    def __init__(self, name):
        self.name = name

    def theirs(self, array):
        """(N, D) -> a new array in the student's layout."""
        array = np.array(array)
        if self.name == 'columns':
            return np.ascontiguousarray(array.T)
        if self.name == 'middle':
            return array[:, np.newaxis, :]
        return array[0] if self.name == 'flat' else array

    def ours(self, array, rows):
        """The student's array -> (N, D)."""
        array = np.asarray(array)
        if self.name == 'columns' and array.ndim == 2:
            return array.T
        return array.reshape(rows, -1)


LAYOUTS = [Layout(name) for name in ('rows', 'columns', 'middle')]
FLAT = Layout('flat')


def parts_of(result):
    """The arrays and numbers of what a method returned, in a flat list."""
    if isinstance(result, (tuple, list)):
        found = []
        for part in result:
            found += parts_of(part)
        return found
    if isinstance(result, dict):
        return parts_of(list(result.values()))
    return [] if result is None else [np.asarray(result)]


def of_size(result, size):
    """The first array of this size in what a method returned, or None."""
    for part in parts_of(result):
        if part.size == size and part.dtype.kind in 'fiub':
            return part
    return None


# FullyConnected -----------------------------------------------------------------------------------

class Dense(object):
    """A layer with weights. `weight` and `bias` are the paths of its arrays."""

    def __init__(self, name, make, inputs, outputs):
        self.name = name
        self.make = make
        self.inputs = inputs
        self.outputs = outputs
        self.bias = None
        self.absorbed = False       # True if the bias is a row of the weight
        self.layout = LAYOUTS[0]
        self.rows = 7

    def call_forward(self, layer, x):
        """forward for x (N, D) in the student's layout, as it is."""
        forward = find.method(layer, find.FORWARD)
        known = dict(find.CONSTANTS, rows=self.rows, input=x)
        return find.call(layer, 'forward', *find.arguments(forward, known, (x,)))

    def forward(self, layer, x):
        """x (N, D) -> the output (N, M). NotFinished if nothing comes."""
        result = self.call_forward(layer, self.layout.theirs(x))
        if result is None:
            raise NotFinished(RETURNS_NONE)
        output = of_size(result, len(x) * self.outputs)
        if output is None:
            raise Unfollowed(f'{self.name}.forward gives {describe_shapes(result)} for an input '
                             f'{np.shape(self.layout.theirs(x))}')
        return self.layout.ours(output, len(x))

    def backward(self, layer, delta, x):
        """delta and the input in the student's layout -> what backward returns."""
        backward = find.method(layer, find.BACKWARD)
        known = dict(find.CONSTANTS, rows=self.rows, grad=delta, input=x)
        return find.call(layer, 'backward', *find.arguments(backward, known, (delta,)))

    def find_arrays(self):
        """Find the rows, the layout, the weight and the bias. Unfollowed if this fails."""
        error = self.find_layout()
        layer = self.make()
        shapes = ((self.inputs, self.outputs), (self.outputs, self.inputs))
        found = find.arrays(layer)
        weights = [path for path, array in found.items() if array.shape in shapes]
        if not weights:
            weights = self.find_absorbed(found)
        if not weights:
            raise Unfollowed(f'{self.name}({self.inputs}, {self.outputs}) holds no array of shape '
                             f'{shapes[0]} or {shapes[1]}: keep the weights in an attribute')
        biases = [path for path, array in found.items() if array.size == self.outputs]
        if error is None:
            weights = [path for path in weights if self.matters(path)] or weights
            biases = [path for path in biases if self.matters(path)] or biases
        self.weight = min(weights, key=gradient_like)
        if biases:
            self.bias = min(biases, key=gradient_like)
        self.transposed = find.get(layer, self.weight).shape[1] != self.outputs
        if error is not None:
            raise error

    def find_absorbed(self, found):
        """The paths of weights with one row more, which is the bias."""
        shapes = ((self.inputs + 1, self.outputs), (self.outputs, self.inputs + 1))
        self.absorbed = True
        return [path for path, array in found.items() if array.shape in shapes]

    def find_layout(self):
        """Find rows and layout. Returns the exception of a forward that never works."""
        errors = []
        for rows in ROWS_TRIED:
            for layout in LAYOUTS + ([FLAT] if rows == 1 else []):
                self.rows, self.layout = rows, layout
                try:
                    output = self.forward(self.make(), normal(rows, self.inputs))
                except NotImplementedError as error:
                    self.rows, self.layout = 7, LAYOUTS[0]
                    return NotFinished(str(error) or 'forward is not written yet')
                except NotFinished as error:
                    errors.append(error)
                    continue
                except Exception as error:
                    errors.append(error)
                    continue
                if np.shape(output) == (rows, self.outputs):
                    return None
        self.rows, self.layout = 7, LAYOUTS[0]
        return errors[0]

    def matters(self, path):
        """True if the output depends on the array at `path`."""
        x = normal(self.rows, self.inputs)
        outputs = []
        for shift in (0.0, 1.0):
            layer = self.make()
            array = find.get(layer, path)
            find.put(layer, path, (array + shift).astype(array.dtype))
            outputs.append(np.array(self.forward(layer, x)))
        return not np.array_equal(*outputs)

    def fill(self, layer):
        """Give the layer random weights -> weight (D, M) and bias (M,), in float64."""
        array = find.get(layer, self.weight)
        weight = normal(*array.shape, seed=4).astype(array.dtype)
        find.put(layer, self.weight, weight)
        weight = np.array(weight, np.float64)
        bias = np.zeros(self.outputs)
        if self.bias is not None:
            array = find.get(layer, self.bias)
            value = normal(*array.shape, seed=5).astype(array.dtype)
            find.put(layer, self.bias, value)
            bias = np.array(value, np.float64).ravel()
        return (weight.T if self.transposed else weight), bias


def describe_shapes(result):
    """'arrays of the shapes (7, 4), ()' for a message."""
    shapes = ', '.join(str(part.shape) for part in parts_of(result)[:3])
    return f'arrays of the shapes {shapes}' if shapes else 'None'


def gradient_like(path):
    """A number that is large if a path looks like that of a gradient or a moment."""
    name = str(path[-1]).lower()
    words = ('grad', 'delta', 'velocity', 'moment', 'last', 'prev', 'cache')
    looks = any(word in name for word in words) or re.match(r'd_?[wb]|[vms]_?[wb]$|[vms]d', name)
    return (bool(looks), len(path), len(name))


def construct_with_weights(cls, *sizes):
    """Make a layer. One without arrays is also told to make its weights."""
    layer = find.construct(cls, *sizes)
    if not find.arrays(layer):
        for name in dir(layer):
            if name.lower().startswith(('init', 'reset')) and callable(getattr(layer, name)):
                getattr(layer, name)()
    return layer


def fully_connected_classes(classes):
    """Yield (name, make, sizes) for each class that can be made from two sizes, with weights."""
    for name, cls in classes.items():
        if not (find.method(cls, find.FORWARD) and find.method(cls, find.BACKWARD)):
            continue
        for maker in (construct_with_weights, construct_from_arrays):
            make = functools.partial(maker, cls, *SIZES)
            try:
                layer = make()
            except Exception:
                continue
            shapes = [array.shape for array in find.arrays(layer).values()]
            inputs, outputs = SIZES
            wanted = {SIZES, SIZES[::-1], (inputs + 1, outputs), (outputs, inputs + 1)}
            if wanted & set(shapes) and not find.layers(layer):
                yield name, make, SIZES
                break


def construct_from_arrays(cls, inputs, outputs):
    """Make a layer from its weight and its bias, for classes that take them."""
    names = [name.lower() for name, must in find.parameters(cls)[0] if must]
    if len(names) != 2 or not names[0].startswith('w') or not names[1].startswith('b'):
        raise LookupError('takes no arrays')
    return cls(normal(inputs, outputs), normal(outputs))


def check_dense(part, report):
    """Ask a Dense all its questions. `report(task, ...)` takes each answer."""
    try:
        part.find_arrays()
    except NotFinished as error:
        report('dense.forward', part.name, 'not-finished', str(error))
        return
    if part.rows != 7:
        report('rows', part.name, 'one-batch-size', (
            f'{part.name} works for {part.rows} rows, but not for 7: take the number of rows from '
            'the input.'))
    layer = part.make()
    weight, bias = part.fill(layer)
    x = normal(part.rows, part.inputs, seed=6)
    given = part.layout.theirs(x)
    inputs = x
    if part.absorbed:
        x = np.column_stack([x, np.ones(part.rows)])
    kept = given.copy()
    output = of_size(part.call_forward(layer, given), part.rows * part.outputs)
    part.shape = output.shape
    output = np.array(part.layout.ours(output, part.rows))
    tolerance = tolerance_of(output)
    if part.absorbed and not mistakes.close(output, x @ weight, tolerance):
        x = x[:, [-1] + list(range(part.inputs))]      # the bias is the first row, not the last
    scale = input_factor(output - bias, x @ weight, tolerance)
    if scale != 1:
        report('dense.forward', part.name, state='note', message=(
            f'The input is multiplied by {scale:.4g}: a_j = sum_i w_ji x_i + w_j0 has no factor.'))
        x = scale * x
    elif any(mistakes.close(output, h(x @ weight + bias), tolerance) for h in INSIDE):
        if not np.isfinite(part.forward(part.make(), 1e9 * inputs)).all():
            report('loss.large', part.name, 'softmax-overflow', OVERFLOW)
        raise Unfollowed('the activation or softmax is inside this layer: write it as a layer of '
                         'its own, a_j = sum_i w_ji x_i + w_j0')
    else:
        compare(report, 'dense.forward', part.name, output, x @ weight + bias,
                mistakes.affine_suspects(x, weight, bias), tolerance)
    if not np.array_equal(given, kept):
        report('unchanged', part.name, 'changes-input', (
            f'{part.name}.forward overwrites its input, which still belongs to the layer before.'))
    check_dense_backward(part, layer, x, weight, scale, report)


def input_factor(output, product, tolerance):
    """The factor on the input of a layer, 1 if there is none or if the layer is not affine."""
    scale = mistakes.factor(output, product, tolerance)
    return 1 if scale is None or scale <= 0 or abs(scale - 1) < 1e-3 else scale


OVERFLOW = (
    'Logits (1000, 0, 0, ...): got nan, expected 1, 0, 0, ... exp(1000) is inf, and inf / inf is '
    'nan. softmax(a) = softmax(a - c) for any c, so c can be the largest logit of the row.')
INSIDE = (lambda a: softmax(a)[0], lambda a: 1 / (1 + np.exp(-a)), np.tanh,
          lambda a: np.maximum(a, 0))


def check_dense_backward(part, layer, x, weight, scale, report):
    """The three gradients of a Dense after its forward. `x` is the input times `scale`."""
    delta = normal(part.rows, part.outputs, seed=7)
    given = part.layout.theirs(delta).reshape(part.shape)
    kept = given.copy()
    before = copy.deepcopy(find.arrays(layer))
    numbers_before = scalars(layer)
    result = None
    finished = True
    try:
        result = part.backward(layer, given, part.layout.theirs(x))
    except NotImplementedError as error:
        finished = str(error) or 'backward is not written yet'
    after = find.arrays(layer)
    tolerance = tolerance_of(after[part.weight])
    if not np.array_equal(given, kept):
        report('unchanged', part.name, 'changes-gradient', (
            f'{part.name}.backward overwrites the gradient that it was given.'))
    if not mistakes.close(after[part.weight], before[part.weight], 1e-12):
        report('dense.weight_grad', part.name, 'update-in-backward', (
            'backward already moves the weights. Forward and backward only compute; the step '
            'w - lr dE/dw belongs to update, after all gradients are known. '
            + mistakes.numbers(after[part.weight], before[part.weight])))
        return
    exact = x.T @ delta
    found = part.weight_grad = weight_gradient(part, before, after, result, exact)
    got = found if found is None else find_value(layer, result, found)
    if got is not None and got.shape != exact.shape and part.transposed:
        got = got.T
    if got is not None and np.shape(got) == (part.rows,) + exact.shape and mistakes.close(
            got.sum(axis=0), exact, tolerance):
        report('dense.weight_grad', part.name, state='note',
               message='One gradient for each row is kept, for update to sum.')
    else:
        compare(report, 'dense.weight_grad', part.name, got, exact,
                mistakes.weight_grad_suspects(x, delta, weight), tolerance, finished)
        check_bias_gradient(part, layer, before, numbers_before, result, delta, finished,
                            report)
    weight = scale * weight
    if part.absorbed:
        column = int(x[0, -1] != 1)
        x, weight = (x[:, 1:], weight[1:]) if column else (x[:, :-1], weight[:-1])
    got = input_gradient(part, result, exact=delta @ weight.T)
    compare(report, 'dense.input_grad', part.name, got, delta @ weight.T,
            mistakes.input_grad_suspects(x, delta, weight), tolerance, finished)


def scalars(layer):
    """{path: number} of the plain numbers that hang on a layer."""
    return {path: float(value) for path, value in find.walk(layer, 2)
            if isinstance(value, (float, np.floating, np.integer)) and not isinstance(value, bool)}


def find_value(layer, result, found):
    """The array at a path, or in what backward returned."""
    if found[0] == 'returned':
        return np.asarray(parts_of(result)[found[1]])
    return np.asarray(find.get(layer, found))


def changed_paths(before, after):
    """The paths of arrays that are new or that changed."""
    return [path for path, array in after.items()
            if path not in before or not np.array_equal(array, before[path])]


def weight_gradient(part, before, after, result, exact):
    """The path of weight_grad: an array of the weight's size that backward has set, or None."""
    size = exact.size
    paths = [path for path in changed_paths(before, after)
             if after[path].size == size and path != part.weight]
    for path in paths:
        for array in (after[path], after[path].T):
            if array.size and mistakes.factor(array.ravel(), exact.ravel(), 1e-3) is not None:
                return path
    if paths:
        return max(paths, key=gradient_like)
    for index, array in enumerate(parts_of(result)):
        if array.size == size and array.ndim == 2:
            return ('returned', index)
    named = [path for path in after if path != part.weight and gradient_like(path)[0]
             and re.search(r'w', str(path[-1]).lower())]
    return named[0] if named else None


def check_bias_gradient(part, layer, before, numbers_before, result, delta, finished, report):
    """Find bias_grad, by its size or its name, and compare it."""
    if part.absorbed:
        report('dense.bias_grad', part.name)
        return
    if part.bias is None:
        report('dense.bias_grad', part.name, state='note',
               message='No bias was found, an array of one number an output.')
        return
    after = find.arrays(layer)
    exact = delta.sum(axis=0)
    changed = [path for path in changed_paths(before, after)
               if path not in (part.bias, part.weight, part.weight_grad)]
    named = [path for path in changed if bias_gradient_name(path)]
    sized = [path for path in changed if after[path].size == part.outputs]
    got = None
    part.bias_grad = None
    for path in named + sized:
        part.bias_grad = path
        got = after[path]
        break
    if got is None:
        numbers = scalars(layer)
        for path, number in numbers.items():
            if bias_gradient_name(path) and numbers_before.get(path) != number:
                got = np.asarray(number)
    if got is None:
        arrays = [array for array in parts_of(result) if array.size == part.outputs]
        got = arrays[-1] if arrays else None
    if got is None:
        paths = [path for path in after if bias_gradient_name(path)]
        got = after[paths[0]] if paths else None
    if got is not None and got.shape == delta.shape[::-1] and part.layout.name == 'columns':
        got = got.T
    compare(report, 'dense.bias_grad', part.name, got, exact,
            mistakes.bias_grad_suspects(delta), tolerance_of(after[part.bias]), finished)


def bias_gradient_name(path):
    """True if an array's name reads like that of the gradient of a bias."""
    name = str(path[-1]).lower()
    if re.search(r'weight|input|^x|output', name):
        return False
    return bool(re.search(r'bias.*(grad|delta|deriv)|(grad|delta|^d|deriv)_?.*b|b\d?_?(grad|delta)',
                          name))


def input_gradient(part, result, exact):
    """The array that goes to the layer before, from what backward returned. None if none."""
    got = of_size(result, exact.size)
    if got is not None:
        return part.layout.ours(got, part.rows)
    found = [array for array in parts_of(result) if array.size > 1]
    return found[0] if found and not isinstance(result, (tuple, list)) else None


def compare(report, task, part, got, expected, suspects, tolerance, finished=True):
    """Report a task as right, or with the likely mistake."""
    if got is not None and np.size(got) == np.size(expected) and mistakes.close(
            got, expected, tolerance):
        report(task, part)
        return True
    numbers = mistakes.numbers(got, expected)
    if finished is not True and (got is None or not np.any(got)):
        report(task, part, 'not-finished', finished)
        return
    if got is None:
        slug = {'dense.input_grad': 'input-grad'}.get(task, 'not-finished')
        report(task, part, slug, f'There is nothing yet: {numbers}.')
        return
    scale = mistakes.factor(got, expected, tolerance)
    found = mistakes.likely(got, expected, suspects, tolerance)
    if found is None:
        found = (DEFAULTS.get(task, 'other'), mistakes.hint(got, np.reshape(expected, np.shape(got))
                                                            if np.size(got) == np.size(expected)
                                                            else expected))
        found = (found[0], found[1] or 'None of the known mistakes fits.')
    report(task, part, found[0], f'{found[1]} {numbers[0].upper()}{numbers[1:]}.', scale=scale)
    return False


DEFAULTS = {'dense.weight_grad': 'weight-grad', 'dense.bias_grad': 'bias-grad',
            'dense.input_grad': 'input-grad', 'activation.backward': 'activation-derivative',
            'activation.forward': 'activation-value', 'softmax': 'other',
            'loss.gradient': 'loss-gradient-other-function'}


# Activations --------------------------------------------------------------------------------------

class Activation(object):
    """An activation class, alone. `make` gives a new object."""

    def __init__(self, name, make):
        self.name = name
        self.make = make

    def forward(self, a, layer=None):
        """a -> h(a), from a new object."""
        layer = self.make() if layer is None else layer
        forward = find.method(layer, find.FORWARD)
        known = dict(find.CONSTANTS, input=a, rows=len(a))
        result = find.call(layer, 'forward', *find.arguments(forward, known, (a,)))
        if result is None:
            raise NotFinished(RETURNS_NONE)
        return of_size(result, a.size)

    def backward(self, layer, a, delta):
        """-> what backward gives for delta, and whether it takes a gradient at all."""
        backward = find.method(layer, find.BACKWARD)
        named, more = find.parameters(backward)
        known = dict(find.CONSTANTS, input=a, grad=delta, rows=len(a))
        if not named and not more:
            return find.call(layer, 'backward'), False
        required = [name for name, must in named if must]
        if len(required) > 1:
            values = find.arguments(backward, known, (), (delta, a))
        elif required and find.meaning(required[0]) == 'input':
            return find.call(layer, 'backward', a.copy()), False      # h'(a), a mask
        else:
            values = find.arguments(backward, known, (delta,))
        return find.call(layer, 'backward', *values), True


def slope_of(forward, a):
    """h'(a) by central differences of an elementwise function, and where it has no kink."""
    step = 1e-2 if forward(a.copy()).dtype == np.float32 else 1e-5
    middle = np.array(forward(a.copy()), np.float64)
    above = np.array(forward(a + step), np.float64)
    below = np.array(forward(a - step), np.float64)
    smooth = np.abs(above + below - 2 * middle) < 0.02 * step + 2 * step ** 2
    return (above - below).reshape(a.shape) / (2 * step), smooth.reshape(a.shape)


class Slope(object):
    """h' of a function at any array."""

    def __init__(self, forward):
        self.forward = forward

    def __call__(self, array):
        return slope_of(self.forward, np.array(array))[0]


def values_away_from_0(rows, columns):
    """Numbers (N, M) of both signs, 0.1 to 3 away from 0."""
    numbers = np.random.RandomState(8).uniform(0.1, 3, (rows, columns))
    return numbers * np.where(normal(rows, columns, seed=9) > 0, 1, -1)


def is_elementwise(part, a):
    """True if each output depends on the input at the same place, and on no other."""
    z = part.forward(a.copy())
    if z is None or z.dtype.kind not in 'fiub' or mistakes.close(z, a):
        return False
    z = np.array(z)
    if np.ptp(np.array(part.forward(a + 1), np.float64) - z) < 1e-6:
        return False      # a scaling of the input
    if not np.array_equal(z, part.forward(a.copy())):
        return False      # random numbers, as in dropout
    other = a.copy()
    other[0, 0] += 0.5
    changed = np.array(part.forward(other)).reshape(a.shape) != z.reshape(a.shape)
    changed[0, 0] = False
    moved = part.forward(np.array(a[::-1])).reshape(a.shape)[::-1]
    return not changed.any() and mistakes.close(moved, z)


def sigmoid(a):
    """1 / (1 + exp(-a)), for the table below."""
    return 1 / (1 + np.exp(-a))


FUNCTIONS = (
    (r'^(?!.*(leaky|lrelu|prelu|rrelu|crelu|gelu|selu|celu|silu|elu6|relu6|frelu|srelu)).*relu\d?$',
     lambda a: np.maximum(a, 0), 'h(a) = max(0, a)'),
    (r'^(?!.*(hard|log|lu$|swish)).*(sigmoid|logistic)', sigmoid, 'h(a) = 1 / (1 + exp(-a))'),
    (r'^(?!.*(hard|shrink|exp)).*tanh', np.tanh, 'h(a) = tanh(a)'),
    (r'softplus', lambda a: np.log1p(np.exp(a)), 'h(a) = ln(1 + exp(a))'),
    (r'silu', lambda a: a * sigmoid(a), 'h(a) = a / (1 + exp(-a))'),
)


def check_value(part, a, z, tolerance, report):
    """True if h(a) is that of the function that the class is named after, or of no such name."""
    name = part.name.lower()
    for pattern, function, formula in FUNCTIONS:
        if re.search(pattern, name):
            return compare(report, 'activation.forward', part.name, z, function(a), [
                ('activation-value', np.maximum(-a, 0), f'The sign of a is exchanged: {formula}.'),
                ('activation-value', a > 0, f'It is the mask, not the value: {formula}.'),
                ('activation-value', np.minimum(a, 0), f'The sign is exchanged: {formula}.'),
                ('activation-value', np.abs(a), f'Negative a change sign: {formula}.')], tolerance)
    if re.search(r'leaky|lrelu|prelu', name):
        ratio = z / a
        right = mistakes.close(ratio[a > 0], np.ones(np.sum(a > 0)), tolerance)
        if not right or np.ptp(ratio[a < 0]) > 10 * tolerance:
            worst = np.abs(ratio - 1)[a > 0].argmax()
            report('activation.forward', part.name, 'activation-value', (
                'h(a) = a where a > 0, else slope * a, with one slope. '
                + mistakes.numbers(z[a > 0][worst], a[a > 0][worst])))
            return False
    report('activation.forward', part.name)
    return True


def check_overflow(part, report):
    """h(a) and the gradient at -800 and 800 are finite."""
    a = np.array([[-800.0, 800.0, -750.0, 1.0]] * 2)
    if re.search('exp', part.name.lower()):
        return
    layer = part.make()
    z = np.array(part.forward(a.copy(), layer), np.float64).ravel()
    wrong = ~np.isfinite(z)
    if wrong.any():
        report('activation.forward', part.name, 'activation-overflow', (
            f'h({a.ravel()[wrong.argmax()]:g}): got {z[wrong.argmax()]}, expected a finite number. '
            'exp of a large number is inf, and inf / inf is nan: write h so that exp gets '
            'negative numbers only.'))
        return
    result = of_size(part.backward(layer, a, np.ones_like(a))[0], a.size)
    if result is not None and not np.isfinite(np.array(result, np.float64)).all():
        report('activation.backward', part.name, 'activation-overflow', (
            "h'(800) or h'(-800): got nan or inf, expected a finite number. exp of a large number "
            'is inf, and inf / inf or 0 * inf is nan.'))


def check_activation(part, report):
    """Ask an activation class its questions."""
    rows = 7
    for rows in ROWS_TRIED:
        a = values_away_from_0(rows, 5)
        try:
            part.forward(a.copy())
            break
        except (NotImplementedError, NotFinished):
            raise
        except Exception:
            continue
    layer = part.make()
    given = a.copy()
    z = np.array(part.forward(given, layer), np.float64).reshape(a.shape)
    tolerance = tolerance_of(part.forward(a.copy()))
    if not np.array_equal(given, a):
        report('unchanged', part.name, 'changes-input', (
            f'{part.name}.forward overwrites its input, which still belongs to the layer before: '
            + mistakes.numbers(given, a) + ' in the input.'))
    value = check_value(part, a, z, tolerance, report)
    slope, smooth = slope_of(part.forward, a)
    delta = normal(*a.shape, seed=10)
    given = delta.copy()
    try:
        result, takes = part.backward(layer, a, given)
    except NotImplementedError as error:
        report('activation.backward', part.name, 'not-finished', str(error) or 'not written yet')
        return
    if not np.array_equal(given, delta) and takes:
        report('unchanged', part.name, 'changes-gradient', (
            f'{part.name}.backward overwrites the gradient that it was given: '
            + mistakes.numbers(given, delta) + ' in the gradient.'))
    if value:
        judge_activation(report, part.name, a, z, slope, smooth, delta,
                         of_size(result, a.size), Slope(part.forward), takes)
    check_overflow(part, report)


def judge_activation(report, name, a, z, slope, smooth, delta, got, slope_at, takes=True):
    """Compare the gradient that an activation passes on with h'(a) dE/dz."""
    tolerance = 5e-3 if np.asarray(z).dtype == np.float32 else 1e-4
    if got is None:
        report('activation.backward', name, 'not-finished', 'backward returns nothing yet.')
        return
    got = np.array(got, np.float64).reshape(a.shape)
    if not takes and (mistakes.close(got[smooth], slope[smooth], tolerance)
                      or mistakes.close(got[smooth], slope_at(z)[smooth], tolerance)):
        report('activation.backward', name, state='right', form='mask')
        return
    suspects = [(slug, np.asarray(wrong, np.float64)[smooth], sentence) for slug, wrong, sentence
                in mistakes.activation_suspects(a, z, slope, delta, slope_at)]
    compare(report, 'activation.backward', name, got[smooth], (slope * delta)[smooth], suspects,
            tolerance)


# The loss -----------------------------------------------------------------------------------------

class LossClass(object):
    """A loss of the hand-in, called by itself. `ask` is the question of check_loss.

    `make_softmax` makes the softmax before a loss that takes probabilities.
    """

    def __init__(self, name, make, make_softmax=None):
        self.name = name
        self.make = make
        self.make_softmax = make_softmax
        self.classes = 5
        self.rows = 7
        self.form = None

    def find_form(self, layouts):
        """Find the layout and the form of the target. Raises the first error if none fits."""
        softmaxes = [None] if self.make_softmax is None else [None, self.make_softmax]
        error = None
        works = None
        for self.make_softmax in softmaxes:
            for self.rows in ROWS_TRIED[:5]:
                for self.classes in (5, 10, 47):
                    for self.form in [(layout, kind) for layout in layouts
                                      for kind in ('one-hot', 'labels')]:
                        try:
                            fits = self.fits()
                        except (NotImplementedError, NotFinished) as reason:
                            raise NotFinished(str(reason) or 'forward is not written yet')
                        except Exception as reason:
                            error = error or reason
                            continue
                        if fits:
                            return
                        works = works or (self.make_softmax, self.rows, self.classes, self.form)
        if works is None:
            raise error
        self.make_softmax, self.rows, self.classes, self.form = works

    def fits(self):
        """True if the predictions are the softmax, or the loss is a cross-entropy."""
        logits = normal(self.rows, self.classes)
        labels = np.arange(self.rows) % self.classes
        answer = self.ask(logits, labels, gradient=False)
        expected, log = softmax(logits)
        mean = -log[np.arange(self.rows), labels].mean()
        total = np.sum(answer['loss']) / mean
        ratios = (1, self.rows, 1 / self.rows, 1 / self.classes)
        value = any(abs(total / ratio - 1) < 1e-2 for ratio in ratios)
        predict = answer['predict']
        return value if predict is None else mistakes.close(predict, expected, 1e-3)

    def ask(self, logits, labels, gradient=True):
        """Logits (N, K), labels (N,) -> {'predict', 'loss', 'gradient', 'changes'}."""
        layout, kind = self.form
        loss = self.make()
        logits = layout.theirs(logits)
        given = logits.copy()
        target = np.array(labels)
        if kind == 'one-hot':
            target = layout.theirs(one_hot(labels, self.classes))
        target_kept = target.copy()
        kept = given.copy()
        fed = given
        if self.make_softmax:
            before = self.make_softmax()
            fed = find.call(before, 'forward', given)
        result = self.call_forward(loss, fed, target, len(labels))
        answer = read_loss(result, layout, len(labels), self.classes)
        if self.make_softmax:
            answer['predict'] = np.array(layout.ours(fed, len(labels)))
        answer['changes'] = changes(given, kept, target, target_kept)
        if gradient:
            got = None
            try:
                got = self.call_backward(loss, fed, target, answer, layout)
            except NotImplementedError as error:
                answer['unfinished'] = str(error)
            if self.make_softmax and got is not None:
                got = self.through_softmax(before, got, answer['predict'], target, layout)
            answer['gradient'] = None if got is None else layout.ours(got, len(labels))
            answer['changes'] = answer['changes'] or changes(given, kept, target, target_kept)
        return answer

    def call_forward(self, loss, fed, target, rows):
        """-> what forward returns, together with what a separate method for the loss returns."""
        forward = find.method(loss, find.FORWARD)
        known = dict(find.CONSTANTS, rows=rows, input=fed, target=target)
        named, more = find.parameters(forward)
        alone = len(named) == 1 and not more
        values = find.arguments(forward, known, (fed,) if alone else (fed, target))
        result = find.call(loss, 'forward', *values)
        if result is None:
            raise NotFinished('forward returns None')
        for name in dir(loss) if alone else ():
            value = getattr(loss, name)
            if 'loss' in name.lower() and callable(value) and not isinstance(value, type):
                known['predict'] = result
                return result, value(*find.arguments(value, known, (), (target,)))
        return result

    def call_backward(self, loss, fed, target, answer, layout):
        """-> the array of the size of the logits that backward returns, or None."""
        backward = find.method(loss, find.BACKWARD)
        predict = answer['predict']
        predict = fed if predict is None else layout.theirs(predict)
        known = dict(find.CONSTANTS, rows=len(target), target=target, predict=predict, input=fed)
        required = [name for name, must in find.parameters(backward)[0] if must]
        spare = (predict, target)
        if len(required) == 1:
            known.update(loss=answer['loss'], grad=1.0)
            spare = (target,)
        values = find.arguments(backward, known, (), spare)
        return of_size(find.call(loss, 'backward', *values), fed.size)

    def through_softmax(self, before, got, predict, target, layout):
        """The gradient for the logits: y - t with a factor already is, others go on backward."""
        if target.ndim == 1:
            target = one_hot(target, self.classes)
        target = layout.ours(target, len(predict))
        if mistakes.factor(layout.ours(got, len(predict)), predict - target, 1e-3) is not None:
            return got
        backward = find.method(before, find.BACKWARD)
        return of_size(find.call(before, 'backward', got) if backward else got, got.size)


def changes(given, kept, target, target_kept):
    """'logits' or 'target' if the array was changed, else ''."""
    if not np.array_equal(given, kept):
        return 'logits'
    return '' if np.array_equal(target, target_kept) else 'target'


def read_loss(result, layout, rows, classes):
    """What a loss returned -> {'predict': (N, K) or None, 'loss': array of any size}."""
    predict = None
    loss = None
    for part in parts_of(result):
        if part.size == rows * classes and predict is None and part.size > 1:
            predict = np.array(layout.ours(part, rows))
        elif loss is None and part.dtype.kind in 'fiu':
            loss = np.array(part)
    return {'predict': predict, 'loss': loss, 'gradient': None, 'changes': ''}


def softmax(logits):
    """Logits (N, K) -> y (N, K) and ln y (N, K)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.exp(log), log


def check_loss(probe, report):
    """Ask a loss its questions: softmax, value, gradient, large logits, arguments."""
    rows, classes = probe.rows, probe.classes
    logits = normal(rows, classes, seed=11)
    labels = np.random.RandomState(12).randint(0, classes, rows)
    if classes > 10:
        labels[:] = np.argsort(-logits, axis=1)[:, 3]      # none of them improbable
    answer = probe.ask(logits, labels)
    if answer['changes']:
        slug = 'loss-changes-input' if answer['changes'] == 'logits' else 'changes-input'
        report('unchanged', probe.name, slug, (
            f'The loss overwrites its {answer["changes"]}, which were given to it.'))
    expected, log = softmax(logits)
    soft = check_softmax(probe, report, answer['predict'], expected, logits)
    mean = -log[np.arange(rows), labels].mean()
    if not soft and (answer['predict'] > 0).all():
        mean = -np.log(answer['predict'][np.arange(rows), labels]).mean()
    ratio = check_loss_value(probe, report, answer['loss'], mean, logits, labels, soft)
    check_loss_gradient(probe, report, answer, logits, labels, ratio if soft else None)
    if soft or answer['predict'] is None:
        check_large_logits(probe, report)
    else:
        check_sure(probe, report, np.zeros(rows, int))


def check_softmax(probe, report, predict, expected, logits):
    """True if the predictions are the softmax of the logits."""
    if predict is None:
        report('softmax', probe.name, state='note',
               message='The loss returns no predictions, one row an image.')
        return True
    tolerance = tolerance_of(predict)
    found = mistakes.likely(predict, expected, mistakes.softmax_suspects(logits), tolerance)
    if mistakes.close(predict, expected, tolerance) or found:
        compare(report, 'softmax', probe.name, predict, expected,
                mistakes.softmax_suspects(logits), tolerance)
        return not found
    if mistakes.close(predict, logits, tolerance):
        report('softmax', probe.name, state='note',
               message='The predictions are the logits themselves, not their softmax.')
        return True
    report('softmax', probe.name, state='note', message=(
        'The predictions are not the softmax of the numbers that the last layer gives. '
        + mistakes.numbers(predict, expected)))
    return False


def check_loss_value(probe, report, loss, mean, logits, labels, soft):
    """Returns loss / (mean cross-entropy), or None if the loss is another function."""
    rows, classes = logits.shape
    if loss is None:
        report('loss', probe.name, 'not-finished', 'No loss is returned.')
        return None
    if loss.size > 1:
        total = np.asarray(loss, np.float64).sum()
        report('loss', probe.name, 'loss-is-an-array', (
            f'Got {loss.size} numbers, expected one, {mean:.4g}: E = -1/N sum_n,k t_nk ln y_nk is '
            'summed over the classes and averaged over the rows.'))
        return total / mean if soft and mistakes.close(total / rows, mean, 1e-3) else None
    value = float(np.asarray(loss).ravel()[0])
    if mistakes.close(value, mean, 2e-3):
        report('loss', probe.name)
        return 1.0
    if not soft:
        found = mistakes.likely(value, mean, mistakes.loss_suspects(mean, rows, classes), 2e-3)
        if found:
            report('loss', probe.name, found[0],
                   f'{found[1]} Got {value:.4g}, expected {mean:.4g}.')
        else:
            report('loss', probe.name, state='note', message='Not compared: softmax comes first.')
        return None
    twice = probe.ask(np.vstack([logits, logits]), np.append(labels, labels), gradient=False)
    twice = float(np.asarray(twice['loss']).ravel()[0])
    divisor = rows * mean / value
    if abs(twice / value - 2) < 1e-3 and min(abs(divisor - 1), abs(divisor - classes)) > 1e-2 and (
            abs(divisor - round(divisor)) < 1e-2):
        report('loss', probe.name, 'one-batch-size', (
            f'The sum over the rows is divided by {divisor:.0f} for any number of rows: E = -1/N '
            f'sum_n,k t_nk ln y_nk with the N of the batch. Got {value:.4g}, expected {mean:.4g}.'))
        return value / mean
    found = mistakes.likely(value, mean, mistakes.loss_suspects(mean, rows, classes), 2e-3)
    if found is None and abs(twice / value - 2) < 1e-3:
        found = ('loss-not-the-mean', 'It doubles when each row comes twice, so it is a sum over '
                 'the rows: E is the mean over the N rows.')
        report('loss', probe.name, found[0], f'{found[1]} Got {twice:.4g}, expected {value:.4g}.')
        return None
    if found:
        report('loss', probe.name, found[0], f'{found[1]} Got {value:.4g}, expected {mean:.4g}.')
        return value / mean
    report('loss', probe.name, state='note', message=(
        'The loss is not the mean cross-entropy E = -1/N sum_n,k t_nk ln y_nk, '
        f'{mean:.4g} here, but {value:.4g}: its gradient is checked by differences.'))
    return None


def check_loss_gradient(probe, report, answer, logits, labels, ratio):
    """Compare the gradient with the derivative of the returned loss."""
    rows, classes = logits.shape
    got = answer['gradient']
    target = one_hot(labels, classes).astype(np.float64)
    predict, _ = softmax(logits)
    mean_gradient = (predict - target) / rows
    if got is None:
        report('loss.gradient', probe.name, 'not-finished', answer.get('unfinished') or (
            'backward returns no gradient of the size of the logits yet.'))
        return
    got = np.asarray(got, np.float64)
    tolerance = max(2e-4, tolerance_of(answer['gradient']))
    if ratio is not None:
        numeric = ratio * mean_gradient
        if mistakes.close(got, numeric, tolerance) or mistakes.close(got, mean_gradient, tolerance):
            report('loss.gradient', probe.name)
            return
        if abs(ratio - 1) > 1e-2 and mistakes.close(got, rows * mean_gradient, tolerance):
            numeric = mean_gradient
    else:
        numeric = loss_derivative(probe, logits, labels)
        got, predict, target = got[:1], predict[:1], target[:1]
        if mistakes.close(got, numeric, 1e-3):
            report('loss.gradient', probe.name)
            return
        tolerance = 1e-3
    suspects = mistakes.loss_gradient_suspects(predict, target, numeric)
    if ratio is None:
        suspects = [(slug, wrong, sentence.replace('here 1/1', f'here 1/{rows}'))
                    for slug, wrong, sentence in suspects]
        suspects.insert(0, ('loss-gradient-times-n', rows * numeric, (
            f'1/N is missing, here 1/{rows}: the loss is a mean over N rows, so its gradient is '
            'one, too.')))
    scale = mistakes.factor(got, numeric, tolerance)
    if scale is not None and fixed_divisor(probe, got, scale, rows, classes):
        report('loss.gradient', probe.name, 'one-batch-size', (
            f'It is divided by {rows / scale:.0f} for any number of rows, not by N. '
            + mistakes.numbers(got, numeric)), scale=scale)
        return
    compare(report, 'loss.gradient', probe.name, got, numeric, suspects, tolerance)


def fixed_divisor(probe, got, scale, rows, classes):
    """True if the gradient is divided by one number, whatever the number of rows is."""
    divisor = rows / scale
    if divisor < 1.5 or abs(divisor - round(divisor)) > 1e-2 or (
            round(divisor) in (rows, classes)):
        return False
    logits = normal(2 * rows, classes, seed=13)
    labels = np.arange(2 * rows) % classes
    other = probe.ask(logits, labels)['gradient']
    exact = (softmax(logits)[0] - one_hot(labels, classes)) / (2 * rows)
    factor = mistakes.factor(other, exact, 1e-3)
    return factor is not None and abs(factor / scale - 2) < 1e-2


def loss_derivative(probe, logits, labels):
    """dE/da (1, K) of the first row, by central differences of the returned loss."""
    derivative = np.zeros((1, logits.shape[1]))
    step = 1e-5
    for column in range(logits.shape[1]):
        values = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[0, column] += sign * step
            values.append(np.sum(probe.ask(moved, labels, gradient=False)['loss']))
        derivative[0, column] = (values[0] - values[1]) / (2 * step)
    return derivative


def check_large_logits(probe, report):
    """Logits of 1000, rows that lie far apart, and a prediction that is sure."""
    rows, classes = probe.rows, probe.classes
    labels = np.zeros(rows, int)
    logits = np.zeros((rows, classes))
    logits[:, 0] = 1000
    answer = probe.ask(logits, labels, gradient=False)
    predict = answer['predict']
    large = predict if predict is not None else answer['loss']
    if not np.isfinite(large).all():
        report('loss.large', probe.name, 'softmax-overflow', OVERFLOW)
    elif rows > 1:
        logits = normal(rows, classes, seed=14)
        logits[0] += 900
        predict = probe.ask(logits, labels, gradient=False)['predict']
        if predict is not None and not np.isfinite(predict).all():
            report('loss.large', probe.name, 'softmax-max-of-batch', (
                'One row has logits near 900, another has logits near 0: got nan, expected the '
                'softmax of the row. The maximum is taken over the whole batch, so all exp of the '
                'lower row are 0, and 0 / 0 is nan. Each row n needs its own maximum.'))
    check_sure(probe, report, labels)


def check_sure(probe, report, labels):
    """The loss is finite where a probability rounds to 0."""
    for size in (400.0, 60.0):
        logits = np.zeros((probe.rows, probe.classes))
        logits[:, 0] = size
        logits[:, 1] = -size
        for label, word, expected in ((1, 'wrong', 2 * size), (0, 'right', 0)):
            answer = probe.ask(logits, labels + label, gradient=False)
            predict = answer['predict']
            if predict is not None and not np.isfinite(predict).all():
                continue
            value = np.asarray(answer['loss'], np.float64).ravel()
            if not np.isfinite(value).all():
                report('loss.large', probe.name, 'log-of-zero', (
                    f'A sure prediction that is {word}: got a loss of {value[0]}, expected '
                    f'{expected:g}, or a large finite number. y_k rounds to 0, ln 0 is -inf, and '
                    '0 * -inf is nan: compute ln y from the logits, or keep y away from 0.'))
                return
