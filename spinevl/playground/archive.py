"""A patient's images in a zip that anybody may have made.

Nothing is unpacked: the images that are asked for are read into memory, each up to a bound,
whatever the zip declares. Names only say which image an entry is.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import BinaryIO

from spinevl.io.regular_file import open_regular
from spinevl.schema.errors import UserError, escaped, refused
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.study_layout import StudyLayout

Slot = int | str
"""The number of a sagittal slice, or the level of an axial one."""

_MAX_LISTED = 10_000
_MAX_DIRECTORY_BYTES = 2**21
_END = b"PK\x05\x06"
_END_BYTES = 22
_ZIP64_LOCATOR = b"PK\x06\x07"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_EXPECTED = "a zip with one patient's images, such as id/sag/6.png"


def read_archive(
    path: Path,
    *,
    where: str,
    layout: StudyLayout,
    wanted: Sequence[Slot],
    max_bytes: int,
) -> dict[Slot, tuple[str, bytes]]:
    """The images of one patient: slot -> (name for messages, content).

    Args:
        path: the zip.
        where: its name for messages.
        layout: how its entries are named; the patient's folder may be left out.
        wanted: the images that are read; others are passed over.
        max_bytes: the most content, of all together.

    Raises:
        UserError: no zip, a damaged one, or one that no honest program writes: names that lead
            elsewhere, links, names that stand twice, several patients, more than the bounds.
    """
    with open_regular(path, expected=_EXPECTED, where=where) as file:
        try:
            _require_short_directory(file, where)
            with zipfile.ZipFile(file) as archive:
                entries = _entries(archive, where)
                chosen = _chosen(entries, layout, set(wanted), where)
                return _contents(archive, chosen, where, max_bytes)
        except UserError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error,
                NotImplementedError, RuntimeError) as error:  # fmt: skip
            reason = escaped(str(error) or type(error).__name__, longest=120)
            raise _refused(where, f"no whole zip ({reason})", fix="make it again") from error


def _require_short_directory(file: BinaryIO, where: str) -> None:
    """Refuse a list of entries that would take much memory, before it is read."""
    size = file.seek(0, 2)
    start = max(0, size - _END_BYTES - 2**16)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise _refused(where, "no zip, or one that is cut short", fix="make it again")
    *_, count, directory, _, _ = struct.unpack("<4s4H2LH", tail[at : at + _END_BYTES])
    if count > _MAX_LISTED or directory > _MAX_DIRECTORY_BYTES or _ZIP64_LOCATOR in tail[:at]:
        found = f"a list of {count:,} entries in {directory:,} bytes"
        raise _refused(where, found, f"a list of at most {_MAX_LISTED:,}", "zip one patient")
    file.seek(0)


def _entries(archive: zipfile.ZipFile, where: str) -> list[tuple[str, zipfile.ZipInfo]]:
    """The files of a zip by their names; raises for a name that could lead anywhere else."""
    seen: set[str] = set()
    result = []
    for info in archive.infolist():
        name = info.orig_filename if "\0" in info.orig_filename else info.filename
        told = f"the entry {escaped(name, longest=80)}"
        parts = name.rstrip("/").split("/")
        if not name.isprintable() or "\\" in name or ":" in name or name.startswith("/"):
            raise _refused(where, told, "names of files below the zip", "make it again")
        if any(part in ("", ".", "..") for part in parts):
            raise _refused(where, told, "names of files below the zip", "make it again")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(where, f"{told}, a link or no file", "files", "zip the files themselves")
        if info.is_dir() or kind == stat.S_IFDIR:
            continue
        if name.casefold() in seen:
            raise _refused(where, f"{told} twice", "each name once", "make it again")
        seen.add(name.casefold())
        if info.flag_bits & 0x1:
            raise _refused(where, f"{told}, with a password", "files without one", "make it again")
        if info.compress_type not in _METHODS:
            found = f"{told}, compressed by method {info.compress_type}"
            raise _refused(where, found, "stored or deflated files", "make it with another program")
        if not any(part.startswith((".", "__MACOSX")) for part in parts):  # what systems leave
            result.append((name, info))
    return result


def _chosen(
    entries: Sequence[tuple[str, zipfile.ZipInfo]],
    layout: StudyLayout,
    wanted: Collection[Slot],
    where: str,
) -> dict[Slot, zipfile.ZipInfo]:
    """The entries that show a wanted image of the one patient."""
    chosen: dict[Slot, zipfile.ZipInfo] = {}
    owners: dict[tuple[str, str], str] = {}
    for name, info in entries:
        spelled = name if layout.identify(name) else f"-/{name}"  # the folder is left out
        if (image := layout.identify(spelled)) is None:
            continue
        owners.setdefault((layout.root(spelled), image.patient), name)
        slot = slot_of(image)
        if slot in wanted and chosen.setdefault(slot, info) is not info and len(owners) == 1:
            raise _refused(where, f"{escaped(name, longest=80)} in two spellings", fix="drop one")
    if len(owners) > 1:
        found = " beside ".join(escaped(name, longest=80) for name in list(owners.values())[:2])
        raise _refused(where, found, fix="zip one patient")
    if not chosen:
        listed = ", ".join(escaped(name, longest=40) for name, _ in entries[:3]) or "no file"
        raise _refused(where, listed, fix="name the images so")
    return chosen


def _contents(
    archive: zipfile.ZipFile, chosen: dict[Slot, zipfile.ZipInfo], where: str, max_bytes: int
) -> dict[Slot, tuple[str, bytes]]:
    """Read the entries, in all no more than ``max_bytes``."""
    left = max_bytes
    result = {}
    for slot, info in chosen.items():
        told = f"{where}: {escaped(info.filename, longest=80)}"
        pieces = []
        with archive.open(info) as file:
            while piece := file.read(2**16):
                left -= len(piece)
                if left < 0:
                    found = f"more than {max_bytes:,} bytes when unpacked"
                    raise _refused(told, found, f"at most {max_bytes:,} bytes", "zip fewer")
                pieces.append(piece)
        result[slot] = (told, b"".join(pieces))
    return result


def _refused(
    where: str, found: str, expected: str = _EXPECTED, fix: str = "see the layout"
) -> UserError:
    return refused(where, expected, found, fix)


def slot_of(image: ImageRef) -> Slot:
    """Which of a patient's images it is."""
    return image.level or "" if image.slice is None else image.slice
