"""What the constructor of a class takes."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spinevl.build.roles import Slot, slot_of


@dataclass(frozen=True)
class Parameter:
    """One argument of a constructor.

    Attributes:
        required: whether it has no default.
        annotation: as written, a string or a type.
        scope: the names that a string may use.
    """

    required: bool
    annotation: Any
    scope: Mapping[str, Any]

    @property
    def slot(self) -> Slot | None:
        """The role that it asks for; None if it needs none, or if its annotation is unreadable."""
        annotation = self.annotation
        if isinstance(annotation, str):
            try:  # an annotation is code of the class, which is allowed already
                annotation = eval(annotation, dict(self.scope) | vars(builtins))
            except Exception:  # a name that is imported for type checkers alone
                return None
        return slot_of(annotation)


@dataclass(frozen=True)
class Signature:
    """The named arguments of a constructor.

    Attributes:
        parameters: by name.
        open_ended: whether it takes other names too.
    """

    parameters: Mapping[str, Parameter]
    open_ended: bool

    def problem(self, given: Mapping[str, Any], *, complete: bool = True) -> str | None:
        """What is unknown, or missing from a complete list of arguments, and what is taken."""
        takes = ", ".join(name for name in self.parameters if not name.startswith("_"))
        unknown = [name for name in given if name not in self.parameters]
        if unknown and not self.open_ended:
            return f"does not take {', '.join(map(str, unknown))}; it takes {takes or 'nothing'}"
        missing = [n for n, one in self.parameters.items() if one.required and n not in given]
        return f"needs {', '.join(missing)}; it takes {takes}" if missing and complete else None


def signature_of(cls: type) -> Signature:
    """The arguments of a constructor; one with ``**options`` takes those of its base class too."""
    found: dict[str, Parameter] = {}
    for owner in cls.__mro__[:-1]:
        init = vars(owner).get("__init__")
        if init is None:
            continue
        own = list(inspect.signature(init).parameters.values())[1:]
        for one in own:
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                scope = getattr(init, "__globals__", {})
                found.setdefault(
                    one.name, Parameter(one.default is one.empty, one.annotation, scope)
                )
        if not any(one.kind is one.VAR_KEYWORD for one in own):
            return Signature(found, open_ended=False)
    return Signature(found, open_ended=any("__init__" in vars(one) for one in cls.__mro__[:-1]))
