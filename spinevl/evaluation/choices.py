"""The labels in ``predictions.jsonl``, read quickly: a leaderboard reads those of all its jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinevl.io.json_file import field, read_json_lines
from spinevl.schema.errors import Problems, refused
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

_AGAIN = "mend the line or predict again"


def read_choices(path: str | Path, *, tasks: Mapping[str, Task]) -> list[Prediction]:
    """The labels that ``predictions.jsonl`` gives to the questions of closed tasks, with the truth.

    Nothing else of its lines is read, which takes a fraction of the time of read_predictions.

    Raises:
        UserError: naming the first bad line, such as one without the truth.
    """
    problems = Problems()
    result: dict[tuple[str, str, str], Prediction] = {}
    lines = read_json_lines(path, expected="a prediction", fix=_AGAIN, problems=problems)
    for where, entry in lines:
        name = field(entry, "task", str, where=where, fix=_AGAIN)
        if not (task := tasks.get(name)) or not task.closed:
            continue
        question: tuple[Any, str, Any] = entry.get("id"), name, entry.get("object")
        choice, truth = entry.get("choice"), entry.get("truth")
        labels = range(len(task.choices))
        known = type(truth) is int and truth in labels
        parsed = choice is None or (type(choice) is int and choice in labels)
        if not isinstance(question[0], str) or question[2] not in task.objects:
            raise refused(where, "a patient and a level of the task", repr(question), _AGAIN)
        if not known or not parsed:
            wanted = f"choice and truth among the labels 0 to {labels[-1]}"
            raise refused(where, wanted, f"{choice!r} and {truth!r}", _AGAIN)
        if question in result:
            raise refused(where, "a question of its own", "one of an earlier line", "drop one")
        result[question] = Prediction(*question, (), choice, None, "", truth=truth)
    problems.raise_any()
    return list(result.values())
