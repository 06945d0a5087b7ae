"""The tables of a leaderboard as CSV."""

from __future__ import annotations

import csv

from spinevl.report.leaderboard.csv_files import csv_text, job_table, setting_table
from spinevl.report.leaderboard.rows import Row
from spinevl.report.leaderboard.settings import Board
from spinevl.schema.score import BaselineScore, Score
from spinevl.schema.task_score import Interval, TaskScore


def score(value: float) -> Score:
    control = BaselineScore(value / 2, True, None, {}, paired={})
    return Score(
        value,
        True,
        Interval(value - 0.1, value + 0.2),
        {"qd": TaskScore("f1", value)},
        n_patients=9,
        baselines={"swapped_images": control},
        notes={},
        subset="test",
    )


def test_what_users_wrote_is_no_formula() -> None:
    row = Row("=folder", 0, ("+x=1", "seed=0"), "failed", '=HYPERLINK("x")', 1.5)
    (found,) = csv.DictReader(csv_text(*job_table(Board.of([row]))).splitlines())
    assert found["folder"] == "'=folder"
    assert found["overrides"] == "'+x=1 seed=0"
    assert found["error"] == '\'=HYPERLINK("x")'
    assert found["seconds"] == "1.5"
    (found,) = csv.DictReader(csv_text(*setting_table(Board.of([row]))).splitlines())
    assert found["setting"] == "'+x=1"
    assert (found["failed"], found["done"], found["jobs"]) == ("1", "0", "1")


def test_numbers_are_unrounded_and_those_of_one_job_are_kept() -> None:
    rows = [
        Row("0", 0, ("a=1", "seed=0"), "done", None, 2.0, score(1 / 3), 0.1, tokens_per_second=7.5),
        Row("1", 1, ("a=1", "seed=1"), "done", None, 4.0, score(2 / 3), dev=0.2, identity="f"),
        Row("2", 2, ("a=1", "seed=2"), "running", None, None),
        Row("3", 3, ("a=2", "seed=0"), "done", None, 1.0, score(0.25), dev=0.05),
    ]
    board = Board.of(rows)
    first, second = csv.DictReader(csv_text(*setting_table(board)).splitlines())
    assert [first[key] for key in ("rank", "setting", "dev_score", "dev_score_n")] == [
        "1", "a=1", str(0.15000000000000002), "2"
    ]  # fmt: skip
    assert (float(first["score"]), first["subset"], first["partial"]) == (0.5, "test", "False")
    assert float(first["score_sd"]) == ((1 / 6) ** 2 * 2) ** 0.5
    assert (first["ci95_low"], second["ci95_low"]) == ("", "0.15")
    assert (first["seconds"], first["tokens_per_second"]) == ("3.0", "7.5")
    assert (first["done"], first["running"], first["jobs"]) == ("2", "1", "3")
    assert (float(first["qd"]), float(first["controls_swapped_images"])) == (0.5, 0.25)
    jobs = list(csv.DictReader(csv_text(*job_table(board)).splitlines()))
    assert [one["job"] for one in jobs] == ["0", "1", "2", "3"]
    assert jobs[0]["score"] == str(1 / 3)
    assert (jobs[0]["setting"], jobs[0]["repeat"], jobs[1]["identity"]) == ("a=1", "seed=0", "f")
    assert float(jobs[0]["controls_swapped_images"]) == 1 / 6
