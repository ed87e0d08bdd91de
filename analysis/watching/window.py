"""Block outputs of a running network, by forward hooks, and local gradients from the same graph.

A hook hands a copy of the block's output on to the rest of the network, so that an in-place
activation there overwrites the copy and not what was captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from linlocal.analysis.block import Block, resolve, unwrap

OnForward = Callable[[tuple[Tensor, ...]], None]
Rescale = Callable[[Tensor], Tensor]


@contextmanager
def capture(model: nn.Module, names: Iterable[str] | None = None) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs z_l of the blocks in every forward pass inside.

    Args:
        model: the network.
        names: as for `blocks`.

    Yields:
        The outputs by block name, with their graph; empty until the network has run, then those of
        the latest forward pass with gradients enabled.

    Raises:
        ValueError: as `blocks`, or an output is no tensor or tuple of them.
        RuntimeError: the blocks did not run once each, in this order.
    """
    blocks = resolve(model, names)
    outputs: dict[str, Tensor] = {}

    def keep(captured: tuple[Tensor, ...]) -> None:
        outputs.update((block.name, z) for block, z in zip(blocks, captured, strict=True))

    with watch(model, blocks, keep):
        yield outputs


@contextmanager
def watch(model: nn.Module, blocks: Sequence[Block], on_forward: OnForward) -> Iterator[None]:
    """Call ``on_forward`` with all block outputs at the end of every forward pass of the network.

    Passes without gradients (a validation, a teacher) do not count, nor do the blocks that
    activation checkpointing runs again. No hook is left afterwards. Raises as `capture`.
    """
    network = unwrap(model)
    outputs: list[Tensor] = []
    running = False

    def begin(module: nn.Module, args: Any) -> None:
        nonlocal running
        running = torch.is_grad_enabled()
        outputs.clear()

    def end(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal running
        if running:
            running = False
            if len(outputs) < len(blocks):
                raise RuntimeError(
                    f"Block {blocks[len(outputs)].name!r} did not run with gradients enabled. "
                    "It was not called, or called through a compiled copy or a reentrant "
                    "checkpoint (use_reentrant=False works)."
                )
            on_forward(tuple(outputs))
            outputs.clear()

    def collect(position: int) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if not (running and torch.is_grad_enabled()):
                return None
            if position != len(outputs):
                ran = [block.name for block in blocks[: len(outputs)]] + [blocks[position].name]
                raise RuntimeError(
                    f"Blocks must run once each in forward order; they ran as {', '.join(ran)}. "
                    "Name them in that order; a block that runs twice in one pass has no single "
                    "output: put both runs into one block."
                )
            z, replaced = _split(output, blocks[position].name)
            outputs.append(z)
            return replaced

        return hook

    handles = [network.register_forward_pre_hook(begin)]
    try:
        handles += [b.module.register_forward_hook(collect(i)) for i, b in enumerate(blocks)]
        handles.append(network.register_forward_hook(end))
        yield
    finally:
        for handle in handles:
            handle.remove()


def output_shapes(
    model: nn.Module, names: Iterable[str] | None, inputs: Tensor
) -> tuple[tuple[int, ...], ...]:
    """Shapes of the block outputs without the batch dimension; leaves the network as it was.

    Args:
        model: the network.
        names: as for `blocks`.
        inputs: a batch.
    """
    with untouched(model), torch.enable_grad(), capture(model, names) as outputs:
        model(inputs)
    return tuple(tuple(z.shape[1:]) for z in outputs.values())


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Give buffers and random number generators back as they were."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    cuda = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
    kept = [(buffer, buffer.clone()) for m in modules for buffer in m.buffers()]
    with torch.random.fork_rng(cuda):
        try:
            yield
        finally:
            for buffer, value in kept:
                # Behind autograd's back: a graph that saved the buffer may still have to run.
                buffer.data.copy_(value)


def error_signal(loss: nn.Module, here: Tensor, top: Tensor, rescale: Rescale) -> Tensor:
    """dLoss_l/dz_l of a block's local loss, in the shape of z_l.

    The loss sees a copy without graph: whatever it does, no gradient leaves the block. Of a loss
    that has an ``activity_loss``, the part of it that depends on the activity, only this is run: a
    penalty on large projections costs as much as the pairs.

    Args:
        loss: the local loss of the block.
        here: the block's output.
        top: the last block's output, detached.
        rescale: what the loss is multiplied with.

    Raises:
        ValueError: the loss is no scalar.
    """
    leaf = here.detach().requires_grad_()
    value = getattr(loss, "activity_loss", loss)(leaf, top)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"A local loss must return one number, {type(loss).__name__} returned {got}: take the "
            "mean over samples in it."
        )
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (error,) = torch.autograd.grad(rescale(value), leaf, materialize_grads=True)
    return error


def local_gradient(
    here: Tensor, parameters: Sequence[nn.Parameter], error: Tensor
) -> tuple[Tensor, ...]:
    """(dz_l/dtheta_l)^T error: the gradient of a block's parameters, from its own output.

    Nothing below the block is computed, since none of the parameters lies there. The graph stays.

    Args:
        here: z_l with its graph.
        parameters: the block's parameters that require a gradient.
        error: in the shape of z_l.

    Returns:
        One tensor per parameter, zero where it was not used.

    Raises:
        RuntimeError: the block ran without a graph.
    """
    if not parameters:
        return ()
    if not here.requires_grad:
        raise RuntimeError(
            "A block with trainable parameters ran without a graph: its output was detached or "
            "computed under no_grad."
        )
    return torch.autograd.grad(
        here, parameters, error, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _split(output: Any, name: str) -> tuple[Tensor, Any]:
    """The captured tensor, and what the rest of the network gets in its place."""
    if isinstance(output, Tensor):
        return output, output.clone()
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        items = [output[0].clone(), *output[1:]]
        # A namedtuple takes its fields one by one.
        replaced = type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
        return output[0], replaced
    raise ValueError(
        f"Block {name!r} returned {type(output).__name__}; expected a tensor, or a tuple whose "
        "first entry is one."
    )
