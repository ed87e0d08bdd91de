"""Random generators and seeds that are functions of a purpose and of several numbers.

Hashed, because numpy pads its seeds: to it (5,) and (5, 0) are the same, and so are one seed of 33
bits and two seeds.
"""

from __future__ import annotations

import hashlib

import numpy as np

from linlocal.inputs import whole


def generator_for(purpose: str, *seeds: int) -> np.random.Generator:
    """A generator of its own for each purpose and seeds: equal seeds make unrelated draws."""
    name = repr((purpose, *(whole(seed, "seed") for seed in seeds)))
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def seed_for(*key: int) -> int:
    """A seed of 63 bits for torch that is a function of several numbers, none of them negative."""
    name = repr(tuple(whole(each, "seed", 0) for each in key))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
