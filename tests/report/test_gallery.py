"""The gallery: which patients, in which order, and the pixels that the model was shown."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinevl.config.tasks import official_tasks
from spinevl.data.images import ImageStore
from spinevl.io.image_file import load_image
from spinevl.report.gallery import gallery
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.prediction import Prediction

TASKS = {name: official_tasks()[name] for name in ("qd", "zjppt")}
LOAD = ImageStore(lambda image: load_image(image.path)).load


def answer(
    patient: str,
    choice: int | None,
    truth: int,
    *,
    level: str = "",
    p: float | None = None,
    text: str = "",
) -> Prediction:
    task = TASKS["zjppt" if level else "qd"]
    probabilities = None if p is None or choice is None else {choice: p}
    text = task.choices[choice] if choice is not None else text
    return Prediction(patient, task.name, level, (6,), choice, probabilities, text, None, truth)


def decoded(uri: str | None) -> np.ndarray:
    assert uri is not None
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def picture(folder: Path, name: str, shape: tuple[int, int] = (8, 8)) -> str:
    pixels = np.random.default_rng(len(name)).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return str(folder / name)


def test_the_worst_come_first_and_the_best_last() -> None:
    given = [answer(f"p{k:02d}", 0, 2, p=k / 20) for k in range(15)] + [answer("right", 1, 1, p=1)]
    cards = gallery(given, TASKS, pictures={}, load=LOAD, n_patients=5)
    assert [one["id"] for one in cards] == ["p14", "p13", "p12", "p00", "right"]
    assert [one["errors"] for one in cards] == [1, 1, 1, 1, 0]


def test_an_answer_that_could_not_be_parsed_is_wrong_and_shown() -> None:
    given = [answer("a", None, 1, text="I <b>cannot</b> say"), answer("a", 0, 0, level="C3-C4")]
    (card,) = gallery(given, TASKS, pictures={}, load=LOAD)
    first, second = card["answers"]
    assert (first["unparsed"], first["wrong"], first["answer"]) == (
        True,
        True,
        "I <b>cannot</b> say",
    )
    assert first["probability"] is None
    assert (second["unparsed"], second["wrong"], second["level"]) == (False, False, "C3-C4")


def test_the_part_of_a_file_that_the_model_saw(tmp_path: Path) -> None:
    path = picture(tmp_path, "slices.png", (40, 30))
    images = [
        ImageRef(path, plane="sagittal", slice=5),
        ImageRef(path, plane="sagittal", slice=6, crop=(10, 4, 26, 34)),
        ImageRef(path, plane="sagittal", slice=7),
        ImageRef(path, plane="axial", level="C3-C4", crop=(0, 0, 3, 7)),
    ]
    given = [answer("a", 0, 1, level="C3-C4")]
    (card,) = gallery(given, TASKS, pictures={"a": images}, load=LOAD)
    shown = {name: decoded(uri) for name, uri in card["pictures"]}
    pixels = load_image(path)
    assert list(shown) == ["sagittal slice 6", "axial slice at C3-C4"]
    np.testing.assert_array_equal(shown["sagittal slice 6"], pixels[4:34, 10:26])
    np.testing.assert_array_equal(shown["axial slice at C3-C4"], pixels[0:7, 0:3])


def test_a_large_image_is_made_smaller_and_one_that_is_gone_has_none(tmp_path: Path) -> None:
    large = ImageRef(picture(tmp_path, "a.png", (2000, 1000)), plane="sagittal", slice=6)
    gone = ImageRef(str(tmp_path / "gone.png"), plane="sagittal", slice=6)
    given = [answer("a", 0, 1), answer("b", 1, 1)]
    cards = gallery(given, TASKS, pictures={"a": [large], "b": [gone]}, load=LOAD)
    assert decoded(cards[0]["pictures"][0][1]).shape == (512, 256)
    assert cards[1]["pictures"] == [("sagittal slice 6", None)]


def test_without_truth_there_is_no_patient() -> None:
    unknown = Prediction("a", "qd", "", (6,), 1, None, "B.straight curvature")
    assert gallery([unknown], TASKS, pictures={}, load=LOAD) == []


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8)])
def test_pixels_of_colour_images_too(shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    image = ImageRef("a", plane="sagittal", slice=1)
    (card,) = gallery(
        [answer("a", 0, 1)], TASKS, pictures={"a": [image]}, load=lambda _image: pixels
    )
    np.testing.assert_array_equal(decoded(card["pictures"][0][1]), pixels)
