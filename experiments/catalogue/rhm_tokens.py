"""The last token of a hierarchy: two networks against the smallest loss of every context.

Data are drawn anew in every batch, so the loss on test data is that of learning, not of memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from experiments.runner import Sweep, grid
from experiments.training import Reader, TokenNet, last_token_losses
from linlocal.rhm import RandomHierarchyModel
from linlocal.rhm.tokens import LastToken


@dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
        num_symbols: v = n.
        num_synonyms: m.
        num_levels: L; tuples have 2 symbols.
        counts: numbers of training data at which the test loss is measured, ascending.
        batch_size: number of data in a step.
        width: units per place.
        learning_rate: of Adam, falling to 0.
        num_test: number of test data, which are never trained on.
        floor_samples: number of data from which a floor is estimated.
        repetitions: number of grammars.
        seed: seeds the grammars, data and weights.
    """

    num_symbols: int = 8
    num_synonyms: int = 3
    num_levels: int = 3
    counts: tuple[int, ...] = tuple(2**k for k in range(8, 16))
    batch_size: int = 64
    width: int = 64
    learning_rate: float = 3e-3
    num_test: int = 500
    floor_samples: int = 4000
    repetitions: int = 4
    seed: int = 0


PRESETS = {
    "smoke": Config(
        num_symbols=4, num_levels=2, counts=(64, 512), width=16, num_test=20, floor_samples=200,
        repetitions=2,
    ),
    "cpu": Config(counts=tuple(2**k for k in range(8, 15))),
    "workstation": Config(counts=tuple(2**k for k in range(8, 20)), repetitions=8),
    "paper": Config(
        num_levels=4, counts=tuple(2**k for k in range(9, 23)), width=256, learning_rate=1e-3,
        num_test=5000, repetitions=16,
    ),
}  # fmt: skip
PUBLISHED = "arXiv 2406.00048, last-token prediction"

NETWORKS: tuple[Reader, ...] = ("transformer", "convolutional")


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train both networks on every grammar, and find the floors.

    Returns:
        ``loss`` in nats over network, count and repetition; ``floor``, the smallest loss from the
        context s^l - 1, and its standard error ``floor_error`` over level 0..L and repetition.
    """

    def model(repetition: int) -> RandomHierarchyModel:
        return RandomHierarchyModel(
            num_classes=config.num_symbols,
            num_symbols=config.num_symbols,
            num_synonyms=config.num_synonyms,
            num_levels=config.num_levels,
            seed=config.seed + repetition,
        )

    def trained(network: Reader, repetition: int) -> xr.Dataset:
        rhm, seed = model(repetition), config.seed + repetition
        losses = last_token_losses(
            TokenNet(rhm, network, config.width, seed),
            rhm,
            counts=config.counts,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            num_test=config.num_test,
            seed=seed,
        )
        return xr.Dataset({"loss": ("count", losses)}, {"count": list(config.counts)})

    def floors(repetition: int) -> xr.Dataset:
        rhm = model(repetition)
        found = [
            LastToken(rhm, 2**level - 1).bayes_loss(
                num_samples=config.floor_samples, seed=config.seed + repetition
            )
            for level in levels
        ]
        return xr.Dataset(
            {
                "floor": ("level", [float(each.value[0]) for each in found]),
                "floor_error": ("level", [float(each.standard_error[0]) for each in found]),
            },
            {"level": levels},
        )

    levels = list(range(config.num_levels + 1))
    repetitions = range(config.repetitions)
    losses = grid(sweep, trained, "losses", network=NETWORKS, repetition=repetitions)
    return losses.merge(grid(sweep, floors, "floors", repetition=repetitions), join="exact")
