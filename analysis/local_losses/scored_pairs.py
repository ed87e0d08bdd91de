"""Losses of scored pairs u = P z . B P' c: the module of one block, and the rule that builds it.

A loss is the sum over both view directions, in which each view is anchor once, of

    phi(u_positive, u_negative) + lam/2 ||B||_F^2

with P and P' the pooling and flattening of an activity z and a reference c, which is detached. The
penalty is a part of the loss of B alone, where it acts as weight decay. Both directions share one
B, or have one each (``shared=False``, as in `linlocal`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from linlocal.analysis.local_losses import pair_losses
from linlocal.analysis.local_losses.pair_losses import Negatives, PairLoss, views_of
from linlocal.analysis.local_losses.pooling import Cells, Pool, Pooling, Shape, pools
from linlocal.analysis.local_losses.projections import (
    Projection,
    num_parameters,
    rank_within,
    useful_rank,
)
from linlocal.inputs import real, whole

Context = Literal["same", "top", "both"]
ProjectionKind = Literal["trained", "random", "matched", "identity"]
DEFAULT_POOLING = Cells(2)


class ScoredPairs(nn.Module):
    """The local loss of one block: pairs scored by u = P z . B P' c. Built by a `ScoredRule`.

    Attributes:
        loss: phi.
        pool: P.
        contexts: for each context whether it is the top block's activity, and its P'.
        projections: [direction][context]; one direction if both share it, none for the identity.
    """

    def __init__(
        self,
        rule: ScoredRule,
        pool: Pool,
        contexts: Sequence[tuple[bool, Pool]],
        projections: Sequence[Sequence[Projection]],
        trained: bool,
    ) -> None:
        super().__init__()
        self.loss, self.negatives, self.penalty = rule.pair_loss(), rule.negatives, rule.penalty
        self.pool, self.contexts, self.trained = pool, tuple(contexts), trained
        self.projections = nn.ModuleList(nn.ModuleList(directed) for directed in projections)

    def forward(self, here: Tensor, top: Tensor) -> Tensor:
        """The loss; only a trained projection gets a gradient and pays its penalty."""
        total = self._pairs_loss(here, top, through_projections=self.trained)
        if self.trained and self.penalty:
            # lam/2 in each direction: a shared projection is that of both.
            weight = self.penalty / max(1, len(self.projections))
            for b in self.modules():
                if isinstance(b, Projection):
                    total = total + weight * b.squared_norm()
        return total

    def activity_loss(self, here: Tensor, top: Tensor) -> Tensor:
        """The loss without the penalty and without gradients of B: its part that ``here`` sees."""
        return self._pairs_loss(here, top, through_projections=False)

    def matching_loss(self, here: Tensor, top: Tensor, global_error: Tensor) -> Tensor:
        """||dL_global/dz_l - dL_l/dz_l||_F^2 as a function of the projections B_l.

        Its minimum is the "theoretical optimum" of Wu et al. 2026 (arXiv 2601.21683): the block's
        error signal nearest to the backpropagated one.

        Args:
            here: (2N, ...) this block's output.
            top: (2N, ...) the last block's output.
            global_error: dL_global/dz_l, shaped like ``here``.

        Returns:
            A scalar that is differentiable in the projections only.

        Raises:
            ValueError: a global error of another shape.
        """
        if global_error.shape != here.shape:
            raise ValueError(
                f"The global error must be shaped as the block's output {tuple(here.shape)}, got "
                f"{tuple(global_error.shape)}; it is the gradient of the global loss by it."
            )
        z = here.detach().requires_grad_()
        with torch.enable_grad():
            loss = self._pairs_loss(z, top, through_projections=True)
            (error,) = torch.autograd.grad(loss, z, create_graph=True)
        return (error - global_error.detach()).square().sum()

    def _pairs_loss(self, here: Tensor, top: Tensor, through_projections: bool) -> Tensor:
        losses = []
        for z, sent in self.directions(here, top):
            # The context is detached, so the projection is all that this detaches.
            sent = sent if through_projections else sent.detach()
            losses.append(self.loss(*pair_losses.pair_scores(z, sent, self.negatives)))
        return torch.stack(losses).sum()

    def directions(self, here: Tensor, top: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Pooled anchors P z and what their references send them, B P' c: (N, features) each."""
        z = views_of(self.pool(here))
        # Detached before it is pooled, so that no graph of the context is built.
        seen = [views_of(p((top if onto else here).detach())) for onto, p in self.contexts]
        for anchor, reference in ((0, 1), (1, 0)):
            if not self.projections:
                yield z[anchor], seen[0][reference]
                continue
            directed = cast(nn.ModuleList, self.projections[anchor % len(self.projections)])
            sent = [b(c[reference]) for b, c in zip(directed, seen, strict=True)]
            yield z[anchor], torch.stack(sent).sum(0) if len(sent) > 1 else sent[0]


