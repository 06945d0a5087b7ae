"""Score a submission, and optionally predictions with boxes, against labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.config.conf import build_tasks
from spinevl.evaluation.baselines import all_majority, level_majority
from spinevl.evaluation.evaluate import evaluate
from spinevl.evaluation.join import Answers, answers_of, read_answers, read_predictions
from spinevl.io.files import write_text_atomic
from spinevl.report.markdown import as_text, rows
from spinevl.schema.errors import UserError
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
    ids = [one.id for one in truth]
    predictions = read_predictions(cfg.predictions, tasks=tasks) if cfg.predictions else []
    if cfg.answers:
        answers: Answers = read_answers(
            cfg.answers, ids=ids, tasks=closed, missing=str(cfg.missing)
        )
        if predictions and any(
            answers[one][name] != values
            for one, given in answers_of(predictions, closed).items()
            for name, values in given.items()
            if one in answers
        ):
            raise UserError(
                f"{cfg.predictions} and {cfg.answers} disagree; give files of the same prediction"
            )
    else:
        answers = answers_of(predictions, closed)
        absent = [one for one in ids if one not in answers]
        surplus = sorted(set(answers) - set(ids))
        if (absent or surplus) and str(cfg.missing) == "error":
            raise UserError(
                [f"{cfg.predictions}: patient {one}: no prediction; predict it" for one in absent]
                + [f"{cfg.predictions}: patient {one}: has no labels; drop it" for one in surplus]
            )
    controls: dict[str, Answers] = {}
    if cfg.train_labels:
        train = read_labels(cfg.train_labels, tasks=closed, required=list(closed))
        controls["level_majority"] = level_majority(train, ids, closed)
        controls["all_majority"] = all_majority(train, ids, closed)
    metrics = evaluate(truth, answers, tasks=tasks, controls=controls, predictions=predictions)
    return write_metrics(metrics, tasks, out=out)


def write_metrics(metrics: Mapping[str, Any], tasks: Mapping[str, Task], *, out: Path) -> float:
    """Write ``metrics.json``, print the table, and return the score or the partial score."""
    write_text_atomic(out / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False))
    print(as_text(rows(metrics, tasks)))
    for value in (metrics["score"], metrics.get("partial_score")):
        if value is not None:
            return float(value)
    first = metrics[next(iter(tasks))]  # boxes alone, or a task without weight
    return float(first.get("f1") or first.get("mean_iou") or 0.0)
