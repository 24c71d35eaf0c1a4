"""data/prepare.py: the stand-in's format and looks, the IDX conversion, the download, and every refusal."""
import errno
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile

import matplotlib
import numpy as np
import pytest

import network

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'data', 'prepare.py')
spec = importlib.util.spec_from_file_location('prepare', SCRIPT)
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)


def read_bytes(folder):
    """{file name: content} of a folder."""
    return {name: prepare.read_file(os.path.join(str(folder), name)) for name in os.listdir(str(folder))}


def load(folder, name):
    return np.loadtxt(os.path.join(str(folder), name), delimiter=',', dtype=int, ndmin=2)


def check_refusal(error, *wanted):
    """The message is one line that holds each wanted text."""
    for text in wanted:
        assert text in str(error.value), 'message {!r}: expected it to mention {!r}'.format(str(error.value), text)
    assert '\n' not in str(error.value), 'message {!r}: expected one line'.format(str(error.value))


def check_folder(folder, expected):
    found = sorted(os.listdir(str(folder)))
    assert found == sorted(expected), 'files in {}: got {}, expected {}'.format(folder, found, sorted(expected))


# ---------------------------------------------------------------- the stand-in

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('stand-in'))
    prepare.make_stand_in(folder, train_rows=1900, test_rows=480, seed=3)
    return folder


def test_stand_in_has_the_labs_format(small):
    check_folder(small, prepare.FILES)
    for name, shape, largest in (('train.csv', (1900, 785), 255), ('test.csv', (480, 784), 255),
                                 ('test_labels.csv', (480, 1), 46)):
        table = load(small, name)
        assert table.shape == shape, '{}: got shape {}, expected {}'.format(name, table.shape, shape)
        assert table.min() == 0 and table.max() == largest, '{}: got values {}..{}, expected 0..{}'.format(
            name, table.min(), table.max(), largest)


def test_labels_mean_the_same_as_in_the_network():
    assert prepare.CHARACTERS == network.CLASS_NAMES


def test_stand_in_classes_are_even_and_shuffled(small):
    for name in ('train.csv', 'test_labels.csv'):
        labels = load(small, name)[:, 0]
        counts = np.bincount(labels, minlength=47)
        assert len(counts) == 47 and counts.max() - counts.min() <= 1, '{}: got class counts {}'.format(name, counts)
        in_order = np.mean((labels[1:] - labels[:-1]) % 47 == 1)
        assert in_order < 0.1, '{}: {:.0%} of the labels just count up, expected a shuffle'.format(name, in_order)


def test_stand_in_is_learnable_and_its_test_labels_fit(small):
    train, test, labels = load(small, 'train.csv'), load(small, 'test.csv'), load(small, 'test_labels.csv')[:, 0]
    means = np.array([train[train[:, 0] == label, 1:].mean(axis=0) for label in range(47)])
    nearest = (-2 * test @ means.T + (means ** 2).sum(axis=1)).argmin(axis=1)
    accuracy = np.mean(nearest == labels)
    assert 0.4 < accuracy < 0.85, 'nearest class mean on test.csv: got {:.1%}, expected 40..85 %'.format(accuracy)


def test_stand_in_images_are_stored_transposed(small):
    train = load(small, 'train.csv')
    for character, heavy in (('L', 'left bottom'), ('F', 'left top'), ('7', 'right top'), ('J', 'right bottom')):
        images = train[train[:, 0] == prepare.CHARACTERS.index(character), 1:].reshape(-1, 28, 28)
        upright = images.mean(axis=0).T
        got = '{} {}'.format('left' if upright[:, :14].sum() > upright[:, 14:].sum() else 'right',
                             'top' if upright[:14].sum() > upright[14:].sum() else 'bottom')
        assert got == heavy, 'mean {!r} transposed: most ink {}, expected {}'.format(character, got, heavy)


