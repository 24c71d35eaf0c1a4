"""Make the lab's CSV files from the official EMNIST Balanced files of NIST.

`make_from_idx` converts two files that lie in a folder. `download` fetches these two files out of
NIST's zip: it asks for their bytes only, not for the other 500 MB.
"""
import glob
import gzip
import hashlib
import http.client
import io
import os
import struct
import time
import urllib.request
import zipfile
import zlib

import numpy as np

from csv_files import (CHARACTERS, SIDE, TEST_ROWS, TRAIN_ROWS, blocks_of, check_request, no_report,
                       replacing, write_dataset)

IMAGES_NAME = 'emnist-balanced-train-images-idx3-ubyte.gz'
LABELS_NAME = 'emnist-balanced-train-labels-idx1-ubyte.gz'
ZIP_URL = 'https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip'
MEMBERS = {                     # member of the zip: its SHA-256
    'gzip/' + IMAGES_NAME: '74295e75e4e9fa2c102147460ee7eb763653d5132d883a84fb88932bfb8d2db4',
    'gzip/' + LABELS_NAME: 'b46d41e5156a0a8aaaa4d18979fdd1588850fa8571018acffd5d93b325a7d6ed',
}
CHUNK = 2 ** 22                 # bytes in one request
ATTEMPTS = 4                    # requests for the same bytes before giving up
PAUSE = 1.0                     # seconds before the second attempt, and more before the later ones
TIMEOUT = 30                    # seconds of silence after which a connection counts as broken
AGAIN = "fetch it with 'prepare.py download'"
BROWSER = ("try again later, or download the zip (about 540 MB) with a browser from "
           "https://www.nist.gov/itl/products-and-services/emnist-dataset, unpack it, and run "
           "'prepare.py idx FOLDER' with the folder of its files")


# ---------------------------------------------------------------- from IDX files to CSV files

def make_from_idx(source, folder, train_rows=TRAIN_ROWS, test_rows=TEST_ROWS, seed=0, force=False,
                  report=no_report):
    """Cut EMNIST Balanced's 112,800 training images into the lab's files.

    source: the folder of the two IDX files, gzipped or unpacked; they may lie one folder down.
    The rows are shuffled with `seed`. The first `train_rows` become train.csv, the next `test_rows`
    test.csv. EMNIST's own test images are not used. Raises ValueError or OSError in one sentence.
    """
    check_request(folder, train_rows, test_rows, seed, force)
    images_path = find_idx(source, IMAGES_NAME)
    labels_path = find_idx(source, LABELS_NAME)
    images = read_idx(images_path, (SIDE, SIDE))
    labels = read_idx(labels_path, ())
    if not np.array_equal(np.unique(labels), np.arange(len(CHARACTERS))):
        raise ValueError(f'{labels_path} does not hold the classes 0..46, each of them: only the '
                         f'Balanced split fits, {AGAIN}')
    if len(images) != len(labels):
        raise ValueError(f'{images_path} holds {len(images)} images but {labels_path} '
                         f'{len(labels)} labels: {AGAIN}')
    if len(images) < train_rows + test_rows:
        raise ValueError(f'{images_path} holds {len(images)} images, fewer than the {train_rows} + '
                         f'{test_rows} rows asked for: ask for fewer rows')
    order = np.random.default_rng(seed).permutation(len(images))
    train = order[:train_rows]
    test = order[train_rows:train_rows + test_rows]
    pixels = images.reshape(-1, SIDE * SIDE)            # transposed in the file already
    write_dataset(folder, (labels[train], blocks_of(pixels[train])),
                  (labels[test], blocks_of(pixels[test])), report)


def find_idx(source, name):
    """Return the path of `name`, gzipped or unpacked, in `source` or one folder down."""
    unpacked = os.path.splitext(name)[0]
    for place in ('', '*'):
        for wanted in (name, unpacked):
            found = sorted(glob.glob(os.path.join(glob.escape(source), place, wanted)))
            if found:
                return found[0]
    raise FileNotFoundError(f'{os.path.join(source, name)} is missing: give the folder that holds '
                            f'it, or {AGAIN}')


