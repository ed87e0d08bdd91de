"""The recorder in somebody's training loop: one test per trap, and the series on disk."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.checkpoint import checkpoint

from linlocal.analysis.alignment import AlignmentRecorder, align, log_spaced, series
from linlocal.analysis.local_losses import CLAPP
from linlocal.analysis.results import ResultError

TOLERANCE = 1e-10
METRICS = ("cosine", "norm_ratio", "relative_error", "local_norm", "global_norm", "error_cosine")


class Feedback(nn.Module):
    """-mean_k z_k . B top_k, a mean over samples."""

    def __init__(self, width, top_width, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("b", torch.randn(width, top_width, generator=generator))

    def forward(self, here, top):
        return nn.functional.softplus(-((here @ self.b.to(here.dtype)) * top).sum(1)).mean()


class Rule:
    def build(self, shapes, seed=0):
        return nn.ModuleList(
            Feedback(s[-1], shapes[-1][-1], seed + i) for i, s in enumerate(shapes)
        )


class Net(nn.Module):
    """Three blocks and a head; ``extra()`` are further modules in the first two blocks."""

    def __init__(self, extra=list, checkpointed=False):
        super().__init__()
        torch.manual_seed(3)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Linear(6, 5), *extra(), nn.Tanh()),
            nn.Sequential(nn.Linear(5, 5), *extra(), nn.Tanh()),
            nn.Sequential(nn.Linear(5, 4), nn.Tanh()),
        )
        self.head = nn.Linear(4, 2)
        self.checkpointed = checkpointed
        self.double()

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return self.head(x)


def norm():
    return [nn.BatchNorm1d(5)]


def batch(n=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator, dtype=torch.float64)


def mean_square(y):
    return y.square().sum(1).mean()


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


def test_cadences():
    assert [n for n in range(1200) if log_spaced(1)(n)] == [0, 1, 10, 100, 1000]
    spaced = [n for n in range(10_000) if log_spaced(10)(n)]
    assert sum(100 <= n < 1000 for n in spaced) == sum(1000 <= n < 10_000 for n in spaced) == 10
    for bad in ({"every": 0}, {"flush_every": 0}, {"against": "nothing"}):
        with pytest.raises(ValueError, match="must be"):
            AlignmentRecorder(Net(), rule=Rule(), **bad)


def train(recorder, model, steps):
    for i in range(steps):
        with recorder.step():
            mean_square(model(batch(seed=i))).backward()


def test_the_series_on_disk_is_the_one_in_memory_and_is_read_meanwhile(tmp_path):
    model = Net()
    memory = AlignmentRecorder(model, rule=Rule(), every=1, flush_every=2)
    disk = AlignmentRecorder(model, rule=Rule(), every=1, flush_every=2, path=tmp_path)
    train(memory, model, 5)
    train(disk, model, 5)
    assert series.read(tmp_path).step.values.tolist() == [0, 1, 2, 3]
    assert series.read(tmp_path).identical(disk.dataset()) is False
    stored = disk.dataset()
    assert stored.step.values.tolist() == [0, 1, 2, 3, 4]
    for name, values in memory.dataset().data_vars.items():
        np.testing.assert_array_equal(stored[name], values)


def test_a_restart_continues_the_series_and_a_step_back_replaces(tmp_path):
    model = Net()
    with AlignmentRecorder(model, rule=Rule(), every=2, path=tmp_path) as recorder:
        train(recorder, model, 3)
        state = recorder.state_dict()
        train(recorder, model, 4)
    with AlignmentRecorder(model, rule=Rule(), every=2, path=tmp_path) as recorder:
        train(recorder, model, 2)
    assert series.read(tmp_path).step.values.tolist() == [0, 2, 4, 6, 8]
    before = series.read(tmp_path)
    other = with_other_weights(Net(), seed=9)
    with AlignmentRecorder(other, rule=Rule(), every=2, path=tmp_path) as recorder:
        recorder.load_state_dict(state)
        train(recorder, other, 2)
    after = series.read(tmp_path)
    assert after.step.values.tolist() == before.step.values.tolist()
    changed = (after.cosine != before.cosine).any("layer").values.tolist()
    assert changed == [False, False, True, False, False]


@pytest.mark.parametrize("flush_every", [1, 2, 100])
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_step_back_leaves_every_step_once_and_what_was_before_it(tmp_path, place, flush_every):
    """Whether records wait, are kept or are written: no step twice, none of before is lost."""
    options = {"rule": Rule(), "every": 1, "flush_every": flush_every}
    path = tmp_path if place == "disk" else None
    model, other = Net(), with_other_weights(Net(), seed=9)
    one, two = (AlignmentRecorder(each, **options) for each in (model, other))
    train(one, model, 6)
    train(two, other, 6)
    first, second = one.dataset(), two.dataset()
    for back in (6, 3, 1, 0):
        place_of = None if path is None else path / str(back)
        recorder = AlignmentRecorder(model, path=place_of, **options)
        train(recorder, model, 6)
        recorder.load_state_dict({"step": back})
        after = with_other_weights(model, seed=9)
        for i in range(back, 6):
            with recorder.step():
                mean_square(after(batch(seed=i))).backward()
        found = recorder.dataset()
        assert found.step.values.tolist() == list(range(6))
        np.testing.assert_array_equal(found.cosine[:back], first.cosine[:back])
        np.testing.assert_array_equal(found.cosine[back:], second.cosine[back:])
        model.load_state_dict(Net().state_dict())


@pytest.mark.parametrize("flush_every", [1, 2, 100])
def test_a_step_forward_keeps_what_was_recorded_before(flush_every):
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1, flush_every=flush_every)
    train(recorder, model, 3)
    recorder.load_state_dict({"step": 7})
    train(recorder, model, 2)
    assert recorder.dataset().step.values.tolist() == [0, 1, 2, 7, 8]
    recorder.load_state_dict({"step": 0})
    with pytest.raises(ResultError, match="No step was recorded"):
        recorder.dataset()


def with_other_weights(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def test_a_torn_file_is_left_out_with_a_warning(tmp_path):
    model = Net()
    with AlignmentRecorder(model, rule=Rule(), every=1, flush_every=1, path=tmp_path) as recorder:
        train(recorder, model, 3)
    last = max(tmp_path.iterdir())
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="left out of the series"):
        assert series.read(tmp_path).step.values.tolist() == [0, 1]


def test_another_network_does_not_continue_a_series(tmp_path):
    with AlignmentRecorder(model := Net(), rule=Rule(), every=1, path=tmp_path) as recorder:
        train(recorder, model, 1)
    names = ["blocks.0", "blocks.1"]
    with pytest.raises(ResultError, match=r"blocks = .*another folder"):
        AlignmentRecorder(model, names, rule=Rule(), every=1, path=tmp_path)


class Scaled(Rule):
    def __init__(self, scale):
        self.scale = scale


class Margin(nn.Module):
    """A loss whose text says nothing of its option."""

    def __init__(self, margin):
        super().__init__()
        self.margin = margin

    def forward(self, here, top):
        return (self.margin - here).relu().mean()


def losses(margin):
    return nn.ModuleList(Margin(margin) for _ in range(3))


FIRST = {"rule": CLAPP(context="top"), "every": 1}
OTHERS = {
    "rules": [
        {"rule": CLAPP(context="top", margin=5)},
        {"rule": CLAPP(context="same")},
        {"rule": CLAPP(context="top", score="softplus")},
        {"rule": CLAPP(context="top", penalty=0)},
        {"rule": CLAPP(context="top", negatives="stacked")},
        {"rule": {"a": CLAPP(context="top")}},
    ],
    "against": [{"against": "rule"}],
    "views": [{"views": "separate"}],
    "view_parts": [{"view_parts": True}],
    "trains_rule": [{"trains_rule": True}],
    "every": [{"every": 2}, {"every": log_spaced(8)}],
}


@pytest.mark.parametrize(
    ("name", "changed"), [(name, each) for name, many in OTHERS.items() for each in many]
)
def test_a_series_takes_no_records_of_another_rule_or_way(tmp_path, name, changed):
    with AlignmentRecorder(model := Net(), path=tmp_path, **FIRST) as recorder:
        train(recorder, model, 1)
    with pytest.raises(ResultError, match=f"holds a series with {name} = .*another folder"):
        AlignmentRecorder(model, path=tmp_path, **{**FIRST, **changed})
    assert series.read(tmp_path).step.values.tolist() == [0]


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (Scaled(1.0), Scaled(1.0), Scaled(2.0)),
        (losses(1.0), losses(1.0), losses(2.0)),
        (CLAPP().build([(5,)] * 3), CLAPP().build([(5,)] * 3), CLAPP(margin=5).build([(5,)] * 3)),
        (log_spaced(8), log_spaced(8), log_spaced(4)),
    ],
    ids=["rule without a text", "losses without a text", "losses of a rule", "cadence"],
)
def test_what_is_the_same_in_another_process_continues_a_series(tmp_path, one, same, other):
    def recorder(given):
        options = {"every": given, "rule": Rule()} if callable(given) and not isinstance(
            given, nn.Module
        ) else {"every": 1, "rule": given}  # fmt: skip
        return AlignmentRecorder(Net(), path=tmp_path, **options)

    first = recorder(one)
    series.append(tmp_path, piece_of(0), first._provenance)
    recorder(same)
    with pytest.raises(ResultError, match="another folder"):
        recorder(other)


def piece_of(step):
    return xr.Dataset({"cosine": ("step", [0.5])}, {"step": [step]})


def test_records_that_could_not_be_written_wait(tmp_path, monkeypatch):
    recorder = AlignmentRecorder(model := Net(), rule=Rule(), every=1, path=tmp_path)
    train(recorder, model, 2)

    def full(*arguments):
        raise ResultError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(series, "append", full)
        with pytest.raises(ResultError, match="no space left"):
            recorder.flush()
    recorder.flush()
    assert series.read(tmp_path).step.values.tolist() == [0, 1]


def test_nothing_recorded_says_so(tmp_path):
    for path in (None, tmp_path):
        with pytest.raises(ResultError, match="recorded"):
            AlignmentRecorder(Net(), rule=Rule(), path=path).dataset()
