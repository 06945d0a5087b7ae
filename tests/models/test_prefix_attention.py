"""Attention over trees for more families of decoders, against their own forward."""

from __future__ import annotations

import pytest
import torch
from small_llm import SMALL_DECODER
from transformers import AutoModelForCausalLM
from transformers import models as families

from spinevl.data.packing.attention_blocks import attention_blocks
from spinevl.data.packing.prefix_tree import pack
from spinevl.models.llm import CausalLM
from spinevl.models.prefix_attention import BlockMasks
from spinevl.models.tree_mask import TreeMask
from spinevl.schema.errors import UserError

CONFIGS = {
    "qwen3": (families.qwen3.Qwen3Config, {}),
    "smollm3": (families.smollm3.SmolLM3Config, {}),
    "gemma3": (families.gemma3.Gemma3TextConfig, {"sliding_window": 128}),
    "mistral, sliding": (families.mistral.MistralConfig, {"sliding_window": 64}),
    "gpt_neox, partial rotary": (families.gpt_neox.GPTNeoXConfig, {}),
}


def decoder(name: str) -> CausalLM:
    config_class, more = CONFIGS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_class(**SMALL_DECODER, **more)).eval()
    return CausalLM(model, tokenizer=None, conversation="medmvl")


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("flex", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states_of_a_tree_are_those_of_its_sequences(name: str, flex: bool) -> None:
    llm = decoder(name)
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> list[int]:
        return torch.randint(3, 64, (count,), generator=generator).tolist()

    prefix, branch = some(20), some(9)
    sequences = [prefix + some(12), prefix + branch + some(7), prefix + branch + some(30)]
    row = pack(sequences, [[(1, len(one))] for one in sequences])
    blocks, order = attention_blocks([row], length=len(row.symbols))
    ids = torch.from_numpy(row.symbols)[None]
    with torch.inference_mode():
        masks = (
            TreeMask.of(torch.from_numpy(row.subtree_end)[None])
            if flex
            else BlockMasks.of(blocks, order, dtype=torch.float32)
        )
        together = llm.hidden(llm.embed(ids), masks, torch.from_numpy(row.depth)[None])
        llm.model.set_attn_implementation("sdpa")
        for sequence, targets in zip(sequences, row.targets, strict=True):
            alone = llm.model.base_model(torch.tensor([sequence[:-1]])).last_hidden_state[0]
            ours = together[0, torch.from_numpy(targets[:, 0])]
            torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)


def test_a_sliding_window_bounds_the_length() -> None:
    assert decoder("mistral, sliding").max_length == 64
    assert decoder("qwen3").max_length == 256


REFUSED = {
    "soft caps": families.gemma2.Gemma2Config(**SMALL_DECODER),
    "sinks": families.gpt_oss.GptOssConfig(
        **SMALL_DECODER, num_local_experts=2, num_experts_per_tok=1, sliding_window=64
    ),
    "attention of its own": families.falcon.FalconConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    ),
    "biases that are zero before training": families.doge.DogeConfig(**SMALL_DECODER),
    "a state along the row": families.lfm2.Lfm2Config(**SMALL_DECODER, full_attn_idxs=[1, 3]),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_decoder_that_mixes_sequences_is_refused_by_name(why: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(REFUSED[why])
    with pytest.raises(UserError, match=model.config.model_type):
        CausalLM(model, None, conversation="medmvl")
