"""Scores against the challenge's own and scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from spinevl.config.conf import official_tasks
from spinevl.evaluation.baselines import all_majority, level_majority
from spinevl.evaluation.evaluate import evaluate
from spinevl.evaluation.join import read_answers, read_predictions, truth_of
from spinevl.evaluation.metrics import iou, point_score, quadratic_kappa, task_f1
from spinevl.schema.box import Box
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.schema.task import Task
from spinevl.sources.cervai import read_labels

GRADED = {name: task for name, task in official_tasks().items() if task.closed}


def patients(shared: Path) -> tuple[Patient, ...]:
    return read_labels(shared / "cervai/labels_train.json", tasks=GRADED, required=GRADED)


def test_goldens(shared: Path) -> None:
    people = patients(shared)
    folder = shared / "goldens/evaluate"
    for case in json.loads((folder / "golden.json").read_text())["cases"]:
        answers = read_answers(
            folder / case["file"], ids=[p.id for p in people], tasks=GRADED, missing="upstream"
        )
        metrics = evaluate(people, answers, tasks=GRADED, n_resamples=2)
        assert metrics["score"] == pytest.approx(case["score"], abs=1e-12), case["file"]
        for name, f1 in case["f1"].items():
            assert metrics[name]["f1"] == pytest.approx(f1, abs=1e-12), case["file"]


def test_strict_reading_names_missing_and_surplus_patients(shared: Path) -> None:
    people = patients(shared)
    file = shared / "goldens/evaluate/p09_extra_patients_and_missing.json"
    with pytest.raises(UserError) as caught:
        read_answers(file, ids=[p.id for p in people], tasks=GRADED)
    missing = [line for line in caught.value.problems if "found none" in line]
    surplus = [line for line in caught.value.problems if "surplus" in line]
    assert len(surplus) == 20
    assert len(missing) + len(surplus) == len(caught.value.problems)


def test_anchors_of_the_controls(shared: Path) -> None:
    people = patients(shared)
    ids = [p.id for p in people]
    truth = truth_of(people, GRADED)
    majority = all_majority(people, ids, GRADED)
    assert point_score(truth, majority, GRADED) == pytest.approx(0.190, abs=5e-4)
    train, dev = people[:320], people[320:]
    by_level = level_majority(train, [p.id for p in dev], GRADED)
    assert 0.29 < point_score(truth_of(dev, GRADED), by_level, GRADED) < 0.30


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


def test_an_unparsed_answer_is_wrong_and_no_label_of_its_own() -> None:
    task = Task(name="a", title="a", choices=["x", "y"], weight=1.0)
    people = [Patient(str(k), {"a": k % 2}) for k in range(4)]
    answers = {"0": {"a": (0,)}, "1": {"a": (None,)}, "2": {"a": (0,)}, "3": {"a": (1,)}}
    metrics = evaluate(people, answers, tasks={"a": task}, n_resamples=10)
    assert metrics["a"]["unparsed"] == 1
    # x: 2 of 2 found; y: one of two found, none surplus
    assert metrics["score"] == pytest.approx((1 + 2 / 3) / 2)


def test_paired_interval_of_a_control_that_is_the_model_is_zero() -> None:
    task = Task(name="a", title="a", choices=["x", "y"], weight=1.0)
    people = [Patient(str(k), {"a": k % 2}) for k in range(20)]
    answers = {str(k): {"a": (int(k < 9),)} for k in range(20)}
    metrics = evaluate(people, answers, tasks={"a": task}, controls={"same": answers})
    paired = metrics["controls"]["same"]["paired"]["score"]
    assert paired == {"delta": 0.0, "ci95": [0.0, 0.0]}
    low, high = metrics["ci95"]
    assert low < metrics["score"] < high


def test_without_all_graded_tasks_the_score_is_partial() -> None:
    people = [Patient(str(k), {"qd": k % 3}) for k in range(6)]
    answers = {str(k): {"qd": (k % 3,)} for k in range(6)}
    metrics = evaluate(people, answers, tasks={"qd": GRADED["qd"]}, n_resamples=5)
    assert metrics["score"] is None
    assert metrics["partial_score"] == 1.0


def test_iou_of_half_overlapping_boxes() -> None:
    assert iou(Box(0, 0, 2, 2), Box(1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou(Box(0, 0, 2, 2), Box(2, 0, 3, 2)) == 0.0


def test_intervals_equal_a_plain_loop_of_scikit_learn() -> None:
    task = Task(name="a", title="a", choices=["x", "y", "z"], weight=1.0)
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 30)
    guess = np.where(rng.random(30) < 0.6, truth, rng.integers(0, 3, 30))
    people = [Patient(str(k), {"a": int(t)}) for k, t in enumerate(truth)]
    answers = {str(k): {"a": (int(g),)} for k, g in enumerate(guess)}
    metrics = evaluate(people, answers, tasks={"a": task}, n_resamples=60, seed=3)
    counts = np.random.default_rng(3).multinomial(30, np.full(30, 1 / 30), size=60)
    scores = [
        f1_score(np.repeat(truth, row), np.repeat(guess, row), average="macro", zero_division=0)
        for row in counts
    ]
    np.testing.assert_allclose(metrics["ci95"], np.percentile(scores, [2.5, 97.5]), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choice": 7}, "no label of qd"),
        ({"probabilities": {"0": 0.5, "1": 0.5}}, "one for each of 3"),
        ({"probabilities": {"0": 1.5, "1": -0.5, "2": 0.0}}, "between 0 and 1"),
        ({"object": "C9"}, "'C9' is none of qd"),
        ({"id": 3}, "id is no string"),
    ],
)
def test_a_bad_prediction_names_its_line(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    good = {
        "id": "a",
        "task": "qd",
        "object": "",
        "slices": [6],
        "choice": 0,
        "probabilities": {"0": 1.0, "1": 0.0, "2": 0.0},
        "text": "A.normal curvature",
        "box": None,
    }
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps({**good, "id": "b", **change}) + "\n")
    with pytest.raises(UserError) as caught:
        read_predictions(file, tasks=GRADED)
    (line,) = caught.value.problems
    assert "line 2" in line
    assert said in line
    file.write_text(2 * (json.dumps(good) + "\n"))
    with pytest.raises(UserError, match="earlier line"):
        read_predictions(file, tasks=GRADED)