@dataclass(frozen=True, kw_only=True)
class ScoredRule(ABC):
    """A rule of scored pairs: what `CLAPP`, `InfoNCE` and `PhyLL` have in common.

    Attributes:
        context: "same": the other view's activity in the same block; "top": in the last block
            (direct feedback); "both": their scores are summed, each with a projection of its own.
        projection: "trained" with the loss; "random": frozen as drawn; "matched": trained by
            `ScoredPairs.matching_loss` alone; "identity": none. The last block has no
            backpropagated error but its own: there random and matched ones are trained as well.
        pooling: P of each block, see `pools`. "global" drops all dependence on the place in the
            image.
        context_pooling: P' of each block, if not ``pooling``; the top context takes the last.
        rank: of a low-rank B = left right; None for a full matrix, which is taken too where it has
            no more parameters.
        budget: parameters of all projections together: takes the largest common rank that fits.
        shared: one B for both view directions, or one each.
        negatives: "next": the next sample as anchor, same reference; "all": all other samples.
        penalty: lam.

    Raises:
        ValueError: unknown names, or options that do not go together.
    """

    context: Context = "same"
    projection: ProjectionKind = "trained"
    pooling: Pooling = DEFAULT_POOLING
    context_pooling: Pooling | None = None
    rank: int | None = None
    budget: int | None = None
    shared: bool = True
    negatives: Negatives = "next"
    penalty: float = 0.01

    def __post_init__(self) -> None:
        for what, known in (("context", Context), ("projection", ProjectionKind)):
            value, names = getattr(self, what), get_args(known)
            if value not in names:
                raise ValueError(f"{what} must be one of {', '.join(names)}, got {value!r}.")
        pair_losses.check_negatives(self.negatives)
        if self.rank is not None and self.budget is not None:
            raise ValueError("A budget chooses the rank: give one of rank and budget.")
        if self.rank is not None:
            whole(self.rank, "rank", 1)
        if not real(self.penalty, "penalty") >= 0:
            raise ValueError(f"penalty must not be negative, got {self.penalty}.")
        if self.projection == "identity" and (
            self.context != "same" or self.context_pooling is not None
        ):
            raise ValueError(
                "An identity projection compares activities of one kind: it needs context "
                f'"same" and no pooling of its own for the context, got {self.context!r} and '
                f"{self.context_pooling!r}."
            )

    @abstractmethod
    def pair_loss(self) -> PairLoss:
        """phi."""

    def num_parameters(self, shapes: Sequence[Shape]) -> tuple[int, ...]:
        """Parameters of the projections of each block, without building them."""
        return tuple(
            (1 if self.shared else 2)
            * sum(num_parameters(f, c, r) for f, c, r in self._plan(shapes, block))
            for block in range(len(shapes))
        )

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One `ScoredPairs` for each block.

        Args:
            shapes: of the blocks' outputs, without the axis of samples.
            seed: of the projections; the global random state stays as it is.

        Raises:
            ValueError: no blocks, pooling that does not fit, or a budget that is too small.
        """
        generator = torch.Generator().manual_seed(seed)
        own = pools(self.pooling, len(shapes))
        modules = nn.ModuleList()
        for block in range(len(shapes)):
            sides = self._plan(shapes, block)
            projections = [
                [Projection(*side, generator) for side in sides]
                for _ in range(1 if self.shared else 2)
                if sides
            ]
            last = block == len(shapes) - 1
            trained = self.projection == "trained" or last
            contexts = [(top, pool) for top, pool, _ in self._contexts(shapes, block)]
            module = ScoredPairs(self, own[block], contexts, projections, trained)
            modules.append(module.requires_grad_(self.projection != "random" or last))
        return modules

    def _contexts(self, shapes: Sequence[Shape], block: int) -> list[tuple[bool, Pool, int]]:
        """(is it the top?, P', features) of each context of a block."""
        seen = self.pooling if self.context_pooling is None else self.context_pooling
        windows, last = pools(seen, len(shapes)), len(shapes) - 1
        here = (False, windows[block], windows[block].features(shapes[block]))
        top = (True, windows[last], windows[last].features(shapes[last]))
        if self.context == "same" or block == last:
            return [here]
        return [top] if self.context == "top" else [here, top]

    def _sides(self, shapes: Sequence[Shape], block: int) -> list[tuple[int, int]]:
        features = pools(self.pooling, len(shapes))[block].features(shapes[block])
        if self.projection == "identity":
            return []
        return [(features, c) for _, _, c in self._contexts(shapes, block)]

    def _plan(self, shapes: Sequence[Shape], block: int) -> list[tuple[int, int, int | None]]:
        """(features, context features, rank) of the projections of a block, in one direction."""
        rank = self.rank
        if self.budget is not None:
            every = [side for b in range(len(shapes)) for side in self._sides(shapes, b)]
            rank = rank_within(self.budget // (1 if self.shared else 2), every)
        return [(f, c, useful_rank(f, c, rank)) for f, c in self._sides(shapes, block)]
