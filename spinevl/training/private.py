"""What of patients and of this machine may leave it: ids and paths become hashes."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinevl.data.study_spec import PATHS

_KEY_FILE = "private_names.key"


class Names:
    """Ids and paths as a server is told them: hashed, or as they are.

    The hash has a key of its own that stays on this machine, in the cache, so that nobody who
    guesses an id can find it, and a patient has the same hash in all runs.

    Args:
        folder: of the key; None tells ids and paths as they are.
    """

    def __init__(self, folder: Path | None) -> None:
        self._key = None if folder is None else _key_in(folder)

    def of(self, name: str) -> str:
        """An id or a path."""
        if self._key is None:
            return name
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()[:12]

    def config(self, value: Any, key: str = "") -> Any:
        """A config without its paths, and without the names of files and folders that are there."""
        if isinstance(value, Mapping):
            return {name: self.config(one, str(name)) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.config(one, key) for one in value]
        return self.of(value) if isinstance(value, str) and is_path(value, key) else value


def is_path(value: str, key: str = "") -> bool:
    """Whether a value names a place on this machine: by its key, its form, or by being there."""
    if not value or key in ("_target_", "name", "group", "project", "entity", "job_type"):
        return False
    if key in PATHS or key.endswith("_dir") or value.startswith(("/", "~", "./", "../", "file:")):
        return True
    try:
        return ("/" in value or "\\" in value or key == "path") and Path(value).exists()
    except (OSError, ValueError):  # a text that is too long for a name
        return False


def _key_in(folder: Path) -> bytes:
    """The key of a folder; of jobs that start at the same time the first makes it."""
    file = folder / _KEY_FILE
    new = folder / f".{_KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    if not file.exists():
        new.touch(mode=0o600)
        new.write_bytes(secrets.token_bytes(32))
        try:
            os.link(new, file)
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return file.read_bytes()
