#!/usr/bin/env python3
"""Grade your own layer.py and network.py, and name the likely mistake.

    python tests/grade.py FOLDER                  one line a task
    python tests/grade.py FOLDER FOLDER ...       a table, one line a folder
    python tests/grade.py --start FOLDER          write the two files with blanks to fill in

FOLDER holds layer.py and network.py in the handout's form, or only layer.py. It is not written to.
--train also runs the handout's loop on data/train.csv, for minutes. --json FILE writes
[{"folder", "right", "complete", "findings": [{"task", "mistake", "message"}]}].

How it works. Nothing goes by names: grader/find_parts.py imports the two files and finds classes,
arrays and methods by what they do. Each part is asked its questions with random numbers: layers,
activations and losses alone (grade_layers.py, grade_activations.py, grade_loss.py), then inside
the network (grade_inside.py), then the network as a whole (grade_gradients.py, grade_update.py,
grade_learning.py), which grade_driver.py calls in whatever form it has. A wrong array is compared
with the arrays that known mistakes would give (mistakes.py): the one that fits is the answer. Last,
grade_verdict.py looks at all answers: two factors that cancel are a note, not a fault.

The files run in a process of their own (grade_worker.py), with limits of time and memory. This is
no sandbox: grade only files that you would also run yourself.

Exit code: 0 all folders are right, 1 not all, 2 wrong usage.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)
GRADER = os.path.join(TESTS, 'grader')
WORKER = os.path.join(GRADER, 'grade_worker.py')
sys.path.insert(0, GRADER)

import grade_start                                # noqa: E402
from grade_verdict import TASKS, settle           # noqa: E402

PACKAGE = 'hand_in'             # the folder of the copy

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
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE='1', PYTHONHASHSEED='0',
                       OPENBLAS_NUM_THREADS='1', MKL_NUM_THREADS='1', OMP_NUM_THREADS='1')
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
    slow = stopped.startswith('takes') and step in ('rows', 'step', 'twenty')
    return [answer(step, f'The question "{step}" {stopped}.', state='note' if slow else None)]


def answer(task, message, state=None):
    """An answer that the worker could not give itself."""
    task = {'layers': 'dense.forward', 'activations': 'activation.forward',
            'segments': 'activation.backward', 'gradients': 'network.gradient'}.get(task, task)
    return {'task': task, 'part': '', 'state': state or 'unfollowed', 'mistake': None,
            'message': message}


# The verdict --------------------------------------------------------------------------------------

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
        sorted({finding['mistake'] for finding in entry['findings']})) or 'no fault found'
    more = '' if entry['complete'] else '  (not all could be followed)'
    return f'{entry["folder"]:40} {words}{more}'


def parse(arguments):
    """The command line. Ends with exit code 2 for wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folders', nargs='*', metavar='FOLDER',
                        help='holds layer.py and network.py, or layer.py alone')
    parser.add_argument('--train', action='store_true',
                        help='also run the handout\'s loop on data/train.csv, for minutes')
    parser.add_argument('--json', metavar='FILE', help='write the findings to a file')
    parser.add_argument('--start', metavar='FOLDER',
                        help='write both files with blanks into a new folder')
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
