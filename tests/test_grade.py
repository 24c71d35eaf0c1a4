"""The grader: every mistake is named, no right hand-in has a finding, nothing stops it."""
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import grade
import grade_start
import hand_ins
import mistakes

# What else is true of a hand-in with this mistake
FOLLOWS = {'bias-grad': {'one-batch-size'}}
MADE = [(slug, name) for slug, made in hand_ins.MISTAKES_MADE.items() for name, _ in made]


def write(folder, files):
    """Write {file: text} into a new folder, and return its path."""
    folder.mkdir()
    for name, text in files.items():
        if text:
            (folder / name).write_text(text)
    return str(folder)


def findings(folder):
    """The slugs, the entry for --json and the answers of one folder."""
    entry, answers = grade.grade(folder)
    return [finding['mistake'] for finding in entry['findings']], entry, answers


def form(name):
    """The changes of a form. The network in columns also needs layers in columns."""
    changes = hand_ins.FORMS[name]
    return hand_ins.FORMS['columns'] + changes if name == hand_ins.COLUMNS else changes


# Mistakes -----------------------------------------------------------------------------------------

def test_there_is_a_hand_in_for_every_mistake():
    assert set(hand_ins.MISTAKES_MADE) | {'scale-moved'} == set(mistakes.MISTAKES)


@pytest.mark.parametrize('slug, name', MADE)
def test_a_mistake_is_named_and_no_other(tmp_path, monkeypatch, slug, name):
    monkeypatch.setattr(grade, 'QUESTIONS', grade.QUESTIONS[:-1])      # twenty by heart: a second
    changes = dict(hand_ins.MISTAKES_MADE[slug])[name]
    found, entry, answers = findings(write(tmp_path / 'a', hand_ins.changed(changes)))
    assert slug in found and set(found) - {slug} <= FOLLOWS.get(slug, set()), [
        line for line in answers if line['state'] != 'right']
    assert not entry['right']
    for finding in entry['findings']:
        assert finding['task'] in grade.TASKS
        assert len(finding['message']) > 20 and 'np.' not in finding['message']


def test_a_message_holds_got_expected_and_the_equation(tmp_path):
    folder = write(tmp_path / 'a', hand_ins.changed(
        hand_ins.MISTAKES_MADE['loss-gradient-times-n'][0][1]))
    message = findings(folder)[1]['findings'][0]['message']
    assert re.search(r'Got -?\d\.\d+, expected -?0\.1\d+', message), message
    assert '(y_nk - t_nk) / N' in message, message


# Forms --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', [name for name in hand_ins.FORMS if name != 'columns'])
def test_a_right_hand_in_has_no_finding(tmp_path, name):
    files = hand_ins.changed(form(name))
    if name == 'model.py':
        files['model.py'] = files.pop('network.py')
    folder = write(tmp_path / 'a', files)
    found, entry, answers = findings(folder)
    unusual = [line for line in answers if line['state'] not in ('right', 'note')]
    assert entry['right'] and entry['complete'] and not found, unusual
    assert os.listdir(folder) == [file for file in os.listdir(folder) if file.endswith('.py')]


def test_factors_that_cancel_are_a_note(tmp_path):
    folder = write(tmp_path / 'a', hand_ins.changed(form('1/N in the layers')))
    notes = [line['mistake'] for line in findings(folder)[2] if line['state'] == 'note']
    assert notes.count('scale-moved') == 3, notes


def test_a_bias_that_does_not_cancel_with_the_rest_is_named(tmp_path):
    changes = form('1/N in the layers')[:2]      # bias_grad stays a sum
    found, _, answers = findings(write(tmp_path / 'a', hand_ins.changed(changes)))
    assert found == ['bias-grad'], answers


def test_two_wrong_parts_are_both_named(tmp_path):
    made = hand_ins.MISTAKES_MADE
    changes = made['softmax-overflow'][0][1] + made['bias-grad'][0][1] + made['log-of-zero'][0][1]
    found, _, _ = findings(write(tmp_path / 'a', hand_ins.changed(changes)))
    assert {'softmax-overflow', 'bias-grad', 'log-of-zero'} <= set(found), found


# Trouble ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', sorted(hand_ins.TROUBLE))
def test_what_cannot_be_followed_is_said(tmp_path, monkeypatch, name):
    monkeypatch.setattr(grade, 'SECONDS', 2.0)
    changes, word = hand_ins.TROUBLE[name]
    found, entry, answers = findings(write(tmp_path / 'a', hand_ins.changed(changes)))
    said = ' '.join(line['message'] for line in answers)
    assert word in said and not found, answers
    assert entry['seconds'] < 13
    if name in ('hangs', 'asks', 'exits', 'reads data'):      # the rest could be graded
        assert entry['complete'] and 'keep only imports, classes and functions' in said
    if name == 'dies in backward':      # the other answers are not lost
        right = {line['task'] for line in answers if line['state'] == 'right'}
        assert {'dense.weight_grad', 'softmax', 'loss.gradient'} <= right


