"""Three steps of update, against the rule w <- w - lr dE/dw and its known relatives."""
import inspect
import re

import numpy as np

import find_parts as find
from grade_parts import changed_paths, normal
import mistakes


def check_update(driver, parameters, report):
    """Compare three steps of update with its rule."""
    lr = 0.1
    net = driver.make()
    driver.forward(net, *driver.batch(driver.rows))
    driver.backward(net)
    known = [parameter for parameter in parameters if parameter.gradient is not None
             and same_size(net, parameter)]
    if not known:
        report('update', driver.name, state='unfollowed',
               message='No gradients were found beside the weights.')
        return
    steps = {parameter.path: [] for parameter in known}
    gradients = {parameter.path: [] for parameter in known}
    starts = {parameter.path: np.array(find.get(net, parameter.path), np.float64)
              for parameter in known}
    for number in range(3):
        for parameter in known:
            array = np.asarray(find.get(net, parameter.gradient))
            size = (0.05, 0.1, 0.025)[number]
            value = size * normal(*array.shape, seed=20 + number)
            if array.dtype.kind == 'f':
                value = value.astype(array.dtype)
            find.put(net, parameter.gradient, value)
            gradients[parameter.path].append(np.array(value, np.float64).ravel())
        before = {parameter.path: np.array(find.get(net, parameter.path), np.float64)
                  for parameter in known}
        driver.update(net, lr)
        for parameter in known:
            after = np.array(find.get(net, parameter.path), np.float64)
            steps[parameter.path].append(((before[parameter.path] - after) / lr).ravel())
    tell_update(driver, report, net, known, steps, gradients, starts)


def same_size(net, parameter):
    """True if a parameter and its gradient have as many elements."""
    return np.size(find.get(net, parameter.path)) == np.size(find.get(net, parameter.gradient))


