"""Loss weights: tasks as in the score, rare labels more than frequent ones."""

from __future__ import annotations

from collections import defaultdict

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.data.examples import patient_examples
from spinevl.data.imbalance import weighted
from spinevl.schema.example import Example
from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import StudyLayout

TASKS = {name: task for name, task in official_tasks().items() if task.closed}


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    levels = TASKS["zyzg"].levels
    people = [
        Patient(
            f"p{k}",
            {
                "qd": int(k == 0),
                "sl": k % 2,
                "zjppt": (0, 1, 2, 3, k % 4),
                "zyzg": (0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2),
            },
            images=StudyLayout().images("/r", f"p{k}", slices=(6,), levels=levels),
        )
        for k in range(5)
    ]
    return [
        example
        for task in TASKS.values()
        for example in patient_examples(
            people,
            task=task,
            template="[image]?",
            sag_image=[6],
            separate=False,
            with_answers=True,
        )
    ]


@pytest.mark.parametrize("scheme", ["inverse_sqrt", "none"])
def test_loss_weights_follow_the_score(examples: list[Example], scheme: str) -> None:
    total = dict.fromkeys(TASKS, 0.0)
    found = weighted(examples, TASKS, class_weights=scheme)  # type: ignore[arg-type]
    assert [one.key for one in found] == [one.key for one in examples]
    for example in found:
        total[example.key.task] += example.weight
    for name, task in TASKS.items():
        assert total[name] / len(examples) == pytest.approx(task.weight)


def test_a_rare_label_weighs_by_the_inverse_root_of_its_frequency(examples: list[Example]) -> None:
    weights: dict[tuple[str, int | None], set[float]] = defaultdict(set)
    for one in weighted(examples, TASKS):
        weights[one.key.task, one.label].add(one.weight)
    assert all(len(found) == 1 for found in weights.values())
    (rare,), (common,) = weights["qd", 1], weights["qd", 0]
    assert rare / common == pytest.approx(2.0)  # one patient against four
    plain = {
        one.weight
        for one in weighted(examples, TASKS, class_weights="none")
        if one.key.task == "qd"
    }
    assert len(plain) == 1


def test_an_unknown_scheme_is_refused(examples: list[Example]) -> None:
    with pytest.raises(ValueError, match="class_weights=sqrt: expected inverse_sqrt or none"):
        weighted(examples, TASKS, class_weights="sqrt")  # type: ignore[arg-type]
