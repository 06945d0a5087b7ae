"""A decoder's norms and rotary embeddings in fewer passes over memory.

An element-wise operation takes as long as its tensors take to be read and written, and in bfloat16
these operations take as long as the matrix products. Transformers writes an RMSNorm as seven of
them and a rotary embedding as five; here they are three each, or one kernel of torch's for an
RMSNorm on a GPU, and gradients pass through them in as few: of an RMSNorm its input and one number
a token are kept. They are used inside ``computed``, for classes whose results they were tried to
give.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_ROTARY = "apply_rotary_pos_emb"
_EPSILONS = ("variance_epsilon", "eps")
_TYPES = (torch.float32, torch.bfloat16)
_DEVICES = ("cpu", "cuda")

_here = threading.local()


class computed:
    """Within this, and in this thread, decoders take fewer passes.

    Args:
        enabled: whether their adapters and their attention do.
        norms: whether their norms and rotary embeddings do, too.
    """

    def __init__(self, enabled: bool, *, norms: bool = True) -> None:
        self._asked = (enabled, enabled and norms)
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._before.append(_asked())
        _here.asked = self._asked

    def __exit__(self, *_: object) -> None:
        _here.asked = self._before.pop()


@contextmanager
def as_on_gpus() -> Iterator[None]:
    """Within this, and in this thread, what is done on CPUs alone is left out."""
    before = rehearses_gpus()
    _here.rehearses = True
    try:
        yield
    finally:
        _here.rehearses = before


def rehearses_gpus() -> bool:
    """Whether this is within ``as_on_gpus``."""
    return bool(getattr(_here, "rehearses", False))


def _asked() -> tuple[bool, bool]:
    asked: tuple[bool, bool] = getattr(_here, "asked", (False, False))
    return asked


def computed_again() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """What a checkpointed layer is computed in, and computed again in: as it was at first."""
    enabled, norms = _asked()
    return nullcontext(), computed(enabled, norms=norms)


def asked_for(tensor: torch.Tensor) -> bool:
    """Whether a tensor is computed within ``computed``, in a number type that this is for."""
    if torch.is_grad_enabled() and torch.compiler.is_compiling():
        return False
    return _asked()[0] and tensor.dtype in _TYPES


def asked_for_on_a_cpu(tensor: torch.Tensor) -> bool:
    """The same, of what is done on CPUs alone."""
    on_cpu = tensor.device.type == "cpu" and not rehearses_gpus()
    return on_cpu and asked_for(tensor)


def _applies(tensor: torch.Tensor) -> bool:
    return _asked()[1] and tensor.device.type in _DEVICES and asked_for(tensor)


def rms_norm(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """states [..., D] / sqrt(mean of squares + epsilon) * weight [D].

    On a CPU it is rounded once before weight: batch normalisation with given statistics is one pass
    that takes half-precision rows and their float32 variances, so tokens stand for its channels.
    """
    if states.is_cuda:
        return fused_rms_norm(states, weight, epsilon)
    if torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad):
        normed: torch.Tensor = _RMSNorm.apply(states, weight, epsilon)
        return normed
    rows = states.reshape(-1, states.shape[-1])
    return _normed(rows, _mean_squares(rows), epsilon).mul_(weight).view(states.shape)


def fused_rms_norm(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The same by torch's own operation, which is one kernel on a GPU and rounds once, at the end.

    Autocast would compute it, and give it, in float32, of which half-precision states need nothing.
    """
    with torch.autocast(states.device.type, enabled=False):
        return functional.rms_norm(states, weight.shape, weight, epsilon)


def _mean_squares(rows: torch.Tensor) -> torch.Tensor:
    norms = torch.linalg.vector_norm(rows.float(), dim=-1)  # faster than with dtype=
    return norms.square_().div_(rows.shape[-1])


def _normed(rows: torch.Tensor, squares: torch.Tensor, epsilon: float) -> torch.Tensor:
    mean = torch.zeros_like(squares)
    return functional.batch_norm(
        rows[None], mean, squares, training=False, momentum=0.0, eps=epsilon
    )[0]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> Any:
        rows = states.reshape(-1, states.shape[-1])
        squares = _mean_squares(rows)
        ctx.save_for_backward(rows, weight, squares)
        ctx.epsilon = epsilon
        return _normed(rows, squares, epsilon).mul_(weight).view(states.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, squares = ctx.saved_tensors
        scale = torch.rsqrt(squares + ctx.epsilon)  # [tokens], float32
        above = gradient.reshape(rows.shape)
        of_weight = of_states = None
        if ctx.needs_input_grad[1]:
            of_weight = _normed(rows, squares, ctx.epsilon).mul_(above).sum(0)
        if ctx.needs_input_grad[0]:
            above = above * weight
            along = (above * rows).sum(-1, dtype=torch.float32) / rows.shape[-1] * scale**3
            above.mul_(scale.to(above.dtype)[:, None])
            above.addcmul_(rows, along.to(above.dtype)[:, None], value=-1)
            of_states = above.view(gradient.shape)
        return of_states, of_weight, None


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """states [B, H, L, d] turned by the angles of cos and sin [B, 1, L, d], whose halves repeat."""
    if torch.is_grad_enabled() and states.requires_grad:
        turned: torch.Tensor = _Rotated.apply(states, cos, sin)
        return turned
    return _turned(states, cos, sin)


def _turned(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = states.shape[-1] // 2
    sin = sin[..., :half]
    turned = states * cos
    turned[..., :half].addcmul_(states[..., half:], sin, value=-1)
    turned[..., half:].addcmul_(states[..., :half], sin)
    return turned


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        ctx.save_for_backward(cos, sin)
        return _turned(states, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, -sin), None, None


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
