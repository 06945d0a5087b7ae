"""From a composed config to plain data, which everything below the stages works on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

plain: Callable[[DictConfig], Any] = partial(OmegaConf.to_container, resolve=True, enum_to_str=True)
"""The config with its interpolations resolved, as dicts, lists, strings and numbers."""
