"""What autograd keeps for each block, against the graph itself and the arithmetic of layers."""

import copy

import pytest
import torch
from torch import nn

from experiments.benchmarks import saved_activations as bench
from linlocal.analysis import block
from linlocal.analysis.training import saved_activations

ROWS = 6


def encoder():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(4, 5, 1), nn.ReLU()),
    )


def in_graph(z, parameters):
    """Storages that the nodes of a graph hold, found by walking along it."""
    own = {p.untyped_storage()._cdata for p in parameters}
    held, seen, stack = {}, set(), [z.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += [following for following, _ in node.next_functions]
        for name in dir(node):
            value = getattr(node, name) if name.startswith("_saved_") else None
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata not in own:
                held[value.untyped_storage()._cdata] = value.untyped_storage().nbytes()
    return held


def test_the_bytes_are_those_that_the_graph_holds():
    model = encoder()
    x = torch.randn(ROWS, 2, 8, 8)
    state = copy.deepcopy(model.state_dict())
    found = saved_activations(model, x)
    tensors = (*model.parameters(), *model.buffers())
    z = model(x)
    assert sorted(found["bytes"].values) == sorted(in_graph(z, tensors).values())
    assert found["bytes"].values.tolist() == sorted(found["bytes"].values, reverse=True)
    model.load_state_dict(state)
    for l, part in enumerate(model, start=1):
        below = model[: l - 1](x).detach()
        alone = in_graph(part(below), tensors)
        assert int(found.block_bytes.sel(layer=l)) == sum(alone.values())
    # Only what two blocks share is counted twice: the first ReLU keeps its output, a pooling not.
    shared = 4 * ROWS * 3 * 64
    assert int(found.block_bytes.sum() - found["bytes"].sum()) == shared


def test_the_model_is_not_changed_and_meta_counts_the_same():
    model, x = encoder(), torch.randn(ROWS, 2, 8, 8)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    found = saved_activations(model, x)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    assert all(p.grad is None for p in model.parameters())
    assert saved_activations(model.to("meta"), x.to("meta")).identical(found)


def test_a_network_of_relus_keeps_its_input_and_each_output():
    def kept(*modules):
        model = nn.Sequential(*modules)
        return saved_activations(
            model, torch.randn(ROWS, 4), [n for n, _ in model.named_children()]
        )

    linear = kept(nn.Linear(4, 4), nn.Linear(4, 4))
    assert linear["bytes"].values.tolist() == [4 * ROWS * 4] * 2  # inputs, for the weights
    names = ["0", "2"]
    model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2), nn.Tanh(), nn.Linear(2, 1))
    found = saved_activations(model, torch.randn(ROWS, 4), names)
    assert found.block.values.tolist() == ["2", "0", "after the blocks"]
    assert found["shape"].values.tolist() == ["(6, 7)", "(6, 4)", "(6, 2)"]
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert saved_activations(frozen, torch.randn(ROWS, 4), names).sizes["tensor"] == 0


def test_the_published_saving_is_a_count_of_inputs_and_outputs():
    data = bench.measure(bench.Config())
    found = bench.totals(data)
    for counted, published in zip(found["counted"], bench.PUBLISHED, strict=True):
        assert counted == pytest.approx(published, rel=2e-3)
    # What autograd keeps is another number, and so is the saving.
    everything, largest = found["autograd"]
    assert largest / everything > 1.2 * bench.PUBLISHED[1] / bench.PUBLISHED[0]
    lines = bench.section(data)
    assert sum(line.startswith("| ") for line in lines) == data.sizes["layer"] + 3
    assert f"{largest / everything:.2f}" in bench.summary(data)[1]


def test_what_is_no_batch_is_said():
    with pytest.raises(TypeError, match="inputs must be one tensor"):
        saved_activations(encoder(), [1.0])
    assert len(block.resolve(encoder())) == 3
