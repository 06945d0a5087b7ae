"""What a model answers to one example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spinevl.schema.errors import UserError, refused
from spinevl.schema.example import Example, Rounds


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


def not_finite(example: Example, numbers: str) -> UserError:
    """The error for a model that computes no answer to an example."""
    return refused(
        example.where,
        f"finite {numbers} of its answer",
        "NaN or infinity",
        "check its images; if all fail, the checkpoint's weights are too large to compute with",
    )
