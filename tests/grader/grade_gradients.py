"""The gradients of a whole network, against differences of its own loss."""
import re
import time

import numpy as np

import find_parts as find
from grade_driver import energy
from grade_parts import gradient_like
import mistakes


class Parameter(object):
    """A weight or bias of the network, and its gradient."""

    def __init__(self, path, gradient, kind):
        self.path = path
        self.gradient = gradient
        self.kind = kind


def find_parameters(driver, dense_parts):
    """The Parameters of a network: those of its Dense layers, and others found by their names."""
    net = driver.make()
    before = {path: array.copy() for path, array in find.arrays(net).items()}
    driver.forward(net, *driver.batch(driver.rows))
    driver.backward(net)
    after = find.arrays(net)
    found = []
    for path, layer in find.layers(net):
        part = dense_parts.get(type(layer).__name__)
        if part is None:
            continue
        for kind, own, gradient in (('weight', part.weight, getattr(part, 'weight_grad', None)),
                                    ('bias', part.bias, getattr(part, 'bias_grad', None))):
            if own and path + own in after:
                there = gradient and path + gradient in after
                found.append(Parameter(path + own, path + gradient if there else None, kind))
    known = {parameter.path for parameter in found} | {parameter.gradient for parameter in found}
    own = {id(find.get(net, path)) for path in known if path}
    return found + [parameter for parameter in parameters_by_name(before, after)
                    if parameter.path not in known and parameter.gradient not in known
                    and id(after[parameter.path]) not in own]


def parameters_by_name(before, after):
    """Parameters with gradients beside them: W and dW, weight and weight_grad, params and grads."""
    found = []
    for path, array in before.items():
        if array.dtype.kind != 'f' or array.ndim == 0:
            continue
        for other, gradient in after.items():
            if gradient.size == array.size and other != path and is_gradient_of(other, path):
                kind = 'weight' if array.ndim > 1 and min(array.shape) > 1 else 'bias'
                found.append(Parameter(path, other, kind))
                break
    return found


def is_gradient_of(other, path):
    """True if the name at `other` is that of the gradient of the array at `path`."""
    name, word = str(path[-1]).lower(), str(other[-1]).lower()
    if re.search(r'grad|delta', name):
        return False
    if other[:-1] == path[:-1]:
        extra = word.replace(name, '', 1) if name in word else word.replace(name.rstrip('s'), '', 1)
        return extra != word and extra.strip('_') in ('d', 'grad', 'grads', 'gradient', 'delta')
    together = len(path) > 1 and other[:-2] == path[:-2] and word == name
    return together and bool(re.search(r'grad|^d', str(other[-2]).lower()))


def widen(net, parameters):
    """Make the parameters float64."""
    for parameter in parameters:
        array = find.get(net, parameter.path)
        if array.dtype != np.float64:
            find.put(net, parameter.path, array.astype(np.float64))


def derivatives(driver, net, batch, array, indices, step):
    """dE/dw of some elements by central differences."""
    found = []
    for index in indices:
        value = array.flat[index]
        array.flat[index] = value + step
        above = energy(driver, net, *batch)
        array.flat[index] = value - step
        below = energy(driver, net, *batch)
        array.flat[index] = value
        found.append((above - below) / (2 * step))
    return np.array(found)


def check_backward_moves_nothing(driver, parameters, report):
    """False, and a report, if backward already moves a weight."""
    net = driver.make()
    paths = [parameter.path for parameter in parameters] or [
        path for path, array in find.arrays(net).items() if array.ndim > 1 and array.size > 100]
    driver.forward(net, *driver.batch(driver.rows))
    before = {path: np.array(find.get(net, path)) for path in paths}
    driver.backward(net)
    for path in paths:
        after = np.asarray(find.get(net, path))
        named = re.search(r'w|bias|kernel|filter', str(path[-1]).lower()) and not (
            gradient_like(path)[0])
        if named and before[path].shape == after.shape and before[path].any() and (
                not np.allclose(after, before[path], 1e-12, 0)):
            report('network.gradient', driver.name, 'update-in-backward', (
                f'backward already moves {find.path_name(path)}: it only computes gradients, and '
                'update takes the step w - lr dE/dw after it. '
                + mistakes.told(after, before[path])))
            return False
    return True


