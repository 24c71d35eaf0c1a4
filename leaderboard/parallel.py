"""A Network that cuts each mini-batch into parts and computes them side by side, a process each.

    net = ParallelNetwork([FullyConnected(784, 47)])      # two parts
    net.forward(data, label)                              # both parts forward, then the mean loss
    net.backward()                                        # both parts backward, then the sum

Two threads of Python wait for each other at every call of NumPy; two processes do not. So the first
part is computed here, and each other one by a helper, a forked copy of this process. The weights
and the gradients of a helper lie in memory that both share. The gradient of a mean over all rows
is the mean of the parts' gradients, weighted by their shares of the rows.

The numbers depend on the number of parts, but not on the number of cores. BatchNorm normalises each
part by the statistics of that part alone, as replicas on several GPUs do. Only Linux forks safely,
so elsewhere there is one part.
"""
import contextlib
import ctypes
import functools
import mmap
import multiprocessing
import operator
import os
import signal
import sys
import weakref

import numpy as np

from fast_block import fuse
from layer import target_rows
from network import Network

PIPES = weakref.WeakSet()      # this process's ends of the pipes to its helpers


class ParallelNetwork(Network):
    """A Network that computes `parts` parts of each batch side by side.

    Its numbers are those of Network, except for BatchNorm in training. `backward` needs a forward
    in training. A batch too small for two rows a part is cut into fewer parts, because BatchNorm
    needs two rows. Each part draws random numbers of its own. Layers, the loss and weights may be
    exchanged, and numbers and states of a layer be set. The helpers do not see other changes of a
    layer.
    """

    def __init__(self, layers=None, loss=None, rng=None, input_shape=None, parts=2):
        if not isinstance(parts, int) or parts < 1:
            raise ValueError(f'parts is {parts!r}, expected 1 or more')
        self.parts = parts if sys.platform == 'linux' else 1
        self.replica = None         # the layers in blocks: it computes a part
        self.helpers = []
        self.made_for = None        # process, layers, loss, kinds of weights: of replica, helpers
        self.shares = []            # what share of the last batch's rows each part got
        self.is_to_keep = True      # what forward keeps: False in `evaluation`
        super().__init__(layers, loss, rng, input_shape)

    def forward(self, input, target):
        """Rows (N, ...) and targets (N,) or (N, K) -> predictions (N, K) and the mean loss."""
        self.is_forward_done = False
        target = target_rows(target, (len(input),) + self.shapes()[-1])
        count = self.part_count(input)
        inputs = np.array_split(input, count)
        results, states = self.run('forward', zip(inputs, np.array_split(target, count)))
        self.shares = [len(part) / max(1, len(input)) for part in inputs]
        for layer, *parts in zip(self.layers, *states):
            for name in layer.state_names if layer.training else ():
                setattr(layer, name, self.mean([part[name] for part in parts]))
        self.is_forward_done = self.is_to_keep
        predictions, losses = zip(*results)
        return np.concatenate(predictions), self.mean(losses)

    def backward(self):
        """Set every layer's weight_grad and bias_grad: the gradients of the last forward's loss."""
        if not self.is_forward_done:
            raise RuntimeError('backward needs a whole forward before it')
        self.run('backward', [()] * len(self.shares))
        helpers = self.helpers[:len(self.shares) - 1]
        for index, (_, layer, attribute) in enumerate(self.parameters()):
            grad = getattr(layer, attribute + '_grad')
            grads = [view(helper.grads[index], grad) for helper in helpers]
            setattr(layer, attribute + '_grad', self.mean([grad] + grads))

    def predict_batch(self, input):
        """Predict one batch in the present mode."""
        parts = np.array_split(input, self.part_count(input))
        return np.concatenate(self.run('predict_batch', zip(parts))[0])

    @contextlib.contextmanager
    def evaluation(self):
        """Evaluation mode for a `with` block. Then all is as before, in the helpers, too.

        After a forward in the block, backward is refused: the helpers have not kept it.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(super().evaluation())
            if self.replica:
                stack.enter_context(self.replica.evaluation())
            self.is_to_keep = False
            yield

    def __getstate__(self):      # a copy makes its own
        return dict(vars(self), replica=None, helpers=[], made_for=None)

    # How it is done -------------------------------------------------------------------------------

    def part_count(self, input):
        """The number of parts of this batch."""
        return max(1, min(self.parts, len(input) // 2))

    def mean(self, parts):
        """The mean of an array or a number of each part, weighted by share, in order."""
        return parts[0] if len(parts) == 1 else sum(map(operator.mul, self.shares, parts))

    def make_ready(self):
        """Make a replica and helpers, if a layer was exchanged or there are none. Send weights."""
        weights = [getattr(layer, attribute) for _, layer, attribute in self.parameters()]
        kinds = [(weight.shape, weight.dtype) for weight in weights]
        wanted = os.getpid(), self.layers + [self.loss], kinds
        if self.made_for != wanted or len(self.helpers) != self.parts - 1:
            self.helpers = []
            keep_freed_memory()
            self.replica = Network(fuse(self.layers), self.loss, input_shape=self.input_shape)
            self.made_for = wanted
            self.helpers = [Helper(self, weights) for _ in range(1, self.parts)]
        for helper in self.helpers:
            for memory, weight in zip(helper.weights, weights):
                view(memory, weight)[...] = weight

    def run(self, method, parts):
        """Run a method of Network for each of `parts`, tuples of its arguments, side by side.

        -> [its result], [the states of each layer], of each part
        """
        first, *others = parts
        try:
            with blas_threads(1):
                self.make_ready()
                for helper, arguments in zip(self.helpers, others):
                    # backward keeps those of forward, and draws nothing
                    layers = self.layers + [self.loss] if method != 'backward' else []
                    settings = [settings_of(layer) for layer in layers]
                    helper.pipe.send((settings, self.is_to_keep, method, arguments))
                done = [self.run_part(method, first)]
                done += [helper.receive() for helper, _ in zip(self.helpers, others)]
        except BaseException as error:      # Ctrl-C, too: what helpers still send is for nobody
            while self.helpers:
                self.helpers.pop().pipe.close()
            if isinstance(error, (EOFError, ConnectionError)):
                raise ChildProcessError('a helper process has ended: is there memory for it?')
            raise
        return list(zip(*done))

    def run_part(self, method, arguments):
        """Run a method of Network in this process -> its result, [the states of each layer]."""
        result = getattr(self.replica, method)(*arguments)
        return result, [{name: getattr(layer, name) for name in layer.state_names}
                        for layer in self.layers]

    def serve(self, pipe, weights, grads):
        """In a helper: do what comes through the pipe, until it is closed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)      # Ctrl-C is for the first process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)     # its end ends this one, too
        for each in list(PIPES):
            each.close()
        for memory, (_, layer, attribute) in zip(weights, self.parameters()):
            setattr(layer, attribute, view(memory, getattr(layer, attribute)))
        np.seterr(all='ignore')      # the first process looks at the results
        with contextlib.suppress(EOFError, OSError), blas_threads(1):
            while True:
                settings, is_to_keep, method, arguments = pipe.recv()
                try:
                    with contextlib.ExitStack() if is_to_keep else self.evaluation():
                        for each, values in zip(self.layers + [self.loss], settings):
                            vars(each).update(values)
                        reply = self.run_part(method, arguments)
                        grad_names = self.parameters() if method == 'backward' else ()
                        for memory, (_, layer, attribute) in zip(grads, grad_names):
                            grad = getattr(layer, attribute + '_grad')
                            view(memory, grad)[...] = grad
                except Exception as error:
                    reply = error
                pipe.send(reply)


