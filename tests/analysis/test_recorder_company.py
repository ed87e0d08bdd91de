"""A recorder beside what others do in a step: copies, compilation, monitors, skipped batches."""

import copy
import gc
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from linlocal import rules
from linlocal.analysis.alignment import AlignmentRecorder, align
from linlocal.analysis.training import GlobalTrainer, LocalTrainer

RULE = rules.CLAPP()
TOLERANCE = 1e-10


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 5), nn.Tanh()),
        nn.Sequential(nn.Linear(5, 5), nn.Tanh()),
        nn.Linear(5, 4),
    ).double()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 6, generator=generator, dtype=torch.float64)


def loss(y):
    return y.square().sum(1).mean()


def recorded(model, during=lambda model: None, call=None, **options):
    """The cosines of one step, with something else going on between the passes."""
    recorder = AlignmentRecorder(model, rule=RULE, every=1, **options)
    with recorder.step():
        y = (call or model)(batch())
        during(model)
        loss(y).backward()
    return recorder.dataset().isel(step=0).cosine.values


def expected(model=None):
    return align(model or network(), None, RULE, batch(), global_loss=loss).cosine.values


def through_pickle(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
def test_a_copy_made_within_a_step_reports_to_nobody(copied):
    copies = []

    def run_a_copy(model):
        copies.append(copied(model))
        loss(copies[0](batch(1))).backward()

    np.testing.assert_allclose(recorded(network(), run_a_copy), expected(), atol=TOLERANCE)
    copies[0](batch(2))
    (found,) = (recorded(copies[0]),)
    np.testing.assert_allclose(found, expected(), atol=TOLERANCE)


@pytest.mark.parametrize("view_parts", [False, True])
@pytest.mark.parametrize("against", ["backward", "rule"])
def test_hooks_on_parameters_are_called_as_without_a_recorder(against, view_parts):
    model, seen = network(), []
    plain = network()
    loss(plain(batch())).backward()
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: seen.append((name, gradient.clone())))
    recorded(model, against=against, view_parts=view_parts)
    assert len(seen) == len(list(model.parameters()))
    for name, gradient in seen:
        assert torch.equal(gradient, plain.get_parameter(name).grad)
    align(model, None, RULE, batch(), global_loss=loss)
    assert len(seen) == len(list(model.parameters()))


def test_gradients_are_recorded_before_a_hook_changes_them():
    model = network()
    mask = torch.arange(5) % 2
    model[0][0].bias.register_hook(lambda gradient: gradient * mask)
    np.testing.assert_allclose(recorded(model), expected(), atol=TOLERANCE)
    assert not model[0][0].bias.grad[::2].any()
    assert model[0][0].bias.grad[1::2].all()


def test_a_hook_that_is_removed_within_a_step_stays_removed():
    model, seen = network(), []
    weight = model[0][0].weight
    removed, kept = (weight.register_hook(lambda g, i=i: seen.append(i)) for i in range(2))
    recorded(model, lambda model: removed.remove())
    assert seen == [1]
    loss(model(batch())).backward()
    assert seen == [1, 1]
    kept.remove()
    assert not weight._backward_hooks


def test_parts_that_were_replaced_after_the_recorder_was_made_are_measured():
    model = network()
    recorder = AlignmentRecorder(model, rule=RULE, every=1)
    parametrizations.weight_norm(model[0][0])
    with recorder.step():
        loss(model(batch())).backward()
    model[1] = nn.Sequential(nn.Linear(5, 5), nn.Softplus()).double()
    with recorder.step():
        loss(model(batch())).backward()
    one, two = recorder.dataset().cosine.values
    other = parametrizations.weight_norm(network()[0][0])
    fresh = network()
    fresh[0][0] = other
    np.testing.assert_allclose(one, expected(fresh), atol=TOLERANCE)
    fresh[1] = model[1]
    np.testing.assert_allclose(two, expected(fresh), atol=TOLERANCE)


@pytest.mark.parametrize("first", [0, 1])
def test_a_compiled_copy_of_the_network_is_measured_or_refused(first):
    torch._dynamo.reset()
    model = network()
    compiled = torch.compile(model, backend="eager")
    recorder = AlignmentRecorder(model, rule=RULE, every=lambda step: step >= first)
    right = []
    try:
        for step in range(3):
            x = batch(step)
            right.append(align(model, None, RULE, x, global_loss=loss).cosine.values)
            with recorder.step():
                loss(compiled(x)).backward()
    except RuntimeError as error:
        assert "torch.compile" in str(error)  # noqa: PT017 - it need not be raised
        assert first > 0
    else:
        np.testing.assert_allclose(recorder.dataset().cosine, right[first:], atol=TOLERANCE)


