"""In a linear network the local losses of torch give the updates of the theory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import linlocal as ll
from analysis import view_losses
from analysis.local_losses import CLAPP, SCFF, ForwardForward, InfoNCE, PhyLL, Views
from analysis.map_pooling import Cells, Window
from linlocal import losses, scores, testing
from linlocal.convolution import Convolution, average_pooling
from linlocal.signals import Signals
from linlocal.testing import Exponential

SAMPLES, PENALTY = 7, 0.05


def convolutions(seed=0):
    rng = np.random.default_rng(seed)
    return [
        Convolution(rng.standard_normal((3, 2, 3, 3)) / 4, (2, 4, 4), padding=(1, 1)),
        Convolution(rng.standard_normal((2, 3, 2, 2)) / 3, (3, 4, 4), stride=(2, 2)),
    ]


NETWORKS = {
    "dense": lambda: ll.DeepLinear.uniform([6, 5, 4, 3], seed=1),
    "convolution": lambda: ll.DeepLinear(convolutions()),
}
WINDOWS = {"dense": None, "convolution": (2, 1)}

SCORES = {
    "softplus": scores.Softplus(0.3),
    "linear": scores.Linear(),
    "smooth hinge": scores.SmoothedHinge(1.0, 0.4),
}
OPTIONS = {"penalty": PENALTY, "shared": False}

# What is built here, and the same rule of the theory.
PAIR_RULES = {
    **{
        f"CLAPP {context}, {name}": (
            CLAPP(context=context, score=score, **OPTIONS),
            ll.Rule("r", losses.TypeTwo(score), context, penalty=PENALTY),
        )
        for context in ("same", "top", "both")
        for name, score in SCORES.items()
    },
    "InfoNCE": (InfoNCE(temperature=0.7, **OPTIONS), ll.rules.GreedyInfoMax(0.7, PENALTY)),
    "PhyLL": (PhyLL(margin=0.2), ll.rules.PhyLL(margin=0.2)),
}
GOODNESS_RULES = {
    "Forward-Forward": (ForwardForward(threshold=0.7), ll.rules.ForwardForward(0.7)),
    "SCFF": (SCFF(threshold=0.7), ll.rules.SCFF(0.7)),
}
VIEW_RULES = {
    name: (Views(getattr(view_losses, name)(), pooling=1), ll.rules.from_name(rule))
    for name, rule in {
        "NTXent": "SimCLR",
        "SpectralContrastive": "SpectralContrastive",
        "Whitening": "Whitening",
        "LogDet": "LogDet",
        "VICReg": "VICReg",
        "BarlowTwins": "BarlowTwins",
        "LPL": "LPL",
    }.items()
}


def fitting_pairs(rule, width, negatives=1):
    x, view = (2 * a for a in testing.samples(SAMPLES, width, 0))
    if rule.context == "self":
        return ll.Pairs.from_positive_negative(x, view)
    return ll.Pairs.from_views(x, view, num_negatives=negatives)


def blocks_of(network):
    """The same network as bias-free layers of torch."""
    made = []
    for w in network.weights:
        weight = torch.tensor(w.kernel if isinstance(w, Convolution) else w)
        if isinstance(w, Convolution):
            layer = nn.Conv2d(
                weight.shape[1],
                weight.shape[0],
                tuple(weight.shape[2:]),
                w.stride,
                w.padding,
                bias=False,
                dtype=torch.float64,
            )
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(weight)
        made.append(layer)
    return made


def run(network, pairs, detach):
    """Blocks and outputs; every block's input is detached for local gradients."""
    blocks, shape, outputs = blocks_of(network), network.map_shape(1), []
    z = torch.tensor(pairs.samples)
    if shape is not None:
        z = z.view(len(z), *network.weights[0].input_shape)
    for block in blocks:
        z = block(z.detach() if detach else z)
        outputs.append(z)
    return blocks, outputs


def build(rule, outputs, seed=0):
    return rule.build([tuple(z.shape[1:]) for z in outputs], seed).double()


def set_projections(module, matrices):
    """One matrix for each direction, its columns split among the contexts."""
    with torch.no_grad():
        for directed, matrix in zip(module.projections, matrices, strict=True):
            parts = torch.tensor(matrix).split([b.matrix.shape[1] for b in directed], 1)
            for b, part in zip(directed, parts, strict=True):
                b.left.copy_(part)


def set_optimal(modules, network, pairs, rule):
    signals = Signals(network, pairs, rule)
    for l, module in enumerate(modules, 1):
        if len(module.projections):
            set_projections(module, [s.projection.matrix for s in signals.scored(l)])


