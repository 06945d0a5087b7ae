"""The scores as a plain table: on the terminal, in report.md and in model cards."""

from __future__ import annotations

from collections.abc import Mapping

from spinevl.schema.score import AnswerScore, Score, TaskScore
from spinevl.schema.task import Task

_NAMES = {"model": "this model", "ceiling": "ceiling (latent geometry)"}


def shown_name(key: str) -> str:
    """What reports call a baseline or the model: ``level_majority`` -> ``level majority``."""
    return _NAMES.get(key, key.replace("_", " "))


def rows(score: Score, tasks: Mapping[str, Task]) -> list[list[str]]:
    """Header and rows: name, total, then each task, as ``0.512 [0.480, 0.541]``."""
    return [
        ["", score.key, *tasks],
        *(
            [shown_name(name), cell(one), *(cell(one.tasks.get(task)) for task in tasks)]
            for name, one in score.entries.items()
        ),
    ]


def cell(score: AnswerScore | TaskScore | None) -> str:
    """``0.512 [0.480, 0.541]``, or a dash."""
    if score is None or score.value is None:
        return "-"
    ci95 = f" [{score.ci95.low:.3f}, {score.ci95.high:.3f}]" if score.ci95 else ""
    return f"{score.value:.3f}{ci95}"


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
