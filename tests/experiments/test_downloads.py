"""Laws of downloads, on a server of the loopback: whole, checked and unpacked, or not there."""

import gzip
import hashlib
import io
import re
import shlex
import tarfile
import threading
import warnings
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments.__main__ import app
from experiments.data import DataError
from experiments.data.grey_register import known_sets as grey_sets
from experiments.data.labelled_register import known_sets as labelled_sets
from experiments.downloads import PUBLIC, fetch, fetching, http, missing, public_sets, unpacking
from experiments.downloads.public_sets import Archive, PublicSet


class Server(ThreadingHTTPServer):
    """Serves `files` by name and notes what was asked for.

    Attributes:
        files: what it has.
        cut: the number of bytes after which each answer breaks off.
        ranges: whether it can begin in the middle.
        asked: the ranges asked for, None for a whole file.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges, self.asked = {}, None, True, []

    def archive(self, name, content, **changes):
        self.files[name] = content
        url = f"http://127.0.0.1:{self.server_port}/{name}"
        archive = Archive((url,), len(content), hashlib.md5(content).hexdigest())
        return replace(archive, **changes)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.headers["Range"])
        content = server.files.get(self.path[1:])
        if content is None:
            self.send_error(404)
            return
        start = 0
        if self.headers["Range"] and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest if server.cut is None else rest[: server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(http, "_PAUSE_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("left", [0, 1, 4_000, 9_999])
def test_what_is_left_of_an_interrupted_download_is_gone_on_from(server, tmp_path, left, ranges):
    server.ranges = ranges
    archive, target = server.archive("a.zip", CONTENT), tmp_path / "a.zip"
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:left])
    http.download(archive, target)
    assert target.read_bytes() == CONTENT
    assert server.asked == [f"bytes={left}-" if left else None]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_connection_that_breaks_is_taken_up_again(server, tmp_path):
    server.cut = 3_000
    http.download(server.archive("a.zip", CONTENT), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]


def test_a_server_that_sends_nothing_is_given_up_and_what_was_sent_kept(server, tmp_path):
    archive = server.archive("a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:100])
    server.cut = 0
    with pytest.raises(DataError, match=r"127.0.0.1:\d+ broke off .* 100 of 10000 bytes are kept"):
        http.download(archive, tmp_path / "a.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip.part"]
    server.cut = None
    http.download(archive, tmp_path / "a.zip")
    assert server.asked[-1] == "bytes=100-"


@pytest.mark.parametrize("left", [b"", b"x" * 100, b"x" * 10_000, b"x" * 20_000])
def test_foreign_bytes_of_an_earlier_download_are_thrown_away(server, tmp_path, left):
    (tmp_path / "a.zip.part").write_bytes(left)
    http.download(server.archive("a.zip", CONTENT), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"md5": "0" * 32}, "sends another file: its MD5 sum is not 000"),
        ({"size": 9_999}, "offers a file of 10000 bytes, expected 9999"),
        ({"size": 10_001}, "offers a file of 10000 bytes, expected 10001"),
    ],
)
def test_another_file_than_was_published_is_not_kept(server, tmp_path, change, reason):
    with pytest.raises(DataError, match=reason):
        http.download(server.archive("a.zip", CONTENT, **change), tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


def test_a_part_that_was_not_asked_for_is_refused(server, tmp_path, monkeypatch):
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:100])
    monkeypatch.setattr(
        Handler,
        "send_header",
        lambda self, key, value: BaseHTTPRequestHandler.send_header(
            self, key, value.replace("bytes 100-", "bytes 99-")
        ),
    )
    with pytest.raises(DataError, match="another part of the file than was asked for"):
        http.download(server.archive("a.zip", CONTENT), tmp_path / "a.zip")


def test_of_several_servers_the_first_that_has_the_file_gives_it(server, tmp_path):
    archive = server.archive("a.zip", CONTENT)
    (good,) = archive.urls
    missing_there, nobody = good.replace("a.zip", "b.zip"), "http://127.0.0.1:9/a.zip"
    http.download(replace(archive, urls=(nobody, missing_there, good)), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    with pytest.raises(DataError, match=r"127.0.0.1:9 cannot be reached \(.*\); .* answers 404"):
        http.download(replace(archive, urls=(nobody, missing_there)), tmp_path / "b.zip")


def tar_of(members):
    """A .tar.gz of names and contents; what is no bytes is the TarInfo itself."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return file.getvalue()


