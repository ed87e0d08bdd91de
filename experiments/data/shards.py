"""Images in tar files, as webdataset lays them out: read one after the other, never unpacked.

Members that follow each other and share their name up to the first dot are one sample: ``key.jpg``
(also ``.jpeg``, ``.png``; for the content see `experiments.data.archives.decode`) and ``key.cls``,
the number of the class as text. Further members of a sample, names without a dot and hidden ones
(``._key.jpg``) are left out.

Two kinds of faults are kept apart. A file laid out in another way is refused when it is opened: a
sample without image or class, or with two; a key that comes twice; a class beyond a million; a
link or anything else that is no regular file; an image of more than 64 megabytes; a size that is no
number; no sample at all. What is damaged (a file cut off, an image that cannot be decoded) is
skipped where it is read, with a warning, and counted.
"""

from __future__ import annotations

import hashlib
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from experiments.data.archives import require_file
from experiments.data.errors import DataError
from experiments.data.folder import square
from experiments.data.tar_members import members
from linlocal.seeds import generator_for

_IMAGES = ("jpg", "jpeg", "png")
# A classifier of more than a million classes takes more memory than there is.
_DIGITS = 6
# Bytes of a class, of an image, of which many wait in a buffer, and of a file.
_LARGEST_CLASS, _LARGEST_IMAGE, _LARGEST_FILE = 2**10, 2**26, 2**46
# Distinct ones, for each worker.
_MOST_SKIPPED = 2**16
Sample = tuple[Tensor, int]


