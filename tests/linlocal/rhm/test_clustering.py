"""Clustering of tuples by their contexts: counted twice, in the limit, and from how many data."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from linlocal.rhm import RandomHierarchyModel, clustering, theory

SIZES = {"num_classes": 8, "num_symbols": 8, "num_synonyms": 4}


def model(num_levels, seed=0, **sizes):
    return RandomHierarchyModel(num_levels=num_levels, seed=seed, **{**SIZES, **sizes})


def counted(rhm, trees, level, by_class):
    """The same statistics from dictionaries, one tuple after the other."""
    s = rhm.tuple_sizes[level - 1]
    met, seen, total, tuples = Counter(), Counter(), defaultdict(Counter), set()
    for below, label in zip(trees.symbols[level - 1].tolist(), trees.labels.tolist(), strict=True):
        nodes = [tuple(below[k : k + s]) for k in range(0, len(below), s)]
        tuples |= set(nodes)
        for k, mu in enumerate(nodes):
            if by_class:
                place, around = k, {(): label}
            else:
                children = rhm.tuple_sizes[level]
                place, first = k % children, k - k % children
                around = {
                    (q, r): nodes[first + q][r]
                    for q in range(children)
                    if q != place
                    for r in range(s)
                }
            met[mu, place] += 1
            for where, value in around.items():
                seen[mu, place, where, value] += 1
                total[place, where][value] += 1
    values = rhm.num_classes if by_class else 1 + int(trees.symbols[level - 1].max())
    rows = []
    for mu in sorted(tuples):
        row = []
        for place, where in sorted(total):
            mean = total[place, where]
            for value in range(values):
                share = mean[value] / sum(mean.values())
                own = seen[mu, place, where, value] / met[mu, place] if met[mu, place] else share
                row.append(own - share)
        rows.append(row)
    return np.array(sorted(tuples)), np.array(rows)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize(
    ("level", "sizes"), [(1, {}), (2, {}), (1, {"tuple_size": (2, 3, 2)}), (2, {"tuple_size": 3})]
)
def test_contexts_are_those_counted_one_by_one(by_class, level, sizes):
    rhm = model(3, num_symbols=4, num_classes=4, num_synonyms=2, **sizes)
    trees = rhm.sample(40, seed=1)
    labels = trees.labels if by_class else None
    tuples, features = clustering.contexts(rhm, trees.symbols[level - 1], level, labels)
    wanted_tuples, wanted = counted(rhm, trees, level, by_class)
    np.testing.assert_array_equal(tuples, wanted_tuples)
    np.testing.assert_allclose(features, wanted, atol=1e-12)


def test_over_all_data_contexts_are_the_exact_covariances():
    rhm = model(2, num_classes=4, num_symbols=4, num_synonyms=3)
    (trees,) = rhm.enumerate(rhm.num_data)
    tuples, features = clustering.contexts(rhm, trees.leaves, 1, trees.labels)
    features = features.reshape(len(tuples), 2, rhm.num_classes)
    found = rhm.rule_tables[0].find(tuples)
    for node in range(2):
        exact = theory.class_tuple_covariance(rhm, node)
        frequency = np.array(
            [(trees.leaves[:, 2 * node : 2 * node + 2] == t).all(1).mean() for t in tuples]
        )
        np.testing.assert_allclose(
            features[:, node] * frequency[:, None], exact[:, found].T, atol=1e-14
        )


@pytest.mark.parametrize("context", ["siblings", "classes"])
def test_synonyms_have_equal_contexts_over_all_data_and_others_do_not(context):
    rhm = model(2, num_symbols=4, num_classes=4, num_synonyms=2)
    (trees,) = rhm.enumerate(rhm.num_data)
    labels = trees.labels if context == "classes" else None
    tuples, features = clustering.contexts(rhm, trees.leaves, 1, labels)
    owner = rhm.rule_tables[0].find(tuples) // 2
    distance = np.linalg.norm(features[:, None] - features, axis=2)
    same = owner[:, None] == owner
    assert distance[same].max() < 1e-14
    assert distance[~same].min() > 0.05
    learned = clustering.cluster(rhm, trees.leaves, trees.labels, context=context)
    np.testing.assert_array_equal(clustering.recovered(rhm, learned, trees), 1.0)


def shares(context, multiple, num_levels, unit, seeds=range(3)):
    found = []
    for seed in seeds:
        rhm = model(num_levels, seed)
        train, test = rhm.split(train=round(multiple * unit(rhm)), test=500, seed=seed)
        learned = clustering.cluster(rhm, train.leaves, train.labels, context=context)
        found.append(clustering.recovered(rhm, learned, test))
    return np.mean(found, axis=0)


def effective(rhm):
    """v m^3 / (1 - m/v): the siblings' tuples fill half of the space here."""
    return theory.token_sample_complexity(rhm, 2)


