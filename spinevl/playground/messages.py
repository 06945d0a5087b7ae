"""What visitors are told."""

from __future__ import annotations

from collections.abc import Mapping

from spinevl.io.machine import machine_problem
from spinevl.playground import pictures
from spinevl.schema.errors import UserError


def told(error: Exception, names: Mapping[str, str] | None = None) -> str:
    """What a visitor is told of a failure; what is our own fault is raised again.

    Args:
        error: what was raised.
        names: what the visitor calls files of ours, by their path.
    """
    reason = machine_problem(error)
    if not isinstance(error, UserError) and not reason:
        raise error
    lines = list(error.problems) if isinstance(error, UserError) else [reason or ""]
    for path, name in (names or {}).items():
        lines = [line.replace(path, name) for line in lines]
    return pictures.problem(lines)


def waiting(ahead: int) -> str:
    """What a visitor is told while there is no answer yet."""
    return f"{ahead} before you" if ahead else "the model is answering"
