"""What a model answers to one example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spinevl.schema.errors import Problems, UserError, refused
from spinevl.schema.example import Example, Rounds

_HOPELESS = 4
"""Patients without finite numbers, and none with them: the weights are at fault, not images."""


@dataclass(frozen=True)
class Answer:
    """What a model answers to one example.

    Attributes:
        rounds: (question, answer) of every round, the last one's answer the model's.
        logprobs: label -> log-probability of its option; None where the answer was generated.
    """

    rounds: Rounds
    logprobs: Mapping[int, float] | None = None


class Unanswered(UserError):
    """Some examples could not be answered, and all others were."""


class Hopeless(UserError):
    """Of the first patients asked, none has an answer with finite numbers; nobody else is asked."""


class Outcome:
    """What became of the examples of a call: one without an answer costs no other its own.

    Attributes:
        problems: why some have none.
    """

    def __init__(self) -> None:
        self.problems = Problems()
        self._answered = False
        self._patients: set[str] = set()

    def answered(self) -> None:
        """An example has an answer."""
        self._answered = True

    def not_finite(self, example: Example, numbers: str) -> None:
        """An example has none, since its ``numbers`` are not finite.

        Raises:
            Hopeless: no example has an answer yet, and several patients have none like this one.
        """
        self.problems.extend(not_finite(example, numbers).problems)
        self._patients.add(example.key.patient)
        if len(self._patients) >= _HOPELESS and not self._answered:
            raise Hopeless(self.problems)


def not_finite(example: Example, numbers: str) -> UserError:
    """The error for a model that computes no answer to an example."""
    return refused(
        example.where,
        f"finite {numbers} of its answer",
        "NaN or infinity",
        "check its images; if all fail, the checkpoint's weights are too large to compute with",
    )
