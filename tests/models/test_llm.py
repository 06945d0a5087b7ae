"""Families of language models as their own configs make them, against transformers' forward."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from spinevl.checkpoints.medmvl_config import END_TOKENS
from spinevl.config.conf_dir import CONF_DIR
from spinevl.data.packing.attention_blocks import attention_blocks
from spinevl.data.packing.conversation import Conversation
from spinevl.data.packing.prefix_tree import pack
from spinevl.models import llm as llm_module
from spinevl.models.llm import CausalLM, HFCausalLM, TinyLLM
from spinevl.models.prefix_attention import BlockMasks
from spinevl.schema.errors import UserError

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 4.0, 8.0, 16.0],
}
LLAMA_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
}
# name -> (model type, what the published configs of the family have, the longest sequence)
FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "qwen2.5": ("qwen2", {"tie_word_embeddings": True, "sliding_window": 16}, 256),
    "llama3.2": (
        "llama",
        {"tie_word_embeddings": True, "rope_parameters": LLAMA_ROPE, "pad_token_id": None},
        256,
    ),
    "smollm2": ("llama", {"tie_word_embeddings": True, "pad_token_id": 2}, 256),
    "phi2": (
        "phi",
        {"num_key_value_heads": 4, "partial_rotary_factor": 0.5, "pad_token_id": None},
        256,
    ),
    "phi3 128k": (
        "phi3",
        {
            "rope_parameters": LONG_ROPE,
            "original_max_position_embeddings": 64,
            "sliding_window": 512,
        },
        64,
    ),
    "phi3 4k": ("phi3", {"sliding_window": 60}, 60),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}, 256),
    "smollm3": ("smollm3", {"tie_word_embeddings": True, "no_rope_layer_interval": 2}, 256),
    "gemma3": (
        "gemma3_text",
        {
            "tie_word_embeddings": True,
            "sliding_window": 48,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        48,
    ),
}


def model_of(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SMALL, **settings})
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_packed_sequences_are_those_of_transformers(family: str) -> None:
    kind, settings, longest = FAMILIES[family]
    llm = CausalLM(model_of(kind, **settings), None, conversation="medmvl")
    assert llm.max_length == longest
    length = min(longest, 60)
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> list[int]:
        return torch.randint(3, 64, (count,), generator=generator).tolist()

    prefix = some(20)
    sequences = [prefix + some(7), prefix + some(length - 20)]
    row = pack(sequences, [[(1, len(one))] for one in sequences])
    blocks, order = attention_blocks([row], length=len(row.symbols))
    ids, depth = torch.from_numpy(row.symbols)[None], torch.from_numpy(row.depth)[None]
    with torch.inference_mode():
        masks = BlockMasks.of(blocks, order, dtype=torch.float32)
        packed = llm.logits(llm.hidden(llm.embed(ids), masks, depth)[0])
        llm.model.set_attn_implementation("sdpa")
        for sequence, targets in zip(sequences, row.targets, strict=True):
            alone = llm.model(torch.tensor([sequence[:-1]])).logits[0]
            ours = packed[torch.from_numpy(targets[:, 0])]
            torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)


def test_a_bound_that_is_asked_for_counts_where_it_is_lower() -> None:
    assert CausalLM(model_of("qwen2"), None, conversation="chat", max_length=99).max_length == 99
    assert CausalLM(model_of("qwen2"), None, conversation="chat", max_length=999).max_length == 256


def test_gemma_reads_visual_tokens_as_they_are_and_scales_its_own() -> None:
    llm = CausalLM(model_of("gemma3_text"), None, conversation="medmvl")
    table = llm.model.get_input_embeddings().weight
    torch.testing.assert_close(llm.embed(torch.tensor([5])), table[[5]] * math.sqrt(32))
    with torch.inference_mode():
        llm.model.set_attn_implementation("sdpa")
        embeddings = llm.embed(torch.tensor([[5, 6, 7]]))
        by_embedding = llm.model(inputs_embeds=embeddings).logits
        torch.testing.assert_close(by_embedding, llm.model(torch.tensor([[5, 6, 7]])).logits)


def test_a_scale_after_the_output_head_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="cohere scales or caps its logits"):
        CausalLM(model_of("cohere", logit_scale=0.0625), None, conversation="medmvl")


# as Qwen3's: an empty thought before the last answer, and in the prompt where none is wanted
THINKS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
# as Llama 3.2's and SmolLM3's
DATED = (
    "{%- set today = strftime_now('%d %b %Y') %}"
    "{{ 'Today: ' ~ today ~ '\n' }}{% for m in messages %}{{ '<|' + m.role + '|>' }}"
    "{{ m.content + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def directory(folder: Path, template: str | None) -> str:
    """A Qwen2 without weights, and the tiny tokenizer with a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(
        str(resources.files("spinevl.models") / "tiny_tokenizer")
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    # a row more: loaded as Qwen2's, the tokenizer has <|endoftext|> too
    rows = len(tokenizer) + 1
    AutoConfig.for_model("qwen2", **{**SMALL, "vocab_size": rows}).save_pretrained(folder)
    return str(folder)


def test_a_thinking_model_answers_right_after_its_prompt(tmp_path: Path) -> None:
    path = directory(tmp_path / "base", THINKS)
    plain = HFCausalLM(path=path, pretrained=False)
    with pytest.raises(UserError, match="right after its generation prompt"):
        Conversation(plain.tokenizer).exchange("Level?", "A.normal")
    options = {"enable_thinking": False}
    llm = HFCausalLM(path=path, pretrained=False, chat_template_options=options)
    conversation = Conversation(llm.tokenizer)
    trained, asked = conversation.exchange("Level?", "A.normal"), conversation.prompt("Level?")
    assert trained.symbols[: trained.answer_start] == asked.symbols
    said = llm.tokenizer.decode(trained.symbols[trained.answer_start :])
    assert said == "A.normal<|end|>"

    llm.save_description(tmp_path / "kept")
    kept = AutoTokenizer.from_pretrained(tmp_path / "kept")
    assert Conversation(kept).exchange("Level?", "A.normal").symbols == trained.symbols
    again = HFCausalLM(path=str(tmp_path / "kept"), pretrained=False, chat_template_options=options)
    assert again.tokenizer.chat_template == kept.chat_template


def test_a_prompt_does_not_change_with_the_day(tmp_path: Path) -> None:
    llm = HFCausalLM(path=directory(tmp_path, DATED), pretrained=False)
    turns = [{"role": "user", "content": "Level?"}]
    text = llm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "Today: 26 Jul 2024\n<|user|>Level?<|end|><|assistant|>"


def test_a_template_without_options_stays_as_it_is(tmp_path: Path) -> None:
    llm = HFCausalLM(path=directory(tmp_path, THINKS), pretrained=False)
    assert llm.tokenizer.chat_template == THINKS


def test_options_for_a_tokenizer_without_a_template_are_refused(tmp_path: Path) -> None:
    path = directory(tmp_path, None)
    with pytest.raises(ValueError, match="has no chat template"):
        HFCausalLM(path=path, pretrained=False, chat_template_options={"enable_thinking": False})


@pytest.mark.parametrize(
    ("options", "family"),
    [
        ("qwen2_5_*", "qwen2"),
        ("llama3_2_*", "llama3"),
        ("phi2", "phi"),
        ("phi3*", "phi3"),
    ],
)
def test_answers_end_as_in_medmvl(options: str, family: str) -> None:
    files = sorted((CONF_DIR / "llm").glob(f"{options}.yaml"))
    assert files
    for file in files:
        assert OmegaConf.load(file).end_token == END_TOKENS[family]


def test_decoders_that_are_alike_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_module, "_trials", {})
    copied: list[int] = []
    real = llm_module.small_copy

    def counted(model: Any) -> Any:
        copied.append(model.config.hidden_size)
        return real(model)

    monkeypatch.setattr(llm_module, "small_copy", counted)
    first, second = (TinyLLM(width=16, layers=1, heads=2) for _ in range(2))
    assert copied == [16]
    assert (first.token_wise, first.takes_fewer_passes) == (second.token_wise, True)
    TinyLLM(width=24, layers=1, heads=2)
    assert copied == [16, 24]


