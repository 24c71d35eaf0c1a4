"""Name the likely mistake behind a wrong array: compare it with what known mistakes would give.

Each `..._suspects` function takes the right numbers of one task and yields suspects: a slug of
MISTAKES, the array that this mistake would give, and a sentence. `likely` finds the suspect that
gives the wrong array. `hint` knows only two arrays, and looks for factors, signs and axes.

    N rows    D input features    M output features    K classes
"""
import numpy as np

# The mistakes of published hand-ins. The sentence of a finding says more than these lines.
MISTAKES = {
    'softmax-overflow': 'a large logit gives nan',
    'softmax-max-of-batch': 'one maximum for the whole batch: a row of lower logits gives 0/0',
    'softmax-axis': 'divided by the sum over the wrong axis, or over the whole array',
    'log-of-zero': 'the loss is inf or nan for a sure prediction',
    'loss-not-the-mean': 'the loss is a sum over the rows, or divided by too much',
    'loss-is-an-array': 'one loss for each row or class, not one number',
    'loss-gradient-times-n': 'the loss is a mean, but its gradient lacks 1/N',
    'loss-gradient-other-function': 'the gradient is not that of the returned loss',
    'loss-changes-input': 'the loss overwrites its logits',
    'bias-grad': 'bias_grad is wrong',
    'weight-grad': 'weight_grad is wrong',
    'input-grad': 'the gradient that goes to the layer before is missing or wrong',
    'activation-ignores-gradient': "backward returns h'(a), without the gradient from above",
    'activation-mask-of-gradient': 'the mask is taken from the gradient, not from the input',
    'activation-derivative': "a wrong h'(a)",
    'activation-value': 'the value of the activation is wrong',
    'activation-overflow': 'the activation gives nan or inf for large inputs',
    'changes-input': 'forward overwrites what it was given',
    'changes-gradient': 'backward overwrites the gradient that it was given',
    'one-batch-size': 'right for one number of rows only',
    'update-leaves-out': 'a parameter never moves',
    'update-rule': 'the step is not the one of the rule',
    'update-in-backward': 'backward already moves the weights',
    'not-finished': 'a part returns nothing yet',
    'scale-moved': 'no fault: 1/N sits in another place, and the whole is right',
    'other': 'none of the known mistakes',
}


def close(got, expected, tolerance=1e-6):
    """True if two arrays of the same size agree, up to `tolerance` times the largest element."""
    got = np.asarray(got, np.float64).ravel()
    expected = np.asarray(expected, np.float64).ravel()
    if got.shape != expected.shape or not np.isfinite(got).all():
        return False
    if not got.size:
        return True
    return bool(np.abs(got - expected).max() <= tolerance * np.abs(expected).max() + 1e-12)


def numbers(got, expected):
    """'got 0.5, expected 1' for the worst element, or the two shapes, if they do not fit."""
    if got is None:
        return f'got None, expected an array of shape {np.shape(expected)}'
    got = np.asarray(got)
    expected = np.asarray(expected)
    if got.size != expected.size:
        return f'got the shape {got.shape}, expected {expected.shape}'
    got, expected = got.ravel(), expected.ravel()
    if not got.size:
        return ''
    with np.errstate(invalid='ignore'):
        error = np.abs(got - expected)
    worst = np.where(np.isfinite(error), error, np.inf).argmax()
    return f'got {got[worst]:.4g}, expected {expected[worst]:.4g}'


def told(got, expected):
    """The same as a sentence."""
    text = numbers(got, expected)
    return f'{text[:1].upper()}{text[1:]}.'


def likely(got, expected, suspects, tolerance=1e-6):
    """The (slug, sentence) of the first suspect that gives `got`, or None if none does."""
    for slug, wrong, sentence in suspects:
        told_apart = not close(wrong, expected, 10 * tolerance)
        if told_apart and close(got, wrong, tolerance):
            return slug, sentence
    return None


def factor(got, expected, tolerance=1e-6):
    """The number c with got = c * expected, or None if there is none."""
    got = np.asarray(got, np.float64).ravel()
    expected = np.asarray(expected, np.float64).ravel()
    size = np.dot(expected, expected)
    if got.shape != expected.shape or not size > 0:
        return None
    number = np.dot(got, expected) / size
    return number if close(got, number * expected, tolerance) else None


