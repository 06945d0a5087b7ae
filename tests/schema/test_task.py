"""What a task may be."""

from __future__ import annotations

from typing import Any

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.schema.task import Task


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\\b", "a b", 3])
def test_a_name_is_the_front_of_a_files_name(name: Any) -> None:
    with pytest.raises(ValueError, match="expected a name of letters"):
        Task(name=name, title="t", choices=("a", "b"))


def test_an_answer_is_parsed_by_its_text_alone() -> None:
    task = Task(name="foramen-2", title="t", choices=("A.open", "B.narrow"))
    assert [task.parse(text) for text in ("B.narrow", " A.open\n", "B", "")] == [1, 0, None, None]


@pytest.mark.parametrize("labels", [[], [2], [-1, 0], [0, 1]])
def test_a_finding_is_had_by_some_labels_of_the_task(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"task t: findings\.narrow=.*labels 0 to 1"):
        Task(name="t", title="t", choices=("A.open", "B.narrow"), findings={"narrow": labels})


def test_the_findings_of_the_challenge_take_alignments_label_0_as_abnormal() -> None:
    found = {name: dict(task.findings) for name, task in official_tasks().items()}
    assert found == {
        "positioning": {},
        "qd": {"abnormal": [1, 2]},
        "sl": {"abnormal": [0]},
        "zjppt": {"abnormal": [1, 2, 3], "protrusion or worse": [2, 3]},
        "zyzg": {"abnormal": [1, 2, 3], "moderate or worse": [2, 3]},
    }
