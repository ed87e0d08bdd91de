"""Random generators and seeds that are functions of a purpose or of several numbers.

The numbers are hashed, because numpy pads its seeds: it takes (5,) and (5, 0) for the same seed,
and a seed of 33 bits for two seeds.
"""

from __future__ import annotations

import hashlib

import numpy as np

from linlocal.inputs import whole


def generator_for(purpose: str, *seeds: int) -> np.random.Generator:
    """A numpy generator; the same seeds give unrelated draws for different purposes.

    Args:
        purpose: what the draws are for.
        seeds: whole numbers, any count.

    Raises:
        TypeError: a seed is not a whole number.
    """
    name = repr((purpose, *(whole(seed, "seed") for seed in seeds)))
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def seed_for(*key: int) -> int:
    """A seed of 63 bits for torch, a function of several numbers.

    Args:
        key: whole numbers, none of them negative, any count.

    Raises:
        TypeError: a number is not whole.
        ValueError: a number is negative.
    """
    name = repr(tuple(whole(each, "seed", 0) for each in key))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
