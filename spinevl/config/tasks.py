"""The tasks that a config selects, and those that ship with the project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from spinevl.build.build import build
from spinevl.config.conf_dir import CONF_DIR

if TYPE_CHECKING:
    from spinevl.schema.task import Task


def build_tasks(cfg: DictConfig) -> dict[str, Task]:
    """The selected tasks by name, in the order of the command line; ``cfg`` is the whole config."""
    trusted = list(cfg.get("trusted_targets", ()))
    return {str(name): build(node, trusted=trusted) for name, node in cfg.task.items()}


def official_tasks() -> dict[str, Task]:
    """Every task that ships with the project, by name, whatever is selected."""
    tasks: dict[str, Task] = {}
    for file in sorted((CONF_DIR / "task").glob("*.yaml")):
        loaded: Any = OmegaConf.load(file)
        tasks.update({str(name): build(node) for name, node in loaded.items()})
    return tasks
