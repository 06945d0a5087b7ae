"""One conversation while it is answered, round after round."""

from __future__ import annotations

from dataclasses import dataclass, field

from spinevl.config.options import History
from spinevl.schema.example import Example, Rounds


@dataclass
class Talk:
    """One conversation while it is answered.

    Attributes:
        example: the conversation; an answer that is None waits for the model's.
        history: whether its earlier answers are taken as they are, or the model's own.
        said: the rounds that are done.
    """

    example: Example
    history: History
    said: list[tuple[str, str]] = field(default_factory=list)

    def next(self) -> Rounds | None:
        """What was said, with the next question that the model answers; None when all is said."""
        for question, answer in self.example.rounds[len(self.said) :]:
            if answer is None or self.history == History.own:
                return (*self.said, (question, None))
            self.said.append((question, answer))
        return None

    def say(self, answer: str) -> None:
        """Take in the answer to the question that ``next`` told."""
        question, _ = self.example.rounds[len(self.said)]
        self.said.append((question, answer))
