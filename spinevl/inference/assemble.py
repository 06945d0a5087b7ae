"""Build a model from config nodes, new or as a checkpoint describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.config import build
from spinevl.data.collate import Collator
from spinevl.data.conversation import Conversation
from spinevl.models.checkpoint import load_weights, read_config
from spinevl.models.llm import CausalLM
from spinevl.models.tuning import Lora, apply_tuning
from spinevl.models.vlm import VLM
from spinevl.schema.task import Task

Nodes = Mapping[str, Any]


def assemble(parts: Nodes, *, trusted: Sequence[str] = ()) -> VLM:
    """A model from the nodes ``encoder``, ``connector``, ``llm`` and ``tuning``.

    Sizes are asked from the parts: the connector is told its widths, never configured with them.
    """
    encoder = build(parts["encoder"], trusted=trusted)
    llm = build(parts["llm"], trusted=trusted)
    connector = build(parts["connector"], trusted=trusted)(
        in_dim=encoder.dim,
        out_dim=llm.dim,
        in_tokens=encoder.tokens,
        in_grid=encoder.grid,
    )
    model = VLM(encoder, connector, llm)
    tuning = parts["tuning"]
    apply_tuning(model, tuning, lora=Lora(**tuning["lora"]))
    return model


def conversation_of(llm: CausalLM) -> Conversation:
    """Writes conversations as the model's LLM reads them."""
    return Conversation(llm.tokenizer, template=llm.conversation, end_token=llm.end_token)


def collator_of(model: VLM, tasks: Mapping[str, Task], **options: Any) -> Collator:
    """A Collator that lays out batches as ``model`` reads them; ``options`` are its others."""
    return Collator(
        tasks=tasks,
        conversation=conversation_of(model.llm),
        tokens_per_image=model.tokens_per_image,
        transform=model.encoder.transform,
        max_length=model.llm.max_length,
        **options,
    )


def load_model(folder: Path, *, trusted: Sequence[str] = ()) -> tuple[VLM, dict[str, Any]]:
    """The model of a checkpoint in evaluation mode, and the checkpoint's config.

    Args:
        folder: the checkpoint.
        trusted: target prefixes that the caller trusts; the checkpoint has no say in it.
    """
    config = read_config(folder)
    parts = {name: dict(node) for name, node in config["parts"].items()}
    for part in ("encoder", "llm"):
        if "path" in parts[part]:
            parts[part] |= {"path": str(folder / part), "pretrained": False}
    model = assemble(parts, trusted=trusted)
    load_weights(folder, model)
    return model.eval(), config


def stored_tasks(config: Mapping[str, Any]) -> dict[str, Task]:
    """The tasks that a checkpoint was trained for."""
    return {name: build(node) for name, node in config["study"]["task"].items()}
