"""Questions to a layer with weights, alone: forward and the three gradients."""
import copy
import functools
import re

import numpy as np

import find_parts as find
from grade_parts import (FLAT, LAYOUTS, OVERFLOW, RETURNS_NONE, ROWS_TRIED, NotFinished, Unfollowed,
                         changed_paths, compare, describe_shapes, gradient_like, normal, of_size,
                         parts_of, softmax, tolerance_of)
import mistakes


SIZES = (5, 4)                          # inputs and outputs of a layer that is made for a check
DENSE_NAME = r'full|connect|linear|dense|affine|^fc'


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
            find.set_values(layer, path, array + shift)
            outputs.append(np.array(self.forward(layer, x)))
        return not np.array_equal(*outputs)

    def fill(self, layer):
        """Give the layer random weights -> weight (D, M) and bias (M,), in float64."""
        shape = find.get(layer, self.weight).shape
        weight = find.set_values(layer, self.weight, normal(*shape, seed=4))
        bias = np.zeros(self.outputs)
        if self.bias is not None:
            shape = find.get(layer, self.bias).shape
            bias = find.set_values(layer, self.bias, normal(*shape, seed=5)).ravel()
        return (weight.T if self.transposed else weight), bias


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
        makers = [construct_with_weights, construct_from_arrays]
        if not re.search('norm', name.lower()):
            makers.append(construct_from_shape)
        for maker in makers:
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
        else:
            sizes = fixed_sizes(cls)
            if sizes:
                yield name, cls, sizes


def fixed_sizes(cls):
    """(D, M) of a layer whose sizes are written in its constructor, or None."""
    try:
        layer = cls()
        shapes = [array.shape for array in find.arrays(layer).values()
                  if array.ndim == 2 and min(array.shape) > 1]
        for sizes in (shapes[0], shapes[0][::-1]):
            if not find.layers(layer) and Dense('', cls, *sizes).find_layout() is None:
                return sizes
    except Exception:
        pass
    return None


def construct_from_arrays(cls, inputs, outputs):
    """Make a layer from its weight and its bias, for classes that take them."""
    names = [name.lower() for name, must in find.parameters(cls)[0] if must]
    if len(names) != 2 or not names[0].startswith('w') or not names[1].startswith('b'):
        raise LookupError('takes no arrays')
    return cls(normal(inputs, outputs), normal(outputs))


def construct_from_shape(cls, *shape):
    """Make a layer from one tuple: Linear((5, 4))."""
    return cls(shape)


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
    scale = compare_forward(part, report, x, output, weight, bias, inputs, tolerance)
    if not np.array_equal(given, kept):
        report('unchanged', part.name, 'changes-input', (
            f'{part.name}.forward overwrites its input, which still belongs to the layer before.'))
    check_dense_backward(part, layer, scale * x, weight, scale, report)


def compare_forward(part, report, x, output, weight, bias, inputs, tolerance):
    """Compare the output with x w + w_0. Returns the factor on x, mostly 1."""
    scale = input_factor(output - bias, x @ weight, tolerance)
    if scale != 1:
        report('dense.forward', part.name, state='note', message=(
            f'The input is multiplied by {scale:.4g}: a_j = sum_i w_ji x_i + w_j0 has no factor.'))
    elif any(mistakes.close(output, h(x @ weight + bias), tolerance) for h in INSIDE):
        if not np.isfinite(part.forward(part.make(), 1e9 * inputs)).all():
            report('loss.large', part.name, 'softmax-overflow', OVERFLOW)
        raise Unfollowed('the activation or softmax is inside this layer: write it as a layer of '
                         'its own, a_j = sum_i w_ji x_i + w_j0')
    else:
        compare(report, 'dense.forward', part.name, output, x @ weight + bias,
                mistakes.affine_suspects(x, weight, bias), tolerance)
    return scale


def input_factor(output, product, tolerance):
    """The factor on the input of a layer, 1 if there is none or if the layer is not affine."""
    scale = mistakes.factor(output, product, tolerance)
    return 1 if scale is None or scale <= 0 or abs(scale - 1) < 1e-3 else scale


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
    if result is None and finished is True and not changed_paths(before, after):
        report('dense.weight_grad', part.name, 'not-finished',
               'backward keeps nothing and returns nothing yet.')
        return
    tolerance = tolerance_of(after[part.weight])
    if not np.array_equal(given, kept):
        report('unchanged', part.name, 'changes-gradient', (
            f'{part.name}.backward overwrites the gradient that it was given.'))
    if not mistakes.close(after[part.weight], before[part.weight], 1e-12):
        report('dense.weight_grad', part.name, 'update-in-backward', (
            'backward already moves the weights. Forward and backward only compute; the step '
            'w - lr dE/dw belongs to update, after all gradients are known. '
            + mistakes.told(after[part.weight], before[part.weight])))
        return
    if check_weight_gradient(part, layer, before, result, x, delta, weight, finished, report):
        check_bias_gradient(part, layer, before, numbers_before, result, delta, finished, report)
    weight = scale * weight
    if part.absorbed:
        column = int(x[0, -1] != 1)
        x, weight = (x[:, 1:], weight[1:]) if column else (x[:, :-1], weight[:-1])
    got = input_gradient(part, result, exact=delta @ weight.T)
    compare(report, 'dense.input_grad', part.name, got, delta @ weight.T,
            mistakes.input_grad_suspects(x, delta, weight), tolerance, finished)


def check_weight_gradient(part, layer, before, result, x, delta, weight, finished, report):
    """Find weight_grad and compare it. False if there is one for each row."""
    after = find.arrays(layer)
    tolerance = tolerance_of(after[part.weight])
    exact = x.T @ delta
    found = part.weight_grad = weight_gradient(part, before, after, result, exact)
    got = found if found is None else find_value(layer, result, found)
    if got is not None and got.shape != exact.shape and part.transposed:
        got = got.T
    if got is not None and np.shape(got) == (part.rows,) + exact.shape and mistakes.close(
            got.sum(axis=0), exact, tolerance):
        report('dense.weight_grad', part.name, state='note',
               message='One gradient for each row is kept, for update to sum.')
        return False
    suspects = list(mistakes.weight_grad_suspects(x, delta, weight))
    suspects += mistakes.penalty_suspects(got, exact, weight, tolerance)
    compare(report, 'dense.weight_grad', part.name, got, exact, suspects, tolerance, finished)
    return True


def scalars(layer):
    """{path: number} of the plain numbers that hang on a layer."""
    return {path: float(value) for path, value in find.walk(layer, 2)
            if isinstance(value, (float, np.floating, np.integer)) and not isinstance(value, bool)}


def find_value(layer, result, found):
    """The array at a path, or in what backward returned."""
    if found[0] == 'returned':
        return np.asarray(parts_of(result)[found[1]])
    return np.asarray(find.get(layer, found))


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
    if re.search(r'weight|input|^x|output', str(path[-1]).lower()):
        return False
    name = '.'.join(str(step) for step in path).lower()
    return bool(re.search(r'bias.*(grad|delta|deriv)|(grad|delta|^d|deriv)_?.*b|'
                          r'b\d?_?\.?(grad|delta)', name))


def input_gradient(part, result, exact):
    """The array that goes to the layer before, from what backward returned. None if none."""
    got = of_size(result, exact.size)
    if got is not None:
        return part.layout.ours(got, part.rows)
    found = [array for array in parts_of(result) if array.size > 1]
    return found[0] if found and not isinstance(result, (tuple, list)) else None
