"""Build a model from config nodes, new or as a checkpoint describes it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from spinevl.build.allowlist import OURS, Allowed
from spinevl.build.build import build, build_stored, check_stored
from spinevl.build.signature import signature_of
from spinevl.build.trust import NOTHING, Trust
from spinevl.checkpoints.medmvl import is_medmvl, load_medmvl, parts_of
from spinevl.checkpoints.native import DESCRIBED, load_weights, read_config, require_format
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.data.packing.conversation import Conversation
from spinevl.data.packing.image_input import BatchImages, ImageInput, Store
from spinevl.features.store import FeatureCache, Features
from spinevl.models.connector.base import Connector
from spinevl.models.encoder.base import Encoder
from spinevl.models.llm import CausalLM
from spinevl.models.merge import merge_adapters
from spinevl.models.tuning import Lora, apply_tuning
from spinevl.models.vlm import VLM, visual_rows
from spinevl.schema.dialogue import Picture
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import MODALITIES, Modality
from spinevl.schema.task import Task

Nodes = Mapping[str, Any]
R = TypeVar("R")


class Build(Protocol):
    """``build`` or ``build_stored``, told what the command line trusts."""

    def __call__(self, node: Any, role: type[R], *, where: str = "", **sizes: Any) -> R:
        """See ``build``."""


def assemble(parts: Nodes, *, build: Build = build) -> VLM:
    """A model from the nodes ``encoder``, ``connector``, ``llm`` and ``tuning``.

    ``encoder3d`` and ``connector3d`` beside them add eyes for volumes. Sizes are asked from the
    parts: a connector is told its widths, never configured with them.

    Args:
        parts: the nodes.
        build: how an object is built from a node: ``build`` for a config, ``build_stored`` for a
            checkpoint.
    """
    encoder = build(parts["encoder"], Encoder, where="encoder")
    llm = build(parts["llm"], CausalLM, where="llm")
    connector = _connector(build, parts["connector"], encoder, llm.dim)
    second: dict[str, Any] = {}
    if parts.get("encoder3d"):
        encoder3d = build(parts["encoder3d"], Encoder, where="encoder3d")
        if (encoder.modality, encoder3d.modality) != ("image", "image3d"):
            raise UserError(
                f"encoder3d: encoder reads {encoder.modality} and encoder3d "
                f"{encoder3d.modality}; expected image and image3d"
            )
        node = parts.get("connector3d") or parts["connector"]
        second = {
            "encoder3d": encoder3d,
            "connector3d": _connector(build, node, encoder3d, llm.dim, where="connector3d"),
        }
    return tuned(VLM(encoder, connector, llm, **second), parts["tuning"])


def check_branches(parts: Nodes, *, shows: Modality | None = None, trust: Trust = NOTHING) -> None:
    """Raise UserError where a connector cannot stand behind its encoder; nothing is loaded.

    The parts are built without weights or memory, so that a mistake is told before any image is
    read. What cannot be built so is left for ``assemble`` to judge.

    Args:
        parts: the nodes.
        shows: what the data show; some encoder must read it.
        trust: what the command line trusts.
    """
    made = functools.partial(build, trust=trust)
    seen: set[Modality] = set()
    for suffix in ("", "3d"):
        node = parts.get(f"encoder{suffix}")
        if not node:
            continue
        bare = {**node, "pretrained": False} if "pretrained" in node else node
        bridge = parts.get(f"connector{suffix}") or parts["connector"]
        try:
            with torch.device("meta"):
                encoder = made(bare, Encoder, where=f"encoder{suffix}")
                seen.add(encoder.modality)
                _connector(made, bridge, encoder, encoder.dim, where=f"connector{suffix}")
        except (NotImplementedError, RuntimeError, TypeError):
            return
    if shows and shows not in seen:
        raise UserError(
            f"encoder: it reads <{seen.pop()}>, and the data show <{shows}>; choose an encoder of "
            "theirs (docs/model_zoo.md)"
        )


def tuned(model: VLM, tuning: Nodes) -> VLM:
    """The model with the node ``tuning`` applied, in place; adapters it has are merged first."""
    merge_adapters(model)
    known = [field.name for field in fields(Lora)]
    if unknown := [name for name in tuning["lora"] if name not in known]:
        raise UserError(f"tuning.lora.{unknown[0]}: unknown; valid: {', '.join(known)}")
    apply_tuning(model, tuning, lora=Lora(**tuning["lora"]))
    return model


def _connector(
    build: Build, node: Any, encoder: Encoder, out_dim: int, *, where: str = "connector"
) -> Connector:
    return build(
        node,
        Connector,
        where=where,
        in_dim=encoder.dim,
        out_dim=out_dim,
        in_tokens=encoder.tokens,
        in_grid=encoder.grid,
    )


def conversation_of(llm: CausalLM) -> Conversation:
    """Writes conversations as the model's LLM reads them."""
    return Conversation(llm.tokenizer, template=llm.conversation, end_token=llm.end_token)


