"""MedM-VL's ``config.json`` as our parts, and back.

A config names its base LLM and encoder, whose directories hold config, tokenizer and image
processor; they are searched beside the checkpoint and its parents, in the working directory, and
else by Hugging Face id. Both generations are read: fields with the prefix ``lvlm_`` (since October
2025), and without it and with nested configs.

MedM-VL calls its vision branches by sides, ``image`` and ``image3d``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spinevl.checkpoints.format import CONFIG
from spinevl.config.option_names import option_of
from spinevl.models.vlm import VLM, VisionBranch
from spinevl.schema.errors import Problems, UserError, refused
from spinevl.schema.image_ref import MODALITIES, Modality

_FORM = "format=medmvl"  # where a refusal of an export points to
END_TOKENS = {
    "qwen2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "phi": "<|endoftext|>",
    "phi3": "<|endoftext|>",
    "llama": "</s>",
}
ENCODERS: dict[str, dict[str, Any]] = {
    "clip": {"_target_": "spinevl.models.encoder.hf.HFVisionEncoder", "kind": "clip"},
    "siglip": {"_target_": "spinevl.models.encoder.hf.HFVisionEncoder", "kind": "siglip"},
    "m3dclip": {"_target_": "spinevl.models.encoder.m3dclip.M3DClipEncoder"},
    "medmclip": {"_target_": "spinevl.models.encoder.medmclip.MedMClipEncoder"},
}
CONNECTORS: dict[str, dict[str, Any]] = {
    "mlp": {"_target_": "spinevl.models.connector.mlp.MLPConnector"},
    "spatial_pooling": {
        "_target_": "spinevl.models.connector.spatial_pooling.SpatialPoolingConnector"
    },
    "attn_pooling": {"_target_": "spinevl.models.connector.attn_pooling.AttnPoolingConnector"},
}
FROZEN = {
    **dict.fromkeys(("encoder", "connector", "llm"), "frozen"),
    "lora": {"r": 16, "alpha": 32, "dropout": 0.05, "targets": None},
}
_BRANCH_FIELDS = (
    *("encoder_{}_type", "encoder_{}_name_or_path"),
    *("encoder_{}_select_layer", "encoder_{}_select_feature"),
    *("connector_{}_type", "connector_{}_name", "connector_{}_path"),
)


def sides_of(model: VLM) -> dict[Modality, VisionBranch]:
    """MedM-VL's sides and the vision branches that it has there, in our order.

    A 2D encoder that reads volumes slice by slice stands alone, and on the side of the images.
    """
    branches = model.vision_branches()
    if len(branches) == 1 and hasattr(model.encoder, "vision"):
        return {"image": branches[model.encoder.modality]}
    return branches


def parts_from(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The nodes of our parts that a MedM-VL config describes.

    Args:
        config: its ``config.json``.
        folder: the checkpoint.

    Raises:
        UserError: a part's type or name is unknown, or no encoder is named.
    """
    where = folder / CONFIG

    def field(name: str) -> Any:
        value = config.get(f"lvlm_{name}", config.get(name))
        optional = name == "llm_max_length" and value is None
        number = name.endswith(("_select_layer", "_max_length"))
        if number and not optional and type(value) is not int:
            raise refused(f"{where}: {name}", "a whole number", repr(value), "mend it")
        return value

    sides = [side for side in MODALITIES if field(f"encoder_{side}_type")]
    if not sides:
        raise UserError(f"{where}: no encoder_image_type and no encoder_image3d_type: no encoder")
    parts: dict[str, Any] = {"llm": _llm(field, folder)}
    for side, suffix in zip(sides, ("", "3d"), strict=False):
        parts[f"encoder{suffix}"] = _encoder(field, side, folder)
        parts[f"connector{suffix}"] = _connector(field, side, folder)
    parts["tuning"] = FROZEN
    return parts


def _llm(field: Callable[[str], Any], folder: Path) -> dict[str, Any]:
    return {
        "_target_": "spinevl.models.llm.HFCausalLM",
        "path": _source(field("llm_name_or_path"), folder),
        "conversation": "medmvl",
        "pretrained": False,
        "dtype": "auto",
        "end_token": _known(field, "llm_type", END_TOKENS, folder),
        "max_length": field("llm_max_length"),
    }


def _encoder(field: Callable[[str], Any], side: str, folder: Path) -> dict[str, Any]:
    node = dict(_known(field, f"encoder_{side}_type", ENCODERS, folder))
    if "kind" in node and (side == "image3d" or field("connector_image_type") == "attn_pooling"):
        # a 2D encoder before attention pooling reads volumes slice by slice
        node["_target_"] = "spinevl.models.encoder.slices.SliceEncoder"
    return {
        **node,
        "path": _source(field(f"encoder_{side}_name_or_path"), folder),
        "select_layer": field(f"encoder_{side}_select_layer"),
        "select_feature": field(f"encoder_{side}_select_feature"),
        "pretrained": False,
        "dtype": "auto",
    }


def _known(field: Callable[[str], Any], name: str, known: Mapping[str, Any], folder: Path) -> Any:
    """What a table says of a field's value. Raises UserError where it does not know it."""
    kind = field(name)
    if kind not in known:
        where = f"{folder / CONFIG}: {name}"
        raise refused(where, ", ".join(known), repr(kind), "mend it")
    return known[kind]


def _connector(field: Callable[[str], Any], side: str, folder: Path) -> dict[str, Any]:
    node = _known(field, f"connector_{side}_type", CONNECTORS, folder)
    name = str(field(f"connector_{side}_name"))
    if (layers := re.fullmatch(r"mlp(\d+)x_gelu", name)) is None:
        where = f"{folder / CONFIG}: connector_{side}_name"
        raise refused(where, "mlpNx_gelu", name, "mend it")
    return {**node, "_partial_": True, "layers": int(layers[1])}


