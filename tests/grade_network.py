"""Questions to the whole network of a hand-in: its own gradients, its update, its learning."""
import inspect
import re
import time

import numpy as np

import find_parts as find
import grade_parts as ask
import mistakes

CLASSES = (47, 10, 13, 26, 62, 2, 3, 4, 5)
NETWORK_NAME = r'net|model|mlp|^nn|cnn'


class Driver(object):
    """Makes the network of a hand-in and calls it: (N, D) rows and labels (N,) in any form."""

    def __init__(self, name, cls):
        self.name = name
        self.cls = cls

    def make(self):
        """A new network, the same each time."""
        np.random.seed(1)
        known = dict(find.CONSTANTS, input=784, predict=47, target=47, rows=7)
        return self.cls(*find.arguments(self.cls, known, (), [64, 47]))

    def shape_input(self, x):
        """x (N, D) -> the array that the network wants."""
        shape = self.form[0]
        if shape[0] == 'columns':
            return np.ascontiguousarray(x.T)
        if shape == 'flat':
            return x[0].copy()
        return x.reshape((len(x),) + shape).copy()

    def shape_target(self, labels):
        """labels (N,) -> the array that the network wants."""
        kind = self.form[1]
        one_hot = ask.one_hot(labels, self.classes)
        if kind == 'labels':
            return np.array(labels)
        if kind == 'label column':
            return np.array(labels)[:, np.newaxis]
        if kind == 'columns':
            return np.ascontiguousarray(one_hot.T)
        if kind == 'middle':
            return one_hot[:, np.newaxis]
        return one_hot[0] if kind == 'flat' else one_hot

    def forward(self, net, x, labels):
        """-> {'predict': (N, K) or None, 'loss': array, 'changes'}."""
        given, target = self.shape_input(x), self.shape_target(labels)
        kept, target_kept = given.copy(), target.copy()
        forward = find.method(net, find.FORWARD)
        self.known = dict(find.CONSTANTS, rows=len(x), input=given, target=target, predict=given)
        np.random.seed(2)
        result = find.call(net, 'forward', *find.arguments(forward, self.known, (given, target)))
        if result is None:
            raise ask.NotFinished(f'{self.name}.forward returns None')
        raw = ask.of_size(result, len(x) * self.classes)
        columns = raw is not None and raw.shape == (self.classes, len(x)) != raw.shape[::-1]
        layout = ask.LAYOUTS[1] if columns else ask.LAYOUTS[0]
        answer = ask.read_loss(result, layout, len(x), self.classes)
        if raw is not None:
            self.known['predict'] = raw
        if answer['loss'] is None:
            answer['loss'] = self.separate_loss(net, raw, target)
        self.known['loss'] = answer['loss']
        answer['changes'] = ask.changes(given, kept, target, target_kept)
        if answer['loss'] is None:
            raise ask.Unfollowed(f'{self.name}.forward gives {ask.describe_shapes(result)}: return '
                                 'the predictions and the loss')
        self.given = (given, kept, target, target_kept)
        return answer

    def separate_loss(self, net, predict, target):
        """The loss of a network whose forward returns predictions only, or None."""
        for name in dir(net):
            value = getattr(net, name, None)
            if not re.search(r'loss|criterion|cross|entropy|cost', name.lower()):
                continue
            if find.is_own(value):
                value = find.method(value, find.FORWARD)
            if callable(value):
                try:
                    result = value(*find.arguments(value, self.known, (), (predict, target)))
                except Exception:
                    continue
                for part in ask.parts_of(result):
                    if part.size == 1 and part.dtype.kind == 'f':
                        return part
        if self.make_loss is None or predict is None:
            return None
        self.outside = self.make_loss()
        forward = find.method(self.outside, find.FORWARD)
        result = find.call(self.outside, 'forward', *find.arguments(
            forward, dict(self.known, input=predict, predict=predict), (), (predict, target)))
        losses = [part for part in ask.parts_of(result) if part.size == 1]
        return losses[0] if losses else None

    make_loss = None      # makes the loss for a network that has none
    outside = None        # the loss that was used

    def backward(self, net):
        """Call backward with what it asks for."""
        backward = find.method(net, find.BACKWARD)
        if any(find.meaning(name) == 'grad' for name, must in find.parameters(backward)[0] if must):
            self.known['grad'] = self.loss_gradient(net)
        spare = (self.known['target'], self.known['predict'])
        if len([1 for _, must in find.parameters(backward)[0] if must]) == 2:
            spare = spare[::-1]
        return backward(*find.arguments(backward, self.known, (), spare))

    def loss_gradient(self, net):
        """The gradient that the loss of a network gives, for networks that want it."""
        outside = [((), self.outside)] if self.outside is not None else []
        for _, layer in outside + find.layers(net)[::-1]:
            if re.search(r'loss|entropy|softmax', type(layer).__name__.lower()):
                backward = find.method(layer, find.BACKWARD)
                return backward(*find.arguments(backward, self.known, (),
                                                (self.known['target'], self.known['predict'])))
        return 1.0

    def update(self, net, lr):
        """Call update, or what stands for it."""
        update = find.method(net, find.UPDATE)
        if update is None:
            for _, value in find.walk(net, 2):
                if find.is_own(value) and find.method(value, find.UPDATE):
                    update = find.method(value, find.UPDATE)
                    break
        if update is None:
            raise ask.Unfollowed(f'{self.name} has no method update(lr)')
        known = dict(self.known, lr=lr, training=True)
        update(*find.arguments(update, known, (), (lr,)))

    def find_form(self, rows_tried=ask.ROWS_TRIED):
        """Find the number of rows, the form of the input and of the target."""
        net = self.make()
        found = find.arrays(net)
        widths = [784, 4096] + sorted({size for array in found.values() if array.ndim == 2
                                 for size in array.shape if size > 100}, reverse=True)
        sizes = {size for array in found.values() for size in array.shape}
        classes = [number for number in CLASSES if number in sizes] or list(CLASSES)
        first = None
        fallback = None
        start = time.time()
        for rows in rows_tried:
            for form in forms(rows, widths):
                for self.classes in classes:
                    self.form = form
                    self.rows = rows
                    try:
                        answer = self.forward(net, *self.batch(rows))
                    except (NotImplementedError, ask.NotFinished) as error:
                        raise ask.NotFinished(str(error) or 'forward is not written yet')
                    except Exception as error:
                        first = first or error
                        if time.time() - start > 3:
                            raise first
                        net = self.make() if isinstance(error, ask.Unfollowed) else net
                        continue
                    if answer['predict'] is not None and answer['loss'].size <= rows:
                        self.take_fewer_rows()
                        return
                    if answer['predict'] is None and answer['loss'].size == 1:
                        fallback = fallback or (rows, form, self.classes)
                    first = first or ask.Unfollowed(
                        f'{self.name}.forward({np.shape(self.known["input"])}, target) does not '
                        'return the predictions and the loss')
            if fallback:
                self.rows, self.form, self.classes = fallback
                return
        raise first

    slow = False

    def take_fewer_rows(self):
        """Ask a slow network with three rows instead of seven."""
        start = time.time()
        net = self.make()
        self.forward(net, *self.batch(self.rows))
        self.slow = time.time() - start > 0.2
        if self.slow and self.rows == 7:
            self.rows = 3
            try:
                self.forward(net, *self.batch(3))
            except Exception:
                self.rows = 7

    def batch(self, rows, seed=15):
        """Rows (N, D) of numbers 0..1 and labels (N,)."""
        random = np.random.RandomState(seed)
        shape = self.form[0]
        width = 784 if isinstance(shape, str) else shape[1] if shape[0] == 'columns' else (
            int(np.prod(shape)))
        return random.uniform(0, 1, (rows, width)), random.randint(0, self.classes, rows)


