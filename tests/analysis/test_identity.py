"""A checkpoint goes on in the training that made it, and in no other."""

import copy
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR
from torch.utils.data import TensorDataset

from linlocal.analysis.local_losses import CLAPP, Views
from linlocal.analysis.training import Checkpoints, GlobalTrainer, LocalTrainer, SeededLoader
from linlocal.analysis.training.identity import differences, told, told_network
from linlocal.losses import VICReg
from linlocal.rules import Penalty

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
JITTER = 0.1


def mlp(activation=nn.Tanh, frozen=False, width=6):
    torch.manual_seed(5)
    widths = [(6, width), (width, 6), (6, 6)]
    model = nn.Sequential(*(nn.Sequential(nn.Linear(*w), activation()) for w in widths))
    model[0].requires_grad_(not frozen)
    return model


def jittered(x, scale=0.1):
    return torch.cat([x, x]) + scale * torch.randn(2 * len(x), 6)


def jitter_by(scale):
    return lambda x: jittered(x, scale)


class Jitter(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def extra_repr(self):
        return f"scale={self.scale}"

    def forward(self, x):
        return jittered(x, self.scale)


class OwnLoss(nn.Module):
    def forward(self, here, top):
        a, b = here.chunk(2)
        return (a - b).square().mean() - here.var()


class Own:
    """A rule without a repr."""

    def __init__(self, weight):
        self.weight = weight

    def build(self, shapes, seed=0):
        return nn.ModuleList(OwnLoss() for _ in shapes)


class OwnLoader:
    """A loader without a repr."""

    def __init__(self, batch_size=4, length=4):
        self.batch_size, self.length = batch_size, length

    def __len__(self):
        return self.length

    def batches(self, epoch, start=0):
        for b in range(start, self.length):
            yield X[b * self.batch_size :][: self.batch_size]


DEFAULT = {
    "kind": LocalTrainer,
    "model": mlp,
    "blocks": ["0", "1", "2"],
    "rule": CLAPP(score="softplus"),
    "optimiser": partial(torch.optim.AdamW, lr=1e-3),
    "scheduler": partial(CosineAnnealingLR, T_max=10),
    "augment": jittered,
    "seed": 0,
    "loader": lambda: SeededLoader(TensorDataset(X), 4),
    "precision": "32-true",
    "views": None,
}


def fitted(folder, epochs, **options):
    chosen = {**DEFAULT, **options}
    model, kind, loader = (chosen.pop(name) for name in ("model", "kind", "loader"))
    fabric = Fabric(accelerator="cpu", devices=1, precision=chosen.pop("precision"))
    trainer = kind(model(), shape=(6,), fabric=fabric, **chosen)
    trainer.fit(loader(), epochs, checkpoints=Checkpoints(folder))
    return trainer


OTHERS = {
    "trainer": ("trainer = LocalTrainer", {"kind": GlobalTrainer}),
    "loss": ("rule = .*CLAPP.*rule = .*VICReg", {"rule": Views()}),
    "score": ("rule = .*Softplus.*rule = .*Hinge", {"rule": CLAPP(score="hinge")}),
    "margin": ("rule = .*margin=1.0.*margin=0.5", {"rule": CLAPP(score="softplus", margin=0.5)}),
    "context": ("rule = .*same.*top", {"rule": CLAPP(score="softplus", context="top")}),
    "penalty": (
        "rule = .*penalty=None.*penalty=0.5",
        {"rule": CLAPP(score="softplus", penalty=0.5)},
    ),
    "projection": ("rule = .*random", {"rule": CLAPP(score="softplus", projection="random")}),
    "rank": ("rule = .*rank=1", {"rule": CLAPP(score="softplus", rank=1)}),
    "order of blocks": (r"blocks = \['?0.*blocks = \['?0", {"blocks": ["0", "2"]}),
    "network": ("network = .*Tanh.*network = .*ReLU", {"model": partial(mlp, nn.ReLU)}),
    "width": ("network = .*6.*network = .*7", {"model": partial(mlp, width=7)}),
    "frozen block": ("network = .*frozen", {"model": partial(mlp, frozen=True)}),
    "learning rate": (
        "optimiser = .*0.001.*optimiser = .*1e-05",
        {"optimiser": partial(torch.optim.AdamW, lr=1e-5)},
    ),
    "weight decay": (
        "optimiser = .*weight_decay: 0.01.*weight_decay: 0.5",
        {"optimiser": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.5)},
    ),
    "class of optimiser": (
        "optimiser = .*AdamW.*optimiser = .*SGD",
        {"optimiser": partial(torch.optim.SGD, lr=1e-3, momentum=0.9)},
    ),
    "one optimiser for each block": (
        "optimiser = ",
        {"optimiser": [partial(torch.optim.AdamW, lr=1e-3)] * 3},
    ),
    "no scheduler": ("scheduler = .*CosineAnnealingLR.*None", {"scheduler": None}),
    "another scheduler": ("scheduler = ", {"scheduler": partial(ExponentialLR, gamma=0.9)}),
    "longer schedule": (
        "scheduler = .*T_max=10.*T_max=20",
        {"scheduler": partial(CosineAnnealingLR, T_max=20)},
    ),
    "augment": ("augment = .*augment = ", {"augment": jitter_by(0.5)}),
    "seed": ("seed = 0, .*seed = 1", {"seed": 1}),
    "batch size": (
        "4 in a batch.*8 in a batch",
        {"loader": lambda: SeededLoader(TensorDataset(X), 8)},
    ),
    "shorter data": (
        "16 rows.*12 rows",
        {"loader": lambda: SeededLoader(TensorDataset(X[:12]), 4)},
    ),
    "order of data": (
        "loader = .*seed 0.*seed 1",
        {"loader": lambda: SeededLoader(TensorDataset(X), 4, seed=1)},
    ),
    "precision": ("precision = 32-true.*bf16-mixed", {"precision": "bf16-mixed"}),
    "views": ("views = None.*stacked", {"views": "stacked"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fitted(folder, 1)
    return folder


@pytest.mark.parametrize("case", OTHERS)
def test_another_training_is_refused_and_the_difference_named(folder, case):
    message, other = OTHERS[case]
    with pytest.raises(ValueError, match=rf"(?s)belongs to the training with .*{message}"):
        fitted(folder, 2, **other)


def test_the_same_training_goes_on(folder, tmp_path):
    straight = fitted(tmp_path, 2)
    resumed = fitted(folder, 2)
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


PAIRS_OF_OPTIONS = {
    "enclosed": [{"augment": jitter_by(s)} for s in (0.1, 0.2)],
    "default": [{"augment": partial(jittered, scale=s)} for s in (0.1, 0.2)],
    "constant": [
        {"augment": lambda x: jittered(x, 0.1)},
        {"augment": lambda x: jittered(x, 0.2)},
    ],
    "module": [{"augment": Jitter(s)} for s in (0.1, 0.2)],
    "method": [{"augment": Jitter(s).forward} for s in (0.1, 0.2)],
    "weight of a rule": [{"rule": Own(w)} for w in (1.0, 2.0)],
    "weight of a loss": [{"rule": Views(VICReg(variance=v))} for v in (1.0, 2.0)],
    "decay of a schedule": [
        {"scheduler": partial(LambdaLR, lr_lambda=lambda step: 0.9**step)},
        {"scheduler": partial(LambdaLR, lr_lambda=lambda step: 0.8**step)},
    ],
    "size of a batch": [{"loader": partial(OwnLoader, n)} for n in (4, 2)],
    "length of a loader": [{"loader": partial(OwnLoader, 4, n)} for n in (4, 3)],
}


@pytest.mark.parametrize("case", PAIRS_OF_OPTIONS)
def test_what_has_no_name_is_told_apart_by_what_it_holds(tmp_path, case):
    first, second = PAIRS_OF_OPTIONS[case]
    fitted(tmp_path, 1, **first)
    fitted(tmp_path, 2, **first)
    with pytest.raises(ValueError, match="belongs to the training with"):
        fitted(tmp_path, 3, **second)


def test_a_loss_of_ones_own_belongs_to_the_training(tmp_path):
    def run(weight, epochs):
        trainer = GlobalTrainer(
            mlp(),
            None,
            loss=lambda answer, batch: weight * answer.square().mean(),
            shape=(6,),
        )
        trainer.fit(SeededLoader(TensorDataset(X), 4), epochs, checkpoints=Checkpoints(tmp_path))

    run(1.0, 1)
    run(1.0, 2)
    with pytest.raises(ValueError, match=r"loss = .*weight: 1.0.*weight: 2.0"):
        run(2.0, 3)


def test_a_global_constant_belongs_to_a_function(monkeypatch):
    def augment(x):
        return jittered(x, JITTER)

    before = told(augment)
    assert told(augment) == before
    monkeypatch.setitem(globals(), "JITTER", 0.2)
    assert told(augment) != before


def test_what_is_told_is_the_same_in_another_process(pair):
    assert pair(__file__, "told_here") == [told_here()] * 2
    assert "0x" not in told_here()


def told_here(fabric=None):
    class Holder:
        def __init__(self):
            self.generator, self.function, self.names = torch.Generator(), jittered, {"b", "a", "c"}

    things = [Holder(), jitter_by(0.3), Jitter(1), DEFAULT, Penalty(0.5), X, X[0, :3], object()]
    return told(things)


def test_differences_are_cut_to_the_place():
    stored = {"a": ", ".join(map(str, range(1000))), "b": "same"}
    own = {**stored, "a": stored["a"].replace("500", "one")}
    assert differences(stored, stored) == {}
    assert differences(stored, own) == {"a": ("[500]", "[one]")}


def test_a_state_without_its_training_is_named(folder):
    trainer = LocalTrainer(mlp(), None, CLAPP(score="softplus"), shape=(6,))
    state = Checkpoints(folder).load()
    old = {**state, "training": {"trainer": "LocalTrainer", "blocks": ["0", "1", "2"], "seed": 0}}
    with pytest.raises(ValueError, match=r"did not store what makes .*missing: rule"):
        trainer.load_state_dict(old)
    for other in ({}, {"model": state["model"]}, {"training": 3, "place": (0, 0, 0)}):
        with pytest.raises(ValueError, match="no state of a trainer"):
            trainer.load_state_dict(other)
    # As the message says, weights may be taken over on purpose.
    trainer.model.load_state_dict(state["model"])


def test_learning_rates_that_changed_in_training_are_no_difference(tmp_path):
    trainer = fitted(tmp_path, 1)
    assert trainer.optimisers[0].param_groups[0]["lr"] < 1e-3
    assert fitted(tmp_path, 2).steps == 8


def test_synchronised_batch_normalisation_is_the_same_training():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    assert isinstance(synchronised[1], nn.SyncBatchNorm)
    assert told_network(synchronised) == told_network(network)
    without = nn.Sequential(network[0], nn.Identity(), *network[2:])
    assert told_network(without) != told_network(network)
