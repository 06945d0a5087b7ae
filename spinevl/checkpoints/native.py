"""Our own checkpoints: safetensors weights and all that is needed to build the model again.

``model.safetensors`` holds every weight under ``encoder.``, ``connector.`` and ``llm.``;
``config.json`` the parts' config nodes and the study; ``encoder/`` and ``llm/`` the parts' own
Hugging Face configs, tokenizer and image processor, so that no other directory is needed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinevl.build.allowlist import OURS, Allowed
from spinevl.build.build import build_stored, check_stored
from spinevl.build.signature import signature_of
from spinevl.checkpoints.bounded import sized_by
from spinevl.checkpoints.format import CONFIG, Checkpoint, no_checkpoint, require_config
from spinevl.checkpoints.weights import fill, unshared
from spinevl.config.check import node_problems
from spinevl.io.folders import whole_folder
from spinevl.io.tensors import WEIGHTS, stored_tensors, write_tensors
from spinevl.models.assemble import assemble
from spinevl.models.connector.base import Connector
from spinevl.models.encoder.base import Encoder
from spinevl.models.held import Held
from spinevl.models.llm import CausalLM
from spinevl.schema.errors import Problems, UserError

VERSION = 2
"""The value of ``format`` in ``config.json``."""

ROLES: dict[str, type] = {
    "encoder": Encoder,
    "encoder3d": Encoder,
    "connector": Connector,
    "connector3d": Connector,
    "llm": CausalLM,
}

DESCRIBED = ("encoder", "encoder3d", "llm")
"""Parts with a folder of their own in a checkpoint."""


class NativeFormat:
    """See CheckpointFormat."""

    name = "native"

    def detect(self, folder: Path, config: Mapping[str, Any]) -> bool:
        """See CheckpointFormat."""
        return "format" in config

    def read(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        allowed: Allowed = OURS,
        held: Held | None = None,
    ) -> Checkpoint:
        """See CheckpointFormat."""
        parts = self.parts(folder, config, allowed=allowed)
        stored = stored_tensors(folder)
        with sized_by(stored.shapes, folder):
            model = assemble(
                parts, build=functools.partial(build_stored, allowed=allowed), held=held
            )
        fill(model, stored, where=str(folder / WEIGHTS))
        parent = config.get("parent")
        return Checkpoint(model.eval(), config["parts"], config["study"], parent, folder, allowed)

    def parts(
        self, folder: Path, config: Mapping[str, Any], *, allowed: Allowed = OURS
    ) -> dict[str, Any]:
        """See CheckpointFormat."""
        require_config(folder)
        if config.get("format") != VERSION:
            raise no_checkpoint(folder, f'"format": {config.get("format")!r} in {CONFIG}')
        return _stored_parts(config, folder, allowed)

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """See CheckpointFormat."""
        model = checkpoint.model
        whole = checkpoint.weights
        write_tensors(folder / WEIGHTS, unshared(model) if whole is None else whole)
        for part in DESCRIBED:
            if hasattr(model, part):
                getattr(model, part).save_description(folder / part)
        config = {"format": VERSION, **checkpoint.config}
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write our own format beside ``folder``, then rename it there; an old one is replaced."""
    with whole_folder(folder) as beside:
        NativeFormat().write(beside, checkpoint)


def _stored_parts(config: Mapping[str, Any], folder: Path, allowed: Allowed) -> dict[str, Any]:
    """The nodes of a checkpoint, all checked before the first object is made.

    Parts that have files of their own find them in the checkpoint, wherever their nodes point.
    """
    nodes = config.get("parts")
    needed = {"encoder", "connector", "llm", "tuning"}
    study = config.get("study")
    if not isinstance(nodes, Mapping) or any(not nodes.get(name) for name in needed):
        raise UserError(f"{folder / CONFIG}: no parts; the file is damaged")
    tasks = study.get("task") or {} if isinstance(study, Mapping) else None
    if not isinstance(tasks, Mapping) or not isinstance(nodes["tuning"], Mapping):
        raise UserError(f"{folder / CONFIG}: no study or no tuning; the file is damaged")
    parts = {
        name: dict(node) if isinstance(node, Mapping) else node
        for name, node in nodes.items()
        if node
    }
    problems = Problems()
    for name, role in ROLES.items():
        if name not in parts:
            continue
        cls = check_stored(parts[name], role, allowed=allowed, where=name)
        problems.extend(node_problems(parts[name], at=f"{folder / CONFIG}: parts.{name}"))
        # an LLM whose class takes a path is never made from anything else that its node names
        takes_path = name == "llm" and "path" in signature_of(cls).parameters
        if name in DESCRIBED and (takes_path or "path" in parts[name]):
            parts[name] |= {"path": str(folder / name), "pretrained": False}
    problems.raise_any()
    return parts
