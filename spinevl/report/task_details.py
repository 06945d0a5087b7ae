"""What the report shows of one task: its bars, confusion matrix, classes and levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spinevl.report.markdown import shown_name
from spinevl.schema.score import Difference, Score
from spinevl.schema.task import Task
from spinevl.schema.task_score import CalibrationBin, TaskScore


def metric_of(task: Task) -> str:
    """What a task's score is, for people."""
    if not task.closed:
        return "mean IoU"
    return f"F1 of {short(task.choices[task.positive or 0])}" if task.metric == "f1" else "macro-F1"


def short(choice: str) -> str:
    """``B.mild stenosis`` -> ``mild stenosis``."""
    return choice.partition(".")[2] or choice


def panel(score: Score, task: Task | None, title: str) -> dict[str, Any]:
    """One dot-and-interval chart: the model above its baselines, on a scale of 0 to 1.

    It shows ``task``, or the total where that is None; ``below`` is the best baseline where that
    scores above the model.
    """
    best = score.below_baseline.get(score.key if task is None else task.name)
    bars = []
    for name, entry in score.entries.items():
        shown = entry if task is None else entry.tasks.get(task.name)
        if shown is not None and shown.value is not None:
            bars.append(
                {
                    "name": shown_name(name),
                    "own": name == "model",
                    "value": shown.value,
                    "ci95": shown.ci95,
                    "low": max(shown.ci95.low if shown.ci95 else shown.value, 0.0),
                    "high": min(shown.ci95.high if shown.ci95 else shown.value, 1.0),
                }
            )
    return {"title": title, "bars": bars, "below": best and shown_name(best)}


def below(score: Score, tasks: Mapping[str, Task]) -> list[str]:
    """What the model does no better than a baseline: ``canal stenosis (level majority)``."""
    return [
        f"{tasks[key].title if key in tasks else 'the total'} ({shown_name(best)})"
        for key, best in score.below_baseline.items()
    ]


def differences(score: Score, boxed: Sequence[Task]) -> list[dict[str, str]]:
    """A sentence a baseline for the total, and one for each task whose answers are boxes."""
    lines = []
    for name, baseline in score.baselines.items():
        against = f"model minus {shown_name(name)}"
        titles = {score.key: against} | {one.name: f"{against}, {one.title}" for one in boxed}
        lines += [
            {"name": title, "text": _difference(baseline.paired[key])}
            for key, title in titles.items()
            if key in baseline.paired
        ]
    return lines


def _difference(pair: Difference) -> str:
    """The difference, its interval, and whether it is clear."""
    if pair.ci95 is None:
        return f"{pair.delta:+.3f}, too few patients for an interval"
    low, high = pair.ci95.low, pair.ci95.high
    verdict = "clearly better" if low > 0 else "clearly worse" if high < 0 else "not separable"
    return f"{pair.delta:+.3f} [{low:+.3f}, {high:+.3f}], {verdict}"


_MANY = 10  # answers; the same one to fewer questions may be right, where all have one truth


def classes(score: TaskScore, task: Task) -> dict[str, Any]:
    """The confusion matrix with the shares of its rows, the scores of classes and findings."""
    table = []
    for label, counts in enumerate(score.confusion[: len(task.choices)]):
        one = score.classes[label]
        cells = [
            {
                "count": count,
                "share": count / one.support if one.support else 0.0,
                "hit": k == label,
            }
            for k, count in enumerate(counts[: len(task.choices)])
        ]
        table.append(
            {
                "name": short(task.choices[label]),
                "cells": cells,
                "unparsed": score.unparsed_by_class[label],
                "n": one.support,
                "shares": (one.f1, one.recall, one.precision),
            }
        )
    given = [k for k, counts in enumerate(zip(*score.confusion, strict=True)) if any(counts)]
    truths = [one.support for one in score.classes if one.support]
    tells = len(truths) > 1 or sum(truths) >= _MANY
    constant = len(given) == 1 and tells and not score.unparsed
    return {
        "title": task.title,
        "columns": [short(choice) for choice in task.choices],
        "only_answer": short(task.choices[given[0]]) if constant else None,
        "rows": table,
        "figures": {
            "accuracy": score.accuracy,
            "balanced accuracy": score.balanced_accuracy,
            "quadratic kappa": score.quadratic_kappa,
            "calibration error": score.calibration_error,
        },
        "unparsed": score.unparsed,
        "findings": score.findings or {},
        "reliability": _reliability(score.calibration_bins),
    }


def _reliability(bins: Sequence[CalibrationBin]) -> list[tuple[float, float, float, str]]:
    """Dots of a reliability plot: x, y, radius and what they stand for.

    Its scales go from 44 to 190, and from 156 up to 10, in a picture of 200 x 200. A dot's radius
    grows with the root of the share of the answers in its bin.
    """
    total = sum(one.count for one in bins)
    return [
        (
            round(44 + 146 * one.probability, 1),
            round(156 - 146 * one.frequency, 1),
            round(2.5 + 9 * (one.count / total) ** 0.5, 1),
            f"{one.count} answers, probability {one.probability:.2f}, right {one.frequency:.2f}",
        )
        for one in bins
    ]


def levels(score: Score, task: Task) -> dict[str, Any]:
    """A bar a level, with the level majority's F1 as a mark."""
    baseline = score.baselines.get("level_majority")
    found = baseline.tasks.get(task.name) if baseline else None
    majority = (found.levels if found else None) or {}
    return {
        "title": task.title,
        "bars": [
            {
                "name": level,
                "f1": one.f1,
                "majority": majority[level].f1 if level in majority else None,
            }
            for level, one in (score.tasks[task.name].levels or {}).items()
        ],
    }