@pytest.mark.parametrize("most", [64, 3 * 64, 5 * 64 + 1])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_logits_in_parts_are_all_logits_and_are_not_kept(
    most: int, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen2", **SMALL, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config)
    llm = CausalLM(model, None, conversation="medmvl")
    hidden = torch.randn(7, 32)
    rows = torch.tensor([6, 0, 0, 3, 2, 5, 4, 1, 3])  # some are asked for two tokens
    ids = torch.randint(0, 64, (9,))
    weight = model.get_output_embeddings().weight

    def found() -> tuple[list[torch.Tensor], int]:
        """Log-probabilities and gradients, and the numbers of the largest tensor that is kept."""
        given = hidden.clone().requires_grad_()
        sizes: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() != weight.data_ptr():
                sizes.append(tensor.numel())
            return tensor

        kept = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with kept, torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logprobs = llm.logprobs(given, rows, ids)
        assert logprobs.dtype == torch.float32
        loss = (logprobs * torch.linspace(-1, 1, 9)).sum()
        gradients = torch.autograd.grad(loss, [given, weight])
        with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
            torch.testing.assert_close(llm.logprobs(given, rows, ids), logprobs)
        return [logprobs, *gradients], max(sizes)

    whole, large = found()
    monkeypatch.setattr(llm_module, "MOST_LOGITS", most)
    parts, small = found()
    near = (
        {"atol": 1e-6, "rtol": 1e-5} if precision == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    )
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, **near)
    assert small < 7 * 64 <= large
    # ranks with other numbers of tokens would call a head that they share unequally often
    weight.ds_id = 0
    assert found()[1] == large
    del weight.ds_id
    llm.plain_layers = True
    assert found()[1] == large
