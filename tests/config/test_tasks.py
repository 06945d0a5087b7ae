"""Tasks are built from their nodes: those of a config and those that a checkpoint keeps."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from spinevl.checkpoints.format import Checkpoint
from spinevl.config.tasks import build_tasks, official_tasks
from spinevl.schema.errors import UserError
from spinevl.schema.task import Task

NODE: dict[str, Any] = {
    "_target_": "spinevl.schema.task.Task",
    "name": "x",
    "title": "t",
    "choices": ["A.a", "B.b"],
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "y"}, ["task.x.name", "y"]),
        ({"levels": "C2"}, ["task.x.levels"]),
        ({"choices": [1, 2]}, ["task.x.choices"]),
        ({"weight": "much"}, ["task.x.weight"]),
        ({"weight": float("nan")}, ["task.x.weight"]),
        ({"prompt": 5}, ["task.x.prompt"]),
        ({"choices": ["A.a"]}, ["task.x", "two or more"]),
        ({"wieght": 1}, ["task.x", "wieght"]),
    ],
)
def test_a_node_that_is_no_task_is_named(change: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_tasks({"x": {**NODE, **change}, "z": {**NODE, "name": "z"}})
    (line,) = caught.value.problems
    assert all(word in line for word in said)
    model: Any = None
    with pytest.raises(UserError, match=r"^study\.task\.x"):
        _ = Checkpoint(model, {}, {"task": {"x": {**NODE, **change}}}).tasks


@pytest.mark.parametrize("nodes", [["x"], "x", {"x": None}, {"x": "y"}])
def test_what_is_no_node_is_named(nodes: Any) -> None:
    with pytest.raises(UserError, match=r"^task"):
        build_tasks(nodes)


def test_tasks_of_any_kind_come_back_from_a_checkpoint() -> None:
    own = {
        "foramen": Task("foramen", "stenosis", ["C3-C4", "C4-C5"], ["A.open", "B.narrow"]),
        "lines.2-a": Task("lines.2-a", "t", (), ["A.ja", "B.nein"], "f1", positive=1, prompt="?"),
        "discs": Task("discs", "boxes", ["C2", "C3"], metric="mean_iou", loss_weight=0.5),
        **official_tasks(),
    }
    nodes = {
        name: {"_target_": "spinevl.schema.task.Task", **asdict(task)} for name, task in own.items()
    }
    stored = json.loads(json.dumps({"task": nodes}))
    model: Any = None
    assert Checkpoint(model, {}, stored).tasks == own
