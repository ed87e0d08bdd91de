"""Archives unpacked: regular files and folders inside one folder, nothing else."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from experiments.data import DataError

_PIECE = 2**20

# The name of a member, and its content; None for a folder.
_Member = tuple[str, IO[bytes] | None]


def unpack(archive: Path, into: Path, most: int) -> None:
    """Unpack a ``.tar.gz`` or ``.zip``.

    Args:
        archive: the file; what it is says its name.
        into: an empty folder.
        most: how many bytes it may unpack to.

    Raises:
        DataError: it is damaged or unpacks to more; or a member is a link, a device, encrypted,
            there twice, or has a name that leads out of the folder.
        OSError: ``into`` cannot be written.
    """
    members = _zip_members if archive.suffix == ".zip" else _tar_members
    written = 0
    try:
        with tqdm(desc=f"unpack {archive.name}", unit="B", unit_scale=True, disable=None) as bar:
            for name, content in members(archive):
                path = into / _inside(archive, name)
                if content is None:
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file, content:
                    while piece := content.read(_PIECE):
                        written += len(piece)
                        if written > most:
                            raise DataError(f"{archive} unpacks to more than {most} bytes.")
                        file.write(piece)
                        bar.update(len(piece))
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"{archive} has two members {error.filename}.") from error
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError),
        *(RuntimeError, NotImplementedError, ValueError),
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{archive} cannot be unpacked ({error}).") from error
    except OSError as error:
        # Of gzip; those of the disk have a number.
        if error.errno is not None:
            raise
        raise DataError(f"{archive} cannot be unpacked ({error}).") from error


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise _strange(archive, member.name)
            yield member.name, tar.extractfile(member)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            # Of a member that was written on Unix; elsewhere 0.
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _strange(archive, member.filename)
            yield member.filename, None if member.is_dir() else opened.open(member)


def _strange(archive: Path, name: str) -> DataError:
    return DataError(
        f"{archive} holds {name!r:.200}, which is a link or a device, expected files and folders."
    )


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or {"\\", "\0", ":"} & {*name}:
        raise DataError(f"{archive} holds {name!r:.200}, which leads out of its folder.")
    return path
