"""Run a frozen encoder over images."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from spinevl.io.finite import is_finite
from spinevl.models.encoder.base import FIXED_BATCH, Encoder, encode_in_fixed_batches
from spinevl.schema.errors import refused

Load = Callable[[Any], np.ndarray]


def encode(
    encoder: Encoder, images: Sequence[np.ndarray], *, autocast: torch.dtype | None = None
) -> np.ndarray:
    """Decoded images, as Encoder.transform takes them -> float32 [len(images), tokens, dim]."""
    return _encoded(encoder, [encoder.transform(image) for image in images], autocast)


@torch.inference_mode()
def _encoded(
    encoder: Encoder, transformed: Sequence[torch.Tensor], autocast: torch.dtype | None
) -> np.ndarray:
    device = next(encoder.parameters()).device
    pixels = torch.stack(list(transformed)).to(device)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        return encode_in_fixed_batches(encoder, pixels).float().cpu().numpy()


def encoded_in_parts(
    encoder: Encoder,
    images: Sequence[Hashable],
    *,
    load: Load,
    autocast: torch.dtype | None,
    took: Callable[[float, int], object],
) -> Iterator[np.ndarray]:
    """The features of many images, a few at a time: float32 [n, tokens, dim] each.

    Args:
        encoder: frozen, in evaluation mode.
        images: whatever names an image.
        load: an image's name -> its pixels, as Encoder.transform takes them.
        autocast: the precision to encode in, if not float32.
        took: told the seconds that encoding a few took, without loading, and how many they are.

    Raises:
        UserError: features that are not finite.
    """
    together = 4 * FIXED_BATCH[encoder.modality]
    parts = [images[start : start + together] for start in range(0, len(images), together)]
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    transformed = _before if on_cpu else _meanwhile
    for shown, (pixels, begun) in zip(parts, transformed(encoder, parts, load), strict=True):
        features = _encoded(encoder, pixels, autocast)
        took(time.perf_counter() - begun, len(shown))
        for image, one in zip(shown, features, strict=True):
            if not is_finite(torch.from_numpy(one)):
                raise refused(
                    str(getattr(image, "path", image)),
                    "finite features from the encoder",
                    "NaN or infinity",
                    "check the image and the encoder's weights, or set trainer.precision=32-true",
                )
        yield features


Transformed = Iterator[tuple[list[torch.Tensor], float]]


def _before(encoder: Encoder, parts: Sequence[Sequence[Any]], load: Load) -> Transformed:
    """The transformed images of each part, and when their encoding began: when they were loaded."""
    with ThreadPoolExecutor() as pool:
        for shown in parts:
            pixels = [load(image) for image in shown]
            begun = time.perf_counter()
            yield list(pool.map(encoder.transform, pixels)), begun


def _meanwhile(encoder: Encoder, parts: Sequence[Sequence[Any]], load: Load) -> Transformed:
    """The same while a GPU encodes the part before."""
    if not parts:
        return
    with ThreadPoolExecutor() as pool:

        def start(shown: Sequence[Any]) -> list[Future[torch.Tensor]]:
            return [pool.submit(lambda one: encoder.transform(load(one)), one) for one in shown]

        waiting = start(parts[0])
        for following in [*parts[1:], ()]:
            begun = time.perf_counter()
            pixels = [one.result() for one in waiting]
            waiting = start(following)
            yield pixels, begun
