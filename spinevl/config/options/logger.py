"""Options of the logger that a training has beside ``metrics.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from spinevl.config.keys import key


class LoggerKind(StrEnum):
    """``csv`` is ``OUT/metrics.csv`` alone, which every training writes."""

    csv = "csv"
    tensorboard = "tensorboard"
    wandb = "wandb"


_TAKES = {
    LoggerKind.csv: ("kind",),
    LoggerKind.tensorboard: ("kind", "name", "save_dir"),
    LoggerKind.wandb: ("kind", "name", "save_dir", "project", "offline", "group", "tags"),
}


@dataclass
class LoggerOptions:
    """A logger beside ``metrics.csv``."""

    kind: LoggerKind = key(
        LoggerKind.csv, help="csv (metrics.csv alone), tensorboard or wandb; the group sets it"
    )
    name: str | None = key(
        None,
        help="name of the run; null lets the logger choose",
        pattern=(r"(?!\.{1,2}$)[^/\\]+", "a name without / and \\"),
    )
    save_dir: str | None = key(None, help="folder of the logger's files; null is OUT")
    project: str = key("spinevl", help="W&B project (wandb)")
    offline: bool = key(False, help="write W&B files without sending them (wandb)")
    group: str | None = key(None, help="W&B group, such as the name of a sweep (wandb)")
    tags: list[str] = key([], help="W&B tags (wandb)")

    @staticmethod
    def contradictions(values: Mapping[str, Any]) -> Mapping[str, str]:
        """A key that the kind does not have would be passed over in silence."""
        kind = LoggerKind(values["kind"])
        default, choices = vars(LoggerOptions()), "|".join(LoggerKind)
        return {
            name: f"no value, since logger={kind} has no such key; choose logger={choices}"
            for name, value in values.items()
            if name not in _TAKES[kind] and value != default.get(name)
        }
