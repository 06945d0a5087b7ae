"""A model's LoRA adapter of its LLM in peft's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spinevl.checkpoints.native import unshared
from spinevl.models.merge import drop_adapters
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError

BASE = "base_model"


def write_adapter(
    folder: Path,
    model: VLM,
    *,
    base: str | None,
    encoder_trained: bool,
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` of the LLM's adapter.

    What else was trained (the connector, an encoder's adapter) goes into ``rest.safetensors``
    under our names, for an adapter alone is not the model.

    Args:
        folder: where to.
        model: with adapters on its LLM.
        base: the Hugging Face id or directory that holds the very LLM that was adapted, for
            ``base_model_name_or_path``; None where none does: it is then written to
            ``base_model/`` beside the adapter.
        encoder_trained: whether the encoder's own weights were trained.

    Raises:
        UserError: the LLM has no adapter.
    """
    from safetensors.torch import save_file

    state = unshared(model)
    adapter = {key: tensor for key, tensor in state.items() if _is_adapter(key, "llm.")}
    if not adapter:
        raise UserError("format=peft: the LLM has no LoRA adapter; train with tuning.llm=lora")
    config: Any = model.llm.model.peft_config["default"]
    config.task_type = "CAUSAL_LM"
    config.base_model_name_or_path = base or BASE
    config.inference_mode = True
    config.save_pretrained(str(folder))
    named = {
        key.replace("llm.model.", "base_model.model.", 1).replace(".default", ""): tensor
        for key, tensor in adapter.items()
    }
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    rest = {
        key: tensor
        for key, tensor in state.items()
        if key.startswith("connector")
        or (key.startswith("encoder") and (encoder_trained or _is_adapter(key, "encoder")))
    }
    save_file(rest, folder / "rest.safetensors", metadata={"format": "pt"})
    model.llm.tokenizer.save_pretrained(folder)
    if base is None:
        drop_adapters(model.llm)
        model.llm.model.save_pretrained(folder / BASE)
        model.llm.tokenizer.save_pretrained(folder / BASE)


def _is_adapter(key: str, part: str) -> bool:
    return key.startswith(part) and ".lora_" in key
