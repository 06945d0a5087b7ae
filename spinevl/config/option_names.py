"""What a command line calls a part: the option of its group, for messages about checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from spinevl.config.conf_dir import CONF_DIR

# what tells the options of a group apart that have the same class; those of llm differ in the rest
_TOLD_BY = {"encoder": ("kind",), "llm": ("path", "package")}


def option_of(group: str, node: Mapping[str, Any]) -> str:
    """``encoder=tiny``: the shipped option that a part's node comes from.

    Where it is none of them: ``llm.path=NAME``, or ``connector._target_=CLASS``.
    """
    keys = ("_target_", *_TOLD_BY.get(group, ()))
    for file in sorted((CONF_DIR / group).glob("*.yaml")):
        known: Any = OmegaConf.to_container(OmegaConf.load(file))
        if all(known.get(key) == node.get(key) for key in keys):
            return f"{group}={file.stem}"
    key = "path" if group == "llm" and node.get("path") else "_target_"
    return f"{group}.{key}={node.get(key)}"
