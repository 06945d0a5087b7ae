"""Floating-point operations that a model needs, padding and repetition not counted."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from spinevl.models.packed import PackedLinear
from spinevl.models.vlm import VLM
from spinevl.schema.batch import Batch

CPU = torch.device("cpu")


def matmul_rate(
    *,
    side: int = 2048,
    repeats: int = 5,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> float:
    """The device's matrix product in a type, best of some, in FLOP/s."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = now(device)
        a @ b
        best = min(best, now(device) - start)
    return 2 * side**3 / best


def now(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def linear(module: nn.Module, *, skip: tuple[str, ...] = ()) -> int:
    """Multiply-adds a token in a module's matrix products, times two."""
    return 2 * sum(
        child.in_features * child.out_features
        for name, child in module.named_modules()
        if isinstance(child, (nn.Linear, PackedLinear)) and not name.endswith(skip)
    )


def encoder(model: VLM, images: int) -> float:
    """Encoding some images: linear layers, patch embedding and attention."""
    vision: Any = model.encoder.vision  # type: ignore[attr-defined]
    config = vision.config
    depth = model.encoder.depth  # type: ignore[attr-defined]  # layers above it are not computed
    tokens = (config.image_size // config.patch_size) ** 2 + 1
    patches = 2 * 3 * config.patch_size**2 * config.hidden_size * tokens
    attention = 4 * tokens**2 * config.hidden_size * depth
    layers = sum(linear(layer) for layer in vision.encoder.layers[:depth])
    return images * (tokens * layers + patches + attention)


def decoder(model: VLM, batch: Batch) -> float:
    """Reading a batch: linear layers for each token once, attention where a token may see.

    Parts of the last layer are needed at predicting tokens alone, and of the head the words that
    are chosen from.
    """
    config = model.llm.model.config
    predicting = len(batch.predicting)
    last = model.llm.model.base_model.layers[-1]
    read = sum(linear(last.get_submodule(name)) for name in model.llm.token_wise)
    every = linear(model.llm.model, skip=("lm_head",)) - read
    words = config.vocab_size if batch.allowed is None else batch.allowed.shape[1]
    pairs = sum(int(one.allowed.sum()) for one in batch.attention)
    attention = 4 * pairs * config.hidden_size * config.num_hidden_layers
    head = 2 * config.hidden_size * words
    return batch.tokens * every + predicting * (read + head) + attention


def connector(model: VLM, images: int) -> float:
    """Projecting the features of some images."""
    return images * model.connector.tokens * linear(model.connector)
