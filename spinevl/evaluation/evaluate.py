"""From predictions to a Score: with intervals over patients, beside what the baselines score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from spinevl.evaluation.baselines import Baseline
from spinevl.evaluation.bootstrap import difference, interval, resample_patients
from spinevl.evaluation.join import Rows, join
from spinevl.evaluation.metrics import (
    Confusion,
    box_overlaps,
    calibration,
    class_f1,
    combine,
    quadratic_kappa,
    task_f1,
)
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.score import (
    AnswerScore,
    BaselineScore,
    ClassScore,
    LevelScore,
    Score,
    TaskScore,
)
from spinevl.schema.task import Task

# task or total -> its value for the sample and each resample [1 + n_resamples]
Distributions = dict[str, np.ndarray]


def evaluate(
    truth: Sequence[Patient],
    predictions: Sequence[Prediction],
    *,
    tasks: Mapping[str, Task],
    baselines: Sequence[Baseline] = (),
    n_resamples: int = 2000,
    seed: int = 0,
) -> Score:
    """Score predictions and compare them with baselines.

    Args:
        truth: labelled patients; those without an answer to a closed task are left out (the
            reader of a submission has refused them, unless asked for upstream's behaviour).
        predictions: the model's answers, or those of a submission.
        tasks: the tasks to score; predictions of others are passed over.
        baselines: they answer the same questions. A task of which a baseline leaves any question
            out is not scored for it, and it has no total without every closed task.
        n_resamples, seed: of the bootstrap over patients.

    Raises:
        UserError: no labelled patient has an answer, or one has answers to some questions only.
    """
    ordered = dict(sorted(tasks.items(), key=lambda item: not item[1].closed))
    closed = {name: task for name, task in ordered.items() if task.closed}
    answered = {one.id for one in predictions if one.task in closed}
    scored = [one for one in truth if one.id in answered or not closed]
    if not scored:
        raise UserError("no labelled patient has an answer: labels and answers share no id")
    weights = resample_patients(len(scored), n_resamples=n_resamples, seed=seed)
    asked = join(predictions, scored, ordered)
    own, distributions = _score(asked, ordered, weights, graded=closed, detailed=True)
    compared: dict[str, BaselineScore] = {}
    for baseline in baselines:
        given = baseline.predict(predictions)
        whole = _whole_tasks(given, asked)
        theirs = {key: task for key, task in ordered.items() if key in whole}
        if theirs:
            rows = join(given, scored, theirs)
            score, other = _score(rows, theirs, weights, graded=closed, detailed=False)
            common = [key for key in distributions if key in other]
            common.sort(key=lambda key: key in tasks.keys() - closed.keys())  # boxes last
            paired = {key: difference(distributions[key], other[key]) for key in common}
            compared[baseline.name] = BaselineScore(**vars(score), paired=paired)
    known = {"ci95": "percentile bootstrap over patients"}
    known |= {one.name: one.note for one in baselines}
    return Score(
        **vars(own),
        n_patients=len(scored),
        baselines=compared,
        notes={key: known[key] for key in ("ci95", *compared) if key in known},
    )


def point_score(
    truth: Sequence[Patient], predictions: Sequence[Prediction], *, tasks: Mapping[str, Task]
) -> float:
    """The closed tasks' score without intervals; weights are renormalised where tasks are missing.

    Raises:
        UserError: a patient of ``truth`` lacks an answer.
    """
    closed = {name: task for name, task in tasks.items() if task.closed}
    rows = join(predictions, truth, closed)
    values = {
        name: float(task_f1(Confusion.of(rows[name], task).counts.sum(axis=0), task))
        for name, task in closed.items()
    }
    score, _ = combine(values, closed)
    return float(score) if score is not None else 0.0


def _whole_tasks(given: Sequence[Prediction], asked: Mapping[str, Rows]) -> set[str]:
    """The tasks of which ``given`` answers every question that was asked."""
    answered = {one.question for one in given}
    questions = {
        name: [one.question for row in rows for one in row] for name, rows in asked.items()
    }
    return {name for name, every in questions.items() if every and answered.issuperset(every)}


def _score(
    rows: Mapping[str, Rows],
    tasks: Mapping[str, Task],
    weights: np.ndarray,
    *,
    graded: Mapping[str, Task],
    detailed: bool,
) -> tuple[AnswerScore, Distributions]:
    """The scores of ``tasks``, and the distribution of each and of the total.

    The total is that of the ``graded`` tasks; there is none where ``tasks`` lacks one of them.
    """
    scores: dict[str, TaskScore] = {}
    distributions: Distributions = {}
    value, complete, ci95 = None, False, None
    for name, task in tasks.items():
        score, values = (_answers if task.closed else _boxes)(rows[name], task, weights)
        scores[name] = _detailed(score, rows[name], task) if detailed and task.closed else score
        if values is not None:
            distributions[name] = values
    if graded.keys() <= tasks.keys():
        total, complete = combine(distributions, graded)
        if total is not None:
            value, ci95 = float(total[0]), interval(total)
            distributions["score" if complete else "partial_score"] = total
    return AnswerScore(value, complete, ci95, scores), distributions


def _answers(rows: Rows, task: Task, weights: np.ndarray) -> tuple[TaskScore, np.ndarray]:
    """A closed task: F1 and each level's scores, and the distribution of F1 [1 + resamples]."""
    counts = Confusion.of(rows, task).counts
    summed = (weights @ counts.reshape(len(rows), -1)).reshape(-1, *counts.shape[1:])
    values = task_f1(summed, task)
    levels = {}
    for k, name in enumerate(task.levels):
        at = Confusion.of([[row[k]] for row in rows], task).counts.sum(axis=0)
        levels[name] = LevelScore(
            f1=float(task_f1(at, task)),
            accuracy=float(np.trace(at[:, : at.shape[0]]) / at.sum()),
        )
    return TaskScore("f1", float(values[0]), interval(values), levels=levels), values


def _boxes(rows: Rows, task: Task, weights: np.ndarray) -> tuple[TaskScore, np.ndarray | None]:
    """A task of boxes: mean IoU and its distribution; None where no true box is known.

    Raises:
        UserError: a patient and slice has some boxes and lacks others.
    """
    sums, numbers, levels = box_overlaps(rows, task)
    if not numbers.any():
        return TaskScore("mean_iou", None), None
    given = [one for row in rows for one in row]
    slices = {(one.id, one.slices) for one in given}
    missing = len(slices) * len(task.levels) - int(numbers.sum())
    if missing > 0:
        raise UserError(
            f"predictions: {missing} boxes of {task.name} are missing for patients and slices that "
            "have others; predict again"
        )
    totals = weights @ numbers
    means = np.divide(weights @ sums, totals, out=np.zeros(len(totals)), where=totals > 0)
    score = TaskScore(
        "mean_iou",
        float(means[0]),
        interval(means),
        levels={name: LevelScore(mean_iou=value) for name, value in levels.items()},
        unparsed=sum(one.box is None for one in given),
    )
    return score, means


def _detailed(score: TaskScore, rows: Rows, task: Task) -> TaskScore:
    """A closed task's score with its classes, confusion matrix, kappa and calibration."""
    confusion = Confusion.of(rows, task)
    counts = confusion.counts.sum(axis=0)
    size = len(confusion.labels)
    square = counts[:, :size]
    f1, present = class_f1(counts)
    support = counts.sum(axis=1)
    classes = tuple(
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
    recalls = [one.recall for one in classes if one.recall is not None]
    calibration_error, log_loss = calibration(rows)
    return replace(
        score,
        accuracy=float(np.trace(square) / counts.sum()),
        balanced_accuracy=float(np.mean(recalls)) if recalls else None,
        quadratic_kappa=quadratic_kappa(square),
        classes=classes,
        confusion=tuple(map(tuple, square.astype(int).tolist())),
        unparsed=int(counts[:, size].sum()),
        unparsed_by_class=tuple(counts[:, size].astype(int).tolist()),
        calibration_error=calibration_error,
        log_loss=log_loss,
    )
