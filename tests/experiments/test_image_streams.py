"""Folders, tar shards and drawn images give a long run the same kind of stream."""

import io
import tarfile

import pytest
import torch
from PIL import Image

from experiments.data import DataError, Origin, Request, open_stream

CLASSES, PER_CLASS, TESTS = 3, 8, 2
SIZE = 14  # decoded files are 16 pixels wide


def png(level):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), (level,) * 3).save(buffer, "png")
    return buffer.getvalue()


def level_of(label, k):
    """A grey level that tells the class and the image."""
    return 80 * label + 8 * k


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", PER_CLASS), ("val", TESTS)):
        for label in range(CLASSES):
            inner = tmp_path / "folder" / part / f"n{label}"
            inner.mkdir(parents=True)
            for k in range(count):
                (inner / f"{k}.png").write_bytes(png(level_of(label, k)))
    return tmp_path / "folder"


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "shards").mkdir()
    for part, count in (("train", PER_CLASS), ("val", TESTS)):
        for k in range(count):
            with tarfile.open(tmp_path / "shards" / f"{part}-{k}.tar", "w") as archive:
                for label in range(CLASSES):
                    add(archive, f"{label}.png", png(level_of(label, k)))
                    add(archive, f"{label}.cls", str(label).encode())
    return tmp_path / "shards"


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


@pytest.fixture(params=["folder", "shards", "rhm"])
def source(request):
    if request.param == "rhm":
        return Origin("rhm")
    return Origin(request.param, request.getfixturevalue(request.param))


def stream_of(source, batch=4, **options):
    small = {"size": 4 if source.kind == "rhm" else SIZE, "levels": 2, "images": 24, "test": 6}
    return open_stream(source, Request(**{**small, "batch": batch, **options}))


def levels(images):
    scale = 255 if images.dtype == torch.float32 else 1
    return (images.float().mean((1, 2, 3)) * scale).round().int().tolist()


def test_every_kind_has_the_same_numbers_and_shapes(source):
    stream = stream_of(source)
    assert (stream.length, stream.images, stream.test_images) == (6, 24, 6)
    assert stream.num_classes == (8 if source.kind == "rhm" else CLASSES)
    batches = list(stream.train.batches(0))
    assert len(batches) == stream.length
    for inputs, labels in batches:
        views = stream.augment(inputs) if stream.augment else inputs
        side = stream_side(source)
        assert views.shape == (8, 3, side, side)
        assert views.dtype == torch.float32
        assert torch.equal(labels[:4], labels[4:])
        first, second = views.chunk(2)
        assert not torch.equal(first, second)
    assert stream.skipped() == 0
    assert not stream.prefetches
    assert stream_of(source, workers=2).prefetches == (source.kind != "rhm")


def stream_side(source):
    return 4 if source.kind == "rhm" else SIZE


def same(found, expected):
    pairs = zip(found, expected, strict=True)
    return all(torch.equal(x, y) for left, right in pairs for x, y in zip(left, right, strict=True))


