"""Single metrics against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from spinevl.evaluation.metrics import (
    box_overlaps,
    calibration,
    combine,
    iou,
    quadratic_kappa,
    task_f1,
)
from spinevl.schema.box import Box
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task


def test_f1_equals_scikit_learn_on_random_confusions() -> None:
    rng = np.random.default_rng(0)
    macro = Task(name="a", title="a", choices=["x", "y", "z"])
    single = Task(name="b", title="b", choices=["x", "y", "z"], metric="f1", positive=1)
    for size in (3, 10, 200):
        truth, guess = rng.integers(0, 3, size), rng.choice([0, 2], size)
        counts = np.zeros((3, 4))
        np.add.at(counts, (truth, guess), 1)
        expected = f1_score(truth, guess, average="macro", zero_division=0)
        assert task_f1(counts, macro) == pytest.approx(expected, abs=1e-12)
        expected = f1_score(truth, guess, labels=[1], average="macro", zero_division=0)
        assert task_f1(counts, single) == pytest.approx(expected, abs=1e-12)
        kappa = cohen_kappa_score(truth, guess, weights="quadratic", labels=[0, 1, 2])
        assert quadratic_kappa(counts[:, :3]) == pytest.approx(kappa, abs=1e-12)


def test_iou_of_half_overlapping_boxes() -> None:
    assert iou(Box(0, 0, 2, 2), Box(1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou(Box(0, 0, 2, 2), Box(2, 0, 3, 2)) == 0.0


def test_a_box_that_could_not_be_parsed_counts_zero_and_one_without_truth_not_at_all() -> None:
    task = Task(name="b", title="b", levels=["C2", "C3"], metric="mean_iou")
    true, half = Box(0, 0, 2, 2), Box(1, 0, 3, 2)
    rows = [
        [
            Prediction("a", "b", "C2", (6,), None, None, "", half, truth=true),
            Prediction("a", "b", "C3", (6,), None, None, "", None, truth=true),
        ],
        [Prediction("b", "b", "C2", (6,), None, None, "", half)],
    ]
    sums, numbers, levels = box_overlaps(rows, task)
    np.testing.assert_allclose(sums, [1 / 3, 0])
    assert numbers.tolist() == [2, 0]
    assert levels == {"C2": pytest.approx(1 / 3), "C3": 0.0}


def test_calibration_by_hand() -> None:
    def one(choice: int, truth: int | None) -> Prediction:
        return Prediction("a", "t", "", (6,), choice, {0: 0.75, 1: 0.25}, "", truth=truth)

    assert calibration([[one(0, None)], []]) == (None, None)
    error, loss = calibration([[one(0, 0), one(0, 1)], [one(0, 0), one(0, 0), one(1, 0)]])
    # confidence 0.75, of which 3 of 4 are right, and 0.25, of which none is
    assert error == pytest.approx(0.25 * 1 / 5)
    assert loss == pytest.approx(-(4 * np.log(0.75) + np.log(0.25)) / 5)


def test_tasks_without_a_weight_count_alike_and_are_no_official_score() -> None:
    tasks = {name: Task(name, name, choices=("a", "b")) for name in ("x", "y")}
    assert combine({"x": 0.2, "y": 0.6}, tasks) == (pytest.approx(0.4), False)
    weighed = {**tasks, "z": Task("z", "z", choices=("a", "b"), weight=0.5)}
    assert combine({"x": 0.2, "y": 0.6, "z": 0.3}, weighed) == (pytest.approx(0.3), False)
    assert combine({}, {}) == (None, False)
