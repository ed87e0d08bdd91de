"""Population and time: expected updates against batches, and what local learning conserves."""

import numpy as np
import pytest
import scipy.integrate
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import autodiff, dynamics, rules, testing
from linlocal.dynamics import Moments
from linlocal.networks import Convolution
from linlocal.testing import assert_same_update

# Rules whose update is a function of the empirical moments of a batch.
EXACT_ON_BATCHES = {
    "same": rules.CLAPP("linear", penalty=rules.Penalty(0.3)),
    "penalty by layer": rules.CLAPP("linear", penalty=rules.Penalty((0.1, 0.2, 0.3))),
    "top": rules.CLAPP_DFB("linear"),
    "both": rules.CLAPP_BOTH("linear"),
    "each": rules.CLAPP_EACH("linear"),
    "type 1": rules.Rule("type 1", ll.losses.TypeOne(ll.scores.Linear())),
    "PhyLL": rules.PhyLL("linear"),
    "whitening": rules.Whitening(0.7),
}
SPECTRAL = rules.SpectralContrastive()
INVARIANT = {"spectral": SPECTRAL, "whitening": rules.Whitening(0.7)}


def population(gamma=(0.9, 0.6, 0.3, -0.2), seed=0, spread=1.0):
    """Whitened (for spread 1) views with correlations gamma in a random basis."""
    n = len(gamma)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    first = q * spread ** np.linspace(-1, 1, n) @ q.T
    root = q * np.sqrt(spread ** np.linspace(-1, 1, n)) @ q.T
    return Moments.of_views(first, root @ (q * np.array(gamma)) @ q.T @ root)


def with_diagonal(z, z_view):
    """Spectral contrastive loss that compares each sample with its own partner, too."""
    k = z @ z_view.T
    return -2.0 * k.diagonal().mean() + (k**2).mean()


# -- population ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", EXACT_ON_BATCHES.values(), ids=EXACT_ON_BATCHES.keys())
@settings(max_examples=6)
@given(data=st.data())
def test_a_batch_has_the_expected_update_of_its_own_moments(rule, data):
    shape = "square" if rule.projection == "identity" else "any"
    kinds = ("orthogonal", "conformal", "uniform")
    network = data.draw(testing.networks((2, 5), (3, 3), kinds, shape))
    pairs = data.draw(testing.pairs(network, (8, 20), rule=SPECTRAL, negatives=("next", "random")))
    moments = Moments.of_batch(pairs)
    local = dynamics.expected_update(network, moments, rule)
    assert_same_update(local, ll.local_update(network, pairs, rule), 1e-11)
    assert_same_update(local, autodiff.local_update(network, pairs, rule), 1e-11)
    backpropagated = dynamics.expected_update(network, moments, rule, "global")
    assert_same_update(backpropagated, autodiff.global_update(network, pairs, rule), 1e-11)


@pytest.mark.parametrize("learning", ["local", "global"])
@pytest.mark.parametrize("rule", EXACT_ON_BATCHES.values(), ids=EXACT_ON_BATCHES.keys())
def test_on_well_conditioned_data_the_two_agree_to_1e_12(rule, learning):
    network = ll.DeepLinear.orthogonal([5, 5, 5, 5], 1)
    pairs = ll.Pairs.from_views(*testing.samples(20, 5, 0))
    expected = dynamics.expected_update(network, Moments.of_batch(pairs), rule, learning)
    assert_same_update(expected, dynamics.update_of(network, pairs, rule, learning))


@pytest.mark.parametrize("rule", EXACT_ON_BATCHES.values(), ids=EXACT_ON_BATCHES.keys())
def test_the_expected_loss_of_a_layer_is_that_of_the_oracle(rule):
    network = ll.DeepLinear.uniform([5, 4, 4, 4], 0)
    pairs = ll.Pairs.from_views(*testing.samples(20, 5, 0))
    found = dynamics.expected_loss(network, Moments.of_batch(pairs), rule)
    for l in network.layers:
        assert found[l - 1] == pytest.approx(autodiff.loss(network, pairs, rule, l), rel=1e-11)


