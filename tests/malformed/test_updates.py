"""Malformed questions: networks, pairs and rules that do not go together, and what asks them."""

from dataclasses import replace

import numpy as np
import pytest

import linlocal as ll
from linlocal import autodiff, losses, rules, testing
from linlocal.losses import scores
from linlocal.pairs import Pairs
from linlocal.rules import Penalty, Rule
from tests.malformed.inputs import (
    FORWARD,
    MATRICES,
    NET,
    POSITIVE,
    RELU,
    RULE,
    SEEDS,
    VIEW,
    X,
    called,
    given,
)

PAIRS = Pairs.from_views(X, VIEW)
ALONE = Pairs.from_views(X, VIEW, negatives=None)
TWO = losses.TypeTwo(scores.Softplus())

SETTINGS = {
    "no network": (
        (None, PAIRS, RULE),
        TypeError,
        "network must be a `DeepLinear` or `DeepReLU`, got None",
    ),
    "weights for a network": (
        ([np.eye(4)], PAIRS, RULE),
        TypeError,
        "network must be .* got a list",
    ),
    "no pairs": ((NET, None, RULE), TypeError, "pairs must be a `Pairs`, made by .*, got None"),
    "samples for pairs": (
        (NET, X, RULE),
        TypeError,
        "pairs must be a `Pairs`, made by .*, got a ndarray",
    ),
    "no rule": ((NET, PAIRS, None), TypeError, "rule must be a `Rule`, made by .*, got None"),
    "a name for a rule": (
        (NET, PAIRS, "CLAPP"),
        TypeError,
        "rule must be a `Rule`, made by .*, got 'CLAPP'",
    ),
    "a rule that was not called": (
        (NET, PAIRS, rules.CLAPP),
        TypeError,
        "rule must be a `Rule`, made by .*, got a function",
    ),
    "no negatives": (
        (NET, ALONE, RULE),
        ValueError,
        "negative.* but this pair set has none|The pairs have no negatives, but the rule",
    ),
    "samples of another width": (
        (NET, Pairs.from_views(X[:, :3], VIEW[:, :3]), RULE),
        ValueError,
        "reads 4 features, but the samples have 3",
    ),
    "a rule of another kind of pairs": (
        (NET, Pairs.from_positive_negative(X, VIEW), rules.VICReg()),
        ValueError,
        "VICReg compares two views; (build the pairs with|use) Pairs.from_views",
    ),
    "penalties for other layers": (
        (NET, PAIRS, rules.CLAPP("softplus", penalty=Penalty((1.0, 1.0, 1.0)))),
        ValueError,
        "3 penalty strengths for a network of 2 layers",
    ),
}
TAKES_A_SETTING = {
    "compare": ll.compare,
    "explain": ll.explain,
    "local_update": ll.local_update,
    "global_update": ll.global_update,
    "mismatch": lambda *setting: ll.mismatch(*setting, layer=1),
    "loss_values": ll.loss_values,
    "autodiff.local_update": autodiff.local_update,
    "autodiff.global_update": autodiff.global_update,
}


def solve(z=X, c=VIEW, pairs=FORWARD, loss=TWO, penalty=0.1, **options):
    return ll.optimal_projection(z, c, pairs, loss, penalty, **options)


