"""Local rules for networks: each builds one loss for every block.

A rule is data, as in `linlocal.rules`; ``rule.build(shapes, seed)`` makes its modules, one for each
block and with the parameters of its projections. A *local loss* is called with the block's output
``here`` (2N, ...), the first N rows one view and the last N rows the other, row by row of the same
data, and with the last block's output ``top``, stacked alike. It returns a scalar. Its global
counterpart (BP-SSL) is the loss of the last block, backpropagated through all blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.local_losses import pair_losses, view_losses
from linlocal.analysis.local_losses.pair_losses import Negatives, PairLoss, views_of
from linlocal.analysis.local_losses.pooling import Pool, Pooling, Shape, pools
from linlocal.analysis.local_losses.scored_pairs import ProjectionKind, ScoredRule
from linlocal.losses import Score, scores


class LocalRule(Protocol):
    """Anything that builds one local loss for each block."""

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """The local losses of blocks with outputs of these shapes (without the samples' axis)."""
        ...


def checked_rule(rule: LocalRule) -> LocalRule:
    """``rule`` if it can build losses.

    Raises:
        TypeError: it cannot.
    """
    if not callable(getattr(rule, "build", None)):
        raise TypeError(
            "rule must be one of `linlocal.analysis.local_losses`, or your own with a method "
            f"build, got {inputs.described(rule)}."
        )
    return rule


# -- scored pairs ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CLAPP(ScoredRule):
    """CLAPP++: mean over positive pairs f(u) + mean over negative pairs f(-u) (type 2).

    Illing et al. 2021 (arXiv 2010.08262); with dependence on the place, direct feedback (context
    "top") and both: Wu et al. 2026 (arXiv 2601.21683).

    Attributes:
        score: f, a name or an object of `linlocal.scores`.
        margin: of a named f.
    """

    score: str | Score = "hinge"
    margin: float = 1.0

    def pair_loss(self) -> PairLoss:
        return pair_losses.TypeTwo(scores.from_name(self.score, self.margin))


@dataclass(frozen=True, kw_only=True)
class InfoNCE(ScoredRule):
    """Greedy InfoMax: cross-entropy of the positive pair among the others in the batch.

    Loewe et al. 2019 (arXiv 1905.11786); here views take the place of steps in time.
    """

    temperature: float = 1.0
    negatives: Negatives = "all"

    def pair_loss(self) -> PairLoss:
        return pair_losses.CrossEntropy(self.temperature)


@dataclass(frozen=True, kw_only=True)
class PhyLL(ScoredRule):
    """PhyLL: f(u_positive - u_negative) with B = I (type 1); Momeni et al. 2023, Science 382, 1297.

    Attributes:
        score: f, a name or an object of `linlocal.scores`.
        margin: of a named f.
    """

    score: str | Score = "softplus"
    margin: float = 0.0
    projection: ProjectionKind = "identity"

    def pair_loss(self) -> PairLoss:
        return pair_losses.TypeOne(scores.from_name(self.score, self.margin))


# -- goodness --------------------------------------------------------------------------------------


class _GoodnessLoss(nn.Module):
    """Type 2 on goodness ||s||^2 - threshold, of pooled activities or of sums of two."""

    def __init__(self, rule: _GoodnessRule, pool: Pool) -> None:
        super().__init__()
        self.rule, self.pool = rule, pool
        self.loss = pair_losses.TypeTwo(scores.from_name(rule.score, rule.margin))

    def forward(self, here: Tensor, top: Tensor) -> Tensor:
        """The loss; ``top`` is not used."""
        z = self.pool(here)
        first, second = views_of(z.to(torch.promote_types(z.dtype, torch.float32)))
        return torch.stack(
            [
                self.loss(self._excess(good), self._excess(bad))
                for good, bad in self.rule.judged(first, second)
            ]
        ).sum()

    def _excess(self, judged: Tensor) -> Tensor:
        squared = judged.square()
        size = squared.sum(1) if self.rule.goodness == "sum" else squared.mean(1)
        return size - self.rule.threshold


@dataclass(frozen=True, kw_only=True)
class _GoodnessRule(ABC):
    threshold: float = 1.0
    score: str | Score = "softplus"
    margin: float = 0.0
    goodness: Literal["sum", "mean"] = "sum"
    pooling: Pooling = 1

    def __post_init__(self) -> None:
        if self.goodness not in ("sum", "mean"):
            raise ValueError(f'goodness must be "sum" or "mean", got {self.goodness!r}.')

    @abstractmethod
    def judged(self, first: Tensor, second: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What should be good, and what bad, in each direction."""

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One loss without parameters for each block; see `LocalRule`."""
        return nn.ModuleList(_GoodnessLoss(self, p) for p in pools(self.pooling, len(shapes)))


@dataclass(frozen=True, kw_only=True)
class ForwardForward(_GoodnessRule):
    """Forward-Forward: goodness ||z||^2 against a threshold; Hinton 2022 (arXiv 2212.13345).

    The first half of the batch is positive data and the last half negative data: they take the
    place of the two views. For images `local_losses.hybrid_images` makes negative data.

    Attributes:
        threshold: of the goodness.
        score: f, a name or an object of `linlocal.scores`.
        margin: of a named f.
        goodness: "sum" of squares, or their "mean", which needs no threshold of each width.
        pooling: of each block, see `local_losses.pools`.
    """

    def judged(self, first: Tensor, second: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(first, second)]


@dataclass(frozen=True, kw_only=True)
class SCFF(_GoodnessRule):
    """Self-contrastive Forward-Forward: goodness of z_a + z_b (Chen et al. 2025).

    The sum is a concatenated pair read by the same weights twice. Positive: both views of a datum;
    negative: a view and the other view of the next datum, in both directions. Attributes as in
    `ForwardForward`.
    """

    def judged(self, first: Tensor, second: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(a + b, a.roll(-1, 0) + b) for a, b in ((first, second), (second, first))]


# -- two whole views -------------------------------------------------------------------------------


class _PooledViews(nn.Module):
    """A loss of two views on pooled activities."""

    def __init__(self, loss: view_losses.ViewLoss, pool: Pool) -> None:
        super().__init__()
        self.loss, self.pool = loss, pool

    def forward(self, here: Tensor, top: Tensor) -> Tensor:
        """The loss; ``top`` is not used."""
        return self.loss(*views_of(self.pool(here)))


@dataclass(frozen=True)
class Views:
    """A loss of two views in every block: VICReg, Barlow Twins, LPL, NT-Xent and kin.

    Attributes:
        loss: of `local_losses`, or your own.
        pooling: of each block, see `local_losses.pools`.
    """

    loss: view_losses.ViewLoss = field(default_factory=view_losses.VICReg)
    pooling: Pooling = "global"

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One loss without parameters for each block; see `LocalRule`."""
        return nn.ModuleList(_PooledViews(self.loss, p) for p in pools(self.pooling, len(shapes)))
