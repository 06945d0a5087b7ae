"""The jobs of a sweep, read from their folders, and the leaderboard made of them.

Every job leaves ``job.json`` and, once scored, ``metrics.json``. Reading them anew each time needs
no memory of earlier jobs, so jobs may run in any process and in any order.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from spinevl.io.files import write_bytes_atomic, write_text_atomic
from spinevl.jobs.status import JOB_FILE, read_status
from spinevl.report.leaderboard import Row, markdown, plot, table
from spinevl.report.metrics_file import read_metrics

log = logging.getLogger(__name__)


def write_leaderboard(sweep: Path) -> None:
    """Rebuild the leaderboard's three files; jobs that end at the same time take turns."""
    with FileLock(sweep / ".leaderboard.lock"):
        rows = read_rows(sweep)
        write_text_atomic(sweep / "leaderboard.md", markdown(rows))
        write_text_atomic(sweep / "leaderboard.csv", table(rows))
        try:
            write_bytes_atomic(sweep / "leaderboard.png", plot(rows))
        except ImportError as error:  # the tables do without a picture
            log.warning("no leaderboard.png: %s", error)


def read_rows(sweep: Path) -> list[Row]:
    """The sweep's jobs, best first; those without a score last, in the order they were started.

    A folder whose files cannot be read is passed over, so that one job hides no other.
    """
    rows = []
    for file in sweep.rglob(JOB_FILE):
        folder = file.parent
        if status := read_status(folder):
            score = read_metrics(folder) if status.status == "done" else None
            rows.append(Row(str(folder.relative_to(sweep)), score=score, **vars(status)))
    # a full score and one over fewer tasks do not compare: full ones first
    return sorted(
        (_over_seeds(row, rows) for row in rows),
        key=lambda r: (r.value is None, r.partial, -(r.value or 0.0), r.number, r.folder),
    )


def _over_seeds(row: Row, rows: Sequence[Row]) -> Row:
    """The row with mean and standard deviation over the scored jobs of the same setting."""
    if row.value is None:
        return row
    repeats = [one for one in rows if (one.setting, one.partial) == (row.setting, row.partial)]
    values = [one.value for one in repeats if one.value is not None]
    sd = statistics.stdev(values) if len(values) > 1 else None
    return replace(row, mean=statistics.fmean(values), sd=sd, repeats=len(values))