def tell_update(driver, report, net, known, steps, gradients, starts):
    """Report what was left out, and which rule the others follow."""
    left = [parameter for parameter in known if not np.any(steps[parameter.path])]
    if len(left) == len(known) and not moves_something(driver):
        report('update', driver.name, 'not-finished', 'Nothing moves: w <- w - lr dE/dw.')
        return
    if left:
        names = ', '.join(find.path_name(parameter.path) for parameter in left[:3])
        report('update', driver.name, 'update-leaves-out', (
            f'{names} never moves: w <- w - lr dE/dw is for every weight and every bias. '
            'Got a step of 0, expected ' + f'{gradients[left[0].path][0][0]:.4g} lr.'))
    told = set()
    for parameter in known:
        if parameter in left:
            continue
        path = parameter.path
        tolerance = 1e-4
        if find.get(net, path).dtype == np.float32:
            tolerance += 1e-4 * np.abs(starts[path]).max()
        some = slice(None, None, 1 + starts[path].size // 2000)      # enough to see the rule
        verdict = name_rule([step[some] for step in steps[path]],
                            [gradient[some] for gradient in gradients[path]],
                            starts[path].ravel()[some], driver, tolerance)
        if verdict and verdict[1] not in told:
            slug, sentence, scale = verdict
            told.add(sentence)
            got, expected = steps[path][0][0], gradients[path][0][0]
            numbers = f' Step / lr: got {got:.4g}, expected {expected:.4g}.'
            if slug:
                report('update', driver.name, slug, sentence + numbers, scale=scale)
            else:
                report('update', driver.name, state='note', message=sentence + numbers)
    if not told and not left:
        report('update', driver.name)


def moves_something(driver):
    """True if update changes any array of the network."""
    net = driver.make()
    driver.forward(net, *driver.batch(driver.rows))
    driver.backward(net)
    before = {path: array.copy() for path, array in find.arrays(net).items()}
    driver.update(net, 0.1)
    return bool(changed_paths(before, find.arrays(net)))


def names_moments(driver):
    """True if the text of the class speaks of moments, and False if there is no text."""
    try:
        text = inspect.getsource(driver.cls)
    except (OSError, TypeError):
        return False
    return bool(re.search(r'moment|veloc|adam|rms_?prop|nesterov|beta', text.lower()))


def takes_rate(driver):
    """True if update has a parameter for the learning rate."""
    update = find.method(driver.cls, find.UPDATE)
    names = [name for name, _ in find.parameters(update)[0]] if update else []
    return any(find.meaning(name) == 'lr' for name in names)


def name_rule(steps, gradients, start, driver, tolerance):
    """None if the steps follow plain SGD or a known rule, else (slug or '', sentence, scale)."""
    first, second = steps[0], steps[1]
    g1, g2 = gradients[0], gradients[1]
    if mistakes.close(first, g1, tolerance) and mistakes.close(second, g2, tolerance):
        return None
    rest = first - g1
    size = np.median(np.abs(rest[start != 0])) if start.any() else 0
    if size > 1e-6 and mistakes.close(rest, size * np.sign(start), 1e-2):
        return 'update-rule', (
            f'update adds {size:.4g} sign(w) to the gradient, a penalty that nobody asked for: '
            'w <- w - lr dE/dw, and other terms only where an argument asks for them.'), None
    table = np.column_stack([g1, start])
    fit = np.linalg.lstsq(table, first, rcond=None)[0]
    if mistakes.close(table @ fit, first, 10 * tolerance):
        return name_linear(fit, steps, gradients, start, driver, tolerance)
    return name_adaptive(steps, gradients)


def name_linear(fit, steps, gradients, start, driver, tolerance):
    """The same for a first step c g + decay w."""
    c, decay = fit
    scale = float(c)
    if abs(decay) > 1e-6 and abs(decay) * np.abs(start).max() > 1e-4:
        return 'update-rule', (
            f'update adds {decay:.4g} w to the gradient, a weight decay that nobody asked for: '
            'w <- w - lr dE/dw, and other terms only where an argument asks for them.'), scale
    table = np.column_stack(gradients[:2])
    if np.linalg.matrix_rank(table) < 2:
        return None
    (old, new), = [np.linalg.lstsq(table, steps[1], rcond=None)[0]]
    if not mistakes.close(table @ [old, new], steps[1], 10 * tolerance):
        return '', 'The second step follows no rule that is known here.', scale
    if abs(old) > 1e-3:
        return None      # momentum of some kind
    if abs(c - 1) < 1e-3 and abs(new - 1) < 1e-3 or not takes_rate(driver):
        return None
    if abs(new - c) > 1e-2 * abs(c) or 0.5 < c < 1.5:
        return '', f'The first step is {c:.4g} lr g, the second {new:.4g} lr g.', scale
    if names_moments(driver):
        return 'update-rule', (
            f'The moments are made anew in each step: the step is {c:.4g} lr g each time, and '
            'nothing of the last step is in the next one. v <- mu v + g needs a v that is kept '
            'between the calls.'), scale
    words = mistakes.name_factor(round(scale, 6), driver.rows)
    whole = abs(c - round(c)) < 1e-3 and c > 1.5
    repeated = ' Is each parameter moved more than once?' if whole else ''
    return 'update-rule', f'The step is {words} lr dE/dw: w <- w - lr dE/dw.{repeated}', scale


def name_adaptive(steps, gradients):
    """The same for steps that do not grow with the gradient, as those of Adam."""
    large = (np.abs(gradients[0]) > 0.02) & (np.abs(gradients[1]) > 0.02)
    if not large.any():
        return None
    first, second = [step[large] / np.median(np.abs(steps[0][large])) for step in steps[:2]]
    if np.abs(np.abs(first) - 1).max() > 0.05:
        return '', 'The step follows no rule that is known here.', None
    if np.abs(second - np.sign(gradients[1][large])).max() < 0.02:
        return 'update-rule', (
            'The moments are made anew in each step: every step is lr times the sign of the '
            'gradient. m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2 need an m and a v that '
            'are kept between the calls.'), None
    g1, g2 = gradients[0][large], gradients[1][large]
    moment = 0.09 * g1 + 0.1 * g2
    square = 0.000999 * g1 ** 2 + 0.001 * g2 ** 2
    stuck = (moment / 0.1) / np.sqrt(square / 0.001)      # t = 1 in every step
    if mistakes.close(second, stuck, 1e-2):
        return 'update-rule', (
            "Adam's correction m / (1 - b1^t) does not count the steps: t stays 1. t grows by 1 "
            'in each update.'), None
    return None
