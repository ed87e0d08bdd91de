"""Arrays, tensors, tables and generators where others are usual: the same result, or refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import linlocal as ll
from linlocal import analysis, autodiff, losses, rhm, rules, testing
from linlocal.analysis import hierarchy, local_losses
from linlocal.analysis.results import Address
from linlocal.losses import scores
from linlocal.pairs import Direction, Pairs

X, VIEW = testing.samples(6, 4, 0)
PAIRS = Pairs.from_views(X, VIEW)
FORWARD = PAIRS.directions[0]
TWO = losses.TypeTwo(losses.Softplus())
NET = ll.DeepLinear.uniform([4, 4, 3], 0)
MODEL = rhm.RandomHierarchyModel(num_classes=3, num_symbols=4, num_synonyms=2, num_levels=2)
LEAVES = MODEL.sample(8, seed=0).leaves
MODULE = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
LABELS = np.arange(20) % 2
POINTS = np.random.default_rng(0).standard_normal((20, 3))
BATCH = (torch.from_numpy(X).float(), torch.arange(6) % 2)
SHAPES = [(4,), (3,)]


# -- numbers that are the same in every library ----------------------------------------------------


def kinds(array):
    """The same array as other libraries and as Python have it."""
    yield "lists", array.tolist()
    yield "a generator", iter(array.tolist())
    yield "a tensor", torch.tensor(array)
    yield "a table", pd.DataFrame(array) if array.ndim == 2 else pd.Series(array)
    yield "a labelled array", xr.DataArray(array)
    if array.dtype.kind == "f":
        yield "a tensor with a graph", torch.tensor(array).requires_grad_()
        graphs = [torch.tensor(row).requires_grad_() for row in array]
        yield "a list of tensors with graphs", graphs
        yield "a masked array without a mask", np.ma.masked_array(array)


def as_arrays(result):
    """What is compared of a result, whatever it is."""
    if isinstance(result, Pairs):
        return [result.samples]
    if isinstance(result, Direction):
        return [result.anchor, result.sign]
    if isinstance(result, rhm.Trees):
        return list(result.arrays)
    if isinstance(result, rhm.Posterior):
        return list(result.levels)
    if isinstance(result, ll.Projection):
        return [result.matrix]
    if isinstance(result, ll.DeepLinear):
        return [np.asarray(result.matrix(l)) for l in result.layers]
    if isinstance(result, nn.ModuleList):
        return [p.detach().numpy() for p in result.parameters()]
    if isinstance(result, nn.Module):
        return [p.detach().numpy() for p in result.parameters()]
    if isinstance(result, xr.Dataset):
        return [result[name].values for name in result.data_vars]
    if isinstance(result, tuple | list):
        return [np.asarray(each) for each in result]
    return [np.asarray(getattr(result, "accuracy", result))]


TAKES = {
    "Pairs": (lambda x: Pairs(x, [FORWARD]), PAIRS.samples),
    "Pairs.from_views": (lambda x: Pairs.from_views(x, VIEW), X),
    "Pairs.from_many_views": (lambda x: Pairs.from_many_views([VIEW, x, VIEW]), X),
    "Pairs.from_many_views: bank": (lambda x: Pairs.from_many_views([X, VIEW], bank=x), X),
    "Pairs.from_sequence: steps": (
        lambda s: Pairs.from_sequence(np.stack([X, VIEW]), steps=s),
        np.array([1, 2]),
    ),
    "Pairs.from_labels": (lambda x: Pairs.from_labels(x, np.arange(len(X)) % 2), X),
    "Pairs.from_labels: labels": (lambda y: Pairs.from_labels(X, y), np.arange(len(X)) % 2),
    "Direction: anchor": (lambda r: Direction(r, [1, 0], [1, -1], [0, 0]), np.array([0, 1])),
    "Direction: sign": (lambda s: Direction([0, 1], [1, 0], s, [0, 0]), np.array([1, -1])),
    "DeepLinear": (lambda w: ll.DeepLinear([w]), np.eye(4)),
    "DeepLinear.uniform": (ll.DeepLinear.uniform, np.array([4, 3])),
    "activities": (lambda x: NET.activities(x).z, X),
    "optimal_projection": (lambda z: ll.optimal_projection(z, VIEW, FORWARD, TWO, 0.1), X),
    "autodiff.optimal_projection": (
        lambda z: autodiff.optimal_projection(z, VIEW, FORWARD, TWO, 0.1),
        X,
    ),
    "Penalty": (lambda s: rules.Penalty(s).strength, np.array([0.1, 0.2])),
    "Rule: pooling": (lambda p: rules.Rule("r", TWO, pooling=p).pooling, np.array([1, 2])),
    "parse": (MODEL.parse, LEAVES),
    "one_hot": (MODEL.one_hot, LEAVES),
    "corrupt": (lambda x: MODEL.corrupt(x, 0.5, seed=0), LEAVES),
    "posterior": (MODEL.posterior, LEAVES),
    "data": (MODEL.data, np.array([0, 5, 3])),
    "RandomHierarchyModel: tuple_size": (
        lambda s: (
            rhm.RandomHierarchyModel(
                num_classes=3, num_symbols=4, num_synonyms=2, num_levels=2, tuple_size=s
            ).rules
        ),
        np.array([2, 2]),
    ),
    "linear_probe": (
        lambda x: analysis.linear_probe(x, LABELS, POINTS, LABELS, seed=0).validation_accuracy,
        POINTS,
    ),
    "linear_probe: strengths": (
        lambda s: (
            analysis.linear_probe(POINTS, LABELS, POINTS, LABELS, seed=0, strengths=s).strength
        ),
        np.logspace(-3, 3, 7),
    ),
    "NetworkRule: pooling": (
        lambda p: local_losses.CLAPP(score="softplus", pooling=p).build(SHAPES, 1),
        np.array([1, 1]),
    ),
    "NetworkRule.build": (lambda s: local_losses.CLAPP().build([s, (3,)], 1), np.array([4])),
    "HeadedViews: widths": (
        lambda w: local_losses.HeadedViews(width=4, widths=w).build(SHAPES, 1),
        np.array([5, 3]),
    ),
    "HierarchicalNet": (lambda s: hierarchy.HierarchicalNet(4, s, 3, 2, 4), np.array([2, 2])),
}


@pytest.mark.parametrize("name", TAKES)
def test_arrays_of_every_library_mean_the_same(name):
    function, array = TAKES[name]
    expected = as_arrays(function(array))
    for kind, same in kinds(array):
        for a, b in zip(as_arrays(function(same)), expected, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=kind)


def test_half_precision_of_torch_is_read_exactly():
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e5m2):
        half = torch.from_numpy(X).to(dtype)
        for given in (half, list(half)):
            assert (Pairs.from_views(given, VIEW).samples[:6] == half.double().numpy()).all()


@pytest.mark.parametrize(
    "loader",
    [
        [(X.astype(np.float32), np.arange(6) % 2)],
        [(BATCH[0], (np.arange(6) % 2).tolist())],
        [[*BATCH, torch.arange(6)]],
        (batch for batch in [BATCH]),
    ],
    ids=["numpy", "a list of labels", "with indices", "a generator"],
)
def test_the_probe_takes_the_batches_of_usual_loaders(loader):
    def probe(batches):
        return analysis.probe_blocks(
            MODULE, ["0"], batches, [BATCH], seed=0, pooling=np.int64(1), validation=0.5
        )

    xr.testing.assert_equal(probe(loader), probe([BATCH]))


def test_names_of_blocks_may_be_any_sequence_and_one_name_is_one_block():
    for names in (["0", "2"], np.array(["0", "2"]), iter(["0", "2"]), dict.fromkeys("02").keys()):
        assert analysis.blocks(MODULE, names) == ("0", "2")
    assert analysis.blocks(MODULE, "0") == ("0",)


def test_paths_may_be_words(tmp_path):
    address = Address("e", "cpu", 0, str(tmp_path))
    assert address == Address("e", "cpu", 0, tmp_path)
    provenance = analysis.Provenance.collect("e", "cpu", 0, {})
    data = xr.Dataset({"a": ("x", [1.0, 2.0])})
    written = analysis.results.write(data, str(address.path), provenance)
    assert written == address.path
    xr.testing.assert_equal(analysis.results.read(str(written)), data)


# -- what has no order, no letters that are entries, or no numbers ---------------------------------

MASKED = np.ma.masked_greater(X, 0)
REFUSED = {
    "a set of weights": (lambda: ll.DeepLinear({1}), TypeError, "weights must be .* got a set"),
    "a state dict": (
        lambda: ll.DeepLinear(nn.Linear(4, 4, bias=False).state_dict()),
        TypeError,
        "weights must be .* got a OrderedDict",
    ),
    "a table for weights": (
        lambda: ll.DeepLinear(pd.DataFrame(np.eye(4))),
        TypeError,
        "weights must be a sequence of matrices .* got a DataFrame",
    ),
    "a word for widths": (
        lambda: ll.DeepLinear.uniform("43"),
        TypeError,
        r"widths must be a sequence of whole numbers, got '43'; write \['43'\] for one",
    ),
    "a set of penalties": (lambda: rules.Penalty({0.1}), TypeError, "penalty must be .* got a set"),
    "a set of blocks": (
        lambda: analysis.blocks(MODULE, {"0", "2"}),
        TypeError,
        "blocks must be a sequence of names of submodules, got a set",
    ),
    "a list of masked samples": (
        lambda: Pairs.from_views(list(MASKED), VIEW),
        ValueError,
        "x: some entries are masked",
    ),
    **{
        f"a masked {what}": (lambda take=take: take(np.ma.masked), TypeError, "got a Masked")
        for what, take in {
            "margin": scores.Hinge,
            "penalty": rules.Penalty,
            "temperature": rules.SimCLR,
            "width": lambda width: ll.DeepLinear.uniform([4, width]),
        }.items()
    },
    "a number that a mask hides": (
        lambda: scores.Hinge(np.ma.masked_equal(np.array(3.0), 3.0)),
        TypeError,
        "margin must be a number, got a MaskedArray",
    ),
    **{
        f"a {kind} tensor": (
            lambda make=make: Pairs.from_views(make(torch.from_numpy(X)), VIEW),
            TypeError,
            "x is a tensor that numpy cannot read .* such as tensor.to_dense",
        )
        for kind, make in {
            "sparse": torch.Tensor.to_sparse,
            "dataless": lambda x: x.to("meta"),
        }.items()
    },
    "masked samples": (
        lambda: Pairs.from_views(MASKED, VIEW),
        ValueError,
        "x: some entries are masked and stand for no number",
    ),
    "masked rows": (
        lambda: Direction(np.ma.masked_equal([0, 1], 1), [1, 0], [1, -1], [0, 0]),
        ValueError,
        "anchor: some entries are masked",
    ),
    "masked activities of the oracle": (
        lambda: autodiff.optimal_projection(MASKED, VIEW, FORWARD, TWO, 0.1),
        ValueError,
        "z: some entries are masked",
    ),
    "masked features": (
        lambda: analysis.linear_probe(
            np.ma.masked_greater(POINTS, 0), LABELS, POINTS, LABELS, seed=0
        ),
        ValueError,
        "training features: some entries are masked",
    ),
    **{
        f"masked leaves of {name}": (
            lambda take=take: take(np.ma.masked_equal(LEAVES, 1)),
            ValueError,
            "leaves: some entries are masked",
        )
        for name, take in (
            ("parse", MODEL.parse),
            ("posterior", MODEL.posterior),
            ("one_hot", MODEL.one_hot),
        )
    },
    "booleans for leaves": (
        lambda: MODEL.posterior(LEAVES > 1),
        ValueError,
        r"leaves must be whole numbers \(data, 4\), got shape \(8, 4\) of bool",
    ),
    "more than float64 holds": (
        lambda: Pairs.from_views(X.astype(np.longdouble) * np.longdouble("1e4000"), VIEW),
        ValueError,
        "x has 24 non-finite entries",
    ),
    "a number beyond all floats": (
        lambda: rules.Penalty(10**400),
        ValueError,
        "penalty is beyond the largest float",
    ),
    "an array of masks": (
        lambda: ll.global_update(NET, PAIRS, rules.CLAPP("softplus"), masks=np.array(["a", "b"])),
        ValueError,
        'masks must be "sample", "batch" or "none", got array',
    ),
    "an array of negatives": (
        lambda: Pairs.from_views(X, VIEW, negatives=np.array(["next", "random"])),
        ValueError,
        'negatives must be "next", "stacked", "random", "all" or None, got array',
    ),
    "an array of contexts": (
        lambda: rules.Rule("r", TWO, np.array(["same", "top"])),
        ValueError,
        "context must be one of",
    ),
    "an array of methods": (
        lambda: ll.optimal_projection(X, VIEW, FORWARD, TWO, 0.1, method=np.array(["a", "b"])),
        ValueError,
        "method must be one of auto, dual, primal, iterative, got array",
    ),
    "three views": (
        lambda: Pairs(PAIRS.samples, PAIRS.directions, ([0, 1], [2, 3], [4, 5])),
        ValueError,
        "views must be two vectors of rows among 12 samples",
    ),
    "a loader of dicts": (
        lambda: analysis.probe_blocks(MODULE, ["0"], [{"x": X}], [BATCH], seed=0),
        TypeError,
        r"gave a mapping with the keys \['x'\]: give batches \(inputs, labels\)",
    ),
    "labels in a table": (
        lambda: analysis.probing.stratified_split(np.zeros((4, 4)), 0.2, 0),
        ValueError,
        r"labels must be \(samples,\), got shape \(4, 4\)",
    ),
    "shapes without an axis": (
        lambda: local_losses.CLAPP().build((4, 3)),
        TypeError,
        "shape 1 of shapes must be a sequence of whole numbers, got 4",
    ),
    "a pooling that there is not": (
        lambda: local_losses.CLAPP(pooling="globl"),
        ValueError,
        "pooling must be \"global\", a side, .* got 'globl'",
    ),
    "half a window": (
        lambda: local_losses.CLAPP(context_pooling=[1, 1.5]),
        TypeError,
        r"a side of context_pooling must be a whole number, got 1\.5",
    ),
    "a word for a flag": (
        lambda: local_losses.CLAPP(shared="no"),
        TypeError,
        "shared must be True or False, got 'no'",
    ),
    "a word for normalisation": (
        lambda: hierarchy.HierarchicalNet(4, (2, 2), 3, 2, 4, normalise="no"),
        TypeError,
        "normalise must be True or False, got 'no'",
    ),
    "a number for a derivative": (
        lambda: hierarchy.Feedback(local_derivative=0),
        TypeError,
        "local_derivative must be True or False, got 0",
    ),
    "images of numpy": (
        lambda: local_losses.hybrid_images(np.zeros((3, 1, 8, 8)), torch.Generator()),
        TypeError,
        "images must be a tensor",
    ),
    "a seed for a generator": (
        lambda: local_losses.hybrid_images(torch.zeros(3, 1, 8, 8), 3),
        TypeError,
        r"generator must be a torch\.Generator, got 3",
    ),
    "noise on numpy": (
        lambda: local_losses.ActivityNoise()(X),
        TypeError,
        "a block's output must be a tensor, got a ndarray",
    ),
    "labels with a point": (
        lambda: local_losses.labels_of((X, np.arange(6.0)), 6, torch.device("cpu")),
        TypeError,
        r"labels must be whole numbers, got torch\.float64",
    ),
    "leaves for trees": (
        lambda: hierarchy.FreshBatches(MODEL, batch_size=2, num_batches=2, seed=0, exclude=LEAVES),
        TypeError,
        "trees must be `Trees`",
    ),
    "a name for an encoding": (
        lambda: hierarchy.FreshBatches(MODEL, batch_size=2, num_batches=2, seed=0, encode="hot"),
        TypeError,
        "encode must be a function of leaves, as rhm.one_hot, got 'hot'",
    ),
    "a number for a path": (
        lambda: analysis.results.read(3),
        TypeError,
        "path must be a path or a string, got 3",
    ),
    "bytes for a folder": (
        lambda: Address("e", "cpu", 0, b"results"),
        TypeError,
        "folder must be a path or a string, got a bytes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_in_words(case, refused):
    refused(*REFUSED[case])


def test_a_path_is_kept_as_a_path():
    assert Address("e", "cpu", 0, "results").folder == Path("results")
