"""leaderboard/train.py from its arguments to its files, and what it refuses.

The command runs here as a user runs it, with its smallest network and a few rows. The tests of
the checkpoint itself are in test_checkpoint.py. This file is also a script, for the tests that the
same seed gives the same bytes. It runs the command in a folder, with as many cores as it says:

    python test_train.py CORES [ARGUMENT ...]
"""
import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'leaderboard')]

import network      # noqa: E402
import train      # noqa: E402

COMMAND = os.path.join(ROOT, 'leaderboard', 'train.py')

if __name__ == '__main__':
    network.time.time = lambda: 0.0      # the history holds the seconds of each epoch
    os.cpu_count = lambda: int(sys.argv[1])
    sys.exit(train.main(sys.argv[2:]))


# The tests ----------------------------------------------------------------------------------------

import pytest      # noqa: E402

from layer import FullyConnected, PixelScaling      # noqa: E402

TINY = '--data . --network tiny --validation 10'.split()
TRAIN_ROWS = 100
TEST_ROWS = 47


def write_csv(path, rows):
    np.savetxt(str(path), rows, '%d', delimiter=',')


def write_data(folder):
    """train.csv with every class twice or more, and test.csv."""
    rng = np.random.default_rng(0)
    label = np.arange(TRAIN_ROWS) % 47
    pixels = rng.integers(0, 256, (TRAIN_ROWS, 784))
    write_csv(folder / 'train.csv', np.column_stack([label, pixels]))
    write_csv(folder / 'test.csv', rng.integers(0, 256, (TEST_ROWS, 784)))


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


def files():
    return sorted(os.listdir('.'))


def read_bytes(path):
    with open(path, 'rb') as file:
        return file.read()


def refused(capsys, part, *arguments):
    """The command is refused with one sentence that holds `part`, before it trains."""
    before = files()
    code = run(*arguments)
    output = capsys.readouterr()
    assert code == 1, f'got exit code {code}, expected 1'
    assert output.err.startswith('train.py: ') and output.err.count('\n') == 1, output.err
    assert part in output.err, f'got {output.err!r}, expected {part!r} in it'
    assert 'Epoch:' not in output.out, 'it was refused after an epoch'
    assert files() == before, f'got the files {files()}, expected {before}'


def test_the_command_trains_writes_and_resumes(lab, capsys):
    names = ['DLAD-test-predict.csv', 'character_network.csv', 'character_network.npz']
    contents = []
    outputs = []
    for _ in range(2):      # the second time there is nothing left to train
        assert run('--epochs', '2') == 0
        outputs.append(capsys.readouterr().out)
        contents.append([read_bytes(name) for name in names])
    assert files() == sorted(names + ['test.csv', 'train.csv', 'training.npz'])
    assert [output.count('Epoch:') for output in outputs] == [2, 0]
    assert 'BLAS: ' in outputs[0] and '805 parameters' in outputs[0], outputs[0]
    assert 'training.npz: 2 of 2 epochs are done' in outputs[1], outputs[1]
    assert 'Test: ' not in outputs[0], 'it has a test accuracy without labels'
    assert contents[0] == contents[1], 'the second run wrote other bytes'
    check_submission('DLAD-test-predict.csv')
    lines = contents[0][1].decode().splitlines()
    assert lines[0] == ('epoch,epochs,seconds,train_loss,train_accuracy,train_balanced_accuracy,'
                        'validation_loss,validation_accuracy,validation_balanced_accuracy')
    assert [line.split(',')[:2] for line in lines[1:]] == [['1', '2'], ['2', '2']]


def check_submission(path):
    lines = read_bytes(path).decode().splitlines()
    assert lines[0] == 'Id,Category'
    assert [line.split(',')[0] for line in lines[1:]] == [str(row) for row in range(TEST_ROWS)]
    assert all(0 <= int(line.split(',')[1]) < 47 for line in lines[1:])


def test_it_trains_on_all_rows_without_validation(lab, capsys):
    arguments = ['--validation', '0', '--weights', 'all.npz', '--submission', 'all-predict.csv',
                 '--checkpoint', 'all-training.npz']
    assert run(*arguments) == 0
    output = capsys.readouterr().out
    assert 'Val' not in output, output
    lines = read_bytes('all.csv').decode().splitlines()
    assert lines[0] == 'epoch,epochs,seconds,train_loss,train_accuracy,train_balanced_accuracy'
    assert files() == ['all-predict.csv', 'all-training.npz', 'all.csv', 'all.npz', 'test.csv',
                       'train.csv']


