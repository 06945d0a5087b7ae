"""Record files: the questions of patients as ``build`` writes them and training reads them."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spinevl.io.json_file import field, kind_of, read_json_list
from spinevl.schema.box import Box
from spinevl.schema.errors import Problems, UserError, refused
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.patient import composed
from spinevl.schema.study_layout import StudyLayout
from spinevl.schema.task import Task

_REBUILD = "mend it or build again"


def records_text(examples: Sequence[Example], *, with_answer_turn: bool) -> str:
    """The record file's text: equal to ``json.dumps(..., indent=4, ensure_ascii=False)``.

    Written by hand because the standard library indents in pure Python, which takes seconds for
    the 36,000 records of a whole study.
    """
    quote = json.encoder.encode_basestring
    parts = []
    for one in examples:
        images = ",\n            ".join(quote(image.path) for image in one.images)
        answer = "null" if one.truth is None else quote(one.truth)
        turns = _turn("human", quote(one.rounds[0][0]))
        if with_answer_turn:
            turns += ",\n" + _turn("gpt", answer)
        parts.append(
            "    {\n"
            f'        "id": {quote(one.key.patient)},\n'
            f'        "task": {quote(one.key.task)},\n'
            f'        "image": [\n            {images}\n        ],\n'
            f'        "object": {quote(one.key.level)},\n'
            f'        "answer": {answer},\n'
            f'        "conversations": [\n{turns}\n        ]\n'
            "    }"
        )
    return "[\n" + ",\n".join(parts) + "\n]" if parts else "[]"


def _turn(speaker: str, quoted: str) -> str:
    return (
        "            {\n"
        f'                "from": "{speaker}",\n'
        f'                "value": {quoted}\n'
        "            }"
    )


def read_records(path: Path, *, task: Task, layout: StudyLayout) -> list[Example]:
    """The examples of a record file that ``build`` wrote.

    Args:
        path: the file.
        task: what it asks.
        layout: how the images' files are named, so that each says what it shows.

    Raises:
        UserError: with every record that is not as build writes it.
    """
    examples = []
    problems = Problems()
    seen: set[tuple[Key, tuple[int, ...]]] = set()
    for number, entry in enumerate(read_json_list(path, expected="a list of records"), start=1):
        where = f"{path}: record {number}"
        try:
            found = _example(entry, task, layout, where)
        except UserError as error:
            problems.extend(error.problems)
            continue
        where = f"{where} (id {found.key.patient})"
        answer = found.truth
        if found.key.task != task.name:
            problems.add(where, f"task {task.name}", repr(found.key.task), "rebuild it")
        if answer is not None and task.closed and found.label is None:
            known = " | ".join(task.choices)
            problems.add(where, f"an answer among {known}", repr(answer), "mend it")
        if answer is not None and not task.closed and found.box is None:
            problems.add(where, "a box as build writes it", repr(answer), "mend it")
        if (found.key, found.slices) in seen:
            problems.add(where, "a question of its own", "that of an earlier record", "drop it")
        seen.add((found.key, found.slices))
        examples.append(found)
    problems.raise_any()
    return examples


def _example(entry: Any, task: Task, layout: StudyLayout, where: str) -> Example:
    """The example of a record. Raises UserError for a shape that build does not write."""
    if not isinstance(entry, dict):
        raise refused(where, "an object", kind_of(entry), _REBUILD)
    patient = composed(field(entry, "id", str, where=where, fix=_REBUILD))
    where = f"{where} (id {patient})"
    told = functools.partial(field, entry, where=where, fix=_REBUILD)
    level, answer, files = told("object", str), told("answer", str, type(None)), told("image", list)
    images = [_image(one, layout, patient, where) for one in files]
    if not images:
        raise refused(f"{where}: image", "one image at least", "none", _REBUILD)
    if level not in task.objects:
        wanted = f"one of {', '.join(map(repr, task.objects))}"
        raise refused(f"{where}: object", wanted, repr(level), _REBUILD)
    turns = told("conversations", list)
    if not turns or not isinstance(turns[0], dict):
        raise refused(f"{where}: conversations", "a list of turns", repr(turns), _REBUILD)
    question = field(turns[0], "value", str, where=f"{where}: turn 1", fix=_REBUILD)
    known = answer is not None
    return Example(
        key=Key(patient, told("task", str), level),
        images=tuple(images),
        rounds=((question, answer),),
        kind="option" if task.closed else "box",
        options=tuple(task.choices),
        label=task.parse(answer) if known and task.closed else None,
        box=Box.parse_answer(answer, level) if known and not task.closed else None,
        truth=answer,
    )


def _image(path: Any, layout: StudyLayout, patient: str, where: str) -> ImageRef:
    """What an image's file shows; its name says so."""
    image = layout.identify(path) if isinstance(path, str) and path.isprintable() else None
    if image is None:
        wanted = f"a file like {layout.sagittal} or {layout.axial}"
        raise refused(f"{where}: image", wanted, repr(path), _REBUILD)
    if composed(image.patient) != patient:
        raise refused(f"{where}: image", f"images of {patient} alone", path, _REBUILD)
    return replace(image, patient=patient)
