"""The one window onto a running network: what each block gives, in forward order.

Every forward hook of the project is set here, checked in one way, and removed whatever happens. The
network runs as it is written, so a stem, a flattening or a positional embedding between two blocks
needs no description.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from linlocal.analysis.block import Block, resolve, unwrap
from linlocal.analysis.layout import from_standard, to_standard
from linlocal.analysis.watching.restore import depth

Look = Callable[[int, Tensor], Tensor | None]
OnForward = Callable[[tuple[Tensor, ...]], None]
Visit = Callable[[int, Tensor], None]
End = Callable[[], None]


class Hook:
    """A hook that belongs to one module: copied or pickled with it, it does nothing.

    Somebody may copy a network while it is watched (an average of the weights, a checkpoint of the
    whole module). The copy must neither report to the instrument nor keep its memory. A compiler of
    the network leaves the hook out of its graph.

    Args:
        call: what to call; None for nothing.
    """

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        # Nothing is compiled before the compiler is imported, which takes a second.
        compiler = "torch._dynamo" in sys.modules
        self._call = torch.compiler.disable(call) if compiler and call else call

    def __call__(self, *arguments: Any) -> Any:
        return None if self._call is None else self._call(*arguments)

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


@contextmanager
def window(
    blocks: Sequence[Block],
    look: Look,
    *,
    tuples: bool = False,
    detached: bool = False,
    rows: Callable[[], int | None] = lambda: None,
) -> Iterator[None]:
    """Call ``look(l - 1, z_l)`` whenever block l has run, in every forward pass inside.

    What ``look`` returns takes the place of z_l in the rest of the network; None leaves z_l there.
    ``look`` sees z_l in the standard form of `linlocal.analysis.layout`, the network its own.

    Args:
        blocks: the blocks, as `block.resolve` returns them.
        look: called with the position of a block, from 0, and its output.
        tuples: whether a block may return a tuple, whose first entry is then z_l.
        detached: whether every block runs on detached copies of its arguments.
        rows: gives the number of rows of the network's input, where it is known.

    Raises:
        ValueError: an output is no tensor (nor a tuple that begins with one, if tuples are
            allowed), or its layout is not certain.
    """

    def after(position: int) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            block = blocks[position]
            z, rest = _first(output, block.name, tuples)
            layout = block.layout_of(z, rows())
            seen = to_standard(z, layout)
            replaced = look(position, seen)
            if replaced is None and seen is not z:
                replaced = seen  # the network goes on from what was seen, so hooks on it are called
            return None if replaced is None else rest(from_standard(replaced, layout))

        return hook

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return _detached(args), _detached(kwargs)

    handles: list[RemovableHandle] = []
    try:
        for position, block in enumerate(blocks):
            if detached:
                first = block.first
                handles.append(first.register_forward_pre_hook(Hook(before), with_kwargs=True))
            handles.append(block.module.register_forward_hook(Hook(after(position))))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def one_pass(
    blocks: Sequence[Block],
    look: Look,
    *,
    tuples: bool = False,
    detached: bool = False,
    rows: int | None = None,
) -> Iterator[None]:
    """A `window` for one forward pass, in which the blocks must run once each, in their order.

    Args:
        blocks: as for `window`.
        look: as for `window`.
        tuples: as for `window`.
        detached: as for `window`.
        rows: the number of rows of the network's input, if it is known.

    Raises:
        RuntimeError: the blocks did not run once each, in this order.
        ValueError: as `window`.
    """
    ran: list[str] = []

    def counted(position: int, z: Tensor) -> Tensor | None:
        ran.append(blocks[position].name)
        if position != len(ran) - 1:
            raise RuntimeError(disorder(blocks, ran))
        return look(position, z)

    with window(blocks, counted, tuples=tuples, detached=detached, rows=lambda: rows):
        yield
        if len(ran) != len(blocks):
            raise RuntimeError(disorder(blocks, ran))


@contextmanager
def cut(
    blocks: Sequence[Block], visit: Callable[[int, Tensor], None], rows: int | None = None
) -> Iterator[None]:
    """A `one_pass` that is cut after every block: the rest of the network gets z_l detached.

    The graph of z_l ends at the input of the block. It is freed before the next block runs, unless
    the visitor keeps a part of it. Without gradients enabled there is no graph.

    Args:
        blocks: as for `window`.
        visit: called with the position of a block, from 0, and its output.
        rows: as for `one_pass`.

    Raises:
        RuntimeError, ValueError: as `one_pass`.
    """

    def look(position: int, z: Tensor) -> Tensor:
        visit(position, z)
        return z.detach()

    with one_pass(blocks, look, rows=rows):
        yield


@contextmanager
def _around_passes(
    network: nn.Module,
    begin: Callable[[nn.Module, Any], None],
    end: Callable[[nn.Module, Any, Any], None],
    looking: AbstractContextManager[None],
) -> Iterator[None]:
    """Call ``begin`` before and ``end`` after all else that a forward pass of the network runs."""
    handles = [network.register_forward_pre_hook(Hook(begin))]
    try:
        with looking:
            handles.append(network.register_forward_hook(Hook(end)))
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watch(
    model: nn.Module,
    blocks: Sequence[Block],
    on_forward: OnForward,
    *,
    counts: Callable[[], bool] = torch.is_grad_enabled,
    on_stray: Callable[[int, Tensor], None] | None = None,
) -> Iterator[None]:
    """Call ``on_forward`` with all block outputs at the end of every forward pass of the network.

    The rest of the network gets copies, so an in-place activation there overwrites the copy and not
    the captured output. By default passes without gradients (a validation, a teacher) do not count.
    The blocks that activation checkpointing runs again never do.

    Args:
        model: the network.
        blocks: as for `window`.
        on_forward: called with z_1..z_L.
        counts: asked when the network and when a block has begun, whether the pass counts.
        on_stray: called with the position and output of a block that runs with gradients outside of
            a forward pass of the network.

    Raises:
        RuntimeError: the blocks did not run once each, in this order.
        ValueError: an output is neither a tensor nor a tuple that begins with one.
    """
    network, entered = unwrap(model), depth()
    outputs: list[Tensor] = []
    running, rows = False, None

    def begin(module: nn.Module, args: Any) -> None:
        nonlocal running, rows
        rows = rows_of(args[0]) if args else None
        running = counts() and depth() == entered
        outputs.clear()

    def look(position: int, z: Tensor) -> Tensor | None:
        if on_stray and not running and torch.is_grad_enabled() and depth() == entered:
            on_stray(position, z)
        if not (running and counts()):
            return None
        if position != len(outputs):
            ran = [block.name for block in blocks[: len(outputs)]] + [blocks[position].name]
            again = (
                " All of them ran, and one once more: where a module runs its network for each "
                "view, give the network inside it, and say how many views each of its passes has "
                '(views="separate").'
            )
            raise RuntimeError(
                disorder(blocks, ran) + (again if len(outputs) == len(blocks) else "")
            )
        outputs.append(z)
        return z.clone()

    def end(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal running
        if running:
            running = False
            if len(outputs) < len(blocks):
                how = " with gradients enabled" if counts is torch.is_grad_enabled else ""
                raise RuntimeError(
                    f"Block {blocks[len(outputs)].name!r} did not run{how}. "
                    "It was not called, or called through a compiled copy or a reentrant "
                    "checkpoint (use_reentrant=False works)."
                )
            on_forward(tuple(outputs))
            outputs.clear()

    looking = window(blocks, look, tuples=True, rows=lambda: rows)
    with _around_passes(network, begin, end, looking):
        yield


@contextmanager
def placed(
    blocks: Sequence[Block], devices: Sequence[torch.device], home: torch.device
) -> Iterator[None]:
    """Run every block on a device of its own; what lies between the blocks runs at home.

    The arguments of a block are moved to its device, and its output is moved home. Windows that
    are entered before see the output where the block made it.

    Args:
        blocks: as for `window`.
        devices: the device of each block, where its parameters are.
        home: the device of the network's input and of what lies between.
    """

    def there(device: torch.device) -> Callable[..., Any]:
        return lambda module, args, kwargs: (_moved(args, device), _moved(kwargs, device))

    handles: list[RemovableHandle] = []
    try:
        for block, device in zip(blocks, devices, strict=True):
            first = block.first
            handles.append(first.register_forward_pre_hook(Hook(there(device)), with_kwargs=True))
        with window(blocks, lambda position, z: z.to(home), tuples=True):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def overlook(
    model: nn.Module, blocks: Sequence[Block], on_block: Visit, on_end: End
) -> Iterator[None]:
    """Look at every forward pass with gradients, those that a trainer runs for itself included.

    The network goes on from its own outputs, and nothing of them is kept. Passes without gradients
    do not count, nor do the blocks that activation checkpointing runs again.

    Args:
        model: the network.
        blocks: as for `window`.
        on_block: called with the position of a block, from 0, and its output.
        on_end: called at the end of every pass in which the blocks ran.

    Raises:
        RuntimeError: the blocks did not run once each, in this order.
        ValueError: as `window`.
    """
    network = unwrap(model)
    ran: list[str] = []
    running, rows = False, None

    def begin(module: nn.Module, args: Any) -> None:
        nonlocal running, rows
        running, rows = torch.is_grad_enabled(), rows_of(args[0]) if args else None
        ran.clear()

    def look(position: int, z: Tensor) -> None:
        if running and torch.is_grad_enabled():
            ran.append(blocks[position].name)
            if position != len(ran) - 1:
                raise RuntimeError(disorder(blocks, ran))
            with torch.no_grad():
                on_block(position, z.detach())

    def end(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal running
        if running:
            running = False
            if len(ran) != len(blocks):
                raise RuntimeError(disorder(blocks, ran))
            on_end()

    looking = window(blocks, look, tuples=True, rows=lambda: rows)
    with _around_passes(network, begin, end, looking):
        yield


@contextmanager
def capture(model: nn.Module, names: Iterable[str] | None = None) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs z_l of the blocks in every forward pass inside.

    Args:
        model: the network.
        names: the names of its blocks, as for `linlocal.analysis.blocks`.

    Yields:
        A dict of the outputs by block name, with their graph. It is empty until the network has
        run, and then holds the outputs of the latest forward pass with gradients enabled, in the
        standard form of `linlocal.analysis.layout`.

    Raises:
        ValueError: as `linlocal.analysis.blocks`, or an output is neither a tensor nor a tuple that
            begins with one.
        RuntimeError: the blocks did not run once each, in this order.
    """
    blocks = resolve(model, names)
    outputs: dict[str, Tensor] = {}

    def keep(captured: tuple[Tensor, ...]) -> None:
        outputs.update((block.name, z) for block, z in zip(blocks, captured, strict=True))

    with watch(model, blocks, keep):
        yield outputs


