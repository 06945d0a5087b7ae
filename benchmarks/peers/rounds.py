"""Rounds in which peers take turns: one computes, the others sleep."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.peers.environments import Unavailable
from benchmarks.peers.worker import PeerFailed

LOADING = 420.0
"""Seconds until a peer must have loaded; compilers take some of them."""

ANSWERING = 420.0
"""Seconds until a peer must have answered a command."""


class Asked(Protocol):
    """A worker, or what stands for one in tests."""

    def ask(self, command: str, *, timeout: float, **arguments: Any) -> dict[str, Any]:
        """See Worker."""

    def close(self) -> None:
        """See Worker."""


@dataclass(frozen=True)
class Run:
    """What is measured in a round.

    Attributes:
        name: of the row in the tables.
        worker: who does it.
        command: what it is asked.
        arguments: of the command; a function of the number of the round, or the same each time.
        share: answers are divided by it, such as the number of patients.
        rounds: how often at most.
    """

    name: str
    worker: str
    command: str
    arguments: Mapping[str, Any] | Callable[[int], Mapping[str, Any]] = field(default_factory=dict)
    share: float = 1.0
    rounds: int = 10**6


@dataclass
class Result:
    """What was measured of a run.

    Attributes:
        seconds: of each round, divided by the share of the run.
        answers: of each round, as the worker gave them.
        loaded: what the worker said when it loaded.
        peak: the most memory of the process after the first round, in bytes.
        failed: the reason, where there is nothing or no more to measure.
        there: False where the peer is not installed.
    """

    seconds: list[float] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    loaded: dict[str, Any] = field(default_factory=dict)
    peak: int | None = None
    failed: str | None = None
    there: bool = True

    @property
    def median(self) -> float | None:
        """Of the seconds; None where nothing was measured."""
        return statistics.median(self.seconds) if self.seconds else None


def alternate(
    starts: Mapping[str, Callable[[], Asked]],
    runs: Sequence[Run],
    *,
    rounds: int,
    until: float,
    between: Callable[[], object] = bool,
) -> dict[str, Result]:
    """The results of the runs by name; a worker that fails is left out, and the others go on.

    Args:
        starts: worker -> starts its process; they load one after another.
        runs: what is asked in each round, in order.
        rounds: how often.
        until: no further round starts at this time (``time.monotonic``); the first always does.
        between: called before each run.
    """
    results = {run.name: Result() for run in runs}
    workers: dict[str, Asked] = {}

    def fail(name: str, error: PeerFailed | Unavailable) -> None:
        print(f"  {name}: {error}", flush=True)
        for run in runs:
            if run.worker == name:
                results[run.name].failed = str(error)
                results[run.name].there = not isinstance(error, Unavailable)

    try:
        for name, start in starts.items():
            try:
                workers[name] = start()
                loaded = workers[name].ask("load", timeout=LOADING)
            except (PeerFailed, Unavailable) as error:
                fail(name, error)
                continue
            for run in runs:
                if run.worker == name:
                    results[run.name].loaded = loaded
        for number in range(rounds):
            if number and time.monotonic() > until:
                break
            for run in runs:
                result = results[run.name]
                if result.failed is None and number < run.rounds:
                    between()
                    try:
                        _measure(run, result, workers[run.worker], number)
                    except PeerFailed as error:
                        fail(run.worker, error)
    finally:
        for worker in workers.values():
            worker.close()
    return results


def _measure(run: Run, result: Result, worker: Asked, number: int) -> None:
    arguments = run.arguments(number) if callable(run.arguments) else run.arguments
    answer = worker.ask(run.command, timeout=ANSWERING, **arguments)
    result.seconds.append(answer["seconds"] / run.share)
    result.answers.append(answer)
    if result.peak is None:
        result.peak = int(worker.ask("memory", timeout=60)["peak"])
    print(f"  {run.name}: {result.seconds[-1]:.2f} s", flush=True)


def ratio(slow: Result | None, fast: Result | None) -> float | None:
    """How many times faster, the median over the rounds that both have; None where none is."""
    if slow is None or fast is None:
        return None
    pairs = list(zip(slow.seconds, fast.seconds, strict=False))
    return statistics.median(s / f for s, f in pairs) if pairs else None
