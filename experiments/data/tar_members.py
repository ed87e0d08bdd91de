"""The regular files in a tar file, one after the other, with bounded memory and no recursion.

Headers are read by Python's `tarfile`, one block each. Its own walk from member to member follows
links, takes sizes below 0 (and so never ends), and calls itself for each long name.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from experiments.data.errors import DataError

_BLOCK = 512
_LONGEST = 2**16  # bytes of a long name, or of the further fields (pax) of a member
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE)
# What may stand once before a member: its long name, that of a link, further fields.
_BEFORE = {
    tarfile.GNUTYPE_LONGNAME: "long name",
    tarfile.GNUTYPE_LONGLINK: "long name of a link",
    tarfile.XHDTYPE: "pax header",
    tarfile.SOLARIS_XHDTYPE: "pax header",
}


def members(
    path: Path, most: Callable[[str], int], is_wanted: Callable[[str], bool]
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each regular file in a tar file. Folders in it are left out.

    Letters of a name that cannot be printed are written by their numbers.

    Args:
        path: the tar file, uncompressed.
        most: how many bytes a member of a name may have.
        is_wanted: whether the content of a member of a name is read; else it is given as empty.

    Raises:
        tarfile.TarError, OSError: the file is damaged or cut off, after the members so far.
        DataError: a member is no regular file, its size is no length, or it has more bytes than it
            may have.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        before = dict[str, bytes]()
        while header := _header(file):
            size = header.size if header.type != tarfile.DIRTYPE else 0
            fields = _fields(path, before.get("pax header", b""))
            name = fields.get("path", before.get("long name", header.name.encode()))
            member = f"{path}/{_printable(name)}"
            if "size" in fields and header.type not in (*_BEFORE, tarfile.XGLTYPE):
                size = _number(member, fields["size"])
            if size < 0:
                raise DataError(f"{member} has a size of {size} bytes: write the file again.")
            what = _BEFORE.get(header.type)
            if what is not None or header.type == tarfile.XGLTYPE:
                _require_single(member, what, size, before)
            else:
                _require_regular(member, header, fields)
            place = file.tell()
            if place + size > length:
                raise tarfile.ReadError(f"{_printable(name)} is cut off")
            if what is not None:
                before[what] = file.read(size)
            elif header.type == tarfile.XGLTYPE:
                _require_nothing_global(member, _fields(path, file.read(size)))
            else:
                if header.type != tarfile.DIRTYPE:
                    shown = _printable(name)
                    _require_short(member, size, most(shown))
                    yield shown, file.read(size) if is_wanted(shown) else b""
                before = {}
            file.seek(place + -(-size // _BLOCK) * _BLOCK)


def _header(file: BinaryIO) -> tarfile.TarInfo | None:
    """The next header, None at the mark of the end.

    Raises:
        tarfile.TarError: there is neither.
    """
    block = file.read(_BLOCK)
    if len(block) == _BLOCK and not any(block):
        return None
    if len(block) < _BLOCK:
        raise tarfile.ReadError("it ends without a mark")
    return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")


def _require_short(member: str, size: int, most: int) -> None:
    if size > most:
        raise DataError(f"{member} has {size} bytes, expected at most {most}: leave it out.")


def _require_single(member: str, what: str | None, size: int, before: dict[str, bytes]) -> None:
    if what in before:
        raise DataError(f"{member} has a second {what}: write the file again.")
    if size > _LONGEST:
        raise DataError(
            f"{member} has a {what or 'global pax header'} of {size} bytes, expected at most "
            f"{_LONGEST}: write the file again."
        )


def _require_regular(member: str, header: tarfile.TarInfo, fields: dict[str, bytes]) -> None:
    if header.type in _LINKS:
        raise DataError(
            f"{member} is a link to {_printable(header.linkname.encode())}: write the content "
            "itself (tar --dereference --hard-dereference)."
        )
    is_sparse = header.type == tarfile.GNUTYPE_SPARSE or any(
        key.startswith("GNU.sparse") for key in fields
    )
    if is_sparse or header.type not in (*_REGULAR, tarfile.DIRTYPE):
        raise DataError(
            f"{member} is {'a sparse file' if is_sparse else 'a pipe, a device or another thing'}, "
            "expected regular files only: write the content itself (tar without --sparse)."
        )


def _require_nothing_global(member: str, fields: dict[str, bytes]) -> None:
    if odd := [key for key in fields if key in ("path", "size") or key.startswith("GNU.sparse")]:
        raise DataError(
            f"{member} gives one {_printable(odd[0].encode())} to all members that follow: write "
            "the file again."
        )


def _fields(path: Path, content: bytes) -> dict[str, bytes]:
    """The records of a pax header: ``LENGTH KEY=VALUE`` and the end of a line.

    Raises:
        DataError: it holds something else.
    """
    fields, rest = dict[str, bytes](), content
    while rest:
        digits, _, _ = rest.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        key, equal, value = rest[len(digits) + 1 : length - 1].partition(b"=")
        if not (equal and key and rest[length - 1 : length] == b"\n" and length <= len(rest)):
            raise DataError(
                f"{path} has a pax header that cannot be read, {_printable(rest[:30])!r}: write "
                "the file again."
            )
        fields[key.decode("utf-8", "backslashreplace")] = value
        rest = rest[length:]
    return fields


def _number(member: str, text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise DataError(
            f"{member} has the size {_printable(text[:30])!r}, expected a number of bytes: write "
            "the file again."
        )
    return int(text)


def _printable(text: bytes) -> str:
    letters = text.split(b"\0")[0].decode("utf-8", "backslashreplace")
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in letters
    )
