"""Which submodules are the blocks of a network, and which choices are refused."""

import pytest
import torch
from torch import nn

from linlocal.analysis.block import blocks, resolve


def conv(a, b):
    return nn.Conv2d(a, b, 3, padding=1)


def vgg():
    features = [conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.ModuleDict({"features": nn.Sequential(*features), "classifier": nn.Linear(4, 2)})


def resnet():
    stage = lambda: nn.Sequential(conv(4, 4), nn.ReLU(), conv(4, 4))  # noqa: E731
    return nn.ModuleDict({"conv1": conv(3, 4), "layer1": stage(), "layer2": stage()})


def vit():
    layers = nn.Sequential(*(nn.TransformerEncoderLayer(4, 1, 8) for _ in range(3)))
    return nn.ModuleDict({"patches": nn.Linear(4, 4), "encoder": nn.ModuleDict({"layers": layers})})


@pytest.mark.parametrize(
    ("network", "found"),
    [
        (vgg, ("features.2", "features.5")),
        (resnet, ("layer1", "layer2")),
        (vit, ("encoder.layers.0", "encoder.layers.1", "encoder.layers.2")),
        (lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), ("0", "1")),
        (lambda: nn.ModuleDict({"b": nn.ModuleList([conv(1, 1), conv(1, 1)])}), ("b.0", "b.1")),
    ],
)
def test_blocks_are_found(network, found):
    assert blocks(network()) == found


def test_a_run_has_the_parameters_of_what_it_began_with():
    first, second = resolve(vgg())
    expected = ("features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias")
    assert tuple(first.parameters) == expected
    assert tuple(second.parameters) == ("features.3.weight", "features.3.bias")


def test_a_run_does_not_reach_into_the_block_before():
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU())
    names = [tuple(block.parameters) for block in resolve(network, ["0", "2"])]
    assert names == [("0.weight", "0.bias"), ("1.weight", "1.bias")]


def test_what_is_outside_of_all_blocks_belongs_to_none():
    assert all(not n.startswith("conv1") for b in resolve(resnet()) for n in b.parameters)


def test_an_unknown_name_comes_with_its_neighbours():
    with pytest.raises(ValueError, match=r"no submodule 'layer3'; nearest names: layer"):
        blocks(resnet(), ["layer1", "layer3"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["layer1", "layer1.0"], "overlap"),
        (["layer1", "layer1"], "named twice"),
        (["layer1.1"], None),
        ([], "No blocks were named"),
    ],
)
def test_overlapping_and_repeated_names_are_refused(names, message):
    if message is None:
        # An activation stands for the convolution before it.
        assert tuple(resolve(resnet(), names)[0].parameters) == ("layer1.0.weight", "layer1.0.bias")
        return
    with pytest.raises(ValueError, match=message):
        blocks(resnet(), names)


def test_a_block_without_parameters_is_refused():
    network = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ReLU()})
    with pytest.raises(ValueError, match=r"'b' \(ReLU\) has no parameters"):
        blocks(network, ["a", "b"])


def test_no_blocks_found_names_the_children():
    with pytest.raises(ValueError, match="children: a"):
        blocks(nn.ModuleDict({"a": nn.Linear(2, 2)}))


def test_tied_weights_across_blocks_are_refused_within_one_they_are_not():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    with pytest.raises(ValueError, match=r"0\.weight \(block '0'\) is 1\.weight \(block '1'\)"):
        blocks(nn.Sequential(first, second))
    inside = nn.Sequential(nn.Sequential(first, second), nn.Linear(3, 3))
    assert blocks(inside) == ("0", "1")


def test_weights_tied_with_a_head_outside_are_refused():
    network = nn.ModuleDict({"a": nn.Linear(3, 3), "head": nn.Linear(3, 3)})
    network["head"].weight = network["a"].weight
    with pytest.raises(ValueError, match="no block"):
        blocks(network, ["a"])


def test_a_module_in_two_blocks_is_refused():
    shared = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="shared across blocks"):
        blocks(nn.Sequential(nn.Sequential(shared), nn.Sequential(shared)))


def test_a_compiled_network_is_refused_and_a_compiled_block_is_not():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(ValueError, match="whole network is compiled"):
        blocks(torch.compile(network, backend="eager"))
    network[0] = torch.compile(network[0], backend="eager")
    assert list(resolve(network)[0].parameters) == ["0.weight", "0.bias"]
    network[1].compile(backend="eager")
    with pytest.raises(ValueError, match="Compile the block from outside"):
        blocks(network)
