"""Who trains and who is dev where the records of an earlier build are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spinevl.data.split import Split
from spinevl.schema.errors import Problems
from spinevl.schema.example import Example
from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import StudyLayout

_AGAIN = "build the records again"

Sides = Mapping[str, Mapping[str, Sequence[Example]]]
"""``train`` or ``dev`` -> task -> its examples."""


def split_of_records(
    sides: Sides, patients: Sequence[Patient], *, layout: StudyLayout, where: str
) -> Split:
    """The patients of each side.

    Args:
        sides: what the record files ask.
        patients: those of the data.
        layout: how the images' files are named.
        where: the records, for messages.

    Raises:
        UserError: patients that the data lack, on both sides, in the files of some tasks alone,
            with images of two people, or with less than all questions of dev, which is scored.
    """
    known = {patient.id: patient for patient in patients}
    ids = {
        side: dict.fromkeys(one.key.patient for examples in tasks.values() for one in examples)
        for side, tasks in sides.items()
    }
    problems = Problems()
    for side, tasks in sides.items():
        for one in ids[side]:
            if one not in known:
                at = f"{where}: patient {one} ({side})"
                problems.add(at, "a patient of the data", "none", "name its build's data")
        for task, examples in tasks.items():
            _add_missing(examples, list(ids[side]), f"{where}: {task}_{side}", side, problems)
    for one in ids["train"]:
        if one in ids["dev"]:
            problems.add(f"{where}: patient {one}", "train or dev", "both", _AGAIN)
    _add_two_people(sides, layout, where, problems)
    problems.raise_any()
    train, dev = (tuple(known[one] for one in ids[side]) for side in ("train", "dev"))
    return Split(train, dev)


def _add_missing(
    examples: Sequence[Example], ids: Sequence[str], where: str, side: str, problems: Problems
) -> None:
    """The patients of a side that a task's file lacks, in dev their single questions too."""
    asked: dict[str, set[tuple[str, tuple[int, ...]]]] = {one: set() for one in ids}
    for one in examples:
        asked[one.key.patient].add((one.key.level, one.slices))
    questions = dict.fromkeys((one.key.level, one.slices) for one in examples)
    for patient, given in asked.items():
        absent = [question for question in questions if question not in given]
        if not given:
            problems.add(f"{where}: patient {patient}", "records", "none", _AGAIN)
        elif absent and side == "dev":
            level, slices = absent[0]
            wanted = f"a record of {level or 'the whole spine'} in slices {list(slices)}"
            problems.add(f"{where}: patient {patient}", wanted, "none", _AGAIN)


def _add_two_people(sides: Sides, layout: StudyLayout, where: str, problems: Problems) -> None:
    """Patients whose images lie in two folders of one name: ``siteA/case1`` and ``siteB/case1``."""
    roots: dict[str, str] = {}
    told = set()
    for tasks in sides.values():
        for one in (example for examples in tasks.values() for example in examples):
            for image in one.images:
                root = layout.root(image.path)
                other = roots.setdefault(image.patient, root)
                if other != root and image.patient not in told:
                    told.add(image.patient)
                    found = f"images below {other} and below {root}"
                    fix = "give the patients ids of their own"
                    problems.add(f"{where}: patient {image.patient}", "one person", found, fix)
