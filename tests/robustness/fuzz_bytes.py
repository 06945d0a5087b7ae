"""Files that are damaged, or are no files, whatever their format."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

Mutation = Callable[[Path, random.Random], None]


def replace(path: Path, content: bytes) -> None:
    """Write a file anew: the cases share the study's files as hard links."""
    path.unlink()
    path.write_bytes(content)


def _empty(path: Path, rng: random.Random) -> None:
    replace(path, b"")


def _truncated(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    replace(path, content[: rng.randrange(1, max(2, len(content) - 8))])


def _flipped_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    replace(path, bytes(content))


def _noise(path: Path, rng: random.Random) -> None:
    replace(path, rng.randbytes(rng.randrange(1, 2000)))


def _zeros(path: Path, rng: random.Random) -> None:
    replace(path, bytes(len(path.read_bytes())))


def _missing(path: Path, rng: random.Random) -> None:
    path.unlink()


def _folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _broken_link(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _sparse(path: Path, rng: random.Random) -> None:
    """Three gigabytes of zeros that take no space on the disk."""
    replace(path, b"")
    os.truncate(path, 3 * 10**9)


# name -> (mutation, whether it must be refused; None leaves it to the reader)
ANY_FILE: dict[str, tuple[Mutation, bool | None]] = {
    "empty": (_empty, True),
    "truncated": (_truncated, None),
    "flipped bit": (_flipped_bit, None),
    "noise": (_noise, True),
    "zeros": (_zeros, True),
    "missing": (_missing, True),
    "a folder": (_folder, True),
    "a pipe": (_pipe, True),
    "a device": (_device, True),
    "broken link": (_broken_link, True),
    "3 GB": (_sparse, True),
}
