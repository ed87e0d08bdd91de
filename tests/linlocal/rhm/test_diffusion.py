"""Noise, the exact denoiser and what it draws, against sums over all data."""

from functools import reduce

import numpy as np
import pytest
import scipy.stats

from linlocal.rhm import RandomHierarchyModel, diffusion
from linlocal.rhm.noises import Gaussian, Masking, Uniform

NOISES = [
    Masking(),
    Uniform(),
    Gaussian(),
    Masking("cosine"),
    Uniform("cosine"),
    Gaussian("cosine"),
]
MODEL = RandomHierarchyModel(
    num_classes=2, num_symbols=3, num_synonyms=2, num_levels=2, rule_exponent=0.5, seed=1
)


def same_law(counts, probability, level=1e-4):
    num = counts.sum()
    often = probability * num >= 5
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(probability[often], probability[~often].sum()) * num
    keep = expected > 0
    assert observed[~keep].sum() == 0
    return scipy.stats.chisquare(observed[keep], expected[keep]).pvalue > level


def counted(oracle, leaves):
    rows = {tuple(row): k for k, row in enumerate(oracle.leaves.tolist())}
    return np.bincount([rows[tuple(r)] for r in leaves.tolist()], minlength=len(rows))


def density(noise, noisy, symbol, time):
    """p(noisy leaf | symbol), as the definition of the process says."""
    kept = 1 - time if noise.schedule == "linear" else np.cos(np.pi / 2 * time) ** 2
    v = MODEL.num_symbols
    if isinstance(noise, Masking):
        return kept * (noisy == symbol) + (1 - kept) * (noisy == v)
    if isinstance(noise, Uniform):
        return kept * (noisy == symbol) + (1 - kept) / v
    mean = np.sqrt(kept) * np.eye(v)[symbol]
    return scipy.stats.norm.pdf(noisy, mean, np.sqrt(1 - kept)).prod()


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_the_denoiser_is_the_sum_over_all_data(noise, written):
    oracle = written(MODEL)
    data = MODEL.sample(6, seed=0)
    times = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    noisy = noise.apply(MODEL, data.leaves, times, seed=0)
    found = diffusion.denoise(MODEL, noise, noisy, times)
    for row, time in enumerate(times):
        each = [
            p * np.prod([density(noise, noisy[row, j], s, time) for j, s in enumerate(leaves)])
            for leaves, p in zip(oracle.leaves, oracle.probability, strict=True)
        ]
        weight = np.array(each) / np.sum(each)
        for level, symbols in zip(found.levels, oracle.levels, strict=True):
            values = np.arange(level.shape[-1])
            wanted = np.einsum("p,pja->ja", weight, symbols[:, :, None] == values)
            np.testing.assert_allclose(level[row], wanted, rtol=0, atol=1e-11)
    alone = diffusion.denoise(MODEL, noise, noisy[2:3], 0.5)
    np.testing.assert_allclose(alone.levels[0], found.levels[0][2:3], rtol=0, atol=1e-15)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_noise_keeps_what_it_says(noise):
    leaves = np.repeat(MODEL.sample(1, seed=0).leaves, 4000, axis=0)
    noisy = noise.apply(MODEL, leaves, 0.4, seed=3)
    kept = float(noise.kept(0.4))
    code = np.eye(3)[leaves]
    if noisy.ndim == 3:
        rest = noisy - np.sqrt(kept) * code
        assert scipy.stats.kstest(rest.ravel(), "norm", (0, np.sqrt(1 - kept))).pvalue > 1e-4
        return
    for symbol in range(4):
        share = np.array([density(noise, symbol, leaf, 0.4) for leaf in leaves[0]])
        if symbol == 3 and isinstance(noise, Uniform):
            share *= 0
        count = (noisy == symbol).sum(axis=0)
        spread = np.sqrt(4000 * share * (1 - share))
        assert (abs(count - 4000 * share) <= 4.5 * spread + 1e-9).all()


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_there_and_back_is_the_law_of_the_data_and_the_more_like_the_start_the_less_noise(
    noise, written
):
    """p(x_0) is stationary, whatever the noise; without noise all stays, and at time 1 nothing."""
    oracle = written(MODEL)
    start = MODEL.sample(4000, seed=0)
    kept = []
    for time in (1e-6, 0.5, 1.0):
        back = diffusion.forward_backward(MODEL, noise, start.leaves, time, seed=1)
        assert same_law(counted(oracle, back.leaves), oracle.probability)
        kept.append(1 - diffusion.changed(start, back).mean(axis=0))
    assert kept[0] == pytest.approx(1, abs=0.01)
    assert (kept[0] > kept[1] + 0.02).all()
    assert (kept[1] > kept[2] + 0.02).all()
    chance = (np.bincount(start.labels) / 4000) ** 2
    assert kept[2][-1] == pytest.approx(chance.sum(), abs=0.04)


