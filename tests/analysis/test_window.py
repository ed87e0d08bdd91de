"""The one window onto a running network: what is seen, what is refused, and nothing stays."""

from collections import namedtuple
from itertools import pairwise

import pytest
import torch
from torch import nn

from linlocal.analysis.block import resolve
from linlocal.analysis.watching import capture, complete_from_above, cut, one_pass, watch
from linlocal.analysis.watching.window import window

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def linear(*widths):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


def num_hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    kinds += ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


class Tupled(nn.Linear):
    kind = staticmethod(lambda z, extra: (z, extra))

    def forward(self, x):
        return self.kind(super().forward(x[0] if isinstance(x, tuple) else x), "state")


# -- every way to look -----------------------------------------------------------------------------


def nothing(*_):
    return None


WAYS = {
    "window": lambda model, blocks: window(blocks, nothing),
    "detached window": lambda model, blocks: window(blocks, nothing, detached=True),
    "one pass": lambda model, blocks: one_pass(blocks, nothing),
    "detached pass": lambda model, blocks: one_pass(blocks, nothing, detached=True),
    "cut": lambda model, blocks: cut(blocks, nothing),
    "watch": lambda model, blocks: watch(model, blocks, nothing),
    "capture": lambda model, blocks: capture(model, [b.name for b in blocks]),
    "from above": lambda model, blocks: complete_from_above(blocks, nothing),
}
CHECKS_ORDER = ("one pass", "detached pass", "cut", "watch", "capture")


def seen_by(way, model, names=None):
    return WAYS[way](model, resolve(model, names, strict=False))


class Broken(nn.Linear):
    def forward(self, x):
        raise KeyError("broken")


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_a_hook_stays_whatever_happens(way):
    model = linear(5, 4, 3)
    with seen_by(way, model):
        assert num_hooks(model) > 0
        model(X)
    assert num_hooks(model) == 0
    with pytest.raises(KeyError), seen_by(way, model):  # noqa: PT012 - the exception is the test's
        model(X)
        raise KeyError
    assert num_hooks(model) == 0
    model.append(Broken(3, 3))
    with pytest.raises(KeyError, match="broken"), seen_by(way, model):
        model(X)
    assert num_hooks(model) == 0


def test_hooks_that_cannot_all_be_set_are_taken_back(monkeypatch):
    for way in WAYS:
        model = linear(5, 4, 3)
        names = ["0", "1"]
        blocks = resolve(model, names)
        for hook in ("register_forward_hook", "register_forward_pre_hook"):
            monkeypatch.setattr(model[-1], hook, lambda *a, **o: 1 / 0)
        monkeypatch.setattr(model, "register_forward_hook", lambda *a, **o: 1 / 0)
        if way == "from above":  # it does not look at the last block
            monkeypatch.setattr(model[0], "register_forward_hook", lambda *a, **o: 1 / 0)
        with pytest.raises(ZeroDivisionError), WAYS[way](model, blocks):
            pass
        assert num_hooks(model) == 0, way


@pytest.mark.parametrize("way", WAYS)
def test_looking_changes_no_output_and_no_gradient_of_the_loss_but_where_it_is_cut(way):
    model = linear(5, 4, 3)
    expected = model(X)
    expected.square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    with seen_by(way, model):
        output = model(X)
        torch.testing.assert_close(output, expected, rtol=0, atol=0)
        if way == "cut":
            assert not output.requires_grad
            return
        output.square().sum().backward()
    for l, (p, g) in enumerate(zip(model.parameters(), gradients, strict=True)):
        if "detached" in way and l < 2:
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, g, rtol=0, atol=0)


RUNS = {
    "another order": (["1", "0"], None, "order 1, 0; they ran as 0"),
    "a block twice": (
        None,
        lambda m, x: m[1](m[0](m[0](x))),
        "order 0, 1; they ran as 0, 0. .* runs twice",
    ),
    "the network twice": (None, lambda m, x: m[1](m[0](m[1](m[0](x)))), "they ran as 0, 1, 0"),
}


@pytest.mark.parametrize("case", RUNS)
@pytest.mark.parametrize("way", CHECKS_ORDER)
def test_blocks_run_once_each_and_in_order(way, case):
    names, forward, message = RUNS[case]
    model = linear(5, 5, 5)
    if forward:
        model.forward = lambda x: forward(model, x)
    with pytest.raises(RuntimeError, match=message), seen_by(way, model, names):
        model(X)
    assert num_hooks(model) == 0


@pytest.mark.parametrize("way", CHECKS_ORDER)
def test_a_block_that_did_not_run_is_named(way):
    model = linear(5, 5, 5)
    model.forward = lambda x: model[0](x)
    message = "Block '1' did not run|they ran as 0. Name them"
    with pytest.raises(RuntimeError, match=message), seen_by(way, model):
        model(X)
    assert num_hooks(model) == 0