def test_the_submission_is_what_the_saved_weights_predict(lab):
    """By hand: float16 weights, test-time augmentation, even class counts."""
    assert run() == 0
    test = network.read_csv('test.csv', 784)
    net = network.character_network(Network=train.ParallelNetwork, Conv2d=train.Conv2d,
                                    **train.NETWORKS['tiny'])
    net.load('character_network.npz')
    assert net.arrays()['3.Conv2d.weight'].dtype == np.float32
    predict = network.even_class_counts(net.predict_augmented(test, 8))
    network.write_submission('expected.csv', predict.argmax(axis=1))
    assert read_bytes('expected.csv') == read_bytes('DLAD-test-predict.csv')
    with np.load('character_network.npz') as saved:
        dtypes = {str(saved[name].dtype) for name in saved.files}
    assert dtypes == {'float16'}


def test_every_size_is_a_network_and_has_its_epochs():
    assert list(train.NETWORKS) == list(train.TRAININGS)
    assert list(train.NETWORKS) == ['tiny', 'notebook', 'small', 'medium', 'large']
    sizes = []
    for settings in train.NETWORKS.values():
        net = network.character_network(**settings)
        sizes.append(sum(array.size for array in net.arrays().values()))
    assert sizes == sorted(sizes), 'expected that none is smaller than the one before'
    assert repr(net) == repr(network.character_network())


# The stand-in -------------------------------------------------------------------------------------

def test_predictions_for_the_stand_in_get_another_name_and_a_warning(lab, capsys):
    mark_as_stand_in(lab)
    write_csv(lab / 'test_labels.csv', np.arange(TEST_ROWS))
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    warning = '. holds the stand-in, not the data of the competition: do not hand in ' \
              'stand-in-predict.csv'
    assert lines[0] == warning and lines[-1] == warning, lines
    assert 'DLAD-test-predict.csv' not in files()
    check_submission('stand-in-predict.csv')
    predicted = [int(line.split(b',')[1])
                 for line in read_bytes('stand-in-predict.csv').splitlines()[1:]]
    accuracy = 100 * np.mean(np.array(predicted) == np.arange(TEST_ROWS))
    assert f'Test: {accuracy:.2f} %, balanced {accuracy:.2f} %' in lines, lines


def test_a_submission_with_a_name_of_its_own_keeps_it_beside_the_warning(lab, capsys):
    mark_as_stand_in(lab)
    assert run('--submission', 'mine.csv') == 0
    assert 'do not hand in mine.csv' in capsys.readouterr().out
    check_submission('mine.csv')


@pytest.mark.parametrize('other', ['train.csv', 'test.csv'])
def test_one_file_of_the_stand_in_is_enough_for_the_warning(lab, capsys, other):
    mark_as_stand_in(lab)
    content = read_bytes(other)
    (lab / other).write_bytes(content + content.splitlines()[0] + b'\n')
    assert run() == 0
    assert 'do not hand in' in capsys.readouterr().out
    assert 'stand-in-predict.csv' in files() and 'DLAD-test-predict.csv' not in files()


def test_other_data_beside_an_old_marker_is_not_called_a_stand_in(lab, capsys):
    mark_as_stand_in(lab)
    for name in ('train.csv', 'test.csv'):
        content = read_bytes(name)
        (lab / name).write_bytes(content + content.splitlines()[0] + b'\n')
    assert run() == 0
    assert 'stand-in' not in capsys.readouterr().out
    assert 'DLAD-test-predict.csv' in files()


# What is refused ----------------------------------------------------------------------------------

def test_missing_files_and_folders_are_refused_before_training(lab, capsys):
    refused(capsys, 'train.csv is missing', '--data', 'nowhere')
    for option in ('--checkpoint', '--weights', '--submission'):
        path = os.path.join('nowhere', 'file')
        refused(capsys, f'{path} cannot be written: make its folder first', option, path)
        refused(capsys, '. is a folder', option, '.')
    os.remove('test.csv')
    refused(capsys, 'test.csv is missing')


def test_files_that_would_overwrite_each_other_are_refused(lab, capsys):
    refused(capsys, 'are the same', '--weights', 'training.npz')
    refused(capsys, 'are the same', '--checkpoint', 'DLAD-test-predict.csv')
    refused(capsys, 'are the same', '--submission', 'character_network.csv')


