"""data/official.py: the IDX conversion, the download from a server on this machine, refusals."""
import gzip
import hashlib
import http.server
import io
import pathlib
import struct
import threading
import zipfile

import numpy as np
import pytest

import data_files
from data_files import read_folder, read_table
import csv_files
import official

IMAGES = np.random.default_rng(7).integers(0, 256, (60, 28, 28), dtype=np.uint8)
LABELS = (np.arange(60) % 47).astype(np.uint8)


def idx(values, kind=8, sizes=None):
    """An IDX file of a uint8 array, on demand with a false header."""
    sizes = sizes or values.shape
    return struct.pack(f'>HBB{len(sizes)}I', 0, kind, len(sizes), *sizes) + values.tobytes()


GOOD_IMAGES = gzip.compress(idx(IMAGES))
GOOD_LABELS = gzip.compress(idx(LABELS))


def write_idx(folder, images=GOOD_IMAGES, labels=GOOD_LABELS, ending='.gz'):
    folder = pathlib.Path(str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((official.IMAGES_NAME, images), (official.LABELS_NAME, labels)):
        if content is not None:
            (folder / name.replace('.gz', ending)).write_bytes(content)


def convert(source, folder, seed=0):
    official.make_from_idx(str(source), str(folder), train_rows=40, test_rows=20, seed=seed)
    return read_folder(folder)


def test_rows_are_shuffled_and_split_and_otherwise_unchanged(tmp_path):
    write_idx(tmp_path / 'idx')
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / csv_files.MARKER).write_bytes(b'of a stand-in that was there')
    made = convert(tmp_path / 'idx', tmp_path / 'a')
    data_files.check_folder(tmp_path / 'a', csv_files.FILES)
    assert made != convert(tmp_path / 'idx', tmp_path / 'b', 1), 'seeds 0 and 1: same bytes'
    test = np.hstack([read_table(tmp_path / 'a', name) for name in ('test_labels.csv', 'test.csv')])
    train = read_table(tmp_path / 'a', 'train.csv')
    assert (len(train), len(test)) == (40, 20)
    original = np.hstack([LABELS[:, None], IMAGES.reshape(60, 784)]).tolist()
    written = train.tolist() + test.tolist()
    assert written != original, "rows are in the file's order, expected a shuffle"
    assert sorted(written) == sorted(original), "train and test rows are not the file's rows"


@pytest.mark.parametrize('ending, form', [('.gz', bytes), ('', gzip.decompress),
                                          ('.gz', gzip.decompress)])      # by some browsers
@pytest.mark.parametrize('place', ['.', 'gzip'])
def test_packed_and_unpacked_files_are_found(tmp_path, ending, form, place):
    source = tmp_path / 'EMNIST [balanced]'
    write_idx(source / place, form(GOOD_IMAGES), form(GOOD_LABELS), ending)
    write_idx(tmp_path / 'plain')
    assert convert(source, tmp_path / 'out') == convert(tmp_path / 'plain', tmp_path / 'expected')


@pytest.mark.parametrize('wanted, content', [
    ('missing', {'images': None}), ('missing', {'labels': None}), ('whole', {'images': b''}),
    ('unpacked', {'images': GOOD_IMAGES[:-2000]}),
    ('unpacked', {'images': GOOD_IMAGES[:-8] + b'????' + GOOD_IMAGES[-4:]}),
    ('whole', {'labels': GOOD_IMAGES}), ('whole', {'images': idx(IMAGES, kind=13)}),
    ('whole', {'images': idx(IMAGES, sizes=(60, 14, 56))}),
    ('whole', {'images': idx(IMAGES, sizes=(61, 28, 28))}), ('whole', {'labels': idx(LABELS)[:-1]}),
    ('whole', {'images': idx(IMAGES) + b'more'}), ('60 images', {'labels': idx(LABELS[:50])}),
    ('Balanced', {'labels': idx(LABELS + 1)}), ('Balanced', {'labels': idx(LABELS % 10)}),
    ('fewer', {'labels': idx(LABELS[:59]), 'images': idx(IMAGES[:59])})])
