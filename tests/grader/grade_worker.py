"""Ask one hand-in the questions of the grader. Runs in a process of its own, see grade.py.

    python grade_worker.py FOLDER RESULTS SETTINGS

Each answer is a line of JSON in the file RESULTS, written at once, so that an answer is kept when
a later question kills the process.
"""
import functools
import json
import os
import re
import sys
import warnings

import numpy as np

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import find_parts as find
import mistakes
from grade_activations import (ACTIVATION_NAME, OTHER_NAME, Activation, check_activation,
                               check_mixing, is_elementwise, values_away_from_0)
from grade_driver import find_network
from grade_gradients import check_backward_moves_nothing, check_gradients, find_parameters
from grade_inside import NetworkLoss, check_segment, classes_that_take_values, segments
from grade_layers import Dense, check_dense, fully_connected_classes
from grade_learning import check_rows, check_step, check_training, check_twenty
from grade_loss import LossClass, check_loss, tell_large
from grade_parts import LAYOUTS, ROWS_TRIED, NotFinished, Unfollowed, compare, normal, softmax
from grade_update import check_update

MEMORY = 4 * 2 ** 30


class NoNetwork(Exception):
    """A hand-in of layers only."""


class HandIn(object):
    """The hand-in under question, and what has been found in it."""

    def __init__(self, classes, write):
        self.classes = classes
        self.write = write
        self.dense = {}
        self.softmax = None         # a function of this name
        self.loss_in_network = True
        self.driver = None
        self.trouble = None         # why the network cannot be followed

    def report(self, task, part, mistake=None, message='', state=None, scale=None, **facts):
        """Write an answer. Without a mistake the task is right, or a note."""
        state = state or ('wrong' if mistake else 'right')
        if scale is not None:
            facts['scale'] = float(scale)
        self.write(dict(facts, task=task, part=part, state=state, mistake=mistake,
                        message=' '.join(message.split())))

    def find_network(self):
        """Find the network's class and its form. `trouble` is the exception if this fails."""
        self.driver = find_network(self.classes)
        if self.driver is None:
            self.trouble = NoNetwork('There is no network, so only its parts were asked.')
            return
        losses = self.loss_classes()
        self.driver.make_loss = losses[0].make if losses else None
        try:
            if not find.arrays(self.driver.make()):
                raise NoNetwork('The network has no layers until they are added, so only its parts '
                                'were asked.')
            self.driver.find_form()
        except Exception as error:
            self.trouble = error

    def find_dense(self):
        """The layers with weights: {name of the class: Dense}."""
        for name, make, sizes in fully_connected_classes(self.classes):
            if not self.is_network(name):
                self.dense[name] = Dense(name, make, *sizes)
        if not self.dense and self.driver and not self.trouble:
            self.find_dense_in_network()

    def find_dense_in_network(self):
        """Layers that cannot be made from two sizes are taken out of the network."""
        net = self.driver.make()
        for path, layer in find.layers(net):
            name = type(layer).__name__
            shapes = [array.shape for array in find.arrays(layer).values() if array.ndim == 2]
            if name in self.dense or not shapes:
                continue
            for sizes in (shapes[0], shapes[0][::-1]):
                make = functools.partial(take_layer, self.driver, path)
                part = Dense(name, make, *sizes)
                try:
                    part.find_arrays()
                except Exception:
                    continue
                self.dense[name] = part
                break

    def loss_classes(self):
        """[LossClass] of the classes that take a target."""
        found = []
        for name, cls in self.classes.items():
            forward = find.method(cls, find.FORWARD)
            if not forward or self.is_network(name) or self.is_base(cls):
                continue
            named, more = find.parameters(forward)
            required = [part for part, must in named if must and part != 'self']
            looks = re.search('loss|entropy|criterion|^ce$', name.lower())
            makes_loss = any('loss' in part.lower() for part in vars(cls))
            if looks and (len(required) == 2 or more or makes_loss):
                found.append(LossClass(name, cls, self.softmax_class()))
        return found

    def softmax_class(self):
        """How the class of a softmax alone is made, or None."""
        for name, cls in self.classes.items():
            forward = find.method(cls, find.FORWARD)
            if re.search('softmax', name.lower()) and forward:
                if len([part for part, must in find.parameters(forward)[0] if must]) == 2:
                    return functools.partial(find.construct, cls)      # self and the input
        return None

    def layouts(self):
        """The layouts to try, that of the layers first."""
        columns = [part.layout.name == 'columns' for part in self.dense.values()]
        if columns and all(columns):
            return LAYOUTS[1::-1]
        return LAYOUTS[:1] + LAYOUTS[2:] if columns else LAYOUTS

    def is_network(self, name):
        """True for the class of the network."""
        return self.driver is not None and self.driver.name == name

    def is_base(self, cls):
        """True for a class that others inherit from, such as _Layer."""
        return any(cls in other.__mro__[1:] for other in self.classes.values())


