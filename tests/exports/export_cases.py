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
from export_families import DECODER, ENCODERS, FAMILIES, QUESTION, TEXTS, write_llm
from PIL import Image
from safetensors.torch import save_file

from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import FORMATS, load_checkpoint
from spinevl.checkpoints.medmvl_config import END_TOKENS
from spinevl.data.packing.conversation import Conversation
from spinevl.data.packing.prompts import lay_out_prompts
from spinevl.models.assemble import assemble
from spinevl.models.generate import greedy
from spinevl.models.vlm import VLM

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "goldens"
NEW_TOKENS = 12


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
    for llm in END_TOKENS if GOLDENS.is_dir() else ():  # published tokenizers, random weights
        make = partial(random_model, f"golden_{llm}", "clip", "medmvl", False)
        yield Case(f"medmvl-golden-{llm}", "medmvl", False, make)
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
    if llm.startswith("golden_"):
        name = llm.removeprefix("golden_")
        path, end = GOLDENS / "models" / f"llm_{name}", END_TOKENS[name]
    else:
        path, end = home / "llm", FAMILIES[llm].end
        write_llm(path, FAMILIES[llm])
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
            "path": str(path),
            "conversation": conversation,
            "end_token": end if conversation == "medmvl" else None,
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
        prompts=lay_out_prompts([(np.array(expanded), rows)], steps=NEW_TOKENS),
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
