"""Networks cut into blocks compute what they did, and no loss reaches another block."""

import functools
import itertools
import math

import pytest
import torch
from torch import nn

from experiments.catalogue import blockwise_ssl
from experiments.networks import cut, encoders as networks, narrow_resnet
from experiments.training import LARSSchedule, lars, train_blocks
from experiments.training.optimisers import warm_up_cosine
from linlocal.analysis.local_losses import (
    ActivityNoise,
    HeadedClasses,
    HeadedViews,
)
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, peak_bytes
from linlocal.losses import BarlowTwins

RULE = HeadedViews(width=8, widths=(6,), scale=1.0)
SCHEDULE = LARSSchedule(steps=3, learning_rate=1.0, warm_up=0.34)


def views(samples=4, channels=2, side=8, seed=0):
    return torch.randn(
        2 * samples, channels, side, side, generator=torch.Generator().manual_seed(seed)
    )


def batches(step):
    return views(seed=step), torch.tensor([0, 1, 2, 0] * 2)


def small(noise=None):
    return cut(narrow_resnet(2, 2, seed=0), noise=noise)


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def same(before, module):
    return [torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]


@functools.cache
def built(name):
    return networks.build(name, num_channels=2, image_size=32, depth=5 if name == "vit" else None)


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_a_cut_network_has_the_features_and_parameters_of_the_whole(name):
    whole = built(name).eval()
    blocks = cut(whole).eval()
    x = views(2, side=32)
    z = blocks(x)
    features = z[:, 0] if name == "vit" else z.mean((2, 3))
    torch.testing.assert_close(features, whole(x))
    owned = [id(p) for p in blocks.parameters()]
    assert len(owned) == len({*owned})
    assert {*owned} == {id(p) for p in whole.parameters()}


def test_parts_are_even_and_possible():
    layers = nn.Sequential(*(nn.Linear(2, 2) for _ in range(7)))
    assert [len(block) for block in cut(layers, 3)] == [2, 3, 2]
    with pytest.raises(ValueError, match="7 layers cannot be cut into 8"):
        cut(layers, 8)
    with pytest.raises(ValueError, match="4 stages; it cannot be cut into 2"):
        cut(built("resnet18"), 2)
    with pytest.raises(ValueError, match="Linear is no ResNet"):
        cut(nn.Linear(2, 2))


@pytest.mark.parametrize("noise", [None, ActivityNoise()], ids=["plain", "noise"])
@pytest.mark.parametrize("kind", ["views", "classes"])
def test_no_loss_reaches_another_block_but_end_to_end_reaches_all(kind, noise):
    rule = RULE if kind == "views" else HeadedClasses(width=8, widths=(6, 3))
    batch = batches(0)
    x, _ = batch
    network = small(noise)
    trainer = LocalTrainer(network, list(network._modules), rule, shape=x.shape[1:])
    reached = []

    def gradients():
        parts = [*network, *trainer.losses]
        found = [
            any(p.grad is not None and bool((p.grad != 0).any()) for p in part.parameters())
            for part in parts
        ]
        for part in parts:
            part.zero_grad(set_to_none=True)
        return found

    for l in range(len(network)):
        for position, loss in enumerate(trainer.losses):
            loss.judge = functools.partial(judged, rule, weight=float(position == l))
        trainer.backward(x, batch)
        reached.append(gradients())
    assert reached == [[k % 4 == l for k in range(8)] for l in range(4)]
    end_to_end = GlobalTrainer(network, list(network._modules), rule, shape=x.shape[1:])
    end_to_end.backward(x, batch)
    assert gradients()[:4] == [True] * 4


def test_a_window_of_all_blocks_is_end_to_end_and_belongs_to_the_simultaneous_order():
    def trained(order, **options):
        network = small()
        losses = train_blocks(network, RULE, batches, SCHEDULE, order, **options)
        return network, losses

    (whole, last), (all_blocks, top) = trained("end to end"), trained("simultaneous", window=4)
    narrow, losses = trained("simultaneous", window=2)
    assert len(top) == len(last) == 1
    assert len(losses) == 3
    assert all(same(weights(whole) + weights(last), nn.ModuleList([all_blocks, top])))
    assert not any(same(weights(whole[0]), narrow[0])[:1])
    for order in ("sequential", "end to end"):
        with pytest.raises(ValueError, match="belongs to the simultaneous order"):
            trained(order, window=2)


def judged(rule, z, batch, weight):
    return weight * rule.judge(z, batch)


def test_blockwise_memory_is_that_of_a_block():
    network = cut(narrow_resnet(8, 2, layers=2), noise=ActivityNoise())
    x = views(16, side=16)
    peaks = []
    for kind in (LocalTrainer, GlobalTrainer):
        trainer = kind(network, list(network._modules), RULE, shape=x.shape[1:])
        trainer.backward(x)
        peaks.append(peak_bytes(functools.partial(trainer.backward, x)))
    assert peaks[0] < 0.75 * peaks[1]


