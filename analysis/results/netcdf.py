"""Datasets as the bytes of a netCDF-4 file and back, exactly; what cannot come back is refused.

h5py writes the arrays, with the dimension scales by which netCDF-4 names dimensions. All else
(types, coordinates, attributes) stands in one attribute of the file, as JSON. There no name means
anything to netCDF, as ``units``, ``scale_factor`` or ``_FillValue`` would. Through xarray's own
writer the same takes ten times as long.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from io import BytesIO
from typing import Any

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from linlocal.analysis.results import hdf5
from linlocal.analysis.results.attributes import decoded, encoded, size_of
from linlocal.analysis.results.provenance import ResultError

_HEADER = "linlocal"
_KINDS = "biufcSUOMm"  # of numpy's types, those that a variable may have
# By the conventions of netCDF-4: a dimension that is no variable, and a variable that has the name
# of a dimension but is not its coordinate.
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable.{:10d}"
_NO_COORDINATE = "_nc4_non_coord_"
# numpy gives each text of an array the room of the widest one, in the file they take less.
_LARGEST_TEXT = 2**30


def to_bytes(dataset: xr.Dataset, header: dict[str, Any], schema: int) -> bytes:
    """The file.

    Args:
        dataset: booleans, numbers, text and times.
        header: anything else to be kept, see `attributes`.
        schema: the version of the layout, where older versions of this code look for it.

    Raises:
        ResultError: a variable, name or attribute that would not come back as it is.
    """
    about: dict[str, Any] = {
        "header": encoded(header, "the header"),
        "attributes": _attributes(dataset.attrs, "the dataset"),
        "variables": {},
    }
    room = BytesIO()
    with h5py.File(room, "w") as file:
        for name, variable in dataset.variables.items():
            text = _checked_name(name)
            place = _NO_COORDINATE + text if text in dataset.sizes else text
            if variable.dims == (name,):
                place = text
            values = _values(text, variable)
            kind = h5py.string_dtype() if values.dtype.kind == "O" else values.dtype
            file.create_dataset(place, data=values, dtype=kind)
            about["variables"][text] = {
                "place": place,
                "dims": [_checked_name(dim) for dim in variable.dims],
                "dtype": variable.dtype.str,
                "coordinate": name in dataset.coords,
                "attributes": _attributes(variable.attrs, f"the variable {text!r}"),
            }
        texts = (each.nbytes for each in dataset.variables.values() if each.dtype.kind == "U")
        _require_room(sum(texts) + _attributes_size(about))
        _write_dimensions(file, dataset, about["variables"])
        # For other readers. Names with spaces cannot be listed.
        listed = [str(name) for name in dataset.coords if " " not in str(name)]
        file.attrs["coordinates"] = " ".join(listed)
        file.attrs["schema"] = schema
        file.attrs[_HEADER] = json.dumps(about)
    return room.getvalue()


def from_bytes(content: bytes) -> tuple[xr.Dataset, dict[str, Any]] | None:
    """The dataset and the header that `to_bytes` was given, None if it did not write the file.

    Raises:
        OSError, LookupError, ValueError, TypeError, AttributeError, OverflowError, RuntimeError: no
            netCDF-4 file, a damaged one, or one that reaches out of itself.
    """
    with h5py.File(BytesIO(content), "r") as file:
        stored = hdf5.datasets(file, content)
        if _HEADER not in file.attrs:
            return None
        about = json.loads(file.attrs[_HEADER])
        types = {name: _type(name, each, stored) for name, each in about["variables"].items()}
        texts = (
            stored[about["variables"][name]["place"]].size * dtype.itemsize
            for name, dtype in types.items()
            if dtype.kind == "U"
        )
        _require_room(sum(texts) + _attributes_size(about))
        found = {
            name: _read(stored[each["place"]], types[name], each)
            for name, each in about["variables"].items()
        }
    coords = {name for name, each in about["variables"].items() if each["coordinate"]}
    dataset = xr.Dataset(
        {name: variable for name, variable in found.items() if name not in coords},
        {name: variable for name, variable in found.items() if name in coords},
        decoded(about["attributes"]),
    )
    return dataset, decoded(about["header"])


def _type(name: str, about: dict[str, Any], stored: dict[str, h5py.Dataset]) -> np.dtype[Any]:
    """The type of a variable.

    Raises:
        ValueError, TypeError, LookupError: it is none that `to_bytes` writes at that place.
    """
    place, text = about["place"], about["dtype"]
    if place not in (name, _NO_COORDINATE + name):
        raise ValueError(f"{name!r} cannot lie at {place!r}.")
    dtype, kind = np.dtype(str(text)), stored[place].dtype
    if dtype.kind not in _KINDS or (dtype.kind in "UO") != (kind.kind == "O"):
        raise ValueError(f"{name!r} cannot be of type {text!r}.")
    if dtype.kind not in "UO" and dtype.itemsize != kind.itemsize:
        raise ValueError(f"{name!r} has items of {kind.itemsize} bytes, which {text!r} has not.")
    return dtype


def _read(stored: h5py.Dataset, dtype: np.dtype[Any], about: dict[str, Any]) -> xr.Variable:
    if dtype.kind in "UO":
        values = np.asarray(stored.asstr()[()]).astype(dtype)
    elif dtype.kind in "Mm":
        values = np.asarray(stored[()]).view(dtype)
    else:
        values = np.asarray(stored[()]).astype(dtype, copy=False)
    return xr.Variable(about["dims"], values, decoded(about["attributes"]))


def _attributes_size(about: dict[str, Any]) -> int:
    variables = about["variables"].values()
    places = [about["header"], about["attributes"], *(each["attributes"] for each in variables)]
    return sum(map(size_of, places))


def _require_room(size: int) -> None:
    if size > _LARGEST_TEXT:
        raise ResultError(
            f"its texts and attributes take {size} bytes, expected at most {_LARGEST_TEXT}: numpy "
            "gives each text of an array the room of the widest. Make long texts shorter, or an "
            "array of objects of them by astype(object)."
        )


def _write_dimensions(
    file: h5py.File, dataset: xr.Dataset, variables: dict[str, dict[str, Any]]
) -> None:
    for number, (dim, size) in enumerate(dataset.sizes.items()):
        name = _checked_name(dim)
        if name in file:
            file[name].make_scale(name)
        else:
            file.create_dataset(name, shape=(size,), dtype=">f4").make_scale(
                _NO_VARIABLE.format(size)
            )
        file[name].attrs["_Netcdf4Dimid"] = np.int32(number)
    for each in variables.values():
        if each["dims"] != [each["place"]]:
            for axis, dim in enumerate(each["dims"]):
                file[each["place"]].dims[axis].attach_scale(file[dim])


def _attributes(attributes: dict[Any, Any], of: str) -> dict[str, Any]:
    for name in attributes:
        if type(name) is not str:
            raise ResultError(f"{of} has the attribute {name!r}: names of attributes must be text.")
    return {name: encoded(each, f"attribute {name!r} of {of}") for name, each in attributes.items()}


def _values(name: str, variable: xr.Variable) -> NDArray[Any]:
    """The values in a type that HDF5 has."""
    kind = variable.dtype.kind if isinstance(variable.dtype, np.dtype) else "?"
    if kind not in _KINDS:
        raise ResultError(
            f"the variable {name!r} has the type {variable.dtype}, which would not come back as it "
            "is: make it numbers, booleans or text, for example by astype(str)."
        )
    values = np.asarray(variable.values)
    if kind in "UO":
        for index, each in np.ndenumerate(values):
            if not isinstance(each, str):
                raise ResultError(
                    f"the variable {name!r} holds {each!r} at {list(index)} among its objects, "
                    "which would not come back as it is: make all of them text, or use NaN in an "
                    "array of numbers where a value is missing. reset_index() splits tuples."
                )
            if not _is_storable(each):
                raise ResultError(
                    f"the variable {name!r} holds {each!r} at {list(index)}: text must have no "
                    "zero character and no half of a surrogate pair."
                )
        return values.astype(object)
    if kind in "Mm":
        return values.view(np.int64)
    return values.astype(np.int8) if kind == "b" else values


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _checked_name(name: Hashable) -> str:
    """The name of a variable or dimension.

    Raises:
        ResultError: it is no text, or HDF5 would understand it as a path.
    """
    if (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or "/" in name
        or name.startswith(_NO_COORDINATE)
        or not _is_storable(name)
    ):
        raise ResultError(
            f"{name!r} cannot name a variable or dimension in a file: names are text that is not "
            "empty, without '/' and zero characters, and not '.' or '..'. rename() changes them."
        )
    return name
