"""Gradients are averaged over processes block by block, while others are computed."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import nn

from linlocal.analysis.local_losses import CLAPP, ForwardForward, GatheredRule
from linlocal.analysis.training import GlobalTrainer, LocalTrainer
from linlocal.analysis.training.synchronise import GradientMeans

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KINDS = {"local": LocalTrainer, "global": GlobalTrainer}
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
STEPS, RATE, DECAY = 3, 0.5, 0.1


class Net(nn.Module):
    """Parameters of its own, a stem, three blocks, a part that nothing trains."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(6))
        self.stem = nn.Linear(6, 6)
        self.layer1 = nn.Sequential(nn.Linear(6, 7), nn.Tanh())
        self.layer2 = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer3(self.layer2(self.layer1(self.stem(x + self.shift)))))


def two_views(x):
    return torch.cat([x, -x.square()])


def make(kind, fabric, dtype=torch.float64, network=Net, seed=0, **options):
    torch.manual_seed(seed)
    options = {"optimiser": partial(torch.optim.AdamW, lr=1e-2), "augment": two_views, **options}
    rule = GatheredRule(options.pop("rule", CLAPP(score="softplus", context="top")))
    model = network().to(dtype)
    return KINDS[kind](model, None, rule, shape=(6,), fabric=fabric, **options)


def part(fabric, x):
    return x.chunk(fabric.world_size)[fabric.global_rank]


def trained(trainer, steps=STEPS):
    """Weights and losses after some steps."""
    logged = []
    for step in range(steps):
        batch = X[8 * step : 8 * step + 8].to(trainer._dtype)
        logged.append(trainer.step(part(trainer.fabric, batch)))
    return {
        "model": trainer.state_dict()["model"],
        "losses": trainer.state_dict()["losses"],
        "logged": [torch.tensor(list(values.values())).double() for values in logged],
    }


def alone():
    return Fabric(accelerator="cpu", devices=1)


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# -- what the two processes do ---------------------------------------------------------------------


class Forked(Net):
    """A part of block 2 runs on the first process only, one of block 3 on none."""

    def __init__(self, first=True):
        super().__init__()
        self.layer2 = Branch(first)
        self.layer3.register_parameter("idle", nn.Parameter(torch.ones(3)))


