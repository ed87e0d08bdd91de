"""Optimisers and schedulers, made and checked: each trains all that it is given, by ``step()``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from linlocal.inputs import described

MakeOptimiser = Callable[[list[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]


def make_optimisers(
    makers: MakeOptimiser | Sequence[MakeOptimiser], groups: Sequence[Sequence[nn.Parameter]]
) -> list[Optimizer]:
    """One optimiser for all parameters, or one for each group that has parameters.

    Args:
        makers: one maker for all parameters together, or one for each group.
        groups: the parameters of each block and its loss.

    Raises:
        TypeError: a maker is none, or what it makes is no optimiser.
        ValueError: there is not one maker for each group, or an optimiser needs a closure, trains
            other parameters, or divides by 0 in the precision of its parameters.
    """
    if callable(makers):
        # One optimiser for all computes the same as one for each block, in a single call.
        return [_made(makers, group) for group in [[p for g in groups for p in g]] if group]
    if not isinstance(makers, Sequence) or not all(callable(maker) for maker in makers):
        raise TypeError(
            "optimiser makes an optimiser of the parameters that it is called with, got "
            f"{described(makers)}: give functools.partial(torch.optim.SGD, lr=0.1), say, and not "
            "an optimiser, because the losses have parameters of their own; or one such for each "
            "block."
        )
    if len(makers) != len(groups):
        raise ValueError(f"{len(makers)} optimisers for {len(groups)} blocks.")
    return [_made(make, [*group]) for make, group in zip(makers, groups, strict=True) if group]


def make_scheduler(make: MakeScheduler, optimiser: Optimizer) -> LRScheduler:
    """The scheduler of an optimiser.

    Raises:
        TypeError: ``make`` makes none, or is one itself.
        ValueError: the scheduler needs something at each step.
    """
    if not callable(make):
        raise TypeError(
            f"scheduler makes a scheduler of an optimiser, got {described(make)}: give "
            "functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=100), say."
        )
    scheduler: Any = make(optimiser)
    if not callable(getattr(scheduler, "step", None)):
        raise TypeError(f"scheduler made {described(scheduler)}, expected a scheduler of torch.")
    needed = _needed(scheduler.step)
    if needed:
        raise ValueError(
            f"{type(scheduler).__name__}.step needs {needed}, which a trainer does not give: it "
            "steps schedulers after every step. Take one that is a function of the step, or make "
            "one of trainer.optimisers and step it yourself, in log, say."
        )
    made: LRScheduler = scheduler
    return made


def _made(make: MakeOptimiser, parameters: list[nn.Parameter]) -> Optimizer:
    optimiser: Any = make(parameters)
    if not isinstance(optimiser, Optimizer):
        raise TypeError(f"optimiser made {described(optimiser)}, expected a torch.optim.Optimizer.")
    name = type(optimiser).__name__
    needed = _needed(optimiser.step)
    if needed:
        raise ValueError(
            f"{name}.step needs {needed}, to run the network again, but a trainer makes one pass "
            "for each step: take an optimiser of first order, such as SGD or AdamW."
        )
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    if held != {id(p) for p in parameters}:
        raise ValueError(
            f"The optimiser {name} holds {len(held)} parameters, others than the "
            f"{len(parameters)} that it was called with, which are those of the blocks and of "
            "their losses: make it of the list that it gets, optimiser=lambda parameters: "
            "SGD(parameters, lr=0.1). Freeze what is not to be trained, by requires_grad_(False)."
        )
    for group in optimiser.param_groups:
        half = any(p.dtype == torch.float16 for p in group["params"])
        eps = group.get("eps")
        if half and isinstance(eps, float) and eps > 0 and not torch.tensor(eps).half().item():
            raise ValueError(
                f"eps = {eps:g} of {name} is 0 in float16, so a gradient of 0 would make weights "
                'NaN: use eps=1e-4, or a precision that keeps weights in float32 ("16-mixed", '
                '"bf16-mixed").'
            )
    return optimiser


def _needed(step: Callable[..., Any]) -> str:
    """The first argument that a call of ``step`` needs; empty if it needs none."""
    return next(
        (
            p.name
            for p in inspect.signature(step).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ),
        "",
    )
