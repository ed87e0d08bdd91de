"""Sizes and options of a long run, and the network and losses that they describe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from experiments.data import NUM_CHANNELS
from experiments.networks import cut, encoders as networks, narrow_resnet
from experiments.pretrain.sealed import sealed, unsealed
from experiments.training import SUPERVISED, headed_rule
from linlocal.analysis import results
from linlocal.analysis.alignment import Cadence, log_spaced
from linlocal.analysis.local_losses import ActivityNoise, HeadedRule, LocalRule, Shape
from linlocal.analysis.results import Provenance, ResultError

EXPERIMENT = "pretrain"
NETWORKS = ("resnet50", "resnet18", "vit", "narrow")
LOSS_NAMES = {
    "barlow": "Barlow Twins",
    "vicreg": "VICReg",
    "simclr": "SimCLR",
    SUPERVISED: SUPERVISED,
}
ORDERS = ("simultaneous", "end to end")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
NEVER, LOG = "never", "log"


@dataclass(frozen=True)
class Settings:
    """The settings of a run: all that its weights depend on, and what is measured.

    Attributes:
        data: images to train on, as `experiments.data.Origin` parses them.
        network: one of `NETWORKS`; "narrow" is a residual network of 4 stages, 8 to 64 channels.
        loss: one of `LOSS_NAMES`.
        order: "simultaneous" (each block by its own loss) or "end to end" (by that of the last).
        noise: scale of the noise between blocks; 0.25 in the paper, 0 for none.
        epochs: epochs of training.
        steps: steps of training, which replace the epochs where it is not 0.
        batch: images in a batch, all processes together.
        size: side of the images in pixels.
        levels: L of RHM images.
        images: length of an epoch of RHM images.
        test: number of RHM test images.
        probe: number of training images to which the linear probe is fitted.
        width: width of the expansion in the heads.
        projector: widths of the projectors.
        learning_rate: learning rate of LARS for a batch of 256.
        precision: a precision that Fabric knows.
        checkpoint_every: steps between checkpoints.
        record_every: steps between recorded cosines, "log" (8 in each decade) or "never".
        log_every: steps between lines of the log.
        seed: seeds the data, the views, the weights and the noise.
    """

    data: str = "rhm"
    network: str = "resnet50"
    loss: str = "barlow"
    order: str = "simultaneous"
    noise: float = 0.25
    epochs: int = 300
    steps: int = 0
    batch: int = 2048
    size: int = 224
    levels: int = 5
    images: int = 1_281_167
    test: int = 10_000
    probe: int = 50_000
    width: int = 2048
    projector: tuple[int, ...] = (8192, 8192, 8192)
    learning_rate: float = 0.2
    precision: str = "bf16-mixed"
    checkpoint_every: int = 1000
    record_every: str = LOG
    log_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, known in (
            ("network", NETWORKS),
            ("loss", LOSS_NAMES),
            ("order", ORDERS),
            ("precision", PRECISIONS),
        ):
            results.known_name(kind, getattr(self, kind), known)
        for name in ("epochs", "batch", "size", "checkpoint_every", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ResultError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("steps", "noise", "seed"):
            if not getattr(self, name) >= 0:
                raise ResultError(f"{name} must not be negative, got {getattr(self, name)}.")
        self.cadence()

    def cadence(self) -> Cadence | None:
        """When cosines are recorded; never end to end, where the lower blocks have no loss.

        Raises:
            ResultError: neither a positive number nor a known word.
        """
        text = self.record_every
        if text == LOG:
            cadence: Cadence = log_spaced(8)
        elif text.isdecimal() and int(text) > 0:
            cadence = int(text)
        elif text != NEVER:
            raise ResultError(f"record_every must be steps, {LOG} or {NEVER}, got {text!r}.")
        return cadence if text != NEVER and self.order == "simultaneous" else None


PRESETS = {
    "smoke": Settings(
        network="narrow",
        steps=3,
        batch=8,
        size=8,
        levels=2,
        images=64,
        test=16,
        probe=256,
        width=8,
        projector=(16,),
        learning_rate=2.0,
        precision="32-true",
        checkpoint_every=2,
        record_every="1",
        log_every=1,
    ),
    "cpu": Settings(
        network="narrow",
        steps=300,
        batch=64,
        size=16,
        levels=3,
        images=6400,
        test=1000,
        probe=2000,
        width=64,
        projector=(128, 128),
        learning_rate=8.0,
        precision="32-true",
        checkpoint_every=50,
        log_every=10,
    ),
    "paper": Settings(),
}


@dataclass(frozen=True)
class Synchronised:
    """A rule whose losses share the statistics of batch normalisation among processes.

    Attributes:
        rule: a rule of `linlocal.analysis.local_losses`, or your own.
    """

    rule: LocalRule

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One loss for each block; see `linlocal.analysis.local_losses.LocalRule`."""
        losses: nn.ModuleList = synchronised(self.rule.build(shapes, seed))
        return losses


