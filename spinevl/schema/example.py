"""One question, or one conversation, as training and prediction read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spinevl.schema.box import Box
from spinevl.schema.image_ref import ImageRef

Rounds = tuple[tuple[str, str | None], ...]

AnswerKind = Literal["option", "box", "text"]
"""One of some options, a box in pixels of the image, or any text."""


@dataclass(frozen=True)
class Key:
    """Which question an example asks.

    Attributes:
        patient: the patient, or the id of a conversation's record.
        task: the task; ``""`` where a conversation names none.
        level: the spine level asked about; ``""`` for the whole spine.
    """

    patient: str
    task: str
    level: str = ""


@dataclass(frozen=True)
class Example:
    """A question about a patient, or a conversation, with its images.

    Attributes:
        key: what is asked of whom.
        images: in the order of their placeholders.
        rounds: (question, answer) in order; an answer is None where it is waited for.
        kind: of the last answer.
        options: the answer texts of a closed question, label 0 first.
        label: the true option; None where unknown, and where there are none.
        box: the true box; None where unknown, and where none is asked for.
        truth: the text of the last answer; None where unknown.
        weight: of the answers in the training loss.
        source: the file and the record of a conversation, for messages.
    """

    key: Key
    images: tuple[ImageRef, ...]
    rounds: Rounds
    kind: AnswerKind = "text"
    options: tuple[str, ...] = ()
    label: int | None = None
    box: Box | None = None
    truth: str | None = None
    weight: float = 1.0
    source: str = ""

    @property
    def where(self) -> str:
        """The record, for messages."""
        key = self.key
        return self.source or f"record {key.patient} {key.task} {key.level}".rstrip()

    @property
    def slices(self) -> tuple[int, ...]:
        """The sagittal slices shown, in order."""
        return tuple(one.slice for one in self.images if one.slice is not None)