@pytest.mark.parametrize("learning", ["local", "global"])
def test_spectral_contrastive_loss_is_one_of_moments_only_with_its_diagonal(learning):
    network = ll.DeepLinear.uniform([5, 4, 6, 5], 0)
    pairs = ll.Pairs.from_views(*testing.samples(12, 5, 0))
    expected = dynamics.expected_update(network, Moments.of_batch(pairs), SPECTRAL, learning)
    oracle = autodiff.local_update if learning == "local" else autodiff.global_update
    assert_same_update(expected, oracle(network, pairs, SPECTRAL, loss=with_diagonal), 1e-12)
    batch = dynamics.update_of(network, pairs, SPECTRAL, learning)
    for b, e in zip(batch, expected, strict=True):
        assert np.linalg.norm(b - e) > 1e-3 * np.linalg.norm(e)


def test_all_pairs_as_negatives_are_the_outer_product_of_the_means():
    """A batch of centred data whose contrast is S_+: the independent negatives of a population."""
    x, view = testing.samples(9, 4, 0)
    x, view = x - x.mean(axis=0), view - view.mean(axis=0)
    k = np.arange(9)
    anchor, reference = np.concatenate([k, np.repeat(k, 9)]), 9 + np.concatenate([k, np.tile(k, 9)])
    sign = np.where(np.arange(90) < 9, 1.0, -1.0)
    group = np.concatenate([k, np.repeat(k, 9)])
    ways = tuple(
        ll.Direction(a, r, sign, group) for a, r in ((anchor, reference), (reference, anchor))
    )
    pairs = ll.Pairs(np.vstack([x, view]), ways, (k, 9 + k))
    given = Moments.of_views(x.T @ x / 9, x.T @ view / 9, view.T @ view / 9)
    for rule in (rules.CLAPP("linear"), rules.CLAPP_DFB("linear")):
        for learning in ("local", "global"):
            network = ll.DeepLinear.uniform([4, 3, 4], 0)
            assert_same_update(
                dynamics.expected_update(network, given, rule, learning),
                dynamics.update_of(network, pairs, rule, learning),
            )


def gaussian_batches(moments, count, n, seed=0):
    joint = np.block([[moments.first, moments.positive], [moments.positive.T, moments.second]])
    root, width = np.linalg.cholesky(joint), moments.width
    for _ in range(count):
        both = np.random.default_rng((seed, _)).standard_normal((n, 2 * width)) @ root.T
        yield ll.Pairs.from_views(both[:, :width], both[:, width:])


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [
        (rules.CLAPP("linear"), (512, 2048, 8192)),
        (rules.Whitening(0.7), (512, 2048, 8192)),
        (SPECTRAL, (32, 128, 512)),
    ],
    ids=["CLAPP", "whitening", "spectral"],
)
def test_batches_approach_the_population_as_one_over_the_root_of_their_size(rule, sizes):
    moments, network = population(), ll.DeepLinear.orthogonal([4, 4, 4], 0)
    wanted, errors = dynamics.expected_update(network, moments, rule), []
    for n in sizes:
        apart = []
        for pairs in gaussian_batches(moments, 32, n):
            # The first two rules see a batch through its moments.
            if rule is SPECTRAL:
                found = ll.local_update(network, pairs, rule)
            else:
                found = dynamics.expected_update(network, Moments.of_batch(pairs), rule)
            apart += [np.linalg.norm(f - w) for f, w in zip(found, wanted, strict=True)]
        errors.append(np.mean(apart))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4, f"errors {errors} fall with the power {slope:.2f}"


def test_batches_of_a_linear_score_are_biased_and_those_of_spectral_contrastive_loss_are_not():
    """An optimal B makes the update quadratic in the contrast, so noise does not average out."""
    moments, network = population(), ll.DeepLinear([np.eye(4)])

    def excess(rule):
        (wanted,) = dynamics.expected_update(network, moments, rule)
        found = [
            np.trace(ll.local_update(network, pairs, rule)[0] - wanted)
            for pairs in gaussian_batches(moments, 400, 16)
        ]
        return np.mean(found) / (np.std(found) / np.sqrt(len(found)))

    assert excess(rules.CLAPP("linear")) > 10
    assert abs(excess(SPECTRAL)) < 4


