"""data/official.py: the IDX conversion, the download from a server on this machine, refusals."""
import gzip
import hashlib
import http.server
import io
import os
import ssl
import struct
import threading
import urllib.error
import zipfile

import numpy as np
import pytest

import data_files
from data_files import read_folder, read_table
import csv_files
import official

RANDOM = np.random.default_rng(7)
IMAGES = RANDOM.integers(0, 256, (60, 28, 28), dtype=np.uint8)
LABELS = (np.arange(60) % 47).astype(np.uint8)


def idx_bytes(values, magic=None, sizes=None):
    """An IDX file of a uint8 array, on demand with a false header."""
    sizes = values.shape if sizes is None else sizes
    magic = magic or 0x0800 + len(sizes)
    return struct.pack(f'>{1 + len(sizes)}I', magic, *sizes) + values.tobytes()


def packed(values, **header):
    return gzip.compress(idx_bytes(values, **header))


GOOD_IMAGES = packed(IMAGES)
GOOD_LABELS = packed(LABELS)


def write_idx(folder, images=GOOD_IMAGES, labels=GOOD_LABELS, ending='.gz'):
    os.makedirs(str(folder), exist_ok=True)
    for name, content in ((official.IMAGES_NAME, images), (official.LABELS_NAME, labels)):
        if content is not None:
            path = os.path.join(str(folder), name[:-len('.gz')] + ending)
            with open(path, 'wb') as file:
                file.write(content)


def convert(source, folder, seed=0):
    official.make_from_idx(str(source), str(folder), train_rows=40, test_rows=20, seed=seed)
    return read_folder(folder)


# IDX files ----------------------------------------------------------------------------------------

def test_rows_are_shuffled_and_split_and_otherwise_unchanged(tmp_path):
    write_idx(tmp_path / 'idx')
    made = convert(tmp_path / 'idx', tmp_path / 'a')
    assert made == convert(tmp_path / 'idx', tmp_path / 'again'), 'seed 0 twice: different bytes'
    assert made != convert(tmp_path / 'idx', tmp_path / 'other', 1), 'seeds 0 and 1: same bytes'
    labels = read_table(tmp_path / 'a', 'test_labels.csv')
    test = np.hstack([labels, read_table(tmp_path / 'a', 'test.csv')])
    train = read_table(tmp_path / 'a', 'train.csv')
    assert (len(train), len(test)) == (40, 20), f'got {len(train)} + {len(test)} rows, not 40 + 20'
    original = np.hstack([LABELS[:, None], IMAGES.reshape(60, 784)]).tolist()
    written = train.tolist() + test.tolist()
    assert written != original, "rows are in the file's order, expected a shuffle"
    assert sorted(written) == sorted(original), "train and test rows are not the file's rows"


def test_real_files_take_the_stand_ins_marker_away(tmp_path):
    write_idx(tmp_path)
    out = tmp_path / 'out'
    out.mkdir()
    (out / csv_files.MARKER).write_bytes(b'train.csv 1 bytes\n')
    convert(tmp_path, out)
    data_files.check_folder(out, csv_files.FILES)


@pytest.mark.parametrize('ending, content', [
    ('.gz', (GOOD_IMAGES, GOOD_LABELS)), ('', (idx_bytes(IMAGES), idx_bytes(LABELS))),
    ('.gz', (idx_bytes(IMAGES), idx_bytes(LABELS)))],
    ids=['gzip', 'unpacked', 'unpacked by the browser under the same name'])
@pytest.mark.parametrize('place', ['.', 'gzip'])
@pytest.mark.parametrize('given', ['folder', 'file'])
def test_packed_and_unpacked_files_are_found(tmp_path, ending, content, place, given):
    """In the folder, one folder down, and beside a file that is given for the folder."""
    images, labels = content
    source = tmp_path / 'EMNIST [balanced]'
    write_idx(source / place, images, labels, ending)
    made = convert(source, tmp_path / 'expected')
    if given == 'file':
        source = source / 'readme.txt'
        source.write_bytes(b'')
    assert convert(source, tmp_path / 'out') == made, 'got other files'
    assert len(read_table(tmp_path / 'out', 'train.csv')) == 40


