"""Malformed input of what reads: probes, the explorer, what results say of themselves."""

import pytest
import xarray as xr

from linlocal.analysis.explore import Setting, cosines
from linlocal.analysis.probing import linear_probe, probe_blocks
from linlocal.analysis.results import Address, Provenance, ResultError
from tests.malformed.inputs import INF, NAN, called
from tests.malformed.instruments import NAMES, NET, VIEWS, X, Y


def probe(x=X, y=Y, test_x=X, test_y=Y, **options):
    return linear_probe(x, y, test_x, test_y, **{"seed": 0, **options})


def spoilt(value):
    x = X.copy()
    x[3, 1] = value
    return x


CASES = {
    "linear_probe": {
        "a vector": (
            lambda: probe(x=X[:, 0]),
            ValueError,
            r"training needs features .* got features of shape \(20,\)",
        ),
        "labels that are missing": (lambda: probe(y=Y[:5]), ValueError, r"labels of shape \(5,\)"),
        "nothing": (lambda: probe(X[:0], Y[:0]), ValueError, r"got features of shape \(0, 3\)"),
        "nan": (
            lambda: probe(spoilt(NAN)),
            ValueError,
            "1 of 20 training samples have features that are NaN or inf",
        ),
        "infinity in the test": (
            lambda: probe(test_x=spoilt(INF)),
            ValueError,
            "1 of 20 test samples",
        ),
        "halves for labels": (
            lambda: probe(y=Y * 0.5),
            ValueError,
            "labels must be whole numbers, got float64",
        ),
        "other features in the test": (
            lambda: probe(test_x=X[:, :2]),
            ValueError,
            "3 features in training, but 2 in the test",
        ),
        "an unseen label": (
            lambda: probe(test_y=Y + 1),
            ValueError,
            r"Test labels \[2\] never occur in training",
        ),
        "unknown kind": (
            lambda: probe(kind="svm"),
            ValueError,
            '"ridge" or "logistic", got \'svm\'',
        ),
        "no strengths": (
            lambda: probe(strengths=()),
            ValueError,
            r"strengths must be positive numbers, got \(\)",
        ),
        "a strength of 0": (
            lambda: probe(strengths=(0.0,)),
            ValueError,
            r"must be positive numbers, got \(0\.0,\)",
        ),
        "nothing held out": (
            lambda: probe(validation=0.0),
            ValueError,
            r"must lie between 0 and 1, got 0\.0",
        ),
        "too little held out": (
            lambda: probe(validation=0.001),
            ValueError,
            "less than one sample: nothing is left",
        ),
        "words": (
            lambda: probe(x=X.astype(str)),
            TypeError,
            "training features must hold real numbers, got dtype <U32",
        ),
        "complex features": (lambda: probe(x=X * 1j), TypeError, "must hold real numbers"),
    },
    "probe_blocks": {
        "unknown block": (
            lambda: probe_blocks(NET, ["layer9"], [(VIEWS, VIEWS)], [], seed=0),
            ValueError,
            "has no submodule 'layer9'",
        ),
        "no batches": (
            lambda: probe_blocks(NET, NAMES, [], [], seed=0),
            ValueError,
            "Nothing to probe: the training loader gave no batch",
        ),
    },
    "explore": {
        "unknown rule": (
            lambda: cosines(Setting(rule="CLAP")),
            ValueError,
            "same layer, direct feedback, both, got 'CLAP'",
        ),
        "unknown score": (
            lambda: cosines(Setting(score="soft")),
            ValueError,
            "Unknown score 'soft'; known scores",
        ),
        "no penalty": (
            lambda: cosines(Setting(penalty=0.0)),
            ValueError,
            "positive and finite, got 0.0",
        ),
        "one layer": (lambda: cosines(Setting(depth=1)), ValueError, "needs at least two layers"),
        "one sample": (
            lambda: cosines(Setting(samples=1)),
            ValueError,
            "at least 2 samples, got 1",
        ),
    },
    "Provenance": {
        "nothing of a run": (
            lambda: Provenance.of(xr.Dataset()),
            ResultError,
            "lacks the attributes experiment, preset",
        ),
        "a newer schema": (
            lambda: Provenance.of(xr.Dataset(attrs={"schema": 99})),
            ResultError,
            "schema 99 is newer than 2",
        ),
        "unknown preset": (
            lambda: Address("e", "cp", 0, "."),
            ResultError,
            "unknown preset 'cp'; did you mean 'cpu'",
        ),
    },
}

ALL = called(CASES)


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_input_of_what_reads(left_alone, call, error, message):
    left_alone(call, error, message)
