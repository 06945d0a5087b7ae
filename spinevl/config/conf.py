"""Where the configs lie, what Hydra must know of us, and what is built from a config."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from spinevl.build.build import build
from spinevl.config.options import SCHEMAS
from spinevl.schema.task import Task

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries conf/ inside the package; in the repository it lies beside it.
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"

VERBS = tuple(SCHEMAS)

_LONGEST_FOLDER = 100


def register() -> None:
    """Tell Hydra our schemas and resolvers; may be called again."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for verb, schema in SCHEMAS.items():
        store.store(name=f"_{verb}", node=schema, provider="spinevl")
    OmegaConf.register_new_resolver("spinevl.job_folder", job_folder, replace=True)


def official_tasks() -> dict[str, Task]:
    """Every task that ships with the project, by name, whatever is selected."""
    tasks: dict[str, Task] = {}
    for file in sorted((CONF_DIR / "task").glob("*.yaml")):
        loaded: Any = OmegaConf.to_container(OmegaConf.load(file))
        tasks.update({str(name): build(node, Task) for name, node in loaded.items()})
    return tasks


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