def take_layer(driver, path):
    """A layer out of a new network."""
    return find.get(driver.make(), path)


# Questions ----------------------------------------------------------------------------------------

def ask_layers(hand_in):
    """FullyConnected: forward, weight_grad, bias_grad, input_grad."""
    if not hand_in.dense:
        hand_in.report('dense.forward', '', state='unfollowed', message=(
            'No layer with weights was found: write a class with FullyConnected(in_features, '
            'out_features), forward(input) and backward(output_grad).'))
    for part in hand_in.dense.values():
        try:
            check_dense(part, hand_in.report)
        except Exception as error:
            hand_in.report('dense.forward', part.name, state='unfollowed',
                           message=find.describe(error))


def ask_activations(hand_in):
    """Each activation class alone."""
    for name, cls in hand_in.classes.items():
        if name in hand_in.dense or hand_in.is_network(name) or hand_in.is_base(cls):
            continue
        if not find.method(cls, find.FORWARD) or not find.method(cls, find.BACKWARD):
            continue
        if re.search(OTHER_NAME, name.lower()):
            continue
        ask_activation(hand_in, name, cls)


def ask_activation(hand_in, name, cls):
    """One class, if it is an activation."""
    named = re.search(ACTIVATION_NAME, name.lower())
    wanted = [find.meaning(part) for part, must in find.parameters(cls)[0] if must]
    for kind in ('relu', 'ReLU', 'Relu', 'RELU', 'sigmoid') if 'name' in wanted else ('relu',):
        part = Activation(name, functools.partial(make_activation, cls, kind))
        answers = Collected()
        error = None
        try:
            if any(works_on(part, rows) for rows in ROWS_TRIED[:3]):
                check_activation(part, answers.report)
            elif named:
                check_mixing(part, answers.report)
            break
        except Exception as reason:
            error = reason
    if named or error is None:
        answers.replay(hand_in.report)
    if named and isinstance(error, (NotImplementedError, NotFinished)):
        hand_in.report('activation.forward', name, 'not-finished', str(error) or 'not written yet')
    elif named and error:
        hand_in.report('activation.forward', name, state='unfollowed', message=find.describe(error))


def make_activation(cls, kind):
    """A new activation. Some classes want the name of a function."""
    return cls(*find.arguments(cls, dict(find.CONSTANTS, name=kind, rows=7)))


def works_on(part, rows):
    """True if the class is elementwise for this number of rows."""
    try:
        return is_elementwise(part, values_away_from_0(rows, 5))
    except (NotImplementedError, NotFinished):
        raise
    except Exception:
        return False


def ask_loss(hand_in):
    """Softmax, loss, its gradient, large logits: through the network, or the class alone."""
    trouble = None
    if hand_in.loss_in_network and not hand_in.trouble and not hand_in.driver.slow:
        try:
            probe = NetworkLoss(hand_in.driver)
            collected = Collected()
            check_loss(probe, collected.report)
            collected.replay(hand_in.report)
            ask_classes(hand_in)
            return
        except Exception as error:
            trouble = error
    asked = [ask_loss_class(hand_in, probe) for probe in hand_in.loss_classes()]
    if None in asked:
        return
    trouble = ([trouble] + asked)[-1]
    ask_softmax(hand_in)
    hand_in.report('loss', '', state='unfollowed', message=(
        'No loss was found that can be asked: write a class with forward(input, target) and '
        'backward().' + (f' {find.describe(trouble)}' if trouble else '')))


