"""``spinevl evaluate``: who is scored, and what is said of those who are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.config.compose import compose
from spinevl.config.tasks import official_tasks
from spinevl.evaluation.answer_files import write_predictions
from spinevl.schema.box import Box
from spinevl.schema.errors import UserError
from spinevl.schema.prediction import Prediction
from spinevl.sources.labels import VERTEBRAE
from spinevl.stages import evaluate

TASKS = official_tasks()


def scored(folder: Path, *words: str) -> dict[str, Any]:
    cfg = compose("evaluate", [f"labels={folder}/labels.json", *words])
    evaluate.main(cfg, out=folder)
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


def test_patients_without_boxes_are_told_and_unparsed_answers_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "labels.json").write_text(json.dumps([{"id": one, "sl": 0} for one in "abc"]))
    box = {vertebra: ["(1,1)(9,9)"] * 3 for vertebra in VERTEBRAE}
    (tmp_path / "boxes.json").write_text(json.dumps([{"id": one, **box} for one in "acz"]))
    given = [Prediction(one, "sl", "", (6,), 0 if one == "a" else None, None, "") for one in "abc"]
    given += [
        Prediction("a", "positioning", vertebra, (6,), None, None, "", Box(1, 1, 9, 9))
        for vertebra in VERTEBRAE
    ]
    write_predictions(tmp_path / "predictions.jsonl", given)
    words = [f"predictions={tmp_path}/predictions.jsonl", f"boxes={tmp_path}/boxes.json"]
    metrics = scored(tmp_path, "task=[sl,positioning]", *words)
    assert metrics["sl"]["unparsed"] == 2
    assert metrics["sl"]["f1"] == pytest.approx(0.5)  # one of three found, none wrongly
    boxes = metrics["positioning"]
    assert (boxes["mean_iou"], boxes["missing"], boxes["without_truth"]) == (0.5, 6, 1)
    (line,) = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert "boxes.json: no boxes of 1 of the 3 patients, first b" in line


def test_patients_whom_upstream_leaves_out_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "labels.json").write_text(json.dumps([{"id": one, "sl": 0} for one in "abc"]))
    given = [Prediction("b", "sl", "", (6,), 0, None, "B.abnormal")]
    write_predictions(tmp_path / "predictions.jsonl", given)
    words = ["task=[sl]", f"predictions={tmp_path}/predictions.jsonl", "missing=upstream"]
    metrics = scored(tmp_path, *words)
    told = f"2 patients of {tmp_path}/labels.json without answers, as missing=upstream asks"
    assert metrics["notes"]["left out"] == told
    assert f"{told}: a, c" in [one.message for one in caplog.records]


def test_a_patient_who_is_asked_and_not_answered_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps([{"id": one, "sl": 0} for one in "abc"]))
    given = [Prediction(one, "sl", "", (6,), 0, None, "B.abnormal", truth=0) for one in "abz"]
    write_predictions(tmp_path / "predictions.jsonl", given)
    with pytest.raises(UserError) as caught:
        scored(tmp_path, "task=[sl]", f"predictions={tmp_path}/predictions.jsonl")
    assert ["patient c" in one or "patient z" in one for one in caught.value.problems] == [True] * 2


def test_baselines_are_made_of_patients_who_are_not_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "labels.json").write_text(json.dumps([{"id": one, "qd": 2} for one in "ab"]))
    train = [{"id": one, "qd": 2} for one in "ab"] + [{"id": "c", "qd": 1}]
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "answers.json").write_text(json.dumps([{"id": one, "qd": 2} for one in "ab"]))
    words = ["task=[qd]", f"answers={tmp_path}/answers.json"]
    metrics = scored(tmp_path, *words, f"train_labels={tmp_path}/train.json")
    assert metrics["controls"]["all_majority"]["qd"]["f1"] == 0  # c alone has a say
    told = "made of 1 patient of train.json, without the 2 who are scored"
    assert metrics["notes"]["baselines"] == told
    assert told in caplog.text
    with pytest.raises(UserError, match=r"train_labels=.*labels\.json.*not scored.* 2 who are"):
        scored(tmp_path, *words, f"train_labels={tmp_path}/labels.json")
    assert "baselines" not in scored(tmp_path, *words)["notes"]


def test_tasks_that_are_there_and_not_scored_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    labels = [{"id": one, "qd": 2, "sl": 0, "age": 61} for one in "ab"]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    given = [Prediction(one, "qd", "", (6,), 2, None, "C") for one in "ab"]
    given += [Prediction("a", name, "", (6,), 0, None, "A") for name in ("tilt\n", "sl")]
    write_predictions(tmp_path / "predictions.jsonl", given)
    scored(tmp_path, "task=[qd]", f"predictions={tmp_path}/predictions.jsonl")
    lines = [one.message for one in caplog.records if "not scored" in one.message]
    assert [one.partition("json")[2] for one in lines] == [
        "l: not scored: tilt\\n, sl; name them in task=",
        ": not scored: sl; name them in task=",
    ]
