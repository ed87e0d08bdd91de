"""How near feedback without the transposed weights comes to backpropagation, in accuracy and angle.

A network of tanh layers learns handwritten digits by backpropagation, through feedback weights of
its own (Kolen-Pollack, signs of the weights, fixed random ones), or from errors or targets that are
sent to each layer directly. In all of them the last layer learns from the loss itself.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from experiments.data import handwriting_identities, handwritten
from experiments.runner import Sweep, grid
from experiments.training import Schedule, fabric_on
from linlocal.analysis import GlobalTrainer, LocalTrainer, align
from linlocal.analysis.feedback import DirectFeedback, Method, feedback_alignment
from linlocal.seeds import generator_for


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        width: units of every hidden layer.
        hidden: number of hidden layers.
        steps: steps of training.
        batch: images per step.
        learning_rate: learning rate of Adam.
        decay: decoupled weight decay of the weights and feedback weights of Kolen-Pollack, which
            has no effect without; all others are trained without weight decay.
        measured: number of training images on which cosines are measured.
        repetitions: number of networks.
        seed: seeds the networks, the feedback and the order of the images.
        data: folder of MNIST; None takes the digits of scikit-learn.
    """

    width: int = 256
    hidden: int = 3
    steps: int = 600
    batch: int = 100
    learning_rate: float = 1e-3
    decay: float = 1.0
    measured: int = 500
    repetitions: int = 3
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(width=16, hidden=2, steps=20, batch=20, measured=40, repetitions=2),
    "cpu": Config(steps=300, repetitions=5),
    "paper": Config(steps=12_000),
}
PUBLISHED = "arXiv 1609.01596 (its networks for MNIST)"

METHODS: dict[str, DirectFeedback | Method | None] = {
    "backpropagation": None,
    "Kolen-Pollack": "kolen_pollack",
    "signs of the weights": "scaled_sign",
    "feedback alignment": "random",
    "direct feedback alignment": DirectFeedback("error"),
    "direct random target projection": DirectFeedback("target"),
}


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of MNIST in a folder."""
    return handwriting_identities(folder)


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train a network by every method.

    Returns:
        Over rule, repetition and ``step`` of the training: ``test_accuracy``, and over layer too
        ``cosine`` of the gradients by the method and by backpropagation; ``data``: what was trained
        on.
    """

    def measure(rule: str, repetition: int) -> xr.Dataset:
        return _trained(config, METHODS[rule], config.seed + repetition)

    result = grid(
        sweep,
        measure,
        "feedback_alignment",
        rule=tuple(METHODS),
        repetition=range(config.repetitions),
    )
    return result.assign_coords(data="digits" if config.data is None else "mnist")


def _trained(config: Config, method: DirectFeedback | Method | None, seed: int) -> xr.Dataset:
    torch.set_num_threads(1)
    images = handwritten(config.data, config.seed)
    train, test = _standardised(torch.from_numpy(images.train), torch.from_numpy(images.test))
    labels, test_labels = map(torch.from_numpy, (images.train_labels, images.test_labels))
    network = tanh_network([train.shape[1], *[config.width] * config.hidden, 10], seed)
    decay = config.decay if method == "kolen_pollack" else 0.0
    schedule = Schedule(config.steps, config.learning_rate, decay)
    options: dict[str, Any] = {
        "shape": train.shape[1:],
        "optimiser": schedule.optimiser,
        "fabric": fabric_on(train.device),
        "seed": seed,
    }
    trainer: LocalTrainer | GlobalTrainer
    window = 1
    if isinstance(method, DirectFeedback):
        trainer = LocalTrainer(network, None, method, one_pass=True, **options)
        losses = trainer.losses
    else:
        if method is not None:
            feedback_alignment(network, method, seed=seed)
        of_output = DirectFeedback("nothing")
        trainer = GlobalTrainer(network, None, of_output, **options)
        losses, window = of_output.build(trainer.shapes), len(network)
    watched = train[: config.measured], labels[: config.measured]
    order = _batches(len(train), config.batch, seed)
    parts = {}
    for step in range(config.steps + 1):
        if step in schedule.recorded:
            with torch.no_grad():
                right = network(test).argmax(1) == test_labels
            found = align(network, None, losses, watched[0], batch=watched, window=window)
            parts[step] = found[["cosine"]].assign(test_accuracy=float(right.double().mean()))
        if step < config.steps:
            rows = next(order)
            trainer.step((train[rows], labels[rows]))
    return xr.concat([part.assign_coords(step=step) for step, part in parts.items()], "step")


def tanh_network(widths: list[int], seed: int) -> nn.Sequential:
    """Blocks of a linear layer and tanh, the last one without, as torch initialises them."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        blocks = OrderedDict[str, nn.Module]()
        for l, (below, here) in enumerate(itertools.pairwise(widths), start=1):
            last = [nn.Tanh()] if l < len(widths) - 1 else []
            blocks[f"block{l}"] = nn.Sequential(nn.Linear(below, here), *last)
        return nn.Sequential(blocks)


def _standardised(*parts: Tensor) -> list[Tensor]:
    """Images as rows, in units of the deviation of the first part's pixels from their mean."""
    rows = [part.flatten(1).float() for part in parts]
    mean, deviation = rows[0].mean(), rows[0].std()
    return [(part - mean) / deviation for part in rows]


def _batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Rows of one batch after the other, all of them in another order in each epoch."""
    for epoch in itertools.count():
        order = torch.from_numpy(generator_for("epoch", seed, epoch).permutation(count))
        yield from order.split(size)
