"""Patients whose images are arrays: held to what files are held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinevl.config.tasks import official_tasks
from spinevl.schema.cohort import StudyRequest
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import StudyLayout
from spinevl.sources.arrays import ArraySource

LAYOUT = StudyLayout(side_px=8)
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def load(patients: Any, *tasks: str, slices: tuple[int, ...] = (6,)) -> dict[str, list[np.ndarray]]:
    """Patient -> the pixels of its images, sagittal ones first."""
    source = ArraySource(patients=patients, layout=LAYOUT)
    asked = {name: official_tasks()[name] for name in tasks or ("qd",)}
    cohort = source.load(StudyRequest(asked, {}, slices, {"test"}, Path))
    assert not cohort.test_has_truth
    return {one.id: [source.decode(image) for image in one.images] for one in cohort.test}


def test_slices_levels_and_volumes() -> None:
    colour = np.repeat(GREY[..., None], 3, axis=2)
    volume = np.stack([GREY + k for k in range(8)])
    axial = {f"C{k}-C{k + 1}": GREY + 10 * k for k in range(2, 7)}
    found = load({"a": {6: GREY, 5: colour, **axial}}, "zjppt", slices=(6, 5))
    np.testing.assert_array_equal(found["a"][:2], [GREY, GREY])
    np.testing.assert_array_equal(found["a"][2], axial["C2-C3"])
    assert len(found["a"]) == 7
    found = load({"a": {"sagittal": volume}, "b": {5: GREY, 6: GREY, 7: GREY}}, slices=(5, 7))
    np.testing.assert_array_equal(found["a"], [volume[5], volume[7]])
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (GREY.astype(np.float32), "float32"),
        (GREY.astype(np.uint16), "uint16"),
        (GREY[:4], r"\[4, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"\[8, 8, 4\]"),
        (np.arange(192, dtype=np.uint8).reshape(8, 8, 3), r"\[8, 8, 3\]"),
        (np.zeros((0, 0), np.uint8), r"\[0, 0\]"),
        ([[1, 2], [3]], "an array"),
        (None, "object"),
        ("6.png", "<U"),
    ],
)
def test_what_is_no_8_bit_grey_image(pixels: Any, said: str) -> None:
    with pytest.raises(UserError, match=rf"(?s)patient a, slice 6.*{said}"):
        load({"a": {6: pixels}})


def test_every_problem_of_every_patient_at_once() -> None:
    patients = {
        "a": {5: GREY},
        "b": {6: GREY, "six": GREY, True: GREY},
        "../c": {6: GREY},
        "d": GREY,
        "e": {"sagittal": np.zeros((6, 8, 8), np.uint8)},
    }
    with pytest.raises(UserError) as refused:
        load(patients)
    told = [("patient a, slice 6", "5"), ("patient b", "'six'"), ("patient b", "True")]
    told += [("patients", "../c"), ("patient d", "ndarray"), ("patient e, slice 6", "[6, 8, 8]")]
    assert len(refused.value.problems) == len(told)
    for problem, (where, found) in zip(refused.value.problems, told, strict=True):
        assert problem.startswith(f"{where}: ")
        assert found in problem


def test_one_id_in_two_spellings_is_one_patient() -> None:
    with pytest.raises(UserError, match="patient \u00e9: "):
        load({"\u00e9": {6: GREY}, "e\u0301": {6: GREY}})
    assert list(load({"e\u0301": {6: GREY}})) == ["\u00e9"]


def test_nobody_is_refused() -> None:
    with pytest.raises(UserError):
        load({})


def test_slices_may_be_numbered_by_numpy() -> None:
    for kind in (np.int64, np.uint8):
        keys = [kind(6), kind(7)]
        np.testing.assert_array_equal(load({"a": dict.fromkeys(keys, GREY)})["a"], [GREY])
    for key in (np.bool_(True), np.float64(7)):
        with pytest.raises(UserError, match="patient a"):
            load({"a": {6: GREY, key: GREY}})


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({6: GREY, "C9-C9": GREY}, "C9-C9"),
        ({6: GREY, "C2-C5": GREY}, "C2-C5"),
        ({6: GREY, "c2-c3": GREY}, "c2-c3"),
        ({6: GREY, -1: GREY}, "-1"),
        ({6: GREY, 5.0: GREY}, r"5\.0"),
        ({"sagittal": np.stack([GREY] * 8), 5: GREY}, r"'sagittal' and 5"),
    ],
)
def test_an_array_that_nothing_reads_is_refused(arrays: Any, said: str) -> None:
    with pytest.raises(UserError, match=rf"patient a.*{said}"):
        load({"a": arrays})


def test_levels_that_the_model_does_not_read_may_be_there() -> None:
    found = load({"a": {6: GREY, 4: GREY, "C1": GREY, "C6-C7": GREY}})
    assert len(found["a"]) == 1
