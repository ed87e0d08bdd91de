"""In windows, training takes the gradients of networks that are cut below each window."""

import copy
from collections import Counter
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

import linlocal as ll
from linlocal.analysis import align
from linlocal.analysis.local_losses import (
    CLAPP,
    SCFF,
    ForwardForward,
    HeadedViews,
    InfoNCE,
    NetworkRule,
    SoftHebb,
    Views,
)
from linlocal.analysis.training import (
    Checkpoints,
    GlobalTrainer,
    LocalTrainer,
    SeededLoader,
    peak_bytes,
)
from linlocal.testing import samples
from linlocal.updates import Signals

RULES = {
    "CLAPP": CLAPP(score="softplus", pooling=1),
    "direct feedback": CLAPP(score="softplus", context="top", pooling=1),
    "InfoNCE": InfoNCE(context="top"),
    "SCFF": SCFF(),
    "heads": HeadedViews(width=8, widths=(8, 8)),
}
BLOCKS = ("block1", "block2", "block3", "block4")
LAST = len(BLOCKS)
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


class Network(nn.Module):
    """A stem, a link over block 2, a pooling, and work in place on what block 3 returns."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.block1 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.5), nn.ReLU())
        self.block3 = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5))
        self.block4 = nn.Sequential(nn.Conv2d(5, 4, 3, padding=1), nn.Tanh())

    def run(self, l, z):
        """What block l makes of the input and of the outputs below, z[0]..z[l - 1]."""
        if l == 1:
            return self.block1(self.stem(z[0]))
        if l == 2:
            return self.block2(z[1])
        if l == 3:
            return self.block3(nn.functional.max_pool2d(z[2] + z[1], 2))
        return self.block4(z[3].relu_())

    def forward(self, x):
        z = [x]
        for l in range(1, LAST + 1):
            z.append(self.run(l, z))
        return z[-1].mean((2, 3))


def network(dtype=torch.float64):
    torch.manual_seed(3)
    return Network().to(dtype)


def images(seed=0, dtype=torch.float64):
    return torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)


def trainer(rule, window, model=None, **options):
    model = network() if model is None else model
    return LocalTrainer(model, BLOCKS, rule, shape=(2, 6, 6), window=window, **options)


def values_of(*modules):
    return [v for module in modules for v in module.state_dict().values()]


def gradients(*modules):
    return [p.grad for module in modules for p in module.parameters()]


def assert_close(got, expected, tolerance=1e-12):
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def cut_below(model, l, upto):
    """z_1..z_upto of a pass in which everything below block l is cut off."""
    model = copy.deepcopy(model)
    torch.manual_seed(1)
    z = [images()]
    for k in range(1, upto + 1):
        # Block 4 works in place on what it is given.
        out = model.run(k, [each.clone() for each in z])
        z.append(out.detach() if k < l else out)
    return model, z


def by_hand(model, losses, window):
    """The gradients of each block and of each loss: one pass of a network for each block."""
    found, taught = {}, {}
    top = cut_below(model, LAST + 1, LAST)[1][-1]
    for l in range(1, LAST + 1):
        e = min(l + window - 1, LAST)
        own, z = cut_below(model, l, e)
        loss = copy.deepcopy(losses[e - window])
        value = loss(z[-1], top)
        value.backward()
        taught[e] = gradients(loss)
        names = [f"block{l}."] + ["stem."] * (l == 1)
        found |= {n: p.grad for n, p in own.named_parameters() if n.startswith(tuple(names))}
    return [found[n] for n, _ in model.named_parameters()] + [
        g for e in sorted(taught) for g in taught[e]
    ]


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("window", range(1, LAST + 1))
def test_a_block_learns_from_the_loss_at_the_top_of_its_window_cut_off_below(name, window):
    made = trainer(RULES[name], window)
    reads_top = name in ("direct feedback", "InfoNCE")
    assert made.two_passes == (reads_top and window < LAST)
    before = copy.deepcopy(made.model)
    expected = by_hand(before, made.losses, window)
    torch.manual_seed(1)
    values = made.backward(images())
    assert list(values) == list(range(window, LAST + 1))
    assert_close(gradients(made.model, made.losses), expected)
    assert int(made.model.block1[1].num_batches_tracked) == 1
    # One block more in the window is another gradient, but where the window has reached the top.
    if window < LAST:
        wider = trainer(RULES[name], window + 1)
        torch.manual_seed(1)
        wider.backward(images())
        for l, block in enumerate(BLOCKS, start=1):
            here, there = (t.model.get_submodule(block)[0].weight.grad for t in (made, wider))
            same = (here - there).norm() <= 1e-12 * there.norm()
            assert same == (l + window - 1 >= LAST)
            assert same or (here - there).norm() > 1e-3 * there.norm() > 0


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("CLAPP", "32-true"),
        ("direct feedback", "32-true"),
        ("heads", "64-true"),
        ("heads", "bf16-mixed"),
        ("direct feedback", "scaled"),
    ],
)
def test_a_window_of_all_blocks_is_backpropagation_bit_by_bit(name, precision):
    def fabric():
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
        given = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
        given = given if precision == "scaled" else {"precision": precision}
        return Fabric(accelerator="cpu", devices=1, **given)

    dtype = torch.float64 if precision == "64-true" else torch.float32
    options = {"shape": (2, 6, 6), "optimiser": SGD}
    whole = GlobalTrainer(network(dtype), BLOCKS, RULES[name], fabric=fabric(), **options)
    windows, narrower = (
        LocalTrainer(network(dtype), BLOCKS, RULES[name], window=w, fabric=fabric(), **options)
        for w in (LAST, LAST - 1)
    )
    for step in range(2):
        assert whole.step(images(step, dtype)) == windows.step(images(step, dtype))
        narrower.step(images(step, dtype))
    assert all(
        map(
            torch.equal,
            values_of(whole.model, whole.losses),
            values_of(windows.model, windows.losses),
        )
    )
    assert not torch.equal(narrower.model.stem.weight, whole.model.stem.weight)


@pytest.mark.parametrize("name", RULES)
def test_a_window_of_one_block_is_local_training_bit_by_bit(name):
    made, plain = trainer(RULES[name], 1), trainer(RULES[name], 1)
    for backward in (made._in_windows, plain._in_turn):
        torch.manual_seed(1)
        with torch.enable_grad():
            backward(images(), None)
    assert all(
        map(torch.equal, gradients(made.model, made.losses), gradients(plain.model, plain.losses))
    )


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("rule", [ll.rules.VICReg(), ll.rules.CLAPP_DFB("softplus", penalty=0.1)])
def test_in_a_linear_network_gradients_have_the_cosines_of_the_theory(window, rule):
    widths = (6, 5, 4, 3)
    net = ll.DeepLinear.uniform(widths, seed=1)
    x, view = samples(7, widths[0], 0)
    pairs = ll.Pairs.from_views(x, view)

    def model():
        made = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))).double()
        for layer, weight in zip(made, net.weights, strict=True):
            layer.weight.data = torch.tensor(np.array(weight))
        return made

    read = NetworkRule(rule=rule, pooling=1, **({} if rule.kind == "view" else {"shared": False}))
    both = torch.cat([torch.tensor(x), torch.tensor(view)])
    found = []
    for made in (
        LocalTrainer(model(), None, read, shape=(6,), window=window),
        GlobalTrainer(model(), None, read, shape=(6,)),
    ):
        first = len(widths) - len(made.losses)
        for l, loss in enumerate(made.losses if rule.kind == "pair" else (), start=first):
            set_optimal(loss, Signals(net, pairs, rule).scored(l), pairs)
        made.backward(both)
        found.append(gradients(made.model))
    cosines = [
        float(nn.functional.cosine_similarity(a.ravel(), b.ravel(), dim=0))
        for a, b in zip(*found, strict=True)
    ]
    expected = ll.compare(net, pairs, rule, window).cosine
    np.testing.assert_allclose(cosines, expected, atol=1e-10)
    assert (expected[: len(widths) - 1 - window] < 0.999).all()


def set_optimal(loss, scored, pairs):
    """Give a loss of scores the optimal projection of each direction of the pairs."""
    for directed, direction in zip(loss.projections, pairs.directions, strict=True):
        (matrix,) = [s.projection.matrix for s in scored if s.direction is direction]
        directed[0].left.data.copy_(torch.tensor(matrix))


# -- memory ----------------------------------------------------------------------------------------


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that graphs keep for backward passes: each storage once, no parameter.

    Attributes:
        alive: those kept now.
        peak: the largest number that was kept at a time.
    """

    def __init__(self, *modules):
        self.alive = self.peak = 0
        self.owned = {p.untyped_storage().data_ptr() for m in modules for p in m.parameters()}
        self.kept = Counter()
        super().__init__(lambda tensor: _Kept(self, tensor), lambda kept: kept.tensor)

    def __enter__(self):
        super().__enter__()
        return self

    def change(self, storage, by):
        place, size = storage.data_ptr(), storage.nbytes()
        before = self.kept[place]
        self.kept[place] += by
        if place not in self.owned:
            self.alive += size * ((before + by > 0) - (before > 0))
            self.peak = max(self.peak, self.alive)


