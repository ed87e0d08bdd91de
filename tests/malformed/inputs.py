"""What the malformed inputs of linlocal share: a small question, and tables of bad values.

A table maps the name of a case to what is given, the error that it must raise and its message.
"""

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import pytest

import linlocal as ll
from linlocal import rules, testing
from linlocal.pairs import Pairs

X, VIEW = testing.samples(5, 4, 0)
NET = ll.DeepLinear.uniform([4, 3, 2], 0)
RELU = ll.DeepReLU.uniform([4, 3, 2], 0)
FORWARD = Pairs.from_views(X, VIEW, directions="forward").directions[0]
RULE = rules.CLAPP("softplus")
FAR = np.broadcast_to(1.0, (10**8, 10**8))  # takes no memory, a copy of it would take 71 PiB
NAN, INF = float("nan"), float("inf")


def with_entry(value):
    """The samples with one entry replaced."""
    array = X.astype(np.result_type(X, type(value)) if value is not None else object)
    array[2, 1] = value
    return array


MATRICES = {
    "None": (None, TypeError, "must hold real numbers, got dtype object"),
    "a word": ("abc", TypeError, "must hold real numbers, got dtype <U3"),
    "words": ([["a", "b"], ["c", "d"]], TypeError, "must hold real numbers, got dtype <U1"),
    "complex": (X * 1j, TypeError, "must hold real numbers, got dtype complex128"),
    "objects": (with_entry(None), TypeError, "must hold real numbers, got dtype object"),
    "dates": (X.astype("datetime64[s]"), TypeError, r"real numbers, got dtype datetime64\[s\]"),
    "a number": (3.0, ValueError, r"must be a matrix .* got shape \(\)"),
    "a vector": (X[0], ValueError, r"got shape \(4,\); reshape a single sample to \(1, -1\)"),
    "three dimensions": (X[None], ValueError, r"must be a matrix .* got shape \(1, 5, 4\)"),
    "no rows": (X[:0], ValueError, r"is empty: shape \(0, 4\)"),
    "no columns": (X[:, :0], ValueError, r"is empty: shape \(5, 0\)"),
    "nan": (with_entry(NAN), ValueError, r"1 non-finite entries, the first at index \(2, 1\)"),
    "infinity": (with_entry(INF), ValueError, r"1 non-finite entries, the first at index \(2, 1\)"),
    "a nan of half precision": (
        with_entry(NAN).astype(np.float16),
        ValueError,
        r"1 non-finite entries, the first at index \(2, 1\)",
    ),
    "petabytes": (FAR, MemoryError, r"Unable to allocate .* PiB for an array with shape"),
}
SEEDS = {
    "negative": (-1, ValueError, "seed must be at least 0, got -1"),
    "half": (0.5, TypeError, r"seed must be a whole number, got 0\.5"),
    "a word": ("one", TypeError, "seed must be a whole number, got 'one'"),
    "None": (None, TypeError, "seed must be a whole number, got None"),
    "a bool": (True, TypeError, "seed must be a whole number, got True"),
}
POSITIVE = {
    "zero": (0.0, ValueError, "must be (positive and finite|a positive number), got 0.0"),
    "negative": (-1.0, ValueError, "must be (positive and finite|a positive number), got -1.0"),
    "nan": (NAN, ValueError, "must be (positive and finite|a positive number), got nan"),
    "infinity": (INF, ValueError, "must be (positive and finite|a positive number), got inf"),
    "None": (None, TypeError, "must be a number, got None"),
    "a word": ("0.1", TypeError, r"must be a number, got '0\.1'"),
    "complex": (1j, TypeError, "must be a number, got 1j"),
    "a bool": (True, TypeError, "must be a number, got True"),
}


def given(entries: Mapping[str, Callable], table: Mapping[str, tuple]) -> list:
    """Every bad value of the table, given to every entry point that takes such a value."""
    return [
        pytest.param(lambda e=entry, b=bad: e(b), error, message, id=f"{name}: {case}")
        for (name, entry), (case, (bad, error, message)) in product(entries.items(), table.items())
    ]


def called(cases: Mapping[str, Mapping[str, tuple]]) -> list:
    """Cases that are calls already, by the name of what they call."""
    return [
        pytest.param(*case, id=f"{name}: {what}")
        for name, table in cases.items()
        for what, case in table.items()
    ]
