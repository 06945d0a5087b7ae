"""Whole folders or none: written beside, then put in their place in one step."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spinevl.io.files import writing
from spinevl.io.temporary import beside, remove, remove_leftovers


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write into, put there at the end; an old one is replaced.

    A reader, or a job killed at any moment, finds the old folder or the new one. Nothing is left
    where the writing fails. All files get the rights that the umask gives to new ones, since some
    libraries make theirs private.
    """
    folder = folder.resolve() if folder.is_symlink() else folder.absolute()
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        recovered(folder)
        remove_leftovers(folder.parent, of=folder.name)
        new = beside(folder)
        new.mkdir()
        try:
            yield new
            rights = new.stat().st_mode & 0o666
            for file in new.rglob("*"):
                if file.is_file() and file.stat().st_mode & 0o777 != rights:
                    file.chmod(rights)
            _put(new, folder)
        finally:
            remove(new)  # what failed, or the old folder, which has changed places with the new one


def recovered(folder: Path) -> Path:
    """The same folder, put back where a replacement was cut between its two renames.

    Whoever reads a folder that ``whole_folder`` writes asks for it with this.
    """
    old = _old(folder)
    if old.is_dir():
        if folder.exists():
            remove(old)
        else:
            with suppress(OSError):  # in a folder that cannot be written it stays away
                old.rename(folder)
    return folder


def recover_all(within: Path) -> None:
    """Put back every folder right below another whose replacement was cut."""
    for old in within.glob(".*.old"):
        recovered(within / old.name[1 : -len(".old")])


def _put(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``; an old one is found under the name of ``new`` or is gone."""
    for attempt in range(10):
        if folder.exists():
            if _exchange(new, folder):
                return
            # Two renames, where the file system cannot do it in one: between them the old folder
            # is found by recovered().
            remove(_old(folder))
            folder.rename(_old(folder))
        try:
            new.rename(folder)
        except OSError:  # a reader has put the old folder back in between, or another job its own
            if attempt == 9 or not folder.exists():
                raise
        else:
            remove(_old(folder))
            return


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    here, swap = -100, 2  # AT_FDCWD; RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS
    try:
        if sys.platform == "darwin":
            return libc.renamex_np(*names, swap) == 0
        return libc.renameat2(here, names[0], here, names[1], swap) == 0
    except AttributeError:
        return False


def _old(folder: Path) -> Path:
    folder = folder.absolute()
    return folder.with_name(f".{folder.name}.old") if folder.name else folder / ".old"
