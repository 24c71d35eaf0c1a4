"""data/stand_in.py: the stand-in's format, its looks, its seeds, and its marker."""
import os
import pathlib

import matplotlib
import numpy as np
import pytest

import data_files
from data_files import read_folder, read_table
import csv_files
import network
import stand_in

MADE = csv_files.FILES + (csv_files.MARKER,)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('stand-in'))
    stand_in.make_stand_in(folder, train_rows=1900, test_rows=480, seed=3)
    return folder


def test_it_has_the_labs_format(small):
    data_files.check_folder(small, MADE)
    for name, shape, largest in (('train.csv', (1900, 785), 255), ('test.csv', (480, 784), 255),
                                 ('test_labels.csv', (480, 1), 46)):
        table = read_table(small, name)
        assert table.shape == shape, f'{name}: got shape {table.shape}, expected {shape}'
        assert table.min() == 0 and table.max() == largest, (
            f'{name}: got values {table.min()}..{table.max()}, expected 0..{largest}')


def test_labels_mean_the_same_as_in_the_network():
    assert csv_files.CHARACTERS == network.CLASS_NAMES


def test_classes_are_equally_frequent_and_shuffled(small):
    for name in ('train.csv', 'test_labels.csv'):
        labels = read_table(small, name)[:, 0]
        counts = np.bincount(labels, minlength=47)
        assert len(counts) == 47 and counts.max() - counts.min() <= 1, f'{name}: counts {counts}'
        in_order = np.mean((labels[1:] - labels[:-1]) % 47 == 1)
        assert in_order < 0.1, f'{name}: {in_order:.0%} of the labels count up, expected a shuffle'


def test_it_can_be_learned_and_the_test_labels_fit(small):
    train = read_table(small, 'train.csv')
    test = read_table(small, 'test.csv')
    labels = read_table(small, 'test_labels.csv')[:, 0]
    means = np.array([train[train[:, 0] == label, 1:].mean(axis=0) for label in range(47)])
    nearest = (-2 * test @ means.T + (means ** 2).sum(axis=1)).argmin(axis=1)
    accuracy = np.mean(nearest == labels)
    assert 0.4 < accuracy < 0.85, f'nearest class mean: got {accuracy:.1%}, expected 40..85 %'


@pytest.mark.parametrize('character, heavy', [('L', 'left bottom'), ('F', 'left top'),
                                              ('7', 'right top'), ('J', 'right bottom')])
def test_images_are_stored_transposed(small, character, heavy):
    train = read_table(small, 'train.csv')
    rows = train[train[:, 0] == csv_files.CHARACTERS.index(character), 1:]
    upright = rows.reshape(-1, 28, 28).mean(axis=0).T
    side = 'left' if upright[:, :14].sum() > upright[:, 14:].sum() else 'right'
    end = 'top' if upright[:14].sum() > upright[14:].sum() else 'bottom'
    assert f'{side} {end}' == heavy, f'{character}: most ink {side} {end}, expected {heavy}'


def test_images_are_centred_and_scaled_like_emnist(small):
    images = read_table(small, 'train.csv')[:, 1:].reshape(-1, 28, 28)
    darkest = np.unique(images.max(axis=(1, 2)))
    assert list(darkest) == [255], f'darkest pixels: got {darkest}, expected 255 in each image'
    extents = []
    for axis in (1, 2):
        inked = (images > 100).any(axis=axis)
        first = inked.argmax(axis=1)
        last = 27 - inked[:, ::-1].argmax(axis=1)
        middle = ((first + last) / 2).mean()
        assert abs(middle - 13.5) < 0.3, f'axis {axis}: middle of the ink {middle}, expected 13.5'
        extents.append(last - first + 1)
    longer = np.max(extents, axis=0)
    assert 21 <= np.percentile(longer, 2) and longer.max() <= 26, (
        f'longer side: got {longer.min()}..{longer.max()} pixels, expected about 24')