@pytest.mark.parametrize(
    ("context", "unit", "num_levels"),
    [
        ("siblings", effective, 4),
        ("siblings", effective, 5),
        ("classes", theory.sample_complexity, 3),
    ],
)
def test_all_levels_are_found_above_the_number_of_data_and_not_below(context, unit, num_levels):
    assert shares(context, 4, num_levels, unit).min() > 0.98
    # Level L - 1 has one pair of siblings in a datum, those below have more.
    assert shares(context, 0.25, num_levels, unit)[-2:].max() < 0.5


def test_siblings_say_nothing_where_every_tuple_is_used():
    """m = v^(s-1): leaves are independent, but for the classes' rules, which labels show."""
    rhm = model(2, num_synonyms=8)
    train, test = rhm.split(train=3000, test=500, seed=0)
    found = {
        context: clustering.recovered(
            rhm, clustering.cluster(rhm, train.leaves, train.labels, context=context), test
        )[0]
        for context in ("siblings", "classes")
    }
    assert found["classes"] > 0.98
    assert found["siblings"] < 0.5


def test_a_new_tuple_is_unknown_on_all_levels_above():
    rhm = model(3)
    train, test = rhm.split(train=4000, test=500, seed=0)
    learned = clustering.cluster(rhm, train.leaves, train.labels)
    first = learned.levels[0]
    few = clustering.Grouping(first.tuples[1:], first.groups[1:])
    missing = clustering.Clustering((few, *learned.levels[1:]))
    met = (test.leaves.reshape(-1, 4, 2) == first.tuples[0]).all(axis=2)
    latents = missing.latents(test.leaves)
    np.testing.assert_array_equal(latents[0] == clustering.UNKNOWN, met)
    np.testing.assert_array_equal(missing.classes(test.leaves)[met.any(axis=1)], -1)
    np.testing.assert_array_equal(
        latents[2][~met.any(axis=1)], learned.latents(test.leaves)[2][~met.any(axis=1)]
    )


def test_labels_serve_the_top_level_alone_with_siblings():
    rhm = model(3)
    train, test = rhm.split(train=4000, test=500, seed=0)
    wrong = np.random.default_rng(0).permutation(train.labels)
    taught, misled, less = (
        clustering.cluster(rhm, train.leaves, labels, labelled=labelled)
        for labels, labelled in ((train.labels, None), (wrong, None), (train.labels, 40))
    )
    for other in (misled, less):
        for mine, theirs in zip(taught.levels[:-1], other.levels[:-1], strict=True):
            np.testing.assert_array_equal(mine.groups, theirs.groups)
    accuracy = [clustering.recovered(rhm, c, test)[-1] for c in (taught, less, misled)]
    assert accuracy[0] > accuracy[1] > accuracy[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": "leaves"}, "context must be one of siblings, classes"),
        ({"labels": [0, 1]}, "one for each of the 6 data"),
        ({"labels": [0, 1, 2, 3, 4, 8]}, r"classes 0\.\.7, got 8"),
        ({"labelled": 7}, "at most the 6 data, got 7"),
        ({"leaves": np.zeros((6, 4), dtype=int)}, r"leaves must be whole numbers \(data, 8\)"),
        ({"leaves": np.zeros((0, 8), dtype=int), "labels": []}, "at least one datum"),
    ],
)
def test_what_cannot_be_clustered_is_refused(change, message):
    rhm = model(3)
    trees = rhm.sample(6, seed=0)
    arguments = {"leaves": trees.leaves, "labels": trees.labels, **change}
    with pytest.raises(ValueError, match=message):
        clustering.cluster(rhm, **arguments)


def test_contexts_and_synonyms_refuse_what_has_none():
    rhm, sparse = model(3), model(2, num_blanks=1)
    leaves = rhm.sample(6, seed=0).leaves
    with pytest.raises(ValueError, match="have no siblings: give labels"):
        clustering.contexts(rhm, leaves[:, :2], 3)
    with pytest.raises(ValueError, match=r"symbols must be \(data, 4\)"):
        clustering.contexts(rhm, leaves, 2)
    with pytest.raises(ValueError, match="unknown latents"):
        clustering.contexts(rhm, leaves.astype(int) - 9, 1)
    trees = sparse.sample(4, seed=0)
    with pytest.raises(ValueError, match="known without blanks"):
        clustering.cluster(sparse, trees.leaves, trees.labels)
    with pytest.raises(ValueError, match="finite numbers"):
        clustering.synonyms([[np.nan]], 1)
