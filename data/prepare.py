#!/usr/bin/env python3
"""Make the lab's data files: train.csv, test.csv and test_labels.csv.

There are three ways to come by them (README.md beside this script tells more):

    python prepare.py stand-in      draw look-alike characters; needs no download
    python prepare.py idx FOLDER    convert official EMNIST Balanced files that lie in FOLDER
    python prepare.py download      fetch those files from NIST, then convert them

From Python, `make_stand_in`, `make_from_idx` and `download` do the same.

The format is the lab's: no header, comma-separated integers, one image a row. A row of train.csv is
the label 0..46, then 784 pixels 0..255; a row of test.csv is 784 pixels; a row of test_labels.csv is
the label of the same row of test.csv. As in EMNIST itself, each 28x28 image is stored transposed.

Shapes: N images, H rows, W columns. "Pixels" are pixels of the final 28x28 image unless said otherwise.
"""
import argparse
import contextlib
import functools
import gzip
import hashlib
import http.client
import io
import os
import re
import signal
import struct
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font

CHARACTERS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt'   # position = label, as in EMNIST Balanced
FILES = ('train.csv', 'test.csv', 'test_labels.csv')
HERE = os.path.dirname(os.path.abspath(__file__))
SIDE = 28                                   # pixels along an edge of an image
TRAIN_ROWS, TEST_ROWS = 100000, 12800       # the lab's sizes; together all of EMNIST Balanced's training images
BLOCK = 1000                                # rows drawn or written at a time


def no_report(task, done, total):
    """Stand in for a progress display: show nothing."""


# ---------------------------------------------------------------- writing the CSV files

def check_request(folder, train_rows, test_rows, seed, force):
    """Raise ValueError or FileExistsError, before any long work, for a request that cannot be met."""
    for name, rows in (('train', train_rows), ('test', test_rows)):
        if rows < 1:
            raise ValueError('the number of {} rows must be 1 or more, not {}'.format(name, rows))
    if seed < 0:
        raise ValueError('the seed must be 0 or more, not {}'.format(seed))
    for name in FILES:
        if os.path.lexists(os.path.join(folder, name)) and not force:
            raise FileExistsError('{} already exists in {}: choose another folder, or overwrite with --force '
                                  '(force=True)'.format(name, folder))


