"""Laws of stored results: whole or refused, never half, never silently wrong."""

import enum
import hashlib
import json
import math
import os
import signal
import struct
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import date, datetime
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from linlocal.analysis.results import (
    Address,
    Provenance,
    ResultError,
    of_run,
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


def beside(function, *arguments):
    """A copy of this process, which has its libraries, that calls a function."""
    process = get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


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


class Level(enum.IntEnum):
    low = 1


# Attributes that come back as they are: value and type, at every depth.
ATTRIBUTES = [
    *(None, True, False, 0, -1, 2**63, -(2**70), 10**3999, 0.1, -0.0, 5e-324, math.inf, math.nan),
    *("", "a", "a\0b", "\ud800", "ä 漢 😀", "null", '["list", []]', "x" * 200_000),
    *([], [1], ["a"], [[]], [1, [2.0, "a", None]], (), (1,), (1, 2), ((1,), [2])),
    *({}, {"a": {"b": (1, [])}}, {"list": 1}, ["list", [1]], ("array", "<f8", [1], [1])),
    *(np.float32(0.1), np.float64(0.1), np.float64(np.nan), np.int8(-1), np.uint64(2**64 - 1)),
    *(np.bool_(True), np.str_("a"), np.array([1, 2]), np.array([[0.1]], "f4"), np.array(3)),
    *(np.array([], "i2"), np.zeros((2, 0)), np.array(["a", "bc"]), np.array([1.5], ">f8")),
    [np.float32(1)],
]


def same(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, np.generic):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return [*one] == [*other] and all(map(same, one.values(), other.values()))
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return one == other


@pytest.mark.parametrize("value", ATTRIBUTES, ids=lambda value: ascii(value)[:30])
def test_attributes_come_back_as_they_are(path, provenance, value):
    dataset = make()
    for place in (dataset, dataset["cosine"], dataset["layer"], dataset["rule"]):
        place.attrs["it"] = value
    write(dataset, path, provenance)
    back = read(path)
    for place in (back, back["cosine"], back["layer"], back["rule"]):
        assert same(place.attrs["it"], value)


UNKNOWN = {
    "datetime": datetime(2026, 1, 1),
    "date": date(2026, 1, 1),
    "path": Path("a"),
    "bytes": b"a",
    "complex": 1j,
    "set": {1},
    "enumeration": Level.low,
    "range": range(3),
    "long double": np.longdouble(1),
    "numpy's time": np.datetime64("2026-01-01"),
    "objects": np.array([None]),
    "array": xr.DataArray([1]),
    "keys that are no text": {1: 2},
    "too large": 10**4000,
    "class": Level,
}


@pytest.mark.parametrize("value", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_attributes_that_would_change_are_refused_by_place(path, provenance, value):
    for place, name in ((make(), "the dataset"), (make()["cosine"], "the variable 'cosine'")):
        for deep in (value, [(value,)], {"a": value}):
            dataset = make()
            target = dataset if name == "the dataset" else dataset[place.name]
            target.attrs["it"] = deep
            with pytest.raises(ResultError, match=rf"attribute 'it' of {name}.*(store|Store|text)"):
                write(dataset, path, provenance)
    assert not path.exists()


def test_an_attribute_that_contains_itself_is_refused(path, provenance):
    endless = []
    endless.append(endless)
    with pytest.raises(ResultError, match="'it' of the dataset contains itself"):
        write(make().assign_attrs(it=endless), path, provenance)
    with pytest.raises(ResultError, match="names of attributes must be text"):
        write(xr.Dataset(attrs={1: 2}), path, provenance)


def test_attributes_mean_nothing_to_the_format(path, provenance):
    """Names by which netCDF, HDF5 and xarray's reader would change the values."""
    names = {
        "units": "days since 2000-01-01", "calendar": "noleap", "scale_factor": 2.0,
        "add_offset": 1.0, "_FillValue": 0.5, "missing_value": 0.5, "dtype": "bool",
        "coordinates": "epochs", "dims": ["x"], "encoding": {}, "grid_mapping": "epochs",
        "bounds": "epochs", "_Unsigned": "true", "_Netcdf4Dimid": 3, "_Netcdf4Coordinates": [1],
        "_NCProperties": "x", "CLASS": "y", "NAME": "z", "DIMENSION_LIST": [1],
        "REFERENCE_LIST": [2], "linlocal": "{}", "header": 1, "attributes": 2, "a/b": 3, "": 4,
    }  # fmt: skip
    dataset = make().assign_attrs(names)
    for variable in dataset.variables.values():
        variable.attrs.update(names)
    write(dataset, path, provenance)
    back = read(path)
    assert back.drop_attrs().identical(dataset.drop_attrs())
    assert all(variable.attrs == names for variable in back.variables.values() if variable.attrs)
    assert {name: back.attrs[name] for name in names} == names


def test_a_datasets_own_seed_is_not_that_of_the_run(path, provenance):
    """A probe says with which seed it was made, within a run of another seed."""
    dataset = make().assign_attrs(seed=7, config={"its": "own"})
    write(dataset, path, provenance)
    for _ in range(2):
        back = read(path)
        assert (back.attrs["seed"], back.attrs["config"]) == (7, {"its": "own"})
        assert (back.attrs["run_seed"], of_run(back.attrs, "seed")) == (3, 3)
        assert of_run(back.attrs, "preset") == back.attrs["preset"] == "smoke"
        assert Provenance.of(back) == provenance
        write(back, path, provenance)  # the second round: one that was read
    later = replace(provenance, seed=4)
    write(read(path), path, later)
    assert (read(path).attrs["seed"], Provenance.of(read(path))) == (7, later)


def test_names_kept_for_the_run_are_refused(path, provenance):
    with pytest.raises(ResultError, match=r"an attribute 'run_seed'.*another name"):
        write(make().assign_attrs(run_seed=1), path, provenance)


VARIABLES = {
    "booleans": [True, False],
    **{code: np.array([0, 1], code) for code in ("i1", "i2", "i4", ">i4", "u1", "u2", "u4")},
    "u8": np.array([2**64 - 1], "u8"),
    **{code: np.array([0.1, -0.0, np.nan], code) for code in ("f2", "f4", ">f8", "g", "c8", "c16")},
    "text": ["a", "", "trailing ", "ä 漢 😀"],
    "text as objects": np.array(["a", "bc"], object),
    "bytes": np.array([b"ab", b"c"]),
    "times": np.array(["2026-01-01", "NaT"], "M8[ns]"),
    "time differences": np.array([5, -1], "m8[ns]"),
    "nothing": np.zeros(0),
    "no text": np.zeros(0, "U3"),
}


@pytest.mark.parametrize("values", VARIABLES.values(), ids=VARIABLES.keys())
def test_variables_come_back_with_their_types(path, provenance, values):
    dataset = xr.Dataset({"x": ("k", values), "y": (("k", "l"), np.array([values]).T)})
    dataset = dataset.assign_coords(z=("k", values), **{"with space": 3})
    if len(values):
        dataset = dataset.assign(alone=dataset["x"][0].drop_vars(["z", "with space"]))
    # pandas has no index of half precision.
    indexed = [] if dataset["x"].dtype == "f2" else [dataset.assign_coords(k=values)]
    for each in (dataset, *indexed):
        write(each, path, provenance)
        back = read(path).drop_attrs()
        assert back.identical(each)
        assert {n: v.dtype for n, v in back.variables.items()} == {
            n: v.dtype for n, v in each.variables.items()
        }
        if each["x"].dtype.kind not in "UOMm":
            assert back["x"].values.tobytes() == each["x"].values.tobytes()


STRANGE = {
    "a missing text": (xr.Dataset({"x": ("k", np.array(["a", None], object))}), "holds nan"),
    "mixed": (xr.Dataset({"x": ("k", np.array(["a", 1], object))}), r"holds 1 at \[1\]"),
    "a zero character": (xr.Dataset({"x": ("k", ["a\0b"])}), "no zero character"),
    "half a pair": (xr.Dataset({"x": ("k", ["\ud800"])}), "half of a surrogate pair"),
    "categories": (xr.Dataset(coords={"k": pd.CategoricalIndex(["a"])}), r"astype\(str\)"),
    "records": (xr.Dataset({"x": ("k", np.zeros(1, "i4,f4"))}), r"astype\(str\)"),
    "two levels": (
        xr.Dataset(coords=xr.Coordinates.from_pandas_multiindex(
            pd.MultiIndex.from_tuples([(1, 2)]), "k")),
        r"reset_index\(\)",
    ),
    **{
        f"the name {name!r}": (xr.Dataset({name: 1}), "cannot name a variable")
        for name in ("a/b", "", ".", "..", "a\0b", 1, "_nc4_non_coord_x")
    },
    "a dimension": (xr.Dataset({"x": ("a/b", [1])}), "cannot name a variable or dimension"),
}  # fmt: skip


@pytest.mark.parametrize(("dataset", "message"), STRANGE.values(), ids=STRANGE.keys())
def test_variables_that_would_change_are_refused(path, provenance, dataset, message):
    with pytest.raises(ResultError, match=message):
        write(dataset, path, provenance)


def test_a_variable_may_have_the_name_of_another_dimension(path, provenance):
    dataset = xr.Dataset({"k": (("k", "l"), np.ones((2, 3)))}, {"l": [1, 2, 3]})
    write(dataset, path, provenance)
    assert read(path).drop_attrs().identical(dataset)
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as other:
        assert other.load().drop_attrs().identical(dataset)


@pytest.mark.parametrize(
    ("dataset", "remedy"),
    [
        (pd.DataFrame({"a": [1]}), "to_xarray"),
        (xr.DataArray([1]), "to_dataset"),
        ({"a": 1}, r"xr\.Dataset"),
        ("a.nc", "an xr.Dataset"),
        (None, "an xr.Dataset"),
    ],
)
def test_what_is_no_dataset_is_refused_with_the_remedy(path, provenance, dataset, remedy):
    with pytest.raises(TypeError, match=rf"dataset must be .*{remedy}"):
        write(dataset, path, provenance)


def test_paths_may_be_text_and_nothing_else(path, provenance):
    assert write(make(), str(path), provenance) == path
    assert read(str(path)).identical(read(path))
    for call in (lambda: write(make(), None, provenance), lambda: read(3)):
        with pytest.raises(TypeError, match="path must be a path or a string, got"):
            call()
    with pytest.raises(TypeError, match=r"provenance must be what Provenance\.collect gives"):
        write(make(), path, "toy")


def test_a_result_of_the_first_schema_is_read(path, provenance):
    path.parent.mkdir()
    first = replace(provenance, schema=1)
    old = make().assign_attrs(asdict(first))
    old.to_netcdf(path, engine="h5netcdf")
    body = path.read_bytes()
    path.write_bytes(body + hashlib.sha256(body).digest())
    assert read(path).identical(old)
    assert Provenance.of(read(path)) == first
    write(read(path), path, provenance)
    assert read(path).identical(make().assign_attrs(asdict(provenance)))


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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.complex64, np.complex128])
@pytest.mark.parametrize("value", [np.inf, -np.inf, complex(0, np.inf), complex(-np.inf, np.nan)])
@pytest.mark.parametrize("kind", ["variable", "coordinate"])
def test_infinity_is_refused_in_every_number_format(path, provenance, dtype, value, kind):
    if np.dtype(dtype).kind == "f" and isinstance(value, complex):
        value = value.imag if np.isinf(value.imag) else value.real
    numbers = np.array([1, 2, value], dtype)
    data = {"x": ("k", numbers)}
    broken = make().assign(data) if kind == "variable" else make().assign_coords(data)
    with pytest.raises(ResultError, match=r"infinite value in 'x', the first at index \[2\]"):
        write(broken, path, provenance)
    assert not path.exists()
    numbers[2] = np.nan
    write(broken, path, provenance)
    np.testing.assert_array_equal(read(path)["x"], numbers)


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
    with pytest.raises(ResultError, match="cannot be written: disk full"):
        write(make(0.2), path, provenance)
    xr.testing.assert_equal(read(path), make(0.1))
    assert list(path.parent.iterdir()) == [path]


