"""Nested mappings by the dotted keys that a command line names them with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(values: Any, at: str = "", *, between: str = ".") -> Iterator[tuple[str, Any]]:
    """``{"optim": {"lr": 1}}`` -> ``("optim.lr", 1)``; an empty mapping is a value itself.

    Args:
        values: nested mappings, or a value.
        at: the key under which they stand.
        between: what stands between the names of a key.
    """
    if not isinstance(values, Mapping) or not values:
        yield at, values
        return
    for key, value in values.items():
        yield from leaves(value, f"{at}{between}{key}" if at else str(key), between=between)
