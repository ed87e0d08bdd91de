"""Who is compared with whom."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from linlocal import testing
from linlocal.pairs import Direction, Pairs


def triples(direction):
    return set(
        zip(direction.anchor, direction.reference, direction.sign, direction.group, strict=True)
    )


def test_next_is_the_anchor_of_the_next_sample_with_the_same_reference():
    x = np.arange(6.0).reshape(3, 2)
    pairs = Pairs.from_views(x, -x)
    np.testing.assert_array_equal(pairs.samples, np.vstack([x, -x]))
    forward, backward = pairs.directions
    assert triples(forward) == {
        (0, 3, 1, 0),
        (1, 4, 1, 1),
        (2, 5, 1, 2),
        (1, 3, -1, 0),
        (2, 4, -1, 1),
        (0, 5, -1, 2),
    }
    assert triples(backward) == {
        ((a + 3) % 6, (r + 3) % 6, y, g) for a, r, y, g in triples(forward)
    }
    assert pairs.num_pairs == 12
    np.testing.assert_array_equal(pairs.views, ([0, 1, 2], [3, 4, 5]))


@given(
    n=st.integers(2, 12),
    data=st.data(),
    kind=st.sampled_from(["next", "random"]),
    seed=st.integers(0, 99),
)
def test_every_positive_has_that_many_different_negatives_and_none_is_itself(n, data, kind, seed):
    count = data.draw(st.integers(1, n - 1))
    x, view = testing.samples(n, 2, seed)
    rng = np.random.default_rng(seed)
    pairs = Pairs.from_views(x, view, negatives=kind, num_negatives=count, rng=rng)
    for number, d in enumerate(pairs.directions):
        assert (d.sign > 0).sum() == n
        assert d.num_negatives == n * count
        for g in range(n):
            (positive,) = np.flatnonzero((d.group == g) & (d.sign > 0))
            negatives = np.flatnonzero((d.group == g) & (d.sign < 0))
            assert len(set(d.anchor[negatives])) == count
            assert d.anchor[positive] not in d.anchor[negatives]
            assert set(d.reference[negatives]) == {d.reference[positive]}
            assert d.anchor[positive] % n == d.reference[positive] % n
        assert set(d.anchor // n) == {number}
        assert set(d.reference // n) == {1 - number}
        np.testing.assert_array_equal(d.group[d.positive_of], d.group[d.sign < 0])
        assert (d.sign[d.positive_of] > 0).all()


def test_random_negatives_differ_between_directions_and_repeat_with_the_seed():
    x, view = testing.samples(30, 2, 0)

    def draw(seed):
        return Pairs.from_views(x, view, negatives="random", rng=np.random.default_rng(seed))

    once, again, other = draw(1), draw(1), draw(2)
    assert triples(once.directions[0]) == triples(again.directions[0])
    assert triples(once.directions[0]) != triples(other.directions[0])
    forward, backward = once.directions
    assert (forward.anchor != backward.anchor - 30).any()


def test_more_negatives_and_directions_keep_those_of_fewer():
    """One seed: comparisons of their numbers differ in the added pairs only."""
    x, view = testing.samples(7, 3, 0)

    def drawn(**options):
        rng = np.random.default_rng(4)
        return Pairs.from_views(x, view, negatives="random", rng=rng, **options).directions[0]

    few, more = drawn(num_negatives=2), drawn(num_negatives=5)
    assert (more.anchor[: len(few.anchor)] == few.anchor).all()
    assert (drawn(directions="forward").anchor == drawn(directions="both").anchor).all()


def test_no_negatives():
    pairs = Pairs.from_views([[1.0]], [[2.0]], negatives=None)
    assert [d.num_negatives for d in pairs.directions] == [0, 0]
    with pytest.raises(ValueError, match=r"CLAPP needs negative pairs.*negatives="):
        pairs.require_negatives("CLAPP")


def test_image_patches():
    """Two images of 5 x 7 and patches of 2: a 2 x 3 grid, so three vertical pairs each."""
    images = np.arange(2 * 5 * 7, dtype=float).reshape(2, 5, 7)
    pairs = Pairs.from_image_patches(images, 2, directions="forward")
    upper, lower = pairs.samples[:6], pairs.samples[6:]
    expected_upper, expected_lower = [], []
    for column in range(3):
        for image in images:
            patch = image[0:2, 2 * column : 2 * column + 2]
            expected_upper.append(patch.ravel())
            expected_lower.append(image[2:4, 2 * column : 2 * column + 2].ravel())
    np.testing.assert_array_equal(upper, expected_upper)
    np.testing.assert_array_equal(lower, expected_lower)
    # "next" is the same place in the next image.
    d = pairs.directions[0]
    (negative,) = np.flatnonzero((d.sign < 0) & (d.group == 0))
    np.testing.assert_array_equal(pairs.samples[d.anchor[negative]], images[1, :2, :2].ravel())


def test_three_rows_of_patches_make_two_rows_of_pairs():
    images = np.arange(6 * 2, dtype=float).reshape(1, 6, 2)
    pairs = Pairs.from_image_patches(images, 2, directions="forward")
    np.testing.assert_array_equal(pairs.samples[:2], images.reshape(3, 4)[:2])
    np.testing.assert_array_equal(pairs.samples[2:], images.reshape(3, 4)[1:])


def test_positive_and_negative_samples():
    pairs = Pairs.from_positive_negative([[1.0], [2.0]], [[3.0], [4.0]])
    assert triples(pairs.directions[0]) == {
        (0, 0, 1, 0),
        (1, 1, 1, 1),
        (2, 2, -1, 0),
        (3, 3, -1, 1),
    }
    assert pairs.views is None


def test_rows_and_positions():
    d = Direction(
        np.array([7, 2, 7]), np.array([4, 4, 9]), np.array([1.0, -1, -1]), np.array([5, 5, 5])
    )
    np.testing.assert_array_equal(d.anchor_rows, [2, 7])
    np.testing.assert_array_equal(d.reference_rows, [4, 9])
    np.testing.assert_array_equal(d.anchor_rows[d.anchor_index], d.anchor)
    np.testing.assert_array_equal(d.reference_rows[d.reference_index], d.reference)
    np.testing.assert_array_equal(d.positive_of, [0, 0])
    expected = np.array([[20.0, 0.0], [10.0, 30.0]])
    np.testing.assert_array_equal(d.coefficient_matrix(np.array([10.0, 20, 30])), expected)


def test_coefficients_of_repeated_pairs_add_up():
    d = Direction(
        np.array([0, 0, 0]), np.array([1, 1, 1]), np.array([1.0, 1, -1]), np.array([0, 1, 0])
    )
    np.testing.assert_array_equal(d.coefficient_matrix(np.array([1.0, 2, 4])), [[7.0]])


def test_a_batch_is_a_copy_that_cannot_be_written_to():
    x = np.ones((3, 2))
    pairs = Pairs.from_views(x, x)
    x[0] = 5.0
    assert pairs.samples.max() == 1.0
    with pytest.raises(ValueError, match="read-only"):
        pairs.samples[0] = 0.0
    with pytest.raises(ValueError, match="read-only"):
        pairs.directions[0].anchor[0] = 2


def test_integers_and_lists_are_taken():
    pairs = Pairs.from_views([[1, 2], [3, 4]], [[1, 2], [3, 4]])
    assert pairs.samples.dtype == np.float64


def test_the_arrays_of_the_caller_stay_writable():
    anchor, reference, group = np.arange(2), np.arange(2), np.zeros(2, dtype=int)
    sign = np.array([1.0, -1.0])
    made = Direction(anchor, reference, sign, group)
    anchor[0] = sign[0] = 7
    assert made.anchor[0] == 0
    assert made.sign[0] == 1
