"""A model's LoRA adapter of its LLM in peft's layout; only written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spinevl.build.allowlist import OURS, Allowed
from spinevl.checkpoints.format import Checkpoint, only_written
from spinevl.checkpoints.weights import unshared
from spinevl.io.tensors import write_tensors
from spinevl.models.merge import drop_adapters
from spinevl.schema.errors import UserError

BASE = "base_model"
"""The folder of the LLM that was adapted, where it is not published."""


class AdapterFormat:
    """See CheckpointFormat."""

    name = "peft"

    def detect(self, folder: Path) -> bool:
        """See CheckpointFormat."""
        return (folder / "adapter_config.json").is_file()

    def read(self, folder: Path, *, allowed: Allowed = OURS) -> Checkpoint:
        """See CheckpointFormat."""
        raise only_written(folder, self.name)

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors`` of the LLM's adapter.

        What else was trained (the connector, an encoder's weights or adapter) goes into
        ``rest.safetensors`` under our names, since an adapter alone is not the model. The config
        names the LLM that was adapted; one that is not published is written beside the adapter.

        Raises:
            UserError: the LLM has no adapter.
        """
        model, parts = checkpoint.model, checkpoint.parts
        state = unshared(model)
        adapter = {key: tensor for key, tensor in state.items() if _is_adapter(key, "llm.")}
        if not adapter:
            raise UserError("format=peft: the LLM has no LoRA adapter; train with tuning.llm=lora")
        # trained from a checkpoint, the LLM is no longer the one that its path names
        base = None if checkpoint.parent else parts["llm"].get("path")
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
        rest = {
            key: tensor
            for key, tensor in state.items()
            if key.startswith("connector")
            or (key.startswith("encoder") and (trained or _is_adapter(key, "encoder")))
        }
        write_tensors(folder / "rest.safetensors", rest)
        model.llm.tokenizer.save_pretrained(folder)
        if base is None:
            drop_adapters(model.llm)
            model.llm.model.save_pretrained(folder / BASE)
            model.llm.tokenizer.save_pretrained(folder / BASE)


def _is_adapter(key: str, part: str) -> bool:
    return key.startswith(part) and ".lora_" in key