def test_unequal_negatives_of_a_population_count():
    mean = np.array([1.0, 0.5, 0.0])
    first, positive = np.eye(3) + np.outer(mean, mean), 0.5 * np.eye(3) + np.outer(mean, mean)
    network, rule = ll.DeepLinear.uniform([3, 3], 0), rules.CLAPP("linear")
    centred = Moments.of_views(np.eye(3), 0.5 * np.eye(3))
    shifted = Moments.of_views(first, positive, negative=np.outer(mean, mean))
    # The contrast takes the mean out again, but the input keeps it in A_{l-1} = I only.
    assert_same_update(
        dynamics.expected_update(network, shifted, rule),
        dynamics.expected_update(network, centred, rule),
    )
    without = Moments.of_views(first, positive)
    (a,), (b,) = (dynamics.expected_update(network, m, rule) for m in (without, centred))
    assert np.linalg.norm(a - b) > 0.1 * np.linalg.norm(b)


# -- preconditioned: global = G X and local = X --------------------------------------------------


def test_the_downstream_metric_as_preconditioner_makes_linear_feedback_local():
    network = ll.DeepLinear.with_condition_number([5, 5, 5, 5], 20.0, 0)
    pairs = ll.Pairs.from_views(*testing.samples(20, 5, 0))
    for source in (pairs, Moments.of_batch(pairs)):
        rule = rules.CLAPP_DFB("linear")
        local = dynamics.update_of(network, source, rule)
        assert_same_update(dynamics.update_of(network, source, rule, "preconditioned"), local, 1e-9)
        plain = dynamics.update_of(network, source, rule, "global")
        assert np.linalg.norm(plain[0] - local[0]) > 0.1 * np.linalg.norm(local[0])
    # The slopes of a softplus differ from layer to layer, and so do same-layer contexts.
    for rule in (rules.CLAPP_DFB("softplus"), rules.CLAPP("linear")):
        local, other = (
            dynamics.update_of(network, pairs, rule, way) for way in ("local", "preconditioned")
        )
        assert np.linalg.norm(other[0] - local[0]) > 0.01 * np.linalg.norm(local[0])


# -- what is conserved ---------------------------------------------------------------------------


def test_backpropagation_conserves_the_imbalance_in_flow_and_local_learning_does_not():
    network, moments = ll.DeepLinear.gaussian([4, 5, 3, 4], 0), population()
    times = np.linspace(0, 2, 5)
    for rule in INVARIANT.values():
        kept, lost = (
            dynamics.flow(network, moments, rule, times=times, learning=way, tolerance=1e-11)
            for way in ("global", "local")
        )
        assert float(kept.imbalance_change.max()) < 1e-8
        assert float(lost.imbalance_change.isel(time=-1).min()) > 0.05


def test_steps_of_backpropagation_lose_balance_in_proportion_to_the_rate():
    network, moments = ll.DeepLinear.gaussian([4, 4, 4], 0), population()
    lost = [
        dynamics.simulate(
            network, moments, SPECTRAL, rate=1 / n, steps=n, learning="global", every=n
        ).imbalance_change.sel(layer=1)[-1]
        for n in (400, 800)
    ]
    assert 1.8 < float(lost[0] / lost[1]) < 2.2


@pytest.mark.parametrize("rule", INVARIANT.values(), ids=INVARIANT.keys())
def test_the_imbalance_moves_by_the_error_from_above_less_the_local_one(rule):
    """d(W_2^T W_2 - W_1 W_1^T)/dt = sym((W_2^T E_2 - E_1) A_1^T)."""
    network, moments = ll.DeepLinear.gaussian([4, 3, 5, 4], 0), population()
    times = np.array([0.0, 1e-6])
    # An error signal is the update of a layer whose input is the identity.
    for l in (1, 2):
        maps = [np.eye(4)]
        for k in network.layers:
            maps.append(network.matrix(k) @ maps[-1])
        here, above = (
            dynamics.expected_update(ll.DeepLinear([maps[k]]), moments, rule)[0] for k in (l, l + 1)
        )
        half = (network.matrix(l + 1).T @ above - here) @ maps[l].T
        moved = dynamics.flow(network, moments, rule, times=times, tolerance=1e-12)
        rate = float(moved.imbalance_change.sel(layer=l)[-1]) / 1e-6
        assert rate == pytest.approx(np.linalg.norm(half + half.T), rel=1e-3)


