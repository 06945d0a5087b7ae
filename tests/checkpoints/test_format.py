"""What a checkpoint says of its tasks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from spinevl.build.allowlist import Allowed
from spinevl.checkpoints.format import Checkpoint
from spinevl.schema.errors import UserError


def test_a_task_of_the_users_own_is_built_where_they_allow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_task.py").write_text(
        "from spinevl.schema.task import Task\nclass Own(Task): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "own_task.Own", "name": "x", "title": "t", "choices": ["A.a", "B.b"]}
    model: Any = None
    stored = Checkpoint(model, {}, {"task": {"x": node}})
    with pytest.raises(UserError, match=r"^study\.task\.x: _target_ own_task\.Own is not allowed"):
        _ = stored.tasks
    assert "own_task" not in sys.modules
    told = Checkpoint(model, {}, {"task": {"x": node}}, allowed=Allowed(("own_task",)))
    assert type(told.tasks["x"]).__name__ == "Own"
