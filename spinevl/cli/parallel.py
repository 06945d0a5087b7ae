"""A job in one of several processes of a sweep, which run at the same time."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from spinevl.io.cores import CORES, available_cores


@contextmanager
def side_by_side(launcher: Any, number: int) -> Iterator[None]:
    """Let a job know that others run beside it; nothing in any process but a joblib worker.

    Its lines begin with ``#NUMBER``, it takes its share of the cores, and it starts processes as
    any other job does: joblib's way ("loky") is unknown to the processes that a job starts.

    Args:
        launcher: the node ``hydra.launcher``.
        number: the job's place in its sweep.
    """
    if not type(multiprocessing.current_process()).__module__.startswith("joblib."):
        yield
        return
    multiprocessing.set_start_method(None, force=True)
    jobs = int(launcher.get("n_jobs") or 1)
    cores = available_cores()
    os.environ[CORES] = str(max(1, cores // (jobs if jobs > 0 else cores)))
    try:
        with _numbered(number):
            yield
    finally:
        os.environ[CORES] = str(cores)


@contextmanager
def _numbered(number: int) -> Iterator[None]:
    """Begin each line of stdout, stderr and the logs on them with the job's number."""
    old = sys.stdout, sys.stderr
    out, err = (NumberedLines(stream, number) for stream in old)
    handlers = [
        (handler, err if handler.stream is old[1] else out)
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in old
    ]
    sys.stdout, sys.stderr = out, err
    for handler, stream in handlers:
        handler.setStream(stream)
    try:
        yield
    finally:
        for handler, stream in handlers:
            handler.setStream(stream.stream)
        for stream in (out, err):
            stream.finish()
        sys.stdout, sys.stderr = old


class NumberedLines(io.TextIOBase):
    """A text stream whose lines begin with ``#NUMBER``; a whole line is written at a time."""

    def __init__(self, stream: TextIO, number: int) -> None:
        self.stream = stream
        self._mark = f"#{number} "
        self._line = ""

    def write(self, text: str) -> int:
        """See TextIOBase."""
        *lines, self._line = (self._line + text).split("\n")
        shown = [line.rpartition("\r")[2] for line in lines]  # of a progress bar its last state
        self.stream.write("".join(f"{self._mark}{line}\n" for line in shown))
        return len(text)

    def flush(self) -> None:
        """See TextIOBase; a line that has not ended waits."""
        self.stream.flush()

    def finish(self) -> None:
        """End the last line."""
        if self._line:
            self.write("\n")
        self.flush()

    def isatty(self) -> bool:
        """Whether lines can be written over; not where several jobs write."""
        return False
