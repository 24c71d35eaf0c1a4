"""PyTorch's side of leaderboard/minutes.py does the same work as network.Training."""
import numpy as np
import pytest

from layer import Augment
from network import Score, Training, character_network, one_cycle
from small_networks import check_equal, convert, copies, differ
from workshop import lab_rows

torch = pytest.importorskip('torch')
import torch_training      # noqa: E402
from torch_training import TorchNetwork      # noqa: E402

SETTINGS = {'epochs': 2, 'batch_size': 16, 'lr': 0.1, 'schedule': one_cycle, 'seed': 4}
SGD = [{}, {'momentum': 0.9}, {'momentum': 0.9, 'nesterov': True},
       {'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.01, 'ema_decay': 0.8}]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(torch_training.os, 'cpu_count', lambda: 1)


def make_network(**settings):
    return character_network(np.random.default_rng(0), stages=((2,), (3, 3), (4,)), hidden=5,
                             dropout=0.0, **settings)


@pytest.mark.parametrize('sgd', SGD, ids=[', '.join(sgd) or 'plain' for sgd in SGD])
def test_same_predictions_after_the_training(sgd, monkeypatch):
    pixels, label = lab_rows(70)
    scaled = pixels.astype(np.float64) / 255
    monkeypatch.setattr(TorchNetwork, 'images', lambda self, rows: rows)
    net = convert(make_network(augment=0), np.float64)
    theirs, ours = [Training(each, (scaled, label), (scaled[:30], label[:30]),
                             **dict(SETTINGS, **sgd)) for each in (TorchNetwork(net), net)]
    ours.run(verbose=False)
    theirs.run(verbose=False)
    for mine, other in zip(ours.history, theirs.history):
        assert mine['validation']['balanced_accuracy'] == pytest.approx(
            other['validation']['balanced_accuracy'])
    np.testing.assert_allclose(theirs.net.predict(scaled), ours.net.predict(scaled), atol=1e-9)


def test_same_augmented_images():
    pixels, _ = lab_rows(70)
    net = make_network()
    augment = net.layers[1]
    assert isinstance(augment, Augment)
    augment.rng = np.random.default_rng(3)
    ours = augment.forward(pixels.astype(np.float32) / 255)
    augment.rng = np.random.default_rng(3)
    theirs = TorchNetwork(net).images(torch.from_numpy(pixels))
    np.testing.assert_allclose(theirs.numpy(), ours, atol=2e-3)


def test_same_prediction_and_mean_over_copies():
    pixels, _ = lab_rows(70)
    for augment in (0, 1):
        net = make_network(augment=augment)
        theirs = TorchNetwork(net)
        np.testing.assert_allclose(theirs.predict(pixels), net.predict(pixels), atol=1e-5)
        np.testing.assert_array_equal(theirs.predict_augmented(pixels, 1), theirs.predict(pixels))
        several = theirs.predict_augmented(pixels, 3)
        np.testing.assert_allclose(several.sum(axis=1), 1, atol=1e-5)
        moved = abs(several - theirs.predict(pixels)).max()
        assert (moved > 1e-4) == bool(augment), moved


def test_the_best_epoch_is_kept(monkeypatch):
    """Its arrays are PyTorch's memory: what Training keeps and puts back is what predicts."""
    pixels, label = lab_rows(70)
    training = Training(TorchNetwork(make_network()), (pixels, label), (pixels, label),
                        **dict(SETTINGS, epochs=3))
    validated = []

    def evaluate(rows, label):
        validated.append(copies(training.net))
        return Score(0.0, 0.0, {1: 10.0, 2: 50.0, 3: 30.0}[len(validated)])
    monkeypatch.setattr(training.net, 'evaluate', evaluate)
    training.run(verbose=False)
    check_equal(copies(training.net), validated[1])
    assert differ(validated[0], validated[1]) and differ(validated[1], validated[2])
