#!/usr/bin/env python3
"""Grade your own layer.py and network.py, and name the likely mistake.

    python tests/grade.py FOLDER                  one line a task
    python tests/grade.py FOLDER FOLDER ...       a table, one line a folder
    python tests/grade.py --start FOLDER          write the two files with blanks to fill in

FOLDER holds layer.py and network.py in the handout's form, or only layer.py. It is not written to.
--train also runs the handout's loop on data/train.csv, for minutes. --json FILE writes
[{"folder", "right", "complete", "findings": [{"task", "mistake", "message"}]}].

The files run in a process of their own, with limits of time and memory. This is no sandbox: grade
only files that you would also run yourself.

Exit code: 0 all folders are right, 1 not all, 2 wrong usage.
"""
import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import grade_start

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)
WORKER = os.path.join(TESTS, 'grade_worker.py')
PACKAGE = 'model'               # the handout says `import model`

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
QUESTIONS = ('layers', 'activations', 'loss', 'segments', 'gradients', 'update', 'rows', 'step',
             'twenty')
SECONDS = 5.0                   # for one question
ALL_SECONDS = 10.0              # for a hand-in, without --train
TRAIN_SECONDS = 900.0
SMALL = 2 ** 20                 # bytes of a file that is copied


# The process of a hand-in -------------------------------------------------------------------------

def find_folder(folder):
    """The folder itself, or the one inside it that holds layer.py, if there is only one."""
    if any(name.endswith('.py') for name in os.listdir(folder)):
        return folder
    found = [path for path, _, names in os.walk(folder) if 'layer.py' in names]
    return found[0] if len(found) == 1 else folder


def copy_sources(folder, target):
    """Copy the Python files of a folder, and small others, but no folders."""
    os.makedirs(target)
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.path.getsize(path) <= SMALL:
            if name.endswith(('.py', '.txt', '.json', '.npy', '.npz')):
                shutil.copyfile(path, os.path.join(target, name))


