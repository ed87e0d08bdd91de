"""What `explain` answers: conditions, remedies, and the words for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from linlocal.networks import Network
from linlocal.pairs import Pairs
from linlocal.rules import Rule

Setting = tuple[Network, Pairs, Rule]

TOLERANCE = 1e-10


@dataclass(frozen=True)
class Condition:
    """One hypothesis, measured on one layer of a network and batch.

    Attributes:
        name: the name of the hypothesis.
        meaning: what the hypothesis says, in symbols.
        distance: the relative deviation from the hypothesis, 0 if it holds exactly.
    """

    name: str
    meaning: str
    distance: float

    @property
    def holds(self) -> bool:
        """Whether the deviation is within 1e-10."""
        return bool(self.distance <= TOLERANCE)


@dataclass(frozen=True)
class Remedy:
    """A change after which the local updates equal the global ones, or come nearer to them.

    Attributes:
        name: "metric penalty", "rescaled penalty", "direct feedback", "isometry", "matched
            projection"; or "scaled branches", which brings them nearer.
        action: what the remedy changes, in words.
        apply: a function that returns the changed (network, pairs, rule).
    """

    name: str
    action: str
    apply: Callable[[], Setting]


@dataclass(frozen=True)
class LayerExplanation:
    """What was found for one layer.

    Attributes:
        layer: l in 1..L.
        cosine, relative_error: how the local update compares with the global one.
        exact: whether the updates are equal up to rounding. Their relative error is then at most
            1e-12, or 16 machine epsilons times the condition number of the dual problem where that
            is below 1; or both updates are zero up to rounding.
        conditions: the conditions, which together are sufficient. "closed form", which a linear
            score has, is necessary and sufficient on its own.
        cosine_bound: the smallest cosine that the theory allows here; None if it gives no bound.
        bound_source: the statement that the bound comes from, or why there is none.
        vanishing: which of the two updates, "local" and "global", are zero up to the rounding of
            the terms that cancel in them. Then there is no cosine.
    """

    layer: int
    cosine: float
    relative_error: float
    exact: bool
    conditions: tuple[Condition, ...]
    cosine_bound: float | None
    bound_source: str
    vanishing: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """How the local update compares with the global one, in words."""
        if len(self.vanishing) == 2:
            return "there is no update to compare: local and global are zero up to rounding"
        if self.vanishing:
            (zero,) = self.vanishing
            return f"the {zero} update is zero up to rounding, the other one is not"
        return (
            f"local {'equal to' if self.exact else 'differs from'} global update "
            f"(cosine {self.cosine:.4f}, relative error {self.relative_error:.1e})"
        )


@dataclass(frozen=True, eq=False)
class Explanation:
    """Conditions, mismatch and remedies for a rule on a network and batch; print it.

    Attributes:
        subject: the network and the rule, in words.
        layers: the findings for each of the layers 1..L.
        comparison: the Dataset of `linlocal.compare`.
        remedies: the changes that would make every layer exact; empty if none is known.
        nearer: the changes that raise the smallest cosine of the layers, computed on this batch.
    """

    subject: str
    layers: tuple[LayerExplanation, ...]
    comparison: xr.Dataset
    remedies: tuple[Remedy, ...]
    nearer: tuple[Remedy, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the local and the global update are equal in every layer."""
        return all(layer.exact for layer in self.layers)

    def remedy(self, name: str) -> Remedy:
        """The remedy called ``name``, of `remedies` or `nearer`.

        Raises:
            ValueError: no such remedy helps here.
        """
        for remedy in self.remedies + self.nearer:
            if remedy.name == name:
                return remedy
        known = ", ".join(r.name for r in self.remedies + self.nearer) or "none"
        raise ValueError(f"{name!r} does not restore exactness here; remedies: {known}.")

    def __str__(self) -> str:
        lines = [self.subject, ""]
        for entry in self.layers:
            lines.append(f"layer {entry.layer}: {entry.verdict}")
            for condition in entry.conditions:
                mark = "holds" if condition.holds else f"fails by {condition.distance:.1e}"
                lines.append(f"    {condition.name:<24} {mark:<18} {condition.meaning}")
            if not entry.exact:
                row = self.comparison.sel(layer=entry.layer)
                terms = [
                    f"{name} {float(row[f'{name}_mismatch']):.1e}"
                    for name in ("dual", "context", "metric")
                ]
                if not np.isnan(row["dual_mismatch"]):
                    lines.append(f"    mismatch over ||global||: {', '.join(terms)}")
                bound = "none" if entry.cosine_bound is None else f"{entry.cosine_bound:.4f}"
                lines.append(f"    smallest cosine: {bound} ({entry.bound_source})")
        lines.append("")
        if self.exact:
            lines.append("Nothing to remedy.")
        elif self.remedies:
            lines.append("Any one of these restores exactness in every layer:")
            lines += [f"    {r.name:<20} {r.action}" for r in self.remedies]
        else:
            lines.append("No remedy is known that restores exactness in every layer.")
        if self.nearer:
            lines.append("Nearer, not exact:")
            lines += [f"    {r.name:<20} {r.action}" for r in self.nearer]
        return "\n".join(lines)
