"""PyTorch's side of a comparison: a Network with our layers and weights that PyTorch computes.

    training = network.Training(TorchNetwork(net), train, validation, **settings)
    training.run()
    probability = training.net.predict_augmented(pixels, copies=8)

The weights at the start, the order of the rows, the rates, the averages and the choice of the best
epoch are ours. PyTorch computes in eager mode, images channels-last, float32, with its own random
numbers for dropout. NumPy draws the places of an augmentation and averages the weights, and that
counts as PyTorch's time. BatchNorm takes the statistics of the whole batch; ParallelNetwork takes
those of each part.
"""
import os

import numpy as np

try:
    import torch
    from torch import nn
except ImportError:
    torch = None

import layer
from layer import (Augment, BatchNorm, Crop, Dropout, Flatten, FullyConnected, MaxPool2d,
                   PixelScaling, ReLU, Reshape)
from network import Network


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
              Dropout: lambda: nn.Dropout(each.p), Crop: lambda: nn.ZeroPad2d(-each.border),
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


class TorchNetwork(Network):
    """The network `net`, computed by PyTorch. It starts with copies of the weights of `net`."""

    def __init__(self, net):
        super().__init__(net.layers, net.loss, input_shape=net.input_shape)
        torch.set_num_threads(os.cpu_count() or 1)
        self.model = torch_model(net).to(memory_format=torch.channels_last)
        self.torch_loss = nn.CrossEntropyLoss(label_smoothing=net.loss.label_smoothing)
        self.optimizer = None

    def logits(self, pixels):
        """Rows (N, 784) -> a tensor (N, K), in the mode of the layers."""
        images = self.images(torch.from_numpy(pixels))
        return self.model.train(self.layers[-1].training)(images)

    def images(self, pixels):
        """Rows of pixels 0..255 -> scaled rows (N, 784), augmented if that layer is in training."""
        images = pixels.float().div_(255)
        size = 28
        for augment in self.layers:
            if isinstance(augment, Augment) and augment.training:
                places = torch.from_numpy(augment.random_places(len(images), size))      # y and x
                grid = places.flip(0) * (2 / (size - 1)) - 1                 # x and y, -1..1
                grid = grid.permute(1, 2, 0).reshape(-1, size, size, 2)
                images = nn.functional.grid_sample(images.reshape(-1, 1, size, size), grid,
                                                   padding_mode='border', align_corners=True)
        return images.reshape(-1, size * size)

    def forward(self, input, target):
        logits = self.logits(input)
        self.mean_loss = self.torch_loss(logits, torch.from_numpy(target))
        return logits.detach().numpy(), self.mean_loss.item()

    def backward(self):
        self.model.zero_grad(set_to_none=True)
        self.mean_loss.backward()

    def update(self, lr, **sgd):
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.model, lr, **sgd)
        for group in self.optimizer.param_groups:
            group['lr'] = lr
        self.optimizer.step()

    def arrays(self):
        """{name: array} of the weights and the running statistics, in the memory of PyTorch."""
        return {name: tensor.numpy() for name, tensor in self.model.state_dict().items()
                if tensor.is_floating_point()}

    def predict_batch(self, input):
        with torch.inference_mode():
            return self.logits(input).softmax(1).numpy()

    def reseed(self, seed):
        super().reseed(seed)
        torch.manual_seed(1000 * seed[0] + seed[-1])


def make_optimizer(model, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    """torch.optim.SGD. As in ours, only the weights of convolutions and linear layers decay."""
    decayed = [each.weight for each in model if isinstance(each, (nn.Conv2d, nn.Linear))]
    others = [each for each in model.parameters() if not any(each is other for other in decayed)]
    groups = [{'params': decayed, 'weight_decay': weight_decay}, {'params': others}]
    return torch.optim.SGD(groups, lr, momentum, nesterov=nesterov)
