"""PyTorch's side of leaderboard/minutes.py does the same work as network.Training."""
import numpy as np
import pytest

from layer import Augment, PixelScaling
from network import Network, Training, character_network, one_cycle

torch = pytest.importorskip('torch')
import torch_training      # noqa: E402

SETTINGS = {'epochs': 2, 'batch_size': 16, 'lr': 0.1, 'schedule': one_cycle, 'seed': 4}
SGD = [{}, {'momentum': 0.9}, {'momentum': 0.9, 'nesterov': True},
       {'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.01, 'ema_decay': 0.8}]


def make_network(**settings):
    return character_network(np.random.default_rng(0), stages=((2,), (3, 3), (4,)), hidden=5,
                             dropout=0.0, **settings)


def make_rows(count=70):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, 784), dtype=np.uint8), rng.integers(0, 47, count)


def in_float64(net):
    """The network in float64, without PixelScaling, which computes in float32."""
    layers = [each for each in net.layers if not isinstance(each, PixelScaling)]
    for each in layers:
        each.astype(np.float64)
    return Network(layers, net.loss)


@pytest.mark.parametrize('sgd', SGD, ids=[', '.join(sgd) or 'plain' for sgd in SGD])
def test_same_predictions_after_the_training(sgd, monkeypatch):
    pixels, label = make_rows()
    scaled = pixels.astype(np.float64) / 255
    validation = (scaled[:30], label[:30])
    ours = Training(in_float64(make_network(augment=False)), (scaled, label), validation,
                    **dict(SETTINGS, **sgd))
    monkeypatch.setattr(torch_training.TorchNetwork, 'images', lambda self, rows, augment: rows)
    theirs = torch_training.TorchTraining(in_float64(make_network(augment=False)), (scaled, label),
                                          validation, **dict(SETTINGS, **sgd))
    ours.run(verbose=False)
    theirs.run(verbose=False)
    balanced = [[record['validation']['balanced_accuracy'] for record in training.history]
                for training in (theirs, ours)]
    np.testing.assert_allclose(balanced[0], balanced[1])
    np.testing.assert_allclose(theirs.net.predict(scaled), ours.net.predict(scaled), atol=1e-9)


def test_same_augmented_images():
    pixels, _ = make_rows()
    net = make_network(augment=True)
    augment = [each for each in net.layers if isinstance(each, Augment)][0]
    augment.rng = np.random.default_rng(3)
    ours = augment.forward(pixels.astype(np.float32) / 255)
    augment.rng = np.random.default_rng(3)
    theirs = torch_training.TorchNetwork(net).images(torch.from_numpy(pixels), augment)
    np.testing.assert_allclose(theirs.numpy(), ours, atol=2e-3)


def test_same_prediction_and_mean_over_copies():
    pixels, _ = make_rows()
    net = make_network(augment=True)
    theirs = torch_training.TorchNetwork(net)
    np.testing.assert_allclose(theirs.predict(pixels), net.predict(pixels), atol=1e-5)
    np.testing.assert_array_equal(theirs.predict_augmented(pixels, 1), theirs.predict(pixels))
    several = theirs.predict_augmented(pixels, 3)
    np.testing.assert_allclose(several.sum(axis=1), 1, atol=1e-5)
    assert abs(several - theirs.predict(pixels)).max() > 1e-4
    without = torch_training.TorchNetwork(make_network(augment=False))
    np.testing.assert_array_equal(without.predict_augmented(pixels, 3), without.predict(pixels))


def test_the_best_epoch_is_kept(monkeypatch):
    pixels, label = make_rows()
    training = torch_training.TorchTraining(make_network(), (pixels, label), (pixels, label),
                                            **dict(SETTINGS, epochs=3))
    predicted = []

    def predict(self, rows, augment=None):
        predicted.append([each.clone() for each in torch_training.floats(self.model)])
        right = {1: 10, 2: 50, 3: 30}[len(predicted)]      # how many rows are right in this epoch
        guess = np.where(np.arange(len(label)) < right, label, (label + 1) % 47)
        return np.eye(47)[guess]
    monkeypatch.setattr(torch_training.TorchNetwork, 'predict', predict)
    training.run(verbose=False)
    for got, expected in zip(torch_training.floats(training.net.model), predicted[1]):
        assert torch.equal(got, expected)
