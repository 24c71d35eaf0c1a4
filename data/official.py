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
import re
import struct
import time
import urllib.error
import urllib.request
import zipfile
import zlib

import numpy as np

from csv_files import (CHARACTERS, SIDE, TEST_ROWS, TRAIN_ROWS, blocks_of, check_request, no_report,
                       write_dataset, writing_to)

IMAGES_NAME = 'emnist-balanced-train-images-idx3-ubyte.gz'
LABELS_NAME = 'emnist-balanced-train-labels-idx1-ubyte.gz'
MOST_IMAGES = 1000000           # a file that claims more images is refused
ZIP_URL = 'https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip'
MEMBERS = {                     # member of the zip: its SHA-256
    'gzip/' + IMAGES_NAME: '74295e75e4e9fa2c102147460ee7eb763653d5132d883a84fb88932bfb8d2db4',
    'gzip/' + LABELS_NAME: 'b46d41e5156a0a8aaaa4d18979fdd1588850fa8571018acffd5d93b325a7d6ed',
}
CHUNK = 2 ** 21                 # most bytes in one request
MOST_MEMBER_BYTES = 2 ** 28     # larger members are refused
ATTEMPTS = 5                    # requests for the same bytes before giving up
TIMEOUT = 30                    # seconds of silence after which a connection counts as broken
AGAIN = "fetch it again with 'prepare.py download'"
BROWSER = ("download the zip (about 540 MB) with a browser from "
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
    if len(images) != len(labels):
        raise ValueError(f'{images_path} holds {len(images)} images but {labels_path} holds '
                         f'{len(labels)} labels: fetch both files again')
    if len(images) < train_rows + test_rows:
        raise ValueError(f'{images_path} holds {len(images)} images, fewer than the {train_rows} + '
                         f'{test_rows} rows asked for: fetch it again or ask for fewer rows')
    check_classes(labels, labels_path)
    order = np.random.default_rng(seed).permutation(len(images))
    pixels = images.reshape(-1, SIDE * SIDE)            # transposed in the file already
    train = order[:train_rows]
    test = order[train_rows:train_rows + test_rows]
    write_dataset(folder, (labels[train], blocks_at(pixels, train)),
                  (labels[test], blocks_at(pixels, test)), report)


def blocks_at(pixels, order):
    """Yield the rows of `pixels` with the numbers `order`, in blocks."""
    for block in blocks_of(order):
        yield pixels[block]


def check_classes(labels, path):
    """Raise ValueError if the labels are not those of the Balanced split, 0..46 with no gap."""
    classes = len(CHARACTERS)
    counts = np.bincount(labels, minlength=classes)
    if len(counts) > classes:
        raise ValueError(f'{path} holds the label {labels.max()}, expected 0..{classes - 1}: it is '
                         f'not the Balanced split, {AGAIN}')
    if not counts.all():
        raise ValueError(f'{path} holds {np.count_nonzero(counts)} of the {classes} classes, '
                         f'labels {labels.min()}..{labels.max()}: it is not the Balanced split, '
                         f'{AGAIN}')


def find_idx(source, name):
    """Return the path of `name`, gzipped or unpacked, in `source` or one folder down."""
    if zipfile.is_zipfile(source):
        raise ValueError(f'{source} is a zip file: unpack it and give the folder of its files')
    if os.path.isfile(source):
        source = os.path.dirname(source) or os.curdir
    if not os.path.isdir(source):
        raise FileNotFoundError(f'{source} is missing: give the folder that holds {name}')
    folder = glob.escape(source)
    unpacked = os.path.splitext(name)[0]
    for pattern in (os.path.join(folder, name), os.path.join(folder, unpacked),
                    os.path.join(folder, '*', name), os.path.join(folder, '*', unpacked)):
        found = [path for path in sorted(glob.glob(pattern)) if os.path.isfile(path)]
        if found:
            return found[0]
    path = os.path.join(source, name)
    others = sorted(glob.glob(os.path.join(folder, 'emnist-*')))
    if others and not os.path.basename(others[0]).startswith('emnist-balanced-'):
        raise FileNotFoundError(f'{path} is missing, but {os.path.basename(others[0])} is there: '
                                f'only the Balanced split has the 47 classes of the lab, fetch it '
                                f"with 'prepare.py download'")
    raise FileNotFoundError(f'{path} is missing: give the folder that holds it, or fetch it with '
                            f"'prepare.py download'")


def read_idx(path, item_shape):
    """Read an IDX file of unsigned bytes, gzipped or not: (count,) + item_shape, uint8."""
    try:
        with open_idx(path) as file:
            count = read_header(file, path, item_shape)
            expected = count * int(np.prod(item_shape))
            values = file.read(expected + 1)    # one byte more: at the end gzip checks its checksum
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(f'{path} cannot be read ({error}): {AGAIN}') from error
    if len(values) != expected:
        got = 'more' if len(values) > expected else len(values)
        raise ValueError(f'{path} holds {got} bytes of values, expected {expected}: {AGAIN}')
    return np.frombuffer(values, dtype=np.uint8).reshape((count,) + item_shape)


def open_idx(path):
    """Open a file that may be gzipped, for reading its unpacked bytes."""
    with open(path, 'rb') as file:
        packed = file.read(2) == b'\x1f\x8b'
    if packed:
        return gzip.open(path, 'rb')
    return open(path, 'rb')


def read_header(file, path, item_shape):
    """Read and check the header of an IDX file; return how many items follow.

    The header (yann.lecun.com/exdb/mnist) holds big-endian 32-bit numbers: the magic 0x08dd for
    bytes in dd dimensions, then the length of each dimension.
    """
    dimensions = 1 + len(item_shape)
    size = 4 * (1 + dimensions)
    header = file.read(size)
    if len(header) < size:
        raise ValueError(f'{path} ends inside its {size}-byte header: {AGAIN}')
    magic, count, *shape = struct.unpack(f'>{1 + dimensions}I', header)
    if magic != 0x0800 + dimensions:
        raise ValueError(f'{path} begins with the number {magic}, expected {0x0800 + dimensions} '
                         f'(bytes in {dimensions} dimension(s)): {AGAIN}')
    if tuple(shape) != item_shape or not 0 < count <= MOST_IMAGES:
        raise ValueError(f'{path} claims {count} items of shape {tuple(shape)}, expected '
                         f'1..{MOST_IMAGES} of shape {item_shape}: {AGAIN}')
    return count


# ---------------------------------------------------------------- download from NIST's zip

def download(folder, url=ZIP_URL, members=MEMBERS, allow_loopback_http=False, pause=1.0,
             report=no_report):
    """Fetch `members` {name in the zip: SHA-256} of the zip at `url` into `folder`.

    Files that are there and whole are kept. A download that broke off leaves NAME.part, and the
    next call goes on from it. `pause` is the time in seconds before a second attempt; it doubles
    before each later one. Raises ValueError or OSError in one sentence.
    """
    with writing_to(folder):
        os.makedirs(folder, exist_ok=True)
    archive = None
    for name, sha256 in members.items():
        path = os.path.join(folder, os.path.basename(name))
        if os.path.exists(path) and hashlib.sha256(read_file(path)).hexdigest() == sha256:
            continue
        if archive is None:
            archive = RemoteFile(url, allow_loopback_http, pause)
        info = fetch_member(archive, name, f'{path}.part', report)
        unpack_member(info, f'{path}.part', path, sha256)


def read_file(path):
    """Return all bytes of a file."""
    with open(path, 'rb') as file:
        return file.read()


def fetch_member(archive, name, part, report):
    """Append to `part` the packed bytes of the member that it lacks; return its ZipInfo."""
    try:
        with zipfile.ZipFile(archive) as listing:
            info = listing.getinfo(name)
    except (zipfile.BadZipFile, NotImplementedError, KeyError) as error:
        raise ValueError(f"{archive.url} is not EMNIST's zip ({error}): "
                         f'check the address') from error
    archive.seek(info.header_offset)    # a member: 30 bytes of header, two texts, then its content
    header = archive.read(30)
    start = info.header_offset + len(header)
    if len(header) == 30:
        start += sum(struct.unpack('<HH', header[26:]))
    largest = max(info.compress_size, info.file_size)
    if largest > MOST_MEMBER_BYTES or start + info.compress_size > archive.size:
        raise ValueError(f'{archive.url} claims an impossible size for {name}: check the address')
    with writing_to(os.path.dirname(part)), open(part, 'ab') as file:
        while file.tell() < info.compress_size:
            archive.seek(start + file.tell())
            file.write(archive.read(min(CHUNK, info.compress_size - file.tell())))
            report(f'bytes of {os.path.basename(name)}', file.tell(), info.compress_size)
    return info


def unpack_member(info, part, path, sha256):
    """Turn the complete file `part` into `path`; if the checksum is wrong, delete it and raise."""
    content = read_file(part)
    try:
        if info.compress_type == zipfile.ZIP_DEFLATED:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            content = unpacker.decompress(content, info.file_size + 1)
    except zlib.error:
        pass                            # the checksum tells that it is damaged
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        os.remove(part)
        raise ValueError(f'{info.filename} arrived with SHA-256 {actual}, expected {sha256}: '
                         f'it was deleted, run the download again')
    with writing_to(os.path.dirname(path)):
        with open(part, 'wb') as file:
            file.write(content)
        os.replace(part, path)


class TrustedOnly(urllib.request.BaseHandler):
    """Refuse addresses, also after a redirect, that are not https, nor http at `plain_hosts`."""

    def __init__(self, plain_hosts):
        self.plain_hosts = plain_hosts

    def http_request(self, request):
        """Check a request; urllib calls this before it sends one."""
        if request.type != 'http' or request.host.split(':')[0] not in self.plain_hosts:
            raise ValueError(f'{request.full_url} is not fetched: only https addresses are')
        return request

    ftp_request = file_request = data_request = http_request


class RemoteFile:
    """A file on a web server, read in ranges of bytes: seek, tell and read, as zipfile needs."""

    def __init__(self, url, allow_loopback_http, pause):
        self.url = url
        self.pause = pause
        plain_hosts = ('127.0.0.1', 'localhost') if allow_loopback_http else ()
        self.opener = urllib.request.build_opener(TrustedOnly(plain_hosts))
        self.position = 0
        self.size = 1
        self.read(1)                    # the first answer tells the size

    def seek(self, offset, whence=io.SEEK_SET):
        """Move to `offset` from the start, the position or the end; return the new position."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(origin + offset, 0)
        return self.position

    def tell(self):
        """Return the position."""
        return self.position

    def read(self, count=-1):
        """Read the next `count` bytes, fewer at the end; if the connection breaks, ask again."""
        rest = max(self.size - self.position, 0)
        count = rest if count < 0 else min(count, rest)
        if count > CHUNK:               # only a damaged table of contents can be that long
            raise ValueError(f'{self.url} is not a sound zip file: check the address')
        data = b''
        for attempt in range(ATTEMPTS):
            if len(data) == count:
                break
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with self.ask(self.position + len(data), self.position + count) as response:
                    data += response.read(count - len(data))
                reason = 'the connection broke off'
            except (OSError, http.client.HTTPException) as error:
                refuse_for_good(self.url, error)
                reason = str(error)
        if len(data) < count:
            raise OSError(f'{self.url} could not be read ({reason}): try again later, what has '
                          f'arrived is kept')
        self.position += count
        return data

    def ask(self, start, stop):
        """Request the bytes start..stop - 1; return the response if it holds exactly these."""
        headers = {'Range': f'bytes={start}-{stop - 1}'}
        request = urllib.request.Request(self.url, headers=headers)
        response = self.opener.open(request, timeout=TIMEOUT)
        given = re.match(r'bytes (\d+)-\d+/(\d+)$', response.headers.get('Content-Range', ''))
        if response.status != 206 or not given or int(given.group(1)) != start:
            response.close()
            raise ValueError(f'{self.url} does not send parts of a file: {BROWSER}')
        self.size = int(given.group(2))
        return response


def refuse_for_good(url, error):
    """Raise OSError for an answer that another request will not change: 4xx, or a certificate."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code < 500:
            raise OSError(f'{url} could not be read (the server answered {error.code} '
                          f'{error.reason}): {BROWSER}') from error
    if 'CERTIFICATE_VERIFY_FAILED' in str(error):
        raise OSError(f'{url} could not be read (its certificate is not trusted here): '
                      f'{BROWSER}') from error
