"""DeepSpeed on CPUs. Experimental: for small trainings, and to try a setting without a GPU.

DeepSpeed compiles an extension for shared memory as soon as it starts on a CPU (minutes, with a
compiler), and Lightning refuses CPUs. Both are got round through what these versions keep private.
"""

from __future__ import annotations

import os

import torch
from pytorch_lightning.strategies import DDPStrategy

os.environ["DS_ACCELERATOR"] = "cpu"  # read as DeepSpeed is imported

import deepspeed.ops

from spinevl.training.zero import ZeroStrategy

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class CpuZeroStrategy(ZeroStrategy):
    """ZeRO over gloo."""

    def setup_environment(self) -> None:
        """Give each process a device number, which DeepSpeed asks for; pass Lightning's refusal."""
        self.parallel_devices = [torch.device("cpu", i) for i in range(self.num_processes)]
        DDPStrategy.setup_environment(self)
