"""The same numbers as PyTorch, in float64: layers, losses, and steps of SGD of whole networks.

PyTorch has the channels before height and width, and it keeps the weights of a linear layer
transposed. Here it gets our arrays and turns them itself, so its gradients have our order, too.
Dropout is left out: its random numbers cannot be the same.
"""
import copy

import numpy as np
import pytest

from gradient_check import compare
from layer import (Augment, BatchNorm, Conv2d, Crop, Flatten, FullyConnected, MaxPool2d, ReLU,
                   Reshape, Sigmoid, SoftmaxWithLoss, SquaredError, Tanh)
from network import Network
from small_networks import normal

torch = pytest.importorskip('torch', reason='PyTorch is not installed: nothing to compare with')
F = torch.nn.functional
SAME = 1e-9     # the greatest relative error


def channels_first(images):
    return images.permute(0, 3, 1, 2)


def channels_last(images):
    return images.permute(0, 2, 3, 1)


def convolution(layer, x, twin):
    bias = twin['bias'].ravel() if 'bias' in twin else None
    kernel = twin['weight'].permute(3, 2, 0, 1)
    return channels_last(F.conv2d(channels_first(x), kernel, bias, padding='same'))


def batch_norm(layer, x, twin):
    names = ('running_mean', 'running_var', 'weight', 'bias')
    arrays = [twin[name].view(-1) for name in names]
    y = F.batch_norm(x.movedim(-1, 1), *arrays, layer.training, layer.momentum, layer.eps)
    return y.movedim(1, -1)


FORMS = {     # what PyTorch computes for a layer, an input and {name: tensor} of its arrays
    FullyConnected: lambda layer, x, twin: F.linear(x, twin['weight'].T, twin['bias'].ravel()),
    Conv2d: convolution, BatchNorm: batch_norm,
    MaxPool2d: lambda layer, x, twin: channels_last(
        F.max_pool2d(channels_first(x), 2, ceil_mode=True)),
    ReLU: lambda layer, x, twin: F.relu(x), Sigmoid: lambda layer, x, twin: torch.sigmoid(x),
    Tanh: lambda layer, x, twin: torch.tanh(x), Flatten: lambda layer, x, twin: x.flatten(1),
    Crop: lambda layer, x, twin: F.pad(x, [0, 0] + 4 * [-layer.border]),
    Reshape: lambda layer, x, twin: x.reshape((-1,) + layer.shape)}


def randomised(layer):
    """The layer in float64, with parameters that are not those of a new one."""
    for name in layer.state_names:
        setattr(layer, name, getattr(layer, name).astype(np.float64))
    for seed, name in enumerate(layer.parameter_names, 10):
        setattr(layer, name, normal(*getattr(layer, name).shape, seed=seed))
    return layer


def twin_of(layer):
    """{name: tensor} of copies of the layer's arrays."""
    twin = {name: torch.tensor(getattr(layer, name))
            for name in layer.parameter_names + layer.state_names}
    for name in layer.parameter_names:
        twin[name].requires_grad_()
    return twin


LAYERS = [     # the layer, and the shape of its input
    (FullyConnected(5, 3), (4, 5)), (FullyConnected(1, 7), (1, 1)),
    (ReLU(), (4, 5)), (Sigmoid(), (4, 5)), (Crop(1), (2, 3, 4, 2)),
    (Tanh(), (2, 3, 3, 2)), (Flatten(), (2, 3, 4, 2)), (Reshape(2, 3, 2), (4, 12)),
    (BatchNorm(3), (6, 3)), (BatchNorm(3), (2, 4, 5, 3)), (Conv2d(3, 2, 1), (2, 4, 5, 3)),
    (Conv2d(3, 4, 3), (2, 5, 4, 3)), (Conv2d(2, 3, 7), (1, 4, 9, 2)),
    (Conv2d(2, 3, 3), (1, 1, 2, 2)), (Conv2d(2, 3, bias=False), (2, 3, 3, 2)),
    (MaxPool2d(), (2, 4, 6, 3)), (MaxPool2d(), (2, 5, 7, 3)), (MaxPool2d(), (2, 1, 1, 2))]


