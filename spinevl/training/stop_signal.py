"""Ctrl-C, SIGTERM and SIGUSR1: a training finishes its step, is saved, and ends."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from spinevl.schema.errors import UserError

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """Takes these signals for as long as it is entered, and ends with the first.

    Attributes:
        number: the first signal that came; None where none did. Later ones change nothing, since a
            launcher may send its own after the batch system's; but a second Ctrl-C ends at once.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._former: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if number == signal.SIGINT:
            if self.number == signal.SIGINT:
                raise KeyboardInterrupt
            log.warning("interrupted: this step is finished and saved; Ctrl-C again ends at once")
        self.number = self.number or number

    def __enter__(self) -> StopSignal:
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back. One that came when all was done does what it does elsewhere."""
        former = self._former.get(self.number or 0)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if isinstance(error, KeyboardInterrupt) and callable(former):
            former(self.number, None)  # it knows then which signal it was
        elif error is None and self.number:
            signal.raise_signal(self.number)

    def take(self) -> None:
        """Be the handler; once more at the trainer's start, which sets one that saves nothing."""
        if threading.current_thread() is threading.main_thread():  # Python takes signals there
            for number in SIGNALS:
                self._former.setdefault(number, signal.getsignal(number))
                signal.signal(number, self)

    def stop(self, line: str) -> None:
        """End the training.

        Args:
            line: what is saved.

        Raises:
            UserError: after SIGUSR1, by which batch systems announce an end; with the line.
            KeyboardInterrupt: after Ctrl-C and SIGTERM.
        """
        if self.number == signal.SIGUSR1:
            raise UserError(line)
        log.warning("%s", line)
        raise KeyboardInterrupt
