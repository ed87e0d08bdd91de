"""Sharded training takes the steps of whole training, in a part of its memory."""

import runpy
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn
from torch.utils.data import TensorDataset

from linlocal.analysis.local_losses import Views
from linlocal.analysis.training import Checkpoints, LocalTrainer, SeededLoader
from linlocal.analysis.training.sharding import shard

SYNCHRONISED = runpy.run_path(str(Path(__file__).with_name("test_synchronise.py")))
make, trained, alone, close = (SYNCHRONISED[name] for name in ("make", "trained", "alone", "close"))
TOLERANCE, KINDS, Net, X = (SYNCHRONISED[name] for name in ("TOLERANCE", "KINDS", "Net", "X"))


class Lars(torch.optim.Optimizer):
    """w -= lr |w| / |g| g: needs norms of whole tensors."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.01})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.ndim > 1:
                    p.sub_(group["lr"] * p.norm() / p.grad.norm() * p.grad)


OPTIMISERS = {
    "AdamW": partial(torch.optim.AdamW, lr=1e-2),
    # As torch chooses by itself on a GPU; parameters of the network itself stay whole.
    "AdamW of lists": partial(torch.optim.AdamW, lr=1e-2, foreach=True),
    "LARS": Lars,
}


class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)))


def held(trainer):
    """Numbers of this process, of parameters and of optimiser states."""
    states = [s for o in trainer.optimisers for s in o.state.values()]
    tensors = [p for group in trainer.parameters for p in group]
    tensors += [t for s in states for t in s.values() if t.ndim > 0]
    return sum((t.to_local() if hasattr(t, "to_local") else t).numel() for t in tensors)


def fitted(fabric, folder, epochs):
    # A loss that does not depend on the order of samples.
    trainer = make("local", fabric, shard=True, rule=Views())
    loader = SeededLoader(
        TensorDataset(X),
        8 // fabric.world_size,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    trainer.fit(loader, epochs, checkpoints=Checkpoints(folder) if folder else None)
    return trainer.state_dict()


def spoilt(fabric, shard_it):
    """What a step says whose gradient is not finite on one process, and whether it changed any."""
    trainer = make("local", fabric, network=Wide, shard=shard_it, rule=Views())
    trainer.step(X)
    before = trainer.state_dict()["model"]
    said = ""
    if fabric.global_rank == 0:
        trainer.model[1].register_forward_hook(lambda module, args, z: Spoil.apply(z))
    try:
        trainer.step(X)
    except FloatingPointError as error:
        said = str(error)
    return said, same(trainer.state_dict()["model"], before)


class Spoil(torch.autograd.Function):
    """The identity, with a derivative that is not finite."""

    @staticmethod
    def forward(ctx, z):
        return z.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.nan


def scenarios(fabric, folder):
    folder, found = Path(folder), {}
    for kind in KINDS:
        for dtype in TOLERANCE:
            found[f"{kind} {dtype}"] = trained(make(kind, fabric, dtype, shard=True))
        for name, optimiser in OPTIMISERS.items():
            trainer = make(kind, fabric, shard=True, optimiser=optimiser)
            found[f"{kind} {name}"] = trained(trainer)
    for shard_it in (False, True):
        trainer = make("local", fabric, network=Wide, shard=shard_it)
        trained(trainer)
        found[f"held {shard_it}"] = held(trainer)
    # A network that was sharded by an earlier trainer is trained on.
    model = trainer.model
    model[0].requires_grad_(False)
    again = make("local", fabric, network=lambda: model, shard=True)
    found["again"] = trained(again)["model"]
    mixed = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="bf16-mixed")
    mixed.launch()
    found["mixed"] = trained(make("local", mixed, torch.float32, shard=True))
    found["mixed whole"] = trained(make("local", mixed, torch.float32))
    for shard_it in (False, True):
        found[f"spoilt {shard_it}"] = spoilt(fabric, shard_it)
    found["straight"] = fitted(fabric, None, 2)
    fitted(fabric, folder / "two", 1)
    found["resumed"] = fitted(fabric, folder / "two", 2)
    fitted(fabric, folder / "two again", 1)
    found["from one"] = fitted(fabric, folder / "one", 2)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def two(folder, pair):
    fitted(alone(), folder / "one", 1)
    return pair(__file__, "scenarios", folder)


def same(a, b):
    """Bit by bit, through containers."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("kind", KINDS)
def test_sharded_steps_are_those_of_one_process(two, kind):
    for dtype, tolerance in TOLERANCE.items():
        one = trained(make(kind, alone(), dtype))
        for rank in two:
            close(rank[f"{kind} {dtype}"], one, tolerance)
    for name, optimiser in OPTIMISERS.items():
        trainer = make(kind, alone(), optimiser=optimiser)
        start = {key: t.clone() for key, t in trainer.model.state_dict().items()}
        one = trained(trainer)
        close(two[0][f"{kind} {name}"], one, 1e-12)
        close(two[1][f"{kind} {name}"], one, 1e-12)
        assert (one["model"]["layer1.0.weight"] - start["layer1.0.weight"]).norm() > 1e-3


def test_a_gradient_that_is_not_finite_on_one_process_refuses_the_step_on_all(two):
    for rank in two:
        for shard_it in (False, True):
            said, unchanged = rank[f"spoilt {shard_it}"]
            assert "gradients are not" in said
            assert unchanged


def test_each_of_two_processes_holds_half(two):
    for rank in two:
        assert rank["held True"] == rank["held False"] / 2 > 0


def test_a_network_that_is_sharded_already_is_trained_on(two):
    trainer = make("local", alone(), network=Wide)
    trained(trainer)
    model = trainer.model
    model[0].requires_grad_(False)
    frozen = model[0][0].weight.clone()
    close(two[0]["again"], trained(make("local", alone(), network=lambda: model))["model"], 1e-12)
    assert torch.equal(frozen, model[0][0].weight)


def test_mixed_precision_is_that_of_whole_training(two):
    for rank in two:
        close(rank["mixed"], rank["mixed whole"], 1e-5)


def test_a_resumed_training_goes_on_exactly(two):
    assert same(two[0]["resumed"], two[0]["straight"])
    for part in ("place", "model", "losses", "optimisers"):
        assert same(two[1]["resumed"][part], two[1]["straight"][part])
        assert same(two[0]["resumed"][part], two[1]["resumed"][part])


def test_checkpoints_fit_any_number_of_processes(two, folder):
    straight = fitted(alone(), None, 2)
    parts = ("model", "losses")
    for part in parts:
        close(two[0]["from one"][part], straight[part], 1e-12)
    whole = fitted(alone(), folder / "two again", 2)
    assert whole["place"] == straight["place"]
    for part in parts:
        close(whole[part], straight[part], 1e-12)
    states = (s["optimisers"][0]["state"][0]["exp_avg"] for s in (whole, straight))
    close(*states, 1e-12)


def test_what_cannot_be_sharded_is_named():
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
    with pytest.raises(ValueError, match="does not scale the loss"):
        make("local", fabric, torch.float32, shard=True)
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    with pytest.raises(ValueError, match="weight of a Linear is shared"):
        shard(nn.ModuleList([first]), (), nn.ModuleList([second]), "cpu")
    # With one process there is nothing to shard.
    assert isinstance(make("local", alone(), shard=True), LocalTrainer)
