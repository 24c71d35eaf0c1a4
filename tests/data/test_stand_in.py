"""data/stand_in.py: the stand-in's format, its looks, its seeds, and its marker."""

import numpy as np
import pytest

import data_files
from data_files import read_folder, read_table
import csv_files
import network
import stand_in


@pytest.fixture(scope='module')
def tables(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('stand-in'))
    stand_in.make_stand_in(folder, train_rows=1900, test_rows=480, seed=3)
    return [read_table(folder, name) for name in csv_files.FILES]


def test_it_has_the_labs_format_and_equally_frequent_shuffled_classes(tables):
    assert [table.shape for table in tables] == [(1900, 785), (480, 784), (480, 1)]
    for labels in (tables[0][:, 0], tables[2][:, 0]):
        counts = np.bincount(labels, minlength=47)
        assert len(counts) == 47 and counts.max() - counts.min() <= 1
        assert np.mean((labels[1:] - labels[:-1]) % 47 == 1) < 0.1, 'the labels count up'
    assert csv_files.CHARACTERS == network.CLASS_NAMES


def test_it_can_be_learned_and_the_test_labels_fit(tables):
    train, test, labels = tables
    means = np.array([train[train[:, 0] == label, 1:].mean(axis=0) for label in range(47)])
    nearest = (-2 * test @ means.T + (means ** 2).sum(axis=1)).argmin(axis=1)
    accuracy = np.mean(nearest == labels[:, 0])
    assert 0.35 < accuracy < 0.6, f'nearest class mean: got {accuracy:.1%}, expected 35..60 %'


def heaviest_corner(upright):
    """'left bottom' for an L."""
    side = 'left' if upright[:, :14].sum() > upright[:, 14:].sum() else 'right'
    return side + (' top' if upright[:14].sum() > upright[14:].sum() else ' bottom')


def check_emnist_form(images):
    """Each image (N, 28, 28) reaches 255, and its ink is centred, its longer side 24 pixels."""
    assert (images.max(axis=(1, 2)) == 255).all()
    extents = []
    for axis in (1, 2):
        inked = (images > 100).any(axis=axis)
        first, last = stand_in.first_and_last(inked)
        assert abs(((first + last) / 2).mean() - 13.5) < 0.3, f'axis {axis} is not centred'
        extents.append(last - first + 1)
    longer = np.max(extents, axis=0)
    assert 21 <= np.percentile(longer, 2) and longer.max() <= 26


def test_images_are_centred_scaled_and_transposed_as_in_emnist(tables):
    train = tables[0]
    check_emnist_form(train[:, 1:].reshape(-1, 28, 28))
    for character, corner in (('L', 'left bottom'), ('F', 'left top'), ('7', 'right top')):
        rows = train[train[:, 0] == csv_files.CHARACTERS.index(character), 1:]
        assert heaviest_corner(rows.reshape(-1, 28, 28).mean(axis=0).T) == corner, character


def picture_of_l(scale, paper=1.0, ink=0.0):
    """An L of 12 x 8 fields, dark on light, off the centre of a picture."""
    fields = np.full((26, 20), paper)
    fields[2:14, 3] = fields[13, 3:11] = ink
    return np.kron(fields, np.ones((scale, scale)))


@pytest.mark.parametrize('picture', [
    picture_of_l(1), picture_of_l(30), picture_of_l(9) * 65535, picture_of_l(9, -0.2, -1),
    picture_of_l(9, paper=0.7, ink=0.4), picture_of_l(9) * np.linspace(0.6, 1, 180),
    picture_of_l(9) + np.random.default_rng(0).normal(0, 0.02, (234, 180)),
    np.pad(picture_of_l(9, paper=0.4), 9, 'constant', constant_values=1)])
def test_a_picture_of_any_size_and_brightness_becomes_a_row_as_in_train_csv(picture):
    got = stand_in.normalise_character(picture)
    assert got.shape == (28, 28) and got.dtype == np.uint8
    check_emnist_form(got[None])
    assert heaviest_corner(got.T) == 'left bottom'
    expected = stand_in.normalise_character(picture_of_l(50))
    assert np.abs(got.astype(int) - expected).mean() < 10, 'not the same L'


def test_a_blank_picture_is_refused():
    with pytest.raises(ValueError) as error:
        stand_in.normalise_character(np.full((40, 30), 200, np.uint8))
    data_files.check_message(error.value, 'blank')


@pytest.mark.parametrize('rows', [1, 8, 25])
def test_any_number_of_rows_and_progress_to_the_end(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(csv_files, 'BLOCK', 8)
    reports = []
    stand_in.make_stand_in(str(tmp_path), rows, rows, report=lambda *report: reports.append(report))
    for name in csv_files.FILES:
        assert len(read_table(tmp_path, name)) == rows, name
        assert (f'rows of {name}', rows, rows) in reports, name


def test_same_seed_same_bytes_and_test_rows_do_not_depend_on_train_rows(tmp_path):
    made = []
    for rows, seed in ((30, 1), (30, 1), (30, 2), (40, 1)):
        folder = tmp_path / str(len(made))
        stand_in.make_stand_in(str(folder), train_rows=rows, test_rows=20, seed=seed)
        made.append(read_folder(folder))
    assert made[0] == made[1]
    for name in csv_files.FILES:
        assert made[0][name] != made[2][name], f'{name}: seeds 1 and 2, same bytes'
    assert made[0]['test.csv'] == made[3]['test.csv']


def test_every_font_draws_47_different_characters():
    for font, maps in zip(stand_in.FONTS, stand_in.distance_maps()):
        different = len({(character_map > 0).tobytes() for character_map in maps})
        assert different == 47, f'{font}: got {different} different shapes, expected 47'


def test_distance_is_the_distance_to_the_nearest_true_cell():
    mask = np.random.default_rng(0).random((3, 20, 17)) < 0.01
    rows, columns = np.mgrid[:20, :17]
    expected = np.full(mask.shape, float(stand_in.REACH))
    for image, row, column in np.argwhere(mask):
        expected[image] = np.minimum(expected[image], np.hypot(rows - row, columns - column))
    np.testing.assert_allclose(stand_in.distance_to(mask), expected, atol=1e-5)


def test_the_marker_says_which_files_are_a_stand_in(tmp_path):
    stand_in.make_stand_in(str(tmp_path), 30, 20, seed=3)
    marker = tmp_path / csv_files.MARKER
    text = marker.read_bytes().decode('ascii')
    for name in csv_files.FILES:
        path = tmp_path / name
        assert csv_files.is_stand_in(str(path))
        assert f'{name} {path.stat().st_size} bytes' in text, 'the notebook looks for this text'
    data_files.check_message(text.splitlines()[1], 'not EMNIST', 'Do not hand in')
    assert '--seed 3' in text
    (tmp_path / 'train.csv').write_bytes(b'the real file, copied over the stand-in')
    (tmp_path / 'test_labels.csv').unlink()
    found = [csv_files.is_stand_in(str(tmp_path / name)) for name in csv_files.FILES]
    assert found == [False, True, False]
    for content in (b'', b'\xff\xfe', b'test.csv'):
        marker.write_bytes(content)
        assert not csv_files.is_stand_in(str(tmp_path / 'test.csv')), content
