"""How fast is the framework? One command: python tests/benchmark.py      (about six minutes on two cores)

It trains the same networks on the same random rows with

    ours           Network.train_epoch
    PyTorch        eager mode on the CPU, written as its users write it
    scikit-learn   MLPClassifier.partial_fit, for the networks that it knows
    sgemm          the bare float32 matrix products of forward and backward: the machine's limit, were all else free;
                   for convolutions products over whole windows, of whose multiplications our layer saves 4/7

and measures reading CSV, labels, prediction, augmentation, memory, and how the time grows with the number of rows.

An epoch goes from uint8 rows in memory through a shuffled gather of each batch, scaling to float32, forward, mean
cross-entropy and backward to a step of SGD with momentum. Before they are timed, our network and PyTorch's must have
the same loss at each of three steps. The sides take turns (ours, PyTorch, ..., ours, PyTorch, ...), so that a slow
moment of the machine meets all of them; ratios are taken within a turn.
"""
import argparse
import collections
import ctypes
import functools
import importlib
import itertools
import multiprocessing
import os
import platform
import sys
import tempfile
import time

import numpy as np
import pandas as pd

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)

import network     # noqa: E402
from layer import (Augment, BatchNorm, Conv2d, Dropout, Flatten, FullyConnected, MaxPool2d,     # noqa: E402
                   PixelScaling, ReLU, Reshape, SoftmaxWithLoss)

CORES = os.cpu_count() or 1
EPOCH = 92000                # the lab's 100,000 training rows without 8,000 for validation
PIXELS, CLASSES = 784, 47
LEARNING_RATE, MOMENTUM = 0.01, 0.9
CSV_ROWS = 20000
PREDICT_BATCH = 256
SCALING_ROWS = (1000, 2000, 5000, 10000, 20000, 50000, 100000)     # one epoch of each
EPOCHS, EPOCH_ROWS = 10, 10000                                     # and one training, epoch after epoch
BLUE, VERMILION, GREEN = '#0072B2', '#D55E00', '#009E73'           # Okabe and Ito's colours, told apart by everyone

# A line of the table. Seconds are for 92,000 rows, extrapolated; None for a side that is missing. The ratio is the
# first side's time over this side's. peak_MB is the most memory that a fresh process held until then.
Row = collections.namedtuple('Row', 'part measurement side rows seconds seconds_least seconds_greatest rows_per_second '
                                    'ratio ratio_least ratio_greatest peak_MB')


def fully_connected(*sizes):
    """-> the network of fully connected layers of those sizes with ReLU between them."""
    rng, layers = np.random.default_rng(0), [PixelScaling()]
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [FullyConnected(inputs, outputs, rng), ReLU()]
    return network.Network(layers[:-1])


def convolutional():
    """-> the convolutional network; each of its two shards normalises its half of a batch by itself."""
    rng = np.random.default_rng(0)
    return network.Network([
        PixelScaling(), Reshape(28, 28, 1),
        Conv2d(1, 32, rng=rng, bias=False), BatchNorm(32), ReLU(), MaxPool2d(),
        Conv2d(32, 64, rng=rng, bias=False), BatchNorm(64), ReLU(), MaxPool2d(),
        Conv2d(64, 128, rng=rng, bias=False), BatchNorm(128), ReLU(), MaxPool2d(), Flatten(),
        FullyConnected(1152, 256, rng), BatchNorm(256), ReLU(), FullyConnected(256, CLASSES, rng)], shards=2)


def leaderboard():
    """-> the network for the leaderboard, without the layers that draw random numbers."""
    layers = [layer for layer in network.character_network().layers if not isinstance(layer, (Augment, Dropout))]
    return network.Network(layers, shards=2)


# name: (function that makes the network, the same each time; batch sizes)
NETS = collections.OrderedDict([
    ('784-60-47', (lambda: fully_connected(784, 60, 47), (100, 256))),
    ('default', (lambda: network.Network(rng=np.random.default_rng(0)), (100, 256))),
    ('784-512-512-47', (lambda: fully_connected(784, 512, 512, 47), (100, 256))),
    ('784-1024-1024-1024-47', (lambda: fully_connected(784, 1024, 1024, 1024, 47), (100, 256))),
    ('cnn', (convolutional, (128,))),
    ('leaderboard', (leaderboard, (128,)))])


def random_rows(count):
    """Random images (count, 784) uint8 and labels (count,) int64, the same each time."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, PIXELS), dtype=np.uint8), rng.integers(0, CLASSES, count)


def batches(rows, size):
    """Slices of `size` rows, the last one as small as it falls."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


