"""Blockwise self-supervised learning in four blocks against the same loss end to end.

Every variant (loss, head, noise between blocks, order of training) trains the same network on
CIFAR-10 or on two-dimensional images of a Random Hierarchy Model, each block on the detached output
of the block below; the reference trains end to end with the same head and loss. Learning rates are
chosen by the same search on validation data. A linear classifier reads the class from each block;
that of the last block, fitted to clean images, also reads corrupted ones. During simultaneous
training, the gradient of each block's loss is compared with that of the last block's loss
backpropagated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.data import (
    HELD_OUT,
    Images,
    LabelledPixels,
    RHMImages,
    evenly_spaced,
    in_batches,
    labelled_identities,
    named_data,
    source as named_source,
)
from experiments.networks import cut, encoders as networks, narrow_resnet
from experiments.runner import Sweep, stack
from experiments.training import (
    RECORDED_PER_DECADE,
    SEARCH_SEED,
    SUPERVISED,
    VIEW_LOSSES,
    LARSSchedule,
    Order,
    Search,
    corrupted_accuracy,
    headed_rule,
    train_blocks,
    update_cosines,
    with_best_rate,
)
from linlocal.analysis.alignment import log_spaced
from linlocal.analysis.local_losses import ActivityNoise, HeadedRule, HeadKind, Spread
from linlocal.analysis.probing import probe_blocks, stratified_split
from linlocal.analysis.random_states import drawing
from linlocal.analysis.results import known_name
from linlocal.analysis.training import Trainer
from linlocal.rhm import RandomHierarchyModel

# All of `experiments.data.CORRUPTIONS`, in words: presets are listed without importing torch.
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur"),
    *("motion_blur", "zoom_blur", "snow", "fog", "brightness", "contrast", "elastic_transform"),
    *("pixelate", "jpeg_compression"),
)


@dataclass(frozen=True)
class Variant:
    """What is compared.

    Attributes:
        loss: a name in `VIEW_LOSSES`, or "supervised".
        order: order of training; "" leaves the network untrained.
        head: the head of each block.
        noise: what shares the standard deviation of the noise between blocks; "" adds none.
        share: of the steps of each block.
    """

    loss: str = "Barlow Twins"
    order: Order | Literal[""] = "simultaneous"
    head: HeadKind = "expansion"
    noise: Spread | Literal[""] = ""
    share: float = 1.0

    def __str__(self) -> str:
        noise = f"noise per {self.noise}" if self.noise else ""
        head = "" if self.head == "expansion" else f"{self.head} pooling"
        share = f"{self.share:.0%} of the steps" if self.share < 1 else ""
        named = (self.loss, self.order, head, noise, share)
        return ", ".join(filter(None, named)) if self.order else "untrained"


VARIANTS = (
    *(Variant(loss) for loss in (*VIEW_LOSSES, SUPERVISED)),
    *(Variant(loss, "end to end") for loss in (*VIEW_LOSSES, SUPERVISED)),
    *(Variant(noise=noise) for noise in ("channel", "map", "tensor")),
    *(Variant(head=head) for head in ("local", "global")),
    Variant(order="sequential"),
    Variant(order="sequential", share=0.25),
    Variant(order=""),
)
# Those without which a figure has nothing to compare.
MAIN = tuple(
    str(variant)
    for variant in VARIANTS
    if variant.head == "expansion" and variant.noise in ("", "channel")
)


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        network: "narrow" (a residual network of 4 stages, 8 to 64 channels) or "resnet50".
        levels: L of RHM images, whose side is 2^L patches; v = n = 8, m = 4.
        patch: side of a symbol in pixels.
        channels: channels of RHM images.
        train: number of RHM images for training, a fifth of which are kept for validation.
        test: number of RHM images for testing.
        variants: which of `VARIANTS`, by their names.
        steps: steps of training; in the sequential order, of each block.
        batch: images per batch.
        width: width of the expansion in the heads.
        projector: widths of the projectors.
        learning_rates: rates of LARS that the search tries first; the published one is
            0.2 x batch / 256.
        extensions: how often it may try the next one where the best lies at the edge.
        corruptions: names of the corruptions of the test images.
        corrupted: number of test images that are corrupted: the first ones.
        judged: how many images of each part the probes read, evenly spaced; None for all.
        repetitions: number of networks and splits that are reported.
        device: name of the torch device.
        seed: seeds the images, the splits, the networks and the search.
        data: folder of CIFAR-10, in place of RHM images.
    """

    network: Literal["narrow", "resnet50"] = "narrow"
    levels: int = 2
    patch: int = 2
    channels: int = 1
    train: int = 1280
    test: int = 512
    steps: int = 100
    batch: int = 64
    width: int = 64
    projector: tuple[int, ...] = (128, 128)
    learning_rates: tuple[float, ...] = (8.0, 32.0, 128.0)
    extensions: int = 0
    corruptions: tuple[str, ...] = CORRUPTIONS
    corrupted: int = 256
    variants: tuple[str, ...] = tuple(map(str, VARIANTS))
    judged: int | None = None
    repetitions: int = 5
    device: str = "cpu"
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(
        train=160,
        test=32,
        steps=1,
        batch=16,
        width=8,
        projector=(16,),
        learning_rates=(2.0,),
        corruptions=("gaussian_noise", "contrast"),
        corrupted=32,
        repetitions=2,
    ),
    # A corruption of each kind.
    "cpu": Config(
        train=640,
        test=256,
        steps=20,
        learning_rates=(8.0, 32.0),
        corruptions=("gaussian_noise", "motion_blur", "fog", "contrast", "jpeg_compression"),
        corrupted=128,
    ),
    "workstation": Config(
        levels=3,
        train=2560,
        steps=2000,
        learning_rates=(1.0, 3.16, 10.0),
        extensions=2,
        variants=MAIN,
        judged=10_000,
        repetitions=4,
    ),
    "paper": Config(
        network="resnet50",
        levels=5,
        patch=7,
        channels=3,
        train=12_800,
        test=2_560,
        steps=3_000,
        batch=256,
        width=2048,
        projector=(8192, 8192, 8192),
        learning_rates=(0.2, 0.8, 3.2),
        extensions=2,
        corrupted=2_560,
        device="cuda",
    ),
}
PUBLISHED = "arXiv 2302.01647 (ImageNet)"

