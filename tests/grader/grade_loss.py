"""Questions to a loss: softmax, value, gradient, large logits. They are put by `ask`."""
import numpy as np

import find_parts as find
from grade_parts import (OVERFLOW, ROWS_TRIED, NotFinished, Unfollowed, compare,
                         describe_shapes, normal, of_size, one_hot,
                         parts_of, softmax, tolerance_of)
import mistakes


class LossClass(object):
    """A loss of the hand-in, called by itself. `ask` is the question of check_loss.

    `make_softmax` makes the softmax before a loss that takes probabilities.
    """

    def __init__(self, name, cls, make_softmax=None):
        self.name = name
        self.cls = cls
        self.make_softmax = make_softmax
        self.classes = 5
        self.rows = 7
        self.form = None

    def make(self):
        """A new loss."""
        return find.construct(self.cls, predict=self.classes, target=self.classes)

    def find_form(self, layouts):
        """Find the layout and the form of the target. Raises the first error if none fits."""
        softmaxes = [None, self.make_softmax or Softmax]
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
                        if fits is not None:
                            works = works or (
                                self.make_softmax, self.rows, self.classes, self.form)
        if works is None:
            raise error or Unfollowed(f'{self.name}: the loss is not finite for logits')
        self.make_softmax, self.rows, self.classes, self.form = works

    def fits(self):
        """True if predictions or loss are those of a cross-entropy. None: not finite."""
        fits = [self.fits_batch(normal(self.rows, self.classes, seed=seed))
                for seed in (3, 30, 31, 32)]
        return None if None in fits else all(fits)

    def fits_batch(self, logits):
        """The same for one batch."""
        labels = np.arange(self.rows) % self.classes
        answer = self.ask(logits, labels, gradient=False)
        expected, log = softmax(logits)
        if answer['loss'] is None or not np.isfinite(answer['loss']).all():
            return None
        mean = -log[np.arange(self.rows), labels].mean()
        total = np.sum(answer['loss']) / mean
        ratios = (1, self.rows, 1 / self.rows, 1 / self.classes)
        value = any(abs(total / ratio - 1) < 3e-3 for ratio in ratios)
        predict = answer['predict']
        if predict is None or self.make_softmax:
            return value
        return mistakes.close(predict, expected, 1e-3)

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
        if self.make_softmax not in (None, Softmax):
            answer['predict'] = np.array(layout.ours(fed, len(labels)))
        answer['changes'] = changes(given, kept, target, target_kept)
        if gradient and find.method(loss, find.BACKWARD):
            try:
                got = self.call_backward(loss, fed, target, answer, layout)
                if self.make_softmax and got is not None:
                    got = self.through_softmax(before, got, fed, target, layout, len(labels))
                answer['gradient'] = None if got is None else layout.ours(got, len(labels))
            except NotImplementedError as error:
                answer['unfinished'] = str(error)
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
        result = find.call(loss, 'backward', *values)
        got = of_size(result, fed.size)
        answer['returned'] = '' if result is None else describe_shapes(result)
        for value in vars(loss).values():
            if got is None and isinstance(value, find.Catcher):
                got = of_size(value.grad, fed.size)
        return got

    def through_softmax(self, before, got, fed, target, layout, rows):
        """The gradient for the logits: y - t with a factor already is, others go on backward."""
        predict = layout.ours(fed, rows)
        if target.ndim == 1:
            target = one_hot(target, self.classes)
        target = layout.ours(target, rows)
        if mistakes.factor(layout.ours(got, len(predict)), predict - target, 1e-3) is not None:
            return got
        backward = find.method(before, find.BACKWARD)
        return of_size(find.call(before, 'backward', got) if backward else got, got.size)


class Softmax(object):
    """Stands before a loss that wants probabilities, in a hand-in without a layer for them."""

    def forward(self, logits):
        self.output = softmax(logits)[0]
        return self.output

    def backward(self, grad):
        return self.output * (grad - (grad * self.output).sum(axis=1, keepdims=True))