def image_inputs_of(model: VLM, stores: Mapping[Modality, Store]) -> dict[Modality, ImageInput]:
    """How ``model`` gets its images from some stores of them."""
    return {
        modality: ImageInput(connector.tokens, encoder.transform, stores[modality])
        for modality, (encoder, connector) in model.vision_branches().items()
        if modality in stores
    }


def keep_features(
    model: VLM,
    cache: FeatureCache,
    image_inputs: Mapping[Modality, ImageInput],
    pictures: Sequence[Picture],
    *,
    autocast: torch.dtype | None = None,
) -> list[Features]:
    """Let the sights read features of frozen encoders, encoded here where the cache lacks them.

    Args:
        model: its encoders in evaluation mode, on the device that they are to run on.
        cache: the features.
        sights: of the images.
        pictures: all that will be shown.
        autocast: see FeatureCache.features.

    Returns:
        What was encoded and found; a modality whose features the cache cannot hold has none.
    """
    kept = []
    for modality, (encoder, _) in model.vision_branches().items():
        paths = [path for kind, path in pictures if kind == modality]
        if modality not in image_inputs or not paths:
            continue
        load = image_inputs[modality].images.__getitem__
        features = cache.features(encoder, paths, load=load, autocast=autocast)
        image_inputs[modality].features = features
        kept += [features] if features is not None else []
    return kept


def visual_rows_of(model: VLM, seen: BatchImages) -> torch.Tensor:
    """The visual tokens [R, llm.dim] of the images seen, in the order of ``Seen.rows``."""
    device = next(model.parameters()).device
    tokens = []
    for modality in MODALITIES:
        if paths := seen.paths(modality):
            pixels, features = seen.image_inputs[modality](paths)
            tokens.append(
                model.visual_tokens(
                    pixels.to(device),
                    None if features is None else features.to(device),
                    modality=modality,
                )
            )
    return visual_rows(
        tokens, like=model.llm.embed(torch.zeros(1, 1, dtype=torch.long, device=device))
    )


def collator_of(
    model: VLM,
    tasks: Mapping[str, Task],
    *,
    images: ImageStore,
    features: Any = None,
    **options: Any,
) -> Collator:
    """A Collator that lays out batches of 2D images as ``model`` reads them.

    Args:
        model: the model.
        tasks: the tasks that the records name.
        images: decoded images.
        features: see Sight.
        options: the Collator's others.
    """
    image_inputs = image_inputs_of(model, {"image": images})
    if features is not None:
        image_inputs["image"].features = features
    return Collator(
        tasks=tasks,
        conversation=conversation_of(model.llm),
        image_inputs=image_inputs,
        max_length=model.llm.max_length,
        **options,
    )


def load_model(folder: Path, *, allowed: Allowed = OURS) -> tuple[VLM, dict[str, Any]]:
    """The model of a checkpoint in evaluation mode, and the checkpoint's config.

    Args:
        folder: the checkpoint.
        allowed: the classes that may be built; the checkpoint has no say in it.
    """
    stored = functools.partial(build_stored, allowed=allowed)
    config = read_config(folder)
    if is_medmvl(config):
        parts = parts_of(config, folder)
        model = assemble(parts, build=stored)
        load_medmvl(folder, model)
        return model.eval(), {"parts": parts, "study": {}}
    require_format(config, folder)
    parts = _stored_parts(config, folder)
    roles: dict[str, type] = {"llm": CausalLM} | dict.fromkeys(("encoder", "encoder3d"), Encoder)
    roles |= dict.fromkeys(("connector", "connector3d"), Connector)
    found = {
        part: check_stored(parts[part], role, allowed=allowed, where=part)
        for part, role in roles.items()
        if part in parts
    }
    for part in DESCRIBED:  # never read from where a config says, but from the checkpoint
        named = part == "llm" and "path" in signature_of(found[part]).parameters
        if named or "path" in parts.get(part, {}):
            parts[part] |= {"path": str(folder / part), "pretrained": False}
    model = assemble(parts, build=stored)
    load_weights(folder, model)
    return model.eval(), config


def _stored_parts(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The nodes of a checkpoint."""
    nodes = config.get("parts")
    needed = {"encoder", "connector", "llm", "tuning"}
    if not isinstance(nodes, Mapping) or needed - set(nodes) or "study" not in config:
        raise UserError(f"{folder / 'config.json'}: no parts or no study; the file is damaged")
    return {
        name: dict(node) if isinstance(node, Mapping) else node
        for name, node in nodes.items()
        if node
    }


def stored_tasks(config: Mapping[str, Any], *, allowed: Allowed = OURS) -> dict[str, Task]:
    """The tasks that a checkpoint was trained for."""
    return {
        name: build_stored(node, Task, allowed=allowed, where=f"study.task.{name}")
        for name, node in config["study"]["task"].items()
    }