def forms(rows, widths):
    """Yield (form of the input, form of the target), the handout's first."""
    for width in dict.fromkeys(widths):
        side = int(round(width ** 0.5))
        yield (width,), 'one-hot'
        yield (width,), 'labels'
        yield (1, width), 'one-hot'
        yield (1, width), 'middle'
        if side * side == width:
            for shape in ((1, side, side), (side, side), (side, side, 1)):
                yield shape, 'one-hot'
                yield shape, 'labels'
        yield (width,), 'label column'
        yield ('columns', width), 'columns'
        yield ('columns', width), 'labels'
        if width == 784 and rows == 1:
            yield 'flat', 'flat'


def find_network(classes):
    """The class of the network as a Driver, or None."""
    found = []
    for name, cls in classes.items():
        if find.method(cls, find.FORWARD) and find.method(cls, find.BACKWARD):
            named = bool(re.search(NETWORK_NAME, name.lower()))
            updates = find.method(cls, find.UPDATE) is not None
            if (named or updates) and not re.search(ask.DENSE_NAME, name.lower()):
                found.append((name == 'Network', named and updates, named, name))
    for _, _, named, name in sorted(found, reverse=True):
        driver = Driver(name, classes[name])
        if named or holds_layers(driver):
            return driver
    return None


def holds_layers(driver):
    """True if an object of the class has layers inside."""
    try:
        return bool(find.layers(driver.make()))
    except Exception:
        return False


