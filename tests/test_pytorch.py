"""The same numbers as PyTorch, in float64: layers, losses, and steps of SGD of whole networks.

PyTorch has the channels before height and width, and it keeps the weights of a linear layer
transposed. `tensor`, `array` and `layout` convert. Dropout is left out: its random numbers cannot
be the same.
"""
import copy

import numpy as np
import pytest

from gradient_check import compare
from layer import (Augment, BatchNorm, Conv2d, Flatten, FullyConnected, LeakyReLU, MaxPool2d, ReLU,
                   Reshape, Sigmoid, SoftmaxWithLoss, SquaredError, Tanh)
from network import Network
from small_networks import normal

torch = pytest.importorskip('torch', reason='PyTorch is not installed: nothing to compare with')
SAME = 1e-9     # the greatest relative error


def tensor(array):
    """An array as PyTorch has it: (N, H, W, C) -> (N, C, H, W)."""
    return torch.tensor(array.transpose(0, 3, 1, 2) if array.ndim == 4 else array)


def array(tensor):
    """A tensor of PyTorch as we have it: (N, C, H, W) -> (N, H, W, C)."""
    numbers = tensor.detach().numpy()
    return numbers.transpose(0, 2, 3, 1) if numbers.ndim == 4 else numbers


def layout(layer, name, values):
    """A parameter, its gradient or a running statistic as PyTorch's module has it."""
    if isinstance(layer, FullyConnected) and name == 'weight':
        return values.T
    if isinstance(layer, Conv2d) and name == 'weight':
        return values.transpose(3, 2, 0, 1)
    return values.ravel()


class Permuted(torch.nn.Module):
    """Flatten and Reshape in our order of the axes."""

    def __init__(self, shape=None):
        super().__init__()
        self.shape = shape

    def forward(self, input):
        if self.shape is not None:
            return input.reshape((-1,) + self.shape).permute(0, 3, 1, 2)
        return input.permute(0, 2, 3, 1).flatten(1)


def module_of(layer, images):
    """PyTorch's module with the parameters and statistics of `layer`; images: for (N, H, W, C)."""
    batch_norm = torch.nn.BatchNorm2d if images else torch.nn.BatchNorm1d
    modules = {
        FullyConnected: lambda: torch.nn.Linear(layer.in_features, layer.out_features),
        Conv2d: lambda: torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size,
                                        padding='same', bias=layer.bias is not None),
        BatchNorm: lambda: batch_norm(layer.features, eps=layer.eps, momentum=layer.momentum),
        MaxPool2d: lambda: torch.nn.MaxPool2d(2, ceil_mode=True),
        ReLU: torch.nn.ReLU,
        Sigmoid: torch.nn.Sigmoid,
        Tanh: torch.nn.Tanh,
        LeakyReLU: lambda: torch.nn.LeakyReLU(layer.slope),
        Flatten: Permuted,
        Reshape: lambda: Permuted(layer.shape),
    }
    module = modules[type(layer)]().double()
    with torch.no_grad():
        for name in layer.parameter_names + layer.state_names:
            values = np.array(layout(layer, name, getattr(layer, name)))
            getattr(module, name).copy_(torch.tensor(values))
    return module


def randomised(layer):
    """The layer in float64, with parameters that are not those of a new one."""
    for name in layer.state_names:
        setattr(layer, name, getattr(layer, name).astype(np.float64))
    for seed, name in enumerate(layer.parameter_names, 10):
        setattr(layer, name, normal(*getattr(layer, name).shape, seed=seed))
    return layer


LAYERS = [     # the layer, and the shape of its input
    (FullyConnected(5, 3), (4, 5)), (FullyConnected(1, 7), (1, 1)),
    (ReLU(), (4, 5)), (LeakyReLU(), (4, 5)), (LeakyReLU(0.2), (4, 5)), (Sigmoid(), (4, 5)),
    (Tanh(), (2, 3, 3, 2)), (Flatten(), (2, 3, 4, 2)), (Reshape(2, 3, 2), (4, 12)),
    (BatchNorm(3), (6, 3)), (BatchNorm(3), (2, 4, 5, 3)),
    (Conv2d(3, 2, 1), (2, 4, 5, 3)), (Conv2d(3, 4, 3), (2, 5, 4, 3)),
    (Conv2d(1, 2, 5), (3, 7, 6, 1)), (Conv2d(2, 3, 7), (1, 4, 9, 2)),
    (Conv2d(2, 3, 3), (1, 1, 2, 2)), (Conv2d(2, 3, bias=False), (2, 3, 3, 2)),
    (MaxPool2d(), (2, 4, 6, 3)), (MaxPool2d(), (2, 5, 7, 3)), (MaxPool2d(), (1, 2, 3, 1)),
    (MaxPool2d(), (2, 1, 1, 2))]
IDS = [f'{layer!r} {shape}' for layer, shape in LAYERS]


@pytest.mark.parametrize('layer, shape', LAYERS, ids=IDS)
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_layer(layer, shape, training):
    """Three steps, so that the running statistics have a history.

    The input of the last step has equal numbers and zeros. Not for pooling: of several greatest
    pixels, PyTorch may give the gradient to another one.
    """
    layer = randomised(copy.deepcopy(layer))
    module = module_of(layer, images=len(shape) == 4)
    for step in range(3):
        layer.training = training or step == 0
        module.train(layer.training)
        input = normal(*shape, seed=step)
        if step == 2 and not isinstance(layer, MaxPool2d):
            input = np.round(input) + 0.0      # + 0.0 turns -0.0 into 0.0
        torch_input = tensor(input).requires_grad_()
        output = layer.forward(input)
        torch_output = module(torch_input)
        output_grad = normal(*output.shape, seed=step + 5)
        torch_output.backward(tensor(output_grad))
        compare(f'{layer!r}: output', output, array(torch_output), SAME)
        input_grad = layer.backward(output_grad)
        compare(f'{layer!r}: input_grad', input_grad, array(torch_input.grad), SAME)
        for name in layer.parameter_names:
            gradient = layout(layer, name, getattr(layer, name + '_grad'))
            expected = getattr(module, name).grad.numpy()
            compare(f'{layer!r}: {name}_grad', gradient, expected, SAME)
        for name in layer.state_names:
            state = layout(layer, name, getattr(layer, name))
            compare(f'{layer!r}: {name}', state, getattr(module, name).numpy(), SAME)
        module.zero_grad()


