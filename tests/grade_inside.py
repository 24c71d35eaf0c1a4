"""What a network does between its layers: its loss and its activations, asked through it."""
import numpy as np

import find_parts as find
from grade_activations import Slope, judge_activation, slope_of, values_away_from_0
from grade_parts import LAYOUTS, Unfollowed, normal, of_size
import mistakes


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
            flat = LAYOUTS[int(self.columns(output))].ours(output, self.rows)
            if (flat >= 0).all() and np.allclose(flat.sum(axis=1), 1):
                continue      # a softmax
            if (flat <= 0).all() and np.allclose(np.exp(flat).sum(axis=1), 1):
                continue      # its logarithm
            self.boundary = (paths[id(call.layer)], number, output)
            self.input = call.args[0]
            after = forward[number + 1:]
        if self.boundary is None:
            raise Unfollowed('no layer gives the logits')
        names = [type(call.layer).__name__ for call in after]
        self.name = names[-1] if names else 'loss'

    def columns(self, output):
        """True if the samples are columns."""
        return output.shape[0] == self.classes and output.shape[-1] == self.rows

    def ask(self, logits, labels, gradient=True):
        """Logits (N, K), labels (N,) -> {'predict', 'loss', 'gradient', 'changes'}."""
        path, _, output = self.boundary
        layout = LAYOUTS[1] if self.columns(output) else LAYOUTS[0]
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
                got = of_size(list(call.args), logits.size)
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
        got = [of_size(list(call.args), zero.size) for call in calls
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
    flat = values_away_from_0(shape[0], int(np.prod(shape[1:]))).reshape(shape)
    a = flat.astype(np.float64)
    delta = normal(*shape, seed=16)
    z = segment.forward(a.copy())
    if z.shape != a.shape or mistakes.close(z, a) or mixes(segment, a, z):
        return
    given, delta_given = a.copy(), delta.copy()
    _, got = segment.run(given, delta_given)
    if got is None:
        return
    slope, smooth = slope_of(segment.forward, a)
    judge_activation(report, segment.name, a, z, slope, smooth, delta, got,
                         Slope(segment.forward))