WANTED = ("cifar10",)
NUM_CLASSES = 8  # of RHM images


BLOCKS = [f"block{l}" for l in range(1, 5)]


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of CIFAR-10."""
    return labelled_identities(folder, named_data(folder, WANTED))


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train and probe every variant.

    Returns:
        Over variant (with coordinates loss, order, head, noise) and repetition: ``accuracy`` of a
        linear probe over layer, ``corrupted_accuracy`` of the last block over corruption and
        severity (0: clean), ``cosine`` over step and layer for the simultaneous order (NaN for
        others); ``search_accuracy`` over candidate, the ``learning_rate`` that was chosen, and
        whether it lies ``inside`` those that were tried.
    """

    def measure(learning_rate: float, seed: int, **variant: Any) -> xr.Dataset:
        judge = tried if seed >= config.seed + SEARCH_SEED else measured
        return judge(config, Variant(**variant), learning_rate, seed)

    known = {str(variant): variant for variant in VARIANTS}
    variants = [known[known_name("variant", name, known)] for name in config.variants]
    cells = [asdict(variant) for variant in variants]
    search = Search(config.learning_rates, config.extensions, 1)
    parts = with_best_rate(
        sweep, measure, cells, search, config.repetitions, "blockwise", config.seed
    )
    labels = {key: ("variant", [asdict(v)[key] for v in variants]) for key in asdict(VARIANTS[0])}
    (name,) = named_data(config.data, WANTED) or ("RHM images",)
    return stack(parts, "variant", config.variants).assign_coords(
        {
            **labels,
            "chance": 1 / source(config, config.seed).num_classes,
            "data": name,
        }
    )


def tried(config: Config, variant: Variant, learning_rate: float, seed: int) -> xr.Dataset:
    """Train one network for the search.

    Returns:
        ``validation_accuracy`` of the last block: 0 where training diverged.
    """
    network = _trained(config, variant, learning_rate, seed)
    parts = {"train": source(config, seed).train, "validation": source(config, seed).validation}
    probed = _probed(config, network, parts, BLOCKS[-1:], seed)
    return xr.Dataset({"validation_accuracy": probed["validation"][0]})


