"""Configs and tokenizers in files that transformers 4 and 5 both read, and read alike.

transformers 5 renamed or moved some of what a ``config.json`` says, and 4 ignores the new names
without a word: without ``rope_theta`` it computes with 10000. So both spellings are written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinevl.checkpoints.format import CONFIG
from spinevl.data.packing.conversation import Conversation
from spinevl.models.vlm import VLM
from spinevl.schema.errors import refused

TRIED = ("4.42.4", "4.57.6", "5.6.0", "5.23.0")
"""The versions of transformers that ``make check-exports`` loads the exports with."""

# tokenizer classes that both versions build from vocab.json and merges.txt, and MedM-VL from
# nothing else; any other tokenizer is its tokenizer.json
_BYTE_LEVEL = ("Qwen2Tokenizer", "CodeGenTokenizer")
# what only describes this machine or this version
_OWN = ("_name_or_path", "backend", "is_local", "local_files_only")


def end_of_answers(model: VLM) -> int:
    """The token that was learned as the end of an answer, and that ends generation."""
    inputs = model.inputs()
    return Conversation(
        inputs.tokenizer, template=inputs.conversation, end_token=inputs.end_token
    ).answer_end()


def write_config(folder: Path, config: Any, **fields: Any) -> None:
    """Write the ``config.json`` of a Hugging Face config; ``fields`` stand in for its own."""
    try:
        told = both_spellings({**_written(config), **fields})
    except KeyError as error:
        where = f"rope_parameters of the {config.model_type} config"
        fix = "mend the config.json of the base model"
        raise refused(where, f"a value for {error}", "none", fix) from error
    write_json(folder / CONFIG, told)


def write_generation_config(folder: Path, model: VLM) -> None:
    """Write a ``generation_config.json`` that decodes as we do: greedily, to the learned end."""
    from transformers import GenerationConfig

    tokenizer, end = model.llm.tokenizer, end_of_answers(model)
    pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=pad, do_sample=False
    ).save_pretrained(folder)


def write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Write a tokenizer's files, with the original vocabulary files where it had such ones."""
    tokenizer.save_pretrained(folder)
    _write_vocabulary(folder, tokenizer)
    file = folder / "tokenizer_config.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    told = {key: value for key, value in told.items() if key not in _OWN}
    if told.get("tokenizer_class") not in _BYTE_LEVEL:
        told["tokenizer_class"] = "PreTrainedTokenizerFast"
    if (extra := told.pop("extra_special_tokens", None)) is not None:
        told["additional_special_tokens"] = extra
    told["added_tokens_decoder"] = {
        str(number): {
            "content": token.content,
            **{name: getattr(token, name) for name in ("lstrip", "normalized", "rstrip")},
            "single_word": token.single_word,
            "special": token.special,
        }
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
    }
    if isinstance(tokenizer.chat_template, str):  # transformers 5 writes it to a file of its own
        told["chat_template"] = tokenizer.chat_template
    write_json(file, told)


def write_image_processor(folder: Path, processor: Any) -> None:
    """Write ``preprocessor_config.json``; the class has its name without a backend."""
    told = json.loads(processor.to_json_string())
    told["image_processor_type"] = type(processor).__name__.removesuffix("Pil")
    write_json(folder / "preprocessor_config.json", told)


def write_json(file: Path, content: Any) -> None:
    """Write JSON as Hugging Face does."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")


def both_spellings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as transformers 5 writes it, with what 4 calls otherwise; nested ones likewise."""
    told = {
        key: both_spellings(value) if key.endswith("_config") and value else value
        for key, value in config.items()
        if key not in _OWN
    }
    if "dtype" in told:
        told["torch_dtype"] = told["dtype"]
    rope = told.get("rope_parameters") or {}
    if "full_attention" in rope:  # Gemma 3 has two
        told["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    if rope:
        told["rope_theta"] = rope["rope_theta"]
        told["rope_scaling"] = _rope_scaling(rope)
    if "partial_rotary_factor" in rope:
        told["partial_rotary_factor"] = rope["partial_rotary_factor"]
    return told


def _rope_scaling(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    """``rope_scaling`` with exactly the fields that transformers 4 accepts of each type.

    Llama 3's and Phi-3's long ones are newer than 4.42, which refuses them by name.
    """
    kind = rope["rope_type"]
    if kind == "default":
        return None
    if kind in ("linear", "dynamic"):
        return {"type": kind, "factor": float(rope["factor"])}
    if kind == "longrope":
        return {"type": kind, **{name: rope[name] for name in ("short_factor", "long_factor")}}
    moved = ("rope_theta", "partial_rotary_factor")
    return {key: value for key, value in rope.items() if key not in moved}


def _written(config: Any) -> dict[str, Any]:
    """All values of a config: defaults differ from version to version."""
    return dict(json.loads(config.to_json_string(use_diff=False)))


def _write_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Write ``vocab.json`` and ``merges.txt``, and ``tokenizer.json`` with merges as 4 reads them.

    A merge was a text with a space in it before it was a pair; a pair whose own tokens have
    spaces cannot be written so, and stays.
    """
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    model = told["model"]
    if model["type"] != "BPE":
        return
    pairs = [one.split(" ") if isinstance(one, str) else one for one in model["merges"]]
    if any(" " in token for pair in pairs for token in pair):
        return
    model["merges"] = [" ".join(pair) for pair in pairs]
    write_json(file, told)
    if type(tokenizer).__name__ in _BYTE_LEVEL:
        write_json(folder / "vocab.json", model["vocab"])
        text = "\n".join(["#version: 0.2", *model["merges"], ""])
        (folder / "merges.txt").write_text(text, encoding="utf-8")
