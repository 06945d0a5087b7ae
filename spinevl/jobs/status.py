"""``job.json``: whose results a folder holds, and how far the job has come.

It is written when a job starts and once more when it ends, after everything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from spinevl.config.check import from_plain
from spinevl.data.built_records import MANIFEST
from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object
from spinevl.io.process import Process, is_alive
from spinevl.schema.errors import UserError

JOB_FILE = "job.json"


@dataclass(frozen=True)
class JobStatus:
    """The content of ``job.json``.

    Attributes:
        number: the job's place in its sweep, from 0.
        overrides: the words of the command line that the job adds to its config.
        status: ``running``, ``done``, ``failed`` or ``interrupted``.
        error: why it failed or what interrupted it, in one line.
        seconds: how long it ran; None while it does.
        identity: what the job is, see jobs.identity; None for a config that could not be resolved.
        parts: what decides its results, of which the identity is made.
        code: version and commit of the package, and a digest of the user's own modules.
        started: date and time.
        host, pid, start: its process, see io.process.
        value: what its stage returned.
        settled: dotted key -> what ``auto`` came to on this machine.
        results: the files and folders that it left in its folder, or elsewhere.
        sizes: of ``results`` in bytes, -1 of folders.
        verb: what the job does; empty in files of earlier versions.
    """

    number: int
    overrides: tuple[str, ...]
    status: str = "running"
    error: str | None = None
    seconds: float | None = None
    identity: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    started: str | None = None
    host: str = ""
    pid: int = 0
    start: str = ""
    value: float | None = None
    settled: dict[str, str] = field(default_factory=dict)
    results: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    verb: str = ""

    def is_whole(self, folder: Path) -> bool:
        """Whether the job is done, and what it left in ``folder`` is there as it left it."""
        sizes = self.sizes if len(self.sizes) == len(self.results) else (-1,) * len(self.results)
        found = zip((folder / name for name in self.results), sizes, strict=True)
        return self.status == "done" and all(
            path.exists() and size in (-1, size_of(path)) for path, size in found
        )

    @property
    def never_ran(self) -> bool:
        """Whether its config could not be run, so that it has left nothing else."""
        return self.status == "failed" and self.identity is None


def size_of(result: Path) -> int:
    """The size of a file in bytes; -1 of anything else."""
    return result.stat().st_size if result.is_file() else -1


def write_status(out: Path, status: JobStatus) -> None:
    """Write ``job.json`` into a job's folder."""
    text = json.dumps(asdict(status), indent=2, ensure_ascii=False)
    write_text_atomic(out / JOB_FILE, f"{text}\n")


def note_settled(out: Path, settled: Mapping[str, str]) -> None:
    """Add what ``auto`` came to on this machine to the job's account, and to its manifest."""
    for file in (out / JOB_FILE, out / MANIFEST):
        if file.is_file():
            content = read_json_object(file)
            whole = {**content, "settled": {**content.get("settled", {}), **settled}}
            write_text_atomic(file, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def read_status(folder: Path) -> JobStatus | None:
    """The status in a job's folder; None where ``job.json`` is absent or not ours.

    A job whose process was killed could not say so: it is ``interrupted``.
    """
    try:
        content = read_json_object(folder / JOB_FILE)
        one = from_plain(JobStatus, content)
    except UserError:
        return None
    one = replace(
        one, overrides=tuple(one.overrides), results=tuple(one.results), sizes=tuple(one.sizes)
    )
    if one.status == "running" and one.pid and not is_alive(Process(one.host, one.pid, one.start)):
        return replace(one, status="interrupted", error="its process was killed")
    return one
