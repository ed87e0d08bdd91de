"""What a long run will need, measured in a few of its steps, before it starts."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from experiments.pretrain.journal import bottleneck
from experiments.pretrain.loop import Pretraining
from linlocal.analysis.training import peak_bytes

STEPS = 3
# The newest two and the one that is being written.
_CHECKPOINTS = 3
_GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """What a whole run takes, estimated from its first steps.

    Attributes:
        steps: number of steps of the run.
        images: number of training images.
        test_images: number of test images.
        num_classes: number of classes.
        read: number of images that were read for the estimate.
        skipped: number of damaged images among those read.
        loader: images per second of the loader alone, all processes together.
        step: images per second of the steps alone.
        prefetches: whether loader and steps run at the same time.
        record_s: seconds that it takes to record the cosines once; 0 where nothing is recorded.
        records: how often the cosines are recorded.
        batch: images in a step.
        held_gib: memory of weights, gradients and optimiser.
        step_gib: peak memory of a step on top of that.
        record_gib: peak memory of recording on top of that.
        checkpoint_gib: size of one checkpoint on the disk.
        free_gib: free space where the run is to be stored.
    """

    steps: int
    images: int
    test_images: int
    num_classes: int
    read: int
    skipped: int
    loader: float
    step: float
    prefetches: bool
    record_s: float
    records: int
    batch: int
    held_gib: float
    step_gib: float
    record_gib: float
    checkpoint_gib: float
    free_gib: float

    @property
    def images_per_s(self) -> float:
        """min(loader, step) if both run at once, 1 / (1/loader + 1/step) if they take turns."""
        times = 1 / self.loader, 1 / self.step
        return 1 / (max(times) if self.prefetches else sum(times))

    @property
    def hours(self) -> float:
        """(steps batch / images_per_s + records record_s) / 3600; checkpoints not counted."""
        training = self.steps * self.batch / self.images_per_s
        return (training + self.records * self.record_s) / 3600

    @property
    def problem(self) -> str:
        """Why the run cannot succeed; empty if nothing speaks against it."""
        needed = _CHECKPOINTS * self.checkpoint_gib
        if needed > self.free_gib:
            return (
                f"{_CHECKPOINTS} checkpoints need {needed:.3g} GiB and {self.free_gib:.3g} GiB are "
                "free: choose another --out, or make room."
            )
        return ""

    def __str__(self) -> str:
        slower = bottleneck(
            max(1 / self.loader - 1 / self.step, 0) if self.prefetches else 1 / self.loader,
            1 / self.step,
            self.prefetches,
        )
        peak = max(self.step_gib, self.record_gib)
        return "\n".join(
            [
                f"data        {self.images} training and {self.test_images} test images, "
                f"{self.num_classes} classes; of {self.read} read {self.skipped} damaged",
                f"loader      {self.loader:.4g} images/s",
                f"step        {self.step:.4g} images/s",
                f"bottleneck  {slower}",
                f"memory      {self.held_gib + peak:.3g} GiB: weights, gradients and optimiser "
                f"{self.held_gib:.3g}, step {self.step_gib:.3g}, recording {self.record_gib:.3g}",
                f"disk        {_CHECKPOINTS * self.checkpoint_gib:.3g} GiB for checkpoints, "
                f"{self.free_gib:.3g} GiB free",
                f"recording   {self.records} times, {self.record_s:.3g} s each",
                f"whole run   {self.steps} steps, {self.hours:.3g} hours at "
                f"{self.images_per_s:.4g} images/s",
            ]
        )


def estimate(run: Pretraining, folder: Path) -> Estimate:
    """Read, step and record a little, and write nothing. The run cannot be used afterwards.

    Args:
        run: a run that has not taken a step.
        folder: folder of the run, which need not exist.

    Raises:
        DataError: no images can be read.
        FloatingPointError: the loss is not finite.
        torch.OutOfMemoryError: memory does not suffice.
    """
    trainer, settings, device = run.trainer, run.settings, run.fabric.device
    batch, read, loader_s = _loaded(run)

    def step() -> None:
        trainer.step(batch)

    step()  # gradients and the state of optimisers are made
    step_s = statistics.median(_seconds(step, device) for _ in range(STEPS))
    step_bytes = peak_bytes(step, device)
    recorder, record_s, record_bytes, records = run.recorder(None), 0.0, 0, 0
    if recorder is not None:
        cadence = settings.cadence()
        assert cadence is not None
        due = (lambda n: n % cadence == 0) if isinstance(cadence, int) else cadence
        records = sum(map(due, range(run.steps)))
        record_bytes = peak_bytes(lambda: run.record(recorder, batch), device)
        recorder.load_state_dict({"step": 0})  # which is due
        record_s = _seconds(lambda: run.record(recorder, batch), device)
    state = _tensor_bytes(trainer.state_dict())
    gradients = _tensor_bytes([[*trainer.model.parameters()], [*trainer.losses.parameters()]])
    existing = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    return Estimate(
        steps=run.steps,
        images=run.stream.images,
        test_images=run.stream.test_images,
        num_classes=run.stream.num_classes,
        read=read,
        skipped=run.stream.skipped(),
        loader=settings.batch / loader_s,
        step=settings.batch / step_s,
        prefetches=run.stream.prefetches,
        record_s=record_s,
        records=records,
        batch=settings.batch,
        held_gib=(state + gradients) / _GIB,
        step_gib=step_bytes / _GIB,
        record_gib=record_bytes / _GIB,
        checkpoint_gib=state / _GIB,
        free_gib=shutil.disk_usage(existing).free / _GIB,
    )


def _loaded(run: Pretraining) -> tuple[Any, int, float]:
    """A batch, the number of images read, and seconds for each batch once workers are running."""
    # Each worker makes two batches ahead, and fetching these takes no time.
    count = min(1 + STEPS + (4 * run.workers if run.stream.prefetches else 0), run.stream.length)
    batches: Iterator[Any] = run.stream.train.batches(0)
    begun = time.perf_counter()
    batch = next(batches)
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    for _ in range(count - 1):
        next(batches)
    rest = time.perf_counter() - begun
    share = run.settings.batch // run.fabric.world_size
    return batch, count * share, rest / (count - 1) if count > 1 else first


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _tensor_bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
