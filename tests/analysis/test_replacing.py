"""Files get their names when they are whole; what a killed process left is swept away."""

import errno
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
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

ROOT = Path(__file__).resolve().parents[2]
PROVENANCE = Provenance.collect("none", "smoke", 0, {})
DATA = xr.Dataset({"x": ("step", [0.5])}, {"step": [3]})


def in_a_process(body, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(body), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# Killed when all is written but the last rename (or link) is not done.
KILLED = """
    import os, signal, sys
    from pathlib import Path
    import xarray as xr
    from linlocal.analysis.alignment import series
    from linlocal.analysis.results import Provenance, write
    from linlocal.analysis.training import Checkpoints

    def kill(*arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    folder, provenance = Path(sys.argv[1]), Provenance.collect("none", "smoke", 0, {})
    data = xr.Dataset({"x": ("step", [0.5])}, {"step": [3]})
"""
WRITES = {
    "result": ("Path.replace = kill; write(data, folder / 'a.nc', provenance)",),
    "series": ("os.link = kill; series.append(folder, data, provenance)",),
    "checkpoint": ("Path.replace = kill; Checkpoints(folder).save(1, {'a': 1})",),
}


@pytest.mark.parametrize("kind", WRITES)
def test_what_a_kill_before_the_last_rename_leaves_is_swept_by_the_next_writer(tmp_path, kind):
    process = in_a_process(textwrap.dedent(KILLED) + WRITES[kind][0], tmp_path)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
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
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
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


# A limit on the size of files is a full disk that a test can have.
FULL = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    import torch
    import xarray as xr
    from linlocal.analysis.alignment import series
    from linlocal.analysis.results import Provenance, ResultError, write
    from linlocal.analysis.training import CheckpointError, Checkpoints

    folder, provenance = Path(sys.argv[1]), Provenance.collect("none", "smoke", 0, {})
    size = int(sys.argv[2])
    data = xr.Dataset({"x": ("step", np.random.default_rng(0).random(size))}, {"step": range(size)})
    writes = {
        "result": lambda: write(data, folder / "a.nc", provenance),
        "series": lambda: series.append(folder / "series", data, provenance),
        "checkpoint": lambda: Checkpoints(folder / "checkpoints").save(
            size, {"x": torch.arange(float(size)), "y": torch.arange(float(size))}
        ),
    }
    for write_one in writes.values():
        write_one()
    for limit in map(int, sys.argv[3:]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        size += 1
        for name, write_one in writes.items():
            try:
                write_one()
                print(limit, name, "written")
            except (ResultError, CheckpointError) as error:
                print(limit, name, type(error).__name__, error)
"""


def test_a_full_disk_is_one_sentence_wherever_it_happens(tmp_path):
    limits = [0, 1, 63, 64, 100, 1000, 5000, 9000, 20_000, 40_000]
    process = in_a_process(FULL, tmp_path, 5000, *limits)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert errors == ""
    lines = output.splitlines()
    assert len(lines) == 3 * len(limits)
    for line in lines:
        _, name, *said = line.split(" ")
        kind = "CheckpointError" if name == "checkpoint" else "ResultError"
        # A result of 5000 numbers has 80 kB, the checkpoint 40 kB.
        assert said[0] == kind, line
        assert "File too large: make room" in line
    assert len(read(tmp_path / "a.nc")["x"]) == 5000
    assert len(series.read(tmp_path / "series")["x"]) == 5000
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        ["a.nc", "00000001.nc", "step-000000005000.pt"]
    )
