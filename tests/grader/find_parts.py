"""Import a hand-in, and find its parts by what they do: layers, network, arrays, methods.

This module runs in the process of one hand-in, together with the student's code.
"""
import ast
import copy
import importlib
import importlib.machinery
import importlib.util
import inspect
import math
import os
import re
import sys
import types

import numpy as np

PACKAGE = 'hand_in'     # the folder of the copy, and a package of this name
FORWARD = ('forward', 'forward_pass', 'forward_prop', 'forward_propagation', 'feedforward',
           'feed_forward', '__call__')
BACKWARD = ('backward', 'backward_pass', 'backprop', 'back_prop', 'backward_propagation',
            'back_propagation', 'backpropagation', 'gradient')
UPDATE = ('update', 'step', 'update_params', 'update_parameters', 'update_weights', 'optimize',
          'apply_gradients', 'sgd')

# What a parameter of a method seems to want, by its name. The first fitting line counts.
MEANINGS = (
    ('lr', r'^lr|learn|rate$|^eta$|^alpha$|step_size'),
    ('grad', r'grad|delta|dout|^d[a-z]?$|upstream|^err|^d_|^dl?_?d|residual'),
    ('target', r'target|label|truth|^gt|^t$|^y$|true|^ans|onehot|one_hot|^tar'),
    ('loss', r'loss'),
    ('predict', r'pred|prob|hat|^out|^y_?p|softmax|logit|class'),
    ('input', r'^x|input|data|^im|inp|^z$|^a$|feature|^h\d?$'),
    ('training', r'train|^mode$|^flag|bias|^use|^with|^add'),
    ('rows', r'batch|^n$|^m$'),
    ('kernel', r'kernel|filter_?s|k_?size|window|pool'),
    ('one', r'stride'),
    ('zero', r'^pad'),
    ('channels', r'chan|filter|maps'),
    ('model', r'model|^net'),
    ('std', r'std|sigma|scale'),
    ('slope', r'slope|leak|^neg'),
    ('name', r'activ|name|^type|func|method|optim|^opt$'),
    ('zero', r'mom|beta|decay|lambda|lamb|reg|^l2|drop|wd'),
    ('one', r'epoch|iter|step|^k$|time'),
)


# Import -------------------------------------------------------------------------------------------

def restore_numpy_names():
    """Give NumPy the names back that it has dropped: np.int, np.Inf ..."""
    names = {'int': int, 'float': float, 'bool': bool, 'object': object, 'str': str,
             'complex': complex, 'long': int, 'float_': np.float64, 'int0': np.intp,
             'Inf': np.inf, 'Infinity': np.inf, 'infty': np.inf, 'NaN': np.nan, 'NAN': np.nan,
             'PINF': np.inf, 'NINF': -np.inf, 'product': np.prod, 'cumproduct': np.cumprod,
             'alltrue': np.all, 'sometrue': np.any, 'round_': np.round, 'math': math,
             'row_stack': np.vstack, 'in1d': getattr(np, 'isin', None)}
    for name, value in names.items():
        if name not in vars(np):
            setattr(np, name, value)


