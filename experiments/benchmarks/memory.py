"""Peak memory of local training against backpropagation of the last block's loss.

The first rows are the 6-layer encoder with its blocks repeated, images of 32x32; the last the
8-layer encoder at 224x224. Activities are what a forward and backward pass needs above parameters
and gradients, a projection's gradient on its way included. "In all" adds these and the two moments
of AdamW, for what each way trains: local losses have projections in all blocks, backpropagation in
the last. SCFF has none at all, so its rows are the activities alone.

Local training needs what its largest block needs: the block's input, and its largest map three
times in the backward pass. Where one block is as large as the rest together, as the second of the
8-layer encoder is, little is saved. The second table cuts the blocks into micro-batches of rows
(`linlocal.analysis.watching`), which each run twice: local training then needs whole only a block's
input, its output and the output's gradient. Backpropagation can be cut and recomputed as well
(activation checkpointing, Chen et al. 2016, arXiv 1604.06174) and keeps the outputs of all blocks:
this is the fair comparison.

Published for the 8-layer encoder: local training takes 0.41 of the memory of backpropagation
(arXiv 2601.21683: 59 % saved on ImageNet; how it was measured is not said).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import xarray as xr

from experiments.benchmarks.passes import Case, prepared, seconds, ways, whole
from linlocal.analysis.local_losses import CLAPP, SCFF, LocalRule
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, Trainer, peak_bytes

PUBLISHED_RATIO = 0.41
RULES: dict[str, LocalRule] = {
    "SCFF": SCFF(),
    "CLAPP++": CLAPP(),
    "direct feedback": CLAPP(context="top"),
    "direct feedback, rank 32": CLAPP(context="top", rank=32),
}
# The rules of the repeated encoder: one without projections, one that reads the top activity.
RULES_OF_DEPTH = ("SCFF", "direct feedback, rank 32")
RULE_OF_MICRO_BATCHES = "CLAPP++"
TRAINERS: dict[str, type[Trainer]] = {"local": LocalTrainer, "backpropagation": GlobalTrainer}
# Weights, their gradients, and AdamW's two moments.
_COPIES = 4


@dataclass(frozen=True)
class Bytes:
    """What a training step needs.

    Attributes:
        activities: peak above what exists before the pass.
        parameters: trained parameters of network and losses.
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
        case: the network and its batch.
        rule: the rule whose losses are used.
        device: "cpu", "cuda", or "meta", which counts tensors without computing their values.
    """
    made, step = prepared(trainer, case, rule, device)
    parameters = sum(p.nbytes for group in made.parameters for p in group)
    return Bytes(peak_bytes(partial(step, whole), device), parameters)


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        device: "meta" counts tensors without computing their values; "cuda" asks the allocator.
        batch: number of images of 32x32.
        large_batch: number of images of 224x224.
        width: factor on the numbers of channels.
        depths: depths of the repeated encoder.
        micro_batches: numbers of rows in a micro-batch of the 8-layer encoder at 224x224, both
            views counted.
        timed_width: factor on the numbers of channels of the encoder whose passes are timed, at
            32x32 on the CPU with ``large_batch`` images.
        repetitions: number of timed passes.
    """

    device: str = "meta"
    batch: int = 32
    large_batch: int = 32
    width: float = 1.0
    depths: tuple[int, ...] = (6, 12, 24, 48)
    micro_batches: tuple[int, ...] = (32, 16, 8, 4, 2, 1)
    timed_width: float = 1 / 4
    repetitions: int = 3


TITLE = "Memory of local training"
CONFIGS = {"cpu": Config(), "cuda": Config(device="cuda")}


def measure(config: Config) -> xr.Dataset:
    """Peak memory of both ways, for every case and rule.

    Returns:
        Over ``case``, with the coordinates encoder, depth, side, batch and rule: peak bytes of
        activities ``local`` and ``backpropagation``, and ``local_total`` and
        ``backpropagation_total`` with parameters, gradients and moments. Over ``way`` and
        ``training``: ``cut_peak`` in bytes and ``cut_seconds``, of blocks run whole, recomputed
        whole, and in micro-batches.
    """
    repeated = [Case(depth=d, batch=config.batch, width=config.width) for d in config.depths]
    large = Case("vgg8", side=224, batch=config.large_batch, width=config.width)
    cases = [(case, name) for name in RULES_OF_DEPTH for case in repeated]
    cases += [(large, name) for name in RULES]
    local, everything = (
        [peak(trainer, case, RULES[name], config.device) for case, name in cases]
        for trainer in TRAINERS.values()
    )
    rule, chosen = RULES[RULE_OF_MICRO_BATCHES], ways(config.micro_batches)
    timed = Case("vgg8", batch=config.large_batch, width=config.timed_width)
    peaks, times = [], []
    for trainer in TRAINERS.values():
        _, step = prepared(trainer, large, rule, config.device)
        peaks.append([peak_bytes(partial(step, way), config.device) for way in chosen])
        times.append(seconds(trainer, timed, rule, chosen, config.repetitions))
    return xr.Dataset(
        {
            "cut_peak": (("training", "way"), peaks),
            "cut_seconds": (("training", "way"), times),
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
            "training": list(TRAINERS),
            "way": ["whole", "recomputed", *map(str, config.micro_batches)],
        },
        {"device": config.device, "timed": f"width {config.timed_width:g}, 32x32"},
    )


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    peak = data["cut_peak"] / data["cut_peak"].sel(training="backpropagation", way="whole")
    rows = "8"
    return (
        f"activities of local training of the 8-layer encoder at 224x224, {rows} rows at a time",
        f"{float(peak.sel(training='local', way=rows)):.2f} of backpropagation",
        f"published {PUBLISHED_RATIO}; with whole blocks "
        f"{float(peak.sel(training='local', way='whole')):.2f}; backpropagation recomputed the "
        f"same way {float(peak.sel(training='backpropagation', way=rows)):.2f}",
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
    return [*lines, "", *_of_micro_batches(data)]


def _of_micro_batches(data: xr.Dataset) -> list[str]:
    lines = [
        f"The 8-layer encoder at 224x224 with {RULE_OF_MICRO_BATCHES}: blocks run whole, are "
        "recomputed in the",
        "backward pass, or are recomputed in micro-batches of so many rows (both views are rows).",
        "Ratios are to backpropagation with whole blocks. Time is processor time of a pass of the",
        f"encoder at {data.attrs['timed']}, on the CPU, over that of the same training with whole",
        "blocks; both are open on a GPU.",
        "",
        "| blocks | local, MB | ratio | time | backpropagation, MB | ratio | time |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    plain = data["cut_peak"].sel(training="backpropagation", way="whole")
    time = data["cut_seconds"] / data["cut_seconds"].sel(way="whole")
    for way in data["way"].values:
        cells = [f"{way} rows" if str(way).isdigit() else str(way)]
        for training in TRAINERS:
            held = data["cut_peak"].sel(training=training, way=way)
            cells += [f"{float(held) / 1e6:.1f}", f"{float(held / plain):.2f}"]
            cells.append(f"{float(time.sel(training=training, way=way)):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines
