"""The jobs of a sweep, read from their folders, and the leaderboard made of them.

Every job leaves ``job.json``, ``train.json`` where it trained, and, once scored, ``metrics.json``
and its answers. Reading them anew each time needs no memory of earlier jobs, so jobs may run in any
process and in any order, and the board can be made at any time.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from spinevl.io.files import write_bytes_atomic, write_text_atomic
from spinevl.io.temporary import remove_leftovers
from spinevl.jobs.identity import named_files
from spinevl.jobs.status import JOB_FILE, read_status
from spinevl.jobs.sweep_folder import BOARD, job_folders, locked, read_sweep
from spinevl.report.leaderboard.csv_files import csv_text, job_table, setting_table
from spinevl.report.leaderboard.latex import latex
from spinevl.report.leaderboard.markdown_page import markdown
from spinevl.report.leaderboard.picture import plot
from spinevl.report.leaderboard.rows import NOT_BEGUN, Row
from spinevl.report.leaderboard.settings import Board
from spinevl.report.metrics_file import (
    METRICS_FILE,
    read_dev_score,
    read_metrics,
    read_speed,
    was_tried,
)

log = logging.getLogger(__name__)


def write_leaderboard(sweep: Path) -> Board:
    """Rebuild the leaderboard's files; jobs that end at the same time take turns."""
    with locked(sweep):
        remove_leftovers(sweep, locked=True)
        board = read_board(sweep)
        page, settings, jobs, table, picture = (sweep / name for name in BOARD)
        write_text_atomic(page, markdown(board))
        write_text_atomic(settings, csv_text(*setting_table(board)))
        write_text_atomic(jobs, csv_text(*job_table(board)))
        write_text_atomic(table, latex(board))
        try:
            write_bytes_atomic(picture, plot(board))
        except ImportError as error:  # the tables do without a picture
            log.warning("no leaderboard.png: %s", error)
        return board


def read_board(sweep: Path) -> Board:
    """The sweep's jobs by their settings, best first.

    What other sweeps have left in the folder is passed over, see jobs.sweep_folder. A job whose
    files cannot be read is ``unreadable``, so that it hides no other.
    """
    from spinevl.jobs.sweep_answers import with_differences  # and numpy with it

    told = read_sweep(sweep)
    verb = told.command[0] if told and told.command else ""
    rows = [_row(name, folder, verb) for name, folder in job_folders(sweep).items()]
    for number, overrides in told.not_begun.items() if told else ():
        rows.append(Row("", number, overrides, NOT_BEGUN, None, None, verb=verb))
    board = Board.of(rows)
    return replace(board, settings=tuple(with_differences(board.settings, sweep)))


def _row(name: str, folder: Path, verb: str) -> Row:
    """A job's row; ``verb`` is that of its sweep."""
    status = read_status(folder)
    if status is None:
        if not (folder / JOB_FILE).exists():
            return Row(name, None, (), "missing", f"there is no {JOB_FILE}", None)
        return Row(name, None, (), "unreadable", f"{JOB_FILE} is not that of a job", None)
    error = None if status.error == status.status else status.error  # which says no more
    told = (status.number, status.overrides, status.status, error, status.seconds)
    files = named_files(status.parts)
    row = Row(name, *told, identity=status.identity, files=files, verb=status.verb or verb)
    if row.status != "done":
        return row
    if was_tried(folder):
        return replace(row, error="only tried (debug), not ranked")
    score = read_metrics(folder)
    if score is None and (folder / METRICS_FILE).exists():
        return replace(row, status="unreadable", error=f"{METRICS_FILE} holds no scores")
    dev, partial = read_dev_score(folder)
    speed = read_speed(folder)
    return replace(row, score=score, dev=dev, partial_dev=partial, tokens_per_second=speed)
