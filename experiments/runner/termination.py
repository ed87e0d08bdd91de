"""Termination, as a batch system asks for it before it takes the machine away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first SIGTERM and ignore more until the process ends.

    Outside the main thread, and where something else handles or ignores it, nothing changes.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, once)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is once:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
