"""The labels of predictions.jsonl, read quickly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spinevl.evaluation.answer_files import read_predictions, write_predictions
from spinevl.evaluation.choices import read_choices
from spinevl.schema.box import Box
from spinevl.schema.errors import UserError
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

TASKS = {
    "disc": Task("disc", "disc", ["C2-C3", "C3-C4"], ["a", "b"]),
    "box": Task("box", "box", ["C2"], metric="mean_iou"),
}
GIVEN = [
    Prediction("p", "disc", "C2-C3", (5, 6), 1, {0: 0.25, 1: 0.75}, "b", truth=0),
    Prediction("p", "disc", "C3-C4", (5, 6), None, None, "?", truth=1),
    Prediction("p", "box", "C2", (6,), None, None, "", Box(1, 2, 3, 4), truth=Box(1, 2, 3, 4)),
    Prediction("p", "unknown", "", (6,), 7, None, "", truth=7),
]


def test_they_are_those_that_all_is_read_of(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.jsonl", GIVEN)
    found = read_choices(tmp_path / "p.jsonl", tasks=TASKS)
    whole = read_predictions(tmp_path / "p.jsonl", tasks=TASKS)[:2]
    assert [(one.id, one.task, one.object, one.choice) for one in found] == [
        (one.id, one.task, one.object, one.choice) for one in whole
    ]
    assert [one.truth for one in found] == [0, 1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("id", one) for one in (None, 3, ["p"])),
        *(("object", one) for one in (None, "C9", ["C2-C3"], "C3-C4")),
        *(("choice", one) for one in (2, -1, 1.0, True, "1", [1])),
        *(("truth", one) for one in (None, 2, -1, 1.0, True, [1, 2, 3, 4])),
        ("task", None),
    ],
)
def test_a_line_that_was_not_written_so_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    first, second = ({**one.to_json()} for one in GIVEN[:2])
    lines = [second, {**first, key: value}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match="line 2"):
        read_choices(tmp_path / "p.jsonl", tasks=TASKS)


def test_answers_without_the_truth_are_refused(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.jsonl", [replace(GIVEN[0], truth=None)])
    with pytest.raises(UserError, match="truth"):
        read_choices(tmp_path / "p.jsonl", tasks=TASKS)
