"""Weights are read from safetensors files one by one, and every damage is one line."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spinevl.io import tensors
from spinevl.io.tensors import StoredTensors, stored_tensors
from spinevl.schema.errors import UserError

ONE = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b.half": torch.linspace(-1, 1, 5).bfloat16(),
    "b.number": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}
OTHER = {"c": torch.linspace(0, 1, 1000)}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    save_file(ONE, tmp_path / "model-1.safetensors")
    save_file(OTHER, tmp_path / "model-2.safetensors")
    names = {**dict.fromkeys(ONE, "model-1.safetensors"), "c": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return tmp_path


def test_they_are_those_of_the_files(shards: Path) -> None:
    stored = stored_tensors(shards)
    expected = {
        name: tensor
        for file in shards.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    assert set(stored) == set(expected) == {*ONE, *OTHER}
    assert len(stored) == 5
    for name, tensor in expected.items():
        assert stored.shapes[name] == tensor.shape
        assert stored[name].dtype == tensor.dtype
        assert torch.equal(stored[name], tensor)
    renamed = stored.under({"new": "c"})
    assert list(renamed) == ["new"]
    assert renamed.shapes == {"new": (1000,)}
    assert torch.equal(renamed["new"], OTHER["c"])


def test_names_and_shapes_read_no_numbers(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError

    stored = stored_tensors(shards)
    monkeypatch.setattr(StoredTensors, "__getitem__", refuse)
    assert "a" in stored
    assert "d" not in stored
    assert sorted(stored.under({"x": "a"}).shapes.values()) == [(2, 3)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_no_file_stays_mapped(shards: Path) -> None:
    def mapped() -> bool:
        return "model-2.safetensors" in Path("/proc/self/maps").read_text()

    stored = stored_tensors(shards)
    assert not mapped()
    total = stored["c"].sum()
    assert total > 0
    assert not mapped()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_as_it_is_read(shards: Path, value: float) -> None:
    save_file({**OTHER, "d": torch.tensor([1, value])}, shards / "model-2.safetensors")
    stored = stored_tensors(shards)
    assert torch.equal(stored["c"], OTHER["c"])
    with pytest.raises(UserError) as caught:
        stored["d"]
    (problem,) = caught.value.problems
    assert str(shards / "model-2.safetensors") in problem
    assert "1 of 2 tensors, first d" in problem


def test_a_file_that_is_cut_short_is_one_line(shards: Path) -> None:
    stored = stored_tensors(shards)
    file = shards / "model-2.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    for read in (lambda: stored_tensors(shards), lambda: stored["c"]):  # before and after
        with pytest.raises(UserError) as caught:
            read()
        (problem,) = caught.value.problems
        assert f"{file}: not a whole safetensors file" in problem
    assert torch.equal(stored["a"], ONE["a"])


def test_a_file_that_has_gone_is_one_line(shards: Path) -> None:
    stored = stored_tensors(shards)
    (shards / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-1\.safetensors"):
        stored["a"]
    with pytest.raises(UserError, match=r"model-1\.safetensors.*no such file"):
        stored_tensors(shards)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    tensors.write_tensors(tmp_path / "model.safetensors", ONE)
    found = dict(stored_tensors(tmp_path))
    assert found.keys() == ONE.keys()
    assert all(torch.equal(found[name], ONE[name]) for name in ONE)
