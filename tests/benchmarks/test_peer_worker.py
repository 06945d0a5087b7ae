"""A peer's process, and rounds of several of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.environments import Unavailable
from benchmarks.peers.rounds import Result, Run, alternate, ratio
from benchmarks.peers.worker import ROOT, PeerFailed, Worker

FAKE = Path(__file__).with_name("fake_peer.py")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    """Starts fake peers, which are ended after the test."""
    started: list[Worker] = []

    def one() -> Worker:
        log = tmp_path / "logs" / f"{len(started)}.log"
        worker = Worker([sys.executable, str(FAKE)], log=log, environment={"PYTHONPATH": str(ROOT)})
        started.append(worker)
        return worker

    yield one
    for worker in started:
        worker.close()


def test_commands_are_answered_and_prints_go_to_the_log(start: Callable[[], Worker]) -> None:
    worker = start()
    assert worker.ask("load", timeout=60)["versions"] == {"fake": "1.0"}
    assert worker.ask("double", timeout=60, value=4) == {"seconds": 2.0, "doubled": 8}
    assert worker.log.read_text() == "a banner\na banner of a child\n"


def test_an_error_is_one_line_and_the_worker_goes_on(start: Callable[[], Worker]) -> None:
    worker = start()
    with pytest.raises(PeerFailed, match=r"^refuse: ValueError: no such kernel$"):
        worker.ask("refuse", timeout=60)
    with pytest.raises(PeerFailed, match="KeyError"):
        worker.ask("unknown", timeout=60)
    assert worker.ask("double", timeout=60, value=1)["doubled"] == 2


def test_a_crash_is_told_with_the_last_error_of_the_log(start: Callable[[], Worker]) -> None:
    worker = start()
    for _ in range(2):  # and whoever asks again gets it again
        with pytest.raises(PeerFailed, match="Error: out of memory"):
            worker.ask("die", timeout=60)


def test_a_worker_that_does_not_answer_is_given_up(start: Callable[[], Worker]) -> None:
    worker = start()
    worker.ask("load", timeout=60)
    with pytest.raises(PeerFailed, match=r"hang: no answer within 0 s"):
        worker.ask("hang", timeout=0.2)
    begin = time.monotonic()
    worker.close()
    assert time.monotonic() - begin < 10


class Fake:
    """A worker without a process, which fails where it is told to."""

    def __init__(self, told: list[str], name: str, fails: str = "") -> None:
        self.told, self.name, self.fails = told, name, fails

    def ask(self, command: str, *, timeout: float, **arguments: Any) -> dict[str, Any]:
        assert timeout > 0
        self.told.append(f"{self.name} {command} {arguments.get('k', '')}".strip())
        if self.fails and self.told[-1].endswith(self.fails):
            raise PeerFailed(f"{command}: broken")
        return {"seconds": 6.0, "peak": 100, "versions": {}}

    def close(self) -> None:
        self.told.append(f"{self.name} closed")


def unavailable() -> Fake:
    raise Unavailable("not installed: no such wheel")


def test_peers_take_turns_and_a_failing_one_is_left_out() -> None:
    told: list[str] = []
    runs = [
        Run("one", "a", "work", lambda number: {"k": number}, share=3),
        Run("two", "b", "work", lambda number: {"k": number}),
        Run("once", "b", "other", rounds=1),
        Run("three", "c", "work"),
    ]
    starts = {
        "a": lambda: Fake(told, "a"),
        "b": lambda: Fake(told, "b", "work 1"),
        "c": unavailable,
    }
    found = alternate(starts, runs, rounds=3, until=time.monotonic() + 60)
    assert told == [
        *("a load", "b load"),
        *("a work 0", "a memory", "b work 0", "b memory", "b other", "b memory"),
        *("a work 1", "b work 1"),
        *("a work 2", "a closed", "b closed"),
    ]
    assert found["one"].seconds == [2.0, 2.0, 2.0]
    assert (found["one"].failed, found["one"].peak) == (None, 100)
    assert (found["two"].seconds, found["two"].failed) == ([6.0], "work: broken")
    assert found["once"].seconds == [6.0]
    assert (found["three"].median, found["three"].failed) == (None, "not installed: no such wheel")


def test_the_first_round_is_whole_even_where_the_time_is_over() -> None:
    told: list[str] = []
    runs = [Run("one", "a", "work"), Run("two", "b", "work")]
    starts = {"a": lambda: Fake(told, "a"), "b": lambda: Fake(told, "b")}
    found = alternate(starts, runs, rounds=5, until=time.monotonic() - 1)
    assert [one.seconds for one in found.values()] == [[6.0], [6.0]]


def test_workers_are_closed_when_the_run_is_interrupted() -> None:
    told: list[str] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alternate(
            {"a": lambda: Fake(told, "a")},
            [Run("one", "a", "work")],
            rounds=1,
            until=0.0,
            between=interrupt,
        )
    assert told == ["a load", "a closed"]


def test_a_ratio_is_of_rounds_that_both_have() -> None:
    slow, fast = Result(seconds=[4.0, 9.0, 100.0]), Result(seconds=[2.0, 3.0])
    assert ratio(slow, fast) == 2.5
    assert ratio(slow, Result()) is None
    assert ratio(None, fast) is None
