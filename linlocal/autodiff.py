"""The oracle: local and global updates by torch autograd in float64, the slow obvious way.

Nothing is shared with `linlocal.updates` but data: the weights of the network, the index arrays of
the pairs, and the fields of the rule. Activities come from torch's own ``linear``, ``conv2d`` and
``avg_pool2d``, losses are written with torch's own functions, the optimal projection is found over
all entries of B with Hessians by autograd, and every update is a call of ``torch.autograd.grad``.
What the dual form claims is checked against this module, in the tests and by anyone who doubts it.

References are detached, as in the rules. For a local update the gradient stops at the input of the
layer, for the global one it runs through everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from linlocal import arguments, losses, scores
from linlocal.convolution import Convolution
from linlocal.network import Masks, Network, Weight
from linlocal.pairs import Direction, Pairs
from linlocal.rules import Penalty, Rule

Array = NDArray[np.float64]
Projections = Sequence[Sequence[ArrayLike]]
TorchLoss = Callable[..., torch.Tensor]

MAX_ENTRIES = 1024
"""Largest number of entries of B for which the dense Hessian of `optimal_projection` is built."""

_KINK = 1e-9
"""A margin this near to a hinge's kink counts as on it."""


def local_update(
    network: Network,
    pairs: Pairs,
    rule: Rule,
    projections: Projections | None = None,
    loss: TorchLoss | None = None,
) -> tuple[Array, ...]:
    """-dLoss_l/dW_l of the loss of every layer, with the gradient stopped at the layer's input.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule.
        projections: ``projections[l - 1][d]`` is the B of layer l and view direction d to use
            instead of the rule's, (read-out width, context width); the M of a penalty in the
            downstream metric.
        loss: a torch function to use instead of ``rule.loss``, needed if that is your own:
            ``loss(u, direction)`` of the scores (pairs,) of a direction (of their goodness, for a
            rule of goodness), or ``loss(z, z_view)``. Returns a scalar.

    Returns:
        ``updates[l - 1]`` in the shape of W_l (of the kernel, for a convolution), for l = 1..L.

    Raises:
        ValueError: autograd cannot give the update (a margin on the kink of a hinge), or the
            projection is too large for the dense Hessian.
        TypeError: torch does not know the loss or its score.
    """
    graph = _Graph(network, pairs, rule, projections, loss)
    updates = []
    for l in range(1, graph.depth + 1):
        weight = graph.weights[l - 1].clone().requires_grad_(True)
        z = graph.layer(l, graph.z[l - 1], weight)
        (gradient,) = torch.autograd.grad(graph.loss(l, z), weight)
        updates.append(-gradient.numpy())
    return tuple(updates)


def global_update(
    network: Network,
    pairs: Pairs,
    rule: Rule,
    projections: Projections | None = None,
    masks: Masks = "sample",
    loss: TorchLoss | None = None,
) -> tuple[Array, ...]:
    """-dLoss_L/dW_l of the top-layer loss, backpropagated through the whole network.

    Args:
        network: as in `local_update`.
        pairs: as in `local_update`.
        rule: its loss on the top layer is the global one.
        projections: as in `local_update`; only those of the top layer count.
        masks: "sample" is backpropagation. For "batch" and "none" the layers above l are replaced
            by linear ones, with the derivatives of the ReLU averaged over the batch or left out,
            and what reaches the top is paired with -dLoss_L/dz_L.
        loss: as in `local_update`.

    Returns:
        As `local_update`.

    Raises:
        ValueError, TypeError: as `local_update`.
    """
    if masks not in ("sample", "batch", "none"):
        raise ValueError(f'masks must be "sample", "batch" or "none", got {masks!r}.')
    graph = _Graph(network, pairs, rule, projections, loss)
    if masks == "sample":
        weights = [w.clone().requires_grad_(True) for w in graph.weights]
        z = graph.z[0]
        for l, weight in enumerate(weights, start=1):
            z = graph.layer(l, z, weight)
        gradients = torch.autograd.grad(graph.loss(graph.depth, z), weights)
        return tuple(-g.numpy() for g in gradients)

    top = graph.z[-1].clone().requires_grad_(True)
    (by_top,) = torch.autograd.grad(graph.loss(graph.depth, top), top)
    updates = []
    for l in range(1, graph.depth + 1):
        weight = graph.weights[l - 1].clone().requires_grad_(True)
        z = graph.layer(l, graph.z[l - 1], weight)
        for above in range(l + 1, graph.depth + 1):
            z = graph.drive(above, z)
            if masks == "batch" and not network.is_linear:
                open_units = graph.drive(above, graph.z[above - 1]) > 0
                z = z * open_units.double().mean(dim=0)
        (gradient,) = torch.autograd.grad(torch.sum(z * by_top), weight)
        updates.append(-gradient.numpy())
    return tuple(updates)