def name_factor(number, rows=None, columns=None, letter='K'):
    """2.0 -> 'twice', 1 / rows -> '1/N = 1/7 of' ...: how a wrong factor is read aloud."""
    known = [(0, '0 times'), (-1, 'minus'), (2, 'twice'), (0.5, 'half of')]
    for count, name in ((rows, 'N'), (columns, letter)):
        if count and count > 1:
            known += [(count, f'{name} = {count} times'), (1 / count, f'1/{name} = 1/{count} of'),
                      (-count, f'-{name} = -{count} times'),
                      (-1 / count, f'-1/{name} = -1/{count} of')]
    if rows and columns:
        known += [(1 / (rows * columns), f'1/(N {letter}) = 1/{rows * columns} of')]
    for value, words in known:
        if abs(number - value) <= 1e-4 * max(abs(value), 1e-3):
            return words
    return f'{number:.4g} times'


def hint(got, expected, rows=None):
    """A sentence on how `got` differs from `expected`, or '' if no known mistake fits.

    `rows` is the number N of rows in the batch, if it is known.
    """
    if got is None:
        return 'It is None: nothing has been returned or stored yet.'
    got = np.asarray(got, np.float64)
    expected = np.asarray(expected, np.float64)
    if not np.isfinite(got).all():
        return 'It is not finite: look for exp of a large number, log of 0 and 0 / 0.'
    if got.shape != expected.shape:
        return hint_shape(got, expected)
    if got.size > 1 and not got.any():
        return 'It is all zeros: it still has its first value, or a mask removes everything.'
    classes = expected.shape[-1] if expected.ndim else None
    number = factor(got, expected)
    if number is not None and expected.size > 1 and not close(got, expected):
        return f'It is {name_factor(number, rows, classes)} the right one, in every element.'
    if expected.ndim == 2 and expected.shape[0] == expected.shape[1] and close(got, expected.T):
        return 'It is the transpose of the right one.'
    if got.size > 1 and np.ptp(got) == 0:
        return 'All elements are the same number: it was summed over too many axes.'
    right = np.isclose(got, expected, 1e-4, 1e-9 + 1e-6 * np.abs(expected).max())
    if right.any() and not right.all() and not got[~right].any():
        return 'Some elements are 0 and the others right: a mask is taken from the wrong array.'
    if right.any() and not right.all() and not expected[~right].any():
        return 'Where 0 is expected, there is a number, and the rest is right: a mask is missing.'
    return ''


def hint_shape(got, expected):
    """The same for two arrays of different shapes."""
    if got.T.shape == expected.shape and close(got.T, expected):
        return 'It is the transpose of the right one.'
    if got.size == expected.size and close(got, expected):
        return 'The numbers are right, but the shape is not.'
    if got.size == 1 and expected.size > 1:
        return 'It is one number for all: it was summed over too many axes.'
    if got.ndim == expected.ndim == 2 and close(got.sum(axis=0), expected):
        return 'It was not summed over the rows.'
    return ''


# Suspects, task by task ---------------------------------------------------------------------------

def affine_suspects(x, weight, bias):
    """For x w + w_0, with x (N, D), weight (D, M) and bias (M,)."""
    yield 'other', x @ weight, 'The bias is not added: a_j = sum_i w_ji x_i + w_j0.'
    yield 'other', x @ weight - bias, 'The bias is subtracted: a_j = sum_i w_ji x_i + w_j0.'
    yield 'other', np.maximum(x @ weight + bias, 0), (
        'Numbers below 0 are cut off: a_j = sum_i w_ji x_i + w_j0 is before the activation.')


def weight_grad_suspects(x, delta, weight):
    """For dE/dw_ji = sum_n x_ni delta_nj, with x (N, D), delta (N, M) and weight (D, M)."""
    exact = x.T @ delta
    rows, outputs = delta.shape
    rule = 'dE/dw_ji = sum_n x_ni delta_nj'
    for number in (rows, 1 / rows, -1, -1 / rows, 2, 0.5, outputs, 1 / outputs, len(weight),
                   1 / len(weight)):
        words = name_factor(number, rows, outputs, 'M')
        yield 'weight-grad', number * exact, (
            f'It is {words} the sum over the rows: {rule}, and delta already holds the 1/N of the '
            'loss.')
    yield 'weight-grad', 0 * exact, f'It is 0, as if it had never been set: {rule}.'
    for row in (0, rows - 1):
        yield 'weight-grad', np.outer(x[row], delta[row]), f'It holds one row only: {rule}.'
    yield 'weight-grad', np.abs(x.T) @ delta, f'The sign of x is lost: {rule}.'
    mean = np.outer(x.mean(axis=0), delta.mean(axis=0))
    for number in (1, rows, rows ** 2):
        yield 'weight-grad', number * mean, (
            f'x and delta are summed over the rows before they are multiplied: {rule} multiplies '
            'row by row, then sums.')


