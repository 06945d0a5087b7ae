"""``metrics.json``: written by the jobs that score, read by leaderboards and model cards."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spinevl.config.options import Subset
from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object
from spinevl.report.markdown import as_text, rows
from spinevl.schema.errors import UserError
from spinevl.schema.score import AnswerScore, Score
from spinevl.schema.task import Task
from spinevl.schema.task_score import TaskScore

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
TRAIN_FILE = "train.json"
CURVE_FILE = "metrics.csv"
STATES_FOLDER = "resume"
KEPT_FOLDER = "checkpoints"


def write_metrics(score: Score, tasks: Mapping[str, Task], *, out: Path) -> float | None:
    """Write ``metrics.json`` and print its table.

    Returns:
        What a sweep compares: the total, or the first task's score where no task is graded; None
        where that could not be scored.
    """
    write_text_atomic(out / METRICS_FILE, json.dumps(score.to_json(), indent=2, ensure_ascii=False))
    print(as_text(rows(score, tasks)))
    for note in notes_of_tasks(score, tasks):
        print(note)
    if score.value is not None and score.ci95 is None and "ci95" in score.notes:
        print(f"95 % intervals: {score.notes['ci95']}")
    log.info("metrics: %s", out / METRICS_FILE)
    if score.value is not None:
        return score.value
    return score.tasks[next(iter(tasks))].value


def notes_of_tasks(score: Score, tasks: Mapping[str, Task]) -> list[str]:
    """What the scores of single tasks cannot show."""
    return [score.notes[name] for name in tasks if name in score.notes]


def read_metrics(folder: Path) -> Score | None:
    """The score in a job's folder; None where ``metrics.json`` is absent or not ours."""
    try:
        score = Score.from_json(read_json_object(folder / METRICS_FILE))
        numbers = all(_finite(one) is not None for one in _numbers(score))
    except (UserError, KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return None
    return score if numbers and score.subset in (None, *Subset) else None


def _numbers(score: Score) -> Iterator[Any]:
    """The scores of the model and the baselines, with their intervals."""
    for entry in score.entries.values():
        every: list[AnswerScore | TaskScore] = [entry, *entry.tasks.values()]
        for one in every:
            yield from () if one.value is None else (one.value,)
            yield from one.ci95.to_json() if one.ci95 else ()


def read_training(folder: Path) -> dict[str, Any]:
    """``train.json`` in a job's folder; empty where it is absent or not ours."""
    try:
        return read_json_object(folder / TRAIN_FILE)
    except UserError:
        return {}


def read_dev_score(folder: Path) -> tuple[float | None, bool]:
    """The dev score of the training in a job's folder, and whether graded tasks are missing.

    The score is None where ``train.json`` is absent, not ours, or of a training without dev.
    """
    content = read_training(folder)
    return _finite(content.get("dev_score")), content.get("dev_measure") == "partial dev score"


def read_speed(folder: Path) -> float | None:
    """The tokens a second of the training in a job's folder; None where it does not say."""
    return _finite(read_training(folder).get("tokens_per_second"))


def _finite(value: Any) -> float | None:
    """A number of a file; None for anything else."""
    return value if type(value) in (int, float) and math.isfinite(value) else None


def was_tried(folder: Path) -> bool:
    """Whether the training in a job's folder was only tried (``debug=``)."""
    return bool(read_training(folder).get("debug"))
