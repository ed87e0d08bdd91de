"""Weights, gradients and optimiser states divided among processes, by torch's FSDP2.

Zhao et al. 2023 (arXiv 2304.11277). A unit is a submodule that is a block, a part of a block or
beside the blocks, or a local loss. The weights of a unit are gathered before it runs and again
before its backward pass, at whose end its gradients are reduced and scattered. Local training thus
holds the weights of one block at a time. Parameters of a module that contains blocks (a class token
of the network itself) stay whole on each process.

All processes together can run a network with sharded blocks as before. To save it, use the
trainer's ``state_dict``. The recorder and the other instruments need whole weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from linlocal.analysis.block import Block


def shard(
    network: nn.Module, blocks: Sequence[Block], losses: nn.ModuleList, device: str
) -> dict[nn.Parameter, nn.Parameter]:
    """Divide the units of a network and its losses among all processes, in place.

    Args:
        network: the network, with the same weights on all processes; what an earlier call sharded
            stays sharded.
        blocks: the blocks of the network.
        losses: the local losses of the blocks.
        device: the kind of device, "cuda" or "cpu".

    Returns:
        What each parameter became; a parameter that was not sharded here maps to itself.

    Raises:
        ValueError: two units share a parameter.
    """
    held = [
        (module, name, parameter)
        for root in (network, losses)
        for module in root.modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]
    units = [*_units(network, {id(block.module) for block in blocks}), *losses]
    units = [unit for unit in units if {sharded(p) for p in unit.parameters()} == {False}]
    _refuse_sharing(units)
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for unit in units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    return {parameter: getattr(module, name) for module, name, parameter in held}


def sharded(value: Any) -> bool:
    """Whether this process holds only a part of a value."""
    return isinstance(value, DTensor)


def whole(state: Any) -> Any:
    """The state with every sharded tensor put together on the CPU; all processes must call this."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value) for value in state]
    return state


def load_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a module of which this process may hold only a part."""
    present = module.state_dict()
    module.load_state_dict({name: _as(present.get(name), t) for name, t in state.items()})


def load_optimiser(optimiser: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a whole state into an optimiser whose parameters may be sharded."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    parts = {
        index: {
            key: _as(parameters[index], t) if _has_shape_of(parameters[index], t) else t
            for key, t in values.items()
        }
        for index, values in state["state"].items()
    }
    optimiser.load_state_dict({**state, "state": parts})
    for group in optimiser.param_groups:
        if len({sharded(p) for p in group["params"]}) > 1 and "foreach" in group:
            group["foreach"] = False  # torch cannot treat whole and sharded tensors as one list


def exchange(optimiser: Optimizer, moved: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Make an optimiser train what its parameters became.

    Args:
        optimiser: the optimiser of the whole parameters.
        moved: what each parameter became, as `shard` returns it.
    """
    state = optimiser.state_dict()
    optimiser.state.clear()
    for group in optimiser.param_groups:
        group["params"] = [moved[p] for p in group["params"]]
    load_optimiser(optimiser, state)


def _units(module: nn.Module, blocks: set[int]) -> Iterator[nn.Module]:
    inside = {id(m) for m in module.modules()} - {id(module)}
    if inside.isdisjoint(blocks):
        yield module
    else:
        for child in module.children():
            yield from _units(child, blocks)


def _refuse_sharing(units: Sequence[nn.Module]) -> None:
    owners: dict[int, nn.Module] = {}
    for unit in units:
        for name, parameter in unit.named_parameters():
            if owners.setdefault(id(parameter), unit) is not unit:
                raise ValueError(
                    f"{name} of a {type(unit).__name__} is shared with a "
                    f"{type(owners[id(parameter)]).__name__}; what is shared cannot be sharded "
                    "twice: make one block of both, or train with shard=False."
                )


def _has_shape_of(parameter: nn.Parameter, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _as(present: Any, value: Tensor) -> Tensor:
    """The part of a whole tensor that corresponds to a sharded one."""
    if not isinstance(present, DTensor):
        return value
    value = value.to(present.device)
    # Each process has the whole tensor, so nothing is sent.
    return distribute_tensor(value, present.device_mesh, present.placements, src_data_rank=None)
