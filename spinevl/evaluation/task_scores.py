"""The score of one task, with its distribution over resampled patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spinevl.evaluation.bootstrap import MIN_PATIENTS, Bootstrap, interval
from spinevl.evaluation.join import Rows
from spinevl.evaluation.metrics import (
    Confusion,
    box_overlaps,
    calibration,
    class_f1,
    finding,
    quadratic_kappa,
    task_f1,
)
from spinevl.schema.task import Task
from spinevl.schema.task_score import ClassScore, LevelScore, TaskScore


def answers_score(
    rows: Rows, task: Task, bootstrap: Bootstrap, *, detailed: bool
) -> tuple[TaskScore, np.ndarray]:
    """A closed task: F1 and each level's scores, and the distribution of F1 [1 + resamples].

    Args:
        rows: answers joined with their truth, which must be known.
        task: the task.
        bootstrap: of the patients of ``rows``.
        detailed: whether to add classes, confusion matrix, kappa, calibration and findings.
    """
    confusion = Confusion.of(rows, task)
    values = task_f1(bootstrap.sums(confusion.by_patient()), task)
    levels = {
        name: LevelScore(f1=float(task_f1(at, task)), accuracy=float(np.trace(at) / at.sum()))
        for name, at in zip(task.levels, confusion.by_question(), strict=False)
    }
    score = TaskScore("f1", float(values[0]), interval(values), levels=levels)
    return (_detailed(score, confusion, rows, task) if detailed else score), values


def _detailed(score: TaskScore, confusion: Confusion, rows: Rows, task: Task) -> TaskScore:
    counts = confusion.total()
    size = len(confusion.labels)
    square = counts[:, :size]
    classes = _classes(confusion, counts, task)
    recalls = [one.recall for one in classes if one.recall is not None]
    error, log_loss, bins = calibration(rows)
    return replace(
        score,
        accuracy=float(np.trace(square) / counts.sum()),
        balanced_accuracy=float(np.mean(recalls)) if recalls else None,
        quadratic_kappa=quadratic_kappa(counts),
        classes=classes,
        confusion=tuple(map(tuple, square.astype(int).tolist())),
        unparsed=int(counts[:, size].sum()),
        unparsed_by_class=tuple(counts[:, size].astype(int).tolist()),
        calibration_error=error,
        log_loss=log_loss,
        calibration_bins=bins,
        findings={name: finding(counts, labels) for name, labels in task.findings.items()} or None,
    )


def _classes(confusion: Confusion, counts: np.ndarray, task: Task) -> tuple[ClassScore, ...]:
    square = counts[:, : len(confusion.labels)]
    f1, present = class_f1(counts)
    support = counts.sum(axis=1)
    return tuple(
        ClassScore(
            label=label,
            answer=task.choices[label] if 0 <= label < len(task.choices) else None,
            f1=float(f1[k]) if present[k] else None,
            precision=float(square[k, k] / square[:, k].sum()) if square[:, k].any() else None,
            recall=float(square[k, k] / support[k]) if support[k] else None,
            support=int(support[k]),
        )
        for k, label in enumerate(confusion.labels)
    )


def patients_by_label(rows: Rows, task: Task) -> list[int]:
    """How many patients have each label at any level."""
    have = [{one.truth for one in row} for row in rows]
    return [sum(label in labels for labels in have) for label in range(len(task.choices))]


def boxes_score(
    rows: Rows, task: Task, bootstrap: Bootstrap, *, missing: int
) -> tuple[TaskScore, np.ndarray | None]:
    """A task of boxes: mean IoU and its distribution; None where no true box is known.

    Args:
        rows: a prediction for each true box, see missing_boxes, joined with the truth.
        task: the task.
        bootstrap: of the patients of ``rows``; those without true boxes are counted and left out.
        missing: how many of the predictions are missing_boxes.
    """
    sums, numbers, levels = box_overlaps(rows, task)
    boxed = int((numbers > 0).sum())
    if not boxed:
        return TaskScore("mean_iou", None), None
    totals = bootstrap.sums(numbers)
    means = np.divide(bootstrap.sums(sums), totals, out=np.zeros(len(totals)), where=totals > 0)
    if boxed < MIN_PATIENTS:
        means = means[:1]
    score = TaskScore(
        "mean_iou",
        float(means[0]),
        interval(means),
        levels={name: LevelScore(mean_iou=value) for name, value in levels.items()},
        unparsed=sum(one.box is None for row in rows for one in row) - missing,
        missing=missing or None,
        without_truth=len(rows) - boxed or None,
    )
    return score, means
