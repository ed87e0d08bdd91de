"""A batch holds two views, in one of the ways of usual loaders; anything else is refused."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from linlocal.analysis.local_losses import (
    CLAPP,
    SCFF,
    ForwardForward,
    GatheredRule,
    HeadedClasses,
    HeadedViews,
    LocalLoss,
    Views,
    labels_of,
)
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, SeededLoader

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(4)
OF_VIEWS = {
    "CLAPP": CLAPP(score="softplus"),
    "Views": Views(),
    "SCFF": SCFF(),
    "gathered": GatheredRule(CLAPP()),
    "behind a head": HeadedViews(width=4, widths=(4,)),
}


def mlp(width=6):
    torch.manual_seed(5)
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(2)))


def trainer(rule=OF_VIEWS["CLAPP"], kind=LocalTrainer, shape=(6,), **options):
    return kind(mlp(shape[-1]), None, rule, shape=shape, **options)


def stepped(batch, **options):
    made = trainer(**options)
    return made.step(batch), [p.detach() for p in made.model.parameters()]


def same(first, second):
    return first[0] == second[0] and all(map(torch.equal, first[1], second[1]))


PAIRS = {
    "a pair": (X[:4], X[4:]),
    "a list": [X[:4], X[4:]],
    "with labels": (X[:4], X[4:], Y),
    "with labels and rows": [X[:4], X[4:], Y, torch.arange(4)],
    "nested": ((X[:4], X[4:]), Y),
    "nested alone": ([X[:4], X[4:]],),
    "stacked, with labels of the data": (X, Y),
    "stacked, with labels of the rows": (X, Y.repeat(2)),
    "stacked, with weights": (X, torch.rand(8)),
}


@pytest.mark.parametrize(
    "kind", [LocalTrainer, partial(LocalTrainer, one_pass=True), GlobalTrainer]
)
@pytest.mark.parametrize("case", PAIRS)
def test_both_views_are_used(case, kind):
    assert same(stepped(PAIRS[case], kind=kind), stepped(X, kind=kind))


REFUSED = {
    "three views": ((X, X, X), "3 tensors of one shape"),
    "three views and labels": ((X, X, X, Y), "3 tensors of one shape"),
    "three views in a tuple": (((X, X, X), Y), "two views .* got 3"),
    "one view in a tuple": (((X,), Y), "two views .* got 1"),
    "views of other lengths": ((X, X[:6]), r"one shape, got 2: \(8, 6\), \(6, 6\)"),
    "views of other lengths in a tuple": (((X, X[:6]), Y), r"got 2: \(8, 6\), \(6, 6\)"),
    "a view and what is none": (((X, None), Y), r"\(8, 6\), None"),
    "a view apart": ((X, Y, X), "2 tensors of one shape"),
    "an axis of views": (X.view(4, 2, 6), r"Views of shape \(4, 2, 6\)"),
    "an axis of views in front": (X.view(2, 4, 6), r"Views of shape \(2, 4, 6\)"),
    "labels of single data": ((X, torch.arange(8)), "halves have other labels"),
    "labels of a third of the rows": ((torch.randn(24, 6), torch.arange(8)), "8 labels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_number_of_views_is_refused(case):
    batch, message = REFUSED[case]
    made = trainer()
    before = [p.detach().clone() for p in made.model.parameters()]
    with pytest.raises(ValueError, match=message):
        made.step(batch)
    assert all(map(torch.equal, made.model.parameters(), before))
    made.step(X)  # it goes on


def test_crops_of_another_size_are_views():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    made = LocalTrainer(model, None, Views(), shape=(3, 8, 8))
    large, small = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 6, 6)
    with pytest.raises(ValueError, match="4 tensors of one shape"):
        made.step([large, large, small, small])
    made.step((large, large + 0.1, torch.randn(4, 1, 8, 8)))  # masks are none


@pytest.mark.parametrize("batch", [X.numpy(), (X.numpy(), X.numpy()), {"x": X}, "x", [], None])
def test_what_is_no_tensor_is_refused_by_its_kind(batch):
    with pytest.raises(TypeError, match=r"both views stacked .* got "):
        trainer().step(batch)


@pytest.mark.parametrize("name", OF_VIEWS)
def test_labels_that_differ_between_the_halves_are_refused_where_views_are_compared(name):
    with pytest.raises(ValueError, match="halves have other labels"):
        trainer(OF_VIEWS[name]).step((X, torch.arange(8)))


class OfRows(LocalLoss):
    """A loss of single rows."""

    def forward(self, here, top, batch=None):
        return (here[:, 0] - labels_of(batch, len(here), here.device)).square().mean()


class OwnRule:
    def build(self, shapes, seed=0):
        return nn.ModuleList(OfRows() for _ in shapes)


@pytest.mark.parametrize(
    "rule",
    [HeadedClasses(width=4, widths=(8,)), OwnRule(), ForwardForward()],
    ids=["classes", "rows", "goodness"],
)
def test_losses_that_compare_no_views_take_any_labels(rule):
    trainer(rule).step((X, torch.arange(8)))


def test_labels_of_a_pair_are_those_behind_it():
    device = torch.device("cpu")
    expected = labels_of((X, Y), 8, device)
    assert torch.equal(labels_of((X[:4], X[4:], Y), 8, device), expected)
    assert torch.equal(labels_of(((X[:4], X[4:]), Y), 8, device), expected)
    rule = HeadedClasses(width=4, widths=(4,))
    assert same(stepped((X[:4], X[4:], Y), rule=rule), stepped((X, Y), rule=rule))


# -- what is declared ------------------------------------------------------------------------------


def test_a_declared_layout_is_kept():
    paired, stacked = stepped((X, X + 1)), stepped(X)
    assert same(stepped((X, X + 1), views="pair"), paired)
    assert same(stepped((X, X + 1), views="stacked"), stacked)
    assert not same(paired, stacked)
    # Labels are then not asked.
    assert same(stepped((X, torch.arange(8)), views="stacked"), stacked)
    with pytest.raises(ValueError, match="single tensor of inputs"):
        stepped(X, views="pair")
    with pytest.raises(ValueError, match="single tensor of inputs"):
        stepped((X, Y), views="pair")
    with pytest.raises(ValueError, match="expects one tensor of inputs, got 2"):
        stepped(((X, X), Y), views="stacked")
    with pytest.raises(ValueError, match=r'views must be "stacked", "pair" or None, got 2'):
        trainer(views=2)


def test_inputs_and_targets_of_one_shape_are_not_joined():
    def loss(answer, batch):
        return (answer - batch[1]).square().mean()

    def made(views=None):
        return GlobalTrainer(mlp(), None, loss=loss, shape=(6,), views=views)

    with pytest.raises(ValueError, match="may be two views, or inputs and their targets"):
        made().step((X, X))
    model = mlp()
    expected = loss(model(X), (X, X)).item()
    assert made("stacked").step((X, X))[2] == pytest.approx(expected, rel=1e-6)
    assert made().step((X, X[:, :1].long())) != {}


# -- views by augment ------------------------------------------------------------------------------


def test_augment_may_make_a_pair():
    def stacked(x):
        return torch.cat([x, x + 1])

    expected = stepped((X, torch.arange(8)), augment=stacked)
    assert same(stepped((X, torch.arange(8)), augment=lambda x: (x, x + 1)), expected)
    assert same(stepped(X, augment=stacked), expected)
    # A pair in the batch goes to augment whole only where it is nested.
    together = stepped(((X, X + 1), Y), augment=torch.cat)
    assert same(together, expected)


@pytest.mark.parametrize(
    ("augment", "batch", "message"),
    [
        (lambda x: x, (X, torch.arange(8)), "halves have other labels"),
        (lambda x: (x, x, x), X, "two views .* got 3"),
        (lambda x: torch.cat([x, x]), (X, X), "augment makes views and gets the first one only"),
        (lambda x: x[None], X, r"Views of shape \(1, 8, 6\)"),
    ],
    ids=["one view", "three views", "a pair that it does not see", "an axis more"],
)
def test_views_that_augment_does_not_make_are_refused(augment, batch, message):
    with pytest.raises(ValueError, match=message):
        trainer(augment=augment).step(batch)
    with pytest.raises(TypeError, match=r"got from augment None"):
        trainer(augment=lambda x: None).step(X)
    with pytest.raises(TypeError, match=r"augment must be a function, got 3"):
        trainer(augment=3)


# -- loaders ---------------------------------------------------------------------------------------


def test_a_loader_of_single_data_makes_no_views():
    for data in (TensorDataset(X), TensorDataset(X, torch.zeros(8)), TensorDataset(X, Y.repeat(2))):
        for rule in (CLAPP(), ForwardForward()):
            with pytest.raises(ValueError, match="rows are different data"):
                trainer(rule).fit(SeededLoader(data, 4), 1)
    trainer().fit(SeededLoader(TensorDataset(X, X + 1), 4), 1)
    trainer().fit(SeededLoader(TensorDataset(X, X + 1, torch.arange(8)), 4), 1)
    trainer(augment=lambda x: (x, x + 1)).fit(SeededLoader(TensorDataset(X), 4), 1)
    trainer(OwnRule()).fit(SeededLoader(TensorDataset(X, torch.arange(8)), 4), 1)


@pytest.mark.parametrize("loader", [DataLoader(TensorDataset(X), 4), [X], iter([X]), None])
def test_fit_takes_loaders_that_can_go_on(loader):
    with pytest.raises(TypeError, match=r"method batches\(epoch, start\), .* trainer\.step"):
        trainer().fit(loader, 1)


def test_numbers_of_fit_are_whole():
    loader = SeededLoader(TensorDataset(X, X + 1), 4)
    for options, message in (
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"epochs": float("inf")}, "epochs must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"epochs": -1}, "epochs must be at least 0"),
        ({"epochs": 1, "every": float("nan")}, "every must be a whole number"),
        ({"epochs": 1, "every": 0}, "every must be at least 1"),
        ({"epochs": 1, "checkpoints": "folder"}, r"checkpoints must be Checkpoints\(folder\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            trainer().fit(loader, **options)


@pytest.mark.parametrize("shape", [4, (float("nan"),), ("a",), (2.5,), (True,), "ab", (-6,)])
def test_a_shape_is_whole_numbers(shape):
    with pytest.raises((TypeError, ValueError), match=r"[sS]hape must be .* got"):
        LocalTrainer(mlp(), None, CLAPP(), shape=shape)
    LocalTrainer(mlp(), None, CLAPP(), shape=iter([6]), seed=np.int64(3)).step(X)


# -- views that say nothing ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
def test_equal_views_are_told_once(kind):
    made = trainer(kind=kind)
    with pytest.warns(UserWarning, match="Both halves of the first batch are equal.* all 4 rows"):
        made.step(X[:4].repeat(2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.step(X[:4].repeat(2, 1))
        trainer(kind=kind).step(X)
    with pytest.warns(UserWarning, match="All 8 rows of the first batch are equal"):
        trainer(kind=kind).step(X[:1].repeat(8, 1))
