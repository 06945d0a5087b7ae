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

# a group of targets -> what a module on the way to such a Linear is called
GROUPS = {"attention": ("attn", "attention"), "mlp": ("mlp", "ffn", "feed_forward")}


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft.

    Attributes:
        r, alpha, dropout: rank, scale numerator and dropout.
        targets: names of Linears, ``attention`` (all in attention, fused or not), ``mlp`` (all in
            feed-forward layers), or None: every Linear of the part but its output head.
        rslora: scale by alpha / sqrt(r), not alpha / r (Kalajdzievski 2023, arXiv 2312.03732).
        dora: learn the magnitude of each weight's columns besides (Liu et al. 2024, arXiv
            2402.09353); slower.

    Raises:
        UserError: a rank, alpha or dropout that no adapter can have.
    """

    r: int = 16
    alpha: float = 32
    dropout: float = 0.05
    targets: Sequence[str] | str | None = None
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        wrong = [
            ("r", self.r, "a whole number, 1 or more", self.r == int(self.r) and self.r >= 1),
            ("alpha", self.alpha, "more than 0", self.alpha > 0),
            ("dropout", self.dropout, "0 or more and less than 1", 0 <= self.dropout < 1),
        ]
        problems = [
            f"tuning.lora.{name}={value}: expected {expected}"
            for name, value, expected, fits in wrong
            if not fits
        ]
        if problems:
            raise UserError(problems)


def apply_tuning(model: VLM, modes: Mapping[str, str], *, lora: Lora) -> None:
    """Freeze, adapt or free each part of the model, in place.

    Args:
        model: the model; eyes for volumes beside those for images are tuned like them.
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
        for name in (part, f"{part}3d"):
            module = getattr(model, name, None)
            if module is not None:
                module.requires_grad_(mode == "full")
                if mode == "lora":
                    _inject(module, name, lora)


def _inject(module: nn.Module, part: str, lora: Lora) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    target: Any = module.model if part == "llm" else module
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    config = LoraConfig(
        r=int(lora.r),
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=_wanted(target, part, lora.targets),
        use_rslora=lora.rslora,
        use_dora=lora.dora,
    )
    inject_adapter_in_model(config, target)


def _wanted(target: Any, part: str, targets: Sequence[str] | str | None) -> list[str]:
    """The names of the Linears to adapt, as peft matches them."""
    if any(isinstance(child, nn.TransformerEncoderLayer) for child in target.modules()):
        raise UserError(
            f"tuning.{part.removesuffix('3d')}=lora: this {part} is made of torch's "
            "TransformerEncoderLayer, which reads its weights past an adapter; use full or frozen"
        )
    linears = _linears(target, head=target.get_output_embeddings() if part == "llm" else None)
    names, missing = linears, list[str]()
    if isinstance(targets, str):
        if targets not in GROUPS:
            raise UserError(
                f"tuning.lora.targets={targets}: expected {', '.join(GROUPS)}, null or a list of "
                f"names such as [{targets}]"
            )
        names = [one for one in linears if _in_group(one, targets)]
    elif targets is not None:
        names = [one for one in linears if any(_named(one, name) for name in targets)]
        missing = [name for name in targets if not any(_named(one, name) for one in linears)]
    if missing or not names:
        known = sorted({one.rpartition(".")[2] for one in linears})
        raise UserError(
            f"tuning.lora.targets={missing or targets}: this {part} has no such linear layers; it "
            f"has {', '.join(known) or 'none'}"
        )
    last = {one.rpartition(".")[2] for one in names}
    alike = {name for name, _ in target.named_modules() if name.rpartition(".")[2] in last}
    return sorted(last) if alike == set(names) else names


def _linears(target: nn.Module, *, head: nn.Module | None) -> list[str]:
    """Names of the Linears that an adapter can stand in for."""
    # MultiheadAttention reads the weight of its out_proj and never calls it
    closed = tuple(
        f"{name}."
        for name, child in target.named_modules()
        if isinstance(child, nn.MultiheadAttention)
    )
    return [
        name
        for name, child in target.named_modules()
        if isinstance(child, nn.Linear) and child is not head and not name.startswith(closed)
    ]


def _in_group(name: str, group: str) -> bool:
    above = name.split(".")[:-1]
    return any(sign in one for one in above for sign in GROUPS[group])


def _named(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")
