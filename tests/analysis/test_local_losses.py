"""In a linear network the local losses of torch give the updates of the theory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import linlocal as ll
from linlocal import losses, testing
from linlocal.analysis.local_losses import CLAPP, SCFF, ForwardForward, InfoNCE, PhyLL, Views
from linlocal.losses import scores
from linlocal.networks import Convolution, average_pooling
from linlocal.updates import Signals

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
        for context in ("same", "top", "both", "each")
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
    name: (Views(ll.rules.from_name(name).loss, pooling=1), ll.rules.from_name(name))
    for name in ll.rules.NAMES
    if ll.rules.from_name(name).kind == "view"
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
            matrices = [
                np.hstack([s.projection.matrix for s in signals.scored(l) if s.direction is d])
                for d in pairs.directions
            ]
            set_projections(module, matrices)


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


def away(module, z, top, global_error):
    """||E - dL_l/dz_l||^2 with the slopes of the block itself."""
    leaf = z.detach().requires_grad_()
    (own,) = torch.autograd.grad(module(leaf, top), leaf)
    return (own - global_error).square().sum()


@pytest.mark.parametrize("context", ["same", "top", "both", "each"])
@pytest.mark.parametrize("name", [*SCORES, "hinge"])
def test_a_projection_that_matches_the_global_error_makes_the_updates_equal(context, name):
    """Statement 1: B_l = V^T B_L V or V^T B_L, from which nothing is left, and only from there."""
    net = NETWORKS["dense"]()
    score = SCORES.get(name, "hinge")
    rule = CLAPP(context=context, score=score, projection="least_squares", pooling=1, shared=False)
    pairs = fitting_pairs(ll.rules.CLAPP(), 6)
    blocks, outputs = run(net, pairs, detach=False)
    modules, top = build(rule, outputs), outputs[-1].detach()
    # One for each context that has a loss of its own.
    tops = [[b.matrix.detach() for b in directed] for directed in modules[-1].projections]
    loss = modules[-1](outputs[-1], top)
    errors = torch.autograd.grad(loss, outputs, retain_graph=True)
    through_all = torch.autograd.grad(loss, [b.weight for b in blocks])

    blocks, outputs = run(net, pairs, detach=True)
    for l in (1, 2):
        module, z, down = modules[l - 1], outputs[l - 1], torch.tensor(net.downstream(l))
        assert away(module, z, top, errors[l - 1]) > 1e-4
        share = {"same": (1, 0), "top": (0, 1), "both": (0.5, 0.5), "each": (1, 1)}[context]
        matrices = []
        for directed in tops:
            parts = [
                s * down.T @ b @ v
                for s, b, v in zip(
                    share,
                    (directed[0], directed[-1]),
                    (down, torch.eye(3).double()),
                    strict=True,
                )
                if s
            ]
            matrices.append(torch.cat(parts, 1).numpy())
        set_projections(module, matrices)
        assert away(module, z, top, errors[l - 1]) < 1e-20 * errors[l - 1].square().sum()
        assert not list(module.parameters())  # its own loss does not train it
    assert (
        error(local_gradients(modules, blocks, outputs), [-g.numpy() for g in through_all]) < 1e-10
    )


@pytest.mark.parametrize("kind", ["trained", "random", "least_squares"])
def test_the_last_projection_is_trained_with_its_loss_whatever_the_others_are(kind):
    _, outputs = run(NETWORKS["dense"](), fitting_pairs(ll.rules.CLAPP(), 6), detach=True)
    modules = build(CLAPP(projection=kind, pooling=1, penalty=PENALTY), outputs)

    def pull(module, z):
        b = [p for p in module.parameters() if p.requires_grad]
        if not b:
            return None
        return torch.autograd.grad(module(z, outputs[-1]), b, allow_unused=True)[0]

    below, last = pull(modules[0], outputs[0]), pull(modules[-1], outputs[-1])
    assert (below is None) == (kind != "trained")
    assert last.norm() > 0
