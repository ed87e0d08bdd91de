"""Networks of any depth, and what training them costs."""

from dataclasses import replace

import pytest
import torch

from experiments.catalogue import training_cost
from experiments.catalogue.training_cost import (
    ENCODER,
    MICRO,
    NETWORKS,
    encoder,
    measured,
    residual,
)

SMOKE = training_cost.PRESETS["smoke"]


@pytest.mark.parametrize(("depth", "count"), [(8, 8), (24, 24)])
def test_every_layer_is_a_block(depth, count):
    deep, shallow = (encoder(d, 1 / 64, 32, seed=0) for d in (depth, 8))
    assert len(deep) == len(residual(depth, 1 / 64, seed=0)) == count
    x = torch.randn(2, 3, 32, 32)
    assert deep(x).shape == shallow(x).shape
    # Repetitions have the width of their layer and follow its pooling.
    again = depth // 8
    for l, block in enumerate(shallow):
        x = block(x)
        for repetition in deep[again * l + 1 : again * (l + 1)]:
            assert repetition(x).shape == x.shape


def test_the_residual_network_is_the_one_that_it_is_made_of():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    whole = training_cost.narrow_resnet(4, 3, layers=2, seed=0)
    torch.testing.assert_close(residual(8, 1 / 16, seed=0)(x), whole(x))


@pytest.mark.parametrize(("make", "depth"), [("encoder", 12), ("encoder", 0), ("residual", 6)])
def test_other_depths_are_refused(make, depth):
    with pytest.raises(ValueError, match=rf"multiple of [48], got {depth}"):
        encoder(depth, 1, 32, 0) if make == "encoder" else residual(depth, 1, 0)


@pytest.mark.parametrize("network", NETWORKS)
def test_depth_costs_memory_end_to_end_only(network):
    local, whole = (
        [
            measured(SMOKE, network, training, depth=depth, batch=2, side=16)["bytes"]
            for depth in (8, 24)
        ]
        for training in ("local", "end to end")
    )
    assert local[1] <= 1.05 * local[0]
    assert whole[1] > 1.3 * whole[0]


def test_memory_grows_with_batch_and_side():
    def needed(**size):
        point = {"depth": 8, "batch": 2, "side": 16} | size
        return measured(SMOKE, ENCODER, "end to end", **point)["bytes"]

    assert needed(batch=4) == pytest.approx(2 * needed(), rel=0.2)
    assert needed(side=32) == pytest.approx(4 * needed(), rel=0.2)


def test_micro_batches_need_less_where_the_network_can_be_cut():
    def needed(training, rows):
        config = replace(SMOKE, micro_batch=rows)
        return measured(config, ENCODER, training, depth=8, batch=8, side=16)["bytes"]

    whole = needed("local", 1)
    assert needed(MICRO, 1) < needed(MICRO, 4) < whole
    assert needed(MICRO, 16) == whole
    with pytest.raises(ValueError, match="BatchNorm in training"):
        measured(SMOKE, "residual network", MICRO, depth=8, batch=2, side=16)


def test_published_sizes_are_counted_for_their_encoder_and_width():
    small, twice = (
        training_cost.published(replace(SMOKE, published_width=width), "STL-10", "local")
        for width in (1 / 64, 1 / 32)
    )
    # The largest block: input and output of 64 views, 2 and 4 channels of 96x96, at least.
    assert small > 64 * 96**2 * (2 + 4) * 4
    assert twice == pytest.approx(2 * small, rel=0.2)