def changes(given, kept, target, target_kept):
    """'logits' or 'target' if the array was changed, else ''."""
    if not np.array_equal(given, kept):
        return 'logits'
    return '' if np.array_equal(target, target_kept) else 'target'


def read_loss(result, layout, rows, classes):
    """What a loss returned -> {'predict': (N, K) or None, 'loss': array, 'gradient': ...}.

    An array whose rows sum to 0 is the gradient, returned at once.
    """
    predict = None
    gradient = None
    losses = []
    for part in parts_of(result):
        if part.size == rows * classes and part.size > 1:
            array = np.array(layout.ours(part, rows))
            if part.dtype.kind == 'f' and np.abs(array.sum(axis=1)).max() < 1e-6 < array.max():
                gradient = array
            elif predict is None:
                predict = array
        elif part.dtype.kind in 'fiu':
            losses.append(np.array(part))
    losses.sort(key=lambda part: is_accuracy(part, rows))
    loss = losses[0] if losses else None
    return {'predict': predict, 'loss': loss, 'gradient': gradient, 'changes': ''}


def is_accuracy(part, rows):
    """True for a number that can be a share of the rows."""
    return part.size == 1 and np.isfinite(part).all() and bool(np.abs(part * rows % 1).max() < 1e-9)


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
        + mistakes.told(predict, expected)))
    return False


def check_loss_value(probe, report, loss, mean, logits, labels, soft):
    """Returns loss / (mean cross-entropy), or None if the loss is another function."""
    if loss is None:
        report('loss', probe.name, 'not-finished', 'No loss is returned.')
        return None
    loss = np.asarray(loss, np.float64).ravel()
    if loss.size > 1:
        report('loss', probe.name, 'loss-is-an-array', (
            f'Got {loss.size} numbers, expected one, {mean:.4g}: E = -1/N sum_n,k t_nk ln y_nk is '
            'summed over the classes and averaged over the rows.'))
        known = soft and mistakes.close(loss.sum() / len(labels), mean, 1e-3)
        return loss.sum() / mean if known else None
    if mistakes.close(loss, mean, 2e-3):
        report('loss', probe.name)
        return 1.0
    slug, sentence, ratio = name_loss(probe, loss[0], mean, logits, labels, soft)
    report('loss', probe.name, slug, sentence, state=None if slug else 'note')
    return ratio


def name_loss(probe, value, mean, logits, labels, soft):
    """(slug or None, sentence, value / mean or None) of a loss that is not the `mean`."""
    rows, classes = logits.shape
    found = mistakes.likely(value, mean, mistakes.loss_suspects(mean, rows, classes), 2e-3)
    numbers = f' Got {value:.4g}, expected {mean:.4g}.'
    if not soft:
        slug, sentence = found or (None, 'Not compared: softmax comes first.')
        return slug, sentence + numbers, None
    twice = probe.ask(np.vstack([logits, logits]), np.append(labels, labels), gradient=False)
    twice = float(np.asarray(twice['loss']).ravel()[0])
    doubles = abs(twice / value - 2) < 1e-3
    divisor = rows * mean / value
    if doubles and abs(divisor - round(divisor)) < 1e-2 and round(divisor) not in (1, classes):
        return 'one-batch-size', (
            f'The sum over the rows is divided by {divisor:.0f} for any number of rows: E = -1/N '
            'sum_n,k t_nk ln y_nk with the N of the batch.' + numbers), value / mean
    if found:
        return found[0], found[1] + numbers, value / mean
    if doubles:
        return 'loss-not-the-mean', (
            'It doubles when each row comes twice, so it is a sum over the rows: E is the mean '
            f'over the N rows. Got {twice:.4g}, expected {value:.4g}.'), None
    return None, ('The loss is not the mean cross-entropy E = -1/N sum_n,k t_nk ln y_nk, so its '
                  'gradient is checked by differences.' + numbers), None


