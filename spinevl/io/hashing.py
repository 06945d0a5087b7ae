"""Hashes that say whether files are the same."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change: what tells an edited file at once."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
