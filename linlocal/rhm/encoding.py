"""Leaves as numbers that a network reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from linlocal import inputs
from linlocal.rhm.grammar import Grammar, Symbols


def checked_leaves(grammar: Grammar, leaves: ArrayLike) -> Symbols:
    """``leaves`` as an array.

    Raises:
        ValueError: not (data, d) symbols of the grammar, or some of them masked.
    """
    array = np.asarray(inputs.plain(leaves, "leaves"))
    if array.ndim != 2 or array.shape[1] != grammar.num_leaves or array.dtype.kind not in "iu":
        raise ValueError(
            f"leaves must be whole numbers (data, {grammar.num_leaves}), got shape {array.shape} "
            f"of {array.dtype}."
        )
    lowest = -1 if grammar.sparse else 0
    if array.size and not lowest <= array.min() <= array.max() < grammar.num_values(0):
        raise ValueError(
            f"Leaves are symbols 0..{grammar.num_values(0) - 1}"
            + (" or -1 for a blank" if grammar.sparse else "")
            + f", got numbers from {array.min()} to {array.max()}."
            + ("" if grammar.sparse else " Hide unknown leaves with `visible`.")
        )
    return array


def one_hot(
    grammar: Grammar, leaves: ArrayLike, *, centred: bool = False, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """(data, v, d): channel a is 1 where the leaf is the symbol a; a blank is 0 in all channels.

    Args:
        grammar: the rules.
        leaves: (data, d).
        centred: subtract 1/v and divide by the standard deviation sqrt((1 - 1/v)/v), so that each
            channel has mean 0 and variance 1 if all symbols are equally frequent. Blanks stay 0.
        dtype: the dtype of the result.

    Raises:
        ValueError: not (data, d) symbols of the grammar.
    """
    v = grammar.num_values(0)
    code = np.eye(v + 1, v)  # the last row is the blank, which index -1 finds
    if centred and v > 1:
        code[:v] = (code[:v] - 1 / v) / np.sqrt((1 - 1 / v) / v)
    values = code.astype(dtype)
    return np.ascontiguousarray(values[checked_leaves(grammar, leaves)].swapaxes(1, 2))
