"""NIfTI: one orientation without mirroring, and every damaged or doubtful file refused."""

from __future__ import annotations

import contextlib
import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinevl.io import nifti_file
from spinevl.io.volume_file import load_volume
from spinevl.schema.errors import UserError

nibabel = pytest.importorskip("nibabel")

BODY = np.random.default_rng(0).integers(1, 255, (3, 4, 5)).astype(np.int16)


def whole(body: np.ndarray = BODY, affine: Any = None, *, kind: Any = None) -> bytearray:
    """The bytes of a file."""
    image = (kind or nibabel.Nifti1Image)(body, np.eye(4) if affine is None else affine)
    return bytearray(image.to_bytes())


def patched(place: int, form: str, *values: Any) -> bytearray:
    content = whole()
    struct.pack_into(form, content, place, *values)
    return content


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_volume(path, window=None)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}: expected ")
    return line


def test_nifti_is_brought_to_one_orientation_without_mirroring(tmp_path: Path) -> None:
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
    body = np.random.default_rng(0).integers(1, 255, (3, 4, 5)).astype(np.float32)
    affine = np.diag([*spacing_mm, 1.0])
    nibabel.Nifti1Image(body, affine).to_filename(tmp_path / "v.nii")
    np.testing.assert_allclose(load_volume(tmp_path / "v.nii", window=None), turn(body))
    # stored slice by slice along another axis
    stored = affine[:, [2, 0, 1, 3]]
    nibabel.Nifti1Image(body.transpose(2, 0, 1), stored).to_filename(tmp_path / "w.nii")
    np.testing.assert_allclose(load_volume(tmp_path / "w.nii", window=None), turn(body))


def test_nifti_that_does_not_say_which_side_is_left_is_refused(tmp_path: Path) -> None:
    nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), None).to_filename(tmp_path / "v.nii")
    with pytest.raises(UserError, match="which side is left, found no orientation"):
        load_volume(tmp_path / "v.nii", window=None)


def test_a_nifti_without_a_finite_matrix_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
    image.header["srow_x"] = np.nan
    image.header["sform_code"] = 1
    image.to_filename(tmp_path / "nan.nii")
    content = bytearray((tmp_path / "nan.nii").read_bytes())
    content[280:284] = np.float32(np.nan).tobytes()  # srow_x[0]
    (tmp_path / "nan.nii").write_bytes(content)
    with pytest.raises(UserError, match="no orientation"):
        load_volume(tmp_path / "nan.nii", window=None)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_other_orders_of_bytes_are_read(tmp_path: Path, kind: Any) -> None:
    header = kind.header_class(endianness=">")
    image = kind(BODY, np.eye(4), header)
    (tmp_path / "v.nii").write_bytes(image.to_bytes())
    wanted = BODY[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(load_volume(tmp_path / "v.nii", window=None), wanted)


SCL_SLOPE, VOX_OFFSET, DATATYPE, DIM = 112, 108, 70, 40


def test_voxels_are_scaled(tmp_path: Path) -> None:
    (tmp_path / "v.nii").write_bytes(patched(SCL_SLOPE, "<2f", 0.5, 3.0))
    wanted = BODY[::-1, ::-1].transpose(2, 1, 0) * 0.5 + 3
    np.testing.assert_array_equal(load_volume(tmp_path / "v.nii", window=None), wanted)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_a_scale_of_0_or_nan_means_none(tmp_path: Path, slope: float) -> None:
    (tmp_path / "v.nii").write_bytes(patched(SCL_SLOPE, "<2f", slope, 7.0))
    wanted = BODY[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(load_volume(tmp_path / "v.nii", window=None), wanted)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (patched(SCL_SLOPE, "<2f", float("inf"), 0.0), "scale"),
        (patched(SCL_SLOPE, "<2f", 1.0, float("nan")), "intercept"),
        (patched(SCL_SLOPE, "<2f", 3e38, 0.0), "of 60 values that are not finite"),
        (patched(VOX_OFFSET, "<f", float("nan")), "no whole NIfTI"),
        (patched(VOX_OFFSET, "<f", 1e30), "no whole NIfTI"),
        (patched(VOX_OFFSET, "<f", 100.0), "no whole NIfTI"),
        (patched(DATATYPE, "<2h", 128, 24), "voxels of type"),  # RGB
        (patched(DATATYPE, "<2h", 32, 64), "complex64"),
        (patched(DATATYPE, "<2h", 999, 16), "no whole NIfTI"),
        (patched(DIM, "<4h", 3, 32000, 32000, 32000), "voxels at most"),
        (patched(DIM, "<4h", 3, 30, 40, 50), "bytes, and fewer are there"),
        (patched(DIM, "<4h", 3, -3, 4, 5), "[-3, 4, 5]"),
        (patched(DIM, "<h", 99), "no whole NIfTI"),
        (patched(344, "4s", b"ni1\0"), "first bytes"),  # its voxels lie in another file
        (patched(0, "<i", 7), "no whole NIfTI"),
        (b"", "no whole NIfTI"),
        (whole() + bytes(2**21), "data behind"),
        (whole(np.full((3, 4, 5), np.nan, np.float32)), "60 of 60 values that are not finite"),
    ],
)
def test_doubtful_headers_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in refused(tmp_path / "v.nii", content)
    assert said in refused(tmp_path / "v.nii.gz", gzip.compress(content))


