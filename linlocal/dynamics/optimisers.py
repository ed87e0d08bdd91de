"""Does equality of gradients survive the optimiser? Optimisers as values, and steps compared.

An optimiser that treats each layer by itself is one function of that layer's history of gradients.
So equal gradients give equal steps, under any of them. Gradients that are proportional give
proportional steps under `SGD` and `Momentum`, and equal ones under `Sign` and under `Adam` with
epsilon = 0. An optimiser that looks at all layers at once (`Clipped` by the norm of all) passes
what differs in one layer on to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from linlocal import inputs
from linlocal.dynamics.population import Learning, Source, update_of
from linlocal.dynamics.weights import are_in_range, matrices_of, require_matrices
from linlocal.inputs import Array
from linlocal.networks import Network
from linlocal.rules import Rule
from linlocal.vocabulary import described

if TYPE_CHECKING:
    import xarray as xr

Updates = Sequence[Array]


@runtime_checkable
class Optimiser(Protocol):
    """What turns updates dW_l (minus the gradients) into steps of the weights."""

    def step(self, updates: Updates, memory: Any = None) -> tuple[Updates, Any]:
        """The steps of all layers, and what is to be remembered until the next ones.

        Args:
            updates: dW_1..dW_L.
            memory: what the call before returned; None at the start.
        """
        ...


@dataclass(frozen=True)
class SGD:
    """Plain steps: rate dW.

    Attributes:
        rate: the learning rate.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "rate")

    def step(self, updates: Updates, memory: None = None) -> tuple[Updates, None]:
        return [self.rate * u for u in updates], None


@dataclass(frozen=True)
class Momentum:
    """Steps with momentum: rate m with m <- beta m + dW, as ``torch.optim.SGD(momentum=beta)``.

    Attributes:
        rate: the learning rate.
        beta: the momentum, in 0..1, below 1.
    """

    rate: float = 0.1
    beta: float = 0.9

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "rate")
        inputs.keep(self, _memory_share, "beta")

    def step(self, updates: Updates, memory: Any = None) -> tuple[Updates, Any]:
        kept = updates
        if memory is not None:
            kept = [self.beta * m + u for m, u in zip(memory, updates, strict=True)]
        return [self.rate * m for m in kept], kept


@dataclass(frozen=True)
class Adam:
    """Adam: rate m / (sqrt(v) + epsilon), m and v the corrected means of dW and dW^2 by entry.

    Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, as ``torch.optim.Adam``. With beta_1 = 0 it
    is RMSProp with a corrected mean. With epsilon = 0 the step does not depend on the scale of the
    gradients of a layer; an entry that was always 0 stays.

    Attributes:
        rate: the learning rate.
        beta_1: how much of the mean is kept, in 0..1, below 1.
        beta_2: how much of the mean square is kept, in 0..1, below 1.
        epsilon: at least 0.
    """

    rate: float = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "rate")
        inputs.keep(self, _memory_share, "beta_1", "beta_2")
        inputs.keep(self, inputs.not_negative, "epsilon")

    def step(self, updates: Updates, memory: Any = None) -> tuple[Updates, Any]:
        number, means, squares = memory or (0, [0.0] * len(updates), [0.0] * len(updates))
        number += 1
        means = [
            self.beta_1 * m + (1 - self.beta_1) * u for m, u in zip(means, updates, strict=True)
        ]
        squares = [
            self.beta_2 * v + (1 - self.beta_2) * u**2
            for v, u in zip(squares, updates, strict=True)
        ]
        steps = []
        for m, v in zip(means, squares, strict=True):
            scale = np.sqrt(v / (1 - self.beta_2**number)) + self.epsilon
            mean = m / (1 - self.beta_1**number)
            steps.append(
                self.rate * np.divide(mean, scale, out=np.zeros_like(mean), where=scale > 0)
            )
        return steps, (number, means, squares)


@dataclass(frozen=True)
class Sign:
    """Steps of one size: rate sign(dW), entry by entry.

    Attributes:
        rate: the learning rate.
    """

    rate: float = 1e-3

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "rate")

    def step(self, updates: Updates, memory: None = None) -> tuple[Updates, None]:
        return [self.rate * np.sign(u) for u in updates], None


