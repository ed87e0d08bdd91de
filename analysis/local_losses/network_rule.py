"""A rule on a network: a `linlocal.Rule`, and how it reads maps and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.local_losses.contract import LocalLoss, LocalRule, views_of
from linlocal.analysis.local_losses.pooling import (
    Cells,
    Pool,
    Pooling,
    Shape,
    checked_pooling,
    pools,
    shapes_of,
)
from linlocal.analysis.local_losses.projections import (
    DownstreamProjection,
    ProjectionModule,
    num_parameters,
    rank_within,
    useful_rank,
)
from linlocal.analysis.local_losses.regression import LeastSquares
from linlocal.analysis.local_losses.scored_pairs import Negatives, ScoredPairs, check_negatives
from linlocal.analysis.local_losses.slices import FreshSlices, sliced
from linlocal.autodiff import ViewFormula, goodness_formula, view_formula
from linlocal.inputs import warn
from linlocal.losses import Goodness, InfoNCE, ViewLoss
from linlocal.rules import Metric, Rule
from linlocal.seeds import seed_for

_SAME = 1e-3  # of a goodness that is constant but for the epsilon of a normalisation
_POOLING: dict[str, Pooling] = {"pair": Cells(2), "goodness": 1, "view": "global"}


@dataclass(frozen=True, kw_only=True)
class NetworkRule:
    """A rule together with what only a network needs; a bare rule means the defaults.

    Positive pairs are the two views of a datum, in both directions. For Forward-Forward positive
    and negative data take the place of the two views: positive data fill the first half of a batch,
    negative data the last half (`hybrid_images` makes negative images). SCFF sums the two views of
    a datum for the positive pairs, and a view and the other view of the next datum for the negative
    ones.

    What the rule's projection means on a network: "optimal" is trained with the loss, "random" is
    frozen as drawn, "matched" is solved for by `LeastSquares` before each step, and "identity"
    needs no matrix. In the last block, whose error signal is its own, random and matched
    projections are trained with the loss as well.

    Attributes:
        rule: the rule, one of `linlocal.rules` or your own.
        pooling: the pooling P of each block, see `pools`. The default is the rule's own windows;
            where it has none, 2x2 cells for scored pairs, no pooling for goodness, and the average
            over the map for losses of two views. "global" drops all dependence on the place in the
            image.
        context_pooling: the pooling P' of the contexts of each block, if it is not ``pooling``; the
            top context takes that of the last block.
        rank: the rank of a low-rank B = left right; None for a full matrix, which is also taken
            where it has no more parameters than the product.
        budget: the number of parameters that all projections together may have; it sets the largest
            common rank that fits.
        shared: whether both view directions share one B; otherwise each has its own.
        negatives: which anchors are negative for a reference: "next" takes the next sample,
            "stacked" the next in the stack of both views (as published), "all" takes all other
            samples; by default "all" for InfoNCE and "next" for other losses.
        penalty: lam, if it is not the rule's; 0 trains B without a penalty.
        matching: how a "matched" projection is solved for; by default `LeastSquares()`.
        metric: the metric of the penalty, if it is not the rule's. "downstream" is the metric
            penalty: B_l = V_l^T M V_l for the context of the same block, B_l = V_l^T M for that of
            the top, and M is trained and penalised (statement 4). V_l is the Jacobian of the pooled
            top by the pooled block, averaged over the batch; in a linear network without pooling it
            makes local updates exact. It is no local rule: V_l holds the weights above.
        refresh: the number of steps of training between two measurements of V_l, of which each
            costs a backward pass for every feature of the pooled top.
        goodness: "sum" for the sum of squares, or "mean" for their mean, which lets one threshold
            serve all widths.
        fresh_slices: whether random slices are drawn anew in each step of a training, those of the
            loss's seed + t in step t; see `local_losses.slices`. Otherwise they stay the same.

    Raises:
        TypeError: ``rule`` is no `linlocal.Rule`.
        ValueError: names are unknown, options do not go together, or the rule has no use for one.
    """

    rule: Rule
    pooling: Pooling | None = None
    context_pooling: Pooling | None = None
    rank: int | None = None
    budget: int | None = None
    shared: bool = True
    negatives: Negatives | None = None
    penalty: float | None = None
    matching: LeastSquares | None = None
    metric: Metric | None = None
    refresh: int = 1
    goodness: Literal["sum", "mean"] = "sum"
    fresh_slices: bool = False

    def __post_init__(self) -> None:
        inputs.instance(self.rule, Rule, "rule", "a `linlocal.Rule`, one of linlocal.rules")
        for name in ("pooling", "context_pooling"):
            if getattr(self, name) is not None:
                inputs.keep(self, checked_pooling, name)
        inputs.keep(self, inputs.flag, "shared")
        if self.rule.kind != "pair":
            own = {"context_pooling", "rank", "budget", "negatives", "penalty", "metric"}
            given = sorted(name for name in own if getattr(self, name) is not None)
            if given or not self.shared:
                raise ValueError(
                    f"{self.rule.name} scores no pairs: it has no use for "
                    f"{', '.join(given) or 'projections of each direction'}."
                )
        if self.goodness not in ("sum", "mean"):
            raise ValueError(f'goodness must be "sum" or "mean", got {self.goodness!r}.')
        if self.goodness == "mean" and self.rule.kind != "goodness":
            raise ValueError(f"{self.rule.name} judges no goodness: leave goodness out.")
        inputs.keep(self, inputs.flag, "fresh_slices")
        if self.fresh_slices:
            sliced(self.rule.loss)
        if self.negatives is not None:
            check_negatives(self.negatives)
        if self.rank is not None and self.budget is not None:
            raise ValueError("A budget chooses the rank: give either a rank or a budget, got both.")
        for name in ("rank", "budget"):
            if getattr(self, name) is not None:
                inputs.keep(self, partial(inputs.whole, least=1), name)
        if self.penalty is not None:
            inputs.keep(self, inputs.not_negative, "penalty")
        if self.matching is not None:
            inputs.instance(self.matching, LeastSquares, "matching", "a `LeastSquares`")
            if self.rule.projection != "matched":
                raise ValueError(
                    "matching says how a matched projection is solved for, but the projection of "
                    f"{self.rule.name} is {self.rule.projection_name}: take the projection "
                    '"matched" (of `CLAPP` and kin "least_squares"), or leave matching out.'
                )
        inputs.keep(self, partial(inputs.whole, least=1), "refresh")
        if self.metric is not None and not inputs.is_one_of(self.metric, get_args(Metric)):
            raise ValueError(
                f"metric must be one of {', '.join(get_args(Metric))}, got {self.metric!r}."
            )
        if self._in_metric and self.context_pooling is not None:
            raise ValueError(
                "A penalty in the downstream metric sends the context through the map of the "
                "block's own pooling: leave context_pooling out."
            )
        if not isinstance(self.rule.projection, str):
            raise ValueError(
                f"The projection of {self.rule.name} is {self.rule.projection_name}, which the "
                "theory knows (`linlocal.compare`). On a network the optimiser trains B: take the "
                'projection "optimal".'
            )
        if self._in_metric and self.rule.projection != "optimal":
            raise ValueError(
                f"The projection of {self.rule.name} is {self.rule.projection_name}, which has no "
                'penalty that could be in the downstream metric: take the projection "optimal", or '
                'the metric "frobenius".'
            )
        identity = self.rule.projection == "identity"
        if identity and (self.rule.context != "same" or self.context_pooling is not None):
            raise ValueError(
                "An identity projection compares activities of one kind: it needs context "
                f'"same" and no pooling of its own for the context, got {self.rule.context!r} and '
                f"{self.context_pooling!r}."
            )

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One local loss for each block.

        Args:
            shapes: the shapes of the blocks' outputs, without the axis of samples.
            seed: seeds the projections; the global random state stays as it is.

        Raises:
            ValueError: there are no blocks, a pooling does not fit, or the budget is too small.
        """
        seed, shapes = inputs.whole(seed, "seed", 0), shapes_of(shapes)
        own = self.pools_of(shapes)
        loss: Any = self.rule.loss
        if isinstance(loss, Goodness):
            summed, mean = self.rule.context == "sum", self.goodness == "mean"
            return nn.ModuleList(_GoodnessLoss(loss, p, summed, mean) for p in own)
        if self.rule.kind == "view":
            return nn.ModuleList(_PooledViews(self._views_formula(loss), p) for p in own)
        generator = torch.Generator().manual_seed(seed)
        last = len(shapes) - 1
        return nn.ModuleList(
            self._scored(shapes, block, own[block], generator, block == last, seed)
            for block in range(len(shapes))
        )

    def num_parameters(self, shapes: Sequence[Shape]) -> tuple[int, ...]:
        """The number of parameters of the projections of each block, without building them."""
        shapes = shapes_of(shapes)
        return tuple(
            (1 if self.shared else 2)
            * sum(num_parameters(f, c, r) for f, c, r in self._plan(shapes, block))
            for block in range(len(shapes))
        )

    @property
    def _in_metric(self) -> bool:
        """Whether B is penalised in the downstream metric."""
        own = self.rule.penalty.metric if self.metric is None else self.metric
        return self.rule.kind == "pair" and own == "downstream"

    def _scored(
        self,
        shapes: Sequence[Shape],
        block: int,
        pool: Pool,
        generator: torch.Generator,
        last: bool,
        seed: int,
    ) -> ScoredPairs:
        sides, kind = self._plan(shapes, block), self.rule.projection
        matched = kind == "matched" and not last
        contexts = self._contexts(shapes, block)
        features = pool.features(shapes[block])
        projections = [
            [
                DownstreamProjection(features, *side, generator, same=not top)
                if self._in_metric and not last
                else ProjectionModule(*side, generator, solved=matched)
                for side, (top, *_) in zip(sides, contexts, strict=True)
            ]
            for _ in range(1 if self.shared else 2)
            if sides
        ]
        of_rule = self.rule.penalty.at(block + 1, len(shapes))
        everywhere = isinstance(self.rule.pair_loss, InfoNCE)
        module = ScoredPairs(
            self.rule.pair_loss,
            pool,
            [(top, seen) for top, seen, _ in contexts],
            projections,
            negatives=self.negatives or ("all" if everywhere else "next"),
            separate=self.rule.context == "each",
            penalty=of_rule if self.penalty is None else self.penalty,
            trained=kind == "optimal" or last,
            matching=(self.matching or LeastSquares()) if matched else None,
            seed=seed_for(seed, block),
            refresh=self.refresh,
        )
        return module.requires_grad_(kind != "random" or last)

    def _views_formula(self, loss: ViewLoss) -> ViewFormula:
        return FreshSlices(loss) if self.fresh_slices else view_formula(loss)

    def pools_of(self, shapes: Sequence[Shape]) -> tuple[Pool, ...]:
        """The pooling P of each block, for outputs of these shapes."""
        blocks = len(shapes)
        if self.pooling is not None:
            return pools(self.pooling, blocks)
        windows = self.rule.pooling
        return pools(_POOLING[self.rule.kind] if windows is None else list(windows), blocks)

    def _contexts(self, shapes: Sequence[Shape], block: int) -> list[tuple[bool, Pool, int]]:
        """(is it the top?, P', features) of each context of a block."""
        blocks = len(shapes)
        seen = self.context_pooling
        windows, last = self.pools_of(shapes) if seen is None else pools(seen, blocks), blocks - 1
        here = (False, windows[block], windows[block].features(shapes[block]))
        top = (True, windows[last], windows[last].features(shapes[last]))
        if self.rule.context == "each" and block == last:
            return [here, here]
        if self.rule.context == "same" or block == last:
            return [here]
        return [top] if self.rule.context == "top" else [here, top]

    def _sides(self, shapes: Sequence[Shape], block: int) -> list[tuple[int, int]]:
        if self.rule.projection == "identity":
            return []
        windows, contexts = self.pools_of(shapes), self._contexts(shapes, block)
        if self._in_metric:  # those of M, which sees a context of the same block through V
            features = windows[-1].features(shapes[-1])
            return [(features, c if top else features) for top, _, c in contexts]
        features = windows[block].features(shapes[block])
        return [(features, c) for _, _, c in contexts]

    def _plan(self, shapes: Sequence[Shape], block: int) -> list[tuple[int, int, int | None]]:
        """(features, context features, rank) of the projections of a block, in one direction."""
        rank = self.rank
        if self.budget is not None:
            every = [side for b in range(len(shapes)) for side in self._sides(shapes, b)]
            rank = rank_within(self.budget // (1 if self.shared else 2), every)
        return [(f, c, useful_rank(f, c, rank)) for f, c in self._sides(shapes, block)]


def on_network(rule: Rule | LocalRule) -> LocalRule:
    """The object that builds the local losses of a rule.

    Args:
        rule: a `linlocal.Rule`, which takes the defaults of `NetworkRule`, or anything with a
            method build.

    Raises:
        TypeError: ``rule`` is neither.
        ValueError: as `NetworkRule`.
    """
    if isinstance(rule, Rule):
        return NetworkRule(rule=rule)
    if isinstance(rule, LocalRule) and callable(rule.build):
        return rule
    raise TypeError(
        "rule must be a `linlocal.Rule`, one of `linlocal.analysis.local_losses`, or your own with "
        f"a method build, got {inputs.described(rule)}."
    )


class _GoodnessLoss(LocalLoss):
    """Type 2 on goodness ||s||^2 - threshold, of pooled activities or of sums of two."""

    def __init__(self, loss: Goodness, pool: Pool, summed: bool, mean: bool) -> None:
        super().__init__()
        self.pool, self.summed, self.mean = pool, summed, mean
        self.compares = "views" if summed else "contrasts"
        self.formula = goodness_formula(loss)
        self._looked = False

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        z = self.pool(here)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        if not (self.summed or self._looked or z.is_meta):
            self._looked = True
            _warn_of_constant(z.detach(), self._size(z.detach()))
        first, second = views_of(z)
        judged = [(first, second)]
        if self.summed:
            judged = [(a + b, a.roll(-1, 0) + b) for a, b in ((first, second), (second, first))]
        return torch.stack(
            [self.formula(self._size(good), self._size(bad)) for good, bad in judged]
        ).sum()

    def _size(self, s: Tensor) -> Tensor:
        return s.square().mean(1) if self.mean else s.square().sum(1)


def _warn_of_constant(z: Tensor, goodness: Tensor) -> None:
    """Warn if the goodness is the same for all samples though they differ."""
    apart, size = (z.amax(0) - z.amin(0)).max(), z.square().mean().sqrt()
    low, high, apart, size = torch.stack([goodness.min(), goodness.max(), apart, size]).tolist()
    if high - low < _SAME * high and apart > size / 10:
        warn(
            f"The goodness ||z||^2 of this block is the same for all samples, {low:.6g} to "
            f"{high:.6g}: its output is normalised for each sample, so Forward-Forward has nothing "
            "to learn from. Let the normalisation open the next block: name the module before it "
            "as the end of this one."
        )


class _PooledViews(LocalLoss):
    """A loss of two views on pooled activities."""

    compares = "views"

    def __init__(self, formula: ViewFormula, pool: Pool) -> None:
        super().__init__()
        self.formula, self.pool = formula, pool

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        return self.formula(*views_of(self.pool(here)))