class _Kept:
    def __init__(self, count, tensor):
        self.count, self.tensor = count, tensor.detach()  # a graph that holds itself stays
        count.change(tensor.untyped_storage(), 1)

    def __del__(self):
        self.count.change(self.tensor.untyped_storage(), -1)


def convolutional(depth=6):
    torch.manual_seed(0)
    widths = [2, 8, 8, 4, 6, 6, 4, 4, 4][: depth + 1]
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.Tanh())
            for a, b in pairwise(widths)
        )
    )


@pytest.mark.parametrize("window", range(1, 7))
@pytest.mark.parametrize("name", ["CLAPP", "direct feedback"])
def test_no_more_is_kept_than_the_graphs_of_one_window(name, window):
    x = images(dtype=torch.float32)
    made = LocalTrainer(convolutional(), None, RULES[name], shape=(2, 6, 6), window=window)
    with Saved(made.model, made.losses) as saved:
        made.backward(x)
    assert saved.alive == 0

    top = made.model(x).detach()

    def kept(l, e):
        """What autograd keeps of blocks l..e (from 1) and of the loss of block e."""
        z = made.model[: l - 1](x).detach().requires_grad_(l > 1)
        with Saved(made.model, made.losses) as plain:
            z = made.model[l - 1 : e](z)
            loss = made.losses[e - window](z, top)
            assert loss.requires_grad  # its graph is alive
            return plain.alive

    windows = [kept(e - window + 1, e) for e in range(window, 7)]
    assert saved.peak == max(windows) < kept(1, 6) or window == 6
    if window == 6:
        whole = GlobalTrainer(made.model, None, RULES[name], shape=(2, 6, 6))
        with Saved(whole.model, whole.losses) as end_to_end:
            whole.backward(x)
        assert saved.peak == end_to_end.peak == kept(1, 6)


