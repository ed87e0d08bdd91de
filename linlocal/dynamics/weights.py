"""The weights of a network that learns: matrices, the maps that they make, and their range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.networks import Convolution, DeepLinear, Network


def maps_of(network: Network) -> list[Array]:
    """A_0..A_L, the maps from the input to each layer of a linear network."""
    maps = [np.eye(network.widths[0])]
    for l in network.layers:
        maps.append(network.matrix(l) @ maps[-1])
    return maps


def require_matrices(network: Network) -> None:
    """Raise a ValueError if there is a convolution or a bias, and a TypeError without a network."""
    inputs.instance(network, Network, "network", "a `DeepLinear` or `DeepReLU`")
    if any(isinstance(w, Convolution) for w in network.weights):
        raise ValueError(
            "Learning is followed in matrices, and this network has a convolution; build it from "
            "network.matrix(l), which shares no weights, or from dense layers."
        )
    if network.has_biases:
        raise ValueError(
            "Learning is followed in matrices, and this network has biases, which would stay as "
            "they are; build it from its weights alone."
        )


def require_linear(network: Network) -> None:
    """Raise unless this is a chain of matrices: z_l = W_l z_{l-1}."""
    inputs.instance(
        network,
        DeepLinear,
        "network",
        "a `DeepLinear`; moments and modes go with one map for all data",
    )
    require_matrices(network)
    if network.links:
        raise ValueError(
            "Moments and modes are followed through a product of matrices, and this network has "
            f"links into the layers {list(network.links)}; build it from its weights alone."
        )


def matrices_of(network: Network) -> list[Array]:
    """W_1..W_L."""
    return [network.matrix(l) for l in network.layers]


def are_in_range(weights: Sequence[Array]) -> bool:
    """Whether losses of fourth order in the map of all layers can be computed."""
    return room_left(weights) > 0


def room_left(weights: Sequence[Array]) -> float:
    """How far a bound on the norms of all maps A_l is below the largest that is allowed."""
    with np.errstate(over="ignore"):
        return 1e50 - float(np.prod([np.hypot(1.0, np.linalg.norm(w)) for w in weights]))
