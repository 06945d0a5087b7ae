"""The last layer of a decoder, computed where it is read.

Of the hidden states behind it only those of predicting tokens are used. So its queries, the
projection behind its attention and its MLP are computed for those tokens alone; keys and values are
needed of all. In a decoder of 12 layers this is a twelfth of the work, but for keys and values.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

TOKEN_WISE = ("self_attn.q_proj", "self_attn.o_proj", "self_attn.dense", "mlp")
"""What a last layer may have whose output at a token depends on its input there alone, and is read
at predicting tokens alone. Whether it is so is tried on a small copy of the model."""


def token_wise_parts(model: Any) -> tuple[str, ...]:
    """The names of ``TOKEN_WISE`` that a decoder's last layer has."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return ()
    there = {name for name, _ in layers[-1].named_modules()}
    return tuple(name for name in TOKEN_WISE if name in there)


@contextmanager
def computed_at(
    model: Any,
    rows: torch.Tensor | None,
    names: Sequence[str],
    shape: torch.Size,
    *,
    compiled: bool = False,
) -> Iterator[None]:
    """Compute parts of the last layer at some tokens; elsewhere their output is 0.

    Args:
        model: the decoder.
        rows: [R] the flat index (b * L + i) of those tokens; None computes them everywhere.
        names: of the parts, see token_wise_parts.
        shape: (B, L) of the batch.
        compiled: whether compiled code runs in place of the layers, without their hooks.
    """
    if rows is None or not names or compiled or _is_computed_again(model):
        yield
        return
    tokens = shape[0] * shape[1]
    thread = threading.get_ident()  # others may compute other tokens with the model meanwhile

    def taken(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if threading.get_ident() != thread:
            return None
        first, *others = inputs
        return first.flatten(0, 1).index_select(0, rows)[None], *others

    def put_back(_: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if threading.get_ident() != thread:
            return None
        whole = output.new_zeros(tokens, output.shape[-1])
        return whole.index_copy(0, rows, output[0]).unflatten(0, tuple(shape))

    last = model.base_model.layers[-1]
    handles = []
    for name in names:
        part = last.get_submodule(name)
        handles += [part.register_forward_pre_hook(taken), part.register_forward_hook(put_back)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_computed_again(model: Any) -> bool:
    """Whether the last layer is computed again in the backward pass, without the hooks."""
    return "forward" in vars(model.base_model.layers[-1]) and torch.is_grad_enabled()
