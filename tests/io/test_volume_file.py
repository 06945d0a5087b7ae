"""Volumes, read and refused."""

from __future__ import annotations

import contextlib
import re
import tracemalloc
from pathlib import Path

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
    with pytest.raises(UserError, match=r"pickled\.npy: .* an array of object"):
        load_volume(tmp_path / "pickled.npy")
    (tmp_path / "scan.dcm").touch()
    with pytest.raises(UserError, match=r"found a \.dcm file"):
        load_volume(tmp_path / "scan.dcm")


@pytest.mark.parametrize(
    "volume",
    [
        np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
        np.arange(24, dtype=">i2").reshape(2, 3, 4),
        np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4),
    ],
)
def test_arrays_of_every_layout_are_read(tmp_path: Path, volume: np.ndarray) -> None:
    wanted = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_allclose(load_volume(saved(tmp_path, volume), window=None), wanted)


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        (np.zeros((2, 2, 2), complex), "complex128"),
        (np.zeros((2, 2, 2), bool), "bool"),
        (np.zeros((2, 2, 2), [("a", "f4")]), "f4"),
        (np.array([[[1, np.nan], [np.inf, 2]]]), "2 of 4 values"),
        (np.zeros((2, 3)), r"shape [2, 3]"),
    ],
)
def test_arrays_that_are_no_grey_values_are_refused(
    tmp_path: Path, volume: np.ndarray, said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        load_volume(saved(tmp_path, volume))


def with_header(tmp_path: Path, shape: tuple[int, ...], *, kind: str = "<f4") -> Path:
    """An array of 24 numbers whose header says otherwise."""
    with (tmp_path / "v.npy").open("wb") as file:
        header = {"shape": shape, "fortran_order": False, "descr": kind}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(96))
    return tmp_path / "v.npy"


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2**20, 2**20, 2**20), "voxels at most"),
        ((2, -3, -4), "-3"),
        ((2, 3, 40), "96 bytes"),
        ((2, 3), "96 bytes"),  # another array behind it: which is meant?
        ((True, 3, 8), "True"),
        ((24, *[1] * 69), "[24, 1, 1"),
    ],
)
def test_a_header_is_held_against_the_bytes_that_are_there(
    tmp_path: Path, shape: tuple[int, ...], said: str
) -> None:
    assert load_volume(with_header(tmp_path, (2, 3, 4)), window=None).shape == (2, 3, 4)
    with pytest.raises(UserError, match=re.escape(said)):
        load_volume(with_header(tmp_path, shape))


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "v.npy"
    file.write_bytes(b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"x")
    tracemalloc.start()
    with pytest.raises(UserError, match=r"2,147,483,648 bytes"):
        load_volume(file)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_damaged_headers_end_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = with_header(tmp_path, (2, 3, 4)).read_bytes()
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(0, 80, 2):
            damaged[place] = rng.integers(256)
        (tmp_path / "v.npy").write_bytes(damaged)
        with contextlib.suppress(UserError):  # no other error
            load_volume(tmp_path / "v.npy")
