"""Which patients lie below a folder, however its files are named."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinevl.config.tasks import official_tasks
from spinevl.inference import api
from spinevl.schema.cohort import StudyRequest
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import StudyLayout
from spinevl.sources.cervai import CervAISource
from spinevl.sources.patient_folders import patient_of, patients_below

LAYOUTS = {
    "challenge": StudyLayout(),
    "prefix": StudyLayout(sagittal="case_{id}/T2/im{slice}.png", axial="case_{id}/ax/{level}.png"),
    "flat": StudyLayout(sagittal="{id}_s{slice}.png", axial="{id}_{number}.png"),
    "below": StudyLayout(sagittal="sag/{id}/{slice}.png", axial="ax/{id}/{level}.png"),
    "twice": StudyLayout(sagittal="{id}/{id}_{slice}.png", axial="{id}/{id}_{level}.png"),
    "slices apart": StudyLayout(sagittal="s{slice}/{id}.png", axial="{level}/{id}.png"),
}
TASK = {"qd": official_tasks()["qd"]}


def write(root: Path, layout: StudyLayout, ids: list[str], *, side: int = 224) -> None:
    for one in ids:
        for image in layout.images(str(root), one, slices=layout.slices, levels=["C2-C3"]):
            Path(image.path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((side, side), 90, np.uint8)).save(image.path)


def request() -> StudyRequest:
    return StudyRequest(TASK, TASK, [6], {"test"}, Path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_patients_are_found_in_any_layout(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    ids = ["MR24-002", "MR24-010", "b"]
    write(tmp_path, layout, ids)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".cache").mkdir()
    assert sorted(patients_below(tmp_path, layout).ids) == ids
    source = CervAISource(test_images=str(tmp_path), **vars(layout))
    assert [one.id for one in source.load(request()).test] == ids


@pytest.mark.parametrize("name", ["challenge", "prefix", "twice"])
def test_a_patients_folder_tells_who_it_is(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    write(tmp_path, layout, ["p1", "p2"])
    folder = {"prefix": "case_p1"}.get(name, "p1")
    assert patient_of(folder, layout) == "p1"
    assert api._patients(tmp_path / folder, layout) == [(tmp_path, ["p1"])]
    assert api._patients([tmp_path / folder], layout) == [(tmp_path, ["p1"])]
    assert api._patients(tmp_path, layout) == [(tmp_path, None)]


@pytest.mark.parametrize("name", ["flat", "below"])
def test_where_patients_have_no_folder_of_their_own_none_is_taken(
    tmp_path: Path, name: str
) -> None:
    layout = LAYOUTS[name]
    write(tmp_path, layout, ["p1"])
    assert api._patients(tmp_path, layout) == [(tmp_path, None)]
    with pytest.raises(UserError, match="the folder of all patients"):
        api._patients([tmp_path / "sag"], layout)


def test_a_folder_that_is_no_patient_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = LAYOUTS["prefix"]
    write(tmp_path, layout, ["p1"])
    (tmp_path / "scout").mkdir()
    with caplog.at_level(logging.WARNING):
        CervAISource(test_images=str(tmp_path), **vars(layout)).load(request())
    assert "scout" in caplog.text


def test_nobody_is_found_where_the_pattern_is_another(tmp_path: Path) -> None:
    write(tmp_path, LAYOUTS["challenge"], ["p1"])
    source = CervAISource(test_images=str(tmp_path), **vars(LAYOUTS["flat"]))
    with pytest.raises(UserError, match=r"expected images named \{id\}_s\{slice\}\.png"):
        source.load(request())


def test_patients_without_labels_and_skipped_ones_are_told_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = LAYOUTS["prefix"]
    write(tmp_path / "images", layout, ["p1", "p3"])
    write(tmp_path / "images", layout, ["p2"], side=160)
    labels = [{"id": one, "qd": 0} for one in ("p1", "p2")]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    named = {"labels": str(tmp_path / "labels.json"), "train_images": str(tmp_path / "images")}
    source = CervAISource(**named, missing_images="skip", **vars(layout))
    with caplog.at_level(logging.WARNING):
        cohort = source.load(StudyRequest(TASK, TASK, [6], {"train"}, Path))
    assert [one.id for one in cohort.patients] == ["p1"]
    lines = [one.getMessage() for one in caplog.records]
    (unlabelled,) = [line for line in lines if "no labels" in line]
    assert unlabelled.endswith(": p3")
    (reason,) = [line for line in lines if line.startswith("  p2: ")]
    assert "160 x 160" in reason
