"""Images and archives of strangers: only documented formats, only as large as they may be."""

import gzip
import io
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from experiments.data import DataError, load_images
from experiments.data.archives import FORMATS, MOST_BYTES, MOST_PIXELS, decode
from experiments.data.folder import ImageFolder, square
from experiments.data.grey_sets.mnist import read_idx
from experiments.data.labelled_register import load
from experiments.data.patches import patch_batches, standardised
from experiments.data.shards import TarShards

RNG = np.random.default_rng(0)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(kind, size=(9, 7), **options):
    room = io.BytesIO()
    pixels = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(room, kind, **options)
    return room.getvalue()


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """A program in place of Ghostscript, which leaves a trace where it is started."""
    trace = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {trace}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return trace


def test_postscript_of_any_name_starts_nothing(tmp_path, interpreter):
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    (folder / "0.jpg").write_bytes(POSTSCRIPT)
    (folder / "1.jpg").write_bytes(encoded("JPEG"))
    images = ImageFolder(tmp_path / "images", 4)
    with pytest.warns(UserWarning, match=r"skipped: .*0\.jpg is no image that can be read"):
        images[0]
    for file in (folder / "0.jpg", io.BytesIO(POSTSCRIPT)):
        with pytest.raises(DataError, match="Formats that are read: JPEG, PNG, PPM"):
            decode(file)
    assert not interpreter.exists()
    # Where any format is allowed, the same bytes start it: the file above is an attack.
    with Image.open(folder / "0.jpg") as image, pytest.raises(OSError, match=r"cannot|not"):
        image.load()
    assert interpreter.exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_each_documented_format_is_read_whatever_its_name(tmp_path, kind):
    (tmp_path / "a.jpg").write_bytes(encoded(kind))
    assert decode(tmp_path / "a.jpg").size == (9, 7)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "ICNS", "DDS"])
def test_no_other_format_is_read(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(encoded(kind, (16, 16)))
    with pytest.raises(DataError, match="is no image that can be read"):
        decode(tmp_path / "a.png")


def png(width, height):
    """A whole image of zeros, which takes a thousandth of its pixels."""

    def chunk(kind, content):
        mark = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + mark

    rows = zlib.compressobj()
    content = b"".join(rows.compress(bytes(1 + width)) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each) for each in ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))
    )


def gif(screen, frame):
    colours = b"\0\0\0\xff\xff\xff"
    return (
        b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + colours
        + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00;"
    )  # fmt: skip


