"""Malformed networks: weights, biases, links, activations, convolutions and modules of torch."""

import numpy as np
import pytest
from torch import nn

import linlocal as ll
from linlocal import networks
from linlocal.networks import Convolution, average_pooling, nearest_isometry
from tests.malformed.inputs import (
    INF,
    MATRICES,
    NAN,
    NET,
    POSITIVE,
    RELU,
    SEEDS,
    X,
    called,
    given,
)

KERNEL = np.ones((2, 2, 3, 3))


class WrongSlope:
    """tanh with the slope of another function."""

    def value(self, drive):
        return np.tanh(drive)

    def slope(self, drive):
        return np.ones_like(drive)


class OneSlope(WrongSlope):
    def slope(self, drive):
        return 1.0


def dense(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def convolution(kernel=KERNEL, shape=(2, 4, 4), **options):
    return Convolution(kernel, shape, **options)


TAKES_A_MATRIX = {
    "DeepLinear": lambda bad: ll.DeepLinear([bad]),
    "DeepReLU": lambda bad: ll.DeepReLU([np.eye(4), bad]),
    "DeepLinear.activities": lambda bad: NET.activities(bad),
    "DeepReLU.downstream": lambda bad: RELU.downstream(1, bad),
    "nearest_isometry": lambda bad: nearest_isometry(bad),
}
TAKES_A_SEED = {
    "DeepLinear.orthogonal": lambda bad: ll.DeepLinear.orthogonal([4, 3], bad),
    "DeepLinear.with_condition_number": lambda bad: ll.DeepLinear.with_condition_number(
        [4, 3, 2], 2.0, bad
    ),
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
TAKES_A_POSITIVE = {"DeepLinear.conformal": lambda bad: ll.DeepLinear.conformal([4, 3], bad)}
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
}

ALL = [
    *given(TAKES_A_MATRIX, MATRICES),
    *given(TAKES_A_SEED, SEEDS),
    *given(TAKES_WIDTHS, WIDTHS),
    *given(TAKES_A_POSITIVE, POSITIVE),
    *called(CASES),
]


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_network(refused, call, error, message):
    refused(call, error, message)
