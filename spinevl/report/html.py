"""``report.md`` and ``report.html``: one page a researcher would show."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.io.files import write_text_atomic
from spinevl.report.gallery import gallery
from spinevl.report.markdown import NAMES, as_markdown, rows
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

PHANTOM = "Rendered phantoms: no clinical evidence."
CLINICAL = "Not for clinical use."
PRIVACY = "This page contains images and ids of patients."


def write_report(
    out: Path,
    *,
    metrics: Mapping[str, Any],
    predictions: Sequence[Prediction],
    truth: Sequence[Patient],
    tasks: Mapping[str, Task],
    images_root: Path,
    shown_slice: int,
    config: str,
    fingerprint: Mapping[str, Any],
    cohort: str,
    synthetic: bool,
    curve: Path | None = None,
) -> None:
    """Write both files.

    Args:
        out: the job's folder.
        metrics: the content of ``metrics.json``.
        predictions, truth: answers and labels of the scored patients.
        tasks: the tasks.
        images_root, shown_slice: where the gallery's pictures are, and which sagittal slice.
        config: the job's config as YAML.
        fingerprint: what the data are.
        cohort: the cohort's name.
        synthetic: whether the patients are rendered.
        curve: ``metrics.csv`` of the training.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("spinevl.report"), autoescape=select_autoescape(["html", "j2"])
    )
    score_key = "score" if metrics["score"] is not None else "partial_score"
    closed = [task for task in tasks.values() if task.closed]
    paired = _paired(metrics, score_key, [task for task in tasks.values() if not task.closed])
    page = environment.get_template("report.html.j2").render(
        metrics=metrics,
        score_key=score_key,
        cohort=cohort,
        warnings=[PHANTOM, CLINICAL, PRIVACY] if synthetic else [CLINICAL, PRIVACY],
        panels=[_panel(metrics, score_key, "Score" if score_key == "score" else "Partial score")]
        + [_panel(metrics, task.name, f"{task.title} · {_metric(task)}") for task in closed],
        paired=paired,
        confusions=[_confusion(metrics[task.name], task) for task in closed],
        levels=[_levels(metrics, task) for task in closed if task.levels],
        positioning=[
            (task, metrics[task.name], _panel(metrics, task.name, task.title, key="mean_iou"))
            for task in tasks.values()
            if not task.closed and metrics[task.name].get("mean_iou") is not None
        ],
        gallery=gallery(predictions, truth, tasks, images_root=images_root, slice_=shown_slice),
        curve=_curve(curve) if curve is not None and curve.is_file() else None,
        config=config,
        fingerprint=fingerprint,
        names=NAMES,
    )
    write_text_atomic(out / "report.html", page)
    lines = [
        f"# {cohort}",
        " ".join([PHANTOM] * synthetic + [CLINICAL]),
        f"{metrics['n_patients']} patients; {metrics.get('selection', '')}.",
        as_markdown(rows(metrics, tasks)),
        "95 % intervals by bootstrap over patients.",
        *(f"- {one['name']}: {one['text']}" for one in paired),
    ]
    write_text_atomic(
        out / "report.md", "\n\n".join(lines[:5]) + "\n\n" + "\n".join(lines[5:]) + "\n"
    )


def _metric(task: Task) -> str:
    if task.metric == "f1":
        return f"F1 of {task.choices[task.positive or 0]}"
    return "macro-F1"


def _panel(
    metrics: Mapping[str, Any], scored: str, title: str, *, key: str = "f1"
) -> dict[str, Any]:
    """One dot-and-interval chart: the model above its controls, on a scale of 0 to 1.

    ``scored`` is ``score``, ``partial_score`` or a task, of which ``key`` is shown.
    """
    bars = []
    for name, entry in (("model", metrics), *metrics["controls"].items()):
        whole = scored in ("score", "partial_score")
        scores = entry if whole else entry.get(scored, {})
        value = scores.get(scored if whole else key)
        if value is None:
            continue
        low, high = scores.get("ci95", (value, value))
        bars.append(
            {
                "name": NAMES.get(name, name),
                "own": name == "model",
                "value": value,
                "low": max(low, 0.0),
                "high": min(high, 1.0),
            }
        )
    return {"title": title, "bars": bars}


def _paired(
    metrics: Mapping[str, Any], score_key: str, boxed: Sequence[Task]
) -> list[dict[str, str]]:
    """A sentence a control for the score, and one for each task whose answers are boxes."""
    lines = []
    for name, control in metrics["controls"].items():
        against = f"model minus {NAMES.get(name, name)}"
        titles = {score_key: against} | {one.name: f"{against}, {one.title}" for one in boxed}
        lines += [
            {"name": title, "text": _difference(control["paired"][key])}
            for key, title in titles.items()
            if key in control["paired"]
        ]
    return lines


def _difference(pair: Mapping[str, Any]) -> str:
    """The difference, its interval, and whether it is clear."""
    low, high = pair["ci95"]
    verdict = "clearly better" if low > 0 else "clearly worse" if high < 0 else "not separable"
    return f"{pair['delta']:+.3f} [{low:+.3f}, {high:+.3f}], {verdict}"


def _confusion(scores: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Rows of counts with the share of their row."""
    table = []
    for label, counts in enumerate(scores["confusion"][: len(task.choices)]):
        total = sum(counts) + scores["unparsed_by_class"][label]
        cells = [
            {"count": count, "share": count / total if total else 0.0, "hit": k == label}
            for k, count in enumerate(counts[: len(task.choices)])
        ]
        table.append(
            {
                "name": _short(task.choices[label]),
                "cells": cells,
                "unparsed": scores["unparsed_by_class"][label],
                "f1": scores["classes"][label]["f1"],
            }
        )
    return {
        "title": task.title,
        "columns": [_short(choice) for choice in task.choices],
        "rows": table,
        "kappa": scores["quadratic_kappa"],
        "calibration": scores.get("calibration_error"),
        "unparsed": scores["unparsed"],
    }


def _short(choice: str) -> str:
    """``B.mild stenosis`` -> ``mild stenosis``."""
    return choice.partition(".")[2] or choice


def _levels(metrics: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """A bar a level, with the level majority's F1 as a mark."""
    control = metrics["controls"].get("level_majority", {})
    majority = control.get(task.name, {}).get("levels", {})
    return {
        "title": task.title,
        "bars": [
            {
                "name": level,
                "f1": scores["f1"],
                "accuracy": scores["accuracy"],
                "majority": majority.get(level, {}).get("f1"),
            }
            for level, scores in metrics[task.name]["levels"].items()
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