@contextlib.contextmanager
def writing_to(folder):
    """Turn the system's terse error about a full disk, a read-only folder and the like into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno is None:             # not the system's error, but a sentence of ours
            raise
        raise OSError('cannot write to {} ({}): free space there or choose another folder'.format(
            folder, error.strerror)) from error


@contextlib.contextmanager
def finished_files(folder):
    """Give a temporary folder inside `folder`; on success move FILES out of it, on any error delete it.

    So a file under its final name is always whole.
    """
    with writing_to(folder):
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='unfinished-', dir=folder) as draft:
            yield draft
            for name in FILES:
                os.replace(os.path.join(draft, name), os.path.join(folder, name))


def write_dataset(folder, train_labels, train_pixels, test_labels, test_pixels, report):
    """Write FILES. Labels are (N,); pixels come as an iterator of blocks (up to BLOCK, 784); all uint8."""
    train_blocks = (np.hstack([labels[:, None], pixels])
                    for labels, pixels in zip(blocks_of(train_labels), train_pixels))
    with finished_files(folder) as draft:
        for name, rows, blocks in (('train.csv', len(train_labels), train_blocks),
                                   ('test.csv', len(test_labels), test_pixels),
                                   ('test_labels.csv', len(test_labels), blocks_of(test_labels[:, None]))):
            with open(os.path.join(draft, name), 'wb') as file:
                done = 0
                for block in blocks:
                    file.write(csv_text(block))
                    done += len(block)
                    report('rows of ' + name, done, rows)


def blocks_of(values):
    """Cut an array into pieces of BLOCK rows; the last may be shorter."""
    return [values[start:start + BLOCK] for start in range(0, len(values), BLOCK)]


NUMBERS = [str(number) for number in range(256)]      # looking a number's text up is faster than formatting it


def csv_text(rows):
    """Turn uint8 rows (N, columns) into the bytes of N lines of comma-separated numbers."""
    lines = [','.join([NUMBERS[value] for value in row.tobytes()]) for row in rows]
    return ('\n'.join(lines) + '\n').encode('ascii')


# ---------------------------------------------------------------- the stand-in: characters drawn from fonts

# The fonts with real letters that every matplotlib since 3.3 ships. Its others lack some of the 47
# characters (...Display, STIXNonUni, STIXSiz) or keep symbols in their places (cmex10, cmsy10, LastResort).
FONTS = ('DejaVuSans', 'DejaVuSans-Bold', 'DejaVuSans-Oblique', 'DejaVuSans-BoldOblique',
         'DejaVuSansMono', 'DejaVuSansMono-Bold', 'DejaVuSansMono-Oblique', 'DejaVuSansMono-BoldOblique',
         'DejaVuSerif', 'DejaVuSerif-Bold', 'DejaVuSerif-Italic', 'DejaVuSerif-BoldItalic',
         'STIXGeneral', 'STIXGeneralBol', 'STIXGeneralItalic', 'STIXGeneralBolIta',
         'cmb10', 'cmmi10', 'cmr10', 'cmss10', 'cmtt10')
MARGIN = 2                                  # EMNIST leaves two pixels of border around the character
INK = SIDE - 2 * MARGIN                     # so the character's longer side has 24 pixels
MAP = 64                                    # cells along an edge of a distance map
MAP_INK = 40                                # cells along the character's longer side in it
REACH = 8                                   # cells; distances beyond it are not told apart
CANVAS = 64                                 # points along an edge of the canvas a character is bent on


def make_stand_in(folder, train_rows=TRAIN_ROWS, test_rows=TEST_ROWS, seed=0, force=False, report=no_report):
    """Draw a stand-in data set into `folder`: printed characters, distorted; not EMNIST, not handwriting.

    The same seed and sizes give the same bytes. Raises ValueError or OSError with one plain sentence.
    """
    check_request(folder, train_rows, test_rows, seed, force)
    maps = distance_maps()

    def labels_and_pixels(rows, generator):
        labels = generator.permutation(np.arange(rows) % len(CHARACTERS)).astype(np.uint8)
        upright = (draw_characters(maps, block, generator) for block in blocks_of(labels))
        return labels, (images.transpose(0, 2, 1).reshape(-1, SIDE * SIDE) for images in upright)

    # Each file has a generator of its own: the test rows do not depend on how many train rows there are.
    write_dataset(folder, *labels_and_pixels(train_rows, np.random.default_rng([seed, 0])),
                  *labels_and_pixels(test_rows, np.random.default_rng([seed, 1])), report=report)


def draw_characters(maps, labels, generator):
    """Draw one upright image (N, 28, 28) uint8 a label (N,), each in a random font and varied at random."""
    count = len(labels)
    points = bent_grid(count, generator)
    fonts = generator.integers(len(maps), size=count)
    distance = look_up(maps[fonts, labels], points)
    thicken = generator.uniform(-0.2, 0.8, (count, 1, 1)).astype(np.float32)         # pixels on each side
    ink = np.clip(0.5 + distance + thicken, 0, 1)                                    # an edge one pixel soft
    images = centre_and_scale(ink, SIDE, MARGIN, blur=generator.uniform(0.35, 0.75, count))
    images *= 255 / images.max(axis=(1, 2), keepdims=True)          # in EMNIST, too, the darkest ink is 255
    return np.rint(images).astype(np.uint8)


def bent_grid(count, generator):
    """For each canvas point, say where in the undistorted character it looks: (N, 2, CANVAS, CANVAS).

    Axis 1 is (row, column); the undistorted character's longer side spans -1..1.
    """
    angle = np.radians(12) * generator.standard_normal(count)
    shear = 0.2 * generator.standard_normal(count)                  # rightward slant a unit of height
    stretch = np.exp(0.1 * generator.standard_normal(count))        # height over width is stretch squared
    zero, cosine, sine = np.zeros(count), np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, sine], [-sine, cosine]])
    slant_and_stretch = np.array([[1 / stretch, zero], [shear / stretch, stretch]])
    affine = np.einsum('ijn,jkn->nik', slant_and_stretch, rotation).astype(np.float32)

    axis = np.linspace(-1.8, 1.8, CANVAS, dtype=np.float32)         # room for the distortion's growth
    grid = np.array(np.meshgrid(axis, axis, indexing='ij')).reshape(2, CANVAS * CANVAS)
    points = (affine @ grid).reshape(count, 2, CANVAS, CANVAS)

    # Elastic part: 5x5 random pushes, spread smoothly over the canvas by bell-shaped weights (CANVAS, 5).
    knots = 5
    offset = np.linspace(0, knots - 1, CANVAS)[:, None] - np.arange(knots)
    bells = np.exp(-offset ** 2).astype(np.float32)
    bells /= bells.sum(axis=1, keepdims=True)
    pushes = 0.28 * generator.standard_normal((count, 2, knots, knots), dtype=np.float32)
    return points + bells @ pushes @ bells.T


def look_up(maps, points):
    """Read each map (N, MAP, MAP) at its points (N, 2, CANVAS, CANVAS), between cells linearly."""
    cells = np.clip(points * (MAP_INK / 2) + (MAP - 1) / 2, 0, MAP - 1.001)
    whole = cells.astype(np.int32)
    row_part, column_part = (cells - whole).transpose(1, 0, 2, 3)
    first = (np.arange(len(maps))[:, None, None] * MAP + whole[:, 0]) * MAP + whole[:, 1]
    values = maps.reshape(-1)
    above = values[first] * (1 - column_part) + values[first + 1] * column_part
    below = values[first + MAP] * (1 - column_part) + values[first + MAP + 1] * column_part
    return above * (1 - row_part) + below * row_part


def centre_and_scale(images, side, margin, blur):
    """Centre the ink of images (N, H, W), values 0..1, on (N, side, side), its longer side side - 2 * margin.

    These are EMNIST's steps (Cohen et al. 2017, arXiv:1702.05373): Gaussian blur, crop to the bounding box,
    pad to a square, resize with the aspect ratio kept. Here blur and resize are one weighted mean; `blur`
    (N,) is the Gaussian's standard deviation in result pixels.
    """
    inked = images > 0.5
    extents = []
    for profile in (inked.any(axis=2), inked.any(axis=1)):          # which rows, then which columns hold ink
        first = profile.argmax(axis=1)
        last = profile.shape[1] - 1 - profile[:, ::-1].argmax(axis=1)
        extents.append((first, last))
    longer = np.max([last - first + 1 for first, last in extents], axis=0)
    step = longer / (side - 2 * margin)                             # source pixels a result pixel, (N,)

    def weights(extent, length):
        centres = (extent[0] + extent[1]) / 2
        wanted = centres[:, None] + (np.arange(side) - (side - 1) / 2) * step[:, None]
        distance = (np.arange(length) - wanted[:, :, None]) / (blur * step)[:, None, None]
        bell = np.exp(-0.5 * distance.astype(np.float32) ** 2)      # (N, side, length)
        # Far outside the source every weight is nearly zero: the floor keeps that background, not 0/0.
        return bell / np.maximum(bell.sum(axis=2, keepdims=True), 1e-6)

    rows, columns = (weights(extent, length) for extent, length in zip(extents, images.shape[1:]))
    return rows @ images @ columns.transpose(0, 2, 1)


@functools.lru_cache(maxsize=1)
def distance_maps():
    """Read every character of every font: signed distance to its outline, (fonts, 47, MAP, MAP) float32.

    The unit is the final pixel, positive inside the ink. Adding to a distance moves the outline
    evenly, which is what a thicker pen does; that is why maps are kept and not pictures.
    """
    pictures = []
    for name in FONTS:
        font = FT2Font(os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', name + '.ttf'))
        font.set_size(160, 72)                                      # 160 points at 72 dots an inch: 160 px high
        for character in CHARACTERS:
            font.set_text(character)
            font.draw_glyphs_to_bitmap(antialiased=True)
            picture = np.asarray(font.get_image(), dtype=np.float32)[None] / 255
            pictures.append(centre_and_scale(picture, MAP, (MAP - MAP_INK) // 2, blur=np.array([0.35])))
    inside = np.concatenate(pictures) > 0.5
    maps = (distance_to(~inside) - distance_to(inside)) * np.float32(INK / MAP_INK)
    return maps.reshape(len(FONTS), len(CHARACTERS), MAP, MAP)


def distance_to(mask):
    """Distance in cells, at most REACH, from each cell to the nearest True of its mask; (N, H, W) float32.

    Squared distances add over the axes, so the nearest one is found along columns first, then along rows.
    """
    squared = np.where(mask, 0, REACH ** 2).astype(np.float32)
    for _ in range(2):
        length = squared.shape[1]
        padded = np.pad(squared, [(0, 0), (REACH, REACH), (0, 0)], mode='edge')
        for shift in range(-REACH, REACH + 1):
            neighbour = padded[:, REACH + shift:REACH + shift + length]
            np.minimum(squared, neighbour + shift ** 2, out=squared)
        squared = squared.transpose(0, 2, 1)                        # the other axis; twice is upright again
    return np.sqrt(squared)


# ---------------------------------------------------------------- official EMNIST files (IDX, gzipped)

IMAGES_NAME = 'emnist-balanced-train-images-idx3-ubyte.gz'
LABELS_NAME = 'emnist-balanced-train-labels-idx1-ubyte.gz'
MOST_IMAGES = 1000000                       # a header that claims more is not believed


def make_from_idx(source, folder, train_rows=TRAIN_ROWS, test_rows=TEST_ROWS, seed=0, force=False,
                  report=no_report):
    """Cut EMNIST Balanced's 112,800 training images, found in the folder `source`, into the lab's files.

    The rows are shuffled with `seed`; the first `train_rows` become train.csv, the next `test_rows`
    test.csv. EMNIST's own test images are not used. Raises ValueError or OSError with one plain sentence.
    """
    check_request(folder, train_rows, test_rows, seed, force)
    images_path, labels_path = os.path.join(source, IMAGES_NAME), os.path.join(source, LABELS_NAME)
    images, labels = read_idx(images_path, (SIDE, SIDE)), read_idx(labels_path, ())
    if len(images) != len(labels):
        raise ValueError('{} holds {} images but {} holds {} labels: fetch both files again'.format(
            images_path, len(images), labels_path, len(labels)))
    if len(images) < train_rows + test_rows:
        raise ValueError('{} holds {} images, fewer than the {} + {} rows asked for: fetch it again or ask for '
                         'fewer rows'.format(images_path, len(images), train_rows, test_rows))
    if labels.max() >= len(CHARACTERS):
        raise ValueError('{} holds the label {}, expected 0..{}: it is not the Balanced split, fetch it '
                         'again'.format(labels_path, labels.max(), len(CHARACTERS) - 1))
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[:train_rows], order[train_rows:train_rows + test_rows]
    pixels = images.reshape(-1, SIDE * SIDE)                        # transposed in the file already
    write_dataset(folder, labels[train], (pixels[block] for block in blocks_of(train)),
                  labels[test], (pixels[block] for block in blocks_of(test)), report)


def read_idx(path, item_shape):
    """Read a gzipped IDX file of unsigned bytes: (count,) + item_shape, uint8.

    IDX (yann.lecun.com/exdb/mnist): big-endian 32-bit numbers - the magic 0x08dd with dd dimensions, then
    the length of each dimension - and the values.
    """
    dimensions = 1 + len(item_shape)
    header_format = '>{}I'.format(1 + dimensions)
    header_size = struct.calcsize(header_format)
    remedy = 'fetch it again (prepare.py download)'
    try:
        with gzip.open(path, 'rb') as file:
            header = file.read(header_size)
            if len(header) < header_size:
                raise ValueError('{} ends inside its {}-byte header: {}'.format(path, header_size, remedy))
            magic, count, *shape = struct.unpack(header_format, header)
            if magic != 0x0800 + dimensions:
                raise ValueError('{} begins with the number {}, expected {} (bytes in {} dimension(s)): {}'.format(
                    path, magic, 0x0800 + dimensions, dimensions, remedy))
            if tuple(shape) != item_shape or not 0 < count <= MOST_IMAGES:
                raise ValueError('{} claims {} items of shape {}, expected 1..{} of shape {}: {}'.format(
                    path, count, tuple(shape), MOST_IMAGES, item_shape, remedy))
            expected = count * int(np.prod(item_shape))
            values = file.read(expected + 1)        # one more: going past the end also checks gzip's checksum
    except FileNotFoundError:
        raise FileNotFoundError('{} is missing: fetch it (prepare.py download)'.format(path)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise OSError('{} cannot be read as a gzip file ({}): {}'.format(path, error, remedy)) from error
    if len(values) != expected:
        raise ValueError('{} holds {} bytes of values, expected {}: {}'.format(
            path, 'more' if len(values) > expected else len(values), expected, remedy))
    return np.frombuffer(values, dtype=np.uint8).reshape((count,) + item_shape)


# ---------------------------------------------------------------- download: two members of NIST's zip

ZIP_URL = 'https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip'
MEMBERS = {                                 # member of the zip: its sha256
    'gzip/' + IMAGES_NAME: '74295e75e4e9fa2c102147460ee7eb763653d5132d883a84fb88932bfb8d2db4',
    'gzip/' + LABELS_NAME: 'b46d41e5156a0a8aaaa4d18979fdd1588850fa8571018acffd5d93b325a7d6ed',
}
CHUNK = 2 ** 21                             # most bytes asked for at once
MOST_MEMBER_BYTES = 2 ** 28                 # larger members are refused
ATTEMPTS = 5                                # requests for the same bytes before giving up
TIMEOUT = 30                                # seconds of silence after which a connection counts as broken


def download(folder, url=ZIP_URL, members=MEMBERS, allow_loopback_http=False, pause=1.0, report=no_report):
    """Fetch `members` {name in the zip: sha256} of the zip at `url` into `folder`, under their last names.

    Only their bytes are asked for, not the zip's other 500 MB. Files already there and intact are kept;
    a download that broke off leaves NAME.part, and the next call goes on from it. `pause` is the time in
    seconds before a second attempt, doubled before each later one. Raises ValueError or OSError with one
    plain sentence.
    """
    with writing_to(folder):
        os.makedirs(folder, exist_ok=True)
    archive = None
    for name, sha256 in members.items():
        path = os.path.join(folder, os.path.basename(name))
        if os.path.exists(path) and hashlib.sha256(read_file(path)).hexdigest() == sha256:
            continue
        archive = archive or RemoteFile(url, allow_loopback_http, pause)
        info = fetch_member(archive, name, path + '.part', report)
        unpack_member(info, path + '.part', path, sha256)


def read_file(path):
    """Return all bytes of a file."""
    with open(path, 'rb') as file:
        return file.read()


def fetch_member(archive, name, part, report):
    """Append to the file `part` what it lacks of the member's bytes as they lie in the zip; return its ZipInfo."""
    try:
        with zipfile.ZipFile(archive) as listing:
            info = listing.getinfo(name)
    except (zipfile.BadZipFile, NotImplementedError, KeyError) as error:
        raise ValueError("{} is not EMNIST's zip ({}): check the address".format(archive.url, error)) from error
    archive.seek(info.header_offset)        # the member: 30 bytes of header, two texts, then its content
    header = archive.read(30)
    start = info.header_offset + 30 + (sum(struct.unpack('<HH', header[26:])) if len(header) == 30 else 0)
    if max(info.compress_size, info.file_size) > MOST_MEMBER_BYTES or start + info.compress_size > archive.size:
        raise ValueError('{} claims an impossible size for {}: check the address'.format(archive.url, name))
    with writing_to(os.path.dirname(part)), open(part, 'ab') as file:
        while file.tell() < info.compress_size:
            archive.seek(start + file.tell())
            file.write(archive.read(min(CHUNK, info.compress_size - file.tell())))
            report('bytes of ' + os.path.basename(name), file.tell(), info.compress_size)
    return info


