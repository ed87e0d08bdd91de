"""Blockwise training: noise after a block, and a head and a projector before its loss.

Siddiqui et al. 2023 (arXiv 2302.01647). The heads are parts of the local losses. Each is trained
with the block that it judges, and the block's representation is what comes before the head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linlocal import inputs
from linlocal.analysis.local_losses.contract import LocalLoss, labels_of, views_of
from linlocal.analysis.local_losses.gather import gather_views
from linlocal.analysis.local_losses.pooling import Cells, Shape, as_map, shapes_of
from linlocal.analysis.local_losses.slices import FreshSlices, sliced
from linlocal.autodiff import ViewFormula, view_formula
from linlocal.losses import BarlowTwins, ViewLoss

HeadKind = Literal["expansion", "local", "global"]
Spread = Literal["channel", "map", "tensor"]

# The axes of a map (samples, channels, height, width) over which a standard deviation is taken.
_AXES: dict[Spread, tuple[int, ...]] = {
    "channel": (0, 2, 3),
    "map": (2, 3),
    "tensor": (0, 1, 2, 3),
}


class ActivityNoise(nn.Module):
    """z + scale std(z) N(0, 1) in training, z otherwise; no gradient runs through std(z).

    Args:
        scale: the standard deviation of the noise relative to that of z; 0.25 in the paper.
        per: what shares a standard deviation: a "channel" over samples and places, a "map" (one
            channel of one sample) over its places, or the whole "tensor".

    Raises:
        ValueError: ``per`` is unknown, or the scale is negative or not finite.
        TypeError: the scale is no number.
    """

    def __init__(self, scale: float = 0.25, per: Spread = "channel") -> None:
        super().__init__()
        if per not in _AXES:
            raise ValueError(f"per must be one of {', '.join(_AXES)}, got {per!r}.")
        self.scale, self.per = inputs.not_negative(scale, "scale"), per

    def forward(self, z: Tensor) -> Tensor:
        """A block's output with noise.

        Args:
            z: the block's output, in one of the shapes that `local_losses.pooling.as_map` takes.

        Raises:
            ValueError: the noise is per "map" and maps have a single place.
        """
        if not self.training:
            return z
        maps = as_map(z)
        if self.per == "map" and maps.shape[2:].numel() == 1:
            raise ValueError(
                'Noise per "map" needs the variance over the places of a map, but outputs of shape '
                f'{tuple(z.shape)} have a single place; use "channel" or "tensor".'
            )
        std = maps.detach().std(_AXES[self.per], correction=0, keepdim=True)
        noise = torch.randn_like(maps) * (self.scale * std)
        return z + (noise.squeeze(3).transpose(1, 2) if z.ndim == 3 else noise.view_as(z))


def head(kind: HeadKind, shape: Shape, width: int = 2048) -> nn.Module:
    """The map from a block's output to a vector, (samples, features).

    Args:
        kind: what the head does. "expansion": a 1x1 convolution to ``width`` channels, batch
            normalisation, ReLU and the average over the places. "local": the averages of 2x2
            cells, side by side. "global": the average over all places.
        shape: the shape of the block's output, without the axis of samples. Tokens are places in
            one column.
        width: the number of channels of the expansion.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in get_args(HeadKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(HeadKind))}, got {kind!r}.")
    width = inputs.whole(width, "width", 1)
    if kind != "expansion":
        return _Averages(2 if kind == "local" else 1)
    channels = as_map(torch.empty(1, *shape, device="meta")).shape[1]
    return nn.Sequential(
        _AsMap(),
        nn.Conv2d(channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        _MeanOfPositive(),
    )


class _Averages(nn.Module):
    """Averages of ``side`` x ``side`` cells, side by side."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.pool = Cells(side)

    def forward(self, z: Tensor) -> Tensor:
        return self.pool(z)


class _MeanOfPositive(nn.Module):
    """ReLU and the average over the places, in fewer passes over the maps than one by one."""

    def forward(self, z: Tensor) -> Tensor:
        return (z * (z > 0)).sum((2, 3)) / z.shape[2:].numel()


class _AsMap(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return as_map(z)


def projector(features: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths, all but the last with batch normalisation and ReLU.

    Args:
        features: the number of features of the input.
        widths: the widths of the layers; 8192, 8192, 8192 in the paper. Without layers the
            projector is the identity.
    """
    layers: list[nn.Module] = []
    features, sizes = inputs.whole(features, "features", 1), _widths(widths, "widths")
    for l, width in enumerate(sizes, start=1):
        last = l == len(sizes)
        layers.append(nn.Linear(features, width, bias=False))
        layers += [] if last else [nn.BatchNorm1d(width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers)


def _widths(values: Any, name: str) -> tuple[int, ...]:
    each = inputs.sequence(values, name, "whole numbers")
    return tuple(inputs.whole(width, f"an entry of {name}", 1) for width in each)


class HeadedLoss(LocalLoss):
    """A loss behind a head and a projector of its own. Built by a `HeadedRule`.

    Args:
        head: turns a block's output into a vector.
        projector: maps this vector to what is judged.
        judge: gives the loss of the projected vectors, (2N, features), and of the batch.
    """

    def __init__(
        self, head: nn.Module, projector: nn.Module, judge: Callable[[Tensor, Any], Tensor]
    ) -> None:
        super().__init__()
        self.head, self.projector, self.judge = head, projector, judge

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        return self.judge(self.projector(self.head(here)), batch)


@dataclass(frozen=True, kw_only=True)
class HeadedRule(ABC):
    """What rules with a head and a projector have in common.

    Attributes:
        kind: the kind of the `head`.
        width: the number of channels of the head's expansion.
        widths: the widths of the `projector`'s layers.

    Raises:
        ValueError: an unknown kind, or a width below 1.
        TypeError: a width that is not whole.
    """

    kind: HeadKind = "expansion"
    width: int = 2048
    widths: tuple[int, ...] = (8192, 8192, 8192)
    compares: ClassVar[Literal["views", "contrasts"] | None] = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(HeadKind):
            known = ", ".join(get_args(HeadKind))
            raise ValueError(f"kind must be one of {known}, got {self.kind!r}.")
        inputs.keep(self, partial(inputs.whole, least=1), "width")
        inputs.keep(self, _widths, "widths")

    @abstractmethod
    def judge(self, z: Tensor, batch: Any) -> Tensor:
        """The loss of projected activities, (2N, features), and of the batch with its labels."""

    def _judge_of_block(self) -> Callable[[Tensor, Any], Tensor]:
        """The judge of one block; a module if it has a state of its own."""
        return self.judge

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One `HeadedLoss` for each block; the global random state stays as it is.

        Args:
            shapes: the shapes of the blocks' outputs, without the axis of samples.
            seed: seeds the weights.
        """
        losses = nn.ModuleList()
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(inputs.whole(seed, "seed", 0))
            for shape in shapes_of(shapes):
                first = head(self.kind, shape, self.width)
                with torch.no_grad():
                    features = first.eval()(torch.zeros(1, *shape)).shape[1]
                after = projector(features, self.widths)
                loss = HeadedLoss(first.train(), after, self._judge_of_block())
                loss.compares = self.compares
                losses.append(loss)
        return losses


@dataclass(frozen=True, kw_only=True)
class HeadedViews(HeadedRule):
    """scale * loss of two views behind a head and a projector, in every block.

    Siddiqui et al. 2023 (arXiv 2302.01647), by default with the published loss.

    Attributes:
        loss: the loss of two views, one of `linlocal.losses` or your own.
        scale: the factor of the loss.
        gathered: whether the loss is that of the joined batch of all processes, see
            `GatheredRule`.
        fresh_slices: whether random slices are drawn anew in each step, as for `NetworkRule`. So
            SIGReg and VISReg are published, behind a projector.

    Raises:
        ValueError, TypeError: as `HeadedRule`, or the loss has no random slices.
    """

    loss: ViewLoss = field(default_factory=lambda: BarlowTwins(weight=0.0051))
    scale: float = 0.024
    gathered: bool = False
    fresh_slices: bool = False
    compares: ClassVar[Literal["views", "contrasts"] | None] = "views"

    def __post_init__(self) -> None:
        super().__post_init__()
        inputs.keep(self, inputs.finite, "scale")
        inputs.keep(self, inputs.flag, "gathered", "fresh_slices")
        if self.fresh_slices:
            sliced(self.loss)

    def judge(self, z: Tensor, batch: Any) -> Tensor:
        return self._judged(z, view_formula(self.loss))

    def _judge_of_block(self) -> Callable[[Tensor, Any], Tensor]:
        return _FreshJudge(self) if self.fresh_slices else self.judge

    def _judged(self, z: Tensor, formula: ViewFormula) -> Tensor:
        # Gathered behind the projector, where outputs are small.
        z = gather_views(z) if self.gathered else z
        return self.scale * formula(*views_of(z))


class _FreshJudge(nn.Module):
    """`HeadedViews.judge` with slices that are drawn anew in each step."""

    def __init__(self, rule: HeadedViews) -> None:
        super().__init__()
        self.rule, self.formula = rule, FreshSlices(rule.loss)

    def forward(self, z: Tensor, batch: Any) -> Tensor:
        return self.rule._judged(z, self.formula)


@dataclass(frozen=True, kw_only=True)
class HeadedClasses(HeadedRule):
    """Cross-entropy of classes behind a head and a projector, in every block.

    The loss reads the labels of the batch, see `labels_of`. The last of the projector's ``widths``
    must be the number of classes.
    """

    def judge(self, z: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(z.float(), labels_of(batch, len(z), z.device))
