"""Volumes, read and refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinevl.io.volume_file import load_volume
from spinevl.schema.errors import UserError


def saved(tmp_path: Path, volume: np.ndarray) -> Path:
    np.save(tmp_path / "v.npy", volume)
    return tmp_path / "v.npy"


def test_hounsfield_units_are_windowed_to_grey_values(tmp_path: Path) -> None:
    hu = np.array([[[-2000, -1000, -999, 0, 1000, 3000]]], np.int16)
    wanted = [[[0, 0, 0.1275, 127.5, 255, 255]]]
    read = load_volume(saved(tmp_path, hu))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, wanted, atol=1e-4)
    narrow = load_volume(saved(tmp_path, hu), window=(0, 1000))
    np.testing.assert_allclose(narrow, [[[0, 0, 0, 0, 255, 255]]], atol=1e-4)


def test_a_leading_axis_of_one_is_dropped(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).uniform(1, 255, (1, 3, 4, 5))
    np.testing.assert_allclose(load_volume(saved(tmp_path, grey), window=None), grey[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros((4, 4)), r"found shape \[4, 4\]"),
        (np.zeros((2, 4, 4, 4)), r"found shape \[2, 4, 4, 4\]"),
        (np.zeros((0, 4, 4)), r"found shape \[0, 4, 4\]"),
        (np.full((2, 2, 2), np.nan), "values that are not finite"),
        (np.array([[["a"]]]), "an array of <U1"),
    ],
)
def test_what_is_no_volume_is_named(tmp_path: Path, volume: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=rf"v\.npy: expected a volume .*{message}"):
        load_volume(saved(tmp_path, volume))


def test_values_outside_grey_need_a_window(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found values from -5 to 9; set data\.window"):
        load_volume(saved(tmp_path, np.array([[[-5.0, 9.0]]])), window=None)


def test_missing_truncated_pickled_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.npy: .* no such file"):
        load_volume(tmp_path / "gone.npy")
    whole = saved(tmp_path, np.zeros((4, 4, 4))).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-9])
    with pytest.raises(UserError, match=r"cut\.npy: .* no whole array"):
        load_volume(tmp_path / "cut.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"pickled\.npy: .* no whole array"):
        load_volume(tmp_path / "pickled.npy")
    (tmp_path / "scan.dcm").touch()
    with pytest.raises(UserError, match=r"found a \.dcm file"):
        load_volume(tmp_path / "scan.dcm")


def test_nifti_is_brought_to_one_orientation_without_mirroring(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    body = np.random.default_rng(0).integers(1, 255, (3, 4, 5)).astype(np.float32)  # x, y, z
    nibabel.Nifti1Image(body, np.eye(4)).to_filename(tmp_path / "ras.nii.gz")
    read = load_volume(tmp_path / "ras.nii.gz", window=None)
    # x runs to the left of the body, y to its front, z to its head
    np.testing.assert_allclose(read, body[::-1, ::-1].transpose(2, 1, 0))
    # the same body stored from right to left: the file says so, and it reads the same
    flipped = np.diag([-1.0, 1, 1, 1])
    nibabel.Nifti1Image(body[::-1], flipped).to_filename(tmp_path / "las.nii.gz")
    np.testing.assert_allclose(load_volume(tmp_path / "las.nii.gz", window=None), read)
    content = gzip.decompress((tmp_path / "ras.nii.gz").read_bytes())
    (tmp_path / "cut.nii").write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"cut\.nii: .* no whole NIfTI"):
        load_volume(tmp_path / "cut.nii")


@pytest.mark.parametrize(
    ("spacing_mm", "turn"),
    [
        ((4.0, 0.5, 0.5), lambda body: body[::-1, ::-1, ::-1].transpose(0, 2, 1)),  # sagittal
        ((0.5, 4.0, 0.5), lambda body: body[::-1, ::-1, ::-1].transpose(1, 2, 0)),  # coronal
        ((0.9, 0.9, 0.7), lambda body: body[::-1, ::-1].transpose(2, 1, 0)),  # a CT of thin slices
    ],
)
def test_the_slices_of_the_scan_stay_slices(
    tmp_path: Path, spacing_mm: tuple[float, ...], turn: Any
) -> None:
    nibabel = pytest.importorskip("nibabel")
    body = np.random.default_rng(0).integers(1, 255, (3, 4, 5)).astype(np.float32)
    affine = np.diag([*spacing_mm, 1.0])
    nibabel.Nifti1Image(body, affine).to_filename(tmp_path / "v.nii")
    np.testing.assert_allclose(load_volume(tmp_path / "v.nii", window=None), turn(body))
    # stored slice by slice along another axis
    stored = affine[:, [2, 0, 1, 3]]
    nibabel.Nifti1Image(body.transpose(2, 0, 1), stored).to_filename(tmp_path / "w.nii")
    np.testing.assert_allclose(load_volume(tmp_path / "w.nii", window=None), turn(body))


def test_nifti_that_does_not_say_which_side_is_left_is_refused(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), None).to_filename(tmp_path / "v.nii")
    with pytest.raises(UserError, match="which side is left, found no orientation"):
        load_volume(tmp_path / "v.nii", window=None)


def test_a_nifti_without_a_finite_matrix_is_refused(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
    image.header["srow_x"] = np.nan
    image.header["sform_code"] = 1
    image.to_filename(tmp_path / "nan.nii")
    content = bytearray((tmp_path / "nan.nii").read_bytes())
    content[280:284] = np.float32(np.nan).tobytes()  # srow_x[0]
    (tmp_path / "nan.nii").write_bytes(content)
    with pytest.raises(UserError, match="no orientation"):
        load_volume(tmp_path / "nan.nii", window=None)
