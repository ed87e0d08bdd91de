"""Masks, feedback and slopes: the mismatch of a real network taken apart, against plain numpy."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import linlocal as ll
from linlocal.analysis import AlignmentRecorder, align
from linlocal.analysis.local_losses import CLAPP, NetworkRule
from linlocal.analysis.watching import averaged_errors, local_gradient, masked_gradients

TERMS = ("slopes", "feedback", "masks")
N, WIDTHS = 8, (7, 9, 8, 6)


def network(activation=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    layers = []
    for below, width in pairwise(WIDTHS):
        layers.append(nn.Sequential(nn.Linear(below, width, bias=False), activation()))
    return nn.Sequential(*layers).double()


def views(seed=1, n=N):
    x = torch.randn(n, WIDTHS[0], generator=torch.Generator().manual_seed(seed)).double()
    return x, x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1))


def built(rule, seed=3):
    return rule.build([(w,) for w in WIDTHS[1:]], seed).double()


# -- an independent implementation ---------------------------------------------------------------


def slopes_by_hand(z, sent):
    """f' of softplus with margin 1: of positive pairs, and of "next" negatives, with their sign."""
    positive = -1 / (1 + np.exp(np.sum(z * sent, 1) - 1)) / len(z)
    negative = 1 / (1 + np.exp(-np.sum(np.roll(z, -1, 0) * sent, 1) - 1)) / len(z)
    return positive, negative


def error_by_hand(slopes, sent):
    """Each reference pushes its own anchor and the next one."""
    positive, negative = slopes
    return positive[:, None] * sent + np.roll(negative[:, None] * sent, 1, 0)


def signals_by_hand(model, losses, x, context):
    """Local, hybrid, masked, global and the two further signals of every layer, in numpy."""
    weights = [block[0].weight.detach().numpy() for block in model]
    z, masks = [np.vstack([v.numpy() for v in x])], []
    for w in weights:
        masks.append((z[-1] @ w.T > 0).astype(float))
        z.append(z[-1] @ w.T * masks[-1])
    z = z[1:]
    both = slice(0, N), slice(N, 2 * N)

    def sent(l):
        b = losses[l].projections[0][0].matrix.detach().numpy()
        c = (z[-1] if context == "top" else z[l]) @ b.T
        return [c[both[1]], c[both[0]]]

    def own_slopes(l):
        return [slopes_by_hand(z[l][rows], s) for rows, s in zip(both, sent(l), strict=True)]

    def error(l, slopes):
        return np.vstack([error_by_hand(g, s) for g, s in zip(slopes, sent(l), strict=True)])

    def down(e, l, averaged):
        for k in range(len(z) - 1, l, -1):
            e = (e * (masks[k].mean(0) if averaged else masks[k])) @ weights[k]
        return e

    last = len(z) - 1
    top = own_slopes(last)
    found = []
    for l in range(len(z)):
        g = error(last, top)
        q = error(last, own_slopes(l))
        found.append(
            {
                "local": error(l, own_slopes(l)),
                "hybrid": error(l, top),
                "masked": down(g, l, True),
                "global": down(g, l, False),
                "own": down(q, l, True),
                "own full": down(q, l, False),
            }
        )
    return found