def local_gradients(modules, blocks, outputs):
    return [
        torch.autograd.grad(m(z, outputs[-1].detach()), b.weight, retain_graph=True)[0]
        for m, b, z in zip(modules, blocks, outputs, strict=True)
    ]


def error(gradients, updates):
    """The largest relative difference of any layer between update and minus the gradient."""
    return max(
        np.linalg.norm(-g.numpy() - u) / np.linalg.norm(u)
        for g, u in zip(gradients, updates, strict=True)
    )


def pooled(rule, theory, network):
    windows = WINDOWS[network]
    if windows is None:
        return replace(rule, pooling=1), theory
    return replace(rule, pooling=windows), replace(theory, pooling=windows)


# -- every rule against the theory -----------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", PAIR_RULES)
def test_rules_of_pairs_give_the_updates_of_the_theory(name, network):
    rule, theory = pooled(*PAIR_RULES[name], network)
    net = NETWORKS[network]()
    for negatives, count in (("next", 1), ("all", SAMPLES - 1)):
        pairs = fitting_pairs(theory, net.widths[0], count)
        blocks, outputs = run(net, pairs, detach=True)
        modules = build(replace(rule, negatives=negatives), outputs)
        updates = ll.local_update(net, pairs, theory)
        if name != "PhyLL":
            assert error(local_gradients(modules, blocks, outputs), updates) > 1e-2
            set_optimal(modules, net, pairs, theory)
        assert error(local_gradients(modules, blocks, outputs), updates) < 1e-10

        # The global counterpart: the last block's loss, through all blocks.
        blocks, outputs = run(net, pairs, detach=False)
        loss = modules[-1](outputs[-1], outputs[-1].detach())
        through_all = torch.autograd.grad(loss, [b.weight for b in blocks])
        assert error(through_all, ll.global_update(net, pairs, theory)) < 1e-10


@pytest.mark.parametrize("name", [n for n in PAIR_RULES if n != "PhyLL"])
def test_an_optimal_projection_is_where_the_loss_is_stationary_in_it(name):
    """The penalty of the theory is the one in the loss; another one has another optimum."""
    net = NETWORKS["dense"]()
    rule, theory = pooled(*PAIR_RULES[name], "dense")
    pairs = fitting_pairs(theory, 6, SAMPLES - 1 if name == "InfoNCE" else 1)
    _, outputs = run(net, pairs, detach=True)

    def slope(rule):
        modules = build(rule, outputs)
        set_optimal(modules, net, pairs, theory)
        loss = sum(
            m(z.detach(), outputs[-1].detach()) for m, z in zip(modules, outputs, strict=True)
        )
        gradients = torch.autograd.grad(loss, list(modules.parameters()))
        return max(g.norm().item() for g in gradients)

    assert slope(rule) < 1e-10
    assert slope(replace(rule, penalty=2 * PENALTY)) > 1e-3


@pytest.mark.parametrize("name", [n for n in PAIR_RULES if n != "PhyLL"])
def test_a_shared_projection_is_that_of_both_directions_in_one(name):
    """The pairs of both directions in one list, whose mean loss is half of the sum."""
    net = NETWORKS["dense"]()
    rule, theory = pooled(*PAIR_RULES[name], "dense")
    pairs = fitting_pairs(theory, 6, SAMPLES - 1 if name == "InfoNCE" else 1)
    first, second = pairs.directions
    together = ll.Direction(
        np.concatenate([first.anchor, second.anchor]),
        np.concatenate([first.reference, second.reference]),
        np.concatenate([first.sign, second.sign]),
        np.concatenate([first.group, second.group + SAMPLES]),
    )
    merged = replace(pairs, directions=(together,))
    blocks, outputs = run(net, pairs, detach=True)
    modules = build(replace(rule, shared=True), outputs)
    set_optimal(modules, net, merged, theory)
    half = [g / 2 for g in local_gradients(modules, blocks, outputs)]
    assert error(half, ll.local_update(net, merged, theory)) < 1e-10
    assert error(half, ll.local_update(net, pairs, theory)) > 1e-3
    loss = sum(m(z, outputs[-1]) for m, z in zip(modules, outputs, strict=True))
    slopes = torch.autograd.grad(loss, list(modules.parameters()))
    assert max(g.norm().item() for g in slopes) < 1e-10


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", [*GOODNESS_RULES, *VIEW_RULES])
def test_rules_without_projection_give_the_updates_of_the_theory(name, network):
    rule, theory = (GOODNESS_RULES | VIEW_RULES)[name]
    net = NETWORKS[network]()
    pairs = fitting_pairs(theory, net.widths[0])
    blocks, outputs = run(net, pairs, detach=True)
    modules = build(rule, outputs)
    updates = ll.local_update(net, pairs, theory)
    assert error(local_gradients(modules, blocks, outputs), updates) < 1e-10
    # Another sample is the other view, and the first view is the second.
    wrong = [torch.cat([z[SAMPLES:].roll(1, 0), z[:SAMPLES]]) for z in outputs]
    assert error(local_gradients(modules, blocks, wrong), updates) > 1e-3


