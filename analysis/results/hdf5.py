"""What an HDF5 file may hold to be read as a result: only data that lie in the file itself.

HDF5 follows links and maps to other files, unpacks filters, repeats one stored text for many
elements and makes up data that were never stored. A small file then reads other local files, or
takes more memory than there is. Results need none of it: each variable lies in one piece, as it is.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

# One text of variable length in a file: its length, the address of its heap, its number there.
_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
_HEAP = b"GCOL\1\0\0\0"
_LARGEST_ATTRIBUTES = 2**30
_DIMENSION = "This is a netCDF dimension but not a netCDF variable."


def datasets(file: h5py.File, content: bytes) -> dict[str, h5py.Dataset]:
    """The arrays of a file, which read no other file and take no more memory than it has bytes.

    What is no more than the length of a dimension, stored for other readers, is left out.

    Args:
        file: the file, opened.
        content: its bytes.

    Raises:
        ValueError: anything but arrays that lie in the file, each in one piece; arrays that declare
            more bytes than the file has; or attributes that may take more than a gigabyte.
    """
    plan = file.id.get_create_plist()
    if plan.get_sizes() != (8, 8) or plan.get_userblock():
        raise ValueError("its addresses should have 8 bytes and count from its beginning.")
    opened = {name: _opened(file, name) for name in file}
    _require_small_attributes([file, *opened.values()], _longest_heap(content))
    found = {name: each for name, each in opened.items() if not _is_dimension(each)}
    declared = sum(_stored_size(each, content) for each in found.values())
    if declared > len(content):
        raise ValueError(
            f"its variables declare {declared} bytes, but the file has {len(content)}: some would "
            "be made up, or one piece of the file read many times."
        )
    return found


def _opened(file: h5py.File, name: str) -> h5py.Dataset:
    key = name.encode("utf-8", "surrogateescape")
    if file.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name!r} is a link to something else, which is not followed.")
    if h5py.h5o.get_info(file.id, key).type != h5py.h5o.TYPE_DATASET:
        raise ValueError(f"{name!r} is a group or a type, and results hold arrays only.")
    found = h5py.Dataset(h5py.h5d.open(file.id, key))
    plan = found.id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        raise ValueError(f"the data of {name!r} lie in other files, which are not read.")
    if plan.get_nfilters() or (plan.get_layout() != h5py.h5d.CONTIGUOUS and found.size):
        raise ValueError(
            f"{name!r} is compressed or stored in chunks, and results are stored in one piece."
        )
    return found


def _stored_size(dataset: h5py.Dataset, content: bytes) -> int:
    """Bytes that the values take in the file, texts included.

    Raises:
        ValueError: there are no values where there should be.
    """
    size, kind = dataset.size or 0, _plain_type(dataset.id, dataset.name)
    offset = dataset.id.get_offset()
    if not size:
        return 0
    declared: int = size * kind.get_size()
    if offset is None:
        raise ValueError(f"{dataset.name!r} declares {declared} bytes, but none is stored.")
    if not _is_variable(kind):
        return declared
    if offset + size * _REFERENCE.itemsize > len(content):
        raise ValueError(f"{dataset.name!r} is cut off.")
    references = np.frombuffer(content, _REFERENCE, size, offset)
    return size * _REFERENCE.itemsize + int(references["length"].sum(dtype=np.int64))


def _is_dimension(dataset: h5py.Dataset) -> bool:
    """Whether it is no more than the length of a dimension, by the rule by which h5netcdf goes."""
    name = dataset.attrs.get("NAME", b"")
    return isinstance(name, bytes | str) and _DIMENSION in str(name)


def _require_small_attributes(objects: list[Any], longest: int) -> None:
    """Check what reading all attributes of some objects can take.

    Args:
        objects: the file and its arrays.
        longest: the size of the largest heap. A text is stored once and may be named many times.

    Raises:
        ValueError: it may be more than a gigabyte.
    """
    total = 0
    for each in objects:
        for name in each.attrs:
            found = each.attrs.get_id(name)
            kind = _plain_type(found, name)
            count = found.get_space().get_simple_extent_npoints()
            total += count * (longest if _is_variable(kind) else kind.get_size())
    if total > _LARGEST_ATTRIBUTES:
        raise ValueError(
            f"its attributes may take {total} bytes, more than {_LARGEST_ATTRIBUTES}: some of them "
            "name one text many times."
        )


def _plain_type(of: Any, name: str) -> Any:
    """The type of a dataset or of an attribute.

    Raises:
        ValueError: it stands elsewhere, or holds texts or lists within other things.
    """
    kind = of.get_type()
    if kind.committed():
        raise ValueError(f"the type of {name!r} stands elsewhere, which is not followed.")
    group = kind.get_class()
    is_deep = group in (h5py.h5t.COMPOUND, h5py.h5t.ARRAY) and (
        kind.detect_class(h5py.h5t.VLEN) or kind.detect_class(h5py.h5t.STRING)
    )
    # netCDF-4 lists the dimensions of a variable by references.
    if is_deep or (group == h5py.h5t.VLEN and kind.get_super().get_class() != h5py.h5t.REFERENCE):
        raise ValueError(f"{name!r} holds texts or lists within other things.")
    return kind


def _is_variable(kind: Any) -> bool:
    is_text = kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()
    return bool(is_text or kind.get_class() == h5py.h5t.VLEN)


def _longest_heap(content: bytes) -> int:
    """The size in bytes of the largest heap of a file, which holds its texts.

    Raises:
        ValueError: the parts of one do not fill it. HDF5 goes from part to part, and one of length
            0 leads it nowhere.
    """
    longest, start = 0, content.find(_HEAP)
    while start >= 0:
        size = int.from_bytes(content[start + 8 : start + 16], "little")
        if size <= len(content):
            longest, place = max(longest, size), start + 16
            while place + 16 <= start + size:
                number = int.from_bytes(content[place : place + 2], "little")
                length = int.from_bytes(content[place + 8 : place + 16], "little")
                step = 16 + (length + 7) // 8 * 8 if number else length
                if step < 16 or place + step > start + size:
                    raise ValueError(f"the parts of its heap at {start} do not fill it.")
                place += step
        start = content.find(_HEAP, start + 1)
    return longest