@pytest.mark.parametrize("rule", [CLAPP(), CLAPP(context="top"), Views()])
def test_the_peak_of_a_window_is_flat_in_depth(rule):
    rows, width, window = 128, 16, 3
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))

    def peak(depth, window):
        layers = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)]
        made = LocalTrainer(nn.Sequential(*layers), None, rule, shape=(width,), window=window)
        made.backward(x)  # so that gradients exist
        return peak_bytes(partial(made.backward, x))

    depths = (6, 12, 24)
    peaks = [peak(depth, window) for depth in depths]
    # But for the number that each loss returns.
    assert [p - peaks[0] for p in peaks] == [4 * (depth - depths[0]) for depth in depths]
    activity = 4 * rows * width
    assert peak(6, window + 1) - peaks[0] >= activity - 4


def test_micro_batches_in_windows_take_the_same_gradients_with_less_memory():
    rule = RULES["direct feedback"]
    x = torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    whole, cut = (trainer(rule, 2, network().eval(), micro_batch=size) for size in (None, 8))
    for each in (whole, cut):
        each.backward(x)
    assert_close(gradients(cut.model, cut.losses), gradients(whole.model, whole.losses))
    less, more = (peak_bytes(partial(each.backward, x)) for each in (cut, whole))
    assert less < more


class Counted(torch.autograd.Function):
    errors = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, error):
        Counted.errors += 1
        return error


class Entered(nn.Linear):
    def forward(self, x):
        return super().forward(Counted.apply(x)).tanh()


@pytest.mark.parametrize("depth", [4, 7])
def test_errors_go_down_through_so_many_blocks(depth):
    for window in range(1, depth + 1):
        model = nn.Sequential(*(Entered(6, 6) for _ in range(depth)))
        made = LocalTrainer(model, None, RULES["CLAPP"], shape=(6,), window=window)
        Counted.errors = 0
        made.backward(torch.randn(8, 6, generator=torch.Generator().manual_seed(0)))
        assert Counted.errors == (depth - window + 1) * (window - 1)


# -- company ---------------------------------------------------------------------------------------


