"""One patient: labels, boxes and images, as the data source tells them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from spinevl.schema.box import Box
from spinevl.schema.image_ref import ImageRef

Label = int | tuple[int, ...]


def composed(identity: str) -> str:
    """An id as ids are compared (NFC): an ``é`` may be one character, or on a Mac two."""
    return unicodedata.normalize("NFC", identity)


@dataclass(frozen=True)
class Patient:
    """One patient of a study.

    Attributes:
        id: the patient's, unique in the study, as ``composed`` writes it.
        labels: task name -> label, or one label a level; empty where unknown.
        boxes: vertebra -> slice -> its box; None where the patient has none.
        images: the images that the study's tasks may show.
        written: the id as its file or folder spells it, which submissions repeat.
    """

    id: str
    labels: Mapping[str, Label] = field(default_factory=dict)
    boxes: Mapping[str, Mapping[int, Box]] | None = None
    images: tuple[ImageRef, ...] = ()
    written: str = ""

    def label(self, task: str, level_index: int) -> int | None:
        """The label of one question; None where the patient's label is unknown."""
        value = self.labels.get(task)
        return value[level_index] if isinstance(value, tuple) else value

    def sagittal(self, number: int) -> ImageRef:
        """The sagittal slice of that number. Raises KeyError where the patient has none."""
        return self._only(number, "slice")

    def axial(self, level: str) -> ImageRef:
        """The axial slice of a level. Raises KeyError where the patient has none."""
        return self._only(level, "level")

    def _only(self, wanted: int | str, kind: str) -> ImageRef:
        for image in self.images:
            if getattr(image, kind) == wanted:
                return image
        raise KeyError(f"patient {self.id}: no image of {kind} {wanted}")
