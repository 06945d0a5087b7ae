"""A leaderboard as tables of plain values: the settings, and the jobs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from spinevl.io.csv_text import csv_cell
from spinevl.report.leaderboard.rows import NOT_BEGUN, Spread
from spinevl.report.leaderboard.settings import Board, Setting

_COUNTED = ("done", "failed", "running", "interrupted")

# header and lines
Table = tuple[list[str], list[list[Any]]]


def setting_table(board: Board, *, tell: Callable[[str], str] = str) -> Table:
    """A line a setting, best first; ``dev_score`` and ``score`` are means over its jobs.

    Args:
        board: the leaderboard.
        tell: writes an override.
    """
    header = ["rank", "setting", *_spread("dev_score"), *_spread("score"), "subset", "partial"]
    header += ["ci95_low", "ci95_high", "difference", "difference_low", "difference_high"]
    header += ["difference_patients", "difference_repeats", "no_difference"]
    header += [name for task in board.tasks for name in (task, f"{task}_sd")]
    header += [f"controls_{name}" for name in board.controls]
    header += ["seconds", "tokens_per_second", "jobs", *_COUNTED, "not_begun", "other", "error"]
    header += ["verb"]
    lines = []
    for one in board.settings:
        name = " ".join(map(tell, one.overrides))
        lines.append([one.rank, name, *_numbers(one, board), one.verb])
    return header, lines


def _numbers(one: Setting, board: Board) -> list[Any]:
    """What follows the name of a setting."""
    scores = [row.score for row in one.counted if row.score]
    ci95, paired, counts = one.ci95, one.paired, one.statuses
    delta = paired.difference if paired else None
    line: list[Any] = [*_values(one.over(lambda row: row.dev)), *_values(one.scored)]
    line += [", ".join(sorted({one.subset for one in scores if one.subset})), one.partial]
    line += [ci95.low, ci95.high] if ci95 else [None, None]
    line += [delta.delta if delta else None]
    line += [delta.ci95.low, delta.ci95.high] if delta and delta.ci95 else [None, None]
    line += [paired.n_patients, paired.n_repeats] if paired else [None, None]
    line += [one.unpaired]
    for task in board.tasks:
        line += _values(one.task(task))[:2]
    line += [_values(one.control(name))[0] for name in board.controls]
    line += [one.mean(lambda row: row.seconds), one.mean(lambda row: row.tokens_per_second)]
    told = [counts.get(status, 0) for status in (*_COUNTED, NOT_BEGUN)]
    return [*line, len(one.jobs), *told, len(one.jobs) - sum(told), one.error]


def job_table(board: Board, *, tell: Callable[[str], str] = str) -> Table:
    """A line a job, in the order of their settings; see setting_table."""
    tasks, controls = board.tasks, board.controls
    header = ["job", "folder", "setting", "repeat", "overrides", "status"]
    header += ["dev_score", "score", "partial_score", "subset", "ci95_low", "ci95_high", *tasks]
    header += [f"controls_{name}" for name in controls]
    header += ["seconds", "tokens_per_second", "identity", "error", "verb"]
    lines = []
    for row in board.rows:
        words = (" ".join(map(tell, one)) for one in (row.setting, row.repeat, row.overrides))
        ci95 = row.score.ci95 if row.score else None
        line: list[Any] = [row.number, row.folder, *words, row.status, row.dev]
        line += [None, row.scored] if row.partial else [row.scored, None]
        line += [row.score.subset if row.score else None]
        line += [ci95.low, ci95.high] if ci95 else [None, None]
        line += [row.tasks.get(task) for task in tasks]
        line += [row.controls.get(name) for name in controls]
        lines.append([*line, row.seconds, row.tokens_per_second, row.identity, row.error, row.verb])
    return header, lines


def csv_text(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table as CSV, numbers unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([csv_cell(one) for one in header])
    writer.writerows([[csv_cell(one) for one in line] for line in lines])
    return text.getvalue()


def _spread(name: str) -> tuple[str, str, str]:
    return name, f"{name}_sd", f"{name}_n"


def _values(spread: Spread | None) -> tuple[float | None, float | None, int]:
    return (spread.mean, spread.sd, spread.n) if spread else (None, None, 0)
