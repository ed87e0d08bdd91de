"""Micro-batches inside the blocks change the memory of local training, and not its gradients."""

import copy

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from linlocal.analysis.local_losses import (
    CLAPP,
    SCFF,
    ActivityNoise,
    ForwardForward,
    HeadedViews,
    InfoNCE,
    PhyLL,
    Views,
)
from linlocal.analysis.training import LocalTrainer, peak_bytes
from linlocal.losses import BarlowTwins, NTXent

RULES = {
    "CLAPP": CLAPP(score="softplus"),
    "direct feedback": CLAPP(score="softplus", context="top"),
    "both": CLAPP(score="softplus", context="both", rank=2, shared=False),
    "random": CLAPP(score="softplus", context="top", projection="random"),
    "InfoNCE": InfoNCE(context="top"),
    "PhyLL": PhyLL(),
    "SCFF": SCFF(),
    "Forward-Forward": ForwardForward(),
    "Views": Views(),
    "NT-Xent": Views(NTXent()),
    "Barlow Twins": Views(BarlowTwins()),
    "behind a head": HeadedViews(width=8, widths=(8, 8)),
}
ROWS = 8


class Staged(nn.Module):
    """A stem, pooling between two blocks, and a head; not a chain of its blocks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 5, 3), nn.Sigmoid())
        self.layer3 = nn.Sequential(nn.Conv2d(5, 6, 1), nn.GroupNorm(2, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.layer1(torch.relu_(self.stem(x)))
        x = self.layer3(self.layer2(nn.functional.max_pool2d(x, 2)))
        return self.head(x.mean((2, 3)).relu_())


def images(rows=ROWS, dtype=torch.float64):
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


def trained(rule, micro_batch, model=None, x=None):
    """The trainer after one backward pass, and its losses and gradients."""
    if model is None:
        torch.manual_seed(3)
        model = Staged().double().eval()
    x = images() if x is None else x
    trainer = LocalTrainer(
        copy.deepcopy(model), None, rule, shape=x.shape[1:], micro_batch=micro_batch
    )
    torch.manual_seed(1)
    values = trainer.backward(x)
    parameters = [*trainer.model.parameters(), *trainer.losses.parameters()]
    return trainer, [*values.values(), *(p.grad for p in parameters)]


def assert_close(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_losses_and_gradients_are_those_of_the_whole_batch(name):
    _, expected = trained(RULES[name], None)
    assert sum(g is not None and bool(g.abs().max() > 0) for g in expected) > 8
    for micro_batch in (1, 3):  # the last micro-batch of three has two rows
        _, got = trained(RULES[name], micro_batch)
        assert_close(got, expected)


# -- what runs -------------------------------------------------------------------------------------


class Watched(nn.Module):
    """Dropout that writes down what it drew."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def forward(self, x):
        mask = nn.functional.dropout(torch.ones_like(x), 0.5)
        self.drawn.append(mask)
        return x * mask


