"""Malformed inputs of the Random Hierarchy Model: impossible parameters name the inequality."""

import numpy as np
import pytest

from linlocal import rhm
from linlocal.rhm import Grammar, corruption, encoding, images, inference, sampling, theory

SIZES = {"num_classes": 4, "num_symbols": 4, "num_synonyms": 2, "num_levels": 3}
MODEL = rhm.RandomHierarchyModel(**SIZES)
TREES = MODEL.sample(3, seed=0)
LEAVES = TREES.leaves
NAN, INF = float("nan"), float("inf")


def model(**changes):
    return rhm.RandomHierarchyModel(**(SIZES | changes))


WHOLE = "must be a whole number"
LEAST = "must be at least"
CASES = {
    "RandomHierarchyModel": {
        "m > v^(s-1)": (
            lambda: model(num_synonyms=5),
            ValueError,
            r"m <= v\^\(s-1\) is broken at level 1: 5 > 4",
        ),
        "n m > v^s": (
            lambda: model(num_classes=9),
            ValueError,
            r"n m <= v\^s is broken at level 3: 18 > 16",
        ),
        "v^s too large": (
            lambda: model(num_symbols=2**40, tuple_size=2),
            ValueError,
            r"v\^s < 2\^63 .* is broken at level 1: tuples are numbered in 64 bits",
        ),
        "no classes": (lambda: model(num_classes=0), ValueError, f"num_classes {LEAST} 1, got 0"),
        "negative symbols": (
            lambda: model(num_symbols=-4),
            ValueError,
            f"num_symbols {LEAST} 1, got -4",
        ),
        "half a synonym": (
            lambda: model(num_synonyms=1.5),
            TypeError,
            rf"num_synonyms {WHOLE}, got 1\.5",
        ),
        "no levels": (lambda: model(num_levels=0), ValueError, f"num_levels {LEAST} 1, got 0"),
        "an empty tuple": (lambda: model(tuple_size=0), ValueError, f"tuple_size {LEAST} 1, got 0"),
        "tuples of other levels": (
            lambda: model(tuple_size=[2, 2]),
            ValueError,
            "tuple_size must be one number or one for each of the 3 levels, got 2 numbers",
        ),
        "negative blanks": (
            lambda: model(num_blanks=-1),
            ValueError,
            f"num_blanks {LEAST} 0, got -1",
        ),
        "a negative exponent": (
            lambda: model(rule_exponent=-1.0),
            ValueError,
            r"rule_exponent must not be negative, got -1\.0",
        ),
        "nan of an exponent": (
            lambda: model(rule_exponent=NAN),
            ValueError,
            "rule_exponent must be finite, got nan",
        ),
        "infinite exponent": (
            lambda: model(rule_exponent=INF),
            ValueError,
            "rule_exponent must be finite, got inf",
        ),
        "exponents of other levels": (
            lambda: model(rule_exponent=[1.0]),
            ValueError,
            "each of the 3 levels, got 1 num",
        ),
        "an exponent in words": (
            lambda: model(rule_exponent="1"),
            TypeError,
            "rule_exponent must be a number, got '1'",
        ),
        "unknown placement": (
            lambda: model(placement="random"),
            ValueError,
            '"blocks" or "ordered", got \'random\'',
        ),
        "no placement": (
            lambda: model(placement=None),
            ValueError,
            '"blocks" or "ordered", got None',
        ),
        "level 0": (
            lambda: MODEL.check_level(0),
            ValueError,
            r"1\.\.3 from the leaves up, got level 0; the leaves are",
        ),
        "level L + 1": (
            lambda: MODEL.check_level(4),
            ValueError,
            r"1\.\.3 from the leaves up, got level 4",
        ),
    },
    "sampling": {
        "negative": (
            lambda: MODEL.sample(-1, seed=0),
            ValueError,
            "num must be at least 0, got -1",
        ),
        "petabytes of data": (
            lambda: MODEL.sample(10**15, seed=0),
            MemoryError,
            "Unable to allocate .* PiB",
        ),
        "a negative split": (
            lambda: MODEL.split(train=-1, test=1, seed=0),
            ValueError,
            "train must be at least 0, got -1",
        ),
        "more than there are": (
            lambda: MODEL.split(train=10**9, test=1, seed=0),
            ValueError,
            r"train \+ test <= P_max is broken: 1000000001 > 512",
        ),
        "exchange at level 0": (
            lambda: MODEL.exchange(TREES, 0, seed=0),
            ValueError,
            "got level 0",
        ),
        "exchange of no node": (
            lambda: MODEL.exchange(TREES, 3, 1, seed=0),
            ValueError,
            r"Level 3 has symbols 0\.\.0, got node 1",
        ),
        "exchange without synonyms": (
            lambda: sampling.exchange(model(num_synonyms=1), TREES, 1, None, 0),
            ValueError,
            "With num_synonyms=1 no tuple has a synonym",
        ),
        "resample above the top": (
            lambda: MODEL.resample(TREES, 4, seed=0),
            ValueError,
            "got level 4",
        ),
        "corrupt more than all": (
            lambda: MODEL.corrupt(LEAVES, 1.5, seed=0),
            ValueError,
            r"in 0\.\.1, got 1\.5",
        ),
        "corrupt nan": (
            lambda: MODEL.corrupt(LEAVES, NAN, seed=0),
            ValueError,
            r"in 0\.\.1, got nan",
        ),
        "corrupt the only symbol": (
            lambda: corruption.corrupt(
                Grammar(num_classes=1, num_symbols=1, num_synonyms=1, num_levels=1),
                [[0, 0]],
                0.5,
                0,
            ),
            ValueError,
            "With num_symbols=1 a leaf cannot be another",
        ),
    },
    "inference": {
        "leaves of another length": (
            lambda: MODEL.parse(LEAVES[:, :5]),
            ValueError,
            r"whole numbers \(data, 8\), got shape \(3, 5\)",
        ),
        "one datum": (
            lambda: MODEL.parse(LEAVES[0]),
            ValueError,
            r"whole numbers \(data, 8\), got shape \(8,\)",
        ),
        "halves": (lambda: MODEL.parse(LEAVES * 0.5), ValueError, r"got shape \(3, 8\) of float64"),
        "words": (lambda: MODEL.parse(LEAVES.astype(str)), ValueError, r"got shape \(3, 8\) of <U"),
        "None": (
            lambda: MODEL.parse(None),
            ValueError,
            r"whole numbers \(data, 8\), got shape \(\) of object",
        ),
        "too large a symbol": (
            lambda: MODEL.parse(LEAVES + 9),
            ValueError,
            r"symbols 0\.\.3, got numbers from",
        ),
        "blanks of a dense grammar": (
            lambda: MODEL.parse(LEAVES * 0 - 1),
            ValueError,
            r"symbols 0\.\.3, got numbers from -1 to -1",
        ),
        "a mask of numbers": (
            lambda: MODEL.posterior(LEAVES, np.ones(8)),
            ValueError,
            r"visible must be booleans of shape \(3, 8\) or \(8,\), got shape \(8,\) of float64",
        ),
        "a mask of another length": (
            lambda: MODEL.posterior(LEAVES, np.ones(5, bool)),
            ValueError,
            r"got shape \(5,\) of bool",
        ),
        "corruption above 1": (
            lambda: MODEL.posterior(LEAVES, corruption=2.0),
            ValueError,
            "corruption must be",
        ),
        "a visible share of 2": (
            lambda: rhm.bayes_error(MODEL, 2.0),
            ValueError,
            r"a probability or booleans \(d,\)\) must be in 0\.\.1, got 2\.0",
        ),
    },
    "images": {
        "patches that are no squares": (
            lambda: images.grid(MODEL, LEAVES),
            ValueError,
            "An image needs square patches",
        ),
        "a texture of one pixel": (
            lambda: images.textures(3, 1),
            ValueError,
            "A texture needs more than one value, got one pixel and one channel",
        ),
        "patches of other symbols": (
            lambda: images.render(MODEL, LEAVES, np.ones((3, 1, 2, 2))),
            ValueError,
            r"patches must be \(4, channels, patch, patch\), got shape \(3, 1, 2, 2\)",
        ),
    },
    "theory": {
        "level 0": (lambda: theory.token_sample_complexity(MODEL, 0), ValueError, "[Ll]evel"),
        "rules that are not uniform": (
            lambda: theory.expected_class_covariance(model(rule_exponent=1.0)),
            ValueError,
            "uniform|equally",
        ),
    },
    "numbers": {
        "None for a number": (
            lambda: model(num_classes=None),
            TypeError,
            f"num_classes {WHOLE}",
        ),
        "a word for a number": (
            lambda: model(num_classes="four"),
            TypeError,
            f"num_classes {WHOLE}",
        ),
        "nan for a number": (lambda: model(num_classes=NAN), TypeError, f"num_classes {WHOLE}"),
        "infinity for a number": (
            lambda: model(num_classes=INF),
            TypeError,
            f"num_classes {WHOLE}",
        ),
        "a bool for a number": (
            lambda: model(num_classes=True),
            TypeError,
            f"num_classes {WHOLE}",
        ),
        "one hot beyond the symbols": (
            lambda: encoding.one_hot(MODEL, LEAVES + 9),
            ValueError,
            r"symbols 0\.\.3",
        ),
        "one hot of a blank in a dense grammar": (
            lambda: encoding.one_hot(MODEL, LEAVES * 0 - 2),
            ValueError,
            r"symbols 0\.\.3",
        ),
        "half a datum": (
            lambda: MODEL.sample(1.5, seed=0),
            TypeError,
            "num must be a whole number",
        ),
        "a seed in words": (
            lambda: MODEL.sample(1, seed="0"),
            TypeError,
            "seed must be a whole number",
        ),
        "no samples": (
            lambda: inference.bayes_error(MODEL, 0.5, num_samples=0),
            ValueError,
            "num_samples must be",
        ),
    },
}
ALL = [
    pytest.param(*case, id=f"{name}: {what}")
    for name, table in CASES.items()
    for what, case in table.items()
]


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_input_of_the_hierarchy(refused, call, error, message):
    refused(call, error, message)
