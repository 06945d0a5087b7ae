"""Defaults that depend on other choices, as OmegaConf resolvers.

``spinevl VERB --cfg job --resolve`` shows the values that they give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

FROM_SCRATCH = 1e-3
LORA = 2e-4
PRETRAINED = 2e-5


def learning_rate(part: str, *, _root_: DictConfig) -> float:
    """The default learning rate of ``encoder``, ``connector`` or ``llm``.

    ======================================================  ======
    what of the part is trained                             rate
    ======================================================  ======
    every weight, which start at random                     1e-3
    every weight of a pretrained part or a ``checkpoint=``  2e-5
    low-rank adapters (LoRA)                                2e-4
    nothing                                                 0
    ======================================================  ======

    A part is pretrained where its node says ``pretrained: true``, or names a ``path`` or
    ``package`` without saying whether. An encoder of volumes shares the rate of the encoder: where
    one of the two is pretrained, both take its lower rate.

    Args:
        part: the key of ``tuning`` and of the part's node.
        _root_: the whole config, which OmegaConf passes.
    """
    mode = str(OmegaConf.select(_root_, f"tuning.{part}"))
    if mode == "frozen":
        return 0.0
    if mode == "lora":
        return LORA
    nodes = (OmegaConf.select(_root_, name) for name in (part, f"{part}3d"))
    starts_trained = bool(OmegaConf.select(_root_, "checkpoint")) or any(map(_pretrained, nodes))
    return PRETRAINED if starts_trained else FROM_SCRATCH


def _pretrained(node: Any) -> bool:
    """Whether a part's node loads weights."""
    if not isinstance(node, Mapping | DictConfig):
        return False
    if "pretrained" in node:
        return bool(node["pretrained"])
    return any(node.get(name) for name in ("path", "package"))


def gpus_per_node(*, _root_: DictConfig) -> int:
    """How many GPUs a batch job asks for on each node: ``trainer.devices``, none for a CPU.

    One where no trainer is chosen, or where ``auto`` takes whatever is given.
    """
    if OmegaConf.select(_root_, "trainer.accelerator") == "cpu":
        return 0
    told = str(OmegaConf.select(_root_, "trainer.devices"))
    return int(told) if told.isdecimal() else 1


def run_name() -> str | None:
    """The default name of a logger's run: what varies in the sweep, or what the command sets."""
    if not HydraConfig.initialized():
        return None
    job = HydraConfig.get().job
    words = re.split(r",(?=[\w.@/+~]+=)", job.override_dirname)
    told = [word for word in words if "/" not in word and not word.startswith(("logger", "hydra"))]
    return re.sub(r"[\[\]'\"\\]", "", " ".join(told)) or job.name


def sweep_name() -> str | None:
    """The name of a sweep's folder; None outside of one."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).name


def verb() -> str | None:
    """The verb of the job; None outside of one."""
    return HydraConfig.get().job.name if HydraConfig.initialized() else None
