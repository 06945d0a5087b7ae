"""The LLM by itself, as another program reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_llm import write_small_llm
from transformers import AutoModelForCausalLM

from spinevl.checkpoints.decoder import write_decoder
from spinevl.models.llm import HFCausalLM
from spinevl.schema.errors import UserError


@pytest.mark.parametrize("kind", ["qwen2", "phi", "gemma3_text"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_reads_our_embeddings_as_ours_does(tmp_path: Path, kind: str, dtype: str) -> None:
    path = write_small_llm(tmp_path / "base", kind)
    ours = HFCausalLM(path=path, conversation="medmvl", end_token="<|im_end|>", dtype=dtype)  # type: ignore[arg-type]
    write_decoder(tmp_path / "llm", ours)
    told = json.loads((tmp_path / "llm/config.json").read_text())
    assert told["architectures"] == [type(ours.model).__name__]
    assert told["dtype"] == told["torch_dtype"] == dtype
    assert sorted(file.name for file in (tmp_path / "llm").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "llm", dtype="auto")
    original = AutoModelForCausalLM.from_pretrained(path, dtype=theirs.dtype)
    embeddings = ours.embed(torch.tensor([[5, 9, 11, 7]]))
    assert str(embeddings.dtype) == f"torch.{dtype}"
    with torch.inference_mode():
        read = theirs(inputs_embeds=embeddings).logits
        assert torch.equal(read, original(inputs_embeds=embeddings).logits)


def test_code_that_came_with_a_model_is_refused(tmp_path: Path) -> None:
    ours = HFCausalLM(path=write_small_llm(tmp_path / "base"), conversation="medmvl")
    ours.model.__class__ = type("Odd", (type(ours.model),), {"__module__": "odd.modeling"})
    with pytest.raises(UserError, match=r"Odd of odd; write predict\.engine=native"):
        write_decoder(tmp_path / "llm", ours)
    assert not (tmp_path / "llm").exists()
