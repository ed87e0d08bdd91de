"""Which submodules are the blocks of a network, and which choices are refused."""

import warnings
from importlib import import_module

import pytest
import torch
from torch import nn

from experiments.networks import import_torchvision
from linlocal.analysis.block import blocks, resolve


def conv(a, b):
    return nn.Conv2d(a, b, 3, padding=1)


def vgg():
    features = [conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.ModuleDict({"features": nn.Sequential(*features), "classifier": nn.Linear(4, 2)})


def resnet():
    stage = lambda: nn.Sequential(conv(4, 4), nn.ReLU(), *(conv(4, 4) for _ in range(4)))  # noqa: E731
    return nn.ModuleDict({"conv1": conv(3, 4), "layer1": stage(), "layer2": stage()})


def of_library(library, name):
    """A network of torchvision or timm without its weights, which takes no time."""
    vision = import_torchvision()
    with torch.device("meta"):
        if library == "timm":
            return import_module("timm").create_model(name, num_classes=1000)
        return vision.models.get_model(name, weights=None)


def inside(network, names):
    """The share of the parameters that blocks hold, those of the last layer left out."""
    named = dict(network.named_parameters())
    last = [*named][-1].rpartition(".")[0]
    counted = {n: p.numel() for n, p in named.items() if n.rpartition(".")[0] != last}
    held = {n for block in resolve(network, names) for n in block.parameters}
    return sum(size for n, size in counted.items() if n in held) / sum(counted.values())


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


@pytest.mark.parametrize(
    ("library", "name", "first", "last", "number"),
    [
        # As they always were.
        ("torchvision", "resnet18", "layer1", "layer4", 4),
        ("torchvision", "densenet121", "features.pool0", "features.norm5", 8),
        ("torchvision", "efficientnet_b0", "features.0", "features.8", 9),
        ("torchvision", "convnext_tiny", "features.0", "features.7", 8),
        ("torchvision", "swin_t", "features.0", "features.7", 8),
        ("torchvision", "vit_b_16", "encoder.layers.encoder_layer_0", None, 12),
        # Were a stem, or a branch.
        ("torchvision", "googlenet", "conv1", "inception5b", 12),
        ("torchvision", "inception_v3", "Conv2d_1a_3x3", "Mixed_7c", 16),
        ("torchvision", "maxvit_t", "blocks.0", "blocks.3", 4),
        ("torchvision", "shufflenet_v2_x1_0", "conv1", "conv5", 18),
        ("timm", "levit_128s", "stages.0", "stages.2", 3),
        ("timm", "regnety_008", "stem", "s4", 5),
        ("timm", "convnext_femto_ols", "stages.0", "stages.3", 4),
        ("timm", "nfnet_f0", "stages.0", "stages.3", 4),
        ("timm", "inception_resnet_v2", "conv2d_1a", "conv2d_7b", 49),
    ],
)
def test_blocks_hold_nearly_all_parameters_below_the_last_layer(library, name, first, last, number):
    network = of_library(library, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = blocks(network)
    assert (found[0], len(found)) == (first, number)
    assert last is None or found[-1] == last
    auxiliary = ("aux", "AuxLogits")
    for child in [n for n, _ in network.named_children() if n.startswith(auxiliary)]:
        delattr(network, child)  # side branches
    assert inside(network, found) > 0.88


@pytest.mark.parametrize(
    ("library", "name", "first", "share", "child"),
    [
        ("torchvision", "vgg11", "features.2", r"7\.\d%", r"classifier 93\.\d%"),
        ("torchvision", "mobilenet_v3_small", "features.0", r"61\.\d%", r"classifier 63\.\d%"),
        ("timm", "efficientvit_b0", "stages.0", r"32\.\d%", r"head 80\.\d%"),
    ],
)
def test_blocks_that_leave_much_out_say_how_much(library, name, first, share, child):
    network = of_library(library, name)
    message = rf"found in \w+, .*, hold {share} .* blocks\(model, \[...\]\); children: .*{child}"
    with pytest.warns(UserWarning, match=message) as caught:
        found = blocks(network)
    assert found[0] == first
    assert caught[0].filename == __file__  # where the caller can name them
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert blocks(network, found) == found


def test_a_division_of_less_than_half_is_refused_with_its_share():
    parts = {"large": conv(64, 64), "layer1": vgg()["features"], "layer2": vgg()["features"]}
    network = nn.ModuleDict({**parts, "head": nn.Linear(2, 2)})
    message = (
        r"best division found, layer1, layer2, holds 1\.\d%.*children: large 98\.\d%, layer1 0"
    )
    with pytest.raises(ValueError, match=message):
        blocks(network)


def test_stages_are_found_inside_a_wrapper_and_a_projector_is_no_division():
    projector = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
    network = nn.ModuleDict({"encoder": resnet(), "projector": projector})
    assert blocks(network) == ("encoder.layer1", "encoder.layer2")


def test_lists_in_lists_are_opened_and_dicts_that_run_are_not():
    stages = nn.ModuleList([nn.ModuleList([conv(1, 1)]), nn.ModuleList([conv(1, 1), conv(1, 1)])])
    assert blocks(nn.ModuleDict({"b": stages})) == ("b.0.0", "b.1.0", "b.1.1")

    class Dense(nn.ModuleDict):
        def forward(self, x):
            return x

    dense = lambda: Dense({"a": conv(1, 1), "b": conv(1, 1)})  # noqa: E731
    assert blocks(nn.Sequential(dense(), dense())) == ("0", "1")


@pytest.mark.parametrize("layout", ["channels last", "nhwc", 3])
def test_an_unknown_layout_is_refused(layout):
    with pytest.raises(ValueError, match=r"layout of block 'layer1' must be one of NC, NCHW"):
        blocks(resnet(), {"layer1": layout, "layer2": None})
