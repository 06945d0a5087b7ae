"""Submissions and predictions.jsonl: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.evaluation.answer_files import (
    read_predictions,
    read_submission,
    write_predictions,
    write_submission,
)
from spinevl.evaluation.evaluate import evaluate
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.sources.labels import read_labels

GRADED = {name: task for name, task in official_tasks().items() if task.closed}
ENTRY = {"id": "a", "qd": 0, "sl": 0, "zjppt": [0] * 5, "zyzg": [0] * 11}


def test_strict_reading_names_missing_and_surplus_patients(shared: Path) -> None:
    people = read_labels(shared / "cervai/labels_train.json", tasks=GRADED, required=GRADED)
    file = shared / "goldens/evaluate/p09_extra_patients_and_missing.json"
    with pytest.raises(UserError) as caught:
        read_submission(file, ids=[p.id for p in people], tasks=GRADED)
    (line,) = caught.value.problems
    assert str(file) in line
    assert f"each of {len(people)} patients" in line
    assert "20 others (" in line


def test_of_a_repeated_patient_the_challenge_takes_the_last(tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    file.write_text(json.dumps([ENTRY, {**ENTRY, "qd": 2}]))
    answers = read_submission(file, ids=["a"], tasks=GRADED, missing="upstream")
    assert [one.choice for one in answers if one.task == "qd"] == [2]
    with pytest.raises(UserError, match="expected one record, found another"):
        read_submission(file, ids=["a"], tasks=GRADED)


def test_integers_out_of_range_stand_where_upstream_lets_them(tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    file.write_text(json.dumps([{**ENTRY, "qd": 7, "zjppt": [0, -1, 0, 0, 0]}]))
    answers = read_submission(file, ids=["a"], tasks=GRADED, missing="upstream")
    assert [(one.choice, one.text) for one in answers][:4] == [
        (7, ""), (0, "B.abnormal"), (0, "A.normal"), (-1, "")
    ]  # fmt: skip
    with pytest.raises(UserError, match="integers 0 to 2"):
        read_submission(file, ids=["a"], tasks=GRADED)


def test_a_submission_is_written_as_it_was_read(tmp_path: Path) -> None:
    file, copy = tmp_path / "answers.json", tmp_path / "copy.json"
    file.write_text(json.dumps([{**ENTRY, "id": one, "qd": 2} for one in "ba"], indent=4))
    answers = read_submission(file, ids=["a", "b"], tasks=GRADED)
    write_submission(copy, answers, ids=["b", "a"], tasks=GRADED)
    assert copy.read_bytes() == file.read_bytes()
    with pytest.raises(UserError, match="patient c"):
        write_submission(copy, answers, ids=["c"], tasks=GRADED)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choice": 1}, "choice: expected the most probable label, 0, found 1"),
        ({"choice": None}, "choice: expected the most probable label, 0, found None"),
        ({"choice": 7}, "choice: expected a label of qd, 0 to 2"),
        (
            {"probabilities": {"0": 0.5, "1": 0.5}},
            "probabilities: expected one for each label, 0 to 2",
        ),
        ({"probabilities": {"0": 1.5, "1": -0.5, "2": 0.0}}, "between 0 and 1"),
        ({"object": "C9"}, "found 'C9'"),
        ({"id": 3}, "id: expected a string, found an integer, 3"),
        (
            {"probabilities": [0.5, 0.5]},
            "probabilities: expected an object or null, found a list, [0.5, 0.5]",
        ),
        ({"slices": 6}, "slices: expected a list, found an integer, 6"),
        ({"slices": [6.0]}, "found [6.0]"),
        ({"text": None}, "text: expected a string, found null"),
        ({"choice": True}, "choice: expected an integer or null, found a truth value"),
        ({"box": [1, 2, 3]}, "box: expected [x1, y1, x2, y2]"),
        ({"box": {"x1": 1}}, "box: expected a list or null, found an object"),
        ({"task": ["qd"]}, "task: expected a string, found a list"),
    ],
)
def test_a_bad_prediction_names_its_line(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    good = {
        "id": "a",
        "task": "qd",
        "object": "",
        "slices": [6],
        "choice": 0,
        "probabilities": {"0": 1.0, "1": 0.0, "2": 0.0},
        "text": "A.normal curvature",
        "box": None,
    }
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps({**good, "id": "b", **change}) + "\n")
    with pytest.raises(UserError) as caught:
        read_predictions(file, tasks=GRADED)
    (line,) = caught.value.problems
    assert "line 2" in line
    assert said in line
    file.write_text(2 * (json.dumps(good) + "\n"))
    with pytest.raises(UserError, match="earlier line"):
        read_predictions(file, tasks=GRADED)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"predictions\.jsonl: expected"):
        read_predictions(file, tasks=GRADED)
    odd = {**good, "text": "A\u2028normal\u0085"}
    file.write_text(json.dumps(odd, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [one.text for one in read_predictions(file, tasks=GRADED)] == [odd["text"]]
    file.write_text(json.dumps(good) + "\n")
    write_predictions(tmp_path / "copy.jsonl", read_predictions(file, tasks=GRADED))
    assert (tmp_path / "copy.jsonl").read_bytes() == file.read_bytes()


def test_the_truth_in_a_file_of_predictions_is_never_scored(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    tasks = {"qd": GRADED["qd"]}
    given = [Prediction("a", "qd", "", (6,), 2, None, "C.reverse curvature", truth=2)]
    write_predictions(file, given)
    line = json.loads(file.read_text())
    assert (line["truth"], line["correct"]) == (2, True)
    (read,) = read_predictions(file, tasks=tasks)
    assert (read.truth, read.correct) == (None, None)
    assert evaluate([Patient("a", {"qd": 1})], [read], tasks=tasks).value == 0
    with pytest.raises(UserError, match="no labelled patient"):
        evaluate([Patient("b", {"qd": 1})], [read], tasks=tasks)
