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

from spinevl.data.study_spec import PATHS
from spinevl.io.files import expanded
from spinevl.io.hashing import sha256, stamp
from spinevl.io.json_file import read_json_list, read_json_object
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import MODALITIES

# what only says where, or how fast; the results do not depend on it
_NO_MATTER = ("cache_dir", "logger", "trusted_targets", "feature_cache")
_NO_MATTER_IN_TRAINER = ("progress_bar", "num_workers")

# keys whose values name what a job reads; other values do where they have a slash in them
_INPUTS = (*PATHS, "path", "checkpoint", "records", "answers", "predictions", "train_labels")
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
    shown = [(str(path), _stamp(path)) for path in _images(decides)]
    counts = {"config": decides, "files": files, "images": shown}
    text = json.dumps(counts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def input_paths(config: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The dotted key and the path of every file and folder that a job is told to read.

    What is null in its config is as its checkpoint was trained, and so are these files.
    """
    yield from _named(config, "")
    yield from _named(_as_trained(config), "checkpoint")


def _as_trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes that a checkpoint fills in, such as its data."""
    stored = None
    with suppress(UserError, OSError, ValueError, RuntimeError):  # told by whoever loads it
        folder = Path(str(config.get("checkpoint") or "")).expanduser()
        stored = read_json_object(folder / "config.json").get("study")
    known = stored if config.get("checkpoint") and isinstance(stored, Mapping) else {}
    return {key: known[key] for key in known if key in config and not config[key]}


def _images(config: Mapping[str, Any]) -> Iterator[Path]:
    """The images that conversations name, where no folder of images is set."""
    data = {**config, **_as_trained(config)}.get("data")
    if not isinstance(data, Mapping) or data.get("images"):
        return
    for subset in ("train", "dev", "test"):
        with suppress(UserError, AttributeError, TypeError):  # told by whoever reads them
            file = expanded(str(data.get(subset) or ""))
            for record in read_json_list(file, expected="conversations"):
                for modality in MODALITIES:
                    names = record.get(modality) or ()
                    for name in (names,) if isinstance(names, str) else names:
                        yield file.parent / name


def _named(config: Mapping[str, Any], where: str) -> Iterator[tuple[str, Path]]:
    for key, value in config.items():
        at = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping):
            yield from _named(value, at)
        elif isinstance(value, str) and (key in _INPUTS or "/" in value) and key not in _OUTPUTS:
            with suppress(OSError, ValueError, RuntimeError):  # a text and no path; no home folder
                path = Path(value).expanduser()
                if path.exists():
                    yield at, path


def _content(path: Path, out: Path | None) -> Any:
    if path.is_file():
        return sha256(path) if path.stat().st_size <= _HASHED_BYTES else stamp(path)
    digest = hashlib.sha256()
    around = {_inode(one) for one in (out, *out.parents) if one.exists()} if out else set()
    for entry in islice(_files(path, "", around), _MOST_FILES):
        digest.update(repr(entry).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(folder: Path, within: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, Any]]:
    """The files below a folder, in linked ones too, in the order of their names."""
    try:
        inode = _inode(folder)
        if inode in seen:
            return
        seen.add(inode)
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # whoever reads it says so
        return
    for entry in found:
        name = f"{within}/{entry.name}"
        if entry.is_dir():
            yield from _files(Path(entry.path), name, seen)
        else:
            yield name, _stamp(entry)


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _stamp(path: Path | os.DirEntry[str]) -> tuple[int, int] | None:
    """None for what is not there, or cannot be read."""
    try:
        return stamp(path)
    except (OSError, ValueError):
        return None
