"""Malformed questions to the exact proofs."""

import pytest

from linlocal import rules, symbolic
from linlocal.symbolic import NotApplicable

CASES = {
    "unknown theorem": (
        lambda: symbolic.prove("isometri"),
        ValueError,
        "Unknown theorem 'isometri'; known theorems are",
    ),
    "no theorem": (
        lambda: symbolic.theorem(None),
        ValueError,
        "Unknown theorem None; known theorems are",
    ),
    "unknown hypothesis": (
        lambda: symbolic.prove("isometry", without="luck"),
        ValueError,
        "Theorem 'isometry' has no hypothesis 'luck'; it has",
    ),
    "no layers": (
        lambda: symbolic.prove("isometry", widths=(2,)),
        NotApplicable,
        "no layer below the top one",
    ),
    "wide layers": (
        lambda: symbolic.prove("isometry", widths=(2, 99, 99)),
        NotApplicable,
        r"for whole widths 1\.\.4, got \(2, 99, 99\)",
    ),
    "a width of 0": (
        lambda: symbolic.prove("isometry", widths=(2, 0, 2)),
        NotApplicable,
        r"1\.\.4, got \(2, 0, 2\)",
    ),
    "no pairs": (
        lambda: symbolic.prove("isometry", widths=(2, 2, 2), num_pairs=0),
        NotApplicable,
        r"for 1\.\.4 pairs, got 0",
    ),
    "too many pairs": (
        lambda: symbolic.prove("isometry", widths=(2, 2, 2), num_pairs=99),
        NotApplicable,
        r"for 1\.\.4 pairs, got 99",
    ),
    "a witness of no theorem": (
        lambda: symbolic.counterexample("no", without="luck"),
        ValueError,
        "Unknown theorem 'no'",
    ),
    "a witness without luck": (
        lambda: symbolic.counterexample("isometry", without="luck"),
        ValueError,
        "has no hypothesis 'luck'",
    ),
    "a rule it is not about": (lambda: symbolic.derive(rules.VICReg()), NotApplicable, "VICReg"),
}


@pytest.mark.parametrize("case", CASES)
def test_malformed_question_to_the_proofs(refused, case):
    refused(*CASES[case])
