"""The leaderboard of a sweep, at any time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.io.files import expanded
from spinevl.jobs.status import JOB_FILE
from spinevl.jobs.sweep import read_board, write_leaderboard
from spinevl.jobs.sweep_folder import SWEEP_FILE, job_folders, read_sweep
from spinevl.report.leaderboard.markdown_page import markdown
from spinevl.schema.errors import refused

log = logging.getLogger(__name__)


def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> None:
    """Write the leaderboard's files into the sweep's folder, and print its page.

    Where they cannot be written, and where jobs lie that no sweep has started, it is only printed.

    Raises:
        UserError: there are no jobs of a sweep.
    """
    config: Any = plain(cfg)
    wanted, fix = "the folder of a sweep", "write dir=FOLDER, its hydra.sweep.dir"
    if config["dir"] is None:
        raise refused("dir", wanted, "null", fix)
    folder = expanded(config["dir"], "dir").absolute()
    where = f"dir={config['dir']}"
    if not folder.is_dir():
        raise refused(where, wanted, "a file" if folder.exists() else "nothing", fix)
    started = read_sweep(folder) is not None
    if not started and ((folder / JOB_FILE).exists() or not job_folders(folder)):
        job = (folder / JOB_FILE).exists()
        raise refused(where, wanted, "that of a job" if job else "no jobs below it", fix)
    if not started:
        log.warning("%s: no %s of ours; no leaderboard is written there", folder, SWEEP_FILE)
        board = read_board(folder)
    else:
        try:
            board = write_leaderboard(folder)
        except OSError as error:
            log.warning("the leaderboard's files cannot be written: %s", error)
            board = read_board(folder)
    print(markdown(board), end="")
