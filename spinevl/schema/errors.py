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


def refused(where: str, expected: str, found: str, fix: str) -> UserError:
    """The error for one mistake, see Problem."""
    return UserError(Problem(where, expected, found, fix))


class Problems(list[str]):
    """The problems that a check finds: a user is told all of them at once."""

    def add(self, where: str, expected: str, found: str, fix: str) -> None:
        """Note a mistake, see Problem."""
        self.append(str(Problem(where, expected, found, fix)))

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Note what is wrong with one input, and go on with the next."""
        try:
            yield
        except UserError as error:
            self.extend(error.problems)

    def raise_any(self) -> None:
        """Raise UserError with all problems, if there are any."""
        if self:
            raise UserError(self)
