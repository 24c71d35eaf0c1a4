"""What all questions of the grader share: layouts, arrays that come back, the comparison."""
import re

import numpy as np

import mistakes


ROWS_TRIED = (7, 10, 1, 32, 64, 100, 128, 50, 20, 16, 200, 256)
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


def describe_shapes(result):
    """'an array of shape (7, 4), a number' for a message."""
    words = [f'an array of shape {part.shape}' if part.ndim else 'a number'
             for part in parts_of(result)[:3]]
    return ', '.join(words) or 'None'


def gradient_like(path):
    """A number that is large if a path looks like that of a gradient or a moment."""
    name = '.'.join(str(step) for step in path[-2:]).lower()
    words = ('grad', 'delta', 'velocity', 'moment', 'last', 'prev', 'cache')
    short = re.match(r'd_?[wb]|[vms]_?[wb]$|[vms]d', str(path[-1]).lower())
    return bool(short) or any(word in name for word in words), len(path), len(name)


OVERFLOW = (
    'All logits are 1000: got nan, expected 1/K for each class. exp(1000) is inf, and inf / inf is '
    'nan. softmax(a) = softmax(a - c) for any c, so c can be the largest logit of the row.')


def changed_paths(before, after):
    """The paths of arrays that are new or that changed."""
    return [path for path, array in after.items()
            if path not in before or not np.array_equal(array, before[path])]


def compare(report, task, part, got, expected, suspects, tolerance, finished=True):
    """Report a task as right, or with the likely mistake. Returns True if it is right.

    `finished` is True, or what a part says that is not written yet.
    """
    same_size = got is not None and np.size(got) == np.size(expected)
    if same_size and mistakes.close(got, expected, tolerance):
        report(task, part)
        return True
    if finished is not True and (got is None or not np.any(got)):
        report(task, part, 'not-finished', finished)
        return False
    if got is None:
        slug, words = 'not-finished', 'There is nothing yet.'
        if task == 'dense.input_grad':
            slug, words = 'input-grad', ('backward returns nothing, and the layer before needs '
                                         'dE/dx_ni = sum_j w_ji delta_nj.')
        report(task, part, slug, f'{words} {mistakes.told(got, expected)}', missing=True)
        return False
    found = mistakes.likely(got, expected, suspects, tolerance)
    if found is None:
        like = np.reshape(expected, np.shape(got)) if same_size else expected
        sentence = mistakes.hint(got, like) or 'None of the known mistakes fits.'
        found = (DEFAULTS.get(task, 'other'), sentence)
    scale = mistakes.factor(got, expected, tolerance)
    report(task, part, found[0], f'{found[1]} {mistakes.told(got, expected)}', scale=scale)
    return False


DEFAULTS = {'dense.weight_grad': 'weight-grad', 'dense.bias_grad': 'bias-grad',
            'dense.input_grad': 'input-grad', 'activation.backward': 'activation-derivative',
            'activation.forward': 'activation-value', 'softmax': 'other',
            'loss.gradient': 'loss-gradient-other-function'}


def softmax(logits):
    """Logits (N, K) -> y (N, K) and ln y (N, K)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.exp(log), log