@pytest.mark.parametrize("noise", [Masking(), Uniform(), Gaussian("cosine")], ids=str)
def test_steps_back_keep_the_law_of_a_known_leaf(noise):
    """From x_t and x_0, a step back and the noise again are noise alone: p(x_s | x_0)."""
    num, time, earlier = 6000, 0.7, 0.4
    leaves = np.repeat(MODEL.sample(1, seed=0).leaves, num, axis=0)
    noisy = noise.apply(MODEL, leaves, time, seed=0)
    rng = np.random.default_rng(0)
    got = noise.back(noisy, np.eye(3)[leaves], time, earlier, rng)
    if got.ndim == 3:
        rest = got - np.sqrt(noise.kept(earlier)) * np.eye(3)[leaves]
        law = ("norm", (0, np.sqrt(1 - noise.kept(earlier))))
        assert scipy.stats.kstest(rest.ravel(), *law).pvalue > 1e-4
        return
    # Jointly with x_t, which the step must know: p(x_t, x_s) = p(x_t | x_s) p(x_s | x_0).
    now, then = float(noise.kept(time)), float(noise.kept(earlier))
    for place in range(leaves.shape[1]):
        joint = np.zeros((4, 4))
        clean = leaves[0, place]
        for a in range(4):
            for b in range(4):
                joint[a, b] = step(noise, a, b, now / then) * step(noise, b, clean, then)
        counts = np.bincount(noisy[:, place] * 4 + got[:, place], minlength=16)
        assert same_law(counts, joint.ravel())


def step(noise, after, before, kept):
    """p(after | before) of a step that keeps a share; 3 stands for hidden."""
    if isinstance(noise, Masking):
        return (
            float(after == 3)
            if before == 3
            else kept * (after == before) + (1 - kept) * (after == 3)
        )
    return 0.0 if 3 in (after, before) else kept * (after == before) + (1 - kept) / 3


@pytest.mark.parametrize("noise", [Masking(), Uniform(), Gaussian()], ids=str)
def test_many_steps_generate_the_grammar_and_one_step_its_marginals(noise, written):
    oracle = written(MODEL)
    many = diffusion.generate(MODEL, noise, 1000, steps=100, seed=0)
    assert diffusion.valid_share(MODEL, many).mean(axis=0).min() > 0.97
    if not isinstance(noise, Gaussian):  # its one step ends at the mean of all data
        one = diffusion.generate(MODEL, noise, 3000, steps=1, seed=0)
        marginals = [
            np.bincount(oracle.leaves[:, j], oracle.probability, minlength=3) for j in range(4)
        ]
        counts = np.bincount(one @ 3 ** np.arange(4), minlength=81)
        assert same_law(counts, reduce(np.kron, marginals[::-1]))
        assert diffusion.valid_share(MODEL, one).mean(axis=0)[-1] < 0.8


def test_a_denoiser_of_ones_own_is_asked_at_every_step():
    asked = []

    def first_symbol(noisy, time):
        asked.append(time)
        return np.eye(3)[np.zeros(noisy.shape, dtype=int)]

    got = diffusion.generate(MODEL, Masking(), 5, steps=4, seed=0, denoiser=first_symbol)
    assert asked == [1.0, 0.75, 0.5, 0.25]
    assert (got == 0).all()
    with pytest.raises(
        ValueError, match=r"denoiser returns must have the shape \(data, 4 leaves, 3"
    ):
        diffusion.generate(MODEL, Masking(), 5, steps=4, seed=0, denoiser=lambda x, t: np.eye(3))


