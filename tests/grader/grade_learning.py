"""Any number of rows, one step, twenty images by heart, and the training on data."""
import time

import numpy as np

import find_parts as find
from grade_driver import energy
from grade_parts import Unfollowed


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
        except Unfollowed:
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
    if driver.slow or driver.forward(driver.make(), *driver.batch(driver.rows))['predict'] is None:
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


def check_training(driver, report, path, seconds=600.0):
    """The handout's loop on train.csv: 80 % of the last 2,000 rows, which are not trained on."""
    import pandas
    rows = pandas.read_csv(path, header=None, dtype=np.uint8).values
    pixels, labels = rows[:, 1:], rows[:, 0].astype(int)
    if pixels.shape[1] != driver.batch(1)[0].shape[1] or labels.max() >= driver.classes:
        report('train', driver.name, state='note', message='The data has other sizes.')
        return
    trials = []
    for scale in (1, 255):
        for lr in (0.1, 0.01, 6e-4):
            try:
                accuracy, _ = short_training(driver, pixels, labels, scale, lr, 400)
            except Exception:      # e.g. a network that takes floats only
                continue
            trials.append((accuracy, scale, lr))
    _, scale, lr = max(trials)
    accuracy, epochs = short_training(driver, pixels, labels, scale, lr, 10 ** 6, seconds)
    words = (f'{accuracy:.1f} % after {epochs} epochs, with pixels divided by {scale} and a '
             f'learning rate of {lr:g}')
    if accuracy >= 80:
        report('train', driver.name, message=words)
    else:
        report('train', driver.name, state='note', message=f'Got {words}, expected 80 %.')


def short_training(driver, pixels, labels, scale, lr, steps, seconds=20.0):
    """Train on all but the last 2,000 rows -> the accuracy on these, and the epochs."""
    net = driver.make()
    end = time.time() + seconds
    size = 50 if driver.rows in (7, 3) else driver.rows
    count = len(pixels) - 2000
    done = 0
    accuracy = 0.0
    for epoch in range(1, 31):
        for start in range(0, count - size, size):
            driver.forward(net, *take(pixels, labels, start, size, scale))
            driver.backward(net)
            driver.update(net, lr)
            done += 1
            if done >= steps or time.time() > end:
                break
        accuracy = score(driver, net, pixels[count:], labels[count:], size, scale)
        if done >= steps or time.time() > end or accuracy >= 80:
            break
    return accuracy, epoch


def take(pixels, labels, start, size, scale):
    """A batch: its pixels, integers if `scale` is 1, and its labels."""
    batch = pixels[start:start + size].astype(int)
    return batch if scale == 1 else batch / scale, labels[start:start + size]


def score(driver, net, pixels, labels, size, scale):
    """The percentage of right predictions."""
    hits = 0
    for start in range(0, len(pixels), size):
        batch, label = take(pixels, labels, start, size, scale)
        answer = driver.forward(net, batch, label)
        hits += np.sum(answer['predict'].argmax(axis=1) == label)
    return 100 * hits / len(pixels)
