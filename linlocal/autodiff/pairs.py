"""Losses of scored pairs and of goodness in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from linlocal.autodiff.numpy_only import NumpyGoodness, NumpyPairLoss
from linlocal.autodiff.scores import score_formula
from linlocal.losses import Goodness, InfoNCE, PairLoss, TypeOne, TypeTwo


class PairFormula(Protocol):
    """A loss of scored pairs as a torch function."""

    def __call__(self, positive: Tensor, negative: Tensor, real: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            positive: (references,) scores of the positive pairs.
            negative: (references, negatives) scores of the negative pairs of each reference.
            real: (references, negatives) whether each negative pair exists, for references with
                unequal numbers of them; None if all exist.

        Returns:
            A scalar.
        """
        ...


def pair_formula(loss: PairLoss) -> PairFormula:
    """A loss of scored pairs in torch.

    A loss of your own, a subclass of a named one included, is evaluated by its numpy methods.

    Args:
        loss: one of `linlocal.losses`, or your own.
    """
    known = _FORMULAS.get(type(loss))
    return NumpyPairLoss(loss) if known is None else partial(known, loss)


def summed(formula: PairFormula, positive: Tensor, negative: Tensor) -> Tensor:
    """The sum of a loss of scored pairs over view directions.

    Args:
        formula: the loss, as `pair_formula` returns it.
        positive: (directions, references) scores of the positive pairs.
        negative: (directions, references, negatives) scores of the negative pairs.
    """
    if isinstance(formula, NumpyPairLoss):
        return torch.stack([formula(p, n) for p, n in zip(positive, negative, strict=True)]).sum()
    # The named losses are means over references, so all directions are judged in one call.
    return len(positive) * formula(positive.flatten(), negative.flatten(0, 1))


def goodness_formula(loss: Goodness) -> Callable[[Tensor, Tensor], Tensor]:
    """Goodness in torch: a function of the goodness of good samples and of that of bad ones.

    A subclass of your own is evaluated by its numpy methods.
    """
    if type(loss) is not Goodness:
        return NumpyGoodness(loss)
    formula = pair_formula(TypeTwo(loss.score))

    def judged(good: Tensor, bad: Tensor) -> Tensor:
        return formula(good - loss.threshold, bad - loss.threshold)

    return judged


def _type_two(
    loss: TypeTwo, positive: Tensor, negative: Tensor, real: Tensor | None = None
) -> Tensor:
    f = score_formula(loss.score)
    return f(positive).mean() + _mean(f(-negative), real)


def _type_one(
    loss: TypeOne, positive: Tensor, negative: Tensor, real: Tensor | None = None
) -> Tensor:
    return _mean(score_formula(loss.score)(positive[:, None] - negative), real)


def _info_nce(
    loss: InfoNCE, positive: Tensor, negative: Tensor, real: Tensor | None = None
) -> Tensor:
    if real is not None:
        # Not -inf: the Hessian of a masked entry would be 0 * inf.
        negative = negative.masked_fill(~real, -1e30)
    logits = torch.cat([positive[:, None], negative], 1) / loss.temperature
    return -torch.log_softmax(logits, 1)[:, 0].mean()


def _mean(values: Tensor, real: Tensor | None) -> Tensor:
    return values.mean() if real is None else (values * real).sum() / real.sum()


_FORMULAS: dict[type, Callable[..., Tensor]] = {
    TypeTwo: _type_two,
    TypeOne: _type_one,
    InfoNCE: _info_nce,
}
