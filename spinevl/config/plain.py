"""From a composed config to plain data, which everything below the stages works on."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config with its interpolations resolved, as dicts, lists, strings and numbers."""
    content: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    return content
