"""What a prediction leaves in its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.inference.outputs import write_outputs
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction

TASKS = official_tasks()
PROGRESS = ".predictions.test.jsonl"


def study(*names: str) -> Any:
    """As much of a study as is asked: its tasks and one patient."""
    return SimpleNamespace(
        tasks={name: TASKS[name] for name in names},
        patients=lambda subset: (Patient("a", {"qd": 0}),),
        has_truth=lambda subset: subset == "dev",
    )


def answers(*names: str, choice: int | None = 0) -> list[Prediction]:
    return [
        Prediction("a", name, level, (6,), choice, None, "")
        for name in names
        for level in TASKS[name].objects
    ]


def test_no_submission_of_an_earlier_job_stays_beside_other_predictions(tmp_path: Path) -> None:
    graded = ("qd", "sl", "zjppt", "zyzg")
    write_outputs(study(*graded), "test", answers(*graded), out=tmp_path)
    assert (tmp_path / "answers.json").is_file()
    write_outputs(study("qd"), "test", answers("qd"), out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_progress_is_kept_until_all_is_written(tmp_path: Path) -> None:
    graded = ("qd", "sl", "zjppt", "zyzg")
    (tmp_path / PROGRESS).write_text("{}")
    with pytest.raises(UserError):
        write_outputs(study(*graded), "test", answers(*graded)[:-1], out=tmp_path)
    assert (tmp_path / PROGRESS).is_file()
    write_outputs(study(*graded), "test", answers(*graded), out=tmp_path)
    assert not (tmp_path / PROGRESS).exists()


def test_an_unparsed_answer_leaves_the_submission_out_and_a_line_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graded = ("qd", "sl", "zjppt", "zyzg")
    write_outputs(study(*graded), "test", answers(*graded), out=tmp_path)
    some = [replace(answers("qd")[0], choice=None), *answers(*graded[1:])]
    write_outputs(study(*graded), "test", some, out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]
    (line,) = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert "no answers.json: 1 answer" in line
    assert "patient a qd" in line
    assert "predict.mode=choice" in line


def test_answers_for_dev_patients_stand_beside_those_of_test_patients(tmp_path: Path) -> None:
    given = answers("qd")
    write_outputs(study("qd"), "test", given, out=tmp_path, dev=given)
    assert "truth" not in json.loads((tmp_path / "predictions.jsonl").read_text())
    assert json.loads((tmp_path / "predictions_dev.jsonl").read_text())["truth"] == 0
    (tmp_path / "predictions_dev.jsonl").unlink()
    write_outputs(study("qd"), "dev", given, out=tmp_path, dev=given)  # they are the same
    write_outputs(study("qd"), "test", given, out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_predictions_hold_the_truth_but_not_a_templates_labels(tmp_path: Path) -> None:
    for subset, truth in (("dev", {"truth": 0, "correct": True}), ("test", {})):
        write_outputs(study("qd"), subset, answers("qd"), out=tmp_path)
        line = json.loads((tmp_path / "predictions.jsonl").read_text())
        assert {key: line[key] for key in line if key in ("truth", "correct")} == truth