@pytest.mark.parametrize("way", ["one pass", "cut"])
def test_a_pass_that_never_came_is_missed(way):
    with pytest.raises(RuntimeError, match="they ran as none"), seen_by(way, linear(5, 5, 5)):
        pass


@pytest.mark.parametrize("kind", [lambda z, s: {"z": z}, lambda z, s: (s, z), lambda z, s: ()])
@pytest.mark.parametrize("way", WAYS)
def test_an_output_without_a_tensor_is_refused(way, kind, monkeypatch):
    monkeypatch.setattr(Tupled, "kind", staticmethod(kind))
    model = nn.Sequential(Tupled(5, 4), nn.Linear(4, 4))
    message = f"Block '0' returned {type(kind(0, 0)).__name__}, expected"
    with pytest.raises(ValueError, match=message), seen_by(way, model, ["0", "1"]):
        model(X)


@pytest.mark.parametrize("way", ["window", "one pass", "cut"])
def test_where_z_alone_is_judged_a_tuple_is_refused(way):
    model = nn.Sequential(Tupled(5, 4))
    message = "'0' returned tuple, expected one tensor"
    with pytest.raises(ValueError, match=message), seen_by(way, model, ["0"]):
        model(X)


@pytest.mark.parametrize("detached", [False, True])
def test_what_the_look_returns_takes_the_place_of_the_activity(detached):
    model = linear(5, 4, 3)
    with one_pass(resolve(model), lambda position, z: 0 * z, detached=detached):
        assert (model(X) == 0).all()


Nested = namedtuple("Nested", "z more")


class Takes(nn.Linear):
    def forward(self, nested, *, other):
        assert not any(t.requires_grad for t in (nested.z, nested.more[0], other["z"]))
        assert nested.more[1] == other["name"] == "kept"
        return super().forward(nested.z + nested.more[0] + other["z"])


def test_a_detached_window_detaches_all_that_a_block_is_called_with():
    first, second = nn.Linear(5, 4), Takes(4, 3)
    model = nn.ModuleList([first, second])

    def forward(x):
        z = first(x)
        return second(Nested(z, [z, "kept"]), other={"z": z, "name": "kept"})

    model.forward = forward
    with window(resolve(model), nothing, detached=True):
        model(X).sum().backward()
    assert first.weight.grad is None
    assert second.weight.grad is not None


def test_a_cut_pass_holds_the_graph_of_one_block():
    model, leaves = linear(5, 4, 3), []
    with cut(resolve(model), lambda position, z: leaves.append(z.grad_fn)):
        model(X)
    for node, layer in zip(leaves, model, strict=True):
        reached = [following[0] for following in node.next_functions if following[0]]
        variables = [n.variable for n in reached if hasattr(n, "variable")]
        assert any(v is layer.bias for v in variables)
    assert not any(p.grad is not None for p in model.parameters())


def test_blocks_are_complete_from_above_one_after_the_other():
    model, done = linear(5, 4, 3, 2), []

    def ready(position):
        missing = [l for l, layer in enumerate(model) if layer.weight.grad is None]
        done.append((position, missing))

    with complete_from_above(resolve(model), ready):
        model(X).sum().backward()
    # As block l + 1 is reported, those below have none yet.
    assert [position for position, _ in done] == [2, 1]
    assert all(set(range(position)) <= set(missing) for position, missing in done)


# -- what is captured ------------------------------------------------------------------------------


def test_outputs_are_those_of_the_blocks():
    model = linear(5, 4, 3)
    with capture(model) as outputs:
        final = model(X)
    assert list(outputs) == ["0", "1"]
    torch.testing.assert_close(outputs["0"], model[0](X), rtol=0, atol=0)
    torch.testing.assert_close(outputs["1"], final, rtol=0, atol=0)


def test_trap_in_place_activation_overwrites_the_copy_only():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    with capture(model, ["0", "2"]) as outputs:
        model(X)
    assert (outputs["0"] < 0).any()
    torch.testing.assert_close(outputs["0"], model[0](X), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [lambda z, s: (z, s), namedtuple("Output", "z state")])
def test_trap_outputs_that_are_tuples(kind, monkeypatch):
    monkeypatch.setattr(Tupled, "kind", staticmethod(kind))
    model = nn.Sequential(Tupled(5, 4), Tupled(4, 3))
    with capture(model) as outputs:
        final = model(X)
    assert type(final) is type(kind(0, 0))
    assert final[1] == "state"
    torch.testing.assert_close(outputs["1"], final[0], rtol=0, atol=0)


def test_a_list_of_activities_is_refused(monkeypatch):
    monkeypatch.setattr(Tupled, "kind", staticmethod(lambda z, s: [z, z]))
    model = nn.Sequential(Tupled(5, 4), nn.Identity())
    with pytest.raises(ValueError, match="'0' returned list"), capture(model, ["0"]):
        model(X)


def test_passes_without_gradients_do_not_count():
    model = linear(5, 4, 3)
    with capture(model) as outputs, torch.no_grad():
        model(X)
    assert outputs == {}