def measured(config: Config, variant: Variant, learning_rate: float, seed: int) -> xr.Dataset:
    """Train one network and probe its blocks.

    Returns:
        ``accuracy`` (layer), ``corrupted_accuracy`` (corruption, severity), ``cosine`` (step,
        layer), and ``validation_accuracy`` of the last block: 0 where training diverged.
    """
    cosines: dict[int, NDArray[np.float64]] = {}
    watched = [source(config, seed).held_out_views(0, config.batch, seed)]

    def record(step: int, trainer: Trainer) -> None:
        if variant.order == "simultaneous" and step in due:
            with drawing(torch.device(config.device), seed, step):  # noise
                found = update_cosines(trainer.model, trainer.losses, watched)
                cosines[step] = found["cosine"].values

    due = [*filter(log_spaced(RECORDED_PER_DECADE), range(config.steps)), config.steps]
    network = _trained(config, variant, learning_rate, seed, record)
    images = source(config, seed)
    undefined = np.full(len(BLOCKS), np.nan)
    parts = {"train": images.train, "test": images.test, "validation": images.validation}
    probed = _probed(config, network, parts, BLOCKS, seed)
    return xr.Dataset(
        {
            "accuracy": ("layer", probed["test"]),
            "corrupted_accuracy": corrupted_accuracy(
                network,
                evenly_spaced(images.train, config.judged),
                (images.test[0][: config.corrupted], images.test[1][: config.corrupted]),
                config.corruptions,
                seed,
            ),
            "validation_accuracy": probed["validation"][-1],
            "cosine": (("step", "layer"), np.stack([cosines.get(s, undefined) for s in due])),
        },
        {"step": due, "layer": range(1, len(BLOCKS) + 1)},
    )


def _trained(
    config: Config,
    variant: Variant,
    learning_rate: float,
    seed: int,
    before_step: Callable[[int, Trainer], None] | None = None,
) -> nn.Module | None:
    """The network of a variant after training; None if it diverged."""
    torch.set_num_threads(1)
    images = source(config, seed)
    network = build(config, variant, seed).to(config.device)
    if not variant.order:
        return network
    try:
        train_blocks(
            network,
            rule_of(config, variant),
            lambda step: images.labelled_views(step, config.batch, seed),
            LARSSchedule(max(1, round(variant.share * config.steps)), learning_rate),
            variant.order,
            seed=seed,
            before_step=before_step,
        )
    except FloatingPointError:
        return None
    return network


def build(config: Config, variant: Variant, seed: int) -> nn.Sequential:
    """The network of a variant, cut into four blocks."""
    noise = ActivityNoise(per=variant.noise) if variant.noise else None
    _, channels, side, _ = source(config, config.seed).test[0].shape
    if config.network == "narrow":
        return cut(narrow_resnet(8, channels, seed=seed), noise=noise)
    whole = networks.build(config.network, num_channels=channels, image_size=side, seed=seed)
    return cut(whole, noise=noise)


def rule_of(config: Config, variant: Variant) -> HeadedRule:
    """The loss of each block."""
    return headed_rule(
        variant.loss,
        source(config, config.seed).num_classes,
        width=config.width,
        projector=config.projector,
        kind=variant.head,
    )


# A sweep asks for the same images at point after point.
@lru_cache(maxsize=4)
def source(config: Config, seed: int) -> Images:
    """CIFAR-10, or RHM images whose views have all below the latents of level 1 drawn anew."""
    if config.data is not None:
        (name,) = named_data(config.data, WANTED)
        return named_source(name, seed, folder=config.data, device=config.device)
    rhm = RandomHierarchyModel(
        num_classes=NUM_CLASSES,
        num_symbols=NUM_CLASSES,
        num_synonyms=4,
        num_levels=config.levels,
        tuple_size=4,
        seed=seed,
    )
    drawn = RHMImages(
        rhm,
        train=config.train,
        test=config.test,
        patch_size=config.patch,
        num_channels=config.channels,
        seed=seed,
    )
    data = drawn.data()
    rest, held_out = map(torch.from_numpy, stratified_split(data.train_labels, HELD_OUT, seed))

    def views(rows: Tensor, view_seed: int) -> Tensor:
        return drawn.two_views(rows.numpy(), level=1, seed=view_seed).to(config.device)

    known, test = (
        (torch.as_tensor(images), torch.from_numpy(labels))
        for images, labels in ((data.train, data.train_labels), (data.test, data.test_labels))
    )
    return Images(known, rest, held_out, test, NUM_CLASSES, views)


def _probed(
    config: Config,
    network: nn.Module | None,
    parts: Mapping[str, LabelledPixels],
    blocks: list[str],
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """The accuracy of a probe of each block on each part but "train"."""
    if network is None:
        return {part: np.zeros(len(blocks)) for part in parts}
    few = {part: in_batches(evenly_spaced(data, config.judged)) for part, data in parts.items()}
    train = few.pop("train")
    found = probe_blocks(network, blocks, train, few, seed=seed)
    return {part: found["accuracy"].sel(part=part).values[:-1] for part in few}
