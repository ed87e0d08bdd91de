"""The blocks of a network: named submodules in forward order, one local loss on the output of each.

A block is a submodule. Where it is an activation, a pooling or a normalisation inside a
``Sequential``, the block is the run of children that ends with it and begins with the last one
that has weights: ``Conv, BatchNorm, ReLU, MaxPool`` is one block, named after its ``MaxPool``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from linlocal import inputs

_NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Block:
    """One block of a network.

    Attributes:
        name: the name of the submodule whose output is that of the block.
        module: the submodule of that name.
        first: the submodule whose input is that of the block; the first one of a run.
        parameters: the parameters of the block by their names in the network, frozen ones included.
    """

    name: str
    module: nn.Module
    first: nn.Module
    parameters: Mapping[str, nn.Parameter]


def blocks(model: nn.Module, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """The names of a network's blocks, in forward order.

    Parameters outside all blocks (a head, a stem that is no part of a block) belong to no block,
    and no instrument compares them.

    Args:
        model: the network.
        names: the blocks to check, in forward order. By default they are found: the children
            ``layer1``, ``layer2``, ... (ResNet), else the runs of the first ``Sequential`` or
            ``ModuleList`` with at least two of them (the model itself, VGG, ViT).

    Returns:
        The names.

    Raises:
        TypeError: no module, or no names.
        ValueError: an unknown name, one twice, one inside another, a block without parameters,
            parameters shared with another block or with the rest of the network, a compiled
            module around a block, a lazy module before its first pass, or no blocks found.
    """
    return tuple(block.name for block in resolve(model, names))


def resolve(
    model: nn.Module, names: Iterable[str] | None = None, *, strict: bool = True
) -> tuple[Block, ...]:
    """The blocks themselves; takes the arguments and raises the errors of `blocks`.

    Args:
        model: the network.
        names: the names of the blocks.
        strict: whether every block must have parameters and share none.
    """
    network = unwrap(model)
    refuse_lazy(network)
    chosen = _find(network) if names is None else _checked(network, names)
    for name in chosen:
        _refuse_compiled(network, name)
    runs = {name: _run(network, name, chosen) for name in chosen}
    if strict:
        _refuse_sharing(network, runs)
    resolved = []
    for name, run in runs.items():
        parameters = {
            parameter_name.replace("_orig_mod.", ""): parameter
            for member in run
            for parameter_name, parameter in network.get_submodule(member).named_parameters(member)
        }
        if strict and not parameters:
            raise ValueError(
                f"Block {name!r} ({type(network.get_submodule(name)).__name__}) has no parameters, "
                "so there is no gradient to compare: name a module with weights."
            )
        first = network.get_submodule(run[0])
        resolved.append(Block(name, network.get_submodule(name), first, parameters))
    return tuple(resolved)


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside wrappers that only pass on (DistributedDataParallel, Fabric's).

    Raises:
        ValueError: the whole network is compiled.
        TypeError: it is no module.
    """
    inputs.instance(model, nn.Module, "model", "a torch.nn.Module")
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise ValueError(
            "The whole network is compiled, so forward hooks on its blocks never run. Compile the "
            "blocks instead: model.layer1 = torch.compile(model.layer1)."
        )
    # By name, because lightning-fabric is optional.
    inside = getattr(model, "_forward_module", None)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        inside = model.module
    return unwrap(inside) if isinstance(inside, nn.Module) else model


def refuse_lazy(network: nn.Module) -> None:
    """Raise if parameters or buffers of lazy modules have no shape yet.

    Raises:
        ValueError: they have none.
    """
    for name, module in network.named_modules():
        tensors = (*module._parameters.values(), *module._buffers.values())
        if any(map(is_lazy, tensors)):
            raise ValueError(
                f"{name or 'The network'} ({type(module).__name__}) has no weights before the "
                "first forward pass: run the network once on a batch, model(batch), and begin then."
            )


