"""The images of a batch: each unique one once, and where its visual tokens lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from spinevl.data.packing.conversation import TokenSequence
from spinevl.schema.dialogue import Picture
from spinevl.schema.errors import Problem, UserError, collected
from spinevl.schema.image_ref import MODALITIES, Modality


class Store(Protocol):
    """Decoded images by path."""

    load: Callable[[str], np.ndarray]
    """Decodes a file. Raises UserError where it can't."""

    def __getitem__(self, path: str) -> np.ndarray:
        """The image at ``path``, decoded or kept."""


@dataclass
class ImageInput:
    """How the model gets the images of one modality.

    Attributes:
        tokens: visual tokens that an image becomes.
        transform: the encoder's own.
        images: decoded images.
        features: paths -> [U, N, dim], encoded earlier; None where the model encodes.
    """

    tokens: int
    transform: Callable[[np.ndarray], torch.Tensor]
    images: Store
    features: Callable[[Sequence[str]], torch.Tensor] | None = None

    def __call__(self, paths: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pixels [U, C, (D,) H, W] and None, or [0] and features [U, N, dim]."""
        if not paths:
            return torch.zeros(0), None
        if self.features is not None:
            return torch.zeros(0), self.features(paths)
        return torch.stack([self.transform(self.images[path]) for path in paths]), None


class BatchImages:
    """The unique images of one batch in order of first appearance, numbered by modality.

    A visual token is the symbol ``-1 - (number * stride + k)``: token k of an image. Its row among
    the batch's visual tokens (those of 2D images first, then those of volumes) is known when all
    images are.

    Args:
        sights: how images are seen, by modality.
    """

    def __init__(self, image_inputs: Mapping[Modality, ImageInput]) -> None:
        self.image_inputs = image_inputs
        self.stride = max((sight.tokens for sight in image_inputs.values()), default=1)
        self._numbers: dict[Picture, int] = {}

    def number(self, picture: Picture) -> int:
        """The number of an image, new or known."""
        return self._numbers.setdefault(picture, len(self._numbers))

    def paths(self, modality: Modality) -> list[str]:
        """The images of one modality in order."""
        return [path for kind, path in self._numbers if kind == modality]

    def expand(
        self, sequence: TokenSequence, pictures: Sequence[Picture]
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Symbols with every image as its visual tokens, and the learned spans among them."""
        symbols: list[int] = []
        places: list[int] = []
        for symbol in sequence.symbols:
            places.append(len(symbols))
            if symbol >= 0:
                symbols.append(symbol)
                continue
            picture = pictures[-1 - symbol]
            first = -1 - self.number(picture) * self.stride
            symbols.extend(range(first, first - self.image_inputs[picture[0]].tokens, -1))
        places.append(len(symbols))
        return tuple(symbols), tuple((places[a], places[b]) for a, b in sequence.learned)

    def rows(self, symbols: np.ndarray) -> np.ndarray:
        """The row of each visual token, -1 where text stands; same shape."""
        starts = np.zeros(len(self._numbers) + 1, dtype=np.int64)
        at = 0
        for modality in MODALITIES:
            for (kind, _), number in self._numbers.items():
                if kind == modality:
                    starts[number] = at
                    at += self.image_inputs[kind].tokens
        code = np.maximum(-1 - symbols, 0)
        return np.where(symbols < 0, starts[code // self.stride] + code % self.stride, -1)


def check_images(pictures: Iterable[Picture], image_inputs: Mapping[Modality, ImageInput]) -> None:
    """Decode every image once, several at a time, so that a bad one is told before training.

    Raises:
        UserError: with every image that cannot be decoded.
    """
    unique = list(dict.fromkeys(pictures))
    problems: list[Problem | str] = []

    def decode(picture: Picture) -> None:
        modality, path = picture
        with collected(problems):
            image_inputs[modality].images.load(path)

    with ThreadPoolExecutor() as pool:  # decoders let go of the interpreter's lock
        for _ in pool.map(decode, unique):
            pass
    if problems:
        raise UserError(problems)


def length(
    sequence: TokenSequence,
    pictures: Sequence[Picture],
    image_inputs: Mapping[Modality, ImageInput],
) -> int:
    """Tokens of a sequence, visual tokens included."""
    visual = sum(image_inputs[modality].tokens for modality, _ in pictures)
    return sum(symbol >= 0 for symbol in sequence.symbols) + visual
