"""What is being written stands beside its place, under a name that tells which process writes it.

A job that is killed leaves it there. The next one that uses the place removes it.
"""

from __future__ import annotations

import re
import shutil
import uuid
import zlib
from pathlib import Path

from spinevl.io.process import Process, is_alive, this_process

_NAME = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d*)-[0-9a-f]{8}\.tmp")


def beside(path: Path) -> Path:
    """A new name beside ``path`` for what will be renamed there."""
    own = this_process()
    mark = f"{_short(own.host)}-{own.pid}-{own.start}-{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{path.name[:150]}.{mark}.tmp")


def remove_leftovers(folder: Path, *, of: str = "", locked: bool = False) -> None:
    """Remove from a folder what processes that no longer run were writing when they ended.

    Args:
        folder: where to look; not below it.
        of: only what was to become the file or folder of this name.
        locked: no other process can be writing there, so that those of other machines go too.
    """
    try:
        names = [one for one in folder.iterdir() if one.name.startswith(f".{of[:150]}")]
    except OSError:
        return
    own = this_process()
    for path in names:
        if not (found := _NAME.fullmatch(path.name)):
            continue
        here = found["host"] == _short(own.host)
        writer = Process(own.host, int(found["pid"]), found["start"])
        if writer != own and (locked or (here and not is_alive(writer))):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as the system lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return


def put_away(path: Path) -> None:
    """Remove a folder that others read: one that is removed by half has lost its name."""
    gone = beside(path)
    path.rename(gone)
    remove(gone)


def _short(host: str) -> str:
    return f"{zlib.crc32(host.encode()):08x}"
