"""A small decoder of the same kind, on which a language model is tried before it is used.

The model itself may have billions of weights, or hold a part of each where ranks share them, so
nothing is computed with it. Whether attention can be replaced, and what happens to the logits, is
decided by a model's class and config, and both are the same in a copy with a few narrow layers.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from spinevl.models.sharded import built_whole

VOCABULARY = 64
_BUILDING_ERRORS = (
    *(TypeError, ValueError, AttributeError, RuntimeError, LookupError, ArithmeticError),
    AssertionError,
)


def small_copy(model: Any) -> Any | None:
    """A copy with random float32 weights on the CPU, in evaluation mode.

    It has every kind of layer that the model has, and its head sizes. Where no narrow one can be
    computed it has fewer layers only, and where those cannot be left out either, all of them.

    Args:
        model: a Hugging Face causal LM, on any device; it is not changed.

    Returns:
        None where no copy takes token ids.
    """
    for smaller_config in (_narrow, _with_few_layers, _unquantized):
        try:
            with built_whole(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.manual_seed(0)
                small = type(model)(smaller_config(model)).float().eval()
                _draw_plainly_visible_weights(small)
            with torch.no_grad():
                small.base_model(torch.arange(3)[None])
        except _BUILDING_ERRORS:
            continue
        return small
    return None


def _draw_plainly_visible_weights(model: nn.Module) -> None:
    """Weights under which no bias is zero, no scale is one, and a cap on the logits is reached."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.get_output_embeddings().weight.normal_(std=4.0)  # type: ignore[operator]


def _unquantized(model: Any) -> Any:
    """The model's config, for weights in float32."""
    config = copy.deepcopy(model.config)
    config.dtype = torch.float32
    config._attn_implementation = "sdpa"
    vars(config).pop("quantization_config", None)
    return config


def _with_few_layers(model: Any) -> Any:
    """The model's config with its first layers alone, as many as have one of each kind."""
    config = _unquantized(model)
    layers = int(config.num_hidden_layers)
    found = (one for one in model.modules() if isinstance(one, nn.ModuleList))
    blocks = next((one for one in found if len(one) == layers), None)
    if blocks is not None:
        kinds = [_kind_of(one) for one in blocks]
        kept = max(min(2, layers), 1 + max(kinds.index(one) for one in kinds))
        for name, value in list(vars(config).items()):
            if isinstance(value, (list, tuple)) and len(value) == layers:
                setattr(config, name, value[:kept])  # such as layer_types
        config.num_hidden_layers = kept
    _shrink_vocabulary(config)
    return config


def _kind_of(layer: nn.Module) -> str:
    """What a layer is made of, and its settings; its number in the model is none of them."""
    plain = [
        f"{name}.{key}={value}"
        for name, child in layer.named_modules()
        for key, value in sorted(vars(child).items())
        if not key.startswith("_")
        and key not in ("layer_idx", "layer_id", "training")
        and isinstance(value, (bool, int, float, str, type(None)))
    ]
    names = [f"{name}: {type(child).__name__}" for name, child in layer.named_modules()]
    return "\n".join([*names, *plain])


def _shrink_vocabulary(config: Any) -> None:
    if int(config.vocab_size) <= VOCABULARY:
        return
    config.vocab_size = VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(config, name, None) is not None:
            setattr(config, name, 0)


def _narrow(model: Any) -> Any:
    """The same with at most four heads, of the same size, and a narrow feed-forward."""
    config = _with_few_layers(model)
    heads = int(config.num_attention_heads)
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    size = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    few = min(key_heads, 2)
    config.num_attention_heads = few * min(heads // key_heads, 2)
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = few
    config.hidden_size = config.num_attention_heads * size
    if isinstance(getattr(config, "intermediate_size", None), int):
        config.intermediate_size = min(config.intermediate_size, 64)
    return config
