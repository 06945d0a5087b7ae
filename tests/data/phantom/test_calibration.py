"""The phantom is neither trivial nor leaky, measured on its geometry without rendering."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spinevl.config import official_tasks
from spinevl.data.phantom.anatomy import draw_anatomy
from spinevl.data.phantom.ceiling import ceiling_predictions
from spinevl.data.phantom.labels import draw_labels
from spinevl.evaluation.answers import answers_of, truth_of
from spinevl.evaluation.metrics import point_score
from spinevl.schema.record import Patient
from spinevl.schema.task import VERTEBRAE

TASKS = {name: task for name, task in official_tasks().items() if task.closed}


def draw(count: int, *, seed: int) -> tuple[list[Patient], dict[str, dict[str, object]]]:
    people, latents = [], {}
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        labels = draw_labels(rng)
        anatomy = draw_anatomy(labels, rng)
        people.append(Patient(f"p{seed}-{k}", labels, anatomy.boxes))
        latents[f"train/p{seed}-{k}"] = anatomy.latents()
    return people, latents


def score(people: list[Patient], answers: object) -> float:
    return point_score(truth_of(people, TASKS), answers, TASKS)  # type: ignore[arg-type]


def test_labels_follow_the_challenge() -> None:
    people, _ = draw(1500, seed=3)
    flat = [label for person in people for label in person.labels["zjppt"]]
    shares = np.bincount(flat, minlength=4) / len(flat)
    np.testing.assert_allclose(shares, np.array([499, 111, 1359, 31]) / 2000, atol=0.02)
    flat = [label for person in people for label in person.labels["zyzg"]]
    shares = np.bincount(flat, minlength=4) / len(flat)
    np.testing.assert_allclose(shares, np.array([2547, 1208, 527, 118]) / 4400, atol=0.03)
    qd = np.bincount([person.labels["qd"] for person in people], minlength=3) / len(people)
    np.testing.assert_allclose(qd, np.array([63, 269, 68]) / 400, atol=0.03)
    abnormal = np.mean([person.labels["sl"] == 0 for person in people])
    assert abnormal == pytest.approx(22 / 400, abs=0.02)


def test_the_ceiling_leaves_room_above_and_below(tmp_path: Path) -> None:
    fit, first = draw(1200, seed=1)
    people, second = draw(1200, seed=2)
    file = tmp_path / "latents.json"
    file.write_text(json.dumps({**first, **second}))
    best = ceiling_predictions(file, fit=fit, predict=people, tasks=TASKS)
    assert 0.75 < score(people, answers_of(best, TASKS)) < 0.92


def test_boxes_alone_say_about_what_real_boxes_say() -> None:
    fit, _ = draw(320, seed=1)
    people, _ = draw(400, seed=2)
    assert 0.33 < score(people, boxes_alone(fit, people)) < 0.49


def boxes_alone(fit: list[Patient], people: list[Patient]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Answers of a classifier that sees the level and the box coordinates."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def row(person: Patient, level: int, levels: int) -> list[float]:
        assert person.boxes is not None
        corners = [v for name in VERTEBRAE for box in person.boxes[name] for v in box.as_list()]
        return [*corners, *(float(level == k) for k in range(levels))]

    answers: dict[str, dict[str, tuple[int, ...]]] = {person.id: {} for person in people}
    for task in TASKS.values():
        n = len(task.objects)
        rows = [row(p, k, n) for p in fit for k in range(n)]
        labels = np.array([p.label(task.name, k) for p in fit for k in range(n)])
        counts = np.bincount(labels)
        weight = {c: float(v) ** -0.5 for c, v in enumerate(counts) if v}
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, max_iter=3000, class_weight=weight)
        ).fit(rows, labels)
        guess = model.predict([row(p, k, n) for p in people for k in range(n)])
        for number, person in enumerate(people):
            answers[person.id][task.name] = tuple(int(g) for g in guess[number * n :][:n])
    return answers
