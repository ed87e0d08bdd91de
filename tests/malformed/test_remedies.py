"""Orthogonal weights and the downstream metric refuse what they cannot do, in words."""

import copy
import re
from functools import partial

import pytest
import torch
from torch import nn

from linlocal.analysis import LocalTrainer
from linlocal.analysis.local_losses import CLAPP, least_squares
from linlocal.analysis.training import Orthogonality, orthogonal_, scale_branches_
from linlocal.analysis.watching import measure_downstream

SGD = partial(torch.optim.SGD, lr=0.1)
VIEWS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
NET = nn.Sequential(
    nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
)
FROZEN = copy.deepcopy(NET).requires_grad_(False)
STRIDE = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2))
TIED = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
TIED[1].weight = TIED[0].weight
METRIC = CLAPP(metric="downstream", context="top")


def parametrised():
    return nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)))


def losses():
    return METRIC.build([(4,), (3,)])


def keep(kept, model=NET, optimiser=None):
    return kept.keep(model, optimiser or SGD(copy.deepcopy(NET).parameters()))


def step_with_closure():
    net = copy.deepcopy(NET)
    optimiser = SGD(net.parameters())
    Orthogonality(penalty=1.0).keep(net, optimiser)
    net(VIEWS).sum().backward()
    optimiser.step(lambda: net(VIEWS).sum())


def broken_weight():
    net = copy.deepcopy(NET)
    with torch.no_grad():
        net[0][0].weight[0, 0] = float("nan")
    Orthogonality().retract(net)


def local_trainer(rule=METRIC, **options):
    trainer = LocalTrainer(copy.deepcopy(NET), None, rule, shape=(4,), **options)
    trainer.step(VIEWS)


CASES = {
    "no module": (lambda: orthogonal_("net"), TypeError, "model must be a torch.nn.Module"),
    "no weights": (lambda: orthogonal_(nn.ReLU()), ValueError, "no linear or convolutional layer"),
    "frozen weights": (lambda: orthogonal_(FROZEN), ValueError, "unfreeze them"),
    "unknown name": (lambda: orthogonal_(NET, "2"), ValueError, "No submodule is called '2'"),
    "a name without layers": (lambda: orthogonal_(NET, "0.1"), ValueError, "'0.1' (ReLU) holds no"),
    "names of another kind": (lambda: orthogonal_(NET, [1]), TypeError, "names of submodules"),
    "a transposed convolution": (
        lambda: orthogonal_(nn.ConvTranspose2d(1, 1, 2)),
        ValueError,
        "is a transposed convolution",
    ),
    "a parametrisation": (
        lambda: orthogonal_(parametrised()),
        ValueError,
        "is computed from other",
    ),
    "a lazy layer": (lambda: orthogonal_(nn.LazyLinear(3)), ValueError, "before the first forward"),
    "delta and a stride": (
        lambda: orthogonal_(STRIDE, kernel="delta"),
        ValueError,
        "0 has stride (2, 2)",
    ),
    "unknown kernel": (lambda: orthogonal_(NET, kernel="dirac"), ValueError, "kernel must be"),
    "a gain of 0": (lambda: orthogonal_(NET, gain=0), ValueError, "gain must be positive"),
    "a block as the end of a branch": (
        lambda: scale_branches_(NET, "0"),
        ValueError,
        "such as '0.0'",
    ),
    "an end without weights": (lambda: scale_branches_(NET, "0.1"), ValueError, "not a single mod"),
    "a shared end": (lambda: scale_branches_(TIED, "*"), ValueError, "scaled twice"),
    "nothing to keep": (
        lambda: Orthogonality(retraction=None),
        ValueError,
        "Give a retraction or a penalty",
    ),
    "unknown retraction": (lambda: Orthogonality(retraction="svd"), ValueError, '"polar", "qr"'),
    "no optimiser": (
        lambda: keep(Orthogonality(), NET, SGD),
        TypeError,
        "optimisers must be a sequence of optimisers",
    ),
    "an optimiser of another network": (
        lambda: keep(Orthogonality()),
        ValueError,
        "No optimiser trains the weights of 0.0, 1.0",
    ),
    "a closure": (step_with_closure, ValueError, "A step with a closure"),
    "a weight that is not finite": (broken_weight, FloatingPointError, "0.0 are not finite"),
    "another kind of option": (
        lambda: local_trainer(CLAPP(), orthogonality="polar"),
        TypeError,
        "orthogonality must be an Orthogonality",
    ),
    "orthogonality and shards": (
        lambda: local_trainer(CLAPP(), orthogonality=Orthogonality(), shard=True),
        ValueError,
        "orthogonality is a property of the whole",
    ),
    "the metric and shards": (
        lambda: local_trainer(shard=True),
        ValueError,
        "which sharded training never holds",
    ),
    "rows that depend on each other": (
        local_trainer,
        ValueError,
        "Rows of a batch depend on each other",
    ),
    "a map that was not measured": (
        lambda: losses()[0](VIEWS, VIEWS[:, :3]),
        RuntimeError,
        "is not measured yet",
    ),
    "another number of losses": (
        lambda: measure_downstream(NET, None, losses()[:1], VIEWS),
        ValueError,
        "1 losses for 2 blocks",
    ),
    "no views": (lambda: measure_downstream(NET, None, losses(), None), TypeError, "views must be"),
    "a map of another shape": (
        lambda: losses()[0].set_downstream(torch.ones(2, 4), torch.ones(4), torch.ones(2)),
        ValueError,
        "(2, 4), but the projection was built for (3, 4)",
    ),
    "B that is bound": (
        lambda: losses()[0].projections[0][0].set_to(torch.ones(4, 3)),
        ValueError,
        "cannot be set",
    ),
    "B that is bound, by least squares": (
        lambda: least_squares(
            losses(), [VIEWS, VIEWS[:, :3]], [torch.zeros_like(VIEWS), torch.zeros(8, 3)]
        ),
        ValueError,
        "in the downstream metric",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_done_is_refused(refused, case):
    call, error, message = CASES[case]
    refused(call, error, re.escape(message))
