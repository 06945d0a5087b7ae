"""What the keys of an options dataclass mean and which values they take, as metadata of its fields.

Imports nothing of Hydra, so that workers and the packages above may use it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field
from typing import Annotated, Any

_METADATA = "spinevl.key"


@dataclass(frozen=True)
class Key:
    """One key of an options dataclass.

    Attributes:
        help: one line that says what the key means.
        min, max: the lowest and the highest value of a number (of each number in a list).
        above, below: the same, where the bound itself is not taken.
        choices: the texts, or the names of an enum, that are taken; None takes all of the type.
        length: how many values a list has; None is any number.
        nonempty: whether a list needs a value.
        unique: whether a list may not repeat a value.
        rising: whether each number of a list must be higher than the one before.
        pattern: (regular expression, what it takes in words) for text.
    """

    help: str
    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None
    length: int | None = None
    nonempty: bool = False
    unique: bool = False
    rising: bool = False
    pattern: tuple[str, str] | None = None

    def contains(self, number: float) -> bool:
        """Whether a number lies within the bounds; NaN lies in none."""
        return (
            (self.min is None or number >= self.min)
            and (self.max is None or number <= self.max)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    @property
    def bounds(self) -> str:
        """``1 or more``, ``0 to 1``, ``0 or more and less than 1``; empty without bounds."""
        if self.rising:
            return "in rising order"
        if self.min is not None and self.max is not None:
            return f"{self.min} to {self.max}"
        bounds = [
            f"{self.min} or more" if self.min is not None else "",
            f"more than {self.above}" if self.above is not None else "",
            f"{self.max} or less" if self.max is not None else "",
            f"less than {self.below}" if self.below is not None else "",
        ]
        return " and ".join(bound for bound in bounds if bound)


def key(
    default: Any = MISSING,
    *,
    help: str,
    factory: Callable[[], Any] | None = None,
    choices: Sequence[str] | None = None,
    **limits: Any,
) -> Any:
    """A dataclass field with the metadata ``Key(help, choices, **limits)``.

    Args:
        default: its default; a list is copied for each instance. Without one the key is required.
        help: one line that says what the key means.
        factory: makes the default, for nested dataclasses.
        choices: see Key.
        limits: the other attributes of Key.
    """
    about = Key(help, choices=tuple(choices) if choices is not None else None, **limits)
    metadata = {_METADATA: about}
    if isinstance(default, list):
        values = tuple(default)
        return field(default_factory=lambda: list(values), metadata=metadata)
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def key_of(one: dataclasses.Field[Any]) -> Key | None:
    """The metadata of a field that ``key`` made; None for any other field."""
    return one.metadata.get(_METADATA)


# of constructors: a size, such as a width or a number of layers
Positive = Annotated[int, Key("a size", min=1)]
FromZero = Annotated[float, Key("a rate", min=0)]
Interval = Annotated[tuple[float, float], Key("low and high", rising=True)]