def read_idx(path, shape):
    """Read an IDX file of unsigned bytes, gzipped or not: (N,) + shape, uint8.

    The header (yann.lecun.com/exdb/mnist) holds big-endian 32-bit numbers: 0x08dd for bytes in dd
    dimensions, then the length of each dimension. ValueError if the file is not whole.
    """
    content = read_bytes(path)
    try:
        if content.startswith(b'\x1f\x8b'):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f'{path} cannot be unpacked ({error}): {AGAIN}') from error
    item = int(np.prod(shape))
    start = 4 * (2 + len(shape))
    count = max(len(content) - start, 0) // item
    header = struct.pack(f'>{2 + len(shape)}I', 0x0801 + len(shape), count, *shape)
    if content[:start] != header or len(content) != start + count * item:
        raise ValueError(f'{path} is not a whole IDX file of items of shape {shape}: {AGAIN}')
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape((count,) + shape)


# ---------------------------------------------------------------- download from NIST's zip

def download(folder, url=ZIP_URL, members=MEMBERS, report=no_report):
    """Fetch `members` {name in the zip: SHA-256} of the zip at `url` into `folder`.

    Files that are there and whole are kept. Raises ValueError or OSError in one sentence.
    """
    os.makedirs(folder, exist_ok=True)
    for member, digest in members.items():
        path = os.path.join(folder, os.path.basename(member))
        if os.path.exists(path) and sha256(read_bytes(path)) == digest:
            continue
        content = read_member(url, member, report)
        if sha256(content) != digest:
            raise ValueError(f'{member} of {url} does not have the SHA-256 {digest}: {BROWSER}')
        with replacing(path) as file:
            file.write(content)


def sha256(content):
    """Return the SHA-256 of bytes as a text."""
    return hashlib.sha256(content).hexdigest()


def read_bytes(path):
    """Return the content of a file."""
    with open(path, 'rb') as file:
        return file.read()


def read_member(url, member, report):
    """Return the content of one member of the zip at `url`."""
    content = bytearray()
    try:
        with zipfile.ZipFile(RemoteFile(url)) as archive, archive.open(member) as file:
            size = archive.getinfo(member).file_size
            piece = file.read(CHUNK)
            while piece:
                content += piece
                report(f'bytes of {os.path.basename(member)}', len(content), size)
                piece = file.read(CHUNK)
    except (zipfile.BadZipFile, EOFError, KeyError, RuntimeError, zlib.error) as error:
        raise ValueError(f"{url} is not EMNIST's zip ({error}): {BROWSER}") from error
    return content


class RemoteFile:
    """A file on a web server. zipfile asks it for the bytes that it needs, by seek and read."""

    def __init__(self, url):
        self.url = url
        self.position = 0
        self.size = 1
        self.read(1)                    # the first answer tells the size

    def seekable(self):
        """Tell zipfile that it may call seek."""
        return True

    def tell(self):
        """Return the position."""
        return self.position

    def seek(self, offset, whence=io.SEEK_SET):
        """Move to `offset` from the start, the position or the end; return the new position."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = origin + offset
        return self.position

    def read(self, count=-1):
        """Read the next `count` bytes, or all. If the connection breaks, ask again."""
        stop = self.size if count < 0 else self.position + count
        headers = {'Range': f'bytes={self.position}-{stop - 1}'}
        request = urllib.request.Request(self.url, headers=headers)
        for attempt in range(ATTEMPTS):
            time.sleep(attempt * PAUSE)
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                    size = response.headers.get('Content-Range', '').rpartition('/')[2]
                    if response.status != 206 or not size.isdigit():
                        raise OSError('the server does not send parts of a file')
                    content = response.read()
                    self.size = int(size)
                    self.position += len(content)
                    return content
            except (OSError, http.client.HTTPException) as error:
                reason = error
        raise OSError(f'{self.url} could not be read ({reason}): {BROWSER}')
