"""The images of a batch: each unique one once, and where its visual tokens lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from spinevl.data.images import ImageStore
from spinevl.data.packing.conversation import TokenSequence
from spinevl.schema.errors import Problems, UserError
from spinevl.schema.image_ref import MODALITIES, ImageRef, Modality
from spinevl.schema.model_inputs import ImageTensors, VisionInputs


@dataclass
class ImageInput:
    """How the model gets the images of one modality.

    Attributes:
        vision: what the model's encoder and connector make of one.
        images: decoded images.
        features: images -> [U, N, dim], encoded earlier; None where the model encodes.
    """

    vision: VisionInputs
    images: ImageStore
    features: Callable[[Sequence[ImageRef]], torch.Tensor] | None = None
    _accepted: set[tuple[int, ...]] = field(default_factory=set, init=False, repr=False)

    @property
    def tokens(self) -> int:
        """Visual tokens that an image becomes."""
        return self.vision.tokens

    def pixels(self, image: ImageRef) -> np.ndarray:
        """An image as the encoder's transform takes it. Raises UserError, see check."""
        pixels = self.images[image]
        self.check(image, pixels)
        return pixels

    def check(self, image: ImageRef, pixels: np.ndarray) -> None:
        """Raise UserError where the encoder takes no image of this shape."""
        if pixels.shape in self._accepted:
            return
        try:
            self.vision.transform(pixels)
        except ValueError as error:
            raise UserError(f"{image.path}: {error}") from error
        self._accepted.add(pixels.shape)

    def __call__(self, images: Sequence[ImageRef]) -> ImageTensors:
        """Pixels [U, C, (D,) H, W] and None, or [0] and features [U, N, dim]."""
        if not images:
            return torch.zeros(0), None
        if self.features is not None:
            return torch.zeros(0), self.features(images)
        # decoding and resizing let go of the interpreter's lock; a loader process has one thread
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            transformed = pool.map(lambda one: self.vision.transform(self.pixels(one)), images)
            return torch.stack(list(transformed)), None


ImageInputs = Mapping[Modality, ImageInput]


class BatchImages:
    """The unique images of one batch in order of first appearance, numbered.

    A visual token is the symbol ``-1 - (number * stride + k)``: token k of an image. Its row among
    the batch's visual tokens (those of 2D images first, then those of volumes) is known when all
    images are.

    Args:
        inputs: how the model gets its images, by modality.
    """

    def __init__(self, inputs: ImageInputs) -> None:
        self.inputs = inputs
        self.stride = max((one.tokens for one in inputs.values()), default=1)
        self._numbers: dict[ImageRef, int] = {}
        self._symbols: dict[ImageRef, tuple[int, ...]] = {}

    def number(self, image: ImageRef) -> int:
        """The number of an image, new or known."""
        return self._numbers.setdefault(image, len(self._numbers))

    def of(self, modality: Modality) -> list[ImageRef]:
        """The images of one modality in order."""
        return [image for image in self._numbers if image.modality == modality]

    def expand(
        self, sequence: TokenSequence, images: Sequence[ImageRef]
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Symbols with every image as its visual tokens, and the learned spans among them."""
        symbols: list[int] = []
        places: list[int] = []
        for symbol in sequence.symbols:
            places.append(len(symbols))
            if symbol >= 0:
                symbols.append(symbol)
                continue
            symbols.extend(self._visual(images[-1 - symbol]))
        places.append(len(symbols))
        return tuple(symbols), tuple((places[a], places[b]) for a, b in sequence.learned)

    def _visual(self, image: ImageRef) -> tuple[int, ...]:
        """The symbols of an image's visual tokens, which many sequences share."""
        known = self._symbols.get(image)
        if known is None:
            first = -1 - self.number(image) * self.stride
            known = tuple(range(first, first - self.inputs[image.modality].tokens, -1))
            self._symbols[image] = known
        return known

    def rows(self, symbols: np.ndarray) -> np.ndarray:
        """The row of each visual token, -1 where text stands; same shape."""
        starts = np.zeros(len(self._numbers) + 1, dtype=np.int64)
        at = 0
        for modality in MODALITIES:
            for image in self.of(modality):
                starts[self._numbers[image]] = at
                at += self.inputs[modality].tokens
        code = np.maximum(-1 - symbols, 0)
        return np.where(symbols < 0, starts[code // self.stride] + code % self.stride, -1)


def check_images(images: Iterable[ImageRef], inputs: ImageInputs, *, decoded: bool = False) -> None:
    """Decode every image once, several at a time, so that a bad one is told before training.

    Args:
        images: all that will be shown.
        inputs: how the model gets them.
        decoded: whether all have been decoded before, and have one size: one of them then shows
            whether the encoder takes it.

    Raises:
        UserError: with every image that cannot be decoded or that the encoder does not take.
    """
    problems = Problems()

    def decode(image: ImageRef) -> None:
        with problems.collected():
            one = inputs[image.modality]
            one.check(image, one.images.load(image))

    with ThreadPoolExecutor() as pool:  # decoders let go of the interpreter's lock
        for _ in pool.map(decode, list(dict.fromkeys(images))[: 1 if decoded else None]):
            pass
    problems.raise_any()


def length(sequence: TokenSequence, images: Sequence[ImageRef], inputs: ImageInputs) -> int:
    """Tokens of a sequence, visual tokens included."""
    visual = sum(inputs[image.modality].tokens for image in images)
    return sum(symbol >= 0 for symbol in sequence.symbols) + visual
