"""A result is what lies in its own file: what reaches out of it, or grows in memory, is refused.

Every file here has a right checksum, which a stranger can compute as well.
"""

import hashlib
import io
import json
import os
from dataclasses import asdict

import h5py
import numpy as np
import pytest
import xarray as xr

from linlocal.analysis.results import Provenance, ResultError, read, write

PROVENANCE = Provenance.collect("toy", "smoke", 3, {"width": 4})
TEXT = h5py.string_dtype()
LARGE = 20_000_000_000  # numbers: 149 GiB


def about(**variables):
    """What a file says of its variables, each given as (dtype, dims)."""
    return json.dumps(
        {
            "header": asdict(PROVENANCE),
            "attributes": {},
            "variables": {
                name: {
                    "place": name,
                    "dims": list(dims),
                    "dtype": dtype,
                    "coordinate": False,
                    "attributes": {},
                }
                for name, (dtype, dims) in variables.items()
            },
        }
    )


ONE = about(x=("<f8", ["k"]))


def hdf5(fill, header=ONE, **options):
    room = io.BytesIO()
    with h5py.File(room, "w", **options) as file:
        if header is not None:
            file.attrs["linlocal"] = header
        fill(file)
    return room.getvalue()


def sealed(path, body):
    path.write_bytes(body + hashlib.sha256(body).digest())
    return path


