"""One question, or one conversation, as training and prediction read it."""

from __future__ import annotations

from dataclasses import dataclass

from spinevl.schema.box import Box
from spinevl.schema.image_ref import ImageRef

Rounds = tuple[tuple[str, str | None], ...]


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
    """A question about a patient or a conversation, with its images.

    Attributes:
        key: what is asked of whom.
        images: in the order of their placeholders.
        rounds: (question, answer) in order; an answer is None where it is waited for.
        where: the file and the record, for messages.
        options: the answer texts of a closed question, label 0 first; empty where any text, or a
            box, may be the answer.
        label: the true option; None where unknown.
        box: the true box of a question that asks for one; None where unknown.
        asks_place: whether the answer names a place in the images, which then must not be shifted.
        weight: of its answer in the training loss.
        truth: the answer's text as the file has it; None where it has none.
    """

    key: Key
    images: tuple[ImageRef, ...]
    rounds: Rounds
    where: str
    options: tuple[str, ...] = ()
    label: int | None = None
    box: Box | None = None
    asks_place: bool = False
    weight: float = 1.0
    truth: str | None = None

    @property
    def slices(self) -> tuple[int, ...]:
        """The sagittal slices shown, in order."""
        return tuple(one.slice for one in self.images if one.slice is not None)
