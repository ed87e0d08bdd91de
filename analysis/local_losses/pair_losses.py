"""Losses of scored pairs in torch: f of `linlocal.scores` and the scalings of `linlocal.losses`.

Every reference k has one positive pair, whose score is ``positive[k]``, and negative pairs, whose
scores are the row ``negative[k]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from linlocal.losses import Score, scores

Negatives = Literal["next", "all"]


def score_value(score: Score, m: Tensor) -> Tensor:
    """f(m), elementwise.

    Args:
        score: one of the score functions of `linlocal.scores`.
        m: margins, of any shape.

    Raises:
        TypeError: a score function that torch does not know.
    """
    match score:
        case scores.Linear():
            return -m
        case scores.Softplus():
            return functional.softplus(score.margin - m, threshold=50.0)
        case scores.Hinge():
            return (score.margin - m).relu()
        case scores.SmoothedHinge():
            gap = ((score.margin - m) / score.width).clamp(0.0, 1.0)
            return 0.5 * score.width * gap.square() + (score.margin - score.width - m).relu()
    raise _unknown(score)


def score_slope(score: Score, m: Tensor) -> Tensor:
    """f'(m) <= 0, elementwise, by its formula; arguments and errors as `score_value`."""
    match score:
        case scores.Linear():
            return torch.full_like(m, -1.0)
        case scores.Softplus():
            return -(score.margin - m).sigmoid()
        case scores.Hinge():
            return -(m < score.margin).to(m.dtype)
        case scores.SmoothedHinge():
            return -((score.margin - m) / score.width).clamp(0.0, 1.0)
    raise _unknown(score)


def _unknown(score: Score) -> TypeError:
    return TypeError(
        f"There is no torch version of the score {type(score).__name__}; use linear, softplus, "
        "hinge or smoothed_hinge."
    )


class PairLoss(ABC):
    """A loss of the scores of pairs."""

    @abstractmethod
    def __call__(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss.

        Args:
            positive: (references,) scores of the positive pairs.
            negative: (references, negatives) scores of the negative pairs of each reference.

        Returns:
            A scalar.
        """


@dataclass(frozen=True)
class TypeTwo(PairLoss):
    """mean over positive pairs f(u) + mean over negative pairs f(-u).

    Illing et al. 2021 (arXiv 2010.08262), eq. 5.
    """

    score: Score

    def __call__(self, positive: Tensor, negative: Tensor) -> Tensor:
        return score_value(self.score, positive).mean() + score_value(self.score, -negative).mean()


@dataclass(frozen=True)
class TypeOne(PairLoss):
    """mean over negative pairs f(u_positive - u_negative).

    Momeni et al. 2023, Science 382, 1297.
    """

    score: Score

    def __call__(self, positive: Tensor, negative: Tensor) -> Tensor:
        return score_value(self.score, positive[:, None] - negative).mean()


@dataclass(frozen=True)
class CrossEntropy(PairLoss):
    """mean over positive pairs of log(1 + sum_j exp(-(u_positive - u_j) / temperature)).

    InfoNCE: van den Oord et al. 2018 (arXiv 1807.03748), eq. 4.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")

    def __call__(self, positive: Tensor, negative: Tensor) -> Tensor:
        logits = torch.cat([positive[:, None], negative], 1) / self.temperature
        return -functional.log_softmax(logits, 1)[:, 0].mean()


def check_negatives(negatives: str) -> None:
    """Raise ValueError unless there is such a choice of negatives."""
    if negatives not in get_args(Negatives):
        raise ValueError(f'negatives must be "next" or "all", got {negatives!r}.')


def pair_scores(z: Tensor, sent: Tensor, negatives: Negatives) -> tuple[Tensor, Tensor]:
    """u = z . (B c) of every reference with its own anchor and with those of other samples.

    Args:
        z: (samples, features) anchors.
        sent: (samples, features) B c of the references.
        negatives: "next": the anchor of the next sample (cyclic); "all": those of all others.

    Returns:
        (samples,) positive and (samples, negatives) negative scores, in float32 or wider.
    """
    wide = torch.promote_types(z.dtype, torch.float32)
    z, sent = z.to(wide), sent.to(wide)
    positive = (z * sent).sum(1)
    if negatives == "next":
        return positive, (z.roll(-1, 0) * sent).sum(1, keepdim=True)
    with torch.autocast(z.device.type, enabled=False):
        return positive, without_diagonal(sent @ z.T)


def without_diagonal(k: Tensor) -> Tensor:
    """(n, n) to (n, n - 1): each row without its entry on the diagonal."""
    n = len(k)
    return k.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


def views_of(here: Tensor) -> tuple[Tensor, Tensor]:
    """Both views of a stacked batch (2 samples, ...).

    Raises:
        ValueError: an odd number of rows, or fewer than 2 samples.
    """
    if len(here) % 2 or len(here) < 4:
        raise ValueError(
            f"A local loss needs both views of at least 2 samples, stacked: an even number of rows "
            f"from 4 on, got {len(here)}; concatenate the views, and use drop_last=True in the "
            "loader."
        )
    half = len(here) // 2
    return here[:half], here[half:]
