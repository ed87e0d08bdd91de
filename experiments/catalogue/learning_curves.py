"""Local learning and backpropagation of deep linear networks learn the same modes at other times.

Whitened views, whose correlations are the modes, and spectral contrastive loss, from a small start:
in expectation, so that every curve is one of gradient flow and nothing depends on a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from experiments.runner import Sweep, grid
from linlocal import DeepLinear, Pairs, Penalty, dynamics, rules

Learning = dynamics.Learning


@dataclass(frozen=True)
class Config:
    """What is simulated.

    Attributes:
        repetitions: number of networks, each with its own weights and its own basis of modes.
        correlations: correlation of the two views along each mode, from the largest down.
        width: units of each layer.
        depth: number of layers.
        scale: singular values of orthogonal weights at the start; Gaussian ones have the variance
            scale^2 / fan in.
        largest_time: the end of the flow.
        times: number of times that are recorded, log-spaced from 1/10 on, after the time 0.
        decay: strength mu of the weight decay, where there is any.
        decay_modes: number of modes, evenly spaced in correlation, under weight decay.
        steps: number of steps with each optimiser.
        seed: seeds the weights and the bases.
    """

    repetitions: int = 8
    correlations: tuple[float, ...] = (0.9, 0.6, 0.4, 0.25)
    width: int = 12
    depth: int = 3
    scale: float = 0.3
    largest_time: float = 100.0
    times: int = 100
    decay: float = 0.1
    decay_modes: int = 10
    steps: int = 20
    seed: int = 0


PRESETS = {
    "smoke": Config(
        repetitions=2, correlations=(0.9, 0.5), width=6, times=20, decay_modes=4, steps=3
    ),
    "cpu": Config(repetitions=5),
    "paper": Config(repetitions=64, times=200, decay_modes=20, largest_time=400.0),
}
PUBLISHED = "ours: statement 18 of the theory"

LEARNING: tuple[Learning, ...] = ("local", "global")
STARTS = ("orthogonal", "Gaussian")
CASES = ("local", "global", "global, large start")
RULE = rules.SpectralContrastive()

OPTIMISERS: dict[str, dynamics.Optimiser] = {
    "SGD": dynamics.SGD(1e-3),
    "momentum": dynamics.Momentum(1e-3),
    "clipped, each layer": dynamics.Clipped(dynamics.Momentum(0.01), 0.01, "layer"),
    "clipped, all layers": dynamics.Clipped(dynamics.Momentum(0.01), 0.01, "all"),
    "Adam": dynamics.Adam(1e-3),
    "Adam, epsilon = 0": dynamics.Adam(1e-3, epsilon=0.0),
}
# Under the metric penalty local and global gradients are equal for any weights. If also each layer
# has a strength of its own, those of a linear score are proportional.
GRADIENTS = ("equal", "proportional")


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Follow both kinds of learning from two kinds of start, under decay, and under optimisers.

    Returns:
        Over start, learning and repetition

        * ``strength`` = ||A_l v|| over time, layer and mode, and ``imbalance_change`` over time and
          layer, see `linlocal.dynamics.simulate`;
        * ``half_time`` over layer and mode: when the strength first reaches half its rest, squared;
          NaN if it never did;
        * ``closed_form``: the strength in closed form for orthogonal weights, over learning, time,
          layer and mode, with ``closed_half_time``;

        and with weight decay over case (local, global, global from a large start), repetition,
        layer and decay_mode the strength at the end, ``decayed``, and that which the theory
        predicts, ``predicted``; over gradients, optimiser and repetition ``weight_error`` of local
        against global learning after the steps, largest over the layers.
    """
    times = np.concatenate([[0.0], np.geomspace(0.1, config.largest_time, config.times)])
    widths = [len(config.correlations)] + [config.width] * config.depth
    repetitions = list(range(config.repetitions))

    def follow(start: str, learning: Learning, repetition: int) -> xr.Dataset:
        moments = population(config.correlations, config.seed + repetition)
        network = begin(start, widths, config.scale, config.seed + repetition)
        found = dynamics.flow(network, moments, RULE, times=times, learning=learning)
        kept = found[["strength", "imbalance_change"]].drop_vars("eigenvalue")
        rest = np.sqrt(np.array(config.correlations))
        return kept.assign(half_time=half_times(found["strength"], rest)).fillna(
            {"imbalance_change": 0.0}
        )

    def solve(learning: Learning) -> xr.Dataset:
        modes = dynamics.Modes.of(population(config.correlations, config.seed), RULE)
        strengths = np.full((config.depth, len(config.correlations)), config.scale)
        curves = modes.local_curves if learning == "local" else modes.global_curves
        closed = curves(strengths, times)
        rest = np.sqrt(np.array(config.correlations))
        return xr.Dataset({"closed_form": closed, "closed_half_time": half_times(closed, rest)})

    def decay(case: str, repetition: int) -> xr.Dataset:
        correlations = tuple(np.linspace(1.0, 0.05, config.decay_modes).tolist())
        moments = population(correlations, config.seed + repetition)
        large = case == "global, large start"
        start, scale = ("orthogonal", 1.0) if large else ("Gaussian", config.scale)
        learning: Learning = "local" if case == "local" else "global"
        sizes = [config.decay_modes] + [max(config.width, config.decay_modes)] * config.depth
        network = begin(start, sizes, scale, config.seed + repetition)
        end = dynamics.flow(
            network,
            moments,
            RULE,
            times=[0.0, config.largest_time],
            learning=learning,
            decay=config.decay,
        )["strength"].isel(time=-1, drop=True)
        modes = dynamics.Modes.of(moments, RULE)
        rest = modes.local_rest if case == "local" else modes.global_rest
        wanted = rest(config.depth, config.decay) * (case != "global")
        found = xr.Dataset({"decayed": end.drop_vars("eigenvalue"), "predicted": wanted})
        return found.rename(mode="decay_mode").assign(
            correlation=("decay_mode", np.array(correlations))
        )

    def optimise(gradients: str, optimiser: str, repetition: int) -> xr.Dataset:
        penalties = 4.0 ** np.arange(config.depth)
        strength = tuple(penalties.tolist()) if gradients == "proportional" else 1.0
        rule = rules.CLAPP("linear", penalty=Penalty(strength, "downstream"))
        rng = np.random.default_rng((config.seed, repetition))
        x = 0.5 * rng.standard_normal((16, widths[0]))
        view = x + 0.25 * rng.standard_normal(x.shape)
        network = begin("orthogonal", widths, 1.0, config.seed + repetition)
        found = dynamics.compare_steps(
            network,
            Pairs.from_views(x, view),
            rule,
            OPTIMISERS[optimiser],
            steps=config.steps,
        )
        return found[["weight_error"]].isel(step=-1, drop=True).max("layer")

    followed = grid(sweep, follow, "flow", start=STARTS, learning=LEARNING, repetition=repetitions)
    closed = grid(sweep, solve, "closed forms", learning=LEARNING)
    decayed = grid(sweep, decay, "weight decay", case=CASES, repetition=repetitions)
    stepped = grid(
        sweep,
        optimise,
        "optimisers",
        gradients=GRADIENTS,
        optimiser=tuple(OPTIMISERS),
        repetition=repetitions,
    )
    return (
        followed.merge(closed, join="exact")
        .merge(decayed, join="exact")
        .merge(stepped, join="exact")
    )