# The machine ----------------------------------------------------------------------------------------------------------

def optional(name):
    """The module of that name, None where it is not installed; PyTorch is given all cores."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return None
    if name == 'torch':
        module.set_num_threads(CORES)
    return module


def blas_threads_in_force():
    """The number of threads that NumPy's OpenBLAS uses now; None for another BLAS, which network.py cannot set."""
    get_num_threads = network._openblas('get_num_threads')
    return get_num_threads() if get_num_threads else None


def blas_kernels():
    """The processor whose kernels NumPy's OpenBLAS uses, e.g. SkylakeX with AVX-512; None for another BLAS."""
    get_corename = network._openblas('get_corename')
    if not get_corename:
        return None
    get_corename.restype = ctypes.c_char_p
    return get_corename().decode('ascii')


def about():
    """Lines that say which versions, how many threads and which kernels the numbers belong to."""
    torch, sklearn = optional('torch'), optional('sklearn')
    return ['Python %s, NumPy %s, PyTorch %s, scikit-learn %s' % (
                platform.python_version(), np.__version__, torch.__version__ if torch else 'missing',
                sklearn.__version__ if sklearn else 'missing'),
            "%d cores. Threads in force: NumPy's BLAS %s (in cnn 1 for each of our 2 shards), PyTorch %s. "
            "Kernels of NumPy's BLAS: %s" % (
                CORES, blas_threads_in_force() or 'unknown, it is not OpenBLAS',
                torch.get_num_threads() if torch else 'missing', blas_kernels() or 'unknown'),
            'Seconds for an epoch of %d rows, extrapolated from the stated rows: median (least..greatest)' % EPOCH]


def peak_megabytes():
    """The most memory that this process ever held, resource.getrusage's ru_maxrss; None on Windows."""
    resource = optional('resource')
    unit = 1.0 if sys.platform == 'darwin' else 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2 ** 20 if resource else None


def in_fresh_process(function, *arguments):
    """function(*arguments) in a child of a fork server, which is small: our own child would inherit our peak memory."""
    fork_server = 'forkserver' in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context('forkserver' if fork_server else 'spawn')
    if fork_server:
        context.set_forkserver_preload([])
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


# The sides: each is a function(rows) that works through about so many rows and returns how many it did ----------------

def our_training(net, pixels, label, batch):
    rng = np.random.default_rng(0)

    def epoch(rows):
        net.train_epoch(pixels[:rows], label[:rows], batch, LEARNING_RATE, rng, momentum=MOMENTUM)
        return rows
    return epoch


class TorchSide(object):
    """PyTorch's network with the layers and weights of ours, and its SGD. Images are NCHW in channels-last memory."""

    def __init__(self, net):
        self.torch = optional('torch')
        self.model = torch_model(net).to(memory_format=self.torch.channels_last)
        self.optimizer = self.torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def logits(self, pixels):
        return self.model(pixels.float().div_(255))

    def loss(self, pixels, label):
        """Tensors (N, 784) uint8 and (N,) int64 -> the mean cross-entropy, a tensor."""
        return self.torch.nn.functional.cross_entropy(self.logits(pixels), label)

    def step(self, loss):
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def training(self, pixels, label, batch):
        pixels, label = self.torch.from_numpy(pixels), self.torch.from_numpy(label)

        def epoch(rows):
            self.model.train()
            for chosen in self.torch.randperm(rows).split(batch):
                self.step(self.loss(pixels[chosen], label[chosen]))
            return rows
        return epoch

    def prediction(self, pixels):
        pixels = self.torch.from_numpy(pixels)

        def predict(rows):
            self.model.eval()
            with self.torch.inference_mode():
                parts = pixels[:rows].split(PREDICT_BATCH)
                return len(self.torch.cat([self.logits(part).softmax(1) for part in parts]))
        return predict


