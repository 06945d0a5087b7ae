"""The account that a job keeps of itself in its folder: running, done, failed, interrupted."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from spinevl.data.built_records import MANIFEST
from spinevl.io.json_file import read_json_object
from spinevl.io.machine import reason
from spinevl.io.process import this_process
from spinevl.io.temporary import remove
from spinevl.jobs.provenance import code
from spinevl.jobs.status import JOB_FILE, JobStatus, read_status, size_of, write_status
from spinevl.report.metrics_file import KEPT_FOLDER, STATES_FOLDER

# a job is complete without them, so that they may be removed
_NO_RESULT = re.compile(
    rf"\..*|{re.escape(JOB_FILE)}|{STATES_FOLDER}|{KEPT_FOLDER}|log|.*\.(log|out|err)"
)


@contextmanager
def recorded(
    out: Path,
    config: Mapping[str, Any],
    *,
    identity: str | None,
    parts: Mapping[str, str] | None = None,
    number: int,
    overrides: tuple[str, ...],
    verb: str = "",
) -> Iterator[Callable[[float | None], float | None]]:
    """Write ``job.json`` at the start, and how the job has ended when everything else is written.

    Args:
        out: the job's folder, which it owns.
        config: of the job, resolved as far as it can be.
        identity: of the job; None where it cannot run.
        parts: of which the identity is made.
        number: of the job in its sweep.
        overrides: that it adds to its config.
        verb: what it does.

    Yields:
        A function that is given the value of the job, and returns it.
    """
    value: float | None = None

    def record(found: float | None) -> float | None:
        nonlocal value
        value = found
        return found

    begun = time.monotonic()
    status = JobStatus(
        number,
        overrides,
        identity=identity,
        parts=dict(parts or {}),
        code=code(),
        verb=verb,
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        **asdict(this_process()),
    )
    write_status(out, status)

    def end(how: str, error: str | None = None) -> None:
        seconds = round(time.monotonic() - begun, 1)
        noted = read_status(out)
        settled = noted.settled if noted else {}
        ended = replace(status, status=how, error=error, seconds=seconds, settled=settled)
        write_status(out, ended)

    try:
        yield record
    except KeyboardInterrupt:
        end("interrupted", "interrupted")
        raise
    except (Exception, SystemExit) as error:
        with suppress(OSError):  # a full disk has failed the job, and is what is told
            end("failed", reason(error, out))
        raise
    kept = value if value is not None and math.isfinite(value) else None
    results = _results(out, config)
    sizes = tuple(size_of(out / name) for name in results)
    status = replace(status, value=kept, results=results, sizes=sizes)
    end("done")
    remove(out / STATES_FOLDER)


def _results(out: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of what a job has left in its folder, and the paths of its files elsewhere."""
    names = sorted(one.name for one in out.iterdir() if not _NO_RESULT.fullmatch(one.name))
    if elsewhere := config.get("output_dir"):
        folder = Path(elsewhere).expanduser().absolute()
        if (out / MANIFEST).is_file():  # other builds may write there too
            written = [folder / name for name in read_json_object(out / MANIFEST)["outputs"]]
        else:
            written = sorted(one for one in folder.rglob("*") if one.is_file())
        names += map(str, written)
    return tuple(names)
