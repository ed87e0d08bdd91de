"""A long blockwise or end-to-end training: resumed by itself, recorded, logged, probed at its end.

What it leaves in its folder:

    settings.json   settings of the run; a run with others is refused in this folder
    checkpoints/    the newest two, see `linlocal.analysis.training`
    alignment/      cosines of the local and the end-to-end gradient, a recorded series
    log.jsonl       losses and throughput
    pretrain.nc     accuracy of a linear probe of every block, losses, cosines
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import xarray as xr
from torch import Tensor

from experiments.data import NUM_CHANNELS, Origin, Request, open_stream
from experiments.pretrain.journal import Clock, Journal
from experiments.pretrain.settings import Settings, Synchronised, network_of, rule_of, synchronised
from experiments.training import LARSSchedule
from linlocal.analysis import results
from linlocal.analysis.alignment import AlignmentRecorder, series
from linlocal.analysis.local_losses import LocalRule
from linlocal.analysis.probing import probe_blocks
from linlocal.analysis.random_states import drawing
from linlocal.analysis.results import Provenance, ResultError
from linlocal.analysis.training import Checkpoints, GlobalTrainer, LocalTrainer
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
        rule: LocalRule = rule_of(settings, self.stream.num_classes, fabric.world_size > 1)
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

    def train(self, folder: Path) -> None:
        """Train to the end, from the newest checkpoint on where there is one.

        Args:
            folder: folder of the run.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        recorder = self.recorder(folder / "alignment")
        watched = _Watched(self, recorder, Journal(folder / "log.jsonl"))
        self.trainer.log = watched.log
        self.trainer.fit(
            watched,
            math.ceil(self.steps / self.stream.length),
            checkpoints=Checkpoints(folder / "checkpoints"),
            every=self.settings.checkpoint_every,
        )

    def finish(self, folder: Path, provenance: Provenance) -> xr.Dataset:
        """Probe every block and write the result of the run; for the first process.

        Args:
            folder: folder of the run.
            provenance: provenance of the run.

        Returns:
            ``accuracy`` over ``block``, ``loss`` over ``logged`` and ``layer``, ``cosine`` over
            ``step`` and ``layer`` where it was recorded, and from the last line of the log
            ``images_per_s``, ``waiting`` and ``skipped`` (which counts the probe's, too).
        """
        stream, settings = self.stream, self.settings
        skipped = stream.skipped()
        probed = probe_blocks(
            self.trainer.model,
            self.blocks,
            stream.probe(settings.probe),
            stream.test(),
            seed=settings.seed,
        )
        journal = Journal(folder / "log.jsonl").dataset(len(self.blocks))
        journal["skipped"] += stream.skipped() - skipped
        data = probed.merge(journal).assign_coords(chance=1 / stream.num_classes)
        if (folder / "alignment").exists():
            recorded = series.read(folder / "alignment")
            data = data.merge(recorded[["cosine"]].reset_coords(drop=True))
        results.write(data, folder / "pretrain.nc", provenance)
        return data


class _Watched:
    """The training batches; around each, what the run records and measures."""

    def __init__(
        self, run: Pretraining, recorder: AlignmentRecorder | None, journal: Journal
    ) -> None:
        self.run, self.recorder, self.journal = run, recorder, journal
        self.clock: Clock | None = None
        self.skipped_before = 0

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
        settings, last = self.run.settings, step == self.run.steps
        # Before the checkpoint of this step: what waits would be missing after a resume.
        if self.recorder is not None and (last or step % settings.checkpoint_every == 0):
            self.recorder.flush()
        if self.clock and (last or step % settings.log_every == 0):
            skipped = torch.tensor(self.run.stream.skipped(), device=self.run.fabric.device)
            together = self.run.fabric.all_reduce(skipped, reduce_op="sum")
            total = self.skipped_before + int(cast(Tensor, together))
            entry = {"step": step, **values, **self.clock.read(), "skipped": total}
            if self.run.fabric.is_global_zero:
                self.journal.append(entry)

    def _resumed(self, step: int) -> Clock:
        if self.run.fabric.is_global_zero:
            self.skipped_before = self.journal.resume(step)
        if self.recorder is not None:
            self.recorder.load_state_dict({"step": step})
        return Clock(self.run.settings.batch, self.run.stream.prefetches)


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
    return Provenance.collect("pretrain", preset, settings.seed, asdict(settings), __name__)
