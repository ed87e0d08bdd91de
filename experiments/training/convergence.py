"""When a training is finished: one criterion for all networks on hierarchies.

A training ends when its loss is as good as zero, or when it no longer falls. What is compared are
two neighbouring windows that grow with the training, so a slow start is not taken for an end and a
training twice as slow is given twice the time. A training that meets the cap is unfinished.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The plateau is looked for every so many steps, and by windows of this part of all steps.
EVERY = 50
PART = 4
SMOOTHING = 0.95


@dataclass(frozen=True)
class Convergence:
    """When a training is finished: after step t if one of these holds.

        smoothed loss < floor
        t >= least and mean(t - w, t) > (1 - improvement) mean(t - 2 w, t - w),    w = t / 4

    where mean(a, b) is the mean of the losses of the batches a+1..b, of which the sign may be
    negative: then what counts is the distance to the mean before in units of its absolute value.

    A plateau above the start, mean(0, w), by more than that part ends a training that has diverged:
    it counts as unfinished.

    Attributes:
        cap: largest number of steps; a training that meets it first is unfinished.
        least: smallest number of steps before a plateau counts.
        improvement: relative improvement from window to window that counts as none.
        floor: smoothed loss (exponentially, by 0.95) below which the data are fitted; minus
            infinity for losses whose smallest value is not 0.
    """

    cap: int = 30_000
    least: int = 2000
    improvement: float = 0.02
    floor: float = 0.01

    def watch(self) -> Progress:
        """The course of one training, empty."""
        return Progress(self)


class Progress:
    """The losses of one training, and whether it is over.

    Attributes:
        steps: number of steps so far.
        smoothed: exponentially smoothed loss, corrected for its start; NaN after a divergence.
        finished: whether the criterion was met; False at the cap and after a divergence, to a
            plateau above the start or to what is not finite.
        over: whether the training must stop, for whatever reason.
    """

    def __init__(self, criterion: Convergence) -> None:
        self.criterion = criterion
        self.finished = self.over = False
        # Sums of the losses up to each step, so that a window is a difference.
        self._sums = [0.0]
        self._weighted = 0.0

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return len(self._sums) - 1

    @property
    def smoothed(self) -> float:
        """Exponentially smoothed loss, corrected for its start; NaN before the first step."""
        known = self.steps and math.isfinite(self._weighted)
        return self._weighted / (1 - SMOOTHING**self.steps) if known else math.nan

    def add(self, loss: float) -> bool:
        """Take the loss of one more batch; returns whether the training is over."""
        self._sums.append(self._sums[-1] + loss)
        self._weighted = SMOOTHING * self._weighted + (1 - SMOOTHING) * loss
        if not math.isfinite(loss):
            self.over = True
        elif self._fitted() or self._flat():
            self.over, self.finished = True, not self._risen()
        elif self.steps >= self.criterion.cap:
            self.over = True
        return self.over

    def _fitted(self) -> bool:
        # One good batch is no end: the smoothing has to have seen several.
        return self.steps >= 1 / (1 - SMOOTHING) and self.smoothed < self.criterion.floor

    def _flat(self) -> bool:
        steps = self.steps
        if steps < self.criterion.least or steps % EVERY:
            return False
        window = steps // PART
        before = self._mean(steps - 2 * window, steps - window)
        last = self._mean(steps - window, steps)
        return last > before - self.criterion.improvement * abs(before)

    def _risen(self) -> bool:
        window = max(1, self.steps // PART)
        start = self._mean(0, window)
        last = self._mean(self.steps - window, self.steps)
        return last > start + self.criterion.improvement * abs(start)

    def _mean(self, start: int, stop: int) -> float:
        return (self._sums[stop] - self._sums[start]) / (stop - start)
