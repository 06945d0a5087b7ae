"""Single metrics against scikit-learn and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import cohen_kappa_score, f1_score, log_loss

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
from spinevl.schema.task_score import CalibrationBin


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
        assert quadratic_kappa(counts) == pytest.approx(kappa, abs=1e-12)


def test_an_unparsed_answer_lowers_kappa_as_an_answer_of_its_own() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 2, 50), rng.integers(0, 3, 50)  # 2 is unparsed
    counts = np.zeros((2, 3))
    np.add.at(counts, (truth, guess), 1)
    # of two labels every disagreement weighs 1
    kappa = cohen_kappa_score(truth, guess, labels=[0, 1, 2])
    assert quadratic_kappa(counts) == pytest.approx(kappa, abs=1e-12)
    graded = np.array([[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0]], dtype=float)
    assert quadratic_kappa(graded) == 1
    unparsed = graded + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    # as far from 2 as label 0: weight 4; the margins are 3, 3, 4 and 3, 3, 3, 1
    expected = (3 * (3 * 1 + 3 * 4 + 1 * 4) + 3 * (3 + 3 + 1) + 4 * (3 * 4 + 3 * 1 + 1 * 4)) / 10
    assert quadratic_kappa(unparsed) == pytest.approx(1 - 4 / expected, abs=1e-12)
    assert quadratic_kappa(np.array([[0, 0, 2], [0, 0, 3]])) == 0  # nothing was parsed


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

    assert calibration([[one(0, None)], []]) == (None, None, ())
    error, loss, bins = calibration([[one(0, 0), one(0, 1)], [one(0, 0), one(0, 0), one(1, 0)]])
    # confidence 0.75, of which 3 of 4 are right, and 0.25, of which none is
    assert error == pytest.approx(0.25 * 1 / 5)
    assert loss == pytest.approx(-(4 * np.log(0.75) + np.log(0.25)) / 5)
    assert bins == (CalibrationBin(0.2, 0.3, 0.25, 0.0, 1), CalibrationBin(0.7, 0.8, 0.75, 0.75, 4))


def test_calibration_bins_are_scikit_learns_curve() -> None:
    rng = np.random.default_rng(0)
    tables = rng.dirichlet([1, 1, 1], 400)
    truth, choices = rng.integers(0, 3, 400), tables.argmax(1)
    rows = [
        [
            Prediction("a", "t", "", (6,), int(choice), dict(enumerate(table.tolist())), "")
            for choice, table in zip(choices, tables, strict=True)
        ]
    ]
    rows = [[replace(one, truth=int(t)) for one, t in zip(rows[0], truth, strict=True)]]
    error, loss, bins = calibration(rows)
    frequency, probability = calibration_curve(choices == truth, tables.max(1), n_bins=10)
    assert [one.frequency for one in bins] == pytest.approx(frequency.tolist())
    assert [one.probability for one in bins] == pytest.approx(probability.tolist())
    counts = np.array([one.count for one in bins])
    assert counts.sum() == 400
    assert error == pytest.approx(np.average(np.abs(frequency - probability), weights=counts))
    assert loss == pytest.approx(log_loss(truth, tables))


def test_tasks_without_a_weight_count_alike_and_are_no_official_score() -> None:
    tasks = {name: Task(name, name, choices=("a", "b")) for name in ("x", "y")}
    assert combine({"x": 0.2, "y": 0.6}, tasks) == (pytest.approx(0.4), False)
    weighed = {**tasks, "z": Task("z", "z", choices=("a", "b"), weight=0.5)}
    assert combine({"x": 0.2, "y": 0.6, "z": 0.3}, weighed) == (pytest.approx(0.3), False)
    assert combine({}, {}) == (None, False)
