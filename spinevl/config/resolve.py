"""A composed config as plain values, its interpolations resolved one by one."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import Container, DictConfig, ListConfig, Node
from omegaconf.errors import OmegaConfBaseException

from spinevl.config.check import UNKNOWN


def resolved(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """The plain values of a config, and a line for each interpolation that has none.

    A value that cannot be had is ``UNKNOWN``; a value that must still be given stays ``???``.
    ``${hydra:...}`` has a value inside a job alone: outside of one it is ``UNKNOWN``, which is
    no problem.
    """
    problems: list[str] = []
    return _plain(cfg, problems), problems


def _plain(node: Any, problems: list[str]) -> Any:
    if isinstance(node, DictConfig):
        return {str(name): _value(node, name, problems) for name in node}
    return [_value(node, index, problems) for index in range(len(node))]


def _value(parent: Container, name: Any, problems: list[str]) -> Any:
    node: Any = parent._get_node(name)
    if node is None or node._is_none():
        return None
    raw = node._value()
    if isinstance(raw, Node):  # of a key that takes one of several types
        raw = raw._value()
    if not node._is_interpolation():
        if node._is_missing():
            return "???"
        return _plain(node, problems) if isinstance(node, Container) else raw
    if "${hydra:" in raw and not HydraConfig.initialized():
        return UNKNOWN
    try:
        found = parent[name]
    except (OmegaConfBaseException, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it refers to itself"
        problems.append(f"{node._get_full_key(None)}={raw}: {reason}")
        return UNKNOWN
    except Exception as error:  # a resolver's own
        problems.append(f"{node._get_full_key(None)}={raw}: {error}")
        return UNKNOWN
    return _plain(found, problems) if isinstance(found, (DictConfig, ListConfig)) else found
