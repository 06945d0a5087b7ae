"""SIGTERM and SIGUSR1, which batch systems send, end a job as Ctrl-C does: it says so."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped:
    """Which signal has stopped a command.

    Attributes:
        code: the exit code that says so.
    """

    def __init__(self) -> None:
        self.code = 128 + signal.SIGINT

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler of both; the next ones are ignored, so that what is begun is written."""
        self.code = 128 + number
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[Stopped]:
    """Let SIGTERM and SIGUSR1 raise KeyboardInterrupt as long as this lasts."""
    stopped = Stopped()
    if threading.current_thread() is not threading.main_thread():  # Python takes signals there
        yield stopped
        return
    former = {number: signal.signal(number, stopped) for number in SIGNALS}
    try:
        yield stopped
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
