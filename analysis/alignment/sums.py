"""What one measurement adds up: gradients by parameter, inner products of error signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from linlocal.analysis.alignment import terms
from linlocal.analysis.alignment.products import COUNT, gram, inner, products


@dataclass(eq=False)
class ErrorSignals:
    """The error signals of one batch of all views, from one forward pass or several.

    Attributes:
        global_: [rule][block][pass] the global error signals, None where none has arrived.
        local: [rule][block][pass] the local error signals.
        between: [rule][block] what lies between the local and the global ones, see `terms.between`;
            empty if it is not asked for.
        awaited: the passes to which a backward pass may bring global ones.
        complete: whether it has brought some.
    """

    global_: list[list[list[Tensor | None]]]
    local: list[list[list[Tensor]]] = field(default_factory=list)
    between: list[list[list[Tensor]]] = field(default_factory=list)
    awaited: set[int] = field(default_factory=set)
    complete: bool = False

    @classmethod
    def empty(cls, num_globals: int, blocks: int, passes: int) -> ErrorSignals:
        """Error signals of which none has arrived."""
        return cls([[[None] * passes for _ in range(blocks)] for _ in range(num_globals)])

    def of_passes(self, r: int, l: int) -> list[tuple[Tensor, Tensor]]:
        """For each pass the local and the global error signal, zero where none has arrived."""
        passes = self.global_[r if len(self.global_) > 1 else 0][l]
        return [
            (own, torch.zeros_like(own) if part is None else part)
            for own, part in zip(self.local[r][l], passes, strict=True)
        ]


class Measurement(NamedTuple):
    """One measurement, in float64; the last axis holds the `products` of local and global tensors.

    Attributes:
        gradients: (rules, parameters, 4) the products of the gradients. With view parts it is
            (rules, parameters, 4 + views): <part, global> for the part of each view follows.
        errors: (rules, blocks, views, 4) the products of the error signals.
        terms: (rules, blocks, signals, signals) the inner products of `terms.signals`; without
            signals if they are not asked for.
    """

    gradients: Tensor
    errors: Tensor
    terms: Tensor


@dataclass
class Sums:
    """Sums over micro-batches and backward passes.

    Attributes:
        local: [rule] the local gradients by parameter.
        parts: [rule] their parts by view.
        global_: [rule] the global gradients; one entry if all rules are compared with the same.
        errors: (rule x block x view, 4) products of the error signals.
        terms: (rule x block, signals, signals) inner products of `terms.signals`.
        views: the number of views in each forward pass of a batch.
        factor: what the norms are to be divided by.
        open: the error signals of passes whose global ones may still come.
    """

    local: list[dict[str, Tensor]]
    parts: list[dict[str, list[Tensor]]]
    global_: list[dict[str, Tensor]]
    views: Sequence[int]
    errors: Tensor | None = None
    terms: Tensor | None = None
    factor: Tensor | None = None
    open: list[ErrorSignals] = field(default_factory=list)
    handles: list[torch.utils.hooks.RemovableHandle] = field(default_factory=list)

    @classmethod
    def empty(cls, num_rules: int, num_globals: int, views: Sequence[int]) -> Sums:
        """Sums to which nothing has been added."""
        rules = range(num_rules)
        global_: list[dict[str, Tensor]] = [{} for _ in range(num_globals)]
        return cls([{} for _ in rules], [{} for _ in rules], global_, views)

    def reduce(self, signals: ErrorSignals) -> None:
        """Add up the error signals of a pass."""
        rows: list[Tensor] = []
        grams: list[Tensor] = []
        for r, errors in enumerate(signals.local):
            for l in range(len(errors)):
                pairs = signals.of_passes(r, l)
                for (error, global_), count in zip(pairs, self.views, strict=True):
                    rows += [products(error[v], global_[v]) for v in rows_of_views(error, count)]
                if signals.between:
                    error, global_ = map(terms.joined, zip(*pairs, strict=True))
                    grams.append(gram(terms.signals(error, signals.between[r][l], global_)))
        stacked = torch.stack(rows)
        self.errors = stacked if self.errors is None else self.errors + stacked
        if grams:
            explained = torch.stack(grams)
            self.terms = explained if self.terms is None else self.terms + explained
        self.open.remove(signals)

    def measured(self, parameters: Mapping[str, nn.Parameter], view_parts: bool) -> Measurement:
        """The measurement that the sums make, averaged over processes."""
        assert self.errors is not None
        assert self.factor is not None
        self._complete(parameters)
        self._average(view_parts)
        rows = []
        for r, (local, parts) in enumerate(zip(self.local, self.parts, strict=True)):
            for name, global_ in self.global_[self._global_of(r)].items():
                row = products(local[name], global_)
                if view_parts:
                    row = torch.cat([row, torch.stack([inner(p, global_) for p in parts[name]])])
                rows.append(row)
        squared, rules = self.factor**2, len(self.local)
        errors = self.errors.view(rules, -1, sum(self.views), COUNT)
        explained = errors.new_empty(*errors.shape[:2], 0, 0)
        if self.terms is not None:
            explained = self.terms.unflatten(0, (rules, -1))
        gradients = torch.stack(rows).unflatten(0, (rules, -1))
        return Measurement(gradients / squared, errors / squared, explained / squared)

    def _global_of(self, r: int) -> int:
        return r if len(self.global_) > 1 else 0

    def _complete(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put zeros for parameters that were frozen or not used, and all in the same order."""
        # An expanded scalar takes no memory.
        zeros = {name: p.new_zeros(()).expand_as(p) for name, p in parameters.items()}
        self.local = [{n: g.get(n, zero) for n, zero in zeros.items()} for g in self.local]
        self.global_ = [{n: g.get(n, zero) for n, zero in zeros.items()} for g in self.global_]
        self.parts = [
            {n: g.get(n, [zero] * sum(self.views)) for n, zero in zeros.items()} for g in self.parts
        ]

    def _average(self, view_parts: bool) -> None:
        """Average over processes, as if their batches were one; the losses must be means."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        world = dist.get_world_size()
        for group in (*self.local, *self.global_):
            group.update(zip(group, _mean(list(group.values()), world), strict=True))
        if view_parts:
            for parts in self.parts:
                parts.update({name: _mean(of_views, world) for name, of_views in parts.items()})
        # Every process has other samples, whose error signals in the joint mean are 1/world of
        # what they are here. Products over all samples are sums over processes.
        assert self.errors is not None
        for products_ in (self.errors, self.terms):
            if products_ is not None:
                dist.all_reduce(products_)
                products_ /= world**2


def rows_of_views(stacked: Tensor, count: int) -> list[slice]:
    """The rows of each of ``count`` views that are stacked."""
    samples = len(stacked) // count
    starts = [view * samples for view in range(count)]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def add(group: dict[str, Tensor], name: str, gradient: Tensor) -> None:
    """Add a gradient to the group, never in place: the present one may be some ``.grad``."""
    gradient = dense(gradient)
    group[name] = group[name] + gradient if name in group else gradient


def dense(gradient: Tensor) -> Tensor:
    """The gradient with all its entries, where an embedding gives the rows alone that it used."""
    return gradient if gradient.layout == torch.strided else gradient.to_dense()


def _mean(tensors: Sequence[Tensor], world: int) -> list[Tensor]:
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= world
    pieces = torch.split(flat, [t.numel() for t in tensors])
    return [piece.view_as(t) for piece, t in zip(pieces, tensors, strict=True)]