def test_faults_of_the_official_files_are_named(tmp_path, wanted, content):
    write_idx(tmp_path, **content)
    with pytest.raises((ValueError, OSError)) as error:
        convert(tmp_path, tmp_path / 'out')
    data_files.check_message(error.value, wanted, list(content)[-1] + '-idx')
    assert not (tmp_path / 'out').exists()


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
FILES = {official.IMAGES_NAME: GOOD_IMAGES, official.LABELS_NAME: GOOD_LABELS}
DIGESTS = {f'gzip/{name}': hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.content as server.behaviour(number of the request) says."""

    def do_GET(self):
        behaviour = self.server.behaviour(len(self.server.asked))
        first, last = self.headers['Range'][len('bytes='):].split('-')
        part = self.server.content[int(first):int(last) + 1]
        self.server.asked.append(len(part))
        self.send_response(behaviour if isinstance(behaviour, int) else 206)
        self.send_header('Content-Length', str(len(part)))
        self.send_header('Content-Range', f'bytes {first}-{last}/{len(self.server.content)}')
        self.end_headers()
        self.wfile.write(part[:len(part) // 2] if behaviour == 'cut' else part)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(official, 'CHUNK', 10000)
    monkeypatch.setattr(official, 'PAUSE', 0)
    web = http.server.HTTPServer(('127.0.0.1', 0), Handler)
    web.content = GOOD_ZIP
    web.asked = []      # how many bytes each request asked for
    web.behaviour = lambda number: 'parts'
    threading.Thread(target=web.serve_forever, args=(0.02,)).start()
    yield web
    web.shutdown()
    web.server_close()


def download(server, folder, **options):
    url = f'http://127.0.0.1:{server.server_port}/gzip.zip'
    official.download(str(folder), url, DIGESTS, **options)


@pytest.mark.parametrize('fault', ['cut', 503])
def test_passing_faults_do_not_matter(server, tmp_path, fault):
    server.behaviour = lambda number: fault if number % 3 == 2 else 'parts'
    download(server, tmp_path)
    assert read_folder(tmp_path) == FILES


def test_only_the_two_files_are_fetched_and_only_if_they_are_not_there(server, tmp_path):
    reports = []
    download(server, tmp_path / 'new', report=lambda *report: reports.append(report))
    assert read_folder(tmp_path / 'new') == FILES
    assert (f'bytes of {official.IMAGES_NAME}', len(GOOD_IMAGES), len(GOOD_IMAGES)) in reports
    assert sum(server.asked) < len(GOOD_IMAGES) + len(GOOD_LABELS) + 5000
    assert max(server.asked) <= 10000
    del server.asked[:]
    write_idx(tmp_path / 'new', labels=b'damaged')
    download(server, tmp_path / 'new')
    assert read_folder(tmp_path / 'new') == FILES
    assert 0 < sum(server.asked) < 5000, 'the images are there, so only the labels are fetched'


@pytest.mark.parametrize('good, behaviour', [(0, 'cut'), (0, 200), (0, 404), (9, 'cut'), (9, 503)])
def test_a_server_that_goes_on_refusing_is_given_up(server, tmp_path, good, behaviour):
    server.behaviour = lambda number: 'parts' if number < good else behaviour
    with pytest.raises(OSError) as error:
        download(server, tmp_path)
    data_files.check_message(error.value, '127.0.0.1', 'with a browser', 'prepare.py idx FOLDER')
    assert len(server.asked) == good + official.ATTEMPTS and not read_folder(tmp_path)


@pytest.mark.parametrize('content, wanted', [
    (make_zip(GOOD_LABELS), 'SHA-256'), (b'tiny', 'zip'), (GOOD_ZIP[:-100], 'zip'),
    (GOOD_ZIP.replace(b'balanced', b'bylettrs'), 'zip'),
    (GOOD_ZIP.replace(GOOD_ZIP[-9000:-8950], bytes(50)), 'zip')],
    ids=['other images', 'tiny', 'damaged end', 'other names', 'damaged member'])
def test_wrong_content_is_refused(server, tmp_path, content, wanted):
    server.content = content
    with pytest.raises(ValueError) as error:
        download(server, tmp_path)
    data_files.check_message(error.value, wanted, 'with a browser')
    assert not read_folder(tmp_path)