def unpack_member(info, part, path, sha256):
    """Turn the complete file `part` into `path` if its content is the right one; else delete it and raise."""
    content = read_file(part)
    try:
        if info.compress_type == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, info.file_size + 1)
    except zlib.error:
        pass                                # damaged: the checksum tells
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        os.remove(part)
        raise ValueError('{} arrived with sha256 {}, expected {}: deleted, try again later'.format(
            info.filename, actual, sha256))
    with writing_to(os.path.dirname(path)):
        with open(part, 'wb') as file:
            file.write(content)
        os.replace(part, path)


class TrustedOnly(urllib.request.BaseHandler):
    """Refuses, also when redirected there, addresses that are neither https nor http at `plain_hosts`."""

    def __init__(self, plain_hosts):
        self.plain_hosts = plain_hosts

    def http_request(self, request):
        """Be called by urllib before each request."""
        if request.type != 'http' or request.host.split(':')[0] not in self.plain_hosts:
            raise ValueError('{} is not fetched: only https addresses are'.format(request.full_url))
        return request

    ftp_request = file_request = data_request = http_request


class RemoteFile:
    """A file on a web server, read in ranges of bytes by seek, tell and read: all that zipfile needs."""

    def __init__(self, url, allow_loopback_http, pause):
        self.url, self.pause = url, pause
        plain_hosts = ('127.0.0.1', 'localhost') if allow_loopback_http else ()
        self.opener = urllib.request.build_opener(TrustedOnly(plain_hosts))
        self.position, self.size = 0, 1
        self.read(1)                        # the first answer tells the size

    def seek(self, offset, whence=io.SEEK_SET):
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(origin + offset, 0)
        return self.position

    def tell(self):
        return self.position

    def read(self, count=-1):
        """Return the next `count` bytes, fewer only at the end; where the connection breaks, ask for the rest."""
        rest = max(self.size - self.position, 0)
        count = rest if count < 0 else min(count, rest)
        if count > CHUNK:                   # only a damaged table of contents can be that long
            raise ValueError('{} is not a sound zip file: check the address'.format(self.url))
        data = b''
        for attempt in range(ATTEMPTS):
            if len(data) == count:
                break
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            reason = 'the connection broke off'
            try:
                with self.ask(self.position + len(data), self.position + count) as response:
                    data += response.read(count - len(data))
            except urllib.error.HTTPError as error:
                error.close()
                reason = 'the server answered {} {}'.format(error.code, error.reason)
                if error.code < 500:        # asking again will not help
                    break
            except (OSError, http.client.HTTPException) as error:
                reason = str(error)
        if len(data) < count:
            raise OSError('{} could not be read ({}): try again later, what has arrived is kept'.format(
                self.url, reason))
        self.position += count
        return data

    def ask(self, start, stop):
        """Request the bytes start..stop - 1; return the response once it is sure that it holds them."""
        request = urllib.request.Request(self.url, headers={'Range': 'bytes={}-{}'.format(start, stop - 1)})
        response = self.opener.open(request, timeout=TIMEOUT)
        given = re.match(r'bytes (\d+)-\d+/(\d+)$', response.headers.get('Content-Range', ''))
        if response.status != 206 or not given or int(given.group(1)) != start:
            response.close()
            raise ValueError('{} does not send parts of a file: download it whole (about 540 MB) with a browser, '
                             "unpack it and run 'prepare.py idx FOLDER'".format(self.url))
        self.size = int(given.group(2))
        return response


