"""The module of a training on the meta device: every tensor's shape and type, and no memory."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from spinevl.build.build import build, build_stored
from spinevl.build.trust import Trust
from spinevl.checkpoints.load import parts_of
from spinevl.models.assemble import Build, assemble
from spinevl.models.llm import CausalLM
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
    parts, made = _blank(spec, trust)
    with torch.device("meta"):
        model = assemble({**parts, "tuning": asdict(spec.tuning)}, build=made, held=held_of(spec))
    model.compute_plainly(spec.trainer.plain_layers)
    return model


def blank_llm(spec: TrainSpec, *, trust: Trust) -> CausalLM:
    """The LLM of that model alone, without what a training changes of it.

    Args:
        spec, trust: see blank_model.

    Raises:
        Exception: of any kind, see blank_model.
    """
    parts, made = _blank(spec, trust)
    with torch.device("meta"):
        return made(parts["llm"], CausalLM, where="llm")


def _blank(spec: TrainSpec, trust: Trust) -> tuple[dict[str, Any], Build]:
    """The nodes of a training's parts without weights, and what builds them."""
    if spec.checkpoint:
        parts = parts_of(spec.checkpoint, allowed=trust.allowed)
        if quantize := spec.parts["llm"].get("quantize"):
            parts = {**parts, "llm": {**parts["llm"], "quantize": quantize}}
        return parts, functools.partial(build_stored, allowed=trust.allowed)
    parts = {
        name: {**node, "pretrained": False} if "pretrained" in node else node
        for name, node in spec.parts.items()
    }
    return parts, functools.partial(build, trust=trust)


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
    module.model.llm.takes_chains = not spec.trainer.compile
    for child in module.modules():
        _take_any_length(child)
    module.begin(stages_of(1, warmup=0.0, epoch_steps=1)[-1])
    return module


def _take_any_length(module: nn.Module) -> None:
    """Keep a rotary embedding from reading how long the longest sequence is."""
    if "rope_type" in vars(module):
        vars(module)["rope_type"] = "default"
