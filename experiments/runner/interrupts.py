"""Interrupts from the terminal: one stops a command, and more of them do not disturb its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType


@contextmanager
def first_interrupt_only() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first SIGINT and ignore all others until the process ends.

    Ending the workers and saying how to resume takes a moment, in which the impatient interrupt
    again. Outside the main thread, and where interrupts are ignored anyway, nothing changes.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is once:
            signal.signal(signal.SIGINT, before)


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
