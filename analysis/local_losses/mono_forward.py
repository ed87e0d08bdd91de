"""Mono-Forward: cross-entropy of class scores in every block, with a matrix for each block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linlocal import inputs
from linlocal.analysis.local_losses.contract import LocalLoss, labels_of
from linlocal.analysis.local_losses.pooling import (
    Pool,
    Pooling,
    Shape,
    checked_pooling,
    pools,
    shapes_of,
)


class ClassScores(LocalLoss):
    """mean over rows of -log softmax(M P z) at the label; z and M learn, nothing else.

    It is `linlocal.losses.CrossEntropy` of the pooled activity with the read-out M. Built by
    `MonoForward`.

    Args:
        pool: P, the pooling of the block's output.
        matrix: M, (classes, features).
    """

    def __init__(self, pool: Pool, matrix: Tensor) -> None:
        super().__init__()
        self.pool, self.matrix = pool, nn.Parameter(matrix)

    def scores(self, here: Tensor) -> Tensor:
        """M P z, (rows, classes): the class of a row by this block is that of the largest score."""
        scores = F.linear(self.pool(here), self.matrix)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        labels = labels_of(batch, len(here), here.device)
        least, largest = (int(label) for label in labels.aminmax())
        if least < 0 or largest >= len(self.matrix):
            raise ValueError(
                f"The labels go from {least} to {largest}, but this loss has "
                f"{len(self.matrix)} classes, numbered from 0: give MonoForward as many classes as "
                "the labels have."
            )
        return F.cross_entropy(self.scores(here), labels)


@dataclass(frozen=True, kw_only=True)
class MonoForward:
    """Cross-entropy of the scores M_l P z_l in every block l, each with a matrix M_l of its own.

    Gong et al. 2025 (arXiv 2501.09238), who call the scores the goodness of the classes. The loss
    reads the labels of the batch, see `labels_of`. Its backpropagated counterpart is ordinary
    supervised learning with a linear classifier on the last block.

    Where M_l = M_L V_l, the local update is the backpropagated one, whatever the weights are: the
    scores are then the same in all blocks (as in statement 1 of the theory). Matrices that minimise
    the cross-entropy plus lam/2 ||M||_F^2 are such above an isometry (as in statement 2).

    Attributes:
        classes: the number of classes.
        pooling: the pooling P of each block, see `NetworkRule`; 1 reads the whole map.

    Raises:
        ValueError: fewer than 2 classes, or an unknown pooling.
        TypeError: a number of classes that is not whole.
    """

    classes: int
    pooling: Pooling = 1

    def __post_init__(self) -> None:
        inputs.keep(self, partial(inputs.whole, least=2), "classes")
        inputs.keep(self, checked_pooling, "pooling")

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One `ClassScores` for each block; entries of M are uniform on +-1/sqrt(features).

        Args:
            shapes: the shapes of the blocks' outputs, without the axis of samples.
            seed: seeds the matrices; the global random state stays as it is.
        """
        generator = torch.Generator().manual_seed(inputs.whole(seed, "seed", 0))
        shapes = shapes_of(shapes)
        losses = nn.ModuleList()
        for pool, shape in zip(pools(self.pooling, len(shapes)), shapes, strict=True):
            features = pool.features(shape)
            uniform = torch.rand(self.classes, features, generator=generator)
            losses.append(ClassScores(pool, (2.0 * uniform - 1.0) / features**0.5))
        return losses
