"""The tasks of a study, built from their nodes, and those that ship with the project."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from spinevl.build.build import build
from spinevl.config.check import argument_problems
from spinevl.config.conf_dir import CONF_DIR
from spinevl.schema.errors import Problems, UserError
from spinevl.schema.task import Task


def build_tasks(
    nodes: Any, *, build: Callable[..., Task] = build, where: str = "task"
) -> dict[str, Task]:
    """The tasks of a config or of a checkpoint by name.

    Args:
        nodes: task name -> its node.
        build: ``build`` for a config, ``build_stored`` for a checkpoint, told what is trusted.
        where: the dotted place of the nodes, for messages.

    Raises:
        UserError: with every node that is no task, or is called otherwise than its task.
    """
    if not isinstance(nodes, Mapping):
        raise UserError(f"{where}: expected a mapping of tasks, found {type(nodes).__name__}")
    problems = Problems()
    tasks: dict[str, Task] = {}
    for name, node in nodes.items():
        at = f"{where}.{name}"
        wrong = argument_problems(Task, node, at=at) if isinstance(node, Mapping) else []
        problems.extend(wrong)
        with problems.collected():
            if wrong:
                continue
            tasks[name] = build(node, Task, where=at)
            if tasks[name].name != name:
                problems.add(f"{at}.name", str(name), tasks[name].name, "give both one name")
    problems.raise_any()
    return tasks


def official_tasks() -> dict[str, Task]:
    """Every task that ships with the project, by name, whatever is selected."""
    return dict(_official_tasks())


@cache
def _official_tasks() -> Mapping[str, Task]:
    tasks: dict[str, Task] = {}
    for file in sorted((CONF_DIR / "task").glob("*.yaml")):
        loaded: Any = OmegaConf.to_container(OmegaConf.load(file))
        tasks |= build_tasks(loaded)
    return tasks