@pytest.mark.parametrize('smoothing', [0, 0.1, 0.5])
@pytest.mark.parametrize('scale', [1, 50])
@pytest.mark.parametrize('mixed', [False, True], ids=['labels', 'mixed targets'])
def test_softmax_with_loss(smoothing, scale, mixed):
    logits = normal(6, 47) * scale
    target = np.arange(6) * 9
    if mixed:
        target = 0.7 * np.eye(47)[target] + 0.3 * np.eye(47)[target[::-1]]
    torch_logits = torch.tensor(logits, requires_grad=True)
    torch_loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(
        torch_logits, torch.tensor(target))
    torch_loss.backward()
    loss = SoftmaxWithLoss(smoothing)
    predict, value = loss.forward(logits, target)
    compare('loss', value, torch_loss.item(), SAME)
    compare('predict', predict, torch_logits.softmax(1).detach().numpy(), SAME)
    compare('input_grad', loss.backward(), torch_logits.grad.numpy(), SAME)


@pytest.mark.parametrize('target', [np.eye(5)[np.arange(6) % 5], 9 * normal(6, 5, seed=2)],
                         ids=['one-hot', 'real numbers'])
def test_squared_error(target):
    output = normal(6, 5)
    torch_output = torch.tensor(output, requires_grad=True)
    torch_loss = ((torch_output - torch.tensor(target)) ** 2).sum(1).mean() / 2
    torch_loss.backward()
    loss = SquaredError()
    compare('loss', loss.forward(output, target)[1], torch_loss.item(), SAME)
    compare('input_grad', loss.backward(), torch_output.grad.numpy(), SAME)


@pytest.mark.parametrize('size', [8, 9])
def test_augment_reads_its_places_as_grid_sample_does(size):
    layer = Augment(25, 0.2, 0.2, 2, 0.5, np.random.default_rng(3))
    image = normal(4, size, size, 1)
    y, x = np.clip(layer.random_places(4, size), 0, size - 1.001)
    grid = np.stack([x, y], axis=-1).reshape(4, size, size, 2) * 2 / (size - 1) - 1
    expected = torch.nn.functional.grid_sample(tensor(image), torch.tensor(grid).double(),
                                               align_corners=True)
    layer.rng = np.random.default_rng(3)      # the same places once more
    compare('output', layer.forward(image), array(expected), 1e-4)      # the places are float32


def mlp():
    return [FullyConnected(6, 9), BatchNorm(9), ReLU(), FullyConnected(9, 8), Tanh(),
            FullyConnected(8, 4)]


def cnn():
    return [FullyConnected(6, 50), Reshape(5, 5, 2), Conv2d(2, 4, 3), BatchNorm(4), ReLU(),
            Conv2d(4, 3, 1, bias=False), LeakyReLU(0.1), MaxPool2d(), Flatten(),
            FullyConnected(27, 4)]


def torch_optimizer(net, modules, settings):
    """torch.optim.SGD with weight decay for the weights that we decay, and for no others."""
    decay = settings.get('weight_decay', 0)
    groups = []
    for layer, module in zip(net.layers, modules):
        for name in layer.parameter_names:
            decayed = name == 'weight' and isinstance(layer, (FullyConnected, Conv2d))
            groups.append({'params': [getattr(module, name)],
                           'weight_decay': decay if decayed else 0})
    return torch.optim.SGD(groups, lr=0.1, **dict(settings, weight_decay=0))


@pytest.mark.parametrize('layers', [mlp, cnn])
@pytest.mark.parametrize('settings', [
    {}, {'momentum': 0.9}, {'momentum': 0.9, 'nesterov': True}, {'weight_decay': 0.1},
    {'momentum': 0.9, 'weight_decay': 0.1},
    {'momentum': 0.8, 'nesterov': True, 'weight_decay': 0.1}], ids=repr)
def test_three_steps_of_sgd(layers, settings):
    net = Network([randomised(layer) for layer in layers()], SoftmaxWithLoss(0.1))
    model = torch.nn.Sequential(*[module_of(layer, layers is cnn) for layer in net.layers])
    optimizer = torch_optimizer(net, model, settings)
    torch_loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    for step in range(3):
        input = normal(10, 6, seed=step)
        label = np.arange(10) % 4
        torch_loss = torch_loss_of(model(torch.tensor(input)), torch.tensor(label))
        optimizer.zero_grad()
        torch_loss.backward()
        optimizer.step()
        predict, loss = net.forward(input, label)
        net.backward()
        net.update(0.1, **settings)
        compare(f'step {step}: loss', loss, torch_loss.item(), SAME)
        for index, (layer, module) in enumerate(zip(net.layers, model)):
            for name in layer.parameter_names + layer.state_names:
                compare(f'step {step}, layer {index}, {layer!r}: {name}',
                        layout(layer, name, getattr(layer, name)),
                        getattr(module, name).detach().numpy(), SAME)
    model.eval()
    expected = model(torch.tensor(normal(7, 6))).softmax(1).detach().numpy()
    compare('predict', net.predict(normal(7, 6)), expected, SAME)
