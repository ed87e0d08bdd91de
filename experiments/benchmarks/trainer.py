"""A step of our trainers against the loop that one writes first, side by side in one process.

The bare loop runs the blocks of a chain, each on the detached output of the one below (or all in
one graph), adds up the losses, and calls one backward pass and one optimiser. Both train copies of
one network on the same batch by the same losses and the same AdamW, and end with the same weights,
bit by bit, which is checked. Steps take turns; the lower quartile of one thread's process time
counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from experiments.networks import build
from experiments.training import Schedule, fabric_on
from linlocal.analysis.local_losses import CLAPP, LocalLoss, LocalRule
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, Trainer


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        rows: rows of a batch, both views together.
        width: units of each layer of the small network.
        encoder: factor on the channels of the middle-sized network.
        small_steps: steps of each kind for the small network; the first fifth warms up.
        middle_steps: the same for the middle-sized one.
        device: device of torch.
        seed: seeds the weights and the batch.
    """

    rows: int = 64
    width: int = 128
    encoder: float = 1 / 8
    small_steps: int = 400
    middle_steps: int = 20
    device: str = "cpu"
    seed: int = 0


TITLE = "A step of a trainer"
CONFIGS = {"cpu": Config()}
RULES: dict[str, Callable[..., LocalRule]] = {
    "CLAPP++": CLAPP,
    "CLAPP++ direct feedback": partial(CLAPP, context="top"),
}
KINDS: dict[str, Callable[..., Trainer]] = {
    "block after block": LocalTrainer,
    "one pass": partial(LocalTrainer, one_pass=True),
    "end to end": GlobalTrainer,
}


def measure(config: Config) -> xr.Dataset:
    """Time both.

    Returns:
        Over network, rule and trainer ``bare_s`` and ``trainer_s``, seconds of a step, and
        ``same``, whether both end with the same weights.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        networks = {
            "6 dense layers": (partial(_dense, config), (196,), 1, config.small_steps),
            "6 convolutions": (partial(_encoder, config), (3, 32, 32), None, config.middle_steps),
        }
        shape = (len(networks), len(RULES), len(KINDS))
        bare, ours, same = np.empty(shape), np.empty(shape), np.empty(shape, dtype=bool)
        for n, (make, inputs, pooling, steps) in enumerate(networks.values()):
            for r, rule in enumerate(RULES.values()):
                for k, kind in enumerate(KINDS.values()):
                    built = rule() if pooling is None else rule(pooling=pooling)
                    place = (n, r, k)
                    bare[place], ours[place], same[place] = _case(
                        make(), kind, built, inputs, steps, config
                    )
    finally:
        torch.set_num_threads(threads)
    dims = ("network", "rule", "trainer")
    return xr.Dataset(
        {
            "bare_s": (dims, bare, {"units": "s"}),
            "trainer_s": (dims, ours, {"units": "s"}),
            "same": (dims, same),
        },
        {"network": list(networks), "rule": list(RULES), "trainer": list(KINDS)},
        {"rows": config.rows},
    )


def _case(
    network: nn.Sequential,
    kind: Callable[..., Trainer],
    rule: LocalRule,
    shape: tuple[int, ...],
    steps: int,
    config: Config,
) -> tuple[float, float, bool]:
    schedule = Schedule(steps, 1e-3)
    trainer = kind(
        deepcopy(network),
        None,
        rule,
        shape=shape,
        optimiser=schedule.optimiser,
        fabric=fabric_on(torch.device(config.device)),
        seed=config.seed,
    )
    losses = rule.build(trainer.shapes, config.seed)
    used = losses if not trainer.end_to_end else losses[-1:]
    optimiser = schedule.optimiser([*network.parameters(), *used.parameters()])
    views = torch.randn(config.rows, *shape, generator=torch.Generator().manual_seed(config.seed))
    times: tuple[list[float], list[float]] = ([], [])
    calls: tuple[Callable[[], Any], ...] = (
        partial(_bare_step, network, used, optimiser, views, trainer.end_to_end),
        partial(trainer.step, views),
    )
    for _ in range(steps):
        for call, taken in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            taken.append(time.process_time() - start)
    weights = zip(network.parameters(), trainer.model.parameters(), strict=True)
    same = all(torch.equal(a, b) for a, b in weights)
    bare, ours = (float(np.quantile(taken[steps // 5 :], 0.25)) for taken in times)
    return bare, ours, same


def _bare_step(
    network: nn.Sequential,
    losses: nn.ModuleList,
    optimiser: torch.optim.Optimizer,
    views: Tensor,
    end_to_end: bool,
) -> None:
    optimiser.zero_grad()
    z, activities = views, []
    for block in network:
        z = block(z if end_to_end else z.detach())
        activities.append(z)
    top = activities[-1].detach()
    judged = zip(losses, activities[-len(losses) :], strict=True)
    total = torch.stack([cast(LocalLoss, loss)(z, top) for loss, z in judged]).sum()
    if not torch.isfinite(total):
        raise FloatingPointError("The loss is not finite.")
    total.backward()
    optimiser.step()


def _dense(config: Config) -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(config.seed)
        return nn.Sequential(
            *(
                nn.Sequential(nn.Linear(196 if l == 0 else config.width, config.width), nn.ReLU())
                for l in range(6)
            )
        )


def _encoder(config: Config) -> nn.Sequential:
    made = build("vgg6", width=config.encoder, num_channels=3, image_size=32, seed=config.seed)
    return cast(nn.Sequential, made)


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    ratios = data["trainer_s"] / data["bare_s"]
    ratio = ratios.sel(trainer=["one pass", "end to end"])
    small, middle = (float(ratio.isel(network=n).max()) for n in range(2))
    freed = float(ratios.sel(trainer="block after block").isel(network=1).max())
    return (
        "a step of a trainer that keeps the graphs the bare loop keeps, 6 convolutions",
        f"{middle:.2f} times the bare loop at most, the same weights",
        f"6 dense layers, a few milliseconds: {small:.2f} times; block after block with direct "
        f"feedback, which runs the network once more for its top: {freed:.2f} times",
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    lines = [
        f"{data.attrs['rows']} rows, one thread, the same losses and optimiser. Block after block, "
        "the memory of one block's graph is freed before the next one runs; one pass keeps all "
        "graphs, as the bare loop does.",
        "",
        "| network | rule | trainer | bare loop, ms | trainer, ms | ratio | same weights |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for network in data["network"].values:
        for rule in data["rule"].values:
            for trainer in data["trainer"].values:
                row = data.sel(network=network, rule=rule, trainer=trainer)
                bare, ours = 1e3 * float(row["bare_s"]), 1e3 * float(row["trainer_s"])
                lines.append(
                    f"| {network} | {rule} | {trainer} | {bare:.2f} | {ours:.2f} | "
                    f"{ours / bare:.2f} | {'yes' if bool(row['same']) else 'NO'} |"
                )
    local = data["trainer_s"].sel(trainer="one pass") / data["trainer_s"].sel(trainer="end to end")
    shares = " and ".join(f"{float(share):.2f}" for share in local.isel(network=-1))
    lines += [
        "",
        f"In {data['network'].values[-1]} a step by local losses takes {shares} of a step end to",
        "end, with " + " and ".join(str(rule) for rule in data["rule"].values) + ". Of the",
        "multiplications of a forward and a backward pass it saves at most a third: the products",
        "that carry errors from block to block.",
    ]
    return lines
