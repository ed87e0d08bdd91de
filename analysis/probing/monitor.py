"""Shows what a long training does to the representation of each block, in your own loop or in fit.

>>> monitor = Monitor(model, every=100, labels=True)
>>> for step, (images, labels) in enumerate(loader):
...     with monitor.step(step, batch=(images, labels)):
...         loss = global_loss(model(images))
...         loss.backward()
...     optimizer.step()
>>> monitor.dataset().effective_rank.sel(layer=1)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import xarray as xr
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.alignment import Cadence, loggers, series
from linlocal.analysis.block import resolve
from linlocal.analysis.local_losses import labels_of
from linlocal.analysis.probing.collapse import KINDS, Alarm, CollapseError, Condition, Limits
from linlocal.analysis.probing.features import pooled
from linlocal.analysis.probing.representations import (
    QUANTILES,
    effective_rank,
    linear_cka,
    pair_cosines,
    quantiles,
)
from linlocal.analysis.probing.while_training import Bank, RunningProbe, knn_accuracy
from linlocal.analysis.results import Provenance, ResultError
from linlocal.analysis.training import told
from linlocal.analysis.watching import overlook
from linlocal.inputs import warn
from linlocal.vocabulary import described

_DEAD = 10  # units of rounding by which the values of a dead unit may differ


class Monitor:
    """Measures the representation of every block, in some steps of a training.

    It reads the outputs of the blocks in the training's own forward pass, and changes nothing:
    weights, gradients, buffers and random states are those of a training without it, bit for bit.
    Between the steps that are due nothing is hooked. Passes without gradients do not count. Of
    several passes with gradients in a step (gradient accumulation) the first counts, of separate
    views the first two. With several processes the first one measures its own rows.

    A *feature* is what `probe_blocks` reads: a map is averaged over its places, a sequence over its
    tokens. For each step and layer the Dataset holds

    - ``scale``: the root mean square of all activities;
    - ``spread``, ``offset``: of the features, the root of the mean variance over samples, and the
      share of their mean in their square;
    - ``effective_rank``: `representations.effective_rank` of the features less their mean. It is at
      most the number of samples less 1, so compare it at equal ``max_rows``;
    - ``dead_units``: the share of units that give one value for all samples and places;
    - ``cka``: unbiased `representations.linear_cka` with the block below, undefined in layer 1;
    - ``collapse`` over ``kind``: whether the block has collapsed, and how, see `collapse.Limits`;
    - with ``views``, ``pair_cosine`` over ``pair`` ("positive", "negative") and ``quantile``:
      `representations.pair_cosines` of the features;
    - with ``labels``, ``knn_accuracy`` and ``probe_accuracy``: `while_training.knn_accuracy` and
      `while_training.RunningProbe`, asked about the features of the step before they learn from
      them, and undefined at the first look. They know what they saw in earlier looks only.

    A collapse is told once per block and kind, with the step at which all was well.

    Args:
        model: the network, inside DistributedDataParallel or Fabric's wrapper if it is trained so.
        blocks: the names of its blocks, as for `linlocal.analysis.blocks`.
        every: n to look at the steps 0, n, 2 n, ..., or a function of the step such as
            `log_spaced`.
        path: the folder of the series, which `alignment.series.read` reads at any time; None keeps
            it in memory. A series that exists is continued after its last step.
        views: whether both views of the data run in one forward pass, "stacked" along the batch, or
            in a pass each, "separate"; None for a training without views.
        labels: whether the batches have labels, from which accuracies are measured.
        max_rows: how many samples are read in a step, of each view: the first ones.
        bank: how many labelled features the nearest neighbours are taken from.
        neighbours: as for `while_training.knn_accuracy`.
        ridge: as for `while_training.RunningProbe`.
        decay: as for `while_training.RunningProbe`; a call of learn is a look.
        limits: what counts as a collapse.
        stop: whether a collapse raises a `CollapseError`, at the end of the step, instead of a
            warning. For one process.
        flush_every: how many looks lie between two writes.
        log: called with the numbers of each look by name, ``log(numbers, step=step)``, see
            `alignment.loggers.tell`; each look is then written at once.

    Raises:
        ValueError: as `linlocal.analysis.blocks`, or a number is too small.
        TypeError: a number, a word or a limit is none.
        ResultError: ``path`` holds a series that was recorded in another way.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[str] | None = None,
        *,
        every: Cadence = 100,
        path: Path | str | None = None,
        views: Literal["stacked", "separate"] | None = None,
        labels: bool = False,
        max_rows: int = 512,
        bank: int = 4096,
        neighbours: int = 20,
        ridge: float = 0.01,
        decay: float = 0.9,
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        stop: bool = False,
        flush_every: int = 10,
        log: loggers.Log | None = None,
    ) -> None:
        if views not in ("stacked", "separate", None):
            raise ValueError(f'views must be "stacked", "separate" or None, got {views!r}.')
        inputs.instance(limits, Limits, "limits", "probing.Limits(...)")
        self._every = every if callable(every) else inputs.whole(every, "every", 1)
        self._model, self._blocks = model, resolve(model, blocks)
        self._views, self._labels = views, inputs.flag(labels, "labels")
        self._max_rows = inputs.whole(max_rows, "max_rows", 4)
        self._neighbours = inputs.whole(neighbours, "neighbours", 1)
        self._stop = inputs.flag(stop, "stop")
        loggers.checked(log)
        self._log = log
        inputs.whole(flush_every, "flush_every", 1)
        self._flush_every = 1 if log is not None else flush_every
        rows = inputs.whole(bank, "bank", 1)
        self._banks = [Bank(rows) for _ in self._blocks]
        self._probes = [RunningProbe(ridge, decay) for _ in self._blocks]
        self._alarm = Alarm(limits)
        self._well: int | None = None
        self._path = None if path is None else inputs.path(path, "path")
        self._waiting: list[xr.Dataset] = []
        self._kept: list[xr.Dataset] = []
        self._next = 0
        config = {
            "blocks": [block.name for block in self._blocks],
            "every": every if isinstance(every, int) else told(every),
            "views": views,
            "labels": labels,
            "max_rows": max_rows,
            "bank": bank,
            "neighbours": neighbours,
            "ridge": ridge,
            "decay": decay,
            "limits": asdict(limits),
        }
        if self._path is not None:
            self._provenance = Provenance.collect("monitor", "recorded", 0, config)
            if series.last_step(self._path, self._provenance) is not None:
                self._go_on(series.read(self._path))

    @contextmanager
    def step(self, number: int | None = None, batch: Any = None) -> Iterator[bool]:
        """Enclose a step of the training. ``trainer.fit(..., around=monitor.step)`` does it too.

        Args:
            number: the number of the step; None counts the calls.
            batch: (inputs, labels), as for `local_losses.labels_of`, where labels are read.

        Yields:
            Whether this step is looked at.

        Raises:
            RuntimeError: a step that is due enclosed no forward pass of the network with gradients,
                or only one of separate views; or its blocks did not run once each in order.
            ValueError: the batch has no labels, views are of different length or none, or an output
                has no samples and channels.
            CollapseError: a block has collapsed, and ``stop`` was asked for.
        """
        number = self._next if number is None else inputs.whole(number, "number", 0)
        self._next = number + 1
        due = number % self._every == 0 if isinstance(self._every, int) else self._every(number)
        if not due or _rank() != 0:
            yield due
            return
        parts = 2 if self._views == "separate" else 1
        passes: list[list[_Seen]] = []
        current: list[_Seen] = []

        def on_block(position: int, z: Tensor) -> None:
            if len(passes) < parts:
                current.append(self._seen(position, z))

        def on_end() -> None:
            if len(passes) < parts:
                passes.append([*current])
                current.clear()

        with overlook(self._model, self._blocks, on_block, on_end):
            yield True
        if len(passes) < parts:
            raise RuntimeError(
                f"Step {number} of a Monitor enclosed {len(passes)} forward passes of the network "
                f"with gradients, expected {parts}: put the forward pass inside of `with "
                "monitor.step()`, and say by views how the views run."
            )
        with torch.no_grad():
            self._look(number, passes, batch)

    def flush(self) -> None:
        """Write the looks that wait."""
        if not self._waiting:
            return
        piece = xr.concat(self._waiting, "step") if len(self._waiting) > 1 else self._waiting[0]
        if self._path is None:
            self._kept.append(piece)
        else:
            series.append(self._path, piece, self._provenance)
        self._waiting = []
        if self._log is not None:
            loggers.tell(self._log, piece)

    def dataset(self) -> xr.Dataset:
        """Everything seen so far, over ``step`` and ``layer``.

        Raises:
            ResultError: there was no look yet, or not by this process.
        """
        self.flush()
        if self._path is not None:
            return series.read(self._path)
        if not self._kept:
            raise ResultError("No step was looked at (by this process) yet.")
        self._kept = [xr.concat(self._kept, "step")] if len(self._kept) > 1 else self._kept
        return self._kept[0]

    def state_dict(self) -> dict[str, Any]:
        """The next step, the first look and what the classifiers know, for a checkpoint."""
        self.flush()
        return {
            "step": self._next,
            "well": self._well,
            "first": {layer: asdict(first) for layer, first in self._alarm.first.items()},
            "banks": [bank.state_dict() for bank in self._banks],
            "probes": [probe.state_dict() for probe in self._probes],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the checkpoint was made; later steps are looked at again.

        Raises:
            ValueError, TypeError: the state is not one of `state_dict`, or of other blocks.
        """
        inputs.instance(state, Mapping, "state", "what `state_dict` gave")
        lacking = {"step", "well", "first", "banks", "probes"} - state.keys()
        if lacking or len(state["banks"]) != len(self._blocks):
            raise ValueError(
                f"This is no state of a Monitor of {len(self._blocks)} blocks: it has "
                f"{sorted(map(str, state))}."
            )
        self._next, self._well = inputs.whole(state["step"], "step", 0), state["well"]
        self._alarm.first = {l: Condition(**first) for l, first in state["first"].items()}
        for bank, kept in zip(self._banks, state["banks"], strict=True):
            bank.load_state_dict(kept)
        for probe, kept in zip(self._probes, state["probes"], strict=True):
            probe.load_state_dict(kept)
        both = (
            [piece.isel(step=piece.step.values < self._next) for piece in pieces]
            for pieces in (self._kept, self._waiting)
        )
        self._kept, self._waiting = ([p for p in pieces if p.sizes["step"]] for pieces in both)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()

    def _go_on(self, before: xr.Dataset) -> None:
        """Compare with the first look of the series, after its last step."""
        first = before.isel(step=0)
        names = Condition.__dataclass_fields__
        for layer in range(1, len(self._blocks) + 1):
            values = {name: float(first[name].sel(layer=layer)) for name in names}
            if math.isfinite(values["scale"]):
                self._alarm.first[layer] = Condition(**values)
        self._next = int(before.step[-1]) + 1
        fine = before.step[~before.collapse.any(["layer", "kind"])]
        self._well = int(fine[-1]) if len(fine) else None

    def _seen(self, position: int, z: Tensor) -> _Seen:
        name = self._blocks[position].name
        if self._views == "stacked" and (len(z) % 2 or len(z) < 4):
            raise ValueError(
                f"Block {name!r} gave {len(z)} rows, which are not both views of at least 2 "
                "samples, stacked: say views=None for a training without views."
            )
        parts = z.chunk(2) if self._views == "stacked" else (z,)
        features = torch.cat([pooled(part[: self._max_rows], 1, name) for part in parts])
        channel = 2 if z.ndim == 3 else 1
        others = [axis for axis in range(z.ndim) if axis != channel]
        wide = torch.promote_types(z.dtype, torch.float32)
        size = torch.linalg.vector_norm(z, dtype=wide).double() / math.sqrt(z.numel())
        return _Seen(len(z), features.double(), z.amax(others), z.amin(others), size)

    def _look(self, number: int, passes: list[list[_Seen]], batch: Any) -> None:
        seen = [_joined(layers) for layers in zip(*passes, strict=True)]
        columns: dict[str, list[Any]] = {name: [] for name in Condition.__dataclass_fields__}
        columns |= {"cka": [], "collapse": []}
        columns |= {"pair_cosine": []} if self._views else {}
        columns |= {"knn_accuracy": [], "probe_accuracy": []} if self._labels else {}
        told_now: list[str] = []
        labels = self._labels_of(batch, seen[0]) if self._labels else None
        for position, here in enumerate(seen):
            layer = position + 1
            condition = here.condition()
            finite = math.isfinite(condition.scale)
            for name, value in asdict(condition).items():
                columns[name].append(value)
            below = seen[position - 1] if position else None
            columns["cka"].append(_cka(below, here))
            why = self._alarm.judge(layer, condition)
            columns["collapse"].append([kind in why for kind in KINDS])
            name = self._blocks[position].name
            told_now.append(self._alarm.news(layer, name, number, why, self._well))
            if self._views:
                pair = here.features.chunk(2)
                columns["pair_cosine"].append([quantiles(c) for c in pair_cosines(*pair)])
            if labels is not None:
                accuracies = self._accuracies(position, here.features, labels, finite)
                for key, accuracy in zip(
                    ("knn_accuracy", "probe_accuracy"), accuracies, strict=True
                ):
                    columns[key].append(accuracy)
        self._keep(number, columns)
        if not any(map(any, columns["collapse"])):
            self._well = number
        message = " ".join(filter(None, told_now))
        if message and self._stop:
            self.flush()
            raise CollapseError(message)
        if message:
            warn(message)

    def _accuracies(
        self, position: int, features: Tensor, labels: Tensor, finite: bool
    ) -> tuple[float, float]:
        bank, probe = self._banks[position], self._probes[position]
        labels = labels.to(features.device)
        if not finite:
            return math.nan, math.nan
        nearest = math.nan
        if len(bank):
            known = bank.features, bank.labels
            nearest = knn_accuracy(*known, features, labels, neighbours=self._neighbours)
        found = nearest, probe.accuracy(features, labels)
        bank.add(features, labels)
        probe.learn(features, labels)
        return found

    def _labels_of(self, batch: Any, seen: _Seen) -> Tensor:
        """The labels of the rows that were read."""
        labels = labels_of(batch, seen.rows, seen.features.device)
        parts = labels.chunk(2) if self._views else (labels,)
        return torch.cat([part[: self._max_rows] for part in parts])

    def _keep(self, number: int, columns: Mapping[str, list[Any]]) -> None:
        inner = {"collapse": ("kind",), "pair_cosine": ("pair", "quantile")}
        coordinates: dict[str, Any] = {
            "step": [number],
            "layer": range(1, len(self._blocks) + 1),
            "name": ("layer", [block.name for block in self._blocks]),
            "kind": [*KINDS],
        }
        if self._views:
            coordinates |= {"pair": ["positive", "negative"], "quantile": [*QUANTILES]}
        piece = described(
            xr.Dataset(
                {
                    name: (("step", "layer", *inner.get(name, ())), [values])
                    for name, values in columns.items()
                },
                coordinates,
            ),
            "monitor",
        )
        self._waiting.append(piece)
        if len(self._waiting) >= self._flush_every:
            self.flush()


@dataclass(frozen=True)
class _Seen:
    """What is kept of the output of a block.

    Attributes:
        rows: the number of its rows.
        features: (samples, features) of those that are read; of two views one below the other.
        high: the largest value of each unit.
        low: its smallest value.
        size: the root mean square of all values.
    """

    rows: int
    features: Tensor
    high: Tensor
    low: Tensor
    size: Tensor

    def condition(self) -> Condition:
        nan = math.nan
        scale = float(self.size)
        if not (math.isfinite(scale) and bool(self.features.isfinite().all())):
            return Condition(nan, nan, nan, nan, nan)
        mean = self.features.mean(0)
        centred = self.features - mean
        square, variance = float(mean.square().mean()), float(centred.square().mean())
        largest = torch.maximum(self.high.abs(), self.low.abs())
        rounding = _DEAD * torch.finfo(self.high.dtype).eps * largest
        dead = float((self.high - self.low <= rounding).double().mean())
        offset = square / (square + variance) if square + variance > 0 else 1.0
        return Condition(scale, offset, math.sqrt(variance), effective_rank(centred), dead)


def _joined(parts: tuple[_Seen, ...]) -> _Seen:
    """One view below the other."""
    if len({part.rows for part in parts}) > 1:
        raise ValueError(
            f"Both views must have the same rows, got {' and '.join(str(p.rows) for p in parts)}: "
            "the first two forward passes with gradients in a step are taken for them."
        )
    return _Seen(
        sum(part.rows for part in parts),
        torch.cat([part.features for part in parts]),
        torch.stack([part.high for part in parts]).amax(0),
        torch.stack([part.low for part in parts]).amin(0),
        torch.stack([part.size for part in parts]).square().mean().sqrt(),
    )


def _cka(below: _Seen | None, here: _Seen) -> float:
    if below is None or len(here.features) < 4:
        return math.nan
    both = below.features.to(here.features.device), here.features
    if not all(bool(z.isfinite().all()) for z in both):
        return math.nan
    return linear_cka(*both, unbiased=True)


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
