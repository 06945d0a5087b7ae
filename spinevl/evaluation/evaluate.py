"""From predictions to a Score: with intervals over patients, beside what the baselines score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spinevl.evaluation.baselines import Baseline
from spinevl.evaluation.bootstrap import MIN_PATIENTS, Bootstrap, difference, interval
from spinevl.evaluation.join import Rows, join, missing_boxes
from spinevl.evaluation.metrics import Confusion, combine, task_f1
from spinevl.evaluation.task_scores import answers_score, boxes_score, patients_by_label
from spinevl.schema.errors import UserError, counted
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.score import AnswerScore, BaselineScore, Score
from spinevl.schema.task import Task
from spinevl.schema.task_score import TaskScore

_FEW = 5  # patients with a label, below which an interval says little

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
        UserError: no labelled patient has an answer, or one has answers to some questions of a
            closed task only. A true box without a prediction counts as an IoU of 0.
    """
    ordered = dict(sorted(tasks.items(), key=lambda item: not item[1].closed))
    closed = {name: task for name, task in ordered.items() if task.closed}
    answered = {one.id for one in predictions if one.task in closed}
    scored = [one for one in truth if one.id in answered or not closed]
    if not scored:
        raise UserError("no labelled patient has an answer: labels and answers share no id")
    bootstrap = Bootstrap(len(scored), n_resamples=n_resamples, seed=seed)
    missing = missing_boxes(predictions, scored, ordered)
    predictions = [*predictions, *missing]
    asked = join(predictions, scored, ordered)
    own, distributions = _score(
        asked, ordered, bootstrap, graded=closed, missing=missing, detailed=True
    )
    compared: dict[str, BaselineScore] = {}
    for baseline in baselines:
        given = baseline.predict(predictions)
        whole = _whole_tasks(given, asked)
        theirs = {key: task for key, task in ordered.items() if key in whole}
        if theirs:
            rows = join(given, scored, theirs)
            score, other = _score(rows, theirs, bootstrap, graded=closed)
            common = [key for key in distributions if key in other]
            common.sort(key=lambda key: key in tasks.keys() - closed.keys())  # boxes last
            paired = {key: difference(distributions[key], other[key]) for key in common}
            compared[baseline.name] = BaselineScore(**vars(score), paired=paired)
    notes = {one.name: one.note for one in baselines if one.name in compared}
    bounds = {one.name for one in baselines if one.upper_bound}
    return Score(
        **vars(own),
        n_patients=len(scored),
        baselines=compared,
        notes={
            "ci95": _about_intervals(asked, closed, len(scored)),
            **notes,
            **_never_found(asked, closed),
        },
        below_baseline=_below(
            distributions, {name: one for name, one in compared.items() if name not in bounds}
        ),
    )


def _never_found(asked: Mapping[str, Rows], closed: Mapping[str, Task]) -> dict[str, str]:
    """A sentence for each task whose F1 is 0 whatever is answered, by the task's name."""
    notes = {}
    for name, task in closed.items():
        true = {one.truth for row in asked[name] for one in row}
        if task.metric == "f1" and task.positive is not None and task.positive not in true:
            answer = task.choices[task.positive]
            notes[name] = (
                f"{task.title}: no true answer is {answer}, so F1 is 0 whatever is answered"
            )
    return notes


def _below(distributions: Distributions, baselines: Mapping[str, BaselineScore]) -> dict[str, str]:
    """Task or total -> its best baseline, where the model's value is below that."""
    found = {}
    for key in distributions:
        deltas = {
            name: one.paired[key].delta for name, one in baselines.items() if key in one.paired
        }
        best = min(deltas, key=deltas.__getitem__, default=None)
        if best is not None and deltas[best] < 0:
            found[key] = best
    return found


def _about_intervals(rows: Mapping[str, Rows], closed: Mapping[str, Task], n_patients: int) -> str:
    """What the intervals are, and which labels have too few patients to rely on them."""
    if n_patients < MIN_PATIENTS:
        verb = "is" if n_patients == 1 else "are"
        return f"none, since {counted(n_patients, 'patient')} {verb} fewer than {MIN_PATIENTS}"
    few = [
        f"{task.title} {answer} ({count})"
        for name, task in closed.items()
        for answer, count in zip(task.choices, patients_by_label(rows[name], task), strict=True)
        if 0 < count < _FEW
    ]
    told = "Bayesian bootstrap over patients"
    if few:
        told += f"; unreliable where a label has fewer than {_FEW} patients: {', '.join(few)}"
    return told


def point_score(
    truth: Sequence[Patient], predictions: Sequence[Prediction], *, tasks: Mapping[str, Task]
) -> float:
    """The total of point_scores."""
    return point_scores(truth, predictions, tasks=tasks)[0]


def point_scores(
    truth: Sequence[Patient], predictions: Sequence[Prediction], *, tasks: Mapping[str, Task]
) -> tuple[float, dict[str, float]]:
    """The closed tasks' score and F1s without intervals; weights are renormalised where tasks are
    missing.

    Raises:
        UserError: a patient of ``truth`` lacks an answer.
    """
    closed = {name: task for name, task in tasks.items() if task.closed}
    rows = join(predictions, truth, closed)
    values = {
        name: float(task_f1(Confusion.of(rows[name], task).total(), task))
        for name, task in closed.items()
    }
    score, _ = combine(values, closed)
    return float(score) if score is not None else 0.0, values


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
    bootstrap: Bootstrap,
    *,
    graded: Mapping[str, Task],
    missing: Sequence[Prediction] = (),
    detailed: bool = False,
) -> tuple[AnswerScore, Distributions]:
    """The scores of ``tasks``, and the distribution of each and of the total.

    The total is that of the ``graded`` tasks; there is none where ``tasks`` lacks one of them.
    ``missing`` are those of the predictions that missing_boxes made.
    """
    scores: dict[str, TaskScore] = {}
    distributions: Distributions = {}
    values: np.ndarray | None
    value, complete, ci95 = None, False, None
    for name, task in tasks.items():
        if task.closed:
            scores[name], values = answers_score(rows[name], task, bootstrap, detailed=detailed)
        else:
            n_missing = sum(one.task == name for one in missing)
            scores[name], values = boxes_score(rows[name], task, bootstrap, missing=n_missing)
        if values is not None:
            distributions[name] = values
    if graded.keys() <= tasks.keys():
        total, complete = combine(distributions, graded)
        if total is not None:
            value, ci95 = float(total[0]), interval(total)
            distributions["score" if complete else "partial_score"] = total
    return AnswerScore(value, complete, ci95, scores), distributions