# What a network does between its layers -----------------------------------------------------------

class NetworkLoss(object):
    """The loss of a network, asked through it: its last layer gives the logits of the question."""

    def __init__(self, driver):
        self.driver = driver
        self.name = 'loss'
        self.classes = driver.classes
        self.rows = driver.rows
        self.net = None
        self.find_boundary()

    def find_boundary(self):
        """Find the last layer before the loss. Unfollowed if there is none."""
        net = self.driver.make()
        calls = find.watch(net)
        self.driver.forward(net, *self.driver.batch(self.rows))
        paths = {id(layer): path for path, layer in find.layers(net)}
        forward = [call for call in calls if call.direction == 'forward']
        self.boundary = None
        for number, call in enumerate(forward):
            output = call.kept
            if not isinstance(output, np.ndarray) or output.size != self.rows * self.classes:
                continue
            flat = ask.LAYOUTS[int(self.columns(output))].ours(output, self.rows)
            if (flat >= 0).all() and np.allclose(flat.sum(axis=1), 1):
                continue      # a softmax
            if (flat <= 0).all() and np.allclose(np.exp(flat).sum(axis=1), 1):
                continue      # its logarithm
            self.boundary = (paths[id(call.layer)], number, output)
            self.input = call.args[0]
            after = forward[number + 1:]
        if self.boundary is None:
            raise ask.Unfollowed('no layer gives the logits')
        names = [type(call.layer).__name__ for call in after]
        self.name = names[-1] if names else 'loss'

    def columns(self, output):
        """True if the samples are columns."""
        return output.shape[0] == self.classes and output.shape[-1] == self.rows

    def ask(self, logits, labels, gradient=True):
        """Logits (N, K), labels (N,) -> {'predict', 'loss', 'gradient', 'changes'}."""
        path, _, output = self.boundary
        layout = ask.LAYOUTS[1] if self.columns(output) else ask.LAYOUTS[0]
        theirs = layout.theirs(logits)
        if output.ndim == 3 or output.ndim == 1:
            theirs = theirs.reshape((len(logits),) + output.shape[1:]) if output.ndim == 3 else (
                theirs.reshape(-1))
        if gradient or self.net is None:
            self.net = self.driver.make()
        net = self.net
        layer = find.get(net, path)
        calls = []
        forward = find.Watched(layer, 'forward', None, calls)
        backward = find.Watched(layer, 'backward', None, calls)
        forward.answer = theirs
        rows = len(logits)
        backward.answer = np.zeros((rows,) + np.shape(self.input)[1:]) if (
            layout.name == 'rows') else np.zeros(np.shape(self.input))
        set_method(layer, find.FORWARD, forward)
        set_method(layer, find.BACKWARD, backward)
        kept = theirs.copy()
        x, _ = self.driver.batch(rows)
        answer = self.driver.forward(net, x, labels)
        answer['changes'] = '' if np.array_equal(theirs, kept) else 'logits'
        if gradient:
            try:
                self.driver.backward(net)
            except Exception:
                if not any(call.direction == 'backward' for call in calls):
                    raise
            for call in calls:
                got = ask.of_size(list(call.args), logits.size)
                if call.direction == 'backward' and got is not None:
                    answer['gradient'] = layout.ours(got, rows)
            if not np.array_equal(theirs, kept):
                answer['changes'] = 'logits'
        return answer


