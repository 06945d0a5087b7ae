"""A language model is tried on a small copy, and computes nothing itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_llm import SMALL_DECODER
from transformers import AutoConfig, AutoModelForCausalLM

from spinevl.models.llm import CausalLM
from spinevl.models.small_copy import VOCABULARY, small_copy
from spinevl.schema.errors import UserError

# what the published configs say: (model type, settings)
LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2.5 7b": (
        "qwen2",
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
    ),
    "phi3.5 mini": (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 48,
                "long_factor": [2.0] * 48,
            },
            "original_max_position_embeddings": 4096,
        },
    ),
    "smollm3 3b": ("smollm3", {"num_hidden_layers": 36, "no_rope_layer_interval": 4}),
    "gemma3 1b": ("gemma3_text", {"num_hidden_layers": 26, "head_dim": 256}),
}
LAYERS = {"qwen2.5 7b": 2, "phi3.5 mini": 2, "smollm3 3b": 4, "gemma3 1b": 6}


def model_of(kind: str, **settings: Any) -> Any:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))


@pytest.mark.parametrize("name", LARGE)
def test_a_large_model_is_judged_without_its_weights(name: str) -> None:
    kind, settings = LARGE[name]
    with torch.device("meta"):
        model = model_of(kind, **settings)
    dim, layers = model.config.hidden_size, model.config.num_hidden_layers
    small = small_copy(model)
    assert isinstance(small, type(model))
    assert small.config.num_hidden_layers == LAYERS[name]
    assert small.config.vocab_size == VOCABULARY
    head_size = small.model.layers[0].self_attn.head_dim
    assert head_size == model.model.layers[0].self_attn.head_dim
    assert sum(one.numel() for one in small.parameters()) < 2**25
    assert {one.device.type for one in small.parameters()} == {"cpu"}
    llm = CausalLM(model, None, conversation="medmvl")
    assert llm.dim == dim
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (dim, layers)


SMALL = {**SMALL_DECODER, "num_hidden_layers": 8}


def test_random_numbers_and_weights_are_as_if_nothing_was_tried() -> None:
    torch.manual_seed(0)
    model = model_of("qwen2", **SMALL)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    after_it = torch.random.get_rng_state()
    CausalLM(model, None, conversation="chat")
    assert torch.equal(torch.random.get_rng_state(), after_it)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_a_layer_of_another_kind_is_found_far_from_the_first() -> None:
    types = ["full_attention"] * 5 + ["conv"] + ["full_attention"] * 2
    with pytest.raises(UserError, match="lfm2"):
        CausalLM(model_of("lfm2", **SMALL, layer_types=types), None, conversation="chat")


@pytest.mark.parametrize("cap", [5.0, 30.0])
def test_a_cap_on_the_logits_is_found_where_those_of_new_weights_are_small(cap: float) -> None:
    model = model_of("gemma3_text", **SMALL, final_logit_softcapping=cap)
    with pytest.raises(UserError, match="gemma3_text scales or caps its logits"):
        CausalLM(model, None, conversation="chat")


def test_a_model_of_which_no_copy_can_be_made_is_refused() -> None:
    model = model_of("qwen2", **SMALL)
    model.config.num_attention_heads = 0
    with pytest.raises(UserError, match="qwen2"):
        CausalLM(model, None, conversation="chat")
