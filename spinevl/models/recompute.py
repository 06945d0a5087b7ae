"""Gradient checkpointing: a layer's activations are computed again instead of kept.

Source: Chen et al. 2016 (arXiv 1604.06174). transformers has a switch for it too, which does
nothing in a frozen decoder (it asks whether a layer is in training mode), through which the
gradients of a connector pass all the same, and which our own 3D towers do not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from spinevl.models.fewer_passes import computed_again
from spinevl.models.vlm import VLM, learns


def recompute_layers(model: VLM) -> None:
    """Compute the layers of every part that gradients pass through again in the backward pass.

    Losses and gradients are the same: dropout draws the same numbers again. Between forward and
    backward pass only the inputs of the layers are kept.

    Args:
        model: a model whose parts are frozen, adapted or free already; it is changed in place.
    """
    branches = model.vision_branches().values()
    trained = [branch.encoder for branch in branches if learns(branch.encoder)]
    for part in (*trained, model.llm):
        for layer in _layers(part):
            if "forward" not in vars(layer):
                layer.forward = partial(_recomputed, layer.forward)


def _layers(part: nn.Module) -> Iterator[nn.Module]:
    """The items of a part's lists of modules; lists within them, as of experts, are not taken."""
    for child in part.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():  # takes no contexts, and no fewer passes either
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=computed_again, **kwargs)