class Missing(types.ModuleType):
    """Stands for a package that is not installed, and for everything in it."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return Missing(name)

    def __call__(self, *args, **kwargs):
        return args[0] if args and (callable(args[0]) or hasattr(args[0], '__iter__')) else self

    def __iter__(self):
        return iter(())

    def __bool__(self):
        return False

    def __mro_entries__(self, bases):
        return (object,)


UNWANTED = ('matplotlib', 'tqdm', 'seaborn')      # slow to import, and nothing to see here
LIKE_NUMPY = ('cupy', 'minpy', 'autograd')


def replace_missing(folder):
    """Let stand-ins be imported for packages that are not installed -> the names of those."""
    own = {file[:-3] for file in os.listdir(folder) if file.endswith('.py')}
    own.add(PACKAGE)
    missing = set()
    for file in sorted(os.listdir(folder)):
        for name in imported_names(os.path.join(folder, file)):
            first, last = name.split('.')[0], name.split('.')[-1]
            if first in own or first not in UNWANTED and is_installed(first):
                continue
            if last in own:      # the folder has lost its name, as in `from lab1.layer import *`
                make_packages(folder, name.split('.')[:-1])
                continue
            if first in LIKE_NUMPY:
                sys.modules[name] = np
                continue
            sys.modules.setdefault(first, Missing(first))
            sys.modules[name] = Missing(name)
            if first not in UNWANTED:
                missing.add(first)
    return sorted(missing)


def is_installed(name):
    """True if a module can be imported, without importing it."""
    if name in sys.modules:
        return not isinstance(sys.modules[name], Missing)
    return importlib.util.find_spec(name) is not None


def parse(path):
    """The syntax tree of a Python file. An empty one for other files, and for one with errors."""
    try:
        with open(path, 'rb') as file:
            return ast.parse(file.read() if path.endswith('.py') else '')
    except SyntaxError:
        return ast.parse('')


def imported_names(path):
    """The dotted names of all modules that a file imports."""
    tree = parse(path)
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return names


class HandInLoader(importlib.machinery.SourceFileLoader):
    """Loads a file of the hand-in: whole, or its imports, classes, functions and constants."""

    definitions_only = False

    def source_to_code(self, data, path, **options):
        """Called by the import system to compile a file."""
        tree = ast.parse(data, path)
        if self.definitions_only:
            tree.body = [node for node in tree.body if is_definition(node)]
        return super().source_to_code(tree, path, **options)


def hand_in_finder(path):
    """Find the files of the hand-in, and of no other folder. Called by the import system."""
    if os.path.basename(path) != PACKAGE:
        raise ImportError('not the folder of the hand-in', path=path)
    return importlib.machinery.FileFinder(path, (HandInLoader, ['.py']))


def make_packages(folder, steps):
    """Make a package of the folder, for `from .layer import`: a and a.b for the steps a, b."""
    for count in range(1, len(steps) + 1):
        name = '.'.join(steps[:count])
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [folder]


def is_definition(node):
    """True for a statement that only gives names to things."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)):
        return True
    calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
    return isinstance(node, (ast.Assign, ast.Expr)) and not calls


def module_names(folder):
    """The modules with layers or networks, layer and network first."""
    names = []
    for file in sorted(os.listdir(folder)):
        nodes = ast.walk(parse(os.path.join(folder, file)))
        if file in ('layer.py', 'network.py') or any(
                isinstance(node, ast.FunctionDef) and node.name in FORWARD for node in nodes):
            names.append(file[:-3])
    names.sort(key=lambda name: ({'layer': 0, 'layers': 0, 'network': 1}.get(name, 2), name))
    return names


def load(folder, definitions_only=False):
    """Import the hand-in -> its classes {name: class}, its function softmax or None, a note.

    The note is a sentence on what stood in the way.

    Raises what the import of the first file raises, if also its definitions alone fail.
    """
    restore_numpy_names()
    sys.path_hooks.insert(0, hand_in_finder)
    sys.path.insert(0, folder)
    make_packages(folder, [PACKAGE])
    importlib.invalidate_caches()
    missing = replace_missing(folder)
    names = module_names(folder)
    note = ''
    HandInLoader.definitions_only = definitions_only
    modules, errors = import_all(names)
    if errors and not definitions_only:
        note = (f'The import stops with {describe(errors[0])}: keep only imports, classes and '
                'functions in these files. ')
        HandInLoader.definitions_only = True
        forget_modules(folder)
        modules, errors = import_all(names)
    if errors and (not modules or isinstance(errors[0], SyntaxError)):
        if not modules or 'layer.py' in str(errors[0]):
            raise errors[0]
    if missing:
        note += f'Not installed here: {", ".join(missing)}. '
    functions = [getattr(module, 'softmax', None) for module in modules]
    softmax = [function for function in functions if inspect.isfunction(function)]
    return own_classes(modules), softmax[0] if softmax else None, note


def import_all(names):
    """Import these files of the hand-in -> the modules, and the errors of those that failed."""
    modules, errors = [], []
    for name in names:
        try:
            modules.append(importlib.import_module(f'{PACKAGE}.{name}'))
        except (Exception, SystemExit) as error:
            errors.append(error)
    return modules, errors


def forget_modules(folder):
    """Remove the modules of the hand-in, so that they are imported anew."""
    for name, module in list(sys.modules.items()):
        if (getattr(module, '__file__', None) or '').startswith(folder):
            del sys.modules[name]


