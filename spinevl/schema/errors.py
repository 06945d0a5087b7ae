"""The one exception that reaches a user: what is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake in the user's input.

    Attributes:
        where: the file, and the record in it (``labels.json: patient 0124``).
        expected: what should stand there.
        found: what stands there.
        fix: what the user can do about it.
    """

    where: str
    expected: str
    found: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}; {self.fix}"


class UserError(Exception):
    """A mistake that the user can mend; the command line prints its problems, one line each.

    Args:
        problems: a ready sentence, one Problem, or all the problems that a check found.
    """

    def __init__(self, problems: str | Problem | Iterable[str | Problem]) -> None:
        if isinstance(problems, (str, Problem)):
            problems = (problems,)
        self.problems: tuple[str, ...] = tuple(str(problem) for problem in problems)
        super().__init__("\n".join(self.problems))


@contextmanager
def collected(problems: list[Problem | str]) -> Iterator[None]:
    """Note the problems of one input and go on to the next: a user mends them all at once."""
    try:
        yield
    except UserError as error:
        problems.extend(error.problems)
