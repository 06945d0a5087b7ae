"""Answers from predictions and submissions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spinevl.config.conf import official_tasks
from spinevl.evaluation.evaluate import evaluate
from spinevl.evaluation.join import answers_of, read_answers
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction

TASKS = official_tasks()
CLOSED = {name: task for name, task in TASKS.items() if task.closed}


def test_predictions_of_other_tasks_are_passed_over() -> None:
    given = [
        Prediction("a", "qd", "", (6,), 2, None, ""),
        Prediction("a", "positioning", "C2", (6,), None, None, "", None),
    ]
    assert answers_of(given, {"qd": TASKS["qd"]}) == {"a": {"qd": (2,)}}


def test_a_question_without_an_answer_is_named() -> None:
    given = [Prediction("a", "zjppt", name, (6,), 0, None, "") for name in ("C2-C3", "C3-C4")]
    with pytest.raises(UserError, match="C4-C5"):
        answers_of(given, {"zjppt": TASKS["zjppt"]})


def test_of_a_repeated_patient_the_challenge_takes_the_last(tmp_path: Path) -> None:
    entry = {"id": "a", "qd": 0, "sl": 0, "zjppt": [0] * 5, "zyzg": [0] * 11}
    file = tmp_path / "answers.json"
    file.write_text(json.dumps([entry, {**entry, "qd": 2}]))
    answers = read_answers(file, ids=["a"], tasks=CLOSED, missing="upstream")
    assert answers["a"]["qd"] == (2,)
    with pytest.raises(UserError, match="expected one record, found another"):
        read_answers(file, ids=["a"], tasks=CLOSED)


def test_unparsed_answers_are_counted_by_their_true_class() -> None:
    truth = [Patient(name, {"qd": label}) for name, label in zip("abcd", (0, 1, 1, 2), strict=True)]
    answers = {"a": {"qd": (0,)}, "b": {"qd": (None,)}, "c": {"qd": (1,)}, "d": {"qd": (None,)}}
    metrics = evaluate(truth, answers, tasks={"qd": TASKS["qd"]}, n_resamples=2)
    assert metrics["qd"]["unparsed_by_class"] == [0, 1, 1]
    assert metrics["qd"]["unparsed"] == 2
    assert metrics["qd"]["classes"][1]["recall"] == 0.5