def test_a_zip_and_a_missing_folder_are_refused(tmp_path):
    path = str(tmp_path / 'gzip.zip')
    zipfile.ZipFile(path, 'w').close()
    for source, wanted in ((path, 'unpack it'), (str(tmp_path / 'none'), 'give the folder')):
        with pytest.raises((ValueError, OSError)) as error:
            convert(source, tmp_path / 'out')
        data_files.check_message(str(error.value), source, wanted)


@pytest.mark.parametrize('split', ['letters', 'digits', 'byclass'])
def test_the_files_of_another_split_are_named(tmp_path, split):
    (tmp_path / f'emnist-{split}-train-images-idx3-ubyte.gz').write_bytes(GOOD_IMAGES)
    with pytest.raises(FileNotFoundError) as error:
        convert(tmp_path, tmp_path / 'out')
    data_files.check_message(str(error.value), split, official.IMAGES_NAME, 'only the Balanced')


@pytest.mark.parametrize('file, content, wanted', [
    ('images', None, 'is missing'), ('labels', None, 'is missing'),
    ('images', b'not gzip', '16-byte header'), ('images', b'', '16-byte header'),
    ('images', GOOD_IMAGES[:-2000], 'cannot be read'),
    ('images', GOOD_IMAGES[:20000] + b'????' + GOOD_IMAGES[20004:], 'cannot be read'),
    ('labels', GOOD_LABELS[:-8] + b'????' + GOOD_LABELS[-4:], 'cannot be read'),
    ('images', gzip.compress(b'\0\0'), '16-byte header'),
    ('images', GOOD_LABELS, '2049, expected 2051'), ('labels', GOOD_IMAGES, '2051, expected 2049'),
    ('images', packed(IMAGES, magic=0x0D03), 'expected 2051'),
    ('images', packed(IMAGES, sizes=(60, 14, 56)),
     '(14, 56), expected 1..1000000 of shape (28, 28)'),
    ('images', packed(IMAGES, sizes=(2 ** 32 - 1, 28, 28)), 'claims 4294967295 items'),
    ('images', packed(IMAGES, sizes=(61, 28, 28)), '47040 bytes of values, expected 47824'),
    ('labels', packed(LABELS, sizes=(59,)), 'more bytes of values, expected 59'),
    ('labels', packed(LABELS[:50]), '60 images but'),
    ('labels', packed(LABELS + 1), 'label 47, expected 0..46'),
    ('labels', packed(LABELS % 10), '10 of the 47 classes, labels 0..9: it is not the Balanced'),
    ('labels', packed(1 + LABELS % 26), '26 of the 47 classes, labels 1..26: it is not the'),
])
def test_idx_faults_are_named(tmp_path, file, content, wanted):
    write_idx(tmp_path, **{file: content})
    with pytest.raises((ValueError, OSError)) as error:
        convert(tmp_path, tmp_path / 'out')
    name = getattr(official, f'{file.upper()}_NAME')
    data_files.check_message(str(error.value), wanted, name, 'fetch')
    assert not (tmp_path / 'out').exists(), 'the folder was made all the same'


def test_too_few_rows_are_refused(tmp_path):
    write_idx(tmp_path)
    with pytest.raises(ValueError) as error:
        official.make_from_idx(str(tmp_path), str(tmp_path / 'out'))
    data_files.check_message(str(error.value), official.IMAGES_NAME, '60 images', '100000 + 12800',
                             'fewer rows')


# Download -----------------------------------------------------------------------------------------

