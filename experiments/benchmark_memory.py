"""Peak memory of local training against backpropagation of the last block's loss.

    python -m experiments.benchmark_memory                  # counted, seconds; prints a table
    python -m experiments.benchmark_memory --device cuda    # of the GPU's allocator

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

import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import torch
import typer
from lightning_fabric import Fabric

from analysis.local_losses import CLAPP, SCFF, LocalRule
from analysis.memory import peak_bytes
from analysis.results import Provenance
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


def measure(trainer: type[Trainer], case: Case, rule: LocalRule, device: str) -> Bytes:
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


def row(case: Case, name: str, device: str) -> str:
    """One line of the table."""
    local = measure(LocalTrainer, case, RULES[name], device)
    everything = measure(GlobalTrainer, case, RULES[name], device)
    depth = case.depth or int(case.name.removeprefix("vgg"))
    return (
        f"| {case.name} | {depth} | {case.side} | {case.batch} | {name} "
        f"| {local.activities / 1e6:.1f} | {everything.activities / 1e6:.1f} "
        f"| {local.activities / everything.activities:.2f} "
        f"| {local.total / everything.total:.2f} |"
    )


def main(
    device: Annotated[str, typer.Option(help="meta (counted only), cpu or cuda")] = "meta",
    batch: Annotated[int, typer.Option(help="images, of 32x32")] = 32,
    large_batch: Annotated[int, typer.Option(help="images, of 224x224")] = 32,
    width: Annotated[float, typer.Option(help="factor on the channels")] = 1.0,
    max_depth: Annotated[int, typer.Option(help="of the repeated encoder")] = 48,
) -> None:
    """Print the peak memory of both ways, and the hardware."""
    cases = [
        Case(depth=depth, batch=batch, width=width)
        for depth in (6, 12, 24, 48)
        if depth <= max_depth
    ]
    large = Case("vgg8", side=224, batch=large_batch, width=width)
    provenance = Provenance.collect("benchmark_memory", device, 0, asdict(large))
    hardware = json.loads(provenance.hardware)
    names = {"meta": "counted on no device", "cpu": f"counted on {hardware['processor']}"}
    print(f"{names.get(device, hardware.get('accelerator'))}; torch {torch.__version__}\n")
    print(
        "| encoder | depth | side | batch | rule | local, MB | backpropagation, MB | ratio "
        "| ratio in all |\n|---|---:|---:|---:|---|---:|---:|---:|---:|"
    )
    for name in RULES_OF_DEPTH:
        for case in cases:
            print(row(case, name, device), flush=True)
    for name in RULES:
        print(row(large, name, device), flush=True)
    print(f"\npublished for the 8-layer encoder: {PUBLISHED_RATIO}")


if __name__ == "__main__":
    typer.run(main)
