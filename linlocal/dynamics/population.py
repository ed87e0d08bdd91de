"""Updates and losses in expectation, as functions of the second moments of the data.

Every update is dW_l = E_l A_{l-1}^T, and for a loss of layer l in closed form:

    linear score, optimal B:   loss = -sum_d ||A_l D_d C^T||^2 / (2 lam),   C = A_l or A_L
                               E_l = A_l sum_d D_d C^T C D_d^T / lam
    linear score, B = I:       E_l = C sum_d D_d^T
    spectral contrastive:      loss = -2 tr(K S_+) + tr(K S_1 K S_2)
                               E_l = 2 A_l (S_+ + S_+^T - S_1 K S_2 - S_2 K S_1)
    whitening:                 loss = tr(K (S_1 + S_2 - S_+ - S_+^T))
                                      + w sum_v ||A_l S_v A_l^T - I||^2
                               E_l = 2 A_l (S_+ + S_+^T - S_1 - S_2)
                                     - 4 w sum_v (A_l S_v A_l^T - I) A_l S_v

S_1 and S_2 are the second moments of the views, K = A_l^T A_l, and the context C is detached.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from linlocal import inputs
from linlocal.dynamics.moments import Moments
from linlocal.dynamics.weights import maps_of, require_linear
from linlocal.inputs import Array
from linlocal.losses import SpectralContrastive, TypeOne, TypeTwo, Whitening
from linlocal.networks import DeepLinear, Network
from linlocal.pairs import Pairs
from linlocal.rules import Rule
from linlocal.updates import global_update, local_update

Source = Pairs | Moments
Learning = Literal["local", "global", "preconditioned"]


def expected_update(
    network: DeepLinear, moments: Moments, rule: Rule, learning: Learning = "local"
) -> tuple[Array, ...]:
    """The update of every layer in expectation over data with these second moments.

    For linear scores and for whitening it is also the update of a batch with these empirical
    moments (`Moments.of_batch`). That of spectral contrastive loss is no function of them: a batch
    leaves out the products of a sample with its own partner.

    Args:
        network: a linear network with matrices as weights.
        moments: the second moments of its input.
        rule: CLAPP or its kin with a linear score and type 1 or 2 (equal where all positive pairs
            have as many negatives), spectral contrastive loss, or whitening.
        learning: "local"; "global", which backpropagates the loss of the top layer (BP-SSL); or
            "preconditioned", the global update times the pseudo-inverse of the downstream metric,
            G_l^+ dW_l.

    Returns:
        ``updates[l - 1]`` in the shape of W_l, for l = 1..L.

    Raises:
        ValueError: the rule has no closed form in second moments, or widths do not fit.
        TypeError: an argument is of another type.
    """
    _check_learning(learning)
    _check(network, moments, rule)
    maps = maps_of(network)
    if learning == "local":
        errors = [_error(network, moments, rule, maps, l) for l in network.layers]
    else:
        top = _error(network, moments, rule, maps, network.depth)
        errors = [network.downstream(l).T @ top for l in network.layers]
    updates = tuple(e @ below.T for e, below in zip(errors, maps[:-1], strict=True))
    return _preconditioned(network, updates) if learning == "preconditioned" else updates


def expected_loss(network: DeepLinear, moments: Moments, rule: Rule) -> tuple[float, ...]:
    """The loss of every layer in expectation, penalty on an optimal B included.

    Args:
        network: as in `expected_update`.
        moments: as in `expected_update`.
        rule: as in `expected_update`.

    Returns:
        ``losses[l - 1]`` for l = 1..L.

    Raises:
        ValueError, TypeError: as `expected_update`.
    """
    _check(network, moments, rule)
    maps = maps_of(network)
    return tuple(_loss(network, moments, rule, maps, l) for l in network.layers)


def update_of(
    network: Network, source: Source, rule: Rule, learning: Learning = "local"
) -> tuple[Array, ...]:
    """`expected_update` for moments; `linlocal.local_update` or `global_update` for a batch.

    Args:
        network: the network; linear for moments and for "preconditioned".
        source: moments or a batch.
        rule: the rule; any that fits the batch.
        learning: as in `expected_update`.

    Raises:
        ValueError, TypeError: as the function that is called.
    """
    if isinstance(source, Moments):
        return expected_update(network, source, rule, learning)  # type: ignore[arg-type]
    inputs.instance(source, Pairs, "source", "`Pairs`, or `Moments` of a population")
    _check_learning(learning)
    if learning == "local":
        return local_update(network, source, rule)
    updates = global_update(network, source, rule)
    return _preconditioned(network, updates) if learning == "preconditioned" else updates


def _preconditioned(network: Network, updates: tuple[Array, ...]) -> tuple[Array, ...]:
    require_linear(network)
    assert isinstance(network, DeepLinear)
    metrics = (network.gram(l) for l in network.layers)
    return tuple(
        np.linalg.pinv(metric, hermitian=True) @ update
        for metric, update in zip(metrics, updates, strict=True)
    )


def _check_learning(learning: str) -> None:
    if not inputs.is_one_of(learning, get_args(Learning)):
        raise ValueError(
            f'learning must be "local", "global" or "preconditioned", got {learning!r}.'
        )


def _check(network: DeepLinear, moments: Moments, rule: Rule) -> None:
    require_linear(network)
    inputs.instance(moments, Moments, "moments", "`Moments`, made by Moments.of_views")
    inputs.instance(rule, Rule, "rule", "a `Rule`, made by rules.SpectralContrastive() or its like")
    if moments.width != network.widths[0]:
        raise ValueError(
            f"The network reads {network.widths[0]} features, but the moments have {moments.width}."
        )
    # The class itself: a subclass may have another formula.
    linear = type(rule.loss) in (TypeOne, TypeTwo) and rule.has_linear_score
    if not linear and type(rule.loss) not in (SpectralContrastive, Whitening):
        raise ValueError(
            f"The update of {rule.name} is no function of second moments; take a linear score, "
            "SpectralContrastive or Whitening, or give a batch of pairs."
        )
    if linear and (
        rule.projection not in ("optimal", "identity")
        or rule.penalty.metric != "frobenius"
        or rule.pooling is not None
    ):
        raise ValueError(
            "In expectation a projection is optimal under the plain penalty, or the identity, and "
            "nothing is pooled. A matched projection and the metric penalty make the local update "
            'the global one: take learning="global".'
        )
    if rule.projection == "identity" and rule.context == "top" and len({*network.widths[1:]}) > 1:
        raise ValueError(
            "An identity projection onto the top layer needs layers of equal width, got "
            f"{list(network.widths[1:])}."
        )


def _contexts(rule: Rule, maps: list[Array], layer: int) -> list[Array]:
    """The maps C to the contexts that a layer is judged against; their terms add up."""
    here, top = maps[layer], maps[-1]
    if rule.context == "both" and layer == len(maps) - 1:
        return [top]
    return {"same": [here], "top": [top], "both": [here, top], "each": [here, top]}[rule.context]


def _error(
    network: DeepLinear, moments: Moments, rule: Rule, maps: list[Array], layer: int
) -> Array:
    """E_l, (width_l, n_0)."""
    a, loss = maps[layer], rule.loss
    both_ways = moments.positive + moments.positive.T
    if isinstance(loss, SpectralContrastive):
        square = moments.first @ a.T @ a @ moments.second
        return 2.0 * a @ (both_ways - square - square.T)
    if isinstance(loss, Whitening):
        error = 2.0 * a @ (both_ways - moments.first - moments.second)
        for s in (moments.first, moments.second):
            error -= 4.0 * loss.weight * (a @ s @ a.T - np.eye(len(a))) @ a @ s
        return error
    terms = [(d, c) for d in moments.contrasts for c in _contexts(rule, maps, layer)]
    if rule.projection == "identity":
        return np.sum([c @ d.T for d, c in terms], axis=0)
    strength = rule.penalty.at(layer, network.depth)
    return np.sum([(a @ d @ c.T) @ (c @ d.T) for d, c in terms], axis=0) / strength


def _loss(
    network: DeepLinear, moments: Moments, rule: Rule, maps: list[Array], layer: int
) -> float:
    a, loss = maps[layer], rule.loss
    seen = a @ moments.positive @ a.T
    first, second = (a @ s @ a.T for s in (moments.first, moments.second))
    if isinstance(loss, SpectralContrastive):
        return float(-2.0 * np.trace(seen) + np.sum(first * second))
    if isinstance(loss, Whitening):
        spread = sum(np.sum((s - np.eye(len(a))) ** 2) for s in (first, second))
        return float(np.trace(first + second - 2.0 * seen) + loss.weight * spread)
    scored = [a @ d @ c.T for d in moments.contrasts for c in _contexts(rule, maps, layer)]
    if rule.projection == "identity":
        return -float(sum(np.trace(each) for each in scored))
    strength = rule.penalty.at(layer, network.depth)
    return -float(sum(np.sum(each**2) for each in scored)) / (2.0 * strength)
