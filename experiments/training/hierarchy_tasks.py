"""Tasks made of Random Hierarchy Models, and networks trained on them.

One process, one thread: a run then gives the same numbers on any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from experiments.training.convergence import Convergence
from linlocal.analysis.hierarchy import Feedback, HierarchicalNet, Sharing
from linlocal.rhm import RandomHierarchyModel, Trees, theory
from linlocal.seeds import generator_for

Architecture = Literal["convolutional", "locally connected", "fully connected", "shallow"]
Optimiser = Literal["adam", "sgd"]

BATCH = 128
LARGEST_TEST = 2000
LARGEST_VALIDATION = 1000
# What every supervised training on hierarchies uses.
CONVERGENCE = Convergence()


@dataclass(frozen=True)
class Task:
    """A grammar and a split of its data.

    Attributes:
        num_symbols: v, also the number of classes n.
        num_synonyms: m.
        num_levels: L.
        multiple: size of the training set in units of P* = n m^L.
        seed: seeds the rules and the split.
    """

    num_symbols: int
    num_synonyms: int
    num_levels: int
    multiple: float
    seed: int

    @property
    def rhm(self) -> RandomHierarchyModel:
        """The grammar, of tuples of two."""
        return RandomHierarchyModel(
            num_classes=self.num_symbols,
            num_symbols=self.num_symbols,
            num_synonyms=self.num_synonyms,
            num_levels=self.num_levels,
            seed=self.seed,
        )

    @property
    def num_train(self) -> int:
        """Data in the training set."""
        return max(1, round(self.multiple * theory.sample_complexity(self.rhm)))

    @property
    def largest(self) -> float:
        """The largest multiple that leaves a fifth of all data for validation and test."""
        rhm = self.rhm
        return int(0.8 * rhm.num_data) / theory.sample_complexity(rhm)

    @property
    def possible(self) -> bool:
        """Whether a fifth of all data is left for validation and test."""
        return self.num_train <= 0.8 * self.rhm.num_data

    def split(self) -> tuple[Trees, Trees, Trees]:
        """Training, validation and test set, disjoint.

        Raises:
            ValueError: the grammar has too few data, see `possible`.
        """
        rhm = self.rhm
        if not self.possible:
            raise ValueError(
                f"{self.num_train} training data are more than 80 % of the {rhm.num_data} data of "
                f"the grammar: lower the multiple {self.multiple}."
            )
        left = rhm.num_data - self.num_train
        num_test = min(LARGEST_TEST, left // 2)
        num_validation = min(LARGEST_VALIDATION, left - num_test)
        train, rest = rhm.split(
            train=self.num_train, test=num_test + num_validation, seed=self.seed
        )
        return train, rest[num_test:], rest[:num_test]


@dataclass(frozen=True)
class NetworkRecipe:
    """A network and how it is optimised: what a search may vary, and what it may not.

    Attributes:
        architecture: "convolutional" and "locally connected" have a layer for each level of the
            tree, "fully connected" as many layers over all leaves, "shallow" one.
        width: units per position; the one hidden layer of a shallow network has 8 times as many.
        normalise: whether layers have batch normalisation.
        optimiser: "adam" or "sgd" (with momentum 0.9).
        learning_rate: learning rate of the optimiser.
    """

    architecture: Architecture = "convolutional"
    width: int = 64
    normalise: bool = False
    optimiser: Optimiser = "adam"
    learning_rate: float = 3e-3

    def network(
        self, rhm: RandomHierarchyModel, seed: int, feedback: Feedback = Feedback()
    ) -> HierarchicalNet:
        """An untrained network for the data of a grammar."""
        tuple_sizes: Sequence[int] = rhm.tuple_sizes
        width = self.width
        sharing: Sharing = "local" if self.architecture == "locally connected" else "convolutional"
        if self.architecture == "fully connected":
            tuple_sizes = [rhm.num_leaves] + [1] * (rhm.num_levels - 1)
            width = 2 * self.width
        elif self.architecture == "shallow":
            tuple_sizes, width = [rhm.num_leaves], 8 * self.width
        return HierarchicalNet(
            rhm.num_values(0),
            tuple_sizes,
            width,
            rhm.num_classes,
            rhm.num_leaves,
            sharing=sharing,
            normalise=self.normalise,
            feedback=feedback,
            seed=seed,
        )

    def optimise(self, parameters: Any) -> torch.optim.Optimizer:
        """The optimiser for these parameters."""
        if self.optimiser == "sgd":
            return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=0.9)
        return torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)


@dataclass(frozen=True)
class Fit:
    """How training ended.

    Attributes:
        steps: number of steps taken.
        loss: smoothed cross-entropy of the last batches, NaN after a divergence.
        finished: whether the criterion was met, rather than the cap.
    """

    steps: int
    loss: float
    finished: bool


def one_hot_leaves(rhm: RandomHierarchyModel, leaves: NDArray[Any]) -> Tensor:
    """One-hot leaves (samples, d, v)."""
    return torch.from_numpy(rhm.one_hot(leaves)).transpose(1, 2).contiguous()


def class_labels(trees: Trees) -> Tensor:
    """Labels (samples,)."""
    return torch.from_numpy(trees.labels)


def layer_activities(
    net: HierarchicalNet, rhm: RandomHierarchyModel
) -> Callable[[NDArray[Any]], list[Tensor]]:
    """A function from leaves to z_1..z_L, in evaluation mode and without gradients."""

    def layers(leaves: NDArray[Any]) -> list[Tensor]:
        net.eval()
        with torch.no_grad():
            return net.activities(one_hot_leaves(rhm, leaves))

    return layers


def fit_labels(
    net: HierarchicalNet,
    recipe: NetworkRecipe,
    inputs: Tensor,
    labels: Tensor,
    seed: int,
    until: Convergence = CONVERGENCE,
) -> Fit:
    """Train on labels until it is finished; batches are drawn at random with replacement.

    This is a loop of its own because `HierarchicalNet.backward` may send the error by direct
    feedback or random weights: no gradient of a single loss, as the trainers take it, does that.
    """
    torch.set_num_threads(1)
    optimiser = recipe.optimise(net.parameters())
    rng = generator_for("batches", seed)
    course = until.watch()
    net.train()
    while not course.over:
        rows = torch.from_numpy(rng.integers(len(inputs), size=min(BATCH, len(inputs))))
        optimiser.zero_grad()
        logits = net.backward(inputs[rows], labels[rows])
        optimiser.step()
        course.add(float(F.cross_entropy(logits, labels[rows])))
    return Fit(course.steps, course.smoothed, course.finished)


def accuracy(net: HierarchicalNet, inputs: Tensor, labels: Tensor) -> float:
    """Share of data whose class the network tells; one that diverged is right by chance at best."""
    net.eval()
    with torch.no_grad():
        return float((net(inputs).argmax(dim=1) == labels).double().mean())
