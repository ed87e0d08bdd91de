"""Many small networks of one shape, trained together on labels: one matrix product for all.

The networks differ in their data, their start and their learning rate, and share a rule. What a
step does is what `fit_labels` does to each of them, up to rounding, with backward passes written
out by hand, while a network that is finished leaves the stack. For networks as small as these,
most of a step is the cost of starting operations, which the stack pays once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from experiments.training.convergence import Convergence
from experiments.training.hierarchy_tasks import BATCH, Fit, Optimiser
from linlocal.analysis.hierarchy import Feedback, HierarchicalNet
from linlocal.networks import Masks
from linlocal.seeds import generator_for

Path = Literal["gated", "aligned"]

MOMENTUM = 0.9
BETAS, EPSILON = (0.9, 0.999), 1e-8
# Least-squares feedback: how fast older batches are forgotten, and the ridge.
FADE, RIDGE, TINY = 0.99, 1e-5, 1e-30
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Remedy:
    """Direct feedback that is given a part of what it lacks.

    With D_l the mask of layer l, e the error of the output and g_l the backpropagated error:

        gated:    g_l = R_{l+1} D_{l+1} ... R_L D_L B_L e    fixed random R and B_L, true masks
        aligned:  g_l = B_l e,  B_l = argmin sum_batches fade^age ||u_l - B_l e||^2

    where u_l is the error that backpropagation would send to layer l of this network. Without
    the masks "gated" is direct feedback alignment with a product of random matrices. If each factor
    of "gated" were fitted by least squares, it would be W^T, hence backpropagation: aligned
    feedback with the true masks of the path is nothing else.

    Attributes:
        path: which of the two.
        local_derivative: whether to multiply by the layer's own D_l; without it, an aligned B_l is
            fitted to D_l u_l.
    """

    path: Path
    local_derivative: bool = True

    @property
    def network(self) -> Feedback:
        """The feedback of the network that holds the matrices."""
        return Feedback("random") if self.path == "gated" else Feedback()


Rule = Feedback | Remedy
Look = Callable[[int, list[int], "Stack", Tensor, Tensor], None]


@dataclass(frozen=True)
class Examples:
    """What one network of a stack learns.

    Attributes:
        leaves: (samples, d) whole numbers.
        labels: (samples,).
        seed: seeds the batches.
    """

    leaves: NDArray[Any]
    labels: NDArray[Any]
    seed: int


def fit_together(
    nets: Sequence[HierarchicalNet],
    rule: Rule,
    data: Sequence[Examples],
    *,
    optimiser: Optimiser,
    learning_rates: Sequence[float],
    until: Convergence,
    look: Look | None = None,
) -> list[Fit]:
    """Train every network on its own data until it is finished; one fit for each.

    Args:
        nets: networks of one shape, changed in place; those of a `Remedy` have its ``network``.
        rule: how the error reaches the layers, the same for all.
        data: as many sets of one size as there are networks.
        optimiser: "adam" or "sgd" (with momentum 0.9).
        learning_rates: one for each network.
        until: when a network is finished.
        look: called before each step with its number, from 0, the numbers of the networks that
            are still in the stack, the stack, and the leaves and labels of the step's batch.

    Raises:
        ValueError: lists of different lengths, data sets of different sizes.
    """
    if not len(nets) == len(data) == len(learning_rates) or not nets:
        raise ValueError(
            f"Each network needs its data and its learning rate, got {len(nets)} networks, "
            f"{len(data)} data sets and {len(learning_rates)} learning rates."
        )
    sizes = {each.leaves.shape for each in data}
    if len(sizes) > 1:
        raise ValueError(f"The data sets of a stack must have one shape, got {sorted(sizes)}.")
    torch.set_num_threads(1)
    stack = Stack(nets, rule, [each.seed for each in data])
    optimise = (_Adam if optimiser == "adam" else _Momentum)(stack, learning_rates)
    courses = [until.watch() for _ in nets]
    rngs = [generator_for("batches", each.seed) for each in data]
    leaves = torch.from_numpy(np.stack([each.leaves for each in data])).long()
    labels = torch.from_numpy(np.stack([each.labels for each in data])).long()
    samples = leaves.shape[1]
    running = list(range(len(nets)))
    while running:
        drawn = [rngs[k].integers(samples, size=min(BATCH, samples)) for k in running]
        rows = torch.from_numpy(np.stack(drawn))
        which = torch.tensor(running)[:, None]
        batch = leaves[which, rows], labels[which, rows]
        if look is not None:
            look(stack.batches, running, stack, *batch)
        losses = stack.gradients(*batch).tolist()
        optimise.step()
        over = [courses[k].add(loss) for k, loss in zip(running, losses, strict=True)]
        if any(over):
            for place, k in enumerate(running):
                if over[place]:
                    stack.write(place, nets[k])
            kept = [place for place, done in enumerate(over) if not done]
            running = [running[place] for place in kept]
            stack.keep(kept)
            optimise.keep(kept)
    return [Fit(each.steps, each.smoothed, each.finished) for each in courses]


class Stack:
    """The parameters of several networks, one row of `values` each, and their gradients.

    Args:
        nets: networks of one shape.
        rule: how the error reaches the layers.
        seeds: seed the matrices that the networks do not hold.
    """

    def __init__(self, nets: Sequence[HierarchicalNet], rule: Rule, seeds: Sequence[int]) -> None:
        first = nets[0]
        layers = [cast(Any, layer) for layer in first.layers]
        self.rule = rule
        self.tuple_sizes = [layer.tuple_size for layer in layers]
        self.normalise = layers[0].norm is not None
        self.shapes = [tuple(each.shape) for each in first.parameters()]
        self.values = torch.stack(
            [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]
        )
        self.derivatives = torch.zeros_like(self.values)
        self.statistics = [
            [
                _stacked(nets, lambda net, l=l, kind=kind: getattr(net.layers[l].norm, kind))
                for kind in ("running_mean", "running_var")
            ]
            for l in range(len(layers) * self.normalise)
        ]
        path = rule.path if isinstance(rule, Remedy) else rule.weights
        self.path = path
        self.carriers: list[Tensor] = []
        self.direct: list[Tensor] = []
        if path in ("random", "gated"):
            self.carriers = [
                _stacked(nets, lambda net, l=l: net.layers[l].carrier) for l in range(len(layers))
            ]
        if path == "gated":
            matrices = [_top_matrix(net, seed) for net, seed in zip(nets, seeds, strict=True)]
            self.direct = [torch.stack(matrices)]
        if path in ("direct", "target"):
            self.direct = [
                _stacked(nets, lambda net, l=l: getattr(net, f"direct_{l + 1}"))
                for l in range(len(layers))
            ]
        # Second moments of e, and of e with the error of each layer.
        self.moments: list[Tensor] = []
        self.batches = 0
        self._view()

    def _view(self) -> None:
        """Views of the parameters and of their gradients, layer by layer."""

        def views(flat: Tensor) -> list[Tensor]:
            parts = flat.split([int(np.prod(shape)) for shape in self.shapes], dim=1)
            return [
                part.view(len(flat), *shape) for part, shape in zip(parts, self.shapes, strict=True)
            ]

        values, derivatives = views(self.values), views(self.derivatives)
        self.weights, self.biases = values[0:-2:2], values[1:-2:2]
        self.weight_grads, self.bias_grads = derivatives[0:-2:2], derivatives[1:-2:2]
        self.readout, self.readout_bias = values[-2:]
        self.readout_grad, self.readout_bias_grad = derivatives[-2:]

    def keep(self, places: Sequence[int]) -> None:
        """Drop all networks but these."""
        self.values, self.derivatives = self.values[places], self.derivatives[places]
        self.statistics = [[each[places] for each in pair] for pair in self.statistics]
        self.carriers = [each[places] for each in self.carriers]
        self.direct = [each[places] for each in self.direct]
        self.moments = [each[places] for each in self.moments]
        self._view()

    def write(self, place: int, net: HierarchicalNet) -> None:
        """Give a network its parameters and running statistics back."""
        with torch.no_grad():
            start = 0
            for p in net.parameters():
                p.copy_(self.values[place, start : start + p.numel()].view_as(p))
                start += p.numel()
            for layer, (mean, variance) in zip(net.layers, self.statistics, strict=False):
                norm = cast(Any, layer).norm
                norm.running_mean.copy_(mean[place])
                norm.running_var.copy_(variance[place])
                norm.num_batches_tracked.fill_(self.batches)

    def gradients(self, leaves: Tensor, labels: Tensor) -> Tensor:
        """Fill `derivatives` for a batch; returns the cross-entropy of each network.

        Args:
            leaves: (networks, batch, d).
            labels: (networks, batch).
        """
        made = self.forward(leaves, labels)
        for pair, moments in zip(self.statistics, made.moments, strict=True):
            for old, new in zip(pair, moments, strict=True):
                old.lerp_(new, 0.1)
        self.batches += 1
        torch.bmm(made.error.mT, made.outputs[-1].flatten(2), out=self.readout_grad)
        self.readout_bias_grad.copy_(made.error.sum(1))
        for l, own in enumerate(self.signals(made)):
            _weight_gradients(own, made.patches[l], self.weight_grads[l], self.bias_grads[l])
        return made.loss

    def forward(self, leaves: Tensor, labels: Tensor) -> Pass:
        """A forward pass and the error of the output; changes nothing."""
        count, batch = labels.shape
        symbols = self.shapes[0][2] // self.tuple_sizes[0]
        # A blank, -1, has no symbol.
        z = F.one_hot(leaves.remainder(symbols + 1), symbols + 1)[..., :symbols].float()
        made = Pass()
        for l, size in enumerate(self.tuple_sizes):
            z = z.reshape(count, batch, z.shape[2] // size, size * z.shape[3])
            made.patches.append(z)
            pre = _affine(z, self.weights[l], self.biases[l])
            if self.normalise:
                pre = made.normalise(pre)
            mask = pre > 0
            z = pre * mask
            made.masks.append(mask)
            made.outputs.append(z)
        logits = torch.baddbmm(self.readout_bias[:, None], z.flatten(2), self.readout.mT)
        log_p = logits.log_softmax(2)
        made.target = F.one_hot(labels, logits.shape[2]).float() / batch
        made.loss = -(log_p * made.target).sum((1, 2))
        made.error = log_p.exp() / batch - made.target
        return made

    def signals(self, made: Pass) -> list[Tensor]:
        """What the rule sends to the affine part of each layer, bottom first."""
        if self.path in ("transposed", "random", "gated"):
            upward = self.direct[0] if self.path == "gated" else self.readout
            kind = "sample" if isinstance(self.rule, Remedy) else self.rule.masks
            carriers = self.carriers or self.weights
            return self.carried(made, upward, carriers, kind, self.rule.local_derivative)
        if self.path == "aligned":
            self._fit(made)
        return [
            made.through(g * made.masks[l] if self.rule.local_derivative else g, l)
            for l, g in enumerate(self.sent(made))
        ]

    def sent(self, made: Pass) -> list[Tensor]:
        """What direct feedback sends to the output of each layer, bottom first."""
        error = -made.target if self.path == "target" else made.error
        return [
            torch.bmm(error, matrix).view_as(z)
            for matrix, z in zip(self.direct, made.outputs, strict=True)
        ]

    def carried(
        self,
        made: Pass,
        upward: Tensor,
        carriers: Sequence[Tensor],
        kind: Masks,
        local_derivative: bool = True,
        *,
        at_outputs: bool = False,
    ) -> list[Tensor]:
        """What a path through the layers carries down to each of them, bottom first.

        Args:
            made: the forward pass.
            upward: (networks, classes, units) from the error to the output of the top layer.
            carriers: the matrices of all layers, of which the first is not used.
            kind: the masks on the way.
            local_derivative: whether a layer's own signal has its mask.
            at_outputs: whether to return the errors of the outputs z_l, before the own mask.
        """
        signals = []
        g = torch.bmm(made.error, upward).view_as(made.outputs[-1])
        for l in reversed(range(len(carriers))):
            masked = g * made.masks[l] if local_derivative or kind == "sample" else g
            own = made.through(masked if local_derivative else g, l)
            signals.append(g if at_outputs else own)
            if l:
                if kind == "batch":
                    down = made.through(g * made.masks[l].float().mean(1, keepdim=True), l)
                elif (kind == "sample") == local_derivative:
                    down = own
                else:
                    down = made.through(masked if kind == "sample" else g, l)
                g = _transposed(down, carriers[l]).view_as(made.outputs[l - 1])
        return signals[::-1]

    def _fit(self, made: Pass) -> None:
        """Fit B_l of all layers to the errors that backpropagation would send."""
        wanted = self.carried(made, self.readout, self.weights, "sample", at_outputs=True)
        if not self.rule.local_derivative:
            wanted = [g * mask for g, mask in zip(wanted, made.masks, strict=True)]
        fresh = [made.error.mT @ each.flatten(2) for each in (made.error, *wanted)]
        if self.moments:
            for old, new in zip(self.moments, fresh, strict=True):
                old.mul_(FADE).add_(new)
        else:
            self.moments = fresh
        own = self.moments[0].double()
        scale = own.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + TINY
        # The entries of an error add up to 0: along that direction, ones, there is nothing to fit.
        ridge = RIDGE * torch.eye(own.shape[1], dtype=own.dtype) + 1 / own.shape[1]
        inverse = torch.linalg.inv_ex(own + scale * ridge).inverse.float()
        self.direct = [inverse @ each for each in self.moments[1:]]


class Pass:
    """What a forward pass leaves behind: lists over layers, bottom first.

    Attributes:
        patches: (networks, batch, positions, inputs) what each layer reads.
        masks: (networks, batch, positions, width) where its ReLU lets through.
        outputs: its activities, of the same shape.
        moments: mean and unbiased variance of what batch normalisation reads, if there is any.
        loss: (networks,) cross-entropy.
        error: (networks, batch, classes) its derivative by the logits.
        target: (networks, batch, classes) one-hot labels, divided by the size of the batch.
    """

    loss: Tensor
    error: Tensor
    target: Tensor

    def __init__(self) -> None:
        self.patches: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.moments: list[tuple[Tensor, Tensor]] = []
        self._normal: list[Tensor] = []
        self._inverse: list[Tensor] = []

    def normalise(self, pre: Tensor) -> Tensor:
        """Batch normalisation of the next layer."""
        centred = pre - (mean := pre.mean((1, 2), keepdim=True))
        variance = centred.square().mean((1, 2), keepdim=True)
        rows = pre.shape[1] * pre.shape[2]
        self.moments.append((mean[:, 0, 0], variance[:, 0, 0] * (rows / max(rows - 1, 1))))
        self._inverse.append((variance + NORM_EPSILON).rsqrt())
        self._normal.append(centred * self._inverse[-1])
        return self._normal[-1]

    def through(self, g: Tensor, l: int) -> Tensor:
        """An error back through the normalisation of layer l."""
        if not self._normal:
            return g
        x = self._normal[l]
        along = x * (g * x).mean((1, 2), keepdim=True)
        return self._inverse[l] * (g - g.mean((1, 2), keepdim=True) - along)


def _stacked(nets: Sequence[HierarchicalNet], of: Any) -> Tensor:
    return torch.stack([of(net) for net in nets])


def _top_matrix(net: HierarchicalNet, seed: int) -> Tensor:
    """B_L of gated feedback, as large as that of direct feedback."""
    shape = net.readout.weight.shape
    normal = generator_for("top feedback", seed).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(normal) / net.width**0.5


def _affine(patches: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(networks, batch, positions, inputs) times (networks, copies, outputs, inputs), plus bias."""
    copies, outputs = weight.shape[1:3]
    if copies == 1:
        flat = torch.baddbmm(bias, patches.flatten(1, 2), weight[:, 0].mT)
        return flat.view(*patches.shape[:3], outputs)
    return (patches.transpose(1, 2) @ weight.mT).transpose(1, 2) + bias[:, None]