def ask_loss_class(hand_in, probe):
    """A loss alone -> None, or the exception that stood in the way."""
    collected = Collected()
    try:
        probe.find_form(hand_in.layouts())
        check_loss(probe, collected.report)
    except (NotImplementedError, NotFinished) as error:
        ask_softmax(hand_in)
        hand_in.report('loss', probe.name, 'not-finished', str(error) or 'not written yet')
    except Exception as error:
        return error
    collected.replay(hand_in.report)


def ask_softmax(hand_in):
    """A softmax alone, while the loss is not finished or not there."""
    make = hand_in.softmax_class()
    function = hand_in.softmax
    if function is None and make:
        function = lambda logits: find.call(make(), 'forward', logits)      # noqa: E731
    if function is None:
        return
    logits = normal(7, 5)
    try:
        got = function(logits.copy())
        distant = function(logits + np.array([[900.0]] + [[0.0]] * 6))
        large = function(np.full((7, 5), 1000.0))
    except NotImplementedError as error:
        hand_in.report('softmax', 'softmax', 'not-finished', str(error))
        return
    compare(hand_in.report, 'softmax', 'softmax', got, softmax(logits)[0],
            mistakes.softmax_suspects(logits), 1e-6)
    tell_large(hand_in.report, 'softmax', np.isfinite(large).all(), np.isfinite(distant).all())


def ask_classes(hand_in):
    """The loss takes other numbers of classes than that of the network."""
    for probe in hand_in.loss_classes():
        worked = []
        for probe.classes in (hand_in.driver.classes, 5):
            for probe.form in ((LAYOUTS[0], 'one-hot'), (LAYOUTS[0], 'labels')):
                try:
                    probe.fits()
                    worked.append((probe.classes, probe.form))
                except Exception:
                    continue
        known = {classes for classes, _ in worked}
        if known == {hand_in.driver.classes} and hand_in.driver.classes != 5:
            hand_in.report('rows', probe.name, 'one-batch-size', (
                f'{probe.name} works for {hand_in.driver.classes} classes, but not for 5: take the '
                'number of classes from the input.'))


class Collected(object):
    """Keeps answers until all questions of a part have worked."""

    def __init__(self):
        self.answers = []

    def report(self, *args, **facts):
        """Keep an answer."""
        self.answers.append((args, facts))

    def replay(self, report):
        """Report what was kept."""
        for args, facts in self.answers:
            report(*args, **facts)


def ask_segments(hand_in):
    """What the network does between its layers, to the values and to the gradients."""
    if hand_in.trouble or not hand_in.dense or hand_in.driver.slow:
        return
    for name in classes_that_take_values(hand_in.driver):
        hand_in.report('activation.backward', name, inside=True)
    for segment in segments(hand_in.driver, set(hand_in.dense)):
        try:
            check_segment(segment, functools.partial(hand_in.report, inside=True))
        except Exception:
            continue


def ask_gradients(hand_in):
    """The gradients of the whole network."""
    if tell_trouble(hand_in, 'network.forward'):
        return
    hand_in.report('network.forward', hand_in.driver.name)
    answer = hand_in.driver.forward(hand_in.driver.make(),
                                    *hand_in.driver.batch(hand_in.driver.rows))
    if answer['changes']:
        words = 'input' if answer['changes'] == 'logits' else 'target'
        hand_in.report('unchanged', hand_in.driver.name, 'changes-input', (
            f'The network overwrites its {words}, so the next epoch sees other numbers.'))
    known = parameters(hand_in)
    if check_backward_moves_nothing(hand_in.driver, known, hand_in.report):
        check_gradients(hand_in.driver, known, hand_in.report)


def parameters(hand_in):
    """The parameters of the network."""
    for part in hand_in.dense.values():
        if not hasattr(part, 'weight_grad'):
            try:
                check_dense(part, Collected().report)
            except Exception:
                continue
    return find_parameters(hand_in.driver, hand_in.dense)


