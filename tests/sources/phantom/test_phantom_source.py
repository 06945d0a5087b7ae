"""Cohorts on disk: layout, determinism, given files, mistakes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinevl.config.tasks import official_tasks
from spinevl.schema.cohort import Cohort, StudyRequest
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import StudyLayout
from spinevl.schema.task import Task
from spinevl.sources.phantom import store
from spinevl.sources.phantom.render import AXIAL_STEMS, Case, draw_phantom
from spinevl.sources.phantom.source import PhantomSource

TASKS = official_tasks()


def images_of(cohort: Cohort, side: str) -> Path:
    """The folder of the patients' folders."""
    patients = cohort.patients if side == "train" else cohort.test
    return Path(patients[0].images[0].path).parents[2]


def load(cache: Path, tasks: Mapping[str, Task] = TASKS, **options: object) -> Cohort:
    """A small cohort; ``options`` go to the source."""
    numbers: dict[str, object] = {"n_train": 2, "n_dev": 1, "n_test": 1}
    source = PhantomSource(**{**numbers, **options})  # type: ignore[arg-type]
    return source.load(
        StudyRequest(
            tasks=tasks,
            known_tasks=TASKS,
            sag_image=[6],
            subsets={"train", "test"},
            make_cache=lambda: cache,
        )
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return load(tmp_path_factory.mktemp("cache"))


def test_a_cohort_is_a_study_in_the_challenges_layout(cohort: Cohort) -> None:
    assert (len(cohort.patients), len(cohort.test)) == (3, 1)
    assert cohort.synthetic
    assert cohort.test_has_truth
    assert "phantom" in cohort.name
    names = [f"sag/{n}.png" for n in StudyLayout.slices] + [
        f"tra/{stem}.png" for stem in AXIAL_STEMS
    ]
    people = [(images_of(cohort, "train"), one) for one in cohort.patients]
    for root, one in [*people, (images_of(cohort, "test"), cohort.test[0])]:
        assert one.boxes is not None
        for box in (box for slices in one.boxes.values() for box in slices.values()):
            assert 12 <= box.x2 - box.x1 <= 26
            assert 12 <= box.y2 - box.y1 <= 34
        assert len(one.labels["zyzg"]) == 11  # type: ignore[arg-type]
        found = {str(p.relative_to(root / one.id)) for p in (root / one.id).rglob("*.png")}
        assert found == set(names)
        for name in names:
            with Image.open(root / one.id / name) as image:
                assert (image.mode, image.size) == ("L", (224, 224))
                assert 15 < np.asarray(image).mean() < 120
    folder = images_of(cohort, "train").parent.parent
    assert "no clinical evidence" in (folder / "README.txt").read_text(encoding="utf-8")
    template = json.loads((folder / "test_template.json").read_text(encoding="utf-8"))
    assert template == [
        {"id": cohort.test[0].id, "qd": 0, "sl": 0, "zjppt": [0] * 5, "zyzg": [0] * 11}
    ]


def test_a_patient_does_not_depend_on_how_many_there_are(cohort: Cohort, tmp_path: Path) -> None:
    other = load(tmp_path, n_train=1, n_dev=1, n_test=2)
    for ours, theirs, sides in (
        (cohort.patients, other.patients, (images_of(cohort, "train"), images_of(other, "train"))),
        (cohort.test, other.test, (images_of(cohort, "test"), images_of(other, "test"))),
    ):
        one = theirs[0]
        assert (one.labels, one.boxes) == (ours[0].labels, ours[0].boxes)
        for name in ("sag/5.png", "sag/6.png", "tra/4-5.png", "tra/7.png"):
            assert (sides[0] / one.id / name).read_bytes() == (
                sides[1] / one.id / name
            ).read_bytes()


def test_processes_render_what_one_process_does(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_CASES_A_WORKER", 1)
    monkeypatch.setattr(store, "available_cores", lambda: 2)
    other = load(tmp_path)
    for path in sorted(images_of(cohort, "train").rglob("*.png")):
        twin = images_of(other, "train") / path.relative_to(images_of(cohort, "train"))
        assert twin.read_bytes() == path.read_bytes()


def test_a_cohort_is_rendered_once(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(store, "render_case", refuse)
    cache = images_of(cohort, "train").parents[3]
    assert load(cache).patients == cohort.patients
    with pytest.raises(AssertionError, match="rendered again"):
        load(cache, seed=1)
    assert len(list((cache / "phantom").iterdir())) == 1  # nothing half done stays behind


def test_a_cohort_is_rendered_where_the_file_system_has_no_locks(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no locks here")

    monkeypatch.setattr(store.FileLock, "_acquire", refuse)
    assert [one.labels for one in load(tmp_path).patients] == [
        one.labels for one in cohort.patients
    ]


def test_given_labels_and_boxes_are_kept(shared: Path, tmp_path: Path) -> None:
    files = {}
    for name in ("labels_train", "boxes_train", "submission_template"):
        entries = json.loads((shared / f"cervai/{name}.json").read_text(encoding="utf-8"))
        files[name] = entries
    ids = [one["id"] for one in files["labels_train"][:2]]
    files["labels_train"] = files["labels_train"][:2]
    files["boxes_train"] = [one for one in files["boxes_train"] if one["id"] in ids]
    files["submission_template"] = files["submission_template"][:2]
    for name, entries in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    cohort = load(
        tmp_path / "cache",
        labels=str(tmp_path / "labels_train.json"),
        boxes=str(tmp_path / "boxes_train.json"),
        test_labels=str(tmp_path / "submission_template.json"),
    )
    assert [one.id for one in cohort.patients] == ids
    assert [one.id for one in cohort.test] == [one["id"] for one in files["submission_template"]]
    for one, given in zip(cohort.patients, files["labels_train"], strict=True):
        assert list(one.labels["zyzg"]) == given["zyzg"]  # type: ignore[arg-type]
        (box_entry,) = [entry for entry in files["boxes_train"] if entry["id"] == one.id]
        assert one.boxes is not None
        box = one.boxes["C4"][6]
        assert f"({box.x1},{box.y1})({box.x2},{box.y2})" == box_entry["C4"][1]
    truth = json.loads(
        (images_of(cohort, "train").parent.parent / "test_truth.json").read_text(encoding="utf-8")
    )
    assert [tuple(one["zjppt"]) for one in truth] == [one.labels["zjppt"] for one in cohort.test]


def test_given_boxes_without_a_truth_file_are_followed(tmp_path: Path) -> None:
    labels = [
        {"id": f"real-{k}", "qd": k, "sl": 1, "zjppt": [k] * 5, "zyzg": [k] * 11} for k in range(3)
    ]
    column = {f"C{n}": [f"(90,{14 * n + 30})(108,{14 * n + 50})"] * 3 for n in range(2, 8)}
    files = {"labels": labels, "boxes": [{"id": one["id"], **column} for one in labels]}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    cohort = load(tmp_path, **{name: str(tmp_path / f"{name}.json") for name in files})
    assert [one.labels["qd"] for one in cohort.patients] == [0, 1, 2]
    assert cohort.patients[0].boxes is not None
    assert cohort.patients[0].boxes["C2"][5].as_list() == [90, 58, 108, 78]


def test_the_seed_changes_the_pixels(cohort: Cohort, tmp_path: Path) -> None:
    other = load(tmp_path, seed=1)
    first, second = (
        np.asarray(Image.open(images_of(one, "train") / "phantom-00000/sag/6.png"))
        for one in (cohort, other)
    )
    assert (first != second).mean() > 0.2


def test_a_task_without_labels_is_refused(tmp_path: Path) -> None:
    mine = {"mine": replace(TASKS["qd"], name="mine")}
    with pytest.raises(UserError, match="no labels for task mine"):
        load(tmp_path, mine)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_train"):
        PhantomSource(n_train=0)
    with pytest.raises(ValueError, match="missing_images"):
        PhantomSource(missing_images="maybe")
    with pytest.raises(ValueError, match="boxes"):
        PhantomSource(boxes="boxes.json")
    with pytest.raises(UserError, match=r"nowhere\.json"):
        load(tmp_path, labels="nowhere.json")
    other = Task(name="grade", title="grade", choices=("A.no", "B.yes"))
    with pytest.raises(UserError, match="grade"):
        load(tmp_path, {"grade": other})


def test_given_boxes_hold_nothing_of_a_step() -> None:
    drawn, _ = draw_phantom(Case("train", 0, "a"), seed=0)
    boxes = {
        vertebra: dict(zip(StudyLayout.slices, three, strict=True))
        for vertebra, three in drawn.boxes.items()
    }
    given, _ = draw_phantom(Case("train", 0, "a", drawn.labels, boxes), seed=0)
    assert (drawn.geometry.step_in_boxes, given.geometry.step_in_boxes) == (0.4, 0.0)


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "label", "list", "old"])
def test_a_damaged_cohort_is_rendered_again_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    numbers = {"n_train": 1, "n_dev": 1, "n_test": 1}
    images = images_of(load(tmp_path, **numbers), "train")
    folder = images.parents[1]
    before = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    picture = next(iter(sorted(images.rglob("*.png"))))
    if damage == "cut":
        picture.write_bytes(before[picture][:100])
    elif damage == "garbage":  # of the same size
        picture.write_bytes(before[picture][:-20] + b"x" * 20)
    elif damage == "missing":
        picture.unlink()
    else:
        name = {"label": "labels.json", "list": "files.json", "old": "files.json"}[damage]
        (folder / name).write_text("[1, {" if damage != "old" else '{"spec.json": [0, 0]}')
    with caplog.at_level("WARNING"):
        load(tmp_path, **numbers)
    assert [str(folder) in record.getMessage() for record in caplog.records] == [True]
    assert {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()} == before
    assert [one.name for one in folder.parent.iterdir()] == [folder.name]


def test_rendering_that_is_stopped_with_its_processes_prints_no_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks: list[object] = []
    monkeypatch.setattr(threading, "excepthook", stacks.append)
    monkeypatch.setattr(store, "_CASES_A_WORKER", 1)
    monkeypatch.setattr(store, "available_cores", lambda: 2)
    cases = [Case("train", k, f"p{k}") for k in range(200)]
    phantoms = store._phantoms(cases, tmp_path, 0)
    next(phantoms)
    for child in multiprocessing.active_children():  # the signal reaches the whole group
        child.terminate()
    phantoms.close()  # type: ignore[attr-defined]
    assert stacks == []