def loss(
    network: Network,
    pairs: Pairs,
    rule: Rule,
    layer: int,
    projections: Projections | None = None,
) -> float:
    """The loss of one layer, summed over view directions, penalty on an optimal B included.

    Args:
        network: as in `local_update`.
        pairs: as in `local_update`.
        rule: as in `local_update`.
        layer: l in 1..L.
        projections: as in `local_update`.
    """
    graph = _Graph(network, pairs, rule, projections, None)
    if not 1 <= layer <= graph.depth:
        raise ValueError(f"Layers are numbered 1..{graph.depth}, got layer {layer}.")
    total = graph.loss(layer, graph.z[layer])
    if rule.kind == "pair" and (rule.projection == "optimal" or graph.optimal_top(layer)):
        strength = cast(Penalty, rule.penalty).at(layer, graph.depth)
        for score in graph.scorers(layer):
            total = total + 0.5 * strength * torch.sum(score.b**2)
    return float(total)


def optimal_projection(
    z: ArrayLike, c: ArrayLike, pairs: Direction, loss: Any, penalty: float
) -> Array:
    """argmin_B loss + penalty/2 ||B||_F^2 by Newton on vec(B) with the Hessian of autograd.

    Args:
        z: (anchors, width) activities of ``pairs.anchor_rows``, in that order.
        c: (references, context width) contexts of ``pairs.reference_rows``, in that order.
        pairs: who is scored against whom.
        loss: a loss of scored pairs, or a torch function ``loss(u, pairs)``.
        penalty: lam > 0.

    Returns:
        B, (width, context width).

    Raises:
        ValueError: more than `MAX_ENTRIES` entries, or a hinge.
        RuntimeError: Newton's method did not reach the accuracy of float64.
    """
    anchors, contexts = _tensor(z), _tensor(c)
    at = torch.unique(_index(pairs.anchor), return_inverse=True)[1]
    referred = torch.unique(_index(pairs.reference), return_inverse=True)[1]
    return _minimise(anchors[at], contexts[referred], pairs, _pair_loss(loss), penalty).numpy()


# -- graph -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scorer:
    """How one view direction scores an anchor: u = read(z)^T B c."""

    read: Callable[[torch.Tensor], torch.Tensor]
    c: torch.Tensor
    b: torch.Tensor

    def __call__(self, z: torch.Tensor, direction: Direction) -> torch.Tensor:
        anchors = self.read(z)[_index(direction.anchor)]
        references = self.c[_index(direction.reference)]
        return torch.einsum("pi,ij,pj->p", anchors, self.b, references)


