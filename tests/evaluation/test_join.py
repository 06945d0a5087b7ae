"""What was asked, what was answered and what is true, side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.evaluation.join import by_patient, with_truth
from spinevl.schema.box import Box
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction

TASKS = official_tasks()


def test_predictions_of_other_tasks_and_patients_are_passed_over() -> None:
    given = [
        Prediction("a", "qd", "", (6,), 2, None, ""),
        Prediction("b", "qd", "", (6,), 2, None, ""),
        Prediction("a", "positioning", "C2", (6,), None, None, "", None),
    ]
    assert by_patient(given, ["a"], {"qd": TASKS["qd"]}) == {"qd": [[given[0]]]}


def test_answers_of_a_closed_task_are_put_in_the_order_of_its_levels() -> None:
    task = TASKS["zjppt"]
    given = [Prediction("a", task.name, name, (6,), 0, None, "") for name in task.levels]
    assert by_patient(given[::-1], ["a"], {task.name: task}) == {task.name: [given]}


def test_a_question_without_an_answer_is_named() -> None:
    given = [Prediction("a", "zjppt", name, (6,), 0, None, "") for name in ("C2-C3", "C3-C4")]
    with pytest.raises(UserError, match="C4-C5"):
        by_patient(given, ["a"], {"zjppt": TASKS["zjppt"]})
    with pytest.raises(UserError, match="patient b qd: expected 1 answers, found none for the sp"):
        by_patient([], ["b"], {"qd": TASKS["qd"]})


def test_a_task_that_nobody_answered_is_told_once_with_the_others_to_score() -> None:
    given = [Prediction(name, "qd", "", (6,), 0, None, "") for name in "abc"]
    given += [Prediction("a", "positioning", "C2", (6,), None, None, "", None)]
    with pytest.raises(UserError) as caught:
        by_patient(given, [*"abc"], TASKS)
    (problem,) = map(str, caught.value.problems)
    assert problem == (
        "predictions: expected answers to sl, zjppt, zyzg, found none of any patient; predict them "
        "too, or score the others alone: 'task=[positioning,qd]'"
    )
    with pytest.raises(
        UserError, match=r"^predictions: expected answers to sl, .*\n.*patient b qd: "
    ):
        by_patient(given[:1], ["a", "b"], {name: TASKS[name] for name in ("qd", "sl")})


def test_the_truth_is_a_label_a_box_or_unknown() -> None:
    box = Box(1, 2, 3, 4)
    patients = [Patient("a", {"qd": 1, "zjppt": (0, 1, 2, 3, 0)}, {"C2": {6: box}}), Patient("b")]
    given = [
        Prediction("a", "qd", "", (6,), 1, None, ""),
        Prediction("a", "zjppt", "C4-C5", (6,), 1, None, ""),
        Prediction("a", "positioning", "C2", (6,), None, None, "", box),
        Prediction("b", "qd", "", (6,), 1, None, ""),
        Prediction("b", "positioning", "C2", (6,), None, None, "", box),
        Prediction("stranger", "qd", "", (6,), 1, None, ""),
    ]
    joined = with_truth(given, patients, TASKS)
    assert [one.truth for one in joined] == [1, 2, box, None, None, None]
    assert [one.correct for one in joined] == [True, False, None, None, None, None]
    assert [replace(one, truth=None) for one in joined] == given
    lines = [one.to_json() for one in joined]
    assert [line.get("truth") for line in lines] == [1, 2, [1, 2, 3, 4], None, None, None]
    assert [line.get("correct") for line in lines] == [True, False, None, None, None, None]
    assert [set(line) & {"truth", "correct"} for line in lines[3:]] == [set()] * 3
    assert len(with_truth(given, patients, {"qd": TASKS["qd"]})) == 3


def test_a_box_in_a_slice_without_truth_is_named() -> None:
    box = Box(1, 2, 3, 4)
    patients = [Patient("a", {}, {"C2": {4: box, 6: box}})]
    given = [Prediction("a", "positioning", "C2", (9,), None, None, "", box)]
    with pytest.raises(UserError, match=r"patient a positioning C2: .*slice 4, 6.*in slice 9"):
        with_truth(given, patients, TASKS)
