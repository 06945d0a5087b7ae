"""The tasks that ship with the project."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from spinevl.build.build import build
from spinevl.config.conf_dir import CONF_DIR
from spinevl.schema.task import Task


def official_tasks() -> dict[str, Task]:
    """Every task that ships with the project, by name, whatever is selected."""
    tasks: dict[str, Task] = {}
    for file in sorted((CONF_DIR / "task").glob("*.yaml")):
        loaded: Any = OmegaConf.to_container(OmegaConf.load(file))
        for name, node in loaded.items():
            tasks[str(name)] = build(node, Task, where=f"task.{name}")
    return tasks
