"""Tables of all in-batch pairs, and Newton with conjugate gradients: the answers of lists."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import autodiff, losses, rules, testing
from linlocal.losses import Curvature, scores
from linlocal.pairs import Contrasts, Direction, Pairs, Table, direction as lists
from linlocal.projection import (
    NewtonMatrix,
    Preconditioner,
    Rows,
    ScoreProblem,
    newton,
    optimal_projection,
)

LOSSES = {
    "type 2, softplus": losses.TypeTwo(scores.Softplus(1.0)),
    "type 1, softplus": losses.TypeOne(scores.Softplus(1.0)),
    "type 2, own score": losses.TypeTwo(testing.Exponential()),
    "type 1, own score": losses.TypeOne(testing.Exponential()),
    "InfoNCE": losses.InfoNCE(0.7),
    "SupervisedInfoNCE": losses.SupervisedInfoNCE(0.7),
    "SpectralScores": losses.SpectralScores(),
}


@dataclass(frozen=True)
class Doubled(Contrasts):
    """m = 2 u: contrasts that are not ours."""

    num_pairs: int

    @property
    def num_margins(self):
        return self.num_pairs

    def apply(self, u):
        return 2.0 * u

    def adjoint(self, g):
        return 2.0 * g


class OwnLoss:
    """sum of squares of (2 u - sign), with the Hessian as a matrix."""

    def contrasts(self, pairs):
        return Doubled(pairs.num_pairs)

    def value(self, m, pairs):
        return float(np.sum((m - pairs.sign) ** 2))

    def gradient(self, m, pairs):
        return 2.0 * (m - pairs.sign)

    def curvature(self, m, pairs):
        return 2.0 * np.eye(len(m))


ALL = {**LOSSES, "own loss": OwnLoss()}


def listed(d):
    """The same pairs, one by one."""
    return Direction(d.anchor, d.reference, d.sign, d.group)


def table(n=9, width=4, context_width=3, seed=0, size=1.5):
    """z, c and a table."""
    d = Table(np.arange(n), np.arange(n, 2 * n))
    z, c = (testing.samples(n, w, seed + w)[0] for w in (width, context_width))
    return size * z, size * c, d


def several_positives(seed=0):
    """References with two positive pairs, one, and none; only the last have no pull."""
    rng = np.random.default_rng(seed)
    anchor, reference = (a.ravel() for a in np.divmod(np.arange(30), 5))
    sign = np.where(rng.random(30) < 0.3, 1.0, -1.0)
    sign[reference == 4] = -1.0
    sign[:2] = 1.0
    group = np.where(sign > 0, np.arange(30), np.flatnonzero(sign > 0)[0])
    return Direction(anchor, reference + 6, sign, group)


# -- a table is the list of its pairs --------------------------------------------------------------


@given(n=st.integers(2, 12), first=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_table_is_the_list_of_its_pairs(n, first, seed):
    d = Table(first + np.arange(n), 50 + 2 * np.arange(n))
    same, rng = listed(d), np.random.default_rng(seed)
    left, right, h = rng.random((n, 3)), rng.random((n, 3)), rng.random(n * n)
    np.testing.assert_allclose(d.scores(left, right), same.scores(left, right), rtol=1e-14)
    np.testing.assert_array_equal(d.coefficient_matrix(h), same.coefficient_matrix(h))
    chosen = rng.integers(0, n * n, 7)
    np.testing.assert_array_equal(d.ends(chosen), same.ends(chosen))
    for name in ("anchor_rows", "reference_rows", "weights", "num_negatives", "positive_mask"):
        np.testing.assert_array_equal(getattr(d, name), getattr(same, name))
    for name in ("signed", "differences", "plain"):
        ours, theirs = getattr(d, name), getattr(same, name)
        assert ours.num_margins == theirs.num_margins
        assert ours.only_signs == theirs.only_signs
        u, g = rng.random((n * n, 2)), rng.random(ours.num_margins)
        np.testing.assert_array_equal(ours.apply(u[:, 0]), theirs.apply(u[:, 0]))
        np.testing.assert_allclose(ours.adjoint(g), theirs.adjoint(g), atol=1e-14)
        np.testing.assert_allclose(ours.weigh(g), theirs.weigh(g), atol=1e-14)
        matrix = theirs.apply(np.eye(n * n))
        np.testing.assert_allclose(ours.weigh(g), np.diag(matrix.T * g @ matrix), atol=1e-14)
    for name in ("negative_groups", "reference_groups", "groups"):
        ours, theirs = getattr(d, name), getattr(same, name)
        x = rng.random(d.num_negatives if name == "negative_groups" else n * n)
        np.testing.assert_allclose(ours.total(x), theirs.total(x), rtol=1e-14)
        np.testing.assert_array_equal(ours.largest(x), theirs.largest(x))
        np.testing.assert_allclose(ours.inner(x, x), theirs.inner(x, x), rtol=1e-14)
        y = ours.total(x)
        np.testing.assert_array_equal(ours.spread(y), theirs.spread(y))
        less, same_less = x.copy(), x.copy()
        ours.subtract(y, less)
        theirs.subtract(y, same_less)
        np.testing.assert_array_equal(less, same_less)


def test_a_table_lists_no_pairs_unless_asked():
    pairs = Pairs.from_views(*testing.samples(300, 4, 0), negatives="all")
    rule = rules.GreedyInfoMax(1.0, penalty=0.1)
    comparison = ll.compare(ll.DeepLinear.orthogonal([4, 3, 3], seed=0), pairs, rule)
    assert np.isfinite(comparison.cosine).all()
    for d in pairs.directions:
        assert not {"anchor", "reference", "sign", "group"} & d.__dict__.keys()


@pytest.mark.parametrize(
    "rule",
    [
        rules.GreedyInfoMax(),
        rules.CLAPP("softplus"),
        rules.CLAPP("hinge"),
        rules.CLAPP_DFB("linear"),
        rules.CLAPP_EACH("smoothed_hinge"),
        rules.Rule("type 1", losses.TypeOne(scores.Softplus(0.5))),
        rules.Rule("several positives", losses.SupervisedInfoNCE(0.5), "both"),
        rules.Rule("spectral", losses.SpectralScores(), penalty=0.1),
        rules.PhyLL(),
    ],
    ids=lambda rule: f"{rule.name} {getattr(rule.loss, 'score', '')}",
)
def test_all_negatives_are_those_of_the_list_and_of_the_oracle(rule):
    n = 8
    x, view = testing.samples(n, 5, 1)
    all_pairs = Pairs.from_views(x, view, negatives="all")
    every = Pairs.from_views(x, view, num_negatives=n - 1)
    network = ll.DeepLinear.uniform([5, 4, 4], seed=0)
    ours, theirs = (ll.compare(network, pairs, rule) for pairs in (all_pairs, every))
    assert all_pairs.num_pairs == every.num_pairs == 2 * n * n
    for name in ("cosine", "relative_error", "dual_mismatch", "context_mismatch", "residual"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-12)
    np.testing.assert_allclose(ours.condition_number, theirs.condition_number, rtol=1e-8)
    text = ll.explain(network, all_pairs, rule).details()
    assert "layer 1: local differs" in text
    assert "layer 2: local equal" in text
    if rule.name == "CLAPP" and "Hinge" in type(rule.loss.score).__name__:
        return  # autograd has no slope at a kink
    for update in ("local_update", "global_update"):
        testing.assert_same_update(
            getattr(ll, update)(network, all_pairs, rule),
            getattr(autodiff, update)(network, all_pairs, rule),
        )


def test_some_negatives_are_not_all_of_them():
    x, view = testing.samples(8, 5, 1)
    network = ll.DeepLinear.uniform([5, 4, 4], seed=0)
    found = [
        ll.local_update(network, pairs, rules.GreedyInfoMax())[0]
        for pairs in (
            Pairs.from_views(x, view, negatives="all"),
            Pairs.from_views(x, view, num_negatives=6),
        )
    ]
    assert np.linalg.norm(found[0] - found[1]) > 1e-2 * np.linalg.norm(found[0])


@pytest.mark.parametrize("name", ["isometry", "no isometry"])
def test_local_equals_global_with_all_negatives_above_an_isometry(name):
    """Statement 2 where conjugate gradients solve; both sides."""
    pairs = Pairs.from_views(*testing.samples(64, 40, 2), negatives="all", directions="forward")
    make = ll.DeepLinear.orthogonal if name == "isometry" else ll.DeepLinear.uniform
    network, rule = make([40, 24, 24], seed=1), rules.GreedyInfoMax(penalty=0.02)
    comparison = ll.compare(network, pairs, rule)
    method = {s.projection.method for s in ll.updates.Signals(network, pairs, rule).scored(1)}
    assert method == {"iterative"}
    error = float(comparison.relative_error.sel(layer=1))
    assert error <= 1e-12 if name == "isometry" else error > 1e-2


# -- three methods, one minimiser ------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_dual_primal_and_iterative_find_the_same_minimiser(data):
    loss = ALL[data.draw(st.sampled_from(sorted(ALL)))]
    z, c, d = table(data.draw(st.integers(3, 10)), seed=data.draw(st.integers(0, 99)))
    if data.draw(st.booleans()):
        d = listed(d)
    penalty = 10.0 ** data.draw(st.floats(-2.0, 0.5))
    dual, primal, iterative = (
        optimal_projection(z, c, d, loss, penalty, method)
        for method in ("dual", "primal", "iterative")
    )
    assert iterative.method == "iterative"
    assert iterative.products > 0 == dual.products == primal.products
    assert iterative.relative_gradient <= 1e-11
    scale = np.linalg.norm(dual.matrix)
    for other in (dual, primal):
        assert np.linalg.norm(other.matrix - iterative.matrix) <= 1e-11 * scale
    np.testing.assert_allclose(iterative.slopes, dual.slopes, atol=1e-11)
    assert iterative.condition_number == pytest.approx(dual.condition_number, rel=1e-6)


@pytest.mark.parametrize("name", ["SupervisedInfoNCE", "SpectralScores"])
def test_several_positives_agree_with_the_oracle(name):
    d = several_positives()
    z, c = testing.samples(6, 4, 0)[0], testing.samples(5, 3, 1)[0]
    oracle = autodiff.optimal_projection(z, c, d, LOSSES[name], 0.1)
    for method in ("dual", "primal", "iterative"):
        found = optimal_projection(z, c, d, LOSSES[name], 0.1, method).matrix
        np.testing.assert_allclose(found, oracle, rtol=0, atol=1e-12 * np.abs(oracle).max())


def test_info_nce_is_supervised_info_nce_with_one_positive_and_not_with_two():
    z, c, d = table()
    one, same = losses.InfoNCE(0.5), losses.SupervisedInfoNCE(0.5)
    u = d.scores(z @ np.ones((4, 3)), c)
    assert one.value(d.differences.apply(u), d) == pytest.approx(same.value(u, d), rel=1e-13)
    by_score = d.differences.adjoint(one.gradient(d.differences.apply(u), d))
    np.testing.assert_allclose(by_score, same.gradient(u, d), atol=1e-15)
    d = several_positives()
    u = np.linspace(-1.0, 1.0, 30)
    apart = one.value(d.differences.apply(u), d) - same.value(u, d)
    assert abs(apart) > 1e-2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("many", ["table", "list", "several positives"])
def test_derivatives_by_finite_differences(loss, many):
    d = {"table": table(4)[2], "list": listed(table(4)[2])}.get(many, several_positives())
    loss, h = LOSSES[loss], 1e-5
    m = np.random.default_rng(0).standard_normal(loss.contrasts(d).num_margins)
    identity = np.eye(len(m))
    slopes = [(loss.value(m + h * e, d) - loss.value(m - h * e, d)) / (2 * h) for e in identity]
    np.testing.assert_allclose(loss.gradient(m, d), slopes, atol=1e-8)
    hessian = [
        (loss.gradient(m + h * e, d) - loss.gradient(m - h * e, d)) / (2 * h) for e in identity
    ]
    full = np.array(losses.explicit(loss.curvature(m, d)))
    full = np.diag(full) if full.ndim == 1 else full
    np.testing.assert_allclose(full, hessian, atol=1e-8)
    # By the scores: T^T H T, whichever way the loss writes it.
    contrasts = loss.contrasts(d)
    matrix = contrasts.apply(np.eye(d.num_pairs))
    seen = Curvature.of(loss.curvature(m, d)).by_score(contrasts)
    by_score = np.array([seen.product(e.copy()) for e in np.eye(d.num_pairs)])
    np.testing.assert_allclose(by_score, matrix.T @ full @ matrix, atol=1e-14)


# -- the parts of the solver -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", ALL)
def test_the_newton_matrix_is_that_of_the_features(loss):
    z, c, d = table(6)
    problem = ScoreProblem(Rows(z), Rows(c), d, ALL[loss], 0.3)
    m = problem.margins(np.ones(problem.b_shape))
    given = ALL[loss].curvature(m, d)
    full, phi = losses.explicit(given), problem.features()
    full = np.diag(full) if full.ndim == 1 else full
    expected = problem.penalty * np.eye(12) + phi.T @ full @ phi
    matrix = NewtonMatrix(problem, given)
    np.testing.assert_allclose(matrix.dense(), expected, atol=1e-13)
    assert matrix.largest() == pytest.approx(np.linalg.eigvalsh(expected)[-1], rel=1e-6)


def large_list(n=3000, width=24, negatives=1):
    """A list of many pairs whose second moments decay, as those of images do."""
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, n, width)) / (1 + np.arange(width))
    pairs = Pairs.from_views(x, x + 0.5 * noise, num_negatives=negatives, directions="forward")
    (d,) = pairs.directions
    return pairs.samples[d.anchor_rows], pairs.samples[d.reference_rows], d


def test_a_list_of_many_pairs_is_solved_without_a_table_of_them():
    z, c, d = large_list()
    loss = losses.TypeTwo(scores.Softplus(1.0))
    sparse = d.coefficient_matrix(d.sign)
    assert sparse.nnz == d.num_pairs
    np.testing.assert_array_equal(sparse @ c[:, :2], _dense(d) @ c[:, :2])
    found = optimal_projection(z, c, d, loss, 1e-3, "iterative")
    primal = optimal_projection(z, c, d, loss, 1e-3, "primal")
    assert found.relative_gradient <= 1e-12
    assert np.linalg.norm(found.matrix - primal.matrix) <= 1e-11 * np.linalg.norm(primal.matrix)
    network = ll.DeepLinear.orthogonal([24, 24], seed=0)
    pairs = Pairs(np.vstack([z, c]), (d,))
    local, above = (
        f(network, pairs, rules.CLAPP("softplus")) for f in (ll.local_update, ll.global_update)
    )
    testing.assert_same_update(local, above)


def _dense(d):
    dense = np.zeros((len(d.anchor_rows), len(d.reference_rows)))
    np.add.at(dense, (d.anchor_index, d.reference_index), d.sign)
    return dense


@pytest.mark.parametrize("block", [True, False])
def test_the_preconditioner_clusters_the_spectrum(block, monkeypatch):
    monkeypatch.setattr("linlocal.projection.iterative.SMALLEST_BLOCK", 100 if block else 10**6)
    z, c, d = large_list()
    problem = ScoreProblem(Rows(z), Rows(c), d, losses.TypeTwo(scores.Softplus(1.0)), 1e-4)
    b = np.zeros(problem.b_shape)
    matrix = NewtonMatrix(problem, problem.loss.curvature(problem.margins(b), d))
    made = Preconditioner(matrix, matrix.curvature.diagonal)
    assert (made.block is not None) == block
    identity = np.eye(b.size).reshape(-1, *b.shape)
    inverse = np.array([made.solve(e).ravel() for e in identity])
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-10 * np.abs(inverse).max())
    root = np.linalg.cholesky((inverse + inverse.T) / 2)
    before = np.linalg.cond(matrix.dense())
    after = np.linalg.cond(root.T @ matrix.dense() @ root)
    assert after < before / 20
    again = Preconditioner(matrix, matrix.curvature.diagonal)
    np.testing.assert_array_equal(made.solve(identity[0]), again.solve(identity[0]))


def test_anchors_are_measured_from_their_mean_where_the_loss_does_not_see_it():
    """Else the mean of images, all positive, is the largest direction by far."""
    z, c, d = table(40, 12, 12)
    products = {}
    for shift in (0.0, 5.0):
        for loss in ("InfoNCE", "type 1, softplus"):
            found = optimal_projection(z + shift, c, d, LOSSES[loss], 0.02, "iterative")
            products[loss, shift] = found.products
    for loss in ("InfoNCE", "type 1, softplus"):
        assert products[loss, 5.0] <= 1.5 * products[loss, 0.0] + 10


def test_the_method_is_chosen_by_size():
    loss, coupled = LOSSES["type 2, softplus"], LOSSES["InfoNCE"]

    def method(n, width, loss, make=lambda d: d):
        z, c, d = table(n, width, width)
        return newton.chosen(ScoreProblem(Rows(z), Rows(c), make(d), loss, 1.0))

    assert method(10, 30, loss) == "dual"
    assert method(30, 6, loss) == "primal"
    assert method(60, 60, loss) == "iterative"
    assert method(30, 30, loss, listed) == "dual"
    assert method(30, 30, coupled) == "iterative"
    assert method(20, 20, coupled) == "dual"


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Pairs.from_views([[1.0]], [[2.0]], negatives="all"), ValueError, "at least 2"),
        (
            lambda: Pairs.from_views(np.eye(5), np.eye(5), negatives="all", num_negatives=2),
            ValueError,
            "takes 4 negatives for each of 5 samples, got num_negatives=2",
        ),
        (lambda: Table([0], [1]), ValueError, "at least 2"),
        (lambda: Table([0, 1], [1, 2, 3]), ValueError, "as many anchors as references"),
        (lambda: Table([1, 0], [2, 3]), ValueError, "ascend"),
        (lambda: Table([0.5, 1], [2, 3]), TypeError, "whole numbers"),
        (
            lambda: Pairs(np.eye(3), (Table([0, 1], [2, 3]),)),
            ValueError,
            "names row 3 or below 0",
        ),
        (
            lambda: optimal_projection(*table(), LOSSES["InfoNCE"], 1.0, "krylov"),
            ValueError,
            "method must be one of auto, dual, primal, iterative",
        ),
        (lambda: losses.SupervisedInfoNCE(0.0), ValueError, "temperature must be positive"),
    ],
)
def test_bad_input_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("method", ["auto", "dual"])
def test_what_cannot_fit_is_refused_before_it_is_tried(method):
    n = 2000
    d = Table(np.arange(n), np.arange(n))
    score = scores.Hinge() if method == "auto" else scores.Softplus()
    with pytest.raises(MemoryError, match="which a hinge and the dual method need"):
        optimal_projection(np.ones((n, 1)), np.ones((n, 1)), d, losses.TypeTwo(score), 1.0, method)
    with pytest.raises(MemoryError, match="tables of all pairs"):
        Pairs.from_views(np.ones((10**6, 1)), np.ones((10**6, 1)), negatives="all")


@pytest.mark.parametrize("loss", LOSSES)
def test_silent_activities_are_solved_by_zero(loss):
    z, c, d = table()
    found = optimal_projection(0.0 * z, c, d, LOSSES[loss], 0.1, "iterative")
    assert not found.matrix.any()
    assert found.residual == 0.0


def test_lists_are_the_limit_of_what_is_dense():
    d = large_list(50)[2]
    assert len(d.anchor_rows) * len(d.reference_rows) <= lists.LARGEST_TABLE
    assert isinstance(d.coefficient_matrix(d.sign), np.ndarray)
