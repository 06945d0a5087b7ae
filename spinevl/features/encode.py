"""Run a frozen encoder over images."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from spinevl.io.finite import is_finite
from spinevl.models.encoder.base import FIXED_BATCH, Encoder, encode_in_fixed_batches
from spinevl.schema.errors import refused


@torch.inference_mode()
def encode(
    encoder: Encoder, images: Sequence[np.ndarray], *, autocast: torch.dtype | None = None
) -> np.ndarray:
    """Decoded images, as Encoder.transform takes them -> float32 [len(images), tokens, dim]."""
    device = next(encoder.parameters()).device
    pixels = torch.stack([encoder.transform(image) for image in images]).to(device)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        return encode_in_fixed_batches(encoder, pixels).float().cpu().numpy()


def encoded_in_parts(
    encoder: Encoder,
    images: Sequence[Hashable],
    *,
    load: Callable[[Any], np.ndarray],
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
    for start in range(0, len(images), together):
        shown = images[start : start + together]
        pixels = [load(image) for image in shown]
        begun = time.perf_counter()
        features = encode(encoder, pixels, autocast=autocast)
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
