"""Building models where DeepSpeed's ZeRO-3 divides every weight among the ranks.

A pretrained LLM is read shard by shard: the first rank reads the file, and every rank keeps its
share, so that no device and no other process ever holds the whole model. All else (encoders,
connectors, adapters, LLMs that start at random or come from a checkpoint) is small or is built
whole on every rank first, and DeepSpeed divides it as the training starts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensor

from spinevl.distributed.ranks import gathered
from spinevl.io.finite import is_finite
from spinevl.schema.errors import UserError

_config: ContextVar[Mapping[str, Any] | None] = ContextVar("_config", default=None)


@contextmanager
def sharding(config: Mapping[str, Any]) -> Iterator[None]:
    """Within it pretrained LLMs are built as their ranks' shares.

    The process group must have been made, and deepspeed imported for the device at hand.

    Args:
        config: DeepSpeed's, with ``zero_optimization`` of stage 3.
    """
    token = _config.set(config)
    try:
        yield
    finally:
        _config.reset(token)


@contextmanager
def read_as_shares(dtype: torch.dtype) -> Iterator[None]:
    """Within it ``from_pretrained`` of transformers builds shares, where ``sharding`` asks for it.

    Adapters must be made outside of it: their first values would be wrong.

    Args:
        dtype: the type of the weights.
    """
    config = _config.get()
    if config is None:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    whole = {
        **config,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "train_micro_batch_size_per_gpu": 1,
    }
    kept = HfDeepSpeedConfig(whole)  # transformers has no more than a weak reference
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del kept


def is_sharded(weight: torch.Tensor) -> bool:
    """Whether ranks have divided a weight among them; ``numel`` is 0 then."""
    return hasattr(weight, "ds_id")


def is_whole(weight: torch.Tensor) -> bool:
    """Whether this process holds all of a weight; a FakeTensor, which has no numbers, counts.

    A layer whose weight is divided among devices must be called as a module, which gathers it.
    """
    return type(weight.data) in (torch.Tensor, FakeTensor) and not is_sharded(weight)


def size_of(weight: Any) -> int:
    """How many numbers a weight has, divided among ranks or not."""
    return int(weight.ds_numel) if is_sharded(weight) else weight.numel()


def shape_of(weight: Any) -> torch.Size:
    """The shape of a weight, divided among ranks or not; what a rank holds of it is flat."""
    return weight.ds_shape if is_sharded(weight) else weight.shape


def require_finite_shares(model: nn.Module, *, where: str) -> None:
    """Raise UserError, on every rank, where some rank's share of a weight is not finite."""
    shares: list[tuple[str, Any]] = [one for one in model.named_parameters() if is_sharded(one[1])]
    wrong = [name for name, weight in shares if not is_finite(weight.ds_tensor)]
    if found := [name for names in gathered(wrong) for name in names]:
        raise UserError(
            f"{where}: expected finite weights, found NaN or infinity in {found[0]}; copy it again"
        )


@contextmanager
def built_whole() -> Iterator[None]:
    """Within it modules are built whole in this process, also under ``deepspeed.zero.Init``."""
    partition = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
    if partition is None or partition.top_level_context is None:
        yield
        return
    partition.shutdown_init_context()
    try:
        yield
    finally:
        partition.restore_init_context()