def test_same_seed_same_bytes_and_test_rows_do_not_depend_on_train_rows(tmp_path):
    made = {}
    for name, rows, seed in (('a', 30, 1), ('again', 30, 1), ('other seed', 30, 2),
                             ('more rows', 40, 1)):
        stand_in.make_stand_in(str(tmp_path / name), train_rows=rows, test_rows=20, seed=seed)
        made[name] = read_folder(tmp_path / name)
    assert made['a'] == made['again'], 'seed 1 twice: got different bytes, expected the same'
    for name in csv_files.FILES:
        assert made['a'][name] != made['other seed'][name], f'{name}: seeds 1 and 2, same bytes'
    assert made['a']['test.csv'] == made['more rows']['test.csv'], (
        'test.csv changed with the number of train rows')


@pytest.mark.parametrize('rows', [1, 7, 8, 25])
def test_any_number_of_rows_and_progress_to_the_end(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(csv_files, 'BLOCK', 8)
    reports = []
    stand_in.make_stand_in(str(tmp_path), rows, rows, report=lambda *report: reports.append(report))
    for name in csv_files.FILES:
        got = len(read_table(tmp_path, name))
        assert got == rows, f'{name}: got {got} rows, expected {rows}'
        assert (f'rows of {name}', rows, rows) in reports, f'no report of the end of {name}'


@pytest.mark.parametrize('name', stand_in.FONTS)
def test_every_font_draws_47_different_characters(name):
    path = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', f'{name}.ttf')
    font = stand_in.FT2Font(path)
    lacking = [character for character in csv_files.CHARACTERS
               if font.get_char_index(ord(character)) == 0]
    assert not lacking, f'{name} lacks {lacking}'
    maps = stand_in.distance_maps()[stand_in.FONTS.index(name)]
    different = len({(character_map > 0).tobytes() for character_map in maps})
    assert different == 47, f'{name}: got {different} different shapes, expected 47'


def test_distance_is_the_distance_to_the_nearest_true_cell():
    mask = np.random.default_rng(0).random((3, 20, 17)) < 0.01
    rows, columns = np.mgrid[:20, :17]
    expected = np.full(mask.shape, float(stand_in.REACH))
    for image, row, column in np.argwhere(mask):
        expected[image] = np.minimum(expected[image], np.hypot(rows - row, columns - column))
    error = np.abs(stand_in.distance_to(mask) - expected).max()
    assert error < 1e-5, f'distance_to differs from the brute-force distance by {error}'


# The marker ---------------------------------------------------------------------------------------

def test_the_marker_says_which_files_are_a_stand_in(small):
    marker = read_folder(small)[csv_files.MARKER].decode('ascii')
    for text in ('stand-in', 'not EMNIST', 'Do not hand in', '--seed 3'):
        assert text in marker, f'{marker!r} does not say {text!r}'
    for name in csv_files.FILES:
        assert csv_files.is_stand_in(os.path.join(small, name)), f'{name} is a stand-in'


def test_a_real_file_copied_over_is_not_called_a_stand_in(tmp_path):
    stand_in.make_stand_in(str(tmp_path), 30, 20)
    (tmp_path / 'train.csv').write_bytes(b'the real file')
    assert not csv_files.is_stand_in(str(tmp_path / 'train.csv')), 'the real file was called so'
    assert csv_files.is_stand_in(str(tmp_path / 'test.csv')), 'test.csv is still a stand-in'


@pytest.mark.parametrize('marker', [None, b'', b'\xff\xfe', b'train.csv'])
def test_without_a_marker_that_names_it_no_file_is_called_a_stand_in(tmp_path, marker):
    if marker is not None:
        (tmp_path / csv_files.MARKER).write_bytes(marker)
    (tmp_path / 'train.csv').write_bytes(b'1')
    assert not csv_files.is_stand_in(str(tmp_path / 'train.csv')), f'marker {marker!r}'
    assert not csv_files.is_stand_in(str(tmp_path / 'none.csv')), 'a missing file was called so'


def test_the_notebooks_check_needs_no_module_of_data(small):
    """The notebook is handed in without data/, so it reads the marker with these lines."""
    folder = pathlib.Path(small)
    marker = folder / 'stand-in.txt'
    size = (folder / 'train.csv').stat().st_size
    assert marker.exists() and f'train.csv {size} bytes' in marker.read_text()