class TarShards:
    """Batches of images of tar files; a `linlocal.analysis.training.Loader`.

    The order is a function of the seed, the epoch and the numbers of processes and workers: whole
    files are shuffled and dealt out to all workers of all processes, and the images of each pass
    through a buffer that gives out a random one. What cannot be read is skipped with a warning and
    counted in `skipped`. Files differ in length, yet every process must take the same number of
    steps; so an epoch is a number of batches, and the files are read again where they do not reach.

    Args:
        files: the tar files; each is looked through when the object is made.
        size: side of the images; the shorter side is resized to it, the middle of the other kept.
        batch_size: images in a batch, on each process.
        length: batches in an epoch, on each process.
        seed: seeds the order.
        buffer: number of undecoded images that each worker holds and draws from.
        num_workers: number of processes that read, for each that trains.
        rank: which of the training processes this is.
        world_size: number of training processes.

    Raises:
        DataError: a file that does not exist or is laid out in another way, or fewer files than
            there are readers.
    """

    def __init__(
        self,
        files: Sequence[Path | str],
        size: int,
        batch_size: int,
        length: int,
        *,
        seed: int = 0,
        buffer: int = 1000,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        files = _paths(files)
        readers = world_size * max(num_workers, 1)
        if len(files) < readers:
            raise DataError(
                f"{len(files)} tar files for {readers} readers ({world_size} processes with "
                f"{max(num_workers, 1)} each): every reader needs a file of its own. Use fewer "
                "workers, or write more and smaller files."
            )
        labels_in(files)
        self.files, self.size, self.batch_size, self.length = files, size, batch_size, length
        self.seed, self.buffer, self.num_workers = seed, buffer, num_workers
        self.rank, self.world_size = rank, world_size
        # Shared, because workers are processes of their own, each with a row of its own.
        self._skipped = torch.zeros(max(num_workers, 1), 2, dtype=torch.long)
        self._skipped.share_memory_()
        # Digests of what was skipped, a row and a count for each worker.
        self._digests = torch.zeros(len(self._skipped), 1 + _MOST_SKIPPED, dtype=torch.long)
        self._digests.share_memory_()

    @property
    def skipped(self) -> dict[str, int]:
        """How often samples, and the rest of a damaged file, were skipped on this process."""
        samples, files = self._skipped.sum(0).tolist()
        return {"samples": samples, "files": files}

    @property
    def damaged(self) -> frozenset[str]:
        """Digests of the samples, and of the rests of files, that were skipped on this process."""
        rows = ((row, int(row[0])) for row in self._digests)
        return frozenset(f"{digest:x}" for row, n in rows for digest in row[1 : n + 1].tolist())

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Bytes (batch, 3, size, size) and classes (batch,), from batch number ``start`` on.

        Raises:
            DataError: nothing can be read in a pass through a reader's files.
        """
        yield from islice(self._loader(epoch), start, self.length)

    def once(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every readable image of all files once, on each process; the last batch may be smaller.

        With several workers their batches take turns.
        """
        yield from self._loader(None)

    def _loader(self, epoch: int | None) -> DataLoader[Any]:
        return DataLoader(
            _Samples(self, epoch),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            # Otherwise its workers' seed is drawn from the global generator.
            generator=torch.Generator().manual_seed(0),
        )

    def _skip(self, worker: int, what: int, name: str, why: str) -> None:
        self._skipped[worker, what] += 1
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
        row = self._digests[worker]
        known = int(row[0])
        if not (row[1 : known + 1] == digest).any():
            if known == _MOST_SKIPPED:
                raise DataError(f"More than {known} samples are damaged, the last: {why}")
            row[known + 1] = digest
            row[0] = known + 1
        warnings.warn(f"skipped: {why}", stacklevel=2)


class _Samples(IterableDataset[Sample]):
    """The images of one reader: in an epoch without end, or (epoch None) each of them once."""

    def __init__(self, shards: TarShards, epoch: int | None) -> None:
        self.shards, self.epoch = shards, epoch

    def __iter__(self) -> Iterator[Sample]:
        shards, info = self.shards, get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if self.epoch is None:
            yield from self._decoded(self._raw(shards.files[worker::workers], worker), worker)
            return
        reader, readers = shards.rank * workers + worker, shards.world_size * workers
        for number in count():
            found = False
            key = (shards.seed, self.epoch, number)
            order = generator_for("shards", *key).permutation(len(shards.files))
            mine = [shards.files[k] for k in order[reader::readers]]
            rng = generator_for("shuffled", *key, reader)
            shuffled = _shuffled(self._raw(mine, worker), shards.buffer, rng)
            for sample in self._decoded(shuffled, worker):
                yield sample
                found = True
            if not found:
                raise DataError(
                    f"None of the images in {', '.join(map(str, mine[:3]))}"
                    f"{', ...' if len(mine) > 3 else ''} can be read: fetch the files again."
                )

    def _raw(self, files: Sequence[Path], worker: int) -> Iterator[tuple[str, bytes, bytes]]:
        for path in files:
            yield from self._members(path, worker)

    def _decoded(self, raw: Iterator[tuple[str, bytes, bytes]], worker: int) -> Iterator[Sample]:
        for name, image, label in raw:
            try:
                yield _pixels(name, image, self.shards.size), _class(name, label)
            except DataError as error:
                self.shards._skip(worker, 0, name, str(error))

    def _members(self, path: Path, worker: int) -> Iterator[tuple[str, bytes, bytes]]:
        """(name, image, class) of each whole sample of a file."""
        name = ""
        try:
            for sample in _samples(path, with_images=True):
                name, *_ = sample
                yield sample
        except _DAMAGE as error:
            self.shards._skip(
                worker,
                1,
                f"rest of {path}",
                f"the rest of {path} after {name or 'its beginning'} cannot be read ({error}): "
                "fetch it again.",
            )


def labels_in(files: Sequence[Path | str]) -> list[int]:
    """The classes of all samples of tar files, without reading their images.

    What lies behind a damage is left out; `TarShards` warns of it where it is read.

    Raises:
        DataError: a file that does not exist or is laid out in another way.
    """
    labels: list[int] = []
    for path in _paths(files):
        found = path.stat()
        labels += _surveyed(path, found.st_size, found.st_mtime_ns).tolist()
    return labels


def _paths(files: Sequence[Path | str]) -> list[Path]:
    if isinstance(files, str | Path):
        raise DataError(f"Expected a list of tar files, got one path: pass [{str(files)!r}].")
    paths = [Path(each) for each in files]
    if missing := [path for path in paths if not path.exists()]:
        raise DataError(f"There is no file {missing[0]}.")
    for path in paths:
        require_file(path, _LARGEST_FILE)
    return paths


# Several readers of one run look through the same files.
@cache
def _surveyed(path: Path, size: int, modified: int) -> NDArray[np.int64]:
    """The classes of the samples of a file of that size and time of change."""
    with path.open("rb") as file:
        start = file.read(6)
    for packing, (mark, tool) in _PACKED.items():
        if start.startswith(mark):
            raise DataError(
                f"{path} is compressed by {packing}, and so cannot be read sample by sample: "
                f"unpack it with {tool} (images hardly shrink)."
            )
    keys, labels = set[str](), list[int]()
    try:
        for key, _, label in _samples(path, with_images=False):
            if key in keys:
                raise DataError(
                    f"The key {key} comes twice: the members of a sample must follow each other, "
                    "and no two samples of a file may share a key. Sort the members by name, or "
                    "name the samples anew."
                )
            keys.add(key)
            labels.append(_class(key, label))
    except _DAMAGE as error:
        if not keys:
            raise DataError(
                f"{path} is empty or damaged, and no sample can be read from it ({error}): fetch "
                "it again, or leave it out."
            ) from error
    if not keys:
        raise DataError(
            f"{path} is empty: it has no sample (members key.jpg and key.cls). Leave it out."
        )
    return np.array(labels)


_DAMAGE = (tarfile.TarError, OSError)
_PACKED = {
    "gzip": (b"\x1f\x8b", "gunzip"),
    "bzip2": (b"BZh", "bunzip2"),
    "xz": (b"\xfd7zXZ", "unxz"),
    "zstd": (b"\x28\xb5\x2f\xfd", "unzstd"),
}


def _samples(path: Path, *, with_images: bool) -> Iterator[tuple[str, bytes, bytes]]:
    """(name, image, class) of each whole sample of a file, one after the other.

    Args:
        path: the file.
        with_images: whether to read the images; without, they are empty.

    Raises:
        tarfile.TarError, OSError: the file is damaged or cut off, after its whole
            samples.
        DataError: its members are no samples.
    """
    read = ("image", "cls") if with_images else ("cls",)
    name, parts = "", dict[str, bytes]()
    damage = None
    try:
        for member, content in members(path, _most_bytes, lambda each: _kind_of(each)[1] in read):
            key, kind = _kind_of(member)
            if not key:
                continue
            if (full := f"{path}/{key}") != name:
                yield from _whole(name, parts)
                name, parts = full, {}
            if kind in parts and kind in ("image", "cls"):
                raise DataError(
                    f"{full} has two members for its {kind}, the second is {member}: no two "
                    "samples of a file may share a key, and each has one image and one class."
                )
            parts[kind] = content
    except _DAMAGE as error:
        damage = error
    # If the file is cut off within its last sample, that is a part of the damage.
    if not damage or parts.keys() >= {"image", "cls"}:
        yield from _whole(name, parts)
    if damage:
        raise damage


def _whole(name: str, parts: dict[str, bytes]) -> Iterator[tuple[str, bytes, bytes]]:
    if parts.keys() >= {"image", "cls"}:
        yield name, parts["image"], parts["cls"]
    elif parts:
        raise DataError(
            f"{name} has {', '.join(sorted(parts))}, expected an image ({', '.join(_IMAGES)}) and "
            "cls: either a member is missing, or those of a sample do not follow each other (then "
            "sort them by name), or the key holds a dot."
        )


def _kind_of(name: str) -> tuple[str, str]:
    """Folder and key of a member, and "image", "cls" or its ending; both empty if it has none."""
    folder, _, base = name.rpartition("/")
    key, _, ending = base.partition(".")
    kind = "image" if ending.lower() in _IMAGES else ending.lower()
    if not (key and ending):
        return "", ""
    return f"{folder}/{key}" if folder else key, kind


def _most_bytes(name: str) -> int:
    return {"image": _LARGEST_IMAGE, "cls": _LARGEST_CLASS}.get(_kind_of(name)[1], _LARGEST_FILE)


def _shuffled(samples: Iterator[Any], size: int, rng: np.random.Generator) -> Iterator[Any]:
    """All samples, each a random one of ``size`` that wait."""
    waiting: list[Any] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) > size:
            yield waiting.pop(_swapped(waiting, rng))
    while waiting:
        yield waiting.pop(_swapped(waiting, rng))


def _swapped(waiting: list[Any], rng: np.random.Generator) -> int:
    """Put a random element last, where taking it out costs nothing."""
    chosen = int(rng.integers(len(waiting)))
    waiting[chosen], waiting[-1] = waiting[-1], waiting[chosen]
    return -1


class _Named(BytesIO):
    """The content of a member of a tar file; errors in reading it name the member."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.label = name

    def __str__(self) -> str:
        return self.label


def _pixels(name: str, content: bytes, size: int) -> Tensor:
    file: Any = _Named(name, content)
    return square(file, size)


def _class(name: str, content: bytes) -> int:
    text = content.decode("ascii", "replace").strip()
    if not text.isdecimal() or len(text.lstrip("0")) > _DIGITS:
        raise DataError(
            f"{name}.cls should be the number of a class, 0, 1, ..., as text of at most {_DIGITS} "
            f"digits, but is {text[:30]!r}."
        )
    return int(text)
