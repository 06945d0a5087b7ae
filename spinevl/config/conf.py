"""Where the configs lie, what Hydra must know of us, and what is built from a config."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from spinevl.build import build as plain_build
from spinevl.build.trust import NOTHING, Trust
from spinevl.config.options import SCHEMAS
from spinevl.schema.errors import Problem, UserError
from spinevl.schema.task import Task

R = TypeVar("R")

__all__ = [
    "CONF_DIR",
    "VERBS",
    "build",
    "build_tasks",
    "cache_dir",
    "job_folder",
    "official_tasks",
    "register",
    "trust_of",
]

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


def trust_of(cfg: DictConfig) -> Trust:
    """What the command line trusts, from a whole config that was held against its words.

    ``compose`` and the command line's ``Job`` do that first (``Trust.refuse_untold``): from a
    config that went through neither, nothing may be built.
    """
    remote_code = OmegaConf.select(cfg, "llm.trust_remote_code") is True
    return Trust(tuple(cfg.get("trusted_targets", ())), remote_code)


def build(node: DictConfig, role: type[R], *, trust: Trust = NOTHING, **sizes: Any) -> R:
    """The object of a role that a composed node describes; see ``spinevl.build.build``."""
    where = str(node._get_full_key("") or "")
    plain = OmegaConf.to_container(node, resolve=True)
    return plain_build.build(plain, role, trust=trust, where=where, **sizes)


def build_tasks(cfg: DictConfig) -> dict[str, Task]:
    """The selected tasks by name, in the order of the command line; ``cfg`` is the whole config."""
    trust = trust_of(cfg)
    return {str(name): build(node, Task, trust=trust) for name, node in cfg.task.items()}


def official_tasks() -> dict[str, Task]:
    """Every task that ships with the project, by name, whatever is selected."""
    tasks: dict[str, Task] = {}
    for file in sorted((CONF_DIR / "task").glob("*.yaml")):
        loaded: Any = OmegaConf.load(file)
        tasks.update({str(name): build(node, Task) for name, node in loaded.items()})
    return tasks


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
