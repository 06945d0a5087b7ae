"""Objects from ``_target_`` nodes, each only for the role that its owner asks for.

A config is data, and data travels: inside checkpoints, in mails, from the web. So nothing in a node
decides what may be built. The caller names the role, the allowlist names the classes, and a node
within a node is built only where the constructor's signature asks for a role. The whole node is
checked before the first object is made.

Nodes are plain dicts and lists. Interpolations (``${...}``) in them are text and never resolved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from spinevl.build.allowlist import OURS, Allowed, at
from spinevl.build.roles import plays, role_of
from spinevl.build.signature import Signature, signature_of
from spinevl.build.trust import NOTHING, REMOTE_CODE, Trust, untold_remote_code
from spinevl.schema.errors import UserError

R = TypeVar("R")


def build(node: Any, role: type[R], *, trust: Trust = NOTHING, where: str = "", **sizes: Any) -> R:
    """The object of a role that a config node describes.

    Args:
        node: a dict with ``_target_`` and the constructor's arguments. ``_partial_`` is accepted
            and means nothing.
        role: a class that is declared a role; see ``roles``.
        trust: what the command line trusts.
        where: the node's dotted place, for messages.
        sizes: arguments that the caller knows; they win over the node's.

    Raises:
        UserError: a class that is not allowed or does not play the role, a nested node where the
            constructor asks for no role, arguments that it does not take, or a ValueError of it.
    """
    planner = _Planner(trust.allowed)
    planner.check_names(node, where)
    return _make(planner.plan(node, role, where, sizes, remote_code=trust.remote_code))


def build_stored(
    node: Any, role: type[R], *, allowed: Allowed = OURS, where: str = "", **sizes: Any
) -> R:
    """The object of a role that a checkpoint's ``config.json`` describes.

    Everything that a checkpoint stores is built here. This function knows neither of the keys
    that widen trust: code that comes with a model never runs, whatever the node says of
    ``trust_remote_code``, and there is no argument to change that. A checkpoint with a user's own
    encoder must load, so the caller may pass the classes that the user allowed on the command line
    (``Trust.from_words(words).allowed``). They are resolved from the user's words alone, before
    the checkpoint is read, and nothing that is stored can add to them.

    Args:
        node, role, where, sizes: see ``build``.
        allowed: the classes that may be built.

    Raises:
        UserError: as ``build`` does.
    """
    planner = _Planner(allowed, stored=True)
    planner.check_names(node, where)
    return _make(planner.plan(node, role, where, sizes))


def check_stored(node: Any, role: type, *, allowed: Allowed = OURS, where: str = "") -> type:
    """Refuse what ``build_stored`` would refuse, without making anything; sizes may be missing.

    A checkpoint has several nodes: they are all checked before the first object is made.

    Returns:
        The class that the node names.
    """
    planner = _Planner(allowed, stored=True)
    planner.check_names(node, where)
    return planner.plan(node, role, where, {}, complete=False).cls


def targets_in(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted place, ``_target_``) of every node in a plain config, at any depth."""
    waiting = [(where, node)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, Mapping):
            if "_target_" in value:
                yield place, value["_target_"]
            inside = [(f"{place}.{k}" if place else str(k), v) for k, v in value.items()]
            waiting += reversed(inside)
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            waiting += reversed([(f"{place}[{i}]", v) for i, v in enumerate(value)])


# Keys of Hydra's that mean nothing here, with the value that says what is done anyway.
_HARMLESS = {"_args_": [], "_recursive_": True, "_convert_": "all"}


