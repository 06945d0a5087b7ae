"""A leaderboard as a page of Markdown: the settings, what their numbers are, and the jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from spinevl.report.leaderboard.rows import Spread
from spinevl.report.leaderboard.settings import Board, Setting
from spinevl.report.markdown import Markdown, as_code, as_literal, as_markdown, shown_name
from spinevl.schema.errors import listed

_BAD = ("failed", "unreadable", "missing")
_MOST_NAMED = 3


def markdown(board: Board) -> str:
    """The page; settings with equal scores share a rank."""
    counts = ", ".join(f"{number} {as_literal(one)}" for one, number in board.statuses.items())
    shared = f" All with {' '.join(map(as_code, board.common))}." if board.common else ""
    parts = [
        f"# Leaderboard\n\nJobs: {counts}.{shared}",
        as_markdown(_settings(board)),
        "\n".join(f"- {one}" for one in _notes(board)),
        "## Jobs",
        as_markdown(_jobs(board)),
    ]
    return "\n\n".join(parts) + "\n"


def _settings(board: Board) -> list[list[str]]:
    controls = _own_controls(board)
    alone = any(one.ci95 for one in board.settings)
    mixed = len(board.patients) > 1
    paired = any(one.paired for one in board.settings)
    head = ["rank", "setting", *(["dev score"] if board.has_dev else []), board.score_name]
    head += ["scored on"] if mixed else []
    head += [*(["95 %"] if alone else []), *(["to the best"] if paired else [])]
    head += [*board.tasks, *map(shown_name, controls), "time", "tokens/s", "jobs"]
    lines = [head]
    for one in board.settings:
        setting = Markdown(" ".join(map(as_code, board.varied(one))) or board.unvaried)
        line = [f"{one.rank or ''}", setting]
        line += [_spread(one.value, one.partial)] if board.has_dev else []
        line.append(_spread(one.scored, one.partial))
        line += [one.patients] if mixed else []
        line += [_interval(one)] if alone else []
        line += [_difference(one)] if paired else []
        line += [_mean(one.task(task)) for task in board.tasks]
        line += [_mean(one.control(name)) for name in controls]
        speed = one.mean(lambda row: row.tokens_per_second)
        line += [_time(one.mean(lambda row: row.seconds)), "" if speed is None else f"{speed:.0f}"]
        lines.append([*line, _states(one)])
    return lines


def _states(setting: Setting) -> Markdown:
    """``2 done, 1 failed: why``"""
    told = []
    for status, count in setting.statuses.items():
        text = as_literal(f"{count} {status}")
        told.append(f"**{text}**" if status in _BAD else text)
    error = f": {as_literal(setting.error)}" if setting.error else ""
    return Markdown(", ".join(told) + error)


def _notes(board: Board) -> Iterator[str]:
    chosen = "dev score; test patients choose nothing" if board.has_dev else board.score_name
    ranked = f"Ranked by the {chosen}. " if any(one.rank for one in board.settings) else ""
    yield (
        f"{ranked}Scores are mean ± standard deviation over n jobs, which differ in seed and fold "
        "alone; F1s, controls, time and tokens/s are means."
    )
    unranked = [one for one in board.settings if one.rank is None and one.scored]
    if any(row.ranks for one in unranked for row in one.counted):
        yield "A job with a test score alone has no rank; report's subset=dev gives it one."
    if any(not row.ranks for one in unranked for row in one.counted):
        yield (
            "Only trainings are ranked, by their dev scores; those of other jobs stand beside them."
            if board.has_dev
            else "Nothing is ranked: the jobs are scored on different patients."
        )
    yield from _without_interval(board)
    for name, groups in board.outdated.items():
        jobs = " and ".join(
            f"job{'s' * (len(one) > 1)} {', '.join(str(row.number) for row in one)}"
            for one in groups
        )
        yield (
            f"**Not the same data**: {jobs} found different contents under {as_code(name)}, so "
            "their scores do not compare; the sweep's command runs those out of date again."
        )
    yield from _about_differences(board)
    own = _own_controls(board)
    if alike := [name for name in board.controls if name not in own]:
        first = next(one for one in board.settings if one.scored)
        values = [(shown_name(name), _mean(first.control(name))) for name in alike]
        told = ", ".join(f"{as_literal(name)} {value}" for name, value in values)
        yield f"Controls on the same patients, equal in all rows: {told}."


def _without_interval(board: Board) -> Iterator[str]:
    """Why scores of single jobs have no interval."""
    alone = (one.counted[0] for one in board.settings if len(one.counted) == 1 and not one.ci95)
    told = [row.score.notes.get("ci95") for row in alone if row.score and row.scored is not None]
    if reasons := dict.fromkeys(one for one in told if one):
        yield f"95 % intervals: {as_literal('; '.join(reasons))}."


def _about_differences(board: Board) -> Iterator[str]:
    if paired := [one.paired for one in board.settings if one.paired]:
        subsets = " and ".join(sorted({one.subset for one in paired}))
        numbers = sorted({one.n_patients for one in paired})
        count = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        yield (
            f"To the best: the {subsets} score minus that of the first row, on the same {count} "
            f"{subsets} patients, mean over the seeds and folds that both rows have. The 95 % "
            "interval is over patients (Bayesian bootstrap), not over seeds."
        )
    unpaired: dict[str, list[str]] = defaultdict(list)
    for one in board.settings:
        if one.unpaired:
            unpaired[one.unpaired].append(as_code(board.name(one)))
    for reason, names in unpaired.items():
        told = listed(names, most=_MOST_NAMED)
        yield f"No difference to the best: {told} ({as_literal(reason)})."


def _own_controls(board: Board) -> list[str]:
    """The controls that differ between settings; the others are told once."""
    found = []
    for name in board.controls:
        values = [_mean(one.control(name)) for one in board.settings if one.scored]
        if len(values) < 2 or len(set(values)) > 1:
            found.append(name)
    return found


def _mean(spread: Spread | None) -> str:
    return _number(spread.mean if spread else None)


def _difference(setting: Setting) -> str:
    if setting.rank == 1 and not setting.paired and not setting.unpaired:
        return "best"
    if setting.paired is None:
        return ""
    delta = setting.paired.difference
    ci95 = f" [{delta.ci95.low:+.3f}, {delta.ci95.high:+.3f}]" if delta.ci95 else ""
    return f"{delta.delta:+.3f}{ci95}"


def _interval(setting: Setting) -> str:
    ci95 = setting.ci95
    return f"{ci95.low:.3f} to {ci95.high:.3f}" if ci95 else ""


def _jobs(board: Board) -> list[list[str]]:
    dev = ["dev score"] if board.has_dev else []
    mixed = ["scored on"] if len(board.patients) > 1 else []
    head = ["job", "folder", "seed and fold", *dev, board.score_name, *mixed]
    lines: list[list[str]] = [[*head, "status", "time", "error"]]
    for row in board.rows:
        partial = " (partial)" if row.partial else ""
        status = as_literal(row.status)
        lines.append(
            [
                "" if row.number is None else str(row.number),
                row.folder,
                Markdown(" ".join(map(as_code, row.repeat))),
                *([_marked(row.value, partial)] if dev else []),
                _marked(row.scored, partial),
                *([row.patients] if mixed else []),
                Markdown(f"**{status}**") if row.status in _BAD else status,
                _time(row.seconds),
                row.error or "",
            ]
        )
    return lines


def _spread(spread: Spread | None, partial: bool) -> str:
    """``0.500 ± 0.141 (n=2)``"""
    if spread is None:
        return ""
    sd = f" ± {spread.sd:.3f}" if spread.sd is not None else ""
    return f"{spread.mean:.3f}{sd} ({'partial, ' if partial else ''}n={spread.n})"


def _marked(value: float | None, mark: str) -> str:
    return "" if value is None else f"{value:.3f}{mark}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
