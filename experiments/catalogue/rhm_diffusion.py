"""Diffusion on hierarchies: at which noise the class changes, and what few steps back get wrong.

All denoisers are exact, by belief propagation; nothing is learned. The transition is measured with
a likelihood without chance (flattened leaves), forward-backward and generation with the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from experiments.runner import Sweep, grid
from linlocal.rhm import RandomHierarchyModel, diffusion, noises


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        num_symbols: v = n, symbols of each level and classes.
        num_synonyms: m.
        depths: L of the transition.
        noises: e of the transition, ascending.
        levels: L of the experiments forward and backward and of the generated data.
        times: of the noise, ascending.
        steps: the numbers of steps of generation.
        num_samples: number of data for each grammar and noise.
        repetitions: number of grammars.
        seed: seeds the grammars and everything drawn.
    """

    num_symbols: int = 16
    num_synonyms: int = 4
    depths: tuple[int, ...] = (2, 4, 6, 8)
    noises: tuple[float, ...] = tuple(round(0.05 * k, 2) for k in range(8, 21))
    levels: int = 5
    times: tuple[float, ...] = tuple(round(0.1 * k, 1) for k in range(1, 10))
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    num_samples: int = 64
    repetitions: int = 8
    seed: int = 0


PRESETS = {
    "smoke": Config(
        depths=(2, 3, 4), levels=2, steps=(1, 8), noises=(0.5, 0.8, 1.0), times=(0.1, 0.5, 0.9),
        num_samples=16, repetitions=2,
    ),
    "cpu": Config(repetitions=5),
    "paper": Config(num_samples=256, repetitions=64),
}  # fmt: skip
PUBLISHED = "arXiv 2402.16991, transition of the class under diffusion"

NOISES = {
    "masking": noises.Masking(),
    "uniform": noises.Uniform(),
    "Gaussian": noises.Gaussian("cosine"),
}


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Measure the transition, forward-backward experiments and generated data.

    Returns:
        ``belief`` in the true class and ``leaf_belief`` in the true leaves over depth, noise and
        repetition, with ``mean_field`` of the former over depth and noise and the ``critical``
        noise; ``changed``, the share of the symbols of each
        level 0..L that another draw from the posterior changes, over process, time, level and
        repetition; ``valid``, the share of the nodes of each level 1..L (NaN at 0) whose leaves the
        grammar generates, over process, steps, level and repetition.
    """

    def model(levels: int, repetition: int) -> RandomHierarchyModel:
        return RandomHierarchyModel(
            num_classes=config.num_symbols,
            num_symbols=config.num_symbols,
            num_synonyms=config.num_synonyms,
            num_levels=levels,
            seed=config.seed + repetition,
        )

    def transition(depth: int, repetition: int) -> xr.Dataset:
        rhm = model(depth, repetition)
        data = rhm.sample(config.num_samples, seed=config.seed + repetition)
        found = []
        for noise in config.noises:
            likelihood = diffusion.flattened(rhm, data.leaves, noise)
            levels = rhm.posterior(likelihood=likelihood).levels
            found.append([_in_true(levels[l], data.symbols[l]) for l in (0, depth)])
        leaves, classes = np.array(found).T
        return xr.Dataset(
            {"belief": ("noise", classes), "leaf_belief": ("noise", leaves)},
            {"noise": list(config.noises)},
        )

    def there_and_back(process: str, repetition: int) -> xr.Dataset:
        rhm = model(config.levels, repetition)
        data = rhm.sample(config.num_samples, seed=config.seed + repetition)
        found = []
        for time in config.times:
            other = diffusion.forward_backward(
                rhm, NOISES[process], data.leaves, time, config.seed + repetition
            )
            found.append(diffusion.changed(data, other).mean(axis=0))
        return xr.Dataset(
            {"changed": (("time", "level"), np.array(found))},
            {"time": list(config.times), "level": levels},
        )

    def generated(process: str, repetition: int) -> xr.Dataset:
        rhm = model(config.levels, repetition)
        found = np.full((len(config.steps), len(levels)), np.nan)
        for row, steps in enumerate(config.steps):
            leaves = diffusion.generate(
                rhm,
                NOISES[process],
                config.num_samples,
                steps=steps,
                seed=config.seed + repetition,
            )
            found[row, 1:] = diffusion.valid_share(rhm, leaves).mean(axis=0)
        return xr.Dataset(
            {"valid": (("steps", "level"), found)},
            {"steps": list(config.steps), "level": levels},
        )

    levels = list(range(config.levels + 1))
    over = {"process": list(NOISES), "repetition": range(config.repetitions)}
    result = grid(
        sweep, transition, "transition", depth=list(config.depths),
        repetition=range(config.repetitions),
    )  # fmt: skip
    for part in (
        grid(sweep, there_and_back, "there and back", **over),
        grid(sweep, generated, "generated", **over),
    ):
        result = result.merge(part, join="exact")
    fields = [
        [diffusion.mean_field(model(depth, 0), noise)[-1] for noise in config.noises]
        for depth in config.depths
    ]
    result["mean_field"] = (("depth", "noise"), np.array(fields))
    result["critical"] = diffusion.critical_noise(model(config.depths[0], 0))
    return result


def _in_true(probabilities: NDArray[np.float64], symbols: NDArray[Any]) -> float:
    """The mean probability (data, nodes, symbols) of the true symbols (data, nodes)."""
    index = symbols[..., None].astype(np.int64)
    return float(np.take_along_axis(probabilities, index, axis=-1).mean())
