"""An audit of locality: no local loss may reach another block's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from linlocal.analysis.block import Block, refuse_inference, resolve, unwrap
from linlocal.analysis.local_losses import LocalRule, ScoredPairs, contracted, on_network
from linlocal.analysis.watching.restore import own_pass, untouched
from linlocal.analysis.watching.surveys import nodes
from linlocal.analysis.watching.window import one_pass
from linlocal.inputs import instance
from linlocal.rules import Rule
from linlocal.vocabulary import described


class LocalityError(RuntimeError):
    """A local loss reaches parameters of another block, or the audit could not see whether."""


def audit_locality(
    model: nn.Module,
    blocks: Iterable[str] | None,
    rule: Rule | LocalRule,
    inputs: Tensor,
    batch: Any = None,
) -> xr.Dataset:
    """Prove by autograd that d loss_l / d parameters_m does not exist for blocks l != m.

    The model is run with the inputs of every block detached, as in local training. The top activity
    is handed to the losses attached, so a rule that relies on others to detach it is found out.
    Meanwhile nothing is frozen, and gradients are on whatever the caller has switched off.
    Afterwards the model, the random states and what is frozen are as before.

    What counts is whether a gradient exists, not its value: units that are silent on these inputs
    hide nothing. A block whose own loss reaches none of its parameters would hide every leak into
    it, so this raises as well.

    Args:
        model: the network.
        blocks: as for `linlocal.analysis.blocks`.
        rule: a `linlocal.Rule`, a `NetworkRule`, or a rule of your own with a method build.
        inputs: (2N, ...) both views of a batch, stacked.
        batch: (inputs, labels), for local losses that read labels.

    Returns:
        A Dataset of three variables. ``reached`` (loss, block) is the number of parameter tensors
        of each block that the local loss of each block reaches; it is diagonal, or this raises.
        ``parameters`` (block) is the number of parameter tensors of each block, and ``unseen``
        (block) how many of them no loss reaches: unused ones, and those that are used without
        gradients. The audit knows nothing of these. Both coordinates number the blocks 1..L, and
        ``name`` (block) holds their names.

    Raises:
        LocalityError: a loss reaches another block's parameters, or is matched to the
            backpropagated error; or two losses reach a trainable parameter outside all blocks; the
            message names them. Or nothing could be seen: a loss reaches no parameter of its own
            block, or a reentrant checkpoint hides some.
        RuntimeError: the blocks did not run once each, in this order.
        ValueError: as `linlocal.analysis.blocks`, except for parameters that blocks share, which
            the audit reports; or a block returns no tensor, or there is not one loss for each
            block, or parameters were made under `torch.inference_mode`.
        TypeError: an argument is no module, names, rule or tensor.
    """
    instance(inputs, Tensor, "inputs", "a tensor (2N, ...) with both views")
    building = on_network(rule)
    resolved = resolve(model, blocks, strict=False)
    for block in resolved:
        if not block.parameters:
            raise ValueError(
                f"Block {block.name!r} ({type(block.module).__name__}) has no parameters, so there "
                "is nothing that a loss could reach: name a module with weights."
            )
    named = dict(unwrap(model).named_parameters())
    refuse_inference(model)
    owned = {id(p) for block in resolved for p in block.parameters.values()}
    outside = {n: p for n, p in named.items() if p.requires_grad and id(p) not in owned}
    # What was made in inference mode could not be differentiated.
    with torch.inference_mode(False), torch.enable_grad(), _nothing_frozen(named.values()):
        return _audit(model, resolved, outside, building, inputs.detach().clone(), batch)


def _audit(
    model: nn.Module,
    blocks: Sequence[Block],
    outside: Mapping[str, nn.Parameter],
    building: LocalRule,
    inputs: Tensor,
    batch: Any,
) -> xr.Dataset:
    names = [block.name for block in blocks]
    with own_pass(), untouched(model):
        outputs = _outputs(model, blocks, inputs)
        losses = contracted(building.build([tuple(z.shape[1:]) for z in outputs]))
        if len(losses) != len(blocks):
            raise ValueError(
                f"A rule needs one local loss per block: {len(losses)} losses for {len(blocks)} "
                "blocks."
            )
        for l, (loss, z) in enumerate(zip(losses, outputs, strict=True), start=1):
            if isinstance(loss, ScoredPairs) and loss.matching and loss.matching.tangents is None:
                raise LocalityError(
                    f"The projection of block {l} ({names[l - 1]}) is solved for from the "
                    "backpropagated error: no local rule knows it. Train the projection with the "
                    "loss, or estimate the error from forward products (LeastSquares(tangents=m))."
                )
            loss.to(z.device, z.dtype)
        values = [loss(z, outputs[-1], batch) for loss, z in zip(losses, outputs, strict=True)]

        everything = {id(p): p for b in blocks for p in b.parameters.values()}
        everything |= {id(p): p for p in outside.values()}
        found = [_reached(value, everything) for value in values]

    owned = {block.name: block.parameters for block in blocks}
    reached = np.zeros((len(names), len(names)), dtype=np.int64)
    for l, ids in enumerate(found):
        for m, (name, parameters) in enumerate(owned.items()):
            theirs = [n for n, p in parameters.items() if id(p) in ids]
            reached[l, m] = len(theirs)
            if l != m and theirs:
                raise LocalityError(
                    f"The local loss of block {l + 1} ({names[l]}) reaches parameters of block "
                    f"{m + 1} ({name}): {', '.join(theirs)}. {_cause(l, m, names, owned, theirs)}"
                )
    for name, parameter in outside.items():
        by = [str(l + 1) for l, ids in enumerate(found) if id(parameter) in ids]
        if len(by) > 1:
            raise LocalityError(
                f"The local losses of the blocks {', '.join(by)} all reach {name}, which lies "
                "outside the blocks: make one block of those that use it, or freeze it."
            )
    for l, block in enumerate(blocks):
        if not reached[l, l]:
            raise LocalityError(_unseen(l, block, outputs[l], values[l]))
    numbers = list(range(1, len(names) + 1))
    counts = [len(block.parameters) for block in blocks]
    return described(
        xr.Dataset(
            {
                "reached": (("loss", "block"), reached),
                "parameters": ("block", counts),
                "unseen": ("block", counts - reached.diagonal()),
            },
            coords={"loss": numbers, "block": numbers, "name": ("block", names)},
        ),
        "locality",
    )


@contextmanager
def _nothing_frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let gradients of all parameters exist, unseen by hooks of their user.

    A loss that reaches a frozen block today reaches it tomorrow as well, when it is trained.
    """
    kept = [(p, p.requires_grad, p._backward_hooks) for p in parameters]
    try:
        for p, _, _ in kept:
            p._backward_hooks = None
            p.requires_grad_(p.is_floating_point() or p.is_complex())
        yield
    finally:
        for p, trained, hooks in kept:
            p.requires_grad_(trained)
            p._backward_hooks = hooks


