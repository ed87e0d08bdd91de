"""Labelled images: digits without a download; CIFAR-10, STL-10 and Tiny ImageNet from a folder.

Nothing is fetched, and nothing is unpickled: a pickle runs whatever code is written in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from experiments.data.grey_images import DataError
from linlocal.analysis.probing import stratified_split

DataSet = Literal["digits", "cifar10", "stl10", "tiny_imagenet"]
Images = NDArray[np.uint8] | NDArray[np.float32]
Labels = NDArray[np.int64]

_CIFAR_BATCHES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
_CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_STL_CLASSES = (
    *("airplane", "bird", "car", "cat", "deer"),
    *("dog", "horse", "monkey", "ship", "truck"),
)
_TINY_SIDE = 64


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images with labels.

    Attributes:
        train: (samples, channels, height, width), bytes 0..255 or (for RHM images) floats.
        train_labels: (samples,) numbers of classes.
        test: as train.
        test_labels: as train_labels.
        classes: their names.
        unlabelled: further training images that have no label, read from disk when they are used.
    """

    train: Images
    train_labels: Labels
    test: Images
    test_labels: Labels
    classes: tuple[str, ...]
    unlabelled: Images | None = None

    def without_test(self, fraction: float, seed: int) -> ImageData:
        """The training data split again, a stratified part of them in place of the test data.

        For every choice that must not see the test data.

        Args:
            fraction: of the training data that takes the place of the test data.
            seed: decides which.
        """
        rest, held_out = stratified_split(self.train_labels, fraction, seed)
        return replace(
            self,
            train=self.train[rest],
            train_labels=self.train_labels[rest],
            test=self.train[held_out],
            test_labels=self.train_labels[held_out],
        )


def load(name: DataSet, folder: Path | None = None, *, seed: int = 0) -> ImageData:
    """Read a data set whole.

    Args:
        name: "digits" (1,797 grey images of 8x8, no folder), "cifar10" (binary version, 32x32),
            "stl10" (binary version, 96x96) or "tiny_imagenet" (64x64). ImageNet does not fit into
            memory: see `experiments.data`.
        folder: where the files lie; the folder of the unpacked archive or the one above it.
        seed: of the split of the digits (a fifth is test data, the same share of each class); the
            others come with a split of their own.

    Raises:
        DataError: unknown name, or files that are missing, damaged or of another format.
    """
    if name == "digits":
        return _digits(seed)
    if name not in get_args(DataSet):
        raise DataError(f"unknown data set {name!r}; possible: {', '.join(get_args(DataSet))}.")
    if folder is None:
        raise DataError(f"{name} is read from a folder: name it, or take 'digits'.")
    if not folder.is_dir():
        raise DataError(f"{name} is read from a folder, and there is no folder {folder}.")
    return {"cifar10": _cifar10, "stl10": _stl10, "tiny_imagenet": _tiny_imagenet}[name](folder)


def decode(path: Path) -> Any:
    """The image in a file as a `PIL.Image` in RGB.

    Raises:
        DataError: it is missing, damaged or no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    # Of a damaged file pillow's decoders raise nearly anything.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} is no image that can be read ({error}): fetch it again."
        ) from error


def _digits(seed: int) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 16 grey levels above 0 become bytes, as all other images.
    images = np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    train, test = stratified_split(labels, 0.2, seed)
    names = tuple(str(k) for k in range(10))
    return ImageData(images[train], labels[train], images[test], labels[test], names)


def _home(folder: Path, inner: str, expected: Sequence[str], hint: str = "") -> Path:
    """``folder`` or ``folder/inner``, whichever has the expected files."""
    for home in (folder, folder / inner):
        if all((home / name).exists() for name in expected):
            return home
    home = folder / inner if (folder / inner).is_dir() else folder
    missing = [name for name in expected if not (home / name).exists()]
    raise DataError(f"{home} lacks {', '.join(missing)}{hint or '; unpack the archive there.'}")


def _bytes(path: Path, item: int, what: str) -> NDArray[np.uint8]:
    """(items, item) bytes of a file."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    if not content.size or content.size % item:
        raise DataError(
            f"{path} is damaged: expected a multiple of {item} bytes ({what}), got {content.size}; "
            "fetch it again."
        )
    return content.reshape(-1, item)


def _checked_labels(path: Path, labels: NDArray[np.uint8], first: int) -> Labels:
    if labels.min() < first or labels.max() >= first + 10:
        raise DataError(
            f"{path} is damaged or of another format: its labels should be {first}..{first + 9}, "
            f"but are {labels.min()}..{labels.max()}."
        )
    return labels.astype(np.int64) - first


