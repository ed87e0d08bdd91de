"""Local and global gradients of one graph against those of separate, detached programs."""

import numpy as np
import pytest
import torch
from torch import nn

from linlocal.analysis.alignment import align
from linlocal.analysis.alignment.products import inner, metrics, products
from linlocal.analysis.block import resolve

TOLERANCE = 1e-10


class Agreement(nn.Module):
    """-mean_k (mean of z_k over the map) . B top_{N+k}, both ways round."""

    def __init__(self, width, top_width, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        b = torch.randn(width, top_width, generator=generator, dtype=torch.float64)
        self.b = nn.Parameter(b)

    def forward(self, here, top):
        z, c = (a.reshape(len(a), a.shape[1], -1).mean(2) for a in (here, top))
        n = len(here) // 2
        u = torch.einsum("ki,ij,kj->k", z, self.b.to(z.dtype), c.to(z.dtype).roll(n, 0))
        return torch.nn.functional.softplus(1.0 - u).mean()


class DirectFeedback:
    def build(self, shapes, seed=0):
        return nn.ModuleList(Agreement(s[0], shapes[-1][0], seed + i) for i, s in enumerate(shapes))


def conv(a, b, **options):
    return nn.Conv2d(a, b, 3, padding=1, **options)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.norm = conv(width, width), nn.BatchNorm2d(width)
        self.second = conv(width, width)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class SmallViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
                for _ in range(3)
            )
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.layers(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def vgg():
    return nn.Sequential(
        *(
            nn.Sequential(conv(a, b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in ((3, 4), (4, 6), (6, 5))
        )
    )


def resnet():
    return nn.Sequential(nn.Sequential(conv(3, 4), Residual(4)), Residual(4), Residual(4))


NETWORKS = {"vgg": vgg, "resnet": resnet, "vit": SmallViT}


def made(name):
    torch.manual_seed(1)
    return NETWORKS[name]().double(), torch.randn(8, 3, 8, 8, dtype=torch.float64)


def detached_gradients(model, x, rule):
    """Every block on its own, its input detached; then one backward pass of the last loss."""
    found = resolve(model)
    inside = model.layers if isinstance(model, SmallViT) else model
    h = model.patches(x).flatten(2).transpose(1, 2) if isinstance(model, SmallViT) else x
    start, inputs = h, []
    for block in inside:
        inputs.append(h.detach())
        h = block(h.detach())
    top = h.detach()
    # Batch statistics have moved; gradients in training mode do not depend on them.
    losses = rule.build(
        [tuple(block(i).shape[1:]) for block, i in zip(inside, inputs, strict=True)]
    )
    local, errors = [], []
    for block, i, loss, parts in zip(inside, inputs, losses, found, strict=True):
        z = block(i)
        value = loss(z, top)
        errors.append(torch.autograd.grad(value, z, retain_graph=True)[0])
        local.append(torch.autograd.grad(value, list(parts.parameters.values())))
    outputs, h = [], start
    for block in inside:
        h = block(h)
        outputs.append(h)
    value = losses[-1](h, top)
    parameters = [p for b in found for p in b.parameters.values()]
    goal = torch.autograd.grad(value, parameters + outputs)
    goal_errors = goal[len(parameters) :]
    per_block, rest = [], list(goal[: len(parameters)])
    for gradients in local:
        per_block.append(rest[: len(gradients)])
        rest = rest[len(gradients) :]
    return local, per_block, errors, goal_errors


def flat(tensors):
    return np.concatenate([t.detach().numpy().ravel() for t in tensors])


def expected(local, goal):
    l, g = flat(local), flat(goal)
    norms = np.linalg.norm(l), np.linalg.norm(g)
    return {
        "cosine": l @ g / norms[0] / norms[1],
        "norm_ratio": norms[0] / norms[1],
        "relative_error": np.linalg.norm(l - g) / norms[1],
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_equal_those_of_detached_blocks(name):
    model, x = made(name)
    rule = DirectFeedback()
    local, goal, errors, goal_errors = detached_gradients(model, x, rule)
    measured = align(model, None, rule, x)
    flat_local = [g for block in local for g in block]
    flat_goal = [g for block in goal for g in block]
    for i in range(len(local)):
        at = measured.isel(layer=i)
        for metric, value in expected(local[i], goal[i]).items():
            assert abs(float(at[metric]) - value) < TOLERANCE
        for metric, value in expected([errors[i]], [goal_errors[i]]).items():
            assert abs(float(at[f"error_{metric}"]) - value) < TOLERANCE
    for i, (l, g) in enumerate(zip(flat_local, flat_goal, strict=True)):
        at = measured.isel(parameter=i)
        assert abs(float(at.parameter_local_norm) - float(l.norm())) < TOLERANCE
        assert abs(float(at.parameter_global_norm) - float(g.norm())) < TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_block_agrees_with_its_own_loss_and_no_other(name):
    model, x = made(name)
    measured = align(model, None, DirectFeedback(), x)
    assert abs(float(measured.cosine[-1]) - 1) < TOLERANCE
    assert float(measured.relative_error[-1]) < TOLERANCE
    assert (measured.cosine[:-1] < 0.999).all()
    another = align(model, None, DirectFeedback(), x, global_loss=lambda y: y.square().mean())
    assert float(another.cosine[-1]) < 0.999


@pytest.mark.parametrize("name", NETWORKS)
def test_a_loss_of_the_output_gives_its_own_backward(name):
    model, x = made(name)
    measured = align(model, None, DirectFeedback(), x, global_loss=lambda y: y.square().mean())
    model(x).square().mean().backward()
    for i, block in enumerate(resolve(model)):
        norm = np.linalg.norm(flat(p.grad for p in block.parameters.values()))
        assert abs(float(measured.global_norm[i]) - norm) < TOLERANCE


def test_view_parts_add_up_and_the_views_are_told_apart():
    model, x = made("resnet")
    measured = align(model, None, DirectFeedback(), x)
    for prefix in ("", "parameter_", "error_"):
        whole = measured[f"{prefix}cosine"] * measured[f"{prefix}norm_ratio"]
        parts = measured[f"{prefix}view_part"].sum("view")
        np.testing.assert_allclose(parts, whole, rtol=0, atol=TOLERANCE)
    swapped = align(model, None, DirectFeedback(), x[4:], x[:4])
    np.testing.assert_allclose(
        swapped.view_part.isel(view=0), measured.view_part.isel(view=1), atol=TOLERANCE
    )
    assert (abs(measured.view_part.diff("view")) > 1e-3).any()


def test_two_views_are_stacked():
    model, x = made("vgg")
    one, two = (align(model, None, DirectFeedback(), *v) for v in ((x,), (x[:4], x[4:])))
    assert one.identical(two)


def test_nothing_of_the_network_changes():
    model, x = made("resnet")
    model = nn.Sequential(model, nn.Dropout()).train()
    model[0][1].first.weight.grad = torch.ones_like(model[0][1].first.weight)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    random = torch.get_rng_state()
    align(model, ["0.0", "0.1", "0.2"], DirectFeedback(), x)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert modes == [m.training for m in model.modules()]
    for name, p in model.named_parameters():
        assert (p.grad is None) != (name == "0.1.first.weight")
        assert p.grad is None or (p.grad == 1).all()
        assert not p._backward_hooks


def test_several_rules_stand_side_by_side():
    model, x = made("vgg")
    built = DirectFeedback().build([(4,), (6,), (5,)], seed=7)
    pair = {"feedback": DirectFeedback(), "another": built}
    both = align(model, None, pair, x)
    for name, rule in pair.items():
        alone = align(model, None, rule, x)
        assert both.sel(rule=name, drop=True).identical(alone)
    assert not np.allclose(both.cosine[0, :-1], both.cosine[1, :-1])


def test_a_network_of_one_block_is_its_own_top():
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 5)).double()
    x = torch.randn(8, 3, 6, 6, dtype=torch.float64)
    alone = align(model, ["0"], DirectFeedback(), x)
    for metric in ("cosine", "norm_ratio", "error_cosine"):
        assert alone[metric].dims == ("layer",)
        np.testing.assert_allclose(alone[metric], [1.0], rtol=1e-12)
    other = align(model, ["0"], DirectFeedback(), x, global_loss=lambda y: y.square().mean())
    assert abs(float(other.cosine[0])) < 0.999


def test_one_loss_per_block_is_asked_for():
    model, x = made("vgg")
    with pytest.raises(ValueError, match="2 losses for 3 blocks"):
        align(model, None, DirectFeedback().build([(4,), (6,)]), x)


@pytest.mark.parametrize("length", [1, 2**15, 2**15 + 1, 70_000])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64]
)
def test_products_are_sums_in_float64_over_any_length(dtype, length):
    generator = torch.Generator().manual_seed(length)
    l, g = (3e2 * torch.randn(2, length, dtype=torch.float64, generator=generator)).to(dtype)
    if dtype.is_complex:
        l, g = l + 1j * g, g - 2j * l
    a, b = (
        torch.view_as_real(x).double().numpy().ravel() if dtype.is_complex else x.double().numpy()
        for x in (l, g)
    )
    sums = [a @ a, b @ b, a @ b, (a - b) @ (a - b)]
    scale = np.sqrt(sums[0] * sums[1])
    np.testing.assert_allclose(products(l, g), sums, rtol=1e-12, atol=1e-13 * scale)
    np.testing.assert_allclose(inner(l, g), a @ b, rtol=1e-12, atol=1e-13 * scale)
    if dtype.is_complex:  # a conjugate that waits to be taken counts as what it is
        np.testing.assert_allclose(
            products(l.conj(), g.conj().resolve_conj()), sums, rtol=1e-12, atol=1e-13 * scale
        )


