"""Score a submission, and optionally predictions with boxes, against labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from spinevl.config.conf import build_tasks
from spinevl.evaluation.answer_files import read_predictions, read_submission
from spinevl.evaluation.baselines import AllMajority, Baseline, LevelMajority
from spinevl.evaluation.evaluate import evaluate
from spinevl.report.metrics_file import write_metrics
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task
from spinevl.sources.labels import read_boxes, read_labels


def main(cfg: DictConfig, *, out: Path) -> float:
    """Write ``metrics.json``, print a table, and return the score."""
    if not cfg.labels or not (cfg.answers or cfg.predictions):
        raise UserError("evaluate needs labels=FILE and answers=FILE or predictions=FILE")
    tasks = build_tasks(cfg)
    if any(not task.closed for task in tasks.values()) and not (cfg.boxes and cfg.predictions):
        raise UserError("task positioning needs boxes=FILE and predictions=FILE")
    closed = {name: task for name, task in tasks.items() if task.closed}
    truth = read_labels(cfg.labels, tasks=closed, required=list(closed))
    if cfg.boxes:
        boxes = read_boxes(cfg.boxes)
        truth = tuple(replace(one, boxes=boxes.get(one.id)) for one in truth)
    predictions = _predictions(cfg, truth, tasks=tasks, closed=closed)
    baselines: list[Baseline] = []
    if cfg.train_labels:
        train = read_labels(cfg.train_labels, tasks=closed, required=list(closed))
        baselines = [LevelMajority(train, tasks), AllMajority(train, tasks)]
    score = evaluate(
        truth,
        predictions,
        tasks=tasks,
        baselines={one.name: one.predict(predictions) for one in baselines},
        notes={one.name: one.note for one in baselines},
    )
    return write_metrics(score, tasks, out=out)


def _predictions(
    cfg: DictConfig,
    truth: Sequence[Patient],
    *,
    tasks: Mapping[str, Task],
    closed: Mapping[str, Task],
) -> list[Prediction]:
    """The answers of both files; what is predicted may add probabilities and boxes to a submission.

    Raises:
        UserError: they disagree, or do not answer exactly the patients of ``truth``.
    """
    ids = [one.id for one in truth]
    predictions = read_predictions(cfg.predictions, tasks=tasks) if cfg.predictions else []
    if cfg.answers:
        submitted = read_submission(cfg.answers, ids=ids, tasks=closed, missing=str(cfg.missing))
        choices = {(one.id, one.task, one.object): one.choice for one in submitted}
        if any(
            choices.get((one.id, one.task, one.object), one.choice) != one.choice
            for one in predictions
        ):
            raise UserError(
                f"{cfg.predictions} and {cfg.answers} disagree; give files of the same prediction"
            )
        answered = {one.id for one in submitted}
        return submitted + [one for one in predictions if one.id in answered or not closed]
    answered = {one.id for one in predictions if one.task in (closed or tasks)}
    absent = [one for one in ids if one not in answered]
    surplus = sorted(answered - set(ids))
    if (absent or surplus) and str(cfg.missing) == "error":
        raise UserError(
            [f"{cfg.predictions}: patient {one}: no prediction; predict it" for one in absent]
            + [f"{cfg.predictions}: patient {one}: has no labels; drop it" for one in surplus]
        )
    return predictions
