"""The mean box against numpy."""

from __future__ import annotations

import numpy as np

from spinevl.config.conf import official_tasks
from spinevl.evaluation.baselines import mean_boxes
from spinevl.schema.box import Box
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import VERTEBRAE

TASK = official_tasks()["positioning"]


def person(name: str, rng: np.random.Generator) -> Patient:
    def box() -> Box:
        x, y, w, h = rng.integers(1, 50, 4).tolist()
        return Box(x, y, x + w, y + h)

    return Patient(name, boxes={v: {5: box(), 6: box(), 7: box()} for v in VERTEBRAE})


def test_mean_boxes_of_each_vertebra_and_slice() -> None:
    rng = np.random.default_rng(0)
    train = [person(name, rng) for name in "abcde"] + [Patient("without")]
    asked = [
        Prediction("t", TASK.name, vertebra, (number,), None, None, "", None)
        for vertebra in VERTEBRAE
        for number in (5, 7)
    ]
    asked.append(Prediction("t", "qd", "", (6,), 0, None, ""))
    answers = mean_boxes(train, asked, TASK)
    assert len(answers) == 12
    for one in answers:
        place = (5, 6, 7).index(one.slices[0])
        corners = [p.boxes[one.object][5 + place].as_list() for p in train if p.boxes]
        assert one.box is not None
        assert one.box.as_list() == np.rint(np.mean(corners, axis=0)).astype(int).tolist()
        assert Box.parse_answer(one.text, one.object) == one.box


def test_without_boxes_there_is_no_mean() -> None:
    asked = [Prediction("t", TASK.name, "C2", (6,), None, None, "", None)]
    assert mean_boxes([Patient("a")], asked, TASK) == []
