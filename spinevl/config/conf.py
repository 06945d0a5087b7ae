"""The cache folder and the folders of sweep jobs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from omegaconf import DictConfig

from spinevl.build.build import build
from spinevl.config.conf_dir import CONF_DIR
from spinevl.config.options import SCHEMAS
from spinevl.config.tasks import build_tasks, official_tasks
from spinevl.schema.errors import Problem, UserError

__all__ = [
    "CONF_DIR",
    "VERBS",
    "build",
    "build_tasks",
    "cache_dir",
    "job_folder",
    "official_tasks",
]

VERBS = tuple(SCHEMAS)

_LONGEST_FOLDER = 100


def cache_dir(cfg: DictConfig) -> Path:
    """The cache folder of rendered images and features, made if need be; absolute."""
    folder = Path(cfg.cache_dir).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            Problem(f"cache_dir={cfg.cache_dir}", "a folder", reason, "name another")
        ) from error
    return folder


def job_folder(number: int, overrides: str) -> str:
    """A sweep job's folder name ``{number}-{overrides}``.

    Only ``[A-Za-z0-9._-]``, since brackets, commas and ``=`` break globs and overrides. Where two
    different overrides could read alike (other characters, or cut at 100), a hash tells them apart.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", re.sub(r"[\[\]]", "", overrides)).strip("-.")
    name = f"{number}-{readable}" if readable else str(number)
    plain = re.fullmatch(r"[A-Za-z0-9._=,\[\]-]*", overrides) is not None
    if plain and len(name) <= _LONGEST_FOLDER:
        return name
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return f"{name[:_LONGEST_FOLDER].rstrip('-.')}-{digest}"
