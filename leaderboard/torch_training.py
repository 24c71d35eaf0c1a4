"""PyTorch's side of a comparison: a network with our layers and weights, and our training of it.

    training = TorchTraining(net, train, validation, **settings)      # as network.Training
    training.run()
    probability = training.net.predict_augmented(pixels, copies=8)

The weights at the start, the order of the rows, the rates, the averages and the choice of the best
epoch are the same. PyTorch computes in eager mode, images channels-last, float32, with its own
random numbers for dropout. NumPy draws the places of an augmentation, and that counts as PyTorch's
time. BatchNorm takes the statistics of the whole batch; ParallelNetwork takes those of each part.
"""
import copy
import os

import numpy as np

try:
    import torch
    from torch import nn
except ImportError:
    torch = None

import layer
from layer import (Augment, BatchNorm, Dropout, Flatten, FullyConnected, MaxPool2d, PixelScaling,
                   ReLU, Reshape)
from network import Training, batches, score

PREDICT_BATCH = 256


def torch_model(net):
    """A torch.nn.Sequential of the layers of `net`, with copies of its weights."""
    modules = []
    image_shape = None
    shape = net.input_shape
    for each, output_shape in zip(net.layers, net.shapes()):
        if type(each) not in (PixelScaling, Augment):      # these two are not part of the model
            modules.append(torch_layer(each, shape, image_shape))
        if type(each) in (Flatten, FullyConnected):
            image_shape = shape if type(each) is Flatten else None
        shape = output_shape
    return nn.Sequential(*modules)


def torch_layer(each, shape, image_shape):
    """PyTorch's counterpart of a layer for an input of that shape.

    `image_shape` (H, W, C) is that of the images which were flattened just before.
    """
    simple = {ReLU: lambda: nn.ReLU(inplace=True), Flatten: nn.Flatten,
              MaxPool2d: lambda: nn.MaxPool2d(2, ceil_mode=True),
              Dropout: lambda: nn.Dropout(each.p),
              Reshape: lambda: nn.Unflatten(1, (each.shape[2],) + each.shape[:2])}
    if type(each) in simple:
        return simple[type(each)]()
    if type(each) is BatchNorm:
        kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
        module = kind(each.features, eps=each.eps, momentum=each.momentum)
        weight = each.weight[0]
    elif isinstance(each, layer.Conv2d):
        module = nn.Conv2d(each.in_channels, each.out_channels, each.kernel_size, padding='same',
                           bias=each.bias is not None)
        weight = each.weight.transpose(3, 2, 0, 1)
    elif type(each) is FullyConnected:
        module = nn.Linear(each.in_features, each.out_features)
        weight = each.weight.T
        if image_shape:      # ours flattens (H, W, C), PyTorch (C, H, W)
            weight = weight.reshape((-1,) + image_shape).transpose(0, 3, 1, 2)
            weight = weight.reshape(each.out_features, each.in_features)
    else:
        raise SystemExit(f'no layer of PyTorch is known for {each!r}')
    module.weight.data = torch.tensor(np.array(weight))
    if each.bias is not None:
        module.bias.data = torch.tensor(each.bias[0])
    return module.to(module.weight.dtype)


class TorchNetwork(object):
    """The model of a network's layers, and what PixelScaling and Augment do before it."""

    def __init__(self, net):
        self.model = torch_model(net).to(memory_format=torch.channels_last)
        self.layers = net.layers
        augments = [each for each in net.layers if isinstance(each, Augment)]
        self.augment = augments[0] if augments else None

    def images(self, pixels, augment=None):
        """Rows of pixels 0..255 -> scaled rows (N, 784). An Augment draws where they are read."""
        images = pixels.float().div_(255)
        if augment is None:
            return images
        size = 28
        places = torch.from_numpy(augment.random_places(len(images), size))      # y and x
        grid = places.flip(0) * (2 / (size - 1)) - 1                             # x and y, -1..1
        grid = grid.permute(1, 2, 0).reshape(-1, size, size, 2)
        images = images.reshape(-1, 1, size, size)
        images = nn.functional.grid_sample(images, grid, padding_mode='border', align_corners=True)
        return images.reshape(-1, size * size)

    def predict(self, pixels, augment=None):
        """Rows (N, 784) -> probabilities (N, K), in evaluation mode."""
        self.model.eval()
        parts = []
        with torch.inference_mode():
            for part in torch.from_numpy(pixels).split(PREDICT_BATCH):
                logits = self.model(self.images(part, augment))
                parts.append(logits.softmax(1).numpy())
        return np.concatenate(parts)

    def predict_augmented(self, pixels, copies=8):
        """Test-time augmentation: the mean over the rows and `copies` - 1 augmented copies."""
        total = self.predict(pixels)
        if self.augment is None:
            return total
        for number in range(1, copies):
            self.augment.rng = np.random.default_rng([number])
            total += self.predict(pixels, self.augment)
        return total / copies


