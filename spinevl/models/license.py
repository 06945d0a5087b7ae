"""Under which licence a pretrained part is published, as far as its own files say."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

NOT_STATED = "not stated"
_MAX_BYTES = 2**20  # of a README.md


def license_of(node: Mapping[str, Any]) -> str:
    """The licence of a part: of its Python package, or of the README.md of its repository.

    The repository is looked for on this machine alone. Nothing is guessed: ``not stated`` where
    nothing is found, ``trained here`` for a part that began at random.
    """
    if path := node.get("path"):
        return _of_repository(str(path)) or NOT_STATED
    if package := node.get("package"):
        return _of_package(str(package)) or NOT_STATED
    return "trained here"


def _of_package(name: str) -> str | None:
    try:
        told = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    found = [told[key] for key in ("License-Expression", "License") if key in told]
    return _short(found[0]) if found else None


def _of_repository(path: str) -> str | None:
    from huggingface_hub import metadata_load, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from yaml import YAMLError

    file: Any = Path(path) / "README.md"
    if not Path(path).is_dir():
        with suppress(HFValidationError):  # a folder of the machine that trained
            file = try_to_load_from_cache(path, "README.md")
    front: Any = None
    with suppress(OSError, ValueError, TypeError, YAMLError):  # absent, or no front matter
        if Path(file).stat().st_size <= _MAX_BYTES:
            front = metadata_load(file)
    told = front.get("license") if isinstance(front, dict) else None
    if told == "other":  # the hub's word for a licence that it has no word for
        told = front.get("license_name") or front.get("license_link")
    return _short(told) if isinstance(told, str) else None


def _short(text: str) -> str | None:
    """The first line of a text; None of an empty one. Some packages give their whole licence."""
    lines = text.strip().splitlines()
    return lines[0][:80] if lines and lines[0].upper() != "UNKNOWN" else None