def test_an_epoch_goes_on_at_any_batch(source):
    whole = list(stream_of(source).train.batches(1))
    assert same(stream_of(source).train.batches(1, 4), whole[4:])
    assert not same(stream_of(source).train.batches(0), whole)
    assert not same(stream_of(source, seed=1).train.batches(1), whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_see_different_images_and_together_all(folder, shards, workers):
    for source in (Origin("folder", folder), Origin("shards", shards)):
        parts = []
        for rank in range(2):
            stream = stream_of(source, rank=rank, world_size=2, workers=workers)
            assert stream.length == 6
            parts.append([k for images, _ in stream.train.batches(0) for k in levels(images)])
            assert len(parts[-1]) == 12
        expected = [level_of(label, k) for label in range(CLASSES) for k in range(PER_CLASS)]
        assert sorted(parts[0] + parts[1]) == sorted(expected)


def test_paths_may_be_text_and_are_asked_for(folder):
    assert stream_of(Origin("folder", str(folder))).images == 24
    with pytest.raises(DataError, match="folder takes the folder of its files, got None"):
        stream_of(Origin("folder"))
    with pytest.raises(DataError, match="rhm takes no path"):
        stream_of(Origin("rhm", folder))


def test_shards_that_would_be_left_out_or_are_foreign_are_refused(shards):
    (shards / "train-9.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-9\.tar\.gz is compressed.*unpack it to \.tar"):
        stream_of(Origin("shards", shards))
    (shards / "train-9.tar.gz").unlink()
    with tarfile.open(shards / "val-9.tar", "w") as archive:
        add(archive, "a.png", png(0))
        add(archive, "a.cls", b"3")
    with pytest.raises(DataError, match="a test image of class 3 that training has not"):
        stream_of(Origin("shards", shards))


def test_processes_draw_different_images():
    first, second = (
        torch.cat([x for x, _ in stream_of(Origin("rhm"), rank=r, world_size=2).train.batches(0)])
        for r in range(2)
    )
    assert len(first) == len(second) == 24
    seen = {image.numpy().tobytes() for image in first}
    met = [image.numpy().tobytes() in seen for image in second]
    # 8 classes, 4 rules each and 4^4 spellings: few meet by chance.
    assert sum(met) <= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_the_probe_sees_each_image_once_and_unaugmented(folder, shards, workers):
    for source in (Origin("folder", folder), Origin("shards", shards)):
        stream = stream_of(source, workers=workers)
        found = [pair for x, y in stream.test() for pair in zip(levels(x), y.tolist(), strict=True)]
        expected = [(level_of(l, k), l) for l in range(CLASSES) for k in range(TESTS)]
        assert sorted(found) == sorted(expected)
        images, labels = map(torch.cat, zip(*stream.probe(10), strict=True))
        assert images.shape == (10, 3, SIZE, SIZE)
        assert len(set(levels(images))) == 10
        assert all(
            level // 80 == label for level, label in zip(levels(images), labels, strict=True)
        )


def test_the_probe_of_drawn_images_shows_no_test_image():
    stream = stream_of(Origin("rhm"), test=200)
    judged = {image.numpy().tobytes() for x, _ in stream.test() for image in x}
    assert len(judged) == 200
    fitted = torch.cat([x for x, _ in stream.probe(101)])
    trained = torch.cat([x for x, _ in stream.train.batches(0)])
    assert len(fitted) == 101
    assert not any(image.numpy().tobytes() in judged for image in torch.cat([fitted, trained]))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:skipped")
def test_damaged_images_are_skipped_and_counted(folder, shards, workers):
    (folder / "train" / "n1" / "3.png").write_bytes(b"no image")
    (folder / "val" / "n1" / "0.png").write_bytes(png(0)[:40])
    path = shards / "train-3.tar"
    with tarfile.open(path, "w") as archive:
        for label in range(CLASSES):
            add(archive, f"{label}.png", png(1) if label != 1 else b"no image")
            add(archive, f"{label}.cls", str(label).encode())
    for source, val in ((Origin("folder", folder), 1), (Origin("shards", shards), 0)):
        stream = stream_of(source, workers=workers)
        assert sum(len(labels) for _, labels in stream.train.batches(0)) == 48
        # Workers that have read ahead may have met it again.
        assert stream.skipped() == 1
        list(stream.train.batches(1))
        assert stream.skipped() == 1
        list(stream.test())
        assert stream.skipped() == 1 + val
        again = stream_of(source, workers=workers)
        list(again.train.batches(1, 2))
        list(again.test())
        assert again.damaged() <= stream.damaged()


def test_bad_input_is_refused(folder, shards, tmp_path):
    for text in ("folder", "shards:", "rhm:there", "imagenet:there"):
        with pytest.raises(DataError, match="must be folder:PATH, shards:PATH or rhm"):
            Origin.parse(text)
    assert Origin.parse("rhm") == Origin("rhm")
    assert Origin.parse(f"folder:{folder}") == Origin("folder", folder)
    with pytest.raises(DataError, match="There is no folder"):
        stream_of(Origin("folder", tmp_path / "nowhere"))
    with pytest.raises(DataError, match="0 training and 0 test images"):
        stream_of(Origin("shards", tmp_path / "nowhere"))
    with pytest.raises(DataError, match="cannot be dealt out to 3 processes"):
        stream_of(Origin("rhm"), world_size=3)
    with pytest.raises(DataError, match="24 training images are fewer than a batch of 32"):
        stream_of(Origin("folder", folder), batch=32)
    with pytest.raises(DataError, match="5 pixels is no multiple"):
        stream_of(Origin("rhm"), size=5)
    with tarfile.open(shards / "val-9.tar", "w") as archive:
        add(archive, "a.png", png(0))
        add(archive, "a.cls", b"7")
    with pytest.raises(DataError, match="class 7 that training has not"):
        stream_of(Origin("shards", shards))
