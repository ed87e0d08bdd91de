"""What local rules learn, against backpropagation of the same loss, and how aligned they are.

Every rule trains the same VGG-like encoder of six blocks on the same batches, once locally and once
by backpropagation of the last block's loss, with learning rates chosen by the same search on
validation data. A linear classifier then reads the class from the averaged maps of all blocks. The
cosine of local and global updates is recorded along local training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import xarray as xr
from torch import Tensor, nn

from experiments.data import (
    Images,
    LabelledPixels,
    evenly_spaced,
    in_batches,
    labelled_identities,
    named_data,
    source,
    with_hybrids,
)
from experiments.networks import encoders as networks
from experiments.runner import Sweep, stack
from experiments.training import (
    SEARCH_SEED,
    Credit,
    Divergence,
    Schedule,
    Search,
    fit_by_rule,
    fit_supervised,
    released_clapp,
    released_infonce,
    with_best_rate,
)
from linlocal import losses
from linlocal.analysis.local_losses import (
    SCFF,
    ForwardForward,
    InfoNCE,
    LeastSquares,
    LocalRule,
    PhyLL,
    Shape,
    Views,
)
from linlocal.analysis.probing import probe_blocks
from linlocal.analysis.results import known_name


@dataclass(frozen=True)
class RandomBelow:
    """CLAPP++ DFB whose B below the last block stay as they are drawn."""

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """As `NetworkRule.build`."""
        *below, _ = released_clapp(context="top", projection="random").build(shapes, seed)
        *_, last = released_clapp(context="top").build(shapes, seed)
        return nn.ModuleList([*below, last])


MATCHED = LeastSquares(decay=0.99)
# They differ in where the context comes from, in what it says of the place, and in B.
FAMILY: dict[str, LocalRule] = {
    "CLAPP++ without 2D": released_clapp((1,) * 6),
    "CLAPP++": released_clapp(),
    "CLAPP++ DFB": released_clapp(context="top"),
    "CLAPP++ DFB, random B": RandomBelow(),
    "CLAPP++ DFB, matched B": released_clapp(
        context="top", projection="least_squares", matching=MATCHED
    ),
    # As released, a loss of each context; and one loss of both scores.
    "CLAPP++ both": released_clapp(context="each"),
    "CLAPP++ f(u + u')": released_clapp(context="both"),
}
RULES: dict[str, LocalRule] = {
    **FAMILY,
    # As released, of cosines; and of bilinear scores z . B c.
    "InfoNCE": released_infonce(),
    "Greedy InfoMax": InfoNCE(),
    "PhyLL": PhyLL(),
    "Forward-Forward": ForwardForward(goodness="mean"),
    "SCFF": SCFF(goodness="mean"),
    "LPL": Views(losses.LPL()),
    "VICReg": Views(losses.VICReg()),
    "Barlow Twins": Views(losses.BarlowTwins()),
}
# In the last block there is no feedback, so these rules have one loss to backpropagate. (A loss of
# each context counts it twice, with two projections; the published baseline counts it once.)
SAME_AT_THE_TOP = dict.fromkeys(list(FAMILY)[2:], "CLAPP++")


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        width: factor on the numbers of channels 128, 256, 256, 512, 1024, 1024.
        steps: steps of training.
        batch: images per batch.
        learning_rates: rates that the search tries first.
        extensions: how often it may try the next one where the best lies at the edge.
        embedded: names of data sets that are taken where no folder is named.
        rules: names in `RULES`.
        judged: how many images of each part the probes read, evenly spaced; None for all.
        repetitions: number of networks and splits that are reported.
        device: name of the torch device.
        seed: seeds the splits, the views, the networks and the search.
        data: folder of CIFAR-10, STL-10 or Tiny ImageNet, in place of the embedded data.
    """

    width: float = 1 / 16
    steps: int = 100
    batch: int = 32
    learning_rates: tuple[float, ...] = (1e-3, 5e-3)
    extensions: int = 0
    embedded: tuple[str, ...] = ("digits", "RHM images")
    rules: tuple[str, ...] = tuple(RULES)
    judged: int | None = None
    repetitions: int = 3
    device: str = "cpu"
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(
        width=1 / 64,
        steps=1,
        batch=16,
        learning_rates=(1e-3,),
        embedded=("digits",),
        judged=1000,
        repetitions=1,
    ),
    "cpu": Config(steps=30, embedded=("digits",), repetitions=4),
    "workstation": Config(
        steps=4000,
        learning_rates=(1e-4, 3.16e-4, 1e-3),
        extensions=2,
        embedded=("digits",),
        rules=(*list(FAMILY)[:-1], "InfoNCE"),
        judged=10_000,
        repetitions=4,
    ),
    "paper": Config(
        width=1.0,
        steps=470_000,
        learning_rates=(2e-4, 1e-3),
        extensions=2,
        device="cuda",
    ),
}
PUBLISHED = "the table of arXiv 2601.21683"

