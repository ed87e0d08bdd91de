"""Effective rank, CKA, cosines of pairs, classifiers while training: each against another way."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from linlocal.analysis.probing import (
    RunningProbe,
    effective_rank,
    knn_accuracy,
    linear_cka,
    pair_cosines,
)
from linlocal.analysis.probing.linear_classifiers import ridge
from linlocal.analysis.probing.representations import QUANTILES, quantiles

SEEDS = st.integers(0, 2**16)
FEW = settings(max_examples=15, deadline=None)


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def rotation(seed, width):
    return torch.linalg.qr(draw(seed, width, width)).Q


# -- effective rank --------------------------------------------------------------------------------


@FEW
@given(SEEDS, st.integers(1, 7), st.integers(1, 7))
def test_effective_rank_is_the_exponential_of_the_entropy(seed, n, width):
    z = draw(seed, n, width)
    # Of the eigenvalues of the smaller Gram matrix, with logarithms.
    gram = (z @ z.T if n < width else z.T @ z).numpy()
    singular = np.sqrt(np.linalg.eigvalsh(gram).clip(0))
    p = singular / singular.sum()
    expected = np.prod(p[p > 0] ** -p[p > 0])
    assert effective_rank(z) == pytest.approx(expected, rel=1e-6)
    assert 1 <= effective_rank(z) <= min(n, width) + 1e-12
    moved = 1e-150 * rotation(seed, n) @ z @ rotation(seed + 1, width)
    assert effective_rank(moved) == pytest.approx(effective_rank(z), rel=1e-10)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_equal_singular_values_count_fully_and_unequal_ones_less(k):
    z = rotation(0, 8)[:, :k] @ rotation(1, 6)[:k]
    assert effective_rank(z) == pytest.approx(k, rel=1e-12)
    if k > 1:
        z = rotation(0, 8)[:, :k] @ torch.diag(0.5 ** torch.arange(k).double()) @ rotation(1, 6)[:k]
        assert effective_rank(z) < k - 0.1
    assert math.isnan(effective_rank(torch.zeros(4, k)))


# -- CKA -------------------------------------------------------------------------------------------


@FEW
@given(SEEDS)
def test_cka_is_the_similarity_of_centred_features_up_to_rotation_scale_and_shift(seed):
    x, y = draw(seed, 9, 4), draw(seed + 1, 9, 5)
    a, b = (z - z.mean(0) for z in (x, y))
    expected = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert linear_cka(x, y) == pytest.approx(float(expected), rel=1e-10)
    for unbiased in (False, True):
        moved = 1e-120 * x @ rotation(seed + 2, 4) + 1e-120
        assert linear_cka(x, moved, unbiased=unbiased) == pytest.approx(1, rel=1e-9)
        stretched = x @ torch.diag(torch.tensor([1.0, 10.0, 1.0, 1.0]).double())
        assert linear_cka(x, stretched, unbiased=unbiased) < 0.99


def test_the_unbiased_cka_is_the_mean_over_all_different_samples():
    x, y = draw(0, 6, 3), draw(1, 6, 2)

    def hsic(k, l):
        return sum(
            float(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]))
            for i, j, q, r in itertools.permutations(range(6), 4)
        )

    k, l = x @ x.T, y @ y.T
    expected = hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))
    assert linear_cka(x, y, unbiased=True) == pytest.approx(expected, rel=1e-10)


def test_independent_wide_features_are_alike_only_to_the_biased_cka():
    found = {
        unbiased: [
            linear_cka(draw(2 * s, 16, 256), draw(2 * s + 1, 16, 256), unbiased=unbiased)
            for s in range(20)
        ]
        for unbiased in (False, True)
    }
    assert min(found[False]) > 0.8
    assert abs(np.mean(found[True])) < 4 * np.std(found[True]) / math.sqrt(20)


def test_the_cka_of_what_does_not_vary_is_undefined():
    assert math.isnan(linear_cka(torch.ones(5, 2), draw(0, 5, 2)))


# -- cosines of pairs ------------------------------------------------------------------------------


def test_cosines_are_those_of_all_pairs_also_of_tiny_rows():
    a, b = draw(0, 5, 3), draw(1, 5, 3)
    a[2] *= 1e-200
    b[3] *= 1e200
    positive, negative = pair_cosines(a, b)

    def cosine(u, v):
        u, v = (w / np.abs(w).max() for w in (u.numpy(), v.numpy()))
        return float(u @ v / np.sqrt(u @ u) / np.sqrt(v @ v))

    each = [[cosine(u, v) for v in b] for u in a]
    np.testing.assert_allclose(positive, np.diag(each), rtol=1e-12)
    apart = [each[i][j] for i in range(5) for j in range(5) if i != j]
    np.testing.assert_allclose(negative, apart, rtol=1e-12)
    assert quantiles(negative) == pytest.approx([np.quantile(apart, q) for q in QUANTILES])


def test_a_row_of_zeros_has_no_cosine_and_does_not_count():
    a, b = draw(0, 4, 3), draw(1, 4, 3)
    a[1] = 0
    positive, negative = pair_cosines(a, b)
    assert positive.isnan().tolist() == [False, True, False, False]
    assert int(negative.isnan().sum()) == 3
    assert not np.isnan(quantiles(positive)).any()
    assert np.isnan(quantiles(positive[1:2])).all()


# -- nearest neighbours ----------------------------------------------------------------------------


def votes(known, labels, z, k, temperature):
    """The class with most votes, by loops."""
    cosines = [float(z @ x) / math.sqrt(float(x @ x) * float(z @ z)) for x in known]
    nearest = sorted(range(len(known)), key=lambda i: -cosines[i])[:k]
    score = {}
    for i in nearest:
        y = int(labels[i])
        score[y] = score.get(y, 0.0) + math.exp(cosines[i] / temperature)
    return max(score, key=score.get)


@FEW
@given(SEEDS, st.integers(1, 40), st.sampled_from([0.07, 1.0]))
def test_the_accuracy_of_neighbours_is_that_of_their_votes(seed, k, temperature):
    rng = np.random.default_rng(seed)
    known, z = draw(seed, 30, 4), draw(seed + 1, 12, 4)
    labels, test_labels = (torch.from_numpy(rng.integers(-1, 3, n) * 5) for n in (30, 12))
    found = knn_accuracy(known, labels, z, test_labels, neighbours=k, temperature=temperature)
    right = [
        votes(known, labels, row, k, temperature) == int(y)
        for row, y in zip(z, test_labels, strict=True)
    ]
    assert found == pytest.approx(np.mean(right))


def test_votes_do_not_overflow_and_weigh_by_cosine():
    known = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    asked, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([7, 3, 3])
    near, far = (
        knn_accuracy(known, labels, asked, torch.tensor([7]), temperature=t) for t in (1e-4, 10.0)
    )
    assert (near, far) == (1.0, 0.0)


# -- a probe from running sums ---------------------------------------------------------------------


def weighted_ridge(x, labels, weight, new, strength):
    """The minimum by the normal equations of the weighted samples."""
    classes = np.unique(labels)
    y = (labels[:, None] == classes) * 1.0
    p = weight / weight.sum()
    mean, target = p @ x, p @ y
    scale = np.sqrt(p @ (x - mean) ** 2)
    a, b = (np.sqrt(p)[:, None] * w for w in ((x - mean) / scale, y - target))
    stacked = np.vstack([a, np.sqrt(strength) * np.eye(x.shape[1])])
    w, *_ = np.linalg.lstsq(stacked, np.vstack([b, np.zeros((x.shape[1], b.shape[1]))]), rcond=None)
    return (new - mean) / scale @ w + target


@FEW
@given(SEEDS, st.sampled_from([1.0, 0.6]))
def test_the_running_probe_is_the_ridge_classifier_of_all_samples(seed, decay):
    rng = np.random.default_rng(seed)
    x, new = draw(seed, 24, 3) + 100.0, draw(seed + 1, 6, 3) + 100.0
    labels = torch.from_numpy(rng.integers(0, 3, 24) * 4)
    labels[:8], labels[8] = 4, 0  # so that a class with a smaller number comes later
    probe = RunningProbe(ridge=0.03, decay=decay)
    for rows in (slice(0, 8), slice(8, 16), slice(16, 24)):
        probe.learn(x[rows], labels[rows])
    weight = decay ** np.repeat([2.0, 1.0, 0.0], 8)
    expected = weighted_ridge(x.numpy(), labels.numpy(), weight, new.numpy(), 0.03)
    np.testing.assert_allclose(probe.scores(new), expected, rtol=1e-7, atol=1e-9)
    if decay == 1:  # the classifier of `linear_probe`
        mean, deviation = x.mean(0), x.std(0, correction=0)
        _, places = labels.unique(return_inverse=True)
        whole = ridge((x - mean) / deviation, F.one_hot(places).double())
        offline = whole((new - mean) / deviation)(0.03)
        np.testing.assert_allclose(probe.scores(new), offline, rtol=1e-7, atol=1e-9)
    else:
        plain = weighted_ridge(x.numpy(), labels.numpy(), np.ones(24), new.numpy(), 0.03)
        assert np.abs(probe.scores(new).numpy() - plain).max() > 1e-3


def test_the_running_probe_reads_what_is_linear_and_leaves_constants_out():
    x = torch.cat([draw(0, 400, 3), torch.full((400, 1), 3.0)], 1)
    labels = (x[:, 0] + 2 * x[:, 1] > 0).long()
    probe = RunningProbe(decay=1.0)
    assert math.isnan(probe.accuracy(x, labels))
    probe.learn(x[:300], labels[:300])
    assert probe.accuracy(x[300:], labels[300:]) > 0.93
    assert probe.accuracy(x[300:], labels[300:].flip(0)) < 0.7
    assert probe.scores(x).isfinite().all()


def test_malformed_features_are_named():
    x, labels = draw(0, 6, 3), torch.arange(6) % 2
    probe = RunningProbe()
    probe.learn(x, labels)
    for call, kind, message in (
        (lambda: probe.learn(x[:, :2], labels), ValueError, "2 features came, but 3 before"),
        (lambda: probe.learn(x, labels[:4]), ValueError, r"got \(6, 3\) and \(4,\)"),
        (lambda: probe.accuracy(x, labels.float()), TypeError, "whole numbers, got torch.float32"),
        (lambda: knn_accuracy(x, labels, x[:, :2], labels), ValueError, "3 known features and 2"),
        (lambda: knn_accuracy(x[:0], labels[:0], x, labels), ValueError, "one label for each"),
        (lambda: linear_cka(x, x[:5]), ValueError, "got 6 and 5 rows"),
        (lambda: linear_cka(x[:3], x[:3], unbiased=True), ValueError, "at least 4"),
        (lambda: effective_rank(x[0]), ValueError, r"of shape \(3,\)"),
        (lambda: effective_rank(x * math.nan), ValueError, "has the network diverged"),
        (lambda: effective_rank([["a"]]), TypeError, "real numbers"),
        (lambda: pair_cosines(x, x[:5]), ValueError, "the same shape"),
    ):
        with pytest.raises(kind, match=message):
            call()