def torch_model(net):
    """A torch.nn.Sequential of the layers of `net` with copies of its weights, for scaled pixels (N, 784)."""
    torch = optional('torch')
    nn, modules, shape = torch.nn, [], (PIXELS,)
    twins = {FullyConnected: lambda layer: nn.Linear(layer.in_features, layer.out_features),
             Conv2d: lambda layer: nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding='same',
                                                bias=layer.bias is not None),
             BatchNorm: lambda layer: (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(
                 layer.features, eps=layer.eps, momentum=layer.momentum),
             Reshape: lambda layer: nn.Unflatten(1, layer.shape[2:] + layer.shape[:2]),
             Flatten: lambda layer: nn.Flatten(),
             MaxPool2d: lambda layer: nn.MaxPool2d(2, ceil_mode=layer.ceil_mode),
             ReLU: lambda layer: nn.ReLU(inplace=True)}
    for layer in net.layers:
        if type(layer) is PixelScaling:
            continue      # TorchSide.logits scales
        if type(layer) not in twins:
            raise SystemExit("The benchmark stops: it does not know PyTorch's counterpart of %r." % layer)
        modules.append(twins[type(layer)](layer))
        if layer.parameter_names:
            weight = layer.weight[0] if type(layer) is BatchNorm else np.moveaxis(layer.weight, (-1, -2), (0, 1))
            if type(modules[-2:][0]) is nn.Flatten:      # ours flattens (H, W, C), PyTorch (C, H, W)
                weight = weight.reshape((-1,) + images).transpose(0, 3, 1, 2).reshape(weight.shape)
            modules[-1].weight.data = torch.tensor(np.ascontiguousarray(weight))
            if layer.bias is not None:
                modules[-1].bias.data = torch.tensor(layer.bias[0])
        if len(shape) == 3:
            images = shape
        shape = layer.output_shape(shape)
    return nn.Sequential(*modules)


def check_same_loss(net, torch_side, pixels, label):
    """Stop unless our loss of a batch and PyTorch's are the same to 1e-4, before and after each of two steps of SGD.

    With shards PyTorch's is the mean loss of the same parts of the batch, each normalised by itself as ours are.
    """
    from_numpy = torch_side.torch.from_numpy
    parts = list(zip(np.array_split(pixels, net.shards), np.array_split(label, net.shards)))
    for step in range(3):
        _, ours = net.forward(pixels, label)
        net.backward()
        net.update(LEARNING_RATE, momentum=MOMENTUM)
        loss = sum(torch_side.loss(*map(from_numpy, part)) * (len(part[0]) / float(len(pixels))) for part in parts)
        torch_side.step(loss)
        theirs = loss.item()
        if not abs(ours - theirs) <= 1e-4 * abs(theirs):
            raise SystemExit("The benchmark stops: after %d steps of SGD our loss is %.6f and PyTorch's is %.6f, so "
                             'the two do not do the same work.\n%r' % (step, ours, theirs, net))


def sklearn_training(net, pixels, label, batch):
    """A call of partial_fit is one shuffled epoch; its SGD has the same momentum, and with alpha=0 no weight decay."""
    hidden = [layer.out_features for layer in net.layers if isinstance(layer, FullyConnected)][:-1]
    model = importlib.import_module('sklearn.neural_network').MLPClassifier(
        hidden, solver='sgd', alpha=0, batch_size=batch, learning_rate_init=LEARNING_RATE, momentum=MOMENTUM,
        nesterovs_momentum=False, random_state=0)

    def epoch(rows):
        model.partial_fit(pixels[:rows].astype(np.float32) / np.float32(255), label[:rows], classes=np.arange(CLASSES))
        return rows
    return epoch


def matrix_products(net, batch, threads):
    """The bare matrix products of an epoch with so many BLAS threads.

    A layer with weights (..., C, O) has for R rows, or places in images, and t = 1, or k * k places in a kernel

        forward (R, tC) @ (tC, O)      weight gradient (tC, R) @ (R, O)      input gradient (R, tO) @ (tO, C)
    """
    rng, layers, shape = np.random.default_rng(0), [], (PIXELS,)
    for layer in net.layers:
        shape = layer.output_shape(shape)
        if isinstance(layer, (FullyConnected, Conv2d)):
            channels, outputs = layer.weight.shape[-2:]
            taps, places = layer.weight.size // (channels * outputs), int(np.prod(shape[:-1], dtype=int))
            sizes = [(batch * places, taps * channels), (taps * channels, outputs),      # input and weight,
                     (batch * places, outputs), (taps * channels, outputs)]              # output and weight gradient
            if layers:      # before the first nothing is trained
                sizes += [(batch * places, taps * outputs), (taps * outputs, channels), (batch * places, channels)]
            layers.append((places, [rng.random(size, dtype=np.float32) for size in sizes]))

    def epoch(rows):
        with network.blas_threads(threads):
            for part in batches(rows, batch):
                for places, (input, weight, output, weight_grad, *rest) in layers:
                    used = slice((part.stop - part.start) * places)
                    np.matmul(input[used], weight, out=output[used])
                    np.matmul(input[used].T, output[used], out=weight_grad)
                    if rest:
                        delta, turned_weight, input_grad = rest
                        np.matmul(delta[used], turned_weight, out=input_grad[used])
        return rows
    return epoch


