"""Questions to an activation, alone: its values, its derivative, large numbers."""
import re

import numpy as np

import find_parts as find
from grade_parts import (RETURNS_NONE, ROWS_TRIED, NotFinished, compare, normal, of_size,
                         tolerance_of)
import mistakes


OTHER_NAME = r'drop|norm|pool|flat|reshape|scal|augment|loss|conv|optim'
ACTIVATION_NAME = r'relu|sigmoid|tanh|activ|elu$|swish|silu|softplus|mish'


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
    (r'^(?!.*(hard|log_|logsig|lu$|swish)).*(sigmoid|logistic)', sigmoid,
     'h(a) = 1 / (1 + exp(-a))'),
    (r'^(?!.*(hard|shrink|exp)).*tanh', np.tanh, 'h(a) = tanh(a)'),
    (r'softplus', lambda a: np.log1p(np.exp(a)), 'h(a) = ln(1 + exp(a))'),
    (r'hard_?swish', lambda a: a * np.clip(a + 3, 0, 6) / 6,
     'h(a) = a where a > 3, 0 where a < -3, else a (a + 3) / 6'),
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
                + mistakes.told(z[a > 0][worst], a[a > 0][worst])))
            return False
    report('activation.forward', part.name)
    return True


def check_mixing(part, report):
    """An activation with a known name, whose outputs depend on more than their own inputs."""
    a = values_away_from_0(7, 5)
    z = part.forward(a.copy())
    known = [formula for pattern, _, formula in FUNCTIONS if re.search(pattern, part.name.lower())]
    if known and z is not None and z.shape == a.shape:
        words = 'It is the input itself' if mistakes.close(z, a) else (
            'An output depends on more than its own input')
        report('activation.forward', part.name, 'activation-value', (
            f'{words}: {known[0]}, element by element. '
            + mistakes.told(z, dict((row[2], row[1]) for row in FUNCTIONS)[known[0]](a))))


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
