"""What `explain` finds: conditions, remedies, and the verdict on each layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from linlocal.networks import Network
from linlocal.pairs import Pairs
from linlocal.rules import Rule

Setting = tuple[Network, Pairs, Rule]

TOLERANCE = 1e-10

_WORDS = {
    "same loss": "The global loss must be the loss of this layer, too.",
    "linear network": "The layers above must do the same to every sample, as linear ones do.",
    "invariant loss": "The loss must stay the same when activities are rotated.",
    "isometry": "The layers above must keep all lengths and angles of the activities.",
    "score matching": "The error that B sends into the layer must be the one that comes from the "
    "top.",
    "closed form": "Of a linear score: both updates, written out, must be one matrix.",
    "proportional anchors": "The layers above must stretch all anchors by one factor.",
    "proportional contexts": "Contexts here must resemble each other as those at the top do, up to "
    "a factor.",
    "matching penalty": "The penalty on B must make up for these two factors.",
    "no other way to the top": "Nothing may reach the top past this layer, through biases or "
    "links.",
    "no way around the window": "No link may lead around the window of layers that learn together.",
}

_HELP = {
    "rescaled penalty": "Give each layer the penalty on B that fits the scale of its activities.",
    "direct feedback": "Take the activity of the top layer as the context of every layer.",
    "metric penalty": "Penalise B as the layers above see it, and not for its own entries.",
    "isometry": "Let no weight above the first layer stretch: take the nearest isometries.",
    "matched projection": "Carry the projection of the top layer down through the layers above.",
    "scaled branches": "Make the branches of a residual network small.",
}


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

    @property
    def words(self) -> str:
        """What the hypothesis says, in words."""
        return _WORDS[self.name]


@dataclass(frozen=True)
class Remedy:
    """A change after which the local updates equal the global ones, or come nearer to them.

    Attributes:
        name: "metric penalty", "rescaled penalty", "direct feedback", "isometry", "matched
            projection"; or "scaled branches", which brings them nearer.
        action: what the remedy changes, in symbols.
        apply: a function that returns the changed (network, pairs, rule).
        changes: what becomes different in the network and the rule, with numbers.
    """

    name: str
    action: str
    apply: Callable[[], Setting]
    changes: str = ""

    @property
    def words(self) -> str:
        """What the remedy does, in words."""
        return _HELP[self.name]


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
