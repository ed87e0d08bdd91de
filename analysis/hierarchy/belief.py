"""Belief propagation in torch: exact posteriors on any device, with derivatives.

>>> belief = BeliefPropagation(rhm).to("cuda")
>>> clean = belief(likelihood).leaves  # the exact denoiser: p(leaf | all evidence)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.rhm import Grammar

# The messages are those of `linlocal.rhm.inference`, which says their formulas:
#
#   up(a)        = sum_{r: a(r) = a} p(r | a) prod_i up_i(r_i)
#   down_i(b)    = sum_{r: r_i = b}  p(r | a(r)) down(a(r)) prod_{j != i} up_j(r_j)
#   posterior(b) ~ up(b) down(b)
#
# A message up is divided by its maximum, a message down by its sum. The divisors are constants to
# autograd: in a posterior they cancel, and log p(evidence) has their logarithms added.


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What the evidence tells about every symbol.

    Attributes:
        levels: the probabilities, (data, nodes, symbols of the level) for each level 0..L, as in
            `linlocal.rhm.inference.Posterior`; NaN for data whose evidence is impossible.
        log_evidence: (data,) the log probability of the evidence, -inf where it is impossible.
    """

    levels: tuple[Tensor, ...]
    log_evidence: Tensor

    @property
    def leaves(self) -> Tensor:
        """(data, d, symbols) the probabilities of the leaves, the exact denoiser."""
        return self.levels[0]

    @property
    def classes(self) -> Tensor:
        """(data, n) probability of each class."""
        return self.levels[-1][:, 0]


class BeliefPropagation(nn.Module):
    """Exact posteriors of a grammar, given the likelihood of each symbol at each leaf.

    A module without weights: the rules are buffers, which follow it to a device. It computes in
    the precision of its input, float64 for differences below 1e-7.

    Args:
        grammar: the rules.

    Raises:
        TypeError: no `Grammar`.
    """

    def __init__(self, grammar: Grammar) -> None:
        super().__init__()
        inputs.instance(grammar, Grammar, "grammar", "a `Grammar` or `RandomHierarchyModel`")
        self._sizes = grammar.patch_sizes
        self._levels = grammar.num_levels
        self._values = [v + grammar.sparse for v in grammar.symbol_counts] + [grammar.num_classes]
        self._shape = (grammar.num_leaves, self._values[0])
        for l, rules in enumerate(grammar.productions, start=1):
            for name, values in (
                ("owner", rules.owner),
                ("patches", np.ascontiguousarray(rules.patches.T)),
                ("probability", rules.probability),
            ):
                self.register_buffer(f"{name}{l}", torch.tensor(values), persistent=False)
        prior = torch.tensor(grammar.class_probabilities)
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, likelihood: Tensor) -> Beliefs:
        """Posteriors of all levels.

        Args:
            likelihood: (data, d, symbols) p(what was seen | symbol of the leaf) up to a factor for
                each datum, with the blank as last symbol of a sparse grammar.

        Raises:
            ValueError: another shape.
            TypeError: no floating-point tensor.
        """
        if not isinstance(likelihood, Tensor) or not likelihood.is_floating_point():
            raise TypeError(
                "likelihood must be a floating-point tensor, got "
                f"{getattr(likelihood, 'dtype', inputs.described(likelihood))}."
            )
        if likelihood.ndim != 3 or likelihood.shape[1:] != self._shape:
            raise ValueError(
                f"likelihood must have the shape (data, {self._shape[0]} leaves, {self._shape[1]} "
                f"symbols), got {tuple(likelihood.shape)}."
            )
        message, log_evidence = _scaled(likelihood)
        up = [message]
        for l in range(1, self._levels + 1):
            message, log_scale = _scaled(self._upward(up[-1], l))
            up.append(message)
            log_evidence = log_evidence + log_scale
        prior = self._buffer("prior").to(likelihood.dtype)
        log_evidence = log_evidence + (up[-1][:, 0] @ prior).log()
        down = prior.expand_as(up[-1])
        levels = [_posterior(up[-1], down)]
        for l in range(self._levels, 0, -1):
            down = self._downward(up[l - 1], down, l)
            levels.append(_posterior(up[l - 1], down))
        impossible = log_evidence.detach().isneginf()[:, None, None]
        levels = [level.masked_fill(impossible, torch.nan) for level in levels]
        return Beliefs(tuple(reversed(levels)), log_evidence)

    def _buffer(self, name: str) -> Tensor:
        return cast(Tensor, getattr(self, name))

    def _factors(self, below: Tensor, level: int) -> list[Tensor]:
        """For each place i of a patch, (data, nodes, rules): the message up_i(r_i)."""
        size = self._sizes[level - 1]
        children = below.unflatten(1, (below.shape[1] // size, size))
        patches = self._buffer(f"patches{level}")
        return [children[:, :, i].index_select(-1, patches[i]) for i in range(size)]

    def _upward(self, below: Tensor, level: int) -> Tensor:
        factors = self._factors(below, level)
        product = self._buffer(f"probability{level}").to(below.dtype) * factors[0]
        for factor in factors[1:]:
            product = product * factor
        return _sums(product, self._buffer(f"owner{level}"), self._values[level])

    def _downward(self, below: Tensor, down: Tensor, level: int) -> Tensor:
        factors = self._factors(below, level)
        owner = self._buffer(f"owner{level}")
        weight = self._buffer(f"probability{level}").to(below.dtype) * down.index_select(-1, owner)
        after = [torch.ones_like(weight)]
        for factor in factors[:0:-1]:
            after.append(after[-1] * factor)
        messages = []
        for i, factor in enumerate(factors):
            product = weight * after[len(factors) - 1 - i]
            patches = self._buffer(f"patches{level}")
            messages.append(_sums(product, patches[i], below.shape[-1]))
            weight = weight * factor
        message = torch.stack(messages, dim=2).flatten(1, 2)
        total = message.detach().sum(dim=-1, keepdim=True)
        return message / torch.where(total > 0, total, 1.0)


def _sums(weights: Tensor, index: Tensor, values: int) -> Tensor:
    """(..., values): the sum of the weights (..., rules) of the rules with each index."""
    return weights.new_zeros(*weights.shape[:-1], values).index_add(-1, index, weights)


def _scaled(message: Tensor) -> tuple[Tensor, Tensor]:
    """A message over its maximum, and (data,) the logarithm of what was divided."""
    scale = message.detach().amax(dim=-1, keepdim=True)
    return message / torch.where(scale > 0, scale, 1.0), scale.log().sum(dim=(1, 2))


def _posterior(up: Tensor, down: Tensor) -> Tensor:
    product = up * down
    return product / product.sum(dim=-1, keepdim=True)
