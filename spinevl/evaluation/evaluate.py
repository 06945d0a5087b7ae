"""``metrics.json``: scores with patient-clustered intervals, beside what the controls score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spinevl.evaluation.join import Answers, truth_of
from spinevl.evaluation.metrics import (
    Confusion,
    box_overlaps,
    class_f1,
    combine,
    quadratic_kappa,
    task_f1,
)
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

NOTES = {
    "ci95": "percentile bootstrap over patients",
    "level_majority": "each level's most frequent training label, ties to the lower; "
    "alignment abnormal everywhere, for normal everywhere scores 0",
    "all_majority": "each task's most frequent training label; alignment abnormal everywhere, "
    "for normal everywhere scores 0",
    "swapped_images": "the same checkpoint shown another patient's images",
    "ceiling": "a classifier on the phantoms' latent geometry, fitted on training patients",
}


def evaluate(
    truth: Sequence[Patient],
    answers: Answers,
    *,
    tasks: Mapping[str, Task],
    controls: Mapping[str, Answers] | None = None,
    predictions: Sequence[Prediction] = (),
    control_boxes: Mapping[str, Sequence[Prediction]] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score answers.

    Args:
        truth: labelled patients; those that ``answers`` lacks are left out (the reader of a
            submission has refused them already, unless asked for upstream's behaviour).
        answers: patient -> task -> labels.
        tasks: the tasks to score.
        controls: name -> its answers.
        predictions: give boxes and probabilities, where there are any.
        control_boxes: name of a control -> its boxes.
        n_resamples, seed: of the bootstrap.

    Returns:
        The JSON-ready content of ``metrics.json``.
    """
    closed = {name: task for name, task in tasks.items() if task.closed}
    scored = [one for one in truth if one.id in answers] if closed else list(truth)
    ids = [one.id for one in scored]
    if not ids:
        raise UserError("no labelled patient has an answer: labels and answers share no id")
    rng = np.random.default_rng(seed)
    resamples = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=n_resamples)
    weights = np.concatenate([np.ones((1, len(ids))), resamples])  # row 0 is the sample itself
    labels = truth_of(scored, closed)
    metrics, own = _score(labels, answers, closed, ids, weights)
    boxed = [task for task in tasks.values() if not task.closed]
    for task in boxed:
        metrics[task.name], own[task.name] = _positioning(scored, predictions, task, weights)
    for name, task in closed.items():
        metrics[name] |= _detail(labels, answers, task, ids)
        metrics[name] |= _calibration(labels, predictions, task)
    metrics["n_patients"] = len(ids)
    metrics["controls"] = {}
    for name, control in _all_controls(controls or {}, control_boxes or {}).items():
        theirs: dict[str, Any] = {}
        distribution: dict[str, np.ndarray] = {}
        if control.answers:
            theirs, distribution = _score(labels, control.answers, closed, ids, weights)
            for task in closed.values():
                theirs[task.name]["levels"] = _level_scores(labels, control.answers, task, ids)
        for task in boxed if control.boxes else ():
            theirs[task.name], distribution[task.name] = _positioning(
                scored, control.boxes, task, weights
            )
        theirs["paired"] = {
            key: {"delta": float(delta[0]), "ci95": _interval(delta)}
            for key in own
            if key in distribution and len(own[key]) == len(distribution[key]) > 0
            for delta in [own[key] - distribution[key]]
        }
        metrics["controls"][name] = theirs
    metrics["notes"] = {key: NOTES[key] for key in ("ci95", *metrics["controls"]) if key in NOTES}
    if (control_boxes or {}).get("level_majority"):
        metrics["notes"]["level_majority"] += "; boxes: each vertebra's mean training box"
    return metrics


@dataclass(frozen=True)
class _Control:
    answers: Answers
    boxes: Sequence[Prediction]


def _all_controls(
    answers: Mapping[str, Answers], boxes: Mapping[str, Sequence[Prediction]]
) -> dict[str, _Control]:
    return {
        name: _Control(answers.get(name, {}), boxes.get(name, ()))
        for name in dict.fromkeys([*answers, *boxes])
    }


