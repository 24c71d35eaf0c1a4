"""The same numbers as PyTorch, in float64: layers, losses, and training steps of whole networks.

PyTorch stands channels before height and width, and keeps the weights of a linear layer transposed; `tensor` and
`layout` translate. Left out: Dropout, whose random numbers cannot be the same.
"""
import numpy as np
import pytest

from gradient_check import compare
from layer import (Augment, BatchNorm, Conv2d, Flatten, FullyConnected, LeakyReLU, MaxPool2d, ReLU, Reshape, Sigmoid,
                   SoftmaxWithLoss, SquaredError, Tanh, _random_places)
from network import Network

torch = pytest.importorskip('torch', reason='PyTorch is not installed: nothing to compare with')
SAME = 1e-9     # relative


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def tensor(array):
    """As PyTorch has it: (N, H, W, C) -> (N, C, H, W)."""
    return torch.tensor(array.transpose(0, 3, 1, 2) if array.ndim == 4 else array)


def array(tensor):
    """And back again."""
    numbers = tensor.detach().numpy()
    return numbers.transpose(0, 2, 3, 1) if numbers.ndim == 4 else numbers


def layout(layer, name, values):
    """A parameter, its gradient or a statistic as PyTorch's module of that layer has it."""
    if name.startswith('weight') and not isinstance(layer, BatchNorm):
        return values.T if isinstance(layer, FullyConnected) else values.transpose(3, 2, 0, 1)
    return values.ravel()


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def module_of(layer, images=False):
    """PyTorch's module for a layer, with the same parameters and statistics; images: for (N, H, W, C) inputs."""
    module = {
        FullyConnected: lambda: torch.nn.Linear(layer.in_features, layer.out_features),
        Conv2d: lambda: torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding='same'),
        BatchNorm: lambda: (torch.nn.BatchNorm2d if images else torch.nn.BatchNorm1d)(
            layer.features, eps=layer.eps, momentum=layer.momentum),
        MaxPool2d: lambda: torch.nn.MaxPool2d(2, ceil_mode=layer.ceil_mode),
        ReLU: torch.nn.ReLU, Sigmoid: torch.nn.Sigmoid, Tanh: torch.nn.Tanh,
        LeakyReLU: lambda: torch.nn.LeakyReLU(layer.slope),
        Flatten: lambda: Function(lambda input: input.permute(0, 2, 3, 1).flatten(1) if images else input.flatten(1)),
        Reshape: lambda: Function(lambda input: input.reshape((-1,) + layer.shape).permute(0, 3, 1, 2)),
    }[type(layer)]().double()
    with torch.no_grad():
        for name in layer.parameter_names + layer.state_names:
            getattr(module, name).copy_(torch.tensor(layout(layer, name, getattr(layer, name)).copy()))
    return module


def randomised(layer):
    """The layer in float64 with other parameters than a new one's."""
    layer.astype(np.float64)
    for seed, name in enumerate(layer.parameter_names):
        setattr(layer, name, normal(*getattr(layer, name).shape, seed=seed + 10))
    return layer


LAYERS = [
    (lambda: FullyConnected(5, 3), (4, 5)), (lambda: FullyConnected(1, 7), (1, 1)),
    (ReLU, (4, 5)), (lambda: LeakyReLU(0.2), (4, 5)), (Sigmoid, (4, 5)), (Tanh, (2, 3, 3, 2)), (Flatten, (2, 3, 4, 2)),
    (lambda: Reshape(2, 3, 2), (4, 12)), (lambda: BatchNorm(3), (6, 3)),
    (lambda: BatchNorm(3, 0.3, 1e-3), (2, 4, 5, 3)),
    (lambda: Conv2d(3, 2, 1), (2, 4, 5, 3)), (lambda: Conv2d(3, 4, 3), (2, 5, 4, 3)),
    (lambda: Conv2d(1, 2, 5), (3, 7, 6, 1)), (lambda: Conv2d(2, 3, 3), (1, 1, 2, 2)),
    (MaxPool2d, (2, 4, 6, 3)), (MaxPool2d, (2, 5, 7, 3)), (MaxPool2d, (1, 2, 3, 1)),
    (lambda: MaxPool2d(ceil_mode=True), (2, 4, 6, 3)), (lambda: MaxPool2d(ceil_mode=True), (2, 5, 7, 3))]


@pytest.mark.parametrize('make, shape', LAYERS, ids=['%r %s' % (make(), shape) for make, shape in LAYERS])
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_layer(make, shape, training):
    """Three forwards and backwards, so that running statistics have a history; an input with ties, too.

    Not for pooling: among several greatest values of a square, PyTorch may choose another one for the gradient."""
    layer = randomised(make())
    module = module_of(layer, images=len(shape) == 4)
    for step in range(3):
        layer.training = training or step == 0
        module.train(layer.training)
        input = normal(*shape, seed=step)
        if step == 2 and not isinstance(layer, MaxPool2d):
            input = np.round(input) + 0.0
        torch_input = tensor(input).requires_grad_()
        output, torch_output = layer.forward(input), module(torch_input)
        output_grad = normal(*output.shape, seed=step + 5)
        torch_output.backward(tensor(output_grad))
        compare('%r: output' % layer, output, array(torch_output), SAME)
        compare('%r: input_grad' % layer, layer.backward(output_grad), array(torch_input.grad), SAME)
        for name in layer.parameter_names:
            compare('%r: %s_grad' % (layer, name), layout(layer, name, getattr(layer, name + '_grad')),
                    getattr(module, name).grad.numpy(), SAME)
        for name in layer.state_names:
            compare('%r: %s' % (layer, name), layout(layer, name, getattr(layer, name)),
                    getattr(module, name).numpy(), SAME)
        module.zero_grad()


