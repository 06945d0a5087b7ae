"""The module of a training on the meta device: every tensor's shape and type, and no memory."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, replace

import torch
from torch import nn

from spinevl.build.build import build, build_stored
from spinevl.build.trust import Trust
from spinevl.checkpoints.load import parts_of
from spinevl.models.assemble import assemble
from spinevl.models.vlm import VLM
from spinevl.training.module import TrainingModule
from spinevl.training.prepare import held_of, training_module
from spinevl.training.spec import TrainSpec
from spinevl.training.stage import stages_of


def blank_model(spec: TrainSpec, *, trust: Trust) -> VLM:
    """The model that a training starts from, on the meta device.

    Args:
        spec: the training.
        trust: what the command line trusts.

    Raises:
        Exception: of any kind, from a part that cannot be built without memory.
    """
    tuning, held = asdict(spec.tuning), held_of(spec)
    with torch.device("meta"):
        if spec.checkpoint:
            parts = {**parts_of(spec.checkpoint, allowed=trust.allowed), "tuning": tuning}
            if quantize := spec.parts["llm"].get("quantize"):
                parts["llm"] = {**parts["llm"], "quantize": quantize}
            made = functools.partial(build_stored, allowed=trust.allowed)
            return assemble(parts, build=made, held=held)
        parts = {
            name: {**node, "pretrained": False} if "pretrained" in node else node
            for name, node in spec.parts.items()
        }
        made = functools.partial(build, trust=trust)
        return assemble({**parts, "tuning": tuning}, build=made, held=held)


def blank_module(spec: TrainSpec, model: VLM, heads: Mapping[str, int]) -> TrainingModule:
    """The module that trains a blank model on answers.

    Args:
        spec: the training.
        model: see blank_model.
        heads: of the auxiliary heads, see head_sizes.
    """
    eager = replace(spec, trainer=replace(spec.trainer, compile=False))
    with torch.device("meta"):
        module = training_module(eager, model, heads, {})
    for child in module.modules():
        _take_any_length(child)
    module.begin(stages_of(1, warmup=0.0, epoch_steps=1)[-1])
    return module


def _take_any_length(module: nn.Module) -> None:
    """Keep a rotary embedding from reading how long the longest sequence is."""
    if "rope_type" in vars(module):
        vars(module)["rope_type"] = "default"
