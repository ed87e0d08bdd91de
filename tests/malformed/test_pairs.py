"""Malformed pairs of samples: directions, views, labels, negatives and patches of images."""

import numpy as np
import pytest

from linlocal.pairs import Direction, Pairs
from tests.malformed.inputs import FORWARD, MATRICES, NAN, VIEW, X, called, given

INDEX, SIGN, GROUP = np.arange(2), np.array([1.0, -1.0]), np.zeros(2, int)


def direction(anchor=INDEX, reference=INDEX, sign=SIGN, group=GROUP):
    return Direction(anchor, reference, sign, group)


def views(**options):
    return Pairs.from_views(X, VIEW, **options)


TAKES_A_MATRIX = {
    "Pairs": lambda bad: Pairs(bad, (FORWARD,)),
    "Pairs.from_views": lambda bad: Pairs.from_views(X, bad),
    "Pairs.from_many_views": lambda bad: Pairs.from_many_views([X, VIEW, bad]),
    "Pairs.from_labels": lambda bad: Pairs.from_labels(bad, [0] * len(X)),
    "Pairs.from_positive_negative": lambda bad: Pairs.from_positive_negative(bad, X),
}
CASES = {
    "Direction": {
        "halves of rows": (
            lambda: direction(anchor=np.array([0.5, 1])),
            TypeError,
            "anchor must hold whole numbers, got dtype float64",
        ),
        "words": (
            lambda: direction(reference=np.array(["a", "b"])),
            TypeError,
            "reference must hold whole numbers",
        ),
        "None": (
            lambda: direction(group=None),
            TypeError,
            "group must hold whole numbers, got dtype object",
        ),
        "lengths that differ": (
            lambda: direction(anchor=np.arange(3)),
            ValueError,
            r"vectors of the same length, got shapes \(3,\), \(2,\)",
        ),
        "a matrix": (
            lambda: direction(*[np.eye(2, dtype=int)] * 4),
            ValueError,
            "vectors of the same length",
        ),
        "nothing": (
            lambda: direction(*[np.arange(0)] * 4),
            ValueError,
            "at least one positive pair",
        ),
        "a sign of 0": (
            lambda: direction(sign=np.array([1, 0])),
            ValueError,
            r"\+1 \(positive pair\) or -1",
        ),
        "a sign of nan": (
            lambda: direction(sign=np.array([1, NAN])),
            ValueError,
            r"\+1 \(positive pair\) or -1",
        ),
        "signs in words": (
            lambda: direction(sign=np.array(["+", "-"])),
            TypeError,
            "sign must hold real numbers, got dtype <U1",
        ),
        "negatives only": (
            lambda: direction(sign=-np.ones(2)),
            ValueError,
            "at least one positive pair",
        ),
        "one group twice": (
            lambda: direction(sign=np.ones(2)),
            ValueError,
            "a group number of its own",
        ),
        "a negative alone": (
            lambda: direction(group=np.arange(2)),
            ValueError,
            "that of a positive pair",
        ),
    },
    "Pairs": {
        "no directions": (lambda: Pairs(X, ()), ValueError, "Pairs need at least one direction"),
        "None for directions": (
            lambda: Pairs(X, None),
            TypeError,
            "directions must be a sequence of `Direction`s, got None",
        ),
        "rows for a direction": (
            lambda: Pairs(X, (INDEX,)),
            TypeError,
            "a direction must be a `Direction`, got a ndarray",
        ),
        "a row beyond the batch": (
            lambda: Pairs(X[:1], (direction(),)),
            ValueError,
            "names row 1 or below 0",
        ),
        "a row below 0": (
            lambda: Pairs(X, (direction(anchor=INDEX - 1),)),
            ValueError,
            "only 5 samples",
        ),
        "views of unequal length": (
            lambda: Pairs(X, (direction(),), (INDEX, INDEX[:1])),
            ValueError,
            "same shape",
        ),
        "views of halves": (
            lambda: Pairs(X, (direction(),), (INDEX * 0.5, INDEX * 0.5)),
            TypeError,
            "views must hold whole numbers, got dtype float64",
        ),
        "views beyond the batch": (
            lambda: Pairs(X, (direction(),), (INDEX, INDEX + 4)),
            ValueError,
            "two vectors of rows among 5 samples",
        ),
        "shapes that differ": (
            lambda: Pairs.from_views(X, VIEW[:3]),
            ValueError,
            r"the same shape \(samples, width\), got \(5, 4\) and \(3, 4\)",
        ),
        "positive and negative shapes that differ": (
            lambda: Pairs.from_positive_negative(X, VIEW[:2]),
            ValueError,
            r"must have the same shape \(samples, width\), got \(5, 4\) and \(2, 4\)",
        ),
        "unknown negatives": (
            lambda: views(negatives="hard"),
            ValueError,
            '"next", "stacked", "random", "all" or None, got \'hard\'',
        ),
        "a number for negatives": (
            lambda: views(negatives=3),
            ValueError,
            '"next", "stacked", "random", "all" or None, got 3',
        ),
        "unknown directions": (
            lambda: views(directions=2),
            ValueError,
            '"both" or "forward", got 2',
        ),
        "no negative": (
            lambda: views(num_negatives=0),
            ValueError,
            "num_negatives must be at least 1, got 0",
        ),
        "negative negatives": (lambda: views(num_negatives=-1), ValueError, "at least 1, got -1"),
        "half a negative": (
            lambda: views(num_negatives=1.5),
            TypeError,
            r"num_negatives must be a whole number, got 1\.5",
        ),
        "None negatives": (
            lambda: views(num_negatives=None),
            TypeError,
            "num_negatives must be a whole number, got None",
        ),
        "a bool of negatives": (
            lambda: views(num_negatives=True),
            TypeError,
            "whole number, got True",
        ),
        "too many negatives": (
            lambda: views(num_negatives=5),
            ValueError,
            "a batch of at least 6 samples, got 5",
        ),
        "no generator": (
            lambda: views(negatives="random"),
            ValueError,
            r"needs rng=np\.random\.default_rng\(seed\)",
        ),
        "a seed for a generator": (
            lambda: views(negatives="random", rng=0),
            TypeError,
            r"rng must be a Generator, np\.random\.default_rng\(seed\), got 0",
        ),
        "no images": (
            lambda: Pairs.from_image_patches(None, 2),
            TypeError,
            "images must hold real numbers",
        ),
        "complex images": (
            lambda: Pairs.from_image_patches(np.ones((2, 4, 4)) * 1j, 2),
            TypeError,
            "images must hold real numbers, got dtype complex128",
        ),
        "one image": (
            lambda: Pairs.from_image_patches(np.ones((8, 8)), 2),
            ValueError,
            r"images, height, width\), got shape \(8, 8\)",
        ),
        "half a patch": (
            lambda: Pairs.from_image_patches(np.ones((2, 4, 4)), 1.5),
            TypeError,
            "patch_size must be a whole number",
        ),
        "no patch": (
            lambda: Pairs.from_image_patches(np.ones((2, 4, 4)), 0),
            ValueError,
            "patch_size must be at least 1, got 0",
        ),
        "too large a patch": (
            lambda: Pairs.from_image_patches(np.ones((2, 8, 8)), 5),
            ValueError,
            "patch_size of at most 4",
        ),
        "nan in an image": (
            lambda: Pairs.from_image_patches(np.full((2, 4, 4), NAN), 2),
            ValueError,
            "non-finite entries",
        ),
    },
}

ALL = [*given(TAKES_A_MATRIX, MATRICES), *called(CASES)]


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_pairs(refused, call, error, message):
    refused(call, error, message)
