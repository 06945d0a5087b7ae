"""Run a frozen encoder over images."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import torch

from spinevl.io.finite import is_finite
from spinevl.models.encoder.base import FIXED_BATCH, Encoder, encode_in_fixed_batches
from spinevl.schema.errors import refused

Load = Callable[[Any], np.ndarray]


@torch.inference_mode()
def encode(
    encoder: Encoder, images: list[torch.Tensor], *, autocast: torch.dtype | None = None
) -> np.ndarray:
    """Images as Encoder.transform makes them -> float32 [len(images), tokens, dim]."""
    device = next(encoder.parameters()).device
    pixels = torch.stack(images).to(device)
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
    transformed = (_before if on_cpu else _meanwhile)(encoder, parts, load)
    with closing(transformed):
        for shown, (pixels, seconds) in zip(parts, transformed, strict=True):
            begun = time.perf_counter()
            features = encode(encoder, pixels, autocast=autocast)
            took(time.perf_counter() - begun + seconds, len(shown))
            for image, one in zip(shown, features, strict=True):
                if not is_finite(torch.from_numpy(one)):
                    raise refused(
                        str(getattr(image, "path", image)),
                        "finite features from the encoder",
                        "NaN or infinity",
                        "check the image and the encoder's weights, or set "
                        "trainer.precision=32-true",
                    )
            yield features


Transformed = Generator[tuple[list[torch.Tensor], float]]


def _before(encoder: Encoder, parts: Sequence[Sequence[Any]], load: Load) -> Transformed:
    """The transformed images of each part, and the seconds that transforming them took."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for shown in parts:
            pixels = [load(image) for image in shown]
            begun = time.perf_counter()
            transformed = list(pool.map(encoder.transform, pixels))
            yield transformed, time.perf_counter() - begun


def _meanwhile(encoder: Encoder, parts: Sequence[Sequence[Any]], load: Load) -> Transformed:
    """The same while a GPU encodes the part before; the seconds are shared by the threads."""
    threads = torch.get_num_threads()

    def prepared(image: Any) -> tuple[torch.Tensor, float]:
        pixels = load(image)
        begun = time.perf_counter()
        return encoder.transform(pixels), time.perf_counter() - begun

    waiting: list[Future[tuple[torch.Tensor, float]]] = []
    pool = ThreadPoolExecutor(threads)
    try:
        for number, shown in enumerate(parts):
            waiting = waiting or [pool.submit(prepared, one) for one in shown]
            done = [one.result() for one in waiting]
            following = parts[number + 1] if number + 1 < len(parts) else ()
            waiting = [pool.submit(prepared, one) for one in following]
            yield [one for one, _ in done], sum(seconds for _, seconds in done) / threads
    finally:
        pool.shutdown(cancel_futures=True)