def tell_trouble(hand_in, task):
    """True, and a report, if the network cannot be followed."""
    error = hand_in.trouble
    if error is None:
        return False
    if isinstance(error, NoNetwork):
        hand_in.report(task, 'Network', state='note', message=str(error))
    elif isinstance(error, (NotImplementedError, NotFinished)):
        hand_in.report(task, 'Network', 'not-finished', str(error) or 'not written yet')
    else:
        hand_in.report(task, 'Network', state='unfollowed', message=find.describe(error))
    return True


def ask_update(hand_in):
    """Three steps of update."""
    if not hand_in.trouble:
        check_update(hand_in.driver, parameters(hand_in), hand_in.report)


def ask_train(hand_in):
    """The handout's loop reaches 80 % on the lab's data."""
    if not hand_in.trouble:
        check_training(hand_in.driver, hand_in.report, hand_in.train_csv)


def ask_network(check, hand_in):
    """A question to the network as a whole."""
    try:
        if not hand_in.trouble:
            check(hand_in.driver, hand_in.report)
    except Unfollowed:
        pass      # ask_update says that there is no update


ASK = {'layers': ask_layers, 'activations': ask_activations, 'loss': ask_loss,
       'segments': ask_segments, 'gradients': ask_gradients, 'update': ask_update,
       'rows': functools.partial(ask_network, check_rows),
       'step': functools.partial(ask_network, check_step),
       'twenty': functools.partial(ask_network, check_twenty), 'train': ask_train}
TASK_OF = {'layers': 'dense.forward', 'activations': 'activation.forward',
           'segments': 'activation.backward', 'gradients': 'network.gradient'}


# The process --------------------------------------------------------------------------------------

class Writer(object):
    """Writes lines of JSON to a file, each at once."""

    def __init__(self, path):
        self.file = open(path, 'a', encoding='utf-8')

    def __call__(self, answer):
        self.file.write(json.dumps(answer) + '\n')
        self.file.flush()


def limit_memory():
    """Refuse arrays of many gigabytes, where the system can."""
    try:
        import resource
    except ImportError:      # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def prepare(folder, settings, write):
    """Import the hand-in and find its parts -> HandIn, or None after a report."""
    write({'now': 'import'})
    try:
        classes, softmax, note = find.load(folder, settings.get('definitions_only', False))
    except (Exception, SystemExit) as error:
        write({'task': 'import', 'part': '', 'state': 'unfollowed', 'mistake': None,
               'message': f'The import stops with {find.describe(error)}: the files are to hold '
                          'classes and functions, and no data is read in them.'})
        return None
    if note:
        write({'task': 'import', 'part': '', 'state': 'note', 'mistake': None, 'message': note})
    hand_in = HandIn(classes, write)
    hand_in.softmax = softmax
    hand_in.loss_in_network = not settings.get('loss_alone')
    hand_in.train_csv = settings.get('train_csv')
    write({'now': 'network'})
    if not settings.get('without_network'):
        hand_in.find_network()
    else:
        hand_in.trouble = Unfollowed('the network takes too long, or ends the process')
    hand_in.find_dense()
    return hand_in


def main(folder, results, settings):
    """Ask the questions named in the settings."""
    limit_memory()
    warnings.simplefilter('ignore')
    np.seterr(all='ignore')
    write = Writer(results)
    settings = json.loads(settings)
    hand_in = prepare(folder, settings, write)
    if hand_in is None:
        return
    for question in settings['questions']:
        write({'now': question})
        try:
            ASK[question](hand_in)
        except (NotImplementedError, NotFinished) as error:
            hand_in.report(TASK_OF.get(question, question), '', 'not-finished',
                           str(error) or 'not written yet')
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            hand_in.report(TASK_OF.get(question, question), '', state='unfollowed',
                           message=find.describe(error))
        write({'done': question})
    write({'now': 'end'})
    os._exit(0)      # no thread or atexit of the hand-in keeps the process


if __name__ == '__main__':
    main(*sys.argv[1:])
