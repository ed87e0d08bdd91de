"""Belief propagation in torch against numpy, and its derivatives against what they must be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from linlocal import testing
from linlocal.analysis.hierarchy import BeliefPropagation
from linlocal.rhm import RandomHierarchyModel, diffusion, noises

MODEL = RandomHierarchyModel(
    num_classes=3, num_symbols=4, num_synonyms=2, num_levels=3, rule_exponent=0.7, seed=1
)


def soft(rhm, num, seed):
    """Likelihoods, some of them 0, which at least one datum of the model can have."""
    rng = np.random.default_rng(seed)
    shape = (num, rhm.num_leaves, rhm.num_values(0) + rhm.sparse)
    values = rng.exponential(size=shape) * (rng.random(shape) < 0.6)
    leaves = rhm.sample(num, seed=seed).leaves.astype(int)
    some = np.where(leaves < 0, rhm.num_values(0), leaves)[..., None]
    np.put_along_axis(values, some, rng.random(some.shape) + 0.1, axis=-1)
    return values


@settings(max_examples=40)
@given(rhm=testing.hierarchies(max_leaves=27), seed=st.integers(0, 99))
def test_torch_and_numpy_are_the_same(rhm, seed):
    likelihood = soft(rhm, 5, seed)
    wanted = rhm.posterior(likelihood=likelihood)
    got = BeliefPropagation(rhm)(torch.from_numpy(likelihood))
    for here, there in zip(got.levels, wanted.levels, strict=True):
        np.testing.assert_allclose(here.numpy(), there, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.log_evidence.numpy(), wanted.log_evidence, atol=1e-10)
    assert got.leaves is got.levels[0]
    assert torch.equal(got.classes, got.levels[-1][:, 0])


def test_levels_that_differ_and_weights_of_classes_and_rules():
    rhm = RandomHierarchyModel(
        num_classes=2,
        num_symbols=(5, 2, 3),
        num_synonyms=(4, 1, 3),
        num_levels=3,
        class_weights=[1, 4],
        rule_weights=[[1, 2, 3, 4], [1], [[1, 1, 2], [3, 1, 1]]],
    )
    likelihood = soft(rhm, 6, 0)
    wanted = rhm.posterior(likelihood=likelihood)
    got = BeliefPropagation(rhm)(torch.from_numpy(likelihood))
    for here, there in zip(got.levels, wanted.levels, strict=True):
        np.testing.assert_allclose(here.numpy(), there, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.log_evidence.numpy(), wanted.log_evidence, atol=1e-10)


def test_single_precision_differs_by_its_rounding_alone():
    likelihood = soft(MODEL, 20, 0)
    belief = BeliefPropagation(MODEL)
    single = belief(torch.from_numpy(likelihood).float())
    double = belief(torch.from_numpy(likelihood))
    assert single.leaves.dtype == torch.float32
    assert 0 < (single.leaves - double.leaves).abs().max() < 1e-5


def test_the_evidence_grows_with_a_log_likelihood_by_the_probability_of_its_symbol():
    """d log p(evidence) / d log likelihood = posterior: the pass down, by autograd."""
    logarithm = torch.from_numpy(np.log(soft(MODEL, 4, 0) + 1e-9)).requires_grad_()
    beliefs = BeliefPropagation(MODEL)(logarithm.exp())
    (slope,) = torch.autograd.grad(beliefs.log_evidence.sum(), logarithm)
    torch.testing.assert_close(slope, beliefs.leaves.detach(), rtol=0, atol=1e-12)


def test_derivatives_of_posteriors_are_differences():
    belief = BeliefPropagation(MODEL)
    values = torch.from_numpy(soft(MODEL, 1, 3) + 0.01).requires_grad_()
    weights = [
        torch.randn(1, n, v, dtype=torch.float64) for n, v in ((8, 4), (4, 4), (2, 4), (1, 3))
    ]

    def every_level(likelihood):
        levels = belief(likelihood).levels
        return sum((w * level).sum() for w, level in zip(weights, levels, strict=True))

    assert torch.autograd.gradcheck(every_level, values, atol=1e-6)


def test_the_denoiser_is_the_score():
    """Tweedie: d log p(x) / dx = (sqrt(k) E[x_0 | x] - x) / (1 - k) under Gaussian noise."""
    noise, time = noises.Gaussian(), 0.4
    noisy = torch.from_numpy(noise.apply(MODEL, MODEL.sample(3, seed=0).leaves, time, seed=0))
    x, kept = noisy.requires_grad_(), float(noise.kept(time))
    belief = BeliefPropagation(MODEL)
    code = torch.eye(4, dtype=torch.float64)
    square = (x[..., None, :] - kept**0.5 * code).square().sum(-1) / (2 * (1 - kept))
    (score,) = torch.autograd.grad(belief((-square).exp()).log_evidence.sum(), x)
    clean = diffusion.denoise(MODEL, noise, noisy.detach(), time).levels[0]
    wanted = (kept**0.5 * clean - noisy.detach().numpy()) / (1 - kept)
    np.testing.assert_allclose(score.numpy(), wanted, rtol=0, atol=1e-11)


def test_impossible_evidence_costs_its_own_row_alone():
    likelihood = torch.from_numpy(soft(MODEL, 3, 0))
    good = BeliefPropagation(MODEL)(likelihood)
    likelihood[1, 2] = 0
    got = BeliefPropagation(MODEL)(likelihood)
    assert got.log_evidence[1] == -torch.inf
    for here, there in zip(got.levels, good.levels, strict=True):
        assert torch.equal(here[[0, 2]], there[[0, 2]])
        assert here[1].isnan().all()


def test_rules_follow_the_module_and_are_no_weights():
    belief = BeliefPropagation(MODEL).to("meta")
    assert {b.device.type for b in belief.buffers()} == {"meta"}
    assert not list(belief.parameters())
    assert not belief.state_dict()


def test_what_is_no_likelihood_is_refused():
    belief = BeliefPropagation(MODEL)
    with pytest.raises(TypeError, match="grammar must be a `Grammar`"):
        BeliefPropagation(3)
    with pytest.raises(TypeError, match="floating-point tensor"):
        belief(np.ones((1, 8, 4)))
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        belief(torch.ones(1, 8, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(data, 8 leaves, 4 symbols\)"):
        belief(torch.ones(1, 4, 8))
