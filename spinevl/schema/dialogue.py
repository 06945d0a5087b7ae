"""A conversation about some images, as MedM-VL and LLaVA write them."""

from __future__ import annotations

from dataclasses import dataclass

from spinevl.schema.image_ref import Modality

Picture = tuple[Modality, str]


@dataclass(frozen=True)
class Dialogue:
    """Questions and answers about some images.

    Attributes:
        id: the record's own, or its place in the file.
        task: for sampling and reports; ``""`` where the record names none.
        pictures: the images in the order of their placeholders.
        rounds: (question, answer); an answer is None where it is waited for.
        where: the file and the record, for messages.
        truth: the last answer as the file has it, where it has one.
    """

    id: str
    task: str
    pictures: tuple[Picture, ...]
    rounds: tuple[tuple[str, str | None], ...]
    where: str
    truth: str | None = None