def population(correlations: tuple[float, ...], seed: int) -> dynamics.Moments:
    """Whitened views with these correlations along the vectors of a random basis."""
    basis = DeepLinear.orthogonal([len(correlations)] * 2, seed).matrix(1)
    return dynamics.Moments.of_views(
        np.eye(len(correlations)), basis * np.array(correlations) @ basis.T
    )


def begin(start: str, widths: list[int], scale: float, seed: int) -> DeepLinear:
    """Small weights, orthogonal or Gaussian."""
    if start == "orthogonal":
        return DeepLinear.conformal(widths, scale, seed)
    network = DeepLinear.gaussian(widths, seed)
    return network.with_weights([scale * network.matrix(l) for l in network.layers])


def half_times(strength: xr.DataArray, rest: np.ndarray) -> xr.DataArray:
    """When the square of a strength first reaches half of ``rest`` squared, by interpolation.

    Args:
        strength: over time, layer and mode.
        rest: (modes,).

    Returns:
        (layer, mode), NaN where it never does.
    """
    times = strength["time"].values
    share = strength.transpose("time", "layer", "mode").values ** 2 / rest**2
    reached = share >= 0.5
    last = np.maximum(reached.argmax(axis=0), 1)
    before, after = (np.take_along_axis(share, i[None], 0)[0] for i in (last - 1, last))
    gained = (0.5 - before) / np.where(after > before, after - before, 1.0)
    found = times[last - 1] + np.clip(gained, 0.0, 1.0) * (times[last] - times[last - 1])
    kept = np.where(reached.any(axis=0), found, np.nan)
    return xr.DataArray(
        kept, {"layer": strength["layer"], "mode": strength["mode"]}, ("layer", "mode")
    )
