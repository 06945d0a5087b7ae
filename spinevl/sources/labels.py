"""The CervAI label, box and template files, checked record by record."""

from __future__ import annotations

import difflib
import functools
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.io.json_file import kind_of, read_json_list
from spinevl.schema.box import Box
from spinevl.schema.errors import Problems, counted
from spinevl.schema.patient import Label, Patient, composed
from spinevl.schema.study_layout import StudyLayout
from spinevl.schema.task import Task

log = logging.getLogger(__name__)

VERTEBRAE = ("C2", "C3", "C4", "C5", "C6", "C7")
"""The keys of a record of a box file."""

Boxes = dict[str, dict[int, Box]]

_BOX = re.compile(r"\(([0-9]{1,6}),([0-9]{1,6})\)\(([0-9]{1,6}),([0-9]{1,6})\)")
_CERVAI = StudyLayout()
_LONGEST_NAME_BYTES = 255


def read_labels(
    path: str | Path,
    *,
    tasks: Mapping[str, Task],
    required: Collection[str] = (),
    may_leave_out: bool = False,
) -> tuple[Patient, ...]:
    """The patients of a label file, in its order.

    Args:
        path: a JSON list of ``{"id", task: label or list of labels, ...}``.
        tasks: the tasks known; a known task that a record has is checked.
        required: tasks that every record must have.
        may_leave_out: whether the user may name fewer with ``task=``.

    Raises:
        UserError: with every problem of every record; a task that none has is told once.
    """
    closed = {name: task for name, task in tasks.items() if task.closed}
    names = tuple(closed)
    patients: list[Patient] = []
    problems = Problems()
    entries = _entries(path, "a list of label objects", problems)
    nowhere = [
        name
        for name in closed
        if name in required and len(entries) > 1 and all(name not in one for _, one in entries)
    ]
    meant: list[str] = []
    for name in nowhere:
        close = _closest(name, tuple(entries[0][1]), 0.6)
        meant += [close] if close else []
        others = ",".join(one for one in required if one not in nowhere)
        leave_out = (
            f", or leave the task out: 'task=[{others}]'" if may_leave_out and others else ""
        )
        fix = _misspelt(close) if close else f"add it{leave_out}"
        problems.add(str(path), f"key {name!r}", f"none in any of {len(entries)} records", fix)
    for where, entry in entries:
        labels: dict[str, Label] = {}
        for name, task in closed.items():
            if name not in entry:
                if name in required and name not in nowhere:
                    close = _closest(name, tuple(entry), 0.6)
                    fix = _misspelt(close) if close else "add it"
                    problems.add(where, f"key {name!r}", "none", fix)
                continue
            label = _label(where, task, entry[name], problems)
            if label is not None:
                labels[name] = label
        for key in entry:
            if key in closed or key == "id" or key in meant:
                continue
            if close := _closest(key, names, 0.7):
                problems.add(where, "known keys", repr(key), f"did you mean {close!r}?")
        patients.append(Patient(composed(entry["id"]), labels, written=entry["id"]))
    problems.raise_any()
    return tuple(patients)


def _misspelt(close: str) -> str:
    return f"did you misspell it as {close!r}?"


@functools.lru_cache(maxsize=256)  # the records of a file have the same keys
def _closest(word: str, names: tuple[str, ...], cutoff: float) -> str | None:
    """The name that a word may be meant to be."""
    return next(iter(difflib.get_close_matches(word, names, 1, cutoff)), None)


def read_template(path: str | Path, *, tasks: Mapping[str, Task]) -> tuple[Patient, ...]:
    """The test patients of a submission template, in its order, with its placeholder labels.

    A list of ids alone is one too; a record with labels must have those of every other record.
    """
    patients = read_labels(path, tasks=tasks)
    asked = {name: None for patient in patients for name in patient.labels}
    problems = Problems()
    for patient in patients:
        where = f"{path}: patient {patient.id}"
        for name in asked:
            if name not in patient.labels:
                problems.add(where, f"key {name!r}", "none", "add it, as elsewhere")
    problems.raise_any()
    return patients