def zip_of(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            if not isinstance(content, bytes):
                info.external_attr, content = 0o120777 << 16, content[1].encode()
            opened.writestr(info, content)
    return file.getvalue()


GOOD = [("set/", b""), ("set/a", b"1"), ("set/deep/b", b"2" * 2000)]
LINK = (tarfile.SYMTYPE, "/etc/passwd")


@pytest.mark.parametrize(("make", "suffix"), [(tar_of, ".tar.gz"), (zip_of, ".zip")])
def test_files_and_folders_are_unpacked(tmp_path, make, suffix):
    members = GOOD[1:] if make is tar_of else GOOD
    (tmp_path / f"x{suffix}").write_bytes(make(members))
    into = tmp_path / "into"
    into.mkdir()
    unpacking.unpack(tmp_path / f"x{suffix}", into, 10_000)
    found = {p.relative_to(into).as_posix(): p.read_bytes() for p in into.rglob("*") if p.is_file()}
    assert found == dict(GOOD[1:])


@pytest.mark.parametrize(("make", "suffix"), [(tar_of, ".tar.gz"), (zip_of, ".zip")])
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("../out", b"1")], "leads out of its folder"),
        ([("set/../../out", b"1")], "leads out of its folder"),
        ([("/out", b"1")], "leads out of its folder"),
        ([("set\\..\\out", b"1")], "leads out of its folder|cannot be unpacked"),
        ([("C:out", b"1")], "leads out of its folder"),
        ([("link", LINK)], "is a link or a device"),
        ([("link", LINK), ("link/out", b"1")], "is a link or a device"),
        ([("a", b"1"), ("a", b"2")], "two members"),
        ([("a", b"1"), ("a/b", b"2")], "two members"),
        ([("a", b"1" * 20_000)], "more than 10000 bytes"),
    ],
)
def test_what_is_no_plain_archive_is_refused(tmp_path, make, suffix, members, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile sees the name twice
        content = make(members)
    (tmp_path / f"x{suffix}").write_bytes(content)
    into = tmp_path / "into" / "folder"
    into.mkdir(parents=True)
    with pytest.raises(DataError, match=reason):
        unpacking.unpack(tmp_path / f"x{suffix}", into, 10_000)
    assert [p for p in tmp_path.rglob("*") if p.is_symlink()] == []
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "into" / "out").exists()


@pytest.mark.parametrize("kind", [(tarfile.LNKTYPE, "set/a"), (tarfile.FIFOTYPE, "")])
def test_other_things_of_a_tar_are_refused(tmp_path, kind):
    (tmp_path / "x.tar.gz").write_bytes(tar_of([("set/a", b"1"), ("b", kind)]))
    (tmp_path / "into").mkdir()
    with pytest.raises(DataError, match="is a link or a device"):
        unpacking.unpack(tmp_path / "x.tar.gz", tmp_path / "into", 10_000)


