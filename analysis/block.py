"""The blocks of a network: named submodules in forward order, one local loss on the output of each.

A block is a submodule. Where it is an activation, a pooling or a normalisation inside a
``Sequential``, the block is the run of children that ends with it and begins with the last one
that has weights: ``Conv, BatchNorm, ReLU, MaxPool`` is one block, named after its ``MaxPool``.

Blocks that are not named are found from the tree of submodules, without running the network. A
division is taken only if its blocks hold most of the parameters below the head.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from linlocal import inputs
from linlocal.analysis.layout import LAYOUTS, Layout, check_declared, check_rows, find_layout

_NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm)

# The share of the parameters that found blocks hold: below the first a better division is looked
# for, and a warning says so if there is none; below the second none is taken.
_NEARLY_ALL, _MOST = 0.9, 0.5


@dataclass(frozen=True)
class Block:
    """One block of a network.

    Attributes:
        name: the name of the submodule whose output is that of the block.
        module: the submodule of that name.
        first: the submodule whose input is that of the block; the first one of a run.
        parameters: the parameters of the block by their names in the network, frozen ones included.
        members: the submodules of the run, of which the last one is ``module``.
        layout: the declared layout of the output; None to have it found.
    """

    name: str
    module: nn.Module
    first: nn.Module
    parameters: Mapping[str, nn.Parameter]
    members: tuple[nn.Module, ...]
    layout: Layout | None = None

    def layout_of(self, z: Tensor, rows: int | None = None) -> str:
        """The layout of an output of the block, see `linlocal.analysis.layout`.

        Args:
            z: the output.
            rows: the number of rows of the network's input, if it is known.

        Raises:
            ValueError: the output does not fit what was declared, or nothing was declared and the
                layout is not certain, or the first axis is not that of the samples.
        """
        if self.layout is not None:
            check_declared(self.name, z, self.layout)
            return self.layout
        check_rows(self.name, z, rows)
        return find_layout(self.name, self.members, z)


def blocks(
    model: nn.Module, names: Iterable[str] | Mapping[str, Layout | None] | None = None
) -> tuple[str, ...]:
    """The names of a network's blocks, in forward order.

    Parameters outside all blocks (a head, a stem that is no part of a block) belong to no block,
    and no instrument compares them.

    Args:
        model: the network.
        names: the blocks to check, in forward order; a mapping also declares the layouts of their
            outputs, as in ``{"layers.0": "LNC", "layers.1": "LNC"}`` (see
            `linlocal.analysis.layout`; None has a layout found). By default the blocks are found:
            the children ``layer1``, ``layer2``, ... (ResNet), else the runs of the first
            ``Sequential`` or ``ModuleList`` with at least two of them (the model itself, VGG, ViT),
            else the children that have parts of their own (GoogLeNet); the first of these that
            holds 90 % of the parameters of the body, or the one that holds most. Classifiers are no
            part of the body.

    Returns:
        The names.

    Raises:
        TypeError: no module, or no names.
        ValueError: an unknown name, one twice, one inside another, a block without parameters,
            parameters shared with another block or with the rest of the network, a compiled
            module around a block, an unknown layout, a lazy module before its first pass, or no
            blocks found that hold half of the parameters of the body.

    Warns:
        UserWarning: the blocks that were found hold less than 90 % of the parameters below the last
            layer.
    """
    return tuple(block.name for block in resolve(model, names))


def resolve(
    model: nn.Module,
    names: Iterable[str] | Mapping[str, Layout | None] | None = None,
    *,
    strict: bool = True,
) -> tuple[Block, ...]:
    """The blocks themselves; takes the arguments and raises the errors of `blocks`.

    Args:
        model: the network.
        names: the names of the blocks, or their layouts by name.
        strict: whether every block must have parameters and share none.
    """
    network = unwrap(model)
    refuse_lazy(network)
    layouts: Mapping[str, Layout | None] = names if isinstance(names, Mapping) else {}
    for name, layout in layouts.items():
        if layout is not None and layout not in LAYOUTS:
            raise ValueError(
                f"The layout of block {name!r} must be one of {', '.join(LAYOUTS)}, or None to "
                f"have it found, got {inputs.described(layout)}."
            )
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
        members = tuple(network.get_submodule(member) for member in run)
        resolved.append(
            Block(name, members[-1], members[0], parameters, members, layouts.get(name))
        )
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


def refuse_inference(network: nn.Module) -> None:
    """Raise if parameters were made in inference mode.

    Raises:
        ValueError: some were.
    """
    made = [name for name, p in network.named_parameters() if not is_lazy(p) and p.is_inference()]
    if made:
        raise ValueError(
            f"{', '.join(made[:3])} were made under torch.inference_mode and have no gradients: "
            "make the network outside, or use copy.deepcopy(model) outside."
        )


def _checked(network: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    names = [names] if isinstance(names, str) else names
    several = [*names] if isinstance(names, Mapping) else names
    chosen: tuple[str, ...] = inputs.sequence(several, "blocks", "names of submodules")
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
    """The first division that holds nearly all of the body, or the one that holds most of it."""
    auxiliary = {name for name, _ in network.named_modules() if _is_auxiliary(name)}
    head = _head(network)
    divisions = [*_divisions(network, auxiliary, head)]
    if any(_outside(names, head) for names in divisions):
        divisions = [names for names in divisions if names[0].split(".")[0] not in head]
    else:
        head, divisions = set(), [*_divisions(network, auxiliary, set())]
    aside = _ids(network, auxiliary) | _ids(network, [_last_leaf(network)])
    body = aside | _ids(network, head)
    shares = [_share(network, names, body) for names in divisions]
    best = max(shares, default=0.0)
    if best < _MOST:
        found = (
            "expected layer1, layer2, ... or a Sequential or ModuleList with at least two "
            "weighted parts."
        )
        if divisions:
            names = divisions[shares.index(best)]
            found = f"the best division found, {_short(names)}, holds {best:.1%} of the parameters."
        raise ValueError(
            f"No blocks were found in {type(network).__name__}: {found} Name them in forward "
            f"order, blocks(model, [...]); {_children(network)}"
        )
    names = next(n for n, s in zip(divisions, shares, strict=True) if s >= min(best, _NEARLY_ALL))
    share = _share(network, names, aside)
    if share < _NEARLY_ALL:
        warnings.warn(
            f"The blocks that were found in {type(network).__name__}, {_short(names)}, hold "
            f"{share:.1%} of the parameters below the last layer; the rest belongs to no block and "
            "is not compared. Name the blocks in forward order to have others, "
            f"blocks(model, [...]); {_children(network)}",
            UserWarning,
            stacklevel=_frames_of_ours(),
        )
    return names


def _frames_of_ours() -> int:
    """The stack level of the first caller outside this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("linlocal."):
        frame, level = frame.f_back, level + 1
    return level