def test_a_class_without_a_row_is_refused(lab, capsys):
    rows = np.loadtxt('train.csv', dtype=int, delimiter=',')
    write_csv('train.csv', rows[rows[:, 0] != 11])
    refused(capsys, 'train.csv has no row of 1 of the 47 classes, the labels [11]')


def test_a_test_with_fewer_rows_than_classes_is_refused(lab, capsys):
    rows = np.loadtxt('test.csv', dtype=int, delimiter=',')
    write_csv('test.csv', rows[:46])
    refused(capsys, 'test.csv has 46 rows, expected at least 47')


def test_test_labels_of_other_rows_are_refused(lab, capsys):
    write_csv(lab / 'test_labels.csv', np.arange(TEST_ROWS + 1))
    refused(capsys, 'test_labels.csv has 48 labels, expected 47')


def test_more_validation_rows_than_rows_are_refused(lab, capsys):
    refused(capsys, '100 of 100 rows', '--validation', '100')


def test_a_checkpoint_of_other_data_or_settings_is_refused(lab, capsys):
    assert run() == 0
    capsys.readouterr()
    refused(capsys, 'another training, which differs in epochs', '--epochs', '2')
    refused(capsys, 'differs in seed', '--seed', '1')
    refused(capsys, 'differs in training data, validation data', '--validation', '11')
    refused(capsys, 'training.npz.old is not a whole .npz', '--checkpoint', damaged_checkpoint())
    rows = np.loadtxt('train.csv', dtype=int, delimiter=',')
    rows[:, 1] = 255 - rows[:, 1]
    write_csv('train.csv', rows)
    refused(capsys, 'differs in training data, validation data')


def damaged_checkpoint():
    with open('training.npz.old', 'wb') as file:
        file.write(read_bytes('training.npz')[:-100])
    return 'training.npz.old'


@pytest.mark.parametrize('arguments', [
    ['--epochs', '0'], ['--validation', '-1'], ['--seed', '-1'], ['--epochs', 'two'],
    ['--network', 'huge'], ['more']], ids=' '.join)
