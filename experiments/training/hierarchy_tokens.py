"""Networks that predict the last token of a hierarchy, trained on data that never repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from linlocal.analysis.hierarchy import FreshBatches, HierarchicalNet
from linlocal.rhm import RandomHierarchyModel
from linlocal.rhm.tokens import LastToken, number_of_tokens

Reader = Literal["transformer", "convolutional"]


class TokenNet(nn.Module):
    """Logits (samples, v) of the last token from the d - 1 tokens before it (samples, d - 1).

    Args:
        rhm: the model that the tokens come from.
        kind: "transformer" has L blocks of pre-norm attention with 4 heads and read-out at the last
            place; "convolutional" is a tree of L layers.
        width: units per place.
        seed: seeds the weights; the global random state is not touched.
    """

    def __init__(self, rhm: RandomHierarchyModel, kind: Reader, width: int, seed: int) -> None:
        super().__init__()
        self._tokens, d, v = number_of_tokens(rhm), rhm.num_leaves, rhm.num_values(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if kind == "convolutional":
                self.tree = HierarchicalNet(self._tokens, rhm.tuple_sizes, width, v, d, seed=seed)
                return
            self.embedding = nn.Embedding(self._tokens, width)
            self.places = nn.Parameter(0.02 * torch.randn(d, width))
            block = nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(
                block, rhm.num_levels, nn.LayerNorm(width), enable_nested_tensor=False
            )
            self.readout = nn.Linear(width, v)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits; the place of the last token holds the number that stands for nothing."""
        asked = F.pad(tokens, (0, 1), value=self._tokens - 1)
        if hasattr(self, "tree"):
            return cast(Tensor, self.tree(F.one_hot(asked, self._tokens).float()))
        hidden = self.blocks(self.embedding(asked) + self.places)
        return cast(Tensor, self.readout(hidden[:, -1]))


def last_token_losses(
    net: nn.Module,
    rhm: RandomHierarchyModel,
    *,
    counts: Sequence[int],
    batch_size: int,
    learning_rate: float,
    num_test: int,
    seed: int,
) -> NDArray[np.float64]:
    """Test losses in nats after so many training data, none of which is a test datum.

    Args:
        net: gives logits of the last token; it is trained by Adam, whose rate falls to 0 along a
            quarter of a cosine.
        rhm: the model that data are drawn from.
        counts: numbers of data after which the loss is measured, ascending.
        batch_size: number of data in a step.
        learning_rate: of the first step.
        num_test: number of test data.
        seed: seeds the data.
    """
    torch.set_num_threads(1)
    task = LastToken(rhm)
    _, test = rhm.split(train=0, test=num_test, seed=seed)
    tokens, targets = map(torch.from_numpy, task(test.leaves))
    steps = [max(1, count // batch_size) for count in counts]
    batches = FreshBatches(
        rhm, batch_size=batch_size, num_batches=steps[-1], seed=seed, task=task, exclude=test
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: float(np.cos(np.pi / 2 * min(1.0, step / steps[-1])))
    )
    losses = []
    for step in range(1, steps[-1] + 1):
        x, y = batches[step - 1]
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
        schedule.step()
        if step in steps:
            with torch.no_grad():
                losses.append(float(F.cross_entropy(net(tokens), targets)))
    return np.array(losses)
