"""Sweeps: a folder a job, a leaderboard that grows, failures that stop nobody."""

from __future__ import annotations

import csv
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from spinevl.cli.job import clean_slate
from spinevl.cli.main import main
from spinevl.jobs.status import JobStatus, read_status, write_status
from spinevl.jobs.sweep import read_rows, write_leaderboard
from spinevl.report.leaderboard import Spread, markdown, plot, table
from spinevl.schema.score import Score
from spinevl.schema.task_score import Interval, TaskScore


def labels(shift: int, count: int = 8) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{i:04d}",
            "qd": (i + shift) % 3,
            "sl": i % 2,
            "zjppt": [(i + k + shift) % 4 for k in range(5)],
            "zyzg": [(i * k) % 4 for k in range(11)],
        }
        for i in range(count)
    ]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, shift, count in (("labels", 0, 8), ("good", 0, 8), ("bad", 1, 8), ("short", 0, 5)):
        (tmp_path / f"{name}.json").write_text(json.dumps(labels(shift, count)))
    return tmp_path


@pytest.mark.parametrize(
    "launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]], ids=["basic", "joblib"]
)
def test_a_sweep_goes_on_after_a_failure_and_ranks_the_rest(
    here: Path, capfd: pytest.CaptureFixture[str], launcher: list[str]
) -> None:
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = ["evaluate", "-m", "labels=labels.json", "answers=bad.json,short.json,good.json"]
    assert main([*command, *launcher, "hydra.sweep.dir=sweep"]) == 1
    if launcher:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()  # its processes would keep this working directory
    out, err = capfd.readouterr()
    scores = [line for line in out.splitlines() if "this model" in line]
    assert len(scores) == 2
    assert {line[:3] for line in scores} == ({"#0 ", "#2 "} if launcher else {"thi"})
    assert "Traceback" not in err
    assert "spinevl: a job of the sweep failed, see sweep/leaderboard.md" in err

    with (here / "sweep" / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == ["2", "0", "1"]
    assert [row["status"] for row in rows] == ["done", "done", "failed"]
    assert float(rows[0]["score"]) == 1.0
    assert rows[0]["folder"] == "2-answers-good.json"
    assert "0005" in rows[2]["error"]
    assert "**failed: " in (here / "sweep" / "leaderboard.md").read_text()
    assert (here / "sweep" / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    assert (here / "sweep" / rows[2]["folder"] / ".hydra" / "config.yaml").is_file()


def job(
    sweep: Path, number: int, overrides: list[str], *, metrics: Any = None, status: str = "done"
) -> Path:
    """A job folder as a job leaves it."""
    folder = sweep / f"{number}-job"
    write_status(folder, JobStatus(number, tuple(overrides), status, seconds=1.0))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def scored(value: float, *, complete: bool = True) -> dict[str, Any]:
    tasks = {
        "qd": TaskScore("f1", value, Interval(0, 1), levels={}),
        "positioning": TaskScore("mean_iou", 0.5),
    }
    if not complete:
        del tasks["positioning"]
    ci95 = Interval(value - 0.1, value + 0.1)
    score = Score(value, complete, ci95, tasks, n_patients=8, baselines={}, notes={})
    return score.to_json()


def test_rows_are_ranked_and_spread_over_seeds(tmp_path: Path) -> None:
    job(tmp_path, 0, ["sag_image=[6]", "++seed=0"], metrics=scored(0.4))
    job(tmp_path, 1, ["sag_image=[6]", "+seed=1"], metrics=scored(0.6))
    job(tmp_path, 2, ["sag_image=[5,6]", "seed=0"], metrics=scored(0.55))
    job(tmp_path, 3, ["sag_image=[5,6]", "seed=1"], status="running")
    job(tmp_path, 4, ["task=[qd]"], metrics=scored(0.9, complete=False))
    job(tmp_path, 5, ["seed=9"], metrics="not an object")
    rows = read_rows(tmp_path)
    # a score over fewer tasks never outranks a full one
    assert [row.number for row in rows] == [1, 2, 0, 4, 3, 5]
    # sample standard deviation of 0.4 and 0.6
    assert rows[0].over_seeds == Spread(0.5, pytest.approx(0.02**0.5), 2)
    assert rows[1].over_seeds == Spread(0.55, None, 1)
    assert rows[0].tasks == {"qd": 0.6, "positioning": 0.5}
    text = markdown(rows)
    assert "| 1 | 0.600 | 0.500 to 0.700 | 0.500 ± 0.141 (n=2) | 0.600 | 0.500 |" in text
    assert "| 0.900 (partial) |" in text


def test_overrides_that_all_jobs_share_stand_on_top_once(tmp_path: Path) -> None:
    job(tmp_path, 0, ["data=phantom", "seed=0"], metrics=scored(0.4))
    job(tmp_path, 1, ["data=phantom", "seed=1"], metrics=scored(0.5))
    text = markdown(read_rows(tmp_path))
    assert text.count("data=phantom") == 1
    assert "All with `data=phantom`." in text
    assert "| `seed=1` | 1-job | done |" in text


def trained(folder: Path, dev: Any, *, measure: str = "dev score") -> None:
    (folder / "train.json").write_text(json.dumps({"dev_score": dev, "dev_measure": measure}))


def test_jobs_are_ranked_by_dev_with_test_beside_it(tmp_path: Path) -> None:
    # the best on test is the worst on dev
    for number, (seed, dev, test) in enumerate(
        [(0, 0.5, 0.9), (1, 0.5, 0.2), (0, 0.75, 0.25), (1, 0.25, 0.95)]
    ):
        overrides = [f"sag_image=[{6 + number // 2}]", f"seed={seed}"]
        metrics = {**scored(test), "subset": "test"}
        trained(job(tmp_path, number, overrides, metrics=metrics), dev)
    rows = read_rows(tmp_path)
    assert [row.number for row in rows] == [2, 0, 1, 3]
    assert rows[0].over_seeds == Spread(0.5, pytest.approx(0.125**0.5), 2)
    assert rows[0].score_over_seeds == Spread(0.6, pytest.approx(0.245**0.5), 2)
    text = markdown(rows)
    assert "| rank | dev score | over seeds | test score | 95 % | over seeds |" in text
    assert (
        "| 1 | 0.750 | 0.500 ± 0.354 (n=2) | 0.250 | 0.150 to 0.350 | 0.600 ± 0.495 (n=2) |" in text
    )
    assert [line.split("|")[1].strip() for line in text.splitlines()[-4:]] == ["1", "2", "2", "4"]
    line = next(csv.DictReader(table(rows).splitlines()))
    assert (line["dev_score"], line["score"], line["mean"]) == ("0.75", "0.25", "0.5")
    assert plot(rows).startswith(b"\x89PNG")


def test_a_test_score_without_a_dev_score_is_shown_and_not_ranked(tmp_path: Path) -> None:
    for number, dev in enumerate((None, "high", True, 0.25)):
        metrics = {**scored(0.9), "subset": "test"}
        trained(job(tmp_path, number, [f"a={number}"], metrics=metrics), dev)
    rows = read_rows(tmp_path)
    assert [(row.number, row.value, row.scored) for row in rows] == [
        (3, 0.25, 0.9), (0, None, 0.9), (1, None, 0.9), (2, None, 0.9)
    ]  # fmt: skip
    assert "|  |  |  | 0.900 |" in markdown(rows)
    assert "subset=dev" in markdown(rows)
    assert "subset=dev" not in markdown(rows[:1])


def test_trainings_alone_are_ranked_too(tmp_path: Path) -> None:
    trained(job(tmp_path, 0, ["task=[qd]"]), 0.9, measure="partial dev score")
    trained(job(tmp_path, 1, []), 0.5)
    trained(job(tmp_path, 2, ["data=conversations"]), -1.5, measure="dev log-probability a token")
    assert [row.number for row in read_rows(tmp_path)] == [1, 2, 0]
    assert plot(read_rows(tmp_path)).startswith(b"\x89PNG")


@pytest.mark.parametrize("file", ["job.json", "metrics.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"number": "x"}', "[" * 100_000, "\x00"])
def test_a_job_that_cannot_be_read_hides_no_other(tmp_path: Path, file: str, text: str) -> None:
    job(tmp_path, 0, ["a=1"], metrics=scored(0.5))
    (job(tmp_path, 1, ["a=2"], metrics=scored(0.9)) / file).write_text(text)
    write_leaderboard(tmp_path)
    assert [row.status for row in read_rows(tmp_path)] == ["done", "unreadable"]
    board = (tmp_path / "leaderboard.md").read_text()
    assert f"**unreadable: {file}" in board
    assert "1 done" in board
    assert "1 unreadable" in board


def test_a_board_of_partial_scores_says_so(tmp_path: Path) -> None:
    job(tmp_path, 0, [], metrics=scored(0.5, complete=False))
    write_leaderboard(tmp_path)
    assert "| rank | partial_score |" in (tmp_path / "leaderboard.md").read_text()
    header, row = (tmp_path / "leaderboard.csv").read_text().splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["partial_score"] == "0.5"


def test_a_status_is_read_as_written_and_what_is_none_is_none(tmp_path: Path) -> None:
    status = JobStatus(3, ("seed=1", "name='ä'"), "failed", error="no such file", seconds=0.5)
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert list(json.loads((tmp_path / "job.json").read_text()))[:5] == [
        "number", "overrides", "status", "error", "seconds"
    ]  # fmt: skip
    for text in ("", "[]", "{}", '{"overrides": []}', '{"number": 0, "overrides": 3}'):
        (tmp_path / "job.json").write_text(text)
        assert read_status(tmp_path) is None


def test_a_job_leaves_nothing_behind(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    before = dict(os.environ), Path.cwd(), random.getstate()
    with clean_slate():
        os.environ["PL_GLOBAL_SEED"] = "7"
        os.chdir(tmp_path)
        random.seed(1)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_grad_enabled(False)
    assert (dict(os.environ), Path.cwd(), random.getstate()) == before
    assert torch.get_default_dtype() == torch.float32
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()
