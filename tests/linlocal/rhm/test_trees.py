"""Data, all of them, and their numbers."""

import random

import numpy as np
import pytest
from hypothesis import given, strategies as st

from linlocal import testing
from linlocal.rhm import RandomHierarchyModel, Trees, trees


def assert_same(a, b):
    for first, second in zip(
        (a.leaves, *a.symbols, *a.placements), (b.leaves, *b.symbols, *b.placements), strict=True
    ):
        assert (first == second).all()
        assert first.dtype == second.dtype


def dense_levels(written):
    """Symbols of each level without the blanks, which recursion keeps."""
    return [
        np.array([[a for a in row if a != -1] for row in level.tolist()])
        for level in written.levels
    ]


def test_enumeration_is_all_that_recursion_writes_each_once(rhm, written):
    oracle = written(rhm)
    every = Trees.concatenate(list(rhm.enumerate(batch_size=100)))
    assert len(every) == rhm.num_data == len(oracle.leaves)
    order = np.lexsort(every.leaves.T)
    other = np.lexsort(oracle.leaves.T)
    assert (every.leaves[order] == oracle.leaves[other]).all()
    assert len(np.unique(every.leaves, axis=0)) == len(every)
    for level, wanted in zip(every.symbols, dense_levels(oracle), strict=True):
        assert (level[order] == wanted[other]).all()
    assert np.exp(trees.log_probability(rhm, every))[order] == pytest.approx(
        oracle.probability[other], rel=1e-12
    )
    assert oracle.probability.sum() == pytest.approx(1, abs=1e-12)


def test_enumeration_is_in_order_and_starts_anywhere(rhm):
    every = Trees.concatenate(list(rhm.enumerate(batch_size=7)))
    assert rhm.index(every).tolist() == list(range(rhm.num_data))
    rest = Trees.concatenate(list(rhm.enumerate(batch_size=5, start=rhm.num_data - 8)))
    assert_same(rest, every[-8:])


@given(rhm=testing.hierarchies(), seed=st.integers(0, 2**32))
def test_index_and_data_are_inverse(rhm, seed):
    """Also where the index has more than 64 bits."""
    draw = random.Random(seed)
    index = [0, rhm.num_data - 1, *(draw.randrange(rhm.num_data) for _ in range(5))]
    data = rhm.data(index)
    assert rhm.index(data).tolist() == index
    assert_same(rhm.data(rhm.index(data)), data)
    for leaf, datum in zip(data.leaves, index, strict=True):
        if datum != 0:
            assert (leaf != data.leaves[0]).any()


def test_index_has_python_ints_only_where_it_must(standard):
    data = standard.sample(5, seed=0)
    assert standard.index(data).dtype == np.int64
    deep = RandomHierarchyModel(num_classes=16, num_symbols=16, num_synonyms=8, num_levels=10)
    data = deep.sample(3, seed=0)
    index = deep.index(data)
    assert all(isinstance(i, int) for i in index)
    assert max(index) > 2**3000
    assert_same(deep.data(index), data)
    first = next(deep.enumerate(batch_size=4, start=deep.num_data - 3))
    assert deep.index(first).tolist() == [deep.num_data - k for k in (3, 2, 1)]


@pytest.mark.parametrize("classes", [1, 2])
def test_index_at_the_edge_of_64_bits(classes):
    """P_max = 2^63 and 2^64."""
    edge = RandomHierarchyModel(num_classes=classes, num_symbols=4, num_synonyms=2, num_levels=6)
    index = [0, 1, 2**62 + 5, edge.num_data - 1]
    assert edge.index(edge.data(index)).tolist() == index
    assert len(set(trees.keys_of(edge, edge.data(index)).tolist())) == 4


def test_neighbours_have_different_keys_where_floats_could_not_tell_them_apart():
    rhm = RandomHierarchyModel(num_classes=100, num_symbols=18, num_synonyms=3, num_levels=5)
    assert 2**55 < rhm.num_data < 2**63
    data = rhm.data([rhm.num_data - k for k in range(1, 65)])
    assert len(np.unique(trees.keys_of(rhm, data))) == 64


def test_index_is_checked(rhm):
    with pytest.raises(ValueError, match=f"P_max = {rhm.num_data}, got numbers from 0 to"):
        rhm.data([0, rhm.num_data])
    with pytest.raises(ValueError, match="from -1 to 2"):
        rhm.data([-1, 2])
    with pytest.raises(TypeError):
        rhm.data([0.5])
    with pytest.raises(TypeError, match=r"shape \(1, 1\)"):
        rhm.data(np.array([[1]]))
    assert len(rhm.data([])) == 0


