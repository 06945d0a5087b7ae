"""A model's LoRA adapter of its LLM in peft's layout; only written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinevl.build.allowlist import OURS, Allowed
from spinevl.checkpoints.format import Checkpoint, only_written
from spinevl.checkpoints.interchange import (
    end_of_answers,
    write_config,
    write_generation_config,
    write_tokenizer,
)
from spinevl.checkpoints.weights import unshared
from spinevl.io.tensors import write_tensors
from spinevl.models.held import Held
from spinevl.models.merge import drop_adapters
from spinevl.schema.errors import UserError

BASE = "base_model"
"""The folder of the LLM that was adapted, where it is not published."""


class AdapterFormat:
    """See CheckpointFormat."""

    name = "peft"

    def detect(self, folder: Path, config: Mapping[str, Any]) -> bool:
        """See CheckpointFormat."""
        return (folder / "adapter_config.json").is_file()

    def read(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        allowed: Allowed = OURS,
        held: Held | None = None,
    ) -> Checkpoint:
        """See CheckpointFormat."""
        raise only_written(folder, self.name)

    def parts(
        self, folder: Path, config: Mapping[str, Any], *, allowed: Allowed = OURS
    ) -> dict[str, Any]:
        """See CheckpointFormat."""
        raise only_written(folder, self.name)

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors`` of the LLM's adapter.

        An adapter alone is not the model: the connector, an encoder's adapter, and the weights of
        an encoder that are not those that its path names go into ``rest.safetensors`` under our
        names. The config names the LLM that was adapted; one that is found nowhere else, as after
        an earlier training, is written beside the adapter.

        Raises:
            UserError: the LLM has no adapter.
        """
        model, parts = checkpoint.model, checkpoint.parts
        state = unshared(model)
        adapter = {key: tensor for key, tensor in state.items() if _is_adapter(key, "llm.")}
        if not adapter:
            raise UserError("format=peft: the LLM has no LoRA adapter; train with tuning.llm=lora")
        base = _as_found("llm", checkpoint)
        config: Any = model.llm.model.peft_config["default"]
        config.task_type = "CAUSAL_LM"
        config.base_model_name_or_path = base or BASE
        config.inference_mode = True
        config.save_pretrained(str(folder))
        named = {
            key.replace("llm.model.", "base_model.model.", 1).replace(".default", ""): tensor
            for key, tensor in adapter.items()
        }
        write_tensors(folder / "adapter_model.safetensors", named)
        trained = parts["tuning"]["encoder"] == "full"
        changed = [p for p in ("encoder", "encoder3d") if trained or not _as_found(p, checkpoint)]
        whole = tuple(f"{part}." for part in ("connector", "connector3d", *changed))
        rest = {
            key: tensor
            for key, tensor in state.items()
            if key.startswith(whole) or _is_adapter(key, "encoder")
        }
        write_tensors(folder / "rest.safetensors", rest)
        write_generation_config(folder, model)
        write_tokenizer(folder, model.llm.tokenizer)
        if base is None:
            drop_adapters(model.llm)
            model.llm.model.save_pretrained(folder / BASE)
            end = end_of_answers(model)
            write_config(folder / BASE, model.llm.model.config, eos_token_id=end)
            write_generation_config(folder / BASE, model)
            write_tokenizer(folder / BASE, model.llm.tokenizer)


def _as_found(part: str, checkpoint: Checkpoint) -> str | None:
    """The path or id whose weights a part has, but for what this training did to it.

    None where its weights are nowhere else: it began at random, or an earlier training, whose
    checkpoint this one started from, has changed them.
    """
    node = checkpoint.parts.get(part) or {}
    return node.get("path") if node.get("pretrained", True) and not checkpoint.parent else None


def _is_adapter(key: str, part: str) -> bool:
    return key.startswith(part) and ".lora_" in key
