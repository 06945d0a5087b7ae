"""Whether reading kept features is faster than encoding images, as it was measured.

A small encoder on a fast GPU may beat a slow disk. A job that encodes many images and keeps their
features measures both; the jobs of the following week on such a device decide by it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object
from spinevl.models.half_speed import name_of
from spinevl.schema.errors import UserError

log = logging.getLogger(__name__)

_READS = 3
_VALID_SECONDS = 7 * 24 * 3600  # a disk that was busy once is measured again


@dataclass(frozen=True)
class Speed:
    """Seconds an image, at best.

    Attributes:
        encode: of encoding it with others, without loading it.
        read: of reading its features from the disk, and checking them.
    """

    encode: float
    read: float

    def keeping_pays(self, uses: int) -> bool:
        """Whether reading features once is faster than encoding an image for each of its uses."""
        return self.read <= uses * self.encode

    def write(self, folder: Path, device: torch.device) -> None:
        """Keep it beside the features of an encoder, in place of what was measured before."""
        file = _file(folder, device)
        try:
            file.parent.mkdir(exist_ok=True)
            write_text_atomic(file, json.dumps({"encode": self.encode, "read": self.read}))
        except OSError as error:
            log.warning("%s: %s; the speed of features is not kept", file, error.strerror)

    @staticmethod
    def measured(folder: Path, device: torch.device) -> Speed | None:
        """What was measured with such a device in the last week; None where nothing was."""
        file = _file(folder, device)
        try:
            if time.time() - file.stat().st_mtime > _VALID_SECONDS:
                return None
            told = read_json_object(file)
            speed = Speed(float(told["encode"]), float(told["read"]))
        except (OSError, UserError, KeyError, TypeError, ValueError):
            return None
        return speed if 0 < speed.encode < 3600 and 0 < speed.read < 3600 else None


def seconds_to_read(file: Path, read: Callable[[Path], object]) -> float:
    """The shortest time of several to read a file that the system was asked to forget.

    Args:
        file: what is read, whose bytes are on the disk.
        read: reads it.
    """
    found = []
    for _ in range(_READS):
        _forget(file)
        begun = time.perf_counter()
        read(file)
        found.append(time.perf_counter() - begun)
    return min(found)


def _forget(file: Path) -> None:
    """Ask the system to keep none of a file in memory; a file that lies there stays."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError), file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _file(folder: Path, device: torch.device) -> Path:
    digest = hashlib.sha256(name_of(device).encode()).hexdigest()[:16]
    return folder / "speed" / f"{digest}.json"
