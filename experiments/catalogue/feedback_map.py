"""Direct feedback is nearly always at least as near to the global update as same-layer context.

For narrowing semi-orthogonal weights and random finite data,
||local - global|| >= ||direct feedback - global|| holds in most cases, but not in all: it is no
theorem in that generality.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from experiments.data import Array
from experiments.runner import Sweep, grid, stack
from linlocal import DeepLinear, Pairs, global_update, local_update, rules


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        trials: number of random networks and batches in each cell of the map.
        inputs: width of the input and of the first layer.
        tops: widths of the second and last layer, all smaller than ``inputs``.
        pairs: numbers of positive pairs; there are as many negative ones in each view direction.
        noise: standard deviation of the difference between the two views; the first view is
            standard normal.
        margin: margin of the softplus score.
        penalty: strength lam of the penalty on the projections.
        seed: seeds the weights and the data.
    """

    trials: int = 100
    inputs: int = 8
    tops: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
    pairs: tuple[int, ...] = (2, 3, 4, 6, 8, 12, 16)
    noise: float = 0.5
    margin: float = 1.0
    penalty: float = 0.01
    seed: int = 0


PRESETS = {
    "smoke": Config(trials=4, tops=(1, 4), pairs=(2, 8)),
    "cpu": Config(trials=40),
    "paper": Config(trials=1000),
}
PUBLISHED = "ours: statement 8 of the theory; the inequality is stated in arXiv 2601.21683"

SCORES = ("linear", "softplus")
# Distances relative to the global update that differ by less than rounding count as equal.
ROUNDING = 1e-9


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Count how often the inequality holds, and keep the case that breaks it most.

    Returns:
        ``local_distance`` and ``feedback_distance``, ||. - global|| / ||global|| of the first
        layer, and ``holds`` over score, top, pair_count and trial. Per score the case with the
        largest excess of the feedback's distance: ``example_top``, ``example_pair_count``,
        ``example_trial`` and its arrays ``SCORE_W_1``, ``SCORE_W_2``, ``SCORE_x`` and
        ``SCORE_x_view``, from which `linlocal` computes it again.
    """

    def measure(score: str, top: int, pair_count: int) -> xr.Dataset:
        cases = (draw(config, top, pair_count, trial) for trial in range(config.trials))
        both = [distances(*case, score, config.margin, config.penalty) for case in cases]
        local, feedback = zip(*both, strict=True)
        return xr.Dataset(
            {
                "local_distance": ("trial", list(local)),
                "feedback_distance": ("trial", list(feedback)),
            },
            coords={"trial": range(config.trials)},
        )

    result = grid(
        sweep, measure, "random cases", score=SCORES, top=config.tops, pair_count=config.pairs
    )
    excess = result["feedback_distance"] - result["local_distance"]
    result["holds"] = excess <= ROUNDING
    examples = []
    for score in SCORES:
        cases = excess.sel(score=score).transpose("top", "pair_count", "trial").values
        i, j, trial = (int(n) for n in np.unravel_index(np.argmax(cases), cases.shape))
        top, pair_count = config.tops[i], config.pairs[j]
        examples.append(
            xr.Dataset(
                {"example_top": top, "example_pair_count": pair_count, "example_trial": trial}
            )
        )
        network, x, x_view = draw(config, top, pair_count, trial)
        unit, sample = f"{score}_top_unit", f"{score}_sample"
        result[f"{score}_W_1"] = (("unit", "input"), network.matrix(1))
        result[f"{score}_W_2"] = ((unit, "unit"), network.matrix(2))
        result[f"{score}_x"] = ((sample, "input"), x)
        result[f"{score}_x_view"] = ((sample, "input"), x_view)
    return result.merge(stack(examples, "score", SCORES), join="exact")


def distances(
    network: DeepLinear, x: Array, x_view: Array, score: str, margin: float, penalty: float
) -> tuple[float, float]:
    """||local - global|| / ||global|| of the first layer, for same-layer context and feedback."""
    pairs = Pairs.from_views(x, x_view)
    local, feedback = (make(score, margin, penalty) for make in (rules.CLAPP, rules.CLAPP_DFB))
    # One for both rules, because their contexts are the same in the top layer.
    global_ = global_update(network, pairs, local)[0]
    apart = (local_update(network, pairs, rule)[0] - global_ for rule in (local, feedback))
    size = np.linalg.norm(global_)
    by_local, by_feedback = (float(np.linalg.norm(d) / size) for d in apart)
    return by_local, by_feedback


def draw(config: Config, top: int, pair_count: int, trial: int) -> tuple[DeepLinear, Array, Array]:
    """A random network and the two views of a random batch, of one cell and trial."""
    rng = np.random.default_rng([config.seed, top, pair_count, trial])
    network = DeepLinear.orthogonal(
        [config.inputs, config.inputs, top], seed=int(rng.integers(2**31))
    )
    x = rng.standard_normal((pair_count, config.inputs))
    return network, x, x + config.noise * rng.standard_normal(x.shape)