def external(file, secret):
    file.create_dataset("x", (4,), "<f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((4,), "<f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
    file.create_virtual_dataset("x", layout)


def external_link(file, secret):
    file["x"] = h5py.ExternalLink(str(secret), "/x")


def soft_link(file, secret):
    file["y"] = h5py.ExternalLink(str(secret), "/x")
    file["x"] = h5py.SoftLink("/y")


def group(file, secret):
    file["x/x"] = h5py.ExternalLink(str(secret), "/x")


def committed(file, secret):
    file["type"] = np.dtype("<f8")
    file.create_dataset("x", (4,), file["type"])
    del file["type"]


REACHING = {
    "external storage": (external, "lie in other files"),
    "a virtual data set": (virtual, "lie in other files"),
    "an external link": (external_link, "is a link to something else"),
    "a soft link": (soft_link, "is a link to something else"),
    "a link in a group": (group, "is a group or a type"),
    "a committed type": (committed, "the type of '/x' stands elsewhere"),
}


# Of the first schema (without our header), xarray reads what passes.
@pytest.mark.parametrize("header", [ONE, None], ids=["ours", "first schema"])
@pytest.mark.parametrize("case", REACHING)
def test_no_other_file_is_read(tmp_path, case, header):
    fill, message = REACHING[case]
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(4.0)
    path = sealed(tmp_path / "a.nc", hdf5(lambda file: fill(file, secret), header))
    with pytest.raises(ResultError, match=rf"a\.nc is no netCDF file of ours: .*{message}"):
        read(path)


def plain(file):
    file["x"] = np.arange(4.0)


def named_often(file):
    file["x0"] = np.zeros(20_000)
    for k in range(1, 300):
        file[f"x{k}"] = file["x0"]


def one_text_often(file):
    """A text is stored once; each element is a reference to it."""
    texts = file.create_dataset("x", (20_000,), TEXT)
    texts[0] = "a" * 30_000
    file.flush()
    offset = texts.id.get_offset()
    file.attrs["where"] = offset


def repeated_text():
    body = bytearray(hdf5(one_text_often, about(x=("O", ["k"]))))
    with h5py.File(io.BytesIO(bytes(body))) as file:
        offset = int(file.attrs["where"])
    body[offset : offset + 16 * 20_000] = body[offset : offset + 16] * 20_000
    return bytes(body)


def text_in_attributes():
    def fill(file):
        plain(file)
        file.attrs.create("x", ["a" * 1_000_000, *["b"] * 3000], dtype=TEXT)

    return hdf5(fill, header=None)


def zipped(file):
    file.create_dataset("x", (10_000_000,), "<f8", compression="gzip", chunks=(10_000_000,))[:] = 0


WIDE = about(x=("<U250000000", ["k"]))
GROWING = {
    "data that were never stored": (
        lambda: hdf5(lambda file: file.create_dataset("x", (LARGE,), "<f8")),
        r"declares 160000000000 bytes, but none is stored",
    ),
    "data that were never stored, named as a dimension": (
        lambda: hdf5(
            lambda file: file.create_dataset("x", (LARGE,), "<f8").make_scale(
                "This is a netCDF dimension but not a netCDF variable. 20000000000"
            )
        ),
        "'x'",
    ),
    "data that were never stored, named almost as a dimension": (
        lambda: hdf5(
            lambda file: file.create_dataset("x", (LARGE,), "<f8").make_scale(
                "This is a netCDF dimension but not a netCDF variable"
            ),
            header=None,
        ),
        r"declares 160000000000 bytes, but none is stored",
    ),
    "chunks that were never stored": (
        lambda: hdf5(lambda file: file.create_dataset("x", (LARGE,), "<f8", chunks=(1000,))),
        "compressed or stored in chunks",
    ),
    "a compressed bomb": (lambda: hdf5(zipped), "compressed or stored in chunks"),
    "one array by many names": (
        lambda: hdf5(named_often, about(**{f"x{k}": ("<f8", ["k"]) for k in range(300)})),
        r"its variables declare 48000000 bytes, but the file has",
    ),
    "one text in many elements": (repeated_text, "its variables declare 600320000 bytes"),
    "one text in many elements of an attribute": (
        text_in_attributes,
        "its attributes may take .* name one text many times",
    ),
    "texts behind a block of the user": (
        lambda: hdf5(plain, userblock_size=512),
        "its addresses should have 8 bytes and count from its beginning",
    ),
    "texts as wide as a gigabyte": (
        lambda: hdf5(lambda file: file.create_dataset("x", data=["a", "b"], dtype=TEXT), WIDE),
        "its texts and attributes take 2000000000 bytes",
    ),
    "an attribute as wide as a gigabyte": (
        lambda: hdf5(
            plain,
            ONE.replace('"attributes": {}', '"attributes": {"a": ["scalar", "<U300000000", "a"]}'),
        ),
        "its texts and attributes take 2400000000 bytes",
    ),
    "an array whose shape is another": (
        lambda: hdf5(
            plain,
            ONE.replace('"attributes": {}', '"attributes": {"a": ["array", "<f8", [1.0], [9, 9]]}'),
        ),
        "an attribute is no 'array' of type '<f8'",
    ),
    "two variables at one place": (
        lambda: hdf5(
            plain,
            about(x=("<f8", ["k"]), y=("<f8", ["k"])).replace('"place": "y"', '"place": "x"'),
        ),
        "'y' cannot lie at 'x'",
    ),
    "a type of another width": (
        lambda: hdf5(plain, about(x=("S900000000", ["k"]))),
        "'x' has items of 8 bytes, which 'S900000000' has not",
    ),
}


@pytest.mark.parametrize("case", GROWING)
def test_what_would_take_more_memory_than_the_file_has_bytes_is_refused(tmp_path, case):
    make, message = GROWING[case]
    path = sealed(tmp_path / "a.nc", make())
    with pytest.raises(ResultError, match=message):
        read(path)


def test_a_heap_whose_parts_lead_nowhere_is_refused(tmp_path):
    """HDF5 would go on for ever."""
    body = bytearray(hdf5(lambda file: file.create_dataset("x", data=["a"], dtype=TEXT), None))
    heap = body.find(b"GCOL")
    for number, length in ((0, 0), (1, 2**40)):
        body[heap + 16 : heap + 18] = number.to_bytes(2, "little")
        body[heap + 24 : heap + 32] = length.to_bytes(8, "little")
        with pytest.raises(ResultError, match=f"the parts of its heap at {heap} do not fill it"):
            read(sealed(tmp_path / "a.nc", bytes(body)))


def test_the_plain_file_of_these_tests_is_read(tmp_path):
    found = read(sealed(tmp_path / "a.nc", hdf5(plain)))
    assert found["x"].values.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.nc")
    with pytest.raises(ResultError, match=r"a\.nc cannot be read: it is a pipe"):
        read(tmp_path / "a.nc")


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    # An array that is never touched takes no memory.
    wide = np.zeros(3, "U100000000")
    for dataset in (xr.Dataset({"x": ("k", wide)}), xr.Dataset(attrs={"x": np.empty(3, "U9")})):
        if dataset.attrs:
            write(dataset, tmp_path / "a.nc", PROVENANCE)
            assert read(tmp_path / "a.nc").attrs["x"].dtype == "<U9"
        else:
            with pytest.raises(ResultError, match="take 1200000000 bytes, expected at most"):
                write(dataset, tmp_path / "a.nc", PROVENANCE)


@pytest.mark.parametrize("texts", [["a", "bb" * 500], ["é" * 9] * 40, [""], [""] * 5])
def test_texts_of_any_length_are_read(tmp_path, texts):
    dataset = xr.Dataset(
        {"wide": ("k", np.array(texts)), "loose": ("k", np.array(texts, object))},
        {"none": ("m", np.empty(0, "U3"))},
        {"names": texts},
    )
    write(dataset, tmp_path / "a.nc", PROVENANCE)
    found = read(tmp_path / "a.nc")
    for name, each in dataset.variables.items():
        assert found[name].variable.identical(each)
        assert found[name].dtype == each.dtype
