"""What the config of a stored model may name."""

from __future__ import annotations

import pytest
from transformers import CLIPConfig, Qwen2Config

from spinevl.models.source import refuse_kernels
from spinevl.schema.errors import UserError


@pytest.mark.parametrize("name", [None, "eager", "sdpa"])
def test_own_attention_is_fine(name: str | None) -> None:
    refuse_kernels(Qwen2Config(attn_implementation=name), what="llm.path", path="x")


def test_attention_code_of_a_hub_is_refused_at_every_depth() -> None:
    with pytest.raises(UserError, match=r"llm\.path=x: .*found evil/kernel"):
        refuse_kernels(Qwen2Config(attn_implementation="evil/kernel"), what="llm.path", path="x")
    whole = CLIPConfig()
    whole.vision_config._attn_implementation = "evil/kernel"
    with pytest.raises(UserError, match="found evil/kernel"):
        refuse_kernels(whole, what="encoder.path", path="x")
