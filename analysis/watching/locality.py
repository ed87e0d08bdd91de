"""An audit of locality: no local loss may reach another block's parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from linlocal.analysis.block import Block, resolve
from linlocal.analysis.local_losses import LocalRule, contracted, on_network
from linlocal.analysis.watching.restore import untouched
from linlocal.analysis.watching.window import one_pass
from linlocal.inputs import instance
from linlocal.rules import Rule


class LocalityError(RuntimeError):
    """A local loss reaches parameters of another block."""


def audit_locality(
    model: nn.Module,
    blocks: Iterable[str] | None,
    rule: Rule | LocalRule,
    inputs: Tensor,
    batch: Any = None,
) -> xr.Dataset:
    """Prove by autograd that d loss_l / d parameters_m does not exist for blocks l != m.

    A copy of the model is run with the inputs of every block detached, as in local training. The
    top activity is handed to the losses attached, so a rule that relies on others to detach it is
    found out. In the copy nothing is frozen, and gradients are on whatever the caller has switched
    off. The model, its buffers and the random state stay as they are.

    Args:
        model: the network.
        blocks: as for `linlocal.analysis.blocks`.
        rule: a `linlocal.Rule`, a `NetworkRule`, or a rule of your own with a method build.
        inputs: (2N, ...) both views of a batch, stacked.
        batch: (inputs, labels), for local losses that read labels.

    Returns:
        A Dataset with two variables. ``reached`` (loss, block) is the number of parameter tensors
        of each block that the local loss of each block reaches; it is diagonal, or this raises.
        ``parameters`` (block) is the number of parameter tensors of each block. Both coordinates
        number the blocks 1..L, and ``name`` (block) holds their names.

    Raises:
        LocalityError: a loss reaches another block's parameters; the message names them.
        RuntimeError: the blocks did not run once each, in this order.
        ValueError: as `linlocal.analysis.blocks`, except for parameters that blocks share, which
            the audit reports; or a block returns no tensor.
        TypeError: an argument is no module, names, rule or tensor.
    """
    instance(inputs, Tensor, "inputs", "a tensor (2N, ...) with both views")
    building = on_network(rule)
    resolve(model, blocks, strict=False)
    # Copies that are made in inference mode could not be differentiated.
    with torch.inference_mode(False):
        return _audit(copy.deepcopy(model), blocks, building, inputs.clone(), batch)


def _audit(
    model: nn.Module,
    blocks: Iterable[str] | None,
    building: LocalRule,
    inputs: Tensor,
    batch: Any,
) -> xr.Dataset:
    # A loss that reaches a frozen block today reaches it tomorrow as well, when it is trained.
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    resolved = resolve(model, blocks, strict=False)
    names = [block.name for block in resolved]
    with untouched(model), torch.enable_grad():
        outputs = _outputs(model, resolved, inputs)
        losses = contracted(building.build([tuple(z.shape[1:]) for z in outputs]))
        for loss, z in zip(losses, outputs, strict=True):
            loss.to(z.device, z.dtype)
        values = [loss(z, outputs[-1], batch) for loss, z in zip(losses, outputs, strict=True)]

    owned = {block.name: block.parameters for block in resolved}
    reached = np.zeros((len(names), len(names)), dtype=np.int64)
    for l, value in enumerate(values):
        for m, (name, parameters) in enumerate(owned.items()):
            found = _reached(value, parameters)
            reached[l, m] = len(found)
            if l != m and found:
                raise LocalityError(
                    f"The local loss of block {l + 1} ({names[l]}) reaches parameters of block "
                    f"{m + 1} ({name}): {', '.join(found)}. {_cause(l, m, names, owned, found)}"
                )
    numbers = list(range(1, len(names) + 1))
    return xr.Dataset(
        {
            "reached": (("loss", "block"), reached),
            "parameters": ("block", [len(p) for p in owned.values()]),
        },
        coords={"loss": numbers, "block": numbers, "name": ("block", names)},
    )


def _outputs(model: nn.Module, blocks: Sequence[Block], inputs: Tensor) -> list[Tensor]:
    """The output of every block, each with a graph of its own."""
    outputs: list[Tensor] = []

    def look(position: int, z: Tensor) -> Tensor:
        outputs.append(z)
        return z.clone()  # because an in-place operation may follow

    with one_pass(blocks, look, detached=True, rows=len(inputs)):
        model(inputs)
    return outputs


def _reached(value: Tensor, parameters: Mapping[str, nn.Parameter]) -> list[str]:
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
    owned: Mapping[str, Mapping[str, nn.Parameter]],
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
