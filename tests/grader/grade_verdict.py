"""The verdict on a hand-in: which of the answers of its parts are faults, follow-ups and notes.

An answer is a dictionary: task, part, state, mistake, message, and perhaps the factor `scale`.
"""
import collections
import re

# The tasks in the order of the work. The first twelve have a blank in the files of --start.
TASKS = collections.OrderedDict([
    ('dense.forward', 'FullyConnected forward'),
    ('dense.weight_grad', 'FullyConnected weight_grad'),
    ('dense.bias_grad', 'FullyConnected bias_grad'),
    ('dense.input_grad', 'FullyConnected input_grad'),
    ('activation.forward', 'activation forward'),
    ('activation.backward', 'activation backward'),
    ('softmax', 'softmax'),
    ('loss', 'loss'),
    ('loss.gradient', 'gradient of the loss'),
    ('network.forward', 'network forward'),
    ('network.gradient', 'network gradients'),
    ('update', 'update'),
    ('loss.large', 'large logits'),
    ('unchanged', 'arguments unchanged'),
    ('rows', 'any number of rows'),
    ('step', 'one step lowers the loss'),
    ('twenty', 'twenty images by heart'),
    ('train', '80 % on the data'),
])


def settle(answers):
    """Turn follow-ups and factors that cancel into notes. Changes the answers, returns them."""
    name_blanks(answers)
    wrong = [line for line in answers if line['state'] == 'wrong']
    tasks = {line['task']: line for line in answers}
    whole = tasks.get('network.gradient', {}).get('state')
    moved = [line for line in wrong if line.get('scale') is not None
             and line['mistake'] != 'one-batch-size'
             and (cancels(answers, line) or whole == 'right' and line['task'] in FACTORS)]
    for line in wrong:
        if line in moved:
            demote(line, 'scale-moved', 'But the factors cancel: the whole is right.')
        elif whole == 'right' and (line['task'] == 'dense.input_grad' or line.get('inside')):
            demote(line, None, 'But the gradients of the whole network are right.')
        elif whole == 'right' and 'A multiple of the weights is added' in line['message']:
            demote(line, None, 'But this loss holds it: the gradients of the network are right.')
        elif line['task'] == 'activation.backward':
            settle_activation(answers, line)
    check_bias_beside(answers, tasks)
    if 'loss.gradient' not in tasks and whole is None:
        demote_factors_of_both(tasks)
    drop_follow_ups(answers)
    if any(line['mistake'] == 'not-finished' or line.get('missing') for line in answers):
        for line in answers:
            if line['state'] == 'unfollowed':
                demote(line, None, 'It waits for what is not finished.')
    return answers


FACTORS = ('dense.weight_grad', 'dense.bias_grad', 'loss.gradient')


def settle_activation(answers, line):
    """An activation is asked alone and inside the network. Only both together are a verdict."""
    others = [other for other in answers if other['task'] == line['task'] and other is not line
              and other['part'] == line['part'] and bool(other.get('inside')) !=
              bool(line.get('inside'))]
    states = {other['state'] for other in others}
    if line.get('inside') and states == {'right'}:
        line.update(mistake='other', message=(
            f'Alone it is right, but not in the network: {line["message"]} Is each activation an '
            'object of its own, and does backward go through each of them once?'))
    elif line.get('inside') and 'wrong' in states:
        line['state'] = 'again'
    elif 'right' in states and line['mistake'] != 'activation-overflow':
        demote(line, None, 'The network makes up for it.')


def name_blanks(answers):
    """'task 3: ...' belongs to the third task, wherever it was met."""
    names = list(TASKS)
    for line in answers:
        blank = re.match(r'task (\d+)', line['message'])
        if blank and line['mistake'] == 'not-finished':
            line['task'] = names[int(blank.group(1)) - 1]
            line['part'] = ''


def demote(line, slug, sentence):
    """A fault becomes a note."""
    line.update(state='note', mistake=slug, message=f'{line["message"]} {sentence}')


PARTNERS = {'loss.gradient': ('dense.weight_grad', 'update'), 'update': ('loss.gradient',),
            'dense.weight_grad': ('loss.gradient',), 'dense.bias_grad': ('loss.gradient',)}


def cancels(answers, line):
    """True if the factor of this gradient or step and that of a partner give 1."""
    if line['task'] == 'dense.bias_grad' and not any(
            other['task'] == 'dense.weight_grad' and other.get('scale') and cancels(answers, other)
            for other in answers):
        return False
    partners = [other['scale'] for other in answers if other.get('scale') is not None
                and other['task'] in PARTNERS.get(line['task'], ())]
    return any(abs(line['scale'] * scale - 1) < 1e-2 for scale in partners)


def demote_factors_of_both(tasks):
    """weight_grad and bias_grad with one factor below 1 are right if the loss lacks 1/N."""
    lines = [tasks.get(task, {}) for task in ('dense.weight_grad', 'dense.bias_grad')]
    scales = [line.get('scale') or 0 for line in lines]
    if 0 < scales[0] < 1 and abs(scales[0] - scales[1]) < 1e-3:
        for line in lines:
            demote(line, 'scale-moved', 'It is right if the gradient of the loss has no 1/N.')


def check_bias_beside(answers, tasks):
    """A bias_grad without the factor of weight_grad is a fault, though it is right alone."""
    bias = tasks.get('dense.bias_grad', {})
    moved = [line for line in answers if line['mistake'] == 'scale-moved']
    losses = [line for line in moved if line['task'] == 'loss.gradient']
    if losses and bias.get('state') == 'right' and (
            'dense.weight_grad' in [line['task'] for line in moved]):
        loss = losses[0]
        bias.update(state='wrong', mistake='bias-grad', message=(
            f'It is {loss["scale"]:.4g} times what goes with weight_grad: weight_grad holds the '
            '1/N that the loss lacks, and bias_grad does not. dE/dw_j0 = sum_n delta_nj with the '
            f'same factor. Got {loss["scale"]:.4g}, expected 1.'))


PARTS = {'dense.forward', 'dense.weight_grad', 'dense.bias_grad', 'dense.input_grad',
         'activation.backward', 'activation.forward', 'softmax', 'loss', 'loss.gradient'}


def drop_follow_ups(answers):
    """The gradient of the whole is a finding only if no part explains it."""
    wrong = [line for line in answers if line['state'] == 'wrong']
    explained = any(line['task'] in PARTS and line['mistake'] != 'activation-overflow'
                    for line in wrong)
    scale = [line['scale'] for line in answers if line['task'] == 'loss.gradient'
             and line['mistake'] == 'scale-moved']
    seen = set()
    values = {line['part'] for line in wrong if line['mistake'] == 'activation-value'}
    for line in wrong:
        key = (line['task'], line['mistake'], line['part'])
        if line['mistake'] == 'not-finished' and line['message'].startswith('task '):
            key = line['message']
        factors = list(line.get('factors', {}).values())
        moved = scale and factors and None not in factors and all(
            abs(factor / scale[0] - 1) < 1e-2 for factor in factors)
        if moved or line['task'] in ('network.gradient', 'step') and explained:
            demote(line, None, 'It follows from the findings above.')
        elif line['task'] == 'step' and any(other is not line for other in wrong):
            demote(line, None, '')
        elif line['mistake'] == 'activation-derivative' and line['part'] in values or (
                line['mistake'] == 'other' and line.get('inside') and line['part'] in values):
            demote(line, None, 'It follows from the value.')
        elif key in seen:
            line['state'] = 'again'
        seen.add(key)
