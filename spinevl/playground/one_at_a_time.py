"""One thread that does one job after another: a model answers one request at a time.

The thread belongs to the model and not to whoever asks, so that a listener who is gone, or never
listens on, cannot hold the model: the job ends when it is stopped, done or out of time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from spinevl.schema.errors import UserError

T = TypeVar("T")


class Stopped(Exception):
    """A job ends because nobody waits for it any more."""


@dataclass(frozen=True)
class Update(Generic[T]):
    """How far a job is.

    Attributes:
        ahead: the jobs before it; 0 where it is being done.
        value: its newest result; None where it has none yet.
    """

    ahead: int
    value: T | None


class Job(Generic[T]):
    """A request: its results as they come, of which only the newest is kept."""

    def __init__(
        self, work: Callable[[Job[T]], Iterator[T]], owner: OneAtATime, seconds: float
    ) -> None:
        self._work = work
        self._owner = owner
        self._seconds = seconds
        self._deadline: float | None = None
        self._changed = threading.Condition()
        self._value: T | None = None
        self._version = 0
        self._error: BaseException | None = None
        self._stopped = False
        self._ended = False

    def stop(self) -> None:
        """End it at its next step; before its turn it is not begun."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped

    def check(self) -> None:
        """Called by the work between its steps. Raises Stopped, or UserError out of time."""
        if self._stopped:
            raise Stopped
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise UserError(
                f"the answer took longer than limits.seconds={self._seconds:g}; ask for less, or "
                "raise the limit"
            )

    def updates(self, *, every: float = 0.5) -> Iterator[Update[T]]:
        """How far it is whenever it gets further, and after each ``every`` seconds.

        Leaving the loop early stops the job.

        Raises:
            UserError, or whatever else the work raised.
        """
        seen = -1
        try:
            while True:
                with self._changed:
                    if self._version == seen and not self._ended and not self._stopped:
                        self._changed.wait(every)
                    seen, ended, value = self._version, self._ended, self._value
                    error, stopped = self._error, self._stopped
                if error is not None:
                    raise error
                if value is not None or not (ended or stopped):
                    yield Update(self._owner.ahead_of(self), value)
                if ended or stopped:
                    return
        finally:
            if not self._ended:
                self.stop()

    def result(self) -> T | None:
        """The last result, waited for; None where it was stopped before it had any."""
        value = None
        for update in self.updates():
            value = update.value
        return value

    def run(self) -> None:
        """Do it; what it raises goes to whoever listens."""
        self._deadline = time.monotonic() + self._seconds
        error: BaseException | None = None
        try:
            self.check()
            for value in self._work(self):
                with self._changed:
                    self._value = value
                    self._version += 1
                    self._changed.notify_all()
                self.check()
        except Stopped:
            pass
        except BaseException as raised:  # the thread serves the next one whatever it was
            error = raised
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()


class OneAtATime:
    """Does jobs in the order in which they came.

    Args:
        most: how many may wait while one is done.
        seconds: the longest time of one.
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._jobs: list[Job] = []  # the first one is being done
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="spinevl-model", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Job[T]], Iterator[T]]) -> Job[T]:
        """Have something done: ``work`` gets its job, calls its ``check`` and yields results.

        Raises:
            UserError: too many wait already.
        """
        job = Job(work, self, self._seconds)
        with self._changed:
            waiting = [one for one in self._jobs if not one.stopped]
            if len(waiting) > self._most or self._closed:
                raise UserError(
                    f"{len(waiting)} requests are before yours, and limits.waiting={self._most}; "
                    "try again in a minute"
                )
            self._jobs.append(job)
            self._changed.notify_all()
        return job

    def ahead_of(self, job: Job) -> int:
        """How many jobs are done before another; 0 for one that is being done, or is done."""
        with self._changed:
            if job not in self._jobs:
                return 0
            before = self._jobs[: self._jobs.index(job)]
            return sum(not one.stopped for one in before)

    def close(self) -> None:
        """Stop every job and end the thread."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.stop()
            self._changed.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return
                job = self._jobs[0]
            job.run()
            with self._changed:
                self._jobs.remove(job)
