"""Projections by least squares where networks are trained, aligned and recorded."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from linlocal.analysis import AlignmentRecorder, align
from linlocal.analysis.block import resolve
from linlocal.analysis.local_losses import CLAPP, Cells, LeastSquares, least_squares
from linlocal.analysis.local_losses.regression import Regression, estimated
from linlocal.analysis.training import LocalTrainer
from linlocal.analysis.watching import (
    LocalityError,
    audit_locality,
    errors_below,
    pushed_forward,
    refuse_interaction,
)

SHAPES = [(3, 6, 6), (4, 6, 6), (3, 6, 6)]


def network(*between):
    torch.manual_seed(0)
    sides = [(2, 3), (3, 4), (4, 3)]
    named = OrderedDict(
        (
            f"block{l}",
            nn.Sequential(nn.Conv2d(*side, 3, padding=1), *copy.deepcopy(between), nn.ReLU()),
        )
        for l, side in enumerate(sides, start=1)
    )
    return nn.Sequential(named).double()


def views(seed=1, n=8):
    return torch.randn(2 * n, 2, 6, 6, generator=torch.Generator().manual_seed(seed)).double()


def rule(**options):
    how = {k: options.pop(k) for k in ("ridge", "decay", "tangents", "kind") if k in options}
    chosen = {"score": "softplus", "context": "top", "pooling": Cells(2), **options}
    return CLAPP(projection="least_squares", matching=LeastSquares(**how), **chosen)


def trained(model, of_rule, **options):
    return LocalTrainer(model, None, of_rule, shape=(2, 6, 6), **options)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def run(model, x):
    outputs = []
    for block in model:
        x = block(x)
        outputs.append(x)
    return outputs


def solved(model, losses, x):
    """The same by hand: backpropagate the last loss, then set each B."""
    outputs = run(model, x)
    top = outputs[-1].detach().requires_grad_()
    (error,) = torch.autograd.grad(losses[-1].activity_loss(top, None), top)
    least_squares(losses, outputs, errors_below(outputs, error))
    return outputs


@pytest.mark.parametrize("options", [{}, {"one_pass": True}, {"micro_batch": 8}])
def test_a_step_solves_for_the_projections_and_trains_by_them(options):
    x, model, twin = views(), network(), network()
    losses = rule().build(SHAPES).double()
    outputs = solved(twin, losses, x)
    top = outputs[-1].detach()
    z = x
    for block, loss in zip(twin, losses, strict=True):
        z = block(z.detach())
        loss(z, top).backward()
    trainer = trained(model, rule(), optimiser=lambda p: torch.optim.SGD(p, lr=0.1), **options)
    trainer.step(x)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach() - 0.1 * q.grad, rtol=1e-9, atol=1e-12)
    other = network()
    trained(other, CLAPP(score="softplus", context="top", pooling=Cells(2))).step(x)
    assert not torch.allclose(model[0][0].weight, other[0][0].weight)


def test_contexts_that_differ_by_rounding_only_do_not_count():
    """Two directions are real, and the others rounding of bfloat16: they must not carry a B."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, 8, generator=generator)
    wanted = torch.randn(8, 3, generator=generator)

    def rows():
        contexts = (1 + torch.randn(2, 16, 2, generator=generator) @ mixing).bfloat16().float()
        design = contexts[0] - contexts[1]
        return design, design @ wanted + torch.randn(16, 3, generator=generator)

    (design, target), (others, unseen) = rows(), rows()
    how = LeastSquares()

    def left(rounding):
        b = Regression(8, 3, how).fit(design, target, rounding=rounding)
        return (unseen - others @ b.T).norm(), b.norm()

    (far, large), (near, small) = left(0.0), left(torch.finfo(torch.bfloat16).eps)
    assert large > 10 * small
    assert far > near


