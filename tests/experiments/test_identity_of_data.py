"""Laws of what data are called: by what their files hold, wherever they lie."""

import os
import shutil

import numpy as np
import pytest

from experiments.data import DataError, grey_identities, identity, labelled_identities
from experiments.data.labelled_sets import cifar10


@pytest.fixture
def folder(tmp_path):
    inner = tmp_path / "set" / "inner"
    inner.mkdir(parents=True)
    (inner / "a").write_bytes(b"1")
    (tmp_path / "set" / "b").write_bytes(b"22")
    return tmp_path / "set"


def test_a_copy_has_the_same_name_and_every_change_another(folder, tmp_path):
    before = identity.fingerprint([folder])
    assert before.startswith("contents ")
    copied = shutil.copytree(folder, tmp_path / "elsewhere" / "set")
    os.utime(copied / "b", (1, 1))
    assert identity.fingerprint([copied]) == before
    seen = {before}
    for change in (
        lambda: (folder / "b").write_bytes(b"23"),
        lambda: (folder / "b").rename(folder / "c"),
        lambda: (folder / "c").rename(folder / "inner" / "c"),
        lambda: (folder / "d").touch(),
    ):
        change()
        seen.add(identity.fingerprint([folder]))
    assert len(seen) == 5


def test_many_files_are_known_by_size_and_time(folder, monkeypatch):
    monkeypatch.setattr(identity, "_MOST_FILES", 1)
    before = identity.fingerprint([folder])
    assert before.startswith("sizes and times ")
    assert identity.fingerprint([folder]) == before
    os.utime(folder / "b", (1, 1))
    assert identity.fingerprint([folder]) != before


def test_what_is_no_file_is_refused_instead_of_awaited(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        identity.fingerprint([tmp_path / "pipe"])


def test_an_archive_has_one_name_from_inside_and_from_above(tmp_path):
    home = tmp_path / cifar10.FOLDER
    home.mkdir()
    for path in (*(home / f"data_batch_{k}.bin" for k in range(1, 6)), home / "test_batch.bin"):
        path.write_bytes(bytes(3073))
    names = labelled_identities(tmp_path, ("cifar10",))
    assert labelled_identities(home, ("cifar10",)) == names
    (home / "test_batch.bin").write_bytes(b"\1" + bytes(3072))
    assert labelled_identities(tmp_path, ("cifar10",)) != names
    (home / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"lacks test_batch\.bin"):
        labelled_identities(tmp_path, ("cifar10",))


def test_grey_experiments_are_known_by_the_images_of_mnist(tmp_path):
    with pytest.raises(DataError, match="no MNIST images"):
        grey_identities(tmp_path)
    header = bytes([0, 0, 8, 3]) + np.array([1, 28, 28], ">u4").tobytes()
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(header + bytes(784))
    one = grey_identities(tmp_path)
    file.write_bytes(header + bytes(783) + b"\1")
    assert list(one) == ["mnist"]
    assert grey_identities(tmp_path) != one
