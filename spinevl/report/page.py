"""``report.md`` and ``report.html``: one page a researcher would show."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.io.files import write_text_atomic
from spinevl.report.gallery import Pictures, gallery
from spinevl.report.markdown import as_markdown, rows, shown_name
from spinevl.schema.prediction import Prediction
from spinevl.schema.score import Difference, Score, TaskScore
from spinevl.schema.task import Task

PHANTOM = "Rendered phantoms: no clinical evidence."
CLINICAL = "Not for clinical use."
PRIVACY = "This page contains images and ids of patients."


def write_report(
    out: Path,
    *,
    score: Score,
    predictions: Sequence[Prediction],
    tasks: Mapping[str, Task],
    pictures: Pictures,
    config: str,
    fingerprint: Mapping[str, Any],
    cohort: str,
    curve: Path | None = None,
) -> None:
    """Write both files.

    Args:
        out: the job's folder.
        score: the content of ``metrics.json``.
        predictions: of the scored patients, joined with the truth.
        tasks: the tasks.
        pictures: patient -> the images shown, sagittal ones in the order asked, then axial ones.
        config: the job's config as YAML.
        fingerprint: what the data are.
        cohort: the cohort's name.
        curve: ``metrics.csv`` of the training.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("spinevl.report"), autoescape=select_autoescape(["html", "j2"])
    )
    closed = [task for task in tasks.values() if task.closed]
    boxed = [task for task in tasks.values() if not task.closed]
    paired = _paired(score, boxed)
    page = environment.get_template("report.html.j2").render(
        score=score,
        cohort=cohort,
        warnings=[PHANTOM, CLINICAL, PRIVACY] if score.synthetic else [CLINICAL, PRIVACY],
        panels=[_panel(score, None, "Score" if score.complete else "Partial score")]
        + [_panel(score, task, f"{task.title} · {_metric(task)}") for task in closed],
        paired=paired,
        confusions=[_confusion(score.tasks[task.name], task) for task in closed],
        levels=[_levels(score, task) for task in closed if task.levels],
        positioning=[
            (task, score.tasks[task.name], _panel(score, task, task.title))
            for task in boxed
            if score.tasks[task.name].value is not None
        ],
        gallery=gallery(predictions, tasks, pictures=pictures),
        curve=_curve(curve) if curve is not None and curve.is_file() else None,
        config=config,
        fingerprint=fingerprint,
        shown_name=shown_name,
    )
    write_text_atomic(out / "report.html", page)
    lines = [
        f"# {cohort}",
        " ".join([PHANTOM] * bool(score.synthetic) + [CLINICAL]),
        f"{score.n_patients} patients; {score.selection or ''}.",
        as_markdown(rows(score, tasks)),
        f"95 % intervals: {score.notes['ci95']}.",
        *(f"- {one['name']}: {one['text']}" for one in paired),
    ]
    write_text_atomic(
        out / "report.md", "\n\n".join(lines[:5]) + "\n\n" + "\n".join(lines[5:]) + "\n"
    )


def _metric(task: Task) -> str:
    if task.metric == "f1":
        return f"F1 of {task.choices[task.positive or 0]}"
    return "macro-F1"


def _panel(score: Score, task: Task | None, title: str) -> dict[str, Any]:
    """One dot-and-interval chart: the model above its baselines, on a scale of 0 to 1.

    It shows ``task``, or the total where that is None.
    """
    bars = []
    for name, entry in score.entries.items():
        shown = entry if task is None else entry.tasks.get(task.name)
        if shown is not None and shown.value is not None:
            bars.append(
                {
                    "name": shown_name(name),
                    "own": name == "model",
                    "value": shown.value,
                    "low": max(shown.ci95.low if shown.ci95 else shown.value, 0.0),
                    "high": min(shown.ci95.high if shown.ci95 else shown.value, 1.0),
                }
            )
    return {"title": title, "bars": bars}


def _paired(score: Score, boxed: Sequence[Task]) -> list[dict[str, str]]:
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


def _confusion(score: TaskScore, task: Task) -> dict[str, Any]:
    """Rows of counts with the share of their row."""
    table = []
    for label, counts in enumerate(score.confusion[: len(task.choices)]):
        total = sum(counts) + score.unparsed_by_class[label]
        cells = [
            {"count": count, "share": count / total if total else 0.0, "hit": k == label}
            for k, count in enumerate(counts[: len(task.choices)])
        ]
        table.append(
            {
                "name": _short(task.choices[label]),
                "cells": cells,
                "unparsed": score.unparsed_by_class[label],
                "f1": score.classes[label].f1,
            }
        )
    return {
        "title": task.title,
        "columns": [_short(choice) for choice in task.choices],
        "rows": table,
        "kappa": score.quadratic_kappa,
        "calibration": score.calibration_error,
        "unparsed": score.unparsed,
    }


def _short(choice: str) -> str:
    """``B.mild stenosis`` -> ``mild stenosis``."""
    return choice.partition(".")[2] or choice


def _levels(score: Score, task: Task) -> dict[str, Any]:
    """A bar a level, with the level majority's F1 as a mark."""
    baseline = score.baselines.get("level_majority")
    majority = baseline.tasks[task.name].levels if baseline else {}
    return {
        "title": task.title,
        "bars": [
            {
                "name": level,
                "f1": one.f1,
                "majority": majority[level].f1 if majority else None,
            }
            for level, one in (score.tasks[task.name].levels or {}).items()
        ],
    }


def _curve(path: Path) -> dict[str, Any] | None:
    """The training loss and the dev scores as points of an SVG of 600 x 160."""
    with path.open(encoding="utf-8") as file:
        entries = list(csv.DictReader(file))
    losses = [(int(e["step"]), float(e["loss"])) for e in entries if e["loss"]]
    scores = [(int(e["step"]), float(e["dev/score"])) for e in entries if e.get("dev/score")]
    if not losses or not scores or max(loss for _, loss in losses) <= 0:
        return None
    last = max(step for step, _ in losses + scores) or 1
    top = sorted(loss for _, loss in losses)[-1 - len(losses) // 50]
    return {
        "loss": " ".join(
            f"{600 * step / last:.1f},{160 - 150 * min(loss / top, 1):.1f}" for step, loss in losses
        ),
        "scores": [
            {"x": 600 * step / last, "y": 160 - 150 * score, "text": f"{score:.3f}"}
            for step, score in scores
        ],
        "line": " ".join(f"{600 * s / last:.1f},{160 - 150 * v:.1f}" for s, v in scores),
        "steps": last,
    }
