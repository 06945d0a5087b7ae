"""Scores from confusion counts, exact and fast enough to resample thousands of times.

Every score here is a function of confusion counts summed over patients, so a bootstrap resample
of patients is one matrix product. The definitions are scikit-learn's: macro-F1 over the labels
present in truth or prediction, zero division 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spinevl.schema.box import Box
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

Labels = Mapping[str, Mapping[str, Sequence[int | None]]]


@dataclass(frozen=True)
class Confusion:
    """Counts of one task, apart for each patient.

    Attributes:
        labels: what the rows and columns stand for.
        counts: [patients, truth, prediction]; the last column holds unparsed answers, which match
            no truth and are no label of their own.
    """

    labels: tuple[int, ...]
    counts: np.ndarray

    @classmethod
    def of(
        cls,
        truth: Labels,
        answers: Labels,
        task: Task,
        *,
        ids: Sequence[str],
        level: int | None = None,
    ) -> Confusion:
        """The counts of ``ids``; of one level where given."""
        pairs = [
            [
                (t, a)
                for k, (t, a) in enumerate(
                    zip(truth[i][task.name], answers[i][task.name], strict=True)
                )
                if level is None or k == level
            ]
            for i in ids
        ]
        surplus = {a for row in pairs for _, a in row if a is not None} - set(
            range(len(task.choices))
        )
        labels = (*range(len(task.choices)), *sorted(surplus))
        place: dict[int | None, int] = {label: k for k, label in enumerate(labels)}
        place[None] = len(labels)
        counts = np.zeros((len(ids), len(labels), len(labels) + 1))
        for patient, row in enumerate(pairs):
            for t, a in row:
                counts[patient, place[t], place[a]] += 1
        return cls(labels, counts)


def class_f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 of each label and whether it occurs in truth or prediction.

    Args:
        counts: [..., K, K + 1] summed confusion counts.

    Returns:
        F1 [..., K] and presence [..., K].
    """
    size = counts.shape[-2]
    hits = np.diagonal(counts[..., :size], axis1=-2, axis2=-1)
    total = counts.sum(axis=-1) + counts[..., :size].sum(axis=-2)
    f1 = np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
    return f1, total > 0


def task_f1(counts: np.ndarray, task: Task) -> np.ndarray:
    """The task's F1 from counts [..., K, K + 1]: macro, or of its positive class."""
    f1, present = class_f1(counts)
    if task.metric == "f1":
        assert task.positive is not None
        return f1[..., task.positive]
    return (f1 * present).sum(-1) / np.maximum(present.sum(-1), 1)


def combine(values: Mapping[str, Any], tasks: Mapping[str, Task]) -> tuple[Any, bool]:
    """The weighted score of the graded tasks, and whether it is the official, complete one."""
    graded = [task for task in tasks.values() if task.weight > 0]
    weight = sum(task.weight for task in graded)
    if not graded:
        return None, False
    total = sum(task.weight * values[task.name] for task in graded)
    complete = abs(weight - 1) < 1e-9
    return (total if complete else total / weight), complete


def point_score(truth: Labels, answers: Labels, tasks: Mapping[str, Task]) -> float:
    """The score without intervals; weights renormalised where tasks are missing."""
    ids = list(truth)
    values = {}
    for task in tasks.values():
        if task.closed:
            counts = Confusion.of(truth, answers, task, ids=ids).counts.sum(axis=0)
            values[task.name] = float(task_f1(counts, task))
    graded = {name: task for name, task in tasks.items() if task.closed}
    score, _ = combine(values, graded)
    return float(score) if score is not None else 0.0


def quadratic_kappa(counts: np.ndarray) -> float | None:
    """Cohen's kappa with quadratic weights from counts [K, K]; None where it is undefined."""
    size = len(counts)
    index = np.arange(size)
    weights = (index[:, None] - index[None]) ** 2
    expected = np.outer(counts.sum(1), counts.sum(0)) / max(counts.sum(), 1)
    disagreement = (weights * expected).sum()
    return None if disagreement == 0 else float(1 - (weights * counts).sum() / disagreement)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, corners taken as continuous coordinates."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    areas = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1)
    return overlap / (areas - overlap)


def box_overlaps(
    truth: Sequence[Patient], predictions: Sequence[Prediction], task: Task
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Sum of IoU and number of boxes a patient [patients], and the mean IoU a vertebra.

    A box that could not be parsed counts 0.
    """
    place = {patient.id: k for k, patient in enumerate(truth)}
    sums, numbers = np.zeros(len(truth)), np.zeros(len(truth))
    by_level: dict[str, list[float]] = {level: [] for level in task.levels}
    for one in predictions:
        if one.task != task.name or one.id not in place:
            continue
        boxes = truth[place[one.id]].boxes
        if boxes is None:
            continue
        target = boxes[one.object][one.slices[0]]
        value = 0.0 if one.box is None else iou(one.box, target)
        sums[place[one.id]] += value
        numbers[place[one.id]] += 1
        by_level[one.object].append(value)
    return sums, numbers, {k: float(np.mean(v)) for k, v in by_level.items() if v}
