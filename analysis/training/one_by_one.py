"""Trains one block after the other, each on features of the block below that are kept on disk.

No more than one block, its loss and its optimiser is on the device at a time, and no block runs
again after it was trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from linlocal import inputs
from linlocal.analysis.block import resolve
from linlocal.analysis.local_losses import LocalRule, contracted, labels_of, on_network
from linlocal.analysis.random_states import drawing
from linlocal.analysis.training.checkpoints import Checkpoints
from linlocal.analysis.training.feature_files import FeatureFiles
from linlocal.analysis.training.identity import told
from linlocal.analysis.training.loaders import SeededLoader
from linlocal.analysis.training.loop import ADAMW, Log, Trainer
from linlocal.analysis.training.optimisers import MakeOptimiser, MakeScheduler
from linlocal.analysis.training.trainers import LocalTrainer
from linlocal.analysis.watching import own_pass, survey, untouched
from linlocal.rules import Rule

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BLOCK = "block"
_ROWS = 2  # of a pass that shows shapes


def train_one_by_one(
    modules: Sequence[nn.Module],
    rule: Rule | LocalRule,
    data: Dataset[Any],
    folder: Path | str,
    *,
    shape: Sequence[int],
    epochs: int,
    batch_size: int,
    augment: Callable[[Any], Tensor] | None = None,
    draws: int = 1,
    optimiser: MakeOptimiser = ADAMW,
    scheduler: MakeScheduler | None = None,
    fabric: Fabric | None = None,
    seed: int = 0,
    log: Log | None = None,
    every: int = 1000,
) -> None:
    """Train module 1 to its end, write its outputs, train module 2 from them, and so on.

    Each module is trained as by a `LocalTrainer` of this module alone. For its outputs it is in
    eval mode. The views of module 1 are drawn anew in every step; those whose features are written
    are drawn ``draws`` times for each datum, and the modules above see these in every epoch. So the
    result is that of training in sequence, not of training all blocks at once, and with few draws
    upper modules see less augmentation.

    Called again with the same arguments after an interruption, it goes on where it was. Features
    are deleted when the module above them is done; checkpoints stay.

    Args:
        modules: the modules 1..L, each called with the output of the one before. A stem belongs to
            the first one: ``[nn.Sequential(m.conv1, m.bn1, m.relu, m.layer1), m.layer2]``.
        rule: as for `LocalTrainer`; its losses may not read the top activity, which is not there.
        data: a data set with a length, of inputs or (input, label) for ``augment``, or of
            (view 1, view 2) or (view 1, view 2, label).
        folder: where checkpoints and features are kept.
        shape: the shape of one input, without the axis of samples.
        epochs: the number of epochs of each module.
        batch_size: the number of data in a batch, and in a file of features.
        augment: makes stacked views (2N, ...) of a batch's inputs, on the device; None if ``data``
            gives views.
        draws: how many pairs of views of each datum features are written of.
        optimiser: makes the optimiser of each module.
        scheduler: makes its scheduler.
        fabric: the device and precision, in one process.
        seed: as for `LocalTrainer`.
        log: as for `LocalTrainer`; steps of each module count from 1.
        every: the number of steps between checkpoints.

    Raises:
        ValueError: a loss reads the top activity, there are several processes or no modules, or
            a module gives something else than one row for each input; the folder holds a training
            on other features; or as `LocalTrainer`.
        TypeError: an argument is of the wrong kind.
        ResultError: the folder holds features of other weights, data or settings, a damaged file,
            or cannot be written.
    """
    modules = inputs.sequence(modules, "modules", "modules, the first of which gets the inputs")
    if not modules:
        raise ValueError("There is nothing to train: modules is empty.")
    for l, module in enumerate(modules, start=1):
        inputs.instance(module, nn.Module, f"module {l}", "a torch.nn.Module")
    epochs, draws = inputs.whole(epochs, "epochs", 1), inputs.whole(draws, "draws", 1)
    batch_size, every = inputs.whole(batch_size, "batch_size", 1), inputs.whole(every, "every", 1)
    seed, folder = inputs.whole(seed, "seed", 0), inputs.path(folder, "folder")
    SeededLoader(data, batch_size)  # raises if the data have no length or rows
    shape = inputs.wholes(shape, "shape", 1)
    given, standard = _shapes(modules, shape)
    reading = [
        l
        for l, loss in enumerate(contracted(on_network(rule).build(standard, seed)), start=1)
        if loss.reads_top and l < len(modules)
    ]
    if reading:
        raise ValueError(
            f"The loss of module {reading[0]} reads the top activity, which does not exist when a "
            "module is trained before those above it: take a rule without direct feedback."
        )

    def trainer_of(l: int) -> LocalTrainer:
        made = LocalTrainer(
            _Alone(modules[l]),
            [_BLOCK],
            _OneOf(rule, standard, l),
            shape=given[l],
            optimiser=optimiser,
            scheduler=scheduler,
            augment=None if l else augment,
            fabric=fabric,
            seed=seed,
            log=log,
            views="pair" if l or augment is None else None,
        )
        if made.fabric.world_size > 1:
            raise ValueError("train_one_by_one trains in one process: give a Fabric of one device.")
        return made

    rows: Dataset[Any] = data
    below: FeatureFiles | None = None
    key = _data_key(data, (seed, draws, batch_size, shape, told(augment)))
    for l, module in enumerate(modules):
        home = next((p.device for p in module.parameters()), torch.device("cpu"))
        trainer = trainer_of(l)
        place = folder / f"module-{l + 1}"
        checkpoints = Checkpoints(place / "checkpoints", about={"features": key})
        _train(trainer, rows, checkpoints, key, epochs, every, batch_size)
        if l + 1 == len(modules):
            module.to(home)
            break
        key = _module_key(key, module)
        count = len(data) * draws  # type: ignore[arg-type]
        files = FeatureFiles(place / "features", key, count, batch_size)
        upper = Checkpoints(folder / f"module-{l + 2}" / "checkpoints")
        if not _finished(upper, key, epochs):
            source = rows if l else _Repeated(data, draws)
            _write(files, trainer, source, seed, batch_size)
        module.to(home)
        if below is not None:
            below.remove()
        rows, below = files, files
    if below is not None:
        below.remove()


def _train(
    trainer: LocalTrainer,
    rows: Dataset[Any],
    checkpoints: Checkpoints,
    key: str,
    epochs: int,
    every: int,
    batch_size: int,
) -> None:
    """Train a module, unless it was; its features need not be there then."""
    if _finished(checkpoints, key, epochs):
        state = checkpoints.load()
        assert state is not None  # it is finished
        trainer.load_state_dict(state)
        return
    loader = SeededLoader(rows, batch_size, seed=trainer.seed)
    trainer.fit(loader, epochs, checkpoints=checkpoints, every=every)


def _finished(checkpoints: Checkpoints, key: str, epochs: int) -> bool:
    """Whether the module of these checkpoints was trained to its end.

    Raises:
        ValueError: it was trained on other features.
    """
    state = checkpoints.load()
    if state is None:
        return False
    about = state.get("about")
    if not isinstance(about, dict) or about.get("features") != key:
        raise ValueError(
            f"{checkpoints.folder} holds a module that was trained on features of other weights, "
            "data or settings: take another folder, or delete it and start again."
        )
    return bool(state["place"][0] >= epochs)


def _write(
    files: FeatureFiles, trainer: Trainer, source: Dataset[Any], seed: int, batch_size: int
) -> None:
    """Write the chunks that lack; what they hold is a function of their number."""
    missing = files.missing()
    if not missing:
        return
    network, device = trainer.model, trainer.fabric.device
    with untouched(network, weights=False), own_pass(), torch.no_grad():
        network.eval()
        for number in missing:
            first = number * batch_size
            wanted = range(first, min(first + batch_size, len(files)))
            batch = trainer._on_device(default_collate([source[row] for row in wanted]))
            with drawing(device, seed, number), trainer.fabric.autocast():
                views = trainer._views(batch)
                z = network(views)
            if not isinstance(z, Tensor) or len(z) != len(views):
                raise ValueError(
                    f"A module returned {inputs.described(z)} for {len(views)} rows: each must "
                    "return one tensor with a row for each input."
                )
            files.write(number, torch.stack(z.chunk(2), 1), _labels(batch, len(views)))


def _labels(batch: Any, rows: int) -> Tensor | None:
    try:
        return labels_of(batch, rows, torch.device("cpu"))[: rows // 2]
    except (TypeError, ValueError):
        return None


def _shapes(
    modules: Sequence[nn.Module], shape: tuple[int, ...]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The shapes of what the modules are given, and of their outputs in standard form."""
    given = [shape]
    standard: list[tuple[int, ...]] = []
    for module in modules:
        alone = _Alone(module)
        like = next((p for p in module.parameters()), torch.empty(0))
        x = torch.zeros(_ROWS, *given[-1], dtype=like.dtype, device=like.device)
        standard += survey(alone, resolve(alone, [_BLOCK]), x).shapes
        with untouched(module), own_pass(), torch.no_grad():
            given.append(tuple(module(x).shape[1:]))
    return given, standard


