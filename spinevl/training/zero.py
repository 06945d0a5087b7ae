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

    def _format_batch_size_and_grad_accum_config(self) -> None:
        assert isinstance(self.config, dict)
        trainer = self.lightning_module.trainer  # type: ignore[union-attr]
        self.config |= {
            "gradient_accumulation_steps": 1,  # Lightning divides the loss
            "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's own log alone
            "gradient_clipping": trainer.gradient_clip_val or 0.0,
        }

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
