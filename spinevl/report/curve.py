"""The course of a training, read from ``metrics.csv`` and ``train.json``, as small charts."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinevl.report.metrics_file import read_training
from spinevl.schema.errors import refused

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 58, 350, 12, 164
_MOST_POINTS = 300

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """One chart of SVG coordinates, in a picture of WIDTH x HEIGHT.

    Attributes:
        title: what its values are.
        lines: name -> its points, (x, y).
        dots: points that are marked one by one, with their values, and which is the checkpoint's.
        x_ticks, y_ticks: where a scale has a number, and which.
        warmup: where the warm-up of the auxiliary heads ends, and at which step; None without one.
    """

    title: str
    lines: Mapping[str, Points]
    dots: Sequence[tuple[float, float, str, bool]]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    warmup: tuple[float, int] | None


def charts(path: Path) -> list[Chart]:
    """The charts of what a training wrote down: those of columns that hold numbers.

    ``train.json`` beside the file says which step the checkpoint is of, and how long the warm-up
    was. Without it the latest of the best dev scores is the checkpoint's, as when training.
    """
    columns = _read(path)
    if not columns:
        return []
    last = max(points[-1][0] for points in columns.values())
    told = read_training(path.parent)
    warmup = told.get("warmup_steps")
    warmup = warmup if type(warmup) is int and 0 < warmup <= last else None
    scored = columns.get("dev/score", ())
    kept = max(scored, key=lambda one: (one[1], one[0]), default=(None, None))[0]
    if told.get("dev_score_step") in [step for step, _ in scored]:
        kept = told["dev_score_step"]
    rates = {name: points for name, points in columns.items() if name.split("/")[0] == "lr"}
    if len(rates) > 1:
        rates.pop("lr", None)  # the same rate as that of the first part

    def named(*names: str) -> dict[str, Points]:
        return {name: columns[name] for name in names if name in columns}

    shown: list[tuple[str, Mapping[str, Points]]] = [
        ("Dev score", named("dev/score")),
        ("Training loss", named("loss/answer", "loss/auxiliary") or named("loss")),
        ("Learning rate", rates),
        ("Gradient norm", named("grad_norm")),
    ]
    return [_chart(title, lines, last, warmup, kept) for title, lines in shown if lines]


def _read(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Column -> (step, value) of the rows that have a number there, by step.

    Raises:
        UserError: the file is no table.
    """
    columns: dict[str, dict[float, float]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        fix = "remove it: the report then has no training curve"
        raise refused(str(path), "the table that a training writes", str(error), fix) from error
    for row in rows:
        step = _number(row.get("step"))
        for name, text in row.items():
            value = _number(text)
            if step is not None and value is not None and name != "step":
                columns.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in columns.items()}


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _chart(
    title: str,
    lines: Mapping[str, Points],
    last: float,
    warmup: int | None,
    kept: float | None,
) -> Chart:
    values = [value for points in lines.values() for _, value in points]
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if title == "Dev score" else _ticks(0.0, max(values))
    low, high = min(0.0, *values), max(y_ticks[-1], *values)

    def x(step: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * step / (last or 1), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - low) / ((high - low) or 1), 1)

    drawn = {
        name: [(x(step), y(value)) for step, value in _thinned(points)]
        for name, points in lines.items()
    }
    scores = lines.get("dev/score", ())
    return Chart(
        title=title,
        lines=drawn,
        dots=[(x(step), y(value), f"{value:.3f}", step == kept) for step, value in scores],
        x_ticks=[(x(step), f"{step:g}") for step in _ticks(0.0, last, whole=True) if step <= last],
        y_ticks=[(y(value), f"{value:g}") for value in y_ticks],
        warmup=None if warmup is None else (x(warmup), warmup),
    )


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five round numbers from ``low`` to ``high`` or just above; ``whole`` ones for steps."""
    from matplotlib.ticker import MaxNLocator

    high = high if high > low else low + 1
    return [
        float(f"{one:.12g}") for one in MaxNLocator(nbins=5, integer=whole).tick_values(low, high)
    ]


def _thinned(points: Points) -> Points:
    """At most _MOST_POINTS points: means of neighbours where there are more."""
    size = math.ceil(len(points) / _MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]
