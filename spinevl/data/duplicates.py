"""One image under two ids, or in two of train, dev and test: patients who are asked for twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from spinevl.data.images import ImageStore
from spinevl.schema.errors import listed
from spinevl.schema.example import Example
from spinevl.schema.image_ref import ImageRef

# Correlation of two images of 16 x 16. The same one saved as JPEG of quality 60, of another size or
# brightness has 0.998 or more; two phantoms of one level have 0.97 at most.
_NEAR = 0.995
_SIDE = 16
_MOST_COMPARED = 20_000
_ROWS = 512  # compared with all others at once
_SHOWN = 3


@dataclass(frozen=True)
class _Picture:
    """An image as one patient, or one conversation of a subset, shows it."""

    subset: str
    owner: str  # a conversation's images have none: many conversations may show one image
    path: str

    def __str__(self) -> str:
        return f"{self.path} ({self.subset})"


Description = tuple[bytes, np.ndarray | None]
"""A hash of an image's content, and the image small; None of one colour."""


class Descriptions(dict[ImageRef, Description]):
    """The descriptions of the images that anybody has decoded."""

    def __init__(self) -> None:
        super().__init__()
        self._like: dict[ImageRef, np.ndarray] = {}
        self._first: dict[tuple[int, ...], np.ndarray] = {}

    def add(self, image: ImageRef, pixels: np.ndarray) -> None:
        """Describe an image; what is none is refused by the encoder."""
        if pixels.ndim in (2, 3) and pixels.size:
            self[image] = _described(pixels)
            self._like[image] = self._first.setdefault(pixels.shape, pixels)

    def like(self, image: ImageRef) -> np.ndarray:
        """The first pixels of the shape that a known image has."""
        return self._like[image]


class DescribingStore(ImageStore):
    """An ImageStore that describes what it decodes, so that nobody decodes it again for that.

    Args:
        decode: see ImageStore.
        known: the images that have been decoded elsewhere.
    """

    def __init__(
        self, decode: Callable[[ImageRef], np.ndarray], known: Descriptions | None = None
    ) -> None:
        super().__init__(decode)
        self._described = Descriptions() if known is None else known

    def load(self, image: ImageRef) -> np.ndarray:
        """See ImageStore."""
        pixels = super().load(image)
        self._described.add(image, pixels)
        return pixels

    def describe(self, image: ImageRef) -> Description:
        """The description of an image, which is decoded where it has not been."""
        if image not in self._described:
            self.load(image)
        return self._described[image]


def duplicate_lines(
    shown: Mapping[str, Sequence[Example]], describe: Callable[[ImageRef], Description]
) -> Iterator[str]:
    """Lines that name equal and nearly equal images of different patients or subsets.

    Images of one colour are passed over, and so are the slices of one patient.

    Args:
        shown: subset -> its examples.
        describe: see DescribingStore.
    """
    images = {
        _Picture(subset, "" if one.kind == "text" else one.key.patient, image.path): image
        for subset, examples in shown.items()
        for one in examples
        for image in one.images
    }
    with ThreadPoolExecutor() as pool:  # decoders let go of the interpreter's lock
        read = list(pool.map(describe, images.values()))
    pictures = [one for one, (_, small) in zip(images, read, strict=True) if small is not None]
    hashes = [content for content, small in read if small is not None]
    small = np.array([small for _, small in read if small is not None], np.float32)
    equal = _equal_pairs(pictures, hashes)
    yield from _lines("the same image", equal)
    if len(pictures) > _MOST_COMPARED:
        yield f"warn  {len(pictures)} images: too many to look for nearly equal ones"
        return
    known = {frozenset(pair) for pair in equal}
    alike = ((pictures[a], pictures[b]) for a, b in _alike(small, pictures, hashes))
    yield from _lines(
        "nearly the same image", [one for one in alike if frozenset(one) not in known]
    )


def _described(pixels: np.ndarray) -> Description:
    """The description, whose small image has mean 0 and length 1."""
    content = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    flat = pixels.mean(0) if pixels.dtype.kind == "f" else pixels  # a volume: its slices together
    grey = flat.mean(2) if flat.ndim == 3 else flat
    image = Image.fromarray(grey.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    small = np.asarray(image, np.float64).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return content.digest(), small / length if length > 1e-3 else None


def _apart(one: _Picture, other: _Picture) -> bool:
    return (one.subset, one.owner) != (other.subset, other.owner)


def _equal_pairs(
    pictures: Sequence[_Picture], hashes: Sequence[bytes]
) -> list[tuple[_Picture, _Picture]]:
    """Each image with the first one of the same content that another patient or subset shows."""
    first: dict[bytes, _Picture] = {}
    pairs = []
    for one, content in zip(pictures, hashes, strict=True):
        other = first.setdefault(content, one)
        if _apart(one, other):
            pairs.append((other, one))
    return pairs


def _alike(
    small: np.ndarray, pictures: Sequence[_Picture], hashes: Sequence[bytes]
) -> Iterator[tuple[int, int]]:
    """The first nearly equal image before each one; of equal images the first stands for all."""
    first: dict[bytes, int] = {}
    for number, one in enumerate(hashes):
        first.setdefault(one, number)
    firsts = list(first.values())
    vectors = small[firsts]
    for start in range(0, len(firsts), _ROWS):
        close = vectors[start : start + _ROWS] @ vectors.T > _NEAR
        for row in np.flatnonzero(close.sum(1) > 1):
            later = firsts[start + row]
            for column in np.flatnonzero(close[row, : start + row]):
                if _apart(pictures[firsts[column]], pictures[later]):
                    yield firsts[column], later
                    break


def _lines(what: str, pairs: Sequence[tuple[_Picture, _Picture]]) -> Iterator[str]:
    leaks = [pair for pair in pairs if pair[0].subset != pair[1].subset]
    within = [pair for pair in pairs if pair[0].subset == pair[1].subset]
    for found, where, then in (
        (leaks, "in two of train, dev and test", ": what is scored was trained on"),
        (within, "under two ids", ""),
    ):
        if found:
            named = [f"{one} and {other}" for one, other in found]
            told = listed(named, most=_SHOWN, between="; ")
            yield f"warn  {what} {where}{then}, {len(found)} times: {told}"
