"""Malformed inputs of `analysis`: instruments refuse them, and leave the network as it was."""

import inspect

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.data import TensorDataset

from linlocal import analysis
from linlocal.analysis.alignment import AlignmentRecorder, align, log_spaced
from linlocal.analysis.block import blocks
from linlocal.analysis.explore import Setting, cosines
from linlocal.analysis.local_losses import (
    gather,
    heads,
    labels_of,
    named as local_losses,
    network_rule,
    pooling as map_pooling,
    projections,
)
from linlocal.analysis.probing import linear_probe, probe_blocks
from linlocal.analysis.results import Address, Provenance, ResultError
from linlocal.analysis.training import Checkpoints, SeededLoader
from linlocal.analysis.watching import audit_locality, masked_gradients

NAMES = ["0", "2"]
RULE = local_losses.CLAPP(score="softplus", pooling=1)
VIEWS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
NAN, INF = float("nan"), float("inf")
X = np.random.default_rng(0).standard_normal((20, 3))
Y = np.arange(20) % 2


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


NET = network()


def record(**options):
    return AlignmentRecorder(NET, NAMES, **{"rule": RULE, **options})


def stepped(body):
    with record(every=1).step():
        body()


def watched(body=lambda: NET(VIEWS), batch=None, **options):
    monitor = analysis.Monitor(NET, NAMES, **options)
    with monitor.step(batch=batch):
        body()
    return monitor


def train(model=None, names=NAMES, rule=RULE, **options):
    return analysis.LocalTrainer(model or network(), names, rule, **{"shape": (4,), **options})


def probe(x=X, y=Y, test_x=X, test_y=Y, **options):
    return linear_probe(x, y, test_x, test_y, **{"seed": 0, **options})


def shared():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def spoilt(value):
    x = X.copy()
    x[3, 1] = value
    return x


def provenance(**changes):
    known = {"experiment": "e", "preset": "cpu", "seed": 0, "config": {}}
    return Provenance.collect(**(known | changes))


# -- networks and names of blocks: one table for everything that takes them ------------------------

NETWORKS = {
    "no network": ((None, NAMES), TypeError, "model must be a torch.nn.Module, got None"),
    "a function for a network": (
        (len, NAMES),
        TypeError,
        "model must be a torch.nn.Module, got a builtin",
    ),
    "a class for a network": (
        (nn.Linear, NAMES),
        TypeError,
        "model must be a torch.nn.Module, got a type",
    ),
    "a name that matches nothing": (
        (NET, ["0", "layer3"]),
        ValueError,
        "no submodule 'layer3'; nearest names: 0, 1, 2",
    ),
    "no names": ((NET, []), ValueError, "No blocks were named; leave them out"),
    "a number for names": (
        (NET, 3),
        TypeError,
        "blocks must be a sequence of names of submodules, got 3",
    ),
    "a number for a name": ((NET, [3]), ValueError, "no submodule 3; nearest names"),
    "a block within another": (
        (nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 2)), ["0", "0.0"]),
        ValueError,
        "overlap, one lies inside the other",
    ),
    "one name twice": ((NET, ["0", "0"]), ValueError, "Block '0' is named twice"),
}
TAKES_A_NETWORK = {
    "blocks": blocks,
    "align": lambda net, names: align(net, names, RULE, VIEWS),
    "AlignmentRecorder": lambda net, names: AlignmentRecorder(net, names, rule=RULE),
    "Monitor": analysis.Monitor,
    "audit_locality": lambda net, names: audit_locality(net, names, RULE, VIEWS),
}
POSITIVE = {
    "zero": (0, ValueError, "must be at least 1, got 0"),
    "negative": (-3, ValueError, "must be at least 1, got -3"),
    "half": (0.5, TypeError, r"must be a whole number, got 0\.5"),
    "a word": ("10", TypeError, "must be a whole number, got '10'"),
    "a bool": (True, TypeError, "must be a whole number, got True"),
}
TAKES_A_POSITIVE = {
    "AlignmentRecorder.every": lambda bad: record(every=bad),
    "AlignmentRecorder.flush_every": lambda bad: record(flush_every=bad),
    "Monitor.every": lambda bad: watched(every=bad),
    "Monitor.bank": lambda bad: watched(bank=bad),
    "log_spaced": log_spaced,
    "Checkpoints": lambda bad: Checkpoints("folder", keep=bad),
}

