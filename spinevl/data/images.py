"""Decoded images kept in memory, so that each file is decoded once a job."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from spinevl.io.image_file import load_image


class ImageStore:
    """Images by path, least recently used ones dropped past a bound.

    Args:
        load: decodes a file; the default takes 8-bit grey images.
        max_bytes: how much to hold; 4 GiB holds about 80,000 images of 224 x 224.
    """

    def __init__(
        self,
        *,
        load: Callable[[str], np.ndarray] = load_image,
        max_bytes: int = 4 * 1024**3,
    ) -> None:
        self.load = load
        self.max_bytes = max_bytes
        self._images: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, path: str) -> np.ndarray:
        """The image at ``path``. Raises UserError where it can't be decoded."""
        image = self._images.get(path)
        if image is not None:
            self._images.move_to_end(path)
            return image
        image = self.load(path)
        self._images[path] = image
        self._bytes += image.nbytes
        while self._bytes > self.max_bytes and len(self._images) > 1:
            _, dropped = self._images.popitem(last=False)
            self._bytes -= dropped.nbytes
        return image
