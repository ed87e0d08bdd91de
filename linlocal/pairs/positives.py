"""Rows that are positive pairs, and rows that replace one end of them in the negative ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linlocal.inputs import Index
from linlocal.pairs.direction import Direction


def contrasted(
    anchor: Index, reference: Index, others: Sequence[Index], bank: Index, replaces: str
) -> Direction:
    """Positive pairs and their negatives, each of which differs from its positive in one end.

    Args:
        anchor: (positives,) rows.
        reference: (positives,) rows.
        others: rows (positives,) of the samples that replace one end; one vector for each negative
            of a positive pair.
        bank: (bank samples,) rows of samples that replace that end of every positive pair.
        replaces: "anchor" or "reference".
    """
    n = len(anchor)
    end, kept = (anchor, reference) if replaces == "anchor" else (reference, anchor)
    varied = np.concatenate([end, *others, bank.repeat(n)])
    copies = len(varied) // n
    ends = (varied, np.tile(kept, copies))
    anchors, references = ends if replaces == "anchor" else ends[::-1]
    sign = np.repeat([1.0, -1.0], [n, len(varied) - n])
    return Direction(anchors, references, sign, np.tile(np.arange(n), copies))


def steps_apart(sequences: int, times: int, step: int) -> tuple[Index, Index]:
    """Rows of all samples and of those ``step`` later, both (sequences, times - step).

    Time runs within the rows of a sequence, which follow each other.
    """
    rows = np.arange(sequences * times).reshape(sequences, times)
    return rows[:, : times - step], rows[:, step:]


def of_one_class(labels: Index, most: int | None) -> tuple[Index, Index]:
    """Anchors and references (pairs,): each sample with those that follow it in its class.

    Args:
        labels: (samples,).
        most: how many references an anchor has at most; None takes all others of its class.
    """
    anchors, references = [], []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = len(rows) - 1 if most is None else min(most, len(rows) - 1)
        for place, row in enumerate(rows):
            references.append(np.roll(rows, -place - 1)[:count])
            anchors.append(np.full(count, row))
    return np.concatenate(anchors), np.concatenate(references)


def of_other_classes(
    ends: Index, labels: Index, count: int, rng: np.random.Generator | None
) -> list[Index]:
    """Samples of other classes than each of ``ends``: those that follow it, or drawn ones.

    Args:
        ends: (pairs,) rows.
        labels: (samples,).
        count: how many for each pair.
        rng: draws them; None takes those that follow in the batch (cyclic).

    Returns:
        ``count`` vectors (pairs,).
    """
    chosen = np.empty((len(ends), count), dtype=np.int64)
    for pair, end in enumerate(ends):
        around = np.roll(np.arange(len(labels)), -end - 1)
        other = around[labels[around] != labels[end]]
        chosen[pair] = (other if rng is None else rng.permutation(other))[:count]
    return list(chosen.T)
