"""MedM-VL's checkpoints: their config as our parts, their keys as ours, and back.

A checkpoint names its base LLM and encoder, whose directories hold config, tokenizer and image
processor; they are looked for beside the checkpoint and its parents, in the working directory, and
else by Hugging Face id. Both generations are read: fields with the prefix ``lvlm_`` (since October
2025), and without it and with nested configs. Source: https://github.com/MSIIP/MedM-VL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spinevl.checkpoints.native import fill, read_tensors
from spinevl.models.vlm import VLM
from spinevl.schema.errors import Problem, UserError

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
# what a 3D encoder's checkpoint holds besides its image tower
_UNUSED = re.compile(
    r"encoder_image3d\.encoder\."
    r"((text_encoder|language_encoder|mm_vision_proj|mm_language_proj)\..*|logit_scale)"
)


def is_medmvl(config: Any) -> bool:
    """Whether a checkpoint's ``config.json`` is MedM-VL's."""
    return isinstance(config, Mapping) and config.get("model_type") == "lvlm"


def parts_of(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The nodes of our parts that a MedM-VL config describes.

    Args:
        config: its ``config.json``.
        folder: the checkpoint.

    Raises:
        UserError: a part's type or name is unknown, or no encoder is named.
    """
    where = folder / "config.json"

    def field(name: str) -> Any:
        value = config.get(f"lvlm_{name}", config.get(name))
        optional = name == "llm_max_length" and value is None
        number = name.endswith(("_select_layer", "_max_length"))
        if number and not optional and type(value) is not int:
            raise UserError(Problem(f"{where}: {name}", "a whole number", repr(value), "mend it"))
        return value

    sides = [side for side in ("image", "image3d") if field(f"encoder_{side}_type")]
    if not sides:
        raise UserError(f"{where}: no encoder_image_type and no encoder_image3d_type: no encoder")
    parts: dict[str, Any] = {"llm": _llm(field, folder, where)}
    for side, suffix in zip(sides, ("", "3d"), strict=False):
        parts[f"encoder{suffix}"] = _encoder(field, side, folder, where)
        parts[f"connector{suffix}"] = _connector(field, side, where)
    parts["tuning"] = {
        "encoder": "frozen",
        "connector": "frozen",
        "llm": "frozen",
        "lora": {"r": 16, "alpha": 32, "dropout": 0.05, "targets": None},
    }
    return parts


def _llm(field: Any, folder: Path, where: Path) -> dict[str, Any]:
    kind = field("llm_type")
    if kind not in END_TOKENS:
        raise UserError(Problem(f"{where}: llm_type", ", ".join(END_TOKENS), repr(kind), "mend it"))
    return {
        "_target_": "spinevl.models.llm.HFCausalLM",
        "path": _source(field("llm_name_or_path"), folder),
        "conversation": "medmvl",
        "pretrained": False,
        "end_token": END_TOKENS[kind],
        "max_length": field("llm_max_length"),
    }


def _encoder(field: Any, side: str, folder: Path, where: Path) -> dict[str, Any]:
    kind = field(f"encoder_{side}_type")
    if kind not in ENCODERS:
        raise UserError(
            Problem(f"{where}: encoder_{side}_type", ", ".join(ENCODERS), repr(kind), "mend it")
        )
    node = dict(ENCODERS[kind])
    if "kind" in node and (side == "image3d" or field("connector_image_type") == "attn_pooling"):
        # a 2D encoder behind attention pooling reads volumes slice by slice
        node["_target_"] = "spinevl.models.encoder.slices.SliceEncoder"
    return {
        **node,
        "path": _source(field(f"encoder_{side}_name_or_path"), folder),
        "select_layer": field(f"encoder_{side}_select_layer"),
        "select_feature": field(f"encoder_{side}_select_feature"),
        "pretrained": False,
    }


