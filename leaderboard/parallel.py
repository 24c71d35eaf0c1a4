"""A Network that cuts each mini-batch into parts and computes them side by side, a thread each.

    net = ParallelNetwork([FullyConnected(784, 47)])      # two parts
    net.forward(data, label)                              # both parts forward, then the mean loss
    net.backward()                                        # both parts backward, then the sum

NumPy lets other threads run while it computes, so two threads keep two cores busy. A thread needs
its own caches. So each part has a replica: a plain Network whose layers are copies that share the
weights. The gradient of a mean over all rows is the mean of the parts' gradients, weighted by
their shares of the rows.

The numbers depend on the number of parts, but not on the number of cores or threads. BatchNorm
normalises each part by the statistics of that part alone, as replicas on several GPUs do.
"""
import concurrent.futures
import contextlib
import copy
import ctypes
import functools
import os
import sys

import numpy as np

from fast_block import fuse
from layer import target_rows
from network import Network


class ParallelNetwork(Network):
    """A Network that computes `parts` parts of each batch side by side.

    Its numbers are those of Network, except for BatchNorm in training. A batch too small for two
    rows a part is cut into fewer parts, because BatchNorm needs two rows. Each replica draws random
    numbers of its own.
    """

    def __init__(self, layers=None, loss=None, rng=None, input_shape=None, parts=2):
        self.replicas = []
        super().__init__(layers, loss, rng, input_shape)
        if not isinstance(parts, int) or parts < 1:
            raise ValueError(f'parts is {parts!r}, expected 1 or more')
        self.parts = parts
        self.shares = []        # what share of the last batch's rows each replica got
        self.make_replicas()
        keep_freed_memory()

    def make_replicas(self):
        """Make a replica for each part. The first has the network's own layers, not copies."""
        self.twins = [list(self.layers)]      # the layers that the replicas compute
        for _ in range(1, self.parts):
            layers = [copy.copy(layer) for layer in self.layers]
            for layer in layers:
                if hasattr(layer, 'rng'):      # no two threads may draw from one generator
                    layer.rng = np.random.default_rng(layer.rng.integers(2 ** 31))
            self.twins.append(layers)
        self.replicas = [Network(fuse(layers), copy.copy(self.loss), input_shape=self.input_shape)
                         for layers in self.twins]

    def forward(self, input, target):
        """Rows (N, ...) and targets (N,) or (N, K) -> predictions (N, K) and the mean loss."""
        self.is_forward_done = False
        target = target_rows(target, (len(input),) + self.shapes()[-1])
        self.refresh_replicas()
        count = self.part_count(input)
        inputs = np.array_split(input, count)
        results = self.run(forward_part, inputs, np.array_split(target, count),
                           np.array_split(np.arange(len(input)), count))
        self.shares = [len(part) / max(1, len(input)) for part in inputs]
        self.merge_states()
        predict = np.concatenate([predict for predict, _ in results])
        loss = sum(share * loss for share, (_, loss) in zip(self.shares, results))
        self.is_forward_done = True
        return predict, loss

    def backward(self):
        """Set every layer's weight_grad and bias_grad: the gradients of the last forward's loss."""
        if not self.is_forward_done:
            raise RuntimeError('backward needs a whole forward before it')
        self.run(Network.backward)
        for _, layer, attribute in self.parameters():
            self.merge(layer, attribute + '_grad')

    def predict_batch(self, input):
        """Predict one batch in the present mode."""
        self.refresh_replicas()
        parts = np.array_split(input, self.part_count(input))
        return np.concatenate(self.run(Network.predict_batch, parts))

    @contextlib.contextmanager
    def evaluation(self):
        """Evaluation mode for a `with` block. Then all is as before, in the replicas, too."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(super().evaluation())
            for replica in self.replicas:
                stack.enter_context(replica.evaluation())
            yield

    def reseed(self, seed):
        """Give each layer of each replica a new generator, from a list of integers."""
        self.refresh_replicas()
        for number, layers in enumerate(self.twins):
            for index, layer in enumerate(layers):      # the index in the network, not in a replica
                if hasattr(layer, 'rng'):
                    layer.rng = np.random.default_rng([*seed, number, index])

    # How it is done -------------------------------------------------------------------------------

    def refresh_replicas(self):
        """Give the replicas the present layers, weights, modes and settings."""
        if self.layers != self.twins[0]:      # a layer was exchanged
            self.make_replicas()
        for number, replica in enumerate(self.replicas):
            replica.loss = copy.copy(self.loss) if number else self.loss
            for layer, twin in zip(self.layers, self.twins[number]):
                own = {'rng': twin.rng} if hasattr(twin, 'rng') else {}
                twin.__dict__ = dict(vars(layer), **own)

    def part_count(self, input):
        """The number of parts of this batch."""
        return max(1, min(self.parts, len(input) // 2))

    def run(self, method, *arrays):
        """[method(replica, its part of each array)] for the parts of a batch, side by side.

        `arrays` hold lists of parts. Without any, the parts are those of the last batch.
        """
        count = len(arrays[0]) if arrays else max(1, len(self.shares))
        jobs = [functools.partial(method, self.replicas[index], *[parts[index] for parts in arrays])
                for index in range(count)]
        if count == 1:
            return [jobs[0]()]
        pool = thread_pool(os.getpid(), min(self.parts, os.cpu_count() or 1))
        futures = []
        with blas_threads(1):
            try:
                for job in jobs:
                    futures.append(pool.submit(job))
                return [future.result() for future in futures]
            finally:      # after an error and Ctrl-C, too, no thread may go on to change layers
                concurrent.futures.wait(futures)

    def merge_states(self):
        """Set the states that training changes, e.g. running_mean, to the mean of the replicas."""
        for layer in self.layers:
            if layer.training:
                for attribute in layer.state_names:
                    self.merge(layer, attribute)

    def merge(self, layer, attribute):
        """Set an attribute to the mean of the replicas' arrays, weighted by share, in order."""
        if len(self.shares) < 2:
            return
        index = self.layers.index(layer)
        total = getattr(self.twins[0][index], attribute) * self.shares[0]
        for share, layers in zip(self.shares[1:], self.twins[1:]):
            total += getattr(layers[index], attribute) * share
        setattr(layer, attribute, total)


def forward_part(replica, input, target, rows):
    """Network.forward for the rows with these numbers in the batch. Its errors name them."""
    try:
        return Network.forward(replica, input, target)
    except ValueError as error:
        if len(rows) == 0 or rows[0] == 0:
            raise
        raise ValueError(f'rows {rows[0]} to {rows[-1]} of the batch: {error}')


@functools.lru_cache(maxsize=1)
def thread_pool(process, count):
    """The threads that all networks share. A forked child is another process: it makes its own."""
    return concurrent.futures.ThreadPoolExecutor(count)


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


@functools.lru_cache(maxsize=1)
def keep_freed_memory():
    """Make the C library keep the memory of freed arrays for the next ones, where it is glibc.

    Else it gives large arrays back to the system, and gets their memory anew, page by page, in
    every batch. All threads of the process wait for that.
    """
    library = ctypes.CDLL(None) if os.name == 'posix' else None
    if hasattr(library, 'mallopt'):
        library.mallopt(-1, 2 ** 31 - 1)      # M_TRIM_THRESHOLD: bytes at the end of the heap
        library.mallopt(-3, 2 ** 25)          # M_MMAP_THRESHOLD: larger arrays are not kept
        library.mallopt(-8, 1)                # M_ARENA_MAX: one heap for all threads


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
