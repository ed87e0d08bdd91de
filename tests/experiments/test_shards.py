"""Tar files: every image once, in an order of the seed; what is damaged is skipped
and counted, and another layout is refused."""

import bz2
import gzip
import io
import lzma
import os
import tarfile

import pytest
import torch
from PIL import Image

from experiments.data import DataError, shards as shards_module
from experiments.data.folder import ImageFolder
from experiments.data.shards import TarShards, labels_in

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
}


@pytest.mark.parametrize(("place", "left"), CUTS.values(), ids=CUTS.keys())
def test_a_truncated_file_is_read_up_to_there_and_counted(files, place, left):
    truncated(files[1], place(offsets(files[1])))
    loader = shards(files, length=15 + left)
    with pytest.warns(UserWarning, match=r"skipped: the rest of .*1\.tar after") as warned:
        found = classes(loader)
    assert sorted(found) == [*range(5), *range(5, 5 + left), *range(10, 20)]
    assert labels_in(files) == sorted(found)
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
        ("b.png", b""),
        ("b.cls", b"7"),
        ("e.jpg", png(33)),
        ("e.json", b"{}"),
        ("e.cls", b"33"),
    ]
    path = write(tmp_path / "bad.tar", bad)
    loader = shards([*files[:3], path], length=16, num_workers=workers)
    found = classes(loader)
    if not workers:  # with several, a reader may have begun again
        assert sorted(found) == [*range(15), 33]
    assert loader.skipped["samples"] >= 2
    assert loader.skipped["files"] == 0


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_damaged_sample_is_named_once_however_often_it_is_met(files, tmp_path, monkeypatch):
    bad = [("a.png", b"no image"), ("a.cls", b"7"), ("b.png", b""), ("b.cls", b"7")]
    path = write(tmp_path / "bad.tar", bad)
    loader = shards([*files[:3], path], length=40)
    classes(loader)
    assert loader.skipped["samples"] > 2
    assert len(loader.damaged) == 2
    again = shards([*files[:3], path], length=40, seed=1)
    classes(again)
    assert again.damaged == loader.damaged
    monkeypatch.setattr(shards_module, "_MOST_SKIPPED", 1)
    with pytest.raises(DataError, match="More than 1 samples are damaged"):
        classes(shards([*files[:3], path], length=40))


GOOD = (("ok.png", png(1)), ("ok.cls", b"1"))
# What else is in a file -> what the refusal says beside the name of the file.
LAYOUTS = {
    "a key twice in a row": (
        [("x/a.png", png(1)), ("x/a.cls", b"1"), ("x/a.png", png(2)), ("x/a.cls", b"2")],
        r"x/a has two members for its image, the second is x/a\.png",
    ),
    "a key twice": (
        [("a.png", png(1)), ("a.cls", b"1"), *members(0), ("a.png", png(2)), ("a.cls", b"2")],
        r"key .*/a comes twice",
    ),
    "two images": (
        [("a.jpg", png(1)), ("a.png", png(1)), ("a.cls", b"1")],
        "a has two members for its image",
    ),
    "two classes": (
        [("a.jpg", png(1)), ("a.cls", b"1"), ("a.CLS", b"2")],
        "a has two members for its cls",
    ),
    "no class": ([("a.png", png(1))], "a has image, expected an image"),
    "no image": ([("a.cls", b"1"), ("a.json", b"")], "a has cls, json, expected an image"),
    "unsorted members": (
        [("a.png", png(1)), ("b.png", png(2)), ("a.cls", b"1"), ("b.cls", b"2")],
        r"a has image, expected an image .* sort them by name",
    ),
    "a dot in the key": (
        [("n1.2.png", png(1)), ("n1.2.cls", b"1")],
        r"n1 has 2\.cls, 2\.png, expected an image .* the key holds a dot",
    ),
    "a class in words": ([("a.png", png(1)), ("a.cls", b"cat")], r"a\.cls should be .* is 'cat'"),
    "a negative class": ([("a.png", png(1)), ("a.cls", b"-1")], r"a\.cls should be .* is '-1'"),
    "a fraction": ([("a.png", png(1)), ("a.cls", b"1.0")], r"a\.cls should be .* is '1\.0'"),
    "no class at all": ([("a.png", png(1)), ("a.cls", b"")], r"a\.cls should be .* is ''"),
    "a million": ([("a.png", png(1)), ("a.cls", b"1000000")], r"a\.cls .* at most 6 digits"),
    "999 nines": ([("a.png", png(1)), ("a.cls", b"9" * 999)], r"a\.cls .* at most 6 digits"),
    "a long class": (
        [("a.png", png(1)), ("a.cls", b" " * 2000 + b"1")],
        r"a\.cls has 2001 bytes, expected at most 1024",
    ),
}


