"""How a study names its image files; the layout belongs to the data source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from spinevl.schema.image_ref import ImageRef

_FIELDS = {"id": r"[^/\\]+", "slice": r"\d+", "level": r"C\d(?:-C\d)?", "number": r"\d(?:-\d)?"}

Auto = Literal["auto"]
AUTO: Auto = "auto"
"""A layout's value that is not told: the checkpoint's, or the default."""


@dataclass(frozen=True)
class StudyLayout:
    """The images of a patient and their files; the defaults are the CervAI challenge's.

    Attributes:
        slices: the numbers of the sagittal slices, in the order in which a box file lists them.
        sagittal: the file of a sagittal slice below the images' folder; ``{id}`` stands for the
            patient and ``{slice}`` for the slice's number.
        axial: the file of a level's axial slice; ``{level}`` stands for the level (``C2-C3``) and
            ``{number}`` for the level without its C (``2-3``).
        side_px: height and width of every image; None accepts any size.
    """

    slices: tuple[int, ...] = (5, 6, 7)
    sagittal: str = "{id}/sag/{slice}.png"
    axial: str = "{id}/tra/{number}.png"
    side_px: int | None = 224

    @classmethod
    def told(cls, node: Mapping[str, Any]) -> StudyLayout:
        """The layout that the node of a data source tells."""
        named = {
            one.name: node[one.name] for one in fields(cls) if node.get(one.name, AUTO) != AUTO
        }
        if "slices" in named:
            named["slices"] = tuple(named["slices"])
        return cls(**named)

    def __post_init__(self) -> None:
        if not self.slices or len(set(self.slices)) < len(self.slices):
            raise ValueError(f"slices={list(self.slices)}: expected different slice numbers")
        for key, needed in (("sagittal", {"slice"}), ("axial", {"level", "number"})):
            pattern = getattr(self, key)
            named = set(re.findall(r"\{(\w*)\}", pattern))
            if "id" not in named or not named & needed or named - needed - {"id"}:
                wanted = " or ".join(f"{{{one}}}" for one in sorted(needed))
                raise ValueError(f"data.{key}={pattern}: expected a file with {{id}} and {wanted}")

    def images(
        self, root: str, patient: str, *, slices: Sequence[int], levels: Sequence[str]
    ) -> tuple[ImageRef, ...]:
        """The sagittal slices and the axial slices of some levels of one patient below ``root``."""
        root = root.rstrip("/")  # of "/" itself nothing is left
        sagittal = [
            ImageRef(
                f"{root}/{self.sagittal.format(id=patient, slice=number)}",
                patient=patient,
                plane="sagittal",
                slice=number,
            )
            for number in slices
        ]
        axial = [
            ImageRef(
                f"{root}/{self.axial.format(id=patient, level=level, number=_number(level))}",
                patient=patient,
                plane="axial",
                level=level,
            )
            for level in levels
        ]
        return (*sagittal, *axial)

    def root(self, path: str) -> str:
        """The folder that the images of all patients lie below; the path itself of other files."""
        found = _match(self.sagittal, path) or _match(self.axial, path)
        return path[: found.start()] if found else path

    def identify(self, path: str) -> ImageRef | None:
        """What a file of this layout shows; None where its name is none of the layout's."""
        if found := _match(self.sagittal, path):
            number = int(found["slice"])
            return ImageRef(path, patient=found["id"], plane="sagittal", slice=number)
        if found := _match(self.axial, path):
            named = found.groupdict()
            level = named.get("level") or "-".join(f"C{one}" for one in named["number"].split("-"))
            return ImageRef(path, patient=found["id"], plane="axial", level=level)
        return None


def _number(level: str) -> str:
    """``C2-C3`` -> ``2-3``"""
    return level.replace("C", "")


def expression(pattern: str) -> re.Pattern[str]:
    """What a pattern, or a part of one, fits, with a group for each of its fields."""
    return re.compile(_expression(pattern))


def _expression(pattern: str) -> str:
    text = re.escape(pattern)
    for name, form in _FIELDS.items():
        field = re.escape(f"{{{name}}}")
        text = text.replace(field, f"(?P<{name}>{form})", 1).replace(field, f"(?P={name})")
    return text


def _match(pattern: str, path: str) -> re.Match[str] | None:
    """What stands at the fields of a pattern in the end of a path; None where it does not fit."""
    return re.search(f"(?:^|/){_expression(pattern)}\\Z", path)
