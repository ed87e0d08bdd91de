"""Tokens and targets, and the smallest loss against sums over all data."""

import numpy as np
import pytest

from linlocal.rhm import RandomHierarchyModel
from linlocal.rhm.tokens import IGNORED, LastToken, MaskedToken, NextToken, number_of_tokens


def entropy_of(oracle, place, seen):
    """H(leaf | leaves that are seen), by counting all data."""
    tables = {}
    for row, p in zip(oracle.leaves.tolist(), oracle.probability, strict=True):
        table = tables.setdefault(tuple(np.array(row)[seen]), {})
        table[row[place]] = table.get(row[place], 0) + p
    total = 0.0
    for table in tables.values():
        weight = np.array(list(table.values()))
        total -= (weight * np.log(weight / weight.sum())).sum()
    return total


def close(found, wanted):
    error = 4.5 * found.standard_error + 1e-9
    return (abs(found.value - wanted) <= error).all()


@pytest.mark.parametrize("context", [None, 1])
def test_the_floor_of_the_next_token_is_that_of_the_sum_over_all_data(rhm, written, context):
    oracle, d = written(rhm), rhm.num_leaves
    reach = d if context is None else context
    wanted = [entropy_of(oracle, j, np.arange(max(0, j - reach), j)) for j in range(d)]
    found = NextToken(rhm, context).bayes_loss(num_samples=150, seed=1)
    assert close(found, wanted)
    assert (found.value <= np.log(number_of_tokens(rhm) - 1) + 1e-9).all()


def test_the_floor_of_the_last_token_falls_with_the_context(rhm, written):
    oracle, d = written(rhm), rhm.num_leaves
    values = []
    for context in {0, 1, d // 2, d - 1}:
        wanted = entropy_of(oracle, d - 1, np.arange(d - 1 - context, d - 1))
        found = LastToken(rhm, context).bayes_loss(num_samples=150, seed=2)
        assert close(found, wanted)
        values.append((context, wanted))
    ordered = [value for _, value in sorted(values)]
    assert (np.diff(ordered) <= 1e-12).all()
    full, asked = LastToken(rhm), LastToken(rhm, d - 1)
    assert full == asked


def test_the_floor_of_masked_tokens_is_the_mean_over_masks(written):
    rhm = RandomHierarchyModel(num_classes=3, num_symbols=3, num_synonyms=2, num_levels=2, seed=2)
    oracle, hidden = written(rhm), 0.4
    wanted = np.zeros(4)
    for place in range(4):
        others = [j for j in range(4) if j != place]
        for mask in range(8):
            seen = np.array([j for k, j in enumerate(others) if not mask >> k & 1], dtype=int)
            chance = hidden ** (3 - len(seen)) * (1 - hidden) ** len(seen)
            wanted[place] += chance * entropy_of(oracle, place, seen)
    found = MaskedToken(rhm, hidden).bayes_loss(num_samples=3000, seed=0)
    assert close(found, wanted)
    assert not close(MaskedToken(rhm, 0.8).bayes_loss(num_samples=3000, seed=0), wanted)


def test_the_floors_of_all_next_tokens_add_up_to_the_entropy_of_a_datum():
    rhm = RandomHierarchyModel(num_classes=4, num_symbols=6, num_synonyms=3, num_levels=4, seed=0)
    found = NextToken(rhm).bayes_loss(num_samples=400)
    spread = 4.5 * np.sqrt((found.standard_error**2).sum()) * 2  # errors of places go together
    assert abs(found.value.sum() - np.log(float(rhm.num_data))) < spread
    short = NextToken(rhm, 1).bayes_loss(num_samples=400)
    assert short.value.sum() > np.log(float(rhm.num_data)) + spread


def test_tokens_and_targets_are_the_leaves(rhm):
    leaves = rhm.sample(20, seed=0).leaves
    every = np.where(leaves < 0, rhm.num_values(0), leaves)
    nothing = number_of_tokens(rhm) - 1
    assert every.max() < nothing
    tokens, targets = NextToken(rhm)(leaves)
    assert (targets == every).all()
    assert (tokens[:, 0] == nothing).all()
    assert (tokens[:, 1:] == every[:, :-1]).all()
    context = rhm.num_leaves // 2
    tokens, targets = LastToken(rhm, context)(leaves)
    assert (targets == every[:, -1]).all()
    assert (tokens == every[:, -1 - context : -1]).all()
    tokens, targets = MaskedToken(rhm, 0.5)(leaves, seed=3)
    hidden = tokens == nothing
    assert 0 < hidden.sum() < hidden.size
    assert (targets == np.where(hidden, every, IGNORED)).all()
    assert (tokens[~hidden] == every[~hidden]).all()
    assert (MaskedToken(rhm, 0.5)(leaves, seed=4)[0] != tokens).any()


def test_tasks_that_ask_nothing_are_refused():
    rhm = RandomHierarchyModel(num_classes=2, num_symbols=4, num_synonyms=2, num_levels=2)
    with pytest.raises(ValueError, match="hidden must be above 0, got 0"):
        MaskedToken(rhm, 0.0)
    with pytest.raises(ValueError, match=r"context must be in 0\.\.3, got 4"):
        LastToken(rhm, 4)
    with pytest.raises(TypeError, match="grammar must be a `Grammar`"):
        NextToken(3)
    with pytest.raises(ValueError, match=r"symbols 0\.\.3"):
        NextToken(rhm)(np.full((1, 4), 9))
