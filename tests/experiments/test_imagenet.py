"""Folders of images by class: decoded lazily, damaged ones skipped and listed."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from experiments.data import DataError
from experiments.data.folder import ImageFolder


@pytest.fixture
def folder(tmp_path):
    """Three images each of two classes, every one of another grey level."""
    for k, name in enumerate(("n01", "n02")):
        (tmp_path / name).mkdir()
        for i in range(3):
            level = 100 * k + 30 * i
            Image.new("L" if i else "RGB", (40, 20), (level,) * 3 if not i else level).save(
                tmp_path / name / f"{i}.{'png' if i == 2 else 'JPEG'}"
            )
        (tmp_path / name / "notes.txt").write_text("no image", encoding="utf-8")
    return tmp_path


def levels(images):
    return [round(float(image.float().mean())) for image in images]


def test_images_come_in_the_order_of_their_files(folder):
    images = ImageFolder(folder, 10)
    assert images.classes == ("n01", "n02")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    found = [images[k] for k in range(len(images))]
    assert [label for _, label in found] == images.labels.tolist()
    assert levels(image for image, _ in found) == [0, 30, 60, 100, 130, 160]
    assert all(image.shape == (3, 10, 10) and image.dtype == torch.uint8 for image, _ in found)
    assert images.damaged == []


@pytest.mark.parametrize("upright", [False, True])
def test_the_middle_of_the_longer_side_is_kept(tmp_path, upright):
    (tmp_path / "n01").mkdir()
    pixels = np.zeros((16, 64, 3), dtype=np.uint8)
    pixels[:, 24:40] = 200  # the middle square
    pixels[:8] += 50
    if upright:
        pixels = pixels.transpose(1, 0, 2)
    Image.fromarray(pixels).save(tmp_path / "n01" / "a.png")
    image, _ = ImageFolder(tmp_path, 16)[0]
    expected = pixels.transpose(2, 0, 1)
    expected = expected[:, 24:40] if upright else expected[:, :, 24:40]
    np.testing.assert_array_equal(image.numpy(), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_replaced_by_the_next_and_listed(folder, workers):
    broken = folder / "n01" / "1.JPEG"
    broken.write_bytes(broken.read_bytes()[:100])
    last = folder / "n02" / "2.png"
    last.write_bytes(b"")
    images = ImageFolder(folder, 10)
    loader = DataLoader(images, batch_size=2, num_workers=workers)
    if workers:
        batches = list(loader)  # the warnings are those of the workers
    else:
        with pytest.warns(UserWarning, match=r"skipped: .* is no image") as warned:
            batches = list(loader)
        assert [
            str(path) in str(w.message) for path, w in zip((broken, last), warned, strict=True)
        ] == [True, True]
    assert levels(torch.cat([x for x, _ in batches])) == [0, 60, 60, 100, 130, 0]
    assert torch.cat([y for _, y in batches]).tolist() == [0, 0, 0, 1, 1, 0]
    assert images.damaged == [broken, last]


def test_a_damaged_image_is_read_and_warned_of_once(folder):
    (folder / "n01" / "0.JPEG").write_bytes(b"")
    images = ImageFolder(folder, 10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert levels([images[0][0], images[0][0]]) == [30, 30]
    assert len(caught) == 1


@pytest.mark.filterwarnings("ignore:skipped")
def test_nothing_but_damaged_images_is_an_error(folder):
    for path in folder.glob("*/[0-9]*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="None of the 6 images can be read"):
        ImageFolder(folder, 10)[2]


def test_a_test_folder_takes_the_numbers_of_the_training_classes(folder):
    classes = ("n00", "n02", "n01")
    assert ImageFolder(folder, 10, classes).labels.tolist() == [2, 2, 2, 1, 1, 1]
    with pytest.raises(DataError, match="a class 'n02' that training does not have"):
        ImageFolder(folder, 10, ("n01",))


def test_wrong_folders_and_numbers_are_refused(folder):
    with pytest.raises(DataError, match="There is no folder"):
        ImageFolder(folder / "nowhere", 10)
    with pytest.raises(DataError, match=r"No images in .*expected a folder for each class.*has 0"):
        ImageFolder(folder / "n01", 10)
    for index in (-1, 6):
        with pytest.raises(IndexError, match=r"0\.\.5"):
            ImageFolder(folder, 10)[index]
