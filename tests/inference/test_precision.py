"""The number type of answers: told or found out, and close to float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spinevl.config.options import Compile, Precision, PredictOptions
from spinevl.inference.precision import held_in, pack_weights, ready, settled
from spinevl.models import half_speed, packed
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import TinyLLM
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError


def checkpoint(folder: Path, **config: Any) -> Path:
    """As much of a checkpoint of ours as decides."""
    (folder / "llm").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"format": 2}))
    sizes = {"hidden_size": 512, "intermediate_size": 1024, **config}
    (folder / "llm" / "config.json").write_text(json.dumps(sizes))
    return folder


def decided(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, times: float = 2.0, able: bool = True
) -> Precision:
    asked: list[dict[str, Any]] = []

    def speedup(device: str, **sizes: Any) -> float:
        asked.append(sizes)
        return times

    monkeypatch.setattr(half_speed, "bfloat16_speedup", speedup)
    monkeypatch.setattr(half_speed, "computes_in_bfloat16", lambda device: able)
    options = settled(
        PredictOptions(), checkpoint=folder, device="cpu", cache_folder=lambda: folder / "cache"
    )
    if asked:
        assert asked == [{"width": 512, "inner": 1024, "folder": folder / "cache"}]
    return options.precision


@pytest.mark.parametrize(
    ("times", "able", "expected"),
    [(1.3, True, "bfloat16"), (1.29, True, "float32"), (9.0, False, "float32")],
)
def test_auto_is_bfloat16_where_it_is_faster_in_hardware(
    times: float, able: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "c")
    assert decided(folder, monkeypatch, times=times, able=able) == expected


def test_medmvl_and_what_has_no_sizes_answer_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "medmvl"
    (theirs / "llm").mkdir(parents=True)
    (theirs / "config.json").write_text('{"model_type": "lvlm"}')
    (theirs / "llm" / "config.json").write_text('{"hidden_size": 512, "intermediate_size": 9}')
    assert decided(theirs, monkeypatch) == "float32"
    for number, size in enumerate((None, "512", -1, 10**9, True, 1.5, 255)):
        folder = checkpoint(tmp_path / str(number), hidden_size=size)
        assert decided(folder, monkeypatch) == "float32"


@pytest.mark.parametrize("told", ["float32", "bfloat16"])
def test_what_is_told_is_not_found_out(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_speed, "bfloat16_speedup", None)
    options = PredictOptions(precision=Precision(told))
    assert options == settled(options, checkpoint=tmp_path, device="cpu", cache_folder=Path)


def test_no_cache_folder_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def speedup(device: str, *, width: int, inner: int, folder: Path | None) -> float:
        found.append(folder)
        return 2.0

    def broken() -> Path:
        raise UserError("cache_dir: cannot be made")

    monkeypatch.setattr(half_speed, "bfloat16_speedup", speedup)
    monkeypatch.setattr(half_speed, "computes_in_bfloat16", lambda device: True)
    folder = checkpoint(tmp_path / "c")
    options = settled(PredictOptions(), checkpoint=folder, device="cpu", cache_folder=broken)
    assert (options.precision, found) == ("bfloat16", [None])


def small_model() -> VLM:
    torch.manual_seed(0)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = TinyLLM(width=32, layers=2, heads=4)
    connector = MLPConnector(in_dim=16, out_dim=llm.dim, in_tokens=4, in_grid=(2, 2))
    return VLM(encoder, connector, llm).eval()


def test_every_weight_is_held_in_it_and_no_buffer() -> None:
    model = small_model()
    buffers = {name: one.dtype for name, one in model.named_buffers()}
    assert held_in(Precision.bfloat16).every == "bfloat16"
    assert held_in(Precision.float32).auto == "float32"
    ready(model, Precision.bfloat16)
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}
    assert {name: one.dtype for name, one in model.named_buffers()} == buffers


@pytest.mark.parametrize(
    ("told", "packs"),
    [
        ({}, True),
        ({"plain_layers": True}, False),
        ({"compile": Compile.default}, False),
    ],
)
def test_weights_are_packed_unless_layers_are_plain_or_compiled(
    told: dict[str, Any], packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "onednn_is_faster", lambda: True)
    model = small_model()
    asked = model.llm.takes_packed_weights  # False in a torch without oneDNN
    pack_weights(model, PredictOptions(**told), writes=False)
    kinds = {type(one) for one in model.llm.model.base_model.modules()}
    assert (packed.PackedLinear in kinds) == (packs and asked)
    assert type(model.llm.model.get_output_embeddings()) is torch.nn.Linear
    assert packed.PackedLinear not in {type(one) for one in model.connector.modules()}
