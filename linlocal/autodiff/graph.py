"""One batch in one network as torch sees it: activities, contexts, projections, losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.autodiff.activations import activation_formula
from linlocal.autodiff.kinks import refuse_kink
from linlocal.autodiff.numpy_only import NumpyGoodness
from linlocal.autodiff.pairs import goodness_formula, pair_formula
from linlocal.autodiff.projection import descend, judge_of, minimise
from linlocal.autodiff.tensors import index, judged, tensor
from linlocal.autodiff.views import view_formula
from linlocal.losses import Goodness, ViewLoss
from linlocal.networks import Convolution, DeepNonlinear, Network, Weight
from linlocal.pairs import Direction, Pairs
from linlocal.rules import Given, Rule, Trained

Projections = Sequence[Sequence[ArrayLike]]
TorchLoss = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Scorer:
    """How one view direction scores an anchor: u = read(z)^T B c."""

    read: Callable[[torch.Tensor], torch.Tensor]
    c: torch.Tensor
    b: torch.Tensor

    def __call__(self, z: torch.Tensor, direction: Direction) -> torch.Tensor:
        anchors = self.read(z)[index(direction.anchor)]
        references = self.c[index(direction.reference)]
        return torch.einsum("pi,ij,pj->p", anchors, self.b, references)


class Graph:
    """One batch in one network, read by one rule; every tensor stored here is detached."""

    def __init__(
        self,
        network: Network,
        pairs: Pairs,
        rule: Rule,
        projections: Projections | None,
        user_loss: TorchLoss | None,
    ) -> None:
        inputs.instance(network, Network, "network", "a `DeepLinear` or `DeepReLU`")
        inputs.instance(pairs, Pairs, "pairs", "a `Pairs`, made by Pairs.from_views or its like")
        inputs.instance(rule, Rule, "rule", "a `Rule`, made by rules.CLAPP() or its like")
        self.network, self.pairs, self.rule = network, pairs, rule
        self.projections, self.user_loss = projections, user_loss
        self.depth = network.depth
        self.weights = [
            tensor(w.kernel if isinstance(w, Convolution) else w) for w in network.weights
        ]
        self.biases = [tensor(b) if b.size else None for b in network.biases]
        self.z = [tensor(network.check_input(pairs.samples))]
        for l in range(1, self.depth + 1):
            self.z.append(self.layer(l, self.z, self.weights[l - 1], self.biases[l - 1]))
        theirs = tensor(network.activities(pairs.samples).z[-1])
        if not torch.allclose(theirs, self.z[-1], 1e-6, 1e-6 * float(theirs.norm()), True):
            raise TypeError(
                f"The oracle computes other activities than {type(network).__name__} does: it "
                "knows the layers of `DeepLinear` and `DeepNonlinear` only."
            )

    def drive(
        self, layer: int, z: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """W_l z + b_l."""
        given: Weight = self.network.weights[layer - 1]
        if not isinstance(given, Convolution):
            return F.linear(z, weight, bias)
        maps = z.reshape(-1, *given.input_shape)
        return F.conv2d(
            maps,
            weight,
            bias,
            stride=given.stride,
            padding=given.padding,
            dilation=given.dilation,
            groups=given.groups,
        ).flatten(1)

    def activation(self, layer: int, drive: torch.Tensor) -> torch.Tensor:
        """phi_l(a)."""
        if not isinstance(self.network, DeepNonlinear):
            return drive
        if layer == self.depth and self.network.readout == "linear":
            return drive
        return activation_formula(self.network.activation)(drive)

    def layer(
        self,
        layer: int,
        below: Sequence[torch.Tensor],
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """z_l = phi(W_l z_{l-1} + b_l) + sum_k s_lk z_k, for below = z_0..z_{l-1}."""
        z = self.activation(layer, self.drive(layer, below[layer - 1], weight, bias))
        for k, scale in self.network.links.get(layer, {}).items():
            z = z + scale * below[k]
        return z

    def slope(self, layer: int) -> torch.Tensor:
        """phi_l'(a) of every sample, by autograd."""
        drive = self.drive(
            layer, self.z[layer - 1], self.weights[layer - 1], self.biases[layer - 1]
        ).requires_grad_(True)
        (slope,) = torch.autograd.grad(self.activation(layer, drive).sum(), drive)
        return slope

    def pooled(self, layer: int, z: torch.Tensor) -> torch.Tensor:
        given = self.network.weights[layer - 1]
        if self.rule.pooling is None or not isinstance(given, Convolution):
            return z
        maps = z.reshape(-1, *given.output_shape)
        return F.avg_pool2d(maps, self.rule.pooling[layer - 1]).flatten(1)

    def through(self, layer: int, z: torch.Tensor) -> torch.Tensor:
        """What the network makes of z_l in its top layer, the layers below as they are, pooled."""
        found = [*self.z[:layer], z]
        for above in range(layer + 1, self.depth + 1):
            found.append(self.layer(above, found, self.weights[above - 1], self.biases[above - 1]))
        return self.pooled(self.depth, found[-1])

    def read(self, layer: int, z: torch.Tensor) -> torch.Tensor:
        """P_l z_l: what a projection sees of layer l (the top layer, under the metric penalty)."""
        if self.rule.penalty.metric == "downstream":
            return self.through(layer, z)
        return self.pooled(layer, z)

    def context(self, layer: int, name: str) -> torch.Tensor:
        top = self.read(self.depth, self.z[-1])
        if name == "top" or layer == self.depth:
            return top
        here = self.read(layer, self.z[layer])
        return torch.cat([here, top], dim=1) if name == "both" else here

    def optimal_top(self, layer: int) -> bool:
        return layer == self.depth and self.rule.projection in ("random", "matched")

    @property
    def judged(self) -> list[tuple[Direction, str]]:
        """The view direction and the context of every loss of a layer, which is their sum."""
        names = ["same", "top"] if self.rule.context == "each" else [self.rule.context]
        return [(d, name) for d in self.pairs.directions for name in names]

    def scorers(self, layer: int) -> list[Scorer]:
        """The scorer of each view direction and, within it, of each judged context."""
        return [self._scorer(layer, i, *judged) for i, judged in enumerate(self.judged)]

    def _scorer(self, layer: int, number: int, direction: Direction, name: str) -> Scorer:
        kind = self.rule.projection

        def read(z: torch.Tensor) -> torch.Tensor:
            return self.read(layer, z)

        c = self.context(layer, name)
        seen = read(self.z[layer])
        given = self.projections
        if given is None and isinstance(kind, Given):
            given = cast(Projections, kind.matrices)
        if given is not None:
            here = given[layer - 1]
            b = tensor(here[number if len(here) > 1 else 0])
            if b.shape != (seen.shape[1], c.shape[1]):
                raise ValueError(
                    f"The projection of layer {layer} must be {(seen.shape[1], c.shape[1])} "
                    f"(read-out width, context width), got {tuple(b.shape)}."
                )
        elif kind == "optimal" or self.optimal_top(layer):
            strength = self.rule.penalty.at(layer, self.depth)
            anchors, references = seen[index(direction.anchor)], c[index(direction.reference)]
            judge = self.user_loss or judge_of(self.rule.pair_loss)
            b = minimise(anchors, references, direction, judge, strength)
        elif isinstance(kind, Trained):
            strength = self.rule.penalty.at(layer, self.depth)
            anchors, references = seen[index(direction.anchor)], c[index(direction.reference)]
            judge = self.user_loss or partial(judged, pair_formula(self.rule.pair_loss))
            start = self._random(layer, number, (seen.shape[1], c.shape[1]))
            start = start * float(kind.start == "random")
            b = descend(anchors, references, direction, judge, strength, kind, start)
        elif kind == "identity":
            b = torch.eye(seen.shape[1], dtype=torch.float64)
        elif kind == "random":
            b = self._random(layer, number, (seen.shape[1], c.shape[1]))
        else:
            return self._matched(layer, number, direction, name)
        return Scorer(read, c, b)

    def _random(self, layer: int, number: int, shape: tuple[int, int]) -> torch.Tensor:
        rng = np.random.default_rng([self.rule.seed, layer, number])
        return tensor(rng.uniform(-1.0, 1.0, shape)) / shape[0] ** 0.5

    def _matched(self, layer: int, number: int, direction: Direction, name: str) -> Scorer:
        """u = z_L(z)^T B_L z_L(c), where the layers above act on z and c, without a matrix V."""
        b = self._scorer(self.depth, number, direction, name).b

        def read(z: torch.Tensor) -> torch.Tensor:
            return self.through(layer, z)

        top = self.pooled(self.depth, self.z[-1])
        here = self.through(layer, self.z[layer])
        c = {"same": here, "top": top, "both": (here + top) / 2.0}[name]
        return Scorer(read, c, b)

    def loss(self, layer: int, z: torch.Tensor) -> torch.Tensor:
        """The loss of layer l as a function of its activity; contexts and projections are fixed."""
        rule, chosen = self.rule, self.user_loss
        if isinstance(rule.loss, Goodness):
            return self._goodness(rule.loss, z)
        if rule.kind == "view":
            if self.pairs.views is None:
                raise ValueError(f"{rule.name} compares two views; use Pairs.from_views.")
            first, second = (index(v) for v in self.pairs.views)
            return (chosen or view_formula(cast(ViewLoss, rule.loss)))(z[first], z[second])
        total = torch.zeros((), dtype=torch.float64)
        formula = pair_formula(rule.pair_loss)
        for (d, _), scorer in zip(self.judged, self.scorers(layer), strict=True):
            u = scorer(z, d)
            if chosen is None:
                refuse_kink(rule.pair_loss, u.detach(), d)
            total = total + (judged(formula, u, d) if chosen is None else chosen(u, d))
        return total

    def _goodness(self, loss: Goodness, z: torch.Tensor) -> torch.Tensor:
        formula, total = goodness_formula(loss), torch.zeros((), dtype=torch.float64)
        for d in self.pairs.directions:
            s = z[index(d.anchor)]
            if self.rule.context == "sum":
                s = s + z[index(d.reference)]
            goodness = torch.sum(s**2, dim=1)
            if self.user_loss is not None:
                total = total + self.user_loss(goodness, d)
            elif isinstance(formula, NumpyGoodness):
                total = total + formula.of_goodness(goodness, d)
            else:
                good, bad = (index(np.flatnonzero(d.sign == sign)) for sign in (1.0, -1.0))
                total = total + formula(goodness[good], goodness[bad])
        return total