def own_classes(modules):
    """{name: class} of the classes that the modules define or import from each other."""
    found = {}
    for module in reversed(modules):
        for name, value in vars(module).items():
            if isinstance(value, type) and not isinstance(value, Missing):
                file = getattr(sys.modules.get(value.__module__), '__file__', None) or ''
                if os.path.dirname(file) == os.path.dirname(module.__file__):
                    found.setdefault(value.__name__, value)
    return found


def describe(error):
    """An exception in one short line, with the student's line where it was raised."""
    text = str(error).strip().split('\n')[0][:120]
    place = ''
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if os.path.basename(os.path.dirname(file)) == PACKAGE:
            place = f' in {os.path.basename(file)}, line {trace.tb_lineno}'
        trace = trace.tb_next
    kind = type(error).__name__
    if kind in ('Unfollowed', 'NoNetwork'):
        return text
    return f'{kind}{": " if text else ""}{text}{place}'


# Calls --------------------------------------------------------------------------------------------

def method(owner, names):
    """The first method of these names that `owner` has, or None.

    A call that the student has written comes first, as it may keep what backward needs.
    """
    own_call = getattr(owner if isinstance(owner, type) else type(owner), '__call__', None)
    if names is FORWARD and inspect.isfunction(own_call) and not parameters(own_call)[1]:
        return owner.__call__
    for name in names:
        found = getattr(owner, name, None)
        if callable(found) and (name != '__call__' or inspect.isfunction(own_call)):
            return found
    return None


def parameters(function):
    """The positional parameters of a bound method: [(name, it must be given)] and any more."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return [], True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [(part.name, part.default is part.empty) for part in signature.parameters.values()
             if part.kind in positional]
    more = any(part.kind == part.VAR_POSITIONAL for part in signature.parameters.values())
    return named, more


def meaning(name):
    """What a parameter of this name wants: a key of MEANINGS, or None."""
    for key, pattern in MEANINGS:
        if re.search(pattern, name.lower()):
            return key
    return None


def arguments(function, known, first=(), spare=()):
    """The arguments for a call: `first`, then by name from `known`, or from `spare` in order."""
    named, more = parameters(function)
    if more or len(named) < len(first):
        named = named or [('', True)] * len(first)
    values = list(first[:len(named)])
    spare = list(spare)
    for name, required in named[len(values):]:
        key = meaning(name)
        if not required and not (key == 'model' and 'model' in known):
            break
        others = [other for other, _ in named if other != name]
        weak = key == 'target' and len(name) < 3
        if weak and any(meaning(other) == 'target' and len(other) > 2 for other in others):
            key = 'predict'
        if key in known:
            values.append(known[key])
        elif spare:
            values.append(spare.pop(0))
        else:
            raise LookupError(f'{getattr(function, "__name__", "a method")} wants the argument '
                              f'{name!r}: give it a default value')
    return values


RETURNED = {'forward': ('output', 'outputs', 'out'),
            'backward': ('dinputs', 'dinput', 'input_grad', 'grad_input', 'dx')}


def call(layer, direction, *args):
    """Call forward or backward. What a layer keeps in place of returning it is returned."""
    function = method(layer, FORWARD if direction == 'forward' else BACKWARD)
    result = function(*args)
    if result is None and function.__name__ == '__call__' and hasattr(layer, 'forward'):
        result = layer.forward(*args)
    return kept_result(layer, direction) if result is None else result


def kept_result(layer, direction):
    """layer.output after forward, layer.dinputs after backward, or None."""
    for name in RETURNED[direction]:
        if isinstance(getattr(layer, name, None), np.ndarray):
            return getattr(layer, name)
    return None


CONSTANTS = {'training': True, 'zero': 0, 'one': 1, 'lr': 0.1, 'kernel': 3, 'channels': 1,
             'name': 'relu', 'std': 0.1, 'slope': 0.1}


class Catcher(object):
    """Stands for the network in a loss that is given it, and keeps the gradient that it gets."""

    def backward(self, grad):
        self.grad = grad


def construct(cls, *sizes, **more):
    """Make an object of a class from sizes. Other arguments that it must have are guessed."""
    np.random.seed(1)
    known = dict(CONSTANTS, rows=7, model=Catcher(), **more)
    first = []
    for name, _ in parameters(cls)[0]:      # Linear(name, in_num, out_num)
        if len(sizes) == len(first) or meaning(name) != 'name':
            break
        first.append(known['name'])
    return cls(*arguments(cls, known, first + list(sizes)))


# Arrays -------------------------------------------------------------------------------------------

def is_own(value):
    """True for an object of a class of the hand-in."""
    file = getattr(sys.modules.get(type(value).__module__), '__file__', None) or ''
    inside = os.path.basename(os.path.dirname(file)) == PACKAGE
    return inside and not isinstance(value, (type, types.ModuleType, types.FunctionType))


def children(value):
    """[(step, child)] of an object, list, tuple or dictionary of the hand-in."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value)) if len(value) < 200 else []
    if is_own(value):
        return list(getattr(value, '__dict__', {}).items())
    return []


