"""The recorder in somebody's training loop: one test per trap."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from linlocal.analysis.alignment import AlignmentRecorder, align
from tests.analysis.watched import Net, Rule, batch, mean_square, norm

TOLERANCE = 1e-10
METRICS = ("cosine", "norm_ratio", "relative_error", "local_norm", "global_norm", "error_cosine")


def recorded(model, x, loss=mean_square, **options):
    recorder = AlignmentRecorder(model, rule=Rule(), every=1, **options)
    with recorder.step():
        loss(model(x)).backward()
    return recorder.dataset().isel(step=0, drop=True)


def assert_same(one, two, metrics=METRICS, tolerance=TOLERANCE):
    for metric in metrics:
        np.testing.assert_allclose(one[metric], two[metric], rtol=0, atol=tolerance, err_msg=metric)


def num_hooks(model):
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return modules + sum(len(p._backward_hooks or ()) for p in model.parameters())


def test_a_recorded_step_measures_what_align_measures():
    one = recorded(Net(), batch())
    assert_same(one, align(Net(), None, Rule(), batch(), global_loss=mean_square))
    assert (one.cosine < 0.999).all()


def test_against_the_rule_the_training_loss_does_not_matter():
    one, two = (recorded(Net(), batch(), loss, against="rule") for loss in (mean_square, torch.sum))
    assert_same(one, two)
    assert_same(one, align(Net(), None, Rule(), batch()))


@pytest.mark.parametrize("against", ["backward", "rule"])
@pytest.mark.parametrize("view_parts", [False, True])
def test_rules_side_by_side_measure_what_each_does_alone(against, view_parts):
    class Other(Rule):
        def build(self, shapes, seed=0):
            return super().build(shapes, seed + 50)

    def measured(rule):
        model = Net()
        options = {"every": 1, "against": against, "view_parts": view_parts}
        recorder = AlignmentRecorder(model, rule=rule, **options)
        for seed in (0, 1):
            with recorder.step():
                mean_square(model(batch(seed=seed))).backward()
        return recorder.dataset()

    rules = {"one": Rule(), "other": Other()}
    together = measured(rules)
    assert together["rule"].values.tolist() == [*rules]
    for name, rule in rules.items():
        alone = measured(rule)
        assert [*alone.data_vars] == [*together.data_vars]
        for metric in alone.data_vars:
            found = together[metric].sel(rule=name)
            np.testing.assert_allclose(found, alone[metric], rtol=TOLERANCE, err_msg=metric)
    lower = together.cosine.isel(layer=slice(-1))
    assert (abs(lower.sel(rule="one") - lower.sel(rule="other")) > 1e-3).all()


def by_hand(model, micro_batches, weight):
    """Parts of the views, those of the error signals, and cosines, one block after another."""
    views = [slice(0, 4), slice(4, 8)]
    rows = []
    for l, block in enumerate(model.blocks):
        parameters = [*block.parameters()]
        local, global_ = [0.0, 0.0], 0.0
        errors, squared = np.zeros(2), 0.0
        for x in micro_batches:
            outputs = []
            z = x
            for each in model.blocks:
                z = each(z)
                outputs.append(z)
            loss = weight * mean_square(model.head(z))
            here, top = outputs[l], outputs[-1].detach()
            judge = Rule().build([o.shape[1:] for o in outputs])[l]
            free = here.detach().requires_grad_()
            (e,) = torch.autograd.grad(weight * judge(free, top), free)
            (g, *of_loss) = torch.autograd.grad(loss, [here, *parameters], retain_graph=True)
            global_ = global_ + torch.cat([p.flatten() for p in of_loss])
            squared += float(g.square().sum())
            for v, rows_of in enumerate(views):
                part = torch.zeros_like(e)
                part[rows_of] = e[rows_of]
                of_view = torch.autograd.grad(here, parameters, part, retain_graph=True)
                local[v] = local[v] + torch.cat([p.flatten() for p in of_view])
                errors[v] += float((e[rows_of] * g[rows_of]).sum())
        parts = [float(of_view @ global_ / (global_ @ global_)) for of_view in local]
        whole = local[0] + local[1]
        cosine = float(whole @ global_ / (whole.norm() * global_.norm()))
        rows.append((parts, errors / squared, cosine))
    return [np.array(each) for each in zip(*rows, strict=True)]


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_parts_of_views_add_up_over_batches_and_passes_and_bear_their_own_names(count, passes):
    model, micro_batches = Net(), [batch(seed=k) for k in range(count)]
    recorder = AlignmentRecorder(model, rule=Rule(), every=1, view_parts=True)
    with recorder.step(weight=1 / count, micro_batches=count):
        for x in micro_batches:
            loss = mean_square(model(x)) / count
            if passes == 2:
                (0.25 * loss).backward(retain_graph=True)
                loss = 0.75 * loss
            loss.backward()
    found = recorder.dataset().isel(step=0)
    parts, errors, cosine = by_hand(model, micro_batches, 1 / count)
    assert found.view_part.dims == found.error_view_part.dims == ("layer", "view")
    np.testing.assert_allclose(found.view_part, parts, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.error_view_part, errors, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.cosine, cosine, rtol=0, atol=TOLERANCE)
    assert (abs(found.view_part.diff("view")) > 1e-3).all()
    assert (abs(found.error_view_part.diff("view")) > 1e-3).all()


def test_training_is_the_same_with_a_recorder_and_without():
    states = []
    for recording in (True, False):
        model = Net(lambda: [nn.BatchNorm1d(5), nn.Dropout(0.3)])
        recorder = AlignmentRecorder(model, rule=Rule(), every=1 if recording else 10**6)
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        for i in range(1, 4):
            optimizer.zero_grad()
            with recorder.step():
                mean_square(model(batch(seed=i))).backward()
            optimizer.step()
        states.append((model.state_dict(), torch.get_rng_state()))
    assert all(torch.equal(v, states[1][0][k]) for k, v in states[0][0].items())
    assert torch.equal(states[0][1], states[1][1])


def test_trap_batch_statistics_move_once():
    model, plain = Net(norm), Net(norm)
    recorded(model, batch())
    plain(batch())
    assert model.blocks[0][1].num_batches_tracked == 1
    assert torch.equal(model.blocks[0][1].running_mean, plain.blocks[0][1].running_mean)


def test_trap_dropout_has_one_mask_for_both_gradients():
    # The last block's own loss is the global one, so its cosine is 1 if the masks are the same.
    torch.manual_seed(0)
    model = Net()
    model.blocks[2] = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5)).double()
    losses = Rule().build([(5,), (5,), (4,)]).double()
    recorder = AlignmentRecorder(model, rule=losses, every=1)
    with recorder.step():
        captured = []
        handle = model.blocks[2].register_forward_hook(lambda m, a, z: captured.append(z))
        model(batch())
        handle.remove()
        losses[-1](captured[0], captured[0].detach()).backward()
    one = recorder.dataset().isel(step=0)
    assert abs(float(one.cosine[-1]) - 1) < TOLERANCE
    assert float(one.cosine[0]) < 0.999


def test_trap_in_place_activation_after_a_block():
    def made(inplace):
        torch.manual_seed(0)
        parts = (nn.Linear(6, 5), nn.ReLU(inplace), nn.Linear(5, 4), nn.ReLU(inplace))
        return nn.Sequential(*parts, nn.Linear(4, 3)).double()

    one, two = (recorded(made(p), batch(), blocks=["0", "2", "4"]) for p in (True, False))
    assert_same(one, two)


def test_trap_frozen_parameters_are_undefined_and_the_rest_is_compared():
    model = Net()
    model.blocks[0].requires_grad_(False)
    model.blocks[1][0].weight.requires_grad_(False)
    one, free = recorded(model, batch()), recorded(Net(), batch())
    assert np.isnan(one.cosine[0])
    assert np.isnan(one.parameter_cosine.sel(parameter="blocks.1.0.weight"))
    name = "blocks.1.0.bias"
    for metric in ("parameter_cosine", "parameter_local_norm"):
        difference = one[metric].sel(parameter=name) - free[metric].sel(parameter=name)
        assert abs(float(difference)) < TOLERANCE


def test_trap_unused_parameters_have_zero_gradients():
    model = Net()
    model.blocks[1].register_parameter("unused", nn.Parameter(torch.ones(3)))
    one = recorded(model, batch())
    unused = one.sel(parameter="blocks.1.unused")
    assert np.isnan(unused.parameter_cosine)
    assert float(unused.parameter_local_norm) == float(unused.parameter_global_norm) == 0
    assert_same(one, recorded(Net(), batch()))


def test_trap_a_module_reused_within_a_block_adds_up():
    model = Net()
    shared = model.blocks[1][0]
    model.blocks[1] = nn.Sequential(shared, nn.Tanh(), shared)
    measured = recorded(model, batch())
    model.zero_grad()
    mean_square(model(batch())).backward()
    norm = torch.cat([shared.weight.grad.ravel(), shared.bias.grad]).norm()
    assert abs(float(measured.global_norm[1]) - float(norm)) < TOLERANCE


def test_trap_activation_checkpointing_recomputes_without_a_trace():
    model = Net(norm, checkpointed=True)
    plain = Net(norm)
    assert_same(recorded(model, batch()), recorded(plain, batch()))
    other = Net(norm, checkpointed=True)
    mean_square(other(batch())).backward()
    counted = [m.blocks[0][1].num_batches_tracked for m in (model, other)]
    assert counted[0] == counted[1]


def test_trap_a_reentrant_checkpoint_is_refused():
    class Reentrant(Net):
        def forward(self, x):
            x = x.requires_grad_()
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=True)
            return x

    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        recorded(Reentrant(), batch())


def test_trap_a_compiled_block_is_measured():
    model = Net()
    for i in range(3):
        model.blocks[i] = torch.compile(model.blocks[i], backend="eager")
    one = recorded(model, batch())
    assert_same(one, recorded(Net(), batch()))


def test_trap_gradient_accumulation_equals_the_whole_batch():
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1)
    with recorder.step(weight=0.5, micro_batches=2):
        for part in batch().chunk(2):
            (mean_square(model(part)) / 2).backward()
    whole = recorded(Net(), batch())
    assert_same(recorder.dataset().isel(step=0), whole)
    unweighted = AlignmentRecorder(model, rule=Rule(), every=1)
    with unweighted.step(micro_batches=2):
        for part in batch().chunk(2):
            (mean_square(model(part)) / 2).backward()
    assert not np.allclose(unweighted.dataset().isel(step=0).norm_ratio, whole.norm_ratio)


def test_trap_all_forward_passes_before_one_backward_pass():
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1)
    with recorder.step(weight=0.5, micro_batches=2):
        sum(mean_square(model(part)) / 2 for part in batch().chunk(2)).backward()
    assert_same(recorder.dataset().isel(step=0), recorded(Net(), batch()))


def test_trap_a_pass_for_each_view_is_no_micro_batch():
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1)
    first, second = batch().chunk(2)
    with (
        pytest.raises(RuntimeError, match=r"forward pass 2 .* declared to have 1.*separate"),
        recorder.step(),
    ):
        (mean_square(model(first)) + mean_square(model(second))).backward()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with recorder.step():  # a pass that nothing learns from does not count
        with torch.no_grad():
            model(first)
        mean_square(model(batch())).backward()
    assert_same(recorder.dataset().isel(step=-1), recorded(Net(), batch()))


def gradients_on_the_way(model, y):
    torch.autograd.grad(mean_square(y), [*model.parameters()], retain_graph=True)


def alignment_on_the_way(model, y):
    align(model, None, Rule(), batch() + 1)


@pytest.mark.parametrize("other", [gradients_on_the_way, alignment_on_the_way])
def test_trap_gradients_that_somebody_takes_on_the_way_do_not_count(other):
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1)
    with recorder.step():
        y = model(batch())
        other(model, y)
        mean_square(y).backward()
    assert_same(recorder.dataset().isel(step=0), recorded(Net(), batch()))


def test_numbers_of_numpy_are_numbers():
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=np.int64(2))
    due = []
    for _ in range(3):
        with recorder.step() as recorded_now:
            due.append(recorded_now)
            mean_square(model(batch())).backward()
    assert due == [True, False, True]


def test_trap_two_recorders_on_one_model_do_not_see_each_other():
    model = Net()
    recorders = [AlignmentRecorder(model, rule=Rule(), every=1) for _ in range(2)]
    with recorders[0].step(), recorders[1].step():
        mean_square(model(batch())).backward()
    for recorder in recorders:
        assert_same(recorder.dataset().isel(step=0), recorded(Net(), batch()))


def test_trap_two_backward_passes_of_one_graph_add_up():
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1)
    with recorder.step():
        y = model(batch())
        (0.25 * mean_square(y)).backward(retain_graph=True)
        (0.75 * mean_square(y)).backward()
    assert_same(recorder.dataset().isel(step=0), recorded(Net(), batch()))


def test_trap_gradient_scaler_does_not_show():
    model = Net()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    recorder = AlignmentRecorder(model, rule=Rule(), every=1)
    with recorder.step(scaler=scaler):
        scaler.scale(mean_square(model(batch()))).backward()
    assert_same(recorder.dataset().isel(step=0), recorded(Net(), batch()))


def test_trap_autocast_is_near_full_precision_and_no_cosine_exceeds_one():
    model = Net().float()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1, against="rule")
    with recorder.step(), torch.autocast("cpu", torch.bfloat16):
        mean_square(model(batch().float()).float()).backward()
    one = recorder.dataset().isel(step=0)
    full = recorded(Net(), batch(), against="rule")
    assert_same(one, full, ("cosine", "error_cosine"), 0.1)
    assert not np.allclose(one.cosine[:-1], full.cosine[:-1], atol=1e-6)
    assert (one.cosine <= 1 + 1e-12).all()


def test_trap_changed_gradients_after_backward_do_not_show():
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1)
    with recorder.step():
        mean_square(model(batch())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        torch.optim.SGD(model.parameters(), 1.0).step()
    assert_same(recorder.dataset().isel(step=0), recorded(Net(), batch()))


def test_trap_old_gradients_are_not_counted():
    model = Net()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    assert_same(recorded(model, batch()), recorded(Net(), batch()))


def test_trap_a_pass_without_gradients_in_the_step_does_not_count():
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1)
    with recorder.step():
        loss = mean_square(model(batch()))
        with torch.no_grad():
            model(batch(seed=1))
        loss.backward()
    assert_same(recorder.dataset().isel(step=0), recorded(Net(), batch()))


def test_trap_no_hook_is_left_after_an_exception_and_none_is_there_off_cadence():
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=2)
    with pytest.raises(KeyError), recorder.step():  # noqa: PT012 - the exception is the test's own
        model(batch())
        assert num_hooks(model) > 0
        raise KeyError
    assert num_hooks(model) == 0
    with recorder.step() as due:
        assert not due
        assert num_hooks(model) == 0
    with recorder.step() as due:
        mean_square(model(batch())).backward()
    assert due
    assert num_hooks(model) == 0
    assert recorder.dataset().step.values.tolist() == [2]


def test_a_step_without_forward_or_backward_says_so():
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1)
    with pytest.raises(RuntimeError, match="No forward pass"), recorder.step():
        pass
    with pytest.raises(RuntimeError, match=r"loss\.backward"), recorder.step():
        model(batch())


def test_training_on_the_rule_spares_one_gradient_and_is_checked():
    model = Net()
    model.forward = model.blocks.forward
    losses = Rule().build([(5,), (5,), (4,)]).double()
    own = lambda top: losses[-1](top, top.detach())  # noqa: E731
    found = []
    for spare in (True, False):
        recorder = AlignmentRecorder(model, rule=losses, every=1, trains_rule=spare)
        with recorder.step():
            own(model(batch())).backward()
        found.append(recorder.dataset().isel(step=0))
    assert_same(*found)
    recorder = AlignmentRecorder(model, rule=losses, every=1, trains_rule=True)
    with recorder.step():
        mean_square(model(batch())).backward()
    with pytest.raises(ValueError, match="another loss"):
        recorder.flush()
    with pytest.raises(ValueError, match="give one rule"):
        AlignmentRecorder(model, rule=losses, trains_rule=True, view_parts=True)


def test_view_parts_are_an_option():
    assert "view_part" not in recorded(Net(), batch())
    parts = recorded(Net(), batch(), view_parts=True)
    whole = align(Net(), None, Rule(), batch(), global_loss=mean_square)
    assert_same(parts, whole, ("view_part", "parameter_view_part", "error_view_part"))
