"""Files get their names when they are whole; what a killed process left is swept away."""

import errno
import os
import platform
import resource
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from linlocal.analysis.alignment import series
from linlocal.analysis.results import (
    Provenance,
    ResultError,
    read,
    replacing,
    sweep,
    temporary_in,
    write,
)
from linlocal.analysis.training import CheckpointError, Checkpoints

PROVENANCE = Provenance.collect("none", "smoke", 0, {})
DATA = xr.Dataset({"x": ("step", [0.5])}, {"step": [3]})


def in_a_process(function, *arguments):
    """A copy of this process, which has its libraries, that calls a function and has ended."""
    process = get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join()
    return process


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


WRITES = {
    "result": lambda folder: write(DATA, folder / "a.nc", PROVENANCE),
    "series": lambda folder: series.append(folder, DATA, PROVENANCE),
    "checkpoint": lambda folder: Checkpoints(folder).save(1, {"a": 1}),
}


def killed_before_the_name(kind, folder):
    """Killed when all is written but the last rename (or link) is not done."""

    def kill(*arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    Path.replace = os.link = kill
    WRITES[kind](folder)


@pytest.mark.parametrize("kind", WRITES)
def test_what_a_kill_before_the_last_rename_leaves_is_swept_by_the_next_writer(tmp_path, kind):
    process = in_a_process(killed_before_the_name, kind, tmp_path)
    assert process.exitcode == -signal.SIGKILL
    assert len(hidden(tmp_path)) == 1
    assert len([*tmp_path.iterdir()]) == 1
    write(DATA, tmp_path / "next.nc", PROVENANCE)
    assert [path.name for path in tmp_path.iterdir()] == ["next.nc"]


def left_by(folder, process, host=None, age=0.0):
    own = temporary_in(folder).name.split("-")
    path = folder / "-".join([own[0], host or own[1], str(process), own[3]])
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_only_files_of_processes_that_are_gone_are_swept(tmp_path):
    gone = in_a_process(int)
    day = 25 * 3600
    swept = [
        left_by(tmp_path, gone.pid),
        left_by(tmp_path, os.getpid(), age=day),
        left_by(tmp_path, gone.pid, host="0" * 8, age=day),
    ]
    kept = [
        left_by(tmp_path, os.getpid()),
        left_by(tmp_path, os.getppid()),
        left_by(tmp_path, gone.pid, host="0" * 8),
        left_by(tmp_path, 10**30),
    ]
    for name in (".hidden.tmp", "a.nc", ".linlocal-x-1-y.tmp", f"{swept[0].name}.nc"):
        kept.append(tmp_path / name)
        kept[-1].write_bytes(b"of somebody else")
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_another_machine_has_another_name(tmp_path, monkeypatch):
    here = temporary_in(tmp_path).name.split("-")
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    there = temporary_in(tmp_path).name.split("-")
    assert here[1] != there[1]
    assert here[2] == there[2]
    assert here[3] != there[3]


def test_an_error_in_the_block_leaves_what_was_there(tmp_path):
    path = tmp_path / "deep" / "file"
    with replacing(path) as file:
        file.write(b"old")

    def interrupted():
        with replacing(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert hidden(path.parent) == []


def in_the_way(folder):
    (folder / "a").write_text("a file")
    return folder / "a" / "b.nc"


def a_folder(folder):
    (folder / "b.nc" / "inside").mkdir(parents=True)
    return folder / "b.nc"


def no_such_folder(folder):
    (folder / "link").symlink_to(folder / "nowhere" / "at" / "all")
    return folder / "link" / "b.nc"


def itself(folder):
    (folder / "link").symlink_to(folder / "link")
    return folder / "link" / "b.nc"


def long_name(folder):
    return folder / ("b" * 300)


def long_folder(folder):
    return folder / ("b" * 300) / "b.nc"


CASES = {
    in_the_way: "something else has that name",
    a_folder: "something else has that name",
    no_such_folder: "something else has that name",
    itself: "link",
    long_name: "choose a shorter name",
    long_folder: "choose a shorter name",
}


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_what_is_in_the_way_of_a_result_is_named(tmp_path, make):
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ResultError, match=f"cannot be written: .*{CASES[make]}") as found:
        write(DATA, path, PROVENANCE)
    assert str(path) in str(found.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("make", [in_the_way, no_such_folder, long_folder])
def test_what_is_in_the_way_of_a_series_is_named(tmp_path, make):
    with pytest.raises(ResultError, match=f"cannot be (written|read): .*({CASES[make]}|too long)"):
        series.append(make(tmp_path).parent, DATA, PROVENANCE)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EROFS, "Read-only file system: choose a folder in which you may write"),
        (errno.EACCES, "Permission denied: choose a folder in which you may write"),
        (errno.ENOSPC, "No space left on device: make room, or raise the quota"),
        (errno.EIO, "what was there before is unchanged"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(tmp_path, monkeypatch, number, advice):
    write(DATA, tmp_path / "a.nc", PROVENANCE)

    def refused(descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refused)
        with pytest.raises(ResultError, match=f"a.nc cannot be written: .*{advice}"):
            write(DATA * 2, tmp_path / "a.nc", PROVENANCE)
    assert read(tmp_path / "a.nc")["x"].item() == 0.5
    assert hidden(tmp_path) == []


def test_a_link_is_replaced_by_the_file(tmp_path):
    (tmp_path / "link.nc").symlink_to(tmp_path / "nowhere.nc")
    write(DATA, tmp_path / "link.nc", PROVENANCE)
    assert not (tmp_path / "link.nc").is_symlink()
    assert read(tmp_path / "link.nc")["x"].item() == 0.5


def on_a_full_disk(folder, size, limits, said):
    """Write files of a number more each time under each limit on their size."""

    def write_all(size):
        numbers = np.random.default_rng(0).random(size)
        data = xr.Dataset({"x": ("step", numbers)}, {"step": range(size)})
        tensors = {"x": torch.arange(float(size)), "y": torch.arange(float(size))}
        writes = {
            "result": lambda: write(data, folder / "a.nc", PROVENANCE),
            "series": lambda: series.append(folder / "series", data, PROVENANCE),
            "checkpoint": lambda: Checkpoints(folder / "checkpoints").save(size, tensors),
        }
        for name, write_one in writes.items():
            try:
                write_one()
                yield name, None, ""
            except (ResultError, CheckpointError) as error:
                yield name, type(error), str(error)

    first = [*write_all(size)]
    found = []
    for count, limit in enumerate(limits, 1):
        # A limit on the size of files is a full disk that a test can have.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        found += [(limit, *each) for each in write_all(size + count)]
    said.send((first, found))


def test_a_full_disk_is_one_sentence_wherever_it_happens(tmp_path):
    limits = [0, 1, 63, 64, 100, 1000, 5000, 9000, 20_000, 40_000]
    here, there = get_context("fork").Pipe()
    process = in_a_process(on_a_full_disk, tmp_path, 5000, limits, there)
    assert process.exitcode == 0
    first, found = here.recv()
    assert [kind for _, kind, _ in first] == [None] * 3
    assert len(found) == 3 * len(limits)
    for limit, name, kind, message in found:
        # A result of 5000 numbers has 80 kB, the checkpoint 40 kB.
        expected = CheckpointError if name == "checkpoint" else ResultError
        assert kind is expected, (limit, name)
        assert "File too large: make room" in message
        assert "\n" not in message
    assert len(read(tmp_path / "a.nc")["x"]) == 5000
    assert len(series.read(tmp_path / "series")["x"]) == 5000
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        ["a.nc", "00000001.nc", "step-000000005000.pt"]
    )
