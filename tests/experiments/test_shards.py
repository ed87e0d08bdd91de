"""Tar files: every image once, in an order of the seed; what is damaged is skipped and counted."""

import io
import tarfile

import pytest
import torch
from PIL import Image

from experiments.data import DataError
from experiments.data.folder import ImageFolder
from experiments.data.shards import TarShards

PER_FILE = 5


def png(level):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (level,) * 3).save(buffer, "png")
    return buffer.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def members(first):
    for k in range(first, first + PER_FILE):
        yield f"train/{k:04d}.png", png(k)
        yield f"train/{k:04d}.cls", str(k).encode()


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / f"{f}.tar", members(PER_FILE * f)) for f in range(4)]


def shards(files, batch_size=1, length=20, **options):
    return TarShards(files, 8, batch_size, length, **options)


def classes(loader, epoch=0, start=0):
    found = []
    for images, labels in loader.batches(epoch, start):
        # Grey level and class are the same number.
        assert torch.equal(images.float().mean((1, 2, 3)), labels.float())
        assert images.dtype == torch.uint8
        found += labels.tolist()
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_every_image_comes_once_whoever_reads(files, workers, world_size):
    parts = [
        classes(
            shards(
                files,
                length=20 // world_size,
                num_workers=workers,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]
    assert sorted(k for part in parts for k in part) == list(range(20))


def test_the_order_is_a_function_of_seed_and_epoch(files):
    found = {
        (seed, epoch): classes(shards(files, seed=seed), epoch)
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert classes(shards(files)) == found[0, 0]
    orders = {tuple(order) for order in found.values()}
    assert len(orders) == 4
    # A small buffer mixes what lies near each other only.
    near = classes(shards(files, buffer=1))
    assert near != sorted(near)
    groups = [k // PER_FILE for k in near]
    assert max(abs(groups.index(g) - 5 * i) for i, g in enumerate(dict.fromkeys(groups))) <= 1


def test_a_later_start_gives_the_rest_of_the_same_order(files):
    for workers in (0, 2):
        loader = shards(files, batch_size=2, length=7, num_workers=workers)
        assert classes(loader, 3, start=4) == classes(loader, 3)[8:]


def test_an_epoch_has_its_length_also_beyond_the_files(files):
    found = classes(shards(files, batch_size=3, length=10))
    assert len(found) == 30
    assert sorted(found[:20]) == list(range(20))
    assert found[20:] != found[:10]


def test_images_are_those_of_a_folder(tmp_path):
    folder = tmp_path / "images" / "n01"
    folder.mkdir(parents=True)
    rows = torch.arange(30, dtype=torch.uint8)[:, None, None] * torch.tensor([1, 2, 3])
    image = Image.fromarray(rows.expand(30, 16, 3).to(torch.uint8).numpy())
    image.save(folder / "a.jpg")
    path = write(
        tmp_path / "a.tar", [("a.jpg", (folder / "a.jpg").read_bytes()), ("a.cls", b"0\n")]
    )
    ((images, labels),) = shards([path], length=1).batches(0)
    expected, label = ImageFolder(tmp_path / "images", 8)[0]
    assert torch.equal(images[0], expected)
    assert labels.tolist() == [label]


def truncated(path, size):
    path.write_bytes(path.read_bytes()[:size])


def offsets(path):
    with tarfile.open(path) as archive:
        return [member.offset for member in archive]


# Where a file is cut off -> samples that are left.
CUTS = {
    "within a header": (lambda o: o[4] + 100, 2),
    "within an image": (lambda o: o[4] + 512 + 20, 2),
    "between samples": (lambda o: o[4], 2),
    "between an image and its class": (lambda o: o[5], 2),
    "after the last member": (lambda o: o[-1] + 1024, 5),
    "at its beginning": (lambda o: 0, 0),
}


@pytest.mark.parametrize(("place", "left"), CUTS.values(), ids=CUTS.keys())
def test_a_truncated_file_is_read_up_to_there_and_counted(files, place, left):
    truncated(files[1], place(offsets(files[1])))
    loader = shards(files, length=15 + left)
    with pytest.warns(UserWarning, match=r"skipped: the rest of .*1\.tar after") as warned:
        found = classes(loader)
    assert sorted(found) == [*range(5), *range(5, 5 + left), *range(10, 20)]
    assert loader.skipped == {"samples": 0, "files": 1}
    assert len(warned) == 1


def test_a_damaged_header_is_no_end(files):
    content = bytearray(files[1].read_bytes())
    content[offsets(files[1])[4] + 10] ^= 255
    files[1].write_bytes(bytes(content))
    loader = shards(files, length=17)
    with pytest.warns(UserWarning, match="the rest of"):
        assert len({*classes(loader)}) == 17
    assert loader.skipped["files"] == 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:skipped")
def test_samples_that_cannot_be_read_are_counted(tmp_path, files, workers):
    bad = [
        ("a.png", png(7)[:40]),  # cut off
        ("a.cls", b"7"),
        ("b.png", png(7)),  # no class
        ("c.cls", b"7"),  # no image
        ("d.png", png(7)),
        ("d.cls", b"seven"),
        ("e.jpg", png(33)),
        ("e.json", b"{}"),
        ("e.cls", b"33"),
    ]
    path = write(tmp_path / "bad.tar", bad)
    loader = shards([*files[:3], path], length=16, num_workers=workers)
    found = classes(loader)
    if not workers:  # with several, a reader may have begun again
        assert sorted(found) == [*range(15), 33]
    assert loader.skipped["samples"] >= 4
    assert loader.skipped["files"] == 0


def test_warnings_name_the_member(tmp_path):
    path = write(tmp_path / "a.tar", [("x/a.png", b"no"), ("x/a.cls", b"1"), *members(0)])
    with pytest.warns(UserWarning, match=r"skipped: .*a\.tar/x/a is no image that can be read"):
        classes(shards([path], length=6))


@pytest.mark.filterwarnings("ignore:skipped")
def test_nothing_that_can_be_read_is_an_error(tmp_path):
    path = tmp_path / "page.tar"
    path.write_text("<html>not found</html>", encoding="utf-8")
    with pytest.raises(DataError, match=r"No image could be read from .*page\.tar"):
        classes(shards([path]))


def test_files_that_are_missing_or_too_few_are_refused(tmp_path, files):
    with pytest.raises(DataError, match="There is no file"):
        shards([*files, tmp_path / "5.tar"])
    with pytest.raises(DataError, match=r"4 tar files for 6 readers \(2 processes with 3 each\)"):
        shards(files, num_workers=3, world_size=2)
