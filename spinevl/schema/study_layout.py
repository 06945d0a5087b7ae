"""How a study names its image files; the layout belongs to the data source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from spinevl.schema.image_ref import ImageRef

# a field of a pattern, and to how many digits its number is padded: {id}, {slice:03}
_FIELD = re.compile(r"\{(\w*)(?::0(\d+)d?)?\}")
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
            patient and ``{slice}`` for the slice's number, ``{slice:03}`` for one of three digits.
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
        _check_pattern("sagittal", self.sagittal, {"slice"})
        _check_pattern("axial", self.axial, {"level", "number"})

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


_WANTED = {
    "sagittal": "{slice}, its number ({slice:03} is 006)",
    "axial": "{level} or {number} (C2-C3 or 2-3)",
}


def _check_pattern(key: str, pattern: str, needed: set[str]) -> None:
    """Raise ValueError for a pattern that names no file of each patient and slice or level."""
    fields = list(_FIELD.finditer(pattern))
    named = {one[1] for one in fields}
    strange = [
        one[0] for one in fields if one[1] not in {"id", *needed} or (one[2] and one[1] != "slice")
    ]
    strange += re.findall(r"\{[^{}]*\}?|\}|\*", _FIELD.sub("", pattern))
    if strange or "id" not in named or not named & needed:
        found = f", found {strange[0]}" if strange else ""
        wanted = f"{{id}}, the patient, and {_WANTED[key]}, and no other field or *"
        raise ValueError(f"data.{key}={pattern}: expected a file with {wanted}{found}")


def unknown_slices(shown: Sequence[int], known: Sequence[int]) -> str | None:
    """What is wrong with the sagittal slices that are to be shown; None where all are known."""
    absent = [str(one) for one in shown if one not in known]
    if not absent:
        return None
    choices = ", ".join(map(str, known))
    return (
        f"sag_image has no slice {', '.join(absent)}; choose from {choices}, the slices of the "
        "data (data.slices; with data=cervai also data.sagittal, data.axial and data.side_px)"
    )


def _number(level: str) -> str:
    """``C2-C3`` -> ``2-3``"""
    return level.replace("C", "")


def expression(pattern: str) -> re.Pattern[str]:
    """What a pattern, or a part of one, fits, with a group for each of its fields."""
    return re.compile(_expression(pattern))


def _expression(pattern: str) -> str:
    parts, end, seen = [], 0, set()
    for field in _FIELD.finditer(pattern):
        name, digits = field.groups()
        form = rf"(?:\d{{{digits}}}|[1-9]\d{{{digits},}})" if digits else _FIELDS[name]
        parts.append(re.escape(pattern[end : field.start()]))
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{form})")
        seen.add(name)
        end = field.end()
    return "".join(parts) + re.escape(pattern[end:])


def _match(pattern: str, path: str) -> re.Match[str] | None:
    """What stands at the fields of a pattern in the end of a path; None where it does not fit."""
    return re.search(f"(?:^|/){_expression(pattern)}\\Z", path)
