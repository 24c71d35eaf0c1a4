"""Draw a stand-in for EMNIST: printed characters from matplotlib's fonts, varied at random.

The stand-in is there so that everything runs without the real data. It is not EMNIST and not
handwriting. `make_stand_in` writes it. The same seed and sizes give the same bytes.

How a character is drawn: look up its distance map, bend it, let the pen grow thicker, then blur,
centre and scale it as EMNIST does.

Shapes: N images, H rows, W columns. "Pixels" are pixels of the final 28x28 image unless said
otherwise.
"""
import functools
import os

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font

from check import refuse_misplaced
from csv_files import (CHARACTERS, SIDE, TEST_ROWS, TRAIN_ROWS, blocks_of, check_request, no_report,
                       write_dataset)

# The fonts with real letters that every matplotlib since 3.3 ships. Its other fonts lack some of
# the 47 characters (...Display, STIXNonUni, STIXSiz) or hold symbols (cmex10, cmsy10, LastResort).
FONTS = ('DejaVuSans', 'DejaVuSans-Bold', 'DejaVuSans-Oblique', 'DejaVuSans-BoldOblique',
         'DejaVuSansMono', 'DejaVuSansMono-Bold', 'DejaVuSansMono-Oblique',
         'DejaVuSansMono-BoldOblique', 'DejaVuSerif', 'DejaVuSerif-Bold', 'DejaVuSerif-Italic',
         'DejaVuSerif-BoldItalic', 'STIXGeneral', 'STIXGeneralBol', 'STIXGeneralItalic',
         'STIXGeneralBolIta', 'cmb10', 'cmmi10', 'cmr10', 'cmss10', 'cmtt10')
MARGIN = 2                  # EMNIST leaves two pixels of border around the character,
INK = SIDE - 2 * MARGIN     # so the character's longer side has 24 pixels
MAP = 64                    # cells along an edge of a distance map
MAP_INK = 40                # cells along the character's longer side in the map
REACH = 8                   # cells; distances beyond it count as 8
CANVAS = 64                 # points along an edge of the canvas on which a character is bent
KNOTS = 5                   # random pushes along an edge of the canvas


def make_stand_in(folder, train_rows=TRAIN_ROWS, test_rows=TEST_ROWS, seed=0, force=False,
                  report=no_report):
    """Draw a stand-in data set into `folder`, with a marker file that says so.

    The same seed and sizes give the same bytes. Raises ValueError or OSError in one sentence, also
    if the competition's files are there, but packed or renamed; not if `force` is set.
    """
    if not force:
        refuse_misplaced(folder)
    check_request(folder, train_rows, test_rows, seed, force)
    # Each file has its own generator: the test rows do not depend on the number of train rows.
    train = labels_and_pixels(train_rows, np.random.default_rng([seed, 0]))
    test = labels_and_pixels(test_rows, np.random.default_rng([seed, 1]))
    origin = f'prepare.py stand-in --train-rows {train_rows} --test-rows {test_rows} --seed {seed}'
    write_dataset(folder, train, test, report, origin)


def labels_and_pixels(rows, generator):
    """Draw shuffled labels (rows,) uint8 and an iterator over blocks of their pixels."""
    labels = generator.permutation(np.arange(rows) % len(CHARACTERS)).astype(np.uint8)
    return labels, drawn_blocks(labels, generator)


def drawn_blocks(labels, generator):
    """Yield the pixels (up to BLOCK, 784) uint8 of the labels, each image stored transposed."""
    maps = distance_maps()
    for block in blocks_of(labels):
        upright = draw_characters(maps, block, generator)
        yield upright.transpose(0, 2, 1).reshape(-1, SIDE * SIDE)


def draw_characters(maps, labels, generator):
    """Draw an upright image (28, 28) for each label: (N, 28, 28) uint8, random font and shape."""
    count = len(labels)
    points = bent_grid(count, generator)
    fonts = generator.integers(len(maps), size=count)
    distance = look_up(maps[fonts, labels], points)
    thicken = generator.uniform(-0.2, 0.8, (count, 1, 1)).astype(np.float32)  # pixels a side
    ink = np.clip(0.5 + distance + thicken, 0, 1)                   # an edge one pixel soft
    blur = generator.uniform(0.35, 0.75, count)
    images = centre_and_scale(ink, SIDE, MARGIN, blur)
    images *= 255 / images.max(axis=(1, 2), keepdims=True)          # EMNIST's darkest is 255, too
    return np.rint(images).astype(np.uint8)


def bent_grid(count, generator):
    """Say for each canvas point where in the plain character it looks: (N, 2, CANVAS, CANVAS).

    Axis 1 is (row, column). The plain character's longer side spans -1..1.
    """
    angle = np.radians(12) * generator.standard_normal(count)
    shear = 0.2 * generator.standard_normal(count)                  # slant to the right
    stretch = np.exp(0.1 * generator.standard_normal(count))        # height / width = stretch ** 2
    zero = np.zeros(count)
    cosine = np.cos(angle)
    sine = np.sin(angle)
    rotation = np.array([[cosine, sine], [-sine, cosine]])
    slant_and_stretch = np.array([[1 / stretch, zero], [shear / stretch, stretch]])
    affine = np.einsum('ijn,jkn->nik', slant_and_stretch, rotation).astype(np.float32)

    axis = np.linspace(-1.8, 1.8, CANVAS, dtype=np.float32)         # room for what grows
    grid = np.array(np.meshgrid(axis, axis, indexing='ij')).reshape(2, CANVAS * CANVAS)
    points = (affine @ grid).reshape(count, 2, CANVAS, CANVAS)

    # The elastic part: random pushes at the knots, spread over the canvas by bell-shaped weights
    offset = np.linspace(0, KNOTS - 1, CANVAS)[:, None] - np.arange(KNOTS)
    bells = np.exp(-offset ** 2).astype(np.float32)                 # (CANVAS, KNOTS)
    bells /= bells.sum(axis=1, keepdims=True)
    pushes = 0.28 * generator.standard_normal((count, 2, KNOTS, KNOTS), dtype=np.float32)
    return points + bells @ pushes @ bells.T


