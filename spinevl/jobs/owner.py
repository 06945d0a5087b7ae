"""Which job owns an output folder, and what happens to the files that were already there.

=====================================  ==========================================================
what lies in the folder                what the job does
=====================================  ==========================================================
nothing                                takes it
its own results, complete              nothing; the results stay as they are
its own results, cut                   goes on: a training from its last state, predictions from the
                                       answers so far; with resume=never it starts anew
another job's results                  moves them aside, ``FOLDER.old-1``, and takes the folder; a
                                       job that is told to read what is not there is refused
the account of a failed job alone      takes its place
files of no job                        nothing; it is refused
files that a running job writes        nothing; it is refused
=====================================  ==========================================================

A job whose config cannot be run replaces the account of one like it, and nothing else. Two jobs are
the same where their ``identity`` is. Another version of the code is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from spinevl.evaluation.answer_files import DEV_PREDICTIONS_FILE, PREDICTIONS_FILE
from spinevl.io.folders import recover_all
from spinevl.io.temporary import remove, remove_leftovers
from spinevl.jobs.identity import absent_inputs, differences, input_paths, parts
from spinevl.jobs.provenance import code
from spinevl.jobs.status import JOB_FILE, JobStatus, read_status
from spinevl.report.metrics_file import CURVE_FILE, METRICS_FILE, STATES_FOLDER, TRAIN_FILE
from spinevl.schema.errors import UserError, refused
from spinevl.training.loggers import TENSORBOARD

LOCK = ".job.lock"

# what a job leaves at its end, which an unfinished one must not show; answers so far stay, and the
# checkpoint until a training that starts anew has one
_AT_THE_END = (
    *("report.html", "answers.json", "conversations.json"),
    *(PREDICTIONS_FILE, DEV_PREDICTIONS_FILE, METRICS_FILE),
)
# what a training goes on with; without a state it starts anew
_OF_A_TRAINING = (TRAIN_FILE, CURVE_FILE, TENSORBOARD)
_SO_FAR = (STATES_FOLDER, ".predictions.*.jsonl")
# what makes a folder a job's, and what counts for nothing
_OF_A_JOB = ("job_config.json", "manifest.json", "train_spec.json")
_NOTHING = re.compile(r"\.job\.lock|\.gitkeep|\.DS_Store|lost\+found|log|.*\.(log|out|err)")
_ASIDE = re.compile(r".*\.old-\d+")

Say = Callable[[str], object]


def new_folder(wanted: Path) -> Path:
    """Make a folder that was not there: ``wanted``, or the first of ``wanted_2``, ``_3``...

    Of jobs that ask for the same one at the same time each gets its own.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("unreachable")


def is_moved_aside(folder: Path, within: Path) -> bool:
    """Whether a folder below ``within`` holds results that another job has moved aside."""
    return any(_ASIDE.fullmatch(part) for part in folder.relative_to(within).parts)


@contextmanager
def owned(
    out: Path, config: Mapping[str, Any], *, identity: str | None, say: Say
) -> Iterator[JobStatus | None]:
    """Own a folder for as long as this lasts; the lock goes with the process.

    Args:
        out: the folder, made where it is not there.
        config: of the job, resolved as far as it can be.
        identity: of the job, see jobs.identity; None where it cannot run. Such a job takes the
            place of none but its like.
        say: is told in a line what happened to files that were there.

    Yields:
        None where the job may write; otherwise the status of the job whose results stay as they
        are: the same job's, complete, or any job's where this one cannot run.

    Raises:
        UserError: the folder is another's, see above.
    """
    while True:
        lock, moved = _locked(out), False
        try:
            remove_leftovers(out, locked=True)
            recover_all(out)
            earlier = read_status(out)
            if earlier and identity is None:
                yield None if earlier.never_ran else earlier
                return
            if earlier and earlier.identity == identity:
                yield _resumed(out, earlier, say, anew=config.get("resume") == "never")
                return
            if not _is_empty(out) and not (earlier and _left_nothing(out, earlier)):
                _move_aside(out, config, say)
                moved = True
                continue
            if identity is not None:
                _tell_of_same(out, identity, say)
            yield None
            return
        finally:
            if not moved:  # else another job may have made the folder anew, with a lock of its own
                with suppress(OSError):
                    (out / LOCK).unlink(missing_ok=True)
            lock.release()