def test_a_frozen_block_passes_the_error_on():
    def frozen():
        model = network()
        for part in (model.stem, model.block1, model.block3):
            part.requires_grad_(False)
        return model

    windows = trainer(RULES["CLAPP"], LAST, frozen(), optimiser=SGD)
    whole = GlobalTrainer(frozen(), BLOCKS, RULES["CLAPP"], shape=(2, 6, 6), optimiser=SGD)
    narrow = trainer(RULES["CLAPP"], 2, frozen(), optimiser=SGD)
    for made in (windows, whole, narrow):
        made.step(images())
    assert all(map(torch.equal, values_of(windows.model), values_of(whole.model)))
    before = frozen()
    for block, moved in (("block1", False), ("block2", True), ("block3", False), ("block4", True)):
        pair = (model.get_submodule(block)[0].weight for model in (narrow.model, before))
        assert torch.equal(*pair) != moved


def test_alignment_is_measured_with_the_losses_of_a_trainer():
    made = trainer(RULES["direct feedback"], 2, network().eval())
    found = align(made.model, BLOCKS, made.losses, images(), window=2)
    all_losses = (
        RULES["direct feedback"].build([(4, 6, 6), (4, 6, 6), (5, 3, 3), (4, 3, 3)]).double()
    )
    all_losses = nn.ModuleList([all_losses[0], *made.losses])
    assert found.identical(align(made.model, BLOCKS, all_losses, images(), window=2))
    made.backward(images())
    for l, block in enumerate(BLOCKS[1:], start=2):
        own = [p.grad.norm() for p in made.model.get_submodule(block).parameters()]
        norm = float(torch.stack(own).norm())
        assert float(found.local_norm.sel(layer=l)) == pytest.approx(norm, rel=1e-10)
    with pytest.raises(ValueError, match="one local loss per block, or 2 from block 3 on: 3 loss"):
        align(made.model, BLOCKS, made.losses, images(), window=3)


def test_training_goes_on_from_a_checkpoint_of_the_same_window(tmp_path):
    def made(window):
        return trainer(RULES["direct feedback"], window, optimiser=SGD)

    loader = SeededLoader(list(zip(images(1), images(2), strict=True)), 4)
    once, twice, resumed = made(2), made(2), made(2)
    once.fit(loader, 2)
    twice.fit(loader, 1, checkpoints=Checkpoints(tmp_path))
    resumed.fit(loader, 2, checkpoints=Checkpoints(tmp_path))
    assert all(
        map(
            torch.equal,
            values_of(once.model, once.losses),
            values_of(resumed.model, resumed.losses),
        )
    )
    with pytest.raises(ValueError, match=r"windows of 2 .* that with .* windows of 3"):
        made(3).fit(loader, 3, checkpoints=Checkpoints(tmp_path))
    with pytest.raises(ValueError, match="trainer = LocalTrainer with windows of 2"):
        made(1).fit(loader, 3, checkpoints=Checkpoints(tmp_path))


class Cut(nn.Module):
    def forward(self, x):
        return x.detach()


def test_a_window_that_cannot_be_is_refused_in_words():
    rule = RULES["CLAPP"]
    for window, words in (
        (0, "window must be"),
        (5, "window=4 is backpropagation"),
        (1.5, "window"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            trainer(rule, window)
    with pytest.raises(ValueError, match="one_pass keeps the graphs of all blocks"):
        trainer(rule, 2, one_pass=True)
    with pytest.raises(ValueError, match="shard gathers the weights"):
        trainer(rule, 2, shard=True)
    with pytest.raises(ValueError, match="projection of block 2 is matched"):
        trainer(CLAPP(projection="matched"), 2)
    trainer(CLAPP(projection="matched"), LAST).step(images())  # at the top nothing is matched
    layers = [nn.Linear(6, 6, bias=False) for _ in range(3)]
    hebbian = {"rule": SoftHebb(layers=layers), "shape": (6,)}
    with pytest.raises(ValueError, match="A window of several blocks needs a loss, which"):
        LocalTrainer(nn.Sequential(*layers), None, window=2, **hebbian)
    with pytest.raises(ValueError, match="3 optimisers for 4 blocks"):
        trainer(rule, 2, optimiser=[SGD] * 3)
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(Cut(), nn.Linear(6, 6)), nn.Linear(6, 6))
    made = LocalTrainer(model, None, ForwardForward(), shape=(6,), window=2)
    with pytest.raises(
        ValueError, match=r"loss of block 2, from which block 1 \(0\) learns, reached"
    ):
        made.step(torch.randn(8, 6, generator=torch.Generator().manual_seed(0)))
