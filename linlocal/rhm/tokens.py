"""Tasks on the leaves themselves, next, last or masked, and the loss that no model can go below.

The floor is the entropy of a leaf given what the model sees, H = E[-sum_a p(a) log p(a)]: exact for
each datum by belief propagation, averaged over data. Losses are in nats.

>>> task = NextToken(rhm)
>>> tokens, targets = task(train.leaves)  # a first number that stands for nothing, then the leaves
>>> floor = task.bayes_loss(num_samples=2000).value  # (d,) cross-entropy of the best model

A leaf is its symbol 0..v-1, a blank of a sparse grammar is v; the number after these stands for
nothing: the start of a text, or a hidden leaf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linlocal import inputs
from linlocal.rhm import sampling
from linlocal.rhm.encoding import checked_leaves
from linlocal.rhm.grammar import Array, Grammar, Index
from linlocal.rhm.inference import posterior
from linlocal.seeds import generator_for

IGNORED = -100
"""The target where nothing is asked, which the cross-entropy of torch leaves out."""


@dataclass(frozen=True, eq=False)
class TokenLoss:
    """The smallest cross-entropy of each place, estimated.

    Attributes:
        value: (places,) in nats.
        standard_error: (places,) of the estimate.
    """

    value: Array
    standard_error: Array

    __repr__ = inputs.brief


class TokenTask(Protocol):
    """What a model reads, what it shall say, and how well it can at best."""

    def __call__(self, leaves: ArrayLike, seed: int = 0) -> tuple[Index, Index]:
        """Tokens and targets."""

    def bayes_loss(self, *, num_samples: int = 1000, seed: int = 0) -> TokenLoss:
        """The smallest cross-entropy."""


@dataclass(frozen=True)
class NextToken:
    """Each leaf from the leaves to its left.

    Attributes:
        grammar: the rules.
        context: how many leaves to the left are seen, at least 0; None for all.

    Raises:
        ValueError: a negative context.
        TypeError: a context that is not whole, or no `Grammar`.
    """

    grammar: Grammar
    context: int | None = None

    def __post_init__(self) -> None:
        _check_grammar(self.grammar)
        if self.context is not None:
            inputs.keep(self, lambda value, name: inputs.whole(value, name, 0), "context")

    def __call__(self, leaves: ArrayLike, seed: int = 0) -> tuple[Index, Index]:
        """(data, d) tokens, the first of them the start, and (data, d) targets: all leaves.

        Target j is to be said from the tokens 0..j, in a model of limited context from the last of
        them; nothing is drawn, so the seed does nothing.
        """
        targets = as_tokens(self.grammar, leaves)
        tokens = np.full_like(targets, number_of_tokens(self.grammar) - 1)
        tokens[:, 1:] = targets[:, :-1]
        return tokens, targets

    def bayes_loss(self, *, num_samples: int = 1000, seed: int = 0) -> TokenLoss:
        """The floor of each leaf 0..d-1.

        With all leaves to the left these add up to the entropy of a datum, log P_max for uniform
        rules.

        Args:
            num_samples: the number of data drawn, at least 2.
            seed: seeds them.

        Raises:
            ValueError: too few data.
            TypeError: a number that is not whole.
        """
        d = self.grammar.num_leaves
        context = d if self.context is None else self.context
        places = np.arange(d)
        seen = [(places < j) & (places >= j - context) for j in places]
        return _losses(self.grammar, places, seen, num_samples, seed)


@dataclass(frozen=True)
class LastToken:
    """The last leaf from the leaves just before it.

    Attributes:
        grammar: the rules.
        context: how many leaves are seen, 0..d-1; d - 1 by default.

    Raises:
        ValueError: a context that is negative or longer than there are leaves.
        TypeError: a context that is not whole, or no `Grammar`.
    """

    grammar: Grammar
    context: int | None = None

    def __post_init__(self) -> None:
        _check_grammar(self.grammar)
        most = self.grammar.num_leaves - 1
        if self.context is None:
            object.__setattr__(self, "context", most)
            return
        inputs.keep(self, lambda value, name: inputs.whole(value, name, 0), "context")
        if self._seen > most:
            raise ValueError(f"context must be in 0..{most}, got {self.context}.")

    @property
    def _seen(self) -> int:
        assert self.context is not None
        return self.context

    def __call__(self, leaves: ArrayLike, seed: int = 0) -> tuple[Index, Index]:
        """(data, context) tokens and (data,) targets; nothing is drawn, the seed does nothing."""
        every = as_tokens(self.grammar, leaves)
        last = self.grammar.num_leaves - 1
        return every[:, last - self._seen : last], every[:, last]

    def bayes_loss(self, *, num_samples: int = 1000, seed: int = 0) -> TokenLoss:
        """The floor, (1,); see `NextToken.bayes_loss`.

        Args:
            num_samples: the number of data drawn, at least 2.
            seed: seeds them.

        Raises:
            ValueError: too few data.
            TypeError: a number that is not whole.
        """
        last = self.grammar.num_leaves - 1
        places = np.arange(last + 1)
        seen = (places < last) & (places >= last - self._seen)
        return _losses(self.grammar, np.array([last]), [seen], num_samples, seed)


@dataclass(frozen=True)
class MaskedToken:
    """Hidden leaves from those that are seen; each is hidden with the same probability.

    Attributes:
        grammar: the rules.
        hidden: the probability, above 0 and at most 1.

    Raises:
        ValueError: not such a probability.
        TypeError: no number, or no `Grammar`.
    """

    grammar: Grammar
    hidden: float = 0.15

    def __post_init__(self) -> None:
        _check_grammar(self.grammar)
        inputs.keep(self, inputs.share, "hidden")
        if self.hidden == 0:
            raise ValueError("hidden must be above 0, got 0.0: nothing would be asked.")

    def __call__(self, leaves: ArrayLike, seed: int = 0) -> tuple[Index, Index]:
        """(data, d) tokens and targets: `IGNORED` but where a leaf is hidden.

        Args:
            leaves: (data, d).
            seed: seeds the masks.
        """
        every = as_tokens(self.grammar, leaves)
        hidden = self._masks(every.shape, seed)
        tokens = np.where(hidden, number_of_tokens(self.grammar) - 1, every)
        return tokens, np.where(hidden, every, IGNORED)

    def _masks(self, shape: tuple[int, ...], seed: int) -> NDArray[np.bool_]:
        return generator_for("hidden tokens", seed).random(shape) < self.hidden

    def bayes_loss(self, *, num_samples: int = 1000, seed: int = 0) -> TokenLoss:
        """The floor of each leaf 0..d-1 when it is hidden, NaN where it never was.

        Args:
            num_samples: the number of data drawn, at least 2.
            seed: seeds them and their masks.

        Raises:
            ValueError: too few data.
            TypeError: a number that is not whole.
        """
        num = inputs.whole(num_samples, "num_samples", 2)
        leaves = sampling.sample(self.grammar, num, seed).leaves
        hidden = self._masks(leaves.shape, seed)
        entropy = np.where(hidden, _entropy(posterior(self.grammar, leaves, ~hidden).levels[0]), 0)
        count = hidden.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = entropy.sum(axis=0) / count
            square = np.where(hidden, (entropy - mean) ** 2, 0).sum(axis=0) / (count - 1)
            return TokenLoss(mean, np.sqrt(square / count))


def _check_grammar(grammar: Grammar) -> None:
    inputs.instance(grammar, Grammar, "grammar", "a `Grammar` or `RandomHierarchyModel`")


def number_of_tokens(grammar: Grammar) -> int:
    """How many numbers a model must embed: v symbols, the blank if there is one, and nothing."""
    return grammar.num_values(0) + grammar.sparse + 1


def as_tokens(grammar: Grammar, leaves: ArrayLike) -> Index:
    """(data, d) the leaves as int64, a blank as v.

    Raises:
        ValueError: no symbols of the grammar.
    """
    tokens = checked_leaves(grammar, leaves).astype(np.int64)
    return np.where(tokens < 0, grammar.num_values(0), tokens)


def _losses(
    grammar: Grammar,
    places: Index,
    seen: list[NDArray[np.bool_]],
    num_samples: int,
    seed: int,
) -> TokenLoss:
    num = inputs.whole(num_samples, "num_samples", 2)
    leaves = sampling.sample(grammar, num, seed).leaves
    entropies = np.stack(
        [
            _entropy(posterior(grammar, leaves, mask).levels[0][:, place])
            for place, mask in zip(places, seen, strict=True)
        ],
        axis=1,
    )
    return TokenLoss(entropies.mean(axis=0), entropies.std(axis=0, ddof=1) / np.sqrt(num))


def _entropy(probabilities: Array) -> Array:
    """-sum p log p over the last axis, in nats."""
    logarithm = np.log(np.where(probabilities > 0, probabilities, 1.0))
    return np.asarray(-(probabilities * logarithm).sum(axis=-1))
