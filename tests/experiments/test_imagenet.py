"""Folders of images by class: decoded lazily, damaged ones skipped and listed."""

import io
import pickle
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from experiments.data import DataError
from experiments.data.archives import decode
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


# -- kinds of pixels -------------------------------------------------------------------------------

RAMP = np.tile(np.arange(16) / 15, (16, 1))
RAMP8 = np.rint(RAMP * 255).astype(np.uint8)
RAMP16 = RAMP8.astype(np.uint16) * 257  # whose upper 8 bits are RAMP8
STEPS = np.tile(np.arange(16, dtype=np.uint8), (16, 1))


def png(bits, colours, pixels):
    """A PNG by its specification; Pillow writes no 16-bit colours."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 16, 16, bits, colours, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each) for each in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )


def saved(image, kind="png", **options):
    room = io.BytesIO()
    image.save(room, kind, **options)
    return room.getvalue()


def layers(*channels):
    return np.stack(channels, -1)


# Each shows the ramp from black to white, stored in another way.
KINDS = {
    "8-bit grey": saved(Image.fromarray(RAMP8)),
    "16-bit grey PNG": png(16, 0, RAMP16.astype(">u2")),
    "16-bit grey and opacity PNG": png(16, 4, layers(RAMP16, RAMP16[::-1].T).astype(">u2")),
    "16-bit colour PNG": png(16, 2, layers(RAMP16, RAMP16, RAMP16).astype(">u2")),
    "16-bit colour and opacity PNG": png(16, 6, layers(*[RAMP16] * 4).astype(">u2")),
    "16-bit TIFF": saved(Image.fromarray(RAMP16), "tiff"),
    "16-bit TIFF, high byte first": saved(Image.fromarray(RAMP16.astype(">u2")), "tiff"),
    "16-bit PGM": b"P5 16 16 65535\n" + RAMP16.astype(">u2").tobytes(),
    "10-bit PGM": b"P5 16 16 1020\n" + (RAMP8 * 4.0).astype(">u2").tobytes(),
    "4-bit grey PNG": png(4, 0, STEPS[:, ::2] << 4 | STEPS[:, 1::2]),
    "palette": saved(Image.fromarray(RAMP8).convert("P")),
    "palette with a transparent colour": saved(Image.fromarray(RAMP8).convert("P"), transparency=0),
    "palette with opacities": saved(
        Image.fromarray(RAMP8).convert("P"), transparency=bytes(range(256))
    ),
    "grey and opacity": saved(Image.fromarray(layers(RAMP8, RAMP8[::-1].T.copy()), "LA")),
    "colour and opacity": saved(Image.fromarray(layers(RAMP8, RAMP8, RAMP8, RAMP8[:, ::-1]))),
    "first frame of an animation": saved(
        Image.fromarray(RAMP8),
        "gif",
        save_all=True,
        append_images=[Image.fromarray(RAMP8[:, ::-1].copy())],
    ),
    "bitmap": saved(Image.fromarray(layers(RAMP8, RAMP8, RAMP8)), "bmp"),
    "inks": saved(Image.fromarray(layers(*[0 * RAMP8] * 3, 255 - RAMP8), "CMYK"), "tiff"),
    "oriented by the camera": saved(Image.fromarray(RAMP8), exif=bytes.fromhex(
        "4578696600004d4d002a000000080001011200030000000100060000"
    )),
}  # fmt: skip


@pytest.mark.parametrize("content", KINDS.values(), ids=KINDS.keys())
def test_an_image_reads_the_same_however_it_is_stored(content):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = np.asarray(decode(io.BytesIO(content)))
    np.testing.assert_array_equal(found, layers(RAMP8, RAMP8, RAMP8))


def test_black_and_white_are_black_and_white():
    found = decode(io.BytesIO(saved(Image.fromarray(RAMP8 > 127))))
    np.testing.assert_array_equal(np.asarray(found)[..., 0], np.where(RAMP8 > 127, 255, 0))


REFUSED = {
    "32-bit whole numbers": saved(Image.fromarray((RAMP * 70000).astype(np.int32)), "tiff"),
    "floats": saved(Image.fromarray(RAMP.astype(np.float32)), "tiff"),
    "floats of a PFM": b"Pf\n16 16\n-1.0\n" + RAMP.astype("<f4").tobytes(),
    "LAB": saved(Image.fromarray(layers(RAMP8, RAMP8, RAMP8), "LAB"), "tiff"),
    "white is 0": saved(Image.fromarray(RAMP16), "tiff", tiffinfo={262: 0}),
    "all in its transparency": saved(Image.fromarray(layers(0 * RAMP8, RAMP8), "LA")),
    "no image": b"<html>not found</html>",
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_pixels_without_a_meaning_are_refused_by_name(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif .*(store it with|paste it onto|fetch it again)"):
        decode(path)


# -- what is a class and what is an image ----------------------------------------------------------


def test_hidden_folders_and_files_count_as_nothing(folder):
    for inner in (folder, folder / "n01"):
        checkpoints = inner / ".ipynb_checkpoints"
        checkpoints.mkdir()
        (checkpoints / "a.png").write_bytes((folder / "n02" / "2.png").read_bytes())
    (folder / "n01" / "._0.JPEG").write_bytes(b"a resource fork")
    images = ImageFolder(folder, 10)
    assert images.classes == ("n01", "n02")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert ImageFolder(folder, 10, ("n01", "n02")).labels.tolist() == images.labels.tolist()


@pytest.mark.parametrize("files", [(), ("notes.txt",), ("._a.png",), ("a.heic", "b.heic")])
def test_a_class_folder_without_images_is_refused_by_name(folder, files):
    (folder / "n015").mkdir()
    for name in files:
        (folder / "n015" / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"class folder .*n015 has no image .*delete it, or unpack"):
        ImageFolder(folder, 10)


def test_an_empty_class_folder_of_a_test_folder_is_a_class_it_lacks(folder):
    (folder / "n00").mkdir()
    assert len(ImageFolder(folder, 10, ("n00", "n01", "n02"))) == 6
    (folder / "n00" / "a.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"n00 has no image \(endings of its files: \.heic"):
        ImageFolder(folder, 10, ("n00", "n01", "n02"))


def test_images_that_would_vanish_are_refused_by_name(folder):
    image = (folder / "n02" / "2.png").read_bytes()
    (folder / "loose.png").write_bytes(image)
    with pytest.raises(
        DataError, match=r"1 images beside its class folders, loose\.png for example"
    ):
        ImageFolder(folder, 10)
    (folder / "loose.png").unlink()
    (folder / "n01" / "images").mkdir()
    (folder / "n01" / "images" / "a.png").write_bytes(image)
    with pytest.raises(DataError, match=r"n01 has images in its folder images: move them"):
        ImageFolder(folder, 10)


@pytest.mark.parametrize("name", ["a.PNG", "a.Webp", "a.bmp", "a.TIF", "a.gif", "ä ö.png"])
def test_images_of_all_usual_endings_are_read(tmp_path, name):
    (tmp_path / "n01").mkdir()
    Image.new("RGB", (8, 8), (70,) * 3).save(tmp_path / "n01" / name, lossless=True)
    images = ImageFolder(str(tmp_path), 4)
    assert levels([images[0][0]]) == [70]
    (tmp_path / "n01" / name).unlink()
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(DataError, match=name):
        images[0]
    assert images.damaged == [tmp_path / "n01" / name]


def test_a_million_names_take_little_more_than_their_letters(tmp_path):
    """Objects of names and paths take hundreds of bytes each, in every worker again."""
    (tmp_path / "n01").mkdir()
    names = [f"{k:0100d}.png" for k in range(2000)]
    for name in names:
        (tmp_path / "n01" / name).touch()
    tracemalloc.start()
    images = ImageFolder(tmp_path, 4)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1.5 * 2000 * (104 + 8 + 8 + 1)
    assert [images._path(k).name for k in range(2000)] == names
    assert pickle.loads(pickle.dumps(images))._path(1999).name == names[-1]


def test_wrong_folders_and_numbers_are_refused(folder):
    with pytest.raises(DataError, match="There is no folder"):
        ImageFolder(folder / "nowhere", 10)
    with pytest.raises(DataError, match=r"No images in .*expected a folder for each class.*has 0"):
        ImageFolder(folder / "n01", 10)
    for index in (-1, 6):
        with pytest.raises(IndexError, match=r"0\.\.5"):
            ImageFolder(folder, 10)[index]