@dataclass(frozen=True)
class Clipped:
    """Another optimiser, on updates whose norm is clipped.

    dW is multiplied by min(1, norm / (||dW|| + 1e-6)), as by ``torch.nn.utils.clip_grad_norm_``.

    Attributes:
        inner: the optimiser that gets the clipped updates.
        norm: the largest norm.
        scope: whose norm is clipped: that of each "layer", or that of "all" layers together, which
            couples them.
    """

    inner: Optimiser
    norm: float = 1.0
    scope: Literal["layer", "all"] = "all"

    def __post_init__(self) -> None:
        inputs.instance(self.inner, Optimiser, "inner", "an `Optimiser`: SGD, Adam or its like")
        inputs.keep(self, inputs.positive, "norm")
        if not inputs.is_one_of(self.scope, ("layer", "all")):
            raise ValueError(f'scope must be "layer" or "all", got {self.scope!r}.')

    def step(self, updates: Updates, memory: Any = None) -> tuple[Updates, Any]:
        norms = [float(np.linalg.norm(u)) for u in updates]
        if self.scope == "all":
            norms = [float(np.linalg.norm(norms))] * len(norms)
        factors = [min(1.0, self.norm / (n + 1e-6)) for n in norms]
        return self.inner.step([f * u for f, u in zip(factors, updates, strict=True)], memory)


def compare_steps(
    network: Network,
    source: Source,
    rule: Rule,
    optimiser: Optimiser,
    *,
    steps: int,
    against: Learning = "global",
) -> xr.Dataset:
    """Train two copies of a network, one by local updates, and compare their steps and weights.

    Both start at the same weights, get their updates at their own weights, and have an optimiser of
    their own.

    Args:
        network: the network at the start; a `DeepReLU` may learn from pairs.
        source: the batch, or the moments of a population.
        rule: the local rule.
        optimiser: turns updates into steps.
        steps: how many steps.
        against: what the other copy learns by: "global", or "preconditioned" by G_l^+, under which
            linear scores with direct feedback make the two equal (statement 7).

    Returns:
        A Dataset over ``step`` = 1..steps and ``layer`` = 1..L with the cosine and the relative
        error ||local - other|| / ||other||

        * of the updates: ``update_cosine``, ``update_error``;
        * of what the optimiser made of them: ``step_cosine``, ``step_error``;
        * of the weights after the step: ``weight_cosine``, ``weight_error``.

        A cosine with zero is NaN, and so is an error relative to zero.

    Raises:
        ValueError, TypeError: as `update_of`, or an optimiser that is none.
        ArithmeticError: the weights left the range of floats.
    """
    import xarray as xr

    require_matrices(network)
    inputs.instance(
        optimiser, Optimiser, "optimiser", "an `Optimiser`: SGD(0.1), Adam() or its like"
    )
    if not inputs.is_one_of(against, get_args(Learning)[1:]):
        raise ValueError(f'against must be "global" or "preconditioned", got {against!r}.')
    kinds: tuple[Learning, Learning] = ("local", against)
    networks, memories = [network, network], [None, None]
    columns: dict[str, list[list[float]]] = {}
    for number in range(1, inputs.whole(steps, "steps", 1) + 1):
        made: dict[str, list[Updates]] = {"update": [], "step": [], "weight": []}
        for i, learning in enumerate(kinds):
            updates = update_of(networks[i], source, rule, learning)
            moves, memories[i] = optimiser.step(updates, memories[i])
            weights = [w + m for w, m in zip(matrices_of(networks[i]), moves, strict=True)]
            if not are_in_range(weights):
                raise ArithmeticError(
                    f"The weights of {learning} learning diverge in step {number}; take a smaller "
                    "rate."
                )
            networks[i] = networks[i].with_weights(weights)
            for name, value in zip(made, (updates, moves, weights), strict=True):
                made[name].append(value)
        for name, (local, other) in made.items():
            pairs = list(zip(local, other, strict=True))
            columns.setdefault(f"{name}_cosine", []).append([_cosine(a, b) for a, b in pairs])
            columns.setdefault(f"{name}_error", []).append([_error(a, b) for a, b in pairs])
    return described(
        xr.Dataset(
            {name: (("step", "layer"), rows) for name, rows in columns.items()},
            coords={"step": range(1, steps + 1), "layer": list(network.layers)},
            attrs={"rule": rule.name, "against": against, "optimiser": repr(optimiser)},
        ),
        "dynamics",
    )


def _cosine(a: Array, b: Array) -> float:
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.sum(a * b)) / norms if norms > 0 else np.nan


def _error(a: Array, b: Array) -> float:
    norm = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / norm if norm > 0 else np.nan


def _memory_share(value: Any, name: str) -> float:
    number = inputs.share(value, name)
    if number == 1:
        raise ValueError(f"{name} must be below 1, or nothing new is ever learned, got 1.")
    return number