@pytest.mark.parametrize('layer, shape', LAYERS, ids=str)
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_layer(layer, shape, training):
    """Three steps, so that the running statistics have a history.

    The input of the last step has equal numbers and zeros. Not for pooling: of several greatest
    pixels, PyTorch may give the gradient to another one.
    """
    layer = randomised(copy.deepcopy(layer))
    twin = twin_of(layer)
    for step in range(3):
        layer.training = training or step == 0
        input = normal(*shape, seed=step)
        if step == 2 and not isinstance(layer, MaxPool2d):
            input = np.round(input) + 0.0      # + 0.0 turns -0.0 into 0.0
        x = torch.tensor(input, requires_grad=True)
        y = FORMS[type(layer)](layer, x, twin)
        output = layer.forward(input)
        compare('output', output, y.detach().numpy(), SAME)
        output_grad = normal(*output.shape, seed=step + 5)
        y.backward(torch.tensor(output_grad))
        compare('input_grad', layer.backward(output_grad), x.grad.numpy(), SAME)
        for name in layer.parameter_names:
            compare(name, getattr(layer, name + '_grad'), twin[name].grad.numpy(), SAME)
            twin[name].grad = None
        for name in layer.state_names:
            compare(name, getattr(layer, name), twin[name].numpy(), SAME)


@pytest.mark.parametrize('scale', [1, 50])
@pytest.mark.parametrize('loss', [SoftmaxWithLoss(), SoftmaxWithLoss(0.1), SquaredError()],
                         ids=repr)
@pytest.mark.parametrize('mixed', [False, True], ids=['labels', 'mixed targets'])
def test_loss(loss, scale, mixed):
    logits = normal(6, 47) * scale
    label = np.arange(6) * 9
    rows = np.eye(47)[label]
    if mixed:
        rows = 0.7 * rows + 0.3 * rows[::-1]
    x = torch.tensor(logits, requires_grad=True)
    target = torch.tensor(rows if mixed else label)
    if isinstance(loss, SquaredError):
        expected, predict = ((x - torch.tensor(rows)) ** 2).sum(1).mean() / 2, x
    else:
        expected = F.cross_entropy(x, target, label_smoothing=loss.label_smoothing)
        predict = x.softmax(1)
    expected.backward()
    got, value = loss.forward(logits, rows if mixed else label)
    compare('loss', value, expected.item(), SAME)
    compare('predict', got, predict.detach().numpy(), SAME)
    compare('input_grad', loss.backward(), x.grad.numpy(), SAME)


@pytest.mark.parametrize('size', [8, 9])
def test_augment_reads_its_places_as_grid_sample_does(size):
    layer = Augment(25, 0.2, 0.2, 2, 0.5, np.random.default_rng(3))
    image = normal(4, size, size, 1)
    y, x = np.clip(layer.random_places(4, size), 0, size - 1.001)
    grid = np.stack([x, y], axis=-1).reshape(4, size, size, 2) * 2 / (size - 1) - 1
    expected = channels_last(F.grid_sample(channels_first(torch.tensor(image)),
                                           torch.tensor(grid).double(), align_corners=True))
    layer.rng = np.random.default_rng(3)      # the same places once more
    compare('output', layer.forward(image), expected.numpy(), 1e-4)      # the places are float32


@pytest.mark.parametrize('settings', [
    {}, {'momentum': 0.9}, {'momentum': 0.9, 'nesterov': True}, {'weight_decay': 0.1},
    {'momentum': 0.9, 'weight_decay': 0.1},
    {'momentum': 0.8, 'nesterov': True, 'weight_decay': 0.1}], ids=repr)
def test_three_steps_of_sgd(settings):
    """Weight decay for the weights that we decay, and for no others."""
    layers = [FullyConnected(6, 18), Reshape(3, 3, 2), Conv2d(2, 4), BatchNorm(4), ReLU(),
              MaxPool2d(), Flatten(), FullyConnected(16, 4)]
    net = Network([randomised(layer) for layer in layers], SoftmaxWithLoss(0.1))
    twins = [twin_of(layer) for layer in layers]
    groups = [{'params': [twins[0]['weight'], twins[2]['weight'], twins[7]['weight']]},
              {'params': [twins[3]['weight']] + [twins[i]['bias'] for i in (0, 2, 3, 7)],
               'weight_decay': 0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, **settings)
    for step in range(3):
        input = normal(10, 6, seed=step)
        x = torch.tensor(input)
        for layer, twin in zip(layers, twins):
            x = FORMS[type(layer)](layer, x, twin)
        optimizer.zero_grad()
        F.cross_entropy(x, torch.arange(10) % 4, label_smoothing=0.1).backward()
        optimizer.step()
        net.forward(input, np.arange(10) % 4)
        net.backward()
        net.update(0.1, **settings)
        for layer, twin in zip(layers, twins):
            for name in twin:
                compare(f'step {step}, {layer!r}: {name}', getattr(layer, name),
                        twin[name].detach().numpy(), SAME)