def _divisions(
    network: nn.Module, auxiliary: set[str], head: set[str]
) -> Iterator[tuple[str, ...]]:
    """Divisions in the order in which they are preferred."""
    aside = auxiliary | head
    modules = [(f"{p}." if p else "", m) for p, m in network.named_modules() if p not in auxiliary]
    for prefix, module in modules:
        stages = [
            prefix + name
            for name, child in module.named_children()
            if re.fullmatch(r"layer\d+", name) and _has_parts(child)
        ]
        if len(stages) >= 2:
            yield tuple(stages)
    for prefix, module in modules:
        if isinstance(module, nn.Sequential | nn.ModuleList):
            ends = _ends(module, prefix)
            if len(ends) >= 2:
                yield tuple(ends)
    for prefix, module in modules:
        if isinstance(module, nn.Sequential) or _only_holds(module):
            continue
        # The order in which these run is only known to the forward pass, usually that of their
        # definition; the instruments raise where it is another. Lists are left out, because the
        # parts of one may run side by side.
        parts: list[str] = []
        for name, child in module.named_children():
            if _only_holds(child) or not _has_parts(child) or not _has_weights(child):
                continue
            if prefix + name not in aside:
                ends = _ends(child, f"{prefix}{name}.") if isinstance(child, nn.Sequential) else []
                parts += ends if len(ends) >= 2 else [prefix + name]
        if len(parts) >= 2:
            yield tuple(parts)


def _is_auxiliary(name: str) -> bool:
    """Whether a module is, or lies in, a classifier beside the path to the output."""
    return any(part.lower().startswith("aux") for part in name.split("."))


def _head(network: nn.Module) -> set[str]:
    """The children at the end that read the class from features, one place at a time.

    They are the child that holds the last layer, if all its layers are linear maps of the channels,
    and single layers just before it.
    """
    head: set[str] = set()
    for name, child in [*network.named_children()][::-1]:
        if any(True for _ in child.parameters()):
            if (head and _has_parts(child)) or not all(_is_pointwise(m) for m in child.modules()):
                break
            head.add(name)
    return head


def _is_pointwise(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return all(side == 1 for side in module.kernel_size)
    return True


def _last_leaf(network: nn.Module) -> str:
    leaves = (n for n, m in network.named_modules() if not _has_parts(m) and _has_weights(m))
    return max(enumerate(leaves), default=(0, ""))[1]


def _outside(names: Sequence[str], head: set[str]) -> bool:
    return not {name.split(".")[0] for name in names} & head


def _ids(network: nn.Module, names: Iterable[str]) -> set[int]:
    return {id(p) for name in names if name for p in network.get_submodule(name).parameters()}


def _share(network: nn.Module, names: Sequence[str], aside: set[int]) -> float:
    """The share of the parameters that the blocks hold; what is aside counts if they hold it."""
    held = _ids(network, [member for name in names for member in _run(network, name, names)])
    sizes = {id(p): p.numel() for p in network.parameters()}
    counted = sum(size for key, size in sizes.items() if key in held or key not in aside)
    return sum(sizes[key] for key in held) / counted if counted else 0.0


def _short(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 4 else (*names[:2], "...", names[-1]))


def _children(network: nn.Module) -> str:
    """The children and the share of the parameters that each of them holds."""
    total = sum(p.numel() for p in network.parameters())
    listed = [
        f"{name} {sum(p.numel() for p in child.parameters()) / total:.1%}"
        for name, child in network.named_children()
        if any(True for _ in child.parameters())
    ]
    if len(listed) > 20:
        listed = [*listed[:19], "..."]
    return f"children: {', '.join(listed) or 'none'}."


def _ends(container: nn.Module, prefix: str) -> list[str]:
    """The last child of every run that begins with a weighted one; lists in it are opened."""
    ends: list[str] = []
    for name, child in container.named_children():
        if _only_holds(child):
            ends += _ends(child, f"{prefix}{name}.")
        elif _has_weights(child):
            ends.append(prefix + name)
        elif ends and isinstance(container, nn.Sequential) and not isinstance(child, nn.Flatten):
            ends[-1] = prefix + name
    return ends


def _only_holds(module: nn.Module) -> bool:
    """Whether a module is a list or dict of others that never runs itself."""
    lists = isinstance(module, nn.ModuleList | nn.ModuleDict)
    return lists and type(module).forward is nn.Module.forward


def _has_parts(module: nn.Module) -> bool:
    return any(True for _ in module.children())


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
