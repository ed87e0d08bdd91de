"""An alarm for a representation that collapses, which says in which way, and how to go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from linlocal import inputs

KINDS = ("not finite", "total", "dimensional", "dead units", "growth")
"""The ways in which a block can fail, in the order in which they are looked for."""

_ROUNDING = 1e-12  # of the square of features: what varies less does so by rounding in float32

_ADVICE = {
    "not finite": "lower the learning rate, or use a wider precision",
    "total": "give more weight to what keeps samples apart (a variance term, negatives, a larger "
    "margin), lower the learning rate, and check that both views are not trivially alike",
    "dimensional": "give more weight to what decorrelates features (a covariance term, negatives), "
    "use larger batches or weaker augmentation, or lower the weight decay",
    "dead units": "lower the learning rate, take an activation that is nowhere flat (LeakyReLU, "
    "GELU), normalise before it, or draw the weights of these units anew",
    "growth": "normalise what the next block is given, add weight decay, or take a rule that does "
    "not reward the size of activities (a goodness and a log-variance do)",
}


class CollapseError(RuntimeError):
    """A representation has collapsed, and the monitor was told to stop the training."""


@dataclass(frozen=True)
class Limits:
    """What counts as a collapse, each compared with the first look at the same block.

    Attributes:
        spread: total collapse: the standard deviation over samples is below this share of what it
            was (or is rounding).
        rank: dimensional collapse (Jing et al. 2021, arXiv 2110.09348): the effective rank is below
            this share of what it was.
        dead: dead units: more than this share of the units give one value for all samples and
            places, and more than at the first look.
        growth: one-sided growth: the root mean square of the activities is above this multiple of
            what it was, and larger than in all looks before.

    Raises:
        ValueError: a share is not in 0..1, or ``growth`` is not above 1.
        TypeError: a limit is no number.
    """

    spread: float = 1e-3
    rank: float = 0.1
    dead: float = 0.5
    growth: float = 100.0

    def __post_init__(self) -> None:
        for name in ("spread", "rank", "dead"):
            inputs.keep(self, inputs.share, name)
        inputs.keep(self, inputs.positive, "growth")
        if self.growth <= 1:
            raise ValueError(f"growth must be above 1, got {self.growth}.")


@dataclass(frozen=True)
class Condition:
    """How the activities of one block are.

    Attributes:
        scale: the root mean square of all activities.
        offset: ||mean z||^2 / mean ||z||^2 of the features: 1 where all samples are alike.
        spread: the root of the mean variance over samples of the features.
        effective_rank: `representations.effective_rank` of the centred features.
        dead_units: the share of units that give one value for all samples and places.
    """

    scale: float
    offset: float
    spread: float
    effective_rank: float
    dead_units: float


class Alarm:
    """Compares the condition of a block with that of the first look.

    Args:
        limits: what counts as a collapse.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.first: dict[int, Condition] = {}
        self._largest: dict[int, float] = {}
        self._told: set[tuple[int, str]] = set()

    def judge(self, layer: int, found: Condition) -> dict[str, str]:
        """The kinds of collapse, each with what shows it.

        Args:
            layer: the number of the block.
            found: its present condition.
        """
        if not math.isfinite(found.scale):
            return {"not finite": "its activities are NaN or infinite"}
        first = self.first.setdefault(layer, found)
        largest = self._largest.get(layer, 0.0)
        self._largest[layer] = max(largest, found.scale)
        limits, why = self._limits, {}
        if found.spread <= limits.spread * first.spread or 1.0 - found.offset <= _ROUNDING:
            why["total"] = (
                f"samples differ by a standard deviation of {found.spread:.3g}, "
                f"{first.spread:.3g} at the first look, while the size of activities is "
                f"{found.scale:.3g} (then {first.scale:.3g})"
            )
        elif found.effective_rank < limits.rank * first.effective_rank:
            why["dimensional"] = (
                f"features use {found.effective_rank:.3g} directions (effective rank), "
                f"{first.effective_rank:.3g} at the first look"
            )
        if found.dead_units > max(limits.dead, first.dead_units):
            why["dead units"] = (
                f"{found.dead_units:.0%} of its units give one value for all samples, "
                f"{first.dead_units:.0%} at the first look"
            )
        if found.scale > max(limits.growth * first.scale, largest):
            why["growth"] = (
                f"activities have grown to {found.scale:.3g} from {first.scale:.3g}, "
                f"{found.offset:.0%} of their square in the mean over samples"
            )
        return why

    def news(
        self, layer: int, name: str, step: int, why: Mapping[str, str], well: int | None
    ) -> str:
        """A message about what was not told before; "" if there is nothing.

        Args:
            layer: the number of the block.
            name: its name.
            step: the number of the step.
            why: what `judge` found.
            well: the last step at which no block had collapsed; None if there was none.
        """
        new = [kind for kind in why if (layer, kind) not in self._told]
        self._told |= {(layer, kind) for kind in new}
        if not new:
            return ""
        said = "; ".join(f"{kind}: {why[kind]}" for kind in new)
        help_ = "; ".join(_ADVICE[kind] for kind in new)
        back = (
            "There was no healthy look to go back to: start again."
            if well is None
            else f"All was well at step {well}: go on from a checkpoint of that step or before it."
        )
        return (
            f"Block {layer} ({name}) has collapsed at step {step} ({said}). To continue, "
            f"{help_}. {back}"
        )
