"""Malformed inputs of `linlocal`: every public entry point says what it expected and what came."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

import linlocal as ll
from linlocal import autodiff, losses, networks, rules, testing
from linlocal.losses import scores
from linlocal.networks import Convolution, average_pooling, nearest_isometry
from linlocal.pairs import Direction, Pairs
from linlocal.rules import Penalty, Rule

X, VIEW = testing.samples(5, 4, 0)
NET = ll.DeepLinear.uniform([4, 3, 2], 0)
RELU = ll.DeepReLU.uniform([4, 3, 2], 0)
PAIRS = Pairs.from_views(X, VIEW)
ALONE = Pairs.from_views(X, VIEW, negatives=None)
TWO = losses.TypeTwo(scores.Softplus())
RULE = rules.CLAPP("softplus")
KERNEL = np.ones((2, 2, 3, 3))
FORWARD = Pairs.from_views(X, VIEW, directions="forward").directions[0]
FAR = np.broadcast_to(1.0, (10**8, 10**8))  # takes no memory, a copy of it would take 71 PiB
NAN, INF = float("nan"), float("inf")


class WrongSlope:
    """tanh with the slope of another function."""

    def value(self, drive):
        return np.tanh(drive)

    def slope(self, drive):
        return np.ones_like(drive)


class OneSlope(WrongSlope):
    def slope(self, drive):
        return 1.0


def with_entry(value):
    array = X.astype(np.result_type(X, type(value)) if value is not None else object)
    array[2, 1] = value
    return array


# -- arrays: one table for every argument that is a matrix ----------------------------------------

MATRICES = {
    "None": (None, TypeError, "must hold real numbers, got dtype object"),
    "a word": ("abc", TypeError, "must hold real numbers, got dtype <U3"),
    "words": ([["a", "b"], ["c", "d"]], TypeError, "must hold real numbers, got dtype <U1"),
    "complex": (X * 1j, TypeError, "must hold real numbers, got dtype complex128"),
    "objects": (with_entry(None), TypeError, "must hold real numbers, got dtype object"),
    "dates": (X.astype("datetime64[s]"), TypeError, r"real numbers, got dtype datetime64\[s\]"),
    "a number": (3.0, ValueError, r"must be a matrix .* got shape \(\)"),
    "a vector": (X[0], ValueError, r"got shape \(4,\); reshape a single sample to \(1, -1\)"),
    "three dimensions": (X[None], ValueError, r"must be a matrix .* got shape \(1, 5, 4\)"),
    "no rows": (X[:0], ValueError, r"is empty: shape \(0, 4\)"),
    "no columns": (X[:, :0], ValueError, r"is empty: shape \(5, 0\)"),
    "nan": (with_entry(NAN), ValueError, r"1 non-finite entries, the first at index \(2, 1\)"),
    "infinity": (with_entry(INF), ValueError, r"1 non-finite entries, the first at index \(2, 1\)"),
    "a nan of half precision": (
        with_entry(NAN).astype(np.float16),
        ValueError,
        r"1 non-finite entries, the first at index \(2, 1\)",
    ),
    "petabytes": (FAR, MemoryError, r"Unable to allocate .* PiB for an array with shape"),
}
TAKES_A_MATRIX = {
    "DeepLinear": lambda bad: ll.DeepLinear([bad]),
    "DeepReLU": lambda bad: ll.DeepReLU([np.eye(4), bad]),
    "DeepLinear.activities": lambda bad: NET.activities(bad),
    "DeepReLU.downstream": lambda bad: RELU.downstream(1, bad),
    "nearest_isometry": lambda bad: nearest_isometry(bad),
    "Pairs": lambda bad: Pairs(bad, (FORWARD,)),
    "Pairs.from_views": lambda bad: Pairs.from_views(X, bad),
    "Pairs.from_many_views": lambda bad: Pairs.from_many_views([X, VIEW, bad]),
    "Pairs.from_labels": lambda bad: Pairs.from_labels(bad, [0] * len(X)),
    "Pairs.from_positive_negative": lambda bad: Pairs.from_positive_negative(bad, X),
    "optimal_projection": lambda bad: ll.optimal_projection(X, bad, FORWARD, TWO, 0.1),
}

# -- the three parts of a question: one table for everything that takes them ----------------------

SETTINGS = {
    "no network": (
        (None, PAIRS, RULE),
        TypeError,
        "network must be a `DeepLinear` or `DeepReLU`, got None",
    ),
    "weights for a network": (
        ([np.eye(4)], PAIRS, RULE),
        TypeError,
        "network must be .* got a list",
    ),
    "no pairs": ((NET, None, RULE), TypeError, "pairs must be a `Pairs`, made by .*, got None"),
    "samples for pairs": (
        (NET, X, RULE),
        TypeError,
        "pairs must be a `Pairs`, made by .*, got a ndarray",
    ),
    "no rule": ((NET, PAIRS, None), TypeError, "rule must be a `Rule`, made by .*, got None"),
    "a name for a rule": (
        (NET, PAIRS, "CLAPP"),
        TypeError,
        "rule must be a `Rule`, made by .*, got 'CLAPP'",
    ),
    "a rule that was not called": (
        (NET, PAIRS, rules.CLAPP),
        TypeError,
        "rule must be a `Rule`, made by .*, got a function",
    ),
    "no negatives": (
        (NET, ALONE, RULE),
        ValueError,
        "negative.* but this pair set has none|The pairs have no negatives, but the rule",
    ),
    "samples of another width": (
        (NET, Pairs.from_views(X[:, :3], VIEW[:, :3]), RULE),
        ValueError,
        "reads 4 features, but the samples have 3",
    ),
    "a rule of another kind of pairs": (
        (NET, Pairs.from_positive_negative(X, VIEW), rules.VICReg()),
        ValueError,
        "VICReg compares two views; (build the pairs with|use) Pairs.from_views",
    ),
    "penalties for other layers": (
        (NET, PAIRS, rules.CLAPP("softplus", penalty=Penalty((1.0, 1.0, 1.0)))),
        ValueError,
        "3 penalty strengths for a network of 2 layers",
    ),
}
TAKES_A_SETTING = {
    "compare": ll.compare,
    "explain": ll.explain,
    "local_update": ll.local_update,
    "global_update": ll.global_update,
    "mismatch": lambda *setting: ll.mismatch(*setting, layer=1),
    "loss_values": ll.loss_values,
    "autodiff.local_update": autodiff.local_update,
    "autodiff.global_update": autodiff.global_update,
}

# -- numbers --------------------------------------------------------------------------------------

SEEDS = {
    "negative": (-1, ValueError, "seed must be at least 0, got -1"),
    "half": (0.5, TypeError, r"seed must be a whole number, got 0\.5"),
    "a word": ("one", TypeError, "seed must be a whole number, got 'one'"),
    "None": (None, TypeError, "seed must be a whole number, got None"),
    "a bool": (True, TypeError, "seed must be a whole number, got True"),
}
TAKES_A_SEED = {
    "DeepLinear.orthogonal": lambda bad: ll.DeepLinear.orthogonal([4, 3], bad),
    "DeepLinear.with_condition_number": lambda bad: ll.DeepLinear.with_condition_number(
        [4, 3, 2], 2.0, bad
    ),
    "Rule": lambda bad: replace(RULE, seed=bad),
    "testing.samples": lambda bad: testing.samples(4, 3, bad),
}
WIDTHS = {
    "one width": ([4], ValueError, r"at least one layer, got widths \[4\]"),
    "no widths": ([], ValueError, r"at least one layer, got widths \[\]"),
    "None": (None, TypeError, "widths must be a sequence of whole numbers, got None"),
    "a number": (4, TypeError, "widths must be a sequence of whole numbers, got 4"),
    "a word": ("43", TypeError, "widths must be a sequence of whole numbers, got '43'"),
    "a word among them": ([4, "3"], TypeError, "a width must be a whole number, got '3'"),
    "None among them": ([4, None], TypeError, "a width must be a whole number, got None"),
    "half a unit": ([4, 2.5], TypeError, r"a width must be a whole number, got 2\.5"),
    "a unit with a point": ([4, 2.0], TypeError, r"a width must be a whole number, got 2\.0"),
    "nan": ([4, NAN], TypeError, "a width must be a whole number, got nan"),
    "infinity": ([4, INF], TypeError, "a width must be a whole number, got inf"),
    "a bool": ([4, True], TypeError, "a width must be a whole number, got True"),
    "zero": ([4, 0], ValueError, "a width must be at least 1, got 0"),
    "negative": ([4, -3], ValueError, "a width must be at least 1, got -3"),
    "petabytes": (
        [10**8, 10**8],
        MemoryError,
        r"of 100000000 .*takes 71\.1 PiB, and this machine has",
    ),
}
TAKES_WIDTHS = {
    "DeepLinear.orthogonal": ll.DeepLinear.orthogonal,
    "DeepReLU.uniform": ll.DeepReLU.uniform,
    "DeepLinear.with_condition_number": lambda bad: ll.DeepLinear.with_condition_number(bad, 2.0),
}
POSITIVE = {
    "zero": (0.0, ValueError, "must be (positive and finite|a positive number), got 0.0"),
    "negative": (-1.0, ValueError, "must be (positive and finite|a positive number), got -1.0"),
    "nan": (NAN, ValueError, "must be (positive and finite|a positive number), got nan"),
    "infinity": (INF, ValueError, "must be (positive and finite|a positive number), got inf"),
    "None": (None, TypeError, "must be a number, got None"),
    "a word": ("0.1", TypeError, r"must be a number, got '0\.1'"),
    "complex": (1j, TypeError, "must be a number, got 1j"),
    "a bool": (True, TypeError, "must be a number, got True"),
}
TAKES_A_POSITIVE = {
    "Penalty": Penalty,
    "optimal_projection": lambda bad: ll.optimal_projection(X, VIEW, FORWARD, TWO, bad),
    "DeepLinear.conformal": lambda bad: ll.DeepLinear.conformal([4, 3], bad),
    "losses.InfoNCE": losses.InfoNCE,
    "losses.NTXent": losses.NTXent,
    "losses.CosineInfoNCE": losses.CosineInfoNCE,
    "losses.LogDet": lambda bad: losses.LogDet(epsilon=bad),
    "losses.SlicedNormality": lambda bad: losses.SlicedNormality(limit=bad),
    "losses.VICReg": lambda bad: losses.VICReg(epsilon=bad),
    "losses.BarlowTwins": lambda bad: losses.BarlowTwins(epsilon=bad),
    "losses.LPL": lambda bad: losses.LPL(epsilon=bad),
}

# -- the rest, one by one -------------------------------------------------------------------------

INDEX, SIGN, GROUP = np.arange(2), np.array([1.0, -1.0]), np.zeros(2, int)


def direction(anchor=INDEX, reference=INDEX, sign=SIGN, group=GROUP):
    return Direction(anchor, reference, sign, group)


def views(**options):
    return Pairs.from_views(X, VIEW, **options)


def solve(z=X, c=VIEW, pairs=FORWARD, loss=TWO, **options):
    return ll.optimal_projection(z, c, pairs, loss, 0.1, **options)


def dense(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def convolution(kernel=KERNEL, shape=(2, 4, 4), **options):
    return Convolution(kernel, shape, **options)


CASES = {
    "DeepLinear": {
        "None": (
            lambda: ll.DeepLinear(None),
            TypeError,
            "weights must be a sequence of matrices.* got None",
        ),
        "a number": (
            lambda: ll.DeepLinear(3),
            TypeError,
            "weights must be a sequence of matrices.* got 3",
        ),
        "no layer": (lambda: ll.DeepLinear([]), ValueError, "at least one weight matrix"),
        "widths that do not chain": (
            lambda: ll.DeepLinear([np.ones((3, 4)), np.ones((2, 5))]),
            ValueError,
            r"W_1 writes 3 units, but W_2 reads 5; W_2 must be \(outputs, 3\)",
        ),
        "ragged rows": (
            lambda: ll.DeepLinear([[[1.0, 2.0], [3.0]]]),
            ValueError,
            "inhomogeneous shape",
        ),
        "layer 0": (lambda: NET.matrix(0), ValueError, r"1\.\.2 in this network, got layer 0"),
        "layer L + 1": (lambda: NET.gram(3), ValueError, r"1\.\.2 in this network, got layer 3"),
        "no module": (
            lambda: ll.DeepLinear.from_module(None),
            TypeError,
            "NoneType, which is no exact matrix",
        ),
        "a module with a relu": (
            lambda: ll.DeepLinear.from_module(nn.Sequential(dense(4, 3), nn.ReLU())),
            ValueError,
            r"Layer 1 is a ReLU; use DeepReLU\.from_module",
        ),
        "a module with a tanh": (
            lambda: ll.DeepLinear.from_module(nn.Sequential(dense(4, 3), nn.Tanh())),
            ValueError,
            r"Layer 1 is a Tanh; use DeepNonlinear\.from_module",
        ),
        "a bias of another length": (
            lambda: ll.DeepLinear([np.eye(4)], [np.ones(3)]),
            ValueError,
            r"b_1 must be \(4,\), one number for each of the units that W_1 writes, got",
        ),
        "a bias for each pixel": (
            lambda: ll.DeepLinear([convolution()], [np.ones(8)]),
            ValueError,
            r"b_1 must be \(2,\), one number for each of the channels",
        ),
        "a bias that is a matrix": (
            lambda: ll.DeepLinear([np.eye(4)], [np.ones((4, 1))]),
            ValueError,
            r"b_1 must be \(4,\).* got shape \(4, 1\)",
        ),
        "a bias of infinity": (
            lambda: ll.DeepLinear([np.eye(2)], [[1.0, np.inf]]),
            ValueError,
            "b_1 has 1 non-finite entries",
        ),
        "a bias too few": (
            lambda: ll.DeepLinear([np.eye(4), np.eye(4)], [np.ones(4)]),
            ValueError,
            "biases has 1 entries for 2 layers; give one for each layer, None where it has none",
        ),
        "a number for biases": (
            lambda: ll.DeepLinear([np.eye(4)], 1.0),
            TypeError,
            "biases must be a sequence of vectors",
        ),
        "links in words": (
            lambda: ll.DeepLinear([np.eye(4)], links="resnet"),
            TypeError,
            'links must be "residual" or a mapping .* got .resnet.',
        ),
        "a link into a layer that there is not": (
            lambda: ll.DeepLinear([np.eye(4)], links={2: [1]}),
            ValueError,
            r"1\.\.1 in this network, got layer 2",
        ),
        "a link from a later layer": (
            lambda: ll.DeepLinear([np.eye(4)] * 3, links={2: [3]}),
            ValueError,
            r"link into layer 2 must come from one of the layers 0\.\.1 .* got layer 3",
        ),
        "a link from the layer itself": (
            lambda: ll.DeepLinear([np.eye(4)] * 3, links={2: [2]}),
            ValueError,
            r"link into layer 2 must come from one of the layers 0\.\.1 .* got layer 2",
        ),
        "a link between unequal widths": (
            lambda: ll.DeepLinear.uniform([4, 3, 5], links={2: [1]}),
            ValueError,
            "link from layer 1 to layer 2 adds 3 units to 5",
        ),
        "a link twice": (
            lambda: ll.DeepLinear([np.eye(4)] * 2, links={2: [1, 1]}),
            ValueError,
            "links into layer 2 name a layer twice",
        ),
        "a link without brackets": (
            lambda: ll.DeepLinear([np.eye(4)] * 2, links={2: 1}),
            TypeError,
            "links into layer 2 must be a sequence of earlier layers, got 1",
        ),
        "a scale of infinity": (
            lambda: ll.DeepLinear([np.eye(4)] * 2, links={2: {1: np.inf}}),
            ValueError,
            "a scale of links into layer 2 must be finite",
        ),
        "branches of a chain": (
            lambda: NET.with_scaled_branches(),
            ValueError,
            "there are no branches to scale",
        ),
        "a negative spread of biases": (
            lambda: ll.DeepLinear.uniform([4, 3], bias_std=-1.0),
            ValueError,
            "bias_std must not be negative",
        ),
        "an approximate gelu": (
            lambda: ll.DeepNonlinear.from_module(
                nn.Sequential(dense(4, 3), nn.GELU(approximate="tanh"))
            ),
            ValueError,
            "Layer 1 is a GELU approximated by tanh",
        ),
        "a module with a normalisation": (
            lambda: ll.DeepLinear.from_module(nn.Sequential(dense(4, 3), nn.BatchNorm1d(3))),
            TypeError,
            "Layer 1 is a BatchNorm1d, which is no exact matrix",
        ),
        "maps of an unknown shape": (
            lambda: ll.DeepLinear.from_module(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False))),
            ValueError,
            r"give input_shape=\(channels, height, width\), got None",
        ),
        "padding by name": (
            lambda: ll.DeepLinear.from_module(
                nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3, padding="same", bias=False)))
            ),
            ValueError,
            r"Layer 0\.0",
        ),
        "a module without weights": (
            lambda: ll.DeepLinear.from_module(nn.Sequential(nn.Flatten())),
            ValueError,
            "at least one weight",
        ),
        "the isometry of a convolution": (
            lambda: ll.DeepLinear(
                [convolution(), convolution(KERNEL[..., :1, :1], (2, 2, 2))]
            ).isometric(),
            ValueError,
            "nearest isometry of a convolution is not a convolution",
        ),
        "a condition number of one layer": (
            lambda: ll.DeepLinear.with_condition_number([4, 3], 2.0),
            ValueError,
            "needs at least two layers",
        ),
        "too wide an input": (
            lambda: NET.activities(np.ones((3, 7))),
            ValueError,
            r"reads 4 features, but the samples have 7: x must be \(samples, 4\)",
        ),
        "a condition number below 1": (
            lambda: ll.DeepLinear.with_condition_number([4, 3, 2], 0.5),
            ValueError,
            r"condition_number must be at least 1, got 0\.5",
        ),
        "a condition number in words": (
            lambda: ll.DeepLinear.with_condition_number([4, 3, 2], "ten"),
            TypeError,
            "condition_number must be a number, got 'ten'",
        ),
    },
    "DeepNonlinear": {
        "an activation misspelt": (
            lambda: NET.with_activation("relo"),
            ValueError,
            "Unknown activation 'relo'; did you mean 'relu'.* known are relu, leaky",
        ),
        "an activation that is a function": (
            lambda: NET.with_activation(np.tanh),
            TypeError,
            r"or an object with the methods value\(drive\) and slope\(drive\), got",
        ),
        "an activation that is a class": (
            lambda: NET.with_activation(networks.Tanh),
            TypeError,
            "or an object with the methods",
        ),
        "a slope that is not the derivative": (
            lambda: NET.with_activation(WrongSlope()),
            ValueError,
            "slope of the activation .* is not the derivative of its value: at the drive",
        ),
        "a slope of another shape": (
            lambda: NET.with_activation(OneSlope()),
            ValueError,
            r"slope of the activation .* must return finite numbers shaped like the drive",
        ),
        "a negative slope in words": (
            lambda: networks.LeakyReLU("steep"),
            TypeError,
            "negative_slope must be a number, got 'steep'",
        ),
        "a readout misspelt": (
            lambda: NET.with_activation("relu", "line"),
            ValueError,
            'readout must be "same" or "linear", got .line.',
        ),
        "a module without nonlinearity": (
            lambda: ll.DeepNonlinear.from_module(nn.Sequential(dense(4, 3), dense(3, 3))),
            ValueError,
            r"No layer has a nonlinearity; use DeepLinear\.from_module",
        ),
        "a module of two nonlinearities": (
            lambda: ll.DeepNonlinear.from_module(
                nn.Sequential(dense(4, 3), nn.Tanh(), dense(3, 3), nn.ReLU())
            ),
            ValueError,
            r"Layer 3 is a ReLU\(\), and layer 1 a Tanh\(\); all must be the same",
        ),
        "a hidden layer without nonlinearity": (
            lambda: ll.DeepNonlinear.from_module(
                nn.Sequential(dense(4, 3), dense(3, 3), nn.Tanh())
            ),
            ValueError,
            "Layer 1 follows a layer without nonlinearity, which is 0",
        ),
        "a tanh for a relu": (
            lambda: ll.DeepReLU.from_module(nn.Sequential(dense(4, 3), nn.Tanh())),
            ValueError,
            r"Layer 1 is a Tanh; use DeepNonlinear\.from_module",
        ),
    },
    "DeepReLU": {
        "no layer": (lambda: ll.DeepReLU([]), ValueError, "at least one weight matrix"),
        "a layer that there is not": (lambda: RELU.downstream(3, X), ValueError, "got layer 3"),
        "a weight at the end": (
            lambda: ll.DeepReLU.from_module(nn.Sequential(dense(4, 3))),
            ValueError,
            "The last weight has no ReLU",
        ),
        "a weight after a weight": (
            lambda: ll.DeepReLU.from_module(nn.Sequential(dense(4, 3), dense(3, 3))),
            ValueError,
            "follows a layer without ReLU",
        ),
        "a relu without a weight": (
            lambda: ll.DeepReLU.from_module(nn.Sequential(nn.ReLU(), dense(4, 3))),
            ValueError,
            "Layer 0 is a ReLU that follows no weight",
        ),
    },
    "Convolution": {
        "no kernel": (
            lambda: convolution(None),
            TypeError,
            "kernel must hold real numbers, got dtype object",
        ),
        "words": (
            lambda: convolution([[[["a"]]]]),
            TypeError,
            "kernel must hold real numbers, got dtype <U1",
        ),
        "complex": (
            lambda: convolution(KERNEL * 1j),
            TypeError,
            "real numbers, got dtype complex128",
        ),
        "three dimensions": (
            lambda: convolution(KERNEL[0]),
            ValueError,
            r"height, width\), got shape \(2, 3, 3\)",
        ),
        "nan": (lambda: convolution(KERNEL * NAN), ValueError, "kernel has 36 non-finite entries"),
        "an empty kernel": (
            lambda: convolution(KERNEL[:0]),
            ValueError,
            r"kernel is empty: shape \(0, 2, 3, 3\)",
        ),
        "other channels": (
            lambda: convolution(shape=(3, 4, 4)),
            ValueError,
            "does not fit maps of 3 channels",
        ),
        "a small map": (
            lambda: convolution(shape=(2, 2, 2)),
            ValueError,
            r"leaves nothing of maps \(2, 2, 2\)",
        ),
        "no groups": (
            lambda: convolution(groups=0),
            ValueError,
            "groups must be at least 1, got 0",
        ),
        "groups that do not divide": (
            lambda: convolution(np.ones((3, 1, 1, 1)), groups=2),
            ValueError,
            "groups=2 does not fit",
        ),
        "half a group": (
            lambda: convolution(groups=0.5),
            TypeError,
            r"groups must be a whole number, got 0\.5",
        ),
        "a map of two axes": (
            lambda: convolution(shape=(2, 4)),
            ValueError,
            r"input_shape must be 3 whole numbers, got \(2, 4\)",
        ),
        "a map in words": (
            lambda: convolution(shape=("2", "4", "4")),
            TypeError,
            "an entry of input_shape must be a whole number, got '2'",
        ),
        "a nan of a stride": (
            lambda: convolution(stride=(NAN, 1)),
            TypeError,
            "an entry of stride must be a whole number, got nan",
        ),
        "no stride": (
            lambda: convolution(stride=None),
            TypeError,
            "stride must be a sequence of whole numbers, got None",
        ),
        "a stride of 0": (
            lambda: convolution(stride=(0, 1)),
            ValueError,
            "an entry of stride must be at least 1, got 0",
        ),
        "a stride for both sides": (
            lambda: convolution(stride=2),
            TypeError,
            "stride must be a sequence of whole numbers, got 2",
        ),
        "a dilation of 0": (
            lambda: convolution(dilation=(1, 0)),
            ValueError,
            "an entry of dilation must be at least 1, got 0",
        ),
        "a negative padding": (
            lambda: convolution(padding=(-1, 0)),
            ValueError,
            "an entry of padding must be at least 0, got -1",
        ),
        "petabytes": (
            lambda: convolution(shape=(2, 10**5, 10**5)).matrix,
            MemoryError,
            "the matrix of a convolution takes .* this machine has",
        ),
        "a window beyond the map": (
            lambda: average_pooling((2, 3, 4), 4),
            ValueError,
            "window of 4 does not fit maps of 3 x 4",
        ),
    },
    "Direction": {
        "halves of rows": (
            lambda: direction(anchor=np.array([0.5, 1])),
            TypeError,
            "anchor must hold whole numbers, got dtype float64",
        ),
        "words": (
            lambda: direction(reference=np.array(["a", "b"])),
            TypeError,
            "reference must hold whole numbers",
        ),
        "None": (
            lambda: direction(group=None),
            TypeError,
            "group must hold whole numbers, got dtype object",
        ),
        "lengths that differ": (
            lambda: direction(anchor=np.arange(3)),
            ValueError,
            r"vectors of the same length, got shapes \(3,\), \(2,\)",
        ),
        "a matrix": (
            lambda: direction(*[np.eye(2, dtype=int)] * 4),
            ValueError,
            "vectors of the same length",
        ),
        "nothing": (
            lambda: direction(*[np.arange(0)] * 4),
            ValueError,
            "at least one positive pair",
        ),
        "a sign of 0": (
            lambda: direction(sign=np.array([1, 0])),
            ValueError,
            r"\+1 \(positive pair\) or -1",
        ),
        "a sign of nan": (
            lambda: direction(sign=np.array([1, NAN])),
            ValueError,
            r"\+1 \(positive pair\) or -1",
        ),
        "signs in words": (
            lambda: direction(sign=np.array(["+", "-"])),
            TypeError,
            "sign must hold real numbers, got dtype <U1",
        ),
        "negatives only": (
            lambda: direction(sign=-np.ones(2)),
            ValueError,
            "at least one positive pair",
        ),
        "one group twice": (
            lambda: direction(sign=np.ones(2)),
            ValueError,
            "a group number of its own",
        ),
        "a negative alone": (
            lambda: direction(group=np.arange(2)),
            ValueError,
            "that of a positive pair",
        ),
    },
    "Pairs": {
        "no directions": (lambda: Pairs(X, ()), ValueError, "Pairs need at least one direction"),
        "None for directions": (
            lambda: Pairs(X, None),
            TypeError,
            "directions must be a sequence of `Direction`s, got None",
        ),
        "rows for a direction": (
            lambda: Pairs(X, (INDEX,)),
            TypeError,
            "a direction must be a `Direction`, got a ndarray",
        ),
        "a row beyond the batch": (
            lambda: Pairs(X[:1], (direction(),)),
            ValueError,
            "names row 1 or below 0",
        ),
        "a row below 0": (
            lambda: Pairs(X, (direction(anchor=INDEX - 1),)),
            ValueError,
            "only 5 samples",
        ),
        "views of unequal length": (
            lambda: Pairs(X, (FORWARD_,), (INDEX, INDEX[:1])),
            ValueError,
            "same shape",
        ),
        "views of halves": (
            lambda: Pairs(X, (FORWARD_,), (INDEX * 0.5, INDEX * 0.5)),
            TypeError,
            "views must hold whole numbers, got dtype float64",
        ),
        "views beyond the batch": (
            lambda: Pairs(X, (FORWARD_,), (INDEX, INDEX + 4)),
            ValueError,
            "two vectors of rows among 5 samples",
        ),
        "shapes that differ": (
            lambda: Pairs.from_views(X, VIEW[:3]),
            ValueError,
            r"the same shape \(samples, width\), got \(5, 4\) and \(3, 4\)",
        ),
        "positive and negative shapes that differ": (
            lambda: Pairs.from_positive_negative(X, VIEW[:2]),
            ValueError,
            r"must have the same shape \(samples, width\), got \(5, 4\) and \(2, 4\)",
        ),
        "unknown negatives": (
            lambda: views(negatives="hard"),
            ValueError,
            '"next", "stacked", "random", "all" or None, got \'hard\'',
        ),
        "a number for negatives": (
            lambda: views(negatives=3),
            ValueError,
            '"next", "stacked", "random", "all" or None, got 3',
        ),
        "unknown directions": (
            lambda: views(directions=2),
            ValueError,
            '"both" or "forward", got 2',
        ),
        "no negative": (
            lambda: views(num_negatives=0),
            ValueError,
            "num_negatives must be at least 1, got 0",
        ),
        "negative negatives": (lambda: views(num_negatives=-1), ValueError, "at least 1, got -1"),
        "half a negative": (
            lambda: views(num_negatives=1.5),
            TypeError,
            r"num_negatives must be a whole number, got 1\.5",
        ),
        "None negatives": (
            lambda: views(num_negatives=None),
            TypeError,
            "num_negatives must be a whole number, got None",
        ),
        "a bool of negatives": (
            lambda: views(num_negatives=True),
            TypeError,
            "whole number, got True",
        ),
        "too many negatives": (
            lambda: views(num_negatives=5),
            ValueError,
            "a batch of at least 6 samples, got 5",
        ),
        "no generator": (
            lambda: views(negatives="random"),
            ValueError,
            r"needs rng=np\.random\.default_rng\(seed\)",
        ),
        "a seed for a generator": (
            lambda: views(negatives="random", rng=0),
            TypeError,
            r"rng must be a Generator, np\.random\.default_rng\(seed\), got 0",
        ),
        "no images": (
            lambda: Pairs.from_image_patches(None, 2),
            TypeError,
            "images must hold real numbers",
        ),
        "complex images": (
            lambda: Pairs.from_image_patches(np.ones((2, 4, 4)) * 1j, 2),
            TypeError,
            "images must hold real numbers, got dtype complex128",
        ),
        "one image": (
            lambda: Pairs.from_image_patches(np.ones((8, 8)), 2),
            ValueError,
            r"images, height, width\), got shape \(8, 8\)",
        ),
        "half a patch": (
            lambda: Pairs.from_image_patches(np.ones((2, 4, 4)), 1.5),
            TypeError,
            "patch_size must be a whole number",
        ),
        "no patch": (
            lambda: Pairs.from_image_patches(np.ones((2, 4, 4)), 0),
            ValueError,
            "patch_size must be at least 1, got 0",
        ),
        "too large a patch": (
            lambda: Pairs.from_image_patches(np.ones((2, 8, 8)), 5),
            ValueError,
            "patch_size of at most 4",
        ),
        "nan in an image": (
            lambda: Pairs.from_image_patches(np.full((2, 4, 4), NAN), 2),
            ValueError,
            "non-finite entries",
        ),
    },
    "Penalty": {
        "no layers": (lambda: Penalty(()), ValueError, r"positive and finite, got \(\)"),
        "a matrix": (
            lambda: Penalty(np.ones((2, 2))),
            TypeError,
            "penalty must be a number, got a ndarray",
        ),
        "one layer negative": (
            lambda: Penalty((0.1, -0.1)),
            ValueError,
            r"positive and finite, got \(0\.1, -0\.1\)",
        ),
        "one layer in words": (
            lambda: Penalty((0.1, "b")),
            TypeError,
            "penalty must be a number, got 'b'",
        ),
        "unknown metric": (
            lambda: Penalty(0.1, "euclid"),
            ValueError,
            "frobenius, downstream, got 'euclid'",
        ),
        "no metric": (lambda: Penalty(0.1, None), ValueError, "frobenius, downstream, got None"),
    },
    "Rule": {
        "no loss": (
            lambda: Rule("r", None),
            TypeError,
            "NoneType is no loss: it needs contrasts, value",
        ),
        "a name for a loss": (
            lambda: Rule("r", "hinge"),
            TypeError,
            "str is no loss: it needs contrasts",
        ),
        "unknown context": (
            lambda: replace(RULE, context="bottom"),
            ValueError,
            "same, top, both, .* got 'bottom'",
        ),
        "unknown projection": (
            lambda: replace(RULE, projection="best"),
            ValueError,
            "optimal, identity, .* got 'best'",
        ),
        "parts that do not fit": (
            lambda: Rule("r", losses.VICReg()),
            ValueError,
            "A view loss goes with context views",
        ),
        "identity of two": (
            lambda: replace(RULE, context="both", projection="identity"),
            ValueError,
            "needs one context",
        ),
        "no penalty": (
            lambda: replace(RULE, penalty=None),
            TypeError,
            "penalty must be a number, got None",
        ),
        "half a window": (
            lambda: replace(RULE, pooling=(1.5, 1)),
            TypeError,
            "an entry of pooling must be a whole number, got 1.5",
        ),
        "a window of 0": (
            lambda: replace(RULE, pooling=(0, 1)),
            ValueError,
            "an entry of pooling must be at least 1, got 0",
        ),
        "one window for all": (
            lambda: replace(RULE, pooling=2),
            TypeError,
            "pooling must be a sequence of whole numbers.*got 2",
        ),
    },
    "rules": {
        "unknown rule": (
            lambda: rules.from_name("CLAP"),
            ValueError,
            r"Unknown rule 'CLAP'; did you mean 'CLAPP'\? known rules are CLAPP, ",
        ),
        "no name": (
            lambda: rules.from_name(None),
            ValueError,
            "Unknown rule None; known rules are",
        ),
        "unknown option": (
            lambda: rules.from_name("CLAPP", marge=1),
            TypeError,
            "unexpected keyword argument 'marge'",
        ),
        "unknown score": (
            lambda: rules.CLAPP("hing"),
            ValueError,
            "Unknown score 'hing'; known scores are linear,",
        ),
        "no score": (
            lambda: rules.CLAPP(None),
            TypeError,
            "the methods value, slope and curvature; NoneType",
        ),
        "unknown weight": (
            lambda: rules.VICReg(weight=1.0),
            TypeError,
            "unexpected keyword argument 'weight'",
        ),
        "nan of a threshold": (
            lambda: rules.ForwardForward(NAN),
            ValueError,
            "threshold must be finite, got nan",
        ),
        "a threshold in words": (
            lambda: rules.SCFF("1"),
            TypeError,
            "threshold must be a number, got '1'",
        ),
    },
    "losses": {
        "nan of a weight": (
            lambda: losses.Whitening(NAN),
            ValueError,
            "weight must be finite, got nan",
        ),
        "infinite weight": (
            lambda: losses.BarlowTwins(INF),
            ValueError,
            "weight must be finite, got inf",
        ),
        "a weight in words": (
            lambda: losses.LogDet("1"),
            TypeError,
            "weight must be a number, got '1'",
        ),
        "no weight": (
            lambda: losses.VICReg(None),
            TypeError,
            "invariance must be a number, got None",
        ),
        "nan of a decorrelation": (
            lambda: losses.LPL(decorrelation=NAN),
            ValueError,
            "decorrelation must be finite",
        ),
        "no score": (
            lambda: losses.TypeTwo(None),
            TypeError,
            "A score needs .* value, slope and curvature; NoneType",
        ),
        "a name for a score": (
            lambda: losses.TypeOne("hinge"),
            TypeError,
            "A score needs .* slope and curvature; str",
        ),
        "one sample": (
            lambda: losses.VICReg().value(X[:1], VIEW[:1]),
            ValueError,
            "at least 2 samples, got 1",
        ),
    },
    "scores": {
        "nan of a margin": (
            lambda: scores.Softplus(NAN),
            ValueError,
            "margin must be finite, got nan",
        ),
        "nan of a smoothed margin": (
            lambda: scores.SmoothedHinge(NAN),
            ValueError,
            "margin must be finite, got nan",
        ),
        "infinite margin": (
            lambda: scores.Hinge(INF),
            ValueError,
            "margin must be finite, got inf",
        ),
        "a width of 0": (
            lambda: scores.SmoothedHinge(width=0.0),
            ValueError,
            r"finite width > 0, got 0\.0; use Hinge",
        ),
        "unknown": (
            lambda: scores.from_name("softmax"),
            ValueError,
            "Unknown score 'softmax'; known scores are",
        ),
        "half a score": (
            lambda: scores.from_name(SimpleNamespace(value=abs, slope=abs)),
            TypeError,
            "SimpleNamespace lacks at least one of them",
        ),
    },
    "optimal_projection": {
        "too few rows": (
            lambda: solve(z=X[:3]),
            ValueError,
            "z has 3 rows, but the pairs use 5 different samples",
        ),
        "too few contexts": (
            lambda: solve(c=VIEW[:3]),
            ValueError,
            "c has 3 rows, but the pairs use 5",
        ),
        "all pairs for one direction": (
            lambda: solve(pairs=PAIRS),
            TypeError,
            "pairs must be a `Direction`, one of .* got a Pairs",
        ),
        "no pairs": (
            lambda: solve(pairs=None),
            TypeError,
            "pairs must be a `Direction`, one of .* got None",
        ),
        "no loss": (lambda: solve(loss=None), TypeError, "loss must be a `PairLoss`: .* got None"),
        "a view loss": (
            lambda: solve(loss=losses.VICReg()),
            TypeError,
            "loss must be a `PairLoss`: .* got a VICReg",
        ),
        "no negatives": (
            lambda: solve(pairs=ALONE.directions[0]),
            ValueError,
            'negatives="next" or negatives="random"',
        ),
        "unknown method": (
            lambda: solve(method="sgd"),
            ValueError,
            "one of auto, dual, primal, iterative, got 'sgd'",
        ),
    },
    "local_update": {
        "a penalty in a metric of no map": (
            lambda: ll.local_update(RELU, PAIRS, RULE.with_penalty(0.1, "downstream")),
            ValueError,
            "one downstream map for all samples: a linear network",
        ),
        "a matched projection of a relu": (
            lambda: ll.local_update(RELU, PAIRS, replace(RULE, projection="matched")),
            ValueError,
            "one downstream map for all samples: a linear network",
        ),
        "views for single samples": (
            lambda: ll.local_update(NET, PAIRS, rules.ForwardForward()),
            ValueError,
            "judges single samples; build the pairs with Pairs.from_positive_negative",
        ),
        "pooling of two views": (
            lambda: ll.local_update(NET, PAIRS, replace(rules.VICReg(), pooling=(1, 1))),
            ValueError,
            "Pooling is defined for losses of scored pairs only",
        ),
        "the identity onto another width": (
            lambda: ll.local_update(NET, PAIRS, Rule("r", TWO, "top", "identity")),
            ValueError,
            r"needs layers of equal width, got \[3, 2\]",
        ),
        "pooling of a vector": (
            lambda: ll.local_update(NET, PAIRS, replace(RULE, pooling=(2, 1))),
            ValueError,
            "Layer 1 has no feature map to pool; its window must be 1",
        ),
    },
    "global_update": {
        "unknown masks": (
            lambda: ll.global_update(RELU, PAIRS, RULE, masks="all"),
            ValueError,
            '"sample", "batch" or "none", got \'all\'',
        ),
    },
    "projections": {
        "no network": (
            lambda: ll.projections(None, PAIRS, RULE),
            TypeError,
            "network must be a `DeepLinear` or `DeepReLU`, got None",
        ),
        "no rule": (
            lambda: ll.projections(NET, PAIRS, None),
            TypeError,
            "rule must be a `Rule`, made by .*, got None",
        ),
        "a loss of views": (
            lambda: ll.projections(NET, PAIRS, rules.VICReg()),
            TypeError,
            "VICReg has no projections: its loss is of views",
        ),
    },
    "mismatch": {
        "layer 0": (
            lambda: ll.mismatch(NET, PAIRS, RULE, 0),
            ValueError,
            "got layer 0; the input is not a layer",
        ),
        "layer L + 1": (lambda: ll.mismatch(NET, PAIRS, RULE, 3), ValueError, "got layer 3"),
        "no layer": (
            lambda: ll.mismatch(NET, PAIRS, RULE, None),
            TypeError,
            "layer must be a whole number, got None",
        ),
        "a layer and a half": (
            lambda: ll.mismatch(NET, PAIRS, RULE, 1.5),
            TypeError,
            r"layer must be a whole number, got 1\.5",
        ),
        "a loss without dual": (
            lambda: ll.mismatch(NET, PAIRS, rules.VICReg(), 1),
            ValueError,
            "VICReg is a loss of two views, which has no dual form",
        ),
    },
    "compare": {
        "pooling of another depth": (
            lambda: ll.compare(NET, PAIRS, replace(RULE, pooling=(1,))),
            ValueError,
            "pooling has 1 windows for 2 layers",
        ),
    },
    "sweep": {
        "one network without a list": (
            lambda: ll.sweep(NET, [PAIRS], [RULE]),
            TypeError,
            "networks must be",
        ),
        "no rule": (lambda: ll.sweep([NET], [PAIRS], []), ValueError, "rule"),
        "workers by halves": (
            lambda: ll.sweep([NET], [PAIRS], [RULE], workers=1.5),
            TypeError,
            r"workers must be a whole number, got 1\.5",
        ),
        "a penalty of nothing": (
            lambda: ll.sweep([NET], [PAIRS], [RULE], penalties=[0.0]),
            ValueError,
            "penalty must be positive and finite",
        ),
    },
    "dynamics": {
        "a rate of the other sign": (
            lambda: ll.dynamics.simulate(NET, PAIRS, rules.SpectralContrastive(), rate=-1, steps=1),
            ValueError,
            "rate",
        ),
        "half a step": (
            lambda: ll.dynamics.simulate(
                NET, PAIRS, rules.SpectralContrastive(), rate=0.1, steps=0.5
            ),
            TypeError,
            r"steps must be a whole number, got 0\.5",
        ),
        "a network that is not linear": (
            lambda: ll.dynamics.simulate(
                ll.DeepReLU.uniform([6, 4, 4]), PAIRS, rules.SpectralContrastive(), rate=1, steps=1
            ),
            TypeError,
            "DeepLinear",
        ),
        "moments of other shapes": (
            lambda: ll.dynamics.Moments.of_views(np.eye(2), np.eye(3), np.eye(2)),
            ValueError,
            "shape",
        ),
    },
    "explain": {
        "unknown remedy": (
            lambda: ll.explain(NET, PAIRS, RULE).remedy("prayer"),
            ValueError,
            "'prayer' does not restore exactness here; remedies: ",
        ),
    },
    "autodiff": {
        "layer 0": (lambda: autodiff.loss(NET, PAIRS, RULE, 0), ValueError, "got layer 0"),
    },
    "testing": {
        "unknown dtype": (
            lambda: testing.tolerance("float8"),
            ValueError,
            "Unknown dtype 'float8'; known are float64",
        ),
        "no samples": (
            lambda: testing.samples(0, 3, 0),
            ValueError,
            "num_samples must be at least 1, got 0",
        ),
        "negative width": (
            lambda: testing.samples(3, -1, 0),
            ValueError,
            "width must be at least 1, got -1",
        ),
        "petabytes": (
            lambda: testing.samples(10**8, 10**8, 0),
            MemoryError,
            "takes .* this machine has",
        ),
        "more than the same": (
            lambda: testing.samples(3, 2, 0, similarity=2.0),
            ValueError,
            r"similarity must be .* 0\.\.1, got 2\.0",
        ),
        "a condition number below 1": (
            lambda: testing.samples(3, 2, 0, condition_number=0.5),
            ValueError,
            r"condition_number must be at least 1, got 0\.5",
        ),
    },
}
FORWARD_ = direction()

TABLES = (
    (TAKES_A_MATRIX, MATRICES),
    (TAKES_A_SEED, SEEDS),
    (TAKES_WIDTHS, WIDTHS),
    (TAKES_A_POSITIVE, POSITIVE),
)
ALL = [
    *(
        pytest.param(lambda e=entry, b=bad: e(b), error, message, id=f"{name}: {case}")
        for entries, table in TABLES
        for name, entry in entries.items()
        for case, (bad, error, message) in table.items()
    ),
    *(
        pytest.param(lambda e=entry, s=setting: e(*s), error, message, id=f"{name}: {case}")
        for name, entry in TAKES_A_SETTING.items()
        for case, (setting, error, message) in SETTINGS.items()
    ),
    *(
        pytest.param(*case, id=f"{name}: {what}")
        for name, table in CASES.items()
        for what, case in table.items()
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_input_of_linlocal(refused, call, error, message):
    refused(call, error, message)


def test_every_public_name_of_linlocal_has_its_cases():
    """A new entry point brings its malformed inputs with it."""
    tried = {case.id.split(":")[0].split(".")[0] for case in ALL}
    raised_or_returned = {"ConvergenceError", "Projection"}  # nobody calls them
    elsewhere = {
        "rhm",
        "symbolic",
        "analysis",
        "conditions",
        "plots",
    }  # test_rhm.py, test_symbolic.py, ../linlocal/test_plots.py; `explain` is of conditions
    missing = set(ll.__all__) - tried - raised_or_returned - elsewhere
    assert not missing, f"no malformed input is tried on {sorted(missing)}"