@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"context": "both", "shared": False}])
def test_align_and_the_recorder_solve_for_what_they_measure(options):
    x, model = views(), network()
    losses = rule(**options).build(SHAPES).double()
    solved(model, losses, x)
    by_hand = align(model, None, losses, x)
    measured = align(model, None, rule(**options), x)
    recorder = AlignmentRecorder(model, rule=rule(**options), every=1, against="rule")
    with recorder.step():
        model(x)
    separate = AlignmentRecorder(
        model, rule=rule(**options), every=1, against="rule", views="separate"
    )
    with separate.step():
        for view in x.chunk(2):
            model(view)
    for found in (measured, recorder.dataset(), separate.dataset()):
        np.testing.assert_allclose(found.error_cosine.squeeze(), by_hand.error_cosine, rtol=1e-9)
    random = align(model, None, rule(**options).build(SHAPES).double(), x)
    assert (by_hand.error_cosine > random.error_cosine + 0.1)[:-1].all()


@pytest.mark.parametrize("how", [{}, {"decay": 0.9}, {"decay": 0.9, "tangents": 3}])
def test_a_resumed_training_is_the_same_bit_by_bit(how):
    batches = [views(seed) for seed in range(4)]
    model = network()
    trainer = trained(model, rule(**how))
    for batch in batches[:2]:
        trainer.step(batch)
    state = copy.deepcopy(trainer.state_dict())
    again = network()
    resumed = trained(again, rule(**how))
    resumed.load_state_dict(state)
    for batch in batches[2:]:
        assert trainer.step(batch) == resumed.step(batch)
    assert all(map(torch.equal, weights(model), weights(again)))
    forgetful = network()
    fresh = trained(forgetful, rule(**how))
    forgetful.load_state_dict(state["model"])
    fresh.losses[-1].load_state_dict(
        {k.removeprefix("2."): v for k, v in state["losses"].items() if k.startswith("2.")}
    )
    fresh.step(batches[2])
    same = torch.equal(
        fresh.losses[0].projections[0][0].left, trainer.losses[0].projections[0][0].left
    )
    assert not same


def test_a_recorder_goes_on_with_the_rows_of_earlier_steps():
    model, batches = network(), [views(seed) for seed in range(3)]

    def recorded(recorder, some):
        for batch in some:
            with recorder.step():
                model(batch)
        return recorder.dataset().error_cosine.isel(step=-1).values

    options = {"rule": rule(decay=0.5), "every": 1, "against": "rule"}
    first = AlignmentRecorder(model, **options)
    recorded(first, batches[:2])
    second = AlignmentRecorder(model, **options)
    second.load_state_dict(first.state_dict())
    alone = recorded(AlignmentRecorder(model, **options), batches[2:])
    wanted = recorded(first, batches[2:])
    np.testing.assert_array_equal(recorded(second, batches[2:]), wanted)
    assert np.abs(alone - wanted)[:-1].max() > 1e-3


def test_a_failed_step_leaves_projections_as_they_were():
    model = network()
    trainer = trained(model, rule(decay=0.9))
    trainer.step(views())
    before = {name: value.clone() for name, value in trainer.losses.state_dict().items()}
    with pytest.raises(FloatingPointError):
        trainer.step(views() * 1e200)
    for name, value in trainer.losses.state_dict().items():
        assert torch.equal(value, before[name])


# -- forward products -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["coordinates", "signs", "normal"])
def test_estimates_are_unbiased_with_the_stated_variance(kind):
    rows, d, m = 4000, 6, 2
    exact = torch.randn(1, d, generator=torch.Generator().manual_seed(0)).double()
    many = exact.expand(rows, d)
    found = estimated(lambda v: (many * v).sum(1), many, LeastSquares(tangents=m, kind=kind), 3)
    off = found - exact
    spread = off.square().sum(1) / exact.square().sum()
    wanted = {"coordinates": d / m - 1, "signs": (d - 1) / m, "normal": (d + 1) / m}[kind]
    assert abs(spread.mean() - wanted) < 5 * spread.std() / rows**0.5
    assert (off.mean(0).abs() < 5 * off.std(0) / rows**0.5).all()
    others = {"coordinates": (d - 1) / m, "signs": d / m - 1, "normal": (d - 1) / m}[kind]
    assert abs(spread.mean() - others) > 5 * spread.std() / rows**0.5


def test_all_coordinates_are_exact_and_fewer_are_not():
    many = torch.randn(7, 5).double()

    def found(m):
        return estimated(lambda v: (many * v).sum(1), many, LeastSquares(tangents=m), 0)

    torch.testing.assert_close(found(5), many, rtol=1e-14, atol=1e-14)
    assert (found(4) - many).norm() > 0.1 * many.norm()


