"""Malformed local losses of a network and their parts: pooling, heads, projections."""

import pytest
import torch

from linlocal.analysis.local_losses import (
    gather,
    heads,
    labels_of,
    named as local_losses,
    network_rule,
    pooling as map_pooling,
    projections,
)
from tests.malformed.inputs import NAN, called
from tests.malformed.instruments import VIEWS

CASES = {
    "local_losses": {
        "unknown score": (
            lambda: local_losses.CLAPP(score="hing").build([(3,)]),
            ValueError,
            "Unknown score 'hing'",
        ),
        "unknown context": (
            lambda: local_losses.CLAPP(context="all"),
            ValueError,
            "same, top, both, each, got 'all'",
        ),
        "unknown projection": (
            lambda: local_losses.CLAPP(projection="best"),
            ValueError,
            "projection must be one of optimal, .* got 'best'",
        ),
        "unknown negatives": (
            lambda: local_losses.CLAPP(negatives="hard"),
            ValueError,
            '"next", "stacked" or "all", got \'hard\'',
        ),
        "rank and budget": (
            lambda: local_losses.CLAPP(rank=2, budget=9),
            ValueError,
            "give either a rank or a budget",
        ),
        "a rank of 0": (
            lambda: local_losses.CLAPP(rank=0),
            ValueError,
            "rank must be at least 1, got 0",
        ),
        "no projection": (
            lambda: local_losses.CLAPP(projection="none"),
            ValueError,
            "pair loss goes with .* got .* projection 'none'",
        ),
        "the identity onto the top": (
            lambda: local_losses.PhyLL(context="top"),
            ValueError,
            r"context .same. and no pooling of its own for the context, got 'top'",
        ),
        "the identity onto other cells": (
            lambda: local_losses.PhyLL(context_pooling=2),
            ValueError,
            "no pooling of its own for the context, got 'same' and 2",
        ),
        "projections of no pairs": (
            lambda: local_losses.SCFF(shared=False),
            ValueError,
            "SCFF scores no pairs: it has no use for projections of each direction",
        ),
        "goodness of pairs": (
            lambda: local_losses.CLAPP(goodness="mean"),
            ValueError,
            "CLAPP judges no goodness: leave goodness out",
        ),
        "a negative penalty": (
            lambda: local_losses.CLAPP(penalty=-1.0),
            ValueError,
            r"penalty must not be negative, got -1\.0",
        ),
        "nan of a penalty": (
            lambda: local_losses.CLAPP(penalty=NAN),
            ValueError,
            "penalty must be finite, got nan",
        ),
        "a temperature of 0": (
            lambda: local_losses.InfoNCE(temperature=0.0).build([(3,)]),
            ValueError,
            "temperature must be positive and finite, got 0.0",
        ),
        "unknown goodness": (
            lambda: local_losses.SCFF(goodness="max"),
            ValueError,
            '"sum" or "mean", got \'max\'',
        ),
        "no rule to read": (
            lambda: network_rule.NetworkRule(rule="CLAPP"),
            TypeError,
            "rule must be a `linlocal.Rule`, .* got 'CLAPP'",
        ),
        "an option without a use": (
            lambda: local_losses.Views(rank=2, negatives="all"),
            ValueError,
            "VICReg scores no pairs: it has no use for negatives, rank",
        ),
        "an unknown metric": (
            lambda: local_losses.CLAPP(metric="upstream"),
            ValueError,
            "metric must be one of frobenius, downstream, got 'upstream'",
        ),
        "a metric without a penalty": (
            lambda: local_losses.CLAPP(metric="downstream", projection="random"),
            ValueError,
            "no penalty that could be in the downstream metric",
        ),
        "a metric and another context pooling": (
            lambda: local_losses.CLAPP(metric="downstream", context_pooling=1),
            ValueError,
            "leave context_pooling out",
        ),
        "too small a budget": (
            lambda: projections.rank_within(3, [(4, 4)]),
            ValueError,
            "A budget of 3 parameters is too small",
        ),
        "features of another size": (
            lambda: projections.ProjectionModule(3, 4, None, torch.Generator())(VIEWS[:, :2]),
            ValueError,
            "has 2 features, but its projection was built for 4",
        ),
        "a rank in words": (
            lambda: local_losses.CLAPP(rank="2"),
            TypeError,
            "rank must be a whole number",
        ),
        "a penalty in words": (
            lambda: local_losses.CLAPP(penalty="0.1"),
            TypeError,
            "penalty must be a number",
        ),
    },
    "map_pooling": {
        "a window of 0": (
            lambda: map_pooling.Window(0),
            ValueError,
            "side must be at least 1, got 0",
        ),
        "cells below 0": (
            lambda: map_pooling.Cells(-3),
            ValueError,
            "side must be at least 1, got -3",
        ),
        "unknown pooling": (
            lambda: map_pooling.pools("local", 2),
            ValueError,
            "must be \"global\", .* got 'local'",
        ),
        "pooling of other blocks": (
            lambda: map_pooling.pools([1], 2),
            ValueError,
            "1 entries for 2 blocks",
        ),
        "a map of five axes": (
            lambda: map_pooling.as_map(torch.ones(1, 1, 1, 1, 1)),
            ValueError,
            r"got shape \(1, 1, 1, 1, 1\)",
        ),
        "a vector": (
            lambda: map_pooling.as_map(torch.ones(3)),
            ValueError,
            r"must be \(samples, channels\).*got shape \(3,\)",
        ),
        "too large a window": (
            lambda: map_pooling.Window(5)(torch.ones(1, 2, 3, 3)),
            ValueError,
            "window of 5 does not fit a map of side 3",
        ),
        "a window in words": (
            lambda: map_pooling.Window("2"),
            TypeError,
            "side must be a whole number",
        ),
        "half a window": (
            lambda: map_pooling.Window(1.5),
            TypeError,
            "side must be a whole number",
        ),
        "a bool of cells": (
            lambda: map_pooling.Cells(True),
            TypeError,
            "side must be a whole number",
        ),
    },
    "heads": {
        "unknown noise": (
            lambda: heads.ActivityNoise(per="row"),
            ValueError,
            "channel, map, tensor, got 'row'",
        ),
        "negative noise": (
            lambda: heads.ActivityNoise(-1.0),
            ValueError,
            "scale must not be negative, got -1.0",
        ),
        "noise of a vector": (
            lambda: heads.ActivityNoise(per="map")(VIEWS),
            ValueError,
            "the variance over the places of a map",
        ),
        "unknown head": (
            lambda: heads.head("big", (3,)),
            ValueError,
            "expansion, local, global, got 'big'",
        ),
        "labels of another batch": (
            lambda: labels_of((VIEWS, torch.zeros(3)), 8, VIEWS.device),
            ValueError,
            r"A batch of 8 rows, .* came with labels of shape \(3,\)",
        ),
        "labels in a matrix": (
            lambda: labels_of((VIEWS, torch.zeros(8, 1)), 8, VIEWS.device),
            ValueError,
            r"labels of shape \(8, 1\): give one label",
        ),
        "no batch": (
            lambda: labels_of(None, 8, VIEWS.device),
            ValueError,
            r"give it batches \(inputs, labels\), got None",
        ),
        "inputs alone in a tuple": (
            lambda: labels_of((VIEWS,), 8, VIEWS.device),
            ValueError,
            r"give it batches \(inputs, labels\), got a tuple",
        ),
        "no labels": (
            lambda: labels_of(VIEWS, 8, VIEWS.device),
            ValueError,
            r"give it batches \(inputs, labels\), got a Tensor",
        ),
        "nan of a scale": (
            lambda: heads.HeadedViews(scale=NAN),
            ValueError,
            "scale must be finite, got nan",
        ),
    },
    "gather": {
        "an odd number of rows": (
            lambda: gather.gather_views(VIEWS[:5]),
            ValueError,
            "an even number of rows from 4 on, got 5",
        ),
    },
}

ALL = called(CASES)


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_local_loss(left_alone, call, error, message):
    left_alone(call, error, message)
