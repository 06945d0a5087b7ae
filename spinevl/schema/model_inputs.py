"""What a model expects of its batches: told by the model, read by the data side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spinevl.schema.image_ref import Modality

if TYPE_CHECKING:
    import numpy as np
    import torch


ImageTensors = tuple["torch.Tensor", "torch.Tensor | None"]
"""Pixels [U, C, (D,) H, W] and None, or [0] and features [U, N, dim]."""


@dataclass(frozen=True)
class VisionInputs:
    """What an encoder and its connector make of an image.

    Attributes:
        tokens: visual tokens that an image becomes.
        transform: uint8 [H, W] or [H, W, 3], or a volume float32 [D, H, W] -> the encoder's pixels.
    """

    tokens: int
    transform: Callable[[np.ndarray], torch.Tensor]


@dataclass(frozen=True)
class ModelInputs:
    """What a model reads.

    Attributes:
        tokenizer: a fast Hugging Face tokenizer.
        conversation: the conversation template, ``chat``, ``medmvl`` or ``pretrain``.
        end_token: what ends an answer under ``medmvl``; None is the tokenizer's eos.
        max_length: the longest sequence in tokens.
        vision: what its vision branches read, by modality.
    """

    tokenizer: Any
    conversation: Any
    end_token: str | None
    max_length: int
    vision: Mapping[Modality, VisionInputs]