def test_blocks_compiled_after_the_recorder_was_made_are_measured():
    torch._dynamo.reset()
    model = network()
    recorder = AlignmentRecorder(model, rule=RULE, every=lambda step: step > 0)
    for l in range(3):
        model[l] = torch.compile(model[l], backend="eager")
    for _ in range(2):
        with recorder.step():
            loss(model(batch())).backward()
    np.testing.assert_allclose(recorder.dataset().cosine[0], expected(), atol=TOLERANCE)


def test_a_network_compiled_in_place_after_the_recorder_was_made_is_refused():
    model = network()
    recorder = AlignmentRecorder(model, rule=RULE, every=1)
    model.compile(backend="eager")
    with pytest.raises(ValueError, match="Compile the blocks"), recorder.step():
        pass


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("against", ["backward", "rule"])
def test_local_training_has_no_global_gradient_to_record(one_pass, against):
    model = network()
    trainer = LocalTrainer(model, None, RULE, shape=(6,), one_pass=one_pass)
    recorder = AlignmentRecorder(model, rule=RULE, every=1, against=against)
    with pytest.raises(RuntimeError, match=r"LocalTrainer .* call align"), recorder.step():
        trainer.step(batch())


def test_global_training_is_recorded():
    model = network()
    trainer = GlobalTrainer(model, None, loss=lambda y, batch: loss(y), shape=(6,))
    recorder = AlignmentRecorder(model, rule=RULE, every=1)
    right = expected(model)
    with recorder.step():
        trainer.step(batch())
    np.testing.assert_allclose(recorder.dataset().cosine[0], right, atol=TOLERANCE)


def test_a_skipped_batch_is_declared():
    model = network()
    recorder = AlignmentRecorder(model, rule=RULE, every=1)
    for step in range(4):
        with recorder.step():
            if step == 0:
                recorder.skip()
                continue
            y = model(batch())
            if step == 2:
                recorder.skip()
                continue
            loss(y).backward()
    assert recorder.dataset().step.values.tolist() == [1, 3]
    np.testing.assert_allclose(recorder.dataset().cosine[1], expected(), atol=TOLERANCE)
    with pytest.raises(RuntimeError, match=r"recorder\.skip\(\)"), recorder.step():
        pass


def test_two_views_have_one_shape():
    with pytest.raises(ValueError, match=r"\(8, 6\) and \(6, 6\)"):
        align(network(), None, RULE, batch(), batch(1)[:6])


@pytest.mark.parametrize(
    "options",
    [
        *({"micro_batches": count} for count in (0, -1, 1.5, 2.0, True, "2", np.nan)),
        *({"weight": weight} for weight in (0.0, -1.0, np.nan, np.inf, True, "a", 1j)),
    ],
)
def test_numbers_of_a_step_are_checked_when_it_is_entered(options):
    recorder = AlignmentRecorder(network(), rule=RULE, every=1)
    (name,) = options
    with pytest.raises((ValueError, TypeError), match=name):
        recorder.step(**options).__enter__()


def test_the_path_of_a_series_is_a_path():
    with pytest.raises(TypeError, match="path must be a path or a string, got 3"):
        AlignmentRecorder(network(), rule=RULE, path=3)


class Words(nn.Module):
    """An embedding whose gradient may be sparse, and a layer on top."""

    def __init__(self, sparse):
        super().__init__()
        torch.manual_seed(0)
        embedding = nn.EmbeddingBag(20, 5, sparse=sparse)
        self.blocks = nn.Sequential(nn.Sequential(embedding, nn.Tanh()), nn.Linear(5, 4)).double()

    def forward(self, x):
        return self.blocks(x)


class Complex(nn.Module):
    """|x W| with a complex W, held as one complex parameter or as two real ones."""

    def __init__(self, parts):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        w = torch.randn(6, 5, generator=generator, dtype=torch.complex128)
        whole = [w] if parts == 1 else [w.real.clone(), w.imag.clone()]
        self.w = nn.ParameterList(map(nn.Parameter, whole))

    def forward(self, x):
        w = self.w[0] if len(self.w) == 1 else torch.complex(*self.w)
        return (x.to(w.dtype) @ w).abs()