def _outputs(model: nn.Module, blocks: Sequence[Block], inputs: Tensor) -> list[Tensor]:
    """The output of every block, each with a graph of its own."""
    outputs: list[Tensor] = []

    def look(position: int, z: Tensor) -> Tensor:
        outputs.append(z)
        return z.clone()  # because an in-place operation may follow

    with one_pass(blocks, look, detached=True, rows=len(inputs)):
        model(inputs)
    return outputs


def _reached(value: Tensor, parameters: Mapping[int, nn.Parameter]) -> set[int]:
    """Which of the parameters a value has a gradient by, given and returned by their ids."""
    if not value.requires_grad:
        return set()
    if any(node.name() == "CheckpointFunctionBackward" for node in nodes(value)):
        raise LocalityError(
            "The audit cannot see into a reentrant checkpoint inside a block or a loss: use "
            "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
        )
    asked = {key: p for key, p in parameters.items() if p.requires_grad}
    gradients = torch.autograd.grad(value, [*asked.values()], retain_graph=True, allow_unused=True)
    return {key for key, g in zip(asked, gradients, strict=True) if g is not None}


def _unseen(l: int, block: Block, z: Tensor, value: Tensor) -> str:
    if not z.requires_grad:
        cause = (
            "The output of the block has no graph: it is computed under no_grad or inference_mode, "
            "detached, or inside a reentrant checkpoint (use_reentrant=False works)"
        )
    elif not value.requires_grad:
        cause = "The loss has no graph: it is a constant, or detaches the block's output"
    else:
        cause = (
            "The loss does not depend on the block's output, or an operation with a backward pass "
            "of its own stops the gradient"
        )
    return (
        f"The audit cannot call block {l + 1} ({block.name}) local, because its own loss reaches "
        f"none of its {len(block.parameters)} parameters, so no leak into it would be seen. "
        f"{cause}. A block that is never trained can be left out of the blocks."
    )


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
