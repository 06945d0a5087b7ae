"""A job that submitit runs: when its time is up, it asks for another turn.

submitit gets SIGUSR2 some minutes before the limit (``hydra.launcher.signal_delay_s``), and then
puts the job into the queue once more and ends at once. Here the job is first ended as SIGTERM ends
it, so that a training saves its state; in its next turn it goes on from there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def turn() -> Iterator[None]:
    """One turn of a job; nothing in any process but submitit's.

    Raises:
        SystemExit: the time was up; the job has been put into the queue again.
        KeyboardInterrupt: the job was cancelled.
    """
    in_submitit = bool(os.environ.get("SUBMITIT_EXECUTOR"))
    if not in_submitit or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def time_is_up(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.raise_signal(signal.SIGTERM)  # whoever takes it saves first

    former: dict[int, Any] = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, _stop),
        signal.SIGUSR2: signal.signal(signal.SIGUSR2, time_is_up),
    }
    again = former[signal.SIGUSR2]
    try:
        yield
    except KeyboardInterrupt:
        if asked and callable(again):
            again(asked[0], None)
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    """End the job as Ctrl-C does; the next ones are ignored, so that what is begun is written."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
