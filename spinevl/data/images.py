"""Decoded images kept in memory, so that each is decoded once a job."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np

from spinevl.schema.image_ref import ImageRef


class ImageStore:
    """Images by their identity; the least recently used ones are evicted past a bound.

    Args:
        decode: the data source's own: the pixels of a file.
        max_bytes: how much to hold; 4 GiB holds about 80,000 images of 224 x 224.
    """

    def __init__(
        self, decode: Callable[[ImageRef], np.ndarray], *, max_bytes: int = 4 * 1024**3
    ) -> None:
        self.decode = decode
        self.max_bytes = max_bytes
        self._images: OrderedDict[ImageRef, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        """For a loader process, which decodes what it needs."""
        own = {name: value for name, value in vars(self).items() if name != "_lock"}
        return {**own, "_images": OrderedDict(), "_bytes": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    def load(self, image: ImageRef) -> np.ndarray:
        """The pixels of an image, cropped where it is a part of its file; not kept."""
        pixels = self.decode(image)
        if image.crop is not None:
            left, top, right, bottom = image.crop
            pixels = pixels[top:bottom, left:right]
        return pixels

    def __getitem__(self, image: ImageRef) -> np.ndarray:
        """The pixels of an image. Raises UserError where it can't be decoded."""
        with self._lock:
            if (known := self._images.get(image)) is not None:
                self._images.move_to_end(image)
                return known
        pixels = self.load(image)  # several threads decode at a time
        with self._lock:
            if image not in self._images:
                self._images[image] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > self.max_bytes and len(self._images) > 1:
                _, dropped = self._images.popitem(last=False)
                self._bytes -= dropped.nbytes
        return pixels
