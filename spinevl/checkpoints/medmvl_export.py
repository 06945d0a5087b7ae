"""A model as a MedM-VL checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from spinevl.checkpoints.medmvl import CONNECTORS, ENCODERS, END_TOKENS, medmvl_tensors
from spinevl.checkpoints.native import unshared
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError


def write_medmvl(folder: Path, model: VLM) -> None:
    """Write ``config.json``, ``model.safetensors`` and the base directories into ``folder``.

    The base LLM's and encoders' configs, tokenizer and image processor go into ``llm/``,
    ``encoder_image/`` and ``encoder_image3d/``, and the config names them so: MedM-VL finds them
    with the checkpoint as its working directory. The output head is written even where it is
    tied, for upstream's reload leaves a missing one random.

    Raises:
        UserError: a part that MedM-VL does not have, before anything is written.
    """
    from safetensors.torch import save_file

    fields = _fields(model)
    tensors = medmvl_tensors(model, unshared(model))
    tensors.setdefault("llm.lm_head.weight", tensors["llm.model.embed_tokens.weight"].clone())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model.llm.save_description(folder / "llm")
    model.llm.tokenizer.save_pretrained(folder)
    for side, encoder in _sides(model).items():
        encoder.save_description(folder / f"encoder_{side}")
    config = {
        "architectures": ["LVLMForConditionalGeneration"],
        "model_type": "lvlm",
        "torch_dtype": "float32",
        "hidden_size": model.llm.dim,
        **{f"lvlm_{name}": value for name, value in fields.items()},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _sides(model: VLM) -> dict[str, Any]:
    """``image``, ``image3d`` -> the encoder that MedM-VL has there."""
    sides: dict[str, Any] = {}
    for encoder, _ in model.vision_branches().values():
        slices = encoder.modality == "image3d" and hasattr(encoder, "vision")
        alone = len(model.vision_branches()) == 1
        sides["image" if slices and alone else encoder.modality] = encoder
    return sides


def _fields(model: VLM) -> dict[str, Any]:
    llm = model.llm
    if llm.conversation != "medmvl":
        raise UserError(
            f"format=medmvl: the model was trained with llm.conversation={llm.conversation}, and "
            "MedM-VL would ask it in its own words; train with llm.conversation=medmvl"
        )
    for pair in model.vision_branches().values():
        _require_standard(*pair, alone=len(model.vision_branches()) == 1)
    fields: dict[str, Any] = {
        "llm_type": _llm_type(model),
        "llm_name_or_path": "llm",
        "llm_max_length": llm.max_length,
        "llm_padding_side": "right",
        "llm_attn_implementation": "sdpa",
        "llm_initializer_range": float(getattr(llm.model.config, "initializer_range", 0.02)),
    }
    connectors = {id(encoder): connector for encoder, connector in model.vision_branches().values()}
    sides = _sides(model)
    for side in ("image", "image3d"):
        encoder = sides.get(side)
        connector = connectors.get(id(encoder))
        names: dict[str, Any] = {
            "type": None,
            "name_or_path": None,
            "select_layer": None,
            "select_feature": None,
        }
        bridge: dict[str, Any] = {"type": None, "name": None, "path": None}
        if encoder is not None:
            names = {
                "type": _name(encoder, ENCODERS, "encoder"),
                "name_or_path": f"encoder_{side}",
                "select_layer": encoder.select_layer,
                "select_feature": encoder.select_feature,
            }
            layers = sum(hasattr(one, "weight") for one in connector.connector)  # type: ignore[union-attr]
            kind = _name(connector, CONNECTORS, "connector")
            bridge |= {"type": kind, "name": f"mlp{layers}x_gelu"}
        fields |= {f"encoder_{side}_{name}": value for name, value in names.items()}
        fields |= {f"connector_{side}_{name}": value for name, value in bridge.items()}
    return fields


def _require_standard(encoder: Any, connector: Any, *, alone: bool) -> None:
    """Raise UserError for settings that MedM-VL's config has no field for, and would change."""
    kind = type(connector).__name__
    slices = hasattr(encoder, "slices")
    wrong = None
    if slices and encoder.slices != 32:
        wrong = f"encoder.slices={encoder.slices}, not 32"
    elif getattr(connector, "pool", 2) != 2:
        wrong = f"connector.pool={connector.pool}, not 2"
    elif kind == "AttnPoolingConnector" and connector.attn.num_heads != 8:
        wrong = f"connector.heads={connector.attn.num_heads}, not 8"
    elif kind == "AttnPoolingConnector" and connector.tokens != math.prod(encoder.grid[-2:]):
        wrong = f"connector.tokens={connector.tokens}, not null"
    elif slices != (kind == "AttnPoolingConnector") and (slices or hasattr(encoder, "vision")):
        wrong = "attn_pooling without slices, or slices without attn_pooling"
    elif slices and not alone:
        wrong = "slices beside another encoder"
    if wrong:
        raise UserError(f"format=medmvl: MedM-VL would read this checkpoint otherwise: {wrong}")


def _llm_type(model: VLM) -> str:
    end = model.llm.end_token or model.llm.tokenizer.eos_token
    kind = str(model.llm.model.config.model_type)
    kind = "llama3" if kind == "llama" and end == END_TOKENS["llama3"] else kind
    if END_TOKENS.get(kind) != end:
        raise UserError(
            f"format=medmvl: MedM-VL has no LLM of type {kind} whose answers end in {end!r}; it "
            f"has {', '.join(f'{name} ({token})' for name, token in END_TOKENS.items())}"
        )
    return kind


def _name(part: Any, known: dict[str, dict[str, Any]], what: str) -> str:
    """MedM-VL's name of one of our parts."""
    kind = type(part)
    for name, node in known.items():
        same = node["_target_"] == f"{kind.__module__}.{kind.__qualname__}"
        slices = kind.__name__ == "SliceEncoder" and "kind" in node
        if (same or slices) and node.get("kind") == getattr(part, "kind", None):
            return name
    raise UserError(
        f"format=medmvl: MedM-VL has no {what} like {kind.__name__}; it has {', '.join(known)}"
    )
