"""Readers, on small files in the real formats; and what becomes of damaged ones."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from experiments.data import DataError
from experiments.data.labelled_register import known_sets, load

RNG = np.random.default_rng(0)
CIFAR_FILES = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
PER_BATCH = 4
CIFAR_IMAGES = RNG.integers(0, 256, (6, PER_BATCH, 3, 32, 32), dtype=np.uint8)
CIFAR_LABELS = RNG.integers(0, 10, (6, PER_BATCH), dtype=np.uint8)
STL_IMAGES = RNG.integers(0, 256, (7, 3, 96, 96), dtype=np.uint8)
STL_LABELS = np.array([1, 10, 3, 4, 2], dtype=np.uint8)
STL_FILES = ["train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin"]


def write_cifar10(folder):
    for name, images, labels in zip(CIFAR_FILES, CIFAR_IMAGES, CIFAR_LABELS, strict=True):
        records = [
            bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True)
        ]
        (folder / name).write_bytes(b"".join(records))


def write_stl10(folder):
    # The format: of each image red, green and blue, each column by column.
    columns = b"".join(
        bytes(image[channel, row, column] for channel in range(3) for column in range(96)
              for row in range(96))
        for image in STL_IMAGES
    )  # fmt: skip
    size = 3 * 96**2
    for name, part in zip(STL_FILES[::2], ((0, 3), (3, 5), (5, 7)), strict=True):
        (folder / name).write_bytes(columns[part[0] * size : part[1] * size])
    (folder / "train_y.bin").write_bytes(STL_LABELS[:3].tobytes())
    (folder / "test_y.bin").write_bytes(STL_LABELS[3:].tobytes())


def write_tiny_imagenet(folder):
    """Three classes, not in alphabetical order; constant grey levels survive JPEG."""
    classes = ["n03", "n01", "n02"]
    (folder / "wnids.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for k, name in enumerate(classes):
        images = folder / "train" / name / "images"
        images.mkdir(parents=True)
        for i in range(2):
            mode, colour = ("L", 40 * k + 10 * i) if i else ("RGB", (40 * k, 100, 200))
            Image.new(mode, (64, 64), colour).save(images / f"{name}_{i}.JPEG")
        Image.new("RGB", (64, 64), (250 - k,) * 3).save(folder / "val" / "images" / f"v_{k}.JPEG")
        lines.append(f"v_{k}.JPEG\t{name}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines[::-1]), encoding="utf-8")


WRITE = {"cifar10": write_cifar10, "stl10": write_stl10, "tiny_imagenet": write_tiny_imagenet}
INNER = {
    "cifar10": "cifar-10-batches-bin",
    "stl10": "stl10_binary",
    "tiny_imagenet": "tiny-imagenet-200",
}


@pytest.fixture(params=list(WRITE))
def name(request):
    return request.param


@pytest.fixture
def folder(name, tmp_path):
    WRITE[name](tmp_path)
    return tmp_path


def test_every_data_set_is_bytes_with_labels_and_names(name, folder):
    data = load(name, folder)
    for images, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert images.shape[:2] == (len(labels), 3)
        assert set(labels) <= set(range(len(data.classes)))


def test_no_seed_changes_what_lies_in_files(name, folder):
    """So all seeds of a sweep share one copy."""
    assert set(WRITE) == {key for key, each in known_sets().items() if each.FOLDER is not None}
    found = (load(name, given, seed=seed) for seed, given in ((0, folder), (1, str(folder))))
    for one, other in zip(*(vars(each).values() for each in found), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_folder_above_will_do(name, tmp_path):
    inner = tmp_path / INNER[name]
    inner.mkdir()
    WRITE[name](inner)
    np.testing.assert_array_equal(load(name, tmp_path).train, load(name, inner).train)


def test_cifar10_is_read_as_it_was_written(tmp_path):
    write_cifar10(tmp_path)
    data = load("cifar10", tmp_path)
    np.testing.assert_array_equal(data.train, CIFAR_IMAGES[:5].reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(data.train_labels, CIFAR_LABELS[:5].ravel())
    np.testing.assert_array_equal(data.test, CIFAR_IMAGES[5])
    np.testing.assert_array_equal(data.test_labels, CIFAR_LABELS[5])


def test_stl10_is_read_upright_and_its_labels_from_0(tmp_path):
    write_stl10(tmp_path)
    data = load("stl10", tmp_path)
    np.testing.assert_array_equal(data.train, STL_IMAGES[:3])
    np.testing.assert_array_equal(data.test, STL_IMAGES[3:5])
    np.testing.assert_array_equal(data.unlabelled, STL_IMAGES[5:])
    np.testing.assert_array_equal(data.train_labels, STL_LABELS[:3] - 1)
    np.testing.assert_array_equal(data.test_labels, STL_LABELS[3:] - 1)
    assert data.classes[data.train_labels[0]] == "airplane"
    (tmp_path / "unlabeled_X.bin").unlink()
    assert load("stl10", tmp_path).unlabelled is None


def test_tiny_imagenet_numbers_classes_by_its_list_and_reads_grey_as_colour(tmp_path):
    write_tiny_imagenet(tmp_path)
    data = load("tiny_imagenet", tmp_path)
    assert data.classes == ("n03", "n01", "n02")
    assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test_labels.tolist() == [2, 1, 0]
    means = data.train.mean(axis=(2, 3))
    for row, (k, i) in enumerate((k, i) for k in range(3) for i in range(2)):
        expected = [40 * k + 10] * 3 if i else [40 * k, 100, 200]
        np.testing.assert_allclose(means[row], expected, atol=2)
    np.testing.assert_allclose(data.test.mean(axis=(1, 2, 3)), [248, 249, 250], atol=0.5)


def test_every_truncation_is_refused_with_the_name_of_the_file(tmp_path):
    for name, files in (("cifar10", CIFAR_FILES), ("stl10", STL_FILES)):
        WRITE[name](tmp_path)
        for file in files:
            path = tmp_path / file
            whole = path.read_bytes()
            item = 3073 if name == "cifar10" else 27648 if "X" in file else 1
            for length in (0, 1, item - 1, item, len(whole) - 1):
                # Whole unlabelled images may be missing: their number is written nowhere.
                if length >= len(whole) or (file == "unlabeled_X.bin" and length == item):
                    continue
                path.write_bytes(whole[:length])
                with pytest.raises(DataError, match=r"damaged|equally many|images but"):
                    load(name, tmp_path)
            path.write_bytes(whole)
        load(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "label"), [("cifar10", CIFAR_FILES[2], 10), ("stl10", "test_y.bin", 0)]
)
def test_labels_out_of_range_are_refused(name, file, label, tmp_path):
    WRITE[name](tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(bytes([label]) + content[1:])
    with pytest.raises(DataError, match=rf"{file}.*labels should be"):
        load(name, tmp_path)


def test_pickles_are_never_opened(tmp_path):
    python = tmp_path / "cifar-10-batches-py"
    python.mkdir()
    # Unpickled, this raises ZeroDivisionError.
    (python / "data_batch_1").write_bytes(b"cbuiltins\neval\n(V1/0\ntR.")
    for folder in (tmp_path, python):
        with pytest.raises(DataError, match=r"pickles.*could run any code.*cifar-10-binary"):
            load("cifar10", folder)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None], ids=str)
def test_a_damaged_image_of_tiny_imagenet_is_named(tmp_path, content):
    write_tiny_imagenet(tmp_path)
    path = tmp_path / "train" / "n01" / "images" / "n01_0.JPEG"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(DataError, match=r"n01_0\.JPEG is no image that can be read"):
        load("tiny_imagenet", tmp_path)


def test_other_damage_to_tiny_imagenet_is_named(tmp_path):
    write_tiny_imagenet(tmp_path)
    path = tmp_path / "val" / "images" / "v_0.JPEG"
    Image.new("RGB", (32, 64)).save(path)
    with pytest.raises(DataError, match=r"v_0\.JPEG should have 64x64 pixels, but has 32x64"):
        load("tiny_imagenet", tmp_path)
    annotations = tmp_path / "val" / "val_annotations.txt"
    annotations.write_text("v_0.JPEG n03\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1: expected a file and a class"):
        load("tiny_imagenet", tmp_path)
    annotations.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="is empty"):
        load("tiny_imagenet", tmp_path)
    for image in (tmp_path / "train" / "n02" / "images").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"no images .* class n02"):
        load("tiny_imagenet", tmp_path)


def test_missing_files_are_named(name, tmp_path):
    with pytest.raises(DataError, match=r"lacks .*; unpack the archive"):
        load(name, tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        load(name, tmp_path / "nowhere")
    with pytest.raises(DataError, match="name it"):
        load(name)
    with pytest.raises(DataError, match="possible: cifar10, digits"):
        load("mnist", tmp_path)


def test_digits_are_all_digits_split_by_the_seed():
    data, other = load("digits"), load("digits", seed=1)
    assert data.train.shape[1:] == (1, 8, 8)
    everything = np.concatenate([data.train, data.test])[:, 0] * (16 / 255)
    expected = np.unique(load_digits().data, axis=0)
    np.testing.assert_array_equal(np.unique(np.rint(everything).reshape(-1, 64), axis=0), expected)
    shares = np.bincount(data.test_labels) / np.bincount(load_digits().target)
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
    assert not np.array_equal(data.test, other.test)
    # An image and its label stay together.
    digits = load_digits()
    label_of = {row.tobytes(): k for row, k in zip(digits.data, digits.target, strict=True)}
    for image, label in zip(data.test, data.test_labels, strict=True):
        assert label_of[np.rint(image * (16 / 255)).astype(float).tobytes()] == label


def test_without_test_splits_the_training_data_only():
    data = load("digits")
    inner = data.without_test(0.25, seed=0)
    assert len(inner.train) + len(inner.test) == len(data.train)
    both = np.concatenate([inner.train, inner.test])
    assert {image.tobytes() for image in both} == {image.tobytes() for image in data.train}
    shares = np.bincount(inner.test_labels) / np.bincount(data.train_labels)
    np.testing.assert_allclose(shares, 0.25, atol=0.01)
