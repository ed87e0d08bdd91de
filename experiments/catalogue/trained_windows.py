"""Training in windows: cosine, accuracy, memory and work, from local learning to backpropagation.

Block l of a convolutional encoder learns from the loss of block e = min(l + w - 1, L), sent down
through the blocks between: w = 1 is local training, w = L backpropagation. Every window trains the
same networks on the same batches by AdamW, its learning rate chosen by the same search on
validation data. A linear classifier then reads the class from each block. What a pass costs is
counted in this encoder and in one with its blocks repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.data import (
    LabelledPixels,
    evenly_spaced,
    in_batches,
    labelled_identities,
    named_data,
    source,
)
from experiments.networks import encoders as networks
from experiments.runner import Sweep, grid, stack
from experiments.training import (
    SEARCH_SEED,
    Divergence,
    Schedule,
    Search,
    fabric_on,
    fit_by_rule,
    update_cosines,
    with_best_rate,
)
from linlocal import losses
from linlocal.analysis.local_losses import CLAPP, LocalRule, Views
from linlocal.analysis.probing import probe_blocks
from linlocal.analysis.training import LocalTrainer, peak_bytes


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        embedded: name of the data set that is taken where no folder is named.
        width: factor on the numbers of channels 128, 256, 256, 512, 1024, 1024.
        steps: steps of training.
        batch: images per batch.
        learning_rates: rates that the search tries first, for every rule and window.
        extensions: how often it may try the next one where the best lies at the edge.
        measured: number of batches for cosines; they are never trained on.
        deep: windows in which costs alone are counted, in a second encoder that has as many
            blocks as the last of them.
        judged: how many images of each part the probes read, evenly spaced; None for all.
        repetitions: number of networks.
        device: name of the torch device.
        seed: seeds the images, the views and the networks.
        data: folder of CIFAR-10 or Tiny ImageNet (the first of them that lies there).
    """

    embedded: str = "RHM images"
    width: float = 1 / 16
    steps: int = 60
    batch: int = 32
    learning_rates: tuple[float, ...] = (1e-3,)
    extensions: int = 0
    measured: int = 2
    deep: tuple[int, ...] = (1, 2, 4, 8, 12, 16, 20, 24)
    judged: int | None = None
    repetitions: int = 5
    device: str = "cpu"
    seed: int = 0
    data: Path | None = None

    @property
    def images(self) -> str:
        """Name of the data set."""
        return next(iter(named_data(self.data, WANTED)), self.embedded)


PRESETS = {
    "smoke": Config(width=1 / 64, steps=1, batch=16, measured=1, deep=(1, 3, 7), repetitions=2),
    "cpu": Config(steps=30, measured=1, deep=(1, 4, 12, 24)),
    "workstation": Config(
        steps=2000,
        learning_rates=(1e-4, 3.16e-4, 1e-3),
        extensions=2,
        measured=4,
        judged=10_000,
    ),
    "paper": Config(
        width=1.0,
        steps=20_000,
        learning_rates=(2e-4, 1e-3),
        extensions=2,
        measured=16,
        repetitions=10,
        device="cuda",
    ),
}
PUBLISHED = "ours: statement 12 of the theory"

# The data sets of a folder, the first that is there.
WANTED = ("cifar10", "tiny_imagenet")
RULES: dict[str, LocalRule] = {
    "CLAPP++ DFB": CLAPP(context="top", negatives="stacked", penalty=0.0),
    "VICReg": Views(losses.VICReg()),
}
BLOCKS = networks.block_names("vgg6")
TIMES = ("start", "end")


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of the data set with labels that is trained on."""
    return labelled_identities(folder, named_data(folder, WANTED)[:1])


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train in every window, probe, and count what a pass costs.

    Returns:
        Over rule, window, repetition and layer: ``cosine`` of the update and backpropagation over
        time ("start" and "end" of training), and ``accuracy`` of a probe; ``joint_accuracy`` of a
        probe on all blocks; ``search_accuracy`` over candidate, the ``learning_rate`` that was
        chosen, and whether it lies ``inside`` those that were tried. Over repetition and layer
        ``untrained_accuracy``. Over rule and window ``bytes``, the peak of a forward and backward
        pass above weights and gradients, and ``multiplications``, those of convolutions and matrix
        products in it; for the deep encoder ``deep_bytes`` and ``deep_multiplications`` over
        ``deep_window``.
    """
    windows = list(range(1, len(BLOCKS) + 1))
    repetitions = list(range(config.repetitions))

    def untrained(repetition: int) -> xr.Dataset:
        seed = config.seed + repetition
        network = encoder(config, len(BLOCKS), seed)
        return probed(config, network, seed)[["accuracy"]].rename(accuracy="untrained_accuracy")

    def train(rule: str, window: int, learning_rate: float, seed: int) -> xr.Dataset:
        return trained(config, rule, window, learning_rate, seed)

    def cost(rule: str, window: int) -> xr.Dataset:
        return xr.Dataset(costs(config, len(BLOCKS), rule, window))

    def deep_cost(rule: str, deep_window: int) -> xr.Dataset:
        found = costs(config, config.deep[-1], rule, deep_window)
        return xr.Dataset({f"deep_{name}": value for name, value in found.items()})

    names = tuple(RULES)
    cells = [{"rule": rule, "window": window} for rule in names for window in windows]
    search = Search(config.learning_rates, config.extensions, 1)
    found = iter(
        with_best_rate(sweep, train, cells, search, config.repetitions, "trained", config.seed)
    )
    by_rule = [stack([next(found) for _ in windows], "window", windows) for _ in names]
    parts = [
        stack(by_rule, "rule", names)
        .drop_vars("validation_accuracy")
        .assign_coords(repetition=repetitions),
        grid(sweep, untrained, "untrained", repetition=repetitions),
        grid(sweep, cost, "costs", rule=names, window=windows),
        grid(
            sweep,
            deep_cost,
            "costs of the deep encoder",
            rule=names,
            deep_window=list(config.deep),
        ),
    ]
    images = source(config.images, config.seed, folder=config.data)
    return xr.merge(parts, join="exact").assign_coords(
        data=config.images, chance=1 / images.num_classes
    )


