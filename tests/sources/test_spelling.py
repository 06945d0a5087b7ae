"""An é of one character or of two: one patient, wherever the id stands."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spinevl.config.tasks import official_tasks
from spinevl.data.records import read_records, records_text
from spinevl.data.split import FilesSplit
from spinevl.evaluation.answer_files import read_submission, write_submission
from spinevl.evaluation.submission import check_submission
from spinevl.schema.cohort import Cohort, StudyRequest
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example, Key
from spinevl.schema.study_layout import StudyLayout
from spinevl.sources.cervai import CervAISource
from spinevl.sources.labels import read_labels

ONE = "Zoé"
TWO = unicodedata.normalize("NFD", ONE)
TASKS = {"qd": official_tasks()["qd"]}


def labels(folder: Path, *ids: str) -> str:
    (folder / "labels.json").write_text(json.dumps([{"id": one, "qd": 1} for one in ids]))
    return str(folder / "labels.json")


def picture(folder: Path, name: str) -> Path:
    file = folder / "images" / name / "sag/6.png"
    file.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((224, 224), np.uint8)).save(file)
    return file


def load(folder: Path, subset: str, **options: Any) -> Cohort:
    return CervAISource(**options).load(StudyRequest(TASKS, TASKS, [6], {subset}, folder))


@pytest.mark.parametrize(("written", "named"), [(ONE, TWO), (TWO, ONE), (TWO, TWO)])
def test_labels_find_their_images(tmp_path: Path, written: str, named: str) -> None:
    file = picture(tmp_path, named)
    options = {"labels": labels(tmp_path, written), "train_images": str(tmp_path / "images")}
    (patient,) = load(tmp_path, "train", **options).patients
    assert (patient.id, patient.written) == (ONE, written)
    assert [(image.path, image.patient) for image in patient.images] == [(str(file), ONE)]


def test_boxes_find_their_labels(tmp_path: Path) -> None:
    boxes = {name: ["(1,1)(9,9)"] * 3 for name in ("C2", "C3", "C4", "C5", "C6", "C7")}
    (tmp_path / "boxes.json").write_text(json.dumps([{"id": TWO, **boxes}]))
    picture(tmp_path, ONE)
    options = {"labels": labels(tmp_path, ONE), "train_images": str(tmp_path / "images")}
    (patient,) = load(tmp_path, "train", boxes=str(tmp_path / "boxes.json"), **options).patients
    assert patient.boxes is not None


def test_one_id_in_two_spellings_is_refused_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two spellings") as caught:
        read_labels(labels(tmp_path, ONE, TWO), tasks=TASKS)
    assert ascii(ONE)[1:-1] in str(caught.value)
    assert ascii(TWO)[1:-1] in str(caught.value)


def test_two_folders_of_one_id_are_refused(tmp_path: Path) -> None:
    picture(tmp_path, ONE)
    picture(tmp_path, TWO)
    root = str(tmp_path / "images")
    for subset, options in (
        ("test", {"test_images": root}),
        ("train", {"labels": labels(tmp_path, ONE), "train_images": root}),
    ):
        with pytest.raises(UserError, match="each id once") as caught:
            load(tmp_path, subset, **options)
        assert ascii(ONE)[1:-1] in str(caught.value)
        assert ascii(TWO)[1:-1] in str(caught.value)


def test_a_folder_that_is_asked_for_is_found(tmp_path: Path) -> None:
    picture(tmp_path, TWO)
    source = CervAISource(test_images=str(tmp_path / "images"))
    request = StudyRequest(TASKS, TASKS, [6], {"test"}, tmp_path)
    assert [one.id for one in source.load(request, only=[ONE]).test] == [ONE]


def test_a_split_finds_its_patients(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(f"{TWO}\n")
    (tmp_path / "dev.json").write_text(json.dumps(["b"]))
    people = read_labels(labels(tmp_path, ONE, "b"), tasks=TASKS)
    split = FilesSplit(train=str(tmp_path / "train.txt"), dev=str(tmp_path / "dev.json"))
    assert [one.id for one in split.split(people, TASKS).train] == [ONE]


def test_records_find_their_patients(tmp_path: Path) -> None:
    (image,) = StudyLayout().images("/x", TWO, slices=[6], levels=())
    example = Example(Key(TWO, "qd", ""), (image,), (("Q?", None),), kind="option", truth=None)
    (tmp_path / "r.json").write_text(records_text([example], with_answer_turn=False))
    (found,) = read_records(tmp_path / "r.json", task=TASKS["qd"], layout=StudyLayout())
    assert (found.key.patient, found.images[0].patient) == (ONE, ONE)


def test_a_submission_is_read_in_any_spelling_and_written_as_its_template(tmp_path: Path) -> None:
    given = tmp_path / "answers.json"
    given.write_text(json.dumps([{"id": TWO, "qd": 2}]))
    answers = read_submission(given, ids=[ONE], tasks=TASKS)
    assert [(one.id, one.choice) for one in answers] == [(ONE, 2)]
    write_submission(given, answers, ids=[ONE], tasks=TASKS, written={ONE: TWO})
    assert json.loads(given.read_text()) == [{"id": TWO, "qd": 2}]


def test_a_submission_that_spells_an_id_otherwise_than_its_template_is_told_so(
    tmp_path: Path,
) -> None:
    for name, ids in (("template", ["a", ONE]), ("answers", ["a", TWO])):
        (tmp_path / name).write_text(json.dumps([{"id": one, "qd": 0} for one in ids]))
    with pytest.raises(UserError) as caught:
        check_submission(
            str(tmp_path / "answers"), template=str(tmp_path / "template"), tasks=TASKS
        )
    (line,) = caught.value.problems
    assert "record 2" in line
    assert ascii(ONE) in line
    assert ascii(TWO) in line
    assert "order" not in line
