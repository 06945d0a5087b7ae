"""A leaderboard's rows as Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spinevl.io.csv_text import csv_cell
from spinevl.report.markdown import Markdown, as_code, as_literal, as_markdown, one_line
from spinevl.schema.score import Score

_BAD = ("failed", "unreadable")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over repeats of a job; None of one alone."""

    mean: float
    sd: float | None
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of the jobs that have a value; None where none has."""
        if not values:
            return None
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), sd, len(values))

    def __str__(self) -> str:
        spread = f" ± {self.sd:.3f}" if self.sd is not None else ""
        return f"{self.mean:.3f}{spread} (n={self.repeats})"


@dataclass(frozen=True)
class Row:
    """One job of a sweep.

    Attributes:
        folder: its name in the sweep folder.
        number, overrides, status, error, seconds: as in ``job.json``; the number is None, and the
            status ``unreadable``, where that cannot be read.
        score: the content of its ``metrics.json``; None where it has not been scored.
        dev: the dev score of its training; None where it trained nothing, or scored nothing.
        partial_dev: whether graded tasks are missing from ``dev``.
        over_seeds, score_over_seeds: of ``value`` and of the score, over the jobs of the same
            setting.
        identity: of the job, see jobs.identity; None where it could not run.
    """

    folder: str
    number: int | None
    overrides: tuple[str, ...]
    status: str
    error: str | None
    seconds: float | None
    score: Score | None = None
    dev: float | None = None
    partial_dev: bool = False
    over_seeds: Spread | None = None
    score_over_seeds: Spread | None = None
    identity: str | None = None

    @property
    def setting(self) -> tuple[str, ...]:
        """The overrides without the seed; jobs that share it are repeats of each other."""
        return tuple(one for one in self.overrides if not one.lstrip("+").startswith("seed="))

    @property
    def value(self) -> float | None:
        """What jobs are ranked by: the dev score, never that of test patients.

        A job that trains nothing has the score of the answers it was given.
        """
        on_test = self.score is not None and self.score.subset == "test"
        return self.scored if self.dev is None and not on_test else self.dev

    @property
    def scored(self) -> float | None:
        """The score, or the partial score where ``partial``; None where there is neither."""
        return self.score.value if self.score else None

    @property
    def partial(self) -> bool:
        """Whether graded tasks are missing from the scores."""
        return self.partial_dev or (self.score is not None and not self.score.complete)

    @property
    def tasks(self) -> Mapping[str, float | None]:
        """Task name -> its F1 or mean IoU."""
        return {name: one.value for name, one in self.score.tasks.items()} if self.score else {}


def markdown(rows: Sequence[Row]) -> str:
    """A row a job, best first; equal jobs share a rank."""
    tasks = _task_names(rows)
    common = _common(rows)
    dev = _has_dev(rows)
    ranked = [(row.partial, row.value) for row in rows]
    lines: list[list[str]] = [
        [
            *("rank", *(("dev score", "over seeds") if dev else ())),
            *(_score_name(rows), "95 %", "over seeds", *tasks, "overrides", "job", "status"),
        ]
    ]
    for row, key in zip(rows, ranked, strict=True):
        status = as_literal(row.status if not row.error else f"{row.status}: {row.error}")
        partial = " (partial)" if row.partial else ""
        ci95 = row.score.ci95 if row.score else None
        value = f"{_number(row.value)}{partial}" if row.value is not None else ""
        over = row.score_over_seeds if dev else row.over_seeds
        lines.append(
            [
                str(ranked.index(key) + 1) if row.value is not None else "",
                *((value, _text(row.over_seeds)) if dev else ()),
                f"{_number(row.scored)}{partial}" if row.scored is not None else "",
                f"{ci95.low:.3f} to {ci95.high:.3f}" if ci95 else "",
                _text(over),
                *[_number(row.tasks.get(task)) for task in tasks],
                Markdown(" ".join(as_code(one) for one in row.overrides if one not in common)),
                row.folder,
                status if row.status not in _BAD else Markdown(f"**{status}**"),
            ]
        )
    counts = Counter({"done": 0, "failed": 0, "running": 0})
    counts.update(row.status for row in rows)
    count = ", ".join(f"{number} {as_literal(status)}" for status, number in counts.items())
    shared = f" All with {' '.join(map(as_code, common))}." if common else ""
    note = "Over seeds: mean ± standard deviation."
    if dev:
        note = f"Ranked by the dev score; test patients choose nothing. {note}"
    if any(row.value is None and row.scored is not None for row in rows):
        only = "A job with a test score alone has no rank; report's subset=dev gives it one."
        note = f"{only} {note}"
    return f"# Leaderboard\n\nJobs: {count}. {note}{shared}\n\n{as_markdown(lines)}\n"


def table(rows: Sequence[Row]) -> str:
    """The same as CSV, a row a job, numbers unrounded; ``mean`` is of what is ranked."""
    tasks = _task_names(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = [
        "dev_score",
        "score",
        "partial_score",
        "ci95_low",
        "ci95_high",
        "mean",
        "sd",
        "seeds",
    ]
    numbers += ["score_mean", "score_sd", *tasks]
    writer.writerow(["job", "folder", "overrides", "status", *numbers, "seconds", "error"])
    for row in rows:
        score = (None, row.scored) if row.partial else (row.scored, None)
        ci95 = row.score.ci95 if row.score else None
        interval = (ci95.low, ci95.high) if ci95 else (None, None)
        over, scores = row.over_seeds, row.score_over_seeds
        spread = (over.mean, over.sd, over.repeats) if over else (None, None, 0)
        means = (scores.mean, scores.sd) if scores else (None, None)
        f1 = [row.tasks.get(task) for task in tasks]
        head = (row.number, row.folder, " ".join(row.overrides), row.status)
        values = [*head, row.dev, *score, *interval, *spread, *means, *f1, row.seconds, row.error]
        writer.writerow([csv_cell(one) for one in values])
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
    if all(row.value is None or row.value >= 0 for row in rows):
        axes.set_xlim(left=0)
    axes.set_xlabel(f"{'dev score' if _has_dev(rows) else _score_name(rows)} (dots: seeds)")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def _common(rows: Sequence[Row]) -> list[str]:
    """The overrides that every job has; a board of one setting keeps them as its name."""
    sets = [set(row.overrides) for row in rows]
    if len(sets) < 2:
        return []
    return [one for one in rows[0].overrides if all(one in overrides for overrides in sets)]


def _has_dev(rows: Sequence[Row]) -> bool:
    return any(row.dev is not None for row in rows)


def _score_name(rows: Sequence[Row]) -> str:
    scores = [row.score for row in rows if row.score is not None and row.score.value is not None]
    name = "partial_score" if scores and not any(one.complete for one in scores) else "score"
    subsets = {one.subset for one in scores}
    return f"{'test ' if subsets == {'test'} else ''}{name}"


def _task_names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.tasks))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _text(value: object) -> str:
    return "" if value is None else str(value)