def test_half_precision_neither_overflows_nor_cancels_in_the_sums():
    l = torch.full((5000,), 6e4, dtype=torch.float16)  # whose square is beyond float16
    g = l.clone()
    g[0] -= 32
    difference = float(l[0]) - float(g[0])
    assert products(l, g)[3] == difference**2 != 0
    assert float(inner(l, g)) == float(l[0]) * (4999 * float(l[0]) + float(g[0]))


@pytest.mark.parametrize("scale", [1e-12, 0.3, 1.0, 7e9])
def test_metrics_are_those_of_the_vectors(scale):
    rng = np.random.default_rng(0)
    g = rng.standard_normal(40)
    l = scale * (g + rng.standard_normal(40))
    norms = np.linalg.norm(l), np.linalg.norm(g)
    expected = {
        "cosine": l @ g / (norms[0] * norms[1]),
        "norm_ratio": norms[0] / norms[1],
        "relative_error": np.linalg.norm(l - g) / norms[1],
        "local_norm": norms[0],
        "global_norm": norms[1],
    }
    broken = torch.full((4,), torch.nan, dtype=torch.float64)
    found = metrics(torch.stack([products(torch.tensor(l), torch.tensor(g)), broken]).numpy())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name][0], value, rtol=1e-12)
        assert np.isnan(found[name][1])  # and the pair beside it is not touched


def test_a_cosine_of_tiny_gradients_is_right_and_of_zero_ones_undefined():
    tiny = torch.full((3,), 1e-30)
    measured = metrics(torch.stack([products(tiny, tiny), products(tiny, 0 * tiny)]).numpy())
    assert abs(measured["cosine"][0] - 1) < 1e-12
    assert np.isnan(measured["cosine"][1])
    assert np.isnan(measured["relative_error"][1])


def test_an_overflow_is_undefined_not_infinite():
    measured = metrics(products(torch.tensor([torch.inf, 1.0]), torch.ones(2)).numpy())
    assert all(np.isnan(value) for value in measured.values())
