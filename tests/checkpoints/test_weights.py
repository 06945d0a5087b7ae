"""A checkpoint's weights go into the model one after another, and are those of the file."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_llm import write_small_llm

from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import load_checkpoint
from spinevl.checkpoints.native import save_checkpoint
from spinevl.io.tensors import StoredTensors
from spinevl.models.assemble import assemble
from spinevl.models.encoder.tower import load_tower
from spinevl.models.held import Held
from spinevl.schema.errors import UserError


@contextmanager
def alive() -> Iterator[list[int]]:
    """How many stored tensors were in memory after each was read."""
    read = StoredTensors.__getitem__
    made: list[weakref.ref[torch.Tensor]] = []
    counts: list[int] = []

    def watched(self: StoredTensors, name: str) -> torch.Tensor:
        tensor = read(self, name)
        made.append(weakref.ref(tensor))
        counts.append(sum(one() is not None for one in made))
        return tensor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoredTensors, "__getitem__", watched)
        yield counts


def saved(folder: Path, mode: str) -> Path:
    parts: dict[str, Any] = {
        "encoder": {"_target_": "spinevl.models.encoder.tiny.TinyEncoder"},
        "connector": {"_target_": "spinevl.models.connector.mlp.MLPConnector"},
        "llm": {
            "_target_": "spinevl.models.llm.HFCausalLM",
            "path": write_small_llm(folder / "llm"),
            "conversation": "medmvl",
            "dtype": "auto",
        },
        "tuning": {
            "encoder": "frozen",
            "connector": "full",
            "llm": mode,
            "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "targets": None},
        },
    }
    save_checkpoint(folder / "checkpoint", Checkpoint(assemble(parts), parts))
    return folder / "checkpoint"


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_native_checkpoint(tmp_path: Path, mode: str, dtype: Any) -> None:
    folder = saved(tmp_path, mode)
    with alive() as counts:
        model = load_checkpoint(folder, held=Held(every=dtype)).model
    file = load_file(folder / "model.safetensors")
    assert counts == [1] * len(file)
    state = model.state_dict()
    assert any("lora_A" in name for name in file) is (mode == "lora")
    for name, tensor in file.items():
        assert torch.equal(state[name], tensor.to(state[name].dtype)), name
    llm = {one.dtype for name, one in state.items() if ".layers." in name and "lora" not in name}
    assert llm == {getattr(torch, dtype)}


@pytest.mark.parametrize(
    "combo", ["clip_mlp_qwen2", "clip_mlp_qwen2_tied", "medmclip_spatial_qwen2"]
)
def test_a_checkpoint_of_medmvl(shared: Path, combo: str) -> None:
    folder = shared / "goldens" / combo / "checkpoint"
    with alive() as counts:
        model = load_checkpoint(folder).model
    file = load_file(folder / "model.safetensors")
    assert max(counts) == 1
    state = model.state_dict()
    found = 0
    for name, tensor in file.items():
        end = name.partition(".")[2].removeprefix("encoder.")
        ours = [one for one in state if one.endswith(end.removeprefix("vision_model."))]
        found += any(torch.equal(state[one], tensor) for one in ours)
    assert found >= len(state) - 1  # a tied head has two names


def test_a_tower(tmp_path: Path) -> None:
    tower = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    weights = {f"module.tower.{k}": torch.randn_like(v) for k, v in tower.state_dict().items()}
    other = {"module.text.weight": torch.tensor([torch.nan])}  # no part of it
    save_file({**weights, **other}, tmp_path / "model.safetensors")
    with alive() as counts:
        load_tower(tower, str(tmp_path), prefix="tower.")
    assert counts == [1] * 4
    for name, tensor in tower.state_dict().items():
        assert torch.equal(tensor, weights[f"module.tower.{name}"])


def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "full")
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = list(weights)[-1]
    weights[name].view(-1)[-1] = torch.nan
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder)
    (problem,) = caught.value.problems
    assert str(file) in problem
    assert name in problem
