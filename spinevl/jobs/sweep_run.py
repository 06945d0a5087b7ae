"""The leaderboard of a sweep as a table in W&B: a run of its own in the sweep's group."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spinevl.config.check import from_plain
from spinevl.config.options import WandbOptions
from spinevl.data.study_spec import StudySpec
from spinevl.jobs.folder import read_config
from spinevl.jobs.sweep import read_rows
from spinevl.report.leaderboard import Row, table
from spinevl.schema.errors import UserError
from spinevl.training.private import Names
from spinevl.training.wandb_run import end_run, start_run

_LOCAL = ("folder", "error")  # columns that may name files and patients


def log_leaderboard(sweep: Path) -> None:
    """Log the board as it stands, where jobs of the sweep are logged in W&B.

    Args:
        sweep: the sweep's folder, where the files of the run go.
    """
    rows = read_rows(sweep)
    found = next((told for row in rows if (told := _options(sweep / row.folder))), None)
    if found is None:
        return
    import wandb

    options, cache = found
    names = Names(None if options.patients else StudySpec(cache_dir=cache).cache_folder())
    named = replace(options, name="leaderboard", job_type="leaderboard", tags=["leaderboard"])
    kept = f"board-{hashlib.sha256(str(sweep).encode()).hexdigest()[:12]}"  # also when continued
    run = start_run(named, out=sweep, config={}, names=names, run=kept)
    columns, data = _cells(rows, names, private=not options.patients)
    run.log({"leaderboard": wandb.Table(columns=columns, data=data)})
    end_run()


def _options(folder: Path) -> tuple[WandbOptions, str] | None:
    """How a job was logged in W&B, and its cache; None where it was not."""
    try:
        config = read_config(folder)
        told = config["logger"]["wandb"]
        return (from_plain(WandbOptions, told), config["cache_dir"]) if told else None
    except (UserError, KeyError, TypeError):  # a job that could not run, or of another verb
        return None


def _cells(
    rows: Sequence[Row], names: Names, *, private: bool
) -> tuple[list[str | int], list[list[Any]]]:
    header, *lines = csv.reader(io.StringIO(table(rows)))
    kept = [k for k, name in enumerate(header) if not (private and name in _LOCAL)]
    data = []
    for row, line in zip(rows, lines, strict=True):
        cells: list[Any] = [_number(cell) for cell in line]
        if "overrides" in header:
            cells[header.index("overrides")] = " ".join(_told(one, names) for one in row.overrides)
        data.append([cells[k] for k in kept])
    return [header[k] for k in kept], data


def _told(override: str, names: Names) -> str:
    key, sign, value = override.partition("=")
    return f"{key}{sign}{names.config(value, key.rpartition('.')[2])}"


def _number(cell: str) -> Any:
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell
