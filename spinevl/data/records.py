"""Questions of patients: the records that ``build`` writes and training reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from spinevl.data.prompt import render
from spinevl.io.json_file import read_json_list
from spinevl.schema.errors import Problem, UserError
from spinevl.schema.patient import Patient
from spinevl.schema.record import Record
from spinevl.schema.task import Task, axial_stem

Answers = Literal["truth", "none"]


def build_records(
    patients: Sequence[Patient],
    *,
    task: Task,
    template: str,
    sag_image: Sequence[int],
    separate: bool,
    images_root: Path | str,
    answers: Answers,
) -> list[Record]:
    """The records of one task.

    Args:
        patients: in the order of the label file.
        task, template: what is asked, and how.
        sag_image: sagittal slices in the order shown.
        separate: every slice on its own, all patients with the first slice first.
        images_root: the folder of the patients' folders.
        answers: ``truth`` from the patients' labels or boxes, ``none`` for null.

    Raises:
        UserError: boxes asked of a patient that has none.
    """
    root = str(images_root)
    if not task.closed:
        return list(_box_records(patients, task, template, sag_image, root, answers == "truth"))
    shown = [(number,) for number in sag_image] if separate else [tuple(sag_image)]
    return [
        record
        for slices in shown
        for record in _closed_records(patients, task, template, slices, root, answers == "truth")
    ]


def _closed_records(
    patients: Sequence[Patient],
    task: Task,
    template: str,
    slices: tuple[int, ...],
    root: str,
    with_answer: bool,
) -> Iterator[Record]:
    prompts = [
        render(template, task=task, level=level, n_sagittal=len(slices)) for level in task.objects
    ]
    stems = [axial_stem(level) if task.axial else None for level in task.objects]
    for patient in patients:
        folder = f"{root}/{patient.id}"
        sagittal = tuple(f"{folder}/sag/{number}.png" for number in slices)
        for k, level in enumerate(task.objects):
            label = patient.label(task.name, k) if with_answer else None
            yield Record(
                id=patient.id,
                task=task.name,
                images=sagittal
                if stems[k] is None
                else (*sagittal, f"{folder}/tra/{stems[k]}.png"),
                object=level,
                answer=None if label is None else task.choices[label],
                prompt=prompts[k],
                slices=slices,
                label=label,
            )


def _box_records(
    patients: Sequence[Patient],
    task: Task,
    template: str,
    sag_image: Sequence[int],
    root: str,
    with_answer: bool,
) -> Iterator[Record]:
    prompts = {
        level: render(template, task=task, level=level, n_sagittal=1) for level in task.levels
    }
    for patient in patients:
        if with_answer and patient.boxes is None:
            raise UserError(
                Problem(
                    f"patient {patient.id}", "boxes", "none", "give data.boxes, or drop the task"
                )
            )
        for level in task.levels:
            for number in sag_image:
                box = None
                if with_answer and patient.boxes is not None:
                    box = patient.boxes[level][number]
                yield Record(
                    id=patient.id,
                    task=task.name,
                    images=(f"{root}/{patient.id}/sag/{number}.png",),
                    object=level,
                    answer=None if box is None else box.answer(level),
                    prompt=prompts[level],
                    slices=(number,),
                )


def records_text(records: Sequence[Record], *, with_answer_turn: bool) -> str:
    """The record file's text: equal to ``json.dumps(..., indent=4, ensure_ascii=False)``.

    Written by hand because the standard library indents in pure Python, which takes seconds for
    the 36,000 records of a whole study.
    """
    quote = json.encoder.encode_basestring
    parts = []
    for record in records:
        images = ",\n            ".join(quote(path) for path in record.images)
        answer = "null" if record.answer is None else quote(record.answer)
        turns = _turn("human", quote(record.prompt))
        if with_answer_turn:
            turns += ",\n" + _turn("gpt", answer)
        parts.append(
            "    {\n"
            f'        "id": {quote(record.id)},\n'
            f'        "task": {quote(record.task)},\n'
            f'        "image": [\n            {images}\n        ],\n'
            f'        "object": {quote(record.object)},\n'
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


def read_records(path: Path, *, task: Task) -> list[Record]:
    """The records of a file that ``build`` wrote."""
    records = []
    problems = []
    for number, entry in enumerate(read_json_list(path, expected="a list of records"), start=1):
        where = f"{path}: record {number}"
        try:
            turns = entry["conversations"]
            answer = entry["answer"]
            images = tuple(entry["image"])
            record = Record(
                id=entry["id"],
                task=entry["task"],
                images=images,
                object=entry["object"],
                answer=answer,
                prompt=turns[0]["value"],
                slices=tuple(
                    int(Path(one).stem) for one in images if Path(one).parent.name == "sag"
                ),
                label=None if answer is None or not task.closed else task.parse(answer),
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            problems.append(
                Problem(where, "a record as build writes it", repr(error), "rebuild it")
            )
            continue
        if record.task != task.name:
            problems.append(Problem(where, f"task {task.name}", repr(record.task), "rebuild it"))
        if answer is not None and task.closed and record.label is None:
            known = " | ".join(task.choices)
            problems.append(Problem(where, f"an answer among {known}", repr(answer), "mend it"))
        records.append(record)
    if problems:
        raise UserError(problems)
    return records
