"""Volumes to the box and the size that a 3D encoder was trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional


def foreground(volume: np.ndarray) -> np.ndarray:
    """The smallest box [D, H, W] of all values above 0; the whole volume where there are none.

    As MONAI's ``CropForeground``, which M3D and MedM-VL apply after scaling a volume in their own
    ways: each encoder so cuts at a grey value of its own.
    """
    inside = volume > 0
    if not inside.any():
        return volume
    spans = []
    for axis in range(3):
        places = np.flatnonzero(inside.any(axis=tuple(k for k in range(3) if k != axis)))
        spans.append(slice(places[0], places[-1] + 1))
    return volume[tuple(spans)]


def resized(volume: np.ndarray, size: tuple[int, int, int]) -> torch.Tensor:
    """float32 [D, H, W] -> ``size``, trilinear, corners not aligned: as MedM-VL's ``Resize``."""
    tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
    return functional.interpolate(tensor, size, mode="trilinear", align_corners=False)[0, 0]