def walk(root, depth=5):
    """Yield (path, value) for all that hangs on an object, each object once."""
    seen = {id(root)}
    level = [((), root)]
    for _ in range(depth):
        below = []
        for path, value in level:
            for step, child in children(value):
                if not isinstance(child, (int, float, str, bool, type(None), np.ndarray)):
                    if id(child) in seen:
                        continue
                    seen.add(id(child))
                yield path + (step,), child
                below.append((path + (step,), child))
        level = below


def arrays(root):
    """{path: array} of all arrays of numbers that hang on an object."""
    return {path: value for path, value in walk(root)
            if isinstance(value, np.ndarray) and value.dtype.kind in 'fiu'}


def get(root, path):
    """The value at a path."""
    for step in path:
        root = root[step] if isinstance(root, (dict, list, tuple)) else getattr(root, step)
    return root


def put(root, path, value):
    """Set the value at a path. Arrays in a tuple are written in place."""
    owner = get(root, path[:-1])
    if isinstance(owner, (dict, list)):
        owner[path[-1]] = value
    elif isinstance(owner, tuple):
        owner[path[-1]][...] = value
    else:
        setattr(owner, path[-1], value)


def set_values(root, path, values):
    """Write numbers into the array at a path, in place: it may have two names. -> as float64."""
    array = get(root, path)
    if array.dtype.kind != 'f' or not array.flags.writeable:
        put(root, path, values)
    else:
        array[...] = values
    return np.array(get(root, path), np.float64)


def layers(net):
    """[(path, layer)] of all objects with forward and backward that hang on a network."""
    return [(path, value) for path, value in walk(net)
            if is_own(value) and method(value, FORWARD) and method(value, BACKWARD)]


def path_name(path):
    """('layers', 0, 'W') -> layers[0].W"""
    text = ''
    for step in path:
        text += f'[{step!r}]' if not isinstance(step, str) or '.' in step else f'.{step}'
    return text.lstrip('.')


# Calls that are watched ---------------------------------------------------------------------------

class Call(object):
    """One call of a layer's method: what went in (copied before), and what came out."""

    def __init__(self, layer, direction, args):
        self.layer = layer
        self.direction = direction
        self.args = args
        self.kept = None


class Watched(object):
    """Takes the place of a layer's method, keeps its calls, and may answer in its place."""

    def __init__(self, layer, direction, function, calls):
        self.layer = layer
        self.direction = direction
        self.function = function
        self.calls = calls
        self.answer = None      # a list of answers, one a call

    def __call__(self, *args, **kwargs):
        call = Call(self.layer, self.direction, copy.deepcopy(list(args)))
        if self.answer is None:
            result = self.function(*args, **kwargs)
            kept = kept_result(self.layer, self.direction) if result is None else result
        else:
            result = kept = self.answer
            setattr(self.layer, RETURNED[self.direction][0], result)
        call.kept = copy.deepcopy(kept)
        self.calls.append(call)
        return result


def watch(net):
    """Watch all layers of a network -> the list that the calls go to."""
    calls = []
    for _, layer in layers(net):
        for direction, names in (('forward', FORWARD[:-1]), ('backward', BACKWARD)):
            for name in names:
                if callable(getattr(layer, name, None)):
                    watched = Watched(layer, direction, getattr(layer, name), calls)
                    setattr(layer, name, watched)
                    break
    return calls