def make_zip(images=GOOD_IMAGES):
    """A zip like NIST's: much else, one member deflated, one stored."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('gzip/emnist-byclass-train-images-idx3-ubyte.gz', bytes(500000))
        archive.writestr(f'gzip/{official.LABELS_NAME}', GOOD_LABELS)
        archive.writestr(f'gzip/{official.IMAGES_NAME}', images, zipfile.ZIP_DEFLATED)
    return file.getvalue()


GOOD_ZIP = make_zip()
MEMBERS = {f'gzip/{official.IMAGES_NAME}': hashlib.sha256(GOOD_IMAGES).hexdigest(),
           f'gzip/{official.LABELS_NAME}': hashlib.sha256(GOOD_LABELS).hexdigest()}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.content as server.behaviour(number of the request) says."""

    def do_GET(self):
        server = self.server
        behaviour = server.behaviour(len(server.requests))
        first, last = self.headers['Range'][len('bytes='):].split('-')
        start = int(first)
        stop = int(last) + 1
        server.requests.append((start, stop))
        if isinstance(behaviour, int):
            self.send_error(behaviour)
        elif '://' in behaviour:
            self.send_response(302)
            self.send_header('Location', behaviour)
            self.end_headers()
        elif behaviour == 'whole':
            self.send_part(200, server.content, None)
        else:
            claimed = start + 1 if behaviour == 'other range' else start
            part = server.content[start:stop]
            self.send_part(206, part, f'bytes {claimed}-{stop - 1}/{len(server.content)}',
                           cut=behaviour == 'cut')

    def send_part(self, code, part, content_range, cut=False):
        self.send_response(code)
        self.send_header('Content-Length', str(len(part)))
        if content_range:
            self.send_header('Content-Range', content_range)
        self.end_headers()
        self.wfile.write(part[:len(part) // 2] if cut else part)

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:                     # the client has seen enough
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(official, 'CHUNK', 10000)
    web = http.server.HTTPServer(('127.0.0.1', 0), Handler)
    web.content = GOOD_ZIP
    web.requests = []
    web.behaviour = lambda number: 'ranges'
    web.url = f'http://127.0.0.1:{web.server_port}/gzip.zip'
    thread = threading.Thread(target=web.serve_forever, args=(0.02,))
    thread.start()
    yield web
    web.shutdown()
    thread.join()
    web.server_close()


def download(server, folder):
    official.download(str(folder), url=server.url, members=MEMBERS, allow_loopback_http=True,
                      pause=0.001)


def check_download(folder):
    expected = {official.IMAGES_NAME: GOOD_IMAGES, official.LABELS_NAME: GOOD_LABELS}
    got = read_folder(folder)
    assert got == expected, f"got files {sorted(got)}, expected the zip's {sorted(expected)}"


def asked_bytes(server):
    return sum(stop - start for start, stop in server.requests)


def test_only_the_two_members_are_fetched(server, tmp_path):
    folder = tmp_path / 'new' / 'folder'
    download(server, folder)
    check_download(folder)
    asked = asked_bytes(server)
    assert asked < len(GOOD_IMAGES) + len(GOOD_LABELS) + 5000, (
        f"asked for {asked} of the zip's {len(GOOD_ZIP)} bytes")
    before = len(server.requests)
    download(server, folder)
    assert len(server.requests) == before, 'more requests though the files were there'


@pytest.mark.parametrize('fault', ['cut', 503, 'redirect'])
def test_download_goes_on_after_passing_faults(server, tmp_path, fault):
    answer = f'{server.url}?moved' if fault == 'redirect' else fault
    server.behaviour = lambda number: 'ranges' if number % 3 else answer
    download(server, tmp_path)
    check_download(tmp_path)


def test_download_that_broke_off_is_resumed_by_the_next_call(server, tmp_path):
    server.behaviour = lambda number: 'ranges' if number < 7 else 'cut'
    with pytest.raises(OSError) as error:
        download(server, tmp_path)
    data_files.check_message(str(error.value), server.url, 'try again')
    part = f'{official.IMAGES_NAME}.part'
    data_files.check_folder(tmp_path, [part])
    kept = os.path.getsize(str(tmp_path / part))
    assert kept >= 10000, f'{part}: got {kept} bytes, expected the chunks that had arrived'
    assert len(server.requests) < 20, f'{len(server.requests)} requests before giving up'
    server.behaviour = lambda number: 'ranges'
    server.requests = []
    download(server, tmp_path)
    check_download(tmp_path)
    asked = asked_bytes(server)
    assert asked < len(GOOD_IMAGES) - kept + 5000, f'asked for {asked} bytes, {kept} were there'


@pytest.mark.parametrize('behaviour, most_requests, wanted', [
    (403, 1, '403'), (404, 1, '404'), (429, 1, '429'), ('whole', 1, 'does not send parts'),
    ('other range', 1, 'does not send parts')])
def test_what_another_try_will_not_change_names_the_browser(server, tmp_path, behaviour,
                                                            most_requests, wanted):
    server.behaviour = lambda number: behaviour
    with pytest.raises((ValueError, OSError)) as error:
        download(server, tmp_path)
    data_files.check_message(str(error.value), wanted, 'with a browser', 'prepare.py idx FOLDER')
    assert 'try again' not in str(error.value), f'{error.value}: another try will not help'
    assert len(server.requests) <= most_requests, f'{len(server.requests)} requests'
    data_files.check_folder(tmp_path, [])


def test_an_unknown_certificate_names_the_browser(tmp_path, monkeypatch):
    asked = []

    def unknown(*arguments, **options):
        asked.append(arguments)
        reason = ssl.SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed')
        raise urllib.error.URLError(reason)

    monkeypatch.setattr(official.urllib.request.OpenerDirector, 'open', unknown)
    with pytest.raises(OSError) as error:
        official.download(str(tmp_path), pause=0.001)
    data_files.check_message(str(error.value), 'certificate', 'with a browser')
    assert len(asked) == 1, f'{len(asked)} requests, expected 1'


@pytest.mark.parametrize('behaviour, most_requests, wanted', [
    (503, official.ATTEMPTS, '503'), ('cut', official.ATTEMPTS, 'try again later'),
    ('http://example.com/gzip.zip', 1, 'only https'), ('ftp://127.0.0.1/gzip.zip', 1, 'only https'),
    ('redirect to itself', 20, '302')])
def test_download_refuses_or_gives_up_after_few_requests(server, tmp_path, behaviour,
                                                         most_requests, wanted):
    answer = server.url if behaviour == 'redirect to itself' else behaviour
    server.behaviour = lambda number: answer
    with pytest.raises((ValueError, OSError)) as error:
        download(server, tmp_path)
    assert wanted in str(error.value), f'message {error.value}: expected it to mention {wanted}'
    assert len(server.requests) <= most_requests, f'{len(server.requests)} requests'
    data_files.check_folder(tmp_path, [])


@pytest.mark.parametrize('content, wanted', [
    (make_zip(packed(IMAGES + 1)), 'SHA-256'), (GOOD_ZIP[:-100] + bytes(100), 'not a sound zip'),
    (GOOD_ZIP.replace(b'balanced', b'bylettrs'), "not EMNIST's zip"),
    (b'tiny', "not EMNIST's zip")],
    ids=['other images', 'damaged end', 'other names', 'tiny'])
def test_wrong_content_is_refused_and_deleted(server, tmp_path, content, wanted):
    server.content = content
    with pytest.raises(ValueError) as error:
        download(server, tmp_path)
    data_files.check_message(str(error.value), wanted)
    data_files.check_folder(tmp_path, [])


@pytest.mark.parametrize('stale', [b'', b'stale', b'?' * 100000])
def test_a_damaged_member_is_refused_and_deleted(server, tmp_path, stale):
    middle = GOOD_ZIP.index(official.IMAGES_NAME.encode()) + 5000
    server.content = GOOD_ZIP[:middle] + bytes(50) + GOOD_ZIP[middle + 50:]
    (tmp_path / f'{official.IMAGES_NAME}.part').write_bytes(stale)
    with pytest.raises(ValueError) as error:
        download(server, tmp_path)
    data_files.check_message(str(error.value), 'SHA-256', 'deleted')
    data_files.check_folder(tmp_path, [])


def test_an_oversized_member_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(official, 'MOST_MEMBER_BYTES', 100)
    with pytest.raises(ValueError) as error:
        download(server, tmp_path)
    data_files.check_message(str(error.value), 'impossible size')


@pytest.mark.parametrize('url', ['http://127.0.0.1:{port}/gzip.zip', 'file:///etc/hostname', 'x'])
def test_download_is_https_only_by_default(server, tmp_path, url):
    with pytest.raises((ValueError, OSError)) as error:
        official.download(str(tmp_path), url.format(port=server.server_port))
    data_files.check_message(str(error.value))
    assert not server.requests, f'got {len(server.requests)} requests, expected none'
