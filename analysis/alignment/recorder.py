"""Records local against global gradients along a training of one's own.

>>> recorder = AlignmentRecorder(model, blocks=["layer1", "layer2"], rule=rule, every=100)
>>> for images in loader:
...     with recorder.step():
...         loss = global_loss(model(images))
...         loss.backward()
...     optimizer.step()
>>> recorder.dataset().cosine.sel(layer=1)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import xarray as xr
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.alignment import series
from linlocal.analysis.alignment.batch import to_dataset
from linlocal.analysis.alignment.meter import Meter, RuleOrLosses
from linlocal.analysis.alignment.sums import Measurement
from linlocal.analysis.block import resolve
from linlocal.analysis.results import Provenance, ResultError

Cadence = int | Callable[[int], bool]


def log_spaced(per_decade: int) -> Callable[[int], bool]:
    """A cadence: step 0, and ``per_decade`` steps between n and 10 n, evenly in log(n).

    Raises:
        ValueError: fewer than one per decade.
    """
    inputs.whole(per_decade, "per_decade", 1)

    def due(step: int) -> bool:
        if step <= 1:
            return True
        return math.floor(per_decade * math.log10(step)) > math.floor(
            per_decade * math.log10(step - 1)
        )

    return due


class AlignmentRecorder:
    """Measures what `alignment.align` measures, in some steps of a training.

    A recorded step costs no forward pass: the block outputs are those of the training's own pass,
    the global gradient is that of its own ``loss.backward()``, and the local ones come from the
    same graph, so that dropout masks and batch statistics are the same. In the other steps nothing
    is hooked. ``.grad``, buffers and random state stay what they would be without a recorder.

    The forward pass must be one call of the network on both views stacked along the batch; several
    of them (gradient accumulation) add up, if `step` is told how many. What counts is what a
    backward pass adds to ``.grad``: gradients that somebody takes on the way do not. Over several
    processes (DDP) the averaged local gradient is compared with the averaged global one, and the
    first process writes.

    Args:
        model: the network; wrapped in DistributedDataParallel or by Fabric if it is trained so.
        blocks: as for `blocks`.
        rule: a `linlocal.Rule`, a `NetworkRule`, or your own with a method build; or its losses
            themselves (if they are trained); or several of these by name, recorded side by side.
        every: n for the steps 0, n, 2 n, ..., or a function of the step such as `log_spaced`.
        path: folder of the recorded series (`alignment.read` reads it at any time); None
            keeps it in memory. A series that is there is continued after its last step.
        flush_every: recorded steps between two writes; also between transfers from the device.
        against: "backward": the global gradient is that of the backward pass in the step. "rule":
            it is that of each rule's own loss on the last block, for one more backward each.
        view_parts: as for `alignment.Meter`; the error signals are always split.
        trains_rule: the training backpropagates exactly the rule's loss on the last block; its
            gradient there is then not computed twice. Checked at every write.

    Raises:
        ValueError: as `blocks`; or a cadence below 1.
        ResultError: ``path`` holds another series (when it is written).
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[str] | None = None,
        *,
        rule: RuleOrLosses | Mapping[str, RuleOrLosses],
        every: Cadence = 100,
        path: Path | str | None = None,
        flush_every: int = 10,
        against: Literal["backward", "rule"] = "backward",
        view_parts: bool = False,
        trains_rule: bool = False,
    ) -> None:
        if not callable(every):
            every = inputs.whole(every, "every", 1)
        inputs.whole(flush_every, "flush_every", 1)
        if against not in ("backward", "rule"):
            raise ValueError(f'against must be "backward" or "rule", got {against!r}.')
        self._model, self._every, self._flush_every = model, every, flush_every
        self._meter = Meter(
            resolve(model, blocks),
            rule,
            backward=against == "backward",
            view_parts=view_parts,
            trains_rule=trains_rule,
        )
        self._path = None if path is None else Path(path)
        self._waiting: list[tuple[int, Measurement]] = []
        self._kept: list[xr.Dataset] = []
        last = None if self._path is None else series.last_step(self._path)
        self._step = 0 if last is None else last + 1
        self._provenance: Provenance | None = None
        self._config = {
            "blocks": [block.name for block in self._meter.blocks],
            "rules": {name: repr(rule) for name, rule in self._meter.rules.items()},
            "every": every if isinstance(every, int) else "by a function",
            "against": against,
        }

    @contextmanager
    def step(
        self,
        *,
        weight: float = 1.0,
        scaler: torch.amp.GradScaler | None = None,
        batch: Any = None,
        micro_batches: int = 1,
    ) -> Iterator[bool]:
        """One step of the training: its forward and backward passes, all micro-batches of it.

        Args:
            weight: what the training multiplies its loss with (1/k for k micro-batches).
            scaler: the training's gradient scaler; norms are given without its factor.
            batch: what local losses that read labels are given, (inputs, labels).
            micro_batches: how many forward passes the step has, each of both views of other data.

        Yields:
            Whether this step is recorded.

        Raises:
            RuntimeError: no forward or backward pass of the network was inside a recorded step,
                more forward passes than were declared, or its blocks did not run once each in
                order.
        """
        step, self._step = self._step, self._step + 1
        due = step % self._every == 0 if isinstance(self._every, int) else self._every(step)
        if not due:
            yield False
            return

        def factor(value: Tensor) -> Tensor:
            return value if scaler is None else scaler.scale(value)

        watching = self._meter.watching(
            self._model, lambda value: factor(value * weight), factor, batch, micro_batches
        )
        with watching:
            yield True
        self._waiting.append((step, self._meter.finish()))
        if len(self._waiting) >= self._flush_every:
            self.flush()

    def flush(self) -> None:
        """Fetch what waits on the device, in one transfer, and write it."""
        if not self._waiting:
            return
        steps, sums = zip(*self._waiting, strict=True)
        self._waiting = []
        if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
            return
        stacked = Measurement(*(torch.stack(part) for part in zip(*sums, strict=True)))
        piece = to_dataset(self._meter, stacked)
        piece = piece.assign_coords(step=np.asarray(steps))
        top_error = piece.error_relative_error.isel(layer=-1).values
        # Both come from the same operations; the order of sums may differ, not more.
        if self._meter.trains_rule and (top_error > 1e-3).any():
            raise ValueError(
                f"trains_rule, but at the last block the backpropagated error differs from the "
                f"rule's by {top_error.max():.1e} of its size: the training has another loss, or a "
                "weight that step() was not told."
            )
        if self._path is None:
            self._kept.append(piece)
            return
        if self._provenance is None:
            self._provenance = Provenance.collect("alignment", "recorded", 0, self._config)
        series.append(self._path, piece, self._provenance)

    def dataset(self) -> xr.Dataset:
        """Everything recorded so far, as of `align`, over ``step``.

        Raises:
            ResultError: nothing was recorded, or not by this process.
        """
        self.flush()
        if self._path is not None:
            return series.read(self._path)
        if not self._kept:
            raise ResultError("No step was recorded (by this process) yet.")
        self._kept = [xr.concat(self._kept, "step")] if len(self._kept) > 1 else self._kept
        return self._kept[0]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the number of the next step. What waits is written first."""
        self.flush()
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the checkpoint was made; steps recorded after it are recorded anew.

        Raises:
            ValueError, TypeError: the state is not one of `state_dict`.
        """
        inputs.instance(state, Mapping, "state", "what `state_dict` gave")
        if "step" not in state:
            raise ValueError(f"The state of a recorder has a step, got {sorted(map(str, state))}.")
        self._step = inputs.whole(state["step"], "step", 0)
        self._waiting = []

    def __enter__(self) -> AlignmentRecorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()
