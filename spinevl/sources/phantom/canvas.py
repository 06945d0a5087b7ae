"""What a slice is painted on: the image with its coordinates, textures and the tissues' signal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spinevl.sources.phantom.acquisition import Signal
from spinevl.sources.phantom.raster import Window, texture


@dataclass(frozen=True)
class Canvas:
    """A slice that is being painted, or a window of one; all arrays are float [H, W].

    Attributes:
        image: the pixels, 0 (no signal) to 1 (CSF).
        x, y: coordinates of the pixels, in the system that the shapes are given in.
        grain, mottle: fine and coarse noise of unit variance, the texture of tissues.
        signal: the patient's signal by tissue.
    """

    image: np.ndarray
    x: np.ndarray
    y: np.ndarray
    grain: np.ndarray
    mottle: np.ndarray
    signal: Signal

    @classmethod
    def blank(
        cls,
        coordinates: tuple[np.ndarray, np.ndarray],
        signal: Signal,
        *,
        cells_px: tuple[float, float],
        rng: np.random.Generator,
    ) -> Canvas:
        """A black slice; ``cells_px`` are the sizes of the grain and of the mottle, drawn here."""
        x, y = coordinates
        grain, mottle = (texture(rng, cell_px=size) for size in cells_px)
        return cls(np.zeros_like(x), x, y, grain, mottle, signal)

    def cut(self, window: Window | slice) -> Canvas:
        """A window, or some rows; painting there paints this canvas too."""
        names = ("image", "x", "y", "grain", "mottle")
        return replace(self, **{name: getattr(self, name)[window] for name in names})

    def paint(self, mask: np.ndarray, value: float | np.ndarray) -> None:
        """Blend ``value`` into the image where the soft mask is 1."""
        image = self.image
        change = value - image
        change *= mask
        image += change
