"""Roles: the base classes and protocols that may be built from a config.

Whoever needs an object asks for it by the role that the object will play: ``build(node, Encoder)``.
A class is declared a role where it is defined, with ``@role("encoder")``. Classes of ``schema``,
which knows nothing of building, are declared in ``_ELSEWHERE`` here.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Role:
    """What a role allows.

    Attributes:
        name: what messages call an object of this role.
        concrete: whether the role's own class may be built too, not only its subclasses.
        remote_code: whether its classes may be told to run code that comes with a model, where
            the command line allows that.
    """

    name: str
    concrete: bool = False
    remote_code: bool = False

    @property
    def with_article(self) -> str:
        """``an encoder``, ``a task``"""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


@dataclass(frozen=True)
class Slot:
    """What a constructor's parameter takes: one object of a role, a list or a mapping of them."""

    role: type
    many: Literal["one", "list", "mapping"] = "one"


_ELSEWHERE = {
    "spinevl.schema.task.Task": Role("task", concrete=True),
    "spinevl.schema.cohort.DataSource": Role("source of patients"),
}
_declared: dict[type, Role] = {}


def role(name: str, *, concrete: bool = False, remote_code: bool = False) -> Callable[[C], C]:
    """Declare an abstract base class or a Protocol a role; see Role for the arguments."""

    def declare(cls: C) -> C:
        _declared[cls] = Role(name, concrete=concrete, remote_code=remote_code)
        return cls

    return declare


def role_of(cls: type) -> Role | None:
    """What the role ``cls`` allows; None where ``cls`` is no role."""
    return _declared.get(cls) or _ELSEWHERE.get(f"{cls.__module__}.{cls.__qualname__}")


def is_role(annotation: Any) -> bool:
    """Whether an annotation is a role itself (not an Optional or a list of one; see slot_of)."""
    return isinstance(annotation, type) and role_of(annotation) is not None


def plays(cls: type, asked: type) -> bool:
    """Whether the objects of ``cls`` play a role: by inheritance, or with a Protocol's methods."""
    if not getattr(asked, "_is_protocol", False):
        return issubclass(cls, asked)
    methods = [name for name in vars(asked) if not name.startswith("_")]
    return all(callable(getattr(cls, name, None)) for name in methods)


def slot_of(annotation: Any) -> Slot | None:
    """What an evaluated annotation asks for; None where it asks for no role.

    ``Role``, ``Role | None``, ``list[Role]``, ``Sequence[Role]``, ``tuple[Role, ...]`` and
    ``Mapping[str, Role]`` (or ``dict``) do, the latter ones also with ``| None``.
    """
    if is_role(annotation):
        return Slot(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        others = [one for one in arguments if one is not type(None)]
        return slot_of(others[0]) if len(others) == 1 else None
    if not arguments:
        return None
    if origin in (list, Sequence) and is_role(arguments[0]):
        return Slot(arguments[0], "list")
    if origin is tuple and arguments[1:] == (Ellipsis,) and is_role(arguments[0]):
        return Slot(arguments[0], "list")
    if origin in (dict, Mapping) and arguments[0] is str and is_role(arguments[1]):
        return Slot(arguments[1], "mapping")
    return None