def read_boxes(path: str | Path, *, layout: StudyLayout = _CERVAI) -> dict[str, Boxes]:
    """Patient id -> vertebra -> slice -> its box.

    Raises:
        UserError: with every problem of every record.
    """
    result: dict[str, Boxes] = {}
    problems = Problems()
    for where, entry in _entries(path, "a list of box objects", problems):
        boxes: Boxes = {}
        for key in entry:
            if key not in ("id", *VERTEBRAE):
                known = "the keys id, " + ", ".join(VERTEBRAE)
                problems.add(where, known, repr(key)[:60], "remove or mend it")
        for vertebra in VERTEBRAE:
            texts = entry.get(vertebra)
            if not isinstance(texts, list) or len(texts) != len(layout.slices):
                found = "none" if texts is None else repr(texts)[:60]
                numbers = ", ".join(map(str, layout.slices))
                wanted = f"{len(layout.slices)} boxes, of slices {numbers}"
                problems.add(f"{where} {vertebra}", wanted, found, "mend it")
                continue
            boxes[vertebra] = {}
            for number, text in zip(layout.slices, texts, strict=True):
                here = f"{where} {vertebra} slice {number}"
                if box := _box(here, text, layout.side_px, problems):
                    boxes[vertebra][number] = box
        result[composed(entry["id"])] = boxes
    problems.raise_any()
    return result


def warn_without_boxes(file: str | None, absent: Sequence[str], *, n_patients: int) -> None:
    """Tell how many patients a box file lacks, where it may."""
    if absent:
        log.warning(
            "%s: no boxes of %d of the %s, first %s; their boxes are not scored",
            *(file, len(absent), counted(n_patients, "patient"), absent[0]),
        )


def check_id(value: Any) -> str | None:
    """What is wrong with a patient id, None where nothing is: it becomes a folder name."""
    if not isinstance(value, str):
        return kind_of(value)
    if not value.strip() or value != value.strip():
        return "an empty id or one with outer spaces"
    if value.startswith(".") or re.search(r"[/\\:]", value) or not value.isprintable():
        return f"{value!r}, which is no plain folder name"
    if len(value.encode()) > _LONGEST_NAME_BYTES:
        return f"{value[:20]!r}..., which is too long for a folder name"
    return None


def _entries(
    path: str | Path, expected: str, problems: Problems
) -> list[tuple[str, dict[str, Any]]]:
    """(where, object) of each record with a usable, unrepeated id."""
    entries = []
    seen: dict[str, str] = {}
    for number, entry in enumerate(read_json_list(path, expected=expected), start=1):
        where = f"{path}: record {number}"
        if not isinstance(entry, dict):
            problems.add(where, "an object", kind_of(entry), "mend the record")
            continue
        identity = entry.get("id")
        wrong = check_id(identity)
        if wrong is not None or not isinstance(identity, str):
            problems.add(where, "a string id that is a folder name", str(wrong), "mend the id")
            continue
        one = composed(identity)
        if one in seen:
            spelt = seen[one] != identity
            found = (
                f"{seen[one]!a} and {identity!a}, one id in two spellings" if spelt else "another"
            )
            problems.add(f"{path}: patient {one}", "one record", found, "drop one of them")
            continue
        seen[one] = identity
        entries.append((f"{path}: patient {one}", entry))
    return entries


def _label(where: str, task: Task, value: Any, problems: Problems) -> Label | None:
    highest = len(task.choices) - 1
    values = value if task.levels else [value]
    if task.levels and (not isinstance(value, list) or len(value) != len(task.levels)):
        found = f"{len(value)} values" if isinstance(value, list) else repr(value)[:60]
        problems.add(
            f"{where} {task.name}", f"a list of {len(task.levels)} labels", found, "mend it"
        )
        return None
    for number, one in enumerate(values):
        if type(one) is not int or not 0 <= one <= highest:
            level = f" {task.levels[number]}" if task.levels else ""
            problems.add(
                f"{where} {task.name}{level}",
                f"an integer 0 to {highest}",
                repr(one)[:60],
                "mend it",
            )
            return None
    return tuple(values) if task.levels else values[0]


def _box(where: str, text: Any, side_px: int | None, problems: Problems) -> Box | None:
    match = _BOX.fullmatch(text.replace(" ", "")) if isinstance(text, str) else None
    if match is None:
        problems.add(where, '"(x1,y1)(x2,y2)"', repr(text)[:60], "mend the box")
        return None
    box = Box(*(int(number) for number in match.groups()))
    if box.x1 >= box.x2 or box.y1 >= box.y2:
        problems.add(where, "x1 < x2 and y1 < y2", text, "swap its corners")
        return None
    if side_px is not None and max(box.x2, box.y2) > side_px:
        problems.add(
            where, f"corners within 0 to {side_px}", text, f"give pixels of the {side_px} image"
        )
        return None
    return box
