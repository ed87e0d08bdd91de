"""Restores, after a measurement, the state that the measurement must not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

# How many instruments' own passes the present code runs inside of.
_DEPTH: ContextVar[int] = ContextVar("depth", default=0)


def depth() -> int:
    """How many of `own_pass` are open; what watches at another depth does not count a pass."""
    return _DEPTH.get()


@contextmanager
def own_pass() -> Iterator[None]:
    """Inside, an instrument runs the network for itself: no other one counts what it sees."""
    token = _DEPTH.set(_DEPTH.get() + 1)
    try:
        yield
    finally:
        _DEPTH.reset(token)


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Restore buffers, modes and random number generators at the end.

    Buffers are put back by module and name, with their values, whether they were changed in place
    or replaced.

    Args:
        modules: the modules whose buffers and modes are restored.
    """
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    cuda = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    kept = [
        (part, name, buffer, buffer.clone())
        for part in parts
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    with torch.random.fork_rng(cuda):
        try:
            yield
        finally:
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode
            for part, name, buffer, value in kept:
                part._buffers[name] = buffer
                # Hidden from autograd, because a graph that saved the buffer may still have to run.
                buffer.data.copy_(value)