def watched(micro_batch, rule):
    """A trainer after a backward pass, its inputs, and the masks that each block drew in it."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(6, 6), nn.Tanh(), Watched()) for _ in range(2)]
    model = nn.Sequential(*layers).double()
    trainer = LocalTrainer(model, None, rule, shape=(6,), micro_batch=micro_batch)
    x = torch.randn(ROWS, 6, dtype=torch.float64)
    trainer.backward(x)  # blocks are checked in the first step
    model.zero_grad()
    for layer in layers:
        layer[-1].drawn.clear()
    trainer.backward(x)
    return trainer, x, [layer[-1].drawn for layer in layers]


def test_a_block_runs_on_so_many_rows_and_once_more_with_the_same_masks():
    for drawn in watched(3, SCFF())[2]:
        assert [len(mask) for mask in drawn] == [3, 3, 2, 2, 3, 3]
        assert all(map(torch.equal, drawn[:3], drawn[:2:-1]))
        assert not torch.equal(drawn[0], drawn[1])


def test_the_pass_that_finds_the_top_draws_these_masks_as_well():
    for drawn in watched(3, CLAPP(context="top"))[2]:
        assert [len(mask) for mask in drawn] == [3, 3, 2, 3, 3, 2, 2, 3, 3]
        assert all(map(torch.equal, drawn[:3], drawn[3:6]))


@pytest.mark.parametrize("micro_batch", [ROWS, ROWS + 1, None])
def test_a_batch_of_no_more_rows_runs_whole_and_once(micro_batch):
    assert [[len(mask) for mask in drawn] for drawn in watched(micro_batch, SCFF())[2]] == [
        [ROWS]
    ] * 2


def test_gradients_are_those_of_one_detached_graph_with_the_masks_that_were_drawn():
    trainer, z, drawn = watched(3, SCFF())
    model = copy.deepcopy(trainer.model)
    model.zero_grad()
    losses = []
    for layer, loss, masks in zip(model, trainer.losses, drawn, strict=True):
        z = layer[:2](z.detach()) * torch.cat(masks[:3])
        losses.append(loss(z, z))
    sum(losses).backward()
    assert_close([p.grad for p in trainer.model.parameters()], [p.grad for p in model.parameters()])


def test_no_more_than_a_micro_batch_is_held_inside_a_block():
    hidden = 512

    def peak(micro_batch):
        block = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 4))
        model = nn.Sequential(block, copy.deepcopy(block))
        trainer = LocalTrainer(model, None, SCFF(), shape=(4,), micro_batch=micro_batch)
        trainer.model.to("meta")
        x = torch.zeros(256, 4, device="meta")
        trainer.backward(x)
        return peak_bytes(lambda: trainer.backward(x))

    whole, parts, rows = peak(None), peak(16), 4 * hidden
    assert whole > 2 * 256 * rows
    # Activities of the hidden layer and their gradients, the gradient of a weight, and the ends.
    assert 2 * 16 * rows < parts < 4 * 16 * rows + 4 * rows + 8 * 256 * 4 * 4


# -- precision and compilers -----------------------------------------------------------------------


def test_mixed_precision_sums_the_gradients_of_micro_batches_in_full():
    def weights(precision, micro_batch):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2)))
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        trainer = LocalTrainer(
            model, None, SCFF(), shape=(16,), fabric=fabric, micro_batch=micro_batch
        )
        trainer.backward(torch.randn(128, 16, generator=torch.Generator().manual_seed(0)))
        return torch.stack([layer[0].weight.grad for layer in model])

    exact = weights("32-true", None)
    errors = [float((weights("bf16-mixed", m) - exact).norm() / exact.norm()) for m in (None, 1)]
    assert 0 < errors[1] < 1.2 * errors[0] < 0.05


def test_compiled_blocks_run_in_micro_batches_and_are_given_back():
    torch.manual_seed(3)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2))).double()
    x = torch.randn(ROWS, 6, dtype=torch.float64)
    _, expected = trained(SCFF(), None, model, x)
    for name in ("0", "1"):
        setattr(model, name, torch.compile(getattr(model, name), backend="eager"))
    before = [layer.forward for layer in model]
    trainer = LocalTrainer(model, ["0", "1"], SCFF(), shape=(6,), micro_batch=3)
    values = trainer.backward(x)
    assert_close([*values.values(), *(p.grad for p in model.parameters())], expected)
    assert [layer.forward for layer in model] == before


# -- what cannot be cut ----------------------------------------------------------------------------


class Mixing(nn.Linear):
    def forward(self, x):
        return super().forward(x) + x.mean(0)


REFUSED = {
    "batch normalisation": (lambda: nn.BatchNorm1d(6), "gives a row .* depends on the other rows"),
    "noise of a channel": (lambda: ActivityNoise(per="channel"), "depends on the other rows"),
    "noise of the tensor": (lambda: ActivityNoise(per="tensor"), "depends on the other rows"),
    "a mean over rows": (lambda: Mixing(6, 6), "depends on the other rows"),
    "power iteration": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
        "changes its buffers",
    ),
}


def two_blocks(*inside):
    torch.manual_seed(4)
    return nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Sequential(*inside))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("case", REFUSED)
def test_blocks_that_couple_rows_are_refused(case, precision):
    make, reason = REFUSED[case]
    model = two_blocks(nn.Linear(6, 6), make())
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    trainer = LocalTrainer(model, None, SCFF(), shape=(6,), fabric=fabric, micro_batch=3)
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=rf"Block '1' \(Sequential\) .*{reason}.*micro_batch=None"):
        trainer.backward(x)
    assert all(map(torch.equal, model.state_dict().values(), state.values()))
    assert not any("forward" in vars(module) for module in model.modules())
    LocalTrainer(model, None, SCFF(), shape=(6,), fabric=fabric, micro_batch=ROWS).backward(x)


@pytest.mark.parametrize("case", ["batch normalisation", "noise of a channel", "power iteration"])
def test_what_is_coupled_in_training_only_runs_in_eval_mode_and_is_checked_again_after_it(case):
    model = two_blocks(nn.Linear(6, 6), REFUSED[case][0]()).double()
    x = torch.randn(ROWS, 6, dtype=torch.float64)
    trainer, got = trained(SCFF(), 3, model.eval(), x)
    _, expected = trained(SCFF(), None, model, x)
    assert_close(got, expected)
    trainer.model.train()
    with pytest.raises(ValueError, match="Block '1'"):
        trainer.backward(x)


def test_noise_of_each_map_and_dropout_are_not_refused():
    inside = nn.Conv2d(4, 4, 3), ActivityNoise(per="map"), nn.Dropout(0.5)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(*inside)).double()
    _, values = trained(Views(), 3, model, images())
    assert all(bool(v.isfinite().all()) for v in values)


class Branch(nn.Module):
    """A block whose input is used once more beside it, or comes from a layer between blocks."""

    def __init__(self, beside):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(6, 6))
        self.between = nn.Tanh() if beside else nn.Linear(6, 6)
        self.layer2 = nn.Sequential(nn.LeakyReLU(inplace=True), nn.Linear(6, 6))
        self.layer3, self.beside = nn.Sequential(nn.Linear(6, 6)), beside

    def forward(self, x):
        x = self.between(self.layer1(x))
        z = self.layer2(x)
        return self.layer3(x + z if self.beside else z)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 6))

    def forward(self, x):
        return x.mul_(self.scale)


IN_PLACE = {
    "at the beginning": lambda: two_blocks(nn.LeakyReLU(inplace=True), nn.Linear(6, 6)),
    "by a parameter": lambda: two_blocks(Scaled(), nn.Linear(6, 6)),
    "beside a branch": lambda: Branch(beside=True),
    "after a layer between blocks": lambda: Branch(beside=False),
}


@pytest.mark.parametrize("case", IN_PLACE)
@pytest.mark.parametrize("name", ["SCFF", "direct feedback"])
def test_a_block_may_change_its_input_in_place(case, name):
    torch.manual_seed(2)
    model = IN_PLACE[case]().double()
    names = [name for name, _ in model.named_children() if name != "between"]
    x = torch.randn(ROWS, 6, dtype=torch.float64)

    def results(micro_batch):
        trainer = LocalTrainer(
            copy.deepcopy(model), names, RULES[name], shape=(6,), micro_batch=micro_batch
        )
        values = trainer.backward(x.clone())
        parameters = [*trainer.model.parameters(), *trainer.losses.parameters()]
        return [*values.values(), *(p.grad for p in parameters)]

    expected = results(None)
    assert all(g is not None for g in expected)
    assert_close(results(3), expected)


class Masked(nn.Linear):
    def forward(self, x, *, masks, scale=1.0):
        return super().forward(x * masks["rows"]) * masks["features"][0] * scale


class TwoInputs(nn.Module):
    """A block of keyword arguments, some of which belong to the rows."""

    def __init__(self, features=6):
        super().__init__()
        self.layer1, self.layer2 = nn.Sequential(nn.Linear(6, features)), Masked(features, features)

    def forward(self, x):
        z = self.layer1(x)
        shared = torch.linspace(1, 2, z.shape[1], dtype=z.dtype)
        masks = {"rows": (x[:, :1] > 0).to(z.dtype), "features": (shared,)}
        return self.layer2(x=z, masks=masks, scale=2.0)


def test_tensors_that_belong_to_the_rows_are_cut_with_them_and_others_are_not():
    torch.manual_seed(2)
    model = TwoInputs().double()
    x = torch.randn(ROWS, 6, dtype=torch.float64)
    names = ["layer1", "layer2"]
    (expected, got) = (
        LocalTrainer(copy.deepcopy(model), names, SCFF(), shape=(6,), micro_batch=m)
        for m in (None, 3)
    )
    assert_close(list(got.backward(x).values()), list(expected.backward(x).values()))
    assert_close(
        [p.grad for p in got.model.parameters()], [p.grad for p in expected.model.parameters()]
    )


def test_a_shared_tensor_as_long_as_the_batch_is_refused():
    torch.manual_seed(2)
    trainer = LocalTrainer(TwoInputs(ROWS), ["layer1", "layer2"], SCFF(), shape=(6,), micro_batch=3)
    with pytest.raises(ValueError, match=r"Block 'layer2' .* as many entries as .* rows \(8\)"):
        trainer.backward(torch.randn(ROWS, 6))


def test_a_micro_batch_of_none_is_named():
    with pytest.raises(ValueError, match=r"rows of a micro-batch must be at least 1, got 0"):
        LocalTrainer(TwoInputs(), ["layer1", "layer2"], SCFF(), shape=(6,), micro_batch=0)
