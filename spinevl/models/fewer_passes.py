"""A decoder's norms and rotary embeddings in fewer passes over memory.

On a CPU an element-wise operation takes as long as its tensors take to be read and written, and in
bfloat16 these operations take as long as the matrix products. Transformers writes an RMSNorm as
seven of them and a rotary embedding as five; here they are three each. They are used where no
gradient is asked for, inside ``computed``, and for classes whose results they were tried to give.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_ROTARY = "apply_rotary_pos_emb"
_EPSILONS = ("variance_epsilon", "eps")
_TYPES = (torch.float32, torch.bfloat16)

_here = threading.local()


@contextmanager
def computed(enabled: bool) -> Iterator[None]:
    """Within this, and in this thread, decoders that are ``installed`` take fewer passes."""
    before = getattr(_here, "enabled", False)
    _here.enabled = enabled
    try:
        yield
    finally:
        _here.enabled = before


def _applies(tensor: torch.Tensor) -> bool:
    return (
        getattr(_here, "enabled", False)
        and not torch.is_grad_enabled()
        and tensor.device.type == "cpu"
        and tensor.dtype in _TYPES
    )


def rms_norm(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """states [..., D] / sqrt(mean of squares + epsilon) * weight [D], rounded once before weight.

    Batch normalisation with given statistics is one pass that takes half-precision rows and their
    float32 variances, so tokens stand for its channels.
    """
    dim = states.shape[-1]
    rows = states.reshape(1, -1, dim)  # [1, tokens, D]
    squares = torch.linalg.vector_norm(rows[0], dim=-1, dtype=torch.float32).square_().div_(dim)
    normed = functional.batch_norm(
        rows, torch.zeros_like(squares), squares, training=False, momentum=0.0, eps=epsilon
    )
    return normed.mul_(weight).view(states.shape)


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """states [B, H, L, d] turned by the angles of cos and sin [B, 1, L, d]."""
    half = states.shape[-1] // 2
    sin = sin[..., :half]
    turned = states * cos
    turned[..., :half].addcmul_(states[..., half:], sin, value=-1)
    turned[..., half:].addcmul_(states[..., :half], sin)
    return turned


def _rotary(original: Any) -> Any:
    """A model's ``apply_rotary_pos_emb`` that takes fewer passes where it may."""

    @functools.wraps(original)
    def apply(
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *args: Any,
        **kw: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        whole = q.ndim == 4 and cos.ndim == 3 and cos.shape[-1] == q.shape[-1] == k.shape[-1]
        if args or kw or not whole or not _applies(q) or cos.dtype != q.dtype:
            return original(q, k, cos, sin, *args, **kw)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return rotated(q, cos, sin), rotated(k, cos, sin)

    apply.of_spinevl = True  # type: ignore[attr-defined]
    return apply


def _norm(module: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """The forward pass of an RMSNorm."""
    weight: Any = module.weight
    if not _applies(states) or states.dtype != weight.dtype or not states.numel():
        return type(module).forward(module, states)
    return rms_norm(states, weight, _epsilon(module))


def _epsilon(module: nn.Module) -> Any:
    return next((getattr(module, name) for name in _EPSILONS if hasattr(module, name)), None)


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that may be RMSNorms with a weight and nothing else."""
    for module in model.modules():
        named = [name for name, _ in module.named_parameters(recurse=False)]
        if named == ["weight"] and module.weight.ndim == 1 and type(_epsilon(module)) is float:
            yield module


def install(model: Any, classes: Collection[type]) -> None:
    """Let a decoder take fewer passes within ``computed``, in place.

    Args:
        model: a Hugging Face decoder.
        classes: of its norms, see tried; without any it stays as it is.
    """
    if not classes:
        return
    for module in _norms(model):
        if type(module) in classes:
            module.forward = functools.partial(_norm, module)
    for code in {type(module).__module__ for module in model.modules()}:
        original = getattr(sys.modules.get(code), _ROTARY, None)
        if original is not None and not hasattr(original, "of_spinevl") and _turns_alike(original):
            setattr(sys.modules[code], _ROTARY, _rotary(original))


def _turns_alike(original: Any) -> bool:
    """Whether a rotary embedding is that of ``rotated``, tried; some pair other dimensions."""
    generator = torch.Generator().manual_seed(0)
    q, k, angles = (torch.randn(1, n, 3, 8, generator=generator) for n in (2, 1, 1))
    angles = angles[:, 0, :, :4].repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    try:
        pairs = zip((q, k), original(q, k, cos, sin), strict=True)
        return all(_close(rotated(one, cos[:, None], sin[:, None]), two) for one, two in pairs)
    except (TypeError, ValueError, RuntimeError):
        return False  # it takes or returns something else


@torch.no_grad()
def tried(model: Any) -> frozenset[type]:
    """The classes of a decoder's norms that are RMSNorms, if fewer passes change nothing.

    Args:
        model: a small decoder in evaluation mode, in float32 on the CPU; it takes them afterwards.

    Returns:
        None of them where the hidden states would differ.
    """
    classes: dict[type, bool] = {}
    generator = torch.Generator().manual_seed(0)
    for module in _norms(model):
        weight: Any = module.weight
        states = torch.randn(1, 3, len(weight), generator=generator) + 0.5
        try:
            same = _close(rms_norm(states, weight, _epsilon(module)), module(states))
        except (TypeError, ValueError, RuntimeError):
            same = False  # it takes or returns something else
        classes[type(module)] = classes.get(type(module), True) and same
    found = frozenset(one for one, same in classes.items() if same)
    ids = torch.arange(5)[None]
    whole = model.base_model(ids).last_hidden_state
    install(model, found)
    with computed(True):
        fewer = model.base_model(ids).last_hidden_state
    return found if _close(fewer, whole) else frozenset()


def _close(one: Any, other: Any) -> bool:
    if not isinstance(other, torch.Tensor) or one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())
