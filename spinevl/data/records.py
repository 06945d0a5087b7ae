"""Record files: the questions of patients as ``build`` writes them and training reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spinevl.io.json_file import read_json_list
from spinevl.schema.box import Box
from spinevl.schema.errors import Problems
from spinevl.schema.example import Example, Key
from spinevl.schema.study_layout import StudyLayout
from spinevl.schema.task import Task


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
            found = _example(entry, task, layout)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            problems.add(where, "a record as build writes it", repr(error), "rebuild it")
            continue
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


def _example(entry: Any, task: Task, layout: StudyLayout) -> Example:
    images = [(path, layout.identify(path)) for path in entry["image"]]
    if unknown := [path for path, image in images if image is None]:
        raise ValueError(f"{unknown[0]} is named neither {layout.sagittal} nor {layout.axial}")
    answer, level, patient = entry["answer"], entry["object"], entry["id"]
    question = entry["conversations"][0]["value"]
    known = answer is not None
    if not all(isinstance(one, str) for one in (patient, question, answer if known else "")):
        raise TypeError("id, question and answer must be text")
    if level not in task.objects:
        raise ValueError(f"object {level!r} is none of {task.name}")
    if not images or any(image.patient != patient for _, image in images if image):
        raise ValueError("expected images of the record's patient alone, one at least")
    return Example(
        key=Key(patient, entry["task"], level),
        images=tuple(image for _, image in images if image is not None),
        rounds=((question, answer),),
        kind="option" if task.closed else "box",
        options=tuple(task.choices),
        label=task.parse(answer) if known and task.closed else None,
        box=Box.parse_answer(answer, level) if known and not task.closed else None,
        truth=answer,
    )