UNTRAINED, SUPERVISED = "untrained", "supervised"
BLOCKS = networks.block_names("vgg6")


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprints of the data sets with labels in a folder."""
    return labelled_identities(folder, named_data(folder))


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train by every rule, locally and by backpropagation, and probe.

    Returns:
        Over data and rule, ``accuracy`` of a probe on all blocks and ``block_accuracy`` (layer) of
        one on each, over credit and repetition; ``cosine`` of local training over repetition, step
        and layer; over credit ``search_accuracy`` over candidate, the ``learning_rate`` that was
        chosen, and whether it lies ``inside`` those that were tried. Rules with the same loss in
        the last block share what backpropagation gives. ``reference_accuracy`` over data, reference
        and repetition: untrained, and backpropagation of labels.
    """

    def measure(data: str, rule: str, credit: str, learning_rate: float, seed: int) -> xr.Dataset:
        images = source(data, seed, folder=config.data, device=config.device)
        network = cast(
            nn.Sequential,
            networks.build(
                "vgg6",
                width=config.width,
                num_channels=images.test[0].shape[1],
                image_size=images.test[0].shape[2],
                seed=seed,
            ).to(config.device),
        )
        schedule = Schedule(config.steps, learning_rate, weight_decay=0.0)
        try:
            recorded = learn(network, images, rule, credit, schedule, config.batch, seed)
        except Divergence:
            return unusable(schedule)
        parts: dict[str, LabelledPixels] = {
            "train": images.train,
            "validation": images.validation,
        }
        if seed < config.seed + SEARCH_SEED:  # the search does not look at the test data
            parts["test"] = images.test
        few = {part: evenly_spaced(data, config.judged) for part, data in parts.items()}
        return recorded.assign(judged(network, few, seed))

    names = named_data(config.data) or config.embedded
    for rule in config.rules:
        known_name("rule", rule, RULES)
    # What gives the same is trained once.
    backpropagated = dict.fromkeys(SAME_AT_THE_TOP.get(rule, rule) for rule in config.rules)
    local, everywhere = get_args(Credit)
    trained = [
        *({"rule": rule, "credit": local} for rule in config.rules),
        *({"rule": rule, "credit": everywhere} for rule in backpropagated),
    ]
    references = [{"rule": name, "credit": ""} for name in (UNTRAINED, SUPERVISED)]
    cells = [{"data": name, **cell} for name in names for cell in (*trained, *references)]
    search = Search(config.learning_rates, config.extensions, 1)
    parts = with_best_rate(
        sweep, measure, cells, search, config.repetitions, "local rules", config.seed
    )
    keys = [tuple(cell.values()) for cell in cells]
    found = dict(zip(keys, parts, strict=True))
    return stack([_table(found, name, config.rules) for name in names], "data", names)


def learn(
    network: nn.Sequential,
    images: Images,
    rule: str,
    credit: str,
    schedule: Schedule,
    batch: int,
    seed: int,
) -> xr.Dataset:
    """Train as a cell of the table says; cosines are those of local training, else NaN."""
    if rule == SUPERVISED:
        fit_supervised(
            network,
            lambda step: images.labelled_views(step, batch, seed),
            images.num_classes,
            schedule,
            seed,
        )
    if rule not in RULES:
        return without_cosines(schedule)
    hybrids = rule == "Forward-Forward"

    def stacked(views: Tensor, step: int) -> Tensor:
        return with_hybrids(views, seed + step) if hybrids else views

    local = credit == "local"
    _, recorded = fit_by_rule(
        network,
        RULES[rule],
        lambda step: stacked(images.views(step, batch, seed), step),
        schedule,
        credit="local" if local else "backpropagation",
        seed=seed,
        watched=[(stacked(images.held_out_views(0, batch, seed)[0], -1),)] if local else (),
    )
    return recorded.drop_vars("block") if local else without_cosines(schedule)


def judged(network: nn.Module, parts: Mapping[str, LabelledPixels], seed: int) -> dict[str, Any]:
    """Accuracies of linear probes that are trained on what the network was trained on.

    Maps are averaged over the whole image: in small images, untrained features that keep their
    places say nearly everything.

    Args:
        network: the network.
        parts: images and labels of "train", "validation" and, outside a search, "test".
        seed: decides which images choose the penalty.
    """
    batches = {part: in_batches(data) for part, data in parts.items()}
    train = batches.pop("train")
    found = probe_blocks(network, BLOCKS, train, batches, seed=seed)["accuracy"]
    validation = {"validation_accuracy": float(found.sel(part="validation", block="all"))}
    if "test" not in parts:
        return validation
    test = found.sel(part="test")
    return {
        **validation,
        "accuracy": float(test.sel(block="all")),
        "block_accuracy": ("layer", test.values[:-1]),
    }


def without_cosines(schedule: Schedule) -> xr.Dataset:
    """Cosines that are NaN, at every step that would be recorded."""
    steps, layers = schedule.recorded, range(1, len(BLOCKS) + 1)
    cosine = np.full((len(steps), len(layers)), np.nan)
    return xr.Dataset(
        {"cosine": (("step", "layer"), cosine)}, {"step": steps, "layer": list(layers)}
    )


def unusable(schedule: Schedule) -> xr.Dataset:
    """The result of a training that diverged: it has learned nothing."""
    return without_cosines(schedule).assign(
        validation_accuracy=0.0,
        accuracy=0.0,
        block_accuracy=("layer", np.zeros(len(BLOCKS))),
    )


def _table(
    found: dict[tuple[str, ...], xr.Dataset], data: str, rules: tuple[str, ...]
) -> xr.Dataset:
    """All cells of one data set."""
    kept = ["accuracy", "block_accuracy", "search_accuracy", "learning_rate", "inside"]
    both = stack(
        [
            stack(
                [
                    found[data, SAME_AT_THE_TOP.get(r, r) if credit != "local" else r, credit]
                    for r in rules
                ],
                "rule",
                rules,
            )
            for credit in get_args(Credit)
        ],
        "credit",
        get_args(Credit),
    )
    references = stack(
        [found[data, name, ""]["accuracy"].to_dataset() for name in (UNTRAINED, SUPERVISED)],
        "reference",
        (UNTRAINED, SUPERVISED),
    )
    return both[kept].assign(
        cosine=both["cosine"].sel(credit="local", drop=True),
        reference_accuracy=references["accuracy"],
    )
