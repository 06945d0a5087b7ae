"""A small decoder: its sizes, by names that most configs of transformers have, and its files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch

SMALL_DECODER: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_small_llm(folder: Path, kind: str = "qwen2", **settings: Any) -> str:
    """Write random float32 weights, which bfloat16 does not have, and the tiny tokenizer.

    Args:
        folder: where to.
        kind: transformers' name of the architecture.
        settings: of its config, in place of the usual ones.

    Returns:
        The folder's path.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        str(resources.files("spinevl.models") / "tiny_tokenizer")
    )
    tokenizer.save_pretrained(folder)
    sizes = {"vocab_size": len(tokenizer) + 1, "num_hidden_layers": 2, **settings}
    config = AutoConfig.for_model(kind, **{**SMALL_DECODER, **sizes})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)
