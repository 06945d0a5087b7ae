"""The Hydra callback that keeps a sweep's leaderboard up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from spinevl.jobs.sweep import write_leaderboard


class Leaderboard(Callback):
    """Rebuilds the board from the job folders whenever a job ends.

    It keeps no state: a parallel launcher calls it in the worker processes, and Hydra skips
    ``on_multirun_end`` once a job has failed.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Called in the job's process after every job, done or failed."""
        if config.hydra.mode == RunMode.MULTIRUN:
            write_leaderboard(Path(config.hydra.sweep.dir).absolute())
