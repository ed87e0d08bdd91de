"""Both views in a forward pass of their own, against gradients taken by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from linlocal.analysis.alignment import AlignmentRecorder

TOLERANCE = 1e-10


class Compares(nn.Module):
    """A loss of both views and the top, which no mean over rows of one view equals."""

    def __init__(self, width, top_width):
        super().__init__()
        generator = torch.Generator().manual_seed(width)
        b = torch.randn(width, top_width, generator=generator, dtype=torch.float64)
        self.register_buffer("b", b)

    def forward(self, here, top):
        first, second = here.chunk(2)
        context = top.chunk(2)[1]
        apart = (first - second).square().sum(1).mean()
        return apart + nn.functional.softplus(-((first @ self.b) * context).sum(1)).mean()


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh()),
        nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Tanh()),
        nn.Sequential(nn.Linear(5, 4), nn.Tanh()),
    ).double()


def losses():
    return nn.ModuleList([Compares(5, 4), Compares(5, 4), Compares(4, 4)])


def views(n=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 6, generator=generator, dtype=torch.float64) for _ in range(2)]


def global_loss(first, second):
    return (first * second).sum(1).square().mean()


def by_hand(batches, weight):
    """Cosines of gradients and of error signals, from passes of detached blocks."""
    model, judges = network(), losses()
    local, global_, errors = [0.0] * 3, [0.0] * 3, [[[], []] for _ in range(3)]
    for pair in batches:
        tops = torch.cat([model(view) for view in pair]).detach()
        inputs = list(pair)
        through = [[view] for view in pair]
        for l, block in enumerate(model):
            z = torch.cat([block(view) for view in inputs])
            parameters = list(block.parameters())
            value = weight * judges[l](z, tops)
            *gradients, error = torch.autograd.grad(value, [*parameters, z], retain_graph=True)
            local[l] = local[l] + torch.cat([g.flatten() for g in gradients])
            errors[l][0].append(error.flatten())
            inputs = [view.detach() for view in z.chunk(2)]
            for path in through:
                path.append(block(path[-1]))
        value = weight * global_loss(*(path[-1] for path in through))
        for l, block in enumerate(model):
            z = [path[l + 1] for path in through]
            wanted = [*block.parameters(), *z]
            found = torch.autograd.grad(value, wanted, retain_graph=True)
            global_[l] = global_[l] + torch.cat([g.flatten() for g in found[:-2]])
            errors[l][1].append(torch.cat(found[-2:]).flatten())
    cosine = nn.functional.cosine_similarity
    gradients = [cosine(a, b, dim=0) for a, b in zip(local, global_, strict=True)]
    signals = [cosine(torch.cat(a), torch.cat(b), dim=0) for a, b in errors]
    return torch.stack(gradients).numpy(), torch.stack(signals).numpy()


def recorded(batches, backwards, weight=1.0, **options):
    model = network()
    recorder = AlignmentRecorder(model, rule=losses(), every=1, views="separate", **options)
    with recorder.step(weight=weight, micro_batches=len(batches)):
        backwards(model, batches, weight)
    return recorder.dataset().isel(step=0)


def batch_by_batch(model, batches, weight):
    for first, second in batches:
        (weight * global_loss(model(first), model(second))).backward()


def one_backward(model, batches, weight):
    values = [weight * global_loss(model(first), model(second)) for first, second in batches]
    sum(values).backward()


def with_a_monitor(model, batches, weight):
    with torch.no_grad():
        model(batches[0][0])
    batch_by_batch(model, batches, weight)


@pytest.mark.parametrize("backwards", [batch_by_batch, one_backward, with_a_monitor])
@pytest.mark.parametrize("num_batches", [1, 2])
def test_gradients_are_those_taken_by_hand(backwards, num_batches):
    batches = [views(seed=i) for i in range(num_batches)]
    one = recorded(batches, backwards, 1 / num_batches)
    cosine, error_cosine = by_hand(batches, 1 / num_batches)
    np.testing.assert_allclose(one.cosine, cosine, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(one.error_cosine, error_cosine, rtol=0, atol=TOLERANCE)


def test_batch_statistics_of_one_view_are_not_those_of_both():
    pair = views()
    stacked = AlignmentRecorder(model := network(), rule=losses(), every=1)
    with stacked.step():
        global_loss(*model(torch.cat(pair)).chunk(2)).backward()
    apart = recorded([pair], batch_by_batch)
    assert not np.allclose(apart.cosine, stacked.dataset().cosine.isel(step=0), atol=1e-3)


def test_without_statistics_both_ways_are_the_same():
    pair, found = views(), []
    for way in ("stacked", "separate"):
        model = network().eval()
        recorder = AlignmentRecorder(model, rule=losses(), every=1, views=way, view_parts=True)
        with recorder.step():
            joined = way == "stacked"
            both = model(torch.cat(pair)).chunk(2) if joined else [model(view) for view in pair]
            global_loss(*both).backward()
        found.append(recorder.dataset())
    for name, values in found[0].data_vars.items():
        np.testing.assert_allclose(found[1][name], values, rtol=0, atol=TOLERANCE, err_msg=name)


def test_against_the_rule_the_rules_loss_is_backpropagated_through_both_passes():
    pair, judge = views(), losses()[-1]

    def rule_itself(model, batches, weight):
        z = torch.cat([model(view) for view in batches[0]])
        judge(z, z.detach()).backward()

    one = recorded([pair], batch_by_batch, against="rule")
    two = recorded([pair], rule_itself)
    for name in ("cosine", "error_cosine", "norm_ratio", "error_norm_ratio"):
        np.testing.assert_allclose(one[name], two[name], rtol=0, atol=TOLERANCE, err_msg=name)
    assert abs(float(one.cosine[-1]) - 1) < TOLERANCE
    assert float(one.cosine[0]) < 0.99


def one_view_only(model, first, second):
    global_loss(model(first), first[:, :4]).backward()


def backward_between(model, first, second):
    for view in (first, second):
        model(view).square().mean().backward()


def unequal(model, first, second):
    global_loss(model(first)[:-1], model(second[:-1])).backward()


def a_third(model, first, second):
    (global_loss(model(first), model(second)) + model(first).mean()).backward()


@pytest.mark.parametrize(
    ("loop", "error", "message"),
    [
        (one_view_only, RuntimeError, "second view of the last batch is missing"),
        (backward_between, RuntimeError, "passes of both views .*, then the backward pass"),
        (unequal, ValueError, r"\(7, 4\) and \(6, 4\)"),
        (a_third, RuntimeError, "forward pass 3 .* declared to have 2"),
    ],
)
def test_what_is_no_pair_of_views_is_refused(loop, error, message):
    model = network()
    recorder = AlignmentRecorder(model, rule=losses(), every=1, views="separate")
    with pytest.raises(error, match=message), recorder.step():
        loop(model, *views())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_way_of_the_views_is_one_of_two_or_numbers():
    with pytest.raises(ValueError, match=r'"stacked" or "separate", .* got \'both\''):
        AlignmentRecorder(network(), rule=losses(), views="both")
    with pytest.raises(TypeError, match="views"):
        AlignmentRecorder(network(), rule=losses(), views=2)