def _source(name: Any, folder: Path) -> str:
    """A base directory beside the checkpoint or its parents, or the name as it is."""
    if not isinstance(name, str) or not name:
        raise UserError(f"{folder / CONFIG}: a part has no name_or_path; mend it")
    folder = folder.absolute()
    for root in (folder, *list(folder.parents)[:3], Path.cwd()):
        if (root / name / CONFIG).is_file():
            return str(root / name)
    return name


def config_from(model: VLM, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of a model, whose base directories lie in the checkpoint.

    Args:
        model: the model.
        parts: its nodes.

    Raises:
        UserError: with every part and setting that MedM-VL does not have.
    """
    llm = model.llm
    problems = Problems()
    if llm.conversation != "medmvl":
        expected = "llm.conversation=medmvl, the words in which MedM-VL asks"
        found = f"llm.conversation={llm.conversation}"
        problems.add(_FORM, expected, found, "train with llm.conversation=medmvl")
    sides = sides_of(model)
    for branch, suffix in zip(sides.values(), ("", "3d"), strict=False):
        for part, known in ((branch.encoder, ENCODERS), (branch.connector, CONNECTORS)):
            group = "encoder" if part is branch.encoder else "connector"
            if _name(part, known) is None:
                expected = " or ".join(f"{group}={one}" for one in known)
                found = option_of(group, parts[f"{group}{suffix}"])
                problems.add(_FORM, expected, found, "train with one of them")
    if not problems:
        for branch in sides.values():
            with problems.collected():
                _require_standard(branch, alone=len(sides) == 1)
    with problems.collected():
        kind = _llm_type(model, parts)
    problems.raise_any()
    fields: dict[str, Any] = {
        "llm_type": kind,
        "llm_name_or_path": "llm",
        "llm_max_length": llm.max_length,
        "llm_padding_side": "right",
        "llm_attn_implementation": "sdpa",
        "llm_initializer_range": float(getattr(llm.model.config, "initializer_range", 0.02)),
    }
    for side in MODALITIES:
        values = _branch_values(sides[side], side) if side in sides else [None] * 7
        names = [name.format(side) for name in _BRANCH_FIELDS]
        fields |= dict(zip(names, values, strict=True))
    return {
        "architectures": ["LVLMForConditionalGeneration"],
        "model_type": "lvlm",
        "torch_dtype": "float32",
        "hidden_size": llm.dim,
        **{f"lvlm_{name}": value for name, value in fields.items()},
    }


def _branch_values(branch: VisionBranch, side: str) -> list[Any]:
    """The values of ``_BRANCH_FIELDS``."""
    encoder: Any = branch.encoder
    layers: Any = branch.connector.connector
    return [
        _name(encoder, ENCODERS),
        f"encoder_{side}",
        encoder.select_layer,
        encoder.select_feature,
        _name(branch.connector, CONNECTORS),
        f"mlp{sum(hasattr(one, 'weight') for one in layers)}x_gelu",
        None,
    ]


def _require_standard(branch: VisionBranch, *, alone: bool) -> None:
    """Raise UserError for settings that MedM-VL's config has no field for, and would change."""
    encoder: Any = branch.encoder
    connector: Any = branch.connector
    attention = type(connector).__name__ == "AttnPoolingConnector"
    slices = hasattr(encoder, "slices")
    wrong = None
    if slices and encoder.slices != 32:
        wrong = "encoder.slices=32", f"encoder.slices={encoder.slices}"
    elif getattr(connector, "pool", 2) != 2:
        wrong = "connector.pool=2", f"connector.pool={connector.pool}"
    elif attention and connector.attn.num_heads != 8:
        wrong = "connector.heads=8", f"connector.heads={connector.attn.num_heads}"
    elif attention and connector.tokens != math.prod(encoder.grid[-2:]):
        wrong = "connector.tokens=null", f"connector.tokens={connector.tokens}"
    elif slices and not attention:
        wrong = "connector=attn_pooling behind encoder=siglip_slices", "another connector"
    elif attention and not slices and hasattr(encoder, "vision"):
        wrong = "encoder=siglip_slices before connector=attn_pooling", "another encoder"
    elif slices and not alone:
        wrong = "encoder=siglip_slices alone", "another encoder beside it"
    if wrong:
        raise refused(_FORM, wrong[0], wrong[1], "MedM-VL can do no other; train with it")


def _llm_type(model: VLM, parts: Mapping[str, Any]) -> str:
    end = model.llm.end_token or model.llm.tokenizer.eos_token
    kind = str(model.llm.model.config.model_type)
    kind = "llama3" if kind == "llama" and end == END_TOKENS["llama3"] else kind
    if END_TOKENS.get(kind) != end:
        has = ", ".join(f"{name} ({token})" for name, token in END_TOKENS.items())
        found = f"{option_of('llm', parts['llm'])}, {kind} with the end token {end}"
        fix = "train with an llm of these, or take format=hf or peft"
        raise refused(_FORM, f"an LLM of a type with its end token, {has}", found, fix)
    return kind


def _name(part: Any, known: Mapping[str, Mapping[str, Any]]) -> str | None:
    """MedM-VL's name of one of our parts; None where it has none like it."""
    kind = type(part)
    for name, node in known.items():
        same = node["_target_"] == f"{kind.__module__}.{kind.__qualname__}"
        slices = kind.__name__ == "SliceEncoder" and "kind" in node
        if (same or slices) and node.get("kind") == getattr(part, "kind", None):
            return name
    return None