@pytest.mark.parametrize(("make", "suffix"), [(tar_of, ".tar.gz"), (zip_of, ".zip")])
def test_a_damaged_archive_is_an_error_in_words(tmp_path, make, suffix):
    whole = make([("set/a", CONTENT)])
    (tmp_path / "into").mkdir()
    path = tmp_path / f"x{suffix}"
    for damaged in (whole[: len(whole) // 2], b"<html>", whole[:50] + b"x" + whole[51:-300], b""):
        path.write_bytes(damaged)
        (tmp_path / "into" / "set" / "a").unlink(missing_ok=True)
        with pytest.raises(DataError, match=r"cannot be unpacked|leads out|link or a device"):
            unpacking.unpack(path, tmp_path / "into", 10**6)


IMAGE = bytes(3 * 96 * 96)
IDX = {
    "images": bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 28 * 28),
    "labels": bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1]),
}
# What the smallest data sets of each name hold, in the folders of the published ones.
LITTLE = {
    "cifar10": {f"cifar-10-batches-bin/{name}": bytes(3073) for name in PUBLIC["cifar10"].holds},
    "stl10": {
        f"stl10_binary/{name}": IMAGE if "X" in name else b"\x01" for name in PUBLIC["stl10"].holds
    },
    "tiny_imagenet": {
        "tiny-imagenet-200/wnids.txt": b"n1\n",
        "tiny-imagenet-200/train/n1/images/n1_0.JPEG": b"a picture",
        "tiny-imagenet-200/val/val_annotations.txt": b"v.JPEG\tn1\t0\n",
        "tiny-imagenet-200/val/images/v.JPEG": b"a picture",
    },
}


@pytest.fixture
def published(server, monkeypatch):
    """The public data sets as small ones of the server."""
    small = {}
    for name, public in PUBLIC.items():
        archives = []
        for archive in public.archives:
            if name == "mnist":
                content = gzip.compress(IDX["images" if "images" in archive.name else "labels"])
            else:
                make = zip_of if archive.name.endswith(".zip") else tar_of
                content = make([*LITTLE[name].items()])
            archives.append(server.archive(archive.name, content))
        small[name] = replace(public, archives=tuple(archives))
    monkeypatch.setattr(fetching, "PUBLIC", small)
    return small


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def call(*words):
    return CliRunner().invoke(app, ["data", *map(str, words)])


