"""How much faster bfloat16 is: measured once for a device and size, kept, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from spinevl.models import half_speed
from spinevl.models.half_speed import bfloat16_speedup, computes_in_bfloat16


def test_the_ratio_is_that_of_the_measured_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    spent = {torch.float32: 0.6, torch.bfloat16: 0.2}
    now = 0.0

    def forward(self: half_speed._Block, x: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += spent[x.dtype] + next(clock) * 1e-9
        return x

    monkeypatch.setattr(half_speed._Block, "forward", forward)
    monkeypatch.setattr(half_speed, "_now", lambda device: now)
    assert bfloat16_speedup("cpu", width=8, inner=16, folder=None) == 3.0


def test_it_is_measured_once_for_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[int, int]] = []

    def measure(device: torch.device, width: int, inner: int) -> float:
        measured.append((width, inner))
        return 1.25 + len(measured)

    monkeypatch.setattr(half_speed, "_measured", measure)
    found = [
        bfloat16_speedup("cpu", width=width, inner=16, folder=tmp_path) for width in (8, 8, 4, 8)
    ]
    assert found == [2.25, 2.25, 3.25, 2.25]
    assert measured == [(8, 16), (4, 16)]
    threads = torch.get_num_threads()
    kept = json.loads((tmp_path / "bfloat16.json").read_text())
    assert sorted(kept.values()) == [2.25, 3.25]
    assert all(f"{threads} threads" in key and torch.__version__ in key for key in kept)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"a": ', '{"KEY": "fast"}', '{"KEY": -1.0}', '{"KEY": 1e999}', "\0"]
)
def test_a_damaged_file_is_measured_again(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_speed, "_measured", lambda *sizes: 1.5)
    bfloat16_speedup("cpu", width=8, inner=16, folder=tmp_path)
    (key,) = json.loads((tmp_path / "bfloat16.json").read_text())
    (tmp_path / "bfloat16.json").write_text(content.replace("KEY", key))
    assert bfloat16_speedup("cpu", width=8, inner=16, folder=tmp_path) == 1.5
    assert json.loads((tmp_path / "bfloat16.json").read_text()) == {key: 1.5}


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(half_speed, "_measured", lambda *sizes: 1.5)
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    assert bfloat16_speedup("cpu", width=8, inner=16, folder=folder) == 1.5
    assert "bfloat16.json" in caplog.text


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({}, False),
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True}, True),
        ({"avx2": True}, False),
    ],
)
def test_a_cpu_needs_instructions_for_it(
    able: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert computes_in_bfloat16("cpu") is expected
    assert computes_in_bfloat16("mps") is False
