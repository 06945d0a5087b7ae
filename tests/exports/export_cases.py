"""Exports of tiny models, each with what spinevl itself computes with the model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import FORMATS, load_checkpoint
from spinevl.data.packing.conversation import Conversation
from spinevl.models.assemble import assemble
from spinevl.models.generate import greedy
from spinevl.models.vlm import VLM

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "goldens"
NEW_TOKENS = 12
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


@dataclass(frozen=True)
class Case:
    """An export.

    Attributes:
        name: of its folder.
        form: ``medmvl``, ``hf`` or ``peft``.
        too_new: see Family.
        make: makes the checkpoint, in a folder for the bases that it needs.
    """

    name: str
    form: str
    too_new: bool
    make: Callable[[Path], Checkpoint] = field(repr=False)


def cases() -> Iterator[Case]:
    """Every family and both encoders; and the reference checkpoints, where they are at hand."""
    for form, llm, encoder, conversation in (
        ("medmvl", "qwen2", "clip", "medmvl"),
        ("medmvl", "qwen2_tied", "siglip", "medmvl"),
        ("medmvl", "phi", "siglip", "medmvl"),
        ("medmvl", "phi3", "clip_cls", "medmvl"),
        ("medmvl", "phi3_128k", "siglip", "medmvl"),
        ("medmvl", "llama3", "clip", "medmvl"),
        ("medmvl", "llama3.2", "siglip", "medmvl"),
        ("medmvl", "llama", "siglip", "medmvl"),
        ("hf", "qwen2", "clip", "chat"),
        ("hf", "qwen2_tied", "siglip", "medmvl"),
        ("hf", "phi3", "clip_cls", "chat"),
        ("hf", "llama3", "siglip", "chat"),
        ("hf", "llama3", "clip", "medmvl"),
        ("peft", "qwen2", "clip", "chat"),
        ("peft", "phi3", "siglip", "medmvl"),
    ):
        yield Case(
            f"{form}-{llm}-{encoder}-{conversation}",
            form,
            FAMILIES[llm].too_new,
            partial(random_model, llm, encoder, conversation, form == "peft"),
        )
    for golden in sorted(GOLDENS.glob("*/checkpoint")):
        name = golden.parent.name
        for form in ("medmvl", "hf"):
            if form == "medmvl" or ("_mlp_" in name and not name.endswith("phi")):
                make = partial(_golden, golden)
                yield Case(f"{form}-golden-{name}", form, False, make)


def _golden(folder: Path, _: Path) -> Checkpoint:
    return load_checkpoint(folder)


def random_model(llm: str, encoder: str, conversation: str, lora: bool, home: Path) -> Checkpoint:
    """A model with random weights, whose base directories are written under ``home``."""
    selected, config, pixels = ENCODERS[encoder]
    (home / "encoder").mkdir(parents=True)
    (home / "encoder/config.json").write_text(json.dumps(config))
    (home / "encoder/preprocessor_config.json").write_text(json.dumps(pixels))
    family = FAMILIES[llm]
    _write_llm(home / "llm", family)
    base = {"pretrained": False}
    parts = {
        "encoder": {
            "_target_": "spinevl.models.encoder.hf.HFVisionEncoder",
            "path": str(home / "encoder"),
            **selected,
            **base,
        },
        "connector": {
            "_target_": "spinevl.models.connector.mlp.MLPConnector",
            "_partial_": True,
            "layers": 2,
        },
        "llm": {
            "_target_": "spinevl.models.llm.HFCausalLM",
            "path": str(home / "llm"),
            "conversation": conversation,
            "end_token": family.end if conversation == "medmvl" else None,
            **base,
        },
        "tuning": {
            "encoder": "frozen",
            "connector": "full",
            "llm": "lora" if lora else "full",
            "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "targets": None},
        },
    }
    torch.manual_seed(0)
    model = assemble(parts).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("connector") or "lora_B" in name:
                parameter.normal_(std=0.2)
        # answers of random weights would hardly ever end
        head = model.llm.model.get_output_embeddings().weight
        head[Conversation(**_words(model)).answer_end()] *= 2.0
    return Checkpoint(model, parts)


def _words(model: VLM) -> dict[str, Any]:
    llm = model.llm
    return {
        "tokenizer": llm.tokenizer,
        "template": llm.conversation,
        "end_token": llm.end_token,
    }


def _write_llm(folder: Path, family: Family) -> None:
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


@torch.inference_mode()
def write(case: Case, folder: Path) -> None:
    """Write ``folder/export``, and beside it what the model said before it was exported."""
    checkpoint = case.make(folder / "bases")
    model = checkpoint.model
    grey = np.random.default_rng(0).integers(0, 255, (50, 40), dtype=np.uint8)
    Image.fromarray(np.stack([grey, 255 - grey, grey // 2], axis=-1)).save(folder / "image.png")
    told, tensors = _expected(model, np.array(Image.open(folder / "image.png")))
    told |= {"form": case.form, "too_new": case.too_new}
    (folder / "expected.json").write_text(json.dumps(told, indent=1))
    save_file(
        {name: one.contiguous() for name, one in tensors.items()}, folder / "expected.safetensors"
    )
    (folder / "export").mkdir()
    FORMATS[case.form].write(folder / "export", checkpoint)


def _expected(model: VLM, image: np.ndarray) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What is expected of whoever reads the export, JSON-ready and as tensors."""
    llm, encoder = model.llm, model.encoder
    conversation = Conversation(**_words(model))
    end = conversation.answer_end()
    flat = encoder.modality == "image"
    pixels = encoder.transform(image)[None] if flat else torch.zeros(0)
    visual = model.visual_tokens(pixels)[0] if flat else torch.randn(4, llm.dim)
    symbols = list(conversation.prompt(f"<image>\n{QUESTION}").symbols)
    place = symbols.index(-1)
    expanded = symbols[:place] + [-1] * len(visual) + symbols[place + 1 :]
    ids = torch.tensor([expanded])
    embedded = llm.embed(ids.clamp(min=0))
    embedded[ids == -1] = visual
    rows = np.where(np.array(expanded) < 0, np.cumsum(np.array(expanded) < 0) - 1, -1)
    answer = greedy(
        model,
        prompts=[(np.array(expanded), rows)],
        visual_rows=visual,
        end_id=end,
        max_new_tokens=NEW_TOKENS,
    )[0]
    llm.model.set_attn_implementation("sdpa")
    logits = llm.model(inputs_embeds=embedded).logits[0]
    llm.use_prefix_attention()
    config = llm.model.config
    rope = dict(config.rope_parameters)
    told = {
        "end": end,
        "end_token": llm.tokenizer.convert_ids_to_tokens(end),
        "question": QUESTION,
        "texts": [[t, llm.tokenizer(t, add_special_tokens=False)["input_ids"]] for t in TEXTS],
        "ids": symbols,
        "visual_tokens": len(visual),
        "answer": answer,
        "max_new_tokens": NEW_TOKENS,
        "rope": rope,
        "config": {
            name: getattr(config, name)
            for name in ("model_type", *DECODER)
            if name not in ("initializer_range",)
        },
        "flat": flat and math.prod(encoder.grid) > 0,
        "select_layer": getattr(encoder, "select_layer", None),
        "dropped": getattr(encoder, "dropped", 0),
    }
    return told, {"pixels": pixels, "visual": visual, "logits": logits}
