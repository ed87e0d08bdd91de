"""A long blockwise or end-to-end training: resumed by itself, recorded, logged, probed at its end.

What it leaves in its folder:

    settings.json   settings of the run; a run with others is refused in this folder
    checkpoints/    the newest two, with the versions of the code that trained up to there
    alignment/      cosines of the local and the end-to-end gradient, a recorded series
    log.jsonl       losses and throughput
    pretrain.nc     accuracy of a linear probe of every block, losses, cosines
    .lock           locked while a process trains here

Settings and log carry checksums. docs/promises.md says what kills, full disks and damaged files do.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import xarray as xr
from torch import Tensor

from experiments.data import NUM_CHANNELS, Origin, Request, open_stream
from experiments.pretrain.journal import Clock, Journal, met
from experiments.pretrain.settings import (
    EXPERIMENT,
    Settings,
    Synchronised,
    network_of,
    rule_of,
    synchronised,
)
from experiments.training import LARSSchedule
from linlocal.analysis import results
from linlocal.analysis.alignment import AlignmentRecorder, series
from linlocal.analysis.local_losses import LocalRule
from linlocal.analysis.probing import probe_blocks
from linlocal.analysis.random_states import drawing
from linlocal.analysis.results import Provenance, ResultError
from linlocal.analysis.training import (
    CheckpointError,
    Checkpoints,
    GlobalTrainer,
    LocalTrainer,
)
from linlocal.analysis.watching import untouched

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# So that random images hardly ever lack a class: C exp(-20) in C classes of equal size.
_PER_CLASS = 20


class Pretraining:
    """One process of a run, ready to train.

    Args:
        settings: settings of the run.
        fabric: a Fabric that has been launched.
        workers: number of processes that read images, for each that trains.

    Raises:
        DataError: files that are missing, or numbers that do not go together.
        ResultError: the network cannot be built.
    """

    def __init__(self, settings: Settings, fabric: Fabric, workers: int = 0) -> None:
        self.settings, self.fabric, self.workers = settings, fabric, workers
        self.stream = open_stream(
            Origin.parse(settings.data),
            Request(
                size=settings.size,
                batch=settings.batch,
                seed=settings.seed,
                workers=workers,
                rank=fabric.global_rank,
                world_size=fabric.world_size,
                device=fabric.device,
                levels=settings.levels,
                images=settings.images,
                test=settings.test,
            ),
        )
        if settings.probe < min(_PER_CLASS * self.stream.num_classes, self.stream.images):
            raise ResultError(
                f"A probe fitted on {settings.probe} images may lack some of the "
                f"{self.stream.num_classes} classes: it needs {_PER_CLASS} for each class."
            )
        self.steps = settings.steps or settings.epochs * self.stream.length
        rule: LocalRule = rule_of(settings, self.stream.num_classes)
        try:
            network = network_of(settings)
        except (ImportError, ValueError) as error:
            raise ResultError(str(error)) from error
        # Torch synchronises batch normalisation on GPUs only.
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            network, rule = synchronised(network), Synchronised(rule)
        self.blocks = [name for name, _ in network.named_children()]
        schedule = LARSSchedule(self.steps, settings.learning_rate * settings.batch / 256)
        kind = LocalTrainer if settings.order == "simultaneous" else GlobalTrainer
        self.trainer = kind(
            network,
            self.blocks,
            rule,
            shape=(NUM_CHANNELS, settings.size, settings.size),
            augment=self.stream.augment,
            fabric=fabric,
            seed=settings.seed,
            **schedule.options,
        )

    def recorder(self, folder: Path | None) -> AlignmentRecorder | None:
        """The recorder of the cosines of this run; None where there are none to record."""
        cadence = self.settings.cadence()
        if cadence is None:
            return None
        return AlignmentRecorder(
            self.trainer.model,
            self.blocks,
            rule=self.trainer.losses,
            every=cadence,
            path=folder,
            against="rule",
        )

    def record(self, recorder: AlignmentRecorder, batch: Sequence[Tensor]) -> bool:
        """Measure, in a pass of its own, the gradients of the step that comes next, if it is due.

        Local training cuts the graph between blocks, so the end-to-end gradient needs another
        pass. It sees the views and the noise of the step, and changes nothing.

        Returns:
            Whether a measurement was due.
        """
        trainer, fabric = self.trainer, self.fabric
        key = (trainer.seed, fabric.global_rank, trainer.steps)
        with recorder.step(batch=batch) as due:
            if due:
                inputs = fabric.to_device(batch[0])
                with (
                    untouched(trainer.model, trainer.losses),
                    drawing(fabric.device, *key),
                    fabric.autocast(),
                ):
                    trainer.model(trainer.augment(inputs) if trainer.augment else inputs)
        return due

    def resume(self, folder: Path, code: str) -> dict[str, str]:
        """Go to the newest checkpoint, if there is one.

        Args:
            folder: folder of the run.
            code: version of the present code.

        Returns:
            The versions of the code that trained and will train, each under the step after which it
            did; the last is ``code``.

        Raises:
            CheckpointError: there are checkpoints, but training cannot go on from the newest.
        """
        state = _checkpoints(folder).load()
        codes: dict[str, str] = {}
        if state is not None:
            try:
                self.trainer.load_state_dict(state)
                told = state.get("about", {"code": {"0": "unknown"}})["code"]
                codes = {str(int(k)): str(v) for k, v in told.items()}
            except torch.OutOfMemoryError:
                raise
            # What a foreign or an empty state raises depends on what it lacks.
            except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
                raise CheckpointError(
                    f"Training cannot go on from the newest checkpoint of {folder}: {error}"
                ) from error
        # A checkpoint before the newest may count, where that one is damaged.
        codes = {k: v for k, v in codes.items() if int(k) < self.trainer.steps}
        if [*codes.values()][-1:] != [code]:
            codes[str(self.trainer.steps)] = code
        return codes

    def train(self, folder: Path, codes: Mapping[str, str]) -> None:
        """Train to the end, from the newest checkpoint on where there is one.

        Args:
            folder: folder of the run.
            codes: what `resume` returned, for the checkpoints.

        Raises:
            FloatingPointError: a loss is not finite.
            ResultError, CheckpointError: something cannot be written.
        """
        recorder = self.recorder(folder / "alignment")
        watched = _Watched(self, recorder, Journal(folder / "log.jsonl"))
        self.trainer.log = watched.log
        self.trainer.fit(
            watched,
            math.ceil(self.steps / self.stream.length),
            checkpoints=_checkpoints(folder, {"code": dict(codes)}),
            every=self.settings.checkpoint_every,
        )

    def finish(self, folder: Path, provenance: Provenance, codes: Mapping[str, str]) -> xr.Dataset:
        """Probe every block and write the result of the run; for the first process.

        What the log or the series has lost is missing in the result, with a warning.

        Args:
            folder: folder of the run.
            provenance: provenance of the run.
            codes: what `resume` returned; of several, the result names all as its code, and has
                them with their steps in the attribute ``code_from_step``.

        Returns:
            ``accuracy`` over ``block``, ``loss`` over ``logged`` and ``layer``, ``cosine`` over
            ``step`` and ``layer`` where it was recorded, ``images_per_s`` and ``waiting`` from the
            last line of the log, and ``skipped``, the number of damaged images that training and
            probe have met.
        """
        stream, settings = self.stream, self.settings
        probed = probe_blocks(
            self.trainer.model,
            self.blocks,
            stream.probe(settings.probe),
            stream.test(),
            seed=settings.seed,
        )
        journal = Journal(folder / "log.jsonl")
        data = probed.merge(journal.dataset(len(self.blocks), self._logged()))
        damaged = met(journal.entries()) | stream.damaged()
        data = data.assign(skipped=len(damaged)).assign_coords(chance=1 / stream.num_classes)
        if settings.cadence() is not None:
            if series.last_step(folder / "alignment") is None:
                warnings.warn(
                    f"{folder / 'alignment'} has lost all records: the result has no cosines.",
                    stacklevel=2,
                )
            else:
                recorded = series.read(folder / "alignment")
                data = data.merge(recorded[["cosine"]].reset_coords(drop=True))
        data.attrs["code_from_step"] = json.dumps(codes)
        results.write(data, folder / "pretrain.nc", _by(provenance, codes))
        return data

    def is_logged(self, step: int) -> bool:
        """Whether a step is one of the log."""
        return step == self.steps or step % self.settings.log_every == 0

    def _logged(self) -> list[int]:
        return [step for step in range(1, self.steps + 1) if self.is_logged(step)]


class _Watched:
    """The training batches; around each, what the run records and measures."""

    def __init__(
        self, run: Pretraining, recorder: AlignmentRecorder | None, journal: Journal
    ) -> None:
        self.run, self.recorder, self.journal = run, recorder, journal
        self.clock: Clock | None = None
        self.damaged: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return "the stream of the run"  # which its settings describe

    def __len__(self) -> int:
        """The number of batches in this epoch; the last epoch may be shorter."""
        run = self.run
        return min(run.stream.length, run.steps - run.trainer.epoch * run.stream.length)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        run = self.run
        clock = self.clock = self.clock or self._resumed(run.trainer.steps)
        left = run.steps - epoch * run.stream.length - start
        batches = iter(run.stream.train.batches(epoch, start))
        for _ in range(min(left, run.stream.length - start)):
            with clock.waiting():
                batch = next(batches)
            if self.recorder is not None:
                run.record(self.recorder, batch)
            yield batch

    def log(self, step: int, values: Mapping[str, float]) -> None:
        run, last = self.run, step == self.run.steps
        # Before the checkpoint of this step: what waits would be missing after a resume.
        if self.recorder is not None and (last or step % run.settings.checkpoint_every == 0):
            self.recorder.flush()
        if self.clock and run.is_logged(step):
            damaged = self.damaged | _of_all(run.stream.damaged())
            new, self.damaged = sorted(damaged - self.damaged), damaged
            entry = {"step": step, **values, **self.clock.read(), "skipped": len(damaged)}
            if run.fabric.is_global_zero:
                self.journal.append({**entry, "damaged": new} if new else entry)

    def _resumed(self, step: int) -> Clock:
        if self.run.fabric.is_global_zero:
            self.damaged = self.journal.resume(step)
        if self.recorder is not None:
            self.recorder.load_state_dict({"step": step})
        return Clock(self.run.settings.batch, self.run.stream.prefetches)


def _of_all(names: frozenset[str]) -> frozenset[str]:
    """The names that any process has."""
    if not dist.is_initialized():
        return names
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, sorted(names))
    return frozenset().union(*found)


def _checkpoints(folder: Path, about: Mapping[str, Any] | None = None) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", about=about)


def _by(provenance: Provenance, codes: Mapping[str, str]) -> Provenance:
    """Of several codes none is that of the result: it is up to date with none of them."""
    versions = [*dict.fromkeys(codes.values())]
    return provenance if len(versions) == 1 else replace(provenance, code="+".join(versions))


def make_fabric(precision: str, strategy: str = "auto") -> Fabric:
    """A launched Fabric with the devices and processes that torchrun asks for, or with one.

    Args:
        precision: a precision that Fabric knows.
        strategy: "ddp", or "auto", which means "ddp" where there are several processes.

    Raises:
        ResultError: torchrun would restart processes, and shares its store with them.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0:
        raise ResultError(
            "torchrun keeps the addresses of killed processes, which restarted ones then try to "
            "reach (issue 135712 of PyTorch): set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for it, or "
            "leave out --max-restarts."
        )
    from lightning_fabric import Fabric

    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    chosen: Any = {"auto": "ddp" if world > 1 else "auto"}.get(strategy, strategy)
    exact: Any = precision
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=local,
        num_nodes=world // local,
        strategy=chosen,
        precision=exact,
    )
    fabric.launch()
    return fabric


def provenance_of(settings: Settings, preset: str) -> Provenance:
    """The provenance of the result of a run."""
    return Provenance.collect(EXPERIMENT, preset, settings.seed, asdict(settings), __name__)