@pytest.mark.parametrize(("more", "message"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_another_layout_is_refused_when_the_file_is_opened(tmp_path, files, more, message):
    path = write(tmp_path / "bad.tar", [*GOOD, *more, ("z.png", png(3)), ("z.cls", b"3")])
    for opened in (shards, labels_in):
        with pytest.raises(DataError, match=message) as refused:
            opened([*files, path])
        assert "bad.tar" in str(refused.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused_by_name(tmp_path, kind):
    path = write(tmp_path / "a.tar", GOOD)
    with tarfile.open(path, "a") as archive:
        for ending in ("png", "cls"):
            link = tarfile.TarInfo(f"b.{ending}")
            link.type, link.linkname = kind, f"ok.{ending}"
            archive.addfile(link)
    with pytest.raises(DataError, match=r"a\.tar/b\.png is a link to ok\.png: write the content"):
        shards([path])


def block(name="a.png", kind=tarfile.REGTYPE, size=b"0"):
    """A header with any bytes in its fields and the right checksum."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    header[156:157] = kind
    header[124:136] = size.ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def padded(content):
    return content + bytes(-len(content) % 512)


def before(kind, content):
    return block("before", kind, b"%o" % len(content)) + padded(content)


def pax(**records):
    def line(key, value):
        body = b" %s=%s\n" % (key, value)
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        return b"%d%s" % (length, body)

    return b"".join(line(key.replace("_", ".").encode(), value) for key, value in records.items())


NEGATIVE = b"\xff" * 12  # -1 in base 256
HUGE = b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7
HOSTILE = {
    "a negative size": (block(size=NEGATIVE), r"/a\.png has a size of -1 bytes"),
    "a negative size of its pax header": (
        block("x", tarfile.XHDTYPE, NEGATIVE), r"/x has a size of -1 bytes"),
    "a negative pax size": (
        before(tarfile.XHDTYPE, pax(size=b"-512")) + block(), r"a\.png has the size '-512'"),
    "a pax size of many digits": (
        before(tarfile.XHDTYPE, pax(size=b"9" * 5000)) + block(), r"a\.png has the size '9999"),
    "a pax size in words": (
        before(tarfile.XHDTYPE, pax(size=b"1e3")) + block(), r"a\.png has the size '1e3'"),
    "a pax header of negative length": (
        before(tarfile.XHDTYPE, b"-9 path=a\n") + block(), "pax header that cannot be read, '-9"),
    "a pax header of length 0": (
        before(tarfile.XHDTYPE, b"0 path=a\n") + block(), "pax header that cannot be read, '0 "),
    "a pax header without end": (
        before(tarfile.XHDTYPE, b"99 path=a\n") + block(), "pax header that cannot be read, '99"),
    "a size for all": (
        before(tarfile.XGLTYPE, pax(size=b"1")) + block(), "gives one size to all members"),
    "many long names": (
        before(tarfile.GNUTYPE_LONGNAME, b"a.png\0") * 2000 + block(), "has a second long name"),
    "many pax headers": (
        before(tarfile.XHDTYPE, pax(path=b"a.png")) * 2000 + block(), "has a second pax header"),
    "a name of a megabyte": (
        before(tarfile.GNUTYPE_LONGNAME, b"a" * 2**20) + block(),
        "has a long name of 1048576 bytes, expected at most"),
    "a sparse file": (block(kind=tarfile.GNUTYPE_SPARSE), r"a\.png is a sparse file"),
    "a sparse map": (
        before(tarfile.XHDTYPE, pax(GNU_sparse_map=b"0,9", GNU_sparse_size=b"9")) + block(),
        r"a\.png is a sparse file"),
    "a pipe": (block(kind=tarfile.FIFOTYPE), r"a\.png is a pipe, a device or another thing"),
    "a device": (block(kind=tarfile.CHRTYPE), r"a\.png is a pipe, a device or another thing"),
    "a link to itself": (block(kind=tarfile.LNKTYPE), r"a\.png is a link to"),
    "letters of a terminal": (
        block("a\x1b[2J.png", tarfile.SYMTYPE), r"a\\x1b\[2J\.png is a link to"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_regular_member_is_refused_by_shard_and_key(tmp_path, case):
    header, message = HOSTILE[case]
    path = write(tmp_path / "a.tar", GOOD)
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(padded(whole) + header + bytes(1024))
    for opened in (shards, labels_in):
        with pytest.raises(DataError, match=message) as refused:
            opened([path])
        assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize("size", [HUGE, b"7" * 11, b"1" * 12])
def test_a_size_beyond_the_file_is_a_file_cut_off(tmp_path, size):
    path = write(tmp_path / "a.tar", GOOD)
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(padded(whole) + block(size=size) + bytes(1024))
    with pytest.warns(UserWarning, match=r"the rest of .*a\.tar after .*ok cannot be read"):
        assert classes(shards([path], length=1)) == [1]


def test_a_large_image_is_refused_before_it_is_read(tmp_path):
    path = write(tmp_path / "a.tar", GOOD)
    size = 2**26 + 1
    with path.open("r+b") as file:
        file.seek(len(padded(path.read_bytes().rstrip(b"\0"))))
        file.write(block(size=b"%o" % size))
        file.truncate(file.tell() + size + 2048)  # takes no room on the disk
    with pytest.raises(DataError, match=r"a\.png has 67108865 bytes, expected at most 67108864"):
        shards([path])


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_names_of_any_length_and_letters_and_folders_are_read(tmp_path, form):
    long = "/".join(["täglich"] * 15) + "/k" * 3
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form, pax_headers={"comment": "from git"}) as archive:
        folder = tarfile.TarInfo("täglich")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for ending, content in (("png", png(1)), ("cls", b"1")):
            info = tarfile.TarInfo(f"{long}.{ending}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert classes(shards([path], length=1)) == [1]
    info.size = 0
    with tarfile.open(path, "a", format=form) as archive:
        archive.addfile(info)
    with pytest.raises(DataError, match=rf"{long} has two members for its cls"):
        shards([path])


def test_a_pipe_among_the_files_does_not_hang(tmp_path, files):
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(DataError, match=r"pipe\.tar cannot be read: it is a folder, a pipe"):
        shards([*files, tmp_path / "pipe.tar"])


EMPTY = {
    "no members": lambda path: write(path, []),
    "no samples": lambda path: write(path, [("README", b"x"), ("._a.png", b"x"), ("d/.cls", b"1")]),
    "no bytes": lambda path: path.touch(),
    "a page": lambda path: path.write_text("<html>not found</html>", encoding="utf-8"),
    "cut off in the first sample": lambda path: truncated(write(path, GOOD), 600),
}


@pytest.mark.parametrize("make", EMPTY.values(), ids=EMPTY.keys())
def test_an_empty_file_is_refused_when_it_is_opened(tmp_path, files, make):
    make(path := tmp_path / "nothing.tar")
    with pytest.raises(DataError, match=r"nothing\.tar is empty"):
        shards([*files, path])


@pytest.mark.parametrize(
    ("pack", "tool"),
    [(gzip.compress, "gunzip"), (bz2.compress, "bunzip2"), (lzma.compress, "unxz")],
)
def test_a_compressed_file_is_refused_and_the_remedy_named(tmp_path, files, pack, tool):
    content = pack(files[0].read_bytes())
    for length in (len(content), len(content) // 2):
        files[1].write_bytes(content[:length])
        with pytest.raises(DataError, match=rf"1\.tar is compressed by .* unpack it with {tool}"):
            shards(files)


def test_hidden_members_and_those_without_an_ending_are_left_out(tmp_path):
    more = [("x/0.png", png(0)), ("x/._0.png", b"fork"), ("x/README", b""), ("x/0.cls", b"000")]
    path = write(tmp_path / "a.tar", more)
    assert labels_in([path]) == classes(shards([path], length=1)) == [0]


def test_the_class_may_come_before_the_image(tmp_path):
    path = write(tmp_path / "a.tar", [("0.CLS", b"0"), ("0.PNG", png(0)), ("1.cls", b"1"),
                                      ("1.png", png(1))])  # fmt: skip
    assert labels_in([path]) == [0, 1]
    assert sorted(classes(shards([path], length=2))) == [0, 1]
    truncated(path, offsets(path)[3] + 520)  # the image of 1 is cut off
    assert labels_in([path]) == [0]
    with pytest.warns(UserWarning, match="the rest of"):
        assert classes(shards([path], length=1)) == [0]


def test_a_key_may_come_again_in_another_file(tmp_path):
    paths = [
        write(tmp_path / f"{k}.tar", [("a.png", png(k)), ("a.cls", b"%d" % k)]) for k in (0, 1)
    ]
    assert sorted(classes(shards(paths, length=2))) == [0, 1]


def test_a_file_that_changed_is_looked_through_again(tmp_path):
    path = write(tmp_path / "a.tar", GOOD)
    assert labels_in([path]) == [1]
    write(path, [("b.png", png(1))] * 5)
    with pytest.raises(DataError, match="two members for its image"):
        labels_in([path])


def test_warnings_name_the_member(tmp_path):
    path = write(tmp_path / "a.tar", [("x/a.png", b"no"), ("x/a.cls", b"1"), *members(0)])
    with pytest.warns(UserWarning, match=r"skipped: .*a\.tar/x/a is no image that can be read"):
        classes(shards([path], length=6))


@pytest.mark.filterwarnings("ignore:skipped")
def test_nothing_that_can_be_read_is_an_error(tmp_path):
    path = write(tmp_path / "a.tar", [("a.png", b"<html>not found</html>"), ("a.cls", b"1")])
    with pytest.raises(DataError, match=r"None of the images in .*a\.tar can be read"):
        classes(shards([path]))


def test_files_that_are_missing_or_too_few_are_refused(tmp_path, files):
    with pytest.raises(DataError, match="There is no file"):
        shards([*files, tmp_path / "5.tar"])
    with pytest.raises(DataError, match=r"a list of tar files, got one path: pass \["):
        shards(str(files[0]))
    assert classes(shards([*map(str, files)])) == classes(shards(files))
    with pytest.raises(DataError, match=r"4 tar files for 6 readers \(2 processes with 3 each\)"):
        shards(files, num_workers=3, world_size=2)