def test_the_mean_of_squares_is_a_goodness_that_forgets_the_width():
    net = NETWORKS["dense"]()
    pairs = fitting_pairs(ll.rules.SCFF(), 6)
    _, outputs = run(net, pairs, detach=True)
    for rule in (SCFF, ForwardForward):
        modules = build(rule(goodness="mean"), outputs)
        for module, z in zip(modules, outputs, strict=True):
            twice = torch.cat([z, z], 1)
            assert module(twice, z).item() == pytest.approx(module(z, z).item(), rel=1e-12)
            summed = build(rule(), outputs)[0]
            assert summed(twice, z).item() != pytest.approx(summed(z, z).item(), rel=1e-3)


def test_contexts_have_pooling_windows_of_their_own():
    net = NETWORKS["convolution"]()
    loss = losses.TypeTwo(scores.Softplus())
    rule = CLAPP(score="softplus", pooling=(2, 1), context_pooling=(4, 2), **OPTIONS)
    pairs = fitting_pairs(ll.rules.CLAPP(), net.widths[0])
    blocks, outputs = run(net, pairs, detach=True)
    modules, activities = build(rule, outputs), net.activities(pairs.samples)
    updates = []
    for l, (own, other) in enumerate(((2, 4), (1, 2)), 1):
        p, p_context = (average_pooling(net.map_shape(l), w) for w in (own, other))
        z, push = activities.z[l], np.zeros_like(activities.z[l])
        matrices = []
        for d in pairs.directions:
            solved = ll.optimal_projection(
                (z @ p.T)[d.anchor_rows], (z @ p_context.T)[d.reference_rows], d, loss, PENALTY
            )
            push[d.anchor_rows] += solved.coefficients @ solved.projected @ p
            matrices.append(solved.matrix)
        set_projections(modules[l - 1], matrices)
        updates.append(net.update(l, activities, push))
    assert error(local_gradients(modules, blocks, outputs), updates) < 1e-10


# -- kinds of projections --------------------------------------------------------------------------


@pytest.mark.parametrize("score", [scores.Softplus(), scores.Hinge()])
def test_a_random_projection_is_frozen_below_the_top_and_gives_the_update_of_the_theory(score):
    net = NETWORKS["dense"]()
    rule = CLAPP(score=score, projection="random", pooling=1, **OPTIONS)
    theory = ll.Rule("r", losses.TypeTwo(score), "same", "random", penalty=PENALTY, seed=3)
    pairs = fitting_pairs(theory, 6)
    blocks, outputs = run(net, pairs, detach=True)
    modules, signals = build(rule, outputs), Signals(net, pairs, theory)
    for l, module in enumerate(modules, 1):
        scored = signals.scored(l)
        set_projections(module, [(np.linalg.pinv(s.contexts) @ s.projected).T for s in scored])
        assert all(b.requires_grad == (l == 3) for b in module.parameters())
    gradients, updates = (
        local_gradients(modules, blocks, outputs),
        ll.local_update(net, pairs, theory),
    )
    # The optimum of a hinge lies on its kink, where autograd takes another subgradient.
    layers = slice(None if isinstance(score, scores.Softplus) else -1)
    assert error(gradients[layers], updates[layers]) < 1e-10


