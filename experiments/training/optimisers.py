"""LARS and its schedule, as large batches of self-supervised training use them."""

from __future__ import annotations

import math
from importlib import import_module
from importlib.util import find_spec

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from experiments.networks import import_torchvision

# Learning rates of weights and of biases for a batch of 256.
RATE, BIAS_RATE = 0.2, 0.0048


def lars(parameters: list[nn.Parameter], learning_rate: float = RATE) -> Optimizer:
    """LARS of timm with the settings of Barlow Twins: momentum 0.9, weight decay 1.5e-6.

    You et al. 2017 (arXiv 1708.03888); Zbontar et al. 2021 (arXiv 2103.03230), section 2.2. Biases
    and the parameters of normalisations are neither decayed nor adapted, and learn at
    0.0048 / 0.2 of the rate.

    Args:
        parameters: the parameters of a block and its loss.
        learning_rate: learning rate of weights; the published one is 0.2 x batch / 256.

    Raises:
        ImportError: timm is missing.
    """
    import_torchvision()  # timm imports it
    if find_spec("timm") is None:
        raise ImportError("LARS comes from timm: pip install 'linlocal[vision]'.")
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 1.5e-6},
        {
            "params": [p for p in parameters if p.ndim <= 1],
            "weight_decay": 0.0,
            "lr": learning_rate * BIAS_RATE / RATE,
        },
    ]
    chosen = [group for group in groups if group["params"]]
    optimiser: Optimizer = import_module("timm.optim").Lars(chosen, lr=learning_rate, momentum=0.9)
    return optimiser


def warm_up_cosine(optimiser: Optimizer, steps: int, warm_up: int) -> LambdaLR:
    """The rate rises linearly over ``warm_up`` steps, then falls along a cosine to 1/1000.

    Args:
        optimiser: the optimiser, whose present rates are the highest ones.
        steps: total number of steps.
        warm_up: number of steps during which the rate rises.

    Raises:
        ValueError: a warm-up that is not shorter than the training.
    """
    if not 0 <= warm_up < steps:
        raise ValueError(f"warm_up must be 0..{steps - 1} of {steps} steps, got {warm_up}.")

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        share = (step - warm_up) / (steps - warm_up)
        return 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * share))

    return LambdaLR(optimiser, factor)
