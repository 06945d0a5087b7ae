"""Which classes may be built, by their dotted names and by what the names lead to.

A ``_target_`` is the name of a module and of a class in it. The name is judged first, before
anything is imported: the module must be one of our parts, or lie under a package that the user
trusts. Then the class is: it must be a class, defined in an allowed module too (a module also holds
what it imported from elsewhere), and play the role that is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spinevl.build.roles import Role, plays, role_of
from spinevl.schema.errors import UserError

# Stages, checkpoints, files and this package are not among them.
OWN_PARTS = ("spinevl.data", "spinevl.models", "spinevl.schema.task", "spinevl.sources")

# where checkpoints of earlier versions say that a class stands -> where it stands now
MOVED = {
    "spinevl.data.cervai.CervAISource": "spinevl.sources.cervai.CervAISource",
    "spinevl.data.conversations.ConversationSource": (
        "spinevl.sources.conversations.ConversationSource"
    ),
    "spinevl.data.phantom.source.PhantomSource": "spinevl.sources.phantom.source.PhantomSource",
}


def target_of(node: Any) -> str:
    """The ``_target_`` of a node under its present name; empty where there is none."""
    name = node.get("_target_") if hasattr(node, "get") else None
    return MOVED.get(name, name) if isinstance(name, str) else ""


def at(where: str) -> str:
    """The start of a message about a dotted place; empty where the place has no name."""
    return f"{where}: " if where else ""


@dataclass(frozen=True)
class Allowed:
    """The classes that may be built: our parts, and what lies under some trusted names.

    Attributes:
        trusted: names of packages, modules or classes outside this package.
    """

    trusted: tuple[str, ...] = ()

    def name_problem(self, target: Any, where: str) -> str | None:
        """Why a ``_target_`` cannot name a class that may be built; None where it may.

        Nothing is imported.
        """
        if not isinstance(target, str) or not _is_public(target):
            return f"{at(where)}_target_ {target!r} is not the dotted name of a public class"
        name = MOVED.get(target, target)
        if _under(name, (*OWN_PARTS, *self.trusted)):
            return None
        top = target.partition(".")[0]
        if top == "spinevl":
            return (
                f"{at(where)}_target_ {target} is not allowed; it is not part of a model, a data "
                "source or a task"
            )
        return (
            f"{at(where)}_target_ {target} is not allowed; if you trust it, add "
            f"'trusted_targets=[{top}]' to the command"
        )

    def named(self, target: Any, *, where: str) -> type:
        """The class that a ``_target_`` names, whatever role it plays.

        Raises:
            UserError: the name is not allowed, leads to nothing, to something that is defined
                elsewhere, or to a function.
        """
        if problem := self.name_problem(target, where):
            raise UserError(problem)
        name = MOVED.get(target, target)
        found = _import(name)
        if found is None:
            raise UserError(f"{at(where)}{_absent(name)}")
        if not isinstance(found, type):
            raise UserError(f"{at(where)}{name} is not a class; only objects are built")
        home = f"{found.__module__}.{found.__qualname__}"
        if not _under(home, (*OWN_PARTS, *self.trusted)):
            raise UserError(
                f"{at(where)}{name} is really {home}, which is not allowed; if you trust it, add "
                f"'trusted_targets=[{home.partition('.')[0]}]' to the command"
            )
        return found

    def find(self, target: Any, asked: type, *, where: str) -> type:
        """The same, once the class is shown to play the role ``asked``. Raises UserError if not."""
        rules = role_of(asked)
        assert rules is not None, f"{asked} is not declared a role"
        found = self.named(target, where=where)
        if problem := _unfit(found, asked, rules):
            raise UserError(f"{at(where)}{MOVED.get(target, target)} {problem}")
        return found


OURS = Allowed()


def _unfit(found: type, asked: type, rules: Role) -> str | None:
    if not plays(found, asked):
        return f"is not {rules.with_article}"
    if inspect.isabstract(found) or (found is asked and not rules.concrete):
        return "is an abstract class; name one that implements it"
    return None


def _import(name: str) -> Any:
    """The attribute of a module; None where the module or the attribute does not exist.

    Raises:
        ModuleNotFoundError: the module exists and lacks one of its own imports.
    """
    module_name, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), attribute, None)
    except ModuleNotFoundError as error:
        if error.name and _under(module_name, (error.name,)):
            return None
        raise


def _absent(name: str) -> str:
    """Why nothing was found under a name."""
    package = name.partition(".")[0]
    if package in sys.modules or importlib.util.find_spec(package) is not None:
        return f"nothing to build is called {name}; check the spelling"
    return (
        f"{name}: there is no package {package} here; install it, or give --config-dir DIR, in or "
        "beside which it lies"
    )


def _is_public(target: str) -> bool:
    parts = target.split(".")
    return len(parts) > 1 and all(p.isidentifier() and not p.startswith("_") for p in parts)


def _under(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
