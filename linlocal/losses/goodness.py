"""Goodness: a loss of squared activities, without a projection."""

from __future__ import annotations

from dataclasses import dataclass, field

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.losses import scores
from linlocal.losses.pairs import TypeTwo
from linlocal.losses.scores import Score, Softplus
from linlocal.pairs import Direction


@dataclass(frozen=True)
class Goodness:
    """Type 2 on goodness: mean over positive f(||s||^2 - threshold) + mean over negative f(...).

    s is the activity itself (Forward-Forward, Hinton 2022, arXiv 2212.13345) or the sum of anchor
    and reference (SCFF, Chen et al. 2025: a concatenated pair read by the same weights twice).
    Gradients run into both. No projection.
    """

    threshold: float = 1.0
    score: Score = field(default_factory=lambda: Softplus(margin=0.0))

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.finite, "threshold")
        scores.check(self.score)

    @property
    def summand(self) -> Score:
        """f; see `linlocal.losses.shape.summand_of`."""
        return self.score

    def value(self, goodness: Array, pairs: Direction) -> float:
        two = TypeTwo(self.score)
        return two.value(pairs.sign * (goodness - self.threshold), pairs)

    def gradient(self, goodness: Array, pairs: Direction) -> Array:
        """d loss / d goodness, (pairs,)."""
        two = TypeTwo(self.score)
        return pairs.sign * two.gradient(pairs.sign * (goodness - self.threshold), pairs)