# The command --------------------------------------------------------------------------------------

def run(*arguments):
    """grade.py as a command: its exit code, output and errors."""
    process = subprocess.Popen([sys.executable, grade.__file__] + list(arguments),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, error = process.communicate()
    return process.returncode, output.decode(), error.decode()


def test_one_folder_prints_a_line_a_task():
    code, output, error = run(grade.ROOT)
    lines = output.splitlines()
    assert code == 0 and not error, output + error
    assert len(lines) == len(grade.TASKS) - 1
    assert all(line.endswith(' right') for line in lines), output


def test_many_folders_print_a_table_and_json(tmp_path):
    right = write(tmp_path / 'right', hand_ins.RIGHT)
    wrong = write(tmp_path / 'wrong', hand_ins.changed(
        hand_ins.MISTAKES_MADE['weight-grad'][0][1]))
    code, output, error = run(right, wrong, '--json', str(tmp_path / 'found.json'))
    assert code == 1 and not error, output + error
    first, second = output.splitlines()
    assert 'right' in first and 'weight-grad' in second
    entries = json.loads((tmp_path / 'found.json').read_text())
    assert [entry['folder'] for entry in entries] == [right, wrong]
    assert [entry['right'] for entry in entries] == [True, False]
    assert entries[0]['findings'] == [] and entries[0]['complete']
    assert entries[1]['findings'][0]['mistake'] == 'weight-grad'


@pytest.mark.parametrize('arguments', [[], ['no-such-folder'], ['--start', grade.ROOT],
                                       [grade.ROOT, '--no-such-option']])
def test_wrong_usage(arguments):
    assert run(*arguments)[0] == 2


def test_the_tasks_as_tests(tmp_path):
    folder = write(tmp_path / 'a', hand_ins.changed(hand_ins.MISTAKES_MADE['bias-grad'][3][1]))
    process = subprocess.Popen(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--mine', folder,
         os.path.join(grade.TESTS, 'test_mine.py')], stdout=subprocess.PIPE)
    output = process.communicate()[0].decode()
    assert process.returncode == 1 and '1 failed, 15 passed, 1 skipped' in output, output
    assert 'dE/dw_j0 = sum_n delta_nj' in output


def test_a_folder_without_python_files(tmp_path):
    code, _, error = run(str(tmp_path))
    assert code == 2 and 'layer.py' in error


# The lab with blanks ------------------------------------------------------------------------------

def fill(folder, task):
    """Fill the blank of a task in one of the two files."""
    for name in ('layer.py', 'network.py'):
        path = os.path.join(folder, name)
        with open(path) as file:
            text = hand_ins.filled(file.read(), task)
        if text:
            with open(path, 'w') as file:
                file.write(text)


def test_each_blank_turns_its_task_right(tmp_path):
    folder = str(tmp_path / 'lab')
    assert 'python tests/grade.py' in grade_start.write(folder)
    assert grade_start.LAYER.count("NotImplementedError('task") == 9
    done = set()
    for task in hand_ins.SOLUTIONS:
        _, answers = grade.grade(folder)
        right = grade.right_tasks(answers)
        assert right & set(hand_ins.SOLUTIONS) == done, answers
        assert f'Next: task {task}:' in grade.next_task(answers)[0]
        fill(folder, task)
        done.add(task)
    entry, answers = grade.grade(folder)
    assert entry['right'] and grade.right_tasks(answers) == set(range(1, 18)), answers


# mistakes.py alone --------------------------------------------------------------------------------

def sample(rows=4):
    """x (N, 3), delta (N, 2) and weight (3, 2)."""
    random = np.random.RandomState(0)
    return [random.standard_normal(shape) for shape in ((rows, 3), (rows, 2), (3, 2))]


@pytest.mark.parametrize('wrong, word', [
    (lambda g: 4 * g, 'N = 4 times'), (lambda g: -g, 'minus'),
    (lambda g: 2 * g, 'twice'), (lambda g: g.T, 'transpose'), (lambda g: 0 * g, 'zeros'),
    (lambda g: None, 'None'), (lambda g: g * np.nan, 'not finite'),
    (lambda g: np.full_like(g, g.sum()), 'same number'),
    (lambda g: np.where(g > 0, g, 0), 'mask')])
def test_hint(wrong, word):
    x, delta, _ = sample()
    expected = x.T @ delta
    assert word in mistakes.hint(wrong(expected), expected, rows=4)


def test_hint_says_nothing_where_nothing_fits():
    x, delta, weight = sample()
    assert mistakes.hint(weight, x.T @ delta) == ''


def test_suspects_differ_from_what_is_expected():
    x, delta, weight = sample()
    tables = ((x.T @ delta, mistakes.weight_grad_suspects(x, delta, weight)),
              (delta.sum(axis=0), mistakes.bias_grad_suspects(delta)),
              (delta @ weight.T, mistakes.input_grad_suspects(x, delta, weight)))
    for expected, suspects in tables:
        assert mistakes.likely(expected, expected, suspects) is None
