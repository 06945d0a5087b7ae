"""The store of decoded images: each once, parts of a file cut out, a bound on the memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from spinevl.data.images import ImageStore
from spinevl.schema.image_ref import ImageRef

PIXELS = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)


class Decoder:
    """Any name is the same image; counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, image: ImageRef) -> np.ndarray:
        self.asked.append(image.path)
        return PIXELS


def test_a_part_of_an_image_is_cut_out() -> None:
    """(x1, y1, x2, y2): columns 1 to 4, rows 2 to 5, in pixels of the file."""
    part = ImageRef("a", crop=(1, 2, 4, 5))
    store = ImageStore(Decoder())
    np.testing.assert_array_equal(store[part], [[17, 18, 19], [25, 26, 27], [33, 34, 35]])
    np.testing.assert_array_equal(store.load(part), store[part])
    np.testing.assert_array_equal(store[replace(part, crop=None)], PIXELS)
    np.testing.assert_array_equal(store[replace(part, crop=(0, 0, 8, 6))], PIXELS)


def test_each_image_is_decoded_once_and_what_is_only_looked_through_is_not_kept() -> None:
    decode = Decoder()
    store = ImageStore(decode)
    for name in ("a", "b", "a"):
        assert store[ImageRef(name)] is PIXELS
    assert decode.asked == ["a", "b"]
    store.load(ImageRef("c"))
    store.load(ImageRef("c"))
    assert decode.asked == ["a", "b", "c", "c"]


def test_the_least_recently_used_images_go_first() -> None:
    decode = Decoder()
    store = ImageStore(decode, max_bytes=2 * PIXELS.nbytes)
    for name in ("a", "b", "a", "c", "a", "b"):
        store[ImageRef(name)]
    assert decode.asked == ["a", "b", "c", "b"]


def test_an_image_larger_than_the_bound_is_still_given() -> None:
    store = ImageStore(Decoder(), max_bytes=1)
    assert store[ImageRef("a")] is PIXELS


def test_threads_share_a_store_that_is_too_small() -> None:
    decoded = []

    def decode(image: ImageRef) -> np.ndarray:
        decoded.append(image.path)
        return np.full((8, 8), int(image.path), np.uint8)

    store = ImageStore(decode, max_bytes=64 * 5)
    wanted = [ImageRef(str(k % 11)) for k in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(store.__getitem__, wanted))
    assert [int(one[0, 0]) for one in found] == [k % 11 for k in range(2000)]
    assert store._bytes == sum(one.nbytes for one in store._images.values()) <= 64 * 5
