"""Peak memory of local training against backpropagation of the last block's loss.

The first rows are the 6-layer encoder with its blocks repeated, images of 32x32; the last the
8-layer encoder at 224x224. Activities are what a forward and backward pass needs above parameters
and gradients, a projection's gradient on its way included. "In all" adds these and the two moments
of AdamW, for what each way trains: local losses have projections in all blocks, backpropagation in
the last. SCFF has none at all, so its rows are the activities alone.

Local training needs what its largest block needs: the block's input, and its largest map three
times in the backward pass. Where one block is as large as the rest together, little is saved.
Published for the 8-layer encoder: local training takes 0.41 of the memory of backpropagation
(arXiv 2601.21683: 59 % saved on ImageNet; how it was measured is not said).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import xarray as xr
from lightning_fabric import Fabric

from analysis.local_losses import CLAPP, SCFF, LocalRule
from analysis.memory import peak_bytes
from analysis.trainer import GlobalTrainer, LocalTrainer
from analysis.training import Trainer
from experiments.networks import Name, build

PUBLISHED_RATIO = 0.41
RULES: dict[str, LocalRule] = {
    "SCFF": SCFF(),
    "CLAPP++": CLAPP(),
    "direct feedback": CLAPP(context="top"),
    "direct feedback, rank 32": CLAPP(context="top", rank=32),
}
# Of the repeated encoder: without projections, and with a top activity.
RULES_OF_DEPTH = ("SCFF", "direct feedback, rank 32")
# Weights, their gradients, and AdamW's two moments.
_COPIES = 4


@dataclass(frozen=True)
class Case:
    """A network and a batch.

    Attributes:
        name: of the network, see `experiments.networks.build`.
        depth: number of blocks; None takes the usual number.
        side: of the images.
        batch: number of images; there are two views of each.
        width: factor on the channels.
    """

    name: Name = "vgg6"
    depth: int | None = None
    side: int = 32
    batch: int = 32
    width: float = 1.0


@dataclass(frozen=True)
class Bytes:
    """What a training step needs.

    Attributes:
        activities: peak, above what exists before.
        parameters: trained ones, of network and losses.
    """

    activities: int
    parameters: int

    @property
    def total(self) -> int:
        return self.activities + _COPIES * self.parameters


def peak(trainer: type[Trainer], case: Case, rule: LocalRule, device: str) -> Bytes:
    """Peak memory of one forward and backward pass.

    Args:
        trainer: `LocalTrainer` or `GlobalTrainer`.
        case: network and batch.
        rule: whose losses are used.
        device: "cpu", "cuda", or "meta", which counts tensors without computing their values.
    """
    network = build(case.name, width=case.width, image_size=case.side, depth=case.depth)
    shape = (3, case.side, case.side)
    fabric = Fabric(accelerator="cuda" if device == "cuda" else "cpu", devices=1)
    made = trainer(network, None, rule, shape=shape, fabric=fabric)
    made.model.to(device)
    made.losses.to(device)
    views = torch.zeros(2 * case.batch, *shape, device=device)
    made.backward(views)  # so that the gradients exist
    parameters = sum(p.nbytes for group in made.parameters for p in group)
    return Bytes(peak_bytes(partial(made.backward, views), device), parameters)


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        device: "meta" counts tensors without computing their values; "cuda" asks the allocator.
        batch: images of 32x32.
        large_batch: images of 224x224.
        width: factor on the channels.
        depths: of the repeated encoder.
    """

    device: str = "meta"
    batch: int = 32
    large_batch: int = 32
    width: float = 1.0
    depths: tuple[int, ...] = (6, 12, 24, 48)


TITLE = "Memory of local training"
CONFIGS = {"cpu": Config(), "cuda": Config(device="cuda")}


def measure(config: Config) -> xr.Dataset:
    """Peak memory of both ways, for every case and rule.

    Returns:
        Over ``case``, with the coordinates encoder, depth, side, batch and rule: peak bytes of
        activities ``local`` and ``backpropagation``, and ``local_total`` and
        ``backpropagation_total`` with parameters, gradients and moments.
    """
    repeated = [Case(depth=d, batch=config.batch, width=config.width) for d in config.depths]
    large = Case("vgg8", side=224, batch=config.large_batch, width=config.width)
    cases = [(case, name) for name in RULES_OF_DEPTH for case in repeated]
    cases += [(large, name) for name in RULES]
    local, everything = (
        [peak(trainer, case, RULES[name], config.device) for case, name in cases]
        for trainer in (LocalTrainer, GlobalTrainer)
    )
    return xr.Dataset(
        {
            "local": ("case", [found.activities for found in local]),
            "backpropagation": ("case", [found.activities for found in everything]),
            "local_total": ("case", [found.total for found in local]),
            "backpropagation_total": ("case", [found.total for found in everything]),
        },
        {
            "encoder": ("case", [case.name for case, _ in cases]),
            "depth": ("case", [c.depth or int(c.name.removeprefix("vgg")) for c, _ in cases]),
            "side": ("case", [case.side for case, _ in cases]),
            "batch": ("case", [case.batch for case, _ in cases]),
            "rule": ("case", [name for _, name in cases]),
        },
        {"device": config.device},
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    counted = {"meta": "counted tensor by tensor", "cuda": "peak of the allocator"}
    lines = [
        f"Peak of one forward and backward pass, two views of each image, float32; "
        f"{counted[data.attrs['device']]}.",
        '"In all" adds parameters, gradients and the moments of AdamW. Published for the 8-layer',
        f"encoder at 224x224: {PUBLISHED_RATIO} (how it was measured is not said).",
        "",
        "| encoder | depth | side | batch | rule | local, MB | backpropagation, MB | ratio "
        "| ratio in all |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for position in range(data.sizes["case"]):
        row = data.isel(case=position)
        cells = [str(row[key].values) for key in ("encoder", "depth", "side", "batch", "rule")]
        cells += [f"{float(row[key]) / 1e6:.1f}" for key in ("local", "backpropagation")]
        cells += [
            f"{float(row['local' + what] / row['backpropagation' + what]):.2f}"
            for what in ("", "_total")
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