def _data_key(data: Any, settings: Sequence[Any]) -> str:
    """Of the length and three of the data, and of what features depend on."""
    digest = hashlib.sha256(told(settings).encode())
    for row in sorted({0, len(data) // 2, len(data) - 1}):
        for entry in _leaves(data[row]):
            digest.update(told(entry).encode())
            if isinstance(entry, Tensor):
                digest.update(_bytes(entry))
    digest.update(str(len(data)).encode())
    return digest.hexdigest()


def _module_key(below: str, module: nn.Module) -> str:
    digest = hashlib.sha256(below.encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _leaves(item: Any) -> Iterator[Any]:
    if isinstance(item, tuple | list):
        for entry in item:
            yield from _leaves(entry)
    else:
        yield item


class _Alone(nn.Module):
    """A network of one block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Any:
        return self.block(x)


@dataclass(frozen=True)
class _OneOf:
    """The loss of one of several blocks, as the rule builds it for all of them."""

    rule: Rule | LocalRule
    shapes: Sequence[tuple[int, ...]]
    position: int

    def build(self, shapes: Sequence[tuple[int, ...]], seed: int = 0) -> nn.ModuleList:
        return nn.ModuleList([on_network(self.rule).build(self.shapes, seed)[self.position]])


class _Repeated(Dataset[Any]):
    """Data several times over."""

    def __init__(self, data: Any, times: int) -> None:
        self._data, self._times = data, times

    def __len__(self) -> int:
        return len(self._data) * self._times

    def __getitem__(self, row: int) -> Any:
        return self._data[row % len(self._data)]
