"""An audit of locality: no local loss may reach another block's parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from linlocal.analysis.local_losses import LocalRule, checked_rule
from linlocal.inputs import instance, sequence


class LocalityError(RuntimeError):
    """A local loss reaches parameters of another block."""


def audit_locality(
    model: nn.Module, blocks: Sequence[str], rule: LocalRule, inputs: Tensor
) -> xr.Dataset:
    """Proves by autograd that d loss_l / d parameters_m does not exist for blocks l != m.

    A copy of the model is run with the inputs of every block detached, as in local training. The
    top activity is handed to the losses attached, so a rule that relies on others to detach it is
    found out. The model, its buffers and the random state stay as they are.

    Args:
        model: the network.
        blocks: names of its submodules, in forward order.
        rule: of `local_losses`, or your own.
        inputs: (2N, ...) both views of a batch, stacked.

    Returns:
        A Dataset with ``reached`` (loss, block): how many parameter tensors of each block the local
        loss of each block reaches (diagonal, or this raises), and ``parameters`` (block): how many
        it has. Blocks are numbered 1..L in both coordinates; ``name`` (block) says which they are.

    Raises:
        LocalityError: a loss reaches another block's parameters; the message names them.
        ValueError: no blocks, names that the model has not, blocks within each other, or a block
            that does not run exactly once or returns no tensor.
        TypeError: no module, names, rule or tensor.
    """
    instance(model, nn.Module, "model", "a torch.nn.Module")
    sequence(blocks, "blocks", "names of submodules")
    instance(inputs, Tensor, "inputs", "a tensor (2N, ...) with both views")
    checked_rule(rule)
    model = copy.deepcopy(model)
    modules = _modules(model, blocks)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(sorted(d.index or 0 for d in devices)), torch.enable_grad():
        outputs = _outputs(model, modules, inputs)
        losses = rule.build([tuple(z.shape[1:]) for z in outputs])
        for loss, z in zip(losses, outputs, strict=True):
            loss.to(z.device, z.dtype)
        values = [loss(z, outputs[-1]) for loss, z in zip(losses, outputs, strict=True)]

    owned = {name: dict(module.named_parameters()) for name, module in modules.items()}
    reached = np.zeros((len(blocks), len(blocks)), dtype=np.int64)
    for l, value in enumerate(values):
        for m, (name, parameters) in enumerate(owned.items()):
            found = _reached(value, parameters)
            reached[l, m] = len(found)
            if l != m and found:
                raise LocalityError(
                    f"The local loss of block {l + 1} ({blocks[l]}) reaches parameters of block "
                    f"{m + 1} ({name}): {', '.join(found)}. {_cause(l, m, blocks, owned, found)}"
                )
    numbers = list(range(1, len(blocks) + 1))
    return xr.Dataset(
        {
            "reached": (("loss", "block"), reached),
            "parameters": ("block", [len(p) for p in owned.values()]),
        },
        coords={"loss": numbers, "block": numbers, "name": ("block", list(blocks))},
    )


def _reached(value: Tensor, parameters: dict[str, nn.Parameter]) -> list[str]:
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    if not trained or not value.requires_grad:
        return []
    gradients = torch.autograd.grad(
        value, list(trained.values()), retain_graph=True, allow_unused=True
    )
    return [name for name, g in zip(trained, gradients, strict=True) if g is not None]


def _cause(
    l: int,
    m: int,
    blocks: Sequence[str],
    owned: dict[str, dict[str, nn.Parameter]],
    found: Sequence[str],
) -> str:
    own = {id(p) for p in owned[blocks[l]].values()}
    if any(id(owned[blocks[m]][name]) in own for name in found):
        return "Both blocks share them: put the modules with tied weights into one block."
    if m == len(blocks) - 1 and m > l:
        return "The rule does not detach the top activity: use top.detach() in it."
    return (
        "An activity goes past the boundary between them, stored by one block and read by another: "
        "pass it as an argument, which is detached, or make one block of both."
    )


def _modules(model: nn.Module, blocks: Sequence[str]) -> dict[str, nn.Module]:
    named = dict(model.named_modules())
    unknown = [name for name in blocks if name not in named]
    if not blocks or unknown:
        raise ValueError(
            f"blocks must name submodules of the model, in forward order, got {list(blocks)}; "
            f"unknown: {unknown}; the model has {[n for n in named if n][:20]}."
        )
    modules = {name: named[name] for name in blocks}
    for name, module in modules.items():
        inside = {id(m) for m in module.modules()} - {id(module)}
        others = [n for n, other in modules.items() if n != name and id(other) in inside]
        if others or len(modules) < len(blocks):
            raise ValueError(f"Blocks must be apart, got {list(blocks)}: {others} inside {name}.")
    return modules


def _outputs(model: nn.Module, modules: dict[str, nn.Module], inputs: Tensor) -> list[Tensor]:
    """The output of every block, each with a graph of its own."""
    outputs: dict[str, list[Any]] = {name: [] for name in modules}
    handles = []

    def wall(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return _detached(args), _detached(kwargs)

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            outputs[name].append(output)
            # Cloned: an operation in place may follow.
            return output.clone() if isinstance(output, Tensor) else output

        return hook

    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(wall, with_kwargs=True))
        handles.append(module.register_forward_hook(keep(name)))
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, found in outputs.items():
        if len(found) != 1 or not isinstance(found[0], Tensor):
            raise ValueError(
                f"Block {name} must run once and return a tensor; it ran {len(found)} times and "
                f"returned {[type(z).__name__ for z in found]}; choose another block."
            )
    return [found[0] for found in outputs.values()]


def _detached(value: Any) -> Any:
    """A copy of nested arguments with every tensor detached."""
    if isinstance(value, Tensor):
        return value.detach().clone()  # cloned: the block may work on it in place
    if isinstance(value, tuple | list):
        return type(value)(_detached(v) for v in value)
    if isinstance(value, dict):
        return {k: _detached(v) for k, v in value.items()}
    return value
