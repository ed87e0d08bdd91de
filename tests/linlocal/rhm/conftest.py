"""The slow, obvious Random Hierarchy Model: every tree, written out by recursion."""

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import pytest

from linlocal.rhm import RandomHierarchyModel

CASES = {
    "binary": {"num_classes": 3, "num_symbols": 4, "num_synonyms": 2, "num_levels": 2},
    "one level": {"num_classes": 3, "num_symbols": 3, "num_synonyms": 3, "num_levels": 1},
    "triples": {
        "num_classes": 2,
        "num_symbols": 3,
        "num_synonyms": 3,
        "num_levels": 2,
        "tuple_size": 3,
    },
    "mixed sizes": {
        "num_classes": 3,
        "num_symbols": 4,
        "num_synonyms": 2,
        "num_levels": 2,
        "tuple_size": (2, 3),
    },
    "deep": {"num_classes": 2, "num_symbols": 3, "num_synonyms": 2, "num_levels": 3},
    "all tuples": {"num_classes": 3, "num_symbols": 3, "num_synonyms": 3, "num_levels": 2},
    "zipf": {
        "num_classes": 2,
        "num_symbols": 3,
        "num_synonyms": 3,
        "num_levels": 2,
        "rule_exponent": (1.5, 0.5),
    },
    "blocks": {
        "num_classes": 2,
        "num_symbols": 3,
        "num_synonyms": 2,
        "num_levels": 2,
        "num_blanks": 1,
    },
    "ordered": {
        "num_classes": 2,
        "num_symbols": 3,
        "num_synonyms": 2,
        "num_levels": 2,
        "num_blanks": 1,
        "placement": "ordered",
        "rule_exponent": 1.0,
    },
    "given": {
        "num_classes": 2,
        "num_symbols": 2,
        "num_synonyms": 2,
        "num_levels": 2,
        "class_weights": (1.0, 2.0),
        "rule_weights": ((4, 1), ((1, 2), (3, 1))),
        "given_rules": (
            (((0, 1), (1, 0)), ((0, 0), (1, 1))),
            (((0, 0), (0, 1)), ((1, 1), (1, 0))),
        ),
    },
    "uneven levels": {
        "num_classes": 2,
        "num_symbols": (5, 2, 3),
        "num_synonyms": (4, 1, 3),
        "num_levels": 3,
        "class_weights": (1.0, 3.0),
    },
    "uneven and sparse": {
        "num_classes": 2,
        "num_symbols": (2, 3),
        "num_synonyms": (1, 2),
        "num_levels": 2,
        "num_blanks": 1,
        "rule_weights": ((1,), ((1, 2), (2, 1))),
    },
}


@dataclass
class Written:
    """All data: for each level (data, places of the level), -1 for a blank; their probabilities."""

    levels: list
    probability: np.ndarray

    @property
    def leaves(self):
        return self.levels[0]

    @property
    def labels(self):
        return self.levels[-1][:, 0]


def write(grammar, level, symbol, corruption=None):
    """All ways to write a symbol: (for the levels 0..level, a tuple of symbols), probability.

    ``corruption`` has for inner levels the probability that another symbol takes a symbol's place.
    """
    corruption = corruption or {}
    if symbol == -1:
        sizes = [prod(grammar.patch_sizes[l:level]) for l in range(level + 1)]
        yield [(-1,) * size for size in sizes], 1.0
    elif level == 0:
        yield [(symbol,)], 1.0
    else:
        size = grammar.patch_sizes[level - 1]
        places = grammar.placements[level - 1]
        rules = grammar.rules[level - 1]
        probability = np.broadcast_to(grammar.rule_probabilities[level - 1], rules.shape[:2])
        for k, place in product(range(rules.shape[1]), places):
            patch = [-1] * size
            for child, where in zip(rules[symbol, k], place, strict=True):
                patch[where] = int(child)
            here = probability[symbol, k] / len(places)
            ways = [
                [
                    (levels, share * p)
                    for other, share in replaced(grammar, level - 1, child, corruption)
                    for levels, p in write(grammar, level - 1, other, corruption)
                ]
                for child in patch
            ]
            for below in product(*ways):
                joined = [sum(parts, ()) for parts in zip(*(b[0] for b in below), strict=True)]
                yield [*joined, (symbol,)], here * prod(b[1] for b in below)


def replaced(grammar, level, symbol, corruption):
    """What can take the place of a symbol, with its probability."""
    p = corruption.get(level, 0.0)
    if symbol == -1 or p == 0:
        return [(symbol, 1.0)]
    v = grammar.num_values(level)
    return [(other, 1 - p if other == symbol else p / (v - 1)) for other in range(v)]


@pytest.fixture(scope="session")
def written():
    """``written(grammar, corruption)``: all data of a small grammar, by recursion."""

    def make(grammar, corruption=None):
        trees, probability = [], []
        for label in range(grammar.num_classes):
            for levels, p in write(grammar, grammar.num_levels, label, corruption):
                trees.append(levels)
                probability.append(p * grammar.class_probabilities[label])
        return Written([np.array(l) for l in zip(*trees, strict=True)], np.array(probability))

    return make


@pytest.fixture(params=CASES)
def rhm(request):
    """A small model of each kind."""
    return RandomHierarchyModel(**CASES[request.param], seed=3)


@pytest.fixture
def standard():
    """The model that others time their generators with."""
    return RandomHierarchyModel(
        num_classes=16, num_symbols=16, num_synonyms=8, tuple_size=2, num_levels=4, seed=0
    )