# Measuring ------------------------------------------------------------------------------------------------------------

def take_turns(sides, rows, repeats):
    """{name: function} -> {name: seconds a row in each turn}, after a warm-up; functions None are left out."""
    sides = [(name, side) for name, side in sides.items() if side]
    for _, side in sides:
        side(min(rows, 1000))
    times = collections.defaultdict(list)
    for _, (name, side) in itertools.product(range(repeats), sides):
        time.sleep(0.05)      # the threads of the side before stop spinning
        started = time.perf_counter()
        done = side(rows)
        times[name].append((time.perf_counter() - started) / done)
    return times


def make_row(part, measurement, side, rows, times, reference=(), peak=None):
    """The Row of a side from its seconds a row and, for the ratios, those of the first side in the same turns."""
    def spread(values):
        return [float(function(values)) for function in (np.median, np.min, np.max)] if len(values) else [None] * 3

    seconds = spread(np.multiply(times, EPOCH))
    ratios = spread([first / own for first, own in zip(reference, times)])
    return Row(part, measurement, side, rows, *seconds + [EPOCH / seconds[0] if times else None] + ratios + [peak])


def compare(part, measurement, sides, rows, repeats):
    """[(name, function)] -> a Row for each side; the first is what the others are compared with."""
    times = take_turns(collections.OrderedDict(sides), rows, repeats)
    return [make_row(part, measurement, name, rows, times[name], times[sides[0][0]] if index else ())
            for index, (name, _) in enumerate(sides)]


def measure_training(name, rows, repeats):
    """Our epoch beside the others', at each batch size; the products with the number of BLAS threads that is faster."""
    make, batch_sizes = NETS[name]
    for batch in batch_sizes:
        net, (pixels, label) = make(), random_rows(rows)
        sides = [('ours', our_training(net, pixels, label, batch)), ('PyTorch', None)]
        if optional('torch'):
            torch_side = TorchSide(net)
            check_same_loss(net, torch_side, pixels[:batch], label[:batch])
            sides[1] = ('PyTorch', torch_side.training(pixels, label, batch))
        if all(type(layer) in (PixelScaling, FullyConnected, ReLU) for layer in net.layers):
            sides.append(('scikit-learn', optional('sklearn') and sklearn_training(net, pixels, label, batch)))
        sides += [('sgemm, BLAS threads: %s' % (threads or 'unknown'), matrix_products(net, batch, threads))
                  for threads in (sorted({1, CORES}) if blas_threads_in_force() else [None])]
        found = compare(name, '%s, batch %d' % (name, batch), sides, rows, repeats)
        products = [row for row in found if row.side.startswith('sgemm')]
        yield from found[:-len(products)] + [min(products, key=lambda row: row.seconds)]


