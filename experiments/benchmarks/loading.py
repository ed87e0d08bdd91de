"""Images per second: a folder and tar shards, as long runs read them, beside torchvision's loader.

Photographs that ship with scikit-learn are cut into pieces of about ImageNet's size and written as
JPEGs, into a folder by class and into tar shards. All readers give batches of bytes of one size,
the shorter side resized, the middle of the longer one kept, in one process and one thread. They
take turns, and the fastest round of each counts.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import xarray as xr
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader

from experiments.data import ImageFolder, TarShards
from experiments.networks import import_torchvision
from linlocal.analysis.training import SeededLoader
from linlocal.seeds import generator_for


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        images: number of images.
        height: rows of each image.
        width: columns of each image.
        quality: quality of the JPEGs.
        sizes: sides of the decoded images.
        batch: images in a batch.
        rounds: how often each reader reads all images.
        seed: seeds the pieces and the orders.
    """

    images: int = 256
    height: int = 375
    width: int = 500
    quality: int = 90
    sizes: tuple[int, ...] = (32, 64, 224)
    batch: int = 32
    rounds: int = 5
    seed: int = 0


TITLE = "Reading images"
CONFIGS = {"cpu": Config()}
CLASSES = 4
OURS, SHARDS = "folder", "tar shards"
PLAIN, DECODED = "torchvision's folder and DataLoader", "decoding alone, whole images"


def measure(config: Config) -> xr.Dataset:
    """Time all readers.

    Returns:
        ``images_per_s`` over size and reader.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            _write(Path(folder), config)
            rows = [_size(Path(folder), size, config) for size in config.sizes]
    finally:
        torch.set_num_threads(threads)
    return xr.Dataset(
        {"images_per_s": (("size", "reader"), [[*row.values()] for row in rows])},
        {"size": list(config.sizes), "reader": list(rows[0])},
        {"images": config.images, "height": config.height, "width": config.width},
    )


def _write(folder: Path, config: Config) -> None:
    random = generator_for("benchmark of loading", config.seed)
    photographs = load_sample_images().images
    with tarfile.open(folder / "images.tar", "w") as tar:
        for n in range(config.images):
            photograph = photographs[n % len(photographs)]
            top = int(random.integers(photograph.shape[0] - config.height + 1))
            left = int(random.integers(photograph.shape[1] - config.width + 1))
            piece = photograph[top : top + config.height, left : left + config.width]
            coded = BytesIO()
            Image.fromarray(piece).save(coded, "JPEG", quality=config.quality)
            directory = folder / "images" / f"class{n % CLASSES}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{n}.jpg").write_bytes(coded.getvalue())
            for ending, content in (("jpg", coded.getvalue()), ("cls", b"%d" % (n % CLASSES))):
                member = tarfile.TarInfo(f"{n}.{ending}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))


def _size(folder: Path, size: int, config: Config) -> dict[str, float]:
    import_torchvision()
    datasets, transforms = (
        import_module(f"torchvision.{name}") for name in ("datasets", "transforms")
    )
    files = sorted((folder / "images").rglob("*.jpg"))
    steps = (transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor())
    plain = datasets.ImageFolder(str(folder / "images"), transforms.Compose(steps))
    ours = SeededLoader(ImageFolder(folder / "images", size), config.batch, seed=config.seed)
    tar = folder / "images.tar"
    shards = TarShards([tar], size, config.batch, config.images // config.batch, seed=config.seed)
    readers: dict[str, Callable[[int], Iterable[Any]]] = {
        OURS: ours.batches,
        SHARDS: shards.batches,
        PLAIN: lambda _: DataLoader(plain, config.batch, shuffle=True),
        DECODED: lambda _: (Image.open(file).convert("RGB") for file in files),
    }
    fastest = dict.fromkeys(readers, float("inf"))
    for number in range(config.rounds):
        for name, read in readers.items():
            start = time.process_time()
            for _ in read(number):
                pass
            fastest[name] = min(fastest[name], time.process_time() - start)
    return {name: config.images / seconds for name, seconds in fastest.items()}


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    rate = data["images_per_s"].isel(size=0)
    size = int(data["size"][0])
    beside = [f"{name} {float(rate.sel(reader=name)):.0f}" for name in (SHARDS, PLAIN, DECODED)]
    return (
        f"images read a second from a folder of JPEGs, at {size}x{size}, one thread",
        f"{float(rate.sel(reader=OURS)):.0f}",
        "; ".join(beside),
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    attributes = data.attrs
    readers = [str(name) for name in data["reader"].values]
    lines = [
        f"Images per second, of {attributes['images']} JPEGs of {attributes['height']}x"
        f"{attributes['width']}, in one process with one thread. Every reader resizes the",
        "shorter side and crops the middle; decoding alone reads whole images and resizes none.",
        "Ours let the JPEG library decode a smaller image where that keeps three times the side",
        "that is wanted.",
        "",
        f"| side | {' | '.join(readers)} |",
        "|---:" * (1 + len(readers)) + "|",
    ]
    for size in data["size"].values:
        rates = data["images_per_s"].sel(size=size).values
        lines.append(f"| {size} | " + " | ".join(f"{rate:.0f}" for rate in rates) + " |")
    return lines
