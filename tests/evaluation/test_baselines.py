"""Baselines answer the questions that were asked, and only with what training patients say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spinevl.config.tasks import official_tasks
from spinevl.evaluation.baselines import AllMajority, Baseline, Given, LevelMajority
from spinevl.evaluation.evaluate import evaluate, point_score
from spinevl.schema.box import Box
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.sources.labels import VERTEBRAE, read_labels
from spinevl.sources.phantom.ceiling import Ceiling
from spinevl.sources.phantom.render import Case, draw_phantom

TASKS = official_tasks()
CLOSED = {name: task for name, task in TASKS.items() if task.closed}
BOXES = TASKS["positioning"]


def person(name: str, rng: np.random.Generator) -> Patient:
    def box() -> Box:
        x, y, w, h = rng.integers(1, 50, 4).tolist()
        return Box(x, y, x + w, y + h)

    return Patient(name, boxes={v: {5: box(), 6: box(), 7: box()} for v in VERTEBRAE})


def questions(*names: str) -> list[Prediction]:
    """Every closed question about these patients, with answers that no baseline may repeat."""
    return [
        Prediction(name, task.name, level, (6,), None, None, "not parsed")
        for task in CLOSED.values()
        for name in names
        for level in task.objects
    ]


def test_mean_boxes_of_each_vertebra_and_slice() -> None:
    rng = np.random.default_rng(0)
    train = [person(name, rng) for name in "abcde"] + [Patient("without")]
    asked = [
        Prediction("t", BOXES.name, vertebra, (number,), None, None, "", None)
        for vertebra in VERTEBRAE
        for number in (5, 7)
    ]
    majority = LevelMajority(train, {BOXES.name: BOXES})
    assert majority.note.endswith("boxes: each vertebra's mean training box")
    answers = majority.predict(asked)
    assert [one.question for one in answers] == [one.question for one in asked]
    for one in answers:
        corners = [p.boxes[one.object][one.slices[0]].as_list() for p in train if p.boxes]
        assert one.box is not None
        assert one.box.as_list() == np.rint(np.mean(corners, axis=0)).astype(int).tolist()
        assert Box.parse_answer(one.text, one.object) == one.box
    assert AllMajority(train, {BOXES.name: BOXES}).predict(asked) == []


def test_without_boxes_there_is_no_mean() -> None:
    asked = [Prediction("t", BOXES.name, "C2", (6,), None, None, "", None)]
    majority = LevelMajority([Patient("a")], {BOXES.name: BOXES})
    assert majority.predict(asked) == []
    assert "box" not in majority.note


def test_ties_go_to_the_lower_label_and_alignment_is_abnormal() -> None:
    train = [
        Patient("a", {"qd": 2, "sl": 1, "zjppt": (3, 0, 0, 0, 2), "zyzg": (1,) * 11}),
        Patient("b", {"qd": 1, "sl": 1, "zjppt": (2, 0, 0, 0, 2), "zyzg": (1,) * 11}),
    ]
    for kind, discs in ((LevelMajority, [2, 0, 0, 0, 2]), (AllMajority, [0] * 5)):
        baseline: Baseline = kind(train, CLOSED)
        answers = baseline.predict(questions("t"))
        assert [one.question for one in answers] == [one.question for one in questions("t")]
        assert [one.choice for one in answers] == [1, 0, *discs, *[1] * 11]
        assert answers[0].text == CLOSED["qd"].choices[1]


def test_anchors_on_the_real_patients(shared: Path) -> None:
    people = read_labels(shared / "cervai/labels_train.json", tasks=CLOSED, required=CLOSED)
    answers = AllMajority(people, CLOSED).predict(questions(*(one.id for one in people)))
    assert point_score(people, answers, tasks=CLOSED) == pytest.approx(0.190, abs=5e-4)
    train, dev = people[:320], people[320:]
    answers = LevelMajority(train, CLOSED).predict(questions(*(one.id for one in dev)))
    assert 0.29 < point_score(dev, answers, tasks=CLOSED) < 0.30


def test_the_ceiling_answers_what_was_asked_from_the_geometry(tmp_path: Path) -> None:
    cases = [Case(side, k, f"{side}{k}") for side in ("train", "test") for k in range(40)]
    drawn = {case: draw_phantom(case, seed=0)[0] for case in cases}
    sides: dict[str, dict[str, object]] = {"train": {}, "test": {}}
    for case, one in drawn.items():
        sides[case.side][case.id] = one.latents()
    latents = tmp_path / "latents.json"
    latents.write_text(json.dumps(sides))
    train, test = (
        [Patient(case.id, one.labels) for case, one in drawn.items() if case.side == side]
        for side in ("train", "test")
    )
    asked = questions(*(one.id for one in test))
    boxes = [Prediction(test[0].id, BOXES.name, "C2", (6,), None, None, "")]
    answers = Ceiling(latents, train, TASKS).predict(asked + boxes)
    assert [one.question for one in answers] == [one.question for one in asked]
    score = evaluate(test, answers, tasks=CLOSED, n_resamples=2)
    assert score.value is not None
    assert score.value > 0.5


def test_a_baseline_is_scored_in_the_tasks_that_it_answers_whole() -> None:
    people = [Patient(name, {"qd": k, "sl": k % 2}) for k, name in enumerate("abc")]
    tasks = {name: CLOSED[name] for name in ("qd", "sl")}
    own = [
        Prediction(one.id, name, "", (6,), one.label(name, 0), None, "")
        for name in tasks
        for one in people
    ]
    baselines = [Given("some", "", own[:5]), Given("none", "", own[:2])]
    score = evaluate(people, own, tasks=tasks, baselines=baselines)
    assert list(score.baselines) == ["some"]
    some = score.baselines["some"]
    assert (list(some.tasks), some.value, list(some.paired)) == (["qd"], None, ["qd"])
    assert score.value == 1.0
    assert not score.complete