def test_valid_shares_count_the_nodes_that_can_be_parsed():
    model = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=3)
    leaves = model.sample(3, seed=0).leaves.copy()
    owned = {tuple(t) for t in model.rules[0].reshape(-1, 2).tolist()}
    leaves[1, :2] = next((a, b) for a in range(4) for b in range(4) if (a, b) not in owned)
    shares = diffusion.valid_share(model, leaves)
    np.testing.assert_array_equal(shares, [[1, 1, 1], [3 / 4, 1 / 2, 0], [1, 1, 1]])


# -- the mean field --------------------------------------------------------------------------------


def model(v, m, n=None, s=2, levels=2, seed=0):
    return RandomHierarchyModel(
        num_classes=v if n is None else n,
        num_symbols=v,
        num_synonyms=m,
        num_levels=levels,
        tuple_size=s,
        seed=seed,
    )


@pytest.mark.parametrize(("v", "m", "n", "s"), [(4, 2, 3, 2), (5, 5, 2, 2), (3, 4, 2, 3)])
def test_the_mean_field_is_the_ratio_of_mean_weights_over_grammars(v, m, n, s):
    """One level: the weight of the true symbol and of all symbols, averaged over 3000 grammars."""
    noise = 0.6
    true, every = [], []
    for seed in range(3000):
        grammar = model(v, m, n, s, levels=1, seed=seed)
        leaf = np.full((v, v), noise / v) + (1 - noise) * np.eye(v)
        tuples = grammar.rules[0]
        weight = np.prod([leaf[tuples[0, 0, i], tuples[..., i]] for i in range(s)], axis=0)
        true.append(weight[0].sum())
        every.append(weight.sum())
    wanted = diffusion.mean_field(grammar, noise)[1]
    ratio = np.mean(true) / np.mean(every)
    error = np.std(np.array(true) - ratio * np.array(every)) / np.mean(every) / np.sqrt(3000)
    assert abs(ratio - wanted) < 4 * error + 1e-12


def test_the_mean_field_goes_from_certainty_to_chance():
    grammar = model(6, 3, n=4)
    assert diffusion.mean_field(grammar, 0.0) == pytest.approx(1)
    assert diffusion.mean_field(grammar, 1.0) == pytest.approx([1 / 6, 1 / 6, 1 / 4])


@pytest.mark.parametrize(("v", "m", "s"), [(16, 4, 2), (32, 8, 2), (10, 9, 3)])
def test_below_the_critical_noise_depth_helps_and_above_it_hurts(v, m, s):
    critical = diffusion.critical_noise(model(v, m, s=s))
    assert 0 < critical < 1
    deep = model(v, m, s=s, levels=6)
    fixed = diffusion.mean_field(deep, critical)
    assert fixed == pytest.approx(np.full(7, fixed[0]), abs=1e-6)
    assert (np.diff(diffusion.mean_field(deep, critical - 0.01)) > 0).all()
    assert (np.diff(diffusion.mean_field(deep, critical + 0.01)) < 0).all()


def test_without_two_stable_beliefs_there_is_no_critical_noise():
    for v, m in ((8, 8), (8, 1)):
        assert np.isnan(diffusion.critical_noise(model(v, m)))
    with pytest.raises(ValueError, match="tuples of one size"):
        diffusion.critical_noise(
            RandomHierarchyModel(
                num_classes=4, num_symbols=4, num_synonyms=2, num_levels=2, tuple_size=(2, 3)
            )
        )


def test_flattened_leaves_are_a_likelihood_without_chance():
    leaves = MODEL.sample(3, seed=0).leaves
    got = diffusion.flattened(MODEL, leaves, 0.6)
    assert got.sum(axis=-1) == pytest.approx(1)
    assert np.take_along_axis(got, leaves[..., None].astype(int), -1) == pytest.approx(0.4 + 0.2)