def test_a_tangent_is_pushed_forward_as_a_difference_says():
    model, x = network(), views()
    blocks = resolve(model, None)
    outputs = [z.detach() for z in run(model, x)]
    v = torch.randn_like(outputs[0])
    small = 1e-6
    above = nn.Sequential(*list(model)[1:])
    with torch.no_grad():
        slope = (above(outputs[0] + small * v) - above(outputs[0] - small * v)) / (2 * small)
    moved = pushed_forward(blocks, lambda: model(x), 0, v)
    torch.testing.assert_close(moved, slope, rtol=1e-6, atol=1e-7)


class Forbidden(torch.autograd.Function):
    """The identity, without a backward pass."""

    @staticmethod
    def forward(z):
        return z.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.clone()

    @staticmethod
    def backward(ctx, error):
        raise RuntimeError("backpropagated through a block")


class NoWayBack(nn.Module):
    """Lies between blocks, so that no local loss is backpropagated through it."""

    def forward(self, z):
        return Forbidden.apply(z)


def guarded():
    """A network of blocks with something between them that cannot be backpropagated through."""
    parts = OrderedDict()
    for name, block in network().named_children():
        parts[name] = block
        parts[f"{name}_end"] = NoWayBack()
    return nn.Sequential(parts)


def test_forward_products_train_as_their_estimate_from_the_error_and_need_no_backward_pass():
    """Two ways to the same numbers: products on dual numbers, and inner products with the error."""
    x, model, twin = views(), guarded(), network()
    names = [name for name, _ in twin.named_children()]
    options = {"shape": (2, 6, 6)}
    trainer = LocalTrainer(model, names, rule(tangents=2), **options)
    trainer.step(x)
    losses = rule(tangents=2).build(SHAPES).double()
    outputs = run(twin, x)
    top = outputs[-1].detach().requires_grad_()
    (error,) = torch.autograd.grad(losses[-1].activity_loss(top, None), top)
    slopes = losses[-1].slopes(top, top)
    for l, backpropagated in enumerate(errors_below(outputs, error)):
        losses[l].match(outputs[l], top, slopes, backpropagated)
        found, wanted = (each[l].projections[0][0].matrix for each in (trainer.losses, losses))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    with pytest.raises(RuntimeError, match="backpropagated through a block"):
        LocalTrainer(guarded(), names, rule(), **options).step(x)


def test_more_tangents_come_nearer_and_all_arrive():
    x, model = views(n=16), network()
    exact, *fewer = (
        align(model, None, rule(tangents=m), x).error_cosine[:-1].mean().item()
        for m in (None, 1, 4, 16)
    )
    assert fewer[0] < fewer[1] < fewer[2]
    np.testing.assert_allclose(fewer[2], exact, rtol=1e-10)


def normalised():
    model = network()
    for block, width in zip(model, (3, 4, 3), strict=True):
        block.insert(1, nn.BatchNorm2d(width, dtype=torch.float64))
    return model


def test_samples_that_act_on_each_other_are_refused():
    x, model = views(), normalised()
    model(x)
    blocks = resolve(model, None)
    with pytest.raises(ValueError, match="Samples act on each other above block 'block1'"):
        refuse_interaction(blocks, lambda: model(x), 0, model[0](x).detach())
    with pytest.raises(ValueError, match="Samples act on each other"):
        trained(model, rule(tangents=2)).step(x)
    model.eval()
    refuse_interaction(blocks, lambda: model(x), 0, model[0](x).detach())


def test_an_operation_without_a_forward_derivative_is_named():
    class Old(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.clone()

        @staticmethod
        def backward(ctx, error):
            return error

    class Wrapped(nn.Module):
        def forward(self, z):
            return Old.apply(z)

    model = network(Wrapped())
    with pytest.raises(NotImplementedError, match=r"no derivative in forward mode.*SDPBackend"):
        trained(model, rule(tangents=1)).step(views())


def test_the_audit_knows_what_is_local():
    x = views()
    with pytest.raises(LocalityError, match=r"block 1 .* solved for from the backpropagated error"):
        audit_locality(network(), None, rule(), x)
    assert audit_locality(network(), None, rule(tangents=2), x).reached.values.trace() == 6
