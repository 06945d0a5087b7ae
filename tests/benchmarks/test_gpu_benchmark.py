"""The benchmark for GPUs: on the CPU with a tiny model, and on a GPU in every way it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu


def found(tmp_path: Path, *words: str) -> dict[str, Any]:
    gpu.main(["--quick", "--rounds=1", f"--out={tmp_path}", f"--cache={tmp_path}", *words])
    result: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text())
    return result


def test_what_a_device_cannot_compute_is_a_row_of_its_own(tmp_path: Path) -> None:
    some = "predict,train,train flex"
    ways = found(tmp_path, "--device=cpu", "--patients=1", f"--only={some}")["ways"]
    assert ways["predict"]["questions"] == ways["train"]["questions"] == 18
    assert all(0 < ways[name]["utilisation"] < 2 for name in ("predict", "train"))
    # the backward pass of activations doubles what is read, and images are encoded once
    assert 1 < ways["train"]["flop"] / ways["predict"]["flop"] < 2
    assert "backward on CPU" in ways["train flex"]["error"]
    rows = (tmp_path / "gpu.md").read_text().splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows[2:]] == some.split(",")


def test_another_way_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        found(tmp_path, "--device=cpu", "--only=train,guess")
    assert "--only: ['guess']; expected some of ['predict'," in capsys.readouterr().err


@pytest.mark.gpu
def test_every_way_runs_on_a_gpu(tmp_path: Path) -> None:
    result = found(tmp_path)
    assert result["ways"].keys() == gpu.WAYS.keys()
    assert [row["error"] for row in result["ways"].values() if "error" in row] == []
    for row in result["ways"].values():
        assert row["peak"] > 0
        assert 0 < row["utilisation"] < 1