class Helper(object):
    """A forked copy of this process, as this process sees it. It ends with this object."""

    def __init__(self, net, weights):
        self.weights = [shared_memory(weight) for weight in weights]
        self.grads = [shared_memory(weight) for weight in weights]
        self.pipe, end = multiprocessing.Pipe()
        PIPES.add(self.pipe)
        fork = multiprocessing.get_context('fork')
        fork.Process(target=net.serve, args=(end, self.weights, self.grads), daemon=True).start()
        end.close()

    def receive(self):
        """What it replies. Its exceptions are raised here."""
        reply = self.pipe.recv()
        if isinstance(reply, Exception):
            raise reply
        return reply


def settings_of(layer):
    """{name: value} of a layer's numbers, modes and states, and a generator that its rng seeds."""
    found = {name: value for name, value in vars(layer).items()
             if isinstance(value, (int, float, np.generic)) or name in layer.state_names}
    if hasattr(layer, 'rng') and layer.training:
        found['rng'] = np.random.default_rng(layer.rng.integers(2 ** 63))
    return found


def keep_freed_memory():
    """Let the C library keep the memory of freed arrays for the next ones, where it is glibc.

    Else the system takes it back, and gives it anew in every batch, page by page.
    """
    library = ctypes.CDLL(None) if sys.platform == 'linux' else None
    if hasattr(library, 'mallopt'):
        library.mallopt(-1, 2 ** 31 - 1)      # M_TRIM_THRESHOLD: what may be free, in bytes
        library.mallopt(-3, 2 ** 25)          # M_MMAP_THRESHOLD: larger arrays are not kept


def shared_memory(array):
    """Memory that forked processes share, for an array of this size and up to 8 bytes a number."""
    return mmap.mmap(-1, 8 * max(1, array.size))


def view(memory, array):
    """-> an array of this shape and dtype in the memory."""
    return np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)


@functools.lru_cache(maxsize=1)
def blas_controller():
    """threadpoolctl's controller of NumPy's BLAS. None, and a sentence, if it is missing."""
    try:
        import threadpoolctl
    except ImportError:
        print('threadpoolctl is not installed, so the parts of a batch take their BLAS threads '
              'from each other: training is slower, and rounding depends on their number. Install '
              'it, or set OPENBLAS_NUM_THREADS=1', file=sys.stderr)
        return None
    return threadpoolctl.ThreadpoolController()      # it looks for the library once: a millisecond


def blas_threads(count):
    """A context in which NumPy's matrix products use `count` threads each."""
    controller = blas_controller()
    if controller is None:
        return contextlib.ExitStack()      # an empty one does nothing
    return controller.limit(limits=count, user_api='blas')


def blas_kernels():
    """For which processor the kernels of NumPy's BLAS are. Speed and rounding depend on it."""
    libraries = blas_controller().select(user_api='blas').info() if blas_controller() else []
    return libraries[0].get('architecture', 'unknown') if libraries else 'unknown'
