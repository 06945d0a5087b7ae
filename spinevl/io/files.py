"""Whole files or none: written beside, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spinevl.schema.errors import refused


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(beside).chmod(0o666 & ~_umask())  # mkstemp makes files private
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def write_text_atomic(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8; see write_bytes_atomic."""
    write_bytes_atomic(path, text.encode("utf-8"))


def made_folder(name: str, key: str) -> Path:
    """The folder that a config key names, made if need be; absolute.

    Raises:
        UserError: it cannot be made, or not be written.
    """
    folder = Path(name).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise refused(f"{key}={name}", "a folder", reason, "name another") from error
    if not os.access(folder, os.W_OK):
        fix = "change its permissions or name another"
        raise refused(f"{key}={name}", "a writable folder", "none", fix)
    return folder


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write into, renamed there at the end; an old one is replaced.

    Nothing is left where the writing fails. Files get the rights of any new file, since safetensors
    makes them private.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    beside.chmod(0o755)
    try:
        yield beside
        for file in beside.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~_umask())
        if folder.exists():
            old = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            beside.rename(folder)
            shutil.rmtree(old)
        else:
            beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
