"""A job of submitit: SIGUSR2 ends it as SIGTERM does, and then it asks for another turn."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from spinevl.cli.batch_job import turn
from spinevl.cli.main import main


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The signals for which submitit's own handler is called; it ends the process."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    found = []

    def requeue(number: int, frame: FrameType | None) -> None:
        found.append(number)
        raise SystemExit(-1)

    former = {
        signal.SIGUSR2: signal.signal(signal.SIGUSR2, requeue),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    }
    yield found
    for number, handler in former.items():
        signal.signal(number, handler)


def test_the_job_is_saved_before_it_is_put_into_the_queue_again(asked: list[int]) -> None:
    saved = []

    @contextmanager
    def job() -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            saved.append(not asked)
            raise

    with pytest.raises(SystemExit), turn(), job():
        os.kill(os.getpid(), signal.SIGUSR2)
    assert saved == [True]
    assert asked == [signal.SIGUSR2]


def test_a_training_that_takes_sigterm_itself_gets_it(asked: list[int]) -> None:
    taken = []

    def training() -> None:
        former = signal.signal(signal.SIGTERM, lambda number, frame: taken.append(number))
        os.kill(os.getpid(), signal.SIGUSR2)
        assert taken == [signal.SIGTERM]  # it finishes its step, and then
        signal.signal(signal.SIGTERM, former)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit), turn():
        training()
    assert asked == [signal.SIGUSR2]


def test_a_job_that_is_cancelled_does_not_come_back(asked: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), turn():
        os.kill(os.getpid(), signal.SIGTERM)
    assert asked == []
    with turn():
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_other_processes_keep_their_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    before = signal.getsignal(signal.SIGUSR2)
    with turn():
        assert signal.getsignal(signal.SIGUSR2) is before


def test_submitit_runs_the_jobs_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    small = ["cache_dir=cache", "task=[qd]", *(f"data.n_{s}=4" for s in ("train", "dev", "test"))]
    words = ["build", *small, "hydra.sweep.dir=s", "hydra/launcher=submitit_local", "-m"]
    assert main([*words, "suffix=a,b", "data.n_dev=4"]) == 0
    folders = sorted(one.name for one in (tmp_path / "s").glob("[0-9]*"))
    assert folders == ["0-suffix-a", "1-suffix-b"]
    assert (tmp_path / "s/1-suffix-b/qd_dev_b.json").stat().st_size > 100
    assert "done" in (tmp_path / "s/leaderboard.md").read_text()
    logs = list((tmp_path / "s/.submitit").glob("*/*_log.out"))
    assert len(logs) == 2
    assert all("Job completed successfully" in one.read_text() for one in logs)
