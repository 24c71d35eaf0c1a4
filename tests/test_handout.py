"""The lab's own cells run unchanged on our network, and a network written by hand in the lab's way runs on our layers.

The cells are the handout's, with its typing errors (spaces for underscores, lost brackets) put right and numbers for
the hyperparameters that it leaves open.
"""
import importlib
import re

import numpy as np
import pandas as pd
import pytest

import network

LOAD = '''
import numpy as np
import pandas as pd
import {model} as model

np.random.seed(0)

train_load = np.loadtxt('./data/train.csv',delimiter=',',dtype="int")
test_data = np.loadtxt('./data/test.csv',delimiter=',',dtype="int")

train_data=train_load[:,1:]
train_label=train_load[:,0]

print("shape of train_data: {{}}".format(train_data.shape))
print("shape of train_label: {{}}".format(train_label.shape))
print("shape of test_data: {{}}".format(test_data.shape))

train_image_num = train_data.shape[0]
test_image_num = test_data.shape[0]
val_image_num=80

label_temp = np.zeros((train_image_num, 47), dtype = np.float32)
for i in range(train_image_num):
    label_temp[i][train_label[i]] = 1
train_label_onehot = np.copy(label_temp)
print("One-hot training labels shape:",train_label_onehot.shape)

EPOCH = 5
Batch_size = 20
Learning_rate = 0.1
'''

TRAIN = '''
net = model.Network()
train_batch_num = (train_image_num - val_image_num )//Batch_size
val_batch_num = (val_image_num)//Batch_size
for epoch in range(1, EPOCH+1):
    train_hit = 0
    val_hit = 0
    total_train_loss = 0
    total_val_loss = 0
    for it in range(train_batch_num):
        pred, train_loss = net.forward(train_data[it*Batch_size:(it+1)*Batch_size],
                                 train_label_onehot[it*Batch_size:(it+1)*Batch_size])
        pred_index = np.argmax(pred, axis=1)
        train_hit += (pred_index==train_label[it*Batch_size:(it+1)*Batch_size]).sum()
        total_train_loss += train_loss
        net.backward()
        net.update(Learning_rate)
    for titt in range(val_batch_num):
        tit=train_batch_num+titt
        pred, val_loss = net.forward(train_data[tit*Batch_size:(tit+1)*Batch_size],
                                 train_label_onehot[tit*Batch_size:(tit+1)*Batch_size])
        pred_index = np.argmax(pred, axis=1)
        val_hit += (pred_index==train_label[tit*Batch_size:(tit+1)*Batch_size]).sum()
        total_val_loss += val_loss
    print('Epoch:%3d'%epoch, '|Train Loss:%8.4f'%(total_train_loss/train_batch_num), 
          '|Train Acc:%3.4f'%(train_hit/(train_image_num - val_image_num)*100.0),
          '|Val Loss:%8.4f'%(total_val_loss/val_batch_num), '|Val Acc:%3.4f'%(val_hit/val_image_num*100.0))
'''

DUMP = '''
test_pred_list = []

for tit in range(test_image_num//Batch_size):
    pred, test_loss = net.forward(test_data[tit*Batch_size:(tit+1)*Batch_size],
                                 train_label_onehot[tit*Batch_size:(tit+1)*Batch_size])
    pred_index = np.argmax(pred, axis=1)
    test_pred_list += pred_index.tolist()

print('Dump file...')

df = pd.DataFrame(test_pred_list, columns=["Category"])
df.to_csv('DLAD-test-predict.csv', index=True, index_label="Id")
'''

BY_HAND = '''
import network
from layer import *


class Network(network.Network):
    def __init__(self):
        self.scale = PixelScaling()
        self.fc1 = FullyConnected(28*28, 60)
        self.act1 = ReLU()
        self.fc2 = FullyConnected(60, 47)
        self.loss = SoftmaxWithLoss()

    def forward(self, input, target):
        h1 = self.fc1.forward(self.scale.forward(input))
        h2 = self.fc2.forward(self.act1.forward(h1))
        pred, loss = self.loss.forward(h2, target)
        return pred, loss

    def backward(self):
        h2_grad = self.loss.backward()
        h1_grad = self.act1.backward(self.fc2.backward(h2_grad))
        _ = self.fc1.backward(h1_grad)

    def update(self, lr):
        self.fc1.weight -= lr * self.fc1.weight_grad
        self.fc1.bias -= lr * self.fc1.bias_grad
        self.fc2.weight -= lr * self.fc2.weight_grad
        self.fc2.bias -= lr * self.fc2.bias_grad
'''


def write_data(folder):
    """train.csv and test.csv in the lab's format: one pattern for each of the 47 classes, varied; -> test labels."""
    rng = np.random.default_rng(0)
    patterns = rng.random((47, 784)) < 0.15
    label = np.concatenate([np.arange(47), rng.integers(0, 47, 433)])
    pixels = patterns[label] * rng.integers(128, 256, (480, 784)) * (rng.random((480, 784)) < 0.9)
    folder.mkdir()
    np.savetxt(str(folder / 'train.csv'), np.column_stack([label, pixels])[:400], '%d', delimiter=',')
    np.savetxt(str(folder / 'test.csv'), pixels[400:], '%d', delimiter=',')
    return label[400:]


@pytest.mark.parametrize('model', ['network', 'written_by_hand'])
def test_the_cells_of_the_handout(tmp_path, monkeypatch, capsys, model):
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'written_by_hand.py').write_text(BY_HAND)
    importlib.invalidate_caches()
    test_label, names = write_data(tmp_path / 'data'), {}
    for cell in (LOAD.format(model=model), TRAIN, DUMP):
        exec(compile(cell, 'cell of the handout', 'exec'), names)

    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ['shape of train_data: (400, 784)', 'shape of train_label: (400,)',
                         'shape of test_data: (80, 784)', 'One-hot training labels shape: (400, 47)'], lines
    assert lines[-1] == 'Dump file...'
    form = (r'Epoch:  (\d) \|Train Loss: +(\d\.\d{4}) \|Train Acc:(\d+\.\d{4}) '
            r'\|Val Loss: +(\d\.\d{4}) \|Val Acc:(\d+\.\d{4})')
    epochs = [re.match(form + '$', line) for line in lines[4:-1]]
    assert len(epochs) == 5 and all(epochs), lines
    numbers = np.array([[float(number) for number in epoch.groups()] for epoch in epochs])
    assert numbers[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert (np.diff(numbers[:, 1]) < 0).all() and numbers[-1, 1] < 0.5 * numbers[0, 1], 'no falling loss: %s' % lines
    assert numbers[-1, 4] > 80, 'not learnt: %s' % lines

    text = (tmp_path / 'DLAD-test-predict.csv').read_bytes().decode()
    assert re.match(r'Id,Category\r?\n(\d+,\d+\r?\n){80}$', text), text[:80]
    submission = pd.read_csv('DLAD-test-predict.csv')
    assert submission.Id.tolist() == list(range(80)) and submission.Category.between(0, 46).all()
    assert (submission.Category == test_label).mean() > 0.8
    if model == 'network':
        network.write_submission('ours.csv', names['net'].predict(names['test_data']).argmax(axis=1))
        assert (tmp_path / 'ours.csv').read_text() == (tmp_path / 'DLAD-test-predict.csv').read_text()
        for name in ('fc1', 'act1', 'fc2', 'act2', 'fc3', 'loss'):
            assert hasattr(names['net'], name), name
