"""The names of a patient's files where an id can be spelled in two ways, as on a Mac."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from spinevl.schema.errors import Problem, UserError
from spinevl.schema.patient import composed
from spinevl.schema.study_layout import StudyLayout


def two_spellings(where: str, names: Iterable[str]) -> list[str]:
    """A problem for each id that two names spell; ``where`` holds them."""
    seen: dict[str, str] = {}
    return [
        str(Problem(where, "each id once", f"{other!a} and {one!a}, which are one", "rename one"))
        for one in names
        if (other := seen.setdefault(composed(one), one)) != one
    ]


def spelling_in(root: Path, identity: str, layout: StudyLayout) -> str:
    """An id as the names of its images below ``root`` spell it; itself where there are none.

    Raises:
        UserError: there are images in two spellings.
    """
    if identity.isascii():
        return identity
    both = dict.fromkeys(unicodedata.normalize(form, identity) for form in ("NFC", "NFD"))
    there = [
        name
        for name in both
        if any(
            Path(image.path).exists()
            for image in layout.images(str(root), name, slices=layout.slices, levels=())
        )
    ]
    if problems := two_spellings(str(root), there):
        raise UserError(problems)
    return there[0] if there else identity