def test_wrong_usage_ends_with_code_2(lab, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert 'usage: ' in capsys.readouterr().err and files() == ['test.csv', 'train.csv']


@pytest.mark.filterwarnings('ignore::RuntimeWarning')      # NumPy's, of the overflow
def test_a_training_that_diverges_ends_with_a_sentence(lab, capsys, monkeypatch):
    monkeypatch.setitem(train.CHARACTER_TRAINING, 'lr', 1e38)
    refused(capsys, 'epoch 1: ')


def test_a_weight_that_float16_cannot_hold_is_refused(tmp_path):
    path = tmp_path / 'weights.npz'
    net = network.Network([PixelScaling(), FullyConnected(784, 47)])
    for number in (1.0, -65504.0, 65504.0):
        net.layers[1].weight[3, 4] = number
        train.save_weights(net, str(path))
        net.load(str(path))
        assert net.layers[1].weight[3, 4] == number
    content = path.read_bytes()
    for number in (65505.0, -1e6):
        net.layers[1].weight[3, 4] = number
        with pytest.raises(ValueError, match='1.FullyConnected.weight has a number of size'):
            train.save_weights(net, str(path))
    assert path.read_bytes() == content


def test_a_disk_that_is_full_ends_with_a_sentence_and_the_old_files(lab, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, 'fsync', full)
    assert run() == 1
    error = capsys.readouterr().err
    assert 'training.npz' in error and os.strerror(28) in error and error.count('\n') == 1, error
    assert files() == ['test.csv', 'train.csv']


# Ctrl-C, terminals, other processes ---------------------------------------------------------------

def heed_ctrl_c():
    """A shell lets the programs that it starts in the background ignore Ctrl-C: undo that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder, *arguments, **environment):
    """The command in a process of its own, in `folder`."""
    prepare = heed_ctrl_c if os.name == 'posix' else None
    environment = dict(os.environ, **environment)
    return subprocess.Popen([sys.executable] + list(arguments), cwd=str(folder), env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=prepare)


@pytest.mark.skipif(os.name != 'posix', reason='needs signals')
def test_ctrl_c_ends_with_a_sentence_and_the_same_command_goes_on(lab):
    command = [COMMAND] + TINY + ['--epochs', '100000']
    process = start(lab, *command)
    deadline = time.time() + 60
    while not (lab / 'training.npz').exists() and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    errors = errors.decode().splitlines()
    assert process.returncode == 130, errors
    assert errors[-1] == 'train.py: stopped; the same command goes on from training.npz', errors
    assert 'Traceback' not in ''.join(errors)
    assert sorted(set(os.listdir(str(lab)))) == ['test.csv', 'train.csv', 'training.npz']
    first = network.read_npz('training.npz')
    assert '"epochs": 100000' in str(first['about'])


def test_ctrl_c_in_the_first_epoch_says_so(lab, capsys, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt()

    monkeypatch.setattr(train.Progress, 'on_batch', stop)
    assert run() == 130
    assert capsys.readouterr().err.endswith(
        'train.py: stopped before the first epoch was done; the same command starts again\n')


@pytest.mark.parametrize('terminal', [True, False])
def test_progress_within_an_epoch_is_shown_in_a_terminal_only(lab, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: terminal, raising=False)
    monkeypatch.setattr(train, 'PAUSE', 0)
    assert run('--epochs', '1') == 0
    output = capsys.readouterr().out
    assert output.count('\r') == (2 if terminal else 0), output
    assert ('\rEpoch:  1, 100 % done\rEpoch:  1 |Train' in output) == terminal, output


class NoCheckpoint(object):
    """A checkpoint that writes nothing."""

    def save(self):
        pass


def test_the_line_of_an_epoch_says_how_many_minutes_are_left(capsys):
    score = {'loss': 1.0, 'accuracy': 50.0, 'balanced_accuracy': 40.0}
    record = {'epoch': 3, 'epochs': 24, 'seconds': 120.0, 'train': score, 'validation': score}
    train.Progress(NoCheckpoint()).on_epoch(record)
    assert capsys.readouterr().out.endswith('|Balanced: 40.0000 |Time: 120.0 s |  42 min left\n')


def test_the_output_is_ascii_whatever_the_names_of_files_are(tmp_path):
    folder = tmp_path / 'd\u00e4ta'
    try:
        folder.mkdir()
    except UnicodeEncodeError:
        pytest.skip('this system cannot have such a name')
    write_data(folder)
    mark_as_stand_in(folder)
    arguments = [COMMAND, '--data', 'd\u00e4ta'] + TINY[2:]
    process = start(tmp_path, *arguments, PYTHONIOENCODING='ascii')
    output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert b'd\\xe4ta holds the stand-in' in output, output.decode()


WRITTEN = ['DLAD-test-predict.csv', 'character_network.csv', 'character_network.npz',
           'training.npz']


def written_bytes(folder, cores, threads, hash_seed, seed=0):
    """{file: digest} of what the command writes in a process of its own."""
    folder.mkdir()
    write_data(folder)
    arguments = [os.path.abspath(__file__), str(cores)] + TINY
    process = start(folder, *arguments, '--epochs', '2', '--seed', str(seed),
                    OPENBLAS_NUM_THREADS=str(threads), PYTHONHASHSEED=str(hash_seed))
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in WRITTEN}


@pytest.mark.parametrize('threads', [1, 2])
def test_the_same_seed_gives_the_same_bytes_in_every_process(tmp_path, threads):
    first = written_bytes(tmp_path / 'first', 2, threads, hash_seed=0)
    for cores, hash_seed in ((1, 1), (64, 2)):
        got = written_bytes(tmp_path / f'{cores} cores', cores, threads, hash_seed)
        different = [name for name in WRITTEN if got[name] != first[name]]
        assert not different, f'{cores} cores: other bytes in {different}'
    other = written_bytes(tmp_path / 'other', 2, threads, hash_seed=0, seed=1)
    equal = [name for name in WRITTEN if other[name] == first[name]]
    assert not equal, f'seeds 0 and 1 gave the same bytes in {equal}'


# The weights that are kept here -------------------------------------------------------------------

@pytest.mark.parametrize('name', ['character_network', 'character_network_all_rows'])
def test_the_weights_kept_here_load_into_their_network(name):
    net = network.character_network()
    before = net.copy_arrays()
    net.load(os.path.join(ROOT, 'leaderboard', f'{name}.npz'))
    for key, array in net.arrays().items():
        assert np.isfinite(array).all(), key
        if key.endswith('weight'):
            assert not np.array_equal(array, before[key]), f'{key} is as it was before loading'
    predict = net.predict(np.zeros((2, 784), np.uint8))
    np.testing.assert_allclose(predict.sum(axis=1), 1, rtol=1e-5)