# ---------------------------------------------------------------- the command line

class Progress:
    """Shows on stderr how far a task is and how long its rest may take."""

    def __init__(self):
        self.started = self.shown = time.monotonic()

    def __call__(self, task, done, total):
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if done < total and now - self.shown < (0.2 if terminal else 10):      # seconds between two displays
            return
        left = (now - self.started) * (total - done) / done
        print('{:,} of {:,} {}, about {:.0f} s left   '.format(done, total, task, left),
              end='\r' if terminal and done < total else '\n', file=sys.stderr, flush=True)
        self.shown = now
        if done == total:
            self.started = now              # of the next task


def parse_arguments(arguments):
    """Turn command-line arguments into options named like the arguments of the functions above."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument('--folder', default=HERE, help="where the files go (default: this script's folder)")
    shared.add_argument('--train-rows', type=int, default=TRAIN_ROWS, metavar='N',
                        help='rows of train.csv (default: %(default)s)')
    shared.add_argument('--test-rows', type=int, default=TEST_ROWS, metavar='N',
                        help='rows of test.csv (default: %(default)s)')
    shared.add_argument('--seed', type=int, default=0, metavar='N',
                        help='the same seed gives the same files (default: %(default)s)')
    shared.add_argument('--force', action='store_true', help='overwrite files that are there already')

    parser = argparse.ArgumentParser(
        description="Make the lab's train.csv and test.csv, and test_labels.csv to score with.",
        epilog='Exit code: 0 done, 2 refused or failed (the reason on stderr), 130 interrupted. Whatever happens, '
               "files under their final names are whole. 'prepare.py WAY --help' lists a way's options.")
    ways = parser.add_subparsers(dest='way', metavar='WAY')
    ways.required = True
    for way, text in (('stand-in', 'draw look-alikes of the characters from fonts (not EMNIST, not handwriting)'),
                      ('idx', "convert EMNIST Balanced's " + IMAGES_NAME + ' and ' + LABELS_NAME),
                      ('download', 'fetch these two files (about 30 MB) from NIST, then convert them')):
        way_parser = ways.add_parser(way, parents=[shared], help=text, description=text)
        if way == 'idx':
            way_parser.add_argument('source', help='the folder these two files are in')
        if way == 'download':
            way_parser.add_argument('--url', default=ZIP_URL, help='address of the zip (default: %(default)s)')
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the command line; return its exit code."""
    options = vars(parse_arguments(arguments))
    way, url = options.pop('way'), options.pop('url', None)
    make, report = make_stand_in if way == 'stand-in' else make_from_idx, Progress()
    try:
        if way == 'download':
            check_request(**options)
            download(options['folder'], url, report=report)
            options['source'] = options['folder']
        make(report=report, **options)
    except (ValueError, OSError) as error:
        print('prepare.py: {}'.format(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('prepare.py: interrupted; files under their final names are whole', file=sys.stderr)
        return 130
    print('wrote {} to {}'.format(', '.join(FILES), options['folder']))
    return 0


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # a polite kill tidies up as Ctrl-C does
    sys.exit(main())
