"""Annotations of options and constructors: whether a value fits one, and what it takes in words."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from spinevl.config.keys import Key

_LARGEST = 3.4028234663852886e38
"""The largest finite number in float32, in which models compute."""


def alternatives(hint: Any) -> tuple[Any, ...]:
    """``int | None`` -> (int, NoneType); (the annotation,) of one that is no union."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def fits(hint: Any, value: Any) -> bool:
    """Whether a value has the type of an annotation; a number must be finite in float32."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(one, value) for one in arguments)
    if origin is Annotated:
        limits = [one for one in arguments[1:] if isinstance(one, Key)]
        return fits(arguments[0], value) and all(within(value, one) for one in limits)
    if origin is Literal:
        return value in arguments
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and abs(value) <= _LARGEST  # no NaN either
    if hint in (str, Path):
        return isinstance(value, (str, Path))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return isinstance(value, hint) or (isinstance(value, str) and value in hint.__members__)
    if origin in (list, tuple, Sequence):
        return _fits_list(arguments, value)
    if isinstance(hint, type) and is_dataclass(hint):
        return isinstance(value, (Mapping, hint))
    if origin in (dict, Mapping):
        inner = arguments[1] if len(arguments) == 2 else Any
        return isinstance(value, Mapping) and all(fits(inner, one) for one in value.values())
    return True


def _fits_list(arguments: tuple[Any, ...], value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    if not arguments or len(arguments) == 1 or Ellipsis in arguments:
        inner = arguments[0] if arguments else Any
        return all(fits(inner, one) for one in value)
    return len(value) == len(arguments) and all(map(fits, arguments, value))


def within(value: Any, about: Key | None) -> bool:
    """Whether a value of the right type keeps to the limits of its key."""
    if about is None or value is None:
        return True
    values = value if isinstance(value, (list, tuple)) else [value]
    if about.length is not None and len(values) != about.length:
        return False
    if about.rising and any(low >= high for low, high in pairwise(values)):
        return False
    if about.choices is not None and any(_text(one) not in about.choices for one in values):
        return False
    if about.pattern is not None and not re.fullmatch(about.pattern[0], str(value)):
        return False
    numbers = [one for one in values if isinstance(one, (int, float))]
    return all(about.contains(one) for one in numbers)


def expected(hint: Any, about: Key | None = None) -> str:
    """What a key with this annotation and metadata takes, in words."""
    if about is not None and about.choices is not None:
        return ", ".join(about.choices)
    if about is not None and about.pattern is not None:
        return about.pattern[1]
    names = list(dict.fromkeys(_in_words(one, about) for one in alternatives(hint)))
    limits = f", {about.bounds}" if about is not None and about.bounds else ""
    first = [name for name in names if name != "null"]
    return " or ".join([*first, *(["null"] if "null" in names else [])]) + limits


def _in_words(hint: Any, about: Key | None) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [one.bounds for one in arguments[1:] if isinstance(one, Key)]
        return ", ".join([_in_words(arguments[0], about), *limits])
    plain = {
        type(None): "null",
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "text",
        Path: "a path",
    }
    if hint in plain:
        return plain[hint]
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(one.name for one in hint)
    if origin in (list, tuple, Sequence):
        count = about.length if about is not None else None
        if origin is tuple and Ellipsis not in arguments:
            count = len(arguments)
        return f"a list of {f'{count} ' if count else ''}{_plural(arguments[:1])}"
    if origin in (dict, Mapping) and arguments[1:] != (Any,):
        return f"a group of {_plural(arguments[1:])}"
    return "a group of keys"


def _plural(inner: Sequence[Any]) -> str:
    """What the values of a list or of a group are."""
    kinds = {int: "whole numbers", float: "finite numbers", str: "texts"}
    for hint in inner:
        if get_origin(hint) is Annotated:
            kind, about = get_args(hint)[:2]
            return f"{kinds.get(kind, 'values')}, {about.bounds}"
        return kinds.get(hint, "values")
    return "values"


def shown(value: Any) -> str:
    """A value as it would stand on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{shown(one)}" for name, one in value.items()) + "}"
    return _text(value)


def _text(value: Any) -> str:
    return value.name if isinstance(value, Enum) else str(value)