@contextmanager
def complete_from_above(blocks: Sequence[Block], ready: Callable[[int], None]) -> Iterator[None]:
    """Call ``ready(l)`` in a backward pass inside, once the gradients of block l + 1 are complete.

    They are complete when the gradient by z_l, the output of the block below, is: autograd runs
    operations in reverse order, so all blocks above have run by then. Block 1 is never reported,
    because no block lies below it.

    Args:
        blocks: as for `window`.
        ready: called with the position of a block, from 0.
    """

    def look(position: int, z: Tensor) -> None:
        if z.requires_grad:
            hooked(z, lambda gradient: ready(position + 1))

    with window(blocks[:-1], look, tuples=True):
        yield


def rows_of(inputs: Any) -> int | None:
    """The number of rows of a batch, if it is a tensor."""
    return len(inputs) if isinstance(inputs, Tensor) and inputs.ndim else None


def hooked(tensor: Any, hook: Callable[[Tensor], None]) -> RemovableHandle:
    """Register a hook that is called with the gradient by a tensor, before all others change it."""
    # Some versions of torch only have types here.
    handle: RemovableHandle = tensor.register_hook(hook)
    # Put in again, because torch reads the order of insertion, not that of the OrderedDict.
    hooks = tensor._backward_hooks
    hooks.update({key: hooks.pop(key) for key in [*hooks] if key != handle.id})
    return handle


