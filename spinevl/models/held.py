"""The number type that a part's weights are held in, and computing with it.

Weights that learn are float32. Those that do not may be held in bfloat16: half the memory, and
what language models are published in. A part with such weights computes under autocast, so that
whatever calls it, in training or later, gets the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn

from spinevl.models.half_speed import computes_in_bfloat16
from spinevl.schema.errors import refused

DType = Literal["auto", "float32", "bfloat16"]
"""What ``llm.dtype`` and ``encoder.dtype`` take; a constructor takes ``auto`` for float32."""


@dataclass(frozen=True)
class Held:
    """How the weights of a model that is about to be built are to be held.

    Attributes:
        auto: what ``dtype: auto`` means on the device that the model is for.
        modes: part -> its mode in the training that the model is for; None takes the mode of the
            nodes, which is that of the training that a checkpoint comes from.
        asked: part -> a type in place of its node's.
        every: the type of every weight, whatever nodes and modes say: DeepSpeed computes in one.
    """

    auto: DType = "float32"
    modes: Mapping[str, str] | None = None
    asked: Mapping[str, DType] = field(default_factory=dict)
    every: DType | None = None

    def dtype(self, part: str, node: Mapping[str, Any], tuning: Mapping[str, Any]) -> DType | None:
        """The type of a part; None where its node has none, and its class may take none.

        Args:
            part: ``llm``, ``encoder`` or ``encoder3d``.
            node: the part's.
            tuning: the model's node.

        Raises:
            UserError: an unknown type.
        """
        if "dtype" not in node:
            return None
        told = self.asked.get(part, node["dtype"])
        if told not in get_args(DType):
            expected, fix = ", ".join(get_args(DType)), "choose one of them"
            raise refused(f"{part}.dtype={told}", expected, str(told), fix)
        if self.every is not None:
            return self.every
        mode = (self.modes or tuning)[part.removesuffix("3d")]
        return "float32" if mode == "full" else self.auto if told == "auto" else told

    def settled(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Nodes as a checkpoint stores them: float32 stays float32, and no weight is quantized."""
        nodes = dict(parts)
        for name, node in parts.items():
            if isinstance(node, Mapping) and "dtype" in node:
                told = self.asked.get(name, node["dtype"])
                kept = self.auto if told == "auto" and self.auto == "float32" else told
                nodes[name] = {**node, "dtype": kept}
                if "quantize" in node:
                    nodes[name]["quantize"] = None
        return nodes


FLOAT32 = Held(asked=dict.fromkeys(("llm", "encoder", "encoder3d"), "float32"))
"""Every weight in float32, whatever it was trained with."""


def auto_dtype(device: str | torch.device) -> DType:
    """What ``dtype: auto`` means on a device: bfloat16 on a GPU that computes with it."""
    half = str(device).startswith("cuda") and computes_in_bfloat16(device)
    return "bfloat16" if half else "float32"


def torch_dtype(dtype: DType) -> torch.dtype:
    """The type as torch knows it."""
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def half_of(part: nn.Module) -> torch.dtype | None:
    """The half precision that weights of a part are held in; None where none are."""
    halves = (torch.bfloat16, torch.float16)
    return next((one.dtype for one in part.parameters() if one.dtype in halves), None)


def autocast_of(part: nn.Module) -> AbstractContextManager[Any]:
    """Autocast to the half precision that weights of a part are held in; nothing if none are."""
    half = half_of(part)
    if half is None:
        return nullcontext()
    return torch.autocast(next(part.parameters()).device.type, dtype=half)
