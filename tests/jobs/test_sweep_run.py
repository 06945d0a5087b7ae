"""The leaderboard of a sweep in W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spinevl.jobs import sweep_run
from spinevl.jobs.folder import write_config
from spinevl.report.leaderboard.rows import Row
from spinevl.report.leaderboard.settings import Board

LOGGER = {"wandb": {"project": "spine", "group": "slices", "offline": True}}


def row(number: int, *overrides: str, **told: Any) -> Row:
    return Row(f"{number}-job", number, overrides, told.pop("status", "done"),
               told.pop("error", None), 1.5, **told)  # fmt: skip


@pytest.mark.parametrize("patients", [False, True])
def test_the_board_is_a_table_of_the_group(
    tmp_path: Path, read_run: Any, monkeypatch: pytest.MonkeyPatch, patients: bool
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    error = "/secret/p17.png: expected an image"
    rows = [
        row(1, "seed=1", "data.labels=/secret/l.json", dev=0.5),
        row(0, "encoder.path='/secret/p17 x'", "seed=0", status="failed", error=error),
    ]
    monkeypatch.setattr(sweep_run, "read_board", lambda folder: Board.of(rows))
    (tmp_path / "1-job").mkdir()
    logger = {"wandb": {**LOGGER["wandb"], "patients": patients}}
    write_config(tmp_path / "1-job", {"logger": logger, "cache_dir": str(tmp_path / "cache")})
    sweep_run.log_leaderboard(tmp_path)
    run = read_run(tmp_path)
    assert (run.group, run.job_type, run.exit_code) == ("slices", "leaderboard", 0)
    told, jobs = (
        [dict(zip(table["columns"], one, strict=True)) for one in table["data"]]
        for table in map(run.table, ("leaderboard", "leaderboard_jobs"))
    )
    assert [one["rank"] for one in told] == [1, None]
    assert [(one["dev_score"], one["dev_score_n"]) for one in told] == [(0.5, 1), (None, 0)]
    assert told[0]["setting"].startswith("data.labels=")
    assert told[1]["setting"].startswith("encoder.path=")
    assert [one["status"] for one in jobs] == ["done", "failed"]
    assert jobs[0]["overrides"].startswith("seed=1 data.labels=")
    assert ("/secret" in str(told)) == patients
    assert ("/secret" in str(jobs)) == patients
    assert ("p17" in str(told)) == patients


def test_a_sweep_without_wandb_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_run, "read_board", lambda folder: Board.of([row(0)]))
    sweep_run.log_leaderboard(tmp_path)
    (tmp_path / "0-job").mkdir()
    write_config(tmp_path / "0-job", {"logger": {"wandb": None}, "cache_dir": "c"})
    sweep_run.log_leaderboard(tmp_path)
    assert not (tmp_path / "wandb").exists()