def cosine(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("context", ["same", "top"])
def test_terms_are_those_of_an_independent_implementation(context):
    model, x = network(), views()
    losses = built(CLAPP(score="softplus", context=context, pooling=1))
    measured = align(model, None, losses, *x, terms=True)
    by_hand = signals_by_hand(model, losses, x, context)
    for l, s in enumerate(by_hand[:-1]):
        row = measured.isel(layer=l)
        np.testing.assert_allclose(row.error_cosine, cosine(s["local"], s["global"]), atol=1e-12)
        near = np.sum(s["hybrid"] * s["local"]) / np.sum(s["hybrid"] ** 2) * s["hybrid"]
        terms = {
            "slopes": near - s["local"],
            "feedback": s["masked"] - near,
            "masks": s["global"] - s["masked"],
        }
        assert min(map(np.linalg.norm, terms.values())) > 1e-3 * np.linalg.norm(s["global"])
        for name, term in terms.items():
            size = np.linalg.norm(term) / np.linalg.norm(s["global"])
            np.testing.assert_allclose(row[name], size, rtol=1e-9)
        path = [cosine(s[k], s["global"]) for k in ("local", "hybrid", "masked", "global")]
        shares = [float(row[f"{name}_share"]) for name in TERMS]
        np.testing.assert_allclose(shares, np.diff(path), atol=1e-12)
        c = {k: cosine(v, s["global"]) for k, v in s.items()}
        # The six orders, written out.
        slopes = [c["hybrid"] - c["local"]] * 3 + [c["masked"] - c["own"]] + [1 - c["own full"]] * 2
        masks = [0.0] * 3 + [1 - c["masked"]] * 2 + [c["own full"] - c["own"]]
        np.testing.assert_allclose(row.slopes_shapley, np.mean(slopes), atol=1e-12)
        np.testing.assert_allclose(row.masks_shapley, np.mean(masks), atol=1e-12)


RULES = {
    "CLAPP": CLAPP(score="softplus", pooling=1),
    "direct feedback": CLAPP(score="softplus", context="top", pooling=1),
    "both": CLAPP(score="softplus", context="both", pooling=1),
    "each": CLAPP(score="softplus", context="each", pooling=1),
    "hinge": CLAPP(score="hinge", pooling=1, negatives="stacked"),
    "InfoNCE": NetworkRule(rule=ll.rules.GreedyInfoMax(), pooling=1, shared=False),
    "PhyLL": NetworkRule(rule=ll.rules.PhyLL()),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Identity])
def test_shares_add_up_and_the_top_has_no_terms(name, activation):
    measured = align(network(activation), None, RULES[name], *views(), terms=True)
    for kind in ("share", "shapley"):
        total = sum(measured[f"{term}_{kind}"] for term in TERMS)
        np.testing.assert_allclose(total, 1 - measured.error_cosine, atol=1e-10)
    for term in TERMS:
        np.testing.assert_allclose(measured[term].isel(layer=-1), 0, atol=1e-7)
    masks = measured.masks.isel(layer=slice(-1))
    if activation is nn.Identity:
        np.testing.assert_array_equal(masks, 0)
    else:
        assert (masks > 1e-3).all()


@pytest.mark.parametrize("context", ["same", "top", "each"])
def test_linear_scores_have_no_slopes_term(context):
    rule = CLAPP(score="linear", context=context, pooling=1)
    measured = align(network(), None, rule, *views(), terms=True)
    np.testing.assert_allclose(measured.slopes, 0, atol=1e-7)
    assert (measured.feedback.isel(layer=slice(-1)) > 1e-3).all()


def test_with_matched_feedback_a_linear_network_has_no_mismatch():
    """Direct feedback with B_l = V_l^T B_L (statement 1): all three terms vanish."""
    model, x = network(nn.Identity), views()
    losses = built(CLAPP(score="softplus", context="top", pooling=1))
    above = torch.eye(WIDTHS[-1]).double()
    for l in reversed(range(3)):
        with torch.no_grad():
            matrix = above.T @ losses[-1].projections[0][0].left
            losses[l].projections[0][0].left.copy_(matrix)
        above = above @ model[l][0].weight.detach()
    matched = align(model, None, losses, *x, terms=True)
    for term in TERMS:
        np.testing.assert_allclose(matched[term], 0, atol=1e-7)
    np.testing.assert_allclose(matched.error_cosine, 1, atol=1e-12)


def test_samples_that_are_alike_have_no_masks_term():
    x = views(n=1)[0].expand(4, -1)
    rule = CLAPP(score="softplus", pooling=1)
    measured = align(network(), None, rule, x, 1.001 * x, terms=True)
    np.testing.assert_allclose(measured.masks, 0, atol=1e-12)


# -- averaged derivatives ------------------------------------------------------------------------