def _score(
    truth: Answers,
    answers: Answers,
    tasks: Mapping[str, Task],
    ids: Sequence[str],
    weights: np.ndarray,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Scores with intervals, and their distributions [1 + resamples], the sample first."""
    distributions: dict[str, np.ndarray] = {}
    for name, task in tasks.items():
        counts = Confusion.of(truth, answers, task, ids=ids).counts
        summed = (weights @ counts.reshape(len(ids), -1)).reshape(-1, *counts.shape[1:])
        distributions[name] = task_f1(summed, task)
    metrics: dict[str, Any] = {"score": None}
    score, complete = combine(distributions, tasks)
    if score is not None:
        key = "score" if complete else "partial_score"
        metrics[key] = float(score[0])
        metrics["ci95"] = _interval(score)
        distributions[key] = score
    for name in tasks:
        values = distributions[name]
        metrics[name] = {"f1": float(values[0]), "ci95": _interval(values)}
    return metrics, distributions


def _interval(distribution: np.ndarray) -> list[float]:
    low, high = np.percentile(distribution[1:], [2.5, 97.5])
    return [float(low), float(high)]


def _detail(truth: Answers, answers: Answers, task: Task, ids: Sequence[str]) -> dict[str, Any]:
    """Per class and per level scores, the confusion matrix, kappa and unparsed answers."""
    confusion = Confusion.of(truth, answers, task, ids=ids)
    counts = confusion.counts.sum(axis=0)
    size = len(confusion.labels)
    square = counts[:, :size]
    f1, present = class_f1(counts)
    support = counts.sum(axis=1)
    classes = [
        {
            "label": label,
            "answer": task.choices[label] if 0 <= label < len(task.choices) else None,
            "f1": float(f1[k]) if present[k] else None,
            "precision": float(square[k, k] / square[:, k].sum()) if square[:, k].any() else None,
            "recall": float(square[k, k] / support[k]) if support[k] else None,
            "support": int(support[k]),
        }
        for k, label in enumerate(confusion.labels)
    ]
    recalls = [square[k, k] / support[k] for k in range(size) if support[k]]
    return {
        "accuracy": float(np.trace(square) / counts.sum()),
        "balanced_accuracy": float(np.mean(recalls)) if recalls else None,
        "quadratic_kappa": quadratic_kappa(square),
        "classes": classes,
        "levels": _level_scores(truth, answers, task, ids),
        "confusion": square.astype(int).tolist(),
        "unparsed": int(counts[:, size].sum()),
        "unparsed_by_class": counts[:, size].astype(int).tolist(),
    }


def _level_scores(
    truth: Answers, answers: Answers, task: Task, ids: Sequence[str]
) -> dict[str, dict[str, float]]:
    """F1 and accuracy of each level of a task."""
    levels = {}
    for k, name in enumerate(task.levels):
        at = Confusion.of(truth, answers, task, ids=ids, level=k).counts.sum(axis=0)
        levels[name] = {
            "f1": float(task_f1(at, task)),
            "accuracy": float(np.trace(at[:, : at.shape[0]]) / at.sum()),
        }
    return levels


def _calibration(truth: Answers, predictions: Sequence[Prediction], task: Task) -> dict[str, Any]:
    """Expected calibration error (10 equal bins) and mean log-loss, where probabilities are."""
    confidence, correct, losses = [], [], []
    for one in predictions:
        if one.task != task.name or one.probabilities is None or one.id not in truth:
            continue
        label = truth[one.id][task.name][task.objects.index(one.object)]
        if label is None or one.choice is None:
            continue
        confidence.append(one.probabilities[one.choice])
        correct.append(one.choice == label)
        losses.append(-np.log(max(one.probabilities[label], 1e-12)))
    if not confidence:
        return {}
    bins = np.minimum((np.array(confidence) * 10).astype(int), 9)
    gaps = [
        abs(np.mean(np.array(confidence)[bins == b]) - np.mean(np.array(correct)[bins == b]))
        * np.mean(bins == b)
        for b in np.unique(bins)
    ]
    return {"calibration_error": float(sum(gaps)), "log_loss": float(np.mean(losses))}


def _positioning(
    truth: Sequence[Patient], predictions: Sequence[Prediction], task: Task, weights: np.ndarray
) -> tuple[dict[str, Any], np.ndarray]:
    """Scores with intervals, and the distribution of the mean IoU [1 + resamples]."""
    sums, numbers, levels = box_overlaps(truth, predictions, task)
    if not numbers.any():
        return {"mean_iou": None}, np.zeros(0)
    totals = weights @ numbers
    means = np.divide(weights @ sums, totals, out=np.zeros(len(totals)), where=totals > 0)
    unparsed = sum(one.box is None for one in predictions if one.task == task.name)
    asked = {(one.id, one.slices) for one in predictions if one.task == task.name}
    missing = len(asked) * len(task.levels) - int(numbers.sum())
    if missing > 0:
        raise UserError(
            f"predictions: {missing} boxes of {task.name} are missing for patients and slices that "
            "have others; predict again"
        )
    scores = {
        "mean_iou": float(means[0]),
        "ci95": _interval(means),
        "levels": {name: {"mean_iou": value} for name, value in levels.items()},
        "unparsed": unparsed,
    }
    return scores, means
