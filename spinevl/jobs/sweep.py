"""The jobs of a sweep, read from their folders, and the leaderboard made of them.

Every job leaves ``job.json`` and, once scored, ``metrics.json``. Reading them anew each time needs
no memory of earlier jobs, so jobs may run in any process and in any order.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spinevl.io.files import write_bytes_atomic, write_text_atomic
from spinevl.io.temporary import remove_leftovers
from spinevl.jobs.owner import is_moved_aside
from spinevl.jobs.status import JOB_FILE, read_status
from spinevl.jobs.sweep_folder import BOARD, jobs_of, locked
from spinevl.report.leaderboard import Row, Spread, markdown, plot, table
from spinevl.report.metrics_file import METRICS_FILE, read_dev_score, read_metrics, was_tried

log = logging.getLogger(__name__)


def write_leaderboard(sweep: Path) -> None:
    """Rebuild the leaderboard's three files; jobs that end at the same time take turns."""
    with locked(sweep):
        remove_leftovers(sweep, locked=True)
        rows = read_rows(sweep)
        text, cells, picture = (sweep / name for name in BOARD)
        write_text_atomic(text, markdown(rows))
        write_text_atomic(cells, table(rows))
        try:
            write_bytes_atomic(picture, plot(rows))
        except ImportError as error:  # the tables do without a picture
            log.warning("no leaderboard.png: %s", error)


def read_rows(sweep: Path) -> list[Row]:
    """The sweep's jobs, best first; those without a score last, in the order they were started.

    What other sweeps have left in the folder is passed over, see jobs.sweep_folder. One whose files
    cannot be read is ``unreadable``, so that it hides no other.
    """
    found = [file.parent for file in sweep.rglob(JOB_FILE)]
    folders = jobs_of(sweep, [one for one in found if not is_moved_aside(one, sweep)])
    rows = [_row(one, sweep) for one in folders]
    # a full score and one over fewer tasks do not compare: full ones first
    return sorted(
        _over_seeds(rows),
        key=lambda r: (
            *(r.value is None, r.partial, -(r.value or 0.0)),
            *(r.number is None, r.number or 0, r.folder),
        ),
    )


def _row(folder: Path, sweep: Path) -> Row:
    name = str(folder.relative_to(sweep))
    status = read_status(folder)
    if status is None:
        return Row(name, None, (), "unreadable", f"{JOB_FILE} is not that of a job", None)
    told = (status.number, status.overrides, status.status, status.error, status.seconds)
    row = Row(name, *told, identity=status.identity)
    if row.status != "done":
        return row
    if was_tried(folder):
        return replace(row, error="only tried (debug), not ranked")
    score = read_metrics(folder)
    if score is None and (folder / METRICS_FILE).exists():
        return replace(row, status="unreadable", error=f"{METRICS_FILE} holds no scores")
    dev, partial = read_dev_score(folder)
    return replace(row, score=score, dev=dev, partial_dev=partial)


def _over_seeds(rows: Sequence[Row]) -> list[Row]:
    """The rows with mean and standard deviation over the scored jobs of the same setting.

    The same job in two folders counts once.
    """
    repeats: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        repeats[row.setting, row.partial].append(row)
    result = []
    for row in rows:
        once = {one.identity or one.folder: one for one in repeats[row.setting, row.partial]}
        same = list(once.values())
        values = [one.value for one in same if one.value is not None]
        scores = [one.scored for one in same if one.scored is not None]
        result.append(
            replace(
                row,
                over_seeds=Spread.of(values) if row.value is not None else None,
                score_over_seeds=Spread.of(scores) if row.scored is not None else None,
            )
        )
    return result
