"""leaderboard/train.py from its arguments to its files, and what it refuses.

The command runs here as a user runs it, with its smallest network and a few rows.
"""
import os
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

import network
import train
from checkpoint import read_npz
from layer import FullyConnected, PixelScaling
from parallel import blas_controller
from workshop import lab_rows, write_table

COMMAND = train.__file__
TINY = '--data . --network tiny --validation 10'.split()
TEST_ROWS = 47
CURVE, WEIGHTS, SUBMISSION = OUTPUTS = ['character_network.csv', 'character_network.npz',
                                        'DLAD-test-predict.csv']


def write_data(folder):
    """train.csv with every class twice or more, and test.csv."""
    pixels, label = lab_rows(100)
    write_table(folder / 'train.csv', np.column_stack([label, pixels]))
    write_table(folder / 'test.csv', lab_rows(TEST_ROWS, 1)[0])


def mark_as_stand_in(folder):
    """Write the marker that data/prepare.py writes beside a stand-in."""
    lines = [f'{name} {(folder / name).stat().st_size} bytes' for name in ('train.csv', 'test.csv')]
    (folder / 'stand-in.txt').write_text('\n'.join(lines))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A working folder with data."""
    write_data(tmp_path)
    monkeypatch.chdir(str(tmp_path))
    return tmp_path


def run(*arguments):
    """Run the command in this process -> its exit code."""
    return train.main(TINY + list(arguments))


def refused(capsys, part, *arguments):
    """The command ends with one sentence that holds `part`, before an epoch, and writes nothing."""
    before = sorted(os.listdir('.'))
    code = run(*arguments)
    output = capsys.readouterr()
    assert code == 1 and output.err.startswith('train.py: '), (code, output.err)
    assert part in output.err and output.err.count('\n') == 1, output.err
    assert '|Train' not in output.out, 'it was refused after an epoch'
    assert sorted(os.listdir('.')) == before


def submitted(path):
    """The labels of a submission."""
    with open(path) as file:
        lines = file.read().splitlines()
    assert lines[0] == 'Id,Category'
    assert [line.split(',')[0] for line in lines[1:]] == [str(row) for row in range(TEST_ROWS)]
    return np.array([int(line.split(',')[1]) for line in lines[1:]])


def test_the_command_trains_writes_and_resumes(lab, capsys):
    contents = []
    outputs = []
    for _ in range(2):      # the second time there is nothing left to train
        assert run('--epochs', '2') == 0
        outputs.append(capsys.readouterr().out)
        contents.append([(lab / name).read_bytes() for name in OUTPUTS])
    assert sorted(os.listdir('.')) == sorted(OUTPUTS + ['test.csv', 'train.csv', 'training.npz'])
    assert [output.count('Epoch:') for output in outputs] == [2, 0]
    assert 'BLAS: ' in outputs[0], outputs[0]
    assert 'training.npz: 2 of 2 epochs are done' in outputs[1], outputs[1]
    assert contents[0] == contents[1], 'the second run wrote other bytes'
    lines = (lab / CURVE).read_text().splitlines()
    assert lines[0] == ('epoch,epochs,seconds,train_loss,train_accuracy,train_balanced_accuracy,'
                        'validation_loss,validation_accuracy,validation_balanced_accuracy')
    assert [line.split(',')[:2] for line in lines[1:]] == [['1', '2'], ['2', '2']]


@pytest.mark.parametrize('other', [False, True])
def test_the_submission_is_what_the_saved_weights_predict(lab, monkeypatch, other):
    """By hand: float16 weights, test-time augmentation, even class counts."""
    net = network.character_network(np.random.default_rng(9), Network=train.ParallelNetwork,
                                    Conv2d=train.Conv2d, **train.NETWORKS['tiny'])
    if other:      # the weights in the file count, not those in memory
        monkeypatch.setattr(train, 'save_weights', lambda trained, path: net.save(path))
    assert run() == 0
    net.load(WEIGHTS)
    predict = net.predict_augmented(network.read_csv('test.csv', 784), 8)
    expected = network.even_class_counts(predict).argmax(axis=1)
    np.testing.assert_array_equal(submitted(SUBMISSION), expected)
    if other:
        return
    pixels, label = network.read_train('train.csv')
    _, kept = network.split_rows(100, 10, 0)
    assert net.held_back == {network.fingerprint(pixels[kept], label[kept])}
    saved = read_npz(WEIGHTS)
    assert {str(saved[name].dtype) for name in net.arrays()} == {'float16'}


def test_it_trains_on_all_rows_without_validation(lab, capsys):
    names = ['all-predict.csv', 'all-training.npz', 'all.npz']
    assert run('--validation', '0', '--submission', names[0], '--checkpoint', names[1],
               '--weights', names[2]) == 0
    assert 'Val' not in capsys.readouterr().out
    assert 'validation' not in (lab / 'all.csv').read_text()
    assert sorted(os.listdir('.')) == sorted(names + ['all.csv', 'test.csv', 'train.csv'])


@pytest.mark.parametrize('name', train.TRAININGS)
def test_every_network_trains(name):
    rows = lab_rows(60)
    net = train.make_network(name, 0)
    train.make_training(name, net, rows, None, epochs=1, batch_size=30).run(verbose=False)
    assert all(np.isfinite(array).all() for array in net.arrays().values())
    twin = {'large': network.character_network(), 'baseline': network.Network()}.get(name)
    assert twin is None or repr(net) == repr(twin)


# What is refused ----------------------------------------------------------------------------------

def test_files_and_folders_that_cannot_be_are_refused_before_training(lab, capsys):
    refused(capsys, 'train.csv', '--data', 'nowhere')
    for option in ('--checkpoint', '--weights', '--submission'):
        path = os.path.join('nowhere', 'file')
        refused(capsys, f'{path} cannot be written', option, path)
        refused(capsys, '. cannot be written', option, '.')
    refused(capsys, 'are the same', '--weights', 'training.npz')
    refused(capsys, 'are the same', '--checkpoint', SUBMISSION)
    refused(capsys, 'are the same', '--submission', CURVE)
    for rows in ('99', '100', '200'):
        refused(capsys, 'fewer than two of the 100 rows', '--validation', rows)
    write_table(lab / 'test.csv', lab_rows(46)[0])
    refused(capsys, 'test.csv has 46 rows, expected at least 47')
    os.remove('test.csv')
    refused(capsys, 'test.csv')


@pytest.mark.parametrize('longer', [[], ['train.csv'], ['test.csv'], ['train.csv', 'test.csv']],
                         ids=repr)
def test_the_stand_in_needs_a_submission_of_another_name(lab, capsys, longer):
    """One file of it is enough. Other data beside an old marker is no stand-in."""
    mark_as_stand_in(lab)
    for name in longer:
        content = (lab / name).read_bytes()
        (lab / name).write_bytes(content + content.splitlines()[0] + b'\n')
    if len(longer) < 2:
        refused(capsys, '. holds the stand-in, not the data of the competition')
    assert run(*[] if len(longer) == 2 else ['--submission', 'mine.csv']) == 0


def test_a_checkpoint_of_other_data_or_settings_is_refused(lab, capsys):
    assert run() == 0
    capsys.readouterr()
    refused(capsys, 'another training, which differs in epochs', '--epochs', '2')
    refused(capsys, 'differs in seed', '--seed', '1')
    (lab / 'damaged.npz').write_bytes((lab / 'training.npz').read_bytes()[:-100])
    refused(capsys, 'damaged.npz is not a whole .npz', '--checkpoint', 'damaged.npz')


@pytest.mark.parametrize('arguments', ['--epochs 0', '--validation -1', '--seed -1'])
def test_wrong_usage_ends_with_code_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments.split())
    assert caught.value.code == 2 and 'usage: ' in capsys.readouterr().err


@pytest.mark.filterwarnings('ignore::RuntimeWarning')      # NumPy's, of the overflow
def test_a_training_that_diverges_and_a_full_disk_end_with_a_sentence(lab, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, 'fsync', full)
    assert run() == 1 and sorted(os.listdir('.')) == ['test.csv', 'train.csv']
    assert os.strerror(28) in capsys.readouterr().err
    monkeypatch.setitem(train.CHARACTER_TRAINING, 'lr', 1e38)
    refused(capsys, 'the loss is not finite')


def test_a_weight_that_float16_cannot_hold_is_refused(tmp_path):
    path = tmp_path / 'weights.npz'
    net = network.Network([PixelScaling(), FullyConnected(784, 47)])
    for number in (1.0, -65504.0, 65504.0):
        net.layers[1].weight[3, 4] = number
        train.save_weights(net, str(path))
        net.load(str(path))
        assert net.layers[1].weight[3, 4] == number
    content = path.read_bytes()
    for number in (65520.0, -1e6, np.inf):
        net.layers[1].weight[3, 4] = number
        with pytest.raises(FloatingPointError, match='1.FullyConnected.weight as float16'):
            train.save_weights(net, str(path))
    assert path.read_bytes() == content


# Ctrl-C, terminals, other processes ---------------------------------------------------------------

def start(folder, *arguments, **environment):
    """The command in a process of its own, in `folder`. It heeds Ctrl-C also in the background."""
    heed = (lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) if os.name == 'posix' else None
    return subprocess.Popen([sys.executable] + list(arguments), cwd=str(folder), preexec_fn=heed,
                            env=dict(os.environ, **environment), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, start_new_session=True)


@pytest.mark.skipif(os.name != 'posix', reason='needs signals')
def test_ctrl_c_ends_with_a_sentence_and_the_same_command_goes_on(lab):
    process = start(lab, COMMAND, *TINY, '--epochs', '10000')
    deadline = time.time() + 60
    while not (lab / 'training.npz').exists() and time.time() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)      # as a terminal does: to the helpers, too
    errors = process.communicate()[1].decode()
    assert process.returncode == 130 and 'Traceback' not in errors, errors
    assert errors.endswith('train.py: stopped; the same command goes on from training.npz\n')
    assert sorted(os.listdir('.')) == ['test.csv', 'train.csv', 'training.npz']
    assert '"epochs": 10000' in str(read_npz('training.npz')['about'])


def test_ctrl_c_before_the_first_epoch_is_said(lab, capsys, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt()
    monkeypatch.setattr(train.Training, 'run_epoch', stop)
    assert run() == 130
    assert 'the same command starts again' in capsys.readouterr().err


def test_the_output_is_ascii_whatever_the_names_of_files_are(tmp_path):
    folder = tmp_path / 'd\u00e4ta'
    try:
        folder.mkdir()
    except UnicodeEncodeError:
        pytest.skip('this system cannot have such a name')
    write_data(folder)
    mark_as_stand_in(folder)
    process = start(tmp_path, COMMAND, '--data', 'd\u00e4ta', *TINY[2:], PYTHONIOENCODING='ascii')
    output, errors = process.communicate()
    assert process.returncode == 1 and b'd\\xe4ta holds the stand-in' in errors, errors.decode()


WITHOUT_CLOCK = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import train
time.time = lambda: 0.0      # the history holds the seconds of each epoch
os.cpu_count = lambda: int(sys.argv[2])
sys.exit(train.main(sys.argv[3:]))
"""


