"""Read volumes (CT in HU, or windowed already), and say exactly what is wrong with others."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from spinevl.io.nifti_file import read_nifti
from spinevl.io.regular_file import open_regular
from spinevl.schema.errors import UserError, refused

Window = tuple[float, float]

MAX_VOXELS = 2**29
"""The largest volume that is read: 2048 slices of 512 x 512. The header is asked before."""

_MAX_HEADER_BYTES = 10_000
_EXPECTED = "a volume [D, H, W] as .npy or NIfTI"


def load_volume(
    path: str | Path,
    *,
    window: Window | None = (-1000.0, 1000.0),
    max_voxels: int = MAX_VOXELS,
) -> np.ndarray:
    """The volume at ``path`` as float32 [D, H, W] in [0, 255].

    ``.npy`` keeps its order. NIfTI is brought to one order by its own orientation, whatever the
    file's: D runs along the slices, which are sagittal or coronal where that axis is more than 1.5
    times as coarse as both others, else axial; they run from right to left, front to back, or feet
    to head. Rows run from head to feet (axial: front to back), columns from right to left
    (sagittal: front to back). So no body is ever mirrored, and a file that does not say which side
    is left, or says it in two ways, is refused.

    Args:
        path: a ``.npy`` file [D, H, W] or [1, D, H, W], a ``.nii`` or a ``.nii.gz`` file.
        window: (low, high), finite and low < high, clipped to and scaled to [0, 255]; None where
            the values lie in [0, 255] already.
        max_voxels: the largest that is read.

    Raises:
        UserError: missing, damaged, too large, of another shape, not finite, without orientation,
            or outside [0, 255] without a window.
    """
    nifti = str(path).endswith((".nii", ".nii.gz"))
    volume = read_nifti(path, max_voxels=max_voxels) if nifti else _npy(path, max_voxels)
    if volume.ndim == 4 and volume.shape[0] == 1:
        volume = volume[0]
    if volume.ndim != 3 or 0 in volume.shape:
        raise _refused(path, f"shape {list(volume.shape)}", "cut it to one volume")
    if wrong := volume.size - np.count_nonzero(np.isfinite(volume)):
        found = f"{wrong:,} of {volume.size:,} values that are not finite"
        raise _refused(path, found, "export it again")
    low, high = (0.0, 255.0) if window is None else window
    if window is None and (volume.min() < 0 or volume.max() > 255):
        found = f"values from {volume.min():g} to {volume.max():g}"
        raise _refused(path, found, "set data.window, such as data.window=[-1000,1000]", "[0, 255]")
    scaled = np.empty(volume.shape, np.float32)
    for slice_, out in zip(volume, scaled, strict=True):  # a whole CT as float64 takes gigabytes
        out[:] = (np.clip(slice_.astype(np.float64), low, high) - low) / (high - low) * 255
    return scaled


def _npy(path: str | Path, max_voxels: int) -> np.ndarray:
    """An array whose header is held against the bytes that are there, before any is made."""
    if not str(path).endswith(".npy"):
        raise _refused(path, f"a {Path(path).suffix or 'nameless'} file", "convert it")
    with open_regular(path, expected=_EXPECTED, missing="add it") as file:
        try:
            if (version := npy.read_magic(file)) > (2, 0):
                raise ValueError("an array of named fields")
            _require_short_header(file, 2 if version < (2, 0) else 4)
            header = npy.read_array_header_1_0 if version < (2, 0) else npy.read_array_header_2_0
            shape, _, kind = header(file)
        except Exception as error:  # a damaged header is Python that raises anything
            reason = str(error).partition("\n")[0]
            raise _refused(path, f"no whole array ({reason})", "export it again") from error
        if kind.kind not in "iuf":
            raise _refused(path, f"an array of {kind}", "export numbers")
        if len(shape) > 4 or any(type(one) is not int for one in shape):
            raise _refused(path, f"shape {list(shape)}", "cut it to one volume")
        if math.prod(shape) > max_voxels or min(shape, default=0) < 0:
            found = f"shape {list(shape)}, of {max_voxels:,} voxels at most"
            raise _refused(path, found, "cut it to one volume")
        there = os.fstat(file.fileno()).st_size - file.tell()
        if there != (needed := math.prod(shape) * kind.itemsize):
            found = f"no whole array ({there:,} bytes for a shape of {needed:,})"
            raise _refused(path, found, "export it again, one array a file")
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)


def _require_short_header(file: BinaryIO, size: int) -> None:
    """Raise ValueError for a header that would take much memory, before it is read."""
    length = int.from_bytes(file.read(size), "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length:,} bytes")
    file.seek(npy.MAGIC_LEN)


def _refused(path: str | Path, found: str, fix: str, expected: str = _EXPECTED) -> UserError:
    return refused(str(path), expected, found, fix)
