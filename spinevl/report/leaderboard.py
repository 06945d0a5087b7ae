"""A leaderboard's rows as Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import io
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spinevl.report.markdown import Markdown, as_code, as_literal, as_markdown, one_line
from spinevl.schema.score import Score


@dataclass(frozen=True)
class Row:
    """One job of a sweep.

    Attributes:
        folder: its name in the sweep folder.
        number, overrides, status, error, seconds: as in ``job.json``.
        score: the content of its ``metrics.json``; None where it has not been scored.
        mean, sd, repeats: over the finished jobs of the same setting; sd is the sample's.
    """

    folder: str
    number: int
    overrides: tuple[str, ...]
    status: str
    error: str | None
    seconds: float | None
    score: Score | None = None
    mean: float | None = None
    sd: float | None = None
    repeats: int = 0

    @property
    def setting(self) -> tuple[str, ...]:
        """The overrides without the seed; jobs that share it are repeats of each other."""
        return tuple(one for one in self.overrides if not one.startswith("seed="))

    @property
    def value(self) -> float | None:
        """The score, or the partial score where ``partial``; None where there is neither."""
        return self.score.value if self.score else None

    @property
    def partial(self) -> bool:
        """Whether graded tasks are missing from ``value``."""
        return self.score is not None and not self.score.complete

    @property
    def tasks(self) -> Mapping[str, float | None]:
        """Task name -> its F1 or mean IoU."""
        return {name: one.value for name, one in self.score.tasks.items()} if self.score else {}


def markdown(rows: Sequence[Row]) -> str:
    """A row a job, best first."""
    tasks = _task_names(rows)
    common = _common(rows)
    header = ["rank", _value_name(rows), "95 %", "over seeds", *tasks, "overrides", "job", "status"]
    lines = [header]
    for rank, row in enumerate(rows, 1):
        status = as_literal(row.status if not row.error else f"{row.status}: {row.error}")
        value = _number(row.value) + (" (partial)" if row.partial and row.value is not None else "")
        spread = f" ± {row.sd:.3f}" if row.sd is not None else ""
        over = f"{_number(row.mean)}{spread} (n={row.repeats})" if row.repeats else ""
        ci95 = row.score.ci95 if row.score else None
        cells = [
            str(rank) if row.value is not None else "",
            value,
            f"{ci95.low:.3f} to {ci95.high:.3f}" if ci95 else "",
            over,
            *[_number(row.tasks.get(task)) for task in tasks],
            Markdown(" ".join(as_code(one) for one in row.overrides if one not in common)),
            row.folder,
            status if row.status != "failed" else Markdown(f"**{status}**"),
        ]
        lines.append(cells)
    done = sum(row.status == "done" for row in rows)
    failed = sum(row.status == "failed" for row in rows)
    count = f"{done} jobs done, {failed} failed, {len(rows) - done - failed} running."
    shared = f" All with {' '.join(map(as_code, common))}." if common else ""
    note = "Over seeds: mean ± standard deviation."
    return f"# Leaderboard\n\n{count} {note}{shared}\n\n{as_markdown(lines)}\n"


def table(rows: Sequence[Row]) -> str:
    """The same as CSV, a row a job, numbers unrounded."""
    tasks = _task_names(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ["score", "partial_score", "ci95_low", "ci95_high", "mean", "sd", "seeds", *tasks]
    writer.writerow(["job", "folder", "overrides", "status", *numbers, "seconds", "error"])
    for row in rows:
        score = (None, row.value) if row.partial else (row.value, None)
        ci95 = row.score.ci95 if row.score else None
        interval = (ci95.low, ci95.high) if ci95 else (None, None)
        spread = (row.mean, row.sd, row.repeats)
        f1 = [row.tasks.get(task) for task in tasks]
        head = (row.number, row.folder, " ".join(row.overrides), row.status)
        writer.writerow([*head, *score, *interval, *spread, *f1, row.seconds, row.error])
    return text.getvalue()


def plot(rows: Sequence[Row]) -> bytes:
    """A PNG: a line a setting, best on top; dots are seeds, bars their mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: no global state
    from matplotlib.figure import Figure

    settings: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        settings[row.setting].append(row)
    common = _common(rows)
    names = [one_line(" ".join(o for o in setting if o not in common)) for setting in settings]
    names = [name or "(defaults)" for name in names]
    names = [name if len(name) <= 60 else name[:57] + "..." for name in names]
    figure = Figure(figsize=(8, 1.2 + 0.4 * max(1, len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, group in enumerate(settings.values()):
        values = [row.value for row in group if row.value is not None]
        if values:
            axes.barh(place, statistics.fmean(values), color="#9db4c0", height=0.6)
            axes.plot(values, [place] * len(values), "o", color="#253237", markersize=4)
        if failed := sum(row.status == "failed" for row in group):
            axes.annotate(f"{failed} failed", (0, place), (4, 0), textcoords="offset points",
                          va="center", color="#b23a48")  # fmt: skip
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{_value_name(rows)} (dots: seeds)")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def _common(rows: Sequence[Row]) -> list[str]:
    """The overrides that every job has; a board of one setting keeps them as its name."""
    sets = [set(row.overrides) for row in rows]
    if len(sets) < 2:
        return []
    return [one for one in rows[0].overrides if all(one in overrides for overrides in sets)]


def _value_name(rows: Sequence[Row]) -> str:
    scored = [row for row in rows if row.value is not None]
    return "partial_score" if scored and all(row.partial for row in scored) else "score"


def _task_names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.tasks))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
