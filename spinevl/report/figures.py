"""The confusion matrix and the reliability of a task as figures, for loggers."""

from __future__ import annotations

from typing import Any

from spinevl.report.task_details import short
from spinevl.schema.task import Task
from spinevl.schema.task_score import TaskScore


def confusion_figure(score: TaskScore, task: Task) -> Any:
    """Counts by truth and answer; answers that could not be parsed have a column of their own."""
    labels = [short(one.answer or str(one.label)) for one in score.classes]
    figure, axes = _figure(task)
    unparsed = score.unparsed_by_class or (0,) * len(labels)
    counts = [[*row, lost] for row, lost in zip(score.confusion, unparsed, strict=True)]
    columns = [*labels, "unparsed"]
    if not any(unparsed):
        counts, columns = [row[:-1] for row in counts], labels
    axes.imshow(counts, cmap="Blues", vmin=0)
    most = max(map(max, counts))
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            color = "white" if count > most / 2 else "black"
            axes.text(x, y, str(count), ha="center", va="center", color=color)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    return figure


def reliability_figure(score: TaskScore, task: Task) -> Any:
    """How often answers of a probability are right, over that probability."""
    figure, axes = _figure(task)
    axes.plot([0, 1], [0, 1], color="#9db4c0", linestyle="--")
    bins = score.calibration_bins
    sizes = [20 + 100 * one.count / max(each.count for each in bins) for one in bins]
    points = [one.probability for one in bins], [one.frequency for one in bins]
    axes.scatter(*points, s=sizes, color="#253237")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="share that is right")
    return figure


def _figure(task: Task) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(task.title, parse_math=False)
    return figure, axes
