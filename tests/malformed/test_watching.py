"""Malformed blocks, and malformed input of what watches a network: cosines, health, locality."""

import pytest
import torch
from torch import nn

from linlocal import analysis
from linlocal.analysis.alignment import AlignmentRecorder, align, log_spaced
from linlocal.analysis.block import blocks
from linlocal.analysis.results import ResultError
from linlocal.analysis.watching import audit_locality, masked_gradients
from tests.malformed.inputs import called, given
from tests.malformed.instruments import AT_LEAST_ONE, NAMES, NET, RULE, VIEWS, X


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


def shared():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


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
    "blocks": lambda bad: blocks(*bad),
    "align": lambda bad: align(*bad, RULE, VIEWS),
    "AlignmentRecorder": lambda bad: AlignmentRecorder(*bad, rule=RULE),
    "Monitor": lambda bad: analysis.Monitor(*bad),
    "audit_locality": lambda bad: audit_locality(*bad, RULE, VIEWS),
}
TAKES_A_POSITIVE = {
    "AlignmentRecorder.every": lambda bad: record(every=bad),
    "AlignmentRecorder.flush_every": lambda bad: record(flush_every=bad),
    "Monitor.every": lambda bad: watched(every=bad),
    "Monitor.bank": lambda bad: watched(bank=bad),
    "log_spaced": log_spaced,
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
}

ALL = [*given(TAKES_A_NETWORK, NETWORKS), *given(TAKES_A_POSITIVE, AT_LEAST_ONE), *called(CASES)]


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_input_of_what_watches(left_alone, call, error, message):
    left_alone(call, error, message)


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