class _Graph:
    """One batch in one network, read by one rule; all that is stored here is detached."""

    def __init__(
        self,
        network: Network,
        pairs: Pairs,
        rule: Rule,
        projections: Projections | None,
        user_loss: TorchLoss | None,
    ) -> None:
        arguments.instance(network, Network, "network", "a `DeepLinear` or `DeepReLU`")
        arguments.instance(pairs, Pairs, "pairs", "a `Pairs`, made by Pairs.from_views or its like")
        arguments.instance(rule, Rule, "rule", "a `Rule`, made by rules.CLAPP() or its like")
        self.network, self.pairs, self.rule = network, pairs, rule
        self.projections, self.user_loss = projections, user_loss
        self.depth = network.depth
        self.weights = [
            _tensor(w.kernel if isinstance(w, Convolution) else w) for w in network.weights
        ]
        self.z = [_tensor(network.check_input(pairs.samples))]
        for l in range(1, self.depth + 1):
            self.z.append(self.layer(l, self.z[-1], self.weights[l - 1]))

    def drive(
        self, layer: int, z: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """W_l z."""
        given: Weight = self.network.weights[layer - 1]
        weight = self.weights[layer - 1] if weight is None else weight
        if not isinstance(given, Convolution):
            return F.linear(z, weight)
        maps = z.reshape(-1, *given.input_shape)
        return F.conv2d(
            maps,
            weight,
            stride=given.stride,
            padding=given.padding,
            dilation=given.dilation,
            groups=given.groups,
        ).flatten(1)

    def layer(self, layer: int, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """phi(W_l z)."""
        drive = self.drive(layer, z, weight)
        return drive if self.network.is_linear else F.relu(drive)

    def pooled(self, layer: int, z: torch.Tensor) -> torch.Tensor:
        given = self.network.weights[layer - 1]
        if self.rule.pooling is None or not isinstance(given, Convolution):
            return z
        maps = z.reshape(-1, *given.output_shape)
        return F.avg_pool2d(maps, self.rule.pooling[layer - 1]).flatten(1)

    def through(self, layer: int, z: torch.Tensor) -> torch.Tensor:
        """What a linear network makes of z_l in its top layer, pooled there."""
        for above in range(layer + 1, self.depth + 1):
            z = self.drive(above, z)
        return self.pooled(self.depth, z)

    def read(self, layer: int, z: torch.Tensor) -> torch.Tensor:
        """What a projection sees of z_l; in the downstream metric, B = V^T M V, it is V z_l."""
        if cast(Penalty, self.rule.penalty).metric == "downstream":
            return self.through(layer, z)
        return self.pooled(layer, z)

    def context(self, layer: int) -> torch.Tensor:
        top = self.read(self.depth, self.z[-1])
        if self.rule.context == "top" or layer == self.depth:
            return top
        here = self.read(layer, self.z[layer])
        return torch.cat([here, top], dim=1) if self.rule.context == "both" else here

    def optimal_top(self, layer: int) -> bool:
        return layer == self.depth and self.rule.projection != "identity"

    def scorers(self, layer: int) -> list[_Scorer]:
        """One for each view direction."""
        return [self._scorer(layer, i, d) for i, d in enumerate(self.pairs.directions)]

    def _scorer(self, layer: int, number: int, direction: Direction) -> _Scorer:
        kind = self.rule.projection

        def read(z: torch.Tensor) -> torch.Tensor:
            return self.read(layer, z)

        c = self.context(layer)
        seen = read(self.z[layer])
        if self.projections is not None:
            b = _tensor(self.projections[layer - 1][number])
            if b.shape != (seen.shape[1], c.shape[1]):
                raise ValueError(
                    f"The projection of layer {layer} must be {(seen.shape[1], c.shape[1])} "
                    f"(read-out width, context width), got {tuple(b.shape)}."
                )
        elif kind == "optimal" or self.optimal_top(layer):
            strength = cast(Penalty, self.rule.penalty).at(layer, self.depth)
            anchors, references = seen[_index(direction.anchor)], c[_index(direction.reference)]
            judge = _pair_loss(self.user_loss or self.rule.loss)
            b = _minimise(anchors, references, direction, judge, strength)
        elif kind == "identity":
            b = torch.eye(seen.shape[1], dtype=torch.float64)
        elif kind == "random":
            rng = np.random.default_rng([self.rule.seed, layer, number])
            shape = (seen.shape[1], c.shape[1])
            b = _tensor(rng.uniform(-1.0, 1.0, shape)) / seen.shape[1] ** 0.5
        else:
            return self._matched(layer, number, direction)
        return _Scorer(read, c, b)

    def _matched(self, layer: int, number: int, direction: Direction) -> _Scorer:
        """u = (V z)^T B_L (V c), so that no matrix V is needed: layers above act on z and c."""
        b = self._scorer(self.depth, number, direction).b

        def read(z: torch.Tensor) -> torch.Tensor:
            return self.through(layer, z)

        top = self.pooled(self.depth, self.z[-1])
        here = self.through(layer, self.z[layer])
        c = {"same": here, "top": top, "both": (here + top) / 2.0}[self.rule.context]
        return _Scorer(read, c, b)

    def loss(self, layer: int, z: torch.Tensor) -> torch.Tensor:
        """The loss of layer l as a function of its activity; contexts and projections are fixed."""
        rule, chosen = self.rule, self.user_loss
        if rule.kind == "view":
            if self.pairs.views is None:
                raise ValueError(f"{rule.name} compares two views; use Pairs.from_views.")
            first, second = (_index(v) for v in self.pairs.views)
            return (chosen or _view_loss(rule.loss))(z[first], z[second])
        total = torch.zeros((), dtype=torch.float64)
        if rule.kind == "goodness":
            goodness_loss = chosen or _goodness_loss(cast(losses.Goodness, rule.loss))
            for d in self.pairs.directions:
                judged = z[_index(d.anchor)]
                if rule.context == "sum":
                    judged = judged + z[_index(d.reference)]
                total = total + goodness_loss(torch.sum(judged**2, dim=1), d)
            return total
        judge = _pair_loss(chosen or rule.loss)
        for d, scorer in zip(self.pairs.directions, self.scorers(layer), strict=True):
            u = scorer(z, d)
            _refuse_kink(rule.loss if chosen is None else None, u.detach(), d)
            total = total + judge(u, d)
        return total


# -- the optimal projection --------------------------------------------------------------------


def _minimise(
    z: torch.Tensor, c: torch.Tensor, pairs: Direction, judge: TorchLoss, penalty: float
) -> torch.Tensor:
    """argmin over b = vec(B), for z and c row by row for each pair."""
    shape = (z.shape[1], c.shape[1])
    if shape[0] * shape[1] > MAX_ENTRIES:
        raise ValueError(
            f"The oracle minimises over all entries of B with a dense Hessian, affordable up to "
            f"{MAX_ENTRIES} of them; got {shape[0]} x {shape[1]}. Use smaller widths, or "
            "linlocal.optimal_projection, or pass projections."
        )
    if getattr(judge, "has_kink", False):
        raise ValueError(
            "The hinge has no derivative at its kink, where margins of the optimum sit, so "
            "autograd can neither find its optimal projection nor differentiate there. Use "
            "SmoothedHinge, or pass projections."
        )
    features = torch.einsum("pi,pj->pij", z, c).flatten(1)

    def energy(b: torch.Tensor) -> torch.Tensor:
        return judge(features @ b, pairs) + 0.5 * penalty * torch.sum(b**2)

    slope, hessian = torch.func.grad(energy), torch.func.hessian(energy)
    b = torch.zeros(features.shape[1], dtype=torch.float64)
    best, best_norm, idle = b, float("inf"), 0
    for _ in range(200):
        gradient = slope(b)
        norm = float(gradient.norm())
        improved = norm < 0.5 * best_norm
        if norm < best_norm:
            best, best_norm = b, norm
        if norm == 0.0 or idle > 5:
            break
        step = -torch.linalg.solve(hessian(b), gradient)
        expected = float(gradient @ step)
        here, length = float(energy(b)), 1.0
        noise = 1e-13 * (1.0 + abs(here))
        # Near the optimum, where the energy no longer tells, the gradient shrinks until it is
        # rounding noise and wanders: stop after some steps that are no better, keep the best.
        idle = 0 if improved or -expected > noise else idle + 1
        while float(energy(b + length * step)) > here + 1e-4 * length * expected + noise:
            length *= 0.5
            if length < 1e-12:
                break
        b = b + length * step
    # The gradient is a sum of terms; it is zero when small against them.
    terms = penalty * float(best.norm()) + float((slope(best) - penalty * best).norm())
    if best_norm > 1e-11 * terms + 1e-300:
        raise RuntimeError(
            f"Newton's method by autograd stopped at a gradient of {best_norm:.1e} against terms "
            f"of size {terms:.1e}; raise the penalty or scale the input down."
        )
    return best.reshape(shape)


# -- losses ------------------------------------------------------------------------------------


def _score(score: object) -> Callable[[torch.Tensor], torch.Tensor]:
    """f as a torch function of margins."""
    match score:
        case scores.Linear():
            return torch.neg
        case scores.Softplus(margin):
            # threshold: torch's own switch to the identity would cut the tail at 2e-9.
            return lambda m: F.softplus(margin - m, threshold=700.0)
        case scores.Hinge(margin):
            return lambda m: F.relu(margin - m)
        case scores.SmoothedHinge(margin, width):

            def smoothed(m: torch.Tensor) -> torch.Tensor:
                gap = F.relu(margin - m)
                return F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none", beta=width)

            return smoothed
        case _:
            raise TypeError(
                f"The oracle has no torch version of {type(score).__name__}; pass loss=, a torch "
                "function of the scores of a direction."
            )


def _pair_loss(loss: Any) -> TorchLoss:
    """A loss of scored pairs as a torch function (u, direction); torch functions pass through."""
    match loss:
        case losses.TypeTwo(score):
            f = _score(score)

            def judge(u: torch.Tensor, d: Direction) -> torch.Tensor:
                positive, negative = _signs(d)
                return f(u[positive]).mean() + f(-u[negative]).mean()
        case losses.TypeOne(score):
            f = _score(score)

            def judge(u: torch.Tensor, d: Direction) -> torch.Tensor:
                _, negative = _signs(d)
                return f(u[_partners(d)] - u[negative]).mean()
        case losses.InfoNCE(temperature):

            def judge(u: torch.Tensor, d: Direction) -> torch.Tensor:
                positive, _ = _signs(d)
                group = _index(d.group)
                others = group[None, :] != group[positive][:, None]
                logits = (u / temperature).expand(len(positive), -1)
                # Not -inf: the Hessian of a masked entry would be 0 * inf.
                return F.cross_entropy(logits.masked_fill(others, -1e30), positive)
        case losses.Goodness() | losses.ViewLoss():
            raise TypeError(f"{type(loss).__name__} is no loss of scored pairs.")
        case losses.PairLoss():
            raise TypeError(
                f"The oracle has no torch version of {type(loss).__name__}; pass loss=, a torch "
                "function of the scores of a direction."
            )
        case _ if callable(loss):
            return cast(TorchLoss, loss)
        case _:
            raise TypeError(f"{type(loss).__name__} is no loss of scored pairs.")
    judge.has_kink = isinstance(getattr(loss, "score", None), scores.Hinge)  # type: ignore[attr-defined]
    return judge


def _refuse_kink(loss: object, u: torch.Tensor, d: Direction) -> None:
    """Raise where a hinge is not differentiable."""
    score = getattr(loss, "score", None)
    if not isinstance(score, scores.Hinge):
        return
    sign = _tensor(d.sign)
    if isinstance(loss, losses.TypeTwo):
        margins = sign * u
    else:
        _, negative = _signs(d)
        margins = u[_partners(d)] - u[negative]
    nearest = float((margins - score.margin).abs().min())
    if nearest <= _KINK:
        raise ValueError(
            f"A margin lies within {nearest:.0e} of the kink of the hinge, where autograd's slope "
            "is arbitrary; the optimal projection of linlocal.optimal_projection finds the one "
            "that makes B stationary. Use SmoothedHinge to compare."
        )


def _goodness_loss(loss: losses.Goodness) -> TorchLoss:
    f = _score(loss.score)

    def judge(goodness: torch.Tensor, d: Direction) -> torch.Tensor:
        positive, negative = _signs(d)
        over = goodness - loss.threshold
        return f(over[positive]).mean() + f(-over[negative]).mean()

    return judge


def _view_loss(loss: object) -> TorchLoss:
    """A loss of two views as a torch function (z, z_view)."""
    known: dict[type, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
        losses.NTXent: _nt_xent,
        losses.SpectralContrastive: _spectral_contrastive,
        losses.Whitening: _whitening,
        losses.LogDet: _log_det,
        losses.VICReg: _vicreg,
        losses.BarlowTwins: _barlow_twins,
        losses.LPL: _lpl,
    }
    if type(loss) not in known:
        raise TypeError(
            f"The oracle has no torch version of {type(loss).__name__}; pass loss=, a torch "
            "function of two views."
        )
    return lambda z, z_view: known[type(loss)](loss, z, z_view)


def _nt_xent(loss: losses.NTXent, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    stacked = torch.cat([z, z_view])
    norm = torch.linalg.vector_norm(stacked, dim=1, keepdim=True)
    # A dead sample has no direction: its similarities are 0, and so is its derivative.
    alive = norm > 0
    unit = torch.where(alive, stacked / torch.where(alive, norm, 1.0), 0.0)
    itself = torch.eye(len(unit), dtype=torch.bool)
    logits = (unit @ unit.T / loss.temperature).masked_fill(itself, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(unit)).roll(len(z)))


def _spectral_contrastive(_: object, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    scores_ = torch.einsum("ai,bi->ab", z, z_view)
    different = ~torch.eye(len(z), dtype=torch.bool)
    repulsion = (scores_[different] ** 2).mean() if len(z) > 1 else 0.0
    return -2.0 * torch.diagonal(scores_).mean() + repulsion


def _moment(z: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ka,kb->ab", z, z) / len(z)


def _whitening(loss: losses.Whitening, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    identity = torch.eye(z.shape[1], dtype=torch.float64)
    spread = sum(torch.sum((_moment(a) - identity) ** 2) for a in (z, z_view))
    return torch.sum((z - z_view) ** 2, dim=1).mean() + loss.weight * spread


def _log_det(loss: losses.LogDet, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    identity = torch.eye(z.shape[1], dtype=torch.float64)
    rate = sum(torch.logdet(identity + _moment(a) / loss.epsilon) for a in (z, z_view))
    return torch.sum((z - z_view) ** 2, dim=1).mean() - loss.weight * rate


def _off_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def _covariance(z: torch.Tensor) -> torch.Tensor:
    return torch.cov(z.T).reshape(z.shape[1], z.shape[1])


def _vicreg(loss: losses.VICReg, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    total = loss.invariance * F.mse_loss(z, z_view)
    for a in (z, z_view):
        std = torch.sqrt(a.var(dim=0) + loss.epsilon)
        total = total + loss.variance * F.relu(loss.target_std - std).mean()
        covariance = torch.sum(_off_diagonal(_covariance(a)) ** 2) / a.shape[1]
        total = total + loss.covariance * covariance
    return total


def _barlow_twins(loss: losses.BarlowTwins, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    # A batch normalisation without scale and shift is this standardisation.
    a, b = (F.batch_norm(v, None, None, training=True, eps=loss.epsilon) for v in (z, z_view))
    c = torch.einsum("ki,kj->ij", a, b) / len(z)
    on = torch.sum((1.0 - torch.diagonal(c)) ** 2)
    return on + loss.weight * torch.sum(_off_diagonal(c) ** 2)


def _lpl(loss: losses.LPL, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    # Each view predicts the other, which is detached.
    predictive = (F.mse_loss(z, z_view.detach()) + F.mse_loss(z_view, z.detach())) / 2.0
    total = loss.predictive * predictive
    for a in (z, z_view):
        total = total - loss.hebbian * torch.log(a.var(dim=0) + loss.epsilon).mean()
        width = a.shape[1]
        decorrelation = torch.sum(_off_diagonal(_covariance(a)) ** 2) / (width * max(1, width - 1))
        total = total + loss.decorrelation * decorrelation
    return total


# -- data --------------------------------------------------------------------------------------


def _signs(d: Direction) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the positive and of the negative pairs."""
    positive, negative = np.flatnonzero(d.sign > 0), np.flatnonzero(d.sign < 0)
    if len(negative) == 0:
        raise ValueError("The pairs have no negatives, but the rule needs them.")
    return torch.as_tensor(positive), torch.as_tensor(negative)


def _partners(d: Direction) -> torch.Tensor:
    """For each negative pair the position of the positive pair of its group."""
    negative = np.flatnonzero(d.sign < 0)
    return torch.tensor(
        [int(np.flatnonzero((d.sign > 0) & (d.group == d.group[j]))[0]) for j in negative]
    )


def _tensor(array: ArrayLike) -> torch.Tensor:
    """A copy in float64."""
    return torch.from_numpy(np.array(array, dtype=np.float64))


def _index(array: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.int64))