@pytest.mark.parametrize(
    "rule", [*INVARIANT.values(), rules.CLAPP("linear")], ids=[*INVARIANT, "CLAPP"]
)
def test_local_steps_keep_the_column_space_of_every_weight(rule):
    """dW = W S with a symmetric S, for rules that see inner products only; exact for steps."""
    network, moments = ll.DeepLinear.gaussian([3, 2, 5, 6], 0), population((0.9, 0.5, 0.2))

    def departed(learning):
        here = network
        for _ in range(20):
            updates = dynamics.expected_update(here, moments, rule, learning)
            here = here.with_weights(
                [here.matrix(l) + 1e-4 * u for l, u in zip(here.layers, updates, strict=True)]
            )
        outside = [
            np.eye(len(w)) - w @ np.linalg.pinv(w) for w in map(network.matrix, network.layers)
        ]
        return [
            np.linalg.norm(p @ (here.matrix(l) - network.matrix(l)))
            / np.linalg.norm(here.matrix(l) - network.matrix(l))
            for l, p in zip(network.layers, outside, strict=True)
        ]

    assert max(departed("local")) < 1e-10
    # Layer 2 widens from 2 to 5 units, and what comes back from above points anywhere among them.
    assert departed("global")[1] > 0.05


def phi(k, moments):
    """E = A phi for spectral contrastive loss."""
    square = moments.first @ k @ moments.second
    return 2.0 * (moments.positive + moments.positive.T - square - square.T)


def test_local_learning_closes_on_the_kernels_of_the_layers():
    """dK_l/dt = K_l T_l + T_l^T K_l, T_l = sum_{m<=l} Phi(K_m) K_{m-1}; nothing above l counts."""
    network, moments = ll.DeepLinear.gaussian([4, 3, 6, 2], 0), population(spread=1.5)
    times, n = np.linspace(0, 3, 7), 4

    def velocity(_, flat):
        kernels, below, total = flat.reshape(3, n, n), np.eye(n), 0.0
        moved = []
        for k in kernels:
            total = total + phi(k, moments) @ below
            moved.append(k @ total + total.T @ k)
            below = k
        return np.ravel(moved)

    a, start = np.eye(n), []
    for l in network.layers:
        a = network.matrix(l) @ a
        start.append(a.T @ a)
    solved = scipy.integrate.solve_ivp(
        velocity, (0, 3), np.ravel(start), "DOP853", times, rtol=1e-11, atol=1e-13
    )
    kernels = solved.y.T.reshape(len(times), 3, n, n)
    v = moments.modes[1]
    wanted = np.sqrt(np.einsum("im,tlij,jm->tlm", v, kernels, v).clip(0))
    found = dynamics.flow(network, moments, SPECTRAL, times=times, tolerance=1e-11)
    np.testing.assert_allclose(found.strength, wanted, atol=1e-7)


def test_local_learning_ends_in_layers_that_keep_inner_products():
    """K_l = K_1 at rest: above layer 1 all layers are isometries on what they are given."""
    moments, times = population((0.9, 0.7, 0.5, 0.3)), [0, 50]
    network = ll.DeepLinear.gaussian([4, 3, 5, 4], 0)
    found = dynamics.flow(network, moments, SPECTRAL, times=times)
    wanted = np.sqrt([0.9, 0.7, 0.5, 0])
    np.testing.assert_allclose(found.strength[-1], np.tile(wanted, (3, 1)), atol=1e-4)
    assert np.abs(found.strength[0] - wanted).min() > 0.01
    # Backpropagation has the same rest in the top layer, but shares it out among the layers.
    other = dynamics.flow(network, moments, SPECTRAL, times=times, learning="global").strength[-1]
    np.testing.assert_allclose(other.sel(layer=3), wanted, atol=1e-4)
    assert np.abs(other.sel(layer=1) - wanted)[:3].max() > 0.1


# -- simulate and flow ---------------------------------------------------------------------------