def start_worker(copy, results, settings):
    """Start the process that asks the questions."""
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE='1', MPLBACKEND='Agg',
                       PYTHONHASHSEED='0')
    return subprocess.Popen([sys.executable, '-B', WORKER, copy, results, json.dumps(settings)],
                            cwd=copy, env=environment, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def read_lines(path):
    """The answers so far. A last line that is not whole is left out."""
    if not os.path.exists(path):
        return []
    with open(path, encoding='utf-8') as file:
        return [json.loads(line) for line in file if line.endswith('\n')]


def watch_worker(process, results, end):
    """Wait for the process -> its answers, and why it was stopped, or ''."""
    now = None
    since = time.time()
    while process.poll() is None:
        time.sleep(0.02)
        steps = [line['now'] for line in read_lines(results) if 'now' in line]
        if steps and len(steps) != now:
            now = len(steps)
            since = time.time()
        limit = TRAIN_SECONDS if steps and steps[-1] == 'train' else SECONDS
        if time.time() - since > limit or time.time() > end:
            process.kill()
            process.wait()
            return read_lines(results), f'takes more than {time.time() - since:.0f} seconds'
    lines = read_lines(results)
    ended = bool(lines) and lines[-1].get('now') == 'end'
    return lines, '' if ended or import_failed(lines) else 'ends the process'


def import_failed(lines):
    """True if the worker has said that the hand-in cannot be imported."""
    return any(line.get('task') == 'import' and line['state'] == 'unfollowed' for line in lines)


def ask(folder, train=False):
    """All answers of a hand-in. A question that kills the process does not lose the others."""
    questions = list(QUESTIONS) + (['train'] if train else [])
    settings = {'questions': questions, 'train_csv': os.path.join(ROOT, 'data', 'train.csv')}
    answers = []
    end = time.time() + ALL_SECONDS + (TRAIN_SECONDS if train else 0)
    with tempfile.TemporaryDirectory() as place:
        copy = os.path.join(place, PACKAGE)
        copy_sources(folder, copy)
        for attempt in range(len(questions) + 3):
            results = os.path.join(place, f'results{attempt}')
            process = start_worker(copy, results, settings)
            try:
                lines, stopped = watch_worker(process, results, end)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            answers += [line for line in lines if 'task' in line]
            if not stopped:
                break
            answers += go_on(lines, stopped, settings)
            if time.time() > end or not settings['questions']:
                break
    return answers


def go_on(lines, stopped, settings):
    """Set what the next process is to ask -> the answers on what stopped this one."""
    steps = [line['now'] for line in lines if 'now' in line]
    step = steps[-1] if steps else 'import'
    done = [line['done'] for line in lines if 'done' in line]
    if step == 'import':
        if settings.get('definitions_only'):
            settings['questions'] = []
        settings['definitions_only'] = True
        message = (f'The import {stopped}: keep only imports, classes and functions in these '
                   'files, and no reading of data, input() or training.')
        return [answer('import', message, state='note' if settings['questions'] else None)]
    if step == 'network':
        settings['without_network'] = True
        return [answer('network.forward', f'Making or calling the network {stopped}.')]
    if step == 'loss' and not settings.get('loss_alone'):
        settings['loss_alone'] = True      # ask the class of the loss in place of the network
        settings['questions'] = [name for name in settings['questions'] if name not in done]
        return []
    settings['questions'] = [name for name in settings['questions']
                             if name not in done and name != step]
    return [answer(step, f'The question "{step}" {stopped}.')]


def answer(task, message, state=None):
    """An answer that the worker could not give itself."""
    task = {'layers': 'dense.forward', 'activations': 'activation.forward',
            'segments': 'activation.backward', 'gradients': 'network.gradient'}.get(task, task)
    return {'task': task, 'part': '', 'state': state or 'unfollowed', 'mistake': None,
            'message': message}


# The verdict --------------------------------------------------------------------------------------

def settle(answers):
    """Turn follow-ups and factors that cancel into notes. Changes the answers, returns them."""
    name_blanks(answers)
    wrong = [line for line in answers if line['state'] == 'wrong']
    tasks = {line['task']: line for line in answers}
    whole = tasks.get('network.gradient', {}).get('state')
    moved = [line for line in wrong if line.get('scale') is not None
             and line['mistake'] != 'one-batch-size'
             and (cancels(tasks, line) or whole == 'right' and line['task'] in FACTORS)]
    for line in wrong:
        if line in moved:
            demote(line, 'scale-moved', 'But the factors cancel: the whole is right.')
        elif whole == 'right' and (line['task'] == 'dense.input_grad' or line.get('inside')):
            demote(line, None, 'But the gradients of the whole network are right.')
        elif line['task'] == 'activation.backward':
            settle_activation(answers, line)
    check_bias_beside(tasks)
    drop_follow_ups(answers)
    if any(line['mistake'] == 'not-finished' or 'There is nothing yet' in line['message']
           for line in answers):
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


def scale_of(tasks, task):
    """The factor on a gradient: 1 if it is right, None if it is not known."""
    line = tasks.get(task, {})
    return 1.0 if line.get('state') == 'right' else line.get('scale')


def cancels(tasks, line):
    """True if the factor of this gradient or step and that of its partner give 1."""
    loss = scale_of(tasks, 'loss.gradient')
    weight = scale_of(tasks, 'dense.weight_grad')
    update = scale_of(tasks, 'update')
    if loss is None or loss == 1:
        return False
    by_weight = weight is not None and abs(loss * weight - 1) < 1e-2
    by_update = update is not None and abs(loss * update - 1) < 1e-2
    if line['task'] == 'dense.bias_grad':
        return by_weight and abs(loss * line['scale'] - 1) < 1e-2
    if line['task'] == 'dense.weight_grad':
        return by_weight
    return by_update if line['task'] == 'update' else by_weight or by_update


def check_bias_beside(tasks):
    """A bias_grad without the factor of weight_grad is a fault, though it is right alone."""
    bias = tasks.get('dense.bias_grad', {})
    loss = tasks.get('loss.gradient', {})
    if loss.get('mistake') == 'scale-moved' and bias.get('state') == 'right' and (
            tasks.get('dense.weight_grad', {}).get('mistake') == 'scale-moved'):
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


def verdict(folder, answers):
    """The entry of a hand-in in --json."""
    settle(answers)
    findings = [{'task': line['task'], 'mistake': line['mistake'], 'message': line['message']}
                for line in answers if line['state'] == 'wrong']
    unfollowed = [line for line in answers if line['state'] == 'unfollowed']
    return {'folder': folder, 'right': not findings and not unfollowed,
            'complete': not unfollowed, 'findings': findings}


def grade(folder, train=False):
    """Grade one folder -> (the entry for --json, all answers)."""
    started = time.time()
    answers = ask(find_folder(folder), train)
    entry = verdict(folder, answers)
    entry['seconds'] = round(time.time() - started, 1)
    return entry, answers


# Printing -----------------------------------------------------------------------------------------

def task_lines(answers):
    """The lines for one hand-in, in the order of the work."""
    lines = [f'note: {line["message"]}' for line in answers if line['task'] == 'import']
    for number, (task, title) in enumerate(TASKS.items(), 1):
        own = [line for line in answers if line['task'] == task]
        own = [line for line in own if line['state'] != 'again']
        shown = [line for line in own if line['state'] != 'right']
        head = f'{number:2} {title}'
        if not own and task == 'train':
            continue
        if not own:
            silent = 'right' if task in ('unchanged', 'loss.large') and asked(answers) else '-'
            lines.append(f'{head:30} {silent}')
        elif not shown:
            lines.append(f'{head:30} right')
        for line in shown:
            word = {'wrong': line['mistake'], 'note': 'note',
                    'unfollowed': 'not followed'}[line['state']]
            part = f'{line["part"]}: ' if line['part'] else ''
            lines.append(f'{head:30} {word}: {part}{line["message"]}')
    return lines + next_task(answers)


def right_tasks(answers):
    """The numbers of the tasks that are right."""
    found = set()
    for number, task in enumerate(list(TASKS)[:-1], 1):
        states = [line['state'] for line in answers if line['task'] == task]
        silent = task in ('unchanged', 'loss.large') and asked(answers)
        if (states or silent) and not {'wrong', 'unfollowed'} & set(states) and (
                'right' in states or silent):
            found.add(number)
    return found


def next_task(answers):
    """While there are blanks: the line on what is done and what comes next."""
    blanks = [line['message'] for line in answers if line['mistake'] == 'not-finished'
              and line['message'].startswith('task ')]
    if not blanks:
        return []
    blanks.sort(key=lambda message: int(re.search(r'\d+', message).group()))
    return [f'{len(right_tasks(answers))} of {len(TASKS) - 1} right. Next: {blanks[0]}']


def asked(answers):
    """True if the loss was asked, so that a silent task is a right one."""
    return any(line['task'] == 'loss.gradient' for line in answers)


def table_line(entry):
    """The line of one hand-in in a table."""
    words = 'right' if entry['right'] else ', '.join(
        sorted({finding['mistake'] for finding in entry['findings']})) or 'nothing found'
    more = '' if entry['complete'] else '  (not all could be followed)'
    return f'{entry["folder"]:40} {words}{more}'


def parse(arguments):
    """The command line. Ends with exit code 2 for wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folders', nargs='*', metavar='FOLDER')
    parser.add_argument('--train', action='store_true', help='also train on data/train.csv')
    parser.add_argument('--json', metavar='FILE', help='write the findings to a file')
    parser.add_argument('--start', metavar='FOLDER', help='write files with blanks, a new folder')
    options = parser.parse_args(arguments)
    if bool(options.start) == bool(options.folders):
        parser.error('give one or more folders, or --start and a new folder')
    if options.start and os.path.lexists(options.start):
        parser.error(f'{options.start} exists: name a new folder')
    if options.train and not os.path.exists(os.path.join(ROOT, 'data', 'train.csv')):
        parser.error('data/train.csv is missing: make it with data/prepare.py')
    for folder in options.folders:
        if not os.path.isdir(folder):
            parser.error(f'{folder} is no folder')
        names = os.listdir(find_folder(folder))
        if not any(name.endswith('.py') for name in names):
            parser.error(f'{folder} holds no Python files, expected layer.py and network.py')
    return options


def main(arguments=None):
    """The command. Returns its exit code."""
    options = parse(arguments)
    if options.start:
        print(grade_start.write(options.start))
        return 0
    entries = []
    for folder in options.folders:
        entry, answers = grade(folder, options.train)
        entries.append(entry)
        if len(options.folders) == 1:
            print('\n'.join(task_lines(answers)))
        else:
            print(table_line(entry), flush=True)
    if options.json:
        with open(options.json, 'w', encoding='utf-8') as file:
            json.dump(entries, file, indent=1)
    return 0 if all(entry['right'] for entry in entries) else 1


if __name__ == '__main__':
    sys.exit(main())
