"""The leaderboard of a sweep as tables in W&B: a run of its own in the sweep's group."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from spinevl.config.check import from_plain
from spinevl.config.options import WandbOptions
from spinevl.data.study_spec import StudySpec
from spinevl.jobs.folder import read_config
from spinevl.jobs.sweep import read_board
from spinevl.report.leaderboard.csv_files import Table, job_table, setting_table
from spinevl.schema.errors import UserError
from spinevl.training.private import Names
from spinevl.training.wandb_run import end_run, start_run

_LOCAL = (
    "folder",
    "identity",
    "error",
    "no_difference",
)  # columns that may name files and patients


def log_leaderboard(sweep: Path) -> None:
    """Log the board as it stands, where jobs of the sweep are logged in W&B.

    Args:
        sweep: the sweep's folder, where the files of the run go.
    """
    board = read_board(sweep)
    found = next((told for row in board.rows if (told := _options(sweep / row.folder))), None)
    if found is None:
        return
    options, cache = found
    names = Names(None if options.patients else StudySpec(cache_dir=cache).cache_folder())
    named = replace(options, name="leaderboard", job_type="leaderboard", tags=["leaderboard"])
    kept = f"board-{hashlib.sha256(str(sweep).encode()).hexdigest()[:12]}"  # also when continued
    run = start_run(named, out=sweep, config={}, names=names, run=kept)
    private = not options.patients
    run.log(
        {
            "leaderboard": _table(setting_table(board, tell=partial(_told, names)), private),
            "leaderboard_jobs": _table(job_table(board, tell=partial(_told, names)), private),
        }
    )
    end_run()


def _options(folder: Path) -> tuple[WandbOptions, str] | None:
    """How a job was logged in W&B, and its cache; None where it was not."""
    try:
        config = read_config(folder)
        told = config["logger"]["wandb"]
        return (from_plain(WandbOptions, told), config["cache_dir"]) if told else None
    except (UserError, KeyError, TypeError):  # a job that could not run, or of another verb
        return None


def _table(table: Table, private: bool) -> Any:
    """A table of W&B; columns that stay on this machine are left out."""
    import wandb

    header, lines = table
    kept = [k for k, name in enumerate(header) if not (private and name in _LOCAL)]
    data = [[line[k] for k in kept] for line in lines]
    return wandb.Table(columns=[header[k] for k in kept], data=data)


def _told(names: Names, override: str) -> str:
    """An override, whose value may be a path."""
    key, sign, value = override.partition("=")
    plain = value.strip("'\"")  # as Hydra quotes a path with a space
    told = names.config(plain, key.rpartition(".")[2])
    return f"{key}{sign}{value if told == plain else told}"