def test_stand_in_images_are_centred_and_scaled_like_emnist(small):
    images = load(small, 'train.csv')[:, 1:].reshape(-1, 28, 28)
    assert (images.max(axis=(1, 2)) == 255).all(), 'darkest pixels: got {}, expected 255 in each image'.format(
        np.unique(images.max(axis=(1, 2))))
    extents = []
    for axis in (1, 2):
        inked = (images > 100).any(axis=axis)
        first, last = inked.argmax(axis=1), 27 - inked[:, ::-1].argmax(axis=1)
        middle = ((first + last) / 2).mean()
        assert abs(middle - 13.5) < 0.3, 'axis {}: mean middle of the ink {}, expected 13.5'.format(axis, middle)
        extents.append(last - first + 1)
    longer = np.max(extents, axis=0)
    assert 21 <= np.percentile(longer, 2) and longer.max() <= 26, (
        'longer side: got {}..{} px, expected about 24'.format(longer.min(), longer.max()))


def test_same_seed_same_bytes_and_test_rows_do_not_depend_on_train_rows(tmp_path):
    made = {}
    for name, rows, seed in (('a', 30, 1), ('again', 30, 1), ('other seed', 30, 2), ('more rows', 40, 1)):
        prepare.make_stand_in(str(tmp_path / name), train_rows=rows, test_rows=20, seed=seed)
        made[name] = read_bytes(tmp_path / name)
    assert made['a'] == made['again'], 'seed 1 twice: got different bytes, expected the same'
    for name in prepare.FILES:
        assert made['a'][name] != made['other seed'][name], '{}: seeds 1 and 2 gave the same bytes'.format(name)
    assert made['a']['test.csv'] == made['more rows']['test.csv'], 'test.csv changed with the number of train rows'


