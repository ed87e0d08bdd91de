"""Laws of the images, and what becomes of damaged files."""

import gzip
import struct

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.data import DataError, default_source, found_sources, load_images
from experiments.data.grey_sets.mnist import read_idx

NAMES = [f"train-images{dot}idx3-ubyte{suffix}" for dot in "-." for suffix in ("", ".gz")]
IMAGES = np.random.default_rng(0).integers(0, 256, size=(7, 28, 28), dtype=np.uint8)
CONTENT = struct.pack(">HBBIII", 0, 8, 3, *IMAGES.shape) + IMAGES.tobytes()


def put(folder, content, name=NAMES[0]):
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.fixture
def folder(tmp_path):
    put(tmp_path, CONTENT)
    return tmp_path


SOURCES = pytest.mark.parametrize("source", ["photographs", "digits", "mnist"])


@SOURCES
def test_images_are_grey_levels_of_the_asked_shape(source, folder):
    images = load_images(source, 5, 28, seed=1, folder=folder)
    assert images.shape == (5, 28, 28)
    assert images.dtype == np.float64
    assert 0 <= images.min() < images.max() <= 1
    assert images.std(axis=(1, 2)).max() > 0.05


@SOURCES
def test_the_seed_decides(source, folder):
    first, again, other = (
        load_images(source, 3, 28, seed=seed, folder=folder) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@SOURCES
@pytest.mark.parametrize("count", [0, -1])
def test_no_images_are_refused(source, count, folder):
    with pytest.raises(DataError, match="at least 1"):
        load_images(source, count, folder=folder)


def test_digits_at_their_own_size_are_the_digits_drawn_once_each():
    images = load_images("digits", 1797, size=8)
    rows = np.unique((images * 16).reshape(1797, 64), axis=0)
    np.testing.assert_array_equal(rows, np.unique(load_digits().data, axis=0))


def test_enlarging_keeps_corners_and_interpolates_between():
    small, large = (load_images("digits", 4, size=size, seed=3) for size in (8, 15))
    # With 15 pixels every second one lies on an old pixel, the others halfway between two.
    np.testing.assert_allclose(large[:, ::2, ::2], small, atol=1e-15)
    np.testing.assert_allclose(large[:, 1::2, ::2], (small[:, 1:] + small[:, :-1]) / 2, atol=1e-15)


def test_crops_come_from_the_whole_of_both_photographs():
    from sklearn.datasets import load_sample_images

    edge = 427  # the height of both: one position vertically, 214 horizontally
    grey = [image @ [0.299, 0.587, 0.114] / 255 for image in load_sample_images().images]
    used = set()
    for crop in load_images("photographs", 6, size=edge, seed=0):
        (match,) = [
            (number, left)
            for number, image in enumerate(grey)
            for left in range(image.shape[1] - edge + 1)
            if np.array_equal(image[0, left : left + edge], crop[0])
        ]
        used.add(match)
    assert {number for number, _ in used} == {0, 1}
    assert len(used) == 6


@pytest.mark.parametrize(
    ("source", "count", "size", "message"),
    [
        ("photographs", 1, 428, "1 to 427 pixels"),
        ("photographs", 1, 0, "1 to 427 pixels"),
        ("digits", 1798, 8, "1797 images, not 1798"),
        ("digits", 1, 7, "8 pixels; 7 would lose"),
        ("mnist", 8, 28, "7 images, not 8"),
        ("mnist", 1, 27, "28 pixels; 27 would lose"),
        ("paintings", 1, 28, "digits, mnist, photographs"),
    ],
)
def test_what_a_source_cannot_give_is_refused(folder, source, count, size, message):
    with pytest.raises(DataError, match=message):
        load_images(source, count, size, folder=folder)


@pytest.mark.parametrize("name", NAMES)
def test_every_usual_file_name_is_found(tmp_path, name):
    put(tmp_path, CONTENT, name)
    images = load_images("mnist", 7, folder=tmp_path)
    drawn = {image.tobytes() for image in np.rint(images * 255).astype(np.uint8)}
    assert drawn == {image.tobytes() for image in IMAGES}


def test_an_idx_file_of_labels_is_read(tmp_path):
    path = put(tmp_path, struct.pack(">HBBI", 0, 8, 1, 4) + bytes([3, 1, 4, 1]), "labels")
    assert read_idx(path, dimensions=1).tolist() == [3, 1, 4, 1]


def test_a_compressed_file_is_known_by_its_content(tmp_path):
    (tmp_path / NAMES[0]).write_bytes(gzip.compress(CONTENT))
    np.testing.assert_array_equal(read_idx(tmp_path / NAMES[0], dimensions=3), IMAGES)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_every_truncation_is_refused_with_the_name_of_the_file(tmp_path, compress):
    whole = gzip.compress(CONTENT) if compress else CONTENT
    path = tmp_path / NAMES[0]
    for length in [*range(40), *range(40, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=path.name):
            read_idx(path, dimensions=3)


def test_every_changed_byte_of_a_compressed_file_is_refused(tmp_path):
    whole = gzip.compress(CONTENT, mtime=0)
    path = tmp_path / NAMES[0]
    for place in range(10, len(whole), 97):  # after the gzip header, parts of which mean nothing
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(DataError, match=path.name):
            read_idx(path, dimensions=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT + b"\0", "announces 7 x 28 x 28 = 5488 bytes, at least 5489 follow"),
        (b"\0\0\x08\x01" + CONTENT[4:], "expected it to start with 00 00 08 03, got 00 00 08 01"),
        (b"\0\0\x0d\x03" + CONTENT[4:], "got 00 00 0d 03"),
        (b"<html>not found</html>", "got 3c 68 74 6d"),
        (b"", "got nothing"),
        (CONTENT[:9], "header of 16 bytes, got 9"),
        (b"\x1f\x8b" + CONTENT, "fetch it again"),
        (struct.pack(">HBBIII", 0, 8, 3, *3 * [2**32 - 1]), "expected 1 to 1073741824"),
        (struct.pack(">HBBIII", 0, 8, 3, 2**20, 28, 28), "822083584 bytes, 0 follow"),
        (struct.pack(">HBBIII", 0, 8, 3, 7, 0, 28), "announces 7 x 0 x 28 = 0 bytes, expected 1"),
        (struct.pack(">HBBIII", 0, 8, 3, 0, 28, 28), "announces 0 x 28 x 28 = 0 bytes, expected 1"),
    ],
)
def test_a_damaged_file_says_what_was_expected_and_what_came(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        load_images("mnist", 1, folder=put(tmp_path, content).parent)


def test_a_folder_without_mnist_names_the_closest_file(tmp_path):
    put(tmp_path, CONTENT, "t10k-images-idx3-ubyte")
    put(tmp_path, CONTENT, "notes.txt")
    with pytest.raises(DataError, match=r"expected train-images-idx3.*'t10k-images-idx3-ubyte'"):
        load_images("mnist", 1, folder=tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        load_images("mnist", 1, folder=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="0 other entries"):
        load_images("mnist", 1, folder=tmp_path / "empty")


def test_the_default_is_mnist_where_the_user_has_it(tmp_path):
    assert default_source(None) == "photographs"
    assert default_source(tmp_path) == "mnist"
    with pytest.raises(DataError, match="name it"):
        load_images("mnist", 1)


def test_natural_images_are_the_grey_of_those_in_colour(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    records = rng.integers(0, 10, (6, 2, 3073), dtype=np.uint8)
    for name, batch in zip(names, records, strict=True):
        (tmp_path / name).write_bytes(batch.tobytes())
    images = load_images("cifar10", 10, 32, folder=tmp_path)
    red, green, blue = records[:5, :, 1:].reshape(10, 3, 32, 32).transpose(1, 0, 2, 3) / 255
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    assert {image.round(9).tobytes() for image in images} == {
        image.round(9).tobytes() for image in grey
    }


def test_sources_are_those_that_a_folder_has(folder):
    wanted = ("mnist", "cifar10")
    assert found_sources(None, wanted) == ()
    assert found_sources(folder, wanted) == ("mnist",)
    (folder / NAMES[0]).unlink()
    with pytest.raises(DataError, match=r"no MNIST images.*data_batch_1"):
        found_sources(folder, wanted)
