"""The feedback rules that experiments on hierarchies compare, and how many data each needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import xarray as xr

from experiments.runner import Sweep, stack
from experiments.training.convergence import Convergence
from experiments.training.hierarchy_effort import Effort
from experiments.training.hierarchy_ladder import climb, learn_with_best_rate
from experiments.training.hierarchy_stack import Remedy, Rule
from experiments.training.hierarchy_tasks import Architecture, NetworkRecipe, Optimiser, Task
from experiments.training.search import Search
from linlocal.analysis.hierarchy import Feedback

FEEDBACK_RULES: dict[str, Rule] = {
    "backpropagation": Feedback(),
    "backpropagation, masks averaged": Feedback(masks="batch"),
    "backpropagation, masks removed": Feedback(masks="none"),
    "feedback alignment": Feedback("random"),
    "direct feedback alignment": Feedback("direct"),
    "direct feedback, no derivative": Feedback("direct", local_derivative=False),
    "direct random target projection": Feedback("target"),
    "direct feedback, true masks": Remedy("gated"),
    "aligned direct feedback": Remedy("aligned"),
    "aligned direct feedback, no derivative": Remedy("aligned", local_derivative=False),
}


@dataclass(frozen=True)
class Setting:
    """What is learned and by which network, without the rule and the number of data.

    Attributes:
        num_symbols: v, also the number of classes n.
        num_synonyms: m.
        num_levels: L.
        architecture: the kind of network.
        optimiser: "adam" or "sgd".
        normalise: whether layers have batch normalisation.
    """

    num_symbols: int
    num_synonyms: int
    num_levels: int
    architecture: Architecture = "convolutional"
    optimiser: Optimiser = "adam"
    normalise: bool = False

    def task(self, multiple: float, seed: int) -> Task:
        """The task of this size."""
        return Task(self.num_symbols, self.num_synonyms, self.num_levels, multiple, seed)


def data_needed(
    effort: Effort, rules: Sequence[str], settings: Sequence[Setting], sweep: Sweep
) -> xr.Dataset:
    """Train every rule in every setting with more and more data, one setting after the other.

    Args:
        effort: how much is tried.
        rules: names in `FEEDBACK_RULES`.
        settings: what is learned, and by which networks.
        sweep: computes the points.

    Returns:
        Over rule, setting, multiple and repetition: ``test_accuracy``, ``steps``, ``train_loss``
        and ``finished``; over all but repetition the ``learning_rate`` and whether it lies
        ``inside`` its grid. NaN where nothing was measured, as the rule had learned from fewer
        data, or the grammar has no more. Coordinates of the setting are what `Setting` holds,
        ``P_star`` and the ``largest`` possible multiple.
    """
    search = Search(effort.learning_rates, effort.extensions, effort.searches)
    until = Convergence(cap=effort.cap)

    def measure(rule: str, multiple: float, **setting: Any) -> xr.Dataset:
        here = Setting(**setting)
        recipe = NetworkRecipe(
            here.architecture,
            effort.width,
            normalise=here.normalise,
            optimiser=here.optimiser,
        )
        task = here.task(multiple, effort.seed)
        return learn_with_best_rate(
            task, recipe, FEEDBACK_RULES[rule], search, effort.repetitions, until
        )

    def largest(cell: Mapping[str, Any]) -> float:
        return Setting(**{k: each for k, each in cell.items() if k != "rule"}).task(1, 0).largest

    def learned(cell: Mapping[str, Any]) -> float:
        return 1 - effort.error * (1 - 1 / cell["num_symbols"])

    results = []
    for setting in settings:
        cells = [{"rule": rule, **asdict(setting)} for rule in rules]
        found = climb(sweep, measure, cells, effort.multiples, largest, learned, "feedback")
        results.append(stack(found, "rule", tuple(rules)))
    result = stack(results, "setting", range(len(settings)))
    ways = [asdict(setting) for setting in settings]
    coordinates = {key: [way[key] for way in ways] for key in ways[0]} | {
        "P_star": [setting.task(1, 0).num_train for setting in settings],
        "largest": [setting.task(1, 0).largest for setting in settings],
    }
    return result.assign_coords({key: ("setting", each) for key, each in coordinates.items()})