def penalty_suspects(got, exact, weight, tolerance):
    """[a suspect] if c dE/dw + d w is what was got, else []."""
    if np.size(got) != np.size(exact):
        return []
    table = np.column_stack([np.ravel(exact), np.ravel(weight)])
    sum_of_both = table @ np.linalg.lstsq(table, np.ravel(got), rcond=None)[0]
    if not close(got, sum_of_both, tolerance):
        return []
    return [('weight-grad', got, 'A multiple of the weights is added, as for a penalty that the '
             'loss does not hold: dE/dw_ji = sum_n x_ni delta_nj.')]


def bias_grad_suspects(delta):
    """For dE/dw_j0 = sum_n delta_nj, with delta (N, M)."""
    rows, outputs = delta.shape
    exact = delta.sum(axis=0)
    rule = 'dE/dw_j0 = sum_n delta_nj'
    for number in (1 / rows, rows, -1, -1 / rows, 2, 0.5, outputs, 1 / outputs):
        words = name_factor(number, rows, outputs, 'M')
        yield 'bias-grad', number * exact, f'It is {words} the sum over the rows: {rule}.'
    yield 'bias-grad', delta, f'It is not summed over the rows: {rule}, one number an output.'
    for wrong in (delta.sum(axis=1), delta.mean(axis=1)):
        yield 'bias-grad', wrong, (
            f'It is summed over the outputs, one number a row: {rule} sums over the rows n, and '
            'keeps one number an output j.')
    for one in (delta.sum(), delta.mean(), delta.sum() / rows, delta.sum() / outputs):
        for wrong in (one, np.full(outputs, one)):
            yield 'bias-grad', wrong, (
                f'It is one number for all outputs: {rule}, one number an output j.')
    yield 'bias-grad', 0 * exact, f'It is 0, as if it had never been set: {rule}.'
    yield 'bias-grad', np.ones(outputs), f'It is 1, the derivative of a_j alone: {rule}.'
    for row in (0, rows - 1):
        yield 'bias-grad', delta[row], f'It holds one row only: {rule}.'


def input_grad_suspects(x, delta, weight):
    """For dE/dx_ni = sum_j w_ji delta_nj, with delta (N, M) and weight (D, M)."""
    exact = delta @ weight.T
    rows, outputs = delta.shape
    rule = 'dE/dx_ni = sum_j w_ji delta_nj'
    for number in (rows, 1 / rows, -1, 2, 0.5, outputs, 1 / outputs, len(weight), 1 / len(weight)):
        words = name_factor(number, rows, outputs, 'M')
        yield 'input-grad', number * exact, (
            f'It is {words} the sum over the outputs: {rule}. A factor here is multiplied once '
            'more in each layer before.')
    yield 'input-grad', 0 * exact, f'It is 0: {rule}.'
    yield 'input-grad', delta, f'It is delta itself, without the weights: {rule}.'
    yield 'input-grad', x, f'It is the input: {rule}.'
    yield 'input-grad', x * exact, f'It is multiplied by the input: {rule}.'
    yield 'input-grad', (x > 0) * exact, (
        f'There is a mask from the input in it: {rule}, and the mask belongs to the activation.')
    yield 'input-grad', x.T @ delta, f'It is weight_grad: {rule}.'
    if weight.shape[0] == weight.shape[1]:
        yield 'input-grad', delta @ weight, f'The weights are not transposed: {rule}.'


def activation_suspects(a, z, slope, delta, slope_at):
    """For dE/da = h'(a) dE/dz. `slope` is h'(a); `slope_at(array)` gives h' at any array."""
    rule = "dE/da = h'(a) dE/dz"
    rows = len(a)
    yield 'activation-ignores-gradient', slope, (
        f"It is h'(a) alone: the gradient from the layer above is not used. {rule}.")
    for wrong in (slope_at(delta) * delta, (delta > 0) * delta, delta > 0, slope_at(delta)):
        yield 'activation-mask-of-gradient', wrong, (
            f"h' is taken at the gradient, not at the input a of forward: {rule}.")
    for number in (-1, 2, 0.5, 1 / rows, rows):
        words = name_factor(number, rows)
        yield 'activation-derivative', number * slope * delta, f'It is {words} {rule}.'
    named = (
        (delta, f"The gradient passes unchanged: {rule}, and h'(a) is missing."),
        (0 * delta, f'It is 0: {rule}.'),
        (slope_at(z) * delta, "h' is taken at z = h(a), not at a: " + rule + '.'),
        (a * (1 - a) * delta, "The formula of h' in terms of z is fed with a: h' = z (1 - z) "
                              'needs z = h(a).'),
        ((1 - a ** 2) * delta, "The formula of h' in terms of z is fed with a: h' = 1 - z^2 "
                               'needs z = h(a).'),
        (z * delta, f"It is h(a) times the gradient, but h is not its own derivative: {rule}."),
        (a * delta, f"It is a times the gradient: {rule}."),
        (slope * delta ** 2, f'The gradient is multiplied twice: {rule}.'),
        (slope ** 2 * delta, f"h'(a) is multiplied twice: {rule}."),
        ((1 - slope) * delta, "It is 1 - h'(a) times the gradient: the two cases are exchanged."),
        (slope_at(-a) * delta, 'The sign of a is exchanged: ' + rule + '.'),
        ((a > 0) * delta, f"Below 0 the gradient is 0, but there h'(a) is not 0: {rule}."))
    for wrong, sentence in named:
        yield 'activation-derivative', wrong, sentence


