"""How other hospitals name their image files."""

from __future__ import annotations

import pytest

from spinevl.schema.image_ref import ImageRef
from spinevl.schema.study_layout import StudyLayout

OTHER = StudyLayout(
    slices=(3, 4),
    sagittal="T2/{id}_sag_{slice}.png",
    axial="T2/{id}/{level}/{id}.ax.png",
    side_px=None,
)
LEVELS = ("C2", "C2-C3", "C7")


def test_the_challenges_layout_is_the_default() -> None:
    images = StudyLayout().images("/r", "p 1", slices=(7, 5), levels=LEVELS)
    assert [image.path for image in images] == [
        "/r/p 1/sag/7.png",
        "/r/p 1/sag/5.png",
        "/r/p 1/tra/2.png",
        "/r/p 1/tra/2-3.png",
        "/r/p 1/tra/7.png",
    ]
    assert images[0] == ImageRef("/r/p 1/sag/7.png", patient="p 1", plane="sagittal", slice=7)
    assert images[3] == ImageRef("/r/p 1/tra/2-3.png", patient="p 1", plane="axial", level="C2-C3")


def test_another_hospitals_files_are_named_by_its_patterns() -> None:
    images = OTHER.images("/r", "x7", slices=(3, 4), levels=LEVELS)
    assert [image.path for image in images] == [
        "/r/T2/x7_sag_3.png",
        "/r/T2/x7_sag_4.png",
        "/r/T2/x7/C2/x7.ax.png",
        "/r/T2/x7/C2-C3/x7.ax.png",
        "/r/T2/x7/C7/x7.ax.png",
    ]
    assert [image.slice for image in images] == [3, 4, None, None, None]
    assert [image.level for image in images] == [None, None, *LEVELS]


PADDED = StudyLayout(slices=(7, 12, 1234), sagittal="{id}/s{slice:03}.png")


def test_a_slice_number_may_have_leading_zeros() -> None:
    images = PADDED.images("/r", "x7", slices=(7, 12, 1234), levels=())
    assert [image.path for image in images] == [
        "/r/x7/s007.png", "/r/x7/s012.png", "/r/x7/s1234.png"
    ]  # fmt: skip
    layout = StudyLayout(sagittal="{id}/{slice:02d}.png")
    assert layout.identify("/r/x7/06.png") == ImageRef(
        "/r/x7/06.png", patient="x7", plane="sagittal", slice=6
    )
    for name in ("6", "006", "0", "0123"):  # which the pattern does not write
        assert layout.identify(f"/r/x7/{name}.png") is None


@pytest.mark.parametrize("layout", [StudyLayout(), OTHER, StudyLayout(sagittal="{id}/{slice:04}")])
@pytest.mark.parametrize("patient", ["x7", "a_sag_b", "病人 3", "1", "a.b(c)+"])
def test_a_files_name_says_what_it_shows(layout: StudyLayout, patient: str) -> None:
    images = layout.images("/data/{id}/2", patient, slices=layout.slices, levels=LEVELS)
    assert [layout.identify(image.path) for image in images] == list(images)


@pytest.mark.parametrize(
    "path",
    [
        "/r/x7/sag/5.jpg",
        "/r/x7/cor/5.png",
        "/r/x7/sag/five.png",
        "/r/x7/sag/5.png.bak",
        "sag/5.png",
        "/r/x7/tra/C2-C3.png",
    ],
)
def test_a_file_of_no_layout_is_not_guessed(path: str) -> None:
    assert StudyLayout().identify(path) is None


def test_slices_are_different_numbers() -> None:
    for slices in ((6, 6, 7), ()):
        with pytest.raises(ValueError, match="expected different slice numbers"):
            StudyLayout(slices)


def test_a_pattern_that_names_two_patients_is_not_this_layouts() -> None:
    assert OTHER.identify("/r/T2/x7/C2/x7.ax.png") is not None
    assert OTHER.identify("/r/T2/x7/C2/x8.ax.png") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sagittal": "sag/{slice}.png"}, r"data\.sagittal=sag/\{slice\}\.png: .*\{id\}"),
        ({"sagittal": "{id}/sag.png"}, r"data\.sagittal=\{id\}/sag\.png: .*\{slice\}"),
        ({"axial": "{id}/{slice}.png"}, r"data\.axial=.*\{level\} or \{number\}"),
        ({"axial": "tra/{level}.png"}, r"data\.axial=tra/\{level\}\.png: .*\{id\}"),
        ({"sagittal": "{id}/{plane}/{slice}.png"}, r"data\.sagittal=.*: expected a file with"),
        ({"axial": "{id}/{level}-{slice}.png"}, r"data\.axial=.*: expected a file with"),
        ({"sagittal": "{id}/{}/{slice}.png"}, r"data\.sagittal=.*: expected a file with"),
        ({"sagittal": "{patient}/{slice}.png"}, r"\{id\}, .*\{slice:03\}.*found \{patient\}"),
        ({"sagittal": "{id}/*/{slice}.png"}, r"\{id\}, .*\{slice\}, .*found \*"),
        ({"sagittal": "{id}/{slice:3}.png"}, r"found \{slice:3\}"),
        ({"sagittal": "{id}/{slice!r}.png"}, r"found \{slice!r\}"),
        ({"sagittal": "{id}/{slice}.{png"}, r"found \{png"),
        ({"sagittal": "{id:03}/{slice}.png"}, r"found \{id:03\}"),
        ({"axial": "{id}/{level}}.png"}, r"found \}"),
        ({"axial": "{id}/{level:02}.png"}, r"\{level\} or \{number\}.*found \{level:02\}"),
    ],
)
def test_a_pattern_that_cannot_name_files_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyLayout(**options)
