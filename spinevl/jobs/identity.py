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

from spinevl.config.options import PREDICT_NO_MATTER
from spinevl.data.study_spec import PATHS
from spinevl.io.files import expanded
from spinevl.io.hashing import sha256, stamp
from spinevl.io.json_file import read_json_list, read_json_object
from spinevl.schema.dotted import leaves
from spinevl.schema.errors import UserError, escaped, refused
from spinevl.schema.image_ref import MODALITIES

# what only says where, or how fast; the results do not depend on it
_NO_MATTER = ("cache_dir", "logger", "trusted_targets", "feature_cache", "resume")
_NO_MATTER_WITHIN = {
    "trainer": ("progress_bar", "num_workers", "save_every", "keep", "keep_best"),
    "predict": PREDICT_NO_MATTER,
}

# keys whose values name what a job reads; other values do where they have a slash in them
_INPUTS = (*PATHS, "path", "checkpoint", "records", "answers", "predictions", "train_labels")
_OUTPUTS = ("output_dir", "save_dir", "cache_dir")
# larger files are known by their size and the time of their last change, and so are all others once
# so many bytes were read, which takes about a second
_HASHED_BYTES = 2**24
_MOST_HASHED_BYTES = 2**29
_MOST_FILES = 300_000

_FILES = "the files of "
_LONGEST = 120  # of a value in a message


def identity(config: Mapping[str, Any], *, out: Path | None = None) -> str:
    """A job's identity, 16 hexadecimal digits, see identity_of and parts."""
    return identity_of(parts(config, out=out))


def identity_of(decisive: Mapping[str, str]) -> str:
    """The identity of the job that some parts make."""
    text = json.dumps(decisive, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parts(config: Mapping[str, Any], *, out: Path | None = None) -> dict[str, str]:
    """What decides a job's results: every dotted key with its value, and the files by their keys.

    Files count by their content: an image that was only touched or copied is the same. Large ones,
    and those beyond a total that is read in about a second, count by name, size and time of the
    last change.

    Args:
        config: the job's resolved config.
        out: the job's folder; a folder of inputs that contains it counts by its name alone, since
            it changes with every job.
    """
    decides = {key: value for key, value in config.items() if key not in _NO_MATTER}
    for group, keys in _NO_MATTER_WITHIN.items():
        if isinstance(options := decides.get(group), Mapping):
            decides[group] = {k: v for k, v in options.items() if k not in keys}
    result = {
        key: json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
        for key, value in leaves(decides)
    }
    contents = _Contents()
    for key, path in sorted(input_paths(decides)):
        result[f"{_FILES}{key}"] = contents.below(path, out)
    if shown := [(str(path), contents.of(path)) for path in _images(decides)]:
        result[f"{_FILES}data (images)"] = _digest(shown)
    return result


def named_files(parts: Mapping[str, str]) -> dict[str, str]:
    """What each key of a config that names a file or folder found there: ``key=path`` -> digest."""
    names = [key.removeprefix(_FILES) for key in parts if key.startswith(_FILES)]
    return {f"{key}={parts[key]}": parts[f"{_FILES}{key}"] for key in names if key in parts}


def differences(earlier: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """In what two jobs differ: ``seed (0, now 1)``, ``the files of data.labels``."""
    told = []
    for key in {**now, **earlier}:
        before, after = earlier.get(key, "absent"), now.get(key, "absent")
        if before != after:
            values = "" if key.startswith(_FILES) else f" ({before}, now {after})"
            told.append(escaped(f"{key}{values}", longest=_LONGEST))
    return told


def input_paths(config: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The dotted key and the path of every file and folder that a job is told to read.

    What is null in its config is as its checkpoint was trained, and so are these files.
    """
    yield from _named(config, "")
    yield from _named(as_trained(config), "checkpoint")


def absent_inputs(config: Mapping[str, Any]) -> list[str]:
    """A line for each file and folder that a job is told to read and that is not there."""
    from spinevl.models.source import HUB, checkpoint_folder

    lines: list[str] = []
    for at, value in leaves(config):
        key = at.rpartition(".")[2]
        if not isinstance(value, str) or key not in _INPUTS or key == "path":
            continue  # a path may be an id of the hub
        if key == "checkpoint" and value.startswith(HUB):
            continue
        try:
            path = checkpoint_folder(value) if key == "checkpoint" else expanded(value, at)
            if not path.exists():
                found = refused(f"{at}={value}", "a file or folder", "nothing", "check the path")
                lines += found.problems
        except UserError as error:
            lines += error.problems
        except OSError:  # told by whoever reads it
            continue
    return lines


def as_trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes that a checkpoint fills in, such as its data."""
    stored = None
    with suppress(UserError, OSError, ValueError, RuntimeError):  # told by whoever loads it
        folder = _checkpoint(str(config.get("checkpoint") or ""))
        stored = read_json_object(folder / "config.json").get("study")
    known = stored if config.get("checkpoint") and isinstance(stored, Mapping) else {}
    return {key: known[key] for key in known if key in config and not config[key]}


def _images(config: Mapping[str, Any]) -> Iterator[Path]:
    """The images that conversations name, where no folder of images is set."""
    data = {**config, **as_trained(config)}.get("data")
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
            # a text and no path; no home folder; a hub that cannot be reached
            with suppress(UserError, OSError, ValueError, RuntimeError):
                path = _checkpoint(value) if key == "checkpoint" else Path(value).expanduser()
                if path.exists():
                    yield at, path


def _checkpoint(name: str) -> Path:
    """The folder of a checkpoint; of the hub's, the downloaded one."""
    if ":" not in name:
        return Path(name).expanduser()
    # with torch, which takes seconds that build and evaluate do not need
    from spinevl.models.source import HUB, checkpoint_folder

    return checkpoint_folder(name) if name.startswith(HUB) else Path(name).expanduser()


class _Contents:
    """What files hold, of which no more than a total is read."""

    def __init__(self) -> None:
        self.left = _MOST_HASHED_BYTES

    def of(self, path: Path | os.DirEntry[str]) -> str | tuple[int, int] | None:
        """A file's digest, or its stamp; None for what is not there, or cannot be read."""
        known = _stamp(path)
        if known and known[0] <= min(_HASHED_BYTES, self.left):
            with suppress(OSError, UserError):  # told by whoever reads it
                digest = sha256(Path(path))
                self.left -= known[0]
                return digest
        return known

    def below(self, path: Path, out: Path | None) -> str:
        """The digest of a file, or of all that lie below a folder."""
        if path.is_file():
            return _digest(self.of(path))
        around = {_inode(one) for one in (out, *out.parents) if one.exists()} if out else set()
        files = islice(_files(path, "", around), _MOST_FILES)
        return _digest([(name, self.of(entry)) for name, entry in files])


def _stamp(path: Path | os.DirEntry[str]) -> tuple[int, int] | None:
    """None for what is not there, or cannot be read."""
    try:
        return stamp(path)
    except (OSError, ValueError):
        return None


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _files(
    folder: Path, within: str, seen: set[tuple[int, int]]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
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
            yield name, entry


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
