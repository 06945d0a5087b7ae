"""What cached features belong to: the pixels of an image, and all that an encoder does to them."""

from __future__ import annotations

import hashlib
import inspect
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
import torch

from spinevl.models.encoder.base import Encoder


def image_key(pixels: np.ndarray) -> str:
    """The content of an image or volume, any dtype and shape, as 32 hex digits."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def encoder_key(encoder: Encoder, *, autocast: torch.dtype | None = None) -> str:
    """All that features depend on besides pixels: code, settings, weights, device and precision."""
    digest = hashlib.sha256()
    device = next(encoder.parameters()).device.type
    kind = type(encoder)
    sources = [inspect.getsource(sys.modules[name]) for name in source_modules(kind)]
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers", "numpy", "pillow")]
    for part in (kind.__qualname__, device, str(autocast), encoder.identity(), *sources, *versions):
        digest.update(part.encode() + b"\0")
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter's lock
        weights = sorted({**encoder.state_dict(), **dict(encoder.named_buffers())}.items())
        for one in pool.map(_digest, weights):
            digest.update(one)
    return digest.hexdigest()[:32]


def _digest(weight: tuple[str, torch.Tensor]) -> bytes:
    name, tensor = weight
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()


def source_modules(kind: type[Encoder]) -> list[str]:
    """The modules of an encoder's class and its bases, and of the encoder package they import."""
    own = [one.__module__ for one in kind.__mro__ if issubclass(one, Encoder)]
    package = Encoder.__module__.rpartition(".")[0]
    used = {
        home
        for name in own
        for value in vars(sys.modules[name]).values()
        if str(home := getattr(value, "__module__", "")).startswith(f"{package}.")
    }
    return list(dict.fromkeys([*own, *sorted(used)]))
