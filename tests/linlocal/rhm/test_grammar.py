"""The rules: who owns what, what is impossible, how many data there are."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from linlocal import testing
from linlocal.rhm import Grammar, RandomHierarchyModel
from linlocal.rhm.grammar import TupleTable

SMALL = {"num_classes": 4, "num_symbols": 4, "num_synonyms": 2, "num_levels": 3}


@given(
    n=st.integers(1, 12),
    v=st.integers(1, 5),
    m=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_a_grammar_exists_exactly_where_both_inequalities_hold(n, v, m, sizes):
    lower = all(m <= v ** (s - 1) for s in sizes[:-1])
    top = n * m <= v ** sizes[-1]
    arguments = {"num_classes": n, "num_symbols": v, "num_synonyms": m, "tuple_size": sizes}
    if lower and top:
        assert len(Grammar(**arguments, num_levels=len(sizes)).rules) == len(sizes)
    else:
        broken = r"m <= v\^\(s-1\) is broken" if not lower else r"n m <= v\^s is broken"
        with pytest.raises(ValueError, match=broken):
            Grammar(**arguments, num_levels=len(sizes))


@given(grammar=testing.hierarchies())
def test_every_tuple_has_one_owner(grammar):
    for l, s, rules in zip(grammar.levels, grammar.tuple_sizes, grammar.rules, strict=True):
        assert rules.shape == (grammar.num_values(l), grammar.num_synonyms, s)
        assert 0 <= rules.min() <= rules.max() < grammar.num_symbols
        assert not rules.flags.writeable
        tuples = {tuple(t) for t in rules.reshape(-1, s).tolist()}
        assert len(tuples) == grammar.num_values(l) * grammar.num_synonyms


@given(grammar=testing.hierarchies())
def test_every_tuple_and_every_placement_is_found_and_no_other(grammar):
    for l in grammar.levels:
        values, size = grammar.num_symbols, grammar.tuple_sizes[l - 1]
        if values**size <= 400:
            every = np.array(list(itertools.product(range(values), repeat=size)))
            rows = {
                tuple(t): k for k, t in enumerate(grammar.rules[l - 1].reshape(-1, size).tolist())
            }
            wanted = [rows.get(tuple(t), -1) for t in every.tolist()]
            assert grammar.rule_tables[l - 1].find(every).tolist() == wanted
        places = grammar.placements[l - 1]
        assert grammar.placement_tables[l - 1].find(places).tolist() == list(range(len(places)))
        assert grammar.rule_tables[l - 1].find(np.full(size, -1)) == -1
        assert grammar.rule_tables[l - 1].find(np.full(size, values)) == -1


def test_large_tuples_are_found_by_search_as_small_ones_by_table():
    """v^s = 20^6 is above the size of a table."""
    big = Grammar(num_classes=20, num_symbols=20, num_synonyms=30, num_levels=1, tuple_size=6)
    rules = big.rules[0].reshape(-1, 6)
    find = big.rule_tables[0].find
    assert (find(rules[::-1]) == np.arange(len(rules))[::-1]).all()
    owned = {tuple(t) for t in rules.tolist()}
    drawn = np.random.default_rng(0).integers(20, size=(500, 6)).tolist()
    foreign = [t for t in drawn if tuple(t) not in owned]
    assert (find(np.array(foreign)) == -1).all()


def test_the_number_of_data_is_exact_and_that_of_the_paper():
    for n, v, m, s, levels in [(16, 16, 8, 2, 4), (3, 5, 4, 3, 3), (2, 8, 4, 2, 10)]:
        grammar = Grammar(
            num_classes=n, num_symbols=v, num_synonyms=m, tuple_size=s, num_levels=levels
        )
        assert grammar.num_data == n * m ** ((s**levels - 1) // (s - 1))
        assert grammar.num_leaves == s**levels
    assert grammar.num_data.bit_length() == 2048  # 2 * 4^1023: no overflow, no float


def test_numbers_of_numpy_do_not_overflow():
    plain = Grammar(num_classes=8, num_symbols=8, num_synonyms=4, num_levels=8, tuple_size=2)
    of_numpy = Grammar(
        num_classes=np.int64(8),
        num_symbols=np.int64(8),
        num_synonyms=np.int64(4),
        num_levels=np.int64(8),
        tuple_size=np.int64(2),
    )
    assert of_numpy == plain
    assert of_numpy.num_data == plain.num_data == 8 * 4**255


@pytest.mark.parametrize(("placement", "ways"), [("blocks", 3**2), ("ordered", math.comb(6, 2))])
def test_a_sparse_grammar_has_more_data_by_its_placements(placement, ways):
    dense = Grammar(**SMALL)
    sparse = Grammar(**SMALL, num_blanks=2, placement=placement)
    nodes = 1 + 2 + 4
    assert sparse.num_data == dense.num_data * ways**nodes
    assert sparse.num_leaves == 6**3
    assert all((np.diff(places, axis=1) > 0).all() for places in sparse.placements)
    if placement == "blocks":
        assert all((places // 3 == [0, 1]).all() for places in sparse.placements)


def test_rule_probabilities_follow_zipf_per_level():
    grammar = Grammar(
        num_classes=4, num_symbols=8, num_synonyms=5, num_levels=3, rule_exponent=(0, 1, 2.5)
    )
    for e, p in zip((0, 1, 2.5), grammar.rule_probabilities, strict=True):
        assert p.sum() == pytest.approx(1, abs=1e-15)
        assert p / p[0] == pytest.approx([k**-e for k in range(1, 6)], rel=1e-14)
    assert not grammar.uniform


@given(grammar=testing.hierarchies(max_leaves=27))
def test_productions_are_the_rules_in_all_placements_and_the_blank(grammar):
    for l in grammar.levels:
        rules = grammar.productions[l - 1]
        v = grammar.num_symbols
        assert len(np.unique(rules.patches, axis=0)) == len(rules.patches)
        has_blank = grammar.sparse and l < grammar.num_levels
        owners = grammar.num_values(l) + has_blank
        total = np.bincount(rules.owner, rules.probability, minlength=owners)
        assert total == pytest.approx(np.ones(owners), abs=1e-12)
        assert (np.diff(rules.owner) >= 0).all()
        blanks = (rules.patches == v).sum(axis=1)
        if has_blank:
            assert (rules.patches[-1] == v).all()
            blanks = blanks[:-1]
        assert (blanks == grammar.num_blanks * grammar.tuple_sizes[l - 1]).all()


def test_rules_depend_on_their_seed_and_level_alone():
    def rules(**changes):
        return Grammar(**{**SMALL, **changes}).rules

    assert all((a == b).all() for a, b in zip(rules(), rules(), strict=True))
    assert any((a != b).any() for a, b in zip(rules(), rules(seed=1), strict=True))
    first, second, third = rules()
    assert (first != second).any()
    assert (second != third).any()
    sparse = rules(num_blanks=1, rule_exponent=1.0)
    assert all((a == b).all() for a, b in zip(rules(), sparse, strict=True))


def test_owned_tuples_are_uniform_over_all_tuples():
    """Each of the v^s = 9 tuples is owned by the first class in m/v^s of all grammars."""
    counts = np.zeros(9)
    for seed in range(1800):
        grammar = Grammar(
            num_classes=2, num_symbols=3, num_synonyms=2, num_levels=1, tuple_size=2, seed=seed
        )
        counts[grammar.rules[0][0] @ [3, 1]] += 1
    expected = 1800 * 2 / 9
    # Two of nine without replacement: variance of a count is (2/9)(7/9) each.
    z = (counts - expected) / np.sqrt(1800 * (2 / 9) * (7 / 9))
    assert np.abs(z).max() < 3.5


WEIGHTED = {
    "num_classes": 2,
    "num_symbols": 2,
    "num_synonyms": 2,
    "num_levels": 2,
    "class_weights": [1, 3],
    "rule_weights": [[1, 4], [[1, 1], [2, 6]]],
    "given_rules": [[[[0, 1], [1, 0]], [[0, 0], [1, 1]]], [[[0, 0], [0, 1]], [[1, 1], [1, 0]]]],
}


def test_rules_and_weights_that_are_given_are_those_of_the_grammar():
    grammar = Grammar(**WEIGHTED)
    assert [rules.tolist() for rules in grammar.rules] == WEIGHTED["given_rules"]
    assert grammar.class_probabilities.tolist() == [0.25, 0.75]
    below, top = grammar.rule_probabilities
    assert below.tolist() == [0.2, 0.8]
    assert top.tolist() == [[0.5, 0.5], [0.25, 0.75]]
    arrays = {**WEIGHTED, "class_weights": np.array([1, 3]), "rule_weights": iter([below, top])}
    arrays["given_rules"] = grammar.rules
    same = Grammar(**arrays)
    assert same.given_rules == grammar.given_rules
    assert hash(grammar) == hash(Grammar(**WEIGHTED))
    other = RandomHierarchyModel(**{**SMALL, "num_levels": 2}, seed=5)
    assert not grammar.uniform
    assert Grammar(**{**SMALL, "class_weights": [2.0] * 4}).uniform
    again = RandomHierarchyModel(**{**SMALL, "num_levels": 2, "given_rules": other.rules}, seed=9)
    data = other.sample(50, seed=0)
    assert (again.parse(data.leaves).labels == data.labels).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weights": [1, 0]}, "an entry of class_weights must be positive and finite, got 0"),
        ({"class_weights": [1, 2, 3]}, "one number for each of the 2 classes, got 3"),
        ({"rule_weights": [[1, 1]]}, "one array for each of the 2 levels, got 1"),
        ({"rule_weights": [[1, 1, 1], [1, 1]]}, r"level 1 must have the shape \(2,\) or \(2, 2\)"),
        ({"rule_weights": [[1, 1], [0, 1]]}, "rule_weights of level 2 must be positive"),
        ({"rule_exponent": 1.0}, "either rule_weights or a rule_exponent"),
        ({"given_rules": [np.zeros((2, 2, 2), int)] * 2}, r"the tuple \(0, 0\) 4 times"),
        ({"given_rules": [np.full((2, 2, 2), 2)] * 2}, r"symbols 0\.\.1 of the level below, got 2"),
        ({"given_rules": [np.zeros((2, 2), int)] * 2}, r"level 1 must have the shape \(2, 2, 2\)"),
        ({"num_symbols": (2, 2, 2)}, "num_symbols must be one number or one for each of the 2"),
        ({"num_symbols": (2, 3)}, r"q m <= v\^s is broken at level 1: 6 > 4"),
        ({"num_synonyms": (2, 4)}, r"n m <= v\^s is broken at level 2: 8 > 4"),
    ],
)
def test_rules_and_weights_that_make_no_grammar_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Grammar(**{**WEIGHTED, **changes})


def test_rules_so_rare_that_their_probability_is_0_are_refused():
    steep = Grammar(**SMALL, rule_exponent=2000)
    with pytest.raises(ValueError, match=r"level 1 some rules have the probability 0.*rule_exp"):
        _ = steep.rule_probabilities


def test_the_same_arguments_are_the_same_model():
    assert RandomHierarchyModel(**SMALL) == RandomHierarchyModel(**SMALL)
    assert len({RandomHierarchyModel(**SMALL), RandomHierarchyModel(**SMALL, seed=1)}) == 2
    assert {RandomHierarchyModel(**SMALL, tuple_size=[2, 2, 2])}  # a list is kept as a tuple


def test_symbols_are_stored_in_the_fewest_bytes():
    def dtype(n, v):
        return Grammar(num_classes=n, num_symbols=v, num_synonyms=2, num_levels=2).dtype

    assert dtype(10, 128) == np.int8
    assert dtype(10, 129) == np.int16
    assert dtype(200, 100) == np.int16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_symbols": 2.5}, "num_symbols must be a whole number, got 2.5"),
        ({"num_synonyms": 5}, r"m <= v\^\(s-1\) is broken at level 1: 5 > 4"),
        ({"num_classes": 9}, r"n m <= v\^s is broken at level 3: 18 > 16"),
        ({"tuple_size": (2, 2)}, "one for each of the 3 levels, got 2"),
        ({"tuple_size": 0}, "tuple_size must be at least 1, got 0"),
        ({"tuple_size": 32}, r"v\^s < 2\^63"),
        ({"rule_exponent": -1.0}, "rule_exponent must not be negative"),
        ({"rule_exponent": float("nan")}, "rule_exponent must be finite"),
        ({"num_blanks": -1}, "num_blanks must be at least 0"),
        ({"placement": "anywhere"}, 'placement must be "blocks" or "ordered"'),
    ],
)
def test_impossible_parameters_say_what_is_wrong(changes, message):
    error = TypeError if "whole number" in message else ValueError
    with pytest.raises(error, match=message):
        Grammar(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("fits", "more"),
    [
        ({"num_symbols": 511, "tuple_size": 7}, {"num_symbols": 512}),  # 512^7 = 2^63
        ({"num_symbols": 2, "tuple_size": 8, "num_blanks": 28}, {"num_blanks": 29}),  # 240^8
    ],
)
def test_tuples_and_placements_are_numbered_in_64_bits(fits, more):
    sizes = {"num_classes": 1, "num_synonyms": 1, "num_levels": 1, **fits}
    assert Grammar(**sizes).num_synonyms == 1
    with pytest.raises(ValueError, match=r"64 bits \(num_synonyms=1, num_symbols=\d+, tuple_size="):
        Grammar(**{**sizes, **more})


@pytest.mark.parametrize("base", [5, 10_000], ids=["dense", "sorted"])
def test_a_table_finds_what_is_in_it_and_nothing_else(base):
    rng = np.random.default_rng(0)
    listed = np.unique(rng.integers(0, base, (40, 3)), axis=0)
    listed = listed[rng.permutation(len(listed))][1:]
    known = {tuple(row): k for k, row in enumerate(listed.tolist())}
    edges = np.array([[base - 1] * 3, [0] * 3, [base] * 3, [-1, 0, 0], [0, 0, -1], [0, base, 0]])
    asked = np.concatenate([edges, listed, rng.integers(-1, base + 1, (200, 3))])
    expected = [known.get(tuple(row), -1) for row in asked.tolist()]
    assert -1 in expected
    table = TupleTable(listed, base)
    assert table.find(asked).tolist() == expected
    assert table.find(asked[None]).tolist() == [expected]


def test_one_size_of_tuples_stays_one_number():
    assert Grammar(**SMALL, tuple_size=2).tuple_size == 2
    assert Grammar(**SMALL, tuple_size=[2, 2, 2]).tuple_size == (2, 2, 2)


def test_levels_are_checked():
    with pytest.raises(ValueError, match=r"1\.\.3 from the leaves up, got level 0; the leaves are"):
        Grammar(**SMALL).check_level(0)
    with pytest.raises(ValueError, match=r"got level 4\.$"):
        Grammar(**SMALL).check_level(4)


def test_the_strategy_draws_models_of_all_kinds():
    drawn = []

    @settings(max_examples=300)
    @given(rhm=testing.hierarchies())
    def collect(rhm):
        drawn.append(rhm)

    collect()
    assert all(rhm.num_leaves <= 64 for rhm in drawn)
    kinds = {
        "blocks": lambda g: g.sparse and g.placement == "blocks",
        "ordered": lambda g: g.sparse and g.placement == "ordered",
        "unequal rules": lambda g: not g.uniform,
        "three levels": lambda g: g.num_levels >= 3,
        "mixed sizes": lambda g: len(set(g.tuple_sizes)) > 1,
        "n != v": lambda g: g.num_classes != g.num_symbols,
        "triples": lambda g: max(g.tuple_sizes) > 2,
        "large index": lambda g: g.num_data >= 2**63,
        "all tuples owned": lambda g: g.num_synonyms == g.num_symbols ** (g.tuple_sizes[0] - 1) > 1,
    }
    missing = [name for name, kind in kinds.items() if not any(map(kind, drawn))]
    assert missing == []