@pytest.mark.parametrize('rows', [1, 7, 8, 25])
def test_any_number_of_rows_and_progress_to_the_end(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(prepare, 'BLOCK', 8)
    reports = []
    prepare.make_stand_in(str(tmp_path), rows, rows, report=lambda *report: reports.append(report))
    got = [len(load(tmp_path, name)) for name in prepare.FILES]
    assert got == [rows] * 3, 'rows in {}: got {}, expected {} each'.format(prepare.FILES, got, rows)
    for name in prepare.FILES:
        assert ('rows of ' + name, rows, rows) in reports, "no report of {}'s end in {}".format(name, reports)


def test_every_font_draws_47_different_characters():
    maps = prepare.distance_maps()
    for name, font_maps in zip(prepare.FONTS, maps):
        path = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', name + '.ttf')
        font = prepare.FT2Font(path)
        lacking = [character for character in prepare.CHARACTERS if font.get_char_index(ord(character)) == 0]
        assert not lacking, '{} lacks {}'.format(name, lacking)
        different = len({(font_map > 0).tobytes() for font_map in font_maps})
        assert different == 47, '{}: got {} different shapes, expected 47'.format(name, different)


def test_distance_is_the_distance_to_the_nearest_true_cell():
    mask = np.random.default_rng(0).random((3, 20, 17)) < 0.01
    rows, columns = np.mgrid[:20, :17]
    expected = np.full(mask.shape, float(prepare.REACH))
    for image, row, column in np.argwhere(mask):
        expected[image] = np.minimum(expected[image], np.hypot(rows - row, columns - column))
    error = np.abs(prepare.distance_to(mask) - expected).max()
    assert error < 1e-5, 'distance_to differs from the brute-force distance by {}'.format(error)


# ---------------------------------------------------------------- refusals, and no half-written files

@pytest.mark.parametrize('changes, wanted', [
    (dict(train_rows=0), 'train rows must be 1 or more, not 0'),
    (dict(test_rows=-3), 'test rows must be 1 or more, not -3'), (dict(seed=-1), 'seed must be 0 or more')])
@pytest.mark.parametrize('make', ['stand-in', 'idx'])
def test_bad_numbers_are_refused(tmp_path, capsys, make, changes, wanted):
    arguments = [make] + ([str(tmp_path)] if make == 'idx' else []) + ['--folder', str(tmp_path)]
    for name, value in changes.items():
        arguments.append('--{}={}'.format(name.replace('_', '-'), value))
    code, message = prepare.main(arguments), capsys.readouterr().err
    assert code == 2 and wanted in message and message.count('\n') == 1, '{}: got exit code {} and {!r}'.format(
        arguments, code, message)
    check_folder(tmp_path, [])


@pytest.mark.parametrize('name', prepare.FILES)
def test_existing_files_are_kept_unless_forced(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b'precious')
    arguments = ['stand-in', '--folder', str(tmp_path), '--train-rows', '2', '--test-rows', '2']
    code, message = prepare.main(arguments), capsys.readouterr().err
    assert code == 2 and name in message and '--force' in message, 'got exit code {} and {!r}'.format(code, message)
    assert read_bytes(tmp_path) == {name: b'precious'}, '{} was touched'.format(name)
    code = prepare.main(arguments + ['--force'])
    assert code == 0 and len(load(tmp_path, name)) == 2, '--force: got exit code {}, expected 0'.format(code)
    check_folder(tmp_path, prepare.FILES)


def test_errors_and_interrupts_leave_nothing_behind(tmp_path, monkeypatch):
    def interrupted(*report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.make_stand_in(str(tmp_path), 20, 20, report=interrupted)
    check_folder(tmp_path, [])
    in_the_way = tmp_path / 'file'
    in_the_way.write_bytes(b'')
    with pytest.raises(OSError) as error:
        prepare.make_stand_in(str(in_the_way / 'folder'), 20, 20)
    check_refusal(error, 'cannot write to', 'file', 'choose another folder')

    def disk_full(rows):
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(prepare, 'csv_text', disk_full)
    with pytest.raises(OSError) as error:
        prepare.make_stand_in(str(tmp_path), 20, 20)
    check_refusal(error, 'cannot write to {}'.format(tmp_path), 'No space left', 'free space')
    check_folder(tmp_path, ['file'])


@pytest.mark.skipif(os.name == 'nt', reason='POSIX signals')
def test_a_polite_kill_leaves_nothing_behind(tmp_path):
    process = subprocess.Popen([sys.executable, SCRIPT, 'stand-in', '--folder', str(tmp_path)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not os.listdir(str(tmp_path)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate()
    assert process.returncode == 130 and b'interrupted' in message, 'got exit code {} and {!r}'.format(
        process.returncode, message)
    check_folder(tmp_path, [])


def test_command_line_help_and_usage(capsys):
    for arguments, code in ((['--help'], 0), (['idx', '--help'], 0), ([], 2), (['idx'], 2), (['stand-in', '--x'], 2)):
        with pytest.raises(SystemExit) as end:
            prepare.main(arguments)
        assert end.value.code == code, '{}: got exit code {}, expected {}'.format(arguments, end.value.code, code)
    assert 'source' in capsys.readouterr().out, 'idx --help does not name its argument'


def test_progress_tells_the_time_left(capsys):
    progress = prepare.Progress()
    progress.started -= 30
    progress.shown -= 30
    progress('rows of train.csv', 1000, 4000)
    got = capsys.readouterr().err
    assert got.startswith('1,000 of 4,000 rows of train.csv, about 90 s left'), 'got {!r}'.format(got)


# ---------------------------------------------------------------- IDX files

def idx_bytes(values, magic=None, sizes=None):
    """A gzipped IDX file of a uint8 array, on demand with a lying header."""
    sizes = values.shape if sizes is None else sizes
    header = struct.pack('>{}I'.format(1 + len(sizes)), magic or 0x0800 + len(sizes), *sizes)
    return gzip.compress(header + values.tobytes())


RANDOM = np.random.default_rng(7)
IMAGES, LABELS = RANDOM.integers(0, 256, (60, 28, 28), dtype=np.uint8), (np.arange(60) % 47).astype(np.uint8)
GOOD_IMAGES, GOOD_LABELS = idx_bytes(IMAGES), idx_bytes(LABELS)


def write_idx(folder, images=GOOD_IMAGES, labels=GOOD_LABELS):
    for name, content in ((prepare.IMAGES_NAME, images), (prepare.LABELS_NAME, labels)):
        if content is not None:
            with open(os.path.join(str(folder), name), 'wb') as file:
                file.write(content)


def test_idx_rows_are_shuffled_and_split_and_otherwise_unchanged(tmp_path):
    write_idx(tmp_path)
    for name, seed in (('a', 0), ('again', 0), ('other', 1)):
        prepare.make_from_idx(str(tmp_path), str(tmp_path / name), train_rows=40, test_rows=20, seed=seed)
    assert read_bytes(tmp_path / 'a') == read_bytes(tmp_path / 'again'), 'seed 0 twice: got different bytes'
    assert read_bytes(tmp_path / 'a') != read_bytes(tmp_path / 'other'), 'seeds 0 and 1: got the same bytes'
    test = np.hstack([load(tmp_path / 'a', 'test_labels.csv'), load(tmp_path / 'a', 'test.csv')])
    train = load(tmp_path / 'a', 'train.csv')
    original = np.hstack([LABELS[:, None], IMAGES.reshape(60, 784)]).tolist()
    assert (len(train), len(test)) == (40, 20), 'got {} + {} rows, expected 40 + 20'.format(len(train), len(test))
    written = train.tolist() + test.tolist()
    assert written != original, "rows are in the file's order, expected a shuffle"
    assert sorted(written) == sorted(original), "train and test rows together are not the file's rows"


@pytest.mark.parametrize('file, content, wanted', [
    ('images', None, 'is missing'), ('labels', None, 'is missing'),
    ('images', b'not gzip', 'cannot be read'), ('images', GOOD_IMAGES[:-2000], 'cannot be read'),
    ('images', GOOD_IMAGES[:20000] + b'????' + GOOD_IMAGES[20004:], 'cannot be read'),
    ('labels', GOOD_LABELS[:-8] + b'????' + GOOD_LABELS[-4:], 'cannot be read'),
    ('images', gzip.compress(b'\0\0'), '16-byte header'), ('images', GOOD_LABELS, '2049, expected 2051'),
    ('labels', GOOD_IMAGES, '2051, expected 2049'), ('images', idx_bytes(IMAGES, magic=0x0D03), 'expected 2051'),
    ('images', idx_bytes(IMAGES, sizes=(60, 14, 56)), '(14, 56), expected 1..1000000 of shape (28, 28)'),
    ('images', idx_bytes(IMAGES, sizes=(2 ** 32 - 1, 28, 28)), 'claims 4294967295 items'),
    ('images', idx_bytes(IMAGES, sizes=(61, 28, 28)), '47040 bytes of values, expected 47824'),
    ('labels', idx_bytes(LABELS, sizes=(59,)), 'more bytes of values, expected 59'),
    ('labels', idx_bytes(LABELS[:50]), '60 images but'), ('labels', idx_bytes(LABELS + 1), 'label 47, expected 0..46'),
])
def test_idx_faults_are_named(tmp_path, capsys, file, content, wanted):
    write_idx(tmp_path, **{file: content})
    output = str(tmp_path / 'out')
    with pytest.raises((ValueError, OSError)) as error:
        prepare.make_from_idx(str(tmp_path), output, train_rows=40, test_rows=20)
    check_refusal(error, wanted, getattr(prepare, file.upper() + '_NAME'), 'fetch')
    code = prepare.main(['idx', str(tmp_path), '--folder', output, '--train-rows', '40', '--test-rows', '20'])
    assert code == 2 and str(error.value) in capsys.readouterr().err, 'got exit code {}, expected 2'.format(code)
    assert not os.path.exists(output), '{} was made all the same'.format(output)


def test_idx_with_too_few_rows_is_refused(tmp_path):
    write_idx(tmp_path)
    with pytest.raises(ValueError) as error:
        prepare.make_from_idx(str(tmp_path), str(tmp_path / 'out'))
    check_refusal(error, prepare.IMAGES_NAME, '60 images', '100000 + 12800', 'fewer rows')


# ---------------------------------------------------------------- download, from a server on this machine

def make_zip(images=GOOD_IMAGES):
    """A zip of NIST's shape: much else, one member deflated, one stored."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('gzip/emnist-byclass-train-images-idx3-ubyte.gz', bytes(500000))
        archive.writestr('gzip/' + prepare.LABELS_NAME, GOOD_LABELS)
        archive.writestr('gzip/' + prepare.IMAGES_NAME, images, compress_type=zipfile.ZIP_DEFLATED)
    return file.getvalue()


GOOD_ZIP = make_zip()
MEMBERS = {'gzip/' + name: hashlib.sha256(content).hexdigest()
           for name, content in ((prepare.IMAGES_NAME, GOOD_IMAGES), (prepare.LABELS_NAME, GOOD_LABELS))}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.content as server.behaviour(number of the request) says."""

    def do_GET(self):
        server, content = self.server, self.server.content
        behaviour = server.behaviour(len(server.requests))
        start, stop = (int(number) for number in self.headers['Range'][len('bytes='):].split('-'))
        server.requests.append((start, stop + 1))
        if isinstance(behaviour, int):
            self.send_error(behaviour)
        elif '://' in behaviour:
            self.send_response(302)
            self.send_header('Location', behaviour)
            self.end_headers()
        else:
            part = content if behaviour == 'whole' else content[start:stop + 1]
            first = start + 1 if behaviour == 'other range' else start
            self.send_response(200 if behaviour == 'whole' else 206)
            self.send_header('Content-Length', str(len(part)))
            if behaviour != 'whole':
                self.send_header('Content-Range', 'bytes {}-{}/{}'.format(first, stop, len(content)))
            self.end_headers()
            self.wfile.write(part[:len(part) // 2] if behaviour == 'cut' else part)

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:                     # the client had seen enough
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(prepare, 'CHUNK', 10000)
    web = http.server.HTTPServer(('127.0.0.1', 0), Handler)
    web.content, web.requests, web.behaviour = GOOD_ZIP, [], lambda number: 'ranges'
    web.url = 'http://127.0.0.1:{}/gzip.zip'.format(web.server_port)
    thread = threading.Thread(target=web.serve_forever, args=(0.02,))
    thread.start()
    yield web
    web.shutdown()
    thread.join()
    web.server_close()


def download(server, folder, **changes):
    options = dict(url=server.url, members=MEMBERS, allow_loopback_http=True, pause=0.001)
    options.update(changes)
    prepare.download(str(folder), **options)


def check_download(folder):
    expected = {prepare.IMAGES_NAME: GOOD_IMAGES, prepare.LABELS_NAME: GOOD_LABELS}
    assert read_bytes(folder) == expected, "got files {}, expected exactly {} with the zip's content".format(
        sorted(os.listdir(str(folder))), sorted(expected))


def test_download_fetches_only_the_two_members(server, tmp_path):
    download(server, tmp_path / 'new' / 'folder')
    check_download(tmp_path / 'new' / 'folder')
    asked = sum(stop - start for start, stop in server.requests)
    assert asked < len(GOOD_IMAGES) + len(GOOD_LABELS) + 5000, "asked for {} of the zip's {} bytes".format(
        asked, len(GOOD_ZIP))
    before = len(server.requests)
    download(server, tmp_path / 'new' / 'folder')
    assert len(server.requests) == before, '{} more requests though the files were there'.format(
        len(server.requests) - before)


@pytest.mark.parametrize('fault', ['cut', 503, 'redirect'])
def test_download_goes_on_after_passing_faults(server, tmp_path, fault):
    answer = server.url + '?moved' if fault == 'redirect' else fault
    server.behaviour = lambda number: 'ranges' if number % 3 else answer
    download(server, tmp_path)
    check_download(tmp_path)


def test_download_that_broke_off_is_resumed_by_the_next_call(server, tmp_path):
    server.behaviour = lambda number: 'ranges' if number < 7 else 'cut'
    with pytest.raises(OSError) as error:
        download(server, tmp_path)
    check_refusal(error, server.url, 'try again')
    part = prepare.IMAGES_NAME + '.part'
    check_folder(tmp_path, [part])
    kept = os.path.getsize(str(tmp_path / part))
    assert kept >= 10000, '{}: got {} bytes, expected the chunks that had arrived'.format(part, kept)
    assert len(server.requests) < 20, '{} requests before giving up, expected a few'.format(len(server.requests))
    server.behaviour, server.requests = lambda number: 'ranges', []
    download(server, tmp_path)
    check_download(tmp_path)
    asked = sum(stop - start for start, stop in server.requests)
    assert asked < len(GOOD_IMAGES) - kept + 5000, 'asked for {} bytes though {} were there'.format(asked, kept)


@pytest.mark.parametrize('behaviour, most_requests, wanted', [
    (404, 1, '404'), (503, prepare.ATTEMPTS, '503'), ('cut', prepare.ATTEMPTS, 'try again later'),
    ('whole', 1, 'prepare.py idx'), ('other range', 1, 'prepare.py idx'),
    ('http://example.com/gzip.zip', 1, 'only https'), ('ftp://127.0.0.1/gzip.zip', 1, 'only https'),
    ('redirect to itself', 20, '302')])
def test_download_refuses_or_gives_up_after_few_requests(server, tmp_path, behaviour, most_requests, wanted):
    server.behaviour = lambda number: server.url if behaviour == 'redirect to itself' else behaviour
    with pytest.raises((ValueError, OSError)) as error:
        download(server, tmp_path)
    assert wanted in str(error.value), 'message {!r}: expected it to mention {!r}'.format(str(error.value), wanted)
    assert len(server.requests) <= most_requests, '{} requests, expected {} at most'.format(
        len(server.requests), most_requests)
    check_folder(tmp_path, [])


@pytest.mark.parametrize('content, wanted', [
    (make_zip(idx_bytes(IMAGES + 1)), 'sha256'), (GOOD_ZIP[:-100] + bytes(100), 'not a sound zip'),
    (GOOD_ZIP.replace(b'balanced', b'bylettrs'), "not EMNIST's zip"), (b'tiny', "not EMNIST's zip")])
def test_download_refuses_wrong_content_and_deletes_it(server, tmp_path, content, wanted):
    server.content = content
    with pytest.raises(ValueError) as error:
        download(server, tmp_path)
    check_refusal(error, wanted)
    check_folder(tmp_path, [])


def test_download_refuses_a_damaged_member_a_stale_part_and_an_oversized_member(server, tmp_path, monkeypatch):
    middle = GOOD_ZIP.index(prepare.IMAGES_NAME.encode()) + 5000
    server.content = GOOD_ZIP[:middle] + bytes(50) + GOOD_ZIP[middle + 50:]
    part = tmp_path / (prepare.IMAGES_NAME + '.part')
    for stale in (b'', b'stale', b'?' * 100000):
        part.write_bytes(stale)
        with pytest.raises(ValueError) as error:
            download(server, tmp_path)
        check_refusal(error, 'sha256', 'deleted')
        check_folder(tmp_path, [])
    monkeypatch.setattr(prepare, 'MOST_MEMBER_BYTES', 100)
    with pytest.raises(ValueError) as error:
        download(server, tmp_path)
    check_refusal(error, 'impossible size')


def test_download_is_https_only_by_default(server, tmp_path, capsys):
    for url in (server.url, 'file:///etc/hostname', 'nonsense'):
        code = prepare.main(['download', '--folder', str(tmp_path), '--url', url])
        message = capsys.readouterr().err
        assert code == 2 and message.count('\n') == 1, '{}: got exit code {} and {!r}'.format(url, code, message)
    assert not server.requests, 'got {} requests, expected none'.format(len(server.requests))


def test_download_command_converts_what_it_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, 'download', lambda folder, url, report: write_idx(folder))
    code = prepare.main(['download', '--folder', str(tmp_path), '--train-rows', '50', '--test-rows', '10'])
    assert code == 0, 'got exit code {}, expected 0'.format(code)
    check_folder(tmp_path, prepare.FILES + (prepare.IMAGES_NAME, prepare.LABELS_NAME))
