"""Self-supervised training of hierarchical networks: where positives come from, layer by layer.

No label is used. A step draws data, turns each layer's activities into two lists of rows, where row
k of one belongs to row k of the other, and gives them to the layer's own loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.training.fitting import fabric_on
from experiments.training.hierarchy_tasks import NetworkRecipe, one_hot_leaves
from linlocal import losses
from linlocal.analysis.hierarchy import HierarchicalNet
from linlocal.analysis.local_losses import (
    CLAPP,
    LocalLoss,
    LocalRule,
    Shape,
    Views,
    contracted,
    on_network,
)
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, Trainer
from linlocal.rhm import RandomHierarchyModel, Trees, trees
from linlocal.rules import Rule
from linlocal.seeds import generator_for

Positives = Literal["views", "fresh views", "siblings", "masked halves"]

PAIRS = 64
# The most rows of each view that a loss sees; of all data and positions, that many are drawn.
LARGEST_LOSS = 256
# The number of steps for which fresh views are made at once.
AHEAD = 32


@dataclass(frozen=True)
class PairSource:
    """Where pairs come from.

    Attributes:
        rhm: the grammar.
        data: the distinct data that may be seen.
        positives: "views": half of ``data`` and, in place of the other half, a view of each, which
            shares all symbols of a level drawn from 1..L-1 and above, everything below being drawn
            anew. "fresh views": the same with new data in every step. "siblings": the two halves
            of each tuple of a layer's activities, within one datum; they need no knowledge of
            the grammar but its tuples. "masked halves": each datum twice, with two halves of
            its leaves that complete each other, drawn anew in every step; a masked leaf is 0.
            They need no knowledge of the grammar.
        exclude: data that are never seen, for example the test set.
        seed: seeds the draws.

    Raises:
        ValueError: unknown positives, fewer than 4 data or 2 levels.
    """

    rhm: RandomHierarchyModel
    data: Trees
    positives: Positives
    exclude: Trees
    seed: int

    def __post_init__(self) -> None:
        if self.positives not in get_args(Positives):
            raise ValueError(
                f"positives must be one of {', '.join(get_args(Positives))}, got "
                f"{self.positives!r}."
            )
        if len(self.data) < 4 or self.rhm.num_levels < 2:
            raise ValueError(
                f"Pairs need at least 4 data and 2 levels, got {len(self.data)} and "
                f"{self.rhm.num_levels}: the symbols of the top level are the labels."
            )

    def stored(self) -> list[Tensor]:
        """The inputs of a fixed set: data and their views, or data alone that make pairs."""
        if self.positives in ("siblings", "masked halves"):
            return [one_hot_leaves(self.rhm, self.data.leaves)]
        return self._views(self.data[: len(self.data) // 2], 0)

    def fresh(self, step: int, pairs: int) -> list[Tensor]:
        """New data and views, the same for the same step."""
        parts: list[Trees] = []
        while sum(map(len, parts)) < pairs:
            drawn = self.rhm.sample(pairs, seed=_number("data", self.seed, step, len(parts)))
            parts.append(drawn[~self._excluded(drawn)])
        return self._views(Trees.concatenate(parts)[:pairs], 1 + step)

    def _views(self, data: Trees, part: int) -> list[Tensor]:
        draws = generator_for("view levels", self.seed, part)
        level = draws.integers(1, self.rhm.num_levels, size=len(data))
        views, missing = data, np.ones(len(data), dtype=bool)
        while missing.any():
            for l in range(1, self.rhm.num_levels):
                rows = np.flatnonzero(missing & (level == l))
                if len(rows):
                    seed = int(draws.integers(2**31))
                    views = _replaced(views, rows, self.rhm.resample(data[rows], l, seed=seed))
            missing = self._excluded(views)
        return [one_hot_leaves(self.rhm, each.leaves) for each in (data, views)]

    def _excluded(self, data: Trees) -> NDArray[np.bool_]:
        return np.isin(trees.keys_of(self.rhm, data), trees.keys_of(self.rhm, self.exclude))


def halves(inputs: Tensor, rng: np.random.Generator) -> list[Tensor]:
    """Every datum twice: with a random half of its positions, and with the others; 0 elsewhere."""
    samples, positions = inputs.shape[:2]
    order = rng.random((samples, positions)).argsort(axis=1)
    first = torch.from_numpy(order < positions // 2).unsqueeze(2)
    return [inputs * first, inputs * ~first]


def _replaced(data: Trees, rows: NDArray[np.int64], other: Trees) -> Trees:
    """``data`` with some of its rows from ``other``."""
    source = np.arange(len(data))
    source[rows] = len(data) + np.arange(len(rows))
    return Trees.concatenate([data, other])[source]


def _number(purpose: str, *seeds: int) -> int:
    """A seed for each purpose, for functions that take one number."""
    return int(generator_for(purpose, *seeds).integers(2**31))


class Projectors(nn.Module):
    """Linear maps of left and right siblings, which play different parts in a tuple."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(2, width, width, generator=generator) / width**0.5
        self.weight = nn.Parameter(start)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Both, projected."""
        return left @ self.weight[0], right @ self.weight[1]


def fit_pairs(
    net: HierarchicalNet,
    recipe: NetworkRecipe,
    rule: Rule | LocalRule,
    source: PairSource,
    *,
    local: bool,
    seed: int,
) -> None:
    """Train a network on pairs, without labels.

    Args:
        net: trained in place; its readout stays as it is.
        recipe: its optimiser and number of steps are used.
        rule: the rule that builds the loss of each layer.
        source: where the pairs come from.
        local: whether every layer has its own loss and no gradient crosses layers; otherwise the
            loss of the last layer that has pairs is backpropagated.
        seed: seeds the batches, the projections and the projectors.
    """
    torch.set_num_threads(1)
    siblings = source.positives == "siblings"
    # A single position has no sibling.
    depth = len(net.layers) - 1 if siblings else len(net.layers)
    rng = generator_for("pairs", seed)
    names, built = [f"layers.{l}" for l in range(depth)], _OnRows(rule, siblings, rng)
    options: dict[str, Any] = {
        "shape": (source.rhm.num_leaves, source.rhm.num_values(0)),
        "optimiser": recipe.optimise,
        "fabric": fabric_on(torch.device("cpu")),
        "seed": seed,
    }
    trainer: Trainer = (
        LocalTrainer(net, names, built, one_pass=True, **options)
        if local
        else GlobalTrainer(net, names, built, **options)
    )
    data = source.stored() if source.positives != "fresh views" else []
    net.train()
    for step in range(recipe.steps):
        if source.positives == "fresh views":
            if step % AHEAD == 0:
                data = source.fresh(step, PAIRS * AHEAD)
            first = PAIRS * (step % AHEAD)
            rows = np.arange(first, first + PAIRS)
        else:
            rows = rng.integers(len(data[0]), size=min(PAIRS * (1 + siblings), len(data[0])))
        views = [each[rows] for each in data]
        if source.positives == "masked halves":
            views = halves(views[0], rng)
        trainer.step(torch.cat(views))


class _OnRows(LocalRule):
    """A rule whose losses see the positions of a layer as rows, at most `LARGEST_LOSS` of them."""

    def __init__(self, rule: Rule | LocalRule, siblings: bool, rng: np.random.Generator) -> None:
        self.rule, self.siblings, self.rng = on_network(rule), siblings, rng

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        losses = contracted(self.rule.build([shape[-1:] for shape in shapes], seed))
        return nn.ModuleList(
            _RowsLoss(loss, Projectors(shape[-1], seed + l) if self.siblings else None, self.rng)
            for l, (loss, shape) in enumerate(zip(losses, shapes, strict=True))
        )


class _RowsLoss(LocalLoss):
    def __init__(
        self, loss: nn.Module, projectors: Projectors | None, rng: np.random.Generator
    ) -> None:
        super().__init__()
        self.loss, self.projectors, self.rng = loss, projectors, rng

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        """The loss of both views, or of left and right siblings; ``top`` is not used."""
        views = here.chunk(2)
        if self.projectors is not None:
            views = self.projectors(here[:, 0::2], here[:, 1::2])
        rows: NDArray[np.int64] | slice = slice(None)
        total = views[0].shape[0] * views[0].shape[1]
        if total > LARGEST_LOSS:
            rows = self.rng.permutation(total)[:LARGEST_LOSS]
        pairs = torch.cat([view.transpose(0, 1).flatten(0, 1)[rows] for view in views])
        value: Tensor = self.loss(pairs, pairs.detach(), batch)
        return value


# For each loss, two values of its own hyper-parameter from which a search may choose: how strongly
# the two views are pulled together, or told from others.
LOSS_CANDIDATES: dict[str, tuple[LocalRule, LocalRule]] = {
    "CLAPP": (CLAPP(margin=1.0), CLAPP(margin=10.0)),
    "InfoNCE": (Views(losses.NTXent(0.2)), Views(losses.NTXent(0.5))),
    "VICReg": (
        Views(losses.VICReg(invariance=25.0)),
        Views(losses.VICReg(invariance=100.0)),
    ),
    "LPL": (Views(losses.LPL(predictive=1.0)), Views(losses.LPL(predictive=10.0))),
    "Barlow Twins": (
        Views(losses.BarlowTwins(weight=5e-3)),
        Views(losses.BarlowTwins(weight=5e-2)),
    ),
}