def test_a_killed_write_keeps_the_old_file(path, provenance):
    write(make(0.1), path, provenance)

    def killed_while_writing():
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        write(make(0.2), path, provenance)

    killed = beside(killed_while_writing)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    xr.testing.assert_equal(read(path), make(0.1))


def test_two_writers_leave_one_whole_file_at_every_moment(path, provenance):
    def write_often(value, times=30):
        for _ in range(times):
            write(xr.Dataset({"cosine": ("k", np.full(2000, value))}), path, provenance)

    write_often(0.0, 1)
    writers = [beside(write_often, value) for value in (1.0, 2.0)]
    seen = set()
    while any(writer.is_alive() for writer in writers):
        values = set(read(path)["cosine"].values.tolist())
        assert len(values) == 1
        seen |= values
    for writer in writers:
        assert writer.exitcode == 0
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


def test_other_readers_find_the_dimensions_by_name(path, provenance):
    """Also of axes of equal length, which nobody could guess."""
    same = xr.Dataset({"a": (("x", "y"), np.eye(3)), "b": ("y", [1, 2, 3])}, {"x": [5, 6, 7]})
    write(same, path, provenance)
    with h5py.File(path) as file:
        for name, variable in same.data_vars.items():
            scales = [axis[0].name for axis in file[name].dims]
            assert scales == [f"/{dim}" for dim in variable.dims]
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        xr.testing.assert_equal(dataset.load(), same)


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
    git(tmp_path, "commit", "-a", "-m", "second")
    clean = commit()
    assert len(clean) == 40
    for folder in ("results", "linlocal/results"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "part.nc").write_text("a")
        git(tmp_path, "add", folder)
        git(tmp_path, "commit", "-m", "a part")
        (tmp_path / folder / "part.nc").unlink()
        # Results compute nothing; a module of that name may.
        assert commit().endswith("-dirty") == (folder != "results")
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(provenance_module, "ROOT", tmp_path / "site-packages")
    assert commit() == "unknown"
    monkeypatch.setattr(provenance_module, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown"


def test_a_config_may_hold_numpys_numbers_and_names_what_it_cannot():
    config = {"n": np.int64(3), "rates": np.logspace(-1, 1, 3), "deep": [{"on": np.bool_(True)}]}
    found = json.loads(Provenance.collect("toy", "smoke", 0, config).config)
    assert found == {"n": 3, "rates": [0.1, 1.0, 10.0], "deep": [{"on": True}]}
    with pytest.raises(TypeError, match=r"config holds .*Path.*JSON cannot express.*str\(path\)"):
        Provenance.collect("toy", "smoke", 0, {"data": Path("a")})


def test_a_run_repeats_another_if_code_and_parameters_agree(provenance):
    assert provenance.repeats(replace(provenance, commit="x", hardware="y", duration_s=9.0))
    for field in ("experiment", "config", "code"):
        assert not provenance.repeats(replace(provenance, **{field: "other"}))


def test_an_address_names_the_file(tmp_path):
    address = Address("toy", "smoke", 3, tmp_path / "my results")
    assert address.path == tmp_path / "my results" / "toy-smoke-seed3.nc"
    with pytest.raises(ResultError, match="did you mean 'smoke'"):
        Address("toy", "smok", 3, tmp_path)
