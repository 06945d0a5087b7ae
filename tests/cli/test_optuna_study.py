"""Optuna as the sweeper: failed trials, a study that is reopened, and one that was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from spinevl.cli.main import main
from spinevl.schema.errors import UserError

optuna = pytest.importorskip("optuna")

WORDS = ["run", "-m", "experiment=search_rates", "data.n_train=8", "hydra.sweep.dir=s"]


class Stage:
    """In place of the training: the score is best at a learning rate of 1e-3."""

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.fail: set[int] = set()
        self.kill: set[int] = set()

    def main(self, cfg: DictConfig, *, out: Path, trust: Any) -> float:
        number = len(self.calls)
        self.calls.append(cfg.optim.lr.llm)
        if number in self.kill:
            raise KeyboardInterrupt
        if number in self.fail:
            raise UserError(f"trial {number} is bad")
        return 1 - abs(cfg.optim.lr.llm - 1e-3)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    found = Stage()
    monkeypatch.setattr("spinevl.stages.run.main", found.main)
    return found


def trials() -> list[Any]:
    return optuna.load_study(study_name="run", storage="sqlite:///s/study.db").trials


def states() -> list[str]:
    return [one.state.name for one in trials()]


def numbers() -> list[int]:
    return sorted(int(one.name.split("-")[0]) for one in Path("s").glob("[0-9]*-*"))


def test_failed_trials_do_not_end_a_study_and_the_best_is_told(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    stage.fail = {1, 3}
    assert main([*WORDS, "hydra.sweeper.n_trials=4"]) == 0
    assert states() == ["COMPLETE", "FAIL", "COMPLETE", "FAIL"]
    best = max(1 - abs(rate - 1e-3) for n, rate in enumerate(stage.calls) if n not in stage.fail)
    assert optuna.load_study(study_name="run", storage="sqlite:///s/study.db").best_value == best
    assert all(1e-5 <= rate <= 5e-3 for rate in stage.calls)
    err = capfd.readouterr().err
    assert "trial 3 is bad" in err
    assert "Traceback" not in err
    assert str(best) in Path("s/optimization_results.yaml").read_text()
    assert len(Path("s/leaderboard.csv").read_text().splitlines()) == 1 + 4


def test_a_killed_study_goes_on_to_its_number_of_trials(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    stage.fail, stage.kill = {0}, {2}
    assert main([*WORDS, "hydra.sweeper.n_trials=4"]) != 0
    assert states() == ["FAIL", "COMPLETE", "RUNNING"]
    stage.fail, stage.kill = set(), set()
    assert main([*WORDS, "hydra.sweeper.n_trials=4"]) == 0
    assert "has 2 trials; 2 are to come" in capfd.readouterr().err
    assert states() == ["FAIL", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert stage.calls[3] == stage.calls[2]  # what was cut is tried again
    assert len(set(stage.calls)) == len(stage.calls) - 1  # and nothing else
    assert numbers() == list(range(5))
    assert main([*WORDS, "hydra.sweeper.n_trials=4"]) == 0  # nothing is left
    assert len(stage.calls) == 5


def test_a_new_study_counts_from_the_first_job_again(stage: Stage) -> None:
    for folder in ("s", "t"):
        words = [*WORDS[:-1], f"hydra.sweep.dir={folder}", "hydra.sweeper.n_trials=1"]
        assert main(words) == 0
    assert numbers() == [0]
    assert stage.calls[0] == stage.calls[1]  # the seed of the sampler


@pytest.mark.parametrize(
    ("storage", "told"),
    [("redis://x/0", "hydra.sweeper.storage"), ("sqlite:////no/such/folder/x.db", "storage")],
)
def test_a_storage_that_cannot_be_used_is_a_line(
    storage: str, told: str, stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, f"hydra.sweeper.storage={storage}"]) == 1
    err = capfd.readouterr().err
    assert told in err
    assert "Traceback" not in err
    assert not stage.calls
