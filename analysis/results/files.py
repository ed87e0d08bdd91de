"""Results: labelled arrays in netCDF files that say where they came from.

A result is an ``xr.Dataset`` with the fields of :class:`Provenance` as attributes, beside its own.
Layers are numbered 1..L in the coordinate ``layer``. NaN means "undefined" (the cosine of a zero
update); infinity is refused. What is written comes back exactly, types and attributes included, or
is refused. Any netCDF reader opens the files. They end with a checksum of 32 bytes, which other
readers ignore.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import xarray as xr

from linlocal import inputs
from linlocal.analysis.results import netcdf
from linlocal.analysis.results.provenance import (
    Provenance,
    ResultError,
    joined_attributes,
    own_attributes,
)
from linlocal.analysis.results.replacing import replacing, why_not_written

_CHECKSUM_SIZE = hashlib.sha256().digest_size


def write(dataset: xr.Dataset, path: Path | str, provenance: Provenance) -> Path:
    """Store a result, atomically: at any moment ``path`` holds the old file or the whole new one.

    Args:
        dataset: the arrays with their own attributes. The provenance of a dataset that was read is
            replaced.
        path: the file; its folder is made if needed.
        provenance: where the result comes from.

    Returns:
        ``path``.

    Raises:
        ResultError: an infinite value; layers that are not numbered 1..L; a variable, name or
            attribute that would not come back as it is; or the file cannot be written (no room, no
            permission, something in the way).
        TypeError: the dataset is none, or the provenance.
    """
    inputs.instance(
        dataset,
        xr.Dataset,
        "dataset",
        "an xr.Dataset (frame.to_xarray() makes one of a pandas DataFrame, array.to_dataset(name=) "
        "of a DataArray, xr.Dataset(...) of a dict)",
    )
    inputs.instance(provenance, Provenance, "provenance", "what Provenance.collect gives")
    path = inputs.path(path, "path")
    provenance.check()
    _check(dataset)
    own = own_attributes(dataset.attrs)
    labelled = dataset.drop_attrs(deep=False).assign_attrs(own)
    body = netcdf.to_bytes(labelled, asdict(provenance), provenance.schema)
    try:
        with replacing(path) as file:
            # HDF5 itself hardly notices any damage but a truncation.
            file.write(body + _checksum(body))
    except OSError as error:
        raise ResultError(why_not_written(path, error)) from error
    return path


def read(path: Path | str) -> xr.Dataset:
    """Load a result into memory.

    Args:
        path: a file made by :func:`write`.

    Returns:
        The arrays. The attributes are those of the dataset and the fields of the provenance; where
        both have a name, such as ``seed``, it is the dataset's, and the provenance's is called
        ``run_seed``. `Provenance.of` reads the latter in any case.

    Raises:
        ResultError: the file is missing, damaged, not ours or of a newer schema.
        TypeError: ``path`` is none.
    """
    path = inputs.path(path, "path")
    try:
        if stat.S_ISFIFO(path.stat().st_mode):
            raise ResultError(f"{path} cannot be read: it is a pipe, which might never end.")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ResultError(f"{path} does not exist.") from None
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}.") from error
    body, checksum = content[:-_CHECKSUM_SIZE], content[-_CHECKSUM_SIZE:]
    if _checksum(body) != checksum:
        raise ResultError(
            f"{path} is damaged, cut off, or no result of ours: delete it and make it again."
        )
    try:
        dataset = _labelled(body)
    # Not ours, but with a valid checksum.
    except (
        *(OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError),
        RuntimeError,
    ) as error:
        raise ResultError(f"{path} is no netCDF file of ours: {error}") from error
    try:
        Provenance.of(dataset)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error
    return dataset


def usable_folder(folder: Path | str) -> Path:
    """A folder into which results can be written, made if needed; asked before they are computed.

    Raises:
        ResultError: there is none and it cannot be made, or nothing can be written there.
        TypeError: ``folder`` is no path.
    """
    folder = inputs.path(folder, "folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ResultError(
            f"nothing can be written into {folder} ({error.strerror}): name another folder by "
            "--out, or make room or ask for the rights there."
        ) from error
    return folder


def _labelled(body: bytes) -> xr.Dataset:
    found = netcdf.from_bytes(body)
    if found is None:
        # Of schema 1, which xarray wrote. Some versions of it would make a time difference of any
        # variable with unit "s".
        return xr.load_dataset(BytesIO(body), engine="h5netcdf", decode_times=False)
    dataset, provenance = found
    return dataset.assign_attrs(joined_attributes(dataset.attrs, provenance))


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _check(dataset: xr.Dataset) -> None:
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "fc" and np.isinf(variable.values).any():
            first = np.argwhere(np.isinf(variable.values))[0].tolist()
            raise ResultError(
                f"infinite value in {name!r}, the first at index {first} of {variable.dims}: "
                "store NaN where a quantity is undefined."
            )
    if "layer" in dataset.dims:
        numbers = dataset["layer"].values.tolist() if "layer" in dataset.coords else None
        if numbers != list(range(1, dataset.sizes["layer"] + 1)):
            raise ResultError(f"the coordinate 'layer' must number layers 1..L, not {numbers}.")
