"""A frozen decoder in four bits: built, trained beside, stored and read back."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_llm import write_small_llm

from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import load_checkpoint
from spinevl.checkpoints.native import save_checkpoint
from spinevl.models.assemble import assemble, tuned
from spinevl.models.held import Held
from spinevl.models.quantized import check_quantization
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": None}


def nodes(folder: Path, *, mode: str = "lora", **llm: Any) -> dict[str, Any]:
    return {
        "encoder": {"_target_": "spinevl.models.encoder.tiny.TinyEncoder"},
        "connector": {"_target_": "spinevl.models.connector.mlp.MLPConnector"},
        "llm": {
            "_target_": "spinevl.models.llm.HFCausalLM",
            "path": write_small_llm(folder, hidden_size=64, intermediate_size=128),
            "conversation": "medmvl",
            "dtype": "float32",
            "quantize": "nf4",
            **llm,
        },
        "tuning": {"encoder": "frozen", "connector": "full", "llm": mode, "lora": LORA},
    }


def logits(model: VLM) -> torch.Tensor:
    visual = model.visual_tokens(torch.linspace(-1, 1, 224 * 224).view(1, 1, 224, 224))
    text = model.llm.embed(torch.tensor([[5, 6, 7, 8]]))
    with model.llm.autocast():
        together = torch.cat([visual.to(text.dtype), text], dim=1)
        hidden = model.llm.model.base_model(inputs_embeds=together).last_hidden_state
    return model.llm.logits(hidden[0]).float()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_trained_checkpoint_reads_back_as_it_was_computed(tmp_path: Path, dtype: str) -> None:
    parts = nodes(tmp_path / "llm", dtype=dtype)
    torch.manual_seed(0)
    model = assemble(parts)
    layer: Any = model.llm.model.model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == 64 * 128 // 2
    assert model.llm.model.lm_head.weight.dtype == getattr(torch, dtype)
    learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in n or n.startswith("connector.") for n in learned)
    assert {p.dtype for p in learned.values()} == {torch.float32}

    optimizer = torch.optim.AdamW(learned.values(), lr=1e-2)
    losses = []
    for _ in range(3):
        loss = -logits(model).log_softmax(-1)[:, 3].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert all(p.grad is not None for n, p in learned.items() if "lora_B" in n)

    save_checkpoint(tmp_path / "checkpoint", Checkpoint(model.eval(), Held().settled(parts)))
    stored = load_file(tmp_path / "checkpoint/model.safetensors")
    name = "llm.model.model.layers.0.mlp.up_proj.base_layer.weight"
    assert stored[name].shape == (128, 64)
    assert stored[name].dtype == getattr(torch, dtype)
    assert not any("absmax" in one or "quant" in one for one in stored)
    again = load_checkpoint(tmp_path / "checkpoint")
    assert again.parts["llm"]["quantize"] is None
    with torch.inference_mode():
        torch.testing.assert_close(logits(again.model), logits(model), atol=0, rtol=0)


def test_a_training_goes_on_from_a_checkpoint_in_the_same_four_bits(tmp_path: Path) -> None:
    parts = nodes(tmp_path / "llm", mode="frozen")
    model = assemble(parts).eval()
    save_checkpoint(tmp_path / "checkpoint", Checkpoint(model, Held().settled(parts)))
    again = load_checkpoint(tmp_path / "checkpoint").model
    again.llm.quantize = "nf4"
    tuned(again, {**parts["tuning"], "llm": "lora"})
    layer: Any = model.llm.model.model.layers[1].self_attn.q_proj
    other: Any = again.llm.model.model.layers[1].self_attn.q_proj.base_layer
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.bias, other.bias)
    with torch.inference_mode():
        torch.testing.assert_close(logits(again), logits(model), atol=0, rtol=0)


def test_four_bits_are_near_the_weights_and_not_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = assemble(nodes(tmp_path, mode="frozen", quantize=None)).eval()
    torch.manual_seed(0)
    quantized = assemble(nodes(tmp_path, mode="frozen")).eval()
    with torch.inference_mode():
        expected, found = logits(plain), logits(quantized)
    assert not torch.equal(found, expected)
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.98


def test_what_cannot_be_quantized_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"llm\.quantize=nf4: .*tuning\.llm=full"):
        assemble(nodes(tmp_path, mode="full"))
    node = {"quantize": "nf4"}
    with pytest.raises(UserError, match=r"llm\.quantize=nf4: .*deepspeed_zero3"):
        check_quantization(node, "lora", strategy="deepspeed_zero3")
    check_quantization(node, "frozen", strategy="ddp")
    check_quantization({}, "full", strategy="deepspeed_zero3")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"llm\.quantize=nf4 needs .*spinevl\[quantize\]"):
        check_quantization(node, "lora")


def test_no_code_is_fetched_for_it(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    told = tmp_path / "told"
    (tmp_path / "kernels.py").write_text(
        f"def get_kernel(*_, **__):\n    open({str(told)!r}, 'w').close()\n"
    )
    adapt = (
        "import torch, kernels\n"
        "from spinevl.models.quantized import import_bitsandbytes\n"
        "import_bitsandbytes()\n"
        "import bitsandbytes, sys\n"
        "assert sys.modules['kernels'] is kernels\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", adapt],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "kernels" not in done.stderr
    assert not told.exists()
