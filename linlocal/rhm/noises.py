"""What diffusion does to the leaves of hierarchies: three kinds of noise, each leaf by itself.

At time t in 0..1 a share kept(t) of the signal is left, kept(0) = 1 and kept(1) = 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linlocal import inputs
from linlocal.rhm import inference
from linlocal.rhm.encoding import checked_leaves
from linlocal.rhm.grammar import Array, Grammar, Index
from linlocal.rhm.theory import require_dense
from linlocal.seeds import generator_for

Schedule = Literal["linear", "cosine"]
Noisy = NDArray[Any]


@dataclass(frozen=True)
class Noise(ABC):
    """What happens to each leaf, independently of the others.

    Attributes:
        schedule: kept(t) = 1 - t for "linear", cos(pi t/2)^2 for "cosine".

    Raises:
        ValueError: no such schedule.
    """

    schedule: Schedule = "linear"

    def __post_init__(self) -> None:
        if not inputs.is_one_of(self.schedule, get_args(Schedule)):
            raise ValueError(
                f"schedule must be one of {', '.join(get_args(Schedule))}, got {self.schedule!r}."
            )

    def kept(self, time: float | ArrayLike) -> Array:
        """The share of the signal that is left, () or (data,).

        Args:
            time: in 0..1, one for all data or one for each.

        Raises:
            ValueError: outside 0..1, or NaN.
        """
        if not inputs.is_several(time):
            times = np.asarray(inputs.share(time, "time"))
        else:
            times = inputs.numbers(time, "time")
            if times.ndim != 1 or not ((times >= 0) & (times <= 1)).all():
                raise ValueError(
                    "time must be one number in 0..1 or one for each datum, got shape "
                    f"{times.shape}" + (f", {times.min()} to {times.max()}." if times.size else ".")
                )
        return np.asarray(
            1 - times if self.schedule == "linear" else np.cos(np.pi * times / 2) ** 2
        )

    def _share(self, time: float | ArrayLike, num: int, dimensions: int) -> Array:
        """kept(t) in a shape that goes with (data, ...) arrays of so many dimensions."""
        kept = self.kept(time)
        if kept.ndim and len(kept) != num:
            raise ValueError(f"time holds {len(kept)} numbers for {num} data.")
        return kept.reshape(-1, *[1] * (dimensions - 1)) if kept.ndim else kept

    @abstractmethod
    def apply(
        self, grammar: Grammar, leaves: ArrayLike, time: float | ArrayLike, seed: int
    ) -> Noisy:
        """Leaves (data, d) after noise up to a time.

        Raises:
            ValueError: no leaves of the grammar, or no such time.
        """

    @abstractmethod
    def likelihood(self, grammar: Grammar, noisy: ArrayLike, time: float | ArrayLike) -> Array:
        """(data, d, v) p(noisy leaf | symbol) up to a factor for each leaf.

        Raises:
            ValueError: nothing that this noise makes, or no such time.
        """

    @abstractmethod
    def back(
        self,
        noisy: Noisy,
        probabilities: Array,
        time: float,
        earlier: float,
        rng: np.random.Generator,
    ) -> Noisy:
        """Noisy leaves at an earlier time, each drawn by itself.

        Args:
            noisy: the leaves at ``time``.
            probabilities: (data, d, v) of the clean symbols.
            time: above 0.
            earlier: below ``time``.
            rng: makes the draws.
        """


@dataclass(frozen=True)
class Masking(Noise):
    """A leaf is hidden with probability 1 - kept(t); the number v stands for a hidden leaf."""

    def apply(
        self, grammar: Grammar, leaves: ArrayLike, time: float | ArrayLike, seed: int
    ) -> Index:
        """(data, d) symbols, v where hidden; see `Noise.apply`."""
        clean = _clean(grammar, leaves)
        seen = generator_for("masking", seed).random(clean.shape) < self._share(time, len(clean), 2)
        return np.where(seen, clean, grammar.num_values(0))

    def likelihood(self, grammar: Grammar, noisy: ArrayLike, time: float | ArrayLike) -> Array:
        """1 for the symbol that is seen and 0 for others, 1 for all where hidden."""
        v = grammar.num_values(0)
        symbols = _whole(grammar, noisy, v)
        self._share(time, len(symbols), 2)
        return np.vstack([np.eye(v), np.ones(v)])[symbols]

    def back(
        self,
        noisy: Noisy,
        probabilities: Array,
        time: float,
        earlier: float,
        rng: np.random.Generator,
    ) -> Noisy:
        """A hidden leaf is shown with probability (kept(t') - kept(t)) / (1 - kept(t))."""
        now, then = float(self.kept(time)), float(self.kept(earlier))
        v = probabilities.shape[-1]
        shown = (noisy == v) & (rng.random(noisy.shape) * (1 - now) < then - now)
        return np.where(shown, inference.draw_index(rng, probabilities), noisy)


@dataclass(frozen=True)
class Uniform(Noise):
    """With probability 1 - kept(t) a leaf is drawn anew, uniformly from all v symbols."""

    def apply(
        self, grammar: Grammar, leaves: ArrayLike, time: float | ArrayLike, seed: int
    ) -> Index:
        """(data, d) symbols; see `Noise.apply`."""
        clean = _clean(grammar, leaves)
        rng = generator_for("uniform noise", seed)
        stays = rng.random(clean.shape) < self._share(time, len(clean), 2)
        return np.where(stays, clean, rng.integers(grammar.num_values(0), size=clean.shape))

    def likelihood(self, grammar: Grammar, noisy: ArrayLike, time: float | ArrayLike) -> Array:
        """kept(t) [symbol is that of the noisy leaf] + (1 - kept(t))/v."""
        v = grammar.num_values(0)
        symbols = _whole(grammar, noisy, v - 1)
        kept = self._share(time, len(symbols), 3)
        return np.asarray(kept * np.eye(v)[symbols] + (1 - kept) / v)

    def back(
        self,
        noisy: Noisy,
        probabilities: Array,
        time: float,
        earlier: float,
        rng: np.random.Generator,
    ) -> Noisy:
        """Drawn from sum_c p(c) q(x_t' | x_t, x_0 = c), by Bayes' rule for each c."""
        # q(b | a, c) = q(a | b) q(b | c) / q(a | c), each kernel k [same] + (1 - k)/v.
        now, then = float(self.kept(time)), float(self.kept(earlier))
        v = probabilities.shape[-1]
        same = np.eye(v)[noisy]
        weight = probabilities / (now * same + (1 - now) / v)
        clean = then * weight + (1 - then) / v * weight.sum(axis=-1, keepdims=True)
        ratio = now / then
        return inference.draw_index(rng, (ratio * same + (1 - ratio) / v) * clean)


@dataclass(frozen=True)
class Gaussian(Noise):
    """x_t = sqrt(kept) x_0 + sqrt(1 - kept) noise, x_0 the one-hot code of the leaves."""

    def apply(
        self, grammar: Grammar, leaves: ArrayLike, time: float | ArrayLike, seed: int
    ) -> Array:
        """(data, d, v); see `Noise.apply`."""
        clean = _clean(grammar, leaves)
        kept = self._share(time, len(clean), 3)
        noise = generator_for("gaussian noise", seed).standard_normal(
            (*clean.shape, grammar.num_values(0))
        )
        return np.asarray(
            np.sqrt(kept) * np.eye(grammar.num_values(0))[clean] + np.sqrt(1 - kept) * noise
        )

    def likelihood(self, grammar: Grammar, noisy: ArrayLike, time: float | ArrayLike) -> Array:
        """exp(sqrt(kept) x_a / (1 - kept)), over its maximum at each leaf.

        Raises:
            ValueError: a time of 0, when there is no noise, or as `Noise.likelihood`.
        """
        require_dense(grammar, "Diffusion")
        values = inputs.numbers(noisy, "noisy")
        wanted = (grammar.num_leaves, grammar.num_values(0))
        if values.ndim != 3 or values.shape[1:] != wanted:
            raise ValueError(f"noisy must be (data, {wanted[0]}, {wanted[1]}), got {values.shape}.")
        inputs.all_finite(values, "noisy")
        kept = self._share(time, len(values), 3)
        if (kept == 1).any():
            raise ValueError(
                "At time 0 there is no Gaussian noise, and no likelihood; take a time above 0."
            )
        exponent = np.sqrt(kept) / (1 - kept) * values
        return np.asarray(np.exp(exponent - exponent.max(axis=-1, keepdims=True)))

    def back(
        self,
        noisy: Noisy,
        probabilities: Array,
        time: float,
        earlier: float,
        rng: np.random.Generator,
    ) -> Noisy:
        """Gaussian about a mean of x_t and the mean of x_0, as DDPM (Ho et al. 2020) has it."""
        now, then = self.kept(time), self.kept(earlier)
        ratio = now / then
        mean = np.sqrt(then) * (1 - ratio) * probabilities + np.sqrt(ratio) * (1 - then) * noisy
        deviation = np.sqrt((1 - ratio) * (1 - then) / (1 - now))
        return np.asarray(mean / (1 - now) + deviation * rng.standard_normal(noisy.shape))


def _clean(grammar: Grammar, leaves: ArrayLike) -> Index:
    require_dense(grammar, "Diffusion")
    return checked_leaves(grammar, leaves).astype(np.int64)


def _whole(grammar: Grammar, noisy: ArrayLike, largest: int) -> Index:
    require_dense(grammar, "Diffusion")
    array = np.asarray(inputs.plain(noisy, "noisy"))
    if array.ndim != 2 or array.shape[1] != grammar.num_leaves or array.dtype.kind not in "iu":
        raise ValueError(
            f"noisy must be whole numbers (data, {grammar.num_leaves}), got shape {array.shape} of "
            f"{array.dtype}."
        )
    if array.size and not 0 <= array.min() <= array.max() <= largest:
        raise ValueError(
            f"noisy must hold numbers 0..{largest}, got {array.min()} to {array.max()}; only "
            "masking has the number v, which stands for a hidden leaf."
        )
    return array.astype(np.int64)
