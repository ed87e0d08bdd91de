"""A file from the web: resumed where it broke off, checked, and under its name only when whole.

The standard library does it: pooch and torchvision begin a broken download from its beginning.
"""

from __future__ import annotations

import errno
import hashlib
import re
import time
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from experiments.data import DataError
from experiments.downloads.public_sets import Archive

_PIECE = 2**18
_TIMEOUT_S = 30
# Connections that bring no byte, one after the other, before a server is given up.
_TRIES = 3
_PAUSE_S = 1.0


class _RefusedError(Exception):
    """A server that does not give the file; the message says why."""


def is_whole(path: Path, archive: Archive) -> bool:
    """Whether a file is the published one, by its length and its MD5 sum."""
    if path.stat().st_size != archive.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest() == archive.md5


def download(archive: Archive, target: Path) -> None:
    """Fetch a published file; what an interrupted call left in ``target``.part is gone on from.

    Args:
        archive: the file.
        target: where it is put, at once and when it has been checked.

    Raises:
        DataError: no server gives it; the message names them.
        OSError: it cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    refusals = []
    for url in archive.urls:
        try:
            _complete(url, archive, part)
        except _RefusedError as error:
            refusals.append(f"{urlsplit(url).netloc} {error}")
        else:
            part.replace(target)
            return
    kept = f" {_length(part)} of {archive.size} bytes are kept." if _length(part) else ""
    raise DataError(f"{archive.name} was not downloaded: {'; '.join(refusals)}.{kept}")


def _complete(url: str, archive: Archive, part: Path) -> None:
    for resumed in (_length(part) > 0, False):
        with tqdm(
            desc=archive.name,
            total=archive.size,
            initial=_length(part),
            unit="B",
            unit_scale=True,
            disable=None,
        ) as bar:
            _fill(url, archive, part, bar)
        if is_whole(part, archive):
            return
        # Of a part that an earlier call left, nobody knows who wrote it.
        part.unlink()
        if not resumed:
            break
    raise _RefusedError(f"sends another file: its MD5 sum is not {archive.md5}")


def _fill(url: str, archive: Archive, part: Path, bar: tqdm) -> None:
    idle = 0
    while (before := _length(part)) < archive.size:
        try:
            _append(url, archive, part, before, bar)
        except HTTPError as error:
            error.close()
            raise _RefusedError(f"answers {error.code} {error.reason}") from error
        except URLError as error:
            reason = getattr(error.reason, "strerror", None) or error.reason
            raise _RefusedError(f"cannot be reached ({reason})") from error
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and _is_local(error):
                raise
            reason = str(error) or type(error).__name__
        else:
            reason = "the connection ended early"
        idle = 0 if _length(part) > before else idle + 1
        if idle == _TRIES:
            raise _RefusedError(f"broke off ({reason})")
        if _length(part) < archive.size:
            time.sleep(_PAUSE_S)


def _append(url: str, archive: Archive, part: Path, have: int, bar: tqdm) -> None:
    headers = {"User-Agent": "linlocal"} | ({"Range": f"bytes={have}-"} if have else {})
    with urlopen(Request(url, headers=headers), timeout=_TIMEOUT_S) as opened:
        answer = cast(HTTPResponse, opened)
        start = _start(answer, archive, have)
        bar.update(start - bar.n)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            while piece := answer.read(_PIECE):
                if file.tell() + len(piece) > archive.size:
                    raise _RefusedError(f"sends more than the {archive.size} bytes of the file")
                file.write(piece)
                bar.update(len(piece))


def _start(answer: HTTPResponse, archive: Archive, have: int) -> int:
    """The byte with which an answer begins.

    Raises:
        _RefusedError: it is of a file of another length, or begins elsewhere.
    """
    start, size = 0, answer.headers.get("Content-Length")
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            raise _RefusedError("sends another part of the file than was asked for")
        start, size = have, found[2]
    if size is not None and size != str(archive.size):
        raise _RefusedError(f"offers a file of {size[:20]} bytes, expected {archive.size}")
    return start


def _is_local(error: OSError) -> bool:
    """Whether an error is one of the disk, not of the network."""
    return error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _md5() -> hashlib._Hash:
    # Not against forgers with a pair of files of their own: to have got what was published.
    return hashlib.md5(usedforsecurity=False)