@pytest.mark.parametrize("order", ["simultaneous", "sequential", "end to end"])
def test_every_order_trains_every_block_and_the_same_way_twice(order):
    found = []
    for _ in range(2):
        network = small(ActivityNoise())
        before = [weights(block) for block in network]
        losses = train_blocks(network, RULE, batches, SCHEDULE, order, seed=1)
        assert not any(all(same(b, block)) for b, block in zip(before, network, strict=True))
        assert len(losses) == (1 if order == "end to end" else 4)
        assert all(module.training for module in network.modules())
        assert all(p.requires_grad for p in network.parameters())
        found.append(weights(network))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_orders_differ_and_the_first_block_is_the_same_blockwise():
    found = {}
    for order in ("simultaneous", "sequential", "end to end"):
        network = small()
        train_blocks(network, RULE, batches, SCHEDULE, order, seed=1)
        found[order] = network
    first = weights(found["simultaneous"][0])
    assert all(same(first, found["sequential"][0]))
    assert not all(same(first, found["end to end"][0]))
    # Later, the blocks below stand still in one order and not in the other.
    assert not all(same(weights(found["simultaneous"][1]), found["sequential"][1]))


def test_sequential_training_leaves_the_blocks_below_alone():
    network = small(ActivityNoise())
    states = []

    def watched(step):
        assert all(m.training for m in network.modules() if isinstance(m, ActivityNoise))
        states.append([[t.clone() for t in block.state_dict().values()] for block in network])
        return batches(step)

    train_blocks(network, RULE, watched, SCHEDULE, "sequential")
    states = states[1:]  # the first asked for a shape
    for number, (old, new) in enumerate(itertools.pairwise(states)):
        trained = number // SCHEDULE.steps
        for l in range(4):
            still = all(torch.equal(a, b) for a, b in zip(old[l], new[l], strict=True))
            assert still == (l != trained)


def test_labels_teach():
    network, seen = small(), []
    (loss,) = train_blocks(
        network,
        HeadedClasses(width=8, widths=(3,)),
        lambda step: batches(0),
        LARSSchedule(20, 8.0),
        "end to end",
        before_step=lambda step, trainer: seen.append(step),
    )
    x, classes = batches(0)
    assert torch.equal(loss.projector(loss.head(network(x))).argmax(1), classes)
    assert seen == list(range(21))


def test_unknown_orders_are_refused():
    with pytest.raises(ValueError, match="order must be one of simultaneous, sequential"):
        train_blocks(small(), RULE, batches, SCHEDULE, "backwards")


def test_lars_scales_each_weight_to_its_norm_and_leaves_biases_to_their_rate():
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))
    before = weight.detach().clone(), bias.detach().clone()
    weight.grad, bias.grad = 1e3 * torch.randn(3, 4), torch.randn(3)
    lars([weight, bias], 0.2).step()
    moved = (weight.detach() - before[0]).norm()
    assert float(moved / before[0].norm()) == pytest.approx(0.2 * 1e-3, rel=1e-3)
    torch.testing.assert_close(bias.detach(), before[1] - 0.0048 * bias.grad)


def test_the_rate_rises_linearly_and_falls_along_a_cosine():
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 2.0)
    scheduler = warm_up_cosine(optimiser, steps=12, warm_up=4)
    rates = []
    for _ in range(12):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    expected = [0.002 + 1.998 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert rates[4:] == pytest.approx(expected)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.002)
    with pytest.raises(ValueError, match=r"warm_up must be 0\.\.11 of 12 steps, got 12"):
        warm_up_cosine(optimiser, 12, 12)


def test_variants_are_named_apart_and_have_what_they_are_named_after():
    names = [str(variant) for variant in blockwise_ssl.VARIANTS]
    assert len({*names}) == len(names)
    config = blockwise_ssl.PRESETS["smoke"]
    for variant in blockwise_ssl.VARIANTS:
        network = blockwise_ssl.build(config, variant, seed=0)
        noises = [m.per for m in network.modules() if isinstance(m, ActivityNoise)]
        assert noises == ([variant.noise] if variant.noise else [])  # one, at three places
        rule = blockwise_ssl.rule_of(config, variant)
        assert rule.kind == variant.head
        assert isinstance(rule, HeadedClasses) == (variant.loss == "supervised")


def test_the_cosine_of_the_last_block_is_1_and_is_recorded_blockwise_only():
    config = blockwise_ssl.PRESETS["smoke"]
    local, whole = (
        blockwise_ssl.measured(config, blockwise_ssl.Variant("VICReg", order), 2.0, seed=0)
        for order in ("simultaneous", "end to end")
    )
    assert local["step"].values.tolist() == [0, 1]
    assert local["cosine"].isel(layer=-1).values == pytest.approx(1.0, abs=1e-5)
    assert abs(local["cosine"].isel(layer=slice(-1))).max() < 0.9
    assert whole["cosine"].isnull().all()


def test_a_measurement_is_a_function_of_its_point():
    config, variant = blockwise_ssl.PRESETS["smoke"], blockwise_ssl.Variant(noise="channel")
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(blockwise_ssl.measured(config, variant, 2.0, seed=0))
    assert found[0].identical(found[1])


def test_published_settings_are_the_default_of_the_rule():
    rule = HeadedViews()
    assert (rule.width, rule.widths, rule.kind) == (2048, (8192,) * 3, "expansion")
    assert (rule.loss, rule.scale) == (BarlowTwins(weight=0.0051), 0.024)
