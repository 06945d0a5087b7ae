"""How much faster a device computes in bfloat16: measured once, and kept."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn import functional

from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object
from spinevl.schema.errors import UserError

log = logging.getLogger(__name__)

WORTH = 1.3
"""How many times faster bfloat16 must be to be chosen."""

_SMALLEST = 2**18
"""Weights of a matrix of the MLP; a smaller LLM does not spend its time in matrix products."""

_FILE = "bfloat16.json"
_TOKENS = 1024
_ROUNDS = 5
_SECONDS = 0.5


def computes_in_bfloat16(device: str | torch.device) -> bool:
    """Whether the device has instructions for bfloat16; one that only emulates it is slower."""
    kind, index = torch.device(device).type, torch.device(device).index
    if kind == "cuda":
        if not torch.cuda.is_available():
            return False
        # torch asks the current one
        with nullcontext() if index is None else torch.cuda.device(index):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if kind == "cpu" else {}
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def bfloat16_pays(
    device: str | torch.device,
    width: object,
    inner: object,
    *,
    cache_folder: Callable[[], Path],
) -> float | None:
    """How many times faster an LLM is in bfloat16, where that is ``WORTH`` it; else None.

    Args:
        device: where it is to run; it needs instructions for bfloat16.
        width, inner: of the LLM's MLP, as its config says; small ones are not ``WORTH`` it.
        cache_folder: gives the folder that keeps what was measured.
    """
    if not (_is_size(width) and _is_size(inner) and width * inner >= _SMALLEST):
        return None
    if not computes_in_bfloat16(device):
        return None
    try:
        folder = cache_folder()
    except UserError:  # told where a job needs it
        folder = None
    times = bfloat16_speedup(device, width=width, inner=inner, folder=folder)
    return times if times >= WORTH else None


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= 2**16


def bfloat16_speedup(
    device: str | torch.device, *, width: int, inner: int, folder: Path | None
) -> float:
    """How many times faster an MLP of a decoder is in bfloat16 than in float32.

    Measured with ``_TOKENS`` tokens on this device and number of threads, in a second or less, and
    kept in ``folder``, so that each job here finds the same.

    Args:
        device: where a model is to run.
        width, inner: of the MLP.
        folder: the cache folder; None where there is none.
    """
    if folder is None:
        return round(_measured(torch.device(device), width, inner), 2)
    file, key = folder / _FILE, f"{name_of(device)}, MLP {width} x {inner}"
    kept: dict[str, Any] = {}
    if file.is_file():
        try:
            kept = read_json_object(file)
        except UserError as error:
            log.warning("%s; it is measured again", error)
    known = kept.get(key)
    if isinstance(known, float) and 0 < known < float("inf"):
        return known
    found = round(_measured(torch.device(device), width, inner), 2)
    try:
        write_text_atomic(file, json.dumps({**kept, key: found}, indent=2) + "\n")
    except OSError as error:
        log.warning("%s: %s; the speed of bfloat16 is measured in each job", file, error.strerror)
    return found


def name_of(device: str | torch.device) -> str:
    """The device, the version of torch, and on a CPU the threads."""
    kind = torch.device(device).type
    if kind == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@torch.inference_mode()
def _measured(device: torch.device, width: int, inner: int) -> float:
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    blocks = {kind: _Block(width, inner).to(device, kind) for kind in seconds}
    tokens = torch.randn(_TOKENS, width, device=device)
    begun = _now(device)
    number = 0  # the first round warms up
    while number <= _ROUNDS or _now(device) - begun < _SECONDS:
        for kind, block in blocks.items():
            given = tokens.to(kind)
            start = _now(device)
            block(given)
            spent = _now(device) - start
            if number:
                seconds[kind] = min(seconds[kind], spent)
        number += 1
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _Block(nn.Module):
    """Norm, gated MLP and residual of a decoder layer (SwiGLU, Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))
