"""Laws of stored results: whole or refused, never half, never silently wrong."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace

import numpy as np
import pytest
import xarray as xr

from linlocal.analysis.results import (
    Address,
    Provenance,
    ResultError,
    provenance as provenance_module,
    read,
    write,
)


def make(value=0.5, layers=3):
    return xr.Dataset(
        {
            "cosine": (("draw", "layer"), np.full((2, layers), value), {"units": "1"}),
            "duration": ("draw", [0.25, 0.5], {"units": "s"}),
            "epochs": ((), 7),
        },
        coords={"layer": np.arange(1, layers + 1), "rule": ("draw", ["CLAPP", "PhyLL"])},
        attrs={"note": "its own attribute"},
    )


@pytest.fixture
def provenance():
    return Provenance.collect("toy", "smoke", 3, {"width": 4, "seed": 3, "data": None})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "toy-smoke-seed3.nc"


def run_python(code, *args):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


# What a subprocess needs to write a result whose every value is sys.argv[2].
WRITER = """
    import os, sys, signal
    from pathlib import Path
    import numpy as np, xarray as xr
    from linlocal.analysis import results
    path, value = Path(sys.argv[1]), float(sys.argv[2])
    ds = xr.Dataset({"cosine": ("k", np.full(2000, value))})
    provenance = results.Provenance.collect("toy", "smoke", 0, {})
