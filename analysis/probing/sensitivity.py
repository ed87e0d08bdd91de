"""What each layer of a network knows about the tree of its input.

Two questions are asked for every layer k and level l. Does the layer change when a symbol of the
level is written as another of its own tuples? Can a linear classifier read the symbols of the
level?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from linlocal.analysis.probing.probe import linear_probe
from linlocal.inputs import instance
from linlocal.rhm import RandomHierarchyModel, Trees
from linlocal.seeds import generator_for

Activities = Callable[[NDArray[Any]], Sequence[Tensor]]


def synonymic_sensitivity(
    activities: Activities, rhm: RandomHierarchyModel, trees: Trees, *, seed: int
) -> xr.DataArray:
    """How much synonyms change: mean ||z_k(x) - z_k(P_l x)||^2 / mean ||z_k(x) - z_k(y)||^2.

    P_l exchanges every tuple of level l for a synonym, and y is another datum. S is 0 for an
    invariant layer and 1 if synonyms differ as much as unrelated data.

    Args:
        activities: turns leaves (data, d) into the activities of layers 1..K, each (data, ...).
        rhm: the grammar of the data.
        trees: the data x.
        seed: seeds the choice of synonyms.

    Returns:
        S over ``layer`` and ``level``; NaN for a layer that is the same for all data.

    Raises:
        ValueError: fewer than 2 data, or a grammar without synonyms.
        TypeError: data that are no `Trees`.

    References:
        Cagnetta et al. 2023 (arXiv 2307.02129), synonymic sensitivity.
    """
    instance(trees, Trees, "trees", "`Trees`, made by sample, split, data or parse")
    if len(trees) < 2:
        raise ValueError(
            "A sensitivity compares data with each other: it needs at least 2 of them, got "
            f"{len(trees)}."
        )
    clean = _flat(activities(trees.leaves))
    # y is the next datum in a random order, so no datum is compared with itself.
    order = generator_for("other data", seed).permutation(len(trees))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    apart = [_mean_square(z - z[torch.from_numpy(other)]) for z in clean]
    rows = []
    for level in rhm.levels:
        changed = _flat(activities(rhm.exchange(trees, level, seed=seed).leaves))
        moved = [_mean_square(z - z_) for z, z_ in zip(clean, changed, strict=True)]
        rows.append([m / a if a > 0 else np.nan for m, a in zip(moved, apart, strict=True)])
    return _table(np.array(rows).T, rhm)


def decodability(
    activities: Activities, rhm: RandomHierarchyModel, train: Trees, test: Trees, *, seed: int
) -> xr.DataArray:
    """Accuracy with which a linear classifier reads the symbols of level l from layer k.

    There is one classifier for each place that a symbol can have in the receptive field. From a
    layer below the level it reads all positions under the symbol. From a layer above it reads the
    one position that covers the symbol, and there is a classifier for each symbol that a position
    covers. The accuracy is the average over classifiers.

    Args:
        activities: turns leaves (data, d) into the activities (data, positions, width) of layers
            1..K, where layer k has as many positions as level k has symbols.
        rhm: the grammar of the data.
        train: the data that the classifiers are fitted on.
        test: the data that the classifiers are tested on.
        seed: decides which samples choose the penalty, see `probing.linear_probe`.

    Returns:
        The accuracy over ``layer`` and ``level``; the symbols of level L are the classes.

    Raises:
        ValueError: a layer whose positions do not tile the tree.
    """
    rows = []
    for z, z_test in zip(activities(train.leaves), activities(test.leaves), strict=True):
        row = []
        for level in rhm.levels:
            symbols, symbols_test = train.symbols[level], test.symbols[level]
            parts = _split(z, symbols), _split(z_test, symbols_test)
            found = [
                linear_probe(x, y, x_test, y_test, seed=seed).accuracy
                for (x, y), (x_test, y_test) in zip(*parts, strict=True)
            ]
            row.append(float(np.mean(found)))
        rows.append(row)
    return _table(np.array(rows), rhm)


def _split(z: Tensor, symbols: NDArray[Any]) -> list[tuple[Tensor, NDArray[np.int64]]]:
    """Features and targets of each classifier, pooled over the positions that share it."""
    data, positions, width = z.shape
    nodes = symbols.shape[1]
    targets = symbols.astype(np.int64)
    if positions % nodes == 0:
        return [(z.detach().reshape(data * nodes, -1), targets.reshape(-1))]
    if nodes % positions:
        raise ValueError(
            f"A layer of {positions} positions does not tile the {nodes} symbols of a level."
        )
    features = z.detach().reshape(data * positions, width)
    below = targets.reshape(data * positions, nodes // positions)
    return [(features, below[:, place]) for place in range(below.shape[1])]


def _flat(activities: Sequence[Tensor]) -> list[Tensor]:
    return [z.detach().flatten(1).double() for z in activities]


def _mean_square(difference: Tensor) -> float:
    return float(difference.square().sum(dim=1).mean())


def _table(values: NDArray[np.float64], rhm: RandomHierarchyModel) -> xr.DataArray:
    layers = list(range(1, len(values) + 1))
    return xr.DataArray(values, {"layer": layers, "level": list(rhm.levels)}, ["layer", "level"])
