"""Whether a training runs in this process or in several, and how those are started."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from spinevl.build.trust import Trust
from spinevl.build.worker_words import worker_words
from spinevl.config.options import Attention, TrainerOptions
from spinevl.distributed.launch import check_nodes, check_processes, launch
from spinevl.schema.errors import UserError, refused

ZERO = "deepspeed_"
"""What the names of DeepSpeed's strategies begin with."""


def device_of(accelerator: str) -> str:
    """Where a training with this ``trainer.accelerator`` runs: ``cuda``, ``mps`` or ``cpu``."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def processes_of(options: TrainerOptions) -> int:
    """The processes of a training on each machine, one for each device."""
    if options.devices != "auto":
        return int(options.devices)
    return torch.cuda.device_count() if device_of(options.accelerator) == "cuda" else 1


def is_launched(options: TrainerOptions) -> bool:
    """Whether a training runs in processes of its own: on several devices, or with a strategy."""
    return options.strategy != "auto" or options.num_nodes > 1 or processes_of(options) > 1


def check_devices(options: TrainerOptions) -> None:
    """Refuse devices and strategies that this machine does not have, before anything is read.

    Raises:
        UserError: see above.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["gpu"] = any(there.values())
    if not there.get(options.accelerator, True):
        raise refused(
            f"trainer.accelerator={options.accelerator}",
            "a device that torch can use on this machine",
            "none",
            "write trainer.accelerator=auto or cpu",
        )
    if options.attention == Attention.flex and device_of(options.accelerator) != "cuda":
        raise refused(
            "trainer.attention=flex",
            "a CUDA GPU, since FlexAttention learns on no other device",
            device_of(options.accelerator),
            "take trainer.attention=blocks",
        )
    if not is_launched(options):
        return
    device, count = device_of(options.accelerator), processes_of(options)
    if device == "cuda" and count > (gpus := torch.cuda.device_count()):
        fix = f"write trainer.devices={gpus} or auto"
        raise refused(f"trainer.devices={count}", "as many GPUs on this machine", str(gpus), fix)
    if device == "cpu":
        check_processes("trainer.devices", count)
    if device == "mps":
        fix = "write trainer=auto, or trainer.accelerator=cpu"
        raise refused(f"trainer.strategy={options.strategy}", "CUDA or the CPU", "mps", fix)
    check_nodes(options.num_nodes)
    if options.strategy.startswith(ZERO):
        _check_deepspeed(options)


def _check_deepspeed(options: TrainerOptions) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f"trainer.strategy={options.strategy} needs a package that is not installed: "
            "pip install 'spinevl[deepspeed]'"
        )
    if options.precision in ("16", "16-mixed"):
        raise refused(
            f"trainer.precision={options.precision}",
            f"32-true or bf16-mixed with trainer.strategy={options.strategy}",
            options.precision,
            "write trainer.precision=bf16-mixed",
        )


def launch_training(options: TrainerOptions, out: Path, *, trust: Trust) -> None:
    """Train on the spec in ``out`` in several processes, and wait for them; see ``launch``."""
    launch(
        "spinevl.training.worker",
        worker_words(out.absolute(), trust),
        out=out,
        processes=processes_of(options),
        nodes=options.num_nodes,
    )
