"""Records of other arguments than the golden cases have, against a plain loop."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinevl.config.tasks import official_tasks
from spinevl.data.examples import patient_examples
from spinevl.data.prompt import render
from spinevl.data.records import read_records, records_text
from spinevl.schema.box import Box
from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import StudyLayout

TASKS = official_tasks()
TEMPLATES = {
    "qd": "[image]Of [image_num] images: curvature?",
    "sl": "[image]Of [image_num] images: aligned?",
    "zjppt": "[image]Find the [label] disc. <image>\nIs the [label] [object] bulging?",
    "zyzg": "[image]Find the [label] [object]. <image>\nIs it narrow?",
    "positioning": "[image]Where is [label]?",
}
ANSWERS = {  # written out again: the module under test reads them from the tasks
    "qd": ["A.normal curvature", "B.straight curvature", "C.reverse curvature"],
    "sl": ["B.abnormal", "A.normal"],
    "zjppt": ["A.normal", "B.bulging", "C.protrusion", "D.extrusion"],
    "zyzg": ["A.normal", "B.mild stenosis", "C.moderate stenosis", "D.severe stenosis"],
}
LEVELS = {
    "zjppt": ["C2-C3", "C3-C4", "C4-C5", "C5-C6", "C6-C7"],
    "zyzg": ["C2", "C2-C3", "C3", "C3-C4", "C4", "C4-C5", "C5", "C5-C6", "C6", "C6-C7", "C7"],
}
LAYOUT = StudyLayout()
VERTEBRAE = ["C2", "C3", "C4", "C5", "C6", "C7"]


def people() -> list[Patient]:
    """Three patients with different labels; ids that JSON must quote, one not in ASCII."""
    rng = np.random.default_rng(0)
    found = []
    for identity in ('a"1', "b 2", "病人3"):
        labels = {
            "qd": int(rng.integers(3)),
            "sl": int(rng.integers(2)),
            "zjppt": tuple(map(int, rng.integers(4, size=5))),
            "zyzg": tuple(map(int, rng.integers(4, size=11))),
        }
        boxes = {}
        for vertebra in VERTEBRAE:
            x, y = (int(one) for one in rng.integers(0, 200, size=2))
            boxes[vertebra] = {5 + k: Box(x + k, y, x + 9, y + 9 + k) for k in range(3)}
        images = LAYOUT.images("/data/m", identity, slices=(5, 6, 7), levels=LEVELS["zyzg"])
        found.append(Patient(identity, labels, boxes, images))  # type: ignore[arg-type]
    return found


def entry(
    patient: Patient, task: str, level: str, images: list[str], answer: str | None, train: bool
) -> dict[str, Any]:
    """One record, by replacing one placeholder after another as the challenge's builder does."""
    n_sagittal = sum("/sag/" in path for path in images)
    prompt = TEMPLATES[task].replace("[image]", "<image>\n" * n_sagittal)
    prompt = prompt.replace("[image_num]", ["", "two", "three"][n_sagittal - 1])
    prompt = prompt.replace("[label]", level)
    prompt = prompt.replace(
        "[object]", "intervertebral disc" if "-" in level else "cervical vertebrae"
    )
    turns: list[dict[str, Any]] = [{"from": "human", "value": prompt}]
    if train:
        turns.append({"from": "gpt", "value": answer})
    return {
        "id": patient.id,
        "task": task,
        "image": images,
        "object": level,
        "answer": answer,
        "conversations": turns,
    }


def plain(
    task: str, sag_image: Sequence[int], *, separate: bool, answers: bool, train: bool
) -> list[dict[str, Any]]:
    found = []
    if task == "positioning":
        for patient, level, number in itertools.product(people(), VERTEBRAE, sag_image):
            assert patient.boxes is not None
            box = patient.boxes[level][number]
            text = f"<ref>{level}<ref><box>({box.x1},{box.y1}),({box.x2},{box.y2})<box>"
            image = f"/data/m/{patient.id}/sag/{number}.png"
            found.append(entry(patient, task, level, [image], text if answers else None, train))
        return found
    for shown in [[one] for one in sag_image] if separate else [sag_image]:
        for patient in people():
            for k, level in enumerate(LEVELS.get(task, [""])):
                images = [f"/data/m/{patient.id}/sag/{number}.png" for number in shown]
                label = patient.labels[task]
                if isinstance(label, tuple):
                    label = label[k]
                    images.append(f"/data/m/{patient.id}/tra/{level.replace('C', '')}.png")
                text = ANSWERS[task][label] if answers else None
                found.append(entry(patient, task, level, images, text, train))
    return found


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("sag_image", [[6], [5, 7], [7, 5], [7, 6, 5], [5, 6, 7]])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(("answers", "train"), [(True, True), (True, False), (False, False)])
def test_every_combination_equals_a_plain_loop(
    task: str, sag_image: list[int], separate: bool, answers: bool, train: bool
) -> None:
    examples = patient_examples(
        people(),
        task=TASKS[task],
        template=TEMPLATES[task],
        sag_image=sag_image,
        separate=separate,
        with_answers=answers,
    )
    expected = plain(task, sag_image, separate=separate, answers=answers, train=train)
    assert records_text(examples, with_answer_turn=train) == json.dumps(
        expected, indent=4, ensure_ascii=False
    )
    for one in examples:
        ((prompt, _),) = one.rounds
        assert prompt.count("<image>") == len(one.images)
        if task != "positioning" and answers:
            assert one.label is not None
            assert ANSWERS[task][one.label] == one.truth


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("separate", [False, True])
def test_a_record_file_gives_its_examples_back(tmp_path: Path, task: str, separate: bool) -> None:
    examples = patient_examples(
        people(),
        task=TASKS[task],
        template=TEMPLATES[task],
        sag_image=[7, 5],
        separate=separate,
        with_answers=True,
    )
    file = tmp_path / "records.json"
    file.write_text(records_text(examples, with_answer_turn=True), encoding="utf-8")
    assert read_records(file, task=TASKS[task], layout=LAYOUT) == examples


def test_a_value_that_looks_like_a_placeholder_is_not_filled_in_again() -> None:
    task = TASKS["qd"]
    assert render("[image][options]", task=task, level="", n_sagittal=1) == (
        "<image>\nA.normal curvature, B.straight curvature, C.reverse curvature"
    )
