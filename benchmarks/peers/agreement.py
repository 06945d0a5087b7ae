"""Whether two engines choose alike, and how near to a tie they were where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NEAR = 0.02
"""Two options are a near tie where their probabilities differ by less."""


@dataclass(frozen=True)
class Agreement:
    """A comparison of choices.

    Attributes:
        questions: that both were asked.
        unparsed: answers of the other that are no option.
        margins: of the questions that they answer otherwise: by how much our probability of our
            choice is above that of theirs, smallest first.
        typical: the median over all questions of the margin between our first and second option.
    """

    questions: int
    unparsed: int
    margins: tuple[float, ...]
    typical: float

    @property
    def equal(self) -> bool:
        """Whether they agree on all but near ties."""
        return not self.unparsed and all(one < NEAR for one in self.margins)

    def told(self) -> str:
        """In words."""
        text = f"{len(self.margins)} of {self.questions} differ"
        if self.margins:
            text += f", margins {', '.join(f'{one:.3f}' for one in self.margins[:8])}"
            text += ", ..." if len(self.margins) > 8 else ""
        text += f", {self.unparsed} no option" if self.unparsed else ""
        return f"{text} (median margin of all questions {self.typical:.2f})"

    def json(self) -> dict[str, Any]:
        """For the file."""
        return {**vars(self), "equal": self.equal}


def agreement(
    ours: Sequence[int], probabilities: Sequence[Sequence[float]], theirs: Sequence[int | None]
) -> Agreement:
    """Compare our choices, with the probability of every option, with another engine's."""
    margins = [
        table[mine] - table[other]
        for mine, table, other in zip(ours, probabilities, theirs, strict=True)
        if other is not None and other != mine
    ]
    gaps = []
    for table in probabilities:
        first, second = sorted(table, reverse=True)[:2]
        gaps.append(first - second)
    typical = sorted(gaps)[len(gaps) // 2]
    return Agreement(len(ours), list(theirs).count(None), tuple(sorted(margins)), typical)
