"""What a reader with perfect eyes would score: a classifier on the latent geometry.

The grades of a phantom overlap on purpose, so even the exact geometry does not give them all. The
classifier is fitted on other patients than it answers for, with the decision rule of training:
the most probable class, classes weighted by frequency^-1/2. It is no clinical evidence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spinevl.schema.errors import refused
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import SAGITTAL_SLICES, Task, is_disc

Latents = Mapping[str, Any]


def ceiling_predictions(
    latents_path: Path,
    *,
    fit: Sequence[Patient],
    predict: Sequence[Patient],
    tasks: Mapping[str, Task],
) -> list[Prediction]:
    """Answers of a classifier that sees the geometry behind the pictures.

    Args:
        latents_path: the side file of a phantom cohort.
        fit: labelled patients to fit on, others than ``predict``.
        predict: patients to answer for; their labels are not read.
        tasks: tasks to answer; those the phantom has no geometry for (boxes) are left out.

    Returns:
        One prediction a question: patients in order, for each the tasks and their levels in order.

    Raises:
        UserError: for patients without latents.
    """
    fit_latents, predict_latents = _sides(latents_path, fit, predict)
    answers: dict[tuple[str, str], list[Prediction]] = {}
    for task in tasks.values():
        if task.name not in FEATURES:
            continue
        rows = [(one, index) for one in predict for index in range(len(task.objects))]
        probabilities, classes = _fitted(task, fit, rows, fit_latents, predict_latents)
        for (one, index), row in zip(rows, probabilities, strict=True):
            by_label = dict.fromkeys(range(len(task.choices)), 0.0)
            by_label |= {int(c): float(p) for c, p in zip(classes, row, strict=True)}
            choice = max(by_label, key=by_label.__getitem__)
            answers.setdefault((one.id, task.name), []).append(
                Prediction(
                    id=one.id,
                    task=task.name,
                    object=task.objects[index],
                    slices=SAGITTAL_SLICES,
                    choice=choice,
                    probabilities=by_label,
                    text=task.choices[choice],
                )
            )
    return [
        answer
        for one in predict
        for task in tasks.values()
        for answer in answers.get((one.id, task.name), ())
    ]


def _sides(
    path: Path, fit: Sequence[Patient], predict: Sequence[Patient]
) -> tuple[Mapping[str, Latents], Mapping[str, Latents]]:
    """The latents by id of the patients to fit on, and of those to answer for.

    A test patient may bear the id of a training patient, so the two sides are kept apart.
    """
    sides = json.loads(path.read_text(encoding="utf-8"))
    ids = {one.id for one in predict}
    on_dev = ids <= set(sides["train"]) and not ids <= {one.id for one in fit}
    answered = sides["train" if on_dev else "test"]
    for patients, known in ((fit, sides["train"]), (predict, answered)):
        lacking = [one.id for one in patients if one.id not in known]
        if lacking:
            raise refused(
                str(path),
                "the latents of every patient",
                f"none of {lacking[0]}",
                "give the cohort's own side file",
            )
    return sides["train"], answered


def _fitted(
    task: Task,
    fit: Sequence[Patient],
    rows: Sequence[tuple[Patient, int]],
    fit_latents: Mapping[str, Latents],
    predict_latents: Mapping[str, Latents],
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities [rows, classes] and the classes' labels [classes]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    features = FEATURES[task.name]
    known = [
        (one, index, label)
        for one in fit
        for index in range(len(task.objects))
        if (label := one.label(task.name, index)) is not None
    ]
    labels = np.array([label for _, _, label in known])
    seen, counts = np.unique(labels, return_counts=True)
    if len(seen) == 1:
        return np.ones((len(rows), 1)), seen
    classifier = make_pipeline(
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),  # what two normal distributions need
        StandardScaler(),
        LogisticRegression(
            C=3.0,
            max_iter=3000,
            class_weight={int(c): float(n) ** -0.5 for c, n in zip(seen, counts, strict=True)},
        ),
    )
    classifier.fit(
        np.array([features(fit_latents[one.id], task, i) for one, i, _ in known]), labels
    )
    asked = np.array([features(predict_latents[one.id], task, index) for one, index in rows])
    return classifier.predict_proba(asked), classifier.classes_


def _curvature(latent: Latents, _task: Task, _index: int) -> list[float]:
    return [latent["curvature_deg"], latent["bow_px"]]


def _alignment(latent: Latents, _task: Task, _index: int) -> list[float]:
    return [max(abs(step) for step in latent["step_px"])]


def _disc(latent: Latents, _task: Task, index: int) -> list[float]:
    return [
        latent["disc_depth_px"][index],
        latent["disc_width_px"][index],
        latent["disc_neck"][index],
        float(index == 0),  # the upper disc is mostly normal, the others mostly are not
    ]


def _stenosis(latent: Latents, task: Task, index: int) -> list[float]:
    return [
        latent["canal_px"][index],
        latent["t2_signal"][index],
        float(is_disc(task.levels[index])),
    ]


FEATURES = {"qd": _curvature, "sl": _alignment, "zjppt": _disc, "zyzg": _stenosis}
