"""Families of encoders and LLMs, with tiny configs and tokenizers as they are published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUESTION = "How is  C3-C4?\nA.normal, B.mild stenosis"
TEXTS = [
    QUESTION,
    " A.normal",
    "Höhe 12,5 mm, don't\n\n  \t x 2026  ",
    "T1-gewichtet: 椎管狭窄 ≥ 50 %",
    "USER: C2's",
]

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.1,
}
PIXELS = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}
SQUARE = {"height": 32, "width": 32}
# kind -> (what is selected, its config.json, its preprocessor_config.json)
ENCODERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "clip": (
        {"kind": "clip", "select_layer": -2, "select_feature": "patch"},
        {"model_type": "clip_vision_model", **TOWER},
        {**PIXELS, "size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": SQUARE},
    ),
    "clip_cls": (
        {"kind": "clip", "select_layer": -1, "select_feature": "cls_patch"},
        {"model_type": "clip_vision_model", **TOWER},
        {**PIXELS, "size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": SQUARE},
    ),
    "siglip": (
        {"kind": "siglip", "select_layer": -1, "select_feature": "cls_patch"},
        {"model_type": "siglip_vision_model", **TOWER},
        {**PIXELS, "size": SQUARE},
    ),
}
DECODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 25000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.4],
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
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A family of LLMs with what is its own.

    Attributes:
        config: of its decoder, where the defaults of one version of transformers would not do.
        tokenizer_class: as its ``tokenizer_config.json`` says it.
        special: its special tokens; the first one ends texts and is what is padded with.
        end: what ends an answer.
        bos: whether a text begins with the last one of ``special``.
        template: its chat template.
        too_new: transformers 4.42 does not know its rotary embeddings.
    """

    config: dict[str, Any]
    tokenizer_class: str
    special: tuple[str, ...]
    end: str
    bos: bool = False
    template: str = CHATML
    too_new: bool = False


def _rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **more}}


_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA3 = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>")
FAMILIES: dict[str, Family] = {
    "qwen2": Family({"model_type": "qwen2", **_rope(1e6)}, "Qwen2Tokenizer", _QWEN, "<|im_end|>"),
    "qwen2_tied": Family(
        {"model_type": "qwen2", "tie_word_embeddings": True, **_rope(5e5)},
        "Qwen2Tokenizer",
        _QWEN,
        "<|im_end|>",
    ),
    "phi": Family(
        {
            "model_type": "phi",
            "num_key_value_heads": 4,
            **_rope(30000.0, partial_rotary_factor=0.5),
        },
        "CodeGenTokenizer",
        ("<|endoftext|>",),
        "<|endoftext|>",
    ),
    "phi3": Family(
        {"model_type": "phi3", **_rope(25000.0)},
        "PreTrainedTokenizerFast",
        _QWEN,
        "<|endoftext|>",
    ),
    "phi3_128k": Family(
        {
            "model_type": "phi3",
            "rope_parameters": LONG_ROPE,
            "original_max_position_embeddings": 256,
        },
        "PreTrainedTokenizerFast",
        _QWEN,
        "<|endoftext|>",
        too_new=True,
    ),
    "llama3": Family(
        {"model_type": "llama", **_rope(5e5)},
        "PreTrainedTokenizerFast",
        _LLAMA3,
        "<|eot_id|>",
        bos=True,
        template=LLAMA3,
    ),
    "llama3.2": Family(
        {"model_type": "llama", "tie_word_embeddings": True, "rope_parameters": LLAMA_ROPE},
        "PreTrainedTokenizerFast",
        _LLAMA3,
        "<|eot_id|>",
        bos=True,
        template=LLAMA3,
        too_new=True,
    ),
    "llama": Family(
        {"model_type": "llama", **_rope(2e4)}, "PreTrainedTokenizerFast", ("</s>", "<s>"), "</s>"
    ),
}


def write_llm(folder: Path, family: Family) -> None:
    """A base directory: the config and a tokenizer learned from a few words, as it is published."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, PreTrainedTokenizerFast

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    learned.train_from_iterator(TEXTS * 3, trainer)
    first, *others = family.special
    if family.tokenizer_class == "PreTrainedTokenizerFast":
        named = {"eos_token": first, "bos_token": family.special[-1] if family.bos else None}
        fast = PreTrainedTokenizerFast(
            tokenizer_object=learned, additional_special_tokens=others, **named
        )
        if family.bos:
            bos = family.special[-1]
            fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, fast.convert_tokens_to_ids(bos))]
            )
        fast.chat_template = family.template
        fast.save_pretrained(folder)
        size = len(fast)
    else:
        folder.mkdir(parents=True)
        learned.model.save(str(folder))
        size = learned.get_vocab_size()
        added = {
            str(size + k): {"content": token, "special": True}
            | dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
            for k, token in enumerate(family.special)
        }
        told = {
            "tokenizer_class": family.tokenizer_class,
            "added_tokens_decoder": added,
            "additional_special_tokens": others,
            "eos_token": first,
            "pad_token": first,
            "bos_token": None if others else first,
            "unk_token": None if others else first,
            "chat_template": family.template,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(told))
        size += len(added)
    ends = {"bos_token_id": 1, "eos_token_id": 0, "pad_token_id": None}  # as no export may have it
    settings = {**DECODER, **ends, **family.config, "vocab_size": size}
    AutoConfig.for_model(**settings).save_pretrained(folder)
