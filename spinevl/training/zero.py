"""DeepSpeed's ZeRO under Lightning: it steps as Lightning's other strategies do.

Weights that learn are float32 under ``32-true``. Under ``bf16-mixed`` they are bfloat16 with
float32 masters, of which each process holds its share, and matrix products are computed as under
autocast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning_fabric.plugins import ClusterEnvironment
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import nn

from spinevl.distributed.ranks import is_first, rank
from spinevl.models.sharded import is_sharded

_TAG = "checkpoint"  # the folder in a saved state


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's strategy, in which an epoch's last step may have fewer batches than the others.

    DeepSpeed counts batches on its own and would carry such a step over into the next epoch; here
    it is told which batch ends a step.

    Args:
        config: of DeepSpeed, see ``zero_config``.
        precision: Lightning's name of it.
        cluster_environment: how the processes find each other.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        precision: Any,
        cluster_environment: ClusterEnvironment,
    ) -> None:
        super().__init__(
            config=dict(config),
            precision_plugin=ZeroPrecision(precision),
            cluster_environment=cluster_environment,
            exclude_frozen_parameters=True,
        )

    @property
    def handles_gradient_accumulation(self) -> bool:
        """Lightning does; it calls the optimizer at the end of a step alone."""
        return False

    @property
    def grad_norm(self) -> torch.Tensor:
        """The norm of the last step's gradients, before they were clipped."""
        norm = self.deepspeed_engine.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.root_device)

    def backward(self, closure_loss: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take the gradient of a batch, knowing whether it is its step's last."""
        trainer = self.lightning_module.trainer  # type: ignore[union-attr]
        last = not trainer.fit_loop._should_accumulate()
        self.deepspeed_engine.set_gradient_accumulation_boundary(last)
        return super().backward(closure_loss, *args, **kwargs)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """DeepSpeed knows from ``backward`` what to exchange."""
        yield

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """Write a folder, with a file of each process; it holds what learns."""
        self._own_files()
        # DeepSpeed has the weights and the optimizer's state from the engine
        rest = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
        self.deepspeed_engine.save_checkpoint(
            self.broadcast(filepath),
            client_state=rest,
            tag=_TAG,
            save_latest=False,
            exclude_frozen_parameters=True,
        )

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Take over a folder's weights and optimizer, and return the rest; runs no code of it."""
        self._own_files()
        with torch.serialization.safe_globals(_in_files()):
            _, rest = self.deepspeed_engine.load_checkpoint(
                str(checkpoint_path),
                tag=_TAG,
                load_lr_scheduler_states=False,
                load_module_strict=False,
            )
        return rest

    def _own_files(self) -> None:
        """Have the engine's files written and read by ``checkpoint_io``; no script beside them."""
        engine, file = self.deepspeed_engine, self.checkpoint_io
        engine.checkpoint_engine.save = lambda state_dict, path: file.save_checkpoint(
            state_dict, path
        )
        engine.checkpoint_engine.load = file.load_checkpoint
        engine._copy_recovery_script = lambda folder: None

    def _format_batch_size_and_grad_accum_config(self) -> None:
        assert isinstance(self.config, dict)
        trainer = self.lightning_module.trainer  # type: ignore[union-attr]
        self.config |= {
            "gradient_accumulation_steps": 1,  # Lightning divides the loss
            "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's own log alone
            "gradient_clipping": trainer.gradient_clip_val or 0.0,
        }

    def setup(self, trainer: Any) -> None:
        """Make the engine; of a model with divided weights it moves no buffers and casts nothing.

        Weights are divided where an LLM was read as shares, and by an earlier stage.
        """
        for module in self.lightning_module.modules():  # type: ignore[union-attr]
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(self.root_device)
        if self.precision_plugin.precision == "bf16-mixed":
            for weight in self.lightning_module.parameters():  # type: ignore[union-attr]
                if not is_sharded(weight):
                    weight.data = weight.data.bfloat16()
        super().setup(trainer)

    def teardown(self) -> None:
        """Take the engine's hooks off the model: the next stage has an engine of its own."""
        if self.model is not None and self.model is not self.lightning_module:
            self.deepspeed_engine.destroy()
        super().teardown()


class ZeroPrecision(DeepSpeedPrecision):
    """Leaves batches as they are, and computes under autocast where weights are bfloat16."""

    def convert_input(self, data: Any) -> Any:
        """A batch's weights and divisors stay float32."""
        return data

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """What the forward pass runs in."""
        half = self._desired_dtype if self._desired_dtype != torch.float32 else None
        device = "cuda" if torch.cuda.is_available() else "cpu"
        autocast: AbstractContextManager[Any] = nullcontext()
        if half is not None:
            autocast = torch.autocast(device, dtype=half)
        with autocast:
            yield


def _in_files() -> list[Any]:
    """The classes that DeepSpeed keeps in its files."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


def share_of(weight: Any) -> torch.Tensor:
    """What this process holds of a weight: all of it, or its share under ZeRO-3."""
    if not hasattr(weight, "ds_tensor"):
        return weight
    share = weight.ds_tensor
    rest = weight.ds_numel - rank() * share.ds_numel
    return share.flatten()[: max(rest, 0)]  # behind the weight's own numbers anything may stand


def whole_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The whole weights of a model that processes may have divided among them.

    Every process must call this; only the first gets them, on the CPU, each tied weight under its
    first name. They are brought together one by one, so that no device holds them all.
    """
    found: dict[str, torch.Tensor] = {}
    known: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in known:
            known.add(id(tensor))
            with _whole(tensor) as whole:
                if is_first():
                    found[name] = whole.detach().to("cpu", copy=True).contiguous()
    return found


@contextmanager
def _whole(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A parameter with what every process has of it, in float32 where it learns."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    if tensor.requires_grad and (hasattr(tensor, "_hp_mapping") or hasattr(tensor, "ds_id")):
        yield safe_get_full_fp32_param(tensor)
    elif hasattr(tensor, "ds_id"):
        with GatheredParameters([tensor]):
            yield tensor
    else:
        yield tensor
