"""Who trains and who is dev where records are read: whole, and each patient one person."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.data.examples import patient_examples
from spinevl.data.record_split import split_of_records
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example
from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import StudyLayout

LAYOUT = StudyLayout()
TASKS = {name: official_tasks()[name] for name in ("qd", "zjppt")}


def patient(name: str, root: str = "/data/siteA") -> Patient:
    levels = TASKS["zjppt"].levels
    images = LAYOUT.images(root, name, slices=[6], levels=levels)
    return Patient(name, {"qd": 1, "zjppt": (0,) * 5}, images=images)


PATIENTS = [patient(name) for name in ("a", "b", "c")]


def asked(*patients: Patient) -> dict[str, list[Example]]:
    return {
        name: patient_examples(
            patients,
            task=task,
            template="[image]?",
            sag_image=[6],
            separate=False,
            with_answers=True,
        )
        for name, task in TASKS.items()
    }


def problems(train: dict[str, list[Example]], dev: dict[str, list[Example]]) -> Sequence[str]:
    with pytest.raises(UserError) as caught:
        split_of_records({"train": train, "dev": dev}, PATIENTS, layout=LAYOUT, where="records=x")
    return caught.value.problems


def test_the_files_say_who_trains_and_who_is_dev() -> None:
    one, two, three = PATIENTS
    sides = {"train": asked(three, one), "dev": asked(two)}
    split = split_of_records(sides, PATIENTS, layout=LAYOUT, where="records=x")
    assert (split.train, split.dev) == ((three, one), (two,))
    sides["train"]["zjppt"].pop()  # a question of training may be left out
    assert split_of_records(sides, PATIENTS, layout=LAYOUT, where="records=x") == split


@pytest.mark.parametrize("side", ["train", "dev"])
def test_a_patient_whom_one_task_lacks_is_told(side: str) -> None:
    one, two, three = PATIENTS
    sides = {"train": asked(one), "dev": asked(two)}
    sides[side]["zjppt"] += asked(three)["zjppt"]
    (line,) = problems(**sides)
    assert f"qd_{side}: patient c" in line


def test_a_question_that_dev_lacks_is_told_before_it_is_scored() -> None:
    one, two, three = PATIENTS
    dev = asked(two, three)
    dropped = dev["zjppt"].pop(2)
    (line,) = problems(asked(one), dev)
    assert f"patient {dropped.key.patient}" in line
    assert dropped.key.level in line


def test_images_of_two_people_are_told() -> None:
    one, two, three = PATIENTS
    train = asked(one, two)
    train["zjppt"] = asked(patient("a", "/data/siteB"), two)["zjppt"]
    (line,) = problems(train, asked(three))
    assert "patient a: expected one person" in line
    assert "/data/siteA" in line
    assert "/data/siteB" in line


def test_unknown_patients_and_those_on_both_sides_are_told() -> None:
    one, two, _ = PATIENTS
    unknown, both = problems(asked(one, patient("z")), asked(two, one))
    assert "patient z (train)" in unknown
    assert "patient a: expected train or dev" in both


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/x/siteA/p1/sag/6.png", "/x/siteA"),
        ("/x/p1/sag/06.png", "/x"),
        ("/x/p1/tra/2-3.png", "/x"),
        ("p1/sag/6.png", ""),
        ("/x/other.png", "/x/other.png"),
    ],
)
def test_the_folder_of_all_patients_is_read_off_a_path(path: str, root: str) -> None:
    assert LAYOUT.root(path) == root
