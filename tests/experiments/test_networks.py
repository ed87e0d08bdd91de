"""The networks have the blocks that they are said to have, and their weights depend on the seed."""

import sys

import pytest
import torch
from torch import nn

from experiments import networks
from experiments.networks import build
from experiments.networks.encoders import block_names

SMALL = {
    "vgg6": {"width": 1 / 32},
    "vgg8": {"width": 1 / 32},
    "resnet18": {},
    "resnet50": {},
    "vit": {"width": 1 / 8, "depth": 2},
}
NAMES = pytest.mark.parametrize("name", list(SMALL))


def outputs(model, names, x):
    """Outputs of the blocks in the order in which they run."""
    found = []
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: found.append((name, out))
        )
        for name in names
    ]
    with torch.no_grad():
        top = model.eval()(x)
    for hook in hooks:
        hook.remove()
    return found, top


@NAMES
@pytest.mark.parametrize("num_channels", [1, 3])
def test_blocks_run_once_each_in_their_order(name, num_channels):
    names = block_names(name, SMALL[name].get("depth"))
    model = build(name, num_channels=num_channels, **SMALL[name])
    found, _ = outputs(model, names, torch.randn(2, num_channels, 32, 32))
    assert [block for block, _ in found] == names
    assert all(out.isfinite().all() for _, out in found)


@NAMES
def test_the_seed_decides_the_weights_and_nothing_outside(name):
    state = torch.get_rng_state()
    first, again, other = (build(name, seed=seed, **SMALL[name]) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    elsewhere = build(name, seed=0, **SMALL[name])
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
        assert torch.equal(value, elsewhere.state_dict()[key])
    assert any(
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("vgg6", [(128, 32), (256, 16), (256, 16), (512, 8), (1024, 4), (1024, 2)]),
        (
            "vgg8",
            [(128, 32), (256, 16), (512, 8), (512, 8), (1024, 4), (1024, 2), (1024, 2), (1024, 1)],
        ),
    ],
)
def test_the_encoders_have_the_published_blocks(name, shapes):
    found, top = outputs(build(name), block_names(name), torch.randn(1, 3, 32, 32))
    assert [tuple(out.shape) for _, out in found] == [(1, c, side, side) for c, side in shapes]
    assert torch.equal(found[-1][1], top)
    assert all(out.min() == 0 for _, out in found)


@pytest.mark.parametrize("name", ["vgg6", "resnet18"])
def test_kernels_lie_with_channels_last(name):
    network = build(name, width=1 / 16 if name == "vgg6" else 1)
    kernels = [m.weight for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_the_width_scales_the_channels():
    found, _ = outputs(build("vgg6", width=1 / 64), block_names("vgg6"), torch.randn(1, 3, 96, 96))
    assert [out.shape[1:] for _, out in found] == [
        (2, 96, 96), (4, 48, 48), (4, 48, 48), (8, 24, 24), (16, 12, 12), (16, 6, 6),
    ]  # fmt: skip
    assert build("vit", width=1 / 8, depth=1).embed_dim == 24


@pytest.mark.parametrize("depth", [6, 7, 17, 24, 48])
def test_a_deeper_encoder_has_more_blocks_of_the_same_sizes(depth):
    names = block_names("vgg6", depth)
    assert len(names) == depth
    model = build("vgg6", width=1 / 64, depth=depth)
    found, _ = outputs(model, names, torch.randn(1, 3, 32, 32))
    assert len(found) == depth
    usual, _ = outputs(build("vgg6", width=1 / 64), block_names("vgg6"), torch.randn(1, 3, 32, 32))
    largest = max(out.numel() for _, out in usual)
    # Only repetitions: no block is larger than the largest, and the map shrinks by as much.
    assert max(out.numel() for _, out in found) == largest
    assert found[-1][1].shape == usual[-1][1].shape
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 4


def test_pooling_ends_at_a_single_pixel():
    found, _ = outputs(
        build("vgg6", width=1 / 64, num_channels=1, image_size=8),
        block_names("vgg6"),
        torch.randn(1, 1, 8, 8),
    )
    assert [out.shape[-1] for _, out in found] == [8, 4, 4, 2, 1, 1]


@pytest.mark.parametrize(("size", "side"), [(32, 32), (64, 64), (96, 24), (224, 56)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_resnet_reduces_large_images_at_its_beginning(size, side, channels):
    model = build("resnet18", image_size=size, num_channels=channels)
    found, top = outputs(model, ["layer1"], torch.randn(1, channels, size, size))
    assert found[0][1].shape == (1, 64, side, side)
    assert top.shape == (1, 512)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg16"}, "unknown network 'vgg16'; possible: vgg6, vgg8"),
        ({"name": "vgg6", "depth": 5}, "vgg6 .from 6.* got 5 for vgg6"),
        ({"name": "resnet18", "depth": 8}, "got 8 for resnet18"),
        ({"name": "resnet18", "width": 0.5}, "fixed width"),
        ({"name": "vgg6", "width": 0}, "must be positive"),
        ({"name": "vit", "image_size": 30}, "patches of 4 pixels, which do not fill 30"),
    ],
)
def test_what_a_network_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_torchvision_is_imported_also_where_its_compiled_part_cannot_be_loaded(fresh):
    # In a process of its own, as an import happens once.
    code, printed = fresh(__file__, "import_without_the_compiled_part")
    assert code == 0, printed


def import_without_the_compiled_part():
    # Where the compiled part does load (a GPU beside both), the declaration would collide with it.
    def refuse(path):
        raise OSError("compiled for another torch")

    torch.ops.load_library = refuse
    assert "torchvision" not in sys.modules
    vision = networks.import_torchvision()
    assert networks.import_torchvision() is vision
    assert vision.models.resnet18(weights=None).fc.out_features == 1000
    with pytest.raises(NotImplementedError):
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


def test_a_narrow_residual_network_learns_from_large_images(fresh):
    """In a process of its own: a stride of a 1x1 convolution wrote beyond its memory here."""
    code, printed = fresh(__file__, "learn_from_large_images")
    assert code == 0, printed


def learn_from_large_images():
    network = networks.narrow_resnet(8, 3, layers=2, seed=0)
    for _ in range(4):
        network(torch.rand(16, 3, 64, 64)).square().mean().backward()