@pytest.mark.parametrize('smoothing', [0, 0.1, 0.5])
@pytest.mark.parametrize('scale', [1, 50])
@pytest.mark.parametrize('mixed', [False, True], ids=['labels', 'mixed targets'])
def test_softmax_with_loss(smoothing, scale, mixed):
    logits, target = normal(6, 47) * scale, np.arange(6) * 9
    if mixed:
        target = 0.7 * np.eye(47)[target] + 0.3 * np.eye(47)[target[::-1]]
    loss, torch_logits = SoftmaxWithLoss(smoothing), torch.tensor(logits, requires_grad=True)
    torch_loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(torch_logits, torch.tensor(target))
    torch_loss.backward()
    predict, value = loss.forward(logits, target)
    compare('loss', value, torch_loss.item(), SAME)
    compare('predict', predict, torch_logits.softmax(1).detach().numpy(), SAME)
    compare('input_grad', loss.backward(), torch_logits.grad.numpy(), SAME)


def test_squared_error():
    output, label = normal(6, 5), np.arange(6) % 5
    loss, torch_output = SquaredError(), torch.tensor(output, requires_grad=True)
    torch_loss = ((torch_output - torch.eye(5)[label]) ** 2).sum(1).mean() / 2
    torch_loss.backward()
    compare('loss', loss.forward(output, label)[1], torch_loss.item(), SAME)
    compare('input_grad', loss.backward(), torch_output.grad.numpy(), SAME)


@pytest.mark.parametrize('size', [8, 9])
def test_augment_reads_its_places_as_grid_sample_does(size):
    layer = Augment(25, 0.2, 0.2, 2, 0.5, np.random.default_rng(3))
    image, output_grad = normal(4, size, size, 1), normal(4, size, size, 1, seed=2)
    y, x = np.clip(_random_places(layer, 4, size), 0, size - 1.001)
    grid = torch.tensor(np.stack([x, y], axis=-1).reshape(4, size, size, 2) * 2.0 / (size - 1) - 1).double()
    torch_image = tensor(image).requires_grad_()
    torch_output = torch.nn.functional.grid_sample(torch_image, grid, align_corners=True)
    torch_output.backward(tensor(output_grad))
    layer.rng = np.random.default_rng(3)      # the same places once more
    compare('output', layer.forward(image), array(torch_output), 1e-4)     # places are float32
    compare('input_grad', layer.backward(output_grad), array(torch_image.grad), 1e-4)


def mlp():
    return [FullyConnected(6, 9), BatchNorm(9), ReLU(), FullyConnected(9, 8), Tanh(), FullyConnected(8, 4)]


def cnn():
    return [FullyConnected(6, 50), Reshape(5, 5, 2), Conv2d(2, 4, 3), BatchNorm(4), ReLU(), Conv2d(4, 3, 1),
            LeakyReLU(0.1), MaxPool2d(), Flatten(), FullyConnected(12, 4)]


@pytest.mark.parametrize('layers', [mlp, cnn])
@pytest.mark.parametrize('settings', [
    {}, {'momentum': 0.9}, {'momentum': 0.9, 'nesterov': True}, {'weight_decay': 0.1},
    {'momentum': 0.9, 'weight_decay': 0.1}, {'momentum': 0.8, 'nesterov': True, 'weight_decay': 0.1}], ids=repr)
def test_three_steps_of_sgd(layers, settings):
    net = Network([randomised(layer) for layer in layers()], SoftmaxWithLoss(0.1))
    images = layers is cnn
    model = torch.nn.Sequential(*[module_of(layer, images) for layer in net.layers])
    decay = settings.get('weight_decay', 0)
    groups = [{'params': [getattr(module, name)], 'weight_decay': decay if name in layer.decayed_names else 0}
              for layer, module in zip(net.layers, model) for name in layer.parameter_names]
    assert not decay or {group['weight_decay'] for group in groups} == {0, decay}
    optimizer = torch.optim.SGD(groups, lr=0.1, **dict(settings, weight_decay=0))
    for step in range(3):
        input, label = normal(10, 6, seed=step), np.arange(10) % 4
        torch_loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(model(torch.tensor(input)), torch.tensor(label))
        optimizer.zero_grad()
        torch_loss.backward()
        optimizer.step()
        _, loss = net.forward(input, label)
        net.backward()
        net.update(0.1, **settings)
        compare('step %d: loss' % step, loss, torch_loss.item(), SAME)
        for index, (layer, module) in enumerate(zip(net.layers, model)):
            for name in layer.parameter_names + layer.state_names:
                compare('step %d, layer %d, %r: %s' % (step, index, layer, name),
                        layout(layer, name, getattr(layer, name)), getattr(module, name).detach().numpy(), SAME)
    model.eval()
    compare('predict', net.predict(normal(7, 6)), model(torch.tensor(normal(7, 6))).softmax(1).detach().numpy(), SAME)
