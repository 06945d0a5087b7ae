"""The name of a sweep job's folder, which Hydra asks for while it composes."""

from __future__ import annotations

import hashlib
import re

_LONGEST_FOLDER = 100


def job_folder(number: int, overrides: str) -> str:
    """A sweep job's folder name ``{number}-{overrides}``; overrides are those that vary.

    Only ``[A-Za-z0-9._-]``, since brackets, commas and ``=`` break globs and overrides. Where two
    different overrides could read alike (other characters, or cut at 100), a hash tells them apart.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", re.sub(r"[\[\]]", "", overrides)).strip("-.")
    name = f"{number}-{readable}" if readable else str(number)
    plain = re.fullmatch(r"[A-Za-z0-9._=,+\[\]-]*", overrides) is not None
    if plain and len(name) <= _LONGEST_FOLDER:
        return name
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return f"{name[:_LONGEST_FOLDER].rstrip('-.')}-{digest}"