@pytest.mark.parametrize("learning", ["local", "global", "preconditioned"])
def test_steps_approach_the_flow_as_the_rate_falls(learning):
    network, moments = ll.DeepLinear.orthogonal([4, 4, 4], 0), population()
    flow = dynamics.flow(network, moments, SPECTRAL, times=[0, 1], learning=learning, decay=0.1)
    errors = []
    for n in (200, 400):
        options = {"rate": 1 / n, "steps": n, "every": n, "decay": 0.1, "learning": learning}
        steps = dynamics.simulate(network, moments, SPECTRAL, **options)
        errors.append(float(np.abs(steps.strength.values - flow.strength.values).max()))
        assert steps.time.values.tolist() == [0, 1]
    assert 1.8 < errors[0] / errors[1] < 2.2


def test_a_batch_is_followed_like_its_moments():
    pairs = ll.Pairs.from_views(*testing.samples(20, 4, 0))
    network, rule = ll.DeepLinear.uniform([4, 3, 4], 0), rules.Whitening(0.7)
    ours, theirs = (
        dynamics.simulate(network, source, rule, rate=0.01, steps=5)
        for source in (pairs, Moments.of_batch(pairs))
    )
    for name in ("strength", "imbalance", "loss"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-10)
    assert (np.diff(ours.loss.values, axis=0) < 0).all()
    softplus = dynamics.simulate(network, pairs, rules.CLAPP("softplus"), rate=0.01, steps=2)
    assert "loss" not in softplus
    assert softplus.sizes == {"step": 3, "layer": 2, "mode": 4}


def test_layer_numbers_modes_and_records():
    moments = population()
    found = dynamics.simulate(
        ll.DeepLinear.uniform([4, 3, 2], 0), moments, SPECTRAL, rate=0.01, steps=7, every=3
    )
    assert found.step.values.tolist() == [0, 3, 6]
    assert found.layer.values.tolist() == [1, 2]
    np.testing.assert_allclose(found.eigenvalue, [0.9, 0.6, 0.3, -0.2])
    assert found.imbalance.sel(layer=2).isnull().all()


def test_a_linear_score_becomes_infinite_in_finite_time_and_is_stopped_in_words():
    """s' = g s^3 with g = 2 D^2 / lam in one layer: infinite at 1 / (2 g s(0)^2)."""
    moments, rule = population((0.9, 0.5), 0), rules.CLAPP("linear", penalty=0.5)
    network = dynamics.aligned([2, 2], moments, 0.1)
    g = 2 * np.array([0.9, 0.5]) ** 2 / 0.5
    end = 1 / (2 * g[0] * 0.01)
    times = np.linspace(0, 0.99 * end, 9)
    found = dynamics.flow(network, moments, rule, times=times, tolerance=1e-11)
    wanted = 0.1 / np.sqrt(1 - 2 * g * 0.01 * times[:, None])
    np.testing.assert_allclose(found.strength.sel(layer=1), wanted, rtol=1e-6)
    # The weaker mode stays finite while the other becomes infinite: it is never learned.
    assert wanted[-1, 1] < 0.1 / np.sqrt(1 - (0.5 / 0.9) ** 2)
    for decay in (0.0, 0.005):
        with pytest.raises(ArithmeticError, match="no minimum"):
            dynamics.flow(network, moments, rule, times=[0, 100 * end], decay=decay)
        with pytest.raises(ArithmeticError, match="no minimum"):
            dynamics.simulate(network, moments, rule, rate=1.0, steps=10_000, decay=decay)


# -- bad input -----------------------------------------------------------------------------------

