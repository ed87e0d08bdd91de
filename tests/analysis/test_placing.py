"""Each block on a device of its own: nothing changes but where it runs."""

from functools import partial

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from linlocal.analysis import LocalTrainer
from linlocal.analysis.block import resolve
from linlocal.analysis.local_losses import CLAPP
from linlocal.analysis.training.placing import Places
from linlocal.analysis.watching import one_pass, placed

SGD = partial(torch.optim.SGD, lr=0.1)
X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
CPU, META = torch.device("cpu"), torch.device("meta")


class Stemmed(nn.Module):
    """A stem, a parameter of the network itself, and a norm between the blocks."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
        self.first = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))
        self.last = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return self.last(self.norm(self.first(self.stem(x) * self.scale)))


def stemmed():
    torch.manual_seed(2)
    return Stemmed()


BLOCKS = ["first", "last"]


@pytest.mark.parametrize("options", [{}, {"one_pass": True}], ids=["in turn", "one pass"])
@pytest.mark.parametrize("context", ["same", "top"])
def test_devices_that_are_the_same_change_no_bit(options, context):
    found = []
    for devices in (None, ["cpu", CPU]):
        trainer = LocalTrainer(
            *(stemmed(), BLOCKS, CLAPP(context=context)),
            **{"shape": (6,), "optimiser": SGD, "devices": devices, **options},
        )
        values = [trainer.step(X) for _ in range(3)]
        found.append((values, [*trainer.model.state_dict().values()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_blocks_lie_on_their_devices_and_the_rest_at_home():
    model = stemmed()
    blocks = Places(Fabric(accelerator="cpu", devices=1), ["meta", "cpu"]).move(model, BLOCKS)
    where = {name: p.device for name, p in (*model.named_parameters(), *model.named_buffers())}
    assert {name.split(".")[0] for name, device in where.items() if device == META} == {"first"}
    assert all(p.device == META for p in blocks[0].parameters.values())
    assert all(p.device == CPU for p in blocks[1].parameters.values())


@pytest.mark.parametrize(
    ("block", "device", "moved", "arrives", "seen"),
    [
        ("first", CPU, ["norm", "last"], META, CPU),  # its output goes home, to meta
        ("last", META, ["last"], META, META),  # its input comes from the CPU
    ],
)
def test_a_block_runs_on_its_device_and_gives_its_output_home(block, device, moved, arrives, seen):
    model, looked = stemmed(), []
    for name in moved:
        model.get_submodule(name).to(META)
    blocks = resolve(model, [block])

    def look(position, z):
        looked.append(z.device)

    with one_pass(blocks, look), placed(blocks, [device], META):
        assert model(X).device == arrives
    assert looked == [seen]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(RuntimeError, match="device"):
        model(X)


def test_what_is_no_device_is_said():
    for devices, kind, message in (
        (["cpu"], ValueError, "one for each of the 2 blocks, got 1"),
        (["cpu", "disk"], ValueError, "such as \"cuda:1\", got 'disk'"),
        ([0, 1], TypeError, 'such as "cuda:1", got 0'),
        ("cpu", TypeError, "devices"),
        (["cpu", "cuda:9"], ValueError, "Block 'last' cannot be moved to cuda:9"),
    ):
        with pytest.raises(kind, match=message):
            LocalTrainer(stemmed(), BLOCKS, CLAPP(), shape=(6,), devices=devices)
    mixed = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    with pytest.raises(ValueError, match="casts on devices of one kind, cpu, got meta, cpu"):
        Places(mixed, ["meta", "cpu"])