LARGE = {
    "PNG": lambda: png(8193, 8192),
    "GIF": lambda: gif((8193, 8192), (2, 2)),
    "GIF of a small screen": lambda: gif((2, 2), (8193, 8192)),
    "PPM": lambda: b"P6 8193 8192 255\n",
    "long": lambda: b"P5 %d 1 255\n" % (MOST_PIXELS + 1),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", LARGE)
def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded(monkeypatch, case):
    monkeypatch.setattr(Image.core, "new", None)  # what every decoder takes its memory by
    monkeypatch.setattr(Image.core, "fill", None)
    with pytest.raises(DataError, match=r"has \d+ x \d+ pixels, expected 1 to 67108864 in all"):
        decode(io.BytesIO(LARGE[case]()))


@pytest.mark.parametrize("content", [png(0, 0), png(0, 4), gif((0, 0), (0, 0)), b"P6 0 0 255\n"])
def test_no_pixels_are_no_image(content):
    with pytest.raises(DataError):
        decode(io.BytesIO(content))


def test_a_file_longer_than_an_image_can_be_is_not_read(tmp_path):
    path = tmp_path / "a.webp"
    path.write_bytes(encoded("WEBP"))
    os.truncate(path, MOST_BYTES + 1)  # takes no room on the disk
    with pytest.raises(DataError, match=r"a\.webp has 536870913 bytes, expected at most 536870912"):
        decode(path)


def test_a_pipe_or_a_folder_is_skipped_as_a_damaged_image_is(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    os.mkfifo(folder / "0.jpg")
    (folder / "1.jpg").symlink_to("/dev/zero")
    (folder / "2.jpg").write_bytes(encoded("JPEG"))
    images = ImageFolder(tmp_path, 4)
    with pytest.warns(UserWarning, match=r"skipped: .* a folder, a pipe or a device") as warned:
        images[0]
    assert len(warned) == images.skipped == 2


def test_a_class_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(encoded("JPEG"))
    scan = os.scandir

    def refusing(folder):  # permissions do not bind the user who runs tests in a container
        if folder == tmp_path / "a":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"a cannot be read \(\[Errno 13\]"):
        ImageFolder(tmp_path, 4)


@pytest.mark.parametrize("size", [(400, 300), (300, 401), (77, 640)])
def test_a_jpeg_is_decoded_no_smaller_than_needed(size):
    content = encoded("JPEG", size)
    whole = decode(io.BytesIO(content))
    assert whole.size == size
    for least in (30, 37, 75, 76, 150, 151, 1000):
        found = decode(io.BytesIO(content), least)
        factor = max(k for k in (1, 2, 4, 8) if k == 1 or min(size) // k >= least)
        assert found.size == tuple(-(-side // factor) for side in size)
        if factor == 1:
            assert found.tobytes() == whole.tobytes()


def test_an_image_at_a_part_of_its_size_looks_the_same():
    y, x = np.mgrid[:480, :640] / 100
    waves = np.stack([np.sin(x + k * y) for k in range(3)], -1)
    image = Image.fromarray(np.rint(127.5 + 120 * waves).astype(np.uint8))
    room, kept = io.BytesIO(), io.BytesIO()
    image.save(room, "JPEG", quality=95)
    image.save(kept, "PNG")
    found, expected = (square(file, 32).numpy().astype(float) for file in (room, kept))
    assert np.abs(found - expected).mean() < 1


# -- archives --------------------------------------------------------------------------------------


def idx(*shape, content=None):
    start = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    return start + (bytes(np.prod(shape)) if content is None else content)


def test_of_a_compressed_file_no_more_is_unpacked_than_it_promises(tmp_path, monkeypatch):
    unpacked = []

    class Counting(gzip.GzipFile):
        def read(self, size=-1):
            content = super().read(size)
            unpacked.append(len(content))
            return content

    monkeypatch.setattr(gzip, "open", Counting)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(2, 28, 28) + bytes(50_000_000)))
    with pytest.raises(DataError, match="announces 2 x 28 x 28 = 1568 bytes, at least 1569 follow"):
        read_idx(path, 3)
    assert sum(unpacked) == 16 + 1569
    path.write_bytes(gzip.compress(idx(2**20, 28, 28, content=bytes(50))))
    with pytest.raises(DataError, match="822083584 bytes, 50 follow"):
        read_idx(path, 3)


SPARSE = {
    "data_batch_1.bin": ("cifar10", r"data_batch_1\.bin has 9219000000 bytes, expected at most"),
    "train_X.bin": ("stl10", r"train_X\.bin has 9219000000 bytes, expected at most"),
    "train_y.bin": ("stl10", r"train_y\.bin has 9219000000 bytes, expected at most"),
    "unlabeled_X.bin": ("stl10", r"unlabeled_X\.bin has 9219000000 bytes, expected at most"),
    "wnids.txt": ("tiny_imagenet", r"wnids\.txt has 9219000000 bytes, expected at most"),
}


def lay_out(folder):
    """All data sets in one folder, as small as they can be."""
    record = bytes(3073)
    for k in range(1, 6):
        (folder / f"data_batch_{k}.bin").write_bytes(record)
    (folder / "test_batch.bin").write_bytes(record)
    for part in ("train", "test"):
        (folder / f"{part}_X.bin").write_bytes(bytes(3 * 96**2))
        (folder / f"{part}_y.bin").write_bytes(b"\1")
    for inner in ("train/n01/images", "val/images"):
        (folder / inner).mkdir(parents=True)
        (folder / inner / "a.JPEG").write_bytes(encoded("JPEG", (64, 64)))
    (folder / "wnids.txt").write_text("n01\n", encoding="utf-8")
    (folder / "val" / "val_annotations.txt").write_text("a.JPEG\tn01\n", encoding="utf-8")


@pytest.mark.parametrize("file", SPARSE)
def test_a_file_longer_than_its_format_is_not_read(tmp_path, file):
    name, message = SPARSE[file]
    lay_out(tmp_path)
    load(name, tmp_path)
    with (tmp_path / file).open("wb") as sparse:
        sparse.truncate(3073 * 3_000_000)  # takes no room on the disk
    with pytest.raises(DataError, match=message):
        load(name, tmp_path)
    (tmp_path / file).unlink()
    os.mkfifo(tmp_path / file)
    with pytest.raises(DataError, match="a folder, a pipe or a device"):
        load(name, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("val/val_annotations.txt", b"../../../secret.JPEG\tn01\n", "the file by its name in"),
        ("val/val_annotations.txt", b"/etc/secret.JPEG\tn01\n", "the file by its name in"),
        ("val/val_annotations.txt", b"a\xff.JPEG\tn01\n", "cannot be read"),
        ("wnids.txt", b"n01 ../train/n01\n", "should name each class once"),
        ("wnids.txt", b"n01 " + b"n" * 300 + b"\n", "cannot be read|no images"),
        ("wnids.txt", b"n01 n01\n", "should name each class once"),
        ("wnids.txt", b"n01 \xff\n", "cannot be read"),
    ],
)
def test_lists_of_tiny_imagenet_name_its_own_files_once(tmp_path, file, content, message):
    lay_out(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("tiny_imagenet", tmp_path)


def test_equal_pixels_have_no_standard_deviation(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(30, 28, 28, content=b"\7" * 30 * 784))
    assert load_images("mnist", 4, 28, folder=tmp_path).max() == 7 / 255
    with pytest.raises(DataError, match="All pixels of the 8 images are the same"):
        patch_batches("mnist", 2, 4, 0, tmp_path)
    for images in (np.full((2, 3, 3), 0.1), np.zeros((0, 3, 3))):
        with pytest.raises(DataError, match="no standard deviation"):
            standardised(images)


def test_shards_open_the_same_formats(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (
            *(("a.jpg", POSTSCRIPT), ("a.cls", b"0")),
            *(("b.jpg", encoded("PNG")), ("b.cls", b"1")),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.warns(UserWarning, match=r"skipped: .*a is no image that can be read"):
        ((_, labels),) = TarShards([path], 4, 1, 1).once()
    assert labels.tolist() == [1]