def trained(config: Config, rule: str, window: int, learning_rate: float, seed: int) -> xr.Dataset:
    """The ``cosine`` and the accuracies of one network."""
    images = source(config.images, seed, folder=config.data, device=config.device)
    network = encoder(config, len(BLOCKS), seed)
    watched = [images.held_out_views(k, config.batch, seed) for k in range(config.measured)]

    def batches(step: int) -> Tensor:
        return images.views(step, config.batch, seed)

    fit = partial(fit_by_rule, network, RULES[rule], batches, seed=seed, window=window)
    _, before = fit(Schedule(0, learning_rate, weight_decay=0.0), watched=watched)
    cosines = [before["cosine"].isel(step=0, drop=True)]
    try:
        taught, _ = fit(Schedule(config.steps, learning_rate, weight_decay=0.0))
    except Divergence:
        cosines.append(cosines[0] * float("nan"))
        zero = xr.zeros_like(cosines[0]["layer"], dtype=float)
        judged = xr.Dataset({"accuracy": zero, "joint_accuracy": 0.0, "validation_accuracy": 0.0})
    else:
        cosines.append(update_cosines(network, taught, watched, window=window)["cosine"])
        judged = probed(config, network, seed)
    both = xr.concat(cosines, "time").assign_coords(time=list(TIMES))
    return judged.assign(cosine=both).drop_vars("block", errors="ignore")


def encoder(config: Config, depth: int, seed: int) -> nn.Sequential:
    """The encoder of that many blocks."""
    images = source(config.images, config.seed, folder=config.data).test[0]
    made = networks.build(
        "vgg6",
        width=config.width,
        num_channels=images.shape[1],
        image_size=images.shape[2],
        depth=depth,
        seed=seed,
    )
    return cast(nn.Sequential, made.to(config.device))


def probed(config: Config, network: nn.Module, seed: int) -> xr.Dataset:
    """What linear probes read: ``accuracy`` over layer, ``joint_accuracy`` of all blocks together.

    And the ``validation_accuracy`` of the last block. The search does not look at the test data.
    """
    images = source(config.images, seed, folder=config.data, device=config.device)
    tested = seed < config.seed + SEARCH_SEED
    parts: dict[str, LabelledPixels] = {"train": images.train, "validation": images.validation}
    if tested:
        parts["test"] = images.test
    few = {part: in_batches(evenly_spaced(data, config.judged)) for part, data in parts.items()}
    train = few.pop("train")
    found = probe_blocks(network, BLOCKS, train, few, seed=seed)["accuracy"]
    last = {"validation_accuracy": float(found.sel(part="validation")[len(BLOCKS) - 1])}
    if not tested:
        return xr.Dataset(last)
    test = found.sel(part="test")
    return xr.Dataset(
        {
            "accuracy": ("layer", test.values[:-1]),
            "joint_accuracy": float(test.sel(block="all")),
            **last,
        },
        {"layer": range(1, len(BLOCKS) + 1)},
    )


def costs(config: Config, depth: int, rule: str, window: int) -> dict[str, int]:
    """The ``bytes`` and ``multiplications`` of a forward and backward pass."""
    torch.set_num_threads(1)
    images = source(config.images, config.seed, folder=config.data, device=config.device)
    views = images.views(0, config.batch, config.seed)
    made = LocalTrainer(
        encoder(config, depth, config.seed),
        None,
        RULES[rule],
        shape=views.shape[1:],
        fabric=fabric_on(views.device),
        window=window,
    )
    made.backward(views)  # so that the gradients exist
    with FlopCounterMode(display=False) as counted:
        made.backward(views)
    return {
        "bytes": peak_bytes(partial(made.backward, views), views.device),
        "multiplications": counted.get_total_flops() // 2,
    }
