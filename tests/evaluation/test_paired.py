"""Paired differences against scikit-learn in a plain loop over the same resamples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from spinevl.evaluation.paired import Answered, PairedBootstrap, paired_difference
from spinevl.schema.errors import UserError
from spinevl.schema.prediction import Prediction
from spinevl.schema.score import Difference
from spinevl.schema.task import Task

DISC = Task("disc", "disc", ["C2-C3", "C3-C4"], ["a", "b", "c"], weight=0.75)
SPINE = Task("spine", "spine", [], ["x", "y"], metric="f1", positive=1, weight=0.25)
TASKS = {"disc": DISC, "spine": SPINE}

# patient -> task -> labels
Labels = Mapping[str, Mapping[str, list[int]]]


def labels(ids: list[str], seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    return {
        one: {"disc": rng.integers(0, 3, 2).tolist(), "spine": rng.integers(0, 2, 1).tolist()}
        for one in ids
    }


def predicted(truth: Labels, *, seed: int, right: float) -> Labels:
    """Right with a probability, else at random."""
    rng = np.random.default_rng(seed)
    guess = labels(list(truth), seed + 1000)
    return {
        one: {
            name: [
                t if rng.random() < right else g
                for t, g in zip(told, guess[one][name], strict=True)
            ]
            for name, told in tasks.items()
        }
        for one, tasks in truth.items()
    }


def answered(truth: Labels, given: Labels, tasks: Mapping[str, Task] = TASKS) -> Answered:
    predictions = [
        Prediction(one, name, level, (6,), given[one][name][k], None, "", truth=truth[one][name][k])
        for one in truth
        for name in tasks
        for k, level in enumerate(TASKS[name].objects)
    ]
    return Answered.of(predictions, tasks)


def reference(truth: Labels, given: Labels, weight: Mapping[str, float]) -> float:
    """The score with weighted patients, by scikit-learn."""
    total = 0.0
    for name, task in TASKS.items():
        y = [label for one in truth for label in truth[one][name]]
        z = [label for one in truth for label in given[one][name]]
        w = [weight[one] for one in truth for _ in truth[one][name]]
        kind = {"average": "macro"} if name == "disc" else {"pos_label": 1}
        total += task.weight * f1_score(y, z, sample_weight=w, zero_division=0, **kind)
    return total


def test_the_difference_is_the_mean_over_seeds_on_patients_who_are_weighted_as_one() -> None:
    ids = [f"p{k:02d}" for k in range(14)]
    truth = labels(ids, 0)
    own = [predicted(truth, seed=seed, right=0.5) for seed in (1, 2)]
    best = [predicted(truth, seed=seed, right=0.8) for seed in (3, 4)]
    bootstrap = PairedBootstrap(ids, n_resamples=60, seed=5)
    found = paired_difference(
        *([bootstrap.scores(answered(truth, one)) for one in each] for each in (own, best)),
        n_patients=len(ids),
    )
    weights = np.random.default_rng(5).standard_exponential((61, 14))
    weights[0] = 1
    deltas = []
    for row in weights:
        weight = dict(zip(ids, row, strict=True))
        scores = [[reference(truth, one, weight) for one in each] for each in (own, best)]
        deltas.append(sum(scores[0]) / 2 - sum(scores[1]) / 2)
    assert found.delta == pytest.approx(deltas[0], abs=1e-12)
    assert found.ci95
    low, high = np.percentile(deltas[1:], [2.5, 97.5])
    assert (found.ci95.low, found.ci95.high) == pytest.approx((low, high), abs=1e-12)


def test_folds_whose_patients_differ_are_averaged() -> None:
    folds = [[f"p{k:02d}" for k in range(start, start + 8)] for start in (0, 8)]
    bootstrap = PairedBootstrap(folds[0] + folds[1], n_resamples=40)
    weights = np.random.default_rng(0).standard_exponential((41, 16))
    weights[0] = 1
    own, best, deltas = [], [], np.zeros(41)
    for number, ids in enumerate(folds):
        truth = labels(ids, number)
        pair = [predicted(truth, seed=9 + number, right=right) for right in (0.3, 0.9)]
        own.append(bootstrap.scores(answered(truth, pair[0])))
        best.append(bootstrap.scores(answered(truth, pair[1])))
        for k, row in enumerate(weights):
            weight = dict(zip(folds[0] + folds[1], row, strict=True))
            deltas[k] += (reference(truth, pair[0], weight) - reference(truth, pair[1], weight)) / 2
    found = paired_difference(own, best, n_patients=16)
    assert found.delta == pytest.approx(deltas[0], abs=1e-12)
    assert found.ci95
    assert found.ci95.low == pytest.approx(np.percentile(deltas[1:], 2.5), abs=1e-12)
    # eight patients are too few for an interval
    assert paired_difference(own, best, n_patients=8) == Difference(found.delta, None)


def test_the_same_answers_have_no_difference_in_any_resample() -> None:
    truth = labels([f"{k}" for k in range(12)], 0)
    one = answered(truth, predicted(truth, seed=1, right=0.5))
    scores = PairedBootstrap(one.ids).scores(one)
    found = paired_difference([scores], [scores], n_patients=12)
    assert found.ci95
    assert (found.delta, found.ci95.low, found.ci95.high) == (0, 0, 0)
    assert one.score == pytest.approx(scores[0])


def test_other_patients_labels_and_tasks_do_not_compare() -> None:
    truth = labels(["a", "b", "c"], 0)
    one = answered(truth, truth)
    assert one.unlike(answered(truth, predicted(truth, seed=0, right=0.0))) is None
    fewer = {key: truth[key] for key in ("a", "b")}
    assert one.unlike(answered(fewer, fewer)) == "other patients"
    # the same labels of a patient at other levels
    turned = {key: {**told, "disc": told["disc"][::-1]} for key, told in truth.items()}
    assert turned != truth
    assert one.unlike(answered(turned, turned)) == "other true labels"
    for tasks in ({"disc": DISC}, {**TASKS, "spine": replace(SPINE, weight=0.5)}):
        assert one.unlike(answered(truth, truth, tasks)) == "other tasks"


def test_answers_without_truth_are_none() -> None:
    given = [Prediction("a", "spine", "", (6,), 0, None, "")]
    with pytest.raises(UserError, match="truth"):
        Answered.of(given, TASKS)
    with pytest.raises(UserError, match="truth"):
        Answered.of([], TASKS)