class Branch(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.always, self.sometimes, self.first = nn.Linear(7, 5), nn.Linear(5, 5), first

    def forward(self, x):
        z = self.always(x)
        return z + self.sometimes(z) if self.first else z


class Mixed(nn.Module):
    """Of two precisions, one of its weights in channels_last."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        self.wide = nn.Linear(2, 3).double()
        self.unused = nn.Linear(2, 2)
        self.once = nn.Linear(1, 1)


def means(fabric):
    """The gradient of parameter p on process r is r + 1 times p; some have none."""
    model, calls = Mixed(), []
    for p in model.parameters():  # whole numbers, which do not round
        p.data.copy_(torch.arange(1, p.numel() + 1).view(p.shape))
    original = dist.all_reduce

    def counting(tensor, *args, **kwargs):
        calls.append((tensor.dtype, kwargs.get("async_op", False)))
        return original(tensor, *args, **kwargs)

    used = [*model.conv.parameters(), *model.wide.parameters()]
    used += model.once.parameters() if fabric.global_rank else ()
    for p in used:
        p.grad = (fabric.global_rank + 1) * p.detach()
    averages = GradientMeans([list(model.parameters())])
    dist.all_reduce = counting
    try:
        with averages.sending():
            averages.start(0)
            freed = all(p.grad is None for p in model.parameters())
    finally:
        dist.all_reduce = original
    return {
        "ratio": {
            n: p.grad / p.detach() for n, p in model.named_parameters() if p.grad is not None
        },
        "strides": model.conv.weight.grad.stride() == model.conv.weight.stride(),
        "calls": [(str(dtype), asynchronous) for dtype, asynchronous in calls],
        "freed": freed,
    }


def events(trainer):
    """In one step: forward passes of blocks, gradients by their inputs, sendings, their ends."""
    seen, original = [], dist.all_reduce

    def all_reduce(tensor, *args, **kwargs):
        work = original(tensor, *args, **kwargs)
        if kwargs.get("async_op"):
            seen.append("send")
            wait = work.wait

            class Watched:
                def wait(self):
                    seen.append("wait")
                    return wait()

            return Watched()
        return work

    def backward_of(position):
        def hook(module, args, output):
            if output.requires_grad:
                output.register_hook(lambda gradient: seen.append(f"backward {position}"))

        return hook

    handles = []
    for l, block in enumerate(trainer.blocks, start=1):
        name = f"forward {l}"
        handles.append(
            block.module.register_forward_pre_hook(lambda m, a, name=name: seen.append(name))
        )
        handles.append(block.module.register_forward_hook(backward_of(l)))
    dist.all_reduce = all_reduce
    try:
        trainer.step(part(trainer.fabric, X[:8]))
    finally:
        dist.all_reduce = original
    return seen


def forked(fabric, kind, x):
    torch.manual_seed(0)
    trainer = KINDS[kind](
        Forked(first=fabric.global_rank == 0).double(),
        None,
        ForwardForward(),  # a mean over samples: one's rows do not matter to those of another
        shape=(6,),
        fabric=fabric,
        augment=two_views,
        optimiser=partial(torch.optim.SGD, lr=RATE, weight_decay=DECAY),
    )
    trainer.step(x)
    return trainer.state_dict()["model"]


def scenarios(fabric):
    found = {"means": means(fabric)}
    for kind in KINDS:
        for dtype in TOLERANCE:
            # Other weights in each process, until the trainer gives them those of the first.
            trainer = make(kind, fabric, dtype, seed=fabric.global_rank)
            trainer.losses.load_state_dict(fabric.broadcast(trainer.losses.state_dict()))
            found[f"{kind} {dtype}"] = trained(trainer)
        # Of a loss that needs no pass for the top.
        found[f"events {kind}"] = events(make(kind, fabric, rule=CLAPP()))
        found[f"forked {kind}"] = forked(fabric, kind, part(fabric, X[:8]))
    mixed = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="bf16-mixed")
    mixed.launch()
    found["mixed"] = trained(make("local", mixed, torch.float32))
    return found


@pytest.fixture(scope="module")
def two(pair):
    return pair(__file__, "scenarios")


# -- laws ------------------------------------------------------------------------------------------


def test_means_are_exact_and_sent_in_one_buffer_per_precision(two):
    for rank in two:
        found = rank["means"]
        ratios = found["ratio"]
        assert set(ratios) == {
            *["conv.weight", "conv.bias", "wide.weight", "wide.bias"],
            *["once.weight", "once.bias"],
        }
        for name, ratio in ratios.items():
            # (1 + 2) / 2, and where the first process has no gradient (0 + 2) / 2
            assert torch.equal(ratio, torch.full_like(ratio, 1.0 if "once" in name else 1.5))
        assert found["strides"]
        assert found["freed"]
        assert found["calls"] == [("torch.float32", True), ("torch.float64", True)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one_on_the_joined_batch(two, kind, dtype):
    first, second = (rank[f"{kind} {dtype}"] for rank in two)
    one, other = trained(make(kind, alone(), dtype)), make(kind, alone(), dtype)
    close(first, one, TOLERANCE[dtype])
    for group in ("model", "losses"):
        assert all(torch.equal(second[group][name], t) for name, t in first[group].items())
    # What each would have learned from its own half.
    for step in range(STEPS):
        other.step(X[8 * step : 8 * step + 4].to(dtype))
    name = "layer2.0.weight"
    assert (other.model.state_dict()[name] - first["model"][name]).norm() > 1e-3


def test_local_training_sends_a_block_before_the_next_one_runs(two):
    for rank in two:
        seen = rank["events local"]
        assert seen.count("send") == seen.count("wait") == 3
        sent = [i for i, event in enumerate(seen) if event == "send"]
        for l in (1, 2):
            assert seen.index(f"backward {l}") < sent[l - 1] < seen.index(f"forward {l + 1}")
        assert seen.index("wait") > sent[-1]


def test_global_training_sends_a_block_before_the_one_below_is_backpropagated(two):
    for rank in two:
        seen = rank["events global"]
        assert seen.count("send") == seen.count("wait") == 3
        sent = [i for i, event in enumerate(seen) if event == "send"]
        assert sent[0] < seen.index("backward 1")
        assert sent[0] > seen.index("backward 3")
        assert seen.index("wait") > sent[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_gradient_counts_as_zero_and_hangs_nothing(two, kind):
    first, second = (rank[f"forked {kind}"] for rank in two)
    assert all(torch.equal(second[name], t) for name, t in first.items())
    torch.manual_seed(0)
    start = Forked().double().state_dict()
    single = forked(alone(), kind, X[:4])
    name = "layer2.sometimes.weight"
    decayed = (1 - RATE * DECAY) * start[name]
    close(first[name] - decayed, (single[name] - decayed) / 2, 1e-12)
    assert (single[name] - decayed).norm() > 1e-3
    # No gradient at all is not zero, which would decay.
    assert torch.equal(first["layer3.idle"], start["layer3.idle"])


def test_blocks_are_sent_once_and_only_while_training():
    p = nn.Parameter(torch.ones(2))
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        averages = GradientMeans([[p]])
        p.grad = torch.ones(2)
        averages.start(0)
        assert torch.equal(p.grad, torch.ones(2))
        with averages.sending():
            averages.start(0)
            assert p.grad is None
            with pytest.raises(RuntimeError, match="block 1 were sent twice"):
                averages.start(0)
        assert torch.equal(p.grad, torch.ones(2))
        sending = averages.sending()
        sending.__enter__()
        averages.start(0)
        p.grad = torch.ones(2)
        with pytest.raises(RuntimeError, match=r"shapes \[\(2,\)\] got a gradient after"):
            sending.__exit__(None, None, None)
    finally:
        dist.destroy_process_group()


def test_mixed_precision_keeps_processes_equal(two):
    first, second = (rank["mixed"] for rank in two)
    for group in ("model", "losses"):
        assert all(torch.equal(second[group][name], t) for name, t in first[group].items())
    name = "layer2.0.weight"
    trainer = make("local", alone(), torch.float32)
    start = trainer.model.state_dict()[name].clone()
    exact = trained(trainer)["model"][name]
    assert first["model"][name].dtype == torch.float32
    rounding = (first["model"][name] - exact).norm() / (exact - start).norm()
    assert 1e-6 < rounding < 0.5