def look_up(maps, points):
    """Read each map (N, MAP, MAP) at its points (N, 2, CANVAS, CANVAS), linear between cells."""
    cells = np.clip(points * (MAP_INK / 2) + (MAP - 1) / 2, 0, MAP - 1.001)
    whole = cells.astype(np.int32)
    row_part, column_part = (cells - whole).transpose(1, 0, 2, 3)
    first = (np.arange(len(maps))[:, None, None] * MAP + whole[:, 0]) * MAP + whole[:, 1]
    values = maps.reshape(-1)
    above = values[first] * (1 - column_part) + values[first + 1] * column_part
    below = values[first + MAP] * (1 - column_part) + values[first + MAP + 1] * column_part
    return above * (1 - row_part) + below * row_part


def centre_and_scale(images, side, margin, blur):
    """Centre the ink of images (N, H, W), values 0..1, on (N, side, side).

    The ink's longer side becomes side - 2 * margin. These are EMNIST's steps (Cohen et al. 2017,
    arXiv:1702.05373): Gaussian blur, crop to the ink, pad to a square, resize with the aspect ratio
    kept. Here blur and resize are one weighted mean. `blur` (N,) is the Gaussian's standard
    deviation in pixels of the result.
    """
    inked = images > 0.5
    top, bottom = first_and_last(inked.any(axis=2))
    left, right = first_and_last(inked.any(axis=1))
    longer = np.maximum(bottom - top, right - left) + 1
    step = longer / (side - 2 * margin)                 # source pixels a result pixel, (N,)
    rows = bell_weights((top + bottom) / 2, images.shape[1], side, step, blur)
    columns = bell_weights((left + right) / 2, images.shape[2], side, step, blur)
    return rows @ images @ columns.transpose(0, 2, 1)


def normalise_character(image):
    """Turn the picture of one character into a row's image as in train.csv: (28, 28) uint8.

    image: (H, W) numbers, the larger the lighter: dark ink on light paper, upright. As in EMNIST,
    the ink counts as black or white, whatever the paper's brightness; it is blurred, cropped,
    centred, scaled to 24 pixels and transposed. ValueError if nothing is darker than the paper.
    """
    image = np.asarray(image, dtype=float)
    paper = np.median(image)                            # most of a picture is paper
    darkest = image.min()
    if not darkest < paper:
        raise ValueError('the picture is blank: expected one dark character on light paper')
    ink = (image < (paper + darkest) / 2).astype(np.float32)
    scaled = centre_and_scale(ink[None], SIDE, MARGIN, np.array([0.7]))[0]
    return np.rint(scaled.T * (255 / scaled.max())).astype(np.uint8)


def first_and_last(profile):
    """Find the first and the last True of each row of `profile` (N, length): two arrays (N,)."""
    first = profile.argmax(axis=1)
    last = profile.shape[1] - 1 - profile[:, ::-1].argmax(axis=1)
    return first, last


def bell_weights(centre, length, side, step, blur):
    """Give the weight of each source row in each result row: (N, side, length) float32.

    centre, step, blur: (N,). The same serves for columns.
    """
    wanted = centre[:, None] + (np.arange(side) - (side - 1) / 2) * step[:, None]
    distance = (np.arange(length) - wanted[:, :, None]) / (blur * step)[:, None, None]
    bell = np.exp(-0.5 * distance.astype(np.float32) ** 2)
    # Far outside the source all weights are nearly 0: the floor keeps that background, not 0 / 0
    return bell / np.maximum(bell.sum(axis=2, keepdims=True), 1e-6)


@functools.lru_cache(maxsize=1)
def distance_maps():
    """Draw every character of every font as a distance map: (fonts, 47, MAP, MAP) float32.

    A map holds the signed distance to the outline in final pixels, positive inside the ink. To add
    to a distance moves the outline evenly, as a thicker pen does. A picture would not allow that.
    """
    pictures = []
    for name in FONTS:
        font = FT2Font(os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', f'{name}.ttf'))
        font.set_size(160, 72)                          # 160 pixels high
        for character in CHARACTERS:
            font.set_text(character)
            font.draw_glyphs_to_bitmap(antialiased=True)
            picture = np.asarray(font.get_image(), dtype=np.float32)[None] / 255
            margin = (MAP - MAP_INK) // 2
            pictures.append(centre_and_scale(picture, MAP, margin, blur=np.array([0.35])))
    inside = np.concatenate(pictures) > 0.5
    maps = (distance_to(~inside) - distance_to(inside)) * np.float32(INK / MAP_INK)
    return maps.reshape(len(FONTS), len(CHARACTERS), MAP, MAP)


def distance_to(mask):
    """Measure from each cell to the nearest True of its mask, at most REACH: (N, H, W) float32.

    Squared distances add over the axes, so the nearest is found along one axis, then the other.
    """
    squared = np.where(mask, 0, REACH ** 2).astype(np.float32)
    for _ in range(2):
        length = squared.shape[1]
        padded = np.pad(squared, [(0, 0), (REACH, REACH), (0, 0)], mode='edge')
        for shift in range(-REACH, REACH + 1):
            neighbour = padded[:, REACH + shift:REACH + shift + length]
            np.minimum(squared, neighbour + shift ** 2, out=squared)
        squared = squared.transpose(0, 2, 1)            # the other axis; twice: upright
    return np.sqrt(squared)