class TorchTraining(Training):
    """network.Training by PyTorch: the same arguments, rates and choice of the best epoch."""

    def __init__(self, net, train, validation, epochs, batch_size, lr, schedule=None, seed=0,
                 ema_decay=0.0, **sgd):
        super().__init__(net, train, validation, epochs, batch_size, lr, schedule, seed, ema_decay)
        torch.set_num_threads(os.cpu_count() or 1)
        self.net = TorchNetwork(net)
        self.average = copy.deepcopy(self.net)
        self.weights = floats(self.net.model)      # the tensors themselves, no copies
        self.averages = floats(self.average.model)
        self.loss = nn.CrossEntropyLoss(label_smoothing=net.loss.label_smoothing)
        self.optimizer = make_optimizer(self.net.model, lr, **sgd)

    def run(self, verbose=True):
        """Train all epochs. `net` is then that of the best one."""
        while len(self.history) < self.epochs:
            self.run_epoch()
            if verbose:
                accuracy = self.history[-1]['validation']['balanced_accuracy']
                print(f'epoch {len(self.history)}: {accuracy:.2f} %', flush=True)
        self.net = self.best

    def run_epoch(self):
        """Train one epoch, validate, and keep a copy of the average if it is the best so far."""
        epoch = len(self.history) + 1
        torch.manual_seed(1000 * self.seed + epoch)
        if self.net.augment:
            self.net.augment.rng = np.random.default_rng([self.seed, epoch])
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train[0]))
        self.train_rows(order, None)
        if not self.ema_decay:
            self.move_average(1)
        predicted = self.average.predict(self.validation[0]).argmax(axis=1)
        validated = score(predicted, self.validation[1])._asdict()
        if self.is_best(validated):
            self.best = copy.deepcopy(self.average)
        self.history.append({'validation': validated})

    def train_rows(self, order, on_batch):
        """Take a step for each batch of rows in `order`. `on_batch` is not used."""
        pixels, label = self.tensors(self.train)
        self.net.model.train()
        done = 0
        for rows in batches(order, self.batch_size):
            done_in_all = (len(self.history) + done / len(order)) / self.epochs
            self.step(pixels[rows], label[rows], self.lr * self.schedule(done_in_all))
            done += len(rows)

    @staticmethod
    def tensors(pair):
        """Arrays (pixels, labels) -> tensors in the same memory."""
        return [torch.from_numpy(array) for array in pair]

    def step(self, pixels, label, rate):
        """One step of SGD, and of the moving average -> the loss before it, a tensor."""
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        images = self.net.images(pixels, self.net.augment)
        loss = self.loss(self.net.model(images), label)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        if self.ema_decay:
            self.move_average(1 - min(self.ema_decay, self.steps / (self.steps + 10)))
        return loss.detach()

    def move_average(self, share):
        """Move the average of the weights towards the present ones by this share of the way."""
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.weights, share)


def make_optimizer(model, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    """torch.optim.SGD. As in ours, only the weights of convolutions and linear layers decay."""
    decayed = [each.weight for each in model if isinstance(each, (nn.Conv2d, nn.Linear))]
    others = [each for each in model.parameters() if not any(each is other for other in decayed)]
    groups = [{'params': decayed, 'weight_decay': weight_decay}, {'params': others}]
    return torch.optim.SGD(groups, lr, momentum, nesterov=nesterov)


def floats(model):
    """The parameters and the running statistics of a model, as a list of tensors."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