def set_method(layer, names, function):
    """Put a function in the place of a layer's method."""
    for name in names:
        if name != '__call__' and callable(getattr(layer, name, None)):
            setattr(layer, name, function)
            return


class Segment(object):
    """What a network does between two layers with weights, such as an activation."""

    def __init__(self, driver, first, second, name):
        self.driver = driver
        self.first = first          # (path, output of forward)
        self.second = second        # (path, input of forward, output of forward)
        self.name = name
        self.net = None

    def run(self, a, delta=None):
        """a -> z, and the gradient for a if `delta` is that for z."""
        if delta is not None or self.net is None:
            self.net = self.driver.make()
        net = self.net
        calls = []
        watched = []
        zero = np.zeros_like(self.first[1])
        for path, answer, gradient in ((self.first[0], a, None), (self.second[0], None, delta)):
            layer = find.get(net, path)
            forward = find.Watched(layer, 'forward', None, calls)
            backward = find.Watched(layer, 'backward', None, calls)
            forward.answer = self.second[2].copy() if answer is None else answer
            backward.answer = self.first[2] if gradient is None else gradient
            set_method(layer, find.FORWARD, forward)
            set_method(layer, find.BACKWARD, backward)
            watched.append(layer)
        self.driver.forward(net, *self.driver.batch(self.driver.rows))
        z = [call.args[0] for call in calls
             if call.layer is watched[1] and call.direction == 'forward'][0]
        if delta is None:
            return z, None
        try:
            self.driver.backward(net)
        except Exception:
            if not any(call.direction == 'backward' and call.layer is watched[0]
                       for call in calls):
                raise
        got = [ask.of_size(list(call.args), zero.size) for call in calls
               if call.layer is watched[0] and call.direction == 'backward']
        return z, got[0] if got else None

    def forward(self, a):
        """a -> z alone."""
        return np.array(self.run(np.array(a).reshape(self.first[1].shape))[0])


def segments(driver, dense_names):
    """The Segments of a network between layers whose classes are `dense_names`."""
    net = driver.make()
    paths = {id(layer): path for path, layer in find.layers(net)}
    calls = find.watch(net)
    driver.forward(net, *driver.batch(driver.rows))
    found = []
    last = None
    between = []
    for call in calls:
        if call.direction != 'forward':
            continue
        if type(call.layer).__name__ not in dense_names:
            between.append(type(call.layer).__name__)
            continue
        if last is not None and last.layer is not call.layer:
            name = between[0] if len(between) == 1 else 'activation'
            if np.shape(last.kept) == np.shape(call.args[0]):
                found.append(Segment(driver, (paths[id(last.layer)], last.kept,
                                              np.zeros_like(last.args[0])),
                                     (paths[id(call.layer)], call.args[0], call.kept), name))
        last = call
        between = []
    return found


def classes_that_take_values(driver):
    """The classes whose backward is given the input or output of forward, and no gradient."""
    net = driver.make()
    calls = find.watch(net)
    driver.forward(net, *driver.batch(driver.rows))
    forward = [call for call in calls if call.direction == 'forward' and call.args]
    count = len(calls)
    driver.backward(net)
    found = set()
    for call in calls[count:]:
        if call.direction != 'backward' or not call.args:
            continue
        for other in forward:
            if same_class(call, other) and np.size(call.args[0]) > 1 and any(
                    np.array_equal(call.args[0], seen) for seen in (other.args[0], other.kept)):
                found.add(type(call.layer).__name__)
    return sorted(found)


def mixes(segment, a, z):
    """True if an output depends on inputs at other places."""
    for axis in (0, -1):
        other = np.moveaxis(a.copy(), axis, 0)
        other[0] = 2 - other[0]
        changed = segment.forward(np.moveaxis(other, 0, axis)) != z
        if np.moveaxis(changed, axis, 0)[1:].any():
            return True
    return False


def same_class(call, other):
    """True for calls of layers of one class."""
    return type(call.layer) is type(other.layer)


