"""``leaderboard.md``, ``.csv`` and ``.png`` of a sweep, rebuilt from its job folders.

Every job leaves ``job.json`` (its state) and, once scored, ``metrics.json``. Reading them anew
each time needs no memory of earlier jobs, so jobs may run in any process and in any order.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from spinevl.cli.job import JOB_FILE
from spinevl.io.files import write_bytes_atomic, write_text_atomic

log = logging.getLogger(__name__)


@dataclass
class Row:
    """One job of a sweep.

    Attributes:
        folder: its name in the sweep folder.
        setting: its overrides without the seed; jobs that share it are repeats of each other.
        value: ``score``, or ``partial_score`` where ``partial``; None where there is neither.
        mean, sd, repeats: over the finished jobs of the same setting; sd is the sample's.
    """

    number: int
    folder: str
    overrides: tuple[str, ...]
    status: str
    error: str
    seconds: float | None
    value: float | None = None
    partial: bool = False
    ci95: Sequence[float] | None = None
    tasks: dict[str, float | None] = field(default_factory=dict)
    mean: float | None = None
    sd: float | None = None
    repeats: int = 0

    @property
    def setting(self) -> tuple[str, ...]:
        """The overrides that are no seed."""
        return tuple(one for one in self.overrides if not one.startswith("seed="))


def write_leaderboard(sweep: Path) -> None:
    """Rebuild the three files of the sweep folder; jobs that end at once take turns."""
    with FileLock(sweep / ".leaderboard.lock"):
        rows = read_rows(sweep)
        write_text_atomic(sweep / "leaderboard.md", markdown(rows))
        write_text_atomic(sweep / "leaderboard.csv", table(rows))
        try:
            write_bytes_atomic(sweep / "leaderboard.png", plot(rows))
        except ImportError as error:  # the tables stand without a picture
            log.warning("no leaderboard.png: %s", error)


def read_rows(sweep: Path) -> list[Row]:
    """The sweep's jobs, best first; those without a score last, in the order they were started."""
    rows = [
        row for file in sweep.rglob(JOB_FILE) if (row := _row(file, file.parent.relative_to(sweep)))
    ]
    _over_seeds(rows)
    # a full score and one over fewer tasks do not compare: full ones first
    return sorted(
        rows, key=lambda r: (r.value is None, r.partial, -(r.value or 0.0), r.number, r.folder)
    )


def _row(file: Path, folder: Path) -> Row | None:
    state = _read(file)
    if state is None:
        return None
    row = Row(
        number=state["number"],
        folder=str(folder),
        overrides=tuple(state["overrides"]),
        status=state["status"],
        error=state["error"] or "",
        seconds=state["seconds"],
    )
    metrics = _read(file.parent / "metrics.json") if row.status == "done" else None
    if metrics is not None:
        row.partial = metrics.get("score") is None
        row.value = metrics.get("partial_score" if row.partial else "score")
        row.ci95 = metrics.get("ci95")
        for name, scores in metrics.items():
            if name != "controls" and isinstance(scores, dict) and {"f1", "mean_iou"} & set(scores):
                row.tasks[name] = scores.get("f1", scores.get("mean_iou"))
    return row


def _read(file: Path) -> dict[str, Any] | None:
    """The object in a file; None where it is absent or not ours, so that one job hides no other."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _over_seeds(rows: Sequence[Row]) -> None:
    groups: dict[tuple[tuple[str, ...], bool], list[Row]] = defaultdict(list)
    for row in rows:
        if row.value is not None:
            groups[row.setting, row.partial].append(row)
    for group in groups.values():
        values = [row.value for row in group if row.value is not None]
        for row in group:
            row.mean, row.repeats = statistics.fmean(values), len(values)
            row.sd = statistics.stdev(values) if len(values) > 1 else None


def markdown(rows: Sequence[Row]) -> str:
    """A row a job, best first."""
    tasks = _task_names(rows)
    common = _common(rows)
    header = ["rank", _value_name(rows), "95 %", "over seeds", *tasks, "overrides", "job", "status"]
    lines = [header, ["---"] * len(header)]
    for rank, row in enumerate(rows, 1):
        status = row.status if not row.error else f"{row.status}: {row.error}"
        value = _number(row.value) + (" (partial)" if row.partial and row.value is not None else "")
        spread = f" ± {row.sd:.3f}" if row.sd is not None else ""
        over = f"{_number(row.mean)}{spread} (n={row.repeats})" if row.repeats else ""
        interval = f"{row.ci95[0]:.3f} to {row.ci95[1]:.3f}" if row.ci95 else ""
        cells = [
            str(rank) if row.value is not None else "",
            value,
            interval,
            over,
            *[_number(row.tasks.get(task)) for task in tasks],
            " ".join(f"`{one}`" for one in row.overrides if one not in common),
            row.folder,
            status if row.status != "failed" else f"**{status}**",
        ]
        lines.append([cell.replace("|", "\\|").replace("\n", " ") for cell in cells])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    done = sum(row.status == "done" for row in rows)
    failed = sum(row.status == "failed" for row in rows)
    count = f"{done} jobs done, {failed} failed, {len(rows) - done - failed} running."
    shared = f" All with {' '.join(f'`{one}`' for one in common)}." if common else ""
    note = "Over seeds: mean ± standard deviation."
    return f"# Leaderboard\n\n{count} {note}{shared}\n\n{body}\n"


def table(rows: Sequence[Row]) -> str:
    """The same as CSV, a row a job, numbers unrounded."""
    tasks = _task_names(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ["score", "partial_score", "ci95_low", "ci95_high", "mean", "sd", "seeds", *tasks]
    writer.writerow(["job", "folder", "overrides", "status", *numbers, "seconds", "error"])
    for row in rows:
        score = (None, row.value) if row.partial else (row.value, None)
        interval = row.ci95 or (None, None)
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
    names = [" ".join(o for o in setting if o not in common) for setting in settings]
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
    axes.set_yticks(range(len(names)), names)
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
