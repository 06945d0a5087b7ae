"""The patients who have images below a folder, by the patterns of a study's layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spinevl.schema.study_layout import StudyLayout, expression


@dataclass(frozen=True)
class Found:
    """What lies below the folder of the images.

    Attributes:
        ids: of the patients, as they are written there, each once.
        others: folders that no pattern names, so that they are no patients.
        broken: links in the place of patients' folders that point to nothing.
    """

    ids: Sequence[str]
    others: Sequence[str]
    broken: Sequence[str]


def patients_below(root: Path, layout: StudyLayout) -> Found:
    """The patients whose folders, or whose files, the layout's patterns find.

    Args:
        root: the folder of the images.
        layout: its patterns may name a patient at any depth.
    """
    ids: dict[str, None] = {}
    others: dict[str, None] = {}
    broken: dict[str, None] = {}
    patterns = (layout.sagittal, layout.axial)
    for parts in dict.fromkeys(tuple(_up_to_the_patient(one)) for one in patterns):
        is_folder = any(one.startswith("/".join(parts) + "/") for one in patterns)
        folders = [root]
        for part in parts[:-1]:
            pattern = expression(part)
            folders = [
                one for folder in folders for one in _entries(folder) if pattern.fullmatch(one.name)
            ]
        pattern = expression(parts[-1])
        broken |= {str(one.relative_to(root)): None for one in folders if _points_nowhere(one)}
        for one in (one for folder in folders if folder.is_dir() for one in _entries(folder)):
            if one.is_dir() is not is_folder:
                if is_folder and _points_nowhere(one) and pattern.fullmatch(one.name):
                    broken.setdefault(str(one.relative_to(root)))
                continue
            if found := pattern.fullmatch(one.name):
                ids.setdefault(found["id"])
            elif is_folder:
                others.setdefault(str(one.relative_to(root)))
    return Found(list(ids), list(others), list(broken))


def patient_of(folder: str, layout: StudyLayout) -> str | None:
    """The patient whose folder has a name; None where the patterns give patients no such folder."""
    for pattern in (layout.sagittal, layout.axial):
        parts = _up_to_the_patient(pattern)
        if len(parts) == 1 and pattern != parts[0]:
            found = expression(parts[0]).fullmatch(folder)
            if found:
                return found["id"]
    return None


def _up_to_the_patient(pattern: str) -> list[str]:
    """The parts of a pattern up to the first that names the patient."""
    parts = pattern.split("/")
    return parts[: next(k for k, part in enumerate(parts) if "{id}" in part) + 1]


def _points_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _entries(folder: Path) -> Iterator[Path]:
    return (one for one in sorted(folder.iterdir()) if not one.name.startswith("."))
