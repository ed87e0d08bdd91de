"""Projections that are matched to the backpropagated error, solved for before each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from linlocal.analysis.block import Block
from linlocal.analysis.local_losses import LocalLoss, ScoredPairs, match, match_forward
from linlocal.analysis.watching import (
    error_signal,
    errors_below,
    one_pass,
    pushed_forward,
    refuse_interaction,
    untouched,
)


class Matching:
    """The losses of a network that are matched to the backpropagated error.

    Attributes:
        losses: those whose projections are solved for.

    Args:
        model: the network.
        blocks: its blocks.
        judges: the local loss of each block.
        autocast: encloses passes.

    Raises:
        ValueError: another kind of loss needs the backpropagated error.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        judges: Sequence[LocalLoss],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model, self._blocks, self._judges = model, blocks, judges
        self._autocast = autocast
        needing = [loss for loss in judges if loss.needs_global_error]
        concerned = [*needing, judges[-1]] if needing else []
        if not all(isinstance(loss, ScoredPairs) for loss in concerned):
            names = ", ".join(dict.fromkeys(loss.title for loss in concerned))
            raise ValueError(
                f"{names}: a loss here needs the backpropagated error, which local training gives "
                "to losses of scored pairs alone, with one of the last block as the global loss: "
                "train its parameters with the loss instead."
            )
        self.losses = [loss for loss in needing if isinstance(loss, ScoredPairs)]
        asked = [loss.matching for loss in self.losses if loss.matching is not None]
        self._forward = all(how.tangents is not None for how in asked)

    def solve(self, views: Tensor, batch: Any, *, first: bool) -> None:
        """Set the projections.

        Args:
            views: the batch of the step that follows.
            batch: what the losses get beside it.
            first: whether no step was taken yet, so that modules may still make their weights.
        """
        outputs: list[Tensor] = []

        def keep(position: int, z: Tensor) -> Tensor:
            outputs.append(z)
            return z.clone()  # what follows may work on it in place

        def run() -> None:
            # Random numbers and statistics as they will be in the step itself.
            as_before = untouched(self._model, weights=first, records=False)
            with as_before, self._autocast():
                self._model(views)

        with torch.set_grad_enabled(not self._forward), one_pass(self._blocks, keep):
            run()
        top = outputs[-1].detach()
        with self._autocast():
            # A tensor, as the top is one.
            error = cast(
                Tensor, error_signal(self._judges[-1], top, top, lambda value: value, batch)
            )
        if not self._forward:
            match(self._judges, outputs, errors_below(outputs, error))
            return
        if first:
            refuse_interaction(self._blocks, run, 0, outputs[0])

        def product(position: int, tangent: Tensor) -> Tensor:
            moved = pushed_forward(self._blocks, run, position, tangent)
            wide = torch.promote_types(moved.dtype, torch.float32)
            return (moved.to(wide) * error.to(wide)).flatten(1).sum(1)

        match_forward(self._judges, outputs, product)