def _locked(out: Path) -> FileLock:
    """The folder's lock, which no other process has."""
    if out.exists() and not out.is_dir():
        raise refused(f"{out}", "a folder for the job", "a file", "name another hydra.run.dir")
    while True:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        try:
            lock.acquire(timeout=0.2, poll_interval=0.05)
        except Timeout:
            raise _running(out) from None
        if (out / LOCK).exists():  # it was not moved aside, or removed, before we had it
            return lock
        lock.release()


def _running(out: Path) -> UserError:
    status = read_status(out)
    who = f"a job that runs in process {status.pid} of {status.host}" if status else "a job"
    fix = "wait for its end, or name another hydra.run.dir"
    return refused(f"{out}", "a folder that no job is using", who, fix)


def _resumed(out: Path, earlier: JobStatus, say: Say, *, anew: bool) -> JobStatus | None:
    """The status where the job is complete; otherwise make the folder ready to go on, or anew."""
    if earlier.code != code():
        say(f"{out}: this job was begun by spinevl {earlier.code}, and this is {code()}")
    if earlier.is_whole(out):
        remove(out / STATES_FOLDER)
        return earlier
    so_far = [path for pattern in _SO_FAR for path in out.glob(pattern)]
    for path in so_far if anew else ():
        remove(path)
    kept = () if (out / STATES_FOLDER).is_dir() else _OF_A_TRAINING
    for name in (*_AT_THE_END, *kept):
        remove(out / name)
    how = "starts anew (resume=never)" if anew else "goes on from what it has so far"
    how = how if so_far or anew else "starts again"
    say(f"{out}: the same job was here and is not complete ({earlier.status}); it {how}")
    return None


def _is_empty(out: Path) -> bool:
    return all(_NOTHING.fullmatch(one.name) for one in out.iterdir())


def _left_nothing(out: Path, earlier: JobStatus) -> bool:
    """Whether a job has failed before there was anything but its account."""
    account = (JOB_FILE, "job_config.json")
    names = [one.name for one in out.iterdir() if not _NOTHING.fullmatch(one.name)]
    return earlier.status == "failed" and all(name in account for name in names)


def _tell_of_same(out: Path, identity: str, say: Say) -> None:
    """Say where results of this very job were moved aside, before it begins anew."""
    for aside in sorted(out.parent.glob(f"{escape(out.name)}.old-*")):
        if (status := read_status(aside)) and status.identity == identity:
            say(
                f"{aside}: it holds this very job ({status.status}), which begins anew in {out}; "
                "to use it instead, stop this job and move that folder back in its place"
            )


def _move_aside(out: Path, config: Mapping[str, Any], say: Say) -> None:
    """Rename a folder that holds another job's results.

    Raises:
        UserError: it holds none, something that this job reads, or a folder below it that a job is
            using; or what this job reads is not there. It stays as it is.
    """
    if absent := absent_inputs(config):
        raise UserError(absent)
    fix = "name another hydra.run.dir"
    earlier, changed = read_status(out), ""
    if earlier and earlier.parts:
        changed = "; they differ in " + _some(differences(earlier.parts, parts(config, out=out)))
    if out.is_symlink() or Path.cwd().is_relative_to(out.resolve()):
        what = "a link to a folder" if out.is_symlink() else "the working directory"
        found = f"{what} with results of another job, which cannot be moved aside"
        raise refused(f"{out}", "a folder for this job", found, fix)
    if earlier is None and not any((out / name).exists() for name in _OF_A_JOB):
        names = sorted(one.name for one in out.iterdir() if not _NOTHING.fullmatch(one.name))
        raise refused(f"{out}", "a new or empty folder, or one of a job", _some(names), fix)
    inside = [*input_paths(config)]
    if cache := config.get("cache_dir"):
        inside.append(("cache_dir", Path(str(cache))))
    for key, path in inside:
        if path.absolute().resolve().is_relative_to(out.resolve()):
            found = f"{key}={path}, and results of another job, which would be moved aside"
            raise refused(f"{out}", "a folder without what the job reads", found, fix)
    for lock in out.rglob(LOCK):
        if lock.parent != out:
            _locked(lock.parent).release()
    for number in count(1):
        aside = out.with_name(f"{out.name}.old-{number}")
        with suppress(FileExistsError):
            aside.mkdir()
            break
    try:
        out.rename(aside)  # onto the empty folder that is ours: no other job takes the same name
        (aside / LOCK).unlink(missing_ok=True)
    except OSError as error:
        aside.rmdir()
        found = f"results of another job, which cannot be moved aside ({error.strerror})"
        raise refused(f"{out}", "a folder for this job", found, fix) from error
    say(
        f"{out}: it held the results of a job with another config or other input files, which are "
        f"in {aside} now{changed}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