@contextmanager
def gated(parameters: Iterable[nn.Parameter], closed: Callable[[], bool]) -> Iterator[None]:
    """Do not call the hooks that others have set on parameters while ``closed()``.

    An instrument takes gradients by parameters that are none of the training. A hook that logs or
    changes gradients (as a monitor of training sets them) would see these too.

    Args:
        parameters: the parameters.
        closed: tells whether the gradients that are now computed are the instrument's.
    """

    def gate(hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        return lambda gradient: None if closed() else hook(gradient)

    kept = []
    try:
        for parameter in parameters:
            hooks = parameter._backward_hooks or {}
            for key, hook in hooks.items():
                kept.append((hooks, key, hook))
                hooks[key] = gate(hook)
        yield
    finally:
        for hooks, key, hook in kept:
            if key in hooks:  # it may have been removed meanwhile
                hooks[key] = hook


def accumulated(parameter: nn.Parameter, hook: Callable[[Tensor], None]) -> RemovableHandle:
    """Call a hook whenever something was added to ``.grad`` of a parameter."""
    return parameter.register_post_accumulate_grad_hook(hook)


def disorder(blocks: Sequence[Block], ran: Sequence[str]) -> str:
    """The message for blocks that did not run once each in order."""
    return (
        f"Blocks must run once each and in the order {', '.join(b.name for b in blocks)}; they ran "
        f"as {', '.join(ran) or 'none'}. Name them in forward order; a block that runs twice (also "
        "by activation checkpointing around it) must lie inside a larger one."
    )


def _first(output: Any, name: str, tuples: bool) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The tensor that an output begins with, and a function that puts another one in its place."""
    if isinstance(output, Tensor):
        return output, lambda z: z
    # A list holds several activities, as the branches of an HRNet; the first is not all of them.
    begins = isinstance(output, tuple) and output and isinstance(output[0], Tensor)
    if tuples and begins:

        def rest(z: Tensor) -> Any:
            items = [z, *output[1:]]
            # A namedtuple takes its fields one by one.
            return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)

        return output[0], rest
    expected = "a tensor, or a tuple whose first entry is one" if tuples else "one tensor"
    raise ValueError(
        f"Block {name!r} returned {type(output).__name__}, expected {expected}: choose a "
        "module that returns its activity alone, or wrap it in one that joins its branches."
    )


def _detached(value: Any) -> Any:
    """A copy of nested arguments with every tensor detached."""
    # Cloned, because the block may work on it in place.
    return _with_tensors(value, lambda tensor: tensor.detach().clone())


def _moved(value: Any, device: torch.device) -> Any:
    """Nested arguments with every tensor on a device."""
    return _with_tensors(value, lambda tensor: tensor.to(device))


def _with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        items = [_with_tensors(v, change) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {k: _with_tensors(v, change) for k, v in value.items()}
    return value
