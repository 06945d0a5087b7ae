"""Scores and intervals against the challenge's own and scikit-learn."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from spinevl.config.tasks import official_tasks
from spinevl.evaluation.answer_files import read_submission
from spinevl.evaluation.baselines import Given, LevelMajority
from spinevl.evaluation.evaluate import evaluate, point_score
from spinevl.schema.box import Box
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.score import Difference, Score
from spinevl.schema.task import Task
from spinevl.schema.task_score import FindingScore, Interval
from spinevl.sources.labels import VERTEBRAE, read_labels

TASKS = official_tasks()
GRADED = {name: task for name, task in TASKS.items() if task.closed}
SL = {"sl": TASKS["sl"]}


def answers(task: str, labels: Mapping[str, int | None] | Sequence[int | None]) -> list[Prediction]:
    """Answers to a task without levels, of patients by name or numbered from 0."""
    named = labels if isinstance(labels, Mapping) else {str(k): v for k, v in enumerate(labels)}
    return [Prediction(one, task, "", (6,), label, None, "") for one, label in named.items()]


def test_goldens(shared: Path) -> None:
    people = read_labels(shared / "cervai/labels_train.json", tasks=GRADED, required=GRADED)
    ids = [one.id for one in people]
    folder = shared / "goldens/evaluate"
    for case in json.loads((folder / "golden.json").read_text())["cases"]:
        given = read_submission(folder / case["file"], ids=ids, tasks=GRADED, missing="upstream")
        score = evaluate(people, given, tasks=GRADED, n_resamples=2)
        assert score.complete
        assert score.value == pytest.approx(case["score"], abs=1e-12), case["file"]
        for name, f1 in case["f1"].items():
            assert score.tasks[name].value == pytest.approx(f1, abs=1e-12), case["file"]


def test_an_unparsed_answer_is_wrong_and_no_label_of_its_own() -> None:
    task = Task(name="a", title="a", choices=["x", "y"], weight=1.0)
    people = [Patient(str(k), {"a": k % 2}) for k in range(4)]
    score = evaluate(people, answers("a", [0, None, 0, 1]), tasks={"a": task}, n_resamples=10)
    assert score.tasks["a"].unparsed == 1
    # x: 2 of 2 found; y: one of two found, none surplus
    assert score.value == pytest.approx((1 + 2 / 3) / 2)


def test_unparsed_answers_are_counted_by_their_true_class() -> None:
    truth = [Patient(name, {"qd": label}) for name, label in zip("abcd", (0, 1, 1, 2), strict=True)]
    given = answers("qd", {"a": 0, "b": None, "c": 1, "d": None})
    score = evaluate(truth, given, tasks={"qd": TASKS["qd"]}, n_resamples=2).tasks["qd"]
    assert score.unparsed_by_class == (0, 1, 1)
    assert score.unparsed == 2
    assert score.classes[1].recall == 0.5
    assert score.confusion == ((1, 0, 0), (0, 1, 0), (0, 0, 0))


def test_paired_interval_of_a_baseline_that_is_the_model_is_zero() -> None:
    task = Task(name="a", title="a", choices=["x", "y"], weight=1.0)
    people = [Patient(str(k), {"a": k % 2}) for k in range(20)]
    given = answers("a", [int(k < 9) for k in range(20)])
    baselines = [Given("same", "the model again", given), Given("absent", "not scored", [])]
    score = evaluate(people, given, tasks={"a": task}, baselines=baselines)
    assert score.baselines["same"].paired["score"] == Difference(0.0, Interval(0.0, 0.0))
    assert score.notes == {
        "ci95": "Bayesian bootstrap over patients",
        "same": "the model again",
    }
    assert score.value is not None
    assert score.ci95 is not None
    assert score.ci95.low < score.value < score.ci95.high


def test_without_all_graded_tasks_the_score_is_partial() -> None:
    people = [Patient(str(k), {"qd": k % 3}) for k in range(6)]
    given = answers("qd", [k % 3 for k in range(6)])
    score = evaluate(people, given, tasks={"qd": GRADED["qd"]}, n_resamples=5)
    assert (score.complete, score.value) == (False, 1.0)
    assert score.to_json()["score"] is None
    assert score.to_json()["partial_score"] == 1.0
    assert point_score(people, given, tasks={"qd": GRADED["qd"]}) == 1.0
    with pytest.raises(UserError, match="patient 5 qd"):
        point_score(people, given[:5], tasks={"qd": GRADED["qd"]})


def test_boxes_are_scored_beside_answers_and_a_missing_one_counts_zero() -> None:
    box = Box(0, 0, 10, 10)
    people = [
        Patient(one, {"qd": 0}, {v: {6: box} for v in TASKS["positioning"].levels}) for one in "ab"
    ]
    boxes = [
        Prediction(one, "positioning", vertebra, (6,), None, None, "", box if one == "a" else None)
        for one in "ab"
        for vertebra in TASKS["positioning"].levels
    ]
    tasks = {name: TASKS[name] for name in ("positioning", "qd")}
    given = [*boxes, *answers("qd", {"a": 0, "b": 0})]
    perfect = [Prediction(*one.question, None, None, "", box) for one in boxes]
    boxed = Given("boxes", "the boxes alone", perfect)
    score = evaluate(people, given, tasks=tasks, baselines=[boxed], n_resamples=20)
    assert list(score.tasks) == ["qd", "positioning"]
    own = score.tasks["positioning"]
    assert (own.metric, own.value, own.unparsed) == ("mean_iou", 0.5, 6)
    assert own.levels is not None
    assert own.levels["C2"].mean_iou == 0.5
    assert score.baselines["boxes"].paired["positioning"].delta == -0.5
    assert list(score.baselines["boxes"].to_json()) == ["positioning", "paired"]
    assert (own.missing, own.without_truth) == (None, None)
    less = evaluate(people, given[1:], tasks=tasks, baselines=[boxed]).tasks["positioning"]
    assert (less.value, less.missing, less.unparsed) == (pytest.approx(5 / 12), 1, 6)


def test_patients_without_true_boxes_are_counted_and_those_without_predicted_ones_score_zero() -> (
    None
):
    task = {"positioning": TASKS["positioning"]}
    box = Box(0, 0, 10, 10)
    people = [Patient(one, {}, {v: {5: box, 6: box} for v in VERTEBRAE}) for one in "ab"]
    people.append(Patient("c"))
    given = [
        Prediction(one, "positioning", vertebra, (6,), None, None, "", box)
        for one in "ac"
        for vertebra in VERTEBRAE
    ]
    constant = LevelMajority(people, task)
    score = evaluate(people, given, tasks=task, baselines=[constant])
    own = score.tasks["positioning"]
    # a is right in the one slice that was predicted, b was not answered, c has no truth
    assert (own.value, own.missing, own.unparsed, own.without_truth) == (0.5, 6, 0, 1)
    assert score.baselines["level_majority"].tasks["positioning"].value == 1.0
    assert score.below_baseline == {"positioning": "level_majority"}
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score
    with pytest.raises(UserError, match="positioning"):
        evaluate(people, [], tasks=task)
    many = [Patient(str(k), {}, people[0].boxes if k < 9 else None) for k in range(30)]
    boxes = [
        Prediction(str(k), "positioning", vertebra, (6,), None, None, "", box)
        for k in range(9)
        for vertebra in VERTEBRAE
    ]
    assert evaluate(many, boxes, tasks=task).tasks["positioning"].ci95 is None  # of 9 patients


def test_intervals_equal_a_plain_loop_of_scikit_learn() -> None:
    task = Task(name="a", title="a", choices=["x", "y", "z"], weight=1.0)
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 30)
    guess = np.where(rng.random(30) < 0.6, truth, rng.integers(0, 3, 30))
    people = [Patient(str(k), {"a": int(t)}) for k, t in enumerate(truth)]
    given = answers("a", guess.tolist())
    score = evaluate(people, given, tasks={"a": task}, n_resamples=60, seed=3)
    # the exponential weights of a Bayesian bootstrap; its first row is left for the sample
    weights = np.random.default_rng(3).standard_exponential((61, 30))[1:]
    scores = [
        f1_score(truth, guess, average="macro", zero_division=0, sample_weight=row)
        for row in weights
    ]
    assert score.ci95 is not None
    found = score.ci95.to_json()
    np.testing.assert_allclose(found, np.percentile(scores, [2.5, 97.5]), atol=1e-12)


def test_a_rare_class_that_is_always_found_is_not_lost_by_resampling() -> None:
    people = [Patient(str(k), {"sl": int(k >= 3)}) for k in range(80)]
    perfect = evaluate(people, answers("sl", [int(k >= 3) for k in range(80)]), tasks=SL)
    assert perfect.ci95 == Interval(1.0, 1.0)
    assert "alignment B.abnormal (3)" in perfect.notes["ci95"]
    missed = evaluate(people, answers("sl", [int(k >= 2) for k in range(80)]), tasks=SL)
    assert missed.value == pytest.approx(0.8)
    assert missed.ci95 is not None
    assert 0.2 < missed.ci95.low < 0.8 < missed.ci95.high < 1


@pytest.mark.parametrize(("count", "known"), [(1, False), (9, False), (10, True)])
def test_few_patients_have_no_interval(count: int, known: bool) -> None:
    people = [Patient(str(k), {"sl": k % 2}) for k in range(count)]
    given = answers("sl", [0] * count)
    score = evaluate(people, given, tasks=SL, baselines=[Given("same", "the model", given)])
    pair = score.baselines["same"].paired["partial_score"]
    for one in (score.ci95, score.tasks["sl"].ci95, pair.ci95):
        assert (one is not None) is known
    assert known or f"{count} patient" in score.notes["ci95"]
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score


def test_a_task_below_its_best_baseline_is_flagged_and_an_upper_bound_is_none() -> None:
    truth = [0, 0, 1, 1]
    people = [Patient(str(k), {"sl": label}) for k, label in enumerate(truth)]
    good, best, bound = (answers("sl", one) for one in ([0, 1, 1, 0], [0, 0, 1, 0], truth))
    baselines = [
        Given("good", "", good),
        Given("best", "", best),
        Given("ceiling", "", bound, upper_bound=True),
    ]
    score = evaluate(people, answers("sl", [1, 1, 1, 0]), tasks=SL, baselines=baselines)
    assert score.below_baseline == {"sl": "best", "partial_score": "best"}
    assert score.to_json()["below_baseline"] == score.below_baseline
    equal = evaluate(people, best, tasks=SL, baselines=baselines)
    assert equal.below_baseline == {}


def test_findings_equal_scikit_learn_on_answers_some_of_which_are_unparsed() -> None:
    rng = np.random.default_rng(2)
    truth, guess = rng.integers(0, 4, (2, 300))
    unparsed = rng.random(300) < 0.1
    task = Task(
        "a",
        "a",
        choices=list("wxyz"),
        findings={"abnormal": [1, 2, 3], "moderate or worse": [2, 3]},
    )
    people = [Patient(str(k), {"a": int(label)}) for k, label in enumerate(truth)]
    given = answers("a", [None if u else int(g) for g, u in zip(guess, unparsed, strict=True)])
    score = evaluate(people, given, tasks={"a": task}, n_resamples=2).tasks["a"]
    assert score.findings is not None
    for name, labels in task.findings.items():
        has = np.isin(truth, labels)
        said = np.where(unparsed, ~has, np.isin(guess, labels))
        one = score.findings[name]
        assert one.sensitivity == pytest.approx(recall_score(has, said), abs=1e-12)
        assert one.specificity == pytest.approx(recall_score(~has, ~said), abs=1e-12)
        assert (one.positives, one.negatives) == (has.sum(), (~has).sum())
    assert [one.support for one in score.classes] == np.bincount(truth).tolist()


def test_a_finding_that_no_patient_has_is_undefined() -> None:
    people = [Patient(str(k), {"sl": 1}) for k in range(3)]
    score = evaluate(people, answers("sl", [1, 0, None]), tasks=SL).tasks["sl"]
    assert score.findings == {"abnormal": FindingScore((0,), None, 1 / 3, 0, 3)}


def test_a_task_that_nobody_can_be_right_in_is_told() -> None:
    people = [Patient(str(k), {"sl": 1}) for k in range(3)]
    notes = evaluate(people, answers("sl", [1, 1, 1]), tasks=SL).notes
    assert "B.abnormal" in notes["sl"]
    people[0] = Patient("0", {"sl": 0})
    assert "sl" not in evaluate(people, answers("sl", [1, 1, 1]), tasks=SL).notes


def test_twenty_times_the_patients_take_no_four_hundred_times_as_long() -> None:
    seconds = []
    for count in (500, 10_000):
        people = [Patient(str(k), {"sl": k % 2}) for k in range(count)]
        given = answers("sl", [int(k % 3 == 0) for k in range(count)])
        begun = time.process_time()
        evaluate(people, given, tasks=SL, baselines=[LevelMajority(people, SL)], n_resamples=200)
        seconds.append(time.process_time() - begun)
    assert seconds[1] < 100 * max(seconds[0], 0.02)
