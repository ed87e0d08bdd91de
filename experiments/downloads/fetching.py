"""Public data sets in a folder: what is missing there, and how it gets there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments.data import DataError
from experiments.downloads.http import download, is_whole
from experiments.downloads.public_sets import PUBLIC, Archive, PublicSet
from experiments.downloads.unpacking import unpack

# Inside the folder of the data, so that what is finished is moved and not copied.
_UNFINISHED = ".downloads"


def missing(name: str, data: Path) -> list[str]:
    """The files and folders of a public data set that a folder lacks.

    Args:
        name: name of the data set.
        data: the folder.
    """
    home = data / PUBLIC[name].folder
    # What is read as it is may have been unpacked by hand.
    return [
        each
        for each in PUBLIC[name].holds
        if not ((home / each).exists() or (home / each.removesuffix(".gz")).exists())
    ]


def fetch(name: str, data: Path) -> None:
    """Download a public data set and unpack it, unless it is there.

    An archive that lies in the folder under its published name is taken instead of a download. What
    an interrupted call has downloaded is kept in the folder ``.downloads``.

    Args:
        name: name of the data set.
        data: the folder; it is made if needed.

    Raises:
        DataError: it cannot be downloaded or unpacked, there is no room for it, or a folder of its
            name lacks some of its files.
        OSError: the folder cannot be written.
    """
    public = PUBLIC[name]
    lacking = missing(name, data)
    home = data / public.folder
    if not lacking:
        return
    if public.folder and home.exists():
        raise DataError(
            f"{home} exists, but lacks {', '.join(lacking)}: move it away or delete it, and run "
            "the command again."
        )
    archives = [each for each in public.archives if public.folder or each.name in lacking]
    unfinished = data / _UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
        _require_room(public, archives, data)
        for archive in archives:
            path = _archive(archive, archives, data)
            if public.folder:
                _unpack(public, path, data)
                (unfinished / archive.name).unlink(missing_ok=True)
            else:
                path.replace(data / archive.name)
    finally:
        # What is unfinished keeps it.
        with suppress(OSError):
            unfinished.rmdir()


def _archive(archive: Archive, wanted: Sequence[Archive], data: Path) -> Path:
    """A published file, from the user or from the web; ``wanted`` are all that are needed."""
    given = data / archive.name
    if given.exists():
        if is_whole(given, archive):
            return given
        raise DataError(
            f"{given} is not the published file, which has {archive.size} bytes and the MD5 sum "
            f"{archive.md5}: delete it, and run the command again."
        )
    fetched = data / _UNFINISHED / archive.name
    if not (fetched.exists() and is_whole(fetched, archive)):
        try:
            download(archive, fetched)
        except DataError as error:
            raise DataError(
                f"{error} Run the command again where there is a network (a proxy is taken from "
                "HTTPS_PROXY and HTTP_PROXY), or fetch by hand "
                f"{', '.join(each.urls[0] for each in wanted)}, put "
                f"{'it' if len(wanted) == 1 else 'them'} into {data} under the same "
                f"name{'' if len(wanted) == 1 else 's'}, and run the command again."
            ) from error
    return fetched


def _unpack(public: PublicSet, archive: Path, data: Path) -> None:
    place = data / _UNFINISHED / public.folder
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    unpack(archive, place, public.unpacked)
    home = place / public.folder
    if lacking := [each for each in public.holds if not (home / each).exists()]:
        raise DataError(f"{archive} lacks {', '.join(lacking)} in {public.folder}.")
    home.replace(data / public.folder)
    shutil.rmtree(place)


def _require_room(public: PublicSet, archives: Sequence[Archive], data: Path) -> None:
    there = [data / folder / each.name for each in archives for folder in ("", _UNFINISHED)]
    there += [path.with_name(f"{path.name}.part") for path in there]
    loaded = sum(path.stat().st_size for path in there if path.exists())
    needed = sum(each.size for each in archives) - loaded + public.unpacked
    free = shutil.disk_usage(data).free
    if free < needed:
        raise DataError(
            f"{data} has {free // 10**6} MB left, but the archive and what it unpacks to need "
            f"{needed // 10**6} MB: make room, or name another folder by --out."
        )