def complex_network(parts):
    torch.manual_seed(0)
    return nn.Sequential(Complex(parts), nn.Linear(5, 4).double())


@pytest.mark.parametrize("view_parts", [False, True])
@pytest.mark.parametrize(
    ("one", "two", "x"),
    [
        (Words(sparse=True), Words(sparse=False), torch.arange(24).reshape(8, 3) % 20),
        (complex_network(1), complex_network(2), batch()),
    ],
)
def test_sparse_and_complex_gradients_count_as_their_entries(one, two, x, view_parts):
    found = []
    for model in (one, two):
        recorder = AlignmentRecorder(model, rule=RULE, every=1, view_parts=view_parts)
        with recorder.step():
            loss(model(x)).backward()
        found += [recorder.dataset(), align(model, None, RULE, x)]
    assert (found[0].global_norm > 0).all()
    for a, b in zip(found[:2], found[2:], strict=True):
        for name in ("cosine", "norm_ratio", "relative_error", "global_norm"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-12, atol=TOLERANCE)


def test_an_optimiser_that_steps_in_the_backward_pass_does_not_show():
    model = network()

    def update(parameter):
        with torch.no_grad():
            parameter.sub_(0.1 * parameter.grad)
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    np.testing.assert_allclose(recorded(model), expected(), atol=TOLERANCE)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_align_takes_gradients_wherever_it_is_called(mode):
    model = network()
    right = align(model, None, RULE, batch()).cosine
    with mode():
        found = align(model, None, RULE, *batch().clone().chunk(2)).cosine
    assert (found == right).all()


def test_a_network_made_for_inference_is_refused():
    with torch.inference_mode():
        model = network()
    with pytest.raises(ValueError, match=r"0\.0\.weight, .* were made under torch\.inference_mode"):
        align(model, None, RULE, batch())


def test_a_frozen_network_has_no_gradient_to_compare():
    found = align(network().requires_grad_(False), None, RULE, batch())
    assert found.cosine.isnull().all()
    assert (found.global_norm == 0).all()


def test_broken_and_undefined_are_told_apart():
    frozen = network()
    frozen[0].requires_grad_(False)
    undefined = align(frozen, None, RULE, batch())
    assert np.isnan(undefined.cosine[0])
    assert undefined.local_norm[0] == 0
    with torch.no_grad():
        frozen[1][0].bias[0] = torch.nan
    with pytest.warns(UserWarning, match=r"4 of 6 parameters are not finite: 1\.0\.weight"):
        broken = align(frozen, None, RULE, batch())
    assert broken.cosine.isnull().all()
    assert broken.local_norm.isnull().values.tolist() == [False, True, True]


def test_equal_views_are_told_once():
    model, x = network(), batch()[:4]
    recorder = AlignmentRecorder(model, rule=RULE, every=1)

    def step():
        with recorder.step():
            loss(model(torch.cat([x, x]))).backward()

    with pytest.warns(UserWarning, match="4 rows each, difference 0"):
        step()
    step()


def test_nothing_of_a_step_is_held_after_it():
    model, x = network(), torch.cat([batch(i) for i in range(4)])[:22]
    recorder = AlignmentRecorder(model, rule=RULE, every=1)
    with recorder.step():
        loss(model(x)).backward()
    gc.collect()
    held = [each for each in gc.get_objects() if type(each) is torch.Tensor]
    assert [tuple(each.shape) for each in held if each.ndim == 2 and len(each) == 22] == [(22, 6)]


class Shifted(nn.Linear):
    """Adds to its bias in its first forward pass: twice is not once."""

    begun = False

    def forward(self, x):
        if not self.begun:
            self.begun = True
            self.bias.data.add_(1.0)
        return super().forward(x)


def test_the_pass_that_finds_the_top_initialises_nothing_twice():
    biases = []
    for one_pass in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Sequential(Shifted(6, 5), nn.Tanh()), nn.Linear(5, 4)).double()
        rule = rules.CLAPP_DFB()
        LocalTrainer(model, None, rule, shape=(6,), one_pass=one_pass).step(batch())
        biases.append(model[0][0].bias.detach().clone())
    torch.testing.assert_close(*biases, rtol=0, atol=TOLERANCE)
