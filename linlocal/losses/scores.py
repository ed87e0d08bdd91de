"""Score functions f: convex, decreasing functions of a margin m (a score times its sign).

Every score function has a ``value`` f(m), a ``slope`` f'(m) and a ``curvature`` f''(m), all
elementwise. A function of your own needs just these three methods; see `Score`. One that is linear,
or a hinge, says so by its ``shape``; then closed forms and the solver of hinges apply to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.special import expit

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.losses.shape import Bend, Line


@runtime_checkable
class Score(Protocol):
    """A convex decreasing function f of a margin, elementwise and twice differentiable.

    A function with a kink must have an attribute ``shape``, as `Hinge` does: a
    `linlocal.losses.shape.Bend`. A linear one may have a `linlocal.losses.shape.Line`. A subclass
    that defines one of the three methods anew does not inherit the shape.
    """

    def value(self, m: Array) -> Array:
        """f(m)."""
        ...

    def slope(self, m: Array) -> Array:
        """f'(m) <= 0."""
        ...

    def curvature(self, m: Array) -> Array:
        """f''(m) >= 0."""
        ...


@dataclass(frozen=True)
class Linear:
    """f(m) = -m. The optimal projection has a closed form (statement 6 of docs/theory.md)."""

    @property
    def shape(self) -> Line:
        return Line()

    def value(self, m: Array) -> Array:
        return -m

    def slope(self, m: Array) -> Array:
        return np.full_like(m, -1.0)

    def curvature(self, m: Array) -> Array:
        return np.zeros_like(m)


@dataclass(frozen=True)
class Softplus:
    """f(m) = log(1 + exp(margin - m)), the logistic loss with a margin."""

    margin: float = 1.0

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.finite, "margin")

    def value(self, m: Array) -> Array:
        return np.logaddexp(0.0, self.margin - m)

    def slope(self, m: Array) -> Array:
        return -expit(self.margin - m)

    def curvature(self, m: Array) -> Array:
        return expit(self.margin - m) * expit(m - self.margin)


@dataclass(frozen=True)
class Hinge:
    """f(m) = max(0, margin - m), with the subdifferential [-1, 0] at m = margin.

    ``slope`` returns -1 below the margin and 0 from the margin on. At the optimum of a penalised
    problem pairs do sit on the kink; the slope that makes the optimum stationary is then found by
    `linlocal.optimal_projection`, not by this function.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.finite, "margin")

    @property
    def shape(self) -> Bend:
        return Bend(self.margin)

    def value(self, m: Array) -> Array:
        return np.maximum(0.0, self.margin - m)

    def slope(self, m: Array) -> Array:
        return np.where(m < self.margin, -1.0, 0.0)

    def curvature(self, m: Array) -> Array:
        return np.zeros_like(m)


@dataclass(frozen=True)
class SmoothedHinge:
    """The hinge with its kink replaced by a parabola over ``margin - width <= m <= margin``.

    f(m) = 0 for m >= margin, (margin - m)^2 / (2 width) on the parabola and margin - m - width/2
    below it. Its slope is continuous and tends to the hinge's as width -> 0.

    Raises:
        ValueError: width is not positive (use `Hinge` for width 0).
    """

    margin: float = 1.0
    width: float = 0.5

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.finite, "margin", "width")
        if self.width <= 0:
            raise ValueError(
                f"SmoothedHinge needs a finite width > 0, got {self.width}; use Hinge for width 0."
            )

    @property
    def shape(self) -> Bend:
        return Bend(self.margin, self.width)

    def value(self, m: Array) -> Array:
        gap = np.clip((self.margin - m) / self.width, 0.0, 1.0)
        linear = np.maximum(self.margin - self.width - m, 0.0)
        return 0.5 * self.width * gap**2 + linear

    def slope(self, m: Array) -> Array:
        return -np.clip((self.margin - m) / self.width, 0.0, 1.0)

    def curvature(self, m: Array) -> Array:
        inside = (m < self.margin) & (m > self.margin - self.width)
        return np.where(inside, 1.0 / self.width, 0.0)


def from_name(score: str | Score, margin: float = 1.0) -> Score:
    """The score function called ``score``; an object that already is one passes through.

    Args:
        score: "linear", "softplus", "hinge", "smoothed_hinge" or an object with value, slope and
            curvature.
        margin: the margin of a named score; the linear score has none.

    Raises:
        ValueError: the name is unknown.
        TypeError: the object lacks one of the three methods.
    """
    margin = inputs.finite(margin, "margin")
    if isinstance(score, str):
        named: dict[str, Score] = {
            "linear": Linear(),
            "softplus": Softplus(margin),
            "hinge": Hinge(margin),
            "smoothed_hinge": SmoothedHinge(margin),
        }
        if score not in named:
            raise ValueError(f"Unknown score {score!r}; known scores are {', '.join(named)}.")
        return named[score]
    if not isinstance(score, Score):
        raise TypeError(
            f"A score needs the methods value, slope and curvature; {type(score).__name__} "
            "lacks at least one of them."
        )
    return score


def check(score: Score) -> None:
    """Raise a TypeError unless ``score`` has the three methods."""
    if not isinstance(score, Score):
        raise TypeError(
            "A score needs the methods value, slope and curvature; "
            f"{type(score).__name__} lacks at least one of them: take one of `linlocal.scores`."
        )
