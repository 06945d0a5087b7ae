"""The scores as a plain table: on the terminal, in report.md and in model cards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from spinevl.schema.errors import escaped
from spinevl.schema.score import AnswerScore, Score
from spinevl.schema.task import Task
from spinevl.schema.task_score import TaskScore

_NAMES = {"model": "this model", "ceiling": "ceiling (latent geometry)"}


class Markdown(str):
    """Text that is Markdown already, and is written as it is."""

    __slots__ = ()


def as_literal(text: str) -> Markdown:
    """Text from a file or a command as one line of Markdown that shows just this text.

    No formatting, link, HTML, formula or column of a table starts in it.
    """
    if isinstance(text, Markdown):
        return text
    line = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    line = re.sub(r"([\\`*|~$])", r"\\\1", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # inside a word it formats nothing
    line = re.sub(r"\](?=[(\[:])", r"\\]", line)  # the middle of a link
    return Markdown(re.sub(r"^(?=[#>])", r"\\", line))


def one_line(text: str) -> str:
    """Text on one line, with what cannot be printed as its code, such as ``\\x1b``."""
    return escaped(" ".join(text.split()))


def as_code(text: str) -> Markdown:
    """Text in the typeface of code, as long as it has no characters that end or break it."""
    line = one_line(text)
    return as_literal(line) if not line or set("`\\|") & set(line) else Markdown(f"`{line}`")


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells that are not Markdown yet are shown literally."""
    lines = ["| " + " | ".join(map(as_literal, row)) + " |" for row in table]
    return "\n".join([lines[0], "|" + " --- |" * len(table[0]), *lines[1:]])


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
