"""What of each part learns: frozen, lora or full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError

MODES = ("frozen", "lora", "full")
PARTS = ("encoder", "connector", "llm")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft.

    Attributes:
        r, alpha, dropout: rank, scale numerator and dropout.
        targets: module names; None takes every Linear of the part but its output head.
    """

    r: int = 16
    alpha: float = 32
    dropout: float = 0.05
    targets: Sequence[str] | None = None


def apply_tuning(model: VLM, modes: Mapping[str, str], *, lora: Lora) -> None:
    """Freeze, adapt or free each part of the model, in place.

    Args:
        model: the model.
        modes: part -> ``frozen``, ``lora`` (encoder and llm) or ``full``.
        lora: the adapters' settings.

    Raises:
        UserError: an unknown mode, LoRA on the connector, or targets that do not exist.
    """
    for part in PARTS:
        mode = modes[part]
        if mode not in MODES or (part == "connector" and mode == "lora"):
            allowed = [m for m in MODES if m != "lora" or part != "connector"]
            raise UserError(f"tuning.{part}={mode}: expected one of {', '.join(allowed)}")
        module = getattr(model, part)
        module.requires_grad_(mode == "full")
        if mode == "lora":
            _inject(module, part, lora)


def _inject(module: nn.Module, part: str, lora: Lora) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    target: Any = module.model if part == "llm" else module
    head = target.get_output_embeddings() if part == "llm" else None
    linears = {
        name
        for name, child in target.named_modules()
        if isinstance(child, nn.Linear) and child is not head
    }
    wanted = list(lora.targets) if lora.targets else sorted({n.rsplit(".", 1)[-1] for n in linears})
    missing = [name for name in wanted if not any(n.endswith(name) for n in linears)]
    if missing or not linears:
        raise UserError(
            f"tuning.lora.targets={missing}: this {part} has no such linear layers; it has "
            f"{', '.join(sorted({n.rsplit('.', 1)[-1] for n in linears})) or 'none'}"
        )
    config = LoraConfig(
        r=lora.r, lora_alpha=int(lora.alpha), lora_dropout=lora.dropout, target_modules=wanted
    )
    inject_adapter_in_model(config, target)
