"""How many data a network needs: training sets of growing size, each with its best learning rate.

Sizes are searched on a grid: every second one from the smallest upwards, until the task is learned,
and then the one between the last that was too few and the first that was enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from experiments.runner import Sweep
from experiments.training.convergence import Convergence
from experiments.training.hierarchy_stack import Examples, Remedy, Rule, fit_together
from experiments.training.hierarchy_tasks import (
    NetworkRecipe,
    Task,
    accuracy,
    class_labels,
    one_hot_leaves,
)
from experiments.training.search import FACTOR, SEARCH_SEED, Search, best_rate

# Confidence with which a size must be enough before larger ones are left out.
ENOUGH = 0.975


def learn_with_best_rate(
    task: Task,
    recipe: NetworkRecipe,
    rule: Rule,
    search: Search,
    repetitions: int,
    until: Convergence,
) -> xr.Dataset:
    """Choose the learning rate by validation data, then train on other grammars and test.

    Among rates that are equally good the middle one is taken. A rate at the edge of an extended
    grid is reported as such.

    Args:
        task: its seed, and those that follow, seed the grammars that are reported.
        recipe: its learning rate plays no part.
        rule: how the error reaches the layers.
        search: how the learning rate is chosen.
        repetitions: number of grammars that are reported.
        until: when a training is finished.

    Returns:
        Over repetition: ``test_accuracy``, ``steps``, ``train_loss`` and ``finished``; the
        ``learning_rate`` and whether it lies ``inside`` its grid.
    """
    unit = 10.0 if recipe.optimiser == "sgd" else 1.0
    seeds = [task.seed + SEARCH_SEED + k for k in range(search.grammars)]
    scores: dict[float, float] = {}

    def tried(rates: Sequence[float]) -> None:
        tasks = [replace(task, seed=seed) for seed in seeds]
        found = _learned(tasks, recipe, rule, [unit * rate for rate in rates], until)
        for rate, rows in zip(
            rates, np.split(found["validation_accuracy"], len(rates)), strict=True
        ):
            scores[rate] = float(rows.mean())

    tried(search.rates)
    for _ in range(search.extensions):
        best, inside = best_rate(scores)
        if inside:
            break
        tried([best * FACTOR if best == max(scores) else best / FACTOR])
    best, inside = best_rate(scores)
    tasks = [replace(task, seed=task.seed + k) for k in range(repetitions)]
    found = _learned(tasks, recipe, rule, [unit * best], until)
    del found["validation_accuracy"]
    over = {name: ("repetition", values) for name, values in found.items()}
    return xr.Dataset({**over, "learning_rate": unit * best, "inside": inside})


def climb(
    sweep: Sweep,
    measure: Callable[..., xr.Dataset],
    cells: Sequence[Mapping[str, Any]],
    multiples: Sequence[float],
    largest: Callable[[Mapping[str, Any]], float],
    learned: Callable[[Mapping[str, Any]], float],
    description: str,
) -> list[xr.Dataset]:
    """Measure every cell at growing sizes of its training set until it has learned.

    Args:
        sweep: evaluates the points.
        measure: takes the entries of a cell and ``multiple``; returns ``test_accuracy`` over
            repetition, among others.
        cells: what is compared.
        multiples: the grid of sizes, ascending.
        largest: the largest possible size of a cell.
        learned: the test accuracy from which on a cell has learned.
        description: shown beside the progress bars.

    Returns:
        For each cell what was measured, over ``multiple``: NaN where nothing was.
    """
    found: list[dict[int, xr.Dataset]] = [{} for _ in cells]

    def at(step: int, which: Sequence[int], what: str) -> None:
        if not which:
            return
        points = [{**cells[k], "multiple": multiples[step]} for k in which]
        for k, each in zip(which, sweep(measure, points, f"{description}: {what}"), strict=True):
            found[k][step] = each

    open_cells = list(range(len(cells)))
    for step in range(0, len(multiples), 2):
        possible = [k for k in open_cells if multiples[step] <= largest(cells[k])]
        at(step, possible, "sizes")
        if step:
            rest = [k for k in open_cells if multiples[step - 1] <= largest(cells[k])]
            at(step - 1, [k for k in rest if k not in possible], "last size")
        open_cells = [k for k in possible if not _enough(found[k][step], learned(cells[k]))]
    for step in range(1, len(multiples), 2):
        between = [
            k
            for k, cell in enumerate(cells)
            if step + 1 in found[k]
            and _mean(found[k][step - 1]) < learned(cell) <= _mean(found[k][step + 1])
        ]
        at(step, between, "between")
    template = next(each for steps in found for each in steps.values())
    nothing = xr.full_like(template.astype(float), np.nan)
    return [
        xr.concat(
            [steps.get(step, nothing).astype(float) for step in range(len(multiples))], "multiple"
        ).assign_coords(multiple=list(multiples))
        for steps in found
    ]


def _mean(measured: xr.Dataset) -> float:
    return float(measured["test_accuracy"].mean())


def _enough(measured: xr.Dataset, learned: float) -> bool:
    """Whether the lower end of the interval over grammars has learned."""
    values = measured["test_accuracy"].values
    if len(values) < 2:
        return bool(values.mean() >= learned)
    half = stdtrit(len(values) - 1, ENOUGH) * values.std(ddof=1) / len(values) ** 0.5
    return bool(values.mean() - half >= learned)


def _learned(
    tasks: Sequence[Task],
    recipe: NetworkRecipe,
    rule: Rule,
    learning_rates: Sequence[float],
    until: Convergence,
) -> dict[str, Any]:
    """Train on every task with every rate, all together; rows are rates, then tasks."""
    feedback = rule.network if isinstance(rule, Remedy) else rule
    parts = [task.split() for task in tasks]
    nets, examples = [], []
    for _ in learning_rates:
        for task, (train, _, _) in zip(tasks, parts, strict=True):
            nets.append(recipe.network(task.rhm, task.seed, feedback))
            examples.append(Examples(train.leaves, train.labels, task.seed))
    fits = fit_together(
        nets,
        rule,
        examples,
        optimiser=recipe.optimiser,
        learning_rates=[rate for rate in learning_rates for _ in tasks],
        until=until,
    )
    found: dict[str, list[float]] = {"validation_accuracy": [], "test_accuracy": []}
    for number, net in enumerate(nets):
        rhm, (_, *held_out) = tasks[number % len(tasks)].rhm, parts[number % len(tasks)]
        for values, part in zip(found.values(), held_out, strict=True):
            values.append(accuracy(net, one_hot_leaves(rhm, part.leaves), class_labels(part)))
    return {
        **{name: np.array(values) for name, values in found.items()},
        "steps": np.array([fit.steps for fit in fits]),
        "train_loss": np.array([fit.loss for fit in fits]),
        "finished": np.array([fit.finished for fit in fits]),
    }
