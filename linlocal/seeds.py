"""Random generators and seeds that are functions of a purpose and of several numbers."""

from __future__ import annotations

import hashlib

import numpy as np

from linlocal.inputs import whole


def stream(purpose: str, *seeds: int) -> np.random.Generator:
    """A generator of its own for each purpose and seeds: equal seeds make unrelated draws.

    Hashed, because numpy pads its seeds: to it (5,) and (5, 0) are the same, and so are one seed of
    33 bits and two seeds.
    """
    name = repr((purpose, *(whole(seed, "seed") for seed in seeds)))
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def number(*key: int) -> int:
    """A seed for torch that is a function of several numbers, none of them negative."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