TAKES_A_MATRIX = {"optimal_projection": lambda bad: solve(c=bad)}
TAKES_A_SEED = {"testing.samples": lambda bad: testing.samples(4, 3, bad)}
TAKES_A_POSITIVE = {"optimal_projection": lambda bad: solve(penalty=bad)}
CASES = {
    "optimal_projection": {
        "too few rows": (
            lambda: solve(z=X[:3]),
            ValueError,
            "z has 3 rows, but the pairs use 5 different samples",
        ),
        "too few contexts": (
            lambda: solve(c=VIEW[:3]),
            ValueError,
            "c has 3 rows, but the pairs use 5",
        ),
        "all pairs for one direction": (
            lambda: solve(pairs=PAIRS),
            TypeError,
            "pairs must be a `Direction`, one of .* got a Pairs",
        ),
        "no pairs": (
            lambda: solve(pairs=None),
            TypeError,
            "pairs must be a `Direction`, one of .* got None",
        ),
        "no loss": (lambda: solve(loss=None), TypeError, "loss must be a `PairLoss`: .* got None"),
        "a view loss": (
            lambda: solve(loss=losses.VICReg()),
            TypeError,
            "loss must be a `PairLoss`: .* got a VICReg",
        ),
        "no negatives": (
            lambda: solve(pairs=ALONE.directions[0]),
            ValueError,
            'negatives="next" or negatives="random"',
        ),
        "unknown method": (
            lambda: solve(method="sgd"),
            ValueError,
            "one of auto, dual, primal, iterative, got 'sgd'",
        ),
    },
    "local_update": {
        "a penalty in a metric of no map": (
            lambda: ll.local_update(RELU, PAIRS, RULE.with_penalty(0.1, "downstream")),
            ValueError,
            "one downstream map for all samples: a linear network",
        ),
        "a matched projection of a relu": (
            lambda: ll.local_update(RELU, PAIRS, replace(RULE, projection="matched")),
            ValueError,
            "one downstream map for all samples: a linear network",
        ),
        "views for single samples": (
            lambda: ll.local_update(NET, PAIRS, rules.ForwardForward()),
            ValueError,
            "judges single samples; build the pairs with Pairs.from_positive_negative",
        ),
        "pooling of two views": (
            lambda: ll.local_update(NET, PAIRS, replace(rules.VICReg(), pooling=(1, 1))),
            ValueError,
            "Pooling is defined for losses of scored pairs only",
        ),
        "the identity onto another width": (
            lambda: ll.local_update(NET, PAIRS, Rule("r", TWO, "top", "identity")),
            ValueError,
            r"needs layers of equal width, got \[3, 2\]",
        ),
        "pooling of a vector": (
            lambda: ll.local_update(NET, PAIRS, replace(RULE, pooling=(2, 1))),
            ValueError,
            "Layer 1 has no feature map to pool; its window must be 1",
        ),
    },
    "global_update": {
        "unknown masks": (
            lambda: ll.global_update(RELU, PAIRS, RULE, masks="all"),
            ValueError,
            '"sample", "batch" or "none", got \'all\'',
        ),
    },
    "projections": {
        "no network": (
            lambda: ll.projections(None, PAIRS, RULE),
            TypeError,
            "network must be a `DeepLinear` or `DeepReLU`, got None",
        ),
        "no rule": (
            lambda: ll.projections(NET, PAIRS, None),
            TypeError,
            "rule must be a `Rule`, made by .*, got None",
        ),
        "a loss of views": (
            lambda: ll.projections(NET, PAIRS, rules.VICReg()),
            TypeError,
            "VICReg has no projections: its loss is of views",
        ),
    },
    "mismatch": {
        "layer 0": (
            lambda: ll.mismatch(NET, PAIRS, RULE, 0),
            ValueError,
            "got layer 0; the input is not a layer",
        ),
        "layer L + 1": (lambda: ll.mismatch(NET, PAIRS, RULE, 3), ValueError, "got layer 3"),
        "no layer": (
            lambda: ll.mismatch(NET, PAIRS, RULE, None),
            TypeError,
            "layer must be a whole number, got None",
        ),
        "a layer and a half": (
            lambda: ll.mismatch(NET, PAIRS, RULE, 1.5),
            TypeError,
            r"layer must be a whole number, got 1\.5",
        ),
        "a loss without dual": (
            lambda: ll.mismatch(NET, PAIRS, rules.VICReg(), 1),
            ValueError,
            "VICReg is a loss of two views, which has no dual form",
        ),
    },
    "compare": {
        "pooling of another depth": (
            lambda: ll.compare(NET, PAIRS, replace(RULE, pooling=(1,))),
            ValueError,
            "pooling has 1 windows for 2 layers",
        ),
    },
    "sweep": {
        "one network without a list": (
            lambda: ll.sweep(NET, [PAIRS], [RULE]),
            TypeError,
            "networks must be",
        ),
        "no rule": (lambda: ll.sweep([NET], [PAIRS], []), ValueError, "rule"),
        "workers by halves": (
            lambda: ll.sweep([NET], [PAIRS], [RULE], workers=1.5),
            TypeError,
            r"workers must be a whole number, got 1\.5",
        ),
        "a penalty of nothing": (
            lambda: ll.sweep([NET], [PAIRS], [RULE], penalties=[0.0]),
            ValueError,
            "penalty must be positive and finite",
        ),
    },
    "dynamics": {
        "a rate of the other sign": (
            lambda: ll.dynamics.simulate(NET, PAIRS, rules.SpectralContrastive(), rate=-1, steps=1),
            ValueError,
            "rate",
        ),
        "half a step": (
            lambda: ll.dynamics.simulate(
                NET, PAIRS, rules.SpectralContrastive(), rate=0.1, steps=0.5
            ),
            TypeError,
            r"steps must be a whole number, got 0\.5",
        ),
        "a network that is not linear": (
            lambda: ll.dynamics.simulate(
                ll.DeepReLU.uniform([6, 4, 4]), PAIRS, rules.SpectralContrastive(), rate=1, steps=1
            ),
            TypeError,
            "DeepLinear",
        ),
        "moments of other shapes": (
            lambda: ll.dynamics.Moments.of_views(np.eye(2), np.eye(3), np.eye(2)),
            ValueError,
            "shape",
        ),
    },
    "explain": {
        "unknown remedy": (
            lambda: ll.explain(NET, PAIRS, RULE).remedy("prayer"),
            ValueError,
            "'prayer' does not restore exactness here; remedies: ",
        ),
    },
    "autodiff": {
        "layer 0": (lambda: autodiff.loss(NET, PAIRS, RULE, 0), ValueError, "got layer 0"),
    },
    "testing": {
        "unknown dtype": (
            lambda: testing.tolerance("float8"),
            ValueError,
            "Unknown dtype 'float8'; known are float64",
        ),
        "no samples": (
            lambda: testing.samples(0, 3, 0),
            ValueError,
            "num_samples must be at least 1, got 0",
        ),
        "negative width": (
            lambda: testing.samples(3, -1, 0),
            ValueError,
            "width must be at least 1, got -1",
        ),
        "petabytes": (
            lambda: testing.samples(10**8, 10**8, 0),
            MemoryError,
            "takes .* this machine has",
        ),
        "more than the same": (
            lambda: testing.samples(3, 2, 0, similarity=2.0),
            ValueError,
            r"similarity must be .* 0\.\.1, got 2\.0",
        ),
        "a condition number below 1": (
            lambda: testing.samples(3, 2, 0, condition_number=0.5),
            ValueError,
            r"condition_number must be at least 1, got 0\.5",
        ),
    },
}

ALL = [
    *given(TAKES_A_MATRIX, MATRICES),
    *given(TAKES_A_SEED, SEEDS),
    *given(TAKES_A_POSITIVE, POSITIVE),
    *given(
        {name: lambda setting, ask=ask: ask(*setting) for name, ask in TAKES_A_SETTING.items()},
        SETTINGS,
    ),
    *called(CASES),
]


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_question(refused, call, error, message):
    refused(call, error, message)
