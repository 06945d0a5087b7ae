"""How the processes of a training share it: Lightning's strategy for ``trainer.strategy``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_fabric.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from spinevl.config.options import TrainerOptions
from spinevl.models.sharded import sharding
from spinevl.training.launching import ZERO, device_of, is_launched
from spinevl.training.memory.sharding import BUCKET
from spinevl.training.zero import ZeroStrategy


def strategy_of(options: TrainerOptions, *, precision: Any) -> Any:
    """A new strategy for one fit; ``auto`` for a training in one process without one.

    Args:
        options: of the trainer.
        precision: Lightning's name of it.
    """
    if not is_launched(options):
        return "auto"
    # named, so that Lightning does not take a SLURM job's variables for its launcher
    environment = TorchElasticEnvironment()
    if not is_zero(options):
        # ranks may score dev in different numbers of batches: nothing is exchanged in a forward
        # pass alone
        return DDPStrategy(
            cluster_environment=environment, find_unused_parameters=False, broadcast_buffers=False
        )
    strategy: type[ZeroStrategy] = ZeroStrategy
    if device_of(options.accelerator) == "cpu":
        from spinevl.training.deepspeed_cpu import CpuZeroStrategy

        strategy = CpuZeroStrategy
    return strategy(zero_config(options), precision=precision, cluster_environment=environment)


def is_zero(options: TrainerOptions) -> bool:
    """Whether DeepSpeed divides weights or what belongs to them among the processes."""
    return options.strategy.startswith(ZERO)


@contextmanager
def building(options: TrainerOptions) -> Iterator[None]:
    """What the model of a training is to be built in: ZeRO-3 reads pretrained LLMs as shares.

    Args:
        options: of the trainer; under ZeRO-3 the processes have joined their group.
    """
    if not is_zero(options) or _stage(options) < 3:
        yield
        return
    if device_of(options.accelerator) == "cpu":
        import spinevl.training.deepspeed_cpu  # noqa: F401  what DeepSpeed needs on CPUs
    with sharding(zero_config(options)):
        yield


def _stage(options: TrainerOptions) -> int:
    return int(options.strategy.removeprefix(f"{ZERO}zero")[0])


def zero_config(options: TrainerOptions) -> dict[str, Any]:
    """DeepSpeed's config of a stage, without batch size, precision and clipping.

    The optimizer is torch's AdamW in every stage, so that a step does the same as without
    DeepSpeed.
    """
    cuda = device_of(options.accelerator) == "cuda"
    zero: dict[str, Any] = {
        "stage": _stage(options),
        "contiguous_gradients": True,
        "overlap_comm": cuda,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if options.strategy.endswith("_offload"):
        place = {"device": "cpu", "pin_memory": cuda}
        zero |= {"offload_optimizer": place, "offload_param": dict(place)}
    return {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
