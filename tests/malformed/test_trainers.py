"""Malformed input of what trains: trainers, their loaders and checkpoints."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from linlocal import analysis
from linlocal.analysis.local_losses import named as local_losses
from linlocal.analysis.training import Checkpoints, SeededLoader
from tests.malformed.inputs import NAN, called, given
from tests.malformed.instruments import AT_LEAST_ONE, NAMES, RULE, VIEWS, network


def train(model=None, names=NAMES, rule=RULE, **options):
    return analysis.LocalTrainer(model or network(), names, rule, **{"shape": (4,), **options})


TAKES_A_POSITIVE = {"Checkpoints": lambda bad: Checkpoints("folder", keep=bad)}
CASES = {
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
}

ALL = [*given(TAKES_A_POSITIVE, AT_LEAST_ONE), *called(CASES)]


@pytest.mark.parametrize(("call", "error", "message"), ALL)
def test_malformed_input_of_what_trains(left_alone, call, error, message):
    left_alone(call, error, message)