def test_averaged_errors_give_the_gradients_of_masked_backpropagation():
    model, x = network(), torch.cat(views())
    z = [x]
    for block in model:
        z.append(block(z[-1]))
    top_error = 2 * z[-1].detach()
    (below,) = averaged_errors([z[1:]], [top_error])
    expected = masked_gradients(model, x, lambda top: top.square().sum(), "batch")
    for l, error in enumerate([*below, top_error]):
        (got,) = local_gradient(z[l + 1], [model[l][0].weight], error)
        torch.testing.assert_close(got, expected[f"{l}.0.weight"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "activation",
    [nn.LeakyReLU(0.2), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.ELU(), nn.Softplus(), nn.PReLU(),
     nn.Hardtanh(), nn.Mish(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish(), nn.Sigmoid()],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_the_derivative_that_is_averaged_is_that_of_the_nonlinearity(activation):
    torch.manual_seed(0)
    activation = activation.double()
    z = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    drive = 2 * z
    leaf = drive.detach().clone().requires_grad_()
    (derivative,) = torch.autograd.grad(activation(leaf.clone()).sum(), leaf)
    top = activation(drive)
    error = torch.randn_like(top)
    ((below,),) = averaged_errors([[z, top]], [error])
    torch.testing.assert_close(below, 2 * error * derivative.mean(0), rtol=1e-13, atol=1e-13)
    (usual,) = torch.autograd.grad(top, z, error)  # the graph is whole, and no hook is left
    torch.testing.assert_close(usual, 2 * error * derivative, rtol=1e-13, atol=1e-13)


def test_what_cannot_be_averaged_is_refused_in_words():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.relu()

        @staticmethod
        def backward(ctx, g):
            return g

    z = torch.randn(6, 4, requires_grad=True)
    with pytest.raises(ValueError, match="form of its own"):
        averaged_errors([[z, Own.apply(2 * z)]], [torch.ones(6, 4)])
    with pytest.raises(ValueError, match="along the first axis"):
        averaged_errors([[z, (2 * z).T.relu().T]], [torch.ones(6, 4)])


# -- who may ask ---------------------------------------------------------------------------------


def test_terms_need_scored_pairs_and_the_loss_of_the_rule():
    with pytest.raises(ValueError, match="scored pairs, and"):
        align(network(), None, ll.rules.VICReg(), *views(), terms=True)
    with pytest.raises(ValueError, match="the rule's own loss"):
        align(network(), None, RULES["CLAPP"], *views(), terms=True, global_loss=torch.sum)
    with pytest.raises(ValueError, match="the rule's own loss"):
        AlignmentRecorder(network(), rule=RULES["CLAPP"], terms=True)


@pytest.mark.parametrize("how", ["rule", "trains_rule", "separate", "micro-batches"])
def test_the_recorder_records_the_terms_of_align_and_leaves_no_trace(how):
    model, losses = network(), built(CLAPP(score="softplus", context="top", pooling=1))
    batches = [views(), views(5)] if how == "micro-batches" else [views()]

    def train():
        model.zero_grad()
        for x in batches:
            passes = x if how == "separate" else [torch.cat(x)]
            z = torch.cat([model(each) for each in passes])
            losses[-1].activity_loss(z, None).backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = train()
    recorder = AlignmentRecorder(
        model,
        rule=losses,
        every=1,
        terms=True,
        against="rule" if how == "rule" else "backward",
        trains_rule=how != "rule",
        views="separate" if how == "separate" else "stacked",
    )
    with recorder.step(micro_batches=len(batches)):
        recorded = train()
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))
    step = recorder.dataset().isel(step=0)
    total = sum(step[f"{term}_share"] for term in TERMS)
    np.testing.assert_allclose(total, 1 - step.error_cosine, atol=1e-10)
    assert "masks_shapley" not in step
    expected = align(model, None, losses, *batches[0], terms=True)
    if how == "separate":  # every pass averages the masks of its own view
        np.testing.assert_allclose(step.slopes, expected.slopes, rtol=1e-9, atol=1e-7)
        assert (np.abs(step.masks - expected.masks).isel(layer=slice(-1)) > 1e-6).all()
    elif how != "micro-batches":
        for name in (*TERMS, *(f"{term}_share" for term in TERMS)):
            np.testing.assert_allclose(step[name], expected[name], rtol=1e-9, atol=1e-7)
