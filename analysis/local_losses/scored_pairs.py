"""Losses of scored pairs u = P z . B P' c: the module of one block.

A loss is the sum over both view directions, in which each view is anchor once, of

    phi(u_positive, u_negative) + lam/2 ||B||_F^2

where P and P' pool and flatten an activity z and a reference c, which is detached. The penalty is a
part of the loss of B alone, where it acts as weight decay. Both directions share one B, or have one
each (as in `linlocal`). Two contexts have a B each; their scores are added, or they are judged each
by a loss of its own, and the losses are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.local_losses.contract import LocalLoss, views_of
from linlocal.analysis.local_losses.pooling import Pool
from linlocal.analysis.local_losses.projections import (
    DownstreamProjection,
    ProjectionModule,
    with_constant,
)
from linlocal.analysis.local_losses.regression import (
    LeastSquares,
    Product,
    Regression,
    estimated,
    of_all_processes,
)
from linlocal.autodiff import pair_formula, summed
from linlocal.losses import PairLoss
from linlocal.seeds import seed_for

Negatives = Literal["next", "stacked", "all"]


class ScoredPairs(LocalLoss):
    """The local loss of one block: pairs scored by u = P z . B P' c. Built by a `NetworkRule`.

    Args:
        loss: phi.
        pool: P.
        contexts: for each context whether it is the top block's activity, and its P'.
        projections: [direction][context] the projections B; a single direction if both share it,
            and none for the identity.
        negatives: which anchors are negative for a reference: "next" takes that of the next sample
            (cyclic), "stacked" the next one in the stack of both views (cyclic), "all" those of
            all other samples.
        separate: whether each context is judged by a loss of its own.
        penalty: lam.
        trained: whether this loss trains B; otherwise B is frozen, or matched to the
            backpropagated error signal.
        matching: how `match` solves for B; None where it is not matched.
        seed: seeds the tangents of ``matching``.
        refresh: the number of steps of training between two measurements of the averaged Jacobian,
            where the penalty is in the downstream metric.
    """

    compares = "views"
    batches: Tensor

    def __init__(
        self,
        loss: PairLoss,
        pool: Pool,
        contexts: Sequence[tuple[bool, Pool]],
        projections: Sequence[Sequence[ProjectionModule]],
        *,
        negatives: Negatives,
        separate: bool = False,
        penalty: float,
        trained: bool,
        matching: LeastSquares | None = None,
        seed: int = 0,
        refresh: int = 1,
    ) -> None:
        super().__init__()
        self.loss, self.formula = loss, pair_formula(loss)
        self.negatives, self.penalty = negatives, inputs.not_negative(penalty, "penalty")
        self.pool, self.contexts, self.trained = pool, tuple(contexts), trained
        self.separate, self.refresh = separate, inputs.whole(refresh, "refresh", 1)
        self.reads_top = any(onto_top for onto_top, _ in contexts)
        self.needs_global_error = matching is not None
        self.projections = nn.ModuleList(nn.ModuleList(directed) for directed in projections)
        self.matching, self._seed = matching, inputs.whole(seed, "seed", 0)
        self.regressions = nn.ModuleList()
        if matching is not None:
            self.regressions.extend(self._regressions(matching))
            if matching.tangents is not None:
                self.register_buffer("batches", torch.tensor(0))

    @property
    def reads_downstream(self) -> bool:
        """Whether B is in the downstream metric, and needs the averaged Jacobian V."""
        return any(isinstance(b, DownstreamProjection) for b in self.modules())

    @torch.no_grad()
    def set_downstream(self, jacobian: Tensor, here: Tensor, top: Tensor) -> None:
        """Set V = [J, b], the map top = J z + b that stands for the blocks above, on average.

        Args:
            jacobian: (top features, ...), the averaged Jacobian of the pooled top by this block's
                output.
            here: (...) this block's mean output.
            top: (top features,) the mean of the pooled top.

        Raises:
            ValueError: another shape.
        """
        j = self.pool.lifted(jacobian)
        v = torch.cat([j, (top - j @ self.pool(here[None])[0])[:, None]], 1)
        for b in self.modules():
            if isinstance(b, DownstreamProjection):
                if b.downstream.shape != v.shape:
                    raise ValueError(
                        "The map to the pooled top has (features of the top, of the block) = "
                        f"{tuple(j.shape)}, but the projection was built for "
                        f"{(len(b.downstream), b.downstream.shape[1] - 1)}: was the rule built "
                        "with the shapes of these outputs?"
                    )
                b.downstream.copy_(v)

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        """The loss; only a trained projection gets a gradient and a penalty."""
        total = self._pairs_loss(here, top, through_projections=self.trained)
        if self.trained and self.penalty:
            # lam/2 in each direction; a shared projection counts for both.
            weight = self.penalty / max(1, len(self.projections))
            for b in self.modules():
                if isinstance(b, ProjectionModule):
                    total = total + weight * b.squared_norm()
        return total

    def activity_loss(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        return self._pairs_loss(here, top, through_projections=False)

    def match(
        self,
        here: Tensor,
        top: Tensor,
        slopes: Sequence[tuple[Tensor, Tensor]],
        global_error: Tensor,
        how: LeastSquares | None = None,
    ) -> None:
        """Set the projections B_l so that the block's error is nearest to the backpropagated one.

        This is the "theoretical optimum" of Wu et al. 2026 (arXiv 2601.21683), in closed form for
        given slopes; see `LeastSquares`.

        Args:
            here: (2N, ...) this block's output.
            top: (2N, ...) the last block's output.
            slopes: those of the last block's loss, as `slopes` gives them.
            global_error: dL_global/dz_l, shaped like ``here``.
            how: solves for this batch alone, in another way than the loss was built with.

        Raises:
            ValueError: a global error of another shape, an identity projection, or one in the
                downstream metric.
            FloatingPointError: an entry is not finite.
        """
        if self.reads_downstream:
            raise ValueError(
                "B is bound by its penalty in the downstream metric, so it cannot be solved for: "
                'take the metric "frobenius".'
            )
        if global_error.shape != here.shape:
            raise ValueError(
                "The global error must have the shape of the block's output "
                f"{tuple(here.shape)}, got {tuple(global_error.shape)}; give the gradient of the "
                "global loss by that output."
            )
        pooled = self.pool.lifted(global_error.detach())
        sampled = self.matching if how is None else how
        if sampled is not None and sampled.tangents is not None:
            exact = pooled.to(torch.promote_types(pooled.dtype, torch.float32))
            seed = self._tangent_seed(how)
            pooled = estimated(lambda v: (exact * v).sum(1), pooled, sampled, seed)
        self._fit(here, top, slopes, pooled, how)

    def match_forward(
        self,
        here: Tensor,
        top: Tensor,
        slopes: Sequence[tuple[Tensor, Tensor]],
        product: Product,
    ) -> None:
        """`match` from forward-mode products, without the backpropagated error.

        Args:
            here: as for `match`.
            top: as for `match`.
            slopes: as for `match`.
            product: maps tangents v, shaped like ``here``, to (2N,) directional derivatives
                <dL_global/dz_l[k], v[k]>.

        Raises:
            ValueError: the loss was built without tangents.
            FloatingPointError: an entry is not finite.
        """
        if self.matching is None or self.matching.tangents is None:
            raise ValueError("Forward products need tangents: give LeastSquares(tangents=m).")
        rows = self.pool(here.detach())
        placed = self.pool.placed
        seed = self._tangent_seed(None)
        found = estimated(lambda v: product(placed(v, here)), rows, self.matching, seed)
        self._fit(here, top, slopes, found, None)

    def _tangent_seed(self, how: LeastSquares | None) -> int:
        """The seed of the tangents of this batch; counts the batches of a training."""
        if how is not None:
            return seed_for(self._seed)
        self.batches += 1
        return seed_for(self._seed, int(self.batches))

    def _fit(
        self,
        here: Tensor,
        top: Tensor,
        slopes: Sequence[tuple[Tensor, Tensor]],
        target: Tensor,
        how: LeastSquares | None,
    ) -> None:
        if not self.projections:
            raise ValueError("An identity projection has no B to be solved for.")
        rounding = max(torch.finfo(z.dtype).eps for z in (here, top))
        regressions = self.regressions if how is None else self._regressions(how)
        design = self.design(here.detach(), top.detach(), slopes)
        target = target.view(2, len(design[0]), -1)
        rows = list(zip(design, target, strict=True))
        if len(self.projections) == 1:
            rows = [(design.flatten(0, 1), target.flatten(0, 1))]
        if how is None:
            rows = [(of_all_processes(s), of_all_processes(t)) for s, t in rows]
        for contexts, regression, each in zip(self.projections, regressions, rows, strict=True):
            modules = [b for b in contexts.modules() if isinstance(b, ProjectionModule)]
            ranks = [len(b.right) for b in modules if b.right is not None]
            metric = self.pool.metric(here.shape[1:]) if ranks else None
            found = cast(Regression, regression).fit(
                *each, min(ranks, default=None), metric, rounding
            )
            for b, part in zip(modules, found.split([b.sides[1] for b in modules], 1), strict=True):
                b.set_to(part)

    def _regressions(self, how: LeastSquares) -> list[Regression]:
        found = []
        for contexts in self.projections:
            sides = [b.sides for b in contexts.modules() if isinstance(b, ProjectionModule)]
            found.append(Regression(sum(c for _, c in sides), sides[0][0], how))
        return found

    def slopes(self, here: Tensor, top: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """d phi / d u, how hard the loss pulls at every pair.

        Args:
            here: (2N, ...) this block's output.
            top: (2N, ...) the last block's output.

        Returns:
            Those of the positive pairs, (2, N), and of the negative pairs, (2, N, negatives), of
            each loss: one, or one of each context.
        """
        scores = [tuple(u.detach().requires_grad_() for u in us) for us in self._scores(here, top)]
        with torch.enable_grad():
            total = torch.stack([summed(self.formula, *us) for us in scores]).sum()
            found = iter(torch.autograd.grad(total, [u for us in scores for u in us]))
        return [(positive, next(found)) for positive in found]

    def pulled(
        self, here: Tensor, top: Tensor | None, slopes: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """sum over pairs of slope times score: its gradient is the error signal of these slopes.

        Args:
            here: (2N, ...) this block's output.
            top: (2N, ...) the last block's output.
            slopes: as `slopes` gives them, of this block or of another one.

        Returns:
            A scalar; projections are detached.
        """
        scores = self._scores(here, top)
        pairs = zip(scores, slopes, strict=True)
        products = [(u * g).sum() for us, gs in pairs for u, g in zip(us, gs, strict=True)]
        return torch.stack(products).sum()

    def design(
        self, here: Tensor, top: Tensor | None, slopes: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """S with error = P^T B S^T: the contexts that reach each anchor, times their slopes.

        Args:
            here: (2N, ...) this block's output.
            top: (2N, ...) the last block's output.
            slopes: as `slopes` gives them, of this block or of another one.

        Returns:
            (2, N, context features), those of all contexts side by side.
        """
        contexts = [each.flip(0) for each in self._contexts(here, top)]
        of_context = list(slopes) * (len(contexts) if len(slopes) < len(contexts) else 1)
        parts = []
        for c, gs in zip(contexts, of_context, strict=True):
            anchors = torch.zeros_like(c, requires_grad=True)  # u is linear in them
            with torch.enable_grad():
                scores = pair_scores(anchors, c, self.negatives)
                pulls = [(u * g).sum() for u, g in zip(scores, gs, strict=True)]
                (part,) = torch.autograd.grad(torch.stack(pulls).sum(), anchors)
            parts.append(part)
        return torch.cat(parts, 2)

    def rows(self, here: Tensor, top: Tensor | None) -> list[Tensor]:
        """P z of both views, (2N, features), and P' c for each context, (2N, context features).

        Args:
            here: (2N, ...) this block's output.
            top: (2N, ...) the last block's output.
        """
        contexts = self._contexts(here, top)
        return [self.pool(here), *(each.flatten(0, 1) for each in contexts)]

    def _contexts(self, here: Tensor, top: Tensor | None) -> list[Tensor]:
        """P' c of both views for each context, (2, N, features)."""
        # Detached before it is pooled, so no graph of the context is built.
        contexts = ((cast(Tensor, top) if onto_top else here, p) for onto_top, p in self.contexts)
        return [stacked_views(p(c.detach())) for c, p in contexts]

    def _pairs_loss(self, here: Tensor, top: Tensor | None, through_projections: bool) -> Tensor:
        scores = self._scores(here, top, through_projections)
        losses = [summed(self.formula, *us) for us in scores]
        return torch.stack(losses).sum(0) if len(losses) > 1 else losses[0]

    def _scores(
        self, here: Tensor, top: Tensor | None, through_projections: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        z, sent = self.directions(here, top)
        # The context is detached already, so this detaches the projection only.
        sent = sent if through_projections else [each.detach() for each in sent]
        return [pair_scores(z, each, self.negatives) for each in sent]

    def directions(self, here: Tensor, top: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Pooled anchors P z of both directions, and what their references send them, B P' c.

        Returns:
            The anchors, and what the references send for each loss: one, or one of each context.
            (2, N, features) each; the first direction has the first view as anchors. In the
            downstream metric both have a constant feature more.
        """
        z = stacked_views(self.pool(here))
        seen = self._contexts(here, top)
        if not self.projections:
            return z, [seen[0].flip(0)]
        if self.reads_downstream:
            z = with_constant(z)
        by_context = zip(*(cast(nn.ModuleList, each) for each in self.projections), strict=True)
        sent = [_sent(projections, c) for projections, c in zip(by_context, seen, strict=True)]
        if self.separate or len(sent) == 1:
            return z, sent
        return z, [torch.stack(sent).sum(0)]


def _sent(projections: Sequence[nn.Module], c: Tensor) -> Tensor:
    """B c for both directions, in which the other view is the reference; (2, N, context)."""
    if len(projections) == 1:  # shared, so all at once
        sent: Tensor = projections[0](c.flatten(0, 1))
        return sent.view(2, -1, sent.shape[1]).flip(0)
    return torch.stack([b(c[reference]) for b, reference in zip(projections, (1, 0), strict=True)])


def check_negatives(negatives: str) -> None:
    """Raise a ValueError unless ``negatives`` is known."""
    if negatives not in get_args(Negatives):
        raise ValueError(f'negatives must be "next", "stacked" or "all", got {negatives!r}.')


def pair_scores(z: Tensor, sent: Tensor, negatives: Negatives) -> tuple[Tensor, Tensor]:
    """u = z . (B c) of every reference with its own anchor and with those of other samples.

    Args:
        z: (directions, samples, features) anchors.
        sent: (directions, samples, features) B c of the references.
        negatives: which anchors are negative for a reference: "next" takes that of the next sample
            (cyclic), "stacked" the next one in the stack of both views (cyclic), so that of the
            first sample of the other view for the last of each, "all" those of all other samples.

    Returns:
        (directions, samples) positive and (directions, samples, negatives) negative scores, in
        float32 or wider.
    """
    wide = torch.promote_types(z.dtype, torch.float32)
    z, sent = z.to(wide), sent.to(wide)
    positive = (z * sent).sum(2)
    if negatives == "next":
        return positive, (z.roll(-1, 1) * sent).sum(2, keepdim=True)
    if negatives == "stacked":
        following = z.flatten(0, 1).roll(-1, 0).view_as(z)
        return positive, (following * sent).sum(2, keepdim=True)
    with torch.autocast(z.device.type, enabled=False):
        return positive, without_diagonal(sent @ z.transpose(1, 2))


def without_diagonal(k: Tensor) -> Tensor:
    """(directions, n, n) to (directions, n, n - 1): each row without its entry on the diagonal."""
    n = k.shape[1]
    return k.flatten(1)[:, 1:].view(-1, n - 1, n + 1)[:, :, :-1].reshape(-1, n, n - 1)


def stacked_views(here: Tensor) -> Tensor:
    """(2N, features) to (2, N, features); raises as `views_of`."""
    first, _ = views_of(here)
    return here.view(2, *first.shape)
