"""What autograd keeps of the 8-layer encoder, and the arithmetic behind a published saving.

Published for this encoder (arXiv 2601.21683, second-hand): a peak of 11.10 GB for backpropagation
and 4.60 GB for local training. No allocator shows these numbers. They are within 0.2 % of this
count at 224x224, two views of 32 images, float32, in units of 2^30 bytes:

    a block keeps the input of its convolution and the output of its ReLU;
    backpropagation keeps these of all blocks, and the weights; local training those of the largest.

Autograd keeps something else. The output of a block that no pooling follows is the input of the
next one, and is kept once; and of each pooling the places of the maxima are kept (int64). Both
raise the share that local training needs: it is 0.52, not 0.41.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xarray as xr
from torch import Tensor, nn

from experiments.networks import build
from linlocal.analysis.block import resolve
from linlocal.analysis.training import saved_activations
from linlocal.analysis.watching import one_pass

PUBLISHED = (11.10, 4.60)
GIB = 2**30


@dataclass(frozen=True)
class Config:
    """What is measured, on the device "meta".

    Attributes:
        side: the side of the images in pixels.
        batch: the number of images; there are two views of each.
        width: factor on the numbers of channels.
    """

    side: int = 224
    batch: int = 32
    width: float = 1.0


TITLE = "Saved activations"
CONFIGS = {"cpu": Config()}


def measure(config: Config) -> xr.Dataset:
    """Bytes of the blocks of the 8-layer encoder.

    Returns:
        ``everything``, the bytes that autograd keeps of all blocks together; and over ``layer``
        ``autograd``, what it keeps of a block alone; ``counted``, the input of the convolution and
        the output of the ReLU; ``weights``.
    """
    network = build("vgg8", width=config.width, image_size=config.side).to("meta")
    images = torch.empty(2 * config.batch, 3, config.side, config.side, device="meta")
    saved = saved_activations(network, images)
    blocks = resolve(network)
    counted, below = [], images

    def look(position: int, z: Tensor) -> None:
        nonlocal below
        (convolution,) = (m for m in blocks[position].module.modules() if isinstance(m, nn.Conv2d))
        rectified = convolution(below)
        counted.append(below.nbytes + rectified.nbytes)
        below = z

    with one_pass(blocks, look), torch.no_grad():
        network(images)
    weights = [sum(p.nbytes for p in block.parameters.values()) for block in blocks]
    return xr.Dataset(
        {
            "everything": saved["bytes"].sum(),
            "autograd": saved["block_bytes"].drop_vars("name"),
            "counted": ("layer", counted),
            "weights": ("layer", weights),
        }
    )


def totals(data: xr.Dataset) -> dict[str, tuple[float, float]]:
    """GiB of all blocks and of the largest one: as autograd keeps them, and as counted."""
    kept, counted = data["autograd"], data["counted"]
    weights = data["weights"]
    return {
        "autograd": (float(data["everything"]) / GIB, float(kept.max()) / GIB),
        "counted": (
            float((counted + weights).sum()) / GIB,
            float((counted + weights).max()) / GIB,
        ),
    }


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    found = totals(data)
    (everything, largest), (all_counted, most_counted) = found["autograd"], found["counted"]
    return (
        "what autograd keeps of the 8-layer encoder at 224x224, largest block / all",
        f"{largest:.2f} / {everything:.2f} GiB = {largest / everything:.2f}",
        f"published {PUBLISHED[1]:.2f} / {PUBLISHED[0]:.2f} = {PUBLISHED[1] / PUBLISHED[0]:.2f}; "
        f"its count, redone: {most_counted:.2f} / {all_counted:.2f} = "
        f"{most_counted / all_counted:.2f}",
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    lines = [
        "The 8-layer encoder at 224x224, two views of 32 images, float32. *Counted* are the input",
        "of each convolution, the output of its ReLU, and in the sum the weights, which gives the",
        f"published {PUBLISHED[0]:.2f} and {PUBLISHED[1]:.2f} GB within 0.2 % (in units of 2^30).",
        "The sum takes twice what one block gives and the next one takes, where no pooling lies",
        "between them. Autograd keeps it once, and also the places of the maxima.",
        "",
        "| layer | kept by autograd, GiB | counted, GiB | weights, GiB |",
        "|---:|---:|---:|---:|",
    ]
    names = ("autograd", "counted", "weights")
    for layer in data["layer"].values:
        cells = [f"{float(data[name].sel(layer=layer)) / GIB:.3f}" for name in names]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    found = totals(data)
    for row, place in (("all", 0), ("largest", 1)):
        cells = [f"{found[name][place]:.2f}" for name in ("autograd", "counted")]
        lines.append(f"| {row} | {' | '.join(cells)} | |")
    return lines