def check_gradients(driver, parameters, report, seconds=2.5):
    """Compare elements of every parameter's gradient with differences of the returned loss."""
    net = driver.make()
    batch = driver.batch(driver.rows)
    widen(net, parameters)
    driver.forward(net, *batch)
    driver.backward(net)
    got = {}
    for parameter in parameters:
        if parameter.gradient is not None:
            got[parameter.path] = np.array(find.get(net, parameter.gradient), np.float64)
    single = any(array.dtype == np.float32 and array.size != driver.rows * driver.classes
                 for array in find.arrays(net).values())
    step, tolerance, floor = (1e-2, 0.1, 1e-3) if single else (1e-5, 1e-3, 1e-8)
    start = time.time()
    energy(driver, net, *batch)
    most = seconds / max(time.time() - start, 1e-4) / (3 * len(got) + 1)
    each = int(min(5, most / 2))
    if each < 1:
        report('network.gradient', driver.name, state='note',
               message='Not compared: a forward takes too long.')
        return
    wrong = []
    asked = [parameter for parameter in parameters if parameter.path in got
             and got[parameter.path].size == find.get(net, parameter.path).size]
    for parameter in asked:
        array = find.get(net, parameter.path)
        chosen = choose(got[parameter.path], each)
        analytic = got[parameter.path].ravel()[chosen]
        numeric = derivatives(driver, net, batch, array, chosen, step)
        if mistakes.close(analytic, numeric, tolerance) or np.abs(analytic - numeric).max() < floor:
            continue
        finer = derivatives(driver, net, batch, array, chosen, step / 50)
        numeric = np.where(abs(finer - analytic) < abs(numeric - analytic), finer, numeric)
        if not mistakes.close(analytic, numeric, 2 * tolerance):      # no kink of ReLU is near
            wrong.append((parameter, analytic, numeric))
    tell_gradients(report, driver, wrong, len(asked))
    if asked and not wrong:
        check_fresh(driver, parameters, report)


def choose(gradient, each):
    """Indices of the largest elements of a gradient, and of some others."""
    count = min(each, gradient.size)
    largest = np.argpartition(-np.abs(gradient).ravel(), count - 1)[:count]
    return np.unique(np.append(largest, np.random.RandomState(17).randint(0, gradient.size, each)))


def check_fresh(driver, parameters, report):
    """A second backward gives the gradient of its own batch, and nothing of the first."""
    batch = driver.batch(driver.rows)
    net = driver.make()
    seen = []
    for _ in range(2):
        driver.forward(net, *batch)
        driver.backward(net)
        seen.append([np.array(find.get(net, parameter.gradient), np.float64)
                     for parameter in parameters if parameter.gradient])
        try:
            driver.update(net, 0.0)
        except Exception:
            return
    for first, second in zip(*seen):
        if np.abs(first).max() < 1e-9 or first.shape != second.shape:
            continue
        if mistakes.close(second, 2 * first, 1e-3):
            report('network.gradient', driver.name, 'other', (
                'The gradients of the last batch are still in those of the next one: each '
                'backward adds to them, and nothing sets them to 0. The second time: '
                + mistakes.numbers(second, first)))
            return


def tell_gradients(report, driver, wrong, asked):
    """Report the parameters with wrong gradients, the first with its numbers."""
    if not asked:
        report('network.gradient', driver.name, state='unfollowed', message=(
            'No gradients were found beside the weights: keep them, e.g. as weight_grad.'))
        return
    if not wrong:
        report('network.gradient', driver.name)
        return
    factors = {}
    for parameter, analytic, numeric in wrong:
        factors[find.path_name(parameter.path)] = mistakes.factor(analytic, numeric, 1e-2)
    numbers = list(factors.values())
    rows = driver.rows
    slug = 'other'
    sentence = 'It is not the derivative of the returned loss.'
    same = None not in numbers and np.ptp(numbers) <= 1e-2 * abs(numbers[0])
    if same:
        sentence = (f'It is {mistakes.name_factor(round(numbers[0], 6), rows, driver.classes)} '
                    'the derivative of the returned loss.')
    if same and abs(numbers[0] / rows - 1) < 1e-2 and len(wrong) == asked and rows > 1:
        slug = 'loss-gradient-times-n'
        sentence += ' The 1/N of the mean is missing in the gradient of the loss.'
    elif all(parameter.kind == 'bias' for parameter, _, _ in wrong):
        slug = 'bias-grad'
    elif all(parameter.kind == 'weight' for parameter, _, _ in wrong) and same:
        slug = 'weight-grad'
    parameter, analytic, numeric = wrong[-1]
    report('network.gradient', driver.name, slug, (
        f'{len(wrong)} of {asked} gradients, e.g. that of {find.path_name(parameter.path)}: '
        f'{sentence} {mistakes.told(analytic, numeric)}'), factors=factors, asked=asked)
