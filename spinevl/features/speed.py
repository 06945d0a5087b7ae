"""Whether reading kept features is faster than encoding images, as it was measured.

A small encoder on a fast GPU may beat a slow disk. Each job that encodes images and keeps their
features measures both; the jobs that follow on such a machine decide by it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object
from spinevl.schema.errors import UserError

_READS = 3


@dataclass(frozen=True)
class Speed:
    """Seconds an image, at best.

    Attributes:
        encode: of encoding it with others, without loading it.
        read: of reading its features from the disk, and checking them.
    """

    encode: float
    read: float

    @property
    def keeping_pays(self) -> bool:
        """Whether reading is the faster way."""
        return self.read <= self.encode

    def write(self, folder: Path, device: torch.device) -> None:
        """Keep it beside the features of an encoder, in place of what was measured before.

        Raises:
            OSError: the folder cannot be written.
        """
        file = _file(folder, device)
        file.parent.mkdir(exist_ok=True)
        write_text_atomic(file, json.dumps({"encode": self.encode, "read": self.read}))

    @staticmethod
    def measured(folder: Path, device: torch.device) -> Speed | None:
        """What was measured with this device of this machine; None where nothing was."""
        try:
            told = read_json_object(_file(folder, device))
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
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _file(folder: Path, device: torch.device) -> Path:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    digest = hashlib.sha256(f"{platform.node()} {name}".encode()).hexdigest()[:16]
    return folder / "speed" / f"{digest}.json"
