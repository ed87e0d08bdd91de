"""Local losses of more than two views: the sum of a loss of two views over pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.local_losses.contract import Activity, LocalLoss, LocalRule, contracted
from linlocal.analysis.local_losses.network_rule import NetworkRule, on_network
from linlocal.analysis.local_losses.pooling import Shape, shapes_of
from linlocal.rules import Rule

Pool = Callable[[Tensor], Tensor]


class ManyViews(LocalLoss):
    """sum over pairs (v, w) of a loss of two views. Built by a `ManyViewsRule`.

    Args:
        loss: the loss of two views.
        num_views: the number of views.
        pairs: the pairs that are compared, with views from 0.
        pools: what pools this block's views and those of the top before the loss sees them; None if
            the loss takes them as they are.
    """

    compares = "views"

    def __init__(
        self,
        loss: LocalLoss,
        num_views: int,
        pairs: Sequence[tuple[int, int]],
        pools: tuple[Pool, Pool] | None,
    ) -> None:
        super().__init__()
        self.loss, self.num_views, self.pairs, self.pools = loss, num_views, (*pairs,), pools
        self.reads_top, self.per_pass = loss.reads_top, pools is not None

    def forward(self, here: Activity, top: Activity | None, batch: Any = None) -> Tensor:
        return self._summed(self.loss, here, top, batch)

    def activity_loss(self, here: Activity, top: Activity | None, batch: Any = None) -> Tensor:
        return self._summed(self.loss.activity_loss, here, top, batch)

    def _summed(
        self, loss: Callable[..., Tensor], here: Activity, top: Activity | None, batch: Any
    ) -> Tensor:
        views = self._views(here, 0)
        tops = None if top is None else self._views(top, 1)
        values = [
            loss(
                torch.cat([views[v], views[w]]),
                None if tops is None else torch.cat([tops[v], tops[w]]),
                batch,
            )
            for v, w in self.pairs
        ]
        return torch.stack(values).sum()

    def _views(self, z: Activity, which: int) -> list[Tensor]:
        """The views of an activity, pooled."""
        passes = (z,) if isinstance(z, Tensor) else z
        rows = sum(map(len, passes))
        samples = rows // self.num_views
        if samples < 2 or rows % self.num_views or any(len(z) % samples for z in passes):
            raise ValueError(
                f"A loss of {self.num_views} views needs all of them, of at least 2 samples each, "
                f"stacked, got {rows} rows; concatenate the views, and use drop_last=True in the "
                "loader."
            )
        pooled = passes if self.pools is None else [self.pools[which](each) for each in passes]
        if len({each.shape[1:] for each in pooled}) > 1:
            came, got = (
                " and ".join(str(tuple(z.shape)) for z in each) for each in (passes, pooled)
            )
            raise ValueError(
                f"Views of shapes {came} are pooled to {got}, which cannot be compared: "
                'take pooling="global", or cells that every view fills.'
            )
        return [view for each in pooled for view in each.split(samples)]


@dataclass(frozen=True, kw_only=True)
class ManyViewsRule:
    """The loss of a rule of two views, summed over pairs of more views.

    For scored pairs and functions of inner products it is what `Pairs.from_many_views` is in
    theory, with B shared by all pairs. Views may have other sizes (crops): where the rule pools
    activities, each is pooled before they are compared.

    Attributes:
        rule: a rule of two views: a `linlocal.Rule`, a `NetworkRule`, or your own.
        views: the number of views, those of a teacher included.
        pairs: which views are compared. "all": any two. "star": those with the first view (Tian et
            al. 2020, arXiv 1906.05849: full graph and core view). Or pairs of numbers from 1, such
            as ((1, 4), (2, 3)); the views of a teacher follow those of the network.

    Raises:
        TypeError: ``rule`` is none.
        ValueError: fewer than two views, pairs of other views, or a rule that compares no views.
    """

    rule: Rule | LocalRule
    views: int
    pairs: Literal["all", "star"] | Sequence[tuple[int, int]] = "all"

    def __post_init__(self) -> None:
        on_network(self.rule)
        inputs.keep(self, partial(inputs.whole, least=2), "views")
        if not isinstance(self.pairs, str):
            pairs = inputs.sequence(self.pairs, "pairs", "pairs of views")
            numbers = [inputs.wholes(pair, "an entry of pairs", 1) for pair in pairs]
            known = all(len({*p}) == len(p) == 2 and max(p) <= self.views for p in numbers)
            if not (numbers and known and len({frozenset(p) for p in numbers}) == len(numbers)):
                raise ValueError(
                    f"pairs must be different pairs of two views of 1 to {self.views}, got "
                    f"{self.pairs!r}."
                )
            object.__setattr__(self, "pairs", tuple(numbers))
        elif self.pairs not in ("all", "star"):
            raise ValueError(f'pairs must be "all", "star" or pairs of views, got {self.pairs!r}.')

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One loss for each block; see `local_losses.LocalRule`.

        Raises:
            ValueError: the rule compares no views, is matched to a global error, or pools contexts
                in another way than activities.
        """
        seed, shapes = inputs.whole(seed, "seed", 0), shapes_of(shapes)
        rule = on_network(self.rule)
        pools: list[tuple[Pool, Pool] | None] = [None] * len(shapes)
        if isinstance(rule, NetworkRule):
            if rule.context_pooling is not None:
                raise ValueError(
                    "Views are pooled before they are compared, as anchors and as contexts alike: "
                    "leave context_pooling out."
                )
            own = rule.pools_of(shapes)
            pools = [(pool, own[-1]) for pool in own]
            shapes = [(pool.features(shape),) for pool, shape in zip(own, shapes, strict=True)]
            rule = replace(rule, pooling=1)
        losses = contracted(rule.build(shapes, seed))
        for loss in losses:
            other = loss.compares == "contrasts" or loss.num_views != 2
            if other or loss.needs_global_error or loss.remembers:
                raise ValueError(
                    f"{loss.title} is no loss of two views alone (it compares positive with "
                    "negative data, learns from a global error, remembers earlier batches, or has "
                    "more views already): take a rule such as CLAPP, InfoNCE or VICReg."
                )
        pairs = self._pairs()
        return nn.ModuleList(
            ManyViews(cast(LocalLoss, loss), self.views, pairs, pool)
            for loss, pool in zip(losses, pools, strict=True)
        )

    def _pairs(self) -> list[tuple[int, int]]:
        if isinstance(self.pairs, str):
            every = combinations(range(self.views), 2)
            return [pair for pair in every if self.pairs == "all" or 0 in pair]
        return [(v - 1, w - 1) for v, w in self.pairs]