@pytest.mark.parametrize("context", ["same", "top", "both"])
@pytest.mark.parametrize("name", [*SCORES, "hinge"])
def test_a_projection_that_matches_the_global_error_makes_the_updates_equal(context, name):
    """Statement 1: B_l = V^T B_L V or V^T B_L; the matching loss is 0 there and only there."""
    net = NETWORKS["dense"]()
    score = SCORES.get(name, "hinge")
    rule = CLAPP(context=context, score=score, projection="matched", pooling=1, shared=False)
    pairs = fitting_pairs(ll.rules.CLAPP(), 6)
    blocks, outputs = run(net, pairs, detach=False)
    modules, top = build(rule, outputs), outputs[-1].detach()
    tops = [directed[0].matrix.detach() for directed in modules[-1].projections]
    loss = modules[-1](outputs[-1], top)
    errors = torch.autograd.grad(loss, outputs, retain_graph=True)
    through_all = torch.autograd.grad(loss, [b.weight for b in blocks])

    blocks, outputs = run(net, pairs, detach=True)
    for l in (1, 2):
        module, z, down = modules[l - 1], outputs[l - 1], torch.tensor(net.downstream(l))
        unmatched = module.matching_loss(z, top, errors[l - 1])
        assert unmatched > 1e-4
        assert all(g.norm() > 0 for g in torch.autograd.grad(unmatched, list(module.parameters())))
        share = {"same": (1, 0), "top": (0, 1), "both": (0.5, 0.5)}[context]
        matrices = []
        for b in tops:
            parts = [
                s * down.T @ b @ v
                for s, v in zip(share, (down, torch.eye(3).double()), strict=True)
                if s
            ]
            matrices.append(torch.cat(parts, 1).numpy())
        set_projections(module, matrices)
        matched = module.matching_loss(z, top, errors[l - 1])
        assert matched < 1e-20 * errors[l - 1].square().sum()
        # Its own loss does not train it.
        assert not any(
            g is not None
            for g in torch.autograd.grad(
                module(z, top), list(module.parameters()), allow_unused=True
            )
        )
    assert (
        error(local_gradients(modules, blocks, outputs), [-g.numpy() for g in through_all]) < 1e-10
    )


def test_matching_finds_the_theoretical_optimum():
    """With linear f the error is linear in B, so a quadratic solver reaches statement 1."""
    net = NETWORKS["dense"]()
    rule = CLAPP(context="top", score="linear", projection="matched", pooling=1)
    pairs = fitting_pairs(ll.rules.CLAPP(), 6)
    _, outputs = run(net, pairs, detach=False)
    modules, top = build(rule, outputs), outputs[-1].detach()
    (wanted,) = torch.autograd.grad(modules[-1](outputs[-1], top), outputs[0])
    (b,) = modules[0].parameters()
    solver = torch.optim.LBFGS(
        [b], max_iter=60, tolerance_grad=0, tolerance_change=1e-20, line_search_fn="strong_wolfe"
    )
    here = outputs[0].detach()

    def loss():
        b.grad = None
        value = modules[0].matching_loss(here, top, wanted)
        value.backward()
        return value

    before = loss().item()
    solver.step(loss)
    assert loss().item() < 1e-12 * before


@pytest.mark.parametrize("kind", ["trained", "random", "matched"])
def test_the_last_projection_is_trained_with_its_loss_whatever_the_others_are(kind):
    _, outputs = run(NETWORKS["dense"](), fitting_pairs(ll.rules.CLAPP(), 6), detach=True)
    modules = build(CLAPP(projection=kind, pooling=1, penalty=PENALTY), outputs)

    def pull(module, z):
        b = list(module.parameters())
        if not b[0].requires_grad:
            return None
        return torch.autograd.grad(module(z, outputs[-1]), b, allow_unused=True)[0]

    below, last = pull(modules[0], outputs[0]), pull(modules[-1], outputs[-1])
    assert (below is None) == (kind != "trained")
    assert last.norm() > 0


# -- building --------------------------------------------------------------------------------------


VGG = [(128, 96, 96), (256, 48, 48), (256, 48, 48), (512, 24, 24), (1024, 12, 12), (1024, 6, 6)]
VGG_WINDOWS = (12, 12, 12, 6, 6, 3)


def test_the_published_numbers_of_parameters():
    """201 M of B in the six-layer encoder on 96 x 96 images, 134 M with direct feedback."""
    same = CLAPP(pooling=VGG_WINDOWS)
    assert round(sum(same.num_parameters(VGG)) / 1e6) == 201
    assert round(sum(replace(same, context="top").num_parameters(VGG)) / 1e6) == 134
    assert sum(replace(same, shared=False).num_parameters(VGG)) == 2 * sum(same.num_parameters(VGG))


SMALL = [(4, 8, 8), (6, 4, 4), (8, 2, 2)]


