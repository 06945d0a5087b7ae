"""The highest score that the images allow: a classifier on the geometry they were drawn from.

The grades of a phantom overlap on purpose, so even the exact geometry does not give them all. The
classifier is fitted on other patients than it answers for, with the decision rule of training:
the most probable class, classes weighted by frequency^-1/2. It is no clinical evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spinevl.io.json_file import read_json_object
from spinevl.schema.errors import refused
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task, is_disc

Latents = Mapping[str, Any]


class Ceiling:
    """A baseline above the model: a classifier that knows the geometry behind the pictures.

    Args:
        latents: the side file of a phantom cohort.
        train: labelled patients to fit on.
        tasks: what is asked; tasks that the phantom has no geometry for (boxes) are left out.
    """

    name = "ceiling"
    upper_bound = True
    note = "a classifier on the phantoms' latent geometry, fitted on training patients"

    def __init__(self, latents: Path, train: Sequence[Patient], tasks: Mapping[str, Task]) -> None:
        self.latents = latents
        self.train = train
        self.tasks = tasks

    def predict(self, asked: Sequence[Prediction]) -> list[Prediction]:
        """See Baseline. Raises UserError for patients without latents."""
        fit, latents = self._sides(dict.fromkeys(one.id for one in asked))
        answers = []
        for task in self.tasks.values():
            questions = [one for one in asked if one.task == task.name]
            if task.name not in FEATURES or not questions:
                continue
            features = FEATURES[task.name]
            rows = [
                features(latents[one.id], task, task.objects.index(one.object)) for one in questions
            ]
            probabilities, classes = _fitted(task, self.train, np.array(rows), fit)
            for one, row in zip(questions, probabilities, strict=True):
                by_label = dict.fromkeys(range(len(task.choices)), 0.0)
                by_label |= {int(c): float(p) for c, p in zip(classes, row, strict=True)}
                choice = max(by_label, key=by_label.__getitem__)
                text = task.choices[choice]
                answers.append(replace(one, choice=choice, probabilities=by_label, text=text))
        return answers

    def _sides(self, ids: Collection[str]) -> tuple[Mapping[str, Latents], Mapping[str, Latents]]:
        """The latents by id of the patients to fit on, and of those to answer for.

        A test patient may bear the id of a training patient, so the two sides are kept apart.
        """
        sides = read_json_object(self.latents)
        train = [one.id for one in self.train]
        on_dev = set(ids) <= set(sides["train"]) and not set(ids) <= set(train)
        answered = sides["train" if on_dev else "test"]
        for names, known in ((train, sides["train"]), (ids, answered)):
            if lacking := [one for one in names if one not in known]:
                wanted, fix = "the latents of every patient", "give the cohort's own side file"
                raise refused(str(self.latents), wanted, f"none of {lacking[0]}", fix)
        return sides["train"], answered


def _fitted(
    task: Task,
    fit: Sequence[Patient],
    rows: np.ndarray,
    latents: Mapping[str, Latents],
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of ``rows`` [rows, classes] and the classes' labels [classes]."""
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
    classifier.fit(np.array([features(latents[one.id], task, i) for one, i, _ in known]), labels)
    return classifier.predict_proba(rows), classifier.classes_


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
