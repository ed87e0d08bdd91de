"""`compare` for several batches of one network at once, where all of them have the same pairs.

The quantities are those of `updates.signals` and `updates.rounding`, with the batches along the
first axis of every array. What has no such form is left to `updates.comparison`: losses that are
not smooth sums of scores, read-outs, two contexts, convolutions and biases, large problems, and
batches where an update vanishes or a projection is not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from linlocal.inputs import Array, Index
from linlocal.losses import PairLoss
from linlocal.networks import Convolution, DeepLinear, DeepNonlinear, DeepReLU, Network
from linlocal.pairs import Direction, Pairs
from linlocal.projection import Scratch, StackedLoss, StackedProjections, StackedRows
from linlocal.rules import Rule
from linlocal.threads import LARGEST
from linlocal.updates.layer_losses import random_projection
from linlocal.updates.rounding import EPS, ratio, row_norms

ROOM = 2**27  # bytes that the arrays of one stack may take; larger stacks leave the cache


def structure(pairs: Pairs) -> tuple[object, ...]:
    """What two batches must share to be stacked."""
    parts = (part for d in pairs.directions for part in (d.anchor, d.reference, d.sign, d.group))
    return (pairs.samples.shape, *(part.tobytes() for part in parts))


def chunks(network: Network, batches: Sequence[Pairs]) -> list[list[int]]:
    """The positions of batches that are stacked, in groups that take no more than `ROOM`."""
    alike: dict[object, list[int]] = {}
    for number, pairs in enumerate(batches):
        alike.setdefault(structure(pairs), []).append(number)
    groups = []
    for numbers in alike.values():
        most = max(1, ROOM // _bytes(network, batches[numbers[0]]))
        groups += [numbers[i : i + most] for i in range(0, len(numbers), most)]
    return groups


def _bytes(network: Network, pairs: Pairs) -> int:
    """About what the arrays of one batch take: its kernels, activities and error signals."""
    kernels = sum(len(d.sign) ** 2 for d in pairs.directions)
    return 8 * (3 * network.depth * kernels + 12 * len(pairs.samples) * sum(network.widths))


def can_stack(network: Network, pairs: Pairs, rule: Rule) -> bool:
    """Whether `Stack.compared` takes this network, batch and rule."""
    return (
        rule.kind == "pair"
        and rule.context in ("same", "top")
        and rule.projection in ("optimal", "random")
        and rule.penalty.metric == "frobenius"
        and rule.pooling is None
        and type(network) in (DeepLinear, DeepReLU, DeepNonlinear)
        and not network.has_biases
        and not any(isinstance(w, Convolution) for w in network.weights)
        and max(network.widths) <= LARGEST
        and all(StackedLoss.suits(cast(PairLoss, rule.loss), d) for d in pairs.directions)
    )


class Stack:
    """Batches of one network, with what rules and penalties share.

    Args:
        network: the network with layers 1..L.
        batches: batches of the same `structure`.
        kept: memory for as long as the stack is in use.
        passing: memory for as long as one rule is compared.
    """

    def __init__(
        self, network: Network, batches: Sequence[Pairs], kept: Scratch, passing: Scratch
    ) -> None:
        self.network, self.directions = network, batches[0].directions
        self.kept, self.passing = kept, passing
        self.shape = (len(batches), len(batches[0].samples))
        self.activities = network.activities(np.concatenate([b.samples for b in batches]))
        self.z = [self.apart(z) for z in self.activities.z]
        self._rows: dict[tuple[int, bytes], StackedRows] = {}
        self._kernels: dict[tuple[int, int, int], Array] = {}
        self.size = [row_norms(z) for z in self.z]
        # As in `Rounding`.
        self.relative = [np.full(self.shape, EPS)]
        self.gains = [0.0, *(float(np.linalg.norm(network.matrix(l))) for l in network.layers)]
        for l in network.layers:
            passed = self.relative[-1] / np.sqrt(network.widths[l - 1]) + EPS
            relative = ratio(passed * self.gains[l] * self.size[l - 1], self.size[l])
            self.relative.append(np.maximum(relative, self.relative[-1]))

    def apart(self, samples: Array) -> Array:
        """Rows of all batches as (batches, samples, width)."""
        return samples.reshape(*self.shape, -1)

    def rows(self, layer: int, samples: Index) -> StackedRows:
        """The activities of some samples, in the coordinates of a few more that are known."""
        key = (layer, samples.tobytes())
        if key not in self._rows:
            for d in self.directions:
                wider = self._rows.get((layer, d.anchor_rows.tobytes()))
                few = len(d.anchor_rows) <= 1.1 * len(samples)
                if wider is not None and few and np.isin(samples, d.anchor_rows).all():
                    self._rows[key] = wider.take(np.searchsorted(d.anchor_rows, samples), self.kept)
                    break
            else:
                self._rows[key] = StackedRows.of(self.z[layer].take(samples, 1), self.kept)
        return self._rows[key]

    def kernel(self, layer: int, source: int, number: int, loss: StackedLoss) -> Array:
        """Q of one direction, with the contexts of layer ``source``."""
        key = (layer, source, number)
        if key not in self._kernels:
            self._kernels[key] = loss.kernel(*self.sides(layer, source, loss.pairs), self.kept)
        return self._kernels[key]

    def sides(self, layer: int, source: int, d: Direction) -> tuple[StackedRows, StackedRows]:
        """The anchors of one layer, and the references of another."""
        for each in self.directions:
            self.rows(layer, each.anchor_rows)
        return self.rows(layer, d.anchor_rows), self.rows(source, d.reference_rows)

    def compared(self, rule: Rule) -> tuple[dict[str, Array], NDArray[np.bool_]]:
        """The variables of `compare`, (batches, layers), and for which batches they hold."""
        layers: list[list[_Scored]] = []
        # What is not finite does not hold.
        with np.errstate(all="ignore"), self.passing.frame():
            for l in self.network.layers:
                below = layers[-1] if layers else [None] * len(self.directions)
                layers.append([_Scored(self, rule, l, i, near) for i, near in enumerate(below)])
            return _Comparison(self, layers).columns()


class _Scored:
    """The scored pairs of one direction in one layer, as `signals.Scored`.

    Attributes:
        rows: the anchors.
        seen: the layer that gives the contexts.
        left: (batches, anchors, width) their activities.
        coefficients: (batches, anchors, references).
        projected: B c of a fixed B, (batches, references, width); None if B is optimal.
        gram: C C^T, (batches, references, references), of an optimal B.
        solved: the optimal projections.
    """

    def __init__(
        self, stack: Stack, rule: Rule, layer: int, number: int, near: _Scored | None
    ) -> None:
        depth, d = stack.network.depth, stack.directions[number]
        loss = StackedLoss(cast(PairLoss, rule.loss), d)
        self.layer, self.seen = layer, depth if rule.context == "top" else layer
        self.rows, self.references = d.anchor_rows, d.reference_rows
        self.left = stack.z[layer].take(self.rows, 1)
        self.strength = rule.penalty.at(layer, depth)
        self.solved: StackedProjections | None = None
        self.projected: Array | None = None
        if rule.projection == "optimal" or layer == depth:
            sides = stack.sides(layer, self.seen, d)
            q = stack.kernel(layer, self.seen, number, loss)
            before = None if near is None else near.solved
            self.solved = loss.solve(*sides, self.strength, q, stack.passing, before)
            self.gram = sides[1].gram * np.ldexp(1.0, 2 * sides[1].exponent)[:, None, None]
            slopes = self.solved.slopes
        else:
            contexts = stack.z[self.seen].take(self.references, 1)
            widths = stack.network.widths
            b = random_projection(rule.seed, layer, number, widths[layer], widths[self.seen])
            self.projected = contexts @ b.T
            m = loss.margins(self.left @ self.projected.swapaxes(1, 2))
            slopes = -d.sign * loss.gradient(m)
        self.coefficients = loss.coefficients(slopes)

    @cached_property
    def form(self) -> Array:
        """A C C^T A^T of an optimal B, where A is the matrix of the slopes."""
        return self.form_with(self)

    def form_with(self, top: _Scored) -> Array:
        """The same with the slopes of the top layer."""
        push = top.coefficients
        return np.asarray(push @ self.gram @ push.swapaxes(1, 2))

    def error(self) -> Array:
        """The local error signal at the anchors."""
        if self.projected is not None:
            return self.coefficients @ self.projected
        return self.form @ self.left / self.strength

    def hybrids(self, top: _Scored) -> tuple[Array, Array]:
        """As `signals._hybrids`."""
        if self.projected is not None:
            dual = top.coefficients @ self.projected
            return dual, dual
        return self.form_with(top) @ self.left, top.form @ self.left

    def noise(self, stack: Stack) -> Array:
        """As `Rounding._of_error`, (batches, anchors)."""
        relative = stack.relative[self.seen][:, self.references]
        if self.solved is None:
            sent = relative * row_norms(cast(Array, self.projected))
        else:
            anchors = stack.relative[self.layer][:, self.rows].max(axis=1)
            terms = self.solved.cancellation * self.solved.norm
            sizes = stack.size[self.seen][:, self.references]
            sent = (relative + anchors[:, None]) * terms[:, None] * sizes
        return np.asarray((np.abs(self.coefficients) @ sent[:, :, None])[:, :, 0])


class _Comparison:
    """The updates of one rule in numbers.

    Args:
        stack: the batches.
        layers: for each layer the scored pairs of every direction.
    """

    def __init__(self, stack: Stack, layers: Sequence[Sequence[_Scored]]) -> None:
        self.stack, self.layers, self.network = stack, layers, stack.network
        masks = stack.activities.masks
        self.masks = None if masks is None else [stack.apart(mask) for mask in masks]
        self.holds = np.ones(stack.shape[0], bool)

    def columns(self) -> tuple[dict[str, Array], NDArray[np.bool_]]:
        """As `Stack.compared`."""
        stack, depth = self.stack, self.network.depth
        columns = {name: np.full((stack.shape[0], depth), np.nan) for name in NAMES}
        for l, scored in enumerate(self.layers):
            solved = [s.solved for s in scored if s.solved is not None]
            for each in solved:
                self.holds &= each.found
            if solved:
                columns["residual"][:, l] = np.max([p.residual for p in solved], axis=0)
                columns["condition_number"][:, l] = np.max(
                    [np.maximum(p.condition_number, p.cancellation) for p in solved], axis=0
                )
                columns["iterations"][:, l] = np.max([p.iterations for p in solved], axis=0)
        top = np.zeros_like(stack.activities.z[-1])
        for s in self.layers[-1]:
            stack.apart(top)[:, s.rows] += s.error()
        errors = [*map(stack.apart, self.network.backpropagate(stack.activities, top))]
        noise = self._noise(depth)
        for l in range(depth, 0, -1):
            size = row_norms(errors[l - 1])
            if l < depth:
                above = row_norms(errors[l])
                relative = ratio(noise, above)
                passed = noise / np.sqrt(self.network.widths[l + 1]) + EPS * above
                noise = np.maximum(stack.gains[l + 1] * passed, relative * size)
            allowed = self._of_update(l, noise, size)
            for name, values in self._compare(l, errors[l - 1], allowed).items():
                columns[name][:, l - 1] = values
        return columns, self.holds

    def _compare(self, layer: int, global_: Array, noise: Array) -> dict[str, Array]:
        """The first columns of one layer.

        Args:
            layer: l.
            global_: the global error signal.
            noise: the norm that rounding alone can give the global update.
        """
        depth, scored, below = self.network.depth, self.layers[layer - 1], self.stack.z[layer - 1]
        if layer == depth:  # the local update is the global one
            error = global_ if self.masks is None else global_ * self.masks[layer]
            sizes = _norms(error.swapaxes(1, 2) @ below)
            self.holds &= sizes > noise
            one, zero = np.ones_like(sizes), np.zeros_like(sizes)
            return dict(zip(NAMES, (one, zero, one, zero, zero, zero), strict=False))
        errors = np.zeros((4, *global_.shape))
        local, errors[1], dual, context = errors[0], global_, errors[2], errors[3]
        for s, top in zip(scored, self.layers[-1], strict=True):
            terms = (s.error(), *s.hybrids(top))
            for total, term in zip((local, dual, context), terms, strict=True):
                total[:, s.rows] += term
        own = self._of_update(layer, self._noise(layer), row_norms(local))
        nearest_dual = _nearest(dual, local)
        nearest_context = nearest_dual * _nearest(context, dual)
        if self.masks is not None:
            errors *= self.masks[layer]
        # local - global, dual - local, context - dual and global - context, of the updates.
        count = len(below)
        steps = np.zeros((count, 4, 4))
        steps[:] = [[1, -1, 0, 0], [-1, 0, 1, 0], [0, 0, -1, 1], [0, 1, 0, -1]]
        steps[:, :, 2] *= nearest_dual[:, None]
        steps[:, :, 3] *= nearest_context[:, None]
        if all(s.projected is not None for s in scored):  # the two hybrids are one
            errors, steps = errors[:3], steps[:, :, :3] + steps[:, :, 3:] * [0, 0, 1]
        products, rests = np.empty((count, 2, 2)), np.empty((count, 4))
        updates = np.empty((len(errors), global_.shape[2], below.shape[2]))
        each = updates.reshape(len(errors), -1)
        rest = np.empty((4, each.shape[1]))
        for i in range(count):
            np.matmul(errors[:, i].swapaxes(1, 2), below[i], out=updates)
            products[i] = [[a @ b for b in each[:2]] for a in each[:2]]
            np.matmul(steps[i], each, out=rest)
            rests[i] = [np.sqrt(r @ r) for r in rest]
        local_norm, global_norm = np.sqrt(products[:, 0, 0]), np.sqrt(products[:, 1, 1])
        self.holds &= (local_norm > own) & (global_norm > noise)
        safe = np.where(self.holds, local_norm * global_norm, 1.0)
        size = np.where(self.holds, global_norm, 1.0)
        return {
            "cosine": products[:, 0, 1] / safe,
            "relative_error": rests[:, 0] / size,
            "norm_ratio": local_norm / size,
            "dual_mismatch": rests[:, 1] / size,
            "context_mismatch": rests[:, 2] / size,
            "metric_mismatch": rests[:, 3] / size,
        }

    def _noise(self, layer: int) -> Array:
        """The error of the error signal of a layer's own loss, sample by sample."""
        total = np.zeros(self.stack.shape)
        for s in self.layers[layer - 1]:
            total[:, s.rows] += s.noise(self.stack)
        return total

    def _of_update(self, layer: int, noise: Array, size: Array) -> Array:
        """As `Rounding._of_update`, of an error signal of the norms ``size``."""
        below, relative = self.stack.size[layer - 1], self.stack.relative[layer - 1]
        return np.asarray(np.sum(noise * below + size * below * (EPS + relative), axis=1))


NAMES = (
    *("cosine", "relative_error", "norm_ratio"),
    *("dual_mismatch", "context_mismatch", "metric_mismatch"),
    *("residual", "condition_number", "iterations"),
)


def _norms(stack: Array) -> Array:
    """The norm of each matrix."""
    return np.asarray(np.sqrt(np.einsum("nij,nij->n", stack, stack)))


def _nearest(of: Array, to: Array) -> Array:
    """As `signals._nearest_multiple`: the factor for each matrix."""
    size, inner = np.einsum("nij,nij->n", of, of), np.einsum("nij,nij->n", of, to)
    return np.where(size > 0, inner / np.where(size > 0, size, 1.0), 1.0)