def test_every_flipped_bit_of_a_compressed_file_is_found(tmp_path: Path) -> None:
    """gzip's checksum stands behind the last voxel."""
    rng = np.random.default_rng(0)
    packed = gzip.compress(whole(rng.integers(-999, 999, (12, 10, 9)).astype(np.int16)))
    for place in range(10, len(packed), 37):
        damaged = bytearray(packed)
        damaged[place] ^= 0x10
        assert "no whole NIfTI" in refused(tmp_path / "v.nii.gz", damaged)
    for length in range(0, len(packed), 97):
        refused(tmp_path / "v.nii.gz", packed[:length])
    refused(tmp_path / "v.nii.gz", packed + b"garbage")


def test_a_stream_of_several_members_is_one_file(tmp_path: Path) -> None:
    """As bgzip and pigz write them, and ``gzip -d`` reads them."""
    content = whole()
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    wanted = BODY[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(load_volume(tmp_path / "v.nii.gz", window=None), wanted)


def test_a_stream_that_expands_beyond_its_volume_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(whole() + bytes(2**26))
    assert len(bomb) < 2**17
    assert "data behind" in refused(tmp_path / "v.nii.gz", bomb)
    declared = patched(DIM, "<4h", 3, 800, 800, 800)  # a gigabyte of voxels in 200 bytes
    assert "fewer are there" in refused(tmp_path / "v.nii.gz", gzip.compress(declared))


def with_both(sform: np.ndarray, qform: np.ndarray) -> bytes:
    image = nibabel.Nifti1Image(BODY, sform)
    image.set_sform(sform, code=1)
    image.set_qform(qform, code=1)
    return bytes(image.to_bytes())


def rotated(degrees: float) -> np.ndarray:
    turn = np.eye(4)
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    turn[1:3, 1:3] = [[cosine, -sine], [sine, cosine]]
    return turn


@pytest.mark.parametrize(
    ("qform", "side"),
    [
        (np.diag([-1.0, 1, 1, 1]), "left"),
        (np.diag([-1.0, -1, 1, 1]), "left"),
        (np.diag([1.0, -1, 1, 1]), "front"),
        (np.eye(4)[[1, 0, 2, 3]], "left"),
        (rotated(90), "front"),
    ],
)
def test_two_matrices_that_disagree_are_refused(
    tmp_path: Path, qform: np.ndarray, side: str
) -> None:
    assert f"patient's {side}" in refused(tmp_path / "v.nii", with_both(np.eye(4), qform))


def test_two_matrices_may_differ_a_little(tmp_path: Path) -> None:
    wanted = BODY[::-1, ::-1].transpose(2, 1, 0)
    for qform in (rotated(1), rotated(-20), np.diag([1.001, 0.999, 1, 1])):
        (tmp_path / "v.nii").write_bytes(with_both(np.eye(4), qform))
        np.testing.assert_array_equal(load_volume(tmp_path / "v.nii", window=None), wanted)
    image = nibabel.Nifti1Image(BODY, np.eye(4))
    image.set_qform(np.diag([-1.0, 1, 1, 1]), code=0)  # which says that it means nothing
    (tmp_path / "v.nii").write_bytes(image.to_bytes())
    np.testing.assert_array_equal(load_volume(tmp_path / "v.nii", window=None), wanted)


def test_damaged_files_end_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti_file, "_SURPLUS_BYTES", 64)
    rng = np.random.default_rng(1)
    for _ in range(300):
        content = whole()
        for place in rng.integers(0, 352, 2):
            content[place] = rng.integers(256)
        (tmp_path / "v.nii").write_bytes(content)
        with contextlib.suppress(UserError):  # no other error
            load_volume(tmp_path / "v.nii")
    assert capfd.readouterr() == ("", "")
