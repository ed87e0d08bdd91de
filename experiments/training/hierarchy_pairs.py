"""Self-supervised training of hierarchical networks: where positives come from, layer by layer.

A step draws data, turns each layer's activities into two lists of rows, where row
k of one belongs to row k of the other, and gives them to the layer's own loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.training.convergence import Convergence, Progress
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

Positives = Literal[
    "views",
    "usable views",
    "noisy views",
    "fresh views",
    "same class",
    "siblings",
    "masked halves",
]
VIEWS = ("views", "usable views", "noisy views", "fresh views")

PAIRS = 64
# The share of noisy views that belong to another datum.
WRONG = 0.25
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
            anew. "usable views": the same, and the loss of layer l sees those alone that share the
            symbols of level l; of others it could make nothing equal. "noisy views": a quarter of
            the views belong to another datum. "fresh views": views of new data in every step.
            "same class": any two data of one class, which is all that labels tell; they take the
            labels and no other knowledge of the grammar. "siblings": the two halves
            of each tuple of a layer's activities, within one datum; they need no knowledge of
            the grammar but its tuples. "masked halves": each datum twice, with two halves of
            its leaves that complete each other, drawn anew in every step; a masked leaf is 0.
            They need no knowledge of the grammar.
        exclude: data that are never seen, for example the test set.
        seed: seeds the draws.
        encode: makes inputs (samples, d, channels) of leaves (samples, d); None: one-hot.

    Raises:
        ValueError: unknown positives, fewer than 4 data or 2 levels.
    """

    rhm: RandomHierarchyModel
    data: Trees
    positives: Positives
    exclude: Trees
    seed: int
    encode: Callable[[NDArray[Any]], Tensor] | None = None

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
        if self.positives not in VIEWS:
            return [self.inputs(self.data)]
        first, second, _ = self._views(self.data[: len(self.data) // 2], 0)
        if self.positives == "noisy views":
            draws = generator_for("wrong views", self.seed)
            (wrong,) = np.nonzero(draws.random(len(second)) < WRONG)
            second[wrong] = second[np.roll(wrong, 1)]
        return [first, second]

    def fresh(self, step: int, pairs: int) -> list[Tensor]:
        """New data and views, the same for the same step."""
        parts: list[Trees] = []
        while sum(map(len, parts)) < pairs:
            drawn = self.rhm.sample(pairs, seed=_number("data", self.seed, step, len(parts)))
            parts.append(drawn[~self._excluded(drawn)])
        return self._views(Trees.concatenate(parts)[:pairs], 1 + step)[:2]

    def levels(self) -> Tensor:
        """(pairs,) the lowest level whose symbols the views of a fixed set share."""
        return self._views(self.data[: len(self.data) // 2], 0)[2]

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
        return [self.inputs(data), self.inputs(views), torch.from_numpy(level)]

    def inputs(self, data: Trees) -> Tensor:
        """What a network reads of data, (samples, d, channels)."""
        if self.encode is not None:
            return self.encode(data.leaves)
        return one_hot_leaves(self.rhm, data.leaves)

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
    window: int,
    seed: int,
    until: Convergence,
) -> Progress:
    """Train a network on pairs, without labels but for the positives "same class".

    Args:
        net: trained in place; its readout stays as it is.
        recipe: its optimiser is used.
        rule: the rule that builds the loss of each layer.
        source: where the pairs come from.
        window: through how many layers a loss is backpropagated. 1: no gradient crosses layers; as
            many as have pairs: the loss of the last of them alone, end to end.
        seed: seeds the batches, the projections and the projectors.
        until: when training is finished, told from the sum of the losses of all layers.

    Returns:
        The course of the training. One that diverges ends there.
    """
    torch.set_num_threads(1)
    siblings = source.positives == "siblings"
    # A single position has no sibling.
    depth = len(net.layers) - 1 if siblings else len(net.layers)
    rng = generator_for("pairs", seed)
    names = {f"layers.{l}": "NLC" for l in range(depth)}
    built = _OnRows(rule, siblings, source.positives == "usable views", rng)
    options: dict[str, Any] = {
        "shape": (net.num_positions, net.num_symbols),
        "optimiser": recipe.optimise,
        "fabric": fabric_on(torch.device("cpu")),
        "seed": seed,
    }
    trainer: Trainer
    if window >= depth:
        trainer = GlobalTrainer(net, names, built, **options)
    else:
        trainer = LocalTrainer(net, names, built, one_pass=window == 1, window=window, **options)
    course = until.watch()
    net.train()
    for batch in _batches(source, rng):
        try:
            losses = trainer.step(batch)
        except FloatingPointError:
            course.add(math.nan)
            return course
        if course.add(sum(losses.values())):
            return course
    raise AssertionError("batches do not end")


def fit_told(
    net: HierarchicalNet,
    recipe: NetworkRecipe,
    source: PairSource,
    *,
    seed: int,
    until: Convergence,
) -> Progress:
    """Train by backpropagation on labels, told as well which symbols two views share.

    The loss is the cross-entropy of data and views, which have one label, plus the mean over layers
    l of the mean square of z_l - z_l' over the views that share the symbols of level l.

    Args:
        net: trained in place.
        recipe: its optimiser is used.
        source: its views of a fixed set are used, each with its level, and the labels of its data.
        seed: seeds the batches.
        until: when training is finished, told from the cross-entropy.

    Returns:
        The course of the training.
    """
    torch.set_num_threads(1)
    (first, second), levels = source.stored(), source.levels()
    labels = torch.from_numpy(source.data.labels[: len(first)])
    optimiser, rng = recipe.optimise(net.parameters()), generator_for("told", seed)
    course = until.watch()
    net.train()
    while not course.over:
        rows = rng.integers(len(first), size=min(PAIRS, len(first)))
        optimiser.zero_grad()
        outputs = net.activities(torch.cat([first[rows], second[rows]]))
        classes = labels[rows].repeat(2)
        loss = F.cross_entropy(net.readout(outputs[-1].flatten(1)), classes)
        pulls = []
        for l, z in enumerate(outputs, start=1):
            shared = levels[rows] <= l
            one, other = z.chunk(2)
            pulls.append((one - other)[shared].square().sum() / max(1, one[shared].numel()))
        (loss + torch.stack(pulls).mean()).backward()
        optimiser.step()
        course.add(loss.item())
    return course


def _batches(source: PairSource, rng: np.random.Generator) -> Iterator[Any]:
    """Both views of a batch in one tensor, with the levels that they share where those matter."""
    data = source.stored() if source.positives != "fresh views" else []
    levels = source.levels() if source.positives == "usable views" else None
    partners = _Partners(source.data.labels) if source.positives == "same class" else None
    pairs = PAIRS * (1 + (source.positives == "siblings"))
    for step in count():
        if source.positives == "fresh views":
            if step % AHEAD == 0:
                data = source.fresh(step, PAIRS * AHEAD)
            first = PAIRS * (step % AHEAD)
            rows = np.arange(first, first + PAIRS)
        else:
            rows = rng.integers(len(data[0]), size=min(pairs, len(data[0])))
        views = [each[rows] for each in data]
        if source.positives == "masked halves":
            views = halves(views[0], rng)
        elif partners is not None:
            views = [*views, data[0][partners(rows, rng)]]
        yield torch.cat(views) if levels is None else (torch.cat(views), levels[rows])


class _Partners:
    """For each datum another one of its class, drawn at random (itself, if it is alone)."""

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self.labels = labels
        self.order = np.argsort(labels, kind="stable")
        self.place = np.argsort(self.order)
        self.counts = np.bincount(labels)
        self.starts = np.cumsum(self.counts) - self.counts

    def __call__(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        size, start = self.counts[self.labels[rows]], self.starts[self.labels[rows]]
        step = 1 + rng.integers(np.maximum(size - 1, 1))
        return np.asarray(self.order[start + (self.place[rows] - start + step) % size])


class _OnRows(LocalRule):
    """A rule whose losses see the positions of a layer as rows, at most `LARGEST_LOSS` of them."""

    def __init__(
        self, rule: Rule | LocalRule, siblings: bool, usable: bool, rng: np.random.Generator
    ) -> None:
        self.rule, self.siblings, self.usable = on_network(rule), siblings, usable
        self.rng = rng

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        losses = contracted(self.rule.build([shape[-1:] for shape in shapes], seed))
        return nn.ModuleList(
            _RowsLoss(
                loss,
                Projectors(shape[-1], seed + l) if self.siblings else None,
                self.rng,
                l + 1 if self.usable else None,
            )
            for l, (loss, shape) in enumerate(zip(losses, shapes, strict=True))
        )


class _RowsLoss(LocalLoss):
    """The loss of a layer; with ``level``, of the pairs alone that share its symbols."""

    def __init__(
        self,
        loss: nn.Module,
        projectors: Projectors | None,
        rng: np.random.Generator,
        level: int | None = None,
    ) -> None:
        super().__init__()
        self.loss, self.projectors, self.level, self.rng = loss, projectors, level, rng

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        """The loss of both views, or of left and right siblings; ``top`` is not used."""
        views = here.chunk(2)
        if self.projectors is not None:
            views = self.projectors(here[:, 0::2], here[:, 1::2])
        if self.level is not None:
            shared = batch[1] <= self.level
            views = (views[0][shared], views[1][shared])
        rows: NDArray[np.int64] | slice = slice(None)
        total = views[0].shape[0] * views[0].shape[1]
        if total > LARGEST_LOSS:
            rows = self.rng.permutation(total)[:LARGEST_LOSS]
        pairs = torch.cat([view.transpose(0, 1).flatten(0, 1)[rows] for view in views])
        value: Tensor = self.loss(pairs, pairs.detach(), batch)
        return value


# For each loss, two values of its own hyper-parameter from which a search may choose: how strongly
# the two views are pulled together, or told from others. The first of VICReg and LPL is published.
LOSS_CANDIDATES: dict[str, tuple[LocalRule, LocalRule]] = {
    "CLAPP": (CLAPP(margin=10.0), CLAPP(margin=1.0)),
    "InfoNCE": (Views(losses.NTXent(0.2)), Views(losses.NTXent(0.5))),
    "VICReg": (
        Views(losses.VICReg(form="released")),
        Views(losses.VICReg(form="released", invariance=100.0)),
    ),
    "LPL": (
        Views(losses.LPL(form="released")),
        Views(losses.LPL(form="released", predictive=10.0)),
    ),
    "Barlow Twins": (
        Views(losses.BarlowTwins(weight=5e-3)),
        Views(losses.BarlowTwins(weight=5e-2)),
    ),
    "VICReg as printed": (
        Views(losses.VICReg(form="article")),
        Views(losses.VICReg(form="article", invariance=1.0)),
    ),
    "LPL as printed": (
        Views(losses.LPL(form="article")),
        Views(losses.LPL(form="article", predictive=10.0)),
    ),
}


def own_parameters(loss: str, numbers: Sequence[int]) -> list[dict[str, int]]:
    """The values of a loss's own parameter that are tried, by their numbers; one if it has none."""
    known = numbers if loss in LOSS_CANDIDATES else numbers[:1]
    return [{"variant": number} for number in known]