def check_segment(segment, report):
    """Compare what a network does to a gradient between two layers with h'(a) dE/dz."""
    shape = segment.first[1].shape
    flat = ask.values_away_from_0(shape[0], int(np.prod(shape[1:]))).reshape(shape)
    a = flat.astype(np.float64)
    delta = ask.normal(*shape, seed=16)
    z = segment.forward(a.copy())
    if z.shape != a.shape or mistakes.close(z, a) or mixes(segment, a, z):
        return
    given, delta_given = a.copy(), delta.copy()
    _, got = segment.run(given, delta_given)
    if got is None:
        return
    slope, smooth = ask.slope_of(segment.forward, a)
    ask.judge_activation(report, segment.name, a, z, slope, smooth, delta, got,
                         ask.Slope(segment.forward))


# The whole network --------------------------------------------------------------------------------

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


def energy(driver, net, x, labels):
    """The loss as one number."""
    return float(np.sum(np.asarray(driver.forward(net, x, labels)['loss'], np.float64)))


def derivative(driver, net, batch, array, index, step):
    """dE/dw of one element by central differences."""
    value = array.flat[index]
    array.flat[index] = value + step
    above = energy(driver, net, *batch)
    array.flat[index] = value - step
    below = energy(driver, net, *batch)
    array.flat[index] = value
    return (above - below) / (2 * step)


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
            ask.gradient_like(path)[0])
        if named and before[path].shape == after.shape and before[path].any() and (
                not np.allclose(after, before[path], 1e-12, 0)):
            report('network.gradient', driver.name, 'update-in-backward', (
                f'backward already moves {find.path_name(path)}: it only computes gradients, and '
                'update takes the step w - lr dE/dw after it. '
                + mistakes.numbers(after, before[path])))
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
    asked = 0
    for parameter in parameters:
        if parameter.path not in got:
            continue
        array = find.get(net, parameter.path)
        gradient = got[parameter.path]
        if gradient.size != array.size:
            continue
        size = np.abs(gradient).ravel()
        random = np.random.RandomState(17).randint(0, array.size, each)
        each = min(each, array.size)
        chosen = np.unique(np.append(np.argpartition(-size, each - 1)[:each], random))
        analytic = gradient.ravel()[chosen]
        numeric = np.array([derivative(driver, net, batch, array, index, step)
                            for index in chosen])
        asked += 1
        if mistakes.close(analytic, numeric, tolerance) or np.abs(analytic - numeric).max() < floor:
            continue
        finer = np.array([derivative(driver, net, batch, array, index, step / 50)
                          for index in chosen])
        numeric = np.where(abs(finer - analytic) < abs(numeric - analytic), finer, numeric)
        if not mistakes.close(analytic, numeric, 2 * tolerance):      # no kink of ReLU is near
            wrong.append((parameter, analytic, numeric))
    tell_gradients(report, driver, wrong, asked)
    if asked and not wrong:
        check_fresh(driver, parameters, report)


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
        if np.abs(first).max() > 1e-9 and first.shape == second.shape and mistakes.close(second, 2 * first, 1e-3):
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
        f'{sentence} {mistakes.numbers(analytic, numeric)}'), factors=factors, asked=asked)


# Update -------------------------------------------------------------------------------------------

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
            value = size * ask.normal(*array.shape, seed=20 + number)
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
    return bool(ask.changed_paths(before, find.arrays(net)))


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
            f'{size:.4g} sign(w) is added to the gradient, though update was asked for lr dE/dw '
            'alone: a penalty is for calls that ask for it.'), None
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
            f'{decay:.4g} w is added to the gradient: a weight decay, though update was asked for '
            'lr dE/dw alone. A penalty is for calls that ask for it.'), scale
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
    repeated = ' Is each parameter moved more than once?' if abs(c - round(c)) < 1e-3 < c - 1 else ''
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


# Rows, learning -----------------------------------------------------------------------------------

def check_rows(driver, report):
    """1, 7 and 32 rows, one after the other, with forward and backward."""
    if driver.rows not in (7, 3):
        report('rows', driver.name, 'one-batch-size', (
            f'The network works for {driver.rows} rows, but not for 7: take the number of rows '
            'from the input.'))
        return
    errors = {}
    for rows in (1, 7, 32)[:2 if driver.slow else 3]:
        net = driver.make()
        try:
            driver.forward(net, *driver.batch(rows))
            driver.backward(net)
            driver.update(net, 1e-3)
            driver.forward(net, *driver.batch(rows + 1))
            driver.backward(net)
        except ask.Unfollowed:
            continue
        except Exception as error:
            errors[rows] = error
    if len(errors) in (1, 2):
        rows = max(errors)
        report('rows', driver.name, 'one-batch-size', (
            f'{rows} rows do not work: {find.describe(errors[rows])}. Take the number of rows from '
            'the input, and sum the gradients over the rows.'))
    elif not errors:
        report('rows', driver.name)


