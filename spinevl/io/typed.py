"""Dataclasses from plain JSON-ready data, and back."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from cattrs import Converter, transform_error

from spinevl.schema.errors import UserError

T = TypeVar("T")

_CONVERTER = Converter(forbid_extra_keys=True)


def structured(plain: Any, cls: type[T], *, where: str = "") -> T:
    """A dataclass, with the dataclasses and enums in it, from dicts and lists.

    Raises:
        UserError: keys missing or unknown, or values of another type, all of them.
    """
    try:
        return _CONVERTER.structure(plain, cls)
    except Exception as error:
        at = f"{where}: " if where else ""
        raise UserError([f"{at}{problem}" for problem in transform_error(error)]) from error


def to_json(plain: Any) -> str:
    """JSON text of what ``dataclasses.asdict`` gives."""
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
