"""What makes two jobs the same: the resolved config and the files that it names."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from spinevl.io.hashing import sha256

# what only says where, or how fast; the results do not depend on it
_NO_MATTER = ("cache_dir", "logger", "trusted_targets", "feature_cache")
_NO_MATTER_IN_TRAINER = ("progress_bar", "num_workers")

# keys whose values name what a job reads; other values do where they have a slash in them
_INPUTS = frozenset(
    (
        *("labels", "boxes", "train_images", "test_images", "test_labels", "test_truth"),
        *("train", "dev", "test", "images", "path", "checkpoint", "records"),
        *("answers", "predictions", "train_labels"),
    )
)
_OUTPUTS = ("output_dir", "save_dir", "cache_dir")
_HASHED_BYTES = 2**24  # larger files are known by their size and the time of their last change
_MOST_FILES = 300_000


def identity(config: Mapping[str, Any], *, out: Path | None = None) -> str:
    """A job's identity, 16 hexadecimal digits.

    Of a small file the content counts; of a large one, and of the files in a folder (images, a
    checkpoint), the names, sizes and times of their last change.

    Args:
        config: the job's resolved config.
        out: the job's folder; a folder of inputs that contains it counts by its name alone, since
            it changes with every job.
    """
    decides = {key: value for key, value in config.items() if key not in _NO_MATTER}
    if isinstance(trainer := decides.get("trainer"), Mapping):
        decides["trainer"] = {k: v for k, v in trainer.items() if k not in _NO_MATTER_IN_TRAINER}
    files = {key: _content(path, out) for key, path in input_paths(decides)}
    text = json.dumps({"config": decides, "files": files}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def input_paths(config: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Path]]:
    """The dotted key and the path of every file and folder that a config names for reading."""
    for key, value in config.items():
        at = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping):
            yield from input_paths(value, at)
        elif isinstance(value, str) and (key in _INPUTS or "/" in value) and key not in _OUTPUTS:
            with suppress(OSError, ValueError, RuntimeError):  # a text and no path; no home folder
                path = Path(value).expanduser()
                if path.exists():
                    yield at, path


def _content(path: Path, out: Path | None) -> str:
    if path.is_file():
        return sha256(path) if path.stat().st_size <= _HASHED_BYTES else str(_stamp(path.stat()))
    if not path.is_dir() or (out and out.resolve().is_relative_to(path.resolve())):
        return ""
    digest = hashlib.sha256()
    for entry in islice(_files(path, ""), _MOST_FILES):
        digest.update(repr(entry).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(folder: Path, within: str) -> Iterator[tuple[str, Any]]:
    """The files below a folder in the order of their names; a linked folder counts by its time."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # whoever reads it says so
        return
    for entry in found:
        name = f"{within}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), name)
        else:
            with suppress(OSError):  # a link to nothing
                yield name, _stamp(entry.stat())


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns
