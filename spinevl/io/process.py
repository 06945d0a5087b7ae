"""Which process made something, and whether it still runs."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process of a machine.

    Attributes:
        host: the machine and, where there is one, the container: ``name/4026531836``.
        pid: its number there.
        start: when it started, in the system's own count, since numbers are given again; empty
            where the system does not say.
    """

    host: str
    pid: int
    start: str = ""


def this_process() -> Process:
    """The process that asks."""
    return Process(_host(), os.getpid(), _start(os.getpid()))


def is_alive(process: Process) -> bool:
    """Whether it runs. On another machine that cannot be told: True."""
    if process.host != _host():
        return True
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's, which runs; or no process at all
        return process.pid < 2**31
    return not process.start or _start(process.pid) == process.start


def children(pid: int) -> list[int]:
    """The processes that a process of this machine has started and that still run; on Linux."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = entry.read_text("ascii", "replace").rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found.append(int(entry.parent.name))
    return found


def _host() -> str:
    namespace = ""
    with suppress(OSError):  # containers may share the name of their host, and not its processes
        namespace = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    return f"{socket.gethostname()}/{namespace}"


def _start(pid: int) -> str:
    """Field 22 of ``/proc/PID/stat``; empty for a zombie, which runs no more, and without it."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2]
    except OSError:
        return ""
    fields = after_name.split()
    return "" if fields[0] in "ZX" else fields[19]