CASES = {
    "blocks": {
        "no parameters": (
            lambda: blocks(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), ["0"]),
            ValueError,
            r"Block '0' \(ReLU\) has no parameters",
        ),
        "nothing to find": (
            lambda: blocks(nn.Linear(2, 2)),
            ValueError,
            "No blocks were found in Linear",
        ),
        "shared parameters": (
            lambda: blocks(shared(), NAMES),
            ValueError,
            "Parameters are shared across blocks",
        ),
    },
    "align": {
        "no rule": (
            lambda: align(NET, NAMES, None, VIEWS),
            TypeError,
            "rule must be a `linlocal.Rule`.*got None",
        ),
        "a name for a rule": (
            lambda: align(NET, NAMES, "CLAPP", VIEWS),
            TypeError,
            "rule must be a `linlocal.Rule`.*got 'CLAPP'",
        ),
        "a rule that was not called": (
            lambda: align(NET, NAMES, {"a": 3}, VIEWS),
            TypeError,
            "rule must be a `linlocal.Rule`, one of .* with a method build, got 3",
        ),
        "no rules": (
            lambda: align(NET, NAMES, {}, VIEWS),
            ValueError,
            "No rule was given: give one",
        ),
        "no views": (lambda: align(NET, NAMES, RULE), TypeError, "needs both views of a batch"),
        "arrays": (
            lambda: align(NET, NAMES, RULE, X),
            TypeError,
            "a view must be a tensor .* got a ndarray",
        ),
        "one row": (
            lambda: align(NET, NAMES, RULE, VIEWS[:1]),
            ValueError,
            "at least 2 samples, stacked: .* got 1",
        ),
        "an odd number of rows": (
            lambda: align(NET, NAMES, RULE, VIEWS[:5]),
            ValueError,
            "an even number of rows from 4 on, got 5",
        ),
        "losses of other blocks": (
            lambda: align(NET, NAMES, RULE.build([(3,)]), VIEWS),
            ValueError,
            "1 .* 2 blocks|2 blocks",
        ),
        "blocks out of order": (
            lambda: align(NET, ["2", "0"], RULE, VIEWS),
            RuntimeError,
            "once each and in the order 2, 0; they ran as 0",
        ),
    },
    "Monitor": {
        "unknown views": (
            lambda: watched(views="both"),
            ValueError,
            'must be "stacked", "separate" or None, got \'both\'',
        ),
        "no limits": (lambda: watched(limits=0.5), TypeError, "limits must be probing.Limits"),
        "a step without forward pass": (
            lambda: watched(lambda: None),
            RuntimeError,
            "enclosed 0 forward passes of the network with gradients, expected 1",
        ),
        "one of separate views": (
            lambda: watched(views="separate"),
            RuntimeError,
            "enclosed 1 forward passes of the network with gradients, expected 2",
        ),
        "no two views": (
            lambda: watched(lambda: NET(VIEWS[:7]), views="stacked"),
            ValueError,
            "gave 7 rows.*say views=None",
        ),
        "no labels": (
            lambda: watched(labels=True),
            ValueError,
            "This loss reads labels",
        ),
        "no state": (
            lambda: watched().load_state_dict({"step": 3}),
            ValueError,
            r"no state of a Monitor of 2 blocks: it has \['step'\]",
        ),
    },
    "AlignmentRecorder": {
        "unknown gradient": (
            lambda: record(against="forward"),
            ValueError,
            '"backward" or "rule", got \'forward\'',
        ),
        "no cadence": (
            lambda: record(every=None),
            TypeError,
            "every must be a whole number, got None",
        ),
        "no rule": (
            lambda: record(rule=None),
            TypeError,
            "rule must be a `linlocal.Rule`.* got None",
        ),
        "a rule trained beside another": (
            lambda: record(rule={"a": RULE, "b": RULE}, trains_rule=True),
            ValueError,
            'give one rule, against="backward" and no view_parts',
        ),
        "a step without forward pass": (
            lambda: stepped(lambda: None),
            RuntimeError,
            "No forward pass with gradients was seen",
        ),
        "a step without backward pass": (
            lambda: stepped(lambda: NET(VIEWS)),
            RuntimeError,
            "No gradient of the global loss",
        ),
        "nothing recorded": (lambda: record().dataset(), ResultError, "No step was recorded"),
        "a state without step": (
            lambda: record().load_state_dict({"epoch": 3}),
            ValueError,
            r"has a step, got \['epoch'\]",
        ),
        "no state": (
            lambda: record().load_state_dict(None),
            TypeError,
            "state must be what `state_dict` gave, got None",
        ),
        "a step below 0": (
            lambda: record().load_state_dict({"step": -1}),
            ValueError,
            "step must be at least 0, got -1",
        ),
        "a step in words": (
            lambda: record().load_state_dict({"step": "3"}),
            TypeError,
            "step must be a whole number, got '3'",
        ),
    },
    "Checkpoints": {
        "no folder": (lambda: Checkpoints(None), TypeError, "folder must be a path, got None"),
        "a step below 0": (
            lambda: Checkpoints("folder").save(-1, {}),
            ValueError,
            "step must be at least 0, got -1",
        ),
        "half a step": (
            lambda: Checkpoints("folder").save(0.5, {}),
            TypeError,
            r"step must be a whole number, got 0\.5",
        ),
        "no state": (
            lambda: Checkpoints("folder").save(1, None),
            TypeError,
            "state must be a dict, got None",
        ),
        "a list for a state": (
            lambda: Checkpoints("folder").save(1, [1]),
            TypeError,
            "state must be a dict, got a list",
        ),
    },
    "SeededLoader": {
        "no data": (
            lambda: SeededLoader(None, 2),
            TypeError,
            "data must have a length and rows by number.* got None",
        ),
        "a stream": (
            lambda: SeededLoader(iter([1]), 2),
            TypeError,
            "data must have a length .* got a list_iterator",
        ),
        "a negative seed": (
            lambda: SeededLoader([1], 1, seed=-1),
            ValueError,
            "seed must be at least 0, got -1",
        ),
        "negative workers": (
            lambda: SeededLoader([1], 1, num_workers=-1),
            ValueError,
            "num_workers must be .* got -1",
        ),
        "no rows": (
            lambda: SeededLoader([1], 0),
            ValueError,
            "batch_size must be at least 1 .* got 0, 0 and 1",
        ),
        "half a batch": (
            lambda: SeededLoader([1], 0.5),
            TypeError,
            r"batch_size must be a whole number, got 0\.5",
        ),
        "a batch in words": (
            lambda: SeededLoader([1], "2"),
            TypeError,
            "batch_size must be a whole number, got '2'",
        ),
        "a world in words": (
            lambda: SeededLoader([1], 1, world_size="2"),
            TypeError,
            "world_size must be a whole",
        ),
        "a rank beyond the world": (
            lambda: SeededLoader([1], 1, rank=2, world_size=2),
            ValueError,
            r"rank one of 0\.\.world_size - 1, got 1, 2 and 2",
        ),
    },
    "audit_locality": {
        "no rule": (
            lambda: audit_locality(NET, NAMES, None, VIEWS),
            TypeError,
            "rule must be a `linlocal.Rule`.* got None",
        ),
        "no inputs": (
            lambda: audit_locality(NET, NAMES, RULE, None),
            TypeError,
            "inputs must be a tensor .* got None",
        ),
        "an odd number of rows": (
            lambda: audit_locality(NET, NAMES, RULE, VIEWS[:5]),
            ValueError,
            "from 4 on, got 5",
        ),
    },
    "masked_gradients": {
        "no network": (
            lambda: masked_gradients(None, VIEWS, torch.sum),
            TypeError,
            "model must be a torch.nn.Module, got None",
        ),
        "no inputs": (
            lambda: masked_gradients(NET, None, torch.sum),
            TypeError,
            "inputs must be a tensor .* got None",
        ),
        "unknown masks": (
            lambda: masked_gradients(NET, VIEWS, torch.sum, "all"),
            ValueError,
            "\"none\", got 'all'",
        ),
        "many losses": (
            lambda: masked_gradients(NET, VIEWS, lambda z: z),
            ValueError,
            r"a scalar, got shape \(8, 2\)",
        ),
        "no loss": (
            lambda: masked_gradients(NET, VIEWS, lambda z: None),
            TypeError,
            "value of loss_fn must be a tensor .* got None",
        ),
        "another nonlinearity": (
            lambda: masked_gradients(nn.Sequential(nn.Linear(4, 2), nn.Tanh()), VIEWS, torch.sum),
            ValueError,
            "knows the masks of ReLU only, and met 'tanh'",
        ),
    },
    "linear_probe": {
        "a vector": (
            lambda: probe(x=X[:, 0]),
            ValueError,
            r"training needs features .* got features of shape \(20,\)",
        ),
        "labels that are missing": (lambda: probe(y=Y[:5]), ValueError, r"labels of shape \(5,\)"),
        "nothing": (lambda: probe(X[:0], Y[:0]), ValueError, r"got features of shape \(0, 3\)"),
        "nan": (
            lambda: probe(spoilt(NAN)),
            ValueError,
            "1 of 20 training samples have features that are NaN or inf",
        ),
        "infinity in the test": (
            lambda: probe(test_x=spoilt(INF)),
            ValueError,
            "1 of 20 test samples",
        ),
        "halves for labels": (
            lambda: probe(y=Y * 0.5),
            ValueError,
            "labels must be whole numbers, got float64",
        ),
        "other features in the test": (
            lambda: probe(test_x=X[:, :2]),
            ValueError,
            "3 features in training, but 2 in the test",
        ),
        "an unseen label": (
            lambda: probe(test_y=Y + 1),
            ValueError,
            r"Test labels \[2\] never occur in training",
        ),
        "unknown kind": (
            lambda: probe(kind="svm"),
            ValueError,
            '"ridge" or "logistic", got \'svm\'',
        ),
        "no strengths": (
            lambda: probe(strengths=()),
            ValueError,
            r"strengths must be positive numbers, got \(\)",
        ),
        "a strength of 0": (
            lambda: probe(strengths=(0.0,)),
            ValueError,
            r"must be positive numbers, got \(0\.0,\)",
        ),
        "nothing held out": (
            lambda: probe(validation=0.0),
            ValueError,
            r"must lie between 0 and 1, got 0\.0",
        ),
        "too little held out": (
            lambda: probe(validation=0.001),
            ValueError,
            "less than one sample: nothing is left",
        ),
        "words": (
            lambda: probe(x=X.astype(str)),
            TypeError,
            "training features must hold real numbers, got dtype <U32",
        ),
    },
    "probe_blocks": {
        "unknown block": (
            lambda: probe_blocks(NET, ["layer9"], [(VIEWS, VIEWS)], [], seed=0),
            ValueError,
            "has no submodule 'layer9'",
        ),
        "no batches": (
            lambda: probe_blocks(NET, NAMES, [], [], seed=0),
            ValueError,
            "Nothing to probe: the training loader gave no batch",
        ),
    },
    "LocalTrainer": {
        "unknown block": (
            lambda: train(names=["layer9"]),
            ValueError,
            "no submodule 'layer9'; nearest names",
        ),
        "other optimisers": (
            lambda: train(optimiser=[torch.optim.SGD] * 3),
            ValueError,
            "3 optimisers for 2 blocks",
        ),
        "a window of 0": (
            lambda: train(window=0),
            ValueError,
            "window must be at least 1, got 0",
        ),
        "a window of more blocks than there are": (
            lambda: train(window=3),
            ValueError,
            "window of 3 blocks in a network of 2: window=2 is backpropagation",
        ),
        "a window in one pass": (
            lambda: train(window=2, one_pass=True),
            ValueError,
            "one_pass keeps the graphs of all blocks .* give one of the two",
        ),
        "a window of sharded blocks": (
            lambda: train(window=2, shard=True),
            ValueError,
            "shard gathers the weights of a block for one backward pass: use shard=False",
        ),
        "matched projections over devices": (
            lambda: train(
                rule=local_losses.CLAPP(projection="least_squares", pooling=1),
                devices=["cpu", "cpu"],
            ),
            ValueError,
            "needs a pass through the whole network on one device: leave devices out",
        ),
        "a penalty in the downstream metric over devices": (
            lambda: train(
                rule=local_losses.CLAPP(metric="downstream", pooling=1), devices=["cpu", "cpu"]
            ),
            ValueError,
            "needs a pass through the whole network on one device: leave devices out",
        ),
        "a window over devices": (
            lambda: train(window=2, devices=["cpu", "cpu"]),
            ValueError,
            "passes errors from block to block on one device: leave devices out, or use window=1",
        ),
        "a window below a matched projection": (
            lambda: train(
                rule=local_losses.CLAPP(projection="least_squares", pooling=1),
                model=nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))),
                names=["0", "1", "2"],
                window=2,
            ),
            ValueError,
            "block 2 is matched to the backpropagated error, which a window",
        ),
        "a window below a penalty in the downstream metric": (
            lambda: train(
                rule=local_losses.CLAPP(metric="downstream", pooling=1),
                model=nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))),
                names=["0", "1", "2"],
                window=2,
            ),
            ValueError,
            "block 2 is in the metric of all blocks above, which a window",
        ),
        "nan in a batch": (
            lambda: train().step(VIEWS * NAN),
            FloatingPointError,
            "The loss of block 1 .* is nan at step 0",
        ),
        "an odd batch": (
            lambda: train().step(VIEWS[:5]),
            ValueError,
            "an even number of rows from 4 on, got 5",
        ),
        "the state of another": (
            lambda: train().load_state_dict(train(seed=1).state_dict()),
            ValueError,
            "use the same trainer, blocks and seed",
        ),
        "no batches": (
            lambda: train().fit(SeededLoader(TensorDataset(VIEWS[:1]), 4), 1),
            ValueError,
            "The loader gave no batch in epoch 0",
        ),
    },
    "GlobalTrainer": {
        "neither rule nor loss": (
            lambda: analysis.GlobalTrainer(network(), NAMES, shape=(4,)),
            ValueError,
            "Give a rule, whose loss of the last block is taken, or a loss",
        ),
        "rule and loss": (
            lambda: analysis.GlobalTrainer(network(), NAMES, RULE, loss=torch.sum, shape=(4,)),
            ValueError,
            "Give a rule, .* or a loss",
        ),
    },
    "Provenance": {
        "nothing of a run": (
            lambda: Provenance.of(xr.Dataset()),
            ResultError,
            "lacks the attributes experiment, preset",
        ),
        "a newer schema": (
            lambda: Provenance.of(xr.Dataset(attrs={"schema": 99})),
            ResultError,
            "schema 99 is newer than 2",
        ),
        "unknown preset": (
            lambda: Address("e", "cp", 0, "."),
            ResultError,
            "unknown preset 'cp'; did you mean 'cpu'",
        ),
    },
    "explore": {
        "unknown rule": (
            lambda: cosines(Setting(rule="CLAP")),
            ValueError,
            "same layer, direct feedback, both, got 'CLAP'",
        ),
        "unknown score": (
            lambda: cosines(Setting(score="soft")),
            ValueError,
            "Unknown score 'soft'; known scores",
        ),
        "no penalty": (
            lambda: cosines(Setting(penalty=0.0)),
            ValueError,
            "positive and finite, got 0.0",
        ),
        "one layer": (lambda: cosines(Setting(depth=1)), ValueError, "needs at least two layers"),
        "one sample": (
            lambda: cosines(Setting(samples=1)),
            ValueError,
            "at least 2 samples, got 1",
        ),
    },
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
    "numbers": {
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
        "complex features": (lambda: probe(x=X * 1j), TypeError, "must hold real numbers"),
    },
}


