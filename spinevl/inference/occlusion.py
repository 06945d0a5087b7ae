"""Which parts of an image an answer depends on: cover one after another and ask again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spinevl.config.options import PredictOptions
from spinevl.inference.answer import Answer
from spinevl.inference.options import normalised
from spinevl.inference.predictor import Predictor, predictions
from spinevl.models.vlm import VLM
from spinevl.schema.example import Example
from spinevl.schema.image_ref import ImageRef


@dataclass(frozen=True)
class OcclusionMap:
    """What covering the parts of one image does to the chosen option (Zeiler and Fergus 2014).

    Attributes:
        image: the image.
        label: the chosen option.
        probability: of it, with nothing covered.
        drops: [rows, columns] by how much its probability falls where a cell is covered; negative
            where it rises.
    """

    image: ImageRef
    label: int
    probability: float
    drops: np.ndarray


def occlusion_maps(
    model: VLM,
    examples: Sequence[Example],
    decode: Callable[[ImageRef], np.ndarray],
    *,
    cells: int = 8,
    batch_size: int = 16,
    each_step: Callable[[], object] = bool,
) -> Iterator[OcclusionMap]:
    """A map of each 2D image that one closed question shows.

    Args:
        model: in evaluation mode.
        examples: the question; several where its slices are asked apart.
        decode: an image -> its pixels.
        cells: an image is covered in so many rows and columns, a cell at a time, with the mean of
            its pixels.
        batch_size: images that are covered and asked about together.
        each_step: called after each answer; what it raises ends the maps.
    """
    options = PredictOptions(batch_size=batch_size)
    whole = dict(Predictor(model, decode, options=options).answers(examples))
    (merged,) = predictions(examples, [whole[k] for k in range(len(examples))])
    label = merged.choice
    assert label is not None  # options are scored, so that one is chosen
    for number, example in enumerate(examples):
        for place, image in enumerate(example.images):
            each_step()
            asked, pixels = _covered(example, place, decode(image), cells)
            # images of this one alone are kept, for as long as its map takes
            shown = functools.partial(_pixels, known=pixels, decode=decode)
            predictor = Predictor(model, shown, options=options)
            found = np.empty(len(asked))
            for k, answer in predictor.answers(asked):
                each_step()
                found[k] = _probability(answer, label)
            before = _probability(whole[number], label)
            yield OcclusionMap(image, label, before, (before - found).reshape(cells, cells))


def _covered(
    example: Example, place: int, pixels: np.ndarray, cells: int
) -> tuple[list[Example], dict[str, np.ndarray]]:
    """The question with each cell of one of its images covered, row by row, and those images."""
    image, mean = example.images[place], pixels.mean((0, 1)).astype(pixels.dtype)
    rows, columns = (
        np.linspace(0, side, cells + 1).round().astype(int) for side in pixels.shape[:2]
    )
    asked, known = [], {}
    for k in range(cells * cells):
        row, column = divmod(k, cells)
        changed = pixels.copy()
        changed[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = mean
        one = replace(image, path=f"{image.path} without cell {k}")
        known[one.path] = changed
        shown = (*example.images[:place], one, *example.images[place + 1 :])
        key = replace(example.key, patient=f"{example.key.patient} {k}")  # a group of its own
        asked.append(replace(example, key=key, images=shown))
    return asked, known


def _pixels(
    image: ImageRef,
    *,
    known: Mapping[str, np.ndarray],
    decode: Callable[[ImageRef], np.ndarray],
) -> np.ndarray:
    return known[image.path] if image.path in known else decode(image)


def _probability(answer: Answer, label: int) -> float:
    assert answer.logprobs is not None
    return normalised(answer.logprobs)[label]
