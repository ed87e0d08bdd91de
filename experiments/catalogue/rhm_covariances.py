"""The correlations that a learner of the Random Hierarchy Model can find, predicted and measured.

Covariances of class and leaf, of class and tuple, and of two leaves: exact for the given rules, in
closed form over the draw of the rules, and estimated from samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from experiments.runner import Sweep, grid
from linlocal.rhm import RandomHierarchyModel, theory


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        grammars: (n, v, m, L); with m = v^(s-1) and n = v leaves are independent of each other.
        num_samples: number of data from which the covariances are estimated.
        repetitions: number of draws of the rules.
        seed: seeds the rules and the data.
    """

    grammars: tuple[tuple[int, int, int, int], ...] = (
        (16, 16, 8, 3),
        (8, 8, 4, 4),
        (4, 8, 4, 3),
        (8, 8, 8, 3),
    )
    num_samples: int = 100_000
    repetitions: int = 8
    seed: int = 0


PRESETS = {
    "smoke": Config(grammars=((4, 4, 2, 2), (4, 4, 4, 2)), num_samples=2000, repetitions=2),
    "cpu": Config(),
    "paper": Config(num_samples=1_000_000, repetitions=64),
}
PUBLISHED = "arXiv 2307.02129 and 2406.00048, covariances"

# Standard errors within which an estimate agrees.
AGREE = 3.0


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Compare the covariances of every grammar.

    Returns:
        Over grammar, kind ("class, leaf", "class, tuple", "leaves, level 1", ...) and repetition
        the root mean squares ``exact``, ``measured`` and ``error`` (standard error of the
        measurement), ``deviation``: that of measured - exact in standard errors, 1 if all is well,
        and ``agreeing``: the share of entries within 3 standard errors; ``expected`` and
        ``published`` closed forms over grammar and kind. Kinds that a grammar does not have are
        NaN.
    """

    def measure(grammar: str, repetition: int) -> xr.Dataset:
        n, v, m, levels = parameters[grammar]
        seed = config.seed + repetition
        rhm = RandomHierarchyModel(
            num_classes=n, num_symbols=v, num_synonyms=m, num_levels=levels, seed=seed
        )
        data = rhm.sample(config.num_samples, seed=seed)
        tuples = rhm.rule_tables[0].find(data.leaves.reshape(len(data), -1, 2)[:, 0])
        pairs: dict[str, tuple[NDArray[np.float64], NDArray[Any], NDArray[Any]]] = {
            "class, leaf": (theory.class_covariance(rhm, 0), data.labels, data.leaves[:, 0]),
            "class, tuple": (theory.class_tuple_covariance(rhm, 0), data.labels, tuples),
        }
        for level in rhm.levels:
            other = 2 ** (level - 1)
            exact = theory.token_covariance(rhm, 0, other)
            pairs[f"leaves, level {level}"] = (exact, data.leaves[:, 0], data.leaves[:, other])
        names = ("exact", "measured", "error", "agreeing", "deviation")
        rows: dict[str, list[float]] = {key: [] for key in names}
        for kind in kinds:
            found = np.full(len(names), np.nan)
            if kind in pairs:
                exact, first, second = pairs[kind]
                estimate = theory.measured_covariance(first, second, exact.shape)
                error = standard_error(exact, first, second)
                # An entry that cannot vary has neither an error nor a deviation.
                ratio = (estimate - exact)[error > 0] / error[error > 0]
                found = np.array(
                    [
                        _rms(exact),
                        _rms(estimate),
                        _rms(error),
                        np.mean(np.abs(ratio) <= AGREE),
                        _rms(ratio),
                    ]
                )
            for row, value in zip(rows.values(), found, strict=True):
                row.append(float(value))
        return xr.Dataset({key: ("kind", row) for key, row in rows.items()}, {"kind": kinds})

    parameters = {name(grammar): grammar for grammar in config.grammars}
    deepest = max(grammar[3] for grammar in config.grammars)
    kinds = ["class, leaf", "class, tuple"]
    kinds += [f"leaves, level {level}" for level in range(1, deepest + 1)]
    result = grid(
        sweep,
        measure,
        "covariances",
        grammar=list(parameters),
        repetition=range(config.repetitions),
    )
    forms = np.array([closed_forms(grammar, kinds) for grammar in config.grammars])
    for position, form in enumerate(("expected", "published")):
        result[form] = (("grammar", "kind"), forms[:, position])
    return result


def name(grammar: tuple[int, int, int, int]) -> str:
    """A grammar as a label."""
    n, v, m, levels = grammar
    return f"n={n} v={v} m={m} L={levels}"


def closed_forms(grammar: tuple[int, int, int, int], kinds: list[str]) -> list[list[float]]:
    """Root mean squares over the draw of the rules: ours, and those published for leaves."""
    n, v, m, levels = grammar
    rhm = RandomHierarchyModel(num_classes=n, num_symbols=v, num_synonyms=m, num_levels=levels)
    nothing = [np.nan] * (len(kinds) - 2 - levels)
    ours = [theory.expected_class_covariance(rhm), theory.expected_class_tuple_covariance(rhm)]
    ours += [theory.expected_token_covariance(rhm, level) for level in rhm.levels]
    published = [np.nan, np.nan]
    published += [theory.published_token_covariance(rhm, level) for level in rhm.levels]
    return [ours + nothing, published + nothing]


def standard_error(
    covariance: NDArray[np.float64], first: NDArray[Any], second: NDArray[Any]
) -> NDArray[np.float64]:
    """Standard errors of the estimated covariances of all pairs of values, from their moments."""
    rows, columns = covariance.shape
    a = np.bincount(first, minlength=rows)[:, None] / len(first)
    b = np.bincount(second, minlength=columns)[None, :] / len(second)
    both = covariance + a * b
    fourth = (
        both * ((1 - a) * (1 - b)) ** 2
        + (a - both) * ((1 - a) * b) ** 2
        + (b - both) * (a * (1 - b)) ** 2
        + (1 - a - b + both) * (a * b) ** 2
    )
    return np.sqrt(np.maximum(fourth - covariance**2, 0.0) / len(first))


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))
