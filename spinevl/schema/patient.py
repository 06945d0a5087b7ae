"""One patient: labels and boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spinevl.schema.box import Box

Label = int | tuple[int, ...]


@dataclass(frozen=True)
class Patient:
    """One patient's labels and boxes.

    Attributes:
        id: the folder name of the patient's images.
        labels: task name -> label, or one label a level; empty where unknown.
        boxes: vertebra -> slice -> its box; None where the patient has none.
    """

    id: str
    labels: Mapping[str, Label] = field(default_factory=dict)
    boxes: Mapping[str, Mapping[int, Box]] | None = None

    def label(self, task: str, level_index: int) -> int | None:
        """The label of one question; None where the patient's label is unknown."""
        value = self.labels.get(task)
        return value[level_index] if isinstance(value, tuple) else value
