"""Hydra callbacks: new folders for jobs that were given none, and the leaderboard of a sweep."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from spinevl.cli.failure import say, tell
from spinevl.cli.study import reopen
from spinevl.cli.sweep_plan import planned_jobs
from spinevl.jobs.owner import new_folder
from spinevl.jobs.sweep import write_leaderboard
from spinevl.jobs.sweep_folder import begin_sweep
from spinevl.jobs.sweep_run import log_leaderboard
from spinevl.schema.errors import UserError

if TYPE_CHECKING:
    from spinevl.cli.job import Job

# how a default folder is told from one that was given: it is named by the second
_BY_THE_SECOND = "${now:%Y-%m-%d_%H-%M-%S}"


def sweep_over(job: Job) -> None:
    """Name the task function, whose jobs are checked before a sweep begins."""
    _jobs[:] = [job]


_jobs: list[Job] = []


class NewFolder(Callback):
    """Makes the folder of a job or a sweep that is named by the time, before Hydra does.

    Jobs that start in the same second get different folders.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before a single job."""
        _new.clear()
        with suppress(OSError, OmegaConfBaseException):  # Hydra meets the same error, and raises it
            _note_new(Path(config.hydra.run.dir))
        _make_new(config.hydra.run)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before a sweep, whose jobs all take what is set here."""
        _make_new(config.hydra.sweep)


def _make_new(node: DictConfig) -> None:
    unresolved: Any = OmegaConf.to_container(node)
    if _BY_THE_SECOND in str(unresolved["dir"]):
        with suppress(OSError), read_write(node):  # Hydra meets the same error, and raises it
            _note_new(Path(node.dir).parent)
            node.dir = str(new_folder(Path(node.dir)))
            _new.append(Path(node.dir).resolve())


def _note_new(folder: Path) -> None:
    """Note a folder and those around it as far as they are not there yet."""
    folder = folder.resolve()
    _new.extend(one for one in (folder, *folder.parents) if not one.exists())


def remove_new(folder: Path) -> None:
    """Remove the folder of a job or a sweep that leaves nothing, and empty ones around it.

    Those that were there before stay.
    """
    folder = folder.resolve()
    with suppress(OSError):  # it is not empty
        for one in (folder, *folder.parents):
            if one not in _new:
                break
            one.rmdir()
            _log_no_more_to(one)


def _log_no_more_to(folder: Path) -> None:
    """What is told later has no file to go to."""
    root = logging.getLogger()
    for one in root.handlers[:]:
        if isinstance(one, logging.FileHandler) and Path(one.baseFilename).parent == folder:
            root.removeHandler(one)
            one.close()


_new: list[Path] = []


class Leaderboard(Callback):
    """Rebuilds the board from the job folders whenever a job ends.

    It needs no state: a parallel launcher calls it in the worker processes, and Hydra skips
    ``on_multirun_end`` once a job has failed.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before a single job, which has no board."""
        _started.clear()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called in the process of the command; see finish_leaderboard.

        Raises:
            SystemExit: a job cannot run, or the folder is no place for this sweep. Hydra passes
                other errors over.
        """
        folder = Path(config.hydra.sweep.dir).absolute()
        swept: Any = OmegaConf.to_container(
            OmegaConf.create(config.hydra.sweeper.get("params") or {})
        )
        command = [config.hydra.job.name, *config.hydra.overrides.task]
        command += [f"{key}={value}" for key, value in swept.items()]
        try:
            jobs = planned_jobs(config, _jobs[-1]) if _jobs else []
            begin_sweep(folder, command, jobs, say=say)
            reopen(config.hydra, say=say)
        except Exception as error:
            remove_new(folder)
            tell(error, folder)
            raise SystemExit(1) from None
        _started.append(folder)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Called in the job's process after every job, done or failed."""
        if config.hydra.mode == RunMode.MULTIRUN:
            write_leaderboard(Path(config.hydra.sweep.dir).absolute())


_started: list[Path] = []


def finish_leaderboard() -> None:
    """Rebuild the board of an interrupted sweep, for which Hydra calls nothing any more."""
    if _started and _started[-1].is_dir():
        write_leaderboard(_started[-1])


def log_sweep() -> None:
    """Log the board of the sweep that has ended, where its jobs are logged in W&B."""
    if _started and _started[-1].is_dir():
        try:
            log_leaderboard(_started[-1])
        except (UserError, OSError) as error:  # the sweep itself is done
            tell(error, _started[-1])
        finally:
            _started.clear()