def test_every_data_set_lies_where_it_is_read(published, tmp_path):
    done = call(*PUBLIC, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    known = grey_sets() | labelled_sets()
    for name in PUBLIC:
        assert missing(name, tmp_path) == []
        assert all(path.exists() for path in known[name].files(tmp_path))
    assert labelled_sets()["cifar10"].load(tmp_path, 0).train.shape == (5, 3, 32, 32)
    stl10 = labelled_sets()["stl10"].load(tmp_path, 0)
    assert stl10.unlabelled.shape == (1, 3, 96, 96)
    assert grey_sets()["mnist"].grey(tmp_path, 2, 28, np.random.default_rng(0)).shape[0] == 2
    # Nothing is left of the archives, and nothing is done twice.
    assert not (tmp_path / ".downloads").exists()
    assert "already in" in call("cifar10", "--out", tmp_path).output


def test_names_and_folders_are_those_that_are_read():
    known = grey_sets() | labelled_sets()
    assert {name: known[name].FOLDER for name in PUBLIC} == {
        name: public.folder for name, public in PUBLIC.items()
    }
    with_files = {name for name, each in known.items() if each.FOLDER is not None}
    assert with_files == set(PUBLIC)


def test_an_interrupted_download_is_resumed_with_the_command_that_it_prints(
    published, server, tmp_path, monkeypatch
):
    append = http._append

    def interrupted(*arguments):
        server.cut = 20
        append(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(http, "_append", interrupted)
        stopped = call("mnist", "cifar10", "--out", tmp_path / "my data")
    server.cut = None
    assert stopped.exit_code == 130
    assert files_below(tmp_path) == ["my data/.downloads/train-images-idx3-ubyte.gz.part"]
    words = shlex.split(stopped.output.partition("resume with: ")[2])
    assert words[1:4] == ["-m", "experiments", "data"]
    resumed = call(*words[4:])
    assert resumed.exit_code == 0, resumed.output
    assert server.asked[1] == "bytes=20-"
    assert missing("mnist", tmp_path / "my data") == missing("cifar10", tmp_path / "my data") == []


def test_what_cannot_be_had_says_what_to_do_and_keeps_the_others(published, server, tmp_path):
    del server.files["cifar-10-binary.tar.gz"]
    done = call("cifar10", "tiny_imagenet", "--out", tmp_path)
    assert done.exit_code == 2
    (line,) = [line for line in done.output.splitlines() if line.startswith("error")]
    for part in ("error: cifar10: ", "127.0.0.1", "answers 404", "by hand http://127.0.0.1"):
        assert part in line
    assert f"put it into {tmp_path} under the same name" in line
    assert missing("tiny_imagenet", tmp_path) == []
    assert {Path(each).parts[0] for each in files_below(tmp_path)} == {"tiny-imagenet-200"}


def test_an_archive_that_was_fetched_by_hand_is_checked_unpacked_and_left(
    published, server, tmp_path
):
    name = "cifar-10-binary.tar.gz"
    (tmp_path / name).write_bytes(server.files[name][:-1])
    with pytest.raises(DataError, match=f"{name} is not the published file"):
        fetch("cifar10", tmp_path)
    (tmp_path / name).write_bytes(server.files[name])
    fetch("cifar10", tmp_path)
    assert missing("cifar10", tmp_path) == []
    assert (tmp_path / name).exists()
    assert server.asked == []


def test_an_interrupted_unpacking_leaves_nothing_under_the_name(published, tmp_path, monkeypatch):
    def breaks(archive, into, most):
        (into / "cifar-10-batches-bin").mkdir()
        (into / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "unpack", breaks)
        with pytest.raises(KeyboardInterrupt):
            fetch("cifar10", tmp_path)
    assert not (tmp_path / "cifar-10-batches-bin").exists()
    fetch("cifar10", tmp_path)
    assert len((tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").read_bytes()) == 3073
    assert not (tmp_path / ".downloads").exists()


def test_a_folder_that_lacks_files_is_not_touched(published, tmp_path):
    (tmp_path / "stl10_binary").mkdir()
    (tmp_path / "stl10_binary" / "train_X.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"exists, but lacks train_y.bin, .* move it away"):
        fetch("stl10", tmp_path)
    assert files_below(tmp_path) == ["stl10_binary/train_X.bin"]


def test_of_mnist_only_the_missing_files_are_fetched(published, server, tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(IDX["images"])
    fetch("mnist", tmp_path)
    assert len(server.asked) == 3
    assert not (tmp_path / "t10k-images-idx3-ubyte.gz").exists()


def test_an_archive_without_the_files_is_refused(published, server, tmp_path):
    content = tar_of([("cifar-10-batches-bin/data_batch_1.bin", bytes(3073))])
    archive = server.archive("cifar-10-binary.tar.gz", content)
    published["cifar10"] = replace(published["cifar10"], archives=(archive,))
    with pytest.raises(DataError, match=r"lacks data_batch_2.bin, .* in cifar-10-batches-bin"):
        fetch("cifar10", tmp_path)
    assert not (tmp_path / "cifar-10-batches-bin").exists()


def test_without_room_nothing_is_downloaded(published, server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**8})())
    with pytest.raises(DataError, match=r"100 MB left, but .* need 200 MB: make room"):
        fetch("cifar10", tmp_path)
    assert server.asked == []
    fetch("mnist", tmp_path)
    assert missing("mnist", tmp_path) == []


def test_what_is_published_is_named_as_its_addresses_say():
    for public in PUBLIC.values():
        assert isinstance(public, PublicSet)
        for archive in public.archives:
            assert re.fullmatch("[0-9a-f]{32}", archive.md5)
            assert {url.rpartition("/")[2] for url in archive.urls} == {archive.name}
            assert all(re.match("https?://", url) for url in archive.urls)
    assert public_sets.PUBLIC is PUBLIC
