"""One image under two ids or in two subsets: equal, and saved again."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from spinevl.data.duplicates import DescribingStore, duplicate_lines
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef

RNG = np.random.default_rng(0)


def scan() -> np.ndarray:
    coarse = Image.fromarray(RNG.integers(0, 256, (6, 6), dtype=np.uint8))
    return np.asarray(coarse.resize((96, 96), Image.Resampling.BICUBIC))


def again(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).resize((84, 84)).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def lines(
    shown: Mapping[str, Mapping[str, str]], pixels: Mapping[str, np.ndarray], kind: str = "option"
) -> list[str]:
    """``shown``: subset -> patient -> file."""
    examples = {
        subset: [
            Example(Key(one, "qd", ""), (ImageRef(path),), (("Q?", None),), kind=kind)  # type: ignore[arg-type]
            for one, path in people.items()
        ]
        for subset, people in shown.items()
    }
    return list(
        duplicate_lines(examples, DescribingStore(lambda image: pixels[image.path]).describe)
    )


def test_patients_of_their_own_are_passed_over() -> None:
    pixels = {name: scan() for name in "abcdefgh"}
    assert lines({"train": dict(zip("pqrs", "abcd", strict=True)), "dev": {"t": "e"}}, pixels) == []


def test_equal_and_nearly_equal_images_are_named() -> None:
    pixels = {"a": scan(), "b": scan(), "c": scan()}
    pixels |= {"a2": pixels["a"].copy(), "b2": again(pixels["b"])}
    leak, near = lines(
        {"train": {"1": "a", "2": "b", "3": "c"}, "test": {"4": "a2", "5": "b2"}}, pixels
    )
    assert "the same image" in leak
    assert "a (train) and a2 (test)" in leak
    assert "nearly" in near
    assert "b (train) and b2 (test)" in near
    (within,) = lines({"train": {"1": "a", "2": "a2"}}, pixels)
    assert "two ids" in within
    assert "1 times: a (train) and a2 (train)" in within


def test_slices_of_one_patient_and_blank_images_are_no_duplicates() -> None:
    pixels = {"a": scan(), "z": np.zeros((64, 64), np.uint8), "z2": np.zeros((64, 64), np.uint8)}
    pixels["a2"] = pixels["a"]
    twice = [
        Example(Key("1", "qd", ""), (ImageRef("a"), ImageRef("a2")), (("Q?", None),), kind="option")
    ]
    assert (
        list(
            duplicate_lines(
                {"train": twice}, DescribingStore(lambda image: pixels[image.path]).describe
            )
        )
        == []
    )
    assert lines({"train": {"1": "z"}, "dev": {"2": "z2"}}, pixels) == []


def test_conversations_may_share_an_image_within_a_subset_alone() -> None:
    pixels = {"a": np.stack([scan()] * 3, -1), "v": np.stack([scan()] * 4).astype(np.float32)}
    assert lines({"train": {"1": "a", "2": "a", "3": "v"}}, pixels, "text") == []
    (line,) = lines({"train": {"1": "a", "3": "v"}, "dev": {"2": "a"}}, pixels, "text")
    assert "a (train) and a (dev)" in line


def test_thousands_of_images_take_seconds_and_one_line() -> None:
    same, other = scan(), scan()
    people = {str(k): f"{k}" for k in range(4000)}
    pixels = {f"{k}": same if k % 2 else other for k in range(4000)}
    (line,) = lines({"train": people}, pixels)
    assert "3998 times" in line
    assert "and 3995 more" in line


def test_an_image_that_was_decoded_is_not_decoded_again() -> None:
    decoded = []

    def decode(image: ImageRef) -> np.ndarray:
        decoded.append(image.path)
        return np.arange(64, dtype=np.uint8).reshape(8, 8)

    store = DescribingStore(decode)
    first, second = (ImageRef(name, patient="a", plane="sagittal", slice=6) for name in "xy")
    store.load(first)
    assert store.describe(first)[0] == store.describe(second)[0]
    store.describe(second)
    assert decoded == ["x", "y"]
