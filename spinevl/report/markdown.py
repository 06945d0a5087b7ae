"""The scores as a plain table: on the terminal, in report.md and on leaderboards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spinevl.schema.task import Task

NAMES = {
    "model": "this model",
    "level_majority": "level majority",
    "all_majority": "all majority",
    "swapped_images": "swapped images",
    "ceiling": "ceiling (latent geometry)",
}


def rows(metrics: Mapping[str, Any], tasks: Mapping[str, Task]) -> list[list[str]]:
    """Header and rows: name, score, then each task, as ``0.512 [0.480, 0.541]``."""
    score = "score" if metrics["score"] is not None else "partial_score"
    header = ["", score, *tasks]
    table = [header]
    for name, entry in (("model", metrics), *metrics["controls"].items()):
        row = [NAMES.get(name, name), cell(entry.get(score), entry.get("ci95"))]
        for task in tasks.values():
            scores = entry.get(task.name, {})
            key = "f1" if task.closed else "mean_iou"
            row.append(cell(scores.get(key), scores.get("ci95")))
        table.append(row)
    return table


def cell(value: float | None, interval: list[float] | None) -> str:
    """``0.512 [0.480, 0.541]``, or a dash."""
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def as_text(table: list[list[str]]) -> str:
    """Aligned columns for a terminal."""
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def as_markdown(table: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|" + " --- |" * len(table[0]), *lines[1:]])
