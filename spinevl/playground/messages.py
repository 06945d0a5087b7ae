"""What visitors are told."""

from __future__ import annotations

from spinevl.io.machine import machine_problem
from spinevl.playground import pictures
from spinevl.schema.errors import UserError


def told(error: Exception) -> str:
    """What a visitor is told of a failure; what is our own fault is raised again."""
    if isinstance(error, UserError):
        return pictures.problem(error.problems)
    if reason := machine_problem(error):
        return pictures.problem([reason])
    raise error


def waiting(ahead: int) -> str:
    """What a visitor is told while there is no answer yet."""
    return f"{ahead} before you" if ahead else "the model is answering"
