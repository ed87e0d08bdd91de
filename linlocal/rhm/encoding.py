"""Leaves as numbers that a network reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from linlocal.rhm.grammar import Grammar


def one_hot(
    grammar: Grammar, leaves: ArrayLike, *, centred: bool = False, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """(data, v, d): channel a is 1 where the leaf is the symbol a; a blank is 0 in all channels.

    Args:
        grammar: the rules.
        leaves: (data, d).
        centred: subtract 1/v and divide by the standard deviation sqrt((1 - 1/v)/v), so that each
            channel has mean 0 and variance 1 if all symbols are equally frequent. Blanks stay 0.
        dtype: of the result.
    """
    v = grammar.num_symbols
    code = np.eye(v + 1, v)  # the last row is the blank, which index -1 finds
    if centred and v > 1:
        code[:v] = (code[:v] - 1 / v) / np.sqrt((1 - 1 / v) / v)
    values = code.astype(dtype)
    return np.ascontiguousarray(values[np.asarray(leaves)].swapaxes(1, 2))
