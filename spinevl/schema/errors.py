"""The one exception that reaches a user: what is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

MOST_LINES = 20
_LONGEST_LINE = 2000
_LONGEST_VALUE = 200


def escaped(text: str, *, longest: int = _LONGEST_LINE) -> str:
    r"""Text of unknown origin as one line that a terminal or a log shows as it is.

    Control characters, line breaks, marks that turn the writing direction and halves of characters
    become ``\n``, ``\x1b``, ``\u202e``; the middle of a text that is too long is left out.
    """
    if not text.isprintable():
        text = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
        )
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end]} ... {text[-end:]}"


def as_lines(problems: Sequence[str]) -> list[str]:
    """The lines that people are shown of some problems: the first ones, and how many more."""
    lines = [escaped(one) for one in problems[:MOST_LINES]]
    if more := len(problems) - len(lines):
        lines.append(f"... and {more:,} more")
    return lines


def listed(names: Sequence[str], *, most: int = MOST_LINES, between: str = ", ") -> str:
    """The first of some names in a line, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def counted(number: int, what: str) -> str:
    """``1 patient``, ``2 patients``"""
    return f"{number} {what}{'' if number == 1 else 's'}"


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
        found = escaped(self.found, longest=_LONGEST_VALUE)
        return f"{self.where}: expected {self.expected}, found {found}; {self.fix}"


class UserError(Exception):
    """A mistake that the user can mend; the command line prints ``lines``.

    Args:
        problems: a ready sentence, one Problem, or all the problems that a check found.

    Attributes:
        problems: every problem, each one line.
        lines: what is printed of them, see as_lines.
    """

    def __init__(self, problems: str | Problem | Iterable[str | Problem]) -> None:
        if isinstance(problems, (str, Problem)):
            problems = (problems,)
        self.problems: tuple[str, ...] = tuple(escaped(str(problem)) for problem in problems)
        self.lines = as_lines(self.problems)
        super().__init__("\n".join(self.lines))

    def __reduce__(self) -> tuple[type[UserError], tuple[tuple[str, ...]]]:
        """To cross a process as it is, not as its text."""
        return type(self), (self.problems,)


def refused(where: str, expected: str, found: str, fix: str) -> UserError:
    """The error for one mistake, see Problem."""
    return UserError(Problem(where, expected, found, fix))


class Problems(list[str]):
    """The problems that a check finds: a user is told all of them at once."""

    def add(self, where: str, expected: str, found: str, fix: str) -> None:
        """Note a mistake, see Problem."""
        self.append(str(Problem(where, expected, found, fix)))

    @contextmanager
    def collected(self, kind: type[UserError] = UserError) -> Iterator[None]:
        """Note what is wrong with one input, and go on with the next; other errors are raised."""
        try:
            yield
        except kind as error:
            self.extend(error.problems)

    def raise_any(self) -> None:
        """Raise UserError with all problems, if there are any."""
        if self:
            raise UserError(self)