def _transposed(error: Tensor, weight: Tensor) -> Tensor:
    """(networks, batch, positions, outputs) times the weights the other way round."""
    if weight.shape[1] == 1:
        flat = torch.bmm(error.flatten(1, 2), weight[:, 0])
        return flat.view(*error.shape[:3], weight.shape[3])
    return (error.transpose(1, 2) @ weight).transpose(1, 2).contiguous()


def _weight_gradients(error: Tensor, patches: Tensor, weight: Tensor, bias: Tensor) -> None:
    if weight.shape[1] == 1:
        error = error.flatten(1, 2)
        weight[:, 0] = torch.bmm(error.mT, patches.flatten(1, 2))
        bias[:, 0] = error.sum(1)
    else:
        error = error.transpose(1, 2)
        weight.copy_(error.mT @ patches.transpose(1, 2))
        bias.copy_(error.sum(2))


class _Adam:
    """Adam with a learning rate for each row."""

    def __init__(self, stack: Stack, learning_rates: Sequence[float]) -> None:
        self.stack = stack
        self.rates = torch.tensor(learning_rates)[:, None]
        self.first, self.second = (torch.zeros_like(stack.values) for _ in range(2))
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        g = self.stack.derivatives
        self.first.lerp_(g, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
        root = (self.second / (1 - BETAS[1] ** self.steps)).sqrt_().add_(EPSILON)
        scale = self.rates / (1 - BETAS[0] ** self.steps)
        self.stack.values.sub_(root.reciprocal_().mul_(self.first).mul_(scale))

    def keep(self, places: Sequence[int]) -> None:
        self.rates, self.first, self.second = (
            each[places] for each in (self.rates, self.first, self.second)
        )


class _Momentum:
    """Gradient descent with momentum, with a learning rate for each row."""

    def __init__(self, stack: Stack, learning_rates: Sequence[float]) -> None:
        self.stack = stack
        self.rates = torch.tensor(learning_rates)[:, None]
        self.speed = torch.zeros_like(stack.values)

    def step(self) -> None:
        self.speed.mul_(MOMENTUM).add_(self.stack.derivatives)
        self.stack.values.sub_(self.speed * self.rates)

    def keep(self, places: Sequence[int]) -> None:
        self.rates, self.speed = self.rates[places], self.speed[places]