def _checked(network: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    names = [names] if isinstance(names, str) else names
    chosen: tuple[str, ...] = inputs.sequence(names, "blocks", "names of submodules")
    known = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
    if not chosen:
        raise ValueError("No blocks were named; leave them out to have them found.")
    for name in chosen:
        if name not in known:
            near = get_close_matches(str(name), known, n=3) or known[:8]
            raise ValueError(
                f"The network has no submodule {name!r}; nearest names: {', '.join(near)}."
            )
    for position, name in enumerate(chosen):
        for other in chosen[position + 1 :]:
            if name == other:
                raise ValueError(f"Block {name!r} is named twice.")
            if name.startswith(f"{other}.") or other.startswith(f"{name}."):
                raise ValueError(
                    f"Blocks {name!r} and {other!r} overlap, one lies inside the other; a "
                    "parameter belongs to one block only."
                )
    return chosen


def _find(network: nn.Module) -> tuple[str, ...]:
    stages = [
        name
        for name, child in network.named_children()
        if re.fullmatch(r"layer\d+", name) and any(child.children())
    ]
    if len(stages) >= 2:
        return tuple(stages)
    for path, module in network.named_modules():
        if isinstance(module, nn.Sequential | nn.ModuleList):
            ends = _ends(module)
            if len(ends) >= 2:
                return tuple(f"{path}.{end}" if path else end for end in ends)
    children = ", ".join(name for name, _ in network.named_children())
    raise ValueError(
        f"No blocks were found in {type(network).__name__}: expected layer1, layer2, ... or a "
        f"Sequential or ModuleList with at least two weighted parts. Name them; children: "
        f"{children or 'none'}."
    )


def _ends(container: nn.Module) -> list[str]:
    """The last child of every run that begins with a weighted one."""
    ends: list[str] = []
    for name, child in container.named_children():
        if _has_weights(child):
            ends.append(name)
        elif ends and isinstance(container, nn.Sequential) and not isinstance(child, nn.Flatten):
            ends[-1] = name
    return ends


def _has_weights(module: nn.Module) -> bool:
    return not isinstance(module, _NORMALISATIONS) and any(True for _ in module.parameters())


def _run(network: nn.Module, name: str, chosen: Sequence[str]) -> list[str]:
    """The submodules of a block: ``name`` and what before it in a Sequential belongs to it."""
    parent_name, _, last = name.rpartition(".")
    parent = network.get_submodule(parent_name)
    run = [name]
    if isinstance(parent, nn.Sequential):
        before = list(parent._modules)[: list(parent._modules).index(last)]
        while before and not _has_weights(network.get_submodule(run[0])):
            previous = f"{parent_name}.{before[-1]}" if parent_name else before[-1]
            if previous in chosen:
                break
            run.insert(0, previous)
            before.pop()
    return run


def _refuse_sharing(network: nn.Module, runs: Mapping[str, Sequence[str]]) -> None:
    owner_of = {member: block for block, run in runs.items() for member in run}
    owners: dict[int, tuple[str, str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        parts = name.split(".")
        prefixes = (".".join(parts[:end]) for end in range(len(parts)))
        owner = next((owner_of[p] for p in prefixes if p in owner_of), "")
        first_name, first_owner = owners.setdefault(id(parameter), (name, owner))
        if owner != first_owner:
            places = [f"block {o!r}" if o else "no block" for o in (first_owner, owner)]
            raise ValueError(
                f"Parameters are shared across blocks: {first_name} ({places[0]}) is {name} "
                f"({places[1]}). A gradient of one block's loss would run through the other use; "
                "put both uses into one block, where their gradients add."
            )


def _refuse_compiled(network: nn.Module, name: str) -> None:
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        module = network.get_submodule(".".join(parts[:end]))
        around = end < len(parts) and hasattr(module, "_orig_mod")
        if around or module._compiled_call_impl is not None:
            raise ValueError(
                f"{'.'.join(parts[:end])!r} is compiled, so a forward hook on block {name!r} never "
                "runs. Compile the block from outside: model.block = torch.compile(model.block)."
            )
