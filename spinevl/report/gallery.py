"""Patients for the report: pictures, truth and answers, worst errors first."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task, axial_stem


def gallery(
    predictions: Sequence[Prediction],
    truth: Sequence[Patient],
    tasks: Mapping[str, Task],
    *,
    images_root: Path,
    slice_: int,
    n_patients: int = 12,
) -> list[dict[str, Any]]:
    """The patients with the most confident errors, the last two of them with the fewest.

    Args:
        predictions, truth, tasks: answers and labels.
        images_root: the folder of the patients' folders.
        slice_: the sagittal slice shown.
        n_patients: how many patients.
    """
    people = {patient.id: patient for patient in truth}
    by_patient: dict[str, list[dict[str, Any]]] = {}
    for one in predictions:
        task = tasks[one.task]
        patient = people.get(one.id)
        if not task.closed or patient is None:
            continue
        label = patient.label(task.name, task.objects.index(one.object))
        if label is None:
            continue
        by_patient.setdefault(one.id, []).append(_answer(one, task, label))
    worst = sorted(by_patient, key=lambda key: (-_badness(by_patient[key]), key))
    shown = worst if len(worst) <= n_patients else [*worst[: n_patients - 2], *worst[-2:]]
    cards = []
    for key in shown:
        answers = sorted(by_patient[key], key=lambda one: -one["badness"])
        axial = next((one["axial"] for one in answers if one["axial"]), None)
        pictures = [("sagittal", images_root / key / "sag" / f"{slice_}.png")]
        if axial:
            pictures.append((f"axial {axial}", images_root / key / "tra" / f"{axial}.png"))
        cards.append(
            {
                "id": key,
                "pictures": [(name, uri) for name, path in pictures if (uri := data_uri(path))],
                "answers": answers,
                "errors": sum(one["wrong"] for one in answers),
            }
        )
    return cards


def data_uri(path: Path) -> str | None:
    """A PNG as a data URI; None where the file is gone."""
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return None


def _answer(one: Prediction, task: Task, label: int) -> dict[str, Any]:
    wrong = one.choice != label
    probability = None
    if one.probabilities is not None and one.choice is not None:
        probability = one.probabilities[one.choice]
    steps = abs(one.choice - label) if one.choice is not None else len(task.choices)
    return {
        "question": f"{task.title} {one.object}".strip(),
        "truth": task.choices[label].partition(".")[2] or task.choices[label],
        "answer": one.text.partition(".")[2] or one.text,
        "probability": probability,
        "wrong": wrong,
        "axial": axial_stem(one.object) if task.axial else None,
        "badness": steps * (probability if probability is not None else 1.0) if wrong else 0.0,
    }


def _badness(answers: Sequence[Mapping[str, Any]]) -> float:
    return max((one["badness"] for one in answers), default=0.0) + 0.01 * sum(
        one["wrong"] for one in answers
    )