def synchronised(module: nn.Module) -> Any:
    """The module with all its batch normalisation synchronised."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(module)


def network_of(settings: Settings) -> nn.Sequential:
    """The network, cut into four blocks."""
    noise = ActivityNoise(settings.noise) if settings.noise else None
    if settings.network == "narrow":
        return cut(narrow_resnet(8, NUM_CHANNELS, seed=settings.seed), noise=noise)
    name: Any = settings.network
    return cut(networks.build(name, image_size=settings.size, seed=settings.seed), noise=noise)


def rule_of(settings: Settings, num_classes: int) -> HeadedRule:
    """The loss of each block, of the joined batch of all processes, however many there are."""
    return headed_rule(
        LOSS_NAMES[settings.loss],
        num_classes,
        width=settings.width,
        projector=settings.projector,
        gathered=True,
    )


def claim(folder: Path, settings: Settings) -> None:
    """Take the folder for this run; the first process does it, which owns the folder.

    Raises:
        ResultError: the folder belongs to another run, or what says so is damaged.
    """
    path = folder / "settings.json"
    try:
        there = unsealed(path.read_bytes())
    except FileNotFoundError:
        try:
            with results.replacing(path) as file:
                file.write((json.dumps(sealed(asdict(settings)), indent=1) + "\n").encode())
        except OSError as error:
            raise ResultError(results.why_not_written(path, error)) from error
        return
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}.") from error
    if there is None:
        raise ResultError(
            f"{path} is damaged, was edited, or is of an earlier version: put a copy back, or "
            "delete it and give the options of the run (a checkpoint goes on only with those that "
            "its training had)."
        )
    _refuse_other(folder, there, settings)


def finished(folder: Path, settings: Settings) -> Provenance | None:
    """The provenance of the result of this run, None if it has none yet.

    Raises:
        ResultError: what has the name of the result is none, or that of another run.
    """
    path = folder / "pretrain.nc"
    try:
        if not path.exists():
            return None
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}.") from error
    found = Provenance.of(results.read(path))
    try:
        config = json.loads(found.config)
    except (TypeError, ValueError, RecursionError):
        config = None
    if found.experiment != EXPERIMENT or not isinstance(config, dict):
        raise ResultError(
            f"{path} is a result of {found.experiment!r}, not of a run of {EXPERIMENT}: move it "
            "away, or give another --out."
        )
    _refuse_other(folder, config, settings)
    return found


def _refuse_other(folder: Path, there: Mapping[str, Any], settings: Settings) -> None:
    mine = json.loads(json.dumps(asdict(settings)))
    for name in mine:
        if there.get(name) != mine[name]:
            raise ResultError(
                f"{folder} holds a run with {name} = {there.get(name)}, this one has "
                f"{mine[name]}: give the same options to go on, or another --out."
            )