def check_step(driver, report):
    """One step of update lowers the loss, for one of some learning rates."""
    batch = driver.batch(driver.rows)
    for lr in (0.1, 0.01, 0.001, 1e-4, 1e-5):
        net = driver.make()
        before = energy(driver, net, *batch)
        driver.backward(net)
        driver.update(net, lr)
        after = energy(driver, net, *batch)
        if after < before:
            report('step', driver.name)
            return
    report('step', driver.name, 'other', (
        f'The loss does not fall: got {after:.6g} after a step, expected less than {before:.6g}. '
        'w <- w - lr dE/dw goes down the gradient.'))


def check_twenty(driver, report, seconds=1.0):
    """Twenty images are learnt by heart."""
    count = 20 if driver.rows in (7, 3) else driver.rows
    if driver.forward(driver.make(), *driver.batch(driver.rows))['predict'] is None:
        return
    x, labels = driver.batch(count, seed=18)
    start = time.time()
    best = 0
    for lr in (0.1, 0.5, 0.01, 0.001):
        net = driver.make()
        limit = start + seconds
        for number in range(400):
            answer = driver.forward(net, x, labels)
            best = max(best, int(np.sum(answer['predict'].argmax(axis=1) == labels)))
            if best == count or time.time() > limit or not np.isfinite(answer['loss']).all():
                break
            driver.backward(net)
            driver.update(net, lr)
        if best == count:
            report('twenty', driver.name)
            return
    report('twenty', driver.name, state='note', message=(
        f'{best} of {count} images were learnt in {seconds:g} seconds.'))


# Training -----------------------------------------------------------------------------------------

def check_training(driver, report, path, seconds=600.0):
    """The handout's loop on train.csv: 80 % of 2,000 rows that it was not trained on."""
    import pandas
    rows = pandas.read_csv(path, header=None, nrows=22000).values
    pixels, labels = rows[:, 1:], rows[:, 0].astype(int)
    if pixels.shape[1] != driver.batch(1)[0].shape[1] or labels.max() >= driver.classes:
        report('train', driver.name, state='note', message='The data has other sizes.')
        return
    trials = [(short_training(driver, pixels / scale, labels, lr, 150)[0], scale, lr)
              for scale in (1, 255) for lr in (0.1, 0.01, 6e-4)]
    _, scale, lr = max(trials)
    accuracy, epochs = short_training(driver, pixels / scale, labels, lr, 10 ** 6, seconds)
    words = (f'{accuracy:.1f} % after {epochs} epochs, with pixels divided by {scale} and a '
             f'learning rate of {lr:g}')
    if accuracy >= 80:
        report('train', driver.name, message=words)
    else:
        report('train', driver.name, state='note', message=f'Got {words}, expected 80 %.')


def short_training(driver, pixels, labels, lr, steps, seconds=20.0):
    """Train on all but the last 2,000 rows -> the accuracy on these, and the epochs."""
    net = driver.make()
    end = time.time() + seconds
    size = 50 if driver.rows in (7, 3) else driver.rows
    count = len(pixels) - 2000
    done = 0
    accuracy = 0.0
    for epoch in range(1, 31):
        for start in range(0, count - size, size):
            driver.forward(net, pixels[start:start + size], labels[start:start + size])
            driver.backward(net)
            driver.update(net, lr)
            done += 1
            if done >= steps or time.time() > end:
                break
        accuracy = score(driver, net, pixels[count:], labels[count:], size)
        if done >= steps or time.time() > end or accuracy >= 80:
            break
    return accuracy, epoch


def score(driver, net, pixels, labels, size):
    """The percentage of right predictions."""
    hits = 0
    for start in range(0, len(pixels), size):
        answer = driver.forward(net, pixels[start:start + size], labels[start:start + size])
        hits += np.sum(answer['predict'].argmax(axis=1) == labels[start:start + size])
    return 100 * hits / len(pixels)
