"""A GPU computes what the processor computes: `make gpu`; other tests are shown none."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from experiments.catalogue.local_rules import BLOCKS, RULES
from experiments.data import simclr, two_views
from experiments.networks import encoders
from experiments.training import Schedule, fit_by_rule
from linlocal.analysis import LocalTrainer
from linlocal.analysis.alignment import AlignmentRecorder, align
from linlocal.analysis.hierarchy import BeliefPropagation
from linlocal.analysis.local_losses import CLAPP
from linlocal.analysis.probing import probe_blocks
from linlocal.analysis.random_states import random_states, set_random_states
from linlocal.analysis.training import peak_bytes
from linlocal.rhm import RandomHierarchyModel

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("needs a GPU, and `-m gpu`", allow_module_level=True)

DEVICES = ("cpu", "cuda")
TOLERANCE, ADAM = 1e-9, 1e-6


def views(step, rows=12, size=16):
    generator = torch.Generator().manual_seed(step)
    return torch.rand(rows, 1, size, size, generator=generator, dtype=torch.float64)


def encoder(device):
    network = encoders.build("vgg6", width=1 / 64, num_channels=1, image_size=16, seed=1)
    return network.double().to(device)


def assert_same(one, other, tolerance=TOLERANCE):
    for name in one.data_vars:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("credit", ["local", "backpropagation"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains_the_same_network(rule, credit):
    found = []
    for device in DEVICES:
        network = encoder(device)
        watched = [(views(99).to(device),)] if credit == "local" else []
        _, recorded = fit_by_rule(
            network,
            RULES[rule],
            lambda step, device=device: views(step).to(device),
            Schedule(3, 1e-3),
            credit=credit,
            seed=2,
            watched=watched,
        )
        found.append((network.cpu().state_dict(), recorded))
    (one, recorded), (other, again) = found
    # Adam divides small gradients by themselves, rounding errors included.
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=ADAM, msg=name)
    if credit == "local":
        assert_same(recorded.isel(step=[0]), again.isel(step=[0]))
        assert_same(recorded, again, ADAM)


@pytest.mark.parametrize("rule", ["CLAPP++", "CLAPP++ DFB", "CLAPP++ both"])
def test_the_terms_of_the_mismatch_are_the_same(rule):
    shapes = [tuple(z.shape[1:]) for z in outputs(encoder("cpu"), views(0))]
    losses = RULES[rule].build(shapes, 3).double()
    one, other = (
        align(encoder(d), None, losses.to(d), views(0).to(d), terms=True) for d in DEVICES
    )
    assert one["masks_share"].notnull().any()
    # A bias without influence has a gradient of rounding errors, whose direction says nothing.
    of_layers = [name for name in one if not name.startswith("parameter")]
    assert_same(one[of_layers], other[of_layers])


def outputs(network, z):
    found = []
    for block in network:
        z = block(z)
        found.append(z)
    return found


def test_a_recorder_measures_what_the_processor_does_and_no_cosine_exceeds_one():
    network, x = encoder("cpu"), views(0)
    losses = CLAPP().build([tuple(z.shape[1:]) for z in outputs(network, x)], 0).double()
    wanted = align(network, None, losses, x)["cosine"].values.ravel()
    network, x, losses = network.to("cuda"), x.to("cuda"), losses.to("cuda")
    for cast in (False, True):
        if cast:
            network, x, losses = network.float(), x.float(), losses.float()
        recorder = AlignmentRecorder(network, rule=losses, every=1)
        with recorder.step(), torch.autocast("cuda", torch.bfloat16, enabled=cast):
            top = network(x)
            losses[-1](top, top.detach()).backward()
        network.zero_grad()
        got = recorder.dataset()["cosine"].values.ravel()
        if cast:
            assert np.all(np.abs(got) <= 1 + 1e-12)
            assert got[-1] == pytest.approx(1, abs=1e-12)
        else:
            np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("context", ["same", "top"])
def test_blocks_on_two_devices_learn_what_they_learn_on_one(context):
    found = []
    for devices in (["cpu"] * 3, ["cpu", "cuda", "cuda"]):
        torch.manual_seed(0)
        network = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)))
        trainer = LocalTrainer(
            network.double(),
            None,
            CLAPP(context=context),
            shape=(6,),
            optimiser=partial(torch.optim.SGD, lr=0.1),
            devices=devices,
        )
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found.append(([trainer.step(x) for _ in range(3)], trainer.model.cpu().state_dict()))
    torch.testing.assert_close(*found, rtol=0, atol=TOLERANCE)


def test_belief_propagation_is_that_of_numpy():
    rhm = RandomHierarchyModel(num_classes=3, num_symbols=4, num_synonyms=2, num_levels=3, seed=1)
    likelihood = np.random.default_rng(0).exponential(size=(20, rhm.num_leaves, 4))
    wanted = rhm.posterior(likelihood=likelihood)
    got = BeliefPropagation(rhm).to("cuda")(torch.from_numpy(likelihood).to("cuda"))
    for here, there in zip(got.levels, wanted.levels, strict=True):
        np.testing.assert_allclose(here.cpu().numpy(), there, rtol=0, atol=1e-12)


def test_the_peak_is_that_of_the_allocator():
    old = torch.ones(1 << 20, device="cuda")
    assert peak_bytes(lambda: old + 1, "cuda") >= 4 << 20
    assert peak_bytes(lambda: old.add_(1), "cuda") < 4 << 20


def test_a_probe_reads_the_same():
    labels = torch.arange(200) % 4
    pixels = views(0, rows=200) * (1 + labels.double().reshape(-1, 1, 1, 1))
    found = []
    for device in DEVICES:
        batches = [(pixels[rows].to(device), labels[rows]) for rows in torch.arange(200).split(50)]
        found.append(probe_blocks(encoder(device), BLOCKS, batches, batches, seed=0))
    assert found[0]["accuracy"].min() > 0.25
    np.testing.assert_allclose(found[0]["accuracy"], found[1]["accuracy"], rtol=0, atol=0.011)


def test_views_on_a_gpu_depend_on_their_seed_alone_and_leave_no_trace():
    images = torch.rand(6, 3, 32, 32, device="cuda")
    torch.manual_seed(5)
    before = random_states()
    one, again, other = (two_views(images, simclr(32), seed) for seed in (1, 1, 2))
    after = random_states()
    assert one.device.type == "cuda"
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(before["torch"], after["torch"])
    assert all(map(torch.equal, before["cuda"], after["cuda"]))
    drawn = torch.rand(3, device="cuda")
    set_random_states(before)
    assert torch.equal(drawn, torch.rand(3, device="cuda"))
