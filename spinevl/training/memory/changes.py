"""Changes of a training that take less memory, as the command line names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from spinevl.config.options import Mode
from spinevl.models.quantized import check_quantization
from spinevl.schema.errors import UserError
from spinevl.training.memory.sharding import sharding_of
from spinevl.training.prepare import held_of
from spinevl.training.spec import TrainSpec

Changed = tuple[str, TrainSpec]
"""The words of the command line, and the training with them."""

Change = Callable[[TrainSpec, str], Changed | None]
"""(a training, its device) -> the changed one; None where it is so already, or cannot be."""


def changed(spec: TrainSpec, device: str) -> Iterator[Changed]:
    """Every change that a training can have, each alone, but for its batch."""
    for change in CHANGES:
        if found := change(spec, device):
            yield found


def with_batch(spec: TrainSpec, patients: int) -> Changed:
    """The training with fewer patients a step, and as many an update as before or a few more."""
    accumulate = -(-spec.batch_patients // patients) * spec.trainer.accumulate
    words = f"trainer.batch_patients={patients} trainer.accumulate={accumulate}"
    return words, _trained(spec, batch_patients=patients, accumulate=accumulate)


def _checkpointing(spec: TrainSpec, _: str) -> Changed | None:
    if spec.trainer.gradient_checkpointing:
        return None
    return "trainer.gradient_checkpointing=true", _trained(spec, gradient_checkpointing=True)


def _half(part: str, spec: TrainSpec, _: str) -> Changed | None:
    """Weights that do not learn in bfloat16; DeepSpeed holds all weights alike."""
    held = held_of(spec).dtype(part, spec.parts.get(part) or {}, asdict(spec.tuning))
    learns = getattr(spec.tuning, part.removesuffix("3d")) == Mode.full
    if held != "float32" or learns or sharding_of(spec.trainer).stage:
        return None
    return f"{part}.dtype=bfloat16", _built(spec, part, dtype="bfloat16")


def _adapters(spec: TrainSpec, _: str) -> Changed | None:
    if spec.tuning.llm != Mode.full:
        return None
    return "tuning.llm=lora", replace(spec, tuning=replace(spec.tuning, llm=Mode.lora))


def _four_bits(spec: TrainSpec, _: str) -> Changed | None:
    node = spec.parts.get("llm") or {}
    if "quantize" not in node or node["quantize"]:
        return None
    try:
        strategy = spec.trainer.strategy
        check_quantization({"quantize": "nf4"}, spec.tuning.llm, strategy=strategy)
    except UserError:
        return None
    return "llm.quantize=nf4", _built(spec, "llm", quantize="nf4")


def _divided(spec: TrainSpec, device: str) -> Changed | None:
    quantized = (spec.parts.get("llm") or {}).get("quantize")
    if device != "cuda" or sharding_of(spec.trainer).stage or quantized:
        return None
    devices = max(2, torch.cuda.device_count())
    words = f"trainer=deepspeed_zero3 trainer.devices={devices}"
    return words, _trained(spec, strategy="deepspeed_zero3", devices=devices)


CHANGES: Sequence[Change] = (
    _checkpointing,
    *(partial(_half, part) for part in ("encoder", "encoder3d")),
    _adapters,
    partial(_half, "llm"),  # after the adapters, with which it does not learn
    _four_bits,
    _divided,
)
"""The least harmful first."""


def _trained(spec: TrainSpec, **options: Any) -> TrainSpec:
    return replace(spec, trainer=replace(spec.trainer, **options))


def _built(spec: TrainSpec, part: str, **values: Any) -> TrainSpec:
    return replace(spec, parts={**spec.parts, part: {**spec.parts[part], **values}})
