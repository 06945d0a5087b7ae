"""The rendered cohort: formats, determinism and given labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spinevl.config.tasks import official_tasks
from spinevl.io.image_file import load_image
from spinevl.schema.cohort import Cohort, StudyRequest
from spinevl.schema.errors import UserError
from spinevl.sources.phantom.source import PhantomSource

TASKS = official_tasks()


def images_of(cohort: Cohort, side: str) -> Path:
    """The folder of the patients' folders."""
    patients = cohort.patients if side == "train" else cohort.test
    return Path(patients[0].images[0].path).parents[2]


def load(cache: Path, **options: object) -> Cohort:
    options = {"n_train": 3, "n_dev": 1, "n_test": 2, **options}
    return PhantomSource(**options).load(  # type: ignore[arg-type]
        StudyRequest(
            tasks=TASKS,
            known_tasks=TASKS,
            sag_image=[6],
            subsets={"train", "test"},
            make_cache=lambda: cache,
        )
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_cohort_has_truth_boxes_and_fourteen_images_a_patient(cache: Path) -> None:
    cohort = load(cache)
    assert cohort.synthetic
    assert (len(cohort.patients), len(cohort.test)) == (4, 2)
    for patient, root in (
        (cohort.patients[0], images_of(cohort, "train")),
        (cohort.test[0], images_of(cohort, "test")),
    ):
        images = sorted((root / patient.id).rglob("*.png"))
        assert len(images) == 14
        assert load_image(images[0], side_px=224).std() > 10
        assert patient.boxes is not None
        for three in patient.boxes.values():
            for box in three.values():
                assert 12 <= box.x2 - box.x1 <= 26
                assert 12 <= box.y2 - box.y1 <= 34


def test_a_patient_does_not_depend_on_how_many_there_are(cache: Path) -> None:
    few, more = load(cache), load(cache, n_train=5)
    assert images_of(few, "train") != images_of(more, "train")
    for one in few.patients:
        same = next(other for other in more.patients if other.id == one.id)
        assert same.labels == one.labels
        path = f"{one.id}/tra/4-5.png"
        np.testing.assert_array_equal(
            load_image(images_of(few, "train") / path), load_image(images_of(more, "train") / path)
        )


def test_the_seed_changes_the_pixels(cache: Path) -> None:
    path = "phantom-00000/sag/6.png"
    first, other = load(cache), load(cache, seed=1)
    assert (
        load_image(images_of(first, "train") / path) != load_image(images_of(other, "train") / path)
    ).mean() > 0.2


def test_given_labels_boxes_and_template_are_followed(cache: Path, tmp_path: Path) -> None:
    labels = [
        {"id": f"real-{k}", "qd": k, "sl": 1, "zjppt": [k] * 5, "zyzg": [k] * 11} for k in range(3)
    ]
    column = {f"C{n}": [f"(90,{14 * n + 30})(108,{14 * n + 50})"] * 3 for n in range(2, 8)}
    boxes = [{"id": one["id"], **column} for one in labels]
    template = [{"id": "t-1", "qd": 0, "sl": 0, "zjppt": [0] * 5, "zyzg": [0] * 11}]
    for name, content in (("labels", labels), ("boxes", boxes), ("template", template)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    cohort = load(
        cache,
        labels=str(tmp_path / "labels.json"),
        boxes=str(tmp_path / "boxes.json"),
        test_labels=str(tmp_path / "template.json"),
    )
    assert [one.labels["qd"] for one in cohort.patients] == [0, 1, 2]
    assert cohort.patients[0].boxes is not None
    assert cohort.patients[0].boxes["C2"][5].as_list() == [90, 58, 108, 78]
    assert [one.id for one in cohort.test] == ["t-1"]
    assert cohort.test_has_truth
    assert set(cohort.test[0].labels) == {"qd", "sl", "zjppt", "zyzg"}


def test_a_task_without_labels_is_refused(cache: Path) -> None:
    from dataclasses import replace

    tasks = {"mine": replace(TASKS["qd"], name="mine")}
    with pytest.raises(UserError, match="no labels for task mine"):
        PhantomSource().load(
            StudyRequest(
                tasks=tasks,
                known_tasks=TASKS,
                sag_image=[6],
                subsets={"train"},
                make_cache=lambda: cache,
            )
        )
