"""What of each part is trained: nothing, LoRA adapters, or every weight."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from spinevl.config.check import from_plain, validate
from spinevl.config.options import LoraOptions, Mode, TuningOptions
from spinevl.models import adapted_linear
from spinevl.models.connector.base import Connector
from spinevl.models.encoder.base import Encoder
from spinevl.models.quantized import import_bitsandbytes
from spinevl.models.vlm import VLM, learns
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import Modality

PARTS = ("encoder", "connector", "llm")

# a group of targets -> how modules above such a Linear are named
GROUPS = {"attention": ("attn", "attention"), "mlp": ("mlp", "ffn", "feed_forward")}


def tuning_options(node: Mapping[str, Any]) -> TuningOptions:
    """The options of a plain node, as a checkpoint stores it: every part may be frozen there.

    Raises:
        UserError: an unknown mode or LoRA setting.
    """
    lora = from_plain(LoraOptions, node["lora"], at="tuning.lora")
    return TuningOptions(**{part: node[part] for part in PARTS}, lora=lora)


def apply_tuning(model: VLM, options: TuningOptions) -> None:
    """Freeze, adapt or free each part of the model, in place; what is never reached stays frozen.

    Args:
        model: the model; a second vision branch is tuned like the first.
        options: the mode of each part, and the adapters' settings.

    Raises:
        UserError: an unknown mode, LoRA on the connector, a rank, alpha or dropout out of range,
            or targets that do not exist.
    """
    validate(options.lora, at="tuning.lora")
    for part in PARTS:
        mode = getattr(options, part)
        allowed = [str(m) for m in Mode if m != Mode.lora or part != "connector"]
        if mode not in allowed:
            raise UserError(f"tuning.{part}={mode}: expected one of {', '.join(allowed)}")
        for name in (part, f"{part}3d"):
            module = getattr(model, name, None)
            if module is not None:
                module.requires_grad_(mode == Mode.full)
                if mode == Mode.lora:
                    _inject(module, name, options.lora)
                if isinstance(module, Encoder | Connector):
                    for one in module.unreached():
                        one.requires_grad_(False)


def freeze_unshown(model: VLM, shown: Collection[Modality]) -> None:
    """Freeze the vision branches of which the training examples show nothing, in place.

    Args:
        model: the model, tuned.
        shown: the modalities that the training examples show.

    Raises:
        UserError: nothing that learns is left.
    """
    unshown = {kind: one for kind, one in model.vision_branches().items() if kind not in shown}
    for branch in unshown.values():
        branch.encoder.requires_grad_(False)
        branch.connector.requires_grad_(False)
    if unshown and not learns(model):
        raise UserError(
            f"tuning: nothing learns, for no training example shows <{'>, <'.join(unshown)}>; set "
            "tuning.llm=lora or full, or train on examples with images"
        )


def _inject(module: nn.Module, part: str, lora: LoraOptions) -> None:
    import_bitsandbytes()
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import cast_adapter_dtype

    target: Any = module.model if part == "llm" else module
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    config = LoraConfig(
        r=int(lora.r),
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=_target_names(target, part, lora.targets),
        use_rslora=lora.rslora,
        use_dora=lora.dora,
    )
    inject_adapter_in_model(config, target)
    cast_adapter_dtype(target, "default")  # what learns is float32, whatever the weights beside it
    if part == "llm":
        adapted_linear.install(target)


def _target_names(target: Any, part: str, targets: Sequence[str] | str | None) -> list[str]:
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
    same_last = {name for name, _ in target.named_modules() if name.rpartition(".")[2] in last}
    return sorted(last) if same_last == set(names) else names


def _linears(target: nn.Module, *, head: nn.Module | None) -> list[str]:
    """Names of the Linears that an adapter can wrap."""
    # MultiheadAttention uses the weight of out_proj without calling it: an adapter does nothing
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
