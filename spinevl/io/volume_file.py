"""Read volumes (CT in HU, or windowed already), and say exactly what is wrong with others."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from spinevl.schema.errors import UserError, refused

Window = tuple[float, float]
_EXPECTED = "a volume [D, H, W] as .npy or NIfTI"
_READING_ERRORS = (OSError, ValueError, TypeError, EOFError, zlib.error, zipfile.BadZipFile)

# the anatomical axis of the slices -> where slices, rows and columns run to, as they are read on a
# screen: axial and coronal with the patient's right on the left, sagittal with the face on the left
_RUNS_TO = {"x": ("L", "I", "P"), "y": ("P", "I", "L"), "z": ("S", "P", "L")}
_THICK = 1.5


def load_volume(path: str | Path, *, window: Window | None = (-1000.0, 1000.0)) -> np.ndarray:
    """The volume at ``path`` as float32 [D, H, W] in [0, 255].

    ``.npy`` keeps its order. NIfTI is brought to one order by its own orientation, whatever the
    file's: D runs along the slices, which are sagittal or coronal where that axis is more than 1.5
    times as coarse as both others, else axial; they run from right to left, front to back, or feet
    to head. Rows run from head to feet (axial: front to back), columns from right to left
    (sagittal: front to back). So no body is ever mirrored, and a file that does not say which side
    is left is refused.

    Args:
        path: a ``.npy`` file [D, H, W] or [1, D, H, W], a ``.nii`` or a ``.nii.gz`` file.
        window: (low, high), low < high, clipped to and scaled to [0, 255]; None where the values
            lie in [0, 255] already.

    Raises:
        UserError: missing, damaged, of another shape, not finite, without orientation, or outside
            [0, 255] without a window.
    """
    volume = _nifti(path) if str(path).endswith((".nii", ".nii.gz")) else _npy(path)
    if volume.ndim == 4 and volume.shape[0] == 1:
        volume = volume[0]
    if volume.ndim != 3 or 0 in volume.shape:
        raise _refused(path, f"shape {list(volume.shape)}", "cut it to one volume")
    if not np.isfinite(volume).all():
        raise _refused(path, "values that are not finite", "export it again")
    low, high = (0.0, 255.0) if window is None else window
    if window is None and (volume.min() < 0 or volume.max() > 255):
        found = f"values from {volume.min():g} to {volume.max():g}"
        raise _refused(path, found, "set data.window, such as data.window=[-1000,1000]", "[0, 255]")
    scaled = np.empty(volume.shape, np.float32)
    for slice_, out in zip(volume, scaled, strict=True):  # a whole CT as float64 takes gigabytes
        out[:] = (np.clip(slice_.astype(np.float64), low, high) - low) / (high - low) * 255
    return scaled


def _npy(path: str | Path) -> np.ndarray:
    if not str(path).endswith(".npy"):
        raise _refused(path, f"a {Path(path).suffix or 'nameless'} file", "convert it")
    try:
        volume = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise _refused(path, "no such file", "add it") from None
    except _READING_ERRORS as error:
        reason = str(error).splitlines()[0]
        if "pickle" in reason:  # numpy goes on to say how to load it all the same
            reason = "pickled objects or no array at all"
        raise _refused(path, f"no whole array ({reason})", "export it again") from error
    if not isinstance(volume, np.ndarray) or volume.dtype.kind not in "iuf":
        raise _refused(path, f"an array of {getattr(volume, 'dtype', 'arrays')}", "export numbers")
    return volume


def _nifti(path: str | Path) -> np.ndarray:
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path}: reading NIfTI needs nibabel; pip install 'spinevl[nifti]'"
        ) from error
    if not Path(path).is_file():
        raise _refused(path, "no such file", "add it")
    try:
        image: Any = nibabel.load(path)
        volume = np.asarray(image.dataobj, dtype=np.float32)
    except (*_READING_ERRORS, nibabel.filebasedimages.ImageFileError) as error:
        reason = str(error).splitlines()[0]
        raise _refused(path, f"no whole NIfTI file ({reason})", "export it again") from error
    if volume.ndim == 4 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    return _oriented(path, image, volume) if volume.ndim == 3 else volume


def _oriented(path: str | Path, image: Any, volume: np.ndarray) -> np.ndarray:
    """Voxels [i, j, k] of a NIfTI image -> [D, H, W], see load_volume."""
    from nibabel import orientations

    header = image.header
    known = bool(np.isfinite(image.affine).all())
    stored = orientations.io_orientation(image.affine if known else np.zeros((4, 4)))
    # without a code nibabel would guess, and guess a side
    if not (header["sform_code"] or header["qform_code"]) or np.isnan(stored).any():
        raise _refused(
            path,
            "no orientation (sform_code and qform_code are 0, or its matrix is flat)",
            "convert it from DICOM again",
            "a NIfTI file that says which side is left",
        )
    spacing_mm = np.linalg.norm(image.affine[:3, :3], axis=0)
    thick = int(spacing_mm.argmax())
    alone = (np.delete(spacing_mm, thick) * _THICK < spacing_mm[thick]).all()
    across = "xyz"[int(stored[thick, 0])] if alone else "z"
    wanted = orientations.axcodes2ornt(_RUNS_TO[across])
    turned = orientations.apply_orientation(volume, orientations.ornt_transform(stored, wanted))
    return np.ascontiguousarray(turned)


def _refused(path: str | Path, found: str, fix: str, expected: str = _EXPECTED) -> UserError:
    return refused(str(path), expected, found, fix)