@dataclass(frozen=True)
class _Plan:
    """One object to make: everything about it is checked, and nothing is made yet."""

    cls: type
    role: type
    where: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class _Planner:
    """Turns nodes into plans; ``stored`` nodes may say what they like of remote code."""

    allowed: Allowed
    stored: bool = False

    def check_names(self, node: Any, where: str) -> None:
        """Refuse every name in a node that cannot be allowed, before anything is imported."""
        named = (self.allowed.name_problem(t, place) for place, t in targets_in(node, where))
        if problems := [one for one in named if one]:
            raise UserError(problems)

    def plan(
        self,
        node: Any,
        role: type,
        where: str,
        sizes: Mapping[str, Any],
        *,
        remote_code: bool = False,
        complete: bool = True,
    ) -> _Plan:
        """What ``node`` is to become, and the nodes within it; classes are imported here.

        Arguments may be missing where the plan need not be ``complete``.
        """
        rules = role_of(role)
        assert rules is not None, f"{role} is not declared a role"
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise UserError(f"{at(where)}expected {rules.with_article}, a node with _target_")
        cls = self.allowed.find(node["_target_"], role, where=where)
        takes = signature_of(cls)
        given = {**_arguments(node, where), **sizes}
        told = given.pop(REMOTE_CODE, None)
        may_tell = self.stored or (remote_code and rules.remote_code)
        if told not in (None, False) and not may_tell:
            raise UserError(untold_remote_code(f"{where}.{REMOTE_CODE}".lstrip("."), told))
        if problem := takes.problem(given, complete=complete):
            raise UserError(f"{at(where)}{node['_target_']} {problem}")
        arguments = {
            name: value if name in sizes else self.argument(value, name, takes, cls, where)
            for name, value in given.items()
        }
        if rules.remote_code and REMOTE_CODE in takes.parameters:
            arguments[REMOTE_CODE] = remote_code
        return _Plan(cls, role, where, arguments)

    def argument(self, value: Any, name: str, takes: Signature, cls: type, where: str) -> Any:
        """A plain value as it is; plans in the place of nodes, where the signature asks for them.

        Raises:
            UserError: a node anywhere else.
        """
        place = f"{where}.{name}" if where else str(name)
        nested = next(targets_in(value, place), None)
        if nested is None:
            return value
        slot = takes.parameters[name].slot if name in takes.parameters else None
        if slot is not None:
            if slot.many == "one" and nested[0] == place:
                return self.plan(value, slot.role, place, {})
            if slot.many == "list" and isinstance(value, (list, tuple)):
                return [self.plan(v, slot.role, f"{place}[{i}]", {}) for i, v in enumerate(value)]
            if slot.many == "mapping" and nested[0] != place:
                return {k: self.plan(v, slot.role, f"{place}.{k}", {}) for k, v in value.items()}
        raise UserError(
            f"{nested[0]}: {nested[1]} is not built here, for {cls.__name__} takes no object in "
            f"{name}; leave _target_ out"
        )


def _arguments(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The constructor's arguments in a node, without what is said to the builder."""
    for key, harmless in _HARMLESS.items():
        if key in node and node[key] != harmless:
            raise UserError(f"{at(where)}{key} is not supported; give every argument by its name")
    if not isinstance(node.get("_partial_", False), bool):
        raise UserError(f"{at(where)}_partial_={node['_partial_']}: expected true or false")
    special = {"_target_", "_partial_", *_HARMLESS}
    return {str(key): value for key, value in node.items() if key not in special}


def _make(plan: _Plan) -> Any:
    """The object of a plan, the objects in its arguments first."""
    arguments = {name: _filled(value) for name, value in plan.arguments.items()}
    try:
        made = plan.cls(**arguments)
    except ValueError as error:
        raise UserError(f"{at(plan.where)}{error}") from error
    if not plays(type(made), plan.role):
        rules = role_of(plan.role)
        assert rules is not None
        raise UserError(f"{at(plan.where)}{plan.cls.__name__} did not make {rules.with_article}")
    return made


def _filled(value: Any) -> Any:
    """An argument with its plans made; they stand in it, in a list or in a mapping, no deeper."""
    if isinstance(value, _Plan):
        return _make(value)
    if isinstance(value, list):
        return [_make(one) if isinstance(one, _Plan) else one for one in value]
    if isinstance(value, dict):
        return {k: _make(one) if isinstance(one, _Plan) else one for k, one in value.items()}
    return value
