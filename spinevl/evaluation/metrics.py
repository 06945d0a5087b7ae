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

from spinevl.evaluation.join import Rows
from spinevl.schema.box import Box
from spinevl.schema.task import Task
from spinevl.schema.task_score import CalibrationBin, FindingScore

_BINS = 10


@dataclass(frozen=True)
class Confusion:
    """The answers to one task as places in a table.

    Attributes:
        labels: what the rows and columns stand for: the task's labels, then any other that occurs.
            A last column holds unparsed answers, which match no truth and are no label of their
            own.
        truth, answers: [patients, questions] the row and the column of each answer.
    """

    labels: tuple[int, ...]
    truth: np.ndarray
    answers: np.ndarray

    @classmethod
    def of(cls, rows: Rows, task: Task) -> Confusion:
        """Of predictions joined with their truth, which must be known."""
        known = range(len(task.choices))
        given = {one.choice for row in rows for one in row if one.choice is not None}
        labels = (*known, *sorted(given - set(known)))
        place: dict[object, int] = {label: k for k, label in enumerate(labels)}
        truth = np.array([[place[one.truth] for one in row] for row in rows])
        answers = np.array([[place.get(one.choice, len(labels)) for one in row] for row in rows])
        return cls(labels, truth, answers)

    def by_patient(self) -> np.ndarray:
        """[patients, truth, answer] counts."""
        patients = np.arange(len(self.truth))[:, None]
        return self._counts(patients, len(self.truth))

    def total(self) -> np.ndarray:
        """[truth, answer] counts."""
        return self._counts(np.zeros((1, 1), dtype=int), 1)[0]

    def by_question(self) -> np.ndarray:
        """[questions, truth, answer] counts; a question is a level."""
        questions = np.arange(self.truth.shape[1])[None]
        return self._counts(questions, self.truth.shape[1])

    def _counts(self, groups: np.ndarray, n_groups: int) -> np.ndarray:
        size = len(self.labels)
        places = (groups * size + self.truth) * (size + 1) + self.answers
        counts = np.bincount(places.ravel(), minlength=n_groups * size * (size + 1))
        return counts.reshape(n_groups, size, size + 1).astype(float)


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
    """The weighted score of closed tasks, and whether their weights make up the whole score.

    Tasks of which none has a weight count alike, so that a checkpoint can be chosen by them;
    without any task the score is None.
    """
    weights = {name: task.weight for name, task in tasks.items() if task.weight > 0}
    complete = abs(sum(weights.values()) - 1) < 1e-9
    weights = weights or dict.fromkeys(tasks, 1.0)
    if not weights:
        return None, False
    total = sum(weight * values[name] for name, weight in weights.items())
    return (total if complete else total / sum(weights.values())), complete


def quadratic_kappa(counts: np.ndarray) -> float | None:
    """Cohen's kappa with quadratic weights; None where it is undefined.

    Args:
        counts: [K, K + 1] confusion counts. An unparsed answer is an answer of its own, as far from
            the truth as the farthest label.
    """
    index = np.arange(len(counts))
    weights = (index[:, None] - index[None]) ** 2
    weights = np.concatenate([weights, weights.max(1, keepdims=True)], axis=1)
    expected = np.outer(counts.sum(1), counts.sum(0)) / max(counts.sum(), 1)
    disagreement = (weights * expected).sum()
    return None if disagreement == 0 else float(1 - (weights * counts).sum() / disagreement)


def finding(counts: np.ndarray, labels: Sequence[int]) -> FindingScore:
    """Sensitivity and specificity of the labels that have a finding, from counts [K, K + 1]."""
    size = len(counts)
    has = np.isin(np.arange(size), labels)
    positives, negatives = counts[has].sum(), counts[~has].sum()
    found, excluded = counts[has][:, :size][:, has].sum(), counts[~has][:, :size][:, ~has].sum()
    return FindingScore(
        labels=tuple(labels),
        sensitivity=float(found / positives) if positives else None,
        specificity=float(excluded / negatives) if negatives else None,
        positives=int(positives),
        negatives=int(negatives),
    )


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, corners taken as continuous coordinates."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    areas = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1)
    return overlap / (areas - overlap)


def box_overlaps(rows: Rows, task: Task) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Sum of IoU and number of boxes a patient [patients], and the mean IoU a vertebra.

    Boxes whose truth is unknown are left out; one that could not be parsed counts 0.
    """
    sums, numbers = np.zeros(len(rows)), np.zeros(len(rows))
    by_level: dict[str, list[float]] = {level: [] for level in task.levels}
    for patient, row in enumerate(rows):
        for one in row:
            if isinstance(one.truth, Box):
                value = 0.0 if one.box is None else iou(one.box, one.truth)
                sums[patient] += value
                numbers[patient] += 1
                by_level[one.object].append(value)
    return sums, numbers, {k: float(np.mean(v)) for k, v in by_level.items() if v}


def calibration(
    rows: Rows,
) -> tuple[float | None, float | None, tuple[CalibrationBin, ...]]:
    """Expected calibration error, mean log-loss, and the bins of a reliability plot.

    The bins are ten equal ones of the probability of the chosen answer. Without probabilities the
    numbers are None and there are no bins.
    """
    known = [
        (one.probabilities[one.choice], one.correct, one.probabilities[one.truth])
        for row in rows
        for one in row
        if one.probabilities is not None and one.choice is not None and isinstance(one.truth, int)
    ]
    if not known:
        return None, None, ()
    chosen, correct, true = np.array(known, dtype=float).T
    places = np.minimum((chosen * _BINS).astype(int), _BINS - 1)
    bins = tuple(
        CalibrationBin(
            low=k / _BINS,
            high=(k + 1) / _BINS,
            probability=float(chosen[places == k].mean()),
            frequency=float(correct[places == k].mean()),
            count=int((places == k).sum()),
        )
        for k in np.unique(places).tolist()
    )
    error = sum(one.count * abs(one.probability - one.frequency) for one in bins) / len(known)
    return error, float(-np.log(np.maximum(true, 1e-12)).mean()), bins
