"""Read volumes (CT in HU, or windowed already), and say exactly what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spinevl.schema.errors import Problem, UserError

Window = tuple[float, float]
_EXPECTED = "a volume [D, H, W] as .npy or NIfTI"


def load_volume(
    path: str | Path, *, window: Window | None = (-1000.0, 1000.0), crop: bool = True
) -> np.ndarray:
    """The volume at ``path`` as float32 [D, H, W] in [0, 255].

    NIfTI is brought to RAS+ and its axes (x, y, z) to [z, y, x]: slices run from feet to head, rows
    from back to front, columns from left to right of the patient, whatever the file's own order.
    ``.npy`` keeps its order; nothing is mirrored.

    Args:
        path: a ``.npy`` file [D, H, W] or [1, D, H, W], a ``.nii`` or a ``.nii.gz`` file.
        window: (low, high), clipped to and scaled to [0, 255]; None where the values lie in
            [0, 255] already.
        crop: cut off the border where everything is at the window's low end (air), as MedM-VL does.

    Raises:
        UserError: missing, damaged, of another shape, not finite, or outside [0, 255] without a
            window.
    """
    volume = _nifti(path) if str(path).endswith((".nii", ".nii.gz")) else _npy(path)
    if volume.ndim == 4 and volume.shape[0] == 1:
        volume = volume[0]
    if volume.ndim != 3 or 0 in volume.shape:
        raise _refused(path, f"shape {list(volume.shape)}", "cut it to one volume")
    if not np.isfinite(volume).all():
        raise _refused(path, "values that are not finite", "export it again")
    volume = volume.astype(np.float32)
    low, high = (0.0, 255.0) if window is None else window
    if window is None and (volume.min() < 0 or volume.max() > 255):
        found = f"values from {volume.min():g} to {volume.max():g}"
        raise _refused(path, found, "set data.window, such as data.window=[-1000,1000]", "[0, 255]")
    scaled = (np.clip(volume, low, high) - low) / (high - low) * 255
    return _foreground(scaled) if crop else scaled


def _foreground(volume: np.ndarray) -> np.ndarray:
    """The smallest box that holds all that is above 0; the volume itself where nothing is."""
    inside = volume > 0
    if not inside.any():
        return volume
    spans = []
    for axis in range(3):
        places = np.flatnonzero(inside.any(axis=tuple(k for k in range(3) if k != axis)))
        spans.append(slice(places[0], places[-1] + 1))
    return np.ascontiguousarray(volume[tuple(spans)])


def _npy(path: str | Path) -> np.ndarray:
    if not str(path).endswith(".npy"):
        raise _refused(path, f"a {Path(path).suffix or 'nameless'} file", "convert it")
    try:
        volume = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise _refused(path, "no such file", "add it") from None
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise _refused(path, f"no whole array ({reason})", "export it again") from error
    if not isinstance(volume, np.ndarray) or volume.dtype.kind not in "iuf":
        raise _refused(path, f"an array of {getattr(volume, 'dtype', '?')}", "export numbers")
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
        image = nibabel.as_closest_canonical(nibabel.load(path))
        volume = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        reason = str(error).splitlines()[0]
        raise _refused(path, f"no whole NIfTI file ({reason})", "export it again") from error
    if volume.ndim == 4 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    return volume.transpose() if volume.ndim == 3 else volume


def _refused(path: str | Path, found: str, fix: str, expected: str = _EXPECTED) -> UserError:
    return UserError(Problem(str(path), expected, found, fix))
