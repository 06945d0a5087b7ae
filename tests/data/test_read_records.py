"""Record files that are not as build writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.data.records import read_records
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import StudyLayout

TASK = official_tasks()["zjppt"]
GOOD: dict[str, Any] = {
    "id": "p1",
    "task": "zjppt",
    "image": ["/x/p1/sag/6.png", "/x/p1/tra/2-3.png"],
    "object": "C2-C3",
    "answer": TASK.choices[1],
    "conversations": [{"from": "human", "value": "<image><image>Disc C2-C3?"}],
}


def read(folder: Path, *records: dict[str, Any]) -> int:
    (folder / "zjppt_train.json").write_text(json.dumps(records))
    found = read_records(folder / "zjppt_train.json", task=TASK, layout=StudyLayout())
    return len(found)


def test_a_good_record_is_read(tmp_path: Path) -> None:
    other = {**GOOD, "object": "C3-C4", "image": ["/x/p1/sag/6.png", "/x/p1/tra/3-4.png"]}
    assert read(tmp_path, GOOD, other, {**other, "image": ["/x/p1/sag/5.png"]}) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": 0}, "answer: expected a string or null, found an integer, 0"),
        ({"id": 3}, "id: expected a string, found an integer, 3"),
        ({"conversations": [{"from": "human", "value": None}]}, "value: expected a string"),
        ({"object": "C9"}, "found 'C9'"),
        ({"object": ["C2-C3"]}, "object: expected a string, found a list"),
        ({"image": []}, "image: expected one image at least"),
        ({"image": ["/x/p2/sag/6.png"]}, "images of p1 alone, found /x/p2/sag/6.png"),
        ({"image": ["/x\0/p1/sag/6.png"]}, "found '/x\\x00/p1/sag/6.png'"),
        ({"image": ["/x/p1/sag/6.png\n"]}, "found '/x/p1/sag/6.png\\n'"),
        ({"image": "/x/p1/sag/6.png"}, "image: expected a list, found a string"),
        ({"conversations": "Q"}, "conversations: expected a list, found a string"),
        ({}, "that of an earlier record"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, GOOD, {**GOOD, **change})
    (line,) = caught.value.problems
    assert "zjppt_train.json: record 2" in line
    assert said in line