NETWORK = ll.DeepLinear.uniform([4, 3, 4], 0)
PAIRS = ll.Pairs.from_views(*testing.samples(8, 4, 0))
BAD = {
    "correlation above 1": (
        lambda: Moments.of_views(np.eye(2), 2 * np.eye(2)),
        "correlation above",
    ),
    "not symmetric": (lambda: Moments.of_views([[1, 1], [0, 1]], np.eye(2)), "symmetric"),
    "not square": (lambda: Moments.of_views(np.ones((2, 3)), np.eye(2)), "must be square"),
    "two widths": (lambda: Moments.of_views(np.eye(2), np.eye(3)), "same shape"),
    "negative of another width": (
        lambda: Moments.of_views(np.eye(2), np.eye(2), negative=np.eye(3)),
        "negative has shape",
    ),
    "no contrast": (lambda: Moments(np.eye(2), np.eye(2), np.eye(2), ()), "at least one"),
    "no views": (
        lambda: Moments.of_batch(ll.Pairs.from_positive_negative(np.eye(2), np.eye(2))),
        "Pairs.from_views",
    ),
    "width of the input": (
        lambda: dynamics.expected_update(NETWORK, population((0.5, 0.1)), SPECTRAL),
        "the moments have 2",
    ),
    "softplus": (
        lambda: dynamics.expected_update(NETWORK, population(), rules.CLAPP("softplus")),
        "give a batch of pairs",
    ),
    "SimCLR": (
        lambda: dynamics.expected_loss(NETWORK, population(), rules.SimCLR()),
        "no function of second moments",
    ),
    "metric penalty": (
        lambda: dynamics.expected_update(
            NETWORK, population(), rules.CLAPP("linear", penalty=rules.Penalty(0.1, "downstream"))
        ),
        'take learning="global"',
    ),
    "identity onto a top of another width": (
        lambda: dynamics.expected_update(
            NETWORK,
            population(),
            rules.Rule("r", ll.losses.TypeTwo(ll.scores.Linear()), "top", "identity"),
        ),
        "equal width",
    ),
    "learning": (
        lambda: dynamics.expected_update(NETWORK, population(), SPECTRAL, "locally"),
        "learning must be",
    ),
    "convolution": (
        lambda: dynamics.simulate(
            ll.DeepLinear([Convolution(np.ones((1, 1, 1, 1)), (1, 2, 2))]),
            population(),
            SPECTRAL,
            rate=0.1,
            steps=1,
        ),
        "convolution",
    ),
    "biases": (
        lambda: dynamics.simulate(
            ll.DeepLinear.uniform([4, 3], bias_std=1.0), PAIRS, SPECTRAL, rate=0.1, steps=1
        ),
        "this network has biases, which would stay as they are",
    ),
    "links": (
        lambda: dynamics.expected_update(
            ll.DeepLinear.uniform([4, 4], links="residual"), population(), SPECTRAL
        ),
        "links into the layers [1]",
    ),
    "steps too large": (
        lambda: dynamics.simulate(NETWORK, PAIRS, SPECTRAL, rate=50.0, steps=99),
        "smaller rate",
    ),
    "times": (
        lambda: dynamics.flow(NETWORK, population(), SPECTRAL, times=[1, 0]),
        "increasing numbers",
    ),
    "widths of an aligned network": (
        lambda: dynamics.aligned([3, 4], population(), 0.1),
        "the moments have 4",
    ),
    "strengths of an aligned network": (
        lambda: dynamics.aligned([4, 3], population(), [0.1, 0.2]),
        "(layers, modes) = (1, 3)",
    ),
}


@pytest.mark.parametrize(("ask", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_words(ask, words):
    with pytest.raises((ValueError, ArithmeticError)) as refused:
        ask()
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: dynamics.expected_update(ll.DeepReLU.uniform([4, 3], 0), population(), SPECTRAL),
        lambda: dynamics.expected_update(NETWORK, PAIRS, SPECTRAL),
        lambda: dynamics.update_of(NETWORK, np.eye(4), SPECTRAL),
        lambda: dynamics.update_of(
            ll.DeepReLU.uniform([4, 3], 0), PAIRS, SPECTRAL, "preconditioned"
        ),
        lambda: Moments.of_batch(np.eye(3)),
    ],
)
def test_another_type_is_refused(ask):
    with pytest.raises(TypeError, match="must be"):
        ask()


def test_a_subclass_with_a_formula_of_its_own_is_refused():
    class Half(ll.losses.Whitening):
        def value(self, z, z_view):
            return 0.5 * super().value(z, z_view)

    rule = rules.Rule("half", Half(), "views", "none")
    with pytest.raises(ValueError, match="no function of second moments"):
        dynamics.expected_update(NETWORK, population(), rule)