def check_loss_gradient(probe, report, answer, logits, labels, ratio):
    """Compare the gradient with the derivative of the returned loss."""
    rows, classes = logits.shape
    if answer['gradient'] is None:
        tell_no_gradient(report, probe.name, answer)
        return
    got = np.asarray(answer['gradient'], np.float64)
    tolerance = max(2e-4, tolerance_of(answer['gradient']))
    predict, target = softmax(logits)[0], one_hot(labels, classes).astype(np.float64)
    exact = (predict - target) / rows
    if ratio is not None and (mistakes.close(got, ratio * exact, tolerance)
                              or mistakes.close(got, exact, tolerance)):
        report('loss.gradient', probe.name)
        return
    derivative = loss_derivative(probe, logits, labels)
    if mistakes.close(got[:1], derivative, 1e-3):
        report('loss.gradient', probe.name)
        return
    own = answer['predict']
    if ratio is not None:
        lacks = abs(ratio - 1) > 1e-2 and mistakes.close(got, rows * exact, tolerance)
        numeric = exact if lacks else ratio * exact
    elif own is not None and mistakes.close(got, (own - target) / rows, tolerance) and (
            mistakes.likely(own, predict, mistakes.softmax_suspects(logits))):
        report('loss.gradient', probe.name, state='note', message='It follows from softmax.')
        return
    else:
        numeric, tolerance = derivative, 1e-3
        got, predict, target = got[:1], predict[:1], target[:1]
    scale = mistakes.factor(got, numeric, tolerance)
    if scale is not None and fixed_divisor(probe, got, scale, rows, classes):
        report('loss.gradient', probe.name, 'one-batch-size', (
            f'It is divided by {rows / scale:.0f} for any number of rows, not by N. '
            + mistakes.told(got, numeric)), scale=scale)
        return
    compare(report, 'loss.gradient', probe.name, got, numeric,
            mistakes.loss_gradient_suspects(predict, target, numeric, rows), tolerance)


def tell_no_gradient(report, name, answer):
    """backward returns nothing, or something else."""
    if answer.get('returned'):
        report('loss.gradient', name, 'loss-gradient-other-function', (
            f'backward returns {answer["returned"]}, expected dE/da_nk, an array of the shape of '
            'the logits.'))
    else:
        report('loss.gradient', name, 'not-finished', answer.get('unfinished') or (
            'backward returns no gradient of the size of the logits yet.'))


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
    numeric = np.zeros((1, logits.shape[1]))
    step = 1e-5
    for column in range(logits.shape[1]):
        values = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[0, column] += sign * step
            values.append(np.sum(probe.ask(moved, labels, gradient=False)['loss']))
        numeric[0, column] = (values[0] - values[1]) / (2 * step)
    return numeric


def check_large_logits(probe, report):
    """Logits of 1000, rows that lie far apart, and a prediction that is sure."""
    rows, classes = probe.rows, probe.classes
    labels = np.zeros(rows, int)
    logits = np.full((rows, classes), 1000.0)
    large = all_finite(probe.ask(logits, labels, gradient=False))
    logits = normal(rows, classes, seed=14)
    logits[0] += 900
    distant = rows == 1 or all_finite(probe.ask(logits, labels, gradient=False))
    tell_large(report, probe.name, large, distant)
    check_sure(probe, report, labels)


def tell_large(report, name, large, distant):
    """Report a softmax that is not finite for large logits, or for rows that lie far apart."""
    if not large:
        report('loss.large', name, 'softmax-overflow', OVERFLOW)
    elif not distant:
        report('loss.large', name, 'softmax-max-of-batch', (
            'One row has logits near 900, another has logits near 0: got nan, expected the softmax '
            'of the row. The maximum is taken over the whole batch, so all exp of the lower row '
            'are 0, and 0 / 0 is nan. Each row n needs its own maximum.'))


def all_finite(answer):
    """True if predictions, or else the loss, are finite."""
    array = answer['loss'] if answer['predict'] is None else answer['predict']
    return np.isfinite(array).all()


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
