"""The answer to one question, and its line in ``predictions.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spinevl.schema.box import Box


@dataclass(frozen=True)
class Prediction:
    """The answer to one question, merged over separate slices.

    Attributes:
        id, task, object: which question.
        slices: the sagittal slices that the answer rests on.
        choice: the label; None for boxes and where the text could not be parsed.
        probabilities: label -> probability, summing to 1; None where not computed.
        text: the answer text (the option's, or what was generated).
        box: the box of ``positioning``; None elsewhere and where it could not be parsed.
        truth: the true label or box; None where unknown, or not joined yet (see ``with_truth``).
    """

    id: str
    task: str
    object: str
    slices: tuple[int, ...]
    choice: int | None
    probabilities: Mapping[int, float] | None
    text: str
    box: Box | None = None
    truth: int | Box | None = None

    @property
    def question(self) -> tuple[str, str, str, tuple[int, ...]]:
        """What was asked: two predictions with the same value answer the same question."""
        return self.id, self.task, self.object, self.slices

    @property
    def correct(self) -> bool | None:
        """Whether the choice is the true label; None for boxes and where the truth is unknown."""
        return self.choice == self.truth if isinstance(self.truth, int) else None

    def beside(self, truth: int | Box | None) -> Prediction:
        """The same with its truth; dataclasses.replace takes three times as long."""
        return Prediction(
            id=self.id,
            task=self.task,
            object=self.object,
            slices=self.slices,
            choice=self.choice,
            probabilities=self.probabilities,
            text=self.text,
            box=self.box,
            truth=truth,
        )

    def to_json(self) -> dict[str, Any]:
        """The line of ``predictions.jsonl``; ``truth`` and ``correct`` stand there where known."""
        probabilities = self.probabilities
        line: dict[str, Any] = {
            "id": self.id,
            "task": self.task,
            "object": self.object,
            "slices": list(self.slices),
            "choice": self.choice,
            "probabilities": None
            if probabilities is None
            else {str(label): probabilities[label] for label in sorted(probabilities)},
            "text": self.text,
            "box": None if self.box is None else self.box.as_list(),
        }
        if self.truth is not None:
            line["truth"] = self.truth.as_list() if isinstance(self.truth, Box) else self.truth
        if self.correct is not None:
            line["correct"] = self.correct
        return line
