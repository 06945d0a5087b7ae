"""Volumes to the size that a 3D encoder was trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional


def resized(volume: np.ndarray, size: tuple[int, int, int]) -> torch.Tensor:
    """float32 [D, H, W] -> ``size``, trilinear, corners not aligned: as MedM-VL's ``Resize``."""
    tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
    return functional.interpolate(tensor, size, mode="trilinear", align_corners=False)[0, 0]
