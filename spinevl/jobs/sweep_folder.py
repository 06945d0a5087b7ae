"""Which sweep a folder holds: ``sweep.json`` names its command, its jobs and their folders.

The same command goes on with its jobs. After another command only the jobs of that one are rows of
the leaderboard; a folder of the earlier sweep that it needs for the same job is taken over, one
that it needs for another job is moved aside as in jobs.owner, and all others stay as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from spinevl.config.check import from_plain
from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object
from spinevl.io.process import Process, is_alive, this_process
from spinevl.jobs.owner import is_moved_aside
from spinevl.jobs.status import JOB_FILE
from spinevl.schema.errors import UserError, refused

SWEEP_FILE = "sweep.json"
BOARD = (
    *("leaderboard.md", "leaderboard.csv", "leaderboard_jobs.csv"),
    *("leaderboard.tex", "leaderboard.png"),
)
_LOCK = ".leaderboard.lock"


@dataclass(frozen=True)
class Sweep:
    """The content of ``sweep.json``.

    Attributes:
        command: the verb and the words that make the sweep.
        jobs: the folder of each job that has begun, below the sweep's -> the job's number.
        planned: the overrides of each job by its number; none where they are chosen one by one.
        host, pid, start: the process of the command, see io.process.
    """

    command: list[str]
    jobs: dict[str, int] = field(default_factory=dict)
    planned: list[list[str]] = field(default_factory=list)
    host: str = ""
    pid: int = 0
    start: str = ""

    @property
    def not_begun(self) -> dict[int, tuple[str, ...]]:
        """The number of each job that has not begun -> its overrides."""
        begun = set(self.jobs.values())
        return {k: tuple(words) for k, words in enumerate(self.planned) if k not in begun}


def locked(folder: Path) -> FileLock:
    """The lock of a sweep's folder, for those who read and write what lies beside the jobs."""
    return FileLock(folder / _LOCK)


def read_sweep(folder: Path) -> Sweep | None:
    """The sweep in a folder; None where ``sweep.json`` is absent or not ours."""
    try:
        found: Sweep = from_plain(Sweep, read_json_object(folder / SWEEP_FILE))
    except UserError:
        return None
    return found


def begin_sweep(
    folder: Path,
    command: Sequence[str],
    planned: Sequence[Sequence[str]] = (),
    *,
    say: Callable[[str], object],
) -> None:
    """Begin a sweep in a folder, or go on with it.

    Args:
        folder: of the sweep, made where it is not there.
        command: the verb and the words that make the sweep.
        planned: the overrides of its jobs, see Sweep.
        say: is told in a line what happens to an earlier sweep's jobs.

    Raises:
        UserError: another command is sweeping there, or a file that is no sweep's has the name of
            one that the sweep would write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        earlier = read_sweep(folder)
        fix = "name another hydra.sweep.dir"
        if earlier is None and next(folder.rglob(JOB_FILE), None) is None:
            for name in (SWEEP_FILE, *BOARD):
                if (folder / name).exists():
                    raise refused(f"{folder}", "a folder of a sweep, or a new one", name, fix)
        me = this_process()
        if earlier is not None:
            before = Process(earlier.host, earlier.pid, earlier.start)
            if before not in (me, Process("", 0)) and before.host == me.host and is_alive(before):
                found = f"one that runs in process {before.pid}"
                raise refused(f"{folder}", "a folder that no sweep is using", found, fix)
        same = earlier is not None and earlier.command == list(command)
        jobs = dict(earlier.jobs) if earlier and same else {}
        if earlier and not same and earlier.jobs:
            say(
                f"{folder}: it holds {len(earlier.jobs)} jobs of another sweep "
                f"({' '.join(earlier.command)}); the leaderboard has only the jobs of this one"
            )
        _write(folder, Sweep(list(command), jobs, [*map(list, planned)], **asdict(me)))


def join_sweep(folder: Path, job: Path, number: int) -> None:
    """Name a job's folder as one of the sweep's, before the job takes it.

    Raises:
        UserError: another job of the sweep has it.
    """
    with locked(folder):
        if (sweep := read_sweep(folder)) is None:
            return
        name = _name(job, folder)
        if (other := sweep.jobs.get(name, number)) != number:
            raise refused(
                f"hydra.sweep.subdir: {job}",
                "a folder for each job",
                f"that of job {other} for job {number} too",
                "leave it out, or put ${hydra.job.num} into it",
            )
        _write(folder, replace(sweep, jobs={**sweep.jobs, name: number}))


def job_folders(folder: Path) -> dict[str, Path]:
    """The folders of the jobs of the sweep in ``folder`` by their names there.

    Where no sweep is told, these are all folders of jobs below it that were not moved aside.
    """
    if (sweep := read_sweep(folder)) is not None:
        return {name: folder / name for name in sweep.jobs}
    found = [file.parent for file in sorted(folder.rglob(JOB_FILE))]
    return {_name(one, folder): one for one in found if not is_moved_aside(one, folder)}


def _name(job: Path, folder: Path) -> str:
    return os.path.relpath(job, folder)


def _write(folder: Path, sweep: Sweep) -> None:
    text = json.dumps(asdict(sweep), indent=2, ensure_ascii=False)
    write_text_atomic(folder / SWEEP_FILE, f"{text}\n")