def _connector(field: Any, side: str, where: Path) -> dict[str, Any]:
    kind, name = field(f"connector_{side}_type"), field(f"connector_{side}_name")
    layers = re.fullmatch(r"mlp(\d+)x_gelu", str(name))
    if kind not in CONNECTORS or layers is None:
        raise UserError(
            Problem(
                f"{where}: connector_{side}_type and _name",
                f"one of {', '.join(CONNECTORS)}, and mlpNx_gelu",
                f"{kind!r} and {name!r}",
                "mend it",
            )
        )
    return {**CONNECTORS[kind], "_partial_": True, "layers": int(layers[1])}


def _source(name: Any, folder: Path) -> str:
    """A base directory beside the checkpoint or its parents, or the name as it is."""
    if not isinstance(name, str) or not name:
        raise UserError(f"{folder / 'config.json'}: a part has no name_or_path; mend it")
    folder = folder.absolute()
    for root in (folder, *list(folder.parents)[:3], Path.cwd()):
        if (root / name / "config.json").is_file():
            return str(root / name)
    return name


def load_medmvl(folder: Path, model: VLM) -> None:
    """Fill a model built from ``parts_of`` with a checkpoint's weights; every key must fit.

    Weights are loaded as float32, whatever the file holds.

    Raises:
        UserError: keys missing, surplus or of another shape, grouped by part.
    """
    stored: dict[str, torch.Tensor] = {}
    surplus = []
    renames = dict(_prefixes(model))
    for key, tensor in read_tensors(folder).items():
        if _UNUSED.fullmatch(key):
            continue
        ours = _renamed(key, renames)
        if ours is None:
            surplus.append(key)
        else:
            stored[ours] = tensor.float()
    if surplus:
        raise UserError(
            f"{folder}: {len(surplus)} weights of no part, first {surplus[0]}; expected "
            f"{', '.join(renames)}"
        )
    _tie(model.llm.model, stored)
    fill(model, stored, where=str(folder))


def _prefixes(model: VLM) -> Iterator[tuple[str, str]]:
    """Their prefix and ours, longest first."""
    paths = [("encoder", model.encoder)]
    if hasattr(model, "encoder3d"):
        paths.append(("encoder3d", model.encoder3d))
    yield "llm.", "llm.model."
    for ours, encoder in paths:
        volumes = encoder.modality == "image3d" and not hasattr(encoder, "vision")
        side = "image3d" if volumes or ours == "encoder3d" else "image"
        connector = ours.replace("encoder", "connector")
        if hasattr(encoder, "vision"):
            # later versions of transformers name the tower's weights without vision_model
            yield f"encoder_{side}.encoder.vision_model.", f"{ours}.vision."
            yield f"encoder_{side}.encoder.", f"{ours}.vision."
        else:
            yield f"encoder_{side}.encoder.", f"{ours}."
        yield f"connector_{side}.", f"{connector}."


def _renamed(key: str, prefixes: Mapping[str, str]) -> str | None:
    for theirs, ours in prefixes.items():
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return None


def medmvl_tensors(model: VLM, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of ours under MedM-VL's keys."""
    back: dict[str, str] = {}
    for theirs, ours in _prefixes(model):
        back.setdefault(ours, theirs)
    result = {}
    for key, tensor in state.items():
        renamed = _renamed(key, back)
        assert renamed is not None, key
        result[renamed] = tensor
    return result


def _tie(llm: Any, stored: dict[str, torch.Tensor]) -> None:
    """Tie the output head where the file lacks it, and untie it where it holds another."""
    head = "llm.model.lm_head.weight"
    embedding = stored.get("llm.model.model.embed_tokens.weight")
    tied = head not in stored or (
        llm.config.tie_word_embeddings
        and embedding is not None
        and torch.equal(stored[head], embedding)
    )
    output = llm.get_output_embeddings()
    if tied:
        stored.pop(head, None)
        output.weight = llm.get_input_embeddings().weight
    elif output.weight is llm.get_input_embeddings().weight:
        output.weight = nn.Parameter(output.weight.detach().clone())
    llm.config.tie_word_embeddings = tied
