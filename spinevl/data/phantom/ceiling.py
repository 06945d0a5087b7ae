"""The ceiling: what a classifier that knows the latent geometry scores on other patients.

No model of the pixels can be expected to do better, since neighbouring grades share geometry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spinevl.schema.prediction import Prediction
from spinevl.schema.record import Patient
from spinevl.schema.task import Task


def ceiling_predictions(
    latents: Path,
    *,
    fit: Sequence[Patient],
    predict: Sequence[Patient],
    tasks: Mapping[str, Task],
) -> list[Prediction]:
    """Logistic regression on the latents, classes weighted frequency^-1/2, most probable class.

    Args:
        latents: the cohort's side file.
        fit: labelled training patients.
        predict: the patients to answer for.
        tasks: the closed tasks.
    """
    stored = json.loads(latents.read_text(encoding="utf-8"))
    sides = {"fit": "train", "predict": "test"}
    if all(f"train/{patient.id}" in stored for patient in predict):
        sides["predict"] = "train"
    result: list[Prediction] = []
    for task in tasks.values():
        if not task.closed:
            continue
        rows = [
            _features(stored[f"{sides['fit']}/{p.id}"], task, k)
            for p in fit
            for k in range(len(task.objects))
        ]
        labels = [p.label(task.name, k) for p in fit for k in range(len(task.objects))]
        table = [
            _features(stored[f"{sides['predict']}/{p.id}"], task, k)
            for p in predict
            for k in range(len(task.objects))
        ]
        probabilities, classes = _fit(np.array(rows), np.array(labels), np.array(table))
        number = 0
        for patient in predict:
            for name in task.objects:
                given = dict.fromkeys(range(len(task.choices)), 0.0)
                given |= dict(zip(classes, probabilities[number].tolist(), strict=True))
                choice = max(given, key=lambda label: given[label])
                text = task.choices[choice]
                result.append(Prediction(patient.id, task.name, name, (), choice, given, text))
                number += 1
    return result


def _fit(rows: np.ndarray, labels: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Class probabilities [questions, classes] and the classes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) == 1:
        return np.ones((len(table), 1)), [int(classes[0])]
    weight = {int(c): float(n) ** -0.5 for c, n in zip(classes, counts, strict=True)}
    mean = sum(weight[int(c)] * n for c, n in zip(classes, counts, strict=True)) / len(labels)
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=100.0, max_iter=2000, class_weight={c: w / mean for c, w in weight.items()}
        ),
    )
    model.fit(rows, labels)
    return model.predict_proba(table), [int(c) for c in model.classes_]


def _features(latents: Mapping[str, object], task: Task, number: int) -> list[float]:
    """The latents that bear on one question, and which level it is."""
    if task.name == "qd":
        value = float(latents["curvature"])  # type: ignore[arg-type]
        return [value, value * value]
    if task.name == "sl":
        largest = max(abs(float(step)) for step in latents["steps"])  # type: ignore[attr-defined]
        return [largest, largest * largest]
    values = latents["discs" if task.name == "zjppt" else "canal"]
    value = float(values[number])  # type: ignore[index]
    level = [float(number == k) for k in range(len(task.levels))]
    return [value, value * value, value**3, *level]
