"""Restores, after a measurement, the state that the measurement must not change."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import is_dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from linlocal.analysis.block import refuse_lazy

# How many instruments' own passes the present code runs inside of.
_DEPTH: ContextVar[int] = ContextVar("depth", default=0)
# What every module holds: hooks, and the dicts that are restored on their own.
_INTERNAL = frozenset(vars(nn.Module()))
_REGISTERED = ("_buffers", "_parameters", "_modules")
# Wrappers keep the state of communication and compilation in their attributes.
_WRAPPERS = ("torch.nn.parallel", "torch.distributed", "torch._dynamo", "lightning")
# Most attributes are of these types; looking no further keeps `untouched` quick.
_IMMUTABLE = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype})
# An attribute, what it contains, and what that contains.
_LEVELS = 3


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
def untouched(*modules: nn.Module, weights: bool = True, records: bool = True) -> Iterator[None]:
    """Restore modules and random number generators at the end.

    Of each module and its submodules come back, by module and name: the mode, buffers, parameters
    and plain attributes (a flag, a counter), whether they were changed in place or assigned. Of an
    attribute that is a list, dict, set, deque, dataclass, namespace, array, tensor or generator the
    contents come back as well. Objects of other classes are not looked into. The generators are
    those of Python, numpy and torch.

    Args:
        modules: the modules.
        weights: whether the values of parameters are kept, which takes their memory once more.
            Otherwise nothing inside may write to them.
        records: whether the contents of lists, deques and sets come back. Not in a pass that a
            training makes in each step, where a module or a loss may keep a record of it.

    Raises:
        ValueError: a forward pass made or replaced parameters or submodules, which are gone again;
            or parameters of lazy modules have no shape yet.
    """
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    if any(map(is_lazy, tensors)):
        for module in modules:
            refuse_lazy(module)
    cuda = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
    python, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 - modules may use it
    before = _Before(weights, records)
    for module in modules:
        before.keep(module)
    with torch.random.fork_rng(cuda):
        try:
            yield
        finally:
            new = before.restore()
            random.setstate(python)
            np.random.set_state(numpys)  # noqa: NPY002
    if new:
        raise ValueError(
            f"The forward pass of the network makes or replaces {', '.join(new)}, as a "
            "data-dependent initialisation may, so what was measured is not part of the network. "
            "Run it once on a batch of your data before, model(batch); or let it write into "
            "parameters that exist: p.data.copy_(value)."
        )


class _Before:
    """The state of modules, and the way back to it."""

    def __init__(self, weights: bool, records: bool) -> None:
        self._weights, self._records = weights, records
        self._modules: list[
            tuple[nn.Module, bool, dict[str, Any] | None, dict[str, dict[str, Any]]]
        ] = []
        self._undo: list[Callable[[], None]] = []
        # Held, because an address is that of one object only while it lives.
        self._seen: dict[int, Any] = {}

    def keep(self, module: nn.Module) -> None:
        """Note the state of a module and of its submodules."""
        for part in module.modules():
            if id(part) not in self._seen:
                self._seen[id(part)] = part
                self._keep(part)

    def _keep(self, module: nn.Module) -> None:
        state = vars(module)
        own: dict[str, Any] | None = None
        if not type(module).__module__.startswith(_WRAPPERS):
            own = {name: value for name, value in state.items() if name not in _INTERNAL}
        self._modules.append(
            (module, module.training, own, {name: dict(state[name]) for name in _REGISTERED})
        )
        for value in (own or {}).values():
            self._look_into(value, _LEVELS)
        for name in _REGISTERED[: 1 + self._weights]:
            for tensor in state[name].values():
                self._look_into(tensor, 1)

    def restore(self) -> list[str]:
        """Put everything back, and name the parameters and submodules that were replaced."""
        new: list[str] = []
        for module, training, own, registered in self._modules:
            if module.training != training:
                module.training = training
            for kind, before in registered.items():
                present = vars(module)[kind]
                if not _same(present, before):
                    if kind != "_buffers":
                        different = {n for n in present if present[n] is not before.get(n)}
                        names = sorted(different | (before.keys() - present.keys()))
                        new += [f"{name} of a {type(module).__name__}" for name in names]
                    _refill(present, before)
            if own is not None:
                attributes = vars(module)
                for name in attributes.keys() - own.keys() - _INTERNAL:
                    del attributes[name]
                attributes.update(own)
        for undo in self._undo:
            undo()
        return new

    def _look_into(self, value: Any, levels: int) -> None:
        """Note how to restore what a value contains."""
        if type(value) in _IMMUTABLE or levels == 0 or id(value) in self._seen:
            return
        if isinstance(value, nn.Module):  # in a list, say, where it is not registered
            self.keep(value)
            return
        undo, inside = _way_back(value)
        if isinstance(value, list | deque | set) and not self._records:
            undo = None
        if undo is not None:
            self._seen[id(value)] = value
            self._undo.append(undo)
        for each in inside:
            self._look_into(each, levels - 1)


def _way_back(value: Any) -> tuple[Callable[[], None] | None, Sequence[Any]]:
    """What puts the contents of a value back, and the contents."""
    if isinstance(value, tuple):
        return None, value
    if isinstance(value, Tensor):
        # With a graph it is an activity of an earlier pass.
        kept = value.detach().clone() if value.grad_fn is None else None
        return None if kept is None else partial(_overwrite, value, kept), ()
    if isinstance(value, np.ndarray):
        return partial(np.copyto, value, value.copy()), ()
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: _set_state(value, state), ()
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate()), ()
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state), ()
    if isinstance(value, SimpleNamespace) or (is_dataclass(value) and not isinstance(value, type)):
        value = getattr(value, "__dict__", None)  # None where there are slots
    if isinstance(value, dict):
        return partial(_refill, value, dict(value)), [*value.values()]
    if isinstance(value, list | deque):
        items = [*value]
        return partial(_refill_sequence, value, items), items
    if isinstance(value, set):
        return partial(_refill_set, value, set(value)), ()
    return None, ()


def _same(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> bool:
    return [*a] == [*b] and all(x is y for x, y in zip(a.values(), b.values(), strict=True))


def _refill(present: dict[Any, Any], before: Mapping[Any, Any]) -> None:
    if not _same(present, before):
        present.clear()
        present.update(before)


def _refill_sequence(present: list[Any] | deque[Any], before: Sequence[Any]) -> None:
    if len(present) != len(before) or any(x is not y for x, y in zip(present, before, strict=True)):
        present.clear()
        present.extend(before)


def _refill_set(present: set[Any], before: set[Any]) -> None:
    present.clear()
    present |= before


def _overwrite(tensor: Tensor, value: Tensor) -> None:
    # Hidden from autograd, because a graph that saved the tensor may still have to run.
    with torch.inference_mode(tensor.is_inference()):
        if tensor.shape != value.shape or tensor.dtype != value.dtype:
            tensor.data = value
        else:
            tensor.data.copy_(value)


def _set_state(generator: Any, state: Tensor) -> None:
    # Some versions of torch only have types here.
    generator.set_state(state)
