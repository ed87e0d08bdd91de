"""Several views, prediction steps, labels, banks: what is paired, and the theory on it."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import autodiff, losses, testing
from linlocal.losses import scores
from linlocal.pairs import Pairs
from linlocal.rules import Penalty, Rule
from linlocal.testing import assert_same_update
from linlocal.updates import Signals

EXACT = testing.TOLERANCES["float64"]
VISIBLE = 1e-2


def groups(direction):
    """For each positive pair (anchor, reference) its negatives, as such pairs."""
    triples = list(zip(direction.anchor, direction.reference, strict=True))
    found = {}
    for g in np.unique(direction.group):
        here = np.flatnonzero(direction.group == g)
        (positive,) = here[direction.sign[here] > 0]
        found[triples[positive]] = [triples[i] for i in here if i != positive]
    return found


def three_views(n=4, width=3, seed=0):
    x, view = testing.samples(n, width, seed)
    return [x, view, testing.samples(n, width, seed + 1)[0]]


# -- several views ---------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", ["next", "stacked", "random", None])
def test_two_of_many_views_are_the_pairs_of_from_views(negatives):
    x, view, _ = three_views(6)
    options = {"negatives": negatives, "num_negatives": 3}
    many = Pairs.from_many_views([x, view], **options, rng=np.random.default_rng(1))
    two = Pairs.from_views(x, view, **options, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(many.samples, two.samples)
    np.testing.assert_array_equal(many.views, two.views)
    for a, b in zip(many.directions, two.directions, strict=True):
        assert groups(a) == groups(b)
        np.testing.assert_array_equal(a.anchor, b.anchor)


def test_every_ordered_pair_of_views_or_those_with_the_first():
    views = three_views(4)
    for kind, expected in (
        ("all", [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]),
        ("star", [(0, 1), (0, 2), (1, 0), (2, 0)]),
    ):
        pairs = Pairs.from_many_views(views, directions=kind)
        assert pairs.views is None
        for (a, b), d in zip(expected, pairs.directions, strict=True):
            assert groups(d) == {
                (4 * a + k, 4 * b + k): [(4 * a + (k + 1) % 4, 4 * b + k)] for k in range(4)
            }


def test_stacked_negatives_run_over_all_views():
    pairs = Pairs.from_many_views(three_views(4), negatives="stacked", num_negatives=2)
    last = groups(pairs.directions[-1])  # third view against second
    assert last[11, 7] == [(0, 7), (1, 7)]


def test_a_negative_replaces_the_anchor_or_the_reference():
    views = three_views(4)
    for end, other in (("anchor", 0), ("reference", 1)):
        pairs = Pairs.from_many_views(views, replaces=end, num_negatives=2)
        for d in pairs.directions:
            for positive, negatives in groups(d).items():
                for negative in negatives:
                    assert negative[other] != positive[other]
                    assert negative[other] // 4 == positive[other] // 4
                    assert negative[1 - other] == positive[1 - other]


@pytest.mark.parametrize("end", ["anchor", "reference"])
def test_a_bank_is_a_negative_of_every_pair_and_part_of_none(end):
    views, bank = three_views(4), testing.samples(5, 3, 7)[0]
    pairs = Pairs.from_many_views(views, negatives=None, bank=bank, replaces=end)
    np.testing.assert_array_equal(pairs.samples[12:], bank)
    changed = 0 if end == "anchor" else 1
    for d in pairs.directions:
        for positive, negatives in groups(d).items():
            assert max(positive) < 12
            assert sorted(negative[changed] for negative in negatives) == list(range(12, 17))
            assert {negative[1 - changed] for negative in negatives} == {positive[1 - changed]}
    both = Pairs.from_many_views(views, num_negatives=2, bank=bank, replaces=end)
    assert both.num_pairs == 6 * 4 * (1 + 2 + 5)


def test_samples_of_a_bank_are_trained_as_anchors_only():
    """Their activities have an error signal where they replace the anchor, none as references."""
    net = ll.DeepLinear.uniform([3, 4], 0)
    bank = testing.samples(5, 3, 7)[0]
    for end in ("anchor", "reference"):
        pairs = Pairs.from_many_views(three_views(4), bank=bank, replaces=end)
        error = Signals(net, pairs, ll.rules.CLAPP("softplus")).local_error(1)
        assert np.any(error[:12], axis=1).all()
        assert np.any(error[12:], axis=1).all() == (end == "anchor")
        assert np.any(error[12:]) == (end == "anchor")


# -- sequences -------------------------------------------------------------------------------------


def test_each_step_is_a_direction_in_which_the_past_predicts_the_future():
    x = np.arange(2 * 4 * 3.0).reshape(2, 4, 3)
    pairs = Pairs.from_sequence(x, steps=(1, 3))
    np.testing.assert_array_equal(pairs.samples, x.reshape(8, 3))
    one, three = map(groups, pairs.directions)
    # Row 4 s + t is time t of sequence s; "next" is the same time of the other sequence.
    assert one == {
        (4 * s + t + 1, 4 * s + t): [(4 * (1 - s) + t + 1, 4 * s + t)]
        for s in (0, 1)
        for t in (0, 1, 2)
    }
    assert three == {(3, 0): [(7, 0)], (7, 4): [(3, 4)]}


def test_negatives_at_other_times_of_the_same_sequence():
    pairs = Pairs.from_sequence(np.ones((1, 5, 2)), steps=(2,), negatives="time", num_negatives=2)
    # Times 2, 3, 4 are reached, so they replace each other.
    assert groups(pairs.directions[0]) == {
        (2, 0): [(3, 0), (4, 0)],
        (3, 1): [(4, 1), (2, 1)],
        (4, 2): [(2, 2), (3, 2)],
    }


@pytest.mark.parametrize("end", ["anchor", "reference"])
def test_random_negatives_of_sequences(end):
    def drawn(seed):
        return Pairs.from_sequence(
            np.ones((3, 4, 2)),
            steps=(1, 2),
            negatives="random",
            num_negatives=5,
            replaces=end,
            directions="both",
            rng=np.random.default_rng(seed),
        )

    pairs = drawn(0)
    assert [len(groups(d)) for d in pairs.directions] == [9, 9, 6, 6]
    changed = 0 if end == "anchor" else 1
    for d in pairs.directions:
        places = {positive[changed] for positive in groups(d)}
        for positive, negatives in groups(d).items():
            chosen = {negative[changed] for negative in negatives}
            assert len(chosen) == 5
            assert chosen < places - {positive[changed]} or chosen == places - {positive[changed]}
    assert groups(pairs.directions[0]) == groups(drawn(0).directions[0])
    assert groups(pairs.directions[0]) != groups(drawn(1).directions[0])


def test_both_directions_of_a_step_are_each_other_reversed():
    forward, backward = Pairs.from_sequence(np.ones((2, 3, 1)), directions="both").directions
    assert {(r, a) for a, r in groups(backward)} == set(groups(forward))


# -- labels ----------------------------------------------------------------------------------------

LABELS = np.array([0, 1, 0, 2, 1, 0])


def test_positives_are_of_one_class_and_negatives_of_others():
    x = np.ones((6, 2))
    (d,) = Pairs.from_labels(x, LABELS, num_negatives=2).directions
    found = groups(d)
    assert set(found) == {
        (a, r) for a in range(6) for r in range(6) if a != r and LABELS[a] == LABELS[r]
    }
    # Those that follow the anchor, of another class.
    assert found[2, 0] == [(3, 0), (4, 0)]
    assert found[5, 2] == [(1, 2), (3, 2)]
    assert 3 in d.anchor  # alone in its class, it is a negative
    (few,) = Pairs.from_labels(x, LABELS, num_positives=1).directions
    assert set(groups(few)) == {(0, 2), (2, 5), (5, 0), (1, 4), (4, 1)}


@given(data=st.data())
def test_random_negatives_of_labels(data):
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=12)))
    sizes = np.bincount(labels)
    if sizes.max() < 2 or sizes.max() == len(labels):
        return
    count = data.draw(st.integers(1, len(labels) - int(sizes.max())))
    end = data.draw(st.sampled_from(["anchor", "reference"]))
    (d,) = Pairs.from_labels(
        np.ones((len(labels), 2)),
        labels,
        negatives="random",
        num_negatives=count,
        replaces=end,
        rng=np.random.default_rng(0),
    ).directions
    changed = 0 if end == "anchor" else 1
    for positive, negatives in groups(d).items():
        assert labels[positive[0]] == labels[positive[1]]
        chosen = [negative[changed] for negative in negatives]
        assert len(set(chosen)) == count
        assert (labels[chosen] != labels[positive[0]]).all()


# -- the theory on all of them ---------------------------------------------------------------------


def sequence(seed, **options):
    x, _ = testing.samples(12, 5, seed)
    return Pairs.from_sequence(2 * x.reshape(3, 4, 5), steps=(1, 2), **options)


BUILDERS = {
    "many views": lambda seed: Pairs.from_many_views([2 * v for v in three_views(5, 5, seed)]),
    "star, stacked, references": lambda seed: Pairs.from_many_views(
        [2 * v for v in three_views(5, 5, seed)],
        directions="star",
        negatives="stacked",
        replaces="reference",
    ),
    "bank of anchors": lambda seed: Pairs.from_many_views(
        three_views(5, 5, seed)[:2], bank=2 * testing.samples(4, 5, seed + 9)[0]
    ),
    "bank of references": lambda seed: Pairs.from_many_views(
        three_views(5, 5, seed)[:2],
        bank=2 * testing.samples(4, 5, seed + 9)[0],
        negatives=None,
        replaces="reference",
    ),
    "sequence": lambda seed: sequence(seed, num_negatives=2),
    "sequence, both, in time": lambda seed: sequence(
        seed, negatives="time", directions="both", replaces="reference"
    ),
    "labels": lambda seed: Pairs.from_labels(
        2 * testing.samples(8, 5, seed)[0], [0, 1, 2, 0, 1, 2, 0, 1], num_negatives=3
    ),
    "labels, random references": lambda seed: Pairs.from_labels(
        2 * testing.samples(8, 5, seed)[0],
        [0, 1, 2, 0, 1, 2, 0, 1],
        negatives="random",
        replaces="reference",
        rng=np.random.default_rng(seed),
    ),
}
SMOOTH = {
    "type 2": losses.TypeTwo(scores.Softplus()),
    "type 1": losses.TypeOne(scores.Softplus()),
    "InfoNCE": losses.InfoNCE(),
}


@pytest.mark.parametrize(("loss", "context"), [("type 2", "same"), ("InfoNCE", "top")])
@pytest.mark.parametrize("kind", BUILDERS)
def test_numpy_and_the_oracle_agree(kind, loss, context):
    pairs = BUILDERS[kind](0)
    rule = Rule("r", SMOOTH[loss], context, penalty=0.1)
    net = ll.DeepReLU.uniform([5, 3, 3], seed=1)
    for name in ("local_update", "global_update"):
        assert_same_update(
            getattr(ll, name)(net, pairs, rule),
            getattr(autodiff, name)(net, pairs, rule),
            1e-10,
            f"{name} of {kind}",
        )


@settings(max_examples=25)
@given(
    kind=st.sampled_from(sorted(BUILDERS)),
    loss=st.sampled_from(sorted(SMOOTH)),
    context=st.sampled_from(["same", "top"]),
    seed=st.integers(0, 50),
)
def test_statements_1_2_and_4_hold_and_break(kind, loss, context, seed):
    pairs, chosen = BUILDERS[kind](seed), SMOOTH[loss]
    generic = ll.DeepLinear.uniform([5, 4, 6, 5], seed)
    rigid = ll.DeepLinear.orthogonal([5, 4, 5, 6], seed)
    plain = Rule("r", chosen, context, penalty=0.1)
    matched = Rule("r", chosen, context, "matched", penalty=0.1)
    metric = Rule("r", chosen, context, penalty=Penalty(0.1, "downstream"))
    for network, rule in ((generic, matched), (rigid, plain), (generic, metric)):
        found = ll.compare(network, pairs, rule)
        allowed = testing.tolerance(
            condition_number=float(np.nan_to_num(found.condition_number).max()) or 1.0, multiple=64
        )
        assert found.relative_error.max() <= allowed
        if rule is not matched:
            assert ll.explain(network, pairs, rule).exact
    broken = ll.compare(generic, pairs, plain)
    assert broken.relative_error[:-1].min() > VISIBLE
    assert not ll.explain(generic, pairs, plain).exact


def test_each_direction_has_a_projection_of_its_own():
    """The update of several steps is the sum of those of single steps."""
    x = testing.samples(12, 5, 0)[0].reshape(3, 4, 5)
    net, rule = ll.DeepLinear.uniform([5, 4, 4], 0), ll.rules.GreedyInfoMax()
    single = [ll.local_update(net, Pairs.from_sequence(x, steps=(s,)), rule) for s in (1, 2)]
    together = ll.local_update(net, Pairs.from_sequence(x, steps=(1, 2)), rule)
    assert_same_update(together, [a + b for a, b in zip(*single, strict=True)])


# -- refused ---------------------------------------------------------------------------------------

X = np.arange(12.0).reshape(4, 3)
SEQUENCE = np.ones((2, 3, 2))
REFUSED = {
    "one view": (lambda: Pairs.from_many_views([X]), "needs two views, got 1"),
    "unequal views": (
        lambda: Pairs.from_many_views([X, X, X[:3]]),
        r"same shape.*\(4, 3\), \(4, 3\), \(3, 3\)",
    ),
    "directions of views": (
        lambda: Pairs.from_many_views([X, X], directions="both"),
        'directions must be "all" or "star", got \'both\'',
    ),
    "replaces": (
        lambda: Pairs.from_many_views([X, X], replaces="both"),
        'replaces must be "anchor" or "reference"',
    ),
    "a narrow bank": (
        lambda: Pairs.from_many_views([X, X], bank=X[:, :2]),
        r"as wide as those of the batch, 3, got shape \(4, 2\)",
    ),
    "an empty bank": (lambda: Pairs.from_many_views([X, X], bank=X[:0]), "bank is empty"),
    "NaN in a bank": (lambda: Pairs.from_many_views([X, X], bank=X * np.nan), "bank has 12 non-"),
    "NaN in a view": (lambda: Pairs.from_many_views([X, X * np.nan]), "view 2 has 12 non-finite"),
    "too many negatives": (
        lambda: Pairs.from_many_views([X, X, X], num_negatives=4),
        "4 negatives for each pair need a batch of at least 5",
    ),
    "no generator for views": (
        lambda: Pairs.from_many_views([X, X], negatives="random"),
        "needs rng=",
    ),
    "one sequence without its axis": (
        lambda: Pairs.from_sequence(X),
        r"\(sequences, time, width\), got shape \(4, 3\); one sequence is x\[None\]",
    ),
    "NaN in a sequence": (lambda: Pairs.from_sequence(SEQUENCE * np.nan), "samples has 12 non-"),
    "a step too far": (
        lambda: Pairs.from_sequence(SEQUENCE, steps=(1, 3)),
        r"below the 3 times of a sequence, got \[1, 3\]",
    ),
    "a step twice": (lambda: Pairs.from_sequence(SEQUENCE, steps=(1, 1)), "different numbers"),
    "a step of 0": (lambda: Pairs.from_sequence(SEQUENCE, steps=(0,)), "at least 1, got 0"),
    "no steps": (lambda: Pairs.from_sequence(SEQUENCE, steps=()), "at least one whole number"),
    "one sequence, next": (
        lambda: Pairs.from_sequence(SEQUENCE[:1]),
        "takes 1 other sequences for each pair, and there are 0",
    ),
    "few times": (
        lambda: Pairs.from_sequence(SEQUENCE, steps=(2,), negatives="time"),
        "takes 1 other times that a step reaches for each pair, and there are 0",
    ),
    "stacked in time": (
        lambda: Pairs.from_sequence(SEQUENCE, negatives="stacked"),
        'negatives must be "next" or "time" or "random" or None',
    ),
    "directions of a sequence": (
        lambda: Pairs.from_sequence(SEQUENCE, directions="backward"),
        'directions must be "forward" or "both"',
    ),
    "no generator in time": (
        lambda: Pairs.from_sequence(SEQUENCE, negatives="random"),
        "needs rng=",
    ),
    "labels of another length": (
        lambda: Pairs.from_labels(X, [0, 1]),
        r"one for each of the 4 samples, got shape \(2,\)",
    ),
    "no label twice": (
        lambda: Pairs.from_labels(X, [0, 1, 2, 3]),
        "No label occurs twice among 4 samples",
    ),
    "one class": (
        lambda: Pairs.from_labels(X, [7, 7, 7, 7]),
        "same label, so none is left for negative pairs.*negatives=None",
    ),
    "few of other classes": (
        lambda: Pairs.from_labels(X, [0, 0, 0, 1], num_negatives=2),
        "2 negatives for each pair, but the largest class leaves 1 samples",
    ),
    "no positives wanted": (
        lambda: Pairs.from_labels(X, [0, 0, 1, 1], num_positives=0),
        "num_positives must be at least 1",
    ),
    "negatives of labels": (
        lambda: Pairs.from_labels(X, [0, 0, 1, 1], negatives="stacked"),
        'negatives must be "next" or "random" or None',
    ),
    "no generator for labels": (
        lambda: Pairs.from_labels(X, [0, 0, 1, 1], negatives="random"),
        "needs rng=",
    ),
    "pairs of views for a rule of views": (
        lambda: ll.compare(
            ll.DeepLinear.uniform([3, 3], 0), Pairs.from_many_views([X, X, X]), ll.rules.SIGReg()
        ),
        "SIGReg compares two views",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_words(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_and_steps_are_whole_numbers():
    with pytest.raises(TypeError, match="labels must hold whole numbers"):
        Pairs.from_labels(X, [0.5, 0.5, 1.0, 1.0])
    with pytest.raises(TypeError, match="an entry of steps must be a whole number"):
        Pairs.from_sequence(SEQUENCE, steps=(1.5,))
    with pytest.raises(TypeError, match="views must be a sequence of matrices"):
        Pairs.from_many_views(None)


def test_one_class_is_enough_without_negatives():
    pairs = Pairs.from_labels(X, [7, 7, 7, 7], negatives=None)
    assert (pairs.directions[0].sign == 1).all()
