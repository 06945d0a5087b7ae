"""Examples beside each other: groups, another patient's images, the images shown."""

from __future__ import annotations

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.data.auxiliary_targets import head_sizes, head_targets
from spinevl.data.examples import grouped, patient_examples, pictures, swapped
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example, Key
from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import StudyLayout

TASKS = official_tasks()
LEVELS = TASKS["zjppt"].levels
LAYOUT = StudyLayout(slices=(3, 4), sagittal="{id}_{slice}.png", axial="{level}/{id}.png")
PEOPLE = [
    Patient(
        name,
        {"qd": 1, "zjppt": (0, 1, 2, 3, 0)},
        images=LAYOUT.images("/r", name, slices=(3, 4), levels=LEVELS),
    )
    for name in ("a", "b", "c")
]


def examples(task: str, *, separate: bool = False) -> list[Example]:
    return patient_examples(
        PEOPLE,
        task=TASKS[task],
        template="[image]?",
        sag_image=[4, 3],
        separate=separate,
        with_answers=True,
    )


def test_a_patients_questions_stay_together_and_conversations_alone() -> None:
    talk = Example(Key("a", ""), (), (("Hello?", "Hi."),))
    asked = [*examples("qd", separate=True), talk, talk]
    assert [[index for index, _ in group] for group in grouped(asked)] == [
        [0, 3],
        [1, 4],
        [2, 5],
        [6],
        [7],
    ]
    assert all(asked[index] is one for group in grouped(asked) for index, one in group)


def test_swapped_questions_show_the_same_images_of_the_next_patient() -> None:
    asked = examples("zjppt")
    for one, other in zip(asked, swapped(asked, PEOPLE), strict=True):
        following = {"a": "b", "b": "c", "c": "a"}[one.key.patient]
        assert (other.key, other.rounds, other.label) == (one.key, one.rounds, one.label)
        assert [image.path for image in other.images] == [
            f"/r/{following}_4.png",
            f"/r/{following}_3.png",
            f"/r/{one.key.level}/{following}.png",
        ]


def test_the_images_of_a_patient_are_listed_once_sagittal_first() -> None:
    shown = pictures([*examples("zjppt"), *examples("qd")])
    assert list(shown) == ["a", "b", "c"]
    assert [image.path for image in shown["b"]] == [
        "/r/b_4.png",
        "/r/b_3.png",
        *(f"/r/{level}/b.png" for level in LEVELS),
    ]


def test_boxes_of_a_patient_without_boxes_are_refused() -> None:
    with pytest.raises(UserError, match=r"^patient a: expected boxes, found none"):
        examples("positioning")


def test_heads_of_a_question_stand_on_the_images_that_show_it() -> None:
    sizes = head_sizes(TASKS)
    assert sizes["sagittal/qd/"] == 3
    assert sizes["axial/zjppt"] == 4
    assert [name for name in sizes if "positioning" in name] == []
    question = examples("zjppt")[2]
    assert [(image.path, head, label) for image, head, label in head_targets(question)] == [
        ("/r/a_4.png", "sagittal/zjppt/C4-C5", 2),
        ("/r/a_3.png", "sagittal/zjppt/C4-C5", 2),
        ("/r/C4-C5/a.png", "axial/zjppt", 2),
    ]
    assert {head for one in examples("zjppt") for _, head, _ in head_targets(one)} <= set(sizes)
