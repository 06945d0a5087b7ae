"""SIGTERM, which batch systems send, ends a job as Ctrl-C does: it can say that it was stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped:
    """Which signal has stopped a command.

    Attributes:
        code: the exit code that says so.
    """

    def __init__(self) -> None:
        self.code = 128 + signal.SIGINT

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM; the next ones are ignored, so that what is begun is written."""
        self.code = 128 + number
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[Stopped]:
    """Let SIGTERM raise KeyboardInterrupt as long as this lasts."""
    stopped = Stopped()
    if threading.current_thread() is not threading.main_thread():  # Python takes signals there
        yield stopped
        return
    former = signal.signal(signal.SIGTERM, stopped)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, former)
