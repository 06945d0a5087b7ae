"""The one checker of values: types, bounds and choices, all problems at once by dotted key.

It reads the annotations and the metadata (``spinevl.config.keys``) of a dataclass, or the
annotations of a constructor, and knows nothing of Hydra: a composed config, a specification read
from a file and an object in Python are checked alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, get_type_hints

from spinevl.build.allowlist import OURS
from spinevl.config.annotations import alternatives, expected, fits, shown, within
from spinevl.config.keys import Key, key_of
from spinevl.config.suggest import suggest
from spinevl.schema.errors import UserError

_Options = TypeVar("_Options")

_SPECIAL = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")


_hints = cache(get_type_hints)


def hints_of(owner: Any, *, include_extras: bool = False) -> dict[str, Any]:
    """``get_type_hints``, which compiles annotations from their text, once for each owner."""
    return _hints(owner, include_extras=include_extras)


class Unknown:
    """Stands for a value that could not be read and has been reported already."""


UNKNOWN = Unknown()


def validate(options: Any, *, at: str = "") -> None:
    """Refuse an options object that holds what its keys do not take.

    Args:
        options: an instance of a dataclass whose fields ``key`` made.
        at: the dotted key under which it stands, for messages.

    Raises:
        UserError: with every problem.
    """
    if found := problems(type(options), vars(options), at=at):
        raise UserError(found)


def checked(options: _Options, *, at: str = "") -> _Options:
    """A copy of options that Python code made, in which texts are members of enums.

    Args:
        options, at: see validate.

    Raises:
        UserError: with every problem.
    """
    result: _Options = from_plain(type(options), vars(options), at=at)
    return result


def from_plain(schema: type[Any], values: Mapping[str, Any], *, at: str = "") -> Any:
    """The dataclass ``schema`` with plain values, as JSON and OmegaConf give them.

    Absent keys take their defaults, names become members of enums.

    Raises:
        UserError: with every problem.
    """
    if found := problems(schema, values, at=at, partial=True):
        raise UserError(found)
    hints = hints_of(schema)
    return schema(**{name: _typed(hints[name], value) for name, value in values.items()})


def _typed(hint: Any, value: Any) -> Any:
    for one in alternatives(hint):
        if isinstance(one, type) and is_dataclass(one) and isinstance(value, Mapping):
            return from_plain(one, value)
        if isinstance(one, type) and issubclass(one, Enum) and isinstance(value, str):
            return one[value]
    return value


def problems(
    schema: type[Any], values: Mapping[str, Any], *, at: str = "", partial: bool = False
) -> list[str]:
    """All that is wrong with the values of a dataclass, one line each.

    Args:
        schema: the dataclass.
        values: key -> value; nested dataclasses as mappings or instances.
        at: the dotted key under which they stand.
        partial: whether keys that have a default may be absent.
    """
    hints = hints_of(schema)
    known = {one.name: one for one in fields(schema) if one.init}
    found = [
        f"unknown key '{_join(at, name)}'{suggest(name, list(known))}"
        for name in map(str, values)
        if name not in known and name not in _SPECIAL
    ]
    for name, one in known.items():
        where = _join(at, name)
        if name in values:
            found += _value_problems(hints[name], values[name], where, key_of(one), partial)
        elif not partial:
            found.append(f"{where} was removed and is needed: drop '~{where}'")
        elif one.default is MISSING and one.default_factory is MISSING:
            found.append(f"{where} must be given: {where}=VALUE")
    relations = getattr(schema, "contradictions", None)
    given = _with_defaults(schema, values)
    if relations and not found and not _unread(given):
        for name, expected in relations(given).items():
            found.append(f"{_join(at, name)}={shown(given[name])}: expected {expected}")
    return found


def node_problems(node: Any, *, at: str) -> list[str]:
    """Arguments that a class of ours does not take; another's is judged where it is built."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return [f"{at}._target_ is missing: choose an option of the group"]
    target = str(node["_target_"])
    if not target.startswith("spinevl."):
        return []
    try:
        return argument_problems(OURS.named(target, where=at), node, at=at)
    except (UserError, ImportError):  # told where it is built
        return []


def argument_problems(target: Any, values: Mapping[str, Any], *, at: str) -> list[str]:
    """The same for the arguments of a class that a ``_target_`` names.

    Arguments that it does not take are left to whoever builds it, and so are nested nodes.
    """
    plain = {name: value for name, value in values.items() if name not in _SPECIAL}
    if (
        isinstance(target, type)
        and is_dataclass(target)
        and any(key_of(one) for one in fields(target))
    ):
        return problems(target, plain, at=at, partial=True)
    try:
        hints = hints_of(target.__init__, include_extras=True)
    except (NameError, TypeError):  # names that exist for type checkers alone
        return []
    return [
        problem
        for name, value in plain.items()
        if name in hints and not (isinstance(value, Mapping) and "_target_" in value)
        for problem in _value_problems(hints[name], value, _join(at, name), None)
    ]


def expectation(schema: type[Any], dotted: str) -> str | None:
    """What a key takes, in words (``a whole number, 1 or more``); None for a key it has not."""
    name, _, rest = dotted.partition(".")
    one = {one.name: one for one in fields(schema)}.get(name)
    if one is None:
        return None
    hint = hints_of(schema)[name]
    if not rest:
        return expected(hint, key_of(one))
    inner = [kind for kind in alternatives(hint) if isinstance(kind, type) and is_dataclass(kind)]
    return expectation(inner[0], rest) if inner else None


def _unread(value: Any) -> bool:
    """Whether a value is one that could not be read, or holds one."""
    if isinstance(value, (Mapping, list, tuple)):
        return any(map(_unread, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, Unknown)


def _value_problems(
    hint: Any, value: Any, where: str, about: Key | None, partial: bool = False
) -> list[str]:
    if isinstance(value, Unknown):
        return []
    if isinstance(value, str) and value == "???":
        return [f"{where} must be given: {where}=VALUE"]
    nested = [one for one in alternatives(hint) if isinstance(one, type) and is_dataclass(one)]
    if nested and (isinstance(value, Mapping) or is_dataclass(value)):
        inner = value if isinstance(value, Mapping) else vars(value)
        return problems(nested[0], inner, at=where, partial=partial)
    if _unread(value):
        return []
    if not fits(hint, value) or not within(value, about):
        return [f"{where}={shown(value)}: expected {expected(hint, about)}"]
    if about is not None and about.nonempty and value is not None and not len(value):
        return [f"{where}=[]: name at least one"]
    if about is not None and about.unique and value is not None:
        repeated = [shown(one) for one, count in Counter(value).items() if count > 1]
        return [f"{where} names {', '.join(repeated)} more than once"] if repeated else []
    return []


def _with_defaults(schema: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    full = {}
    for one in fields(schema):
        if one.name in values:
            full[one.name] = values[one.name]
        elif one.default_factory is not MISSING:
            full[one.name] = one.default_factory()
        else:
            full[one.name] = one.default
    return full


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
