"""Read NIfTI volumes: whole, of a size within reason, and in one anatomical order."""

from __future__ import annotations

import gzip
import io
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from spinevl.io.regular_file import open_regular
from spinevl.schema.errors import UserError, refused

_EXPECTED = "a volume in NIfTI"

# the anatomical axis of the slices -> where slices, rows and columns run to, as they are read on a
# screen: axial and coronal with the patient's right on the left, sagittal with the face on the left
_RUNS_TO = {"x": ("L", "I", "P"), "y": ("P", "I", "L"), "z": ("S", "P", "L")}
_THICK = 1.5
_SAME_DIRECTION = math.cos(math.radians(45))
_SURPLUS_BYTES = 2**20  # behind the voxels, where viewers do not look
_MOST_EXPANSION = 1032  # of deflate


def read_nifti(path: str | Path, *, max_voxels: int) -> np.ndarray:
    """The voxels of a ``.nii`` or ``.nii.gz`` file as float32, oriented as load_volume says.

    Raises:
        UserError: missing, damaged, too large, of colours or complex numbers, or not saying which
            side is left. A compressed file is read to its end, where its checksum stands.
    """
    try:
        from nibabel.arrayproxy import ArrayProxy
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path}: reading NIfTI needs nibabel; pip install 'spinevl[nifti]'"
        ) from error
    with _damage_told(path):
        header, content = _header_and_content(path, max_voxels)
        slope, inter = header.get_slope_inter()
        if np.isinf(header["scl_slope"]):  # which nibabel takes for no scaling
            raise ValueError("its scale is infinite")
        stored = (header.get_data_shape(), header.get_data_dtype(), header.get_data_offset())
        with np.errstate(all="ignore"):  # what overflows is not finite, which is refused
            proxy = ArrayProxy(io.BytesIO(content), (*stored, slope or 1.0, inter or 0.0))
            volume = np.asarray(proxy, dtype=np.float32)
        if volume.ndim == 4 and volume.shape[-1] == 1:
            volume = volume[..., 0]
        return _oriented(path, header, volume) if volume.ndim == 3 else volume


@contextmanager
def _damage_told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # nibabel raises errors of every kind where a header is damaged
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise _refused(path, f"no whole NIfTI file ({reason})", "export it again") from error


def _header_and_content(path: str | Path, max_voxels: int) -> tuple[Any, bytes]:
    """The header, and all bytes up to the last voxel; nothing is read that the header forbids."""
    with open_regular(path, expected=_EXPECTED, missing="add it") as file:
        packed = str(path).endswith(".gz")
        stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file
        start = stream.read(540)
        header = _header(start)
        kind, shape = header.get_data_dtype(), header.get_data_shape()
        if kind.kind not in "iuf":
            raise _refused(path, f"voxels of type {kind}", "export grey values")
        if min(shape, default=0) < 1 or math.prod(shape) > max_voxels:
            found = f"shape {list(shape)}, of {max_voxels:,} voxels at most"
            raise _refused(path, found, "cut it to one volume")
        needed = header.get_data_offset() + math.prod(shape) * kind.itemsize
        size = os.fstat(file.fileno()).st_size * (_MOST_EXPANSION if packed else 1)
        content = start + stream.read(max(needed - len(start), 0)) if needed <= size else start
        if len(content) < needed:
            raise ValueError(f"its header asks for {needed:,} bytes, and fewer are there")
        surplus = 0
        while more := stream.read(2**18):  # to the checksum
            surplus += len(more)
            if surplus > _SURPLUS_BYTES:
                raise _refused(path, "data behind its only volume", "export it again")
        return header, content


def _header(start: bytes) -> Any:
    """The header of a NIfTI-1 or NIfTI-2 file, checked by nibabel. Raises ValueError for others."""
    import nibabel

    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    kind: Any = nibabel.Nifti2Header if 540 in sizes else nibabel.Nifti1Header
    header = kind(start[: kind.template_dtype.itemsize], check=False)
    header.check_fix(logger=logging.Logger("silent", logging.CRITICAL + 1))
    if not {348, 540} & sizes or bytes(header["magic"])[:3] != header.single_magic[:3]:
        raise ValueError("its first bytes are not those of a NIfTI file")
    if header.get_data_offset() < header.single_vox_offset:
        raise ValueError(f"its voxels begin at byte {header.get_data_offset()}, in its header")
    return header


def _oriented(path: str | Path, header: Any, volume: np.ndarray) -> np.ndarray:
    """Voxels [i, j, k] of a NIfTI image -> [D, H, W], see load_volume."""
    from nibabel import orientations

    affine = header.get_best_affine()
    known = bool(np.isfinite(affine).all())
    stored = orientations.io_orientation(affine if known else np.zeros((4, 4)))
    # without a code nibabel would guess, and guess a side
    if not (header["sform_code"] or header["qform_code"]) or np.isnan(stored).any():
        raise refused(
            str(path),
            "a NIfTI file that says which side is left",
            "no orientation (sform_code and qform_code are 0, or its matrix is flat)",
            "convert it from DICOM again",
        )
    if header["sform_code"] and header["qform_code"]:
        _require_agreement(path, header.get_sform(), header.get_qform())
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    thick = int(spacing_mm.argmax())
    alone = (np.delete(spacing_mm, thick) * _THICK < spacing_mm[thick]).all()
    across = "xyz"[int(stored[thick, 0])] if alone else "z"
    wanted = orientations.axcodes2ornt(_RUNS_TO[across])
    turned = orientations.apply_orientation(volume, orientations.ornt_transform(stored, wanted))
    return np.ascontiguousarray(turned)


def _require_agreement(path: str | Path, sform: np.ndarray, qform: np.ndarray) -> None:
    """Refuse a file whose two matrices point to the patient's left, front or head differently."""

    def directions(matrix: np.ndarray) -> np.ndarray:
        """[world axis, voxel axis]: where left, front and head are in the voxels, length 1."""
        with np.errstate(all="ignore"):
            across = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
            return across / np.linalg.norm(across, axis=1, keepdims=True)

    alike = (directions(sform) * directions(qform)).sum(1)  # the cosines between them
    for side, cosine in zip(("left", "front", "head"), alike, strict=True):
        if not cosine > _SAME_DIRECTION:
            raise refused(
                str(path),
                "a NIfTI file that says which side is left",
                f"sform and qform that disagree about where the patient's {side} is",
                "convert it from DICOM again, or set the code of the wrong one to 0",
            )


def _refused(path: str | Path, found: str, fix: str) -> UserError:
    return refused(str(path), _EXPECTED, found, fix)
