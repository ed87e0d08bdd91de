"""Diffusion of leaves: noise, the exact denoiser, what changes, and the mean field of a transition.

At time t in 0..1 a share kept(t) of the signal is left, kept(0) = 1 and kept(1) = 0. What was seen
at one leaf tells of no other leaf, so belief propagation turns it into exact posteriors.

>>> noisy = Masking().apply(rhm, data.leaves, 0.5, seed=0)
>>> denoise(rhm, Masking(), noisy, 0.5).levels[0]  # p(leaf | all that is left)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linlocal import inputs
from linlocal.rhm import inference
from linlocal.rhm.encoding import checked_leaves
from linlocal.rhm.grammar import Array, Grammar, Index, Symbols
from linlocal.rhm.inference import Posterior
from linlocal.rhm.theory import require_dense, require_uniform
from linlocal.rhm.trees import Trees
from linlocal.seeds import generator_for

Schedule = Literal["linear", "cosine"]
Noisy = NDArray[Any]
Denoiser = Callable[[Noisy, float], ArrayLike]
"""From noisy leaves and their time to (data, d, v) probabilities of the symbols of each leaf."""


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


# -- exact -----------------------------------------------------------------------------------------


def denoise(grammar: Grammar, noise: Noise, noisy: ArrayLike, time: float | ArrayLike) -> Posterior:
    """p(every symbol of the tree | noisy leaves), exact; the leaves are ``levels[0]``.

    No denoiser has a smaller mean square error than the probabilities of the leaves, and none a
    smaller cross-entropy.

    Args:
        grammar: the rules, without blanks.
        noise: what was done to the leaves.
        noisy: what `Noise.apply` returned.
        time: in 0..1, one for all data or one for each.

    Raises:
        ValueError: nothing that this noise makes of this grammar, or no such time.
    """
    return inference.posterior(grammar, likelihood=noise.likelihood(grammar, noisy, time))


def forward_backward(
    grammar: Grammar, noise: Noise, leaves: ArrayLike, time: float | ArrayLike, seed: int
) -> Trees:
    """Noise up to a time, and back: a tree drawn from all that could have become the noisy leaves.

    The exact backward process ends in a draw from p(x_0 | x_t), which is made in one step.

    Args:
        grammar: the rules, without blanks.
        noise: what is done to the leaves.
        leaves: (data, d).
        time: in 0..1, one for all data or one for each.
        seed: seeds the noise and the draws.

    Raises:
        ValueError: no leaves of the grammar, or no such time.

    References:
        Sclocchi, Favero, Wyart 2024, arXiv 2402.16991 and 2410.13770.
    """
    noisy = noise.apply(grammar, leaves, time, seed)
    likelihood = noise.likelihood(grammar, noisy, time)
    return inference.sample_posterior(grammar, seed=seed, likelihood=likelihood)


def changed(first: Trees, second: Trees) -> Array:
    """(data, L + 1) the share of the symbols of each level 0..L that differ.

    Raises:
        ValueError: trees of different sizes.
        TypeError: no `Trees`.
    """
    for trees in (first, second):
        inputs.instance(trees, Trees, "trees", "`Trees`, as sample and forward_backward make them")
    sizes, others = ([level.shape for level in trees.symbols] for trees in (first, second))
    if sizes != others:
        raise ValueError(f"Trees of the same sizes are needed, got symbols {sizes} and {others}.")
    pairs = zip(first.symbols, second.symbols, strict=True)
    return np.stack([(a != b).mean(axis=1) for a, b in pairs], axis=1)


def valid_share(grammar: Grammar, leaves: ArrayLike) -> Array:
    """(data, L) for each level 1..L, the share of its nodes whose leaves the grammar generates.

    It measures what a generative model has learned: a level that it has not is where this falls.

    Args:
        grammar: the rules.
        leaves: (data, d) symbols, generated by any means.

    Raises:
        ValueError: no symbols of the grammar.
    """
    parsed = inference.parse(grammar, leaves, strict=False)
    return np.stack([(level >= 0).mean(axis=1) for level in parsed.symbols[1:]], axis=1)


def generate(
    grammar: Grammar,
    noise: Noise,
    num: int,
    *,
    steps: int,
    seed: int,
    denoiser: Denoiser | None = None,
) -> Symbols:
    """Leaves (num, d) from pure noise in equal steps of time, each leaf drawn by itself.

    With the exact denoiser the law of the leaves becomes that of the grammar as steps grow; with
    few steps, leaves that are drawn at the same time do not know of each other.

    Args:
        grammar: the rules, without blanks.
        noise: whose process is run backwards.
        num: the number of data.
        steps: the number of steps from time 1 to time 0.
        seed: seeds the draws.
        denoiser: gives (data, d, v) probabilities from noisy leaves and a time; the exact one by
            default, which takes leaves that contradict each other for wrong with probability 1e-6.

    Raises:
        ValueError: sizes that are too small, or a denoiser that returns something else.
        TypeError: a number that is not whole.
    """
    num, steps = inputs.whole(num, "num", 0), inputs.whole(steps, "steps", 1)
    rng = generator_for("generate", seed)
    start = np.zeros((num, grammar.num_leaves), dtype=np.int64)
    noisy = noise.apply(grammar, start, 1.0, seed)
    for step in range(steps, 0, -1):
        now, then = step / steps, (step - 1) / steps
        if denoiser is None:
            probabilities = _marginals(grammar, noise, noisy, now)
        else:
            probabilities = inference.checked_likelihood(
                grammar, denoiser(noisy, now), "what the denoiser returns"
            )
        noisy = noise.back(noisy, probabilities, now, then, rng)
    leaves = noisy.argmax(axis=-1) if noisy.ndim == 3 else noisy
    return leaves.astype(grammar.dtype)


_WRONG = 1e-6
"""The likelihood of a symbol that a noisy leaf excludes, where leaves contradict each other."""


def _marginals(grammar: Grammar, noise: Noise, noisy: Noisy, time: float) -> Array:
    """p(leaf | noisy leaves); those that contradict each other are taken for wrong, rarely."""
    likelihood = noise.likelihood(grammar, noisy, time)
    found = inference.posterior(grammar, likelihood=likelihood, strict=False)
    impossible = np.isneginf(found.log_evidence)
    if impossible.any():
        softer = np.maximum(likelihood[impossible], _WRONG)
        found.levels[0][impossible] = inference.posterior(grammar, likelihood=softer).levels[0]
    return found.levels[0]


# -- the transition --------------------------------------------------------------------------------


def flattened(grammar: Grammar, leaves: ArrayLike, noise: float) -> Array:
    """(data, d, v) the likelihood (1 - e) [symbol is the leaf] + e/v, a noise without chance.

    Args:
        grammar: the rules, without blanks.
        leaves: (data, d).
        noise: e in 0..1.

    Raises:
        ValueError: no leaves of the grammar, or no such noise.

    References:
        arXiv 2402.16991, the epsilon-process.
    """
    share = inputs.share(noise, "noise")
    code = np.eye(grammar.num_values(0))[_clean(grammar, leaves)]
    return np.asarray((1 - share) * code + share / grammar.num_values(0))


def mean_field(grammar: Grammar, noise: float) -> Array:
    """(L + 1,) the belief in the true symbol of each level 0..L, from the leaves below alone.

    With p_0 = 1 - e + e/v and q symbols of level l,

        p_l = (x + f c (1 - x)) / (x + f (1 - x)),  x = p_{l-1}^s,
        f = (q m - 1)/(v^s - 1),  c = (m - 1)/(q m - 1).

    Args:
        grammar: a grammar with uniform rules and without blanks.
        noise: e of `flattened`.

    Raises:
        ValueError: rules that are not uniform, blanks, or no such noise.

    References:
        Sclocchi, Favero, Wyart 2024, arXiv 2402.16991; derivation in the code.
    """
    # The true tuple has the weight x, all v^s - 1 others together 1 - x. Of those the grammar owns
    # q m - 1, drawn without replacement: a share f of their weight on average, of which m - 1 have
    # the true owner. The mean of the ratio is taken for the ratio of the means.
    require_uniform(grammar, "The mean field")
    require_dense(grammar, "The mean field")
    share = inputs.share(noise, "noise")
    v, m = grammar.num_values(0), grammar.synonym_counts[0]
    beliefs = [1 - share + share / v]
    for l, s in enumerate(grammar.tuple_sizes, start=1):
        x, others = beliefs[-1] ** s, grammar.num_values(l) * m - 1
        owned = others / max(1, v**s - 1) * (1 - x)
        mine = (m - 1) / max(1, v**s - 1) * (1 - x)
        beliefs.append((x + mine) / (x + owned))
    return np.array(beliefs)


def critical_noise(grammar: Grammar) -> float:
    """e* in 0..1 at which the mean field of an infinitely deep grammar loses the class, or NaN.

    It is the unstable fixed point of the map of a level with q = v. There is one where certainty
    and ignorance are both stable: s m (v - 1)/(v^s - 1) < 1 and (s/m) (1 - 1/v) (1 + 1/(v^s - 1))
    < 1, the slopes of the map at p = 1 and p = 1/v.

    Args:
        grammar: a grammar with uniform rules, without blanks, and with tuples of one size.

    Raises:
        ValueError: otherwise.

    References:
        arXiv 2402.16991.
    """
    require_uniform(grammar, "The critical noise")
    require_dense(grammar, "The critical noise")
    if len(set(grammar.tuple_sizes)) > 1:
        raise ValueError(f"The critical noise needs tuples of one size, got {grammar.tuple_sizes}.")
    v, m, s = grammar.num_values(0), grammar.synonym_counts[0], grammar.tuple_sizes[0]
    if v == 1:
        return float("nan")
    certain = s * m * (v - 1) / (v**s - 1)
    ignorant = s / m * (1 - 1 / v) * (1 + 1 / (v**s - 1))
    if certain >= 1 or ignorant >= 1:
        return float("nan")

    def gain(p: float) -> float:
        x = p**s
        others = (1 - x) / (v**s - 1)
        return (x + (m - 1) * others) / (x + (v * m - 1) * others) - p

    # Above the fixed point the belief grows, below it shrinks.
    low, high = 1 / v, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if gain(middle) > 0 else (middle, high)
    return (1 - (low + high) / 2) / (1 - 1 / v)
