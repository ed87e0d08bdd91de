"""Interrupts and termination: one stops a command, and more of them do not disturb its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any


@contextmanager
def first_interrupt_only() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first SIGINT and at the first SIGTERM, and ignore all others.

    Ending the workers and saying how to resume takes a moment, in which the impatient interrupt
    again. A batch system sends SIGTERM before it takes the machine away. Outside the main thread,
    and where something else handles or ignores a signal, nothing changes.
    """
    with _once(signal.SIGINT, signal.default_int_handler), _once(signal.SIGTERM, signal.SIG_DFL):
        yield


@contextmanager
def _once(number: signal.Signals, usual: Any) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(number) is not usual:
        yield
        return

    def raised(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(number, raised)
    try:
        yield
    finally:
        if signal.getsignal(number) is raised:
            signal.signal(number, usual)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold interrupts back until the end; processes and threads started meanwhile get none."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Started here: the first process that is spawned starts it otherwise, and it lets interrupts
    # through to whatever its thread spawns next.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
