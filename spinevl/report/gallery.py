"""Patients for the report: pictures, truth and answers, worst errors first."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.schema.image_ref import ImageRef
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

Pictures = Mapping[str, Sequence[ImageRef]]


def gallery(
    predictions: Sequence[Prediction],
    tasks: Mapping[str, Task],
    *,
    pictures: Pictures,
    n_patients: int = 12,
) -> list[dict[str, Any]]:
    """The patients with the most confident errors, the last two of them with the fewest.

    Args:
        predictions: joined with the truth; those without are left out, and boxes too.
        tasks: their tasks.
        pictures: patient -> the images shown, sagittal ones in the order asked, then axial ones.
        n_patients: how many patients.
    """
    by_patient: dict[str, list[dict[str, Any]]] = {}
    for one in predictions:
        if isinstance(one.truth, int):
            by_patient.setdefault(one.id, []).append(_answer(one, tasks[one.task], one.truth))
    worst = sorted(by_patient, key=lambda key: (-_badness(by_patient[key]), key))
    shown = worst if len(worst) <= n_patients else [*worst[: n_patients - 2], *worst[-2:]]
    cards = []
    for key in shown:
        answers = sorted(by_patient[key], key=lambda one: -one["badness"])
        level = next((one["axial"] for one in answers if one["axial"]), None)
        cards.append(
            {
                "id": key,
                "pictures": [
                    (name, uri)
                    for name, path in _chosen(pictures.get(key, ()), level)
                    if (uri := data_uri(Path(path)))
                ],
                "answers": answers,
                "errors": sum(one["wrong"] for one in answers),
            }
        )
    return cards


def _chosen(images: Sequence[ImageRef], level: str | None) -> list[tuple[str, str]]:
    """Name and file of the middle sagittal image, and of the axial one of ``level``."""
    sagittal = [one.path for one in images if one.plane == "sagittal"]
    chosen = [("sagittal", sagittal[len(sagittal) // 2])] if sagittal else []
    axial = [one.path for one in images if one.plane == "axial" and one.level == level]
    return chosen + [(f"axial {level}", path) for path in axial[:1]]


def data_uri(path: Path) -> str | None:
    """A PNG as a data URI; None where the file is gone."""
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return None


def _answer(one: Prediction, task: Task, label: int) -> dict[str, Any]:
    wrong, probability = not one.correct, None
    if one.probabilities is not None and one.choice is not None:
        probability = one.probabilities[one.choice]
    steps = abs(one.choice - label) if one.choice is not None else len(task.choices)
    return {
        "question": f"{task.title} {one.object}".strip(),
        "truth": task.choices[label].partition(".")[2] or task.choices[label],
        "answer": one.text.partition(".")[2] or one.text,
        "probability": probability,
        "wrong": wrong,
        "axial": one.object if task.axial else None,
        "badness": steps * (probability if probability is not None else 1.0) if wrong else 0.0,
    }


def _badness(answers: Sequence[Mapping[str, Any]]) -> float:
    return max((one["badness"] for one in answers), default=0.0) + 0.01 * sum(
        one["wrong"] for one in answers
    )
