"""The cells of the handout run unchanged on our network.

The cells are the handout's, with its typing errors corrected: spaces for underscores, lost
brackets. The hyperparameters that it leaves open are numbers here.
"""
import re

import numpy as np
import pandas as pd

import network

LOAD = '''
import numpy as np
import pandas as pd
import network as model

np.random.seed(0)

train_load = np.loadtxt('./data/train.csv',delimiter=',',dtype="int")
test_data = np.loadtxt('./data/test.csv',delimiter=',',dtype="int")

train_data=train_load[:,1:]
train_label=train_load[:,0]

print("shape of train_data: {}".format(train_data.shape))
print("shape of train_label: {}".format(train_label.shape))
print("shape of test_data: {}".format(test_data.shape))

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
          '|Val Loss:%8.4f'%(total_val_loss/val_batch_num),
          '|Val Acc:%3.4f'%(val_hit/val_image_num*100.0))
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

def write_data(folder):
    """Write train.csv and test.csv in the lab's format: a pattern for each class, varied.

    Returns the labels of the test rows.
    """
    rng = np.random.default_rng(0)
    patterns = rng.random((47, 784)) < 0.15
    label = np.concatenate([np.arange(47), rng.integers(0, 47, 433)])
    pixels = patterns[label] * rng.integers(128, 256, (480, 784))
    pixels = pixels * (rng.random((480, 784)) < 0.9)
    folder.mkdir()
    train = np.column_stack([label, pixels])[:400]
    np.savetxt(str(folder / 'train.csv'), train, '%d', delimiter=',')
    np.savetxt(str(folder / 'test.csv'), pixels[400:], '%d', delimiter=',')
    return label[400:]


EPOCH_LINE = (r'Epoch: +(\d+) \|Train Loss: +(\d\.\d{4}) \|Train Acc:(\d+\.\d{4}) '
              r'\|Val Loss: +(\d\.\d{4}) \|Val Acc:(\d+\.\d{4})$')


def test_the_cells_of_the_handout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(str(tmp_path))
    test_label = write_data(tmp_path / 'data')
    names = {}
    for cell in (LOAD, TRAIN, DUMP):
        exec(compile(cell, 'cell of the handout', 'exec'), names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + 5 + 1
    numbers = np.array([re.match(EPOCH_LINE, line).groups() for line in lines[4:-1]], float)
    loss, accuracy = numbers[:, 1], numbers[:, 4]
    assert (np.diff(loss) < 0).all() and loss[4] < 0.5 * loss[0] and accuracy[4] > 80
    text = (tmp_path / 'DLAD-test-predict.csv').read_bytes().decode()
    assert re.match(r'Id,Category\r?\n(\d+,\d+\r?\n){80}$', text), text[:80]
    submission = pd.read_csv('DLAD-test-predict.csv')
    assert submission.Id.tolist() == list(range(80)) and submission.Category.between(0, 46).all()
    assert (submission.Category == test_label).mean() > 0.8
    predicted = names['net'].predict(names['test_data']).argmax(axis=1)
    network.write_submission('ours.csv', predicted)
    assert (tmp_path / 'ours.csv').read_bytes().decode() == text
