"""Whole files or none: written beside, then renamed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spinevl.io.temporary import beside, remove
from spinevl.schema.errors import refused


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash, never sees half of it."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = beside(path)
        try:
            with new.open("xb") as file:
                file.write(data)
            new.replace(path)
        except BaseException:
            remove(new)
            raise


def write_text_atomic(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8; see write_bytes_atomic."""
    write_bytes_atomic(path, text.encode("utf-8"))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name ``path`` in an error of the system that names no file, as a full disk's does not.

    Raises:
        OSError: of the system, or of safetensors, which has an error of its own for the same.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if type(error).__name__ != "SafetensorError" or code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def expanded(path: str | Path, key: str | None = None) -> Path:
    """A path with its ``~`` as the home directory.

    Args:
        path: as the user wrote it.
        key: the config key that holds it, for the message.

    Raises:
        UserError: there is no home directory, as in a container whose user has no entry.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        variables = "SPINEVL_CACHE_DIR or HOME" if key == "cache_dir" else "HOME"
        fix = f"set {variables}, or write the whole path"
        where = f"{key}={path}" if key else str(path)
        raise refused(where, "a home directory for ~", "none", fix) from error


def made_folder(name: str, key: str) -> Path:
    """The folder that a config key names, made if need be; absolute.

    Raises:
        UserError: it cannot be made, or not be written.
    """
    folder = expanded(name, key).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise refused(f"{key}={name}", "a folder", reason, "name another") from error
    if not os.access(folder, os.W_OK):
        fix = "change its permissions or name another"
        raise refused(f"{key}={name}", "a writable folder", "none", fix)
    return folder