"""


def test_what_is_written_is_read(path, provenance):
    undefined = make().copy()
    undefined["cosine"][0, 0] = np.nan
    assert write(undefined, path, provenance) == path
    back = read(path)
    xr.testing.assert_equal(back, undefined)
    assert back["duration"].attrs == {"units": "s"}
    assert back.attrs == {"note": "its own attribute", **asdict(provenance)}
    assert Provenance.of(back) == provenance
    assert list(path.parent.iterdir()) == [path]


def test_writing_leaves_the_dataset_as_it_was(path, provenance):
    before = make()
    write(before, path, provenance)
    xr.testing.assert_identical(before, make())


def test_a_result_that_was_read_can_be_written_again(path, provenance):
    write(make(), path, provenance)
    first = read(path)
    write(first, path, provenance)
    xr.testing.assert_identical(read(path), first)


def test_parts_of_different_number_formats_join_without_loss(path, provenance):
    write(xr.Dataset({"steps": ("k", [3])}), path, provenance)
    joined = xr.concat([read(path), xr.Dataset({"steps": ("k", [0.5, np.nan])})], "k")
    write(joined, path, provenance)
    np.testing.assert_array_equal(read(path)["steps"], [3, 0.5, np.nan])


@pytest.mark.parametrize("place", ["cosine", "duration"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_is_refused_by_name_and_writes_nothing(path, provenance, place, value):
    broken = make()
    broken[place][dict.fromkeys(broken[place].dims, -1)] = value
    with pytest.raises(ResultError, match=rf"infinite value in '{place}'.*\[1"):
        write(broken, path, provenance)
    assert not path.exists()


@pytest.mark.parametrize("layers", [[0, 1, 2], [1, 3, 2], [2, 3, 4], None])
def test_layers_are_numbered_from_one(path, provenance, layers):
    dataset = make().drop_vars("layer")
    if layers:
        dataset = dataset.assign_coords(layer=layers)
    with pytest.raises(ResultError, match=r"layers 1\.\.L"):
        write(dataset, path, provenance)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(path, provenance, monkeypatch):
    write(make(0.1), path, provenance)

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write(make(0.2), path, provenance)
    xr.testing.assert_equal(read(path), make(0.1))
    assert list(path.parent.iterdir()) == [path]


def test_a_killed_write_keeps_the_old_file(path, provenance):
    write(make(0.1), path, provenance)
    killed = run_python(
        WRITER
        + """
    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    results.write(ds, path, provenance)
    """,
        path,
        0.2,
    )
    killed.communicate()
    assert killed.returncode == -9
    xr.testing.assert_equal(read(path), make(0.1))


def test_two_writers_leave_one_whole_file_at_every_moment(path, provenance):
    write(xr.Dataset({"cosine": ("k", np.zeros(2000))}), path, provenance)
    loop = WRITER + "    for _ in range(30): results.write(ds, path, provenance)"
    writers = [run_python(loop, path, value) for value in (1.0, 2.0)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        values = set(read(path)["cosine"].values.tolist())
        assert len(values) == 1
        seen |= values
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    assert seen & {1.0, 2.0}
    assert list(path.parent.iterdir()) == [path]


def test_every_truncation_is_refused(path, provenance):
    write(make(), path, provenance)
    whole = path.read_bytes()
    for length in range(0, len(whole), 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ResultError, match="damaged"):
            read(path)


def test_every_changed_byte_is_refused(path, provenance):
    write(make(), path, provenance)
    whole = path.read_bytes()
    for place in range(0, len(whole), 10):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ResultError, match="damaged"):
            read(path)


def test_other_readers_open_the_file(path, provenance):
    write(make(), path, provenance)
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as dataset:
        xr.testing.assert_equal(dataset.load(), make())


def test_a_missing_file_is_named(path):
    with pytest.raises(ResultError, match=rf"{path} does not exist\."):
        read(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ResultError, match="directory"):
        read(tmp_path)


def test_a_file_of_others_is_refused(tmp_path):
    path = tmp_path / "other.nc"
    xr.Dataset({"x": 1}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ResultError, match=r"other\.nc is .*no result of ours"):
        read(path)


@pytest.mark.parametrize("attrs", [{}, {"schema": "CF-1.8"}, {"schema": 1}])
def test_a_dataset_of_others_has_no_provenance(attrs):
    with pytest.raises(ResultError, match="lacks the attributes experiment, preset, seed"):
        Provenance.of(xr.Dataset(attrs=attrs))


def test_a_newer_schema_is_refused_even_with_other_attributes(path, provenance):
    write(make(), path, replace(provenance, schema=provenance_module.SCHEMA + 1))
    with pytest.raises(ResultError, match=r"toy-smoke-seed3\.nc: .*update linlocal"):
        read(path)
    with pytest.raises(ResultError, match="update linlocal"):
        Provenance.of(xr.Dataset(attrs={"schema": provenance_module.SCHEMA + 1}))


def test_provenance_names_versions_hardware_and_commit(provenance):
    packages, hardware = json.loads(provenance.packages), json.loads(provenance.hardware)
    assert packages["numpy"] == np.__version__
    assert packages["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "scipy", "xarray", "linlocal"} <= set(packages)
    assert hardware["cores"] >= 1
    assert hardware["processor"]
    assert provenance.commit == "unknown" or len(provenance.commit.removesuffix("-dirty")) == 40


def git(folder, *args):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_unknown_outside_git_and_dirty_after_a_change(tmp_path, monkeypatch):
    commit = provenance_module._commit.__wrapped__
    monkeypatch.setattr(provenance_module, "ROOT", tmp_path)
    assert commit() == "unknown"
    git(tmp_path, "init")
    assert commit() == "unknown"
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "tag", "v1", "-m", "tags do not replace the hash")
    clean = commit()
    assert len(clean) == 40
    (tmp_path / "file").write_text("b")
    assert commit() == f"{clean}-dirty"
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(provenance_module, "ROOT", tmp_path / "site-packages")
    assert commit() == "unknown"
    monkeypatch.setattr(provenance_module, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown"


def test_a_run_repeats_another_if_code_and_parameters_agree(provenance):
    assert provenance.repeats(replace(provenance, commit="x", hardware="y", duration_s=9.0))
    for field in ("experiment", "config", "code"):
        assert not provenance.repeats(replace(provenance, **{field: "other"}))


def test_an_address_names_the_file(tmp_path):
    address = Address("toy", "smoke", 3, tmp_path / "my results")
    assert address.path == tmp_path / "my results" / "toy-smoke-seed3.nc"
    with pytest.raises(ResultError, match="did you mean 'smoke'"):
        Address("toy", "smok", 3, tmp_path)
