"""One question about one patient, as a record file holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One question about one patient: what ``build`` writes and training reads.

    Attributes:
        id, task, object, answer: as in the record file; ``answer`` is None where unknown.
        images: absolute paths, sagittal ones first in the order asked, then the axial one.
        prompt: the human turn, with one ``<image>`` for each of ``images``.
        slices: the sagittal slice numbers shown.
        label: the choice index of ``answer``; None for boxes and where unknown.
    """

    id: str
    task: str
    images: tuple[str, ...]
    object: str
    answer: str | None
    prompt: str
    slices: tuple[int, ...] = ()
    label: int | None = None

    def to_json(self, *, with_answer_turn: bool) -> dict[str, Any]:
        """The record's JSON object in the official key order; the gpt turn is for train only."""
        turns = [{"from": "human", "value": self.prompt}]
        if with_answer_turn:
            turns.append({"from": "gpt", "value": self.answer})  # type: ignore[dict-item]
        return {
            "id": self.id,
            "task": self.task,
            "image": list(self.images),
            "object": self.object,
            "answer": self.answer,
            "conversations": turns,
        }