def test_the_same_seed_gives_the_same_bytes_in_every_process(tmp_path):
    written = []
    more = 2 if blas_controller() else 1      # without threadpoolctl, rounding depends on them
    for cores, threads, hash_seed, seed in ((2, 1, 0, 0), (1, more, 1, 0), (64, 1, 2, 0),
                                            (2, 1, 0, 1)):
        folder = tmp_path / f'{len(written)}'
        folder.mkdir()
        write_data(folder)
        process = start(folder, '-c', WITHOUT_CLOCK, os.path.dirname(COMMAND), str(cores), *TINY,
                        '--epochs', '3', '--seed', str(seed), OPENBLAS_NUM_THREADS=str(threads),
                        PYTHONHASHSEED=str(hash_seed))
        errors = process.communicate()[1]
        assert process.returncode == 0, errors.decode()
        written.append([zlib.crc32((folder / name).read_bytes())
                        for name in OUTPUTS + ['training.npz']])
    assert written[0] == written[1] == written[2]
    assert not set(written[0]) & set(written[3]), 'two seeds gave the same bytes'


# The weights that are kept here -------------------------------------------------------------------

@pytest.mark.parametrize('name', ['character_network', 'character_network_all_rows'])
def test_the_weights_kept_here_load_into_their_network(name):
    net = network.character_network()
    net.load(os.path.join(os.path.dirname(COMMAND), f'{name}.npz'))
    assert net.held_back and all(np.isfinite(array).all() for array in net.arrays().values())