def softmax_suspects(logits):
    """For y_k = exp(a_k) / sum_j exp(a_j), with logits (N, K)."""
    exponential = np.exp(logits - logits.max())
    rule = 'y_k = exp(a_k) / sum_j exp(a_j), so the K numbers of each row sum to 1'
    for total in (exponential.sum(axis=0), exponential.sum()):
        yield 'softmax-axis', exponential / total, (
            f'The sum goes over the wrong axis: {rule}.')
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    for total in (shifted.sum(axis=0), shifted.sum()):
        yield 'softmax-axis', shifted / total, f'The sum goes over the wrong axis: {rule}.'
    columns = np.exp(logits - logits.max(axis=0))
    for total in (columns.sum(axis=1, keepdims=True), columns.sum(axis=0), columns.sum()):
        yield 'softmax-axis', columns / total, (
            f'The maximum or the sum goes over the wrong axis: {rule}.')


def loss_suspects(mean, rows, classes):
    """For E = -1/N sum_n,k t_nk ln y_nk, the `mean` of N rows and K classes."""
    rule = 'E = -1/N sum_n,k t_nk ln y_nk'
    yield 'loss-not-the-mean', rows * mean, f'It is the sum over the rows, not the mean: {rule}.'
    yield 'loss-not-the-mean', mean / classes, (
        f'It is divided by N K, {rows} * {classes}, and not by N: {rule}.')
    yield 'loss-not-the-mean', mean / rows, f'It is divided by N twice: {rule}.'
    yield 'loss-not-the-mean', rows * mean / classes, (
        f'It is divided by the number of classes, not by that of rows: {rule}.')
    yield 'other', -mean, f'The minus sign is missing: {rule}.'
    for base, name in ((2, '2'), (10, '10')):
        yield 'other', mean / np.log(base), f'The logarithm is the one to base {name}: {rule}.'


def loss_gradient_suspects(predict, target, numeric, rows):
    """For dE/da_nk = (y_nk - t_nk) / N, the derivative of the mean loss. N is `rows`.

    `numeric` is the derivative of the loss that was returned, by differences. The arrays are
    (N, K), or hold the first of the N rows.
    """
    classes = predict.shape[1]
    rule = "dE/da_nk = (y_nk - t_nk) / N for the mean cross-entropy"
    yield 'loss-gradient-times-n', rows * numeric, (
        f'1/N is missing, here 1/{rows}: the loss is a mean over N rows, so its gradient is one, '
        f'too: {rule}. As it is, the step grows with the size of the batch.')
    yield 'loss-gradient-times-n', rows / classes * numeric, (
        f'It is divided by the number of classes, {classes}, and not by that of rows, {rows}: '
        f'{rule}.')
    for number in (-1, -rows, 1 / rows, 2, 0.5, 1 / classes, classes, rows * classes):
        words = name_factor(number, rows, classes)
        yield 'loss-gradient-other-function', number * numeric, (
            f'It is {words} the derivative of the returned loss: {rule}.')
    error = predict - target
    for number in (1, 1 / rows, 1 / (rows * classes), 2 / rows, 2):
        yield 'loss-gradient-other-function', number * error, (
            'It is y - t, which belongs to the cross-entropy of a softmax, but the returned loss '
            'is another function.')
    safe = np.where(predict == 0, 1, predict)
    for number in (1, 1 / rows):
        yield 'loss-gradient-other-function', -number * target / safe, (
            f'It is the derivative with respect to y, not to the logits a: {rule}.')
    jacobian = predict * (error - (error * predict).sum(axis=1, keepdims=True))
    for wrong in (jacobian, predict * (1 - predict) * error):
        for number in (1, 1 / rows):
            yield 'loss-gradient-other-function', number * wrong, (
                f"The derivative of softmax is multiplied once more: {rule} already holds it.")
    yield 'loss-gradient-other-function', predict, f'The target is not subtracted: {rule}.'