def _cifar10(folder: Path) -> ImageData:
    hint = "; unpack the archive there."
    if any((home / "data_batch_1").exists() for home in (folder, folder / "cifar-10-batches-py")):
        hint = (
            ". The files there are the Python version: pickles, which are not read because they "
            "could run any code. Take the binary version, cifar-10-binary.tar.gz, from the same "
            "page and unpack it."
        )
    home = _home(folder, "cifar-10-batches-bin", _CIFAR_BATCHES, hint)
    # Each record: the label, then rows of red, of green and of blue.
    batches = [_bytes(home / name, 3073, "a label and 32x32x3") for name in _CIFAR_BATCHES]
    if len({*map(len, batches)}) > 1:
        raise DataError(
            f"The batches in {home} should hold equally many images, but hold "
            f"{', '.join(str(len(batch)) for batch in batches)}: fetch the short ones again."
        )
    labels = [
        _checked_labels(home / name, batch[:, 0], 0)
        for name, batch in zip(_CIFAR_BATCHES, batches, strict=True)
    ]
    images = [batch[:, 1:].reshape(-1, 3, 32, 32) for batch in batches]
    return ImageData(
        np.concatenate(images[:5]),
        np.concatenate(labels[:5]),
        images[5].copy(),
        labels[5],
        _CIFAR_CLASSES,
    )


def _stl10(folder: Path) -> ImageData:
    expected = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")
    home = _home(folder, "stl10_binary", expected)
    parts: list[Any] = []
    for part in ("train", "test"):
        images = _bytes(home / f"{part}_X.bin", 3 * 96**2, "96x96x3")
        labels = _bytes(home / f"{part}_y.bin", 1, "one label")[:, 0]
        if len(images) != len(labels):
            raise DataError(
                f"{home} has {len(images)} images but {len(labels)} labels in the {part} files: "
                "fetch them again."
            )
        parts += [
            np.ascontiguousarray(_upright(images)),
            _checked_labels(home / f"{part}_y.bin", labels, 1),
        ]
    more = home / "unlabeled_X.bin"
    if not more.exists():
        return ImageData(parts[0], parts[1], parts[2], parts[3], _STL_CLASSES)
    if not (size := more.stat().st_size) or size % (3 * 96**2):
        raise DataError(
            f"{more} is damaged: expected a multiple of {3 * 96**2} bytes (96x96x3), got {size}; "
            "fetch it again."
        )
    # 2.7 GB: mapped, and read where it is used.
    mapped = np.memmap(more, dtype=np.uint8, mode="r").reshape(-1, 3 * 96**2)
    return ImageData(parts[0], parts[1], parts[2], parts[3], _STL_CLASSES, _upright(mapped))


def _upright(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # In the file each channel is stored column by column.
    return images.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)


def _tiny_imagenet(folder: Path) -> ImageData:
    """The labelled validation images serve as test images: those of the test have no labels."""
    home = _home(folder, "tiny-imagenet-200", ("wnids.txt", "train", "val/val_annotations.txt"))
    classes = tuple((home / "wnids.txt").read_text(encoding="utf-8").split())
    number = {name: k for k, name in enumerate(classes)}
    files = [
        (path, name)
        for name in classes
        for path in sorted((home / "train" / name / "images").glob("*.JPEG"))
    ]
    if empty := sorted({*classes} - {name for _, name in files}):
        raise DataError(f"{home}/train has no images (*.JPEG) of the class {empty[0]}.")
    test_files = []
    annotations = home / "val" / "val_annotations.txt"
    for row, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        image, name, *_ = [*line.split("\t"), ""]
        if name not in number:
            raise DataError(
                f"{annotations}, line {row}: expected a file and a class of wnids.txt between "
                f"tabs, got {line!r}."
            )
        test_files.append((home / "val" / "images" / image, name))
    if not test_files:
        raise DataError(f"{annotations} is empty: fetch it again.")
    return ImageData(
        _decoded([path for path, _ in files]),
        np.array([number[name] for _, name in files]),
        _decoded([path for path, _ in test_files]),
        np.array([number[name] for _, name in test_files]),
        classes,
    )


def _decoded(paths: Sequence[Path]) -> NDArray[np.uint8]:
    images = np.empty((len(paths), 3, _TINY_SIDE, _TINY_SIDE), dtype=np.uint8)
    for room, path in zip(images, paths, strict=True):
        pixels = np.asarray(decode(path))
        if pixels.shape != (_TINY_SIDE, _TINY_SIDE, 3):
            raise DataError(
                f"{path} should have {_TINY_SIDE}x{_TINY_SIDE} pixels, but has "
                f"{pixels.shape[1]}x{pixels.shape[0]}: is this Tiny ImageNet?"
            )
        room[:] = pixels.transpose(2, 0, 1)
    return images
