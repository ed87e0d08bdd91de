"""What a score or a loss says of its own formula, and when that is believed.

Closed forms and the solver of hinges need to know more of f than its value and two derivatives.
They ask f: a score may have a `shape`, and a loss that is a weighted sum of scores a ``summand``.
Such a statement belongs to the formula beside which it is written. A subclass that changes the
formula does not inherit it: it says so itself, or it is treated as any smooth function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linlocal import inputs


@dataclass(frozen=True)
class Line:
    """The slope f' is the same everywhere."""


@dataclass(frozen=True)
class Bend:
    """f' rises from -1 to 0, linearly over margin - width <= m <= margin; a kink if width = 0.

    So f(m) = 0 above the margin, (margin - m)^2 / (2 width) on the parabola and
    margin - m - width/2 below it.

    Raises:
        ValueError: a margin that is not finite, or a negative width.
    """

    margin: float
    width: float = 0.0

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.finite, "margin")
        inputs.keep(self, inputs.not_negative, "width")


Shape = Line | Bend


def says(thing: Any, statement: str, formula: Sequence[str]) -> Any:
    """What ``thing`` says of its formula, or None if it says nothing that holds.

    Args:
        thing: a score or a loss.
        statement: the name of the attribute that says it.
        formula: the names of the methods that the statement is about. One that is defined further
            down in the tree of classes, or on the object itself, makes the statement void.
    """
    classes = [vars(thing) if hasattr(thing, "__dict__") else {}, *map(vars, type(thing).__mro__)]

    def place(name: str) -> int:
        return next((i for i, names in enumerate(classes) if name in names), len(classes))

    stated = place(statement)
    if stated == len(classes) or any(place(name) < stated for name in formula):
        return None
    return getattr(thing, statement)


def shape_of(score: Any) -> Shape | None:
    """The shape that a score says it has, checked at some margins; None for any other function.

    Raises:
        ValueError: its slopes are not those of the shape.
        TypeError: it says something that is no shape.
    """
    shape = says(score, "shape", ("value", "slope", "curvature"))
    if shape is None:
        return None
    inputs.instance(shape, (Line, Bend), "shape", "a `Line` or a `Bend` of linlocal.losses.shape")
    if isinstance(shape, Line):
        m = np.array([-1e3, -1.0, 0.0, 1.0, 1e3])
        expected = np.full_like(m, score.slope(m)[0])
    else:
        size = max(abs(shape.margin), shape.width, 1.0)
        around = np.array([-1e3, -1.0, 1.0, 1e3]) * size
        inside = np.array([-0.75, -0.25]) * shape.width
        m = shape.margin + np.concatenate([around, inside if shape.width > 0 else inside[:0]])
        gap = (shape.margin - m) / (shape.width or 1.0)
        expected = -np.clip(gap, 0.0, 1.0) if shape.width else -(m < shape.margin).astype(float)
    if np.max(np.abs(np.asarray(score.slope(m)) - expected)) > 1e-9 * np.max(np.abs(expected)):
        raise ValueError(
            f"{type(score).__name__} says that its shape is {shape}, but its slopes at the margins "
            f"{m.tolist()} are {np.asarray(score.slope(m)).tolist()} and not {expected.tolist()}. "
            "Define `shape` beside value, slope and curvature so that it fits them, or leave it "
            "out."
        )
    return shape


def summand_of(loss: Any) -> Any:
    """f, if a loss is phi(m) = sum_i w_i f(m_i) with w = loss.weights(pairs); else None."""
    return says(loss, "summand", ("value", "gradient", "curvature"))
