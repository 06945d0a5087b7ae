"""A box in a sagittal image, and its answer text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOX_ANSWER = re.compile(
    r"<ref>(?P<ref>[^<>]+)<ref><box>\(([0-9]{1,6}),([0-9]{1,6})\),\(([0-9]{1,6}),([0-9]{1,6})\)<box>"
)


@dataclass(frozen=True)
class Box:
    """A box in pixels of the sagittal image: (x1, y1) upper left, (x2, y2) lower right."""

    x1: int
    y1: int
    x2: int
    y2: int

    def answer(self, vertebra: str) -> str:
        """The answer text of ``positioning``: ``<ref>C2<ref><box>(x1,y1),(x2,y2)<box>``."""
        return f"<ref>{vertebra}<ref><box>({self.x1},{self.y1}),({self.x2},{self.y2})<box>"

    def as_list(self) -> list[int]:
        """[x1, y1, x2, y2]"""
        return [self.x1, self.y1, self.x2, self.y2]

    @staticmethod
    def parse_answer(text: str, vertebra: str) -> Box | None:
        """The box that an answer text names for ``vertebra``; None where it is not exactly one."""
        match = _BOX_ANSWER.fullmatch(text.strip())
        if match is None or match["ref"] != vertebra:
            return None
        box = Box(*(int(number) for number in match.groups()[1:]))
        return box if box.x1 < box.x2 and box.y1 < box.y2 else None
