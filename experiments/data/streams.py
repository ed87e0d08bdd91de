"""One interface for the input of a long run: a folder of images, tar shards, or drawn hierarchies.

    folder:PATH   PATH/train/CLASS/*.JPEG and PATH/val/CLASS/*.JPEG, as ImageNet is unpacked
    shards:PATH   PATH/train*.tar and PATH/val*.tar, as webdataset writes them (key.jpg, key.cls)
    rhm           two-dimensional images of a Random Hierarchy Model, drawn on the device

Images of files are decoded by worker processes, go to the device as bytes, and are augmented there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from experiments.data import augmentation
from experiments.data.contract import Labelled
from experiments.data.device_images import DeviceImages
from experiments.data.errors import DataError
from experiments.data.folder import ImageFolder
from experiments.data.shards import TarShards, labels_in
from linlocal.analysis.training import Loader, SeededLoader
from linlocal.rhm import RandomHierarchyModel
from linlocal.seeds import generator_for

Kind = Literal["folder", "shards", "rhm"]

NUM_CHANNELS = 3
# Files are decoded a little larger than views, which are crops of them.
_MARGIN = 8 / 7


@dataclass(frozen=True)
class Origin:
    """Which images a run reads.

    Attributes:
        kind: "folder", "shards" or "rhm", see the module.
        path: the folder of the files; None for "rhm".
    """

    kind: Kind
    path: Path | str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """``KIND:PATH``, or "rhm".

        Raises:
            DataError: something else.
        """
        kind, _, path = text.partition(":")
        if kind not in get_args(Kind) or (kind == "rhm") == bool(path):
            raise DataError(
                f"--data must be folder:PATH, shards:PATH or rhm, got {text!r}; PATH holds train "
                "and val."
            )
        return cls(kind, Path(path) if path else None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Request:
    """What a process asks of its stream.

    Attributes:
        size: side of the images in pixels.
        batch: images in a batch, all processes together.
        seed: seeds the order and all that is drawn.
        workers: number of processes that read, for each that trains.
        rank: which of the training processes this is.
        world_size: number of training processes.
        device: where RHM images are drawn.
        levels: L of RHM images.
        images: length of an epoch of RHM images, which have no end.
        test: number of RHM test images.
    """

    size: int
    batch: int
    seed: int = 0
    workers: int = 0
    rank: int = 0
    world_size: int = 1
    device: torch.device | str = "cpu"
    levels: int = 5
    images: int = 1_281_167
    test: int = 10_000

    @property
    def share(self) -> int:
        """Images in a batch on each process."""
        return self.batch // self.world_size


@dataclass(frozen=True)
class Stream:
    """The input of a run on one process.

    Attributes:
        train: batches of (inputs, labels of both views' rows) for this process.
        length: number of batches in an epoch.
        images: number of training images in an epoch.
        test_images: number of test images.
        num_classes: number of classes.
        augment: turns inputs into stacked views (2N, ...) with torch's random numbers; None where
            the inputs are views already.
        probe: takes a number and returns batches of that many single training images and their
            labels.
        test: all test images and their labels.
        damaged: returns the names (or digests of them) of the images that could not be read so far,
            on this process.
        prefetches: whether batches are made while a step runs.
    """

    train: Loader
    length: int
    images: int
    test_images: int
    num_classes: int
    augment: Callable[[Tensor], Tensor] | None
    probe: Callable[[int], Iterable[Labelled]]
    test: Callable[[], Iterable[Labelled]]
    damaged: Callable[[], frozenset[str]]
    prefetches: bool

    def skipped(self) -> int:
        """How many images could not be read so far, on this process."""
        return len(self.damaged())


def open_stream(origin: Origin, request: Request) -> Stream:
    """The stream of a process.

    Raises:
        DataError: files that are missing, or numbers that do not go together.
    """
    if request.batch % request.world_size or request.share < 2:
        raise DataError(
            f"A batch of {request.batch} cannot be dealt out to {request.world_size} processes, at "
            "least 2 images to each: --batch is that of all of them together."
        )
    if (origin.kind == "rhm") == (origin.path is not None):
        wanted = "no path" if origin.kind == "rhm" else "the folder of its files"
        raise DataError(f"{origin.kind} takes {wanted}, got {origin.path!r}.")
    path = None if origin.path is None else Path(origin.path)
    made = {"folder": _folder, "shards": _shards, "rhm": _rhm}[origin.kind](path, request)
    if made.length < 1:
        raise DataError(f"{made.images} training images are fewer than a batch of {request.batch}.")
    return made


def _folder(path: Any, request: Request) -> Stream:
    train = ImageFolder(path / "train", _decoded_size(request))
    test = ImageFolder(path / "val", request.size, train.classes)
    loader = SeededLoader(
        train,
        request.share,
        seed=request.seed,
        num_workers=request.workers,
        rank=request.rank,
        world_size=request.world_size,
    )

    def read(images: Any) -> Iterator[Labelled]:
        return _as_floats(
            DataLoader(
                images,
                batch_size=request.share,
                num_workers=request.workers,
                generator=torch.Generator().manual_seed(0),  # as of `SeededLoader`
            )
        )

    def probe(num: int) -> Iterator[Labelled]:
        chosen = generator_for("probe", request.seed).permutation(len(train))[:num]
        # Resized and cut as test images are.
        return read(Subset(train.at_size(request.size), np.sort(chosen).tolist()))

    return Stream(
        train=_BothViews(loader),
        length=len(loader),
        images=len(train),
        test_images=len(test),
        num_classes=len(train.classes),
        augment=_two_views(augmentation.simclr(request.size)),
        probe=probe,
        test=lambda: read(test),
        damaged=lambda: frozenset(
            str(each.relative_to(path)) for each in (*train.damaged, *test.damaged)
        ),
        prefetches=request.workers > 0,
    )


def _shards(path: Any, request: Request) -> Stream:
    train, val = (_tar_files(path, part) for part in ("train", "val"))
    labels, judged = labels_in(train), labels_in(val)
    if not labels or not judged:
        raise DataError(
            f"{path} has {len(labels)} training and {len(judged)} test images: expected train*.tar "
            "and val*.tar with members key.jpg and key.cls."
        )
    if foreign := sorted({*judged} - {*labels}):
        raise DataError(f"{path} has a test image of class {foreign[0]} that training has not.")
    length = len(labels) // request.batch
    options = {"seed": request.seed, "num_workers": request.workers}
    loader = TarShards(
        train,
        _decoded_size(request),
        request.share,
        length,
        rank=request.rank,
        world_size=request.world_size,
        **options,
    )
    share = request.share
    workers = min(request.workers, len(val))
    single = TarShards(train, request.size, share, length * request.world_size, **options)
    test = TarShards(val, request.size, share, 1, num_workers=workers)

    def probe(num: int) -> Iterator[Labelled]:
        return _limited(_as_floats(single.batches(0)), num)

    return Stream(
        train=_BothViews(loader),
        length=length,
        images=len(labels),
        test_images=len(judged),
        num_classes=max(labels) + 1,
        augment=_two_views(augmentation.simclr(request.size)),
        probe=probe,
        test=lambda: _as_floats(test.once()),
        damaged=lambda: loader.damaged | single.damaged | test.damaged,
        prefetches=request.workers > 0,
    )


def _tar_files(path: Path, part: str) -> list[Path]:
    """Those of training or of testing.

    Raises:
        DataError: some are compressed, and would be left out.
    """
    endings = (
        ".tgz",
        ".tbz",
        ".txz",
        *(f".tar.{packing}" for packing in ("gz", "bz2", "xz", "zst")),
    )
    if packed := sorted(each for each in path.glob(f"{part}*") if each.name.endswith(endings)):
        raise DataError(
            f"{packed[0]} is compressed, and so cannot be read sample by sample: unpack it to .tar."
        )
    return sorted(path.glob(f"{part}*.tar"))


def _rhm(path: None, request: Request) -> Stream:
    patch, rest = divmod(request.size, 2**request.levels)
    if rest or not patch:
        raise DataError(
            f"RHM images of {request.levels} levels are {2**request.levels} patches wide; a size "
            f"of {request.size} pixels is no multiple of that."
        )
    rhm = RandomHierarchyModel(
        num_classes=8,
        num_symbols=8,
        num_synonyms=4,
        num_levels=request.levels,
        tuple_size=4,
        seed=request.seed,
    )
    images = DeviceImages(
        rhm,
        test=request.test,
        patch_size=patch,
        num_channels=NUM_CHANNELS,
        seed=request.seed,
        device=request.device,
    )
    share = request.share

    def probe(num: int) -> Iterator[Labelled]:
        batches = (images.labelled(share, number) for number in range(ceil(num / share)))
        return _limited(batches, num)

    length = request.images // request.batch
    return Stream(
        train=_Drawn(images, share, length, request.rank),
        length=length,
        images=request.images,
        test_images=request.test,
        num_classes=rhm.num_classes,
        augment=None,
        probe=probe,
        test=lambda: images.test_batches(share),
        damaged=frozenset,
        prefetches=False,
    )


@dataclass(frozen=True)
class _Drawn:
    """Batches of views of `DeviceImages`."""

    images: DeviceImages
    share: int
    length: int
    rank: int

    def batches(self, epoch: int, start: int = 0) -> Iterator[Labelled]:
        for step in range(epoch * self.length + start, (epoch + 1) * self.length):
            yield self.images.views(self.share, self.rank, step)


@dataclass(frozen=True)
class _BothViews:
    """The batches of a loader of single images, with labels for the rows of two views."""

    loader: Loader

    def batches(self, epoch: int, start: int = 0) -> Iterator[Labelled]:
        for images, labels in self.loader.batches(epoch, start):
            yield images, labels.repeat(2)


def _two_views(augment: nn.Module) -> Callable[[Tensor], Tensor]:
    def views(images: Tensor) -> Tensor:
        with torch.no_grad():
            pixels: Tensor = augment(torch.cat([images, images]).float() / 255)
        return pixels

    return views


def _decoded_size(request: Request) -> int:
    return round(request.size * _MARGIN)


def _as_floats(batches: Iterable[Labelled]) -> Iterator[Labelled]:
    for images, labels in batches:
        yield images.float() / 255, labels


def _limited(batches: Iterable[Labelled], num: int) -> Iterator[Labelled]:
    """The first ``num`` rows."""
    for images, labels in batches:
        yield images[:num], labels[:num]
        num -= len(labels)
        if num <= 0:
            return
