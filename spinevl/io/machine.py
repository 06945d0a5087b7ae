"""What a machine does to a job: a full disk, a folder that cannot be written, too little memory.

Each is told in one line, with what to change. Whatever else goes wrong is a fault of ours and keeps
its stack.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from spinevl.schema.errors import UserError

_FIXES = {
    errno.ENOSPC: "make room (space or inodes), or name another folder",
    errno.EDQUOT: "make room, or name another folder",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.EIO: "the disk or the network drive fails; name another folder",
    errno.ESTALE: "the network drive was lost; start the same command again",
    errno.EMFILE: "raise the limit (ulimit -n), or lower trainer.num_workers",
    errno.ENFILE: "close other programs, or lower trainer.num_workers",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or name another folder",
    errno.ENAMETOOLONG: "name a folder with a shorter path",
    errno.EAGAIN: "the limit of processes is reached (ulimit -u); lower trainer.num_workers",
    errno.ENOMEM: "lower trainer.batch_patients, predict.batch_size or trainer.num_workers",
}
MEMORY_FIX = "lower trainer.batch_patients (and raise trainer.accumulate) or predict.batch_size"
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad_alloc|Cannot allocate memory"
    r"|ALLOC_FAILED"  # of cuBLAS and cuDNN
)
_LOADER = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)")


def machine_problem(error: BaseException, out: Path | None = None) -> str | None:
    """The line for an error that the machine caused, or one that such an error led to.

    Args:
        error: what was raised.
        out: the job's folder, to name where the system names no file.
    """
    for one in _chain(error):
        text = str(one)
        if isinstance(one, OSError) and one.errno in _FIXES:
            where = Path(os.fsdecode(one.filename)).absolute() if one.filename else out or "the job"
            return f"{where}: {os.strerror(one.errno)}; {_FIXES[one.errno]}"
        # safetensors and tokenizers, and errors that come from a loader process, say it as text
        code = re.search(r"(?:\(os error |\[Errno )(\d+)[)\]]", text)
        if code and int(code[1]) in _FIXES:
            number = int(code[1])
            return f"{out or 'the job'}: {os.strerror(number)}; {_FIXES[number]}"
        if said := _memory(one):
            return f"memory: {said}; {MEMORY_FIX}"
        if _LOADER.search(text):
            return (
                f"trainer.num_workers: {text.splitlines()[0].rstrip('.')}, for want of memory as a "
                "rule; lower trainer.num_workers or trainer.batch_patients"
            )
    return None


def out_of_memory(error: BaseException) -> str | None:
    """What was said as a device's memory ran out; None of any other error, and of a user's."""
    if isinstance(error, UserError):
        return None
    return next(filter(None, map(_memory, _chain(error))), None)


def _memory(error: BaseException) -> str | None:
    text = str(error)
    if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(text):
        return None
    first = (text.strip().splitlines() or ["out of memory"])[0]
    return first.rstrip(".")


def reason(error: BaseException, out: Path | None = None) -> str:
    """Why a job failed, in one line."""
    if isinstance(error, UserError):
        return error.problems[0]
    if line := machine_problem(error, out):
        return line
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__
