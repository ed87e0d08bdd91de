"""An error says what was expected, what came, and what to change."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

import linlocal as ll
from linlocal import losses, rules, testing
from linlocal.losses import scores
from linlocal.networks import Convolution, average_pooling
from linlocal.pairs import Direction, Pairs
from linlocal.rules import Penalty, Rule

X, VIEW = testing.samples(5, 4, 0)
NETWORK = ll.DeepLinear.uniform([4, 3, 2], 0)
RELU = ll.DeepReLU.uniform([4, 3, 2], 0)
PAIRS = Pairs.from_views(X, VIEW)
TWO = losses.TypeTwo(scores.Softplus())
WITH_NAN, WITH_INF = X.copy(), X.copy()
WITH_NAN[2, 1], WITH_INF[0, 3] = np.nan, -np.inf
INDEX = np.arange(2)
SIGNS = np.array([1.0, -1.0])
KERNEL = np.ones((2, 2, 3, 3))


def direction(anchor=INDEX, reference=INDEX, sign=SIGNS, group=(0, 0)):
    return Direction(
        np.array(anchor), np.array(reference), np.array(sign, dtype=float), np.array(group)
    )


def solve(z=X, c=VIEW, d=None, loss=TWO, penalty=0.1, **options):
    if d is None:
        d = Pairs.from_views(X, VIEW, directions="forward").directions[0]
    return ll.optimal_projection(z, c, d, loss, penalty, **options)


def convolutional():
    return ll.DeepLinear(
        [Convolution(KERNEL, (2, 4, 4)), Convolution(KERNEL[..., :1, :1], (2, 2, 2))]
    )


NETWORKS = {
    "no layer": (lambda: ll.DeepLinear([]), "at least one weight matrix"),
    "widths do not chain": (
        lambda: ll.DeepLinear([np.ones((3, 4)), np.ones((2, 5))]),
        r"W_1 writes 3 units, but W_2 reads 5; W_2 must be \(outputs, 3\)",
    ),
    "a vector for a weight": (
        lambda: ll.DeepLinear([np.ones(4)]),
        r"W_1 must be a matrix \(outputs, inputs\), got shape \(4,\)",
    ),
    "nan in a weight": (
        lambda: ll.DeepLinear([np.eye(2), [[1.0, np.nan], [np.inf, 0.0]]]),
        r"W_2 has 2 non-finite entries, the first at index \(0, 1\)",
    ),
    "an empty weight": (lambda: ll.DeepLinear([np.ones((0, 3))]), "W_1 is empty"),
    "one width": (lambda: ll.DeepLinear.orthogonal([4]), r"at least one layer, got widths \[4\]"),
    "width zero": (
        lambda: ll.DeepLinear.uniform([4, 0, 2]),
        r"positive whole numbers, got \[4, 0, 2\]",
    ),
    "half a unit": (
        lambda: ll.DeepLinear.uniform([4, 2.5]),
        r"positive whole numbers, got \[4, 2\.5\]",
    ),
    "scale zero": (lambda: ll.DeepLinear.conformal([4, 2], 0.0), "scale must be a positive number"),
    "condition number below 1": (
        lambda: ll.DeepLinear.with_condition_number([4, 3, 2], 0.5),
        r"condition_number must be at least 1, got 0\.5",
    ),
    "condition number of one layer": (
        lambda: ll.DeepLinear.with_condition_number([4, 3], 2.0),
        "needs at least two layers",
    ),
    "layer 0": (lambda: NETWORK.matrix(0), "numbered 1..2 in this network, got layer 0; the input"),
    "layer L+1": (lambda: NETWORK.gram(3), "numbered 1..2 in this network, got layer 3"),
    "layer 0 downstream": (lambda: NETWORK.downstream(0), "got layer 0"),
    "layer L+1 of a relu": (lambda: RELU.downstream(3, X), "got layer 3"),
    "layer of a mismatch": (
        lambda: ll.mismatch(NETWORK, PAIRS, rules.CLAPP(), 0),
        "got layer 0; the input is not a layer",
    ),
    "input too wide": (
        lambda: NETWORK.activities(np.ones((3, 7))),
        r"reads 4 features, but the samples have 7: x must be \(samples, 4\)",
    ),
    "one sample as a vector": (
        lambda: NETWORK.activities(np.ones(4)),
        r"reshape a single sample to \(1, -1\)",
    ),
    "nan in the input": (
        lambda: NETWORK.activities(WITH_NAN),
        r"x has 1 non-finite entries, the first at index \(2, 1\)",
    ),
    "the isometry of a convolution": (
        lambda: convolutional().isometric(),
        "nearest isometry of a convolution is not a convolution",
    ),
    "a kernel of three dimensions": (
        lambda: Convolution(np.ones((2, 3, 3)), (2, 4, 4)),
        r"A kernel must be \(out channels, in channels / groups, height, width\)",
    ),
    "channels that do not fit": (
        lambda: Convolution(KERNEL, (3, 4, 4)),
        "does not fit maps of 3 channels",
    ),
    "groups that do not divide": (
        lambda: Convolution(np.ones((3, 1, 1, 1)), (2, 4, 4), groups=2),
        "groups=2 does not fit",
    ),
    "a kernel larger than its map": (
        lambda: Convolution(KERNEL, (2, 2, 2)),
        "leaves nothing of maps",
    ),
    "nan in a kernel": (
        lambda: Convolution(KERNEL * np.nan, (2, 4, 4)),
        "kernel has 36 non-finite",
    ),
    "pooling larger than the map": (
        lambda: average_pooling((2, 3, 4), 4),
        "does not fit maps of 3 x 4; use a size of 1..3",
    ),
}

PAIRS_CASES = {
    "views of different shapes": (
        lambda: Pairs.from_views(X, VIEW[:3]),
        r"must have the same shape \(samples, width\), got \(5, 4\) and \(3, 4\)",
    ),
    "an empty batch": (lambda: Pairs.from_views(X[:0], VIEW[:0]), r"x is empty: shape \(0, 4\)"),
    "a vector": (lambda: Pairs.from_views(X[0], VIEW[0]), r"got shape \(4,\); reshape"),
    "nan": (lambda: Pairs.from_views(WITH_NAN, VIEW), r"x has 1 non-finite .* index \(2, 1\)"),
    "infinity in the view": (
        lambda: Pairs.from_views(X, WITH_INF),
        r"x_view has 1 non-finite .* index \(0, 3\)",
    ),
    "one sample with negatives": (
        lambda: Pairs.from_views(X[:1], VIEW[:1]),
        "at least 2 samples, got 1; use more samples, fewer negatives, or negatives=None",
    ),
    "too many negatives": (
        lambda: Pairs.from_views(X, VIEW, num_negatives=5),
        "5 negatives for each pair need a batch of at least 6 samples, got 5",
    ),
    "no negatives by number": (
        lambda: Pairs.from_views(X, VIEW, num_negatives=0),
        "num_negatives must be at least 1, got 0",
    ),
    "unknown negatives": (
        lambda: Pairs.from_views(X, VIEW, negatives="hard"),
        '"next", "random" or None, got \'hard\'',
    ),
    "random without a generator": (
        lambda: Pairs.from_views(X, VIEW, negatives="random"),
        r"needs rng=np\.random\.default_rng\(seed\)",
    ),
    "unknown directions": (
        lambda: Pairs.from_views(X, VIEW, directions="backward"),
        '"both" or "forward", got \'backward\'',
    ),
    "one image": (
        lambda: Pairs.from_image_patches(np.ones((8, 8)), 2),
        r"must be \(images, height, width\), got shape \(8, 8\)",
    ),
    "patches too large": (
        lambda: Pairs.from_image_patches(np.ones((3, 8, 8)), 5),
        "use a patch_size of at most 4",
    ),
    "positive and negative of different shapes": (
        lambda: Pairs.from_positive_negative(X, VIEW[:2]),
        r"must have the same shape \(samples, width\), got \(5, 4\) and \(2, 4\)",
    ),
    "no direction": (lambda: Pairs(X, ()), "at least one direction"),
    "a row beyond the batch": (lambda: Pairs(X[:1], (direction(),)), "names row 1"),
    "a row below zero": (lambda: Pairs(X, (direction(anchor=[-1, 0]),)), "or below 0"),
    "lengths differ": (lambda: direction(anchor=[0, 1, 2]), r"the same length, got shapes \(3,\)"),
    "a sign of zero": (lambda: direction(sign=[1, 0]), r"\+1 \(positive pair\) or -1"),
    "no positive pair": (lambda: direction(sign=[-1, -1]), "at least one positive pair"),
    "two positives in a group": (lambda: direction(sign=[1, 1]), "group number of its own"),
    "a negative without a positive": (lambda: direction(group=[0, 1]), "that of a positive pair"),
}

PROJECTIONS = {
    "too few rows": (lambda: solve(z=X[:3]), "z has 3 rows, but the pairs use 5 different samples"),
    "too few contexts": (lambda: solve(c=VIEW[:3]), "c has 3 rows, but the pairs use 5"),
    "nan": (lambda: solve(z=WITH_NAN), r"z has 1 non-finite entries, the first at index \(2, 1\)"),
    "penalty zero": (lambda: solve(penalty=0.0), r"positive and finite, got 0\.0"),
    "penalty infinite": (lambda: solve(penalty=np.inf), "positive and finite, got inf"),
    "no negatives": (
        lambda: solve(
            d=Pairs.from_views(X, VIEW, negatives=None, directions="forward").directions[0]
        ),
        'negatives="next" or negatives="random"',
    ),
    "unknown method": (lambda: solve(method="sgd"), '"dual" or "primal", got \'sgd\''),
}


def update(rule, network=NETWORK, pairs=PAIRS):
    return ll.local_update(network, pairs, rule)


UPDATES = {
    "no negatives": (
        lambda: update(rules.CLAPP(), pairs=Pairs.from_views(X, VIEW, negatives=None)),
        "CLAPP needs negative pairs, but this pair set has none; build it with negatives=",
    ),
    "no views": (
        lambda: update(rules.SimCLR(), pairs=Pairs.from_positive_negative(X, VIEW)),
        "SimCLR compares two views; build the pairs with Pairs.from_views",
    ),
    "pairs for single samples": (
        lambda: update(rules.ForwardForward()),
        "judges single samples; build the pairs with Pairs.from_positive_negative",
    ),
    "batch of another width": (
        lambda: update(rules.CLAPP(), pairs=Pairs.from_views(X[:, :3], VIEW[:, :3])),
        "reads 4 features, but the samples have 3",
    ),
    "a penalty too many": (
        lambda: update(rules.CLAPP(penalty=Penalty((0.1, 0.1, 0.1)))),
        "3 penalty strengths for a network of 2 layers; give one, or 2",
    ),
    "pooling of another depth": (
        lambda: update(replace(rules.CLAPP(), pooling=(1,))),
        "pooling has 1 windows for 2 layers",
    ),
    "pooling of a vector": (
        lambda: update(replace(rules.CLAPP(), pooling=(2, 1))),
        "Layer 1 has no feature map to pool; its window must be 1",
    ),
    "pooling for two views": (
        lambda: update(replace(rules.VICReg(), pooling=(1, 1))),
        "Pooling is defined for losses of scored pairs only",
    ),
    "pooling too large": (
        lambda: update(
            replace(rules.CLAPP(), pooling=(3, 1)),
            convolutional(),
            Pairs.from_views(*testing.samples(4, 32, 0)),
        ),
        "use a size of 1..2",
    ),
    "a matched projection of a relu": (
        lambda: update(Rule("r", TWO, projection="matched"), RELU),
        "one downstream map for all samples: a linear network",
    ),
    "the downstream metric of a relu": (
        lambda: update(rules.CLAPP("softplus", penalty=Penalty(0.1, "downstream")), RELU),
        "one downstream map for all samples: a linear network",
    ),
    "the identity onto another width": (
        lambda: update(Rule("r", TWO, "top", "identity")),
        r"needs layers of equal width, got \[3, 2\]",
    ),
    "one sample for a covariance": (
        lambda: update(rules.VICReg(), pairs=Pairs.from_views(X[:1], VIEW[:1], negatives=None)),
        "VICReg estimates a covariance: it needs at least 2 samples, got 1",
    ),
    "unknown masks": (
        lambda: ll.global_update(RELU, PAIRS, rules.CLAPP("softplus"), masks="all"),
        '"sample", "batch" or "none", got \'all\'',
    ),
}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(*case, id=f"{table}: {name}")
        for table, cases in {
            "network": NETWORKS,
            "pairs": PAIRS_CASES,
            "projection": PROJECTIONS,
            "update": UPDATES,
        }.items()
        for name, case in cases.items()
    ],
)
def test_the_message_says_what_to_change(build, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            build()


def test_complex_numbers_and_words_are_no_activities():
    with pytest.raises(TypeError, match="x must hold real numbers, got dtype complex128"):
        Pairs.from_views(X * 1j, VIEW)
    with pytest.raises(TypeError, match="W_1 must hold real numbers"):
        ll.DeepLinear([[["a"]]])


MODULES = {
    "a bias": (lambda nn: [nn.Linear(4, 3)], "Layer 0 has a bias.*use bias=False", ValueError),
    "a relu": (
        lambda nn: [nn.Linear(4, 3, bias=False), nn.ReLU()],
        r"Layer 1 is a ReLU; use DeepReLU\.from_module",
        ValueError,
    ),
    "a normalisation": (
        lambda nn: [nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3)],
        "Layer 1 is a BatchNorm1d, which is no exact matrix",
        TypeError,
    ),
    "no input shape": (
        lambda nn: [nn.Conv2d(1, 2, 3, bias=False)],
        r"give input_shape=\(channels, height, width\), got None",
        ValueError,
    ),
    "padding by name": (
        lambda nn: [nn.Sequential(nn.Conv2d(1, 2, 3, padding="same", bias=False))],
        r"Layer 0\.0",
        ValueError,
    ),
}


@pytest.mark.parametrize("case", MODULES)
def test_modules_that_are_no_exact_matrices(case):
    torch = pytest.importorskip("torch")
    layers, message, error = MODULES[case]
    module = torch.nn.Sequential(*layers(torch.nn))
    with pytest.raises(error, match=message):
        ll.DeepLinear.from_module(module)


def test_relu_networks_need_a_relu_after_each_weight():
    nn = pytest.importorskip("torch").nn
    for layers, message in (
        ([nn.Linear(4, 3, bias=False)], "The last weight has no ReLU"),
        (
            [nn.Linear(4, 3, bias=False), nn.Linear(3, 3, bias=False)],
            "follows a layer without ReLU",
        ),
        ([nn.ReLU(), nn.Linear(4, 3, bias=False)], "Layer 0 is a ReLU that follows no weight"),
    ):
        with pytest.raises(ValueError, match=message):
            ll.DeepReLU.from_module(nn.Sequential(*layers))


def test_a_module_without_weights():
    nn = pytest.importorskip("torch").nn
    with pytest.raises(ValueError, match="at least one weight"):
        ll.DeepLinear.from_module(nn.Sequential(nn.Flatten()))


def test_a_list_of_penalties_counts_as_a_tuple():
    listed, tupled = (rules.CLAPP("softplus", penalty=Penalty(p)) for p in ([0.1, 0.2], (0.1, 0.2)))
    for a, b in zip(update(listed), update(tupled), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_arrays_of_the_caller_stay_writable():
    anchor, reference = np.array([0, 1]), np.array([0, 1])
    sign, group = SIGNS.copy(), np.array([0, 0])
    Direction(anchor, reference, sign, group)
    for array in (anchor, reference, sign, group):
        array[0] = array[0]


def test_a_matched_projection_takes_the_penalty_in_either_metric():
    rule = Rule("r", TWO, "same", "matched", 0.1)
    for network in (NETWORK, ll.DeepLinear.uniform([4, 3, 3], 0)):
        downstream = rule.with_penalty(0.1, "downstream")
        errors = ll.compare(network, PAIRS, downstream).relative_error
        assert errors.max() <= 1e-12


@pytest.mark.parametrize("score", [scores.Softplus, scores.Hinge, scores.SmoothedHinge])
@pytest.mark.parametrize("margin", [np.nan, np.inf])
def test_a_margin_is_finite(score, margin):
    with pytest.raises(ValueError, match="margin must be finite"):
        score(margin)


@pytest.mark.parametrize("loss", [losses.LogDet, losses.VICReg, losses.BarlowTwins, losses.LPL])
@pytest.mark.parametrize("epsilon", [0.0, -1.0, np.nan])
def test_an_epsilon_is_positive(loss, epsilon):
    with pytest.raises(ValueError, match="epsilon must be positive"):
        loss(epsilon=epsilon)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stride", (0, 1)),
        ("stride", 2),
        ("padding", (-1, 0)),
        ("dilation", (1, 0)),
        ("input_shape", (2, 8)),
    ],
)
def test_the_geometry_of_a_convolution_is_whole_numbers(name, value):
    geometry = {"input_shape": (2, 8, 8), name: value}
    with pytest.raises(ValueError, match=f"{name} must be . whole numbers of at least"):
        Convolution(KERNEL, **geometry)


def test_a_patch_has_a_size():
    with pytest.raises(ValueError, match="patch_size must be at least 1"):
        Pairs.from_image_patches(np.ones((2, 8, 8)), 0)


def test_views_are_rows_of_the_samples():
    d = Pairs.from_views(X, VIEW).directions
    with pytest.raises(ValueError, match="rows among 5 samples"):
        Pairs(X, (direction(),), (np.arange(2), np.arange(4, 6)))
    with pytest.raises(ValueError, match="same shape"):
        Pairs(np.vstack([X, VIEW]), d, (np.arange(2), np.arange(3)))


def test_a_positive_pair_without_negatives_counts_in_the_mean_of_infonce():
    d = direction([0, 1, 2, 3], [1, 2, 3, 0], [1, 1, -1, -1], [0, 1, 0, 0])
    m = np.array([0.3, -0.2])
    loss = losses.InfoNCE(0.7)
    one = np.log1p(np.exp(-m / 0.7).sum())
    assert loss.value(m, d) == pytest.approx(one / 2)