ALL = [
    *(
        pytest.param(lambda e=entry, a=given: e(*a), error, message, id=f"{name}: {case}")
        for name, entry in TAKES_A_NETWORK.items()
        for case, (given, error, message) in NETWORKS.items()
    ),
    *(
        pytest.param(lambda e=entry, b=bad: e(b), error, message, id=f"{name}: {case}")
        for name, entry in TAKES_A_POSITIVE.items()
        for case, (bad, error, message) in POSITIVE.items()
    ),
    *(
        pytest.param(*case, id=f"{name}: {what}")
        for name, table in CASES.items()
        for what, case in table.items()
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_input_of_analysis(refused, tmp_path, monkeypatch, call, error, message):
    monkeypatch.chdir(tmp_path)
    refused(call, error, message)
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in NET.modules()]
    assert not any(hooks), "a hook was left on the network"
    assert all(p.grad is None and not p._backward_hooks for p in NET.parameters())
    assert not list(tmp_path.iterdir()), "a file was left behind"


def test_the_error_of_a_network_passes_and_leaves_no_hook():
    """What the network itself raises is not ours to rephrase."""
    for call in (
        lambda: align(NET, NAMES, RULE, VIEWS[:, :3]),
        lambda: audit_locality(NET, NAMES, RULE, VIEWS[:, :3]),
        lambda: masked_gradients(NET, VIEWS[:, :3], torch.sum),
    ):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            call()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in NET.modules())


def test_every_public_name_of_analysis_has_its_cases():
    """A new entry point brings its malformed inputs with it."""
    tried = {case.id.split(":")[0].split(".")[0] for case in ALL}
    errors = {"CheckpointError", "LocalityError", "ResultError"}  # raised, not called
    names = {name for name in analysis.__all__ if not inspect.ismodule(getattr(analysis, name))}
    missing = names - tried - errors
    assert not missing, f"no malformed input is tried on {sorted(missing)}"
