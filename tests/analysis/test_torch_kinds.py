"""Torch's own kinds of optimisers, modules and modes in a trainer: they work, or are refused."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR, ReduceLROnPlateau

from linlocal.analysis.local_losses import CLAPP, HeadedViews, Views
from linlocal.analysis.training import GlobalTrainer, LocalTrainer

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
SGD = partial(torch.optim.SGD, lr=0.1)


def mlp():
    torch.manual_seed(5)
    return nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)))


def trainer(model=None, rule=None, kind=LocalTrainer, **options):
    rule = CLAPP(score="softplus") if rule is None else rule
    return kind(mlp() if model is None else model, None, rule, shape=(6,), **options)


REFUSED = {
    "an optimiser": (
        {"optimiser": SGD(mlp().parameters())},
        TypeError,
        "got a SGD: give functools",
    ),
    "optimisers": ({"optimiser": [SGD(mlp().parameters())] * 2}, TypeError, "got a list"),
    "a number": ({"optimiser": 0.1}, TypeError, "got 0.1"),
    "what makes none": ({"optimiser": lambda ps: None}, TypeError, "optimiser made None"),
    "LBFGS": ({"optimiser": torch.optim.LBFGS}, ValueError, "LBFGS.step needs closure"),
    "other parameters": (
        {"optimiser": lambda ps: SGD(mlp().parameters())},
        ValueError,
        r"holds 4 parameters, others than the \d",
    ),
    "parameters left out": (
        {"optimiser": lambda ps: SGD(ps[:2])},
        ValueError,
        r"holds 2 parameters, others than the \d",
    ),
    "a scheduler": (
        {"scheduler": ConstantLR(SGD(mlp().parameters()))},
        TypeError,
        "scheduler makes a scheduler of an optimiser, got a ConstantLR",
    ),
    "ReduceLROnPlateau": ({"scheduler": ReduceLROnPlateau}, ValueError, "step needs metrics"),
    "no scheduler made": ({"scheduler": lambda o: None}, TypeError, "scheduler made None"),
    "a log": ({"log": "losses.txt"}, TypeError, "log must be a function"),
}


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_train_is_refused_when_the_trainer_is_made(case, kind):
    options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        trainer(kind=kind, **options)


def test_an_optimiser_that_all_blocks_would_step_is_refused():
    model = mlp()
    with pytest.raises(ValueError, match="others than the"):
        trainer(model, optimiser=[lambda ps: SGD(model.parameters())] * 2)


def test_lazy_modules_are_named_and_run_once_they_have_a_shape():
    model = nn.Sequential(nn.Sequential(nn.LazyLinear(6)), nn.Sequential(nn.LazyLinear(6)))
    with pytest.raises(ValueError, match=r"0\.0 \(LazyLinear\) has no weights before the first"):
        trainer(model)
    model(X)
    trainer(model).step(X)


def test_inference_mode_is_refused_and_no_grad_is_not():
    made, expected = trainer(), trainer()
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match=r"inference_mode.*outside of it"):
            made.step(X)
        inferred = X.clone()
        model = mlp()
    with pytest.raises(ValueError, match=r"were made under torch\.inference_mode"):
        trainer(model)
    values = expected.step(X)
    with torch.no_grad():
        assert made.step(inferred) == values
    for a, b in zip(made.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_network_that_is_compiled_whole_is_refused_and_compiled_blocks_run():
    with pytest.raises(ValueError, match="Compile the blocks instead"):
        trainer(torch.compile(mlp(), backend="eager"))
    model = mlp()
    for name in ("0", "1"):
        setattr(model, name, torch.compile(model[int(name)], backend="eager"))
    made = LocalTrainer(model, ["0", "1"], CLAPP(score="softplus"), shape=(6,))
    assert made.step(X) == trainer().step(X)


class To(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


def of_two_precisions(first, second):
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Sequential(nn.LayerNorm(6), To(first), nn.Linear(6, 6, dtype=first), nn.Tanh()),
        nn.Sequential(To(second), nn.Linear(6, 6, dtype=second), nn.Tanh()),
    )


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize(
    "rule",
    [
        *(CLAPP(score="softplus", context=c) for c in ("same", "top", "both")),
        Views(),
        HeadedViews(width=8, widths=(8,)),
    ],
    ids=["same", "top", "both", "views", "head"],
)
@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
    ],
    ids=str,
)
def test_blocks_may_have_precisions_of_their_own(dtypes, rule, one_pass):
    blocks = ["0", "1"]
    exact = LocalTrainer(of_two_precisions(*[torch.float32] * 2), blocks, rule, shape=(6,))
    mixed = LocalTrainer(of_two_precisions(*dtypes), blocks, rule, shape=(6,), one_pass=one_pass)
    with torch.no_grad():  # the same weights but for rounding
        for a, b in zip(mixed.losses.parameters(), exact.losses.parameters(), strict=True):
            a.copy_(b)
    assert mixed.step(X) == pytest.approx(exact.step(X), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_one_precision_train(dtype):
    made = trainer(mlp().to(dtype), optimiser=SGD)
    assert made.step(X) == pytest.approx(trainer().step(X), rel=0.05)
    assert all(p.dtype == dtype for p in [*made.model.parameters(), *made.losses.parameters()])


def test_an_epsilon_that_half_precision_loses_is_refused():
    with pytest.raises(ValueError, match=r"eps = 1e-08 of AdamW is 0 in float16"):
        trainer(mlp().half())
    made = trainer(mlp().half(), optimiser=partial(torch.optim.AdamW, eps=1e-4))
    for _ in range(3):
        made.step(X)
    assert all(p.isfinite().all() for p in made.model.parameters())
    trainer(mlp().bfloat16()).step(X)


def test_a_copy_of_a_trainer_goes_on_by_itself():
    made = trainer(scheduler=partial(ExponentialLR, gamma=0.5))
    made.step(X)
    other = copy.deepcopy(made)
    assert made.step(X) == other.step(X)
    for _ in range(2):
        made.step(X)
    for _ in range(2):
        other.step(X)
    for a, b in zip(made.model.parameters(), other.model.parameters(), strict=True):
        assert a is not b
        assert torch.equal(a, b)
    assert made.optimisers[0].param_groups[0]["lr"] == other.optimisers[0].param_groups[0]["lr"]
    assert made.optimisers[0] is not other.optimisers[0]


class Words(nn.Module):
    def __init__(self, sparse):
        super().__init__()
        self.words = nn.Embedding(7, 6, sparse=sparse)

    def forward(self, x):
        return self.words(x.abs().mul(2).clamp(max=6).long()).mean(1)


def test_sparse_gradients_take_the_steps_of_dense_ones():
    def stepped(sparse):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Sequential(Words(sparse)), nn.Sequential(nn.Linear(6, 6)))
        made = trainer(model, optimiser=SGD)
        made.step(X)
        return list(model.parameters())

    for a, b in zip(stepped(True), stepped(False), strict=True):
        torch.testing.assert_close(a, b)


class Initialised(nn.Module):
    """Scales by the statistics of the first batch, and counts its calls in an attribute."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.ready, self.calls = False, 0

    def forward(self, x):
        if not self.ready:
            self.scale.data.copy_(1 / (x.std(0) + 1e-6))
            self.ready, self.first = True, len(x)
        self.calls += 1
        return x * self.scale


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
def test_the_first_batch_initialises_a_network_and_not_the_zeros_of_a_survey(kind):
    model = nn.Sequential(
        nn.Sequential(Initialised(), nn.Linear(6, 6)), nn.Sequential(nn.Linear(6, 6))
    )
    made = kind(model, ["0", "1"], Views(), shape=(6,), optimiser=partial(SGD, lr=0.0))
    first = model[0][0]
    assert (first.ready, first.calls, hasattr(first, "first")) == (False, 0, False)
    assert torch.equal(first.scale, torch.ones(6))
    made.step(X)
    torch.testing.assert_close(first.scale.detach(), 1 / (X.std(0) + 1e-6))
    assert first.first == len(X)
