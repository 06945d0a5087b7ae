"""``job.json``: how far a job of a sweep has come."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from spinevl.config.check import from_plain
from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object
from spinevl.schema.errors import UserError

JOB_FILE = "job.json"


@dataclass(frozen=True)
class JobStatus:
    """The content of ``job.json``.

    Attributes:
        number: the job's place in its sweep, from 0.
        overrides: the words of the command line that the job adds to its config.
        status: ``running``, ``done`` or ``failed``.
        error: why it failed, in one line.
        seconds: how long it ran; None while it does.
    """

    number: int
    overrides: tuple[str, ...]
    status: str = "running"
    error: str | None = None
    seconds: float | None = None


def write_status(out: Path, status: JobStatus) -> None:
    """Write ``job.json`` into a job's folder."""
    text = json.dumps(asdict(status), indent=2, ensure_ascii=False)
    write_text_atomic(out / JOB_FILE, f"{text}\n")


def read_status(folder: Path) -> JobStatus | None:
    """The status in a job's folder; None where ``job.json`` is absent or not ours."""
    try:
        content = read_json_object(folder / JOB_FILE)
        one = from_plain(JobStatus, content)
    except UserError:
        return None
    return replace(one, overrides=tuple(one.overrides))