def measure_csv(rows, repeats):
    """network.read_csv beside the np.loadtxt of the lab's template, which gets a tenth of the rows."""
    pixels, label = random_rows(CSV_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'rows.csv')
        with open(path, 'w') as file:
            file.writelines(','.join(map(str, row)) + '\n' for row in np.column_stack([label, pixels]).tolist())
        return compare('csv', 'read CSV', [
            ('ours', lambda rows: len(network.read_csv(path, 1 + PIXELS))),
            ('np.loadtxt, a tenth', lambda rows: len(np.loadtxt(path, delimiter=',', dtype='int',
                                                                max_rows=rows // 10)))], CSV_ROWS, repeats)


def measure_labels(rows, repeats):
    """The loss, forward and backward in batches of 100, for the two forms of its target."""
    label, loss = random_rows(rows)[1], SoftmaxWithLoss()
    logits = np.random.default_rng(0).standard_normal((rows, CLASSES), dtype=np.float32)

    def handle(target, rows):
        for part in batches(rows, 100):
            loss.forward(logits[part], target[part])
            loss.backward()
        return rows

    one_hot = np.eye(CLASSES, dtype=np.float32)[label]
    return compare('labels', 'loss', [('ours, integer labels', functools.partial(handle, label)),
                                      ('ours, one-hot labels', functools.partial(handle, one_hot))], rows, repeats)


def measure_predict(rows, repeats):
    """Probabilities for rows of pixels, in batches of PREDICT_BATCH on both sides."""
    pixels, _ = random_rows(rows)
    for name in ('default', 'cnn'):
        net = NETS[name][0]()
        yield from compare('predict', 'predict, %s' % name, [
            ('ours', lambda rows: len(net.predict(pixels[:rows], batch_size=PREDICT_BATCH))),
            ('PyTorch', TorchSide(net).prediction(pixels) if optional('torch') else None)], rows, repeats)


def measure_augment(rows, repeats):
    """One pass of random affine and elastic changes over the images, in batches of 100."""
    images = PixelScaling().forward(random_rows(rows)[0])
    augment = Augment(rotation=10, scale=0.1, shear=0.1, shift=2, elastic=1, rng=np.random.default_rng(0))
    return compare('augment', 'augment', [
        ('ours', lambda rows: sum(len(augment.forward(images[part])) for part in batches(rows, 100)))], rows, repeats)


def train_epochs(side, rows, epochs):
    """Train the default network -> [(seconds a row, peak MB of this process so far)] of each epoch."""
    net, (pixels, label), results = NETS['default'][0](), random_rows(rows), []
    epoch = (our_training(net, pixels, label, 100) if side == 'ours' else TorchSide(net).training(pixels, label, 100))
    with network.blas_threads(CORES):
        for _ in range(epochs):
            started = time.perf_counter()
            epoch(rows)
            results.append(((time.perf_counter() - started) / rows, peak_megabytes()))
    return results


def measure_memory(rows, repeats):
    """Peak memory of a fresh process, with all it imports, that has trained the default network for three epochs."""
    for side in ('ours', 'PyTorch'):
        results = in_fresh_process(train_epochs, side, rows, 3) if side == 'ours' or optional('torch') else []
        yield make_row('memory', 'peak memory, default', side, rows, [seconds for seconds, _ in results],
                       peak=results[-1][1] if results else None)


def measure_scaling(rows, repeats):
    """Our time for one epoch of more and more rows; then time and peak memory of a training, epoch after epoch."""
    epoch = our_training(NETS['default'][0](), *random_rows(max(SCALING_ROWS)), batch=100)
    times = take_turns({count: lambda _, count=count: epoch(count) for count in SCALING_ROWS}, rows, repeats)
    for count in SCALING_ROWS:
        yield make_row('scaling', 'one epoch, default', 'ours', count, times[count])
    for number, (seconds, peak) in enumerate(in_fresh_process(train_epochs, 'ours', EPOCH_ROWS, EPOCHS), 1):
        yield make_row('scaling', 'epoch %d of %d, default' % (number, EPOCHS), 'ours', EPOCH_ROWS, [seconds],
                       peak=peak)


# name: function(rows, repeats) that yields Rows
PARTS = collections.OrderedDict([(name, functools.partial(measure_training, name)) for name in NETS] + [
    ('csv', measure_csv), ('labels', measure_labels), ('predict', measure_predict), ('augment', measure_augment),
    ('memory', measure_memory), ('scaling', measure_scaling)])


# Table and figure -----------------------------------------------------------------------------------------------------

LINE = '%-32s %-22s %7s  %9s %-18s %9s  %9s %-14s %8s'
HEADER = LINE % ('measurement', 'side', 'rows', 'seconds', '(least..greatest)', 'rows/s', 'ours / it', '', 'peak MB')


def table_line(row):
    """A Row as a line of the printed table."""
    def text(form, *values):
        return form % values if None not in values else ''

    return (LINE % (row.measurement, row.side, row.rows, text('%.2f', row.seconds) or 'missing',
                    text('(%.2f..%.2f)', row.seconds_least, row.seconds_greatest), text('%.0f', row.rows_per_second),
                    text('%.2f', row.ratio), text('(%.2f..%.2f)', row.ratio_least, row.ratio_greatest),
                    text('%.0f', row.peak_MB))).rstrip()


def write_csv(path, lines, rows):
    """The rows as CSV below `lines` as comments."""
    with open(path, 'w') as file:
        file.write(''.join('# %s\n' % line for line in lines))
        pd.DataFrame(rows, columns=Row._fields).to_csv(file, index=False, float_format='%.6g')


def draw(path, lines, rows):
    """Two panels: our time relative to PyTorch's, and our time and memory as the rows grow in number."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    figure, panels = plt.subplots(1, 2, figsize=(13, 5.2))
    for axes, title, draw_panel, shown in zip(
            panels, ("Our time / PyTorch's: below 1 ours is faster", 'Default network: time and memory against rows'),
            (draw_ratios, draw_scaling), ([row for row in rows if row.side == 'PyTorch' and row.ratio],
                                          [row for row in rows if row.part == 'scaling'])):
        axes.set_title(title)
        if shown:
            draw_panel(axes, shown)
        else:
            axes.text(0.5, 0.5, 'not measured', ha='center')
            axes.axis('off')
    figure.text(0.01, 0.01, '\n'.join(lines[:2]), fontsize=8, color='0.35')
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_ratios(axes, rows):
    """A bar for each comparison: the median ratio, and a line from the least to the greatest."""
    ratios, least, greatest = np.array([[row.ratio, row.ratio_least, row.ratio_greatest] for row in rows]).T
    axes.barh([row.measurement for row in rows], ratios, xerr=[ratios - least, greatest - ratios], height=0.6,
              color=BLUE, ecolor='black', capsize=3)
    for place, ratio in enumerate(ratios):
        axes.text(0.98, place, '%.2f' % ratio, ha='right', va='center', transform=axes.get_yaxis_transform())
    axes.axvline(1, color=VERMILION, linestyle='--')
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(1, greatest.max()))      # with room for the numbers
    axes.set_xlabel('ratio, median and spread (dashed: PyTorch)')


def draw_scaling(axes, rows):
    """Microseconds a row against the rows trained; on the right axis the peak memory of the training that goes on."""
    single = [row for row in rows if row.measurement.startswith('one epoch')]
    going_on = [row for row in rows if row not in single]
    trained = np.cumsum([row.rows for row in going_on])
    median, least, greatest = 1e6 / EPOCH * np.array([[row.seconds, row.seconds_least, row.seconds_greatest]
                                                      for row in single]).T
    memory = axes.twinx()
    lines = [axes.errorbar([row.rows for row in single], median, [median - least, greatest - median], color=BLUE,
                           marker='o', capsize=3, label='time: one epoch of so many rows'),
             axes.plot(trained, [1e6 / EPOCH * row.seconds for row in going_on], color=VERMILION, marker='s',
                       linestyle='--', label='time: epoch after epoch of %d rows' % going_on[0].rows)[0],
             memory.plot(trained, np.array([row.peak_MB for row in going_on], float), color=GREEN, marker='^',
                         linestyle=':', label='peak memory, epoch after epoch (right axis)')[0]]
    axes.set_xscale('log')
    axes.set(xlabel='rows trained', ylabel='microseconds a row', ylim=(0, 1.5 * axes.get_ylim()[1]))
    memory.set_ylabel('peak memory, MB', color=GREEN)
    memory.tick_params(axis='y', colors=GREEN)
    memory.set_ylim(0, 3 * memory.get_ylim()[1])      # below the times
    axes.legend(handles=lines, loc='upper left', frameon=False, fontsize=9)


def main(arguments=None):
    parser = argparse.ArgumentParser(description='Time the framework beside PyTorch, scikit-learn and bare products.')
    parser.add_argument('--rows', type=int, default=6000, help='rows of an epoch that is timed (default: %(default)s)')
    parser.add_argument('--full', action='store_true', help='whole epochs: --rows %d' % EPOCH)
    parser.add_argument('--repeats', type=int, default=5, help='turns of the sides (default: %(default)s)')
    parser.add_argument('--only', nargs='+', choices=list(PARTS), metavar='NAME', help='of ' + ', '.join(PARTS))
    parser.add_argument('--csv', help='where the table goes (default: report/benchmark.csv; with --only: nowhere)')
    parser.add_argument('--figure', help='where the figure goes (default: report/benchmark.png; with --only: nowhere)')
    options = parser.parse_args(arguments)
    if options.rows < 256 or options.repeats < 1:
        parser.error('--rows must be 256 or more, a whole batch, and --repeats 1 or more')
    results = []
    with network.blas_threads(CORES):
        lines = about()
        print('\n'.join(lines + ['', HEADER]))
        for name in options.only or PARTS:
            for row in PARTS[name](EPOCH if options.full else options.rows, options.repeats):
                results.append(row)
                print(table_line(row), flush=True)
    for path, default, write in ((options.csv, 'benchmark.csv', write_csv), (options.figure, 'benchmark.png', draw)):
        if path is None and not options.only:      # a part does not take the place of the whole
            os.makedirs(os.path.join(HOME, 'report'), exist_ok=True)
            path = os.path.join(HOME, 'report', default)
        if path:
            write(path, lines, results)


if __name__ == '__main__':
    main()