@pytest.mark.parametrize("context", ["same", "top", "both"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("limit", [{}, {"rank": 3}, {"budget": 600}])
def test_parameters_are_counted_as_they_are_built(context, shared, limit):
    rule = CLAPP(context=context, shared=shared, **limit)
    counted = rule.num_parameters(SMALL)
    built = rule.build(SMALL)
    assert counted == tuple(sum(p.numel() for p in m.parameters()) for m in built)
    if "budget" in limit:
        assert sum(counted) <= limit["budget"]
        ranks = {p.shape[0] for n, p in built.named_parameters() if n.endswith("right")}
        (rank,) = ranks
        more = replace(rule, budget=None, rank=rank + 1)
        assert sum(more.num_parameters(SMALL)) > limit["budget"]


def test_a_budget_for_all_is_the_full_rule_and_one_for_nothing_is_refused():
    full = CLAPP()
    assert replace(full, budget=10**6).num_parameters(SMALL) == full.num_parameters(SMALL)
    with pytest.raises(ValueError, match=r"budget of 20 .* rank 1 in every block takes 144"):
        replace(full, budget=20).build(SMALL)


def test_a_seed_makes_the_projections_and_the_global_random_state_stays():
    state = torch.get_rng_state()
    one, same, other = (CLAPP(rank=2).build(SMALL, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not any(torch.equal(one[k], other[k]) for k in one)


def test_dense_activities_and_tokens_are_maps_of_one_cell_and_of_one_column():
    z = torch.randn(
        8, 6, 5, generator=torch.Generator().manual_seed(0)
    )  # samples, tokens, channels
    for rule in (CLAPP(pooling=2), Views(pooling=3), SCFF(pooling=Cells(2)), PhyLL(pooling=1)):
        as_tokens = rule.build([(6, 5)])[0]
        as_column = rule.build([(5, 6, 1)])[0]
        column = z.transpose(1, 2).unsqueeze(3)
        assert as_tokens(z, z).item() == as_column(column, column).item()
        dense = rule.build([(5,)])[0]
        one_cell = rule.build([(5, 1, 1)])[0]
        assert dense(z[:, 0], z).item() == one_cell(z[:, 0, :, None, None], z).item()


@pytest.mark.parametrize(
    "rule", [CLAPP(), CLAPP(rank=2), CLAPP(context="both"), InfoNCE(), PhyLL(), SCFF(), Views()]
)
def test_mixed_precision_ends_in_float32(rule):
    generator = torch.Generator().manual_seed(0)
    z = [torch.randn(12, *shape, generator=generator) for shape in SMALL]
    modules = rule.build(SMALL, seed=1)
    for module, here in zip(modules, z, strict=True):
        expected = module(here, z[-1])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = module(here.bfloat16(), z[-1].bfloat16())
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(expected.item(), rel=0.05)


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CLAPP(context="all"), r"context must be one of same, top, both, got 'all'"),
        (lambda: CLAPP(projection="optimal"), r"projection must be one of trained, random"),
        (lambda: CLAPP(negatives="random"), r'"next" or "all", got \'random\''),
        (lambda: CLAPP(rank=2, budget=9), "one of rank and budget"),
        (lambda: CLAPP(rank=0), "rank must be at least 1, got 0"),
        (lambda: CLAPP(penalty=-1.0), "penalty must not be negative"),
        (lambda: PhyLL(context="top"), r"context .same. and no pooling of its own"),
        (lambda: SCFF(goodness="max"), "goodness must be"),
        (lambda: InfoNCE(temperature=0.0).build(SMALL), "temperature must be positive"),
        (lambda: CLAPP(score="relu").build(SMALL), "Unknown score 'relu'"),
        (lambda: CLAPP(pooling=(1, 2)).build(SMALL), "2 entries for 3 blocks"),
        (lambda: CLAPP(pooling="local").build(SMALL), "got 'local'"),
        (lambda: CLAPP(pooling=Window(3)).build(SMALL), r"window of 3 .* side 2.*Cells\(n\)"),
        (lambda: CLAPP(pooling=0).build(SMALL), "at least 1, got 0"),
        (lambda: CLAPP(pooling=Cells(0)), "at least 1, got 0"),
        (lambda: CLAPP().build([(2, 2, 2, 2)]), r"must be \(samples, channels\)"),
    ],
)
def test_what_does_not_go_together_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_outputs_that_do_not_fit_are_refused():
    module = CLAPP(pooling=1).build([(3, 4, 4)])[0]
    z = torch.randn(8, 3, 4, 4)
    with pytest.raises(ValueError, match=r"even number of rows from 4 on, got 7"):
        module(z[:7], z[:7])
    with pytest.raises(ValueError, match=r"even number of rows from 4 on, got 2"):
        module(z[:2], z[:2])
    small = torch.randn(8, 3, 2, 2)
    with pytest.raises(ValueError, match=r"12 features, but its projection was built for 48"):
        module(small, small)
    with pytest.raises(
        ValueError, match=r"shaped as the block's output \(8, 3, 4, 4\), got \(8, 3\)"
    ):
        module.matching_loss(z, z, torch.zeros(8, 3))


def test_a_score_that_torch_does_not_know_is_refused():
    module = CLAPP(score=Exponential()).build([(4,)])[0]
    with pytest.raises(TypeError, match="no torch version of the score Exponential"):
        module(torch.randn(8, 4), torch.randn(8, 4))
