"""Open a file that a user names; a pipe or a device, which a job would wait for, is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from spinevl.schema.errors import refused

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_BLOCK = 2**24


def open_regular(
    path: str | Path,
    *,
    expected: str,
    missing: str = "check the path",
    where: str | None = None,
) -> BufferedReader:
    """Open a regular file for reading, its links followed.

    Opening a named pipe would wait for someone to write into it, and a device may never end.

    Args:
        path: the file.
        expected: what it should hold, for messages.
        missing: what a user can do where it is not there.
        where: what messages name in place of the path, such as the record that names it.

    Raises:
        UserError: not there, no regular file, or not readable.
    """
    where = where or str(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        link = "a link to a file that is not there" if Path(path).is_symlink() else "no such file"
        raise refused(where, expected, link, missing) from None
    except (OSError, ValueError) as error:  # ValueError: characters that no path has
        found = getattr(error, "strerror", None) or str(error)
        raise refused(where, expected, found, "check the path and its permissions") from error
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        found = _KINDS.get(kind, "something else")
        raise refused(where, expected, found, "name a file")
    return os.fdopen(handle, "rb")


def read_regular(
    path: str | Path,
    *,
    expected: str,
    missing: str = "check the path",
    max_bytes: int | None = None,
    limit: str | None = None,
    too_large: str = "check what it holds",
    check: Callable[[bytes, int], None] | None = None,
) -> bytes:
    """The content of a regular file, see open_regular.

    Args:
        path, expected, missing: see open_regular.
        max_bytes: the largest size that is read.
        limit: what messages say of that size.
        too_large: what a user can do about a larger file.
        check: raises for a block of the content, given with the byte at which it begins, so that
            a large file of another kind is refused at its first block.

    Raises:
        UserError: see open_regular; also where it is too large, and what ``check`` raises.
    """
    with open_regular(path, expected=expected, missing=missing) as file:
        size = os.fstat(file.fileno()).st_size
        if max_bytes is not None and size > max_bytes:
            found = f"{size:,} bytes, more than {max_bytes:,}"
            wanted = f"{expected}, {limit}" if limit else expected
            raise refused(str(path), wanted, found, too_large)
        try:
            return file.read() if check is None else _checked(file, check)
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "out of memory"
            found = f"no readable file ({reason})"
            raise refused(str(path), expected, found, "check the disk") from error


def _checked(file: BufferedReader, check: Callable[[bytes, int], None]) -> bytes:
    content = bytearray()
    while block := file.read(_BLOCK):
        check(block, len(content))
        content += block
    return bytes(content)
