"""Patients for the report: pictures, truth and answers, worst errors first."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

if TYPE_CHECKING:
    import numpy as np

Pictures = Mapping[str, Sequence[ImageRef]]

ORDER = (
    "The patient with the worst wrong answer comes first. An answer is worse the more grades lie "
    "between it and the truth, and the more probable the model held it; many wrong answers count "
    "a little. The answers of a patient stand in the same order."
)
_LONGEST_SIDE = 512


def gallery(
    predictions: Sequence[Prediction],
    tasks: Mapping[str, Task],
    *,
    pictures: Pictures,
    load: Callable[[ImageRef], np.ndarray],
    n_patients: int = 12,
) -> list[dict[str, Any]]:
    """The patients with the most confident errors, the last two of them with the fewest.

    Args:
        predictions: joined with the truth; those without are left out, and boxes too.
        tasks: their tasks.
        pictures: patient -> the images shown, sagittal ones in the order asked, then axial ones.
        load: an image -> the pixels that the model was shown.
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
        level = next((one["level"] for one in answers if one["axial"]), None)
        cards.append(
            {
                "id": key,
                "pictures": [
                    (name, _data_uri(image, load))
                    for name, image in _chosen(pictures.get(key, ()), level)
                ],
                "answers": answers,
                "errors": sum(one["wrong"] for one in answers),
            }
        )
    return cards


def _chosen(images: Sequence[ImageRef], level: str | None) -> list[tuple[str, ImageRef]]:
    """Name and image of the middle sagittal slice, and of the axial one of ``level``."""
    sagittal = [one for one in images if one.plane == "sagittal"]
    middle = sagittal[len(sagittal) // 2 :][:1]
    axial = [one for one in images if one.plane == "axial" and one.level == level]
    return [(f"sagittal slice {one.slice}", one) for one in middle] + [
        (f"axial slice at {level}", one) for one in axial[:1]
    ]


def _data_uri(image: ImageRef, load: Callable[[ImageRef], np.ndarray]) -> str | None:
    """The pixels as a PNG in a data URI; None where they can no longer be read."""
    try:
        picture = Image.fromarray(load(image))
    except UserError:
        return None
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _answer(one: Prediction, task: Task, label: int) -> dict[str, Any]:
    wrong, probability = not one.correct, None
    if one.probabilities is not None and one.choice is not None:
        probability = one.probabilities[one.choice]
    steps = abs(one.choice - label) if one.choice is not None else len(task.choices)
    return {
        "task": task.name,
        "title": task.title,
        "level": one.object,
        "truth": task.choices[label].partition(".")[2] or task.choices[label],
        "answer": one.text.partition(".")[2] or one.text,
        "unparsed": one.choice is None,
        "probability": probability,
        "wrong": wrong,
        "axial": task.axial,
        "badness": steps * (probability if probability is not None else 1.0) if wrong else 0.0,
    }


def _badness(answers: Sequence[Mapping[str, Any]]) -> float:
    return max((one["badness"] for one in answers), default=0.0) + 0.01 * sum(
        one["wrong"] for one in answers
    )
