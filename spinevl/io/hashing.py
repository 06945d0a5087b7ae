"""Hashes that say whether files are the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from spinevl.io.regular_file import open_regular


def sha256(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal. Raises UserError where it is none."""
    with open_regular(path, expected="a file") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """The sha256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_names(names: Iterable[str]) -> str:
    """The sha256 of names, in whatever order."""
    return hashlib.sha256(json.dumps(sorted(names)).encode()).hexdigest()


def stamp(path: Path | os.DirEntry[str]) -> tuple[int, int]:
    """Size in bytes and time of the last change: what tells an edited file at once."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