@given(rhm=testing.hierarchies(max_leaves=32))
def test_keys_tell_data_apart(rhm):
    """Unique leaves have unique keys; equal data have equal keys."""
    data = rhm.sample(200, seed=0)
    keys = trees.keys_of(rhm, data)
    _, of_leaf = np.unique(data.leaves, axis=0, return_inverse=True)
    _, of_key = np.unique(keys, return_inverse=True)
    pairs = set(zip(of_leaf.ravel().tolist(), of_key.ravel().tolist(), strict=True))
    assert len(pairs) == of_leaf.max() + 1 == of_key.max() + 1


def test_a_slice_is_the_same_data(rhm):
    data = rhm.sample(20, seed=0)
    rows = np.array([3, 1, 7])
    part = data[rows]
    assert len(part) == 3
    assert_same(part, rhm.parse(data.leaves[rows]))
    assert (data[5:].labels == data.labels[5:]).all()
    assert_same(Trees.concatenate([data[:5], data[5:]]), data)


# -- trees of another grammar ----------------------------------------------------------------------

SMALL = {"num_classes": 4, "num_symbols": 4, "num_synonyms": 2, "num_levels": 3}
READS_TREES = {
    "index": lambda model, data: model.index(data),
    "exchange": lambda model, data: model.exchange(data, 1, seed=0),
    "resample": lambda model, data: model.resample(data, 2, seed=0),
    "keys_of": trees.keys_of,
    "log_probability": trees.log_probability,
}


def strange_trees():
    """(grammar, trees that are not its own, what the refusal says) of every kind."""
    model = RandomHierarchyModel(**SMALL, seed=0)
    own = model.sample(20, seed=0)
    other = RandomHierarchyModel(**SMALL, seed=1).sample(20, seed=0)
    yield model, other, r"data are not of this grammar, the first is datum \d+: no rule writes"
    deeper = RandomHierarchyModel(**{**SMALL, "num_levels": 4}).sample(3, seed=0)
    yield model, deeper, r"they have \[16, 8, 4, 2, 1\] symbols in the levels .* has \[8, 4, 2, 1\]"
    sparse = RandomHierarchyModel(**SMALL, num_blanks=1, seed=0)
    yield model, sparse.sample(3, seed=0), "placements in 3 levels; .* placements in none"
    yield sparse, own, "placements in 0 levels; .* placements in all levels"
    leaves = own.leaves.copy()
    leaves[4] = leaves[4, ::-1]
    unknown = model.parse(leaves, strict=False)
    if (unknown.labels < 0).any():
        yield model, unknown, "parsed with strict=False"
    for level, symbol in ((0, 4), (0, -1), (1, 7), (3, 9), (3, -1)):
        damaged = own[np.arange(20)]
        damaged.symbols[level][5, 0] = symbol
        yield model, damaged, "1 of 20 data are not of this grammar, the first is datum 5"
    damaged = sparse.sample(3, seed=0)
    damaged.placements[1][1, 0] = 9
    yield sparse, damaged, r"Placements of level 2 are numbered 0\.\.3 in this grammar"


@pytest.mark.parametrize("name", READS_TREES)
def test_trees_of_another_grammar_are_refused(name):
    for model, data, message in strange_trees():
        with pytest.raises(ValueError, match=message):
            READS_TREES[name](model, data)
    with pytest.raises(TypeError, match="trees must be `Trees`, made by sample"):
        READS_TREES[name](RandomHierarchyModel(**SMALL), np.zeros((3, 8), int))


def test_classes_that_there_are_not_are_refused():
    model = RandomHierarchyModel(**SMALL)
    for labels in ([4], [-1], [300]):
        with pytest.raises(ValueError, match=r"Classes are numbered 0\.\.3, got numbers from"):
            trees.derive(
                model, labels, [np.zeros((1, model.num_nodes(l)), int) for l in model.levels]
            )


def test_one_datum_is_taken_as_rows():
    data = RandomHierarchyModel(**SMALL).sample(5, seed=0)
    for row in (3, np.int64(3)):
        with pytest.raises(TypeError, match=r"take the rows \[3:4\] or a list"):
            data[row]
    assert (data[[3]].labels == data[3:4].labels).all()
