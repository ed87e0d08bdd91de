"""Malformed rules and their parts: penalties, losses and scores."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from linlocal import losses, rules
from linlocal.losses import scores
from linlocal.rules import Penalty, Rule
from tests.malformed.inputs import INF, NAN, POSITIVE, RULE, SEEDS, VIEW, X, called, given

TAKES_A_SEED = {"Rule": lambda bad: replace(RULE, seed=bad)}
TAKES_A_POSITIVE = {
    "Penalty": Penalty,
    "losses.InfoNCE": losses.InfoNCE,
    "losses.NTXent": losses.NTXent,
    "losses.CosineInfoNCE": losses.CosineInfoNCE,
    "losses.LogDet": lambda bad: losses.LogDet(epsilon=bad),
    "losses.SlicedNormality": lambda bad: losses.SlicedNormality(limit=bad),
    "losses.VICReg": lambda bad: losses.VICReg(epsilon=bad),
    "losses.BarlowTwins": lambda bad: losses.BarlowTwins(epsilon=bad),
    "losses.LPL": lambda bad: losses.LPL(epsilon=bad),
}
CASES = {
    "Penalty": {
        "no layers": (lambda: Penalty(()), ValueError, r"positive and finite, got \(\)"),
        "a matrix": (
            lambda: Penalty(np.ones((2, 2))),
            TypeError,
            "penalty must be a number, got a ndarray",
        ),
        "one layer negative": (
            lambda: Penalty((0.1, -0.1)),
            ValueError,
            r"positive and finite, got \(0\.1, -0\.1\)",
        ),
        "one layer in words": (
            lambda: Penalty((0.1, "b")),
            TypeError,
            "penalty must be a number, got 'b'",
        ),
        "unknown metric": (
            lambda: Penalty(0.1, "euclid"),
            ValueError,
            "frobenius, downstream, got 'euclid'",
        ),
        "no metric": (lambda: Penalty(0.1, None), ValueError, "frobenius, downstream, got None"),
    },
    "Rule": {
        "no loss": (
            lambda: Rule("r", None),
            TypeError,
            "NoneType is no loss: it needs contrasts, value",
        ),
        "a name for a loss": (
            lambda: Rule("r", "hinge"),
            TypeError,
            "str is no loss: it needs contrasts",
        ),
        "unknown context": (
            lambda: replace(RULE, context="bottom"),
            ValueError,
            "same, top, both, .* got 'bottom'",
        ),
        "unknown projection": (
            lambda: replace(RULE, projection="best"),
            ValueError,
            "optimal, identity, .* got 'best'",
        ),
        "parts that do not fit": (
            lambda: Rule("r", losses.VICReg()),
            ValueError,
            "A view loss goes with context views",
        ),
        "identity of two": (
            lambda: replace(RULE, context="both", projection="identity"),
            ValueError,
            "needs one context",
        ),
        "no penalty": (
            lambda: replace(RULE, penalty=None),
            TypeError,
            "penalty must be a number, got None",
        ),
        "half a window": (
            lambda: replace(RULE, pooling=(1.5, 1)),
            TypeError,
            "an entry of pooling must be a whole number, got 1.5",
        ),
        "a window of 0": (
            lambda: replace(RULE, pooling=(0, 1)),
            ValueError,
            "an entry of pooling must be at least 1, got 0",
        ),
        "one window for all": (
            lambda: replace(RULE, pooling=2),
            TypeError,
            "pooling must be a sequence of whole numbers.*got 2",
        ),
    },
    "rules": {
        "unknown rule": (
            lambda: rules.from_name("CLAP"),
            ValueError,
            r"Unknown rule 'CLAP'; did you mean 'CLAPP'\? known rules are CLAPP, ",
        ),
        "no name": (
            lambda: rules.from_name(None),
            ValueError,
            "Unknown rule None; known rules are",
        ),
        "unknown option": (
            lambda: rules.from_name("CLAPP", marge=1),
            TypeError,
            "unexpected keyword argument 'marge'",
        ),
        "unknown score": (
            lambda: rules.CLAPP("hing"),
            ValueError,
            "Unknown score 'hing'; known scores are linear,",
        ),
        "no score": (
            lambda: rules.CLAPP(None),
            TypeError,
            "the methods value, slope and curvature; NoneType",
        ),
        "unknown weight": (
            lambda: rules.VICReg(weight=1.0),
            TypeError,
            "unexpected keyword argument 'weight'",
        ),
        "nan of a threshold": (
            lambda: rules.ForwardForward(NAN),
            ValueError,
            "threshold must be finite, got nan",
        ),
        "a threshold in words": (
            lambda: rules.SCFF("1"),
            TypeError,
            "threshold must be a number, got '1'",
        ),
    },
    "losses": {
        "nan of a weight": (
            lambda: losses.Whitening(NAN),
            ValueError,
            "weight must be finite, got nan",
        ),
        "infinite weight": (
            lambda: losses.BarlowTwins(INF),
            ValueError,
            "weight must be finite, got inf",
        ),
        "a weight in words": (
            lambda: losses.LogDet("1"),
            TypeError,
            "weight must be a number, got '1'",
        ),
        "no weight": (
            lambda: losses.VICReg(None),
            TypeError,
            "invariance must be a number, got None",
        ),
        "nan of a decorrelation": (
            lambda: losses.LPL(decorrelation=NAN),
            ValueError,
            "decorrelation must be finite",
        ),
        "no score": (
            lambda: losses.TypeTwo(None),
            TypeError,
            "A score needs .* value, slope and curvature; NoneType",
        ),
        "a name for a score": (
            lambda: losses.TypeOne("hinge"),
            TypeError,
            "A score needs .* slope and curvature; str",
        ),
        "one sample": (
            lambda: losses.VICReg().value(X[:1], VIEW[:1]),
            ValueError,
            "at least 2 samples, got 1",
        ),
    },
    "scores": {
        "nan of a margin": (
            lambda: scores.Softplus(NAN),
            ValueError,
            "margin must be finite, got nan",
        ),
        "nan of a smoothed margin": (
            lambda: scores.SmoothedHinge(NAN),
            ValueError,
            "margin must be finite, got nan",
        ),
        "infinite margin": (
            lambda: scores.Hinge(INF),
            ValueError,
            "margin must be finite, got inf",
        ),
        "a width of 0": (
            lambda: scores.SmoothedHinge(width=0.0),
            ValueError,
            r"finite width > 0, got 0\.0; use Hinge",
        ),
        "unknown": (
            lambda: scores.from_name("softmax"),
            ValueError,
            "Unknown score 'softmax'; known scores are",
        ),
        "half a score": (
            lambda: scores.from_name(SimpleNamespace(value=abs, slope=abs)),
            TypeError,
            "SimpleNamespace lacks at least one of them",
        ),
    },
}

ALL = [*given(TAKES_A_SEED, SEEDS), *given(TAKES_A_POSITIVE, POSITIVE), *called(CASES)]


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_rule(refused, call, error, message):
    refused(call, error, message)
