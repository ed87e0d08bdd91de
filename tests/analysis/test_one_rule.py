"""One object is a rule everywhere: in theory, in the oracle, and on a real network."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import linlocal as ll
from linlocal import autodiff
from linlocal.analysis import AlignmentRecorder, GlobalTrainer, LocalTrainer, align, audit_locality
from linlocal.analysis.local_losses import NetworkRule
from linlocal.symbolic.assumptions import depends_on_inner_products
from linlocal.testing import Exponential, assert_same_update
from linlocal.updates import Signals

TOLERANCE = 1e-10
SAMPLES, WIDTHS = 7, (6, 5, 4, 3)
RULES = {
    # A hinge has no derivative at its kink, where margins of the optimum sit.
    **{
        name: ll.rules.from_name(name, **({"score": "softplus"} if "CLAPP" in name else {}))
        for name in ll.rules.NAMES
    },
    "exponential": ll.Rule(
        "exponential", ll.losses.TypeTwo(Exponential()), context="top", penalty=0.1
    ),
}
METRICS = ("cosine", "norm_ratio", "relative_error")


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]


def views():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((SAMPLES, WIDTHS[0]))
    return x, x + 0.5 * rng.standard_normal(x.shape)


def question(rule):
    """A network and the pairs that the rule makes of both views."""
    network = ll.DeepLinear.uniform(list(WIDTHS), seed=1)
    if rule.context == "self":
        return network, ll.Pairs.from_positive_negative(*views())
    everyone = isinstance(rule.loss, ll.losses.InfoNCE)
    count = SAMPLES - 1 if everyone else 1
    return network, ll.Pairs.from_views(*views(), num_negatives=count)


def in_torch(network):
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(network.widths)]
    model = nn.Sequential(*layers).double()
    for layer, weight in zip(model, network.weights, strict=True):
        layer.weight.data = torch.tensor(np.array(weight))
    return model


def cosines(local, goal):
    return [
        np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(local, goal, strict=True)
    ]


def test_theory_and_the_oracle_give_one_answer(rule):
    network, pairs = question(rule)
    compared = ll.compare(network, pairs, rule)
    assert (compared.cosine[:-1] < 0.999).all()
    explained = ll.explain(network, pairs, rule)
    assert not explained.exact
    assert [layer.cosine for layer in explained.layers] == compared.cosine.values.tolist()
    local = autodiff.local_update(network, pairs, rule)
    goal = autodiff.global_update(network, pairs, rule)
    assert_same_update(ll.local_update(network, pairs, rule), local, TOLERANCE)
    np.testing.assert_allclose(compared.cosine, cosines(local, goal), rtol=0, atol=TOLERANCE)


def test_a_condition_on_g_is_derived_for_every_function_of_inner_products(rule):
    """It is fulfilled by G = I, where then both updates are one, but for two penalised contexts."""
    if rule.kind != "view" or depends_on_inner_products(rule.loss):
        condition = ll.symbolic.derive(rule)
        assert condition.rule == rule.name
        assert not condition.always
        widening = ll.DeepLinear.orthogonal([WIDTHS[0], 7, 8, 9], seed=1)
        error = float(ll.compare(widening, question(rule)[1], rule).relative_error.max())
        assert error > 0.1 if rule.context == "both" else error < TOLERANCE
    else:
        with pytest.raises(ll.symbolic.NotApplicable, match="inner products"):
            ll.symbolic.derive(rule)


def set_optimal(losses, network, pairs, rule):
    """Give each loss the optimal projection of its direction, its columns split by contexts."""
    for l, loss in enumerate(losses, start=1):
        scored = Signals(network, pairs, rule).scored(l)
        for directed, d in zip(loss.projections, pairs.directions, strict=True):
            matrix = np.hstack([s.projection.matrix for s in scored if s.direction is d])
            parts = torch.tensor(matrix).split([b.matrix.shape[1] for b in directed], 1)
            for b, part in zip(directed, parts, strict=True):
                b.left.data.copy_(part)


def test_on_a_linear_network_alignment_is_what_theory_says(rule):
    network, pairs = question(rule)
    shared = {"shared": False} if rule.kind == "pair" else {}
    read = NetworkRule(rule=rule, pooling=1, **shared)
    losses = read.build([(width,) for width in WIDTHS[1:]]).double()
    x, view = map(torch.tensor, views())
    compared = ll.compare(network, pairs, rule)
    if rule.projection == "optimal":
        drawn = align(in_torch(network), None, losses, x, view)
        assert (abs(drawn.norm_ratio - compared.norm_ratio)[:-1] > 1e-3).all()
        set_optimal(losses, network, pairs, rule)
    measured = align(in_torch(network), None, losses, x, view)
    for metric in METRICS:
        np.testing.assert_allclose(measured[metric], compared[metric], rtol=0, atol=TOLERANCE)


# -- on a network that is not linear ---------------------------------------------------------------

SGD = partial(torch.optim.SGD, lr=1e-3)


def convolutional():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(5, 6, 3, padding=1), nn.Sigmoid()),
    ).double()


def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 2, 6, 6, generator=generator, dtype=torch.float64)


def moved(trainer, x):
    """The norm of what a step with rate 1 would change in each block."""
    before = [[p.detach().clone() for p in block.parameters()] for block in trainer.model]
    trainer.step(x)
    changes = [
        torch.cat(
            [(p.detach() - old).flatten() for p, old in zip(block.parameters(), kept, strict=True)]
        )
        for block, kept in zip(trainer.model, before, strict=True)
    ]
    return [float(change.norm()) / 1e-3 for change in changes]


def test_trainers_take_the_steps_that_alignment_measures(rule):
    x = images()
    measured = align(convolutional(), None, rule, x)
    assert float(measured.cosine[-1]) == pytest.approx(1, abs=TOLERANCE)
    assert (measured.cosine[:-1] < 0.999).all()
    for kind, norms in ((LocalTrainer, "local_norm"), (GlobalTrainer, "global_norm")):
        trainer = kind(convolutional(), None, rule, shape=(2, 6, 6), optimiser=SGD)
        np.testing.assert_allclose(moved(trainer, x), measured[norms], rtol=1e-8)


def test_a_recorder_writes_what_alignment_measures(rule):
    x, model = images(), convolutional()
    recorder = AlignmentRecorder(model, rule=rule, every=1, against="rule")
    with recorder.step():
        model(x).square().mean().backward()
    recorded, measured = recorder.dataset().isel(step=0), align(convolutional(), None, rule, x)
    for metric in (*METRICS, "local_norm", "global_norm"):
        np.testing.assert_allclose(recorded[metric], measured[metric], rtol=0, atol=TOLERANCE)


def test_no_loss_of_the_rule_leaves_its_block(rule):
    report = audit_locality(convolutional(), None, rule, images())
    assert report.reached.values.tolist() == np.diag(report.parameters).tolist()
